"""Every error that the project raises on purpose. Callers' mistakes and bad data are different errors.

Each carries one sentence for a person and the exit code that the command line uses.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class InrwsiError(Exception):
    """Base of all errors raised on purpose."""

    exit_code = 1


class UsageError(InrwsiError):
    """The caller asked for something that cannot be: a bad argument, an unreadable source."""

    exit_code = 2


class DiskFull(UsageError):
    """The disk is full, or what the machine allows of it: a file could be made, and not be written to its end."""

    exit_code = 1


class BackendUnavailable(UsageError):
    """A device or an optional package that was asked for by name is not there."""


class Unreachable(UsageError):
    """No file of this slide and model has the size, ratio, rate or quality that was asked for; another may be had."""


class UnsupportedVersion(InrwsiError):
    """The file is of a newer major version of the format, or needs a model this build does not know."""

    exit_code = 3


class Cause(StrEnum):
    """What is wrong with a damaged file; one member a malformed cause."""

    NOT_CINR = "not a .cinr file"
    TRUNCATED = "truncated"
    PREAMBLE = "preamble"
    SECTION_TABLE = "section table"
    HEADER = "header"
    ICC = "ICC profile"
    PREVIEW = "preview"
    ASSOCIATED = "associated image"
    WEIGHTS = "weights"
    INDEX = "chunk index"
    CHUNK = "chunk"


class CorruptFile(InrwsiError):
    """The file is damaged or was never valid.

    Attributes:
        path: name of the file, as the caller gave it.
        cause: which part is damaged; None where torch made the error again, from the text of a worker's (then `path`
            is all of that text).
        where: what more is known, as a sentence.
    """

    exit_code = 3

    def __init__(self, path: object, cause: Cause | None = None, where: str = "") -> None:
        super().__init__(str(path) if cause is None else f"{path}: damaged ({cause}): {where}")
        self.path = str(path)
        self.cause = cause
        self.where = where

    def __reduce__(self) -> tuple[type[CorruptFile], tuple[str, Cause | None, str]]:
        # Exceptions cross process borders; the default rebuilds from the message alone.
        return (type(self), (self.path, self.cause, self.where))


def unless_damaged(read: Callable[[], T], damaged: list[CorruptFile] | None) -> T | None:
    """What `read` gives; where that is damaged None, and the error goes into the list, or is raised if there is none.

    For what a slide can be shown without, its profile and its label.
    """
    try:
        return read()
    except CorruptFile as error:
        if damaged is None:
            raise
        damaged.append(error)
        return None


def unwritten(error: OSError) -> type[UsageError]:
    """What to raise where a file system takes no more, or does not take a file at all."""
    return DiskFull if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT) else UsageError


@contextmanager
def naming(out: Path) -> Iterator[None]:
    """Name the output where the disk is full: the system's own error of a write names nothing."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or unwritten(error) is UsageError:
            raise
        raise DiskFull(f"{out}: cannot be written ({error.strerror})") from error


def is_interrupt(error: BaseException) -> bool:
    """Whether it is Ctrl-C, be it as compiled code hands it on.

    That is a SystemError, "returned a result with an exception set", whose cause it is.
    """
    if isinstance(error, SystemError):
        return isinstance(error.__cause__ or error.__context__, KeyboardInterrupt)
    return isinstance(error, KeyboardInterrupt)
