"""What the writers of pyramids share: their geometry, tiles in any order, and outputs that are whole or not there."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import imagecodecs
import numpy as np

from inrwsi.errors import UsageError, unwritten
from inrwsi.formats.output_base import partial_path
from inrwsi.geometry import octave_wh

TILE_PX = 512
FULL_CHROMA_QUALITY = 90


@dataclass(frozen=True)
class PyramidSpec:
    """What is known before the first tile. Level k is the slide at 1/2^k, ceil(size / 2^k) pixels a side.

    Attributes:
        l0_wh: size of level 0 in pixels.
        channels: 1 or 3, of 8 bits.
        mpp_um: micrometres a pixel of level 0, (x, y).
        objective_power: of the scan.
        icc: raw ICC profile.
        quality: of JPEG, 1 to 100.
        associated: names and (h, w, 3) uint8 pixels of associated images.
    """

    l0_wh: tuple[int, int]
    channels: int
    mpp_um: tuple[float, float] | None
    objective_power: float | None
    icc: bytes | None
    quality: int
    associated: tuple[tuple[str, np.ndarray], ...] = ()

    @property
    def full_chroma(self) -> bool:
        """Whether JPEG keeps colour at full resolution (4:4:4, not 4:2:0): who asks for quality asks for it too."""
        return self.quality >= FULL_CHROMA_QUALITY

    def level_wh(self, level: int) -> tuple[int, int]:
        return octave_wh(self.l0_wh, level)

    def levels_down_to(self, side_px: int) -> int:
        """How many levels there are down to the first that is at most `side_px` a side."""
        level = 0
        while max(self.level_wh(level)) > side_px:
            level += 1
        return level + 1


class PyramidWriter(ABC):
    """Writes tiles of a pyramid, in any order, as a context manager.

    What is made lies in a hidden folder beside `out` until the block is left without an error, and then goes to its
    place by rename. Otherwise nothing is left, and what was there before stays.

    Attributes:
        level_count: levels that it wants, level 0 first.
        written_bytes: size of what was made, once the block is left.

    Raises:
        UsageError: the format cannot hold such a slide.
    """

    suffixes: ClassVar[tuple[str, ...]]
    smallest_level_px: ClassVar[int] = TILE_PX

    def __init__(self, out: Path, spec: PyramidSpec) -> None:
        if spec.channels not in (1, 3):
            raise UsageError(f"{out}: the slide has {spec.channels} channels; an export has 1 or 3")
        if not 1 <= spec.quality <= 100:
            raise UsageError(f"{out}: JPEG quality {spec.quality} is not possible; give 1 to 100")
        self.out, self.spec = out, spec
        self.level_count = spec.levels_down_to(self.smallest_level_px)
        self.written_bytes = 0
        self._partial = partial_path(out)

    @classmethod
    def targets(cls, out: Path) -> tuple[Path, ...]:
        """The files and folders that `out` stands for, the one that readers open last."""
        return (out,)

    @classmethod
    @abstractmethod
    def is_own(cls, target: Path) -> bool:
        """Whether one of `targets` that is there says that such a writer made it: only that may be replaced."""

    @abstractmethod
    def _begin(self) -> None:
        """Make what tiles are put into, in the folder `self._partial`."""

    @abstractmethod
    def put(self, level: int, tile_ij: tuple[int, int], pixels: np.ndarray) -> None:
        """Keep tile (column, row) of a level: (h, w, channels) uint8, `TILE_PX` a side, less at the level's edge."""

    def _finish(self) -> None:  # noqa: B027 - most writers are done with their last tile
        """Put together what is to be renamed: `self._partial / target.name` for each target."""

    def _abandon(self) -> None:  # noqa: B027 - most writers hold nothing open
        """Close what is open; called however the block is left."""

    def __enter__(self) -> Self:
        try:
            self._partial.mkdir()
        except OSError as error:  # which names a hidden folder that nobody asked for
            raise unwritten(error)(f"{self.out}: cannot be written ({error.strerror})") from error
        try:
            self._begin()
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
                made = [self._partial / target.name for target in self.targets(self.out)]
                self.written_bytes = sum(_bytes_of(path) for path in made)
                for path, target in zip(made, self.targets(self.out), strict=True):
                    _replace(path, target, self._partial / f"{target.name}.old")
        finally:
            self._discard()

    def _discard(self) -> None:
        try:
            self._abandon()
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)


def encode_jpeg(pixels: np.ndarray, spec: PyramidSpec) -> bytes:
    """A JPEG of (h, w, channels) uint8: YCbCr, or grey."""
    if spec.channels == 1:
        grey = np.ascontiguousarray(pixels[..., 0])
        return bytes(imagecodecs.jpeg8_encode(grey, level=spec.quality))
    return bytes(
        imagecodecs.jpeg8_encode(
            np.ascontiguousarray(pixels),
            level=spec.quality,
            colorspace="rgb",
            outcolorspace="ycbcr",
            subsampling="444" if spec.full_chroma else "420",
        )
    )


def _bytes_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _replace(made: Path, target: Path, aside: Path) -> None:
    """Rename, also over a folder, which `os.replace` refuses: the old one is moved aside, and back if that fails."""
    if not target.is_dir():
        os.replace(made, target)
        return
    os.rename(target, aside)
    try:
        os.rename(made, target)
    except BaseException:
        with suppress(OSError):
            os.rename(aside, target)
        raise
