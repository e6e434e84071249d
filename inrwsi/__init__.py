"""inrwsi: a neural codec for whole-slide images."""

from inrwsi.errors import BackendUnavailable, CorruptFile, InrwsiError, UnsupportedVersion, UsageError

__version__ = "0.1.0"
__all__ = ["BackendUnavailable", "CorruptFile", "InrwsiError", "UnsupportedVersion", "UsageError", "__version__"]
