"""What the C library's heap keeps, and giving it back while long work runs."""

from __future__ import annotations

import ctypes
import sys
from functools import lru_cache
from typing import Any

# Of glibc's mallopt: what is larger is a map of its own, and how much may be free at a heap's end.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_OWN_MAP_BYTES, _KEPT_BYTES = 16 << 20, 32 << 20


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


@lru_cache(maxsize=1)
def keep_free_pages() -> None:
    """Let each thread's heap keep up to 32 MB that are free, for all of this process; nothing where it cannot.

    A chunk's arrays are of about a megabyte, and all of them are free before the next chunk. As it comes, glibc then
    gives their pages back, and has every one of them from the system again: 1,200 a chunk, with threads that wait for
    one another meanwhile, up to a fifth of the time of decoding in two threads.
    """
    library = _libc()
    if library is not None:
        library.mallopt(_MMAP_THRESHOLD, _OWN_MAP_BYTES)
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
