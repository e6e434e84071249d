"""The tissue map on drawn and real slides, and the test for blank pieces, which must not lose anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inrwsi.formats.source import open_source
from inrwsi.tissue import glass_colour, is_blank, tissue_mask

SLIDES = Path(__file__).parents[2] / "shared" / "slides"
WHITE = (255, 255, 255)
GLASS = (243, 241, 244)


def glass(h: int, w: int, noise: float = 1.0, seed: int = 3, colour: tuple[int, ...] = GLASS) -> np.ndarray:
    """(h, w, 3) float: empty glass with a slow drift of 2 levels and sensor noise."""
    rng = np.random.default_rng(seed)
    drift = np.linspace(-1, 1, w)[None, :, None]
    return np.asarray(colour) + drift + rng.normal(0, noise, (h, w, 3))


def as_pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def disc(h: int, w: int, y: float, x: float, diameter: float) -> np.ndarray:
    rows, columns = np.ogrid[:h, :w]
    return (rows - y) ** 2 + (columns - x) ** 2 <= diameter**2 / 4


def test_map_of_a_pale_and_a_dark_patch_and_a_pen_mark() -> None:
    slide = glass(120, 160)
    slide[20:60, 30:80] = (228, 205, 222)  # pale eosin
    slide[80:100, 20:50] = (90, 50, 120)
    slide[90:94, 100:150] = (30, 120, 200)  # pen
    mask = tissue_mask(as_pixels(slide), WHITE)
    expected = np.zeros((120, 160), bool)
    for top, bottom, left, right in [(20, 60, 30, 80), (80, 100, 20, 50), (90, 94, 100, 150)]:
        expected[top - 1 : bottom + 1, left - 1 : right + 1] = True  # a rim of one cell
    assert np.array_equal(mask, expected)
    assert glass_colour(as_pixels(slide), WHITE) == pytest.approx(GLASS, abs=1)


def test_small_gaps_are_closed_and_large_ones_stay() -> None:
    slide = glass(80, 80)
    slide[10:70, 10:70] = (200, 120, 170)
    slide[20:24, 20:24] = GLASS
    slide[40:60, 40:60] = GLASS
    mask = tissue_mask(as_pixels(slide), WHITE)
    assert mask[20:24, 20:24].all()
    assert not mask[42:58, 42:58].any()


def test_all_glass_and_all_tissue() -> None:
    assert not tissue_mask(np.full((50, 60, 3), 255, np.uint8), WHITE).any()
    assert not tissue_mask(as_pixels(glass(50, 60)), WHITE).any()
    rng = np.random.default_rng(0)
    tissue = as_pixels(np.asarray((190, 120, 170)) + rng.normal(0, 20, (50, 60, 3)))
    assert tissue_mask(tissue, WHITE).all()
    assert glass_colour(tissue, WHITE) is None


def test_unscanned_white_around_grey_glass_is_no_tissue() -> None:
    slide = glass(100, 100, colour=(222, 223, 221))
    slide[:, :40] = 255
    slide[60:70, 60:70] = (180, 90, 150)
    mask = tissue_mask(as_pixels(slide), WHITE)
    assert np.array_equal(np.argwhere(mask).min(0), (59, 59))
    assert mask.sum() == 144


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_fluorescence_on_black(dtype: type) -> None:
    rng = np.random.default_rng(1)
    top = 255 if dtype == np.uint8 else 3000  # a 12-bit camera in 16 bits
    values = np.abs(rng.normal(0.01 * top, 0.003 * top, (100, 100, 2)))
    nuclei = disc(100, 100, 50, 50, 21)
    values[nuclei, 0] += 0.5 * top
    mask = tissue_mask(values.astype(dtype), (0, 0))
    assert mask[nuclei].all()
    assert 350 < mask.sum() < 500  # the disc has 349 cells
    assert glass_colour(values.astype(dtype), (0, 0)) == pytest.approx((0.01 * top,) * 2, abs=0.004 * top)


def test_grey_overview() -> None:
    slide = as_pixels(glass(60, 60))[..., 0]
    slide[20:30, 20:40] = 150
    assert tissue_mask(slide, (255,)).sum() == 12 * 22


@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
def test_plain_glass_is_blank_with_its_mean_colour(noise: float) -> None:
    piece = as_pixels(glass(256, 256, noise))
    assert is_blank(piece) == pytest.approx(GLASS, abs=1)
    assert is_blank(piece, (245, 243, 243)) == is_blank(piece)
    assert is_blank(piece[:7, :5]) is not None  # a piece at the border of a slide
    assert is_blank(piece, (255, 225, 255)) is None  # plain, but not this slide's glass


@pytest.mark.parametrize("noise", [0.0, 2.0, 3.0])
@pytest.mark.parametrize("at", [(128.0, 128.0), (100.5, 37.2), (5.0, 250.0), (3.0, 3.0), (131.5, 131.5)])
def test_a_faint_nucleus_is_never_lost(noise: float, at: tuple[float, float]) -> None:
    nucleus = disc(256, 256, *at, 10)[..., None]
    assert is_blank(as_pixels(glass(256, 256, noise) - 15 * nucleus)) is None
    assert is_blank(as_pixels(glass(256, 256, noise) - 9 * nucleus)) is None
    assert is_blank(as_pixels(glass(256, 256, noise) - np.asarray((0, 9, 0)) * nucleus)) is None  # eosin: green alone


def test_faint_cells_fibres_and_edges_are_not_lost() -> None:
    y, x = np.mgrid[:256, :256]
    ghost = 6 * disc(256, 256, 90, 160, 40)
    fibre = 12 * (np.abs(y - 0.6 * x - 50) < 1.2) * (x > 100) * (x < 180)
    edge = 9 * (x > 200)
    bacteria = sum(30 * disc(256, 256, 60 + 9 * i, 70 + 13 * (i % 3), 3) for i in range(8))
    for structure in (ghost, fibre, edge, bacteria):
        assert is_blank(as_pixels(glass(256, 256, 1.5) - np.asarray(structure)[..., None])) is None


def test_a_single_tiny_speck_does_not_keep_a_piece_from_being_blank() -> None:
    piece = glass(256, 256)
    piece[100:102, 50:52] -= 30
    assert is_blank(as_pixels(piece)) is not None
    piece[100:102, 50:52] -= 30
    assert is_blank(as_pixels(piece)) is None


def test_sixteen_bits() -> None:
    rng = np.random.default_rng(2)
    dark = rng.normal(200, 8, (256, 256, 2))
    assert is_blank(dark.astype(np.uint16)) == pytest.approx((200, 200), abs=1)
    dark[..., 1] += 40 * disc(256, 256, 77, 99, 10)
    assert is_blank(dark.astype(np.uint16)) is None


@pytest.mark.parametrize(
    ("name", "least", "most", "inside_xy", "outside_xy"),
    [
        ("CMU-1-Small-Region.svs", 0.38, 0.50, (900, 1900), (1900, 2000)),
        ("kidney-pale-HE.png", 0.85, 0.92, (1000, 1000), (60, 60)),
        ("liver-HE.png", 0.58, 0.68, (300, 1500), (700, 500)),
        ("fluorescence-DAPI.ndpi", 0.75, 0.85, (700, 1400), (100, 4700)),
    ],
)
def test_real_slides(
    name: str, least: float, most: float, inside_xy: tuple[int, int], outside_xy: tuple[int, int]
) -> None:
    if not (SLIDES / name).exists():
        pytest.skip(f"the real slide {name} is not at hand")
    with open_source(SLIDES / name) as slide:
        overview = slide.overview(128)
        mask = tissue_mask(overview, slide.background)
        step = -(-max(slide.width, slide.height) // 128)
    assert least < mask.mean() < most
    assert mask[inside_xy[1] // step, inside_xy[0] // step]
    assert not mask[outside_xy[1] // step, outside_xy[0] // step]
