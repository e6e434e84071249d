"""The sample is drawn as it says: by strata, by seed, from tissue, pixel for pixel the slide's."""

from __future__ import annotations

import numpy as np
import pytest

from inrwsi.benchmarks import sampling
from inrwsi.benchmarks.sampling import TILE_PX, Cells
from inrwsi.errors import UsageError
from inrwsi.formats.source import SlideSource, open_source

COLUMNS, ROWS = 6, 4


@pytest.fixture(scope="module")
def slide() -> np.ndarray:
    """6 x 4 squares and a remainder; the left half is texture whose darkness grows downwards, the rest glass."""
    rng = np.random.default_rng(1)
    h, w = ROWS * TILE_PX + 100, COLUMNS * TILE_PX + 50
    pixels = np.full((h, w, 3), 245, np.uint8)
    noise = rng.integers(0, 60, (h, COLUMNS // 2 * TILE_PX, 3), np.uint8)
    ramp = np.linspace(180, 60, h).astype(np.uint8)[:, None, None]
    pixels[:, : COLUMNS // 2 * TILE_PX] = noise + ramp
    return pixels


@pytest.fixture(scope="module")
def source(slide: np.ndarray) -> SlideSource:
    return open_source(slide, mpp_um=0.5)


def test_the_population_is_the_whole_squares_with_tissue(source: SlideSource) -> None:
    cells = sampling.find_cells(source)
    assert sorted(map(tuple, cells.ij.tolist())) == sorted((i, j) for i in range(3) for j in range(ROWS))
    # All are full of tissue: thirds by darkness, which grows with the row, and each in halves by hue.
    interior = {cells.names[s] for s in cells.stratum}
    assert all(name.startswith("interior") for name in interior)
    assert len(interior) == 6
    row_of = {name: cells.ij[cells.stratum == n, 1].mean() for n, name in enumerate(cells.names) if name in interior}
    assert row_of["interior, pale, redder"] < row_of["interior, medium, redder"] < row_of["interior, dark, redder"]


def test_a_mosaic_holds_the_slide_s_own_pixels(slide: np.ndarray, source: SlideSource) -> None:
    cells = sampling.find_cells(source)
    picture = sampling.sampled_picture(source, cells, 7, seed=5)
    assert picture.wh == (3 * TILE_PX, 2 * TILE_PX)  # the squarest full rectangle of at most 7
    assert len(picture.regions) == len(set(picture.sample.l0_xy)) == 6
    for region, (x, y) in zip(picture.regions, picture.sample.l0_xy, strict=True):
        there = picture.pixels[region.y : region.y + TILE_PX, region.x : region.x + TILE_PX]
        assert np.array_equal(there, slide[y : y + TILE_PX, x : x + TILE_PX])
    assert picture.digest() == picture.sample.sha256
    assert picture.sample.tissue_pixels == int(picture.tissue.sum()) > 0.95 * 6 * TILE_PX**2
    assert sum(s.measured for s in picture.sample.strata) == 6
    assert sum(s.population for s in picture.sample.strata) == 12
    assert "6 of the slide's 12 squares" in picture.sample.text
    with pytest.raises(ValueError, match="read-only"):
        picture.pixels[0, 0] = 0


def test_the_same_seed_draws_the_same_squares(source: SlideSource) -> None:
    cells = sampling.find_cells(source)
    a, b, c = (sampling.sampled_picture(source, cells, 6, seed=s).sample for s in (1, 1, 2))
    assert a == b
    assert a.sha256 != c.sha256


@pytest.mark.parametrize("seed", range(4))
def test_every_stratum_gives_its_share(seed: int) -> None:
    sizes = (50, 30, 15, 5)
    stratum = np.repeat(np.arange(4), sizes)
    cells = Cells(np.zeros((100, 2), np.int64), stratum, ("a", "b", "c", "d"), np.ones((1, 1), bool), 1)
    taken = np.bincount(stratum[sampling.draw(cells, 20, seed)], minlength=4)
    assert taken.tolist() == [10, 6, 3, 1]
    some = sampling.draw(cells, 30, seed)
    assert len(set(some.tolist())) == 30
    assert np.all(np.abs(np.bincount(stratum[some], minlength=4) - 0.3 * np.array(sizes)) < 1)


def test_everything_is_measured_in_bands(slide: np.ndarray, source: SlideSource) -> None:
    picture = sampling.full_picture(source, sampling.find_cells(source))
    assert picture.sample.full
    assert np.array_equal(picture.pixels, slide)
    assert sum(b.h for b in picture.blocks) == slide.shape[0]
    assert {b.w for b in picture.blocks} == {slide.shape[1]}
    assert 0.45 < picture.tissue.mean() < 0.55


def test_halving_is_the_mean_of_four(slide: np.ndarray) -> None:
    with open_source(slide[:101, :77], mpp_um=(0.25, 0.25), objective_power=40) as source:
        small = sampling.open_halved(source)
    assert (small.width, small.height, small.mpp_um, small.objective_power) == (38, 50, (0.5, 0.5), 20)
    cut = slide[10:12, 20:22].astype(int).sum(axis=(0, 1))
    assert small.read((10, 5), (1, 1))[0, 0].tolist() == ((cut + 2) // 4).tolist()


def test_what_codecs_cannot_share_is_refused() -> None:
    with open_source(np.zeros((600, 600), np.uint8)) as grey, pytest.raises(UsageError, match="1 channels of 8 bits"):
        sampling.check_source(grey)
