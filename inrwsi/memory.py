"""Giving memory back while long work runs."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any


@lru_cache(maxsize=1)
def _libc() -> Any:
    """The C library, where it has glibc's `malloc_trim`."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None


def give_back_free_pages() -> None:
    """Return the heap's free pages to the system; nothing where the C library cannot.

    A decoder frees megabytes of maps around every kilobyte that its cache keeps. glibc returns memory from the top of
    the heap only: a few kept blocks held 1.3 GB for a region of 30,000 x 30,000 pixels, which takes 0.5 GB with this.
    """
    library = _libc()
    if library is not None:
        library.malloc_trim(0)
