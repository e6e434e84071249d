"""What is measured of a piece of work beside its result: time, memory, bytes read; and on which machine."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from inrwsi.serve.options import cores as cores

from .results import Machine, Spread

T = TypeVar("T")
_MB = 1e6
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
LIBRARIES = ("inrwsi", "imagecodecs", "numpy", "openslide-python", "scipy", "tifffile", "torch")


class CountedFile(io.RawIOBase):
    """A file, unbuffered, that counts the bytes read from it."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
        self.name = str(path)
        self.bytes_read = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer) or 0
        self.bytes_read += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


class Seconds(NamedTuple):
    """What a piece of work took: by the clock, and of the CPU, over all threads of this process."""

    wall_s: float
    cpu_s: float


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What `work` returns, and its seconds."""
    result, seconds = clocked(work)
    return result, seconds.wall_s


def clocked(work: Callable[[], T]) -> tuple[T, Seconds]:
    """What `work` returns, and its seconds by both clocks."""
    began, cpu_began = time.perf_counter(), time.process_time()
    result = work()
    return result, Seconds(time.perf_counter() - began, time.process_time() - cpu_began)


def with_peak(work: Callable[[], T]) -> tuple[T, float | None]:
    """What `work` returns, and the most memory it took above what was held before, in MB; None off Linux."""
    _release()
    try:
        _CLEAR.write_text("5")  # the high-water mark starts anew from what is held now
    except OSError:
        return work(), None
    before = _status_mb("VmRSS")
    result = work()
    return result, max(0.0, _status_mb("VmHWM") - before)


def _release() -> None:
    """Give back what was freed: memory that the allocator keeps would hide what `work` takes."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


def _status_mb(key: str) -> float:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024 / _MB


def spread(values: list[float]) -> Spread:
    """Least, median and most of at least one value."""
    return Spread(min(values), statistics.median(values), max(values), len(values))


def machine() -> Machine:
    """The machine that this process runs on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9 if hasattr(os, "sysconf") else 0.0
    return Machine(platform.platform(), cpu, cores(), round(memory, 1), platform.python_version())


def library_versions() -> dict[str, str]:
    """Installed versions of the packages that took part."""
    return {name: version(name) for name in LIBRARIES}
