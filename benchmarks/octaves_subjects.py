"""Which pixels the bench of model `octaves` measures: a square of each development image, or the tiles of a slide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import product
from pathlib import Path

import numpy as np

from inrwsi.errors import UsageError
from inrwsi.fit import prior
from inrwsi.formats.source import SlideSource, open_source, overview_step
from inrwsi.geometry import Rect, chunk_rect, grid_wh
from inrwsi.tissue import tissue_mask

from .octaves_results import CROP, HELD_OUT, NEVER, SLIDE, TISSUE, TRAINED, Subject
from .sampling import OVERVIEW_PX, TILE_PX, check_source, halved

BONE_MARROW = ("bone-marrow-HE-0001_01.png", "bone-marrow-HE-0008_01.png")
IMAGES = (*prior.TRAINED_ON, *prior.HELD_OUT, *BONE_MARROW)
QUICK_IMAGES = ("duodenum-NET-HE.png", "lymph-node-anthracosis-HE.png", "stomach-pylori-IHC.png")
ALSO_TRAINED_ON = ("slide-20x.tiff",)  # by --also, as README says of the released prior
HALVED = ("CMU-1-Small-Region.svs",)  # the others are halved already, or clean as they are
CROP_PX, QUICK_CROP_PX = 1536, 768


@dataclass(frozen=True, eq=False)
class Pixels:
    """A subject and its pixels.

    Attributes:
        facts: as they stand in the result.
        rgb: (h, w, 3) uint8, read-only.
        blocks: rectangles that are measured one by one.
        areas: of these, the numbers that each area is made of.
        path: the slide's file, where the pixels are exactly that file's.
        mpp_um: of a pixel, or None.
    """

    facts: Subject
    rgb: np.ndarray
    blocks: tuple[Rect, ...]
    areas: dict[str, tuple[int, ...]]
    path: Path | None = None
    mpp_um: tuple[float, float] | None = None

    def open(self) -> SlideSource:
        """As a slide to encode."""
        if self.path is not None:
            return open_source(self.path)
        # A copy that may be written to: torch warns of arrays that may not.
        return open_source(self.rgb.copy(), mpp_um=self.mpp_um)


def group_of(name: str) -> str:
    """What the prior knows of a slide."""
    if name in (*prior.TRAINED_ON, *ALSO_TRAINED_ON):
        return TRAINED
    return HELD_OUT if name in prior.HELD_OUT else NEVER


def crops(folder: Path, names: Sequence[str], side_px: int) -> Iterator[Pixels]:
    """The square of each image, in the order of IMAGES.

    Raises:
        UsageError: a name is not one of them, or its file is not there.
    """
    unknown = [n for n in names if n not in IMAGES]
    if unknown:
        raise UsageError(f"--images {unknown[0]}: is not of the set; there are: {', '.join(IMAGES)}")
    for name in IMAGES:
        if name in names:
            yield crop(folder / name, side_px, halve=name in HALVED)


def crop(path: Path, side_px: int, *, halve: bool) -> Pixels:
    """The square of `side_px`, or the largest that fits: from the middle; halved, about the middle of the tissue."""
    with open_source(path) as source:
        check_source(source)
        mpp, whole = source.mpp_um, None
        if halve:
            whole = halved(source)
            mpp = None if mpp is None else (2 * mpp[0], 2 * mpp[1])
        w, h = (source.width, source.height) if whole is None else (whole.shape[1], whole.shape[0])
        side = min(side_px, w, h)
        middle = (w / 2, h / 2) if whole is None else tissue_middle(whole)
        x, y = (round(min(max(m - side / 2, 0), full - side)) for m, full in zip(middle, (w, h), strict=True))
        rgb = source.read((x, y), (side, side)) if whole is None else whole[y : y + side, x : x + side]
    about = f"{side} x {side} pixels from the middle of {'the tissue, halved by 2x2 means' if halve else 'the image'}"
    blocks = (Rect(0, 0, side, side),)
    return _pixels(path.name, rgb, blocks, {CROP: (0,)}, l0_xy=(x, y), halved=halve, about=about, mpp_um=mpp)


def tissue_middle(rgb: np.ndarray) -> tuple[float, float]:
    """Mean position (x, y), in pixels, of what the tissue map of (h, w, 3) uint8 marks."""
    with open_source(rgb) as source:
        step = overview_step((source.width, source.height), OVERVIEW_PX // 4)
        rows, columns = np.nonzero(tissue_mask(source.overview(OVERVIEW_PX // 4), source.background))
    if not len(rows):
        return rgb.shape[1] / 2, rgb.shape[0] / 2
    return (float(columns.mean()) + 0.5) * step, (float(rows.mean()) + 0.5) * step


def slide(path: Path, sample: int | None, seed: int) -> tuple[Pixels, Pixels]:
    """A whole slide: as ours is given it, and as the peers are.

    The areas are all its tiles of 512 pixels, and those with any tissue in them. With `sample`, the only area is as
    many tiles of tissue, drawn from those that the edge does not cut, which the peers are given below one another.

    Raises:
        UsageError: it is not RGB of 8 bits, or has no tissue.
    """
    with open_source(path) as source:
        check_source(source)
        wh = (source.width, source.height)
        rgb = np.ascontiguousarray(source.read((0, 0), wh))
        columns, rows = grid_wh(wh, TILE_PX)
        tiles = tuple(chunk_rect(wh, TILE_PX, (i, j)) for j, i in product(range(rows), range(columns)))
        step = overview_step(wh, OVERVIEW_PX)
        mask = tissue_mask(source.overview(OVERVIEW_PX), source.background)
    tissue = tuple(n for n, tile in enumerate(tiles) if has_tissue(mask, step, tile))
    if not tissue:
        raise UsageError(f"{path}: has no tissue")
    count = f"{len(tissue)} of its {len(tiles)} tiles of {TILE_PX} px have tissue"
    if sample is None:
        areas = {TISSUE: tissue, SLIDE: tuple(range(len(tiles)))}
        whole = _pixels(path.name, rgb, tiles, areas, about=f"the whole slide; {count}", path=path)
        return whole, whole
    uncut = [n for n in tissue if (tiles[n].w, tiles[n].h) == (TILE_PX, TILE_PX)]
    drawn = np.random.default_rng(seed).choice(uncut, min(sample, len(uncut)), replace=False)
    chosen = tuple(sorted(int(n) for n in drawn))
    about = f"{len(chosen)} tiles, drawn with seed {seed}; {count}"
    ours = _pixels(path.name, rgb, tiles, {TISSUE: chosen}, about=about, path=path)
    mosaic = np.concatenate([rgb[r.y : r.y + r.h, r.x : r.x + r.w] for r in (tiles[n] for n in chosen)])
    below = tuple(Rect(0, TILE_PX * n, TILE_PX, TILE_PX) for n in range(len(chosen)))
    peers = _pixels(path.name, mosaic, below, {TISSUE: tuple(range(len(chosen)))}, about=about)
    return ours, peers


def has_tissue(mask: np.ndarray, step: int, tile: Rect) -> bool:
    """Whether a cell of the tissue map, `step` pixels a side, that a tile touches is marked."""
    rows = np.s_[tile.y // step : -(-(tile.y + tile.h) // step)]
    return bool(mask[rows, tile.x // step : -(-(tile.x + tile.w) // step)].any())


def _pixels(
    name: str,
    rgb: np.ndarray,
    blocks: tuple[Rect, ...],
    areas: dict[str, tuple[int, ...]],
    *,
    about: str,
    l0_xy: tuple[int, int] = (0, 0),
    halved: bool = False,
    path: Path | None = None,
    mpp_um: tuple[float, float] | None = None,
) -> Pixels:
    rgb = np.ascontiguousarray(rgb)
    rgb.flags.writeable = False
    facts = Subject(
        name=name,
        group=group_of(name),
        wh=(rgb.shape[1], rgb.shape[0]),
        l0_xy=l0_xy,
        halved=halved,
        sha256=sha256(rgb.data).hexdigest(),
        about=about,
        area_px={area: sum(blocks[n].w * blocks[n].h for n in numbers) for area, numbers in areas.items()},
    )
    return Pixels(facts, rgb, blocks, areas, path, mpp_um)
