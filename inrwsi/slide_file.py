"""The file behind a `CinrSlide`, open in whichever process asks: after a fork and after pickling, it is opened anew."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from inrwsi.errors import UsageError
from inrwsi.formats.container import Container
from inrwsi.options import check_model
from inrwsi.slide_parts import ClosedSlide

if TYPE_CHECKING:
    from inrwsi.decode import Decoder

T = TypeVar("T")

_forked = False  # whether this process was forked from one that had this module


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


@dataclass
class _Live:
    """What one process has open; no other may use it."""

    pid: int
    container: Container
    decoder: Decoder | None = None


class SlideFile:
    """An open `.cinr` file, with its decoder from when pixels are first asked for. Thread safe.

    Args:
        file: path, URL, or seekable binary file object (which stays the caller's to close).
        device: auto, cpu or cuda. In a forked process auto is cpu.
        cache_bytes: limit of what is kept decoded.

    Attributes:
        file: as it was given.
        where: the path or URL by which another process can open it; None for a file object that has none.

    Raises:
        CorruptFile, UnsupportedVersion, UsageError: as `Container.open` and `check_model`.
    """

    def __init__(self, file: Any, device: str, cache_bytes: int) -> None:
        self.file, self.where = file, _where(file)
        self._device, self._cache_bytes = device, cache_bytes
        self._locks: dict[int, threading.Lock] = {}
        self._inherited: list[_Live] = []  # kept as they are: their threads and connections are another process's
        self._closed = False
        self._live = _Live(os.getpid(), Container.open(file))
        self._header = self._live.container.header
        try:
            check_model(self._live.container)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it, in this process; what is asked for afterwards raises `ClosedSlide`."""
        if not self._closed:
            self._closed = True
            if self._live.pid == os.getpid():
                self._live.container.close()

    def check_open(self) -> None:
        """Raise as `container`."""
        self._here()

    @property
    def container(self) -> Container:
        """The file, open in this process.

        Raises:
            ClosedSlide: it is closed.
            UsageError: this is another process than the one that opened it, and the file cannot be opened again.
        """
        return self._here().container

    @property
    def decoder(self) -> Decoder:
        """The file's decoder in this process. Raises as `container`, and as `Decoder`."""
        live = self._here()
        if live.decoder is None:
            from inrwsi.decode import Decoder

            with self._lock():
                if live.decoder is None:
                    # CUDA cannot be used in a fork of a process that has used it.
                    device = "cpu" if _forked and self._device == "auto" else self._device
                    live.decoder = Decoder(live.container, device=device, cache_bytes=self._cache_bytes)
        return live.decoder

    def _lock(self) -> threading.Lock:
        # One a process: the parent's might be held, by a thread that a fork does not have.
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def _here(self) -> _Live:
        if self._closed:
            raise ClosedSlide(f"{self.file}: the slide is closed; open it again")
        if self._live.pid != os.getpid():
            with self._lock():
                if self._live.pid != os.getpid():
                    inherited, self._live = self._live, _Live(os.getpid(), self._open_again())
                    self._inherited.append(inherited)
        return self._live

    def _open_again(self) -> Container:
        if self.where is None and not isinstance(self.file, io.BytesIO):
            raise UsageError(f"{self.file}: a file object cannot be shared by processes; open the slide by its path")
        container = Container.open(self.file if self.where is None else self.where)
        if container.header != self._header:
            container.close()
            raise UsageError(f"{container.path}: is not the slide any more that it was; open it again")
        return container

    def run(self, job: Callable[[], T]) -> T:
        """What the job gives, as `run_all`."""
        (result,) = self.run_all([job])
        return result

    def run_all(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """What the jobs give, in their order, done on all of torch's threads.

        A fork inherits the state of OpenMP in the thread that forked, but not the threads that this waits for: where
        there is more than one thread to use, a fork's work is done in threads of its own. A DataLoader's worker has
        one.
        """
        import torch

        from inrwsi.octave_tiles import thread_pool

        threads = torch.get_num_threads()
        if threads == 1 or (len(jobs) < 2 and not _forked):
            return [job() for job in jobs]
        return list(thread_pool(threads, os.getpid()).map(lambda job: job(), jobs))


def _where(file: Any) -> str | None:
    """The path or URL; of a file object that of its file, if it is still there."""
    if isinstance(file, str):
        return file if "://" in file else os.path.abspath(file)
    try:
        name = os.path.abspath(file.name)
        return name if os.path.samestat(os.stat(name), os.fstat(file.fileno())) else None
    except (AttributeError, TypeError, OSError, ValueError):
        return None
