"""Ranges of bytes of a file, by offset, from several threads: a real file, an open file object or a URL."""

from __future__ import annotations

import os
import stat
import threading
from typing import BinaryIO

from inrwsi.errors import BackendUnavailable, UsageError

_NO_RANGES = "the server gives whole files only, not ranges of their bytes; download the file"


class ByteRanges:
    """Reads at offsets. Real files are read without a lock and without moving a position that threads would share.

    Attributes:
        name: what messages call the file.
        size: bytes in the file.
    """

    def __init__(
        self, file: BinaryIO, name: str, *, owned: bool, positional: bool = False, remote: bool = False
    ) -> None:
        self.name = name
        self._file = file
        self._owned = owned
        self._positional = positional and hasattr(os, "pread")
        # What a remote file system raises is its own affair: aiohttp's errors, for one, are no OSError.
        self._errors: type[Exception] = Exception if remote else OSError
        self._lock = threading.Lock()
        try:
            self.size = file.seek(0, os.SEEK_END)
        except self._errors as error:
            self.close()
            raise UsageError(
                f"{name}: cannot be read at any position ({error}); a .cinr file is read piece by piece"
            ) from None

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`; fewer only where the file ends.

        Raises:
            UsageError: the file system fails.
        """
        try:
            if self._positional:
                return self._gather(offset, count)
            with self._lock:
                self._file.seek(offset)
                return self._gather(None, count)
        except self._errors as error:
            reason = _NO_RANGES if "range requests" in str(error) else error  # whose advice is for programmers
            raise UsageError(f"{self.name}: {count} bytes at {offset} cannot be read: {reason}") from error

    def _gather(self, offset: int | None, count: int) -> bytes:
        """Read until there are `count` bytes: one call may give less. `offset` None: from where the file object is."""
        parts: list[bytes] = []
        have = 0
        while have < count:
            left = count - have
            part = self._file.read(left) if offset is None else os.pread(self._file.fileno(), left, offset + have)
            if not part:
                break
            parts.append(part)
            have += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """Close the file, unless the caller opened it."""
        if self._owned:
            self._file.close()


def open_ranges(path_or_file: str | os.PathLike[str] | BinaryIO) -> ByteRanges:
    """Open a path, a URL (anything with `://`, through fsspec) or take a seekable binary file object.

    Raises:
        UsageError: it is not there or cannot be read.
        BackendUnavailable: the package for this kind of URL is not installed.
    """
    if not isinstance(path_or_file, (str, os.PathLike)):
        if not (callable(getattr(path_or_file, "read", None)) and callable(getattr(path_or_file, "seek", None))):
            raise UsageError(f"a {type(path_or_file).__name__} is given; give a path or a seekable binary file")
        name = getattr(path_or_file, "name", None)
        return ByteRanges(path_or_file, name if isinstance(name, str) else "<file object>", owned=False)
    name = os.fspath(path_or_file)
    if "://" in name:
        return _open_url(name)
    try:
        check_positions(name, "a .cinr file")
        return ByteRanges(open(name, "rb", buffering=0), name, owned=True, positional=True)
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{name}: cannot be opened: {reason}") from None


def check_positions(name: str | os.PathLike[str], what: str) -> None:
    """To be called before a file is opened: to open a pipe that nobody writes into is to wait.

    Raises:
        UsageError: it can be read in order alone.
        OSError, ValueError: as `os.stat`.
    """
    mode = os.stat(name).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode) or stat.S_ISDIR(mode)):
        raise UsageError(f"{name}: is a pipe or device; {what} is read at any position: save it to a file")


def _open_url(url: str) -> ByteRanges:
    import fsspec

    try:
        file_system, path = fsspec.core.url_to_fs(url)
        # fsspec's default reads ahead by megabytes; the index says exactly what is needed.
        file = file_system.open(path, "rb", cache_type="none")
    except ImportError as error:
        raise BackendUnavailable(f"{url}: {error}") from None
    except Exception as error:
        # Of whatever goes wrong with a request fsspec says that there is no such file; why, its cause does.
        absent = "it is not there" if isinstance(error, FileNotFoundError) else ""
        told = error.__cause__ or absent or error
        raise UsageError(f"{url}: cannot be opened: {str(told) or type(told).__name__}") from None
    return ByteRanges(file, url, owned=True, remote=True)
