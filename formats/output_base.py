"""What every picture writer shares: strips in order, checks, and a file that is whole or not there."""

from __future__ import annotations

import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, ClassVar, Self

import numpy as np

from inrwsi.errors import UsageError, unwritten


@dataclass(frozen=True)
class PictureSpec:
    """What is known before the first row: size in pixels, channels, micrometres a pixel (x, y), ICC profile, bits."""

    wh: tuple[int, int]
    channels: int
    mpp_um: tuple[float, float] | None
    icc: bytes | None
    bit_depth: int = 8

    @property
    def dtype(self) -> np.dtype:
        """Of the pixels, uint8 or uint16."""
        return np.dtype(f"uint{self.bit_depth}")

    @property
    def per_metre(self) -> tuple[float, float] | None:
        """Pixels a metre, (x, y)."""
        return None if self.mpp_um is None else (1e6 / self.mpp_um[0], 1e6 / self.mpp_um[1])


def partial_path(out: Path) -> Path:
    """A hidden name beside `out` that nothing else has, for what is not whole yet."""
    return out.with_name(f".{out.name[:200]}.{secrets.token_hex(4)}.partial")


class RegionWriter(ABC):
    """Writes one picture from top to bottom, as a context manager. Memory holds a few strips, whatever the height.

    The file appears under its name when the block is left without an error and all rows were written. Otherwise
    nothing is left. Strips may have any height; `strip_rows` is the one that is not copied on the way.
    """

    strip_rows: int = 256
    suffixes: ClassVar[tuple[str, ...]]
    max_side_px: ClassVar[int]
    allowed_channels: ClassVar[tuple[int, ...]] = (1, 3)
    allowed_bits: ClassVar[tuple[int, ...]] = (8, 16)

    def __init__(self, path: Path, spec: PictureSpec) -> None:
        width, height = spec.wh
        if not (1 <= width <= self.max_side_px and 1 <= height <= self.max_side_px):
            raise UsageError(
                f"{path}: {width}x{height} pixels do not fit; a {path.suffix} file has 1 to {self.max_side_px} a side"
                + ("" if self.max_side_px > 2**30 else "; write .tif or .png")
            )
        if spec.channels not in self.allowed_channels or spec.bit_depth not in self.allowed_bits:
            held = f"{spec.channels} channel{'' if spec.channels == 1 else 's'} of {spec.bit_depth} bits"
            raise UsageError(f"{path}: a {path.suffix} file cannot hold {held}; write .tif")
        self.path, self.spec = path, spec
        self._partial = partial_path(path)
        self._rows = 0
        self._waiting: list[np.ndarray] = []  # strips that do not fill `strip_rows` yet
        self._waiting_rows = 0

    @abstractmethod
    def _begin(self, file: IO[bytes]) -> None:
        """Write what comes before the pixels."""

    @abstractmethod
    def _put(self, strip: np.ndarray) -> None:
        """Write the next `strip_rows` rows (fewer at the end), (h, w, C) of `spec.dtype`, C-contiguous."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what comes after the pixels."""

    def _abandon(self) -> None:  # noqa: B027 - most writers have nothing under way
        """Stop what is under way; the file will be removed."""

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise unwritten(error)(f"{self.path}: cannot be written ({error.strerror or error})") from error

    def __enter__(self) -> Self:
        with self._file_errors():
            self._file: IO[bytes] = open(self._partial, "x+b")
        try:
            with self._file_errors():
                self._begin(self._file)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, strip: np.ndarray) -> None:
        """Write the next rows: (h, width, channels) of `spec.dtype`.

        UsageError if they do not fit or the disk refuses them.
        """
        width, height = self.spec.wh
        if strip.ndim != 3 or strip.shape[1:] != (width, self.spec.channels) or strip.dtype != self.spec.dtype:
            wanted = f"{self.spec.dtype} (rows, {width}, {self.spec.channels})"
            raise UsageError(f"{self.path}: a strip must be {wanted}, not {strip.dtype} {strip.shape}")
        if self._rows + len(strip) > height:
            raise UsageError(f"{self.path}: strips of {self._rows + len(strip)} rows for a picture of {height}")
        self._rows += len(strip)
        while self._waiting_rows + len(strip) >= self.strip_rows:
            taken = self.strip_rows - self._waiting_rows
            self._waiting.append(strip[:taken])
            strip = strip[taken:]
            self._flush()
        if len(strip):
            # The caller may use its buffer again.
            self._waiting.append(strip.copy())
            self._waiting_rows += len(strip)

    def _flush(self) -> None:
        parts, self._waiting, self._waiting_rows = self._waiting, [], 0
        if parts:
            whole = parts[0] if len(parts) == 1 else np.concatenate(parts)
            with self._file_errors():
                self._put(np.ascontiguousarray(whole))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                return
            if self._rows != self.spec.wh[1]:
                raise UsageError(f"{self.path}: {self._rows} of {self.spec.wh[1]} rows were written")
            self._flush()
            with self._file_errors():
                self._finish()
                self._file.close()
                os.replace(self._partial, self.path)
        finally:
            self._discard()

    def _discard(self) -> None:
        """Remove the partial file; nothing to do once it has been renamed."""
        try:
            self._abandon()
        finally:
            with suppress(OSError):
                self._file.close()
            self._partial.unlink(missing_ok=True)
