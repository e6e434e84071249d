"""Which pixels of a slide are measured: a stratified, seeded sample of its tissue, laid out as one picture.

The slide is cut into squares of 512 pixels. Those with tissue are sorted into strata by how full they are and how
darkly and how blue they are stained, every stratum gives its share, and the chosen squares become a mosaic, each on a
tile of its own. All codecs are given the mosaic's pixels, so a square means the same to each of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import pairwise

import numpy as np

from inrwsi.errors import UsageError
from inrwsi.formats.source import SlideSource, open_source, overview_step
from inrwsi.geometry import Rect
from inrwsi.tissue import tissue_mask

from .results import Sample, Slide, Stratum

TILE_PX = 512
OVERVIEW_PX = 2048
LEAST_TISSUE = 0.1  # of a square's area, to be in the population
FULL_SHARE = 0.75  # of its area: interior of the tissue rather than its edge
LEAST_REGIONS = 4  # with fewer, everything is measured
MOST_FULL_PX = 4 * 10**8  # held in memory some four times over


@dataclass(frozen=True)
class Picture:
    """What every codec is given, and what is known of it.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, read-only.
        tissue: (h, w) bool.
        regions: the squares one by one; none for a slide measured whole.
        slide, sample: facts for the result.
        mpp_um, objective_power: of these pixels.
    """

    pixels: np.ndarray
    tissue: np.ndarray
    regions: tuple[Rect, ...]
    slide: Slide
    sample: Sample

    @property
    def wh(self) -> tuple[int, int]:
        return (self.pixels.shape[1], self.pixels.shape[0])

    @cached_property
    def blocks(self) -> tuple[Rect, ...]:
        """The picture cut for measuring: its regions, or where there are none, bands of bounded size."""
        if self.regions:
            return self.regions
        w, h = self.wh
        rows = max(1, round(h / 1024))
        edges = [h * i // rows for i in range(rows + 1)]
        return tuple(Rect(0, a, w, b - a) for a, b in pairwise(edges))

    def digest(self) -> str:
        """SHA-256 of the pixels as they are now; `sample.sha256` unless someone changed them."""
        return sha256(np.ascontiguousarray(self.pixels).data).hexdigest()


@dataclass(frozen=True)
class Cells:
    """The squares of a slide that have tissue in them.

    Attributes:
        ij: (n, 2) column and row.
        stratum: (n,) index into `names`.
        tissue: (rows, columns) bool, the slide's tissue map, a cell `step` pixels a side.
    """

    ij: np.ndarray
    stratum: np.ndarray
    names: tuple[str, ...]
    tissue: np.ndarray
    step: int


def halved(source: SlideSource) -> np.ndarray:
    """2x2 means of a slide that fits in memory, which hide most of an earlier JPEG: (h // 2, w // 2, 3) uint8."""
    w, h = source.width // 2 * 2, source.height // 2 * 2
    pixels = source.read((0, 0), (w, h)).astype(np.uint16)
    total = pixels[0::2, 0::2] + pixels[1::2, 0::2] + pixels[0::2, 1::2] + pixels[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)


def check_source(source: SlideSource) -> None:
    """UsageError unless it is RGB of 8 bits, which is what all the codecs have in common."""
    if source.channels != 3 or source.bit_depth != 8:
        raise UsageError(
            f"{source.name}: has {source.channels} channels of {source.bit_depth} bits; the benchmark compares codecs "
            "on RGB of 8 bits, so convert it first"
        )


def find_cells(source: SlideSource) -> Cells:
    """The population: squares that lie within the slide whole and have tissue, by stratum."""
    overview = source.overview(OVERVIEW_PX)
    step = overview_step((source.width, source.height), OVERVIEW_PX)
    tissue = tissue_mask(overview, source.background)
    od = -np.log10((overview.astype(np.float32) + 1) / 256)
    found = []
    for j in range(source.height // TILE_PX):
        for i in range(source.width // TILE_PX):
            low = np.array((j, i)) * TILE_PX // step
            high = np.maximum(low + 1, -(-(np.array((j, i)) + 1) * TILE_PX // step))
            at = np.s_[low[0] : high[0], low[1] : high[1]]
            share = float(tissue[at].mean())
            if share >= LEAST_TISSUE:
                stain = od[at][tissue[at]].mean(axis=0)
                found.append((i, j, share, float(stain.mean()), float(stain[0] - stain[2])))
    table = np.array(found, np.float64).reshape(-1, 5)
    names, stratum = _strata(table)
    return Cells(table[:, :2].astype(np.int64), stratum, names, tissue, step)


def _strata(table: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
    """Edge or interior, by thirds of optical density, by halves of red minus blue density: twelve at most."""
    full = table[:, 2] >= FULL_SHARE
    stratum = np.zeros(len(table), np.int64)
    names: list[str] = []
    for interior in (False, True):
        inside = np.flatnonzero(full == interior)
        thirds = np.array_split(inside[np.argsort(table[inside, 3], kind="stable")], 3)
        for darkness, third in zip(("pale", "medium", "dark"), thirds, strict=True):
            halves = np.array_split(third[np.argsort(table[third, 4], kind="stable")], 2)
            for hue, half in zip(("redder", "bluer"), halves, strict=True):
                stratum[half] = len(names)
                names.append(f"{'interior' if interior else 'edge'}, {darkness}, {hue}")
    return tuple(names), stratum


def draw(cells: Cells, count: int, seed: int) -> np.ndarray:
    """Indices of `count` cells: each stratum gives its share (largest remainder), drawn without replacement; sorted."""
    rng = np.random.default_rng(seed)
    sizes = np.bincount(cells.stratum, minlength=len(cells.names))
    exact = count * sizes / max(1, sizes.sum())
    shares = np.floor(exact).astype(int)
    # Ties go to strata in a drawn order, so that the first ones have no advantage.
    order = rng.permutation(len(sizes))
    rest = order[np.argsort(-(exact - shares)[order], kind="stable")][: count - shares.sum()]
    shares[rest] += 1
    chosen = [rng.permutation(np.flatnonzero(cells.stratum == s))[:n] for s, n in enumerate(shares)]
    return np.sort(np.concatenate(chosen))


def rectangle(count: int) -> tuple[int, int]:
    """(columns, rows) of the squarest full rectangle of at most `count` tiles."""
    rows = math.isqrt(count)
    return count // rows, rows


def sampled_picture(source: SlideSource, cells: Cells, count: int, seed: int, *, was_halved: bool = False) -> Picture:
    """A mosaic of at most `count` squares of the slide, a full rectangle of tiles in the order of the slide."""
    columns, rows = rectangle(min(count, len(cells.ij)))
    chosen = draw(cells, columns * rows, seed)
    pixels = np.empty((rows * TILE_PX, columns * TILE_PX, 3), np.uint8)
    tissue = np.empty(pixels.shape[:2], np.bool_)
    regions = []
    for number, (i, j) in enumerate(cells.ij[chosen].tolist()):
        at = Rect(number % columns * TILE_PX, number // columns * TILE_PX, TILE_PX, TILE_PX)
        inside = np.s_[at.y : at.y + at.h, at.x : at.x + at.w]
        pixels[inside] = source.read((i * TILE_PX, j * TILE_PX), (TILE_PX, TILE_PX))
        tissue[inside] = _tissue(cells, Rect(i * TILE_PX, j * TILE_PX, TILE_PX, TILE_PX))
        regions.append(at)
    taken = np.bincount(cells.stratum[chosen], minlength=len(cells.names))
    there = np.bincount(cells.stratum, minlength=len(cells.names))
    every = "all" if len(chosen) == len(cells.ij) else "a stratified, seeded sample"
    text = (
        f"{len(chosen)} of the slide's {len(cells.ij)} squares of {TILE_PX} pixels with tissue, {every}, laid out "
        f"as a mosaic of {columns} x {rows}; every codec was given this mosaic, and .cinr files were encoded from it "
        "as a slide"
    )
    strata = tuple(Stratum(n, int(p), int(m)) for n, p, m in zip(cells.names, there, taken, strict=True) if p)
    l0_xy = tuple((int(i) * TILE_PX, int(j) * TILE_PX) for i, j in cells.ij[chosen])
    return _picture(source, cells, pixels, tissue, tuple(regions), text, seed, strata, l0_xy, was_halved)


def full_picture(source: SlideSource, cells: Cells, *, was_halved: bool = False) -> Picture:
    """All pixels of the slide. UsageError beyond `MOST_FULL_PX`."""
    if source.width * source.height > MOST_FULL_PX:
        raise UsageError(
            f"{source.name}: has {source.width * source.height / 1e6:,.0f} Mpixel, too many to be held in memory by "
            f"every codec (at most {MOST_FULL_PX / 1e6:,.0f}); leave --full out to measure a sample"
        )
    pixels = np.ascontiguousarray(source.read((0, 0), (source.width, source.height)))
    tissue = _tissue(cells, Rect(0, 0, source.width, source.height))
    text = "the whole slide, every pixel"
    return _picture(source, cells, pixels, tissue, (), text, 0, (), (), was_halved)


def _tissue(cells: Cells, l0: Rect) -> np.ndarray:
    """The tissue map over a rectangle of the slide, a value a pixel: (h, w) bool."""
    rows = np.arange(l0.y, l0.y + l0.h) // cells.step
    columns = np.arange(l0.x, l0.x + l0.w) // cells.step
    return cells.tissue[rows[:, None], columns[None, :]]


def _picture(
    source: SlideSource,
    cells: Cells,
    pixels: np.ndarray,
    tissue: np.ndarray,
    regions: tuple[Rect, ...],
    text: str,
    seed: int,
    strata: tuple[Stratum, ...],
    l0_xy: tuple[tuple[int, int], ...],
    was_halved: bool,
) -> Picture:
    mpp = None if source.mpp_um is None else math.sqrt(source.mpp_um[0] * source.mpp_um[1])
    slide = Slide(
        name=source.name,
        width=source.width,
        height=source.height,
        mpp_um=mpp,
        objective_power=source.objective_power,
        bytes_on_disk=source.bytes_on_disk,
        tissue_share=float(cells.tissue.mean()),
        halved=was_halved,
    )
    pixels.flags.writeable = False
    sample = Sample(
        text=text,
        full=not regions,
        seed=seed,
        tile_px=TILE_PX,
        population=len(cells.ij),
        strata=strata,
        l0_xy=l0_xy,
        picture_wh=(pixels.shape[1], pixels.shape[0]),
        tissue_pixels=int(np.count_nonzero(tissue)),
        sha256=sha256(pixels.data).hexdigest(),
    )
    return Picture(pixels, tissue, regions, slide, sample)


def open_halved(source: SlideSource) -> SlideSource:
    """The slide at half its resolution, under its own name; facts of scale are halved with it."""
    mpp = None if source.mpp_um is None else tuple(2 * v for v in source.mpp_um)
    power = None if source.objective_power is None else source.objective_power / 2
    small = open_source(halved(source), mpp_um=mpp, objective_power=power)
    small.name = source.name
    return small
