"""The fixed sets: nothing is written for slides that are not there, and what is measured is chosen alike every time."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from click.testing import CliRunner

from inrwsi.benchmarks import fixed, pilot, rate_distortion, speed
from inrwsi.benchmarks.sampling import TILE_PX, find_cells
from inrwsi.formats.source import open_source
from inrwsi.sample import sample_region

SLIDES = Path("../shared/slides")


@pytest.mark.parametrize("module", [rate_distortion, speed])
def test_absent_slides_are_said_and_nothing_is_written(
    module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fixed, "RESULTS", tmp_path / "results")
    found = CliRunner().invoke(module.main, ["--slides", str(tmp_path), "--quick"])
    assert found.exit_code == 2
    assert "slide-20x.tiff: is not there, so the complete slide is left out" in found.stderr
    assert "none of the slides is there, so nothing is measured" in found.stderr
    assert not (tmp_path / "results").exists()


def test_the_piece_for_times_has_the_most_tissue() -> None:
    pixels = np.full((4 * TILE_PX, 5 * TILE_PX, 3), 244, np.uint8)
    rng = np.random.default_rng(0)
    tissue = pixels[2 * TILE_PX :, TILE_PX : 3 * TILE_PX]
    tissue[:] = rng.integers(60, 200, tissue.shape)
    with open_source(pixels, mpp_um=0.5, objective_power=20) as source:
        small = speed.piece(source, 1100)
    assert (small.width, small.height, small.mpp_um, small.objective_power) == (1024, 1024, (0.5, 0.5), 20)
    assert np.array_equal(small.read((0, 0), (1024, 1024)), tissue)


def test_a_slide_of_one_kind_needs_the_fewest_regions(tmp_path: Path) -> None:
    pixels = np.tile(sample_region((900, 900), (TILE_PX, TILE_PX), size_wh=(2048, 2048), seed=1), (5, 4, 1))
    with open_source(pixels) as source:
        cells = find_cells(source)
        assert len(cells.ij) == 20
        assert pilot.pilot_count(source, cells, tmp_path, seed=0) == 16
        picture = pilot.choose_picture(source, tmp_path, seed=0, most=4)
        again = pilot.choose_picture(source, tmp_path, seed=0, most=4)
        assert picture.sample == again.sample
        assert len(picture.regions) == 4
        assert pilot.choose_picture(source, tmp_path, seed=0, full=True).sample.full
    assert list(tmp_path.iterdir()) == []


def test_scanner_pixels_are_halved() -> None:
    slide = next(s for s in fixed.CROPS if s.halve)
    if not (SLIDES / slide.file).exists():
        pytest.skip(f"{SLIDES / slide.file} is not there")
    with fixed.opened(SLIDES, slide) as source:
        assert (source.width, source.height) == (1110, 1483)
        assert source.mpp_um == pytest.approx((0.998, 0.998))
        assert source.name == slide.file
