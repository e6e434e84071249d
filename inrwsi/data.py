"""Patches of slides for torch: a map-style dataset over `.cinr` files, and over what they are encoded from."""

from __future__ import annotations

import math
import operator
import os
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, cast

import numpy as np
import torch
from openslide import PROPERTY_NAME_BACKGROUND_COLOR
from PIL import Image
from torch.utils.data import Dataset

from inrwsi.errors import UsageError
from inrwsi.formats.source import SlideSource, open_source, overview_step
from inrwsi.geometry import Rect, check_output_wh
from inrwsi.resample import AreaSum
from inrwsi.slide import CinrSlide, open_slide
from inrwsi.slide_levels import ROUNDED, SlideLevels
from inrwsi.slide_parts import resolve_step
from inrwsi.tissue import tissue_mask

OVERVIEW_PX = 1024
MOST_OPEN = 8  # slides at a time: each holds its networks, and a part of the cache
SLACK = 1e-6  # of a pixel, or of a share
NEARLY = 0.5  # pixels over a patch that a scale may be off the slide's own, which it is then: 0.5 um of one of 0.2499

Path = str | os.PathLike[str]


class PatchDataset(Dataset[dict[str, Any]]):
    """Square patches of slides, on a grid or where they are asked for, all at one scale.

    Grid patches lie wholly on their slide, and are in order: slide by slide, row by row, from the left. The same
    arguments give the same patches in the same order. It is picklable, and works in forked and spawned DataLoader
    workers, each of which opens the slides anew. A DataLoader reads a batch in one go (`__getitems__`): neighbours in
    it share decoded chunks.

    Args:
        slides: path or URL of a slide, or several: `.cinr` files, and paths of what `encode` takes.
        patch_px: side of a patch in its own pixels.
        stride_px: from a patch to the next on the grid, in the same pixels; `patch_px` where it is None.
        mpp: micrometres a pixel of a patch, such as 0.5; or
        mag: magnification, such as 20; or
        downsample: level-0 pixels a pixel of a patch. 1 if none of the three is given. A scale that is less than half a
            pixel over a patch off a whole downsample is that one: of mpp 0.5 and a slide of 0.2499 um, 2, whose pixels
            are there, and not 2.0008, whose are blurred.
        l0_xy: top left corners in level-0 pixels, (n, 2), in place of a grid; with a list of slides, one such array
            for each. They are rounded to whole pixels, keep their order, and may lie outside the slide.
        min_tissue: the least share of tissue under a patch, from 0 (keep all) to 1; see `inrwsi.tissue`.
        transform: takes the (3, patch_px, patch_px) uint8 tensor; what it gives is the patch.
        mpp_um, objective_power: of all slides, in place of what the files say.
        device: where `.cinr` files are decoded: auto, cpu or cuda. In a forked worker auto is cpu.
        cache_bytes: limit of what a process keeps decoded of `.cinr` files, all together.

    Attributes:
        slides: the paths, (slides,).
        slide_index: (n,) int64: of each patch, which slide it is of.
        l0_xy: (n, 2) int64: of each patch, its top left corner in level-0 pixels.
        steps: of each slide, level-0 pixels a pixel of a patch as it is, (slides,).
        patch_px: as given.

    Raises:
        UsageError: a slide cannot be opened, a scale is not known or an argument cannot be, or no patch is left.
        CorruptFile, UnsupportedVersion: of a `.cinr` file.
    """

    def __init__(
        self,
        slides: Path | Sequence[Path],
        patch_px: int = 256,
        *,
        stride_px: int | None = None,
        mpp: float | None = None,
        mag: float | None = None,
        downsample: float | None = None,
        l0_xy: Any = None,
        min_tissue: float = 0.0,
        transform: Callable[[torch.Tensor], Any] | None = None,
        mpp_um: float | None = None,
        objective_power: float | None = None,
        device: str = "auto",
        cache_bytes: int = 256 << 20,
    ) -> None:
        single = isinstance(slides, (str, os.PathLike))
        try:
            self.slides: tuple[str, ...] = tuple(map(os.fspath, [slides] if single else slides))  # type: ignore[arg-type]
        except TypeError:
            raise UsageError(f"slides is {slides!r}; it should be the path of a slide, or a list of such") from None
        if not self.slides:
            raise UsageError("no slide is given; give the path of one, or of several")
        if l0_xy is not None and stride_px is not None:
            raise UsageError("l0_xy and stride_px are given; give the corners, or the stride of a grid")
        scales = {"mag": mag, "mpp": mpp, "downsample": downsample}
        stride_px = patch_px if stride_px is None else stride_px
        wanted = _Wanted(patch_px, stride_px, scales, min_tissue, mpp_um, objective_power)
        corners = None if l0_xy is None else _corners([l0_xy] if single else list(l0_xy), self.slides)
        self.patch_px, self.transform = patch_px, transform
        self._readers = _Readers(self.slides, device, cache_bytes)
        steps, found = [], []
        for number, path in enumerate(self.slides):
            step, xy = wanted.of(self._readers[number], path, None if corners is None else corners[number])
            steps.append(step)
            found.append(xy)
        self._readers.close()
        self.steps, self.l0_xy = tuple(steps), np.concatenate(found)
        self.slide_index = np.repeat(np.arange(len(found)), [len(xy) for xy in found])
        if not len(self.l0_xy):
            least = f", or have less tissue than min_tissue={min_tissue:g} everywhere" if min_tissue > 0 else ""
            names = ", ".join(self.slides[:3]) + (" and others" if len(self.slides) > 3 else "")
            raise UsageError(
                f"{names}: no patch of {patch_px} pixels is left; at {min(steps):g} level-0 pixels a "
                f"pixel the slides are smaller than one{least}"
            )

    def __len__(self) -> int:
        return len(self.l0_xy)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One patch; a batch of one of `__getitems__`."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """Patches by their numbers, in that order, decoded in the order in which they lie on their slides.

        Returns:
            Of each: `image`, a (3, patch_px, patch_px) uint8 tensor, RGB, the slide's background outside the slide, or
            what `transform` makes of it; `slide`, the number of its slide; `l0_xy`, its top left corner in level-0
            pixels, a (2,) int64 tensor.

        Raises:
            IndexError: there is no such patch.
            CorruptFile: a chunk is damaged. UsageError: another slide cannot be read.
        """
        numbers = [range(len(self))[operator.index(i)] for i in indices]
        x, y = self.l0_xy[numbers].T
        order = np.lexsort((x, y, self.slide_index[numbers])).tolist()
        images: dict[int, np.ndarray] = {}
        for slide in np.unique(self.slide_index[numbers]).tolist():
            places = [place for place in order if self.slide_index[numbers[place]] == slide]
            l0_xys = [tuple(self.l0_xy[numbers[place]].tolist()) for place in places]
            pixels = self._readers[slide].read(l0_xys, self.patch_px, self.steps[slide])
            images |= dict(zip(places, pixels, strict=True))
        return [self._item(number, images.pop(place)) for place, number in enumerate(numbers)]

    def _item(self, number: int, rgb: np.ndarray) -> dict[str, Any]:
        image = torch.from_numpy(np.ascontiguousarray(rgb.transpose(2, 0, 1)))
        return {
            "image": image if self.transform is None else self.transform(image),
            "slide": int(self.slide_index[number]),
            "l0_xy": torch.from_numpy(self.l0_xy[number].copy()),
        }


def tissue_share(tissue: np.ndarray, l0_wh: tuple[int, int], l0_xy: np.ndarray, l0_px: float) -> np.ndarray:
    """How much of each square of a slide is tissue, by area; what lies outside the slide is none.

    Args:
        tissue: (h, w) bool, of an overview of the slide of at most `OVERVIEW_PX` a side.
        l0_wh: size of the slide.
        l0_xy: (n, 2) top left corners, and `l0_px` the side of the squares, in level-0 pixels.

    Returns:
        (n,) float64, 0 to 1.
    """
    totals = np.pad(tissue.astype(np.float64).cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    cell_px = overview_step(l0_wh, OVERVIEW_PX)
    h, w = tissue.shape
    low, high = (np.clip(l0_xy + part, 0, l0_wh) / cell_px for part in (0, l0_px))

    def before(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        # A cell is of one kind throughout, so sums grow evenly within it.
        column, row = np.minimum(x.astype(np.intp), w - 1), np.minimum(y.astype(np.intp), h - 1)
        right, down = x - column, y - row
        upper = totals[row, column] * (1 - right) + totals[row, column + 1] * right
        lower = totals[row + 1, column] * (1 - right) + totals[row + 1, column + 1] * right
        return upper * (1 - down) + lower * down

    (x0, y0), (x1, y1) = low.T, high.T
    inside = before(x1, y1) - before(x0, y1) - before(x1, y0) + before(x0, y0)
    return inside / (l0_px / cell_px) ** 2


@dataclass(frozen=True)
class _Wanted:
    """Which patches; `PatchDataset` has the meanings."""

    patch_px: int
    stride_px: int
    scales: dict[str, float | None]
    min_tissue: float
    mpp_um: float | None
    objective_power: float | None

    def __post_init__(self) -> None:
        for name in ("patch_px", "stride_px"):
            value = getattr(self, name)
            if not (isinstance(value, (int, np.integer)) and value >= 1):
                raise UsageError(f"{name} is {value!r}; it should be a whole number of pixels, such as 256")
        check_output_wh((self.patch_px, self.patch_px))
        for name in ("mpp_um", "objective_power"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float, np.number)) and 0 < value < math.inf):
                raise UsageError(f"{name} is {value!r}; it should be a positive number")
        if not 0 <= self.min_tissue <= 1:
            raise UsageError(f"min_tissue is {self.min_tissue!r}; it should be a share, from 0 to 1")

    def of(self, reader: _Reader, path: str, l0_xy: np.ndarray | None) -> tuple[float, np.ndarray]:
        """Level-0 pixels a pixel of a patch of this slide, and the corners of its patches: of a grid, or of those."""
        facts = reader.facts(self.mpp_um, self.objective_power)
        power = facts.objective_power
        step = resolve_step(path, self.scales, mpp_um=facts.mpp_um, objective_power=power, opener="PatchDataset")
        whole = max(1.0, float(round(step)))
        if abs(step / whole - 1) <= min(NEARLY / self.patch_px, ROUNDED):
            step = whole
        if l0_xy is None and self.stride_px * step < 1 - SLACK:
            raise UsageError(
                f"{path}: a stride of {self.stride_px} is {self.stride_px * step:g} level-0 pixels there, so patches "
                f"would be the same; give {math.ceil(1 / step)} or more"
            )
        xy = _grid(facts.l0_wh, self.patch_px * step, self.stride_px * step) if l0_xy is None else l0_xy
        if self.min_tissue > 0 and len(xy):
            tissue = tissue_mask(*reader.overview())
            xy = xy[tissue_share(tissue, facts.l0_wh, xy, self.patch_px * step) >= self.min_tissue - SLACK]
        return step, xy


def _corners(l0_xy: Sequence[Any], paths: Sequence[str]) -> list[np.ndarray]:
    """(n, 2) int64 for each slide."""
    if len(l0_xy) != len(paths):
        raise UsageError(f"l0_xy has corners for {len(l0_xy)} slides, and {len(paths)} are given; give (n, 2) for each")
    found = []
    for path, given in zip(paths, l0_xy, strict=True):
        try:
            xy = np.asarray(given, np.float64).reshape((0, 2) if len(given) == 0 else (len(given), -1))
        except (TypeError, ValueError):
            xy = np.full((1, 1), np.nan)
        if xy.shape[1] != 2 or not np.isfinite(xy).all() or np.abs(xy).max(initial=0) > 2**53:
            raise UsageError(f"{path}: l0_xy should be (n, 2) numbers, the top left corners in level-0 pixels")
        found.append(np.rint(xy).astype(np.int64))
    return found


def _grid(l0_wh: tuple[int, int], patch_l0_px: float, stride_l0_px: float) -> np.ndarray:
    """(n, 2) int64 corners of the patches that lie wholly on the slide, row by row."""
    counts = [max(0, math.floor((side - patch_l0_px) / stride_l0_px + SLACK) + 1) for side in l0_wh]
    x, y = (np.floor(np.arange(count) * stride_l0_px + SLACK).astype(np.int64) for count in counts)
    return np.stack([np.tile(x, len(y)), np.repeat(y, len(x))], axis=1)


# ---- the slides


@dataclass(frozen=True)
class _Facts:
    l0_wh: tuple[int, int]
    mpp_um: tuple[float, float] | None
    objective_power: float | None


class _Reader(Protocol):
    """A slide of either kind."""

    def facts(self, mpp_um: float | None, objective_power: float | None) -> _Facts:
        """Its size and scale; what is given takes the place of what the file says."""
        ...

    def overview(self) -> tuple[np.ndarray, tuple[int, ...]]:
        """(h, w, C), each pixel `overview_step` level-0 pixels, and the colour of its background."""
        ...

    def read(self, l0_xys: Sequence[tuple[int, int]], patch_px: int, step: float) -> Iterable[np.ndarray]:
        """(patch_px, patch_px, 3) uint8 of each."""
        ...


class _Readers:
    """The slides by number, each opened when this process first reads it; the latest few stay open. Picklable."""

    def __init__(self, paths: tuple[str, ...], device: str, cache_bytes: int) -> None:
        # A worker may run in another folder.
        places = tuple(path if "://" in path else os.path.abspath(path) for path in paths)
        self._settings = (places, device, cache_bytes)
        share = cache_bytes // min(len(paths), MOST_OPEN)
        # By process too: what is open in the parent of a fork is the parent's. What is let go of here closes when
        # nobody reads it any more.
        self._opened = lru_cache(MOST_OPEN)(lambda number, process: _open(places[number], device, share))

    def __reduce__(self) -> tuple[Any, ...]:
        return (_Readers, self._settings)

    def __getitem__(self, number: int) -> _Reader:
        return self._opened(number, os.getpid())

    def close(self) -> None:
        """Let go of all of them."""
        self._opened.cache_clear()


def _open(path: str, device: str, cache_bytes: int) -> _Reader:
    if "://" not in path and CinrSlide.detect_format(path) is None:
        return _SourceReader(open_source(path), path)
    return _CinrReader(cast(CinrSlide, open_slide(path, device=device, cache_bytes=cache_bytes)))


class _CinrReader:
    def __init__(self, slide: CinrSlide) -> None:
        self._slide = slide

    def facts(self, mpp_um: float | None, objective_power: float | None) -> _Facts:
        both = None if mpp_um is None else (mpp_um, mpp_um)
        slide = self._slide
        return _Facts(slide.dimensions, both or slide.mpp_um, objective_power or slide.objective_power)

    def overview(self) -> tuple[np.ndarray, tuple[int, ...]]:
        w, h = self._slide.dimensions
        step = overview_step((w, h), OVERVIEW_PX)
        pixels = self._slide.read_region_at((0, 0), (-(-w // step), -(-h // step)), downsample=step, as_array=True)
        return pixels, tuple(bytes.fromhex(self._slide.properties[PROPERTY_NAME_BACKGROUND_COLOR]))

    def read(self, l0_xys: Sequence[tuple[int, int]], patch_px: int, step: float) -> Iterable[np.ndarray]:
        return self._slide.read_regions_at(l0_xys, (patch_px, patch_px), downsample=step, as_array=True)


class _SourceReader:
    """A patch is made of the level above it: means of its pixels, as a `.cinr` file gives them."""

    def __init__(self, source: SlideSource, path: str) -> None:
        weakref.finalize(self, source.close)
        self._source = source
        self._levels = SlideLevels(source, path)

    def facts(self, mpp_um: float | None, objective_power: float | None) -> _Facts:
        both = None if mpp_um is None else (mpp_um, mpp_um)
        source = self._source
        return _Facts(self._levels.l0_wh, both or source.mpp_um, objective_power or source.objective_power)

    def overview(self) -> tuple[np.ndarray, tuple[int, ...]]:
        return self._source.overview(OVERVIEW_PX), self._source.background

    def read(self, l0_xys: Sequence[tuple[int, int]], patch_px: int, step: float) -> Iterable[np.ndarray]:
        return [self._patch(l0_xy, patch_px, step) for l0_xy in l0_xys]

    def _patch(self, l0_xy: tuple[int, int], patch_px: int, step: float) -> np.ndarray:
        level, downsample = self._levels.best(step)
        side = patch_px * step / downsample  # in pixels of the level
        left, top = (v / downsample for v in l0_xy)
        x, y = math.floor(left + SLACK), math.floor(top + SLACK)
        rect = Rect(x, y, math.ceil(left + side - SLACK) - x, math.ceil(top + side - SLACK) - y)
        rgb, start = self._levels.read(level, rect), (max(0.0, left - x), max(0.0, top - y))
        if (rect.w, rect.h) == (patch_px, patch_px) and side >= patch_px - SLACK:  # the level's own pixels
            return rgb
        if side >= patch_px - SLACK:
            total = AreaSum((0, patch_px), (0, patch_px), start, side / patch_px, 3)
            total.add((0, 0), (rect.w, rect.h), rgb)
            return total.result(self._levels.background)
        box = (*start, min(start[0] + side, rect.w), min(start[1] + side, rect.h))
        return np.asarray(Image.fromarray(rgb).resize((patch_px, patch_px), Image.Resampling.BICUBIC, box))
