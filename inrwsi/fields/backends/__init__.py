"""Ways to evaluate a field faster than plain torch does. Each is found by a function, never at import."""
