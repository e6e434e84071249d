"""Measurements of the project against everything else that could hold a slide."""

import os

# Before anything imports torch: OpenMP threads that spin while they wait take the time of those that work.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
