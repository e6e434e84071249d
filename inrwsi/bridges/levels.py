"""The levels of a slide as arrays that are decoded where they are indexed: what all bridges are made of."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from inrwsi.bridges import missing
from inrwsi.geometry import Rect

if TYPE_CHECKING:
    import dask.array

    from inrwsi.slide import CinrSlide

PIECE_PX = 512
Key = Any  # what an array is indexed with: integers, slices and an ellipsis


def open_levels(file: Any, **settings: Any) -> tuple[LevelArray, ...]:
    """The octaves of a `.cinr` file, finest first, down to the first of at most 256 pixels a side.

    Args:
        file, settings: as for `CinrSlide`, all but `levels`.

    Raises:
        CorruptFile, UnsupportedVersion, UsageError: as `CinrSlide`.
    """
    # Not at the top: a program loads its plug-ins when it starts, whichever files it opens.
    from inrwsi.slide import CinrSlide

    slide = CinrSlide(file, **settings)
    return tuple(LevelArray(slide, number) for number in range(slide.level_count))


def is_cinr(file: Any) -> bool:
    """Whether a path, URL or file object is there and begins like a `.cinr` file."""
    from inrwsi.slide import CinrSlide

    return CinrSlide.detect_format(file) is not None


@dataclass(frozen=True, eq=False)
class LevelArray:
    """One octave of an open slide: an array (h, w, 3) uint8, RGB. Thread safe; picklable where the slide is.

    Indexing it with integers and slices decodes what they span, and no more. Pixel (i, j) covers [i, i + 1) x
    [j, j + 1) times `downsample`, in level-0 pixels.
    """

    slide: CinrSlide
    number: int

    dtype: ClassVar[np.dtype] = np.dtype(np.uint8)
    ndim: ClassVar[int] = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        w, h = self.slide.level_dimensions[self.number]
        return (h, w, 3)

    @property
    def downsample(self) -> int:
        """Level-0 pixels a pixel, along a side: a power of two."""
        return 2**self.number

    @property
    def unit(self) -> str:
        """Of `pixel_size`: `micrometer`, or `pixel`, of level 0, where the slide's scale is unknown."""
        return "pixel" if self.slide.mpp_um is None else "micrometer"

    @property
    def pixel_size(self) -> tuple[float, float]:
        """(y, x) size of a pixel, in `unit`."""
        x, y = self.slide.mpp_um or (1.0, 1.0)
        return (y * self.downsample, x * self.downsample)

    @property
    def piece_px(self) -> int:
        """Side of the pieces that it is best read in: of whole chunks, near `PIECE_PX`."""
        chunk_px = self.slide.header.grid.chunk_px
        return chunk_px * max(1, PIECE_PX // chunk_px)

    def read(self, rect: Rect) -> np.ndarray:
        """A rectangle in pixels of the level, (h, w, 3) uint8; beyond the slide is its background.

        Raises:
            CorruptFile: a chunk is damaged.
        """
        l0_xy = (rect.x * self.downsample, rect.y * self.downsample)
        return self.slide.read_region(l0_xy, self.number, (rect.w, rect.h), as_array=True)

    def __getitem__(self, key: Key) -> np.ndarray:
        rows, columns, colours = _whole_key(key)
        (y, h, rest_y), (x, w, rest_x) = _span(rows, self.shape[0]), _span(columns, self.shape[1])
        return self.read(Rect(x, y, w, h))[rest_y, rest_x, colours]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[...], dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def __dask_tokenize__(self) -> tuple[str, str, int]:
        return ("inrwsi.LevelArray", self.slide.properties["openslide.quickhash-1"], self.number)


def dask_array(level: LevelArray) -> dask.array.Array:
    """The level as a dask array, in pieces of `piece_px`.

    Raises:
        BackendUnavailable: dask is not installed.
    """
    try:
        import dask.array
    except ImportError:
        raise missing("dask", "napari") from None
    pieces = (level.piece_px, level.piece_px, 3)
    return dask.array.from_array(level, chunks=pieces, fancy=False, meta=np.empty((0, 0, 0), np.uint8))


def _whole_key(key: Key) -> tuple[Any, Any, Any]:
    """The key of each of the three dimensions."""
    given = list(key) if isinstance(key, tuple) else [key]
    ellipses = [place for place, part in enumerate(given) if part is Ellipsis]
    at = ellipses[0] if ellipses else len(given)
    given[at : at + 1] = [slice(None)] * (3 - len(given) + len(ellipses[:1]))
    if len(given) != 3 or len(ellipses) > 1:
        raise IndexError(f"{key!r} is not an index of an array of three dimensions")
    return (given[0], given[1], given[2])


def _span(part: Any, side_px: int) -> tuple[int, int, int | slice]:
    """The first pixel and the count of those that an integer or a slice spans, and what is left to index them with."""
    if isinstance(part, slice):
        chosen = range(side_px)[part]
        if not chosen:
            return (0, 0, slice(None))
        first, last = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
        return (first, last + 1 - first, slice(None, None, chosen.step))
    try:
        return (range(side_px)[operator.index(part)], 1, 0)
    except TypeError:
        raise IndexError(f"{part!r} is given for an integer or a slice") from None
