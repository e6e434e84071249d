"""What the demo reports is what the file is: sizes by stat, PSNR by its definition, parts said to be parts."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from inrwsi.benchmarks import demo, measure
from inrwsi.errors import UsageError
from inrwsi.formats.source import open_source
from inrwsi.tissue import tissue_mask

WH = (700, 600)
FILE_BYTES = 12345


@pytest.fixture
def pixels() -> np.ndarray:
    """(600, 700, 3) uint8: texture in the lower right corner, glass elsewhere."""
    rng = np.random.default_rng(5)
    slide = np.full((WH[1], WH[0], 3), 245, np.uint8)
    slide[400:, 400:] = rng.integers(60, 200, (200, 300, 3))
    return slide


@pytest.fixture
def cinr(pixels: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that "decodes" to the slide plus 1 in odd columns and plus 3 in even ones."""

    class Decoder:
        def __init__(self, path: Path, *, device: str) -> None:
            self.header = SimpleNamespace(slide=SimpleNamespace(l0_wh=WH))

        def __enter__(self) -> Decoder:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def read_region(self, l0_xy: tuple[int, int], l0_wh: tuple[int, int]) -> np.ndarray:
            (x, y), (w, h) = l0_xy, l0_wh
            return wrong[y : y + h, x : x + w]

    wrong = pixels + 1
    wrong[:, ::2] += 2
    monkeypatch.setattr(measure, "Decoder", Decoder)
    path = tmp_path / "slide.cinr"
    path.write_bytes(bytes(FILE_BYTES))
    return path


def test_measure_is_by_definition(pixels: np.ndarray, cinr: Path) -> None:
    seen: list[float] = []
    with open_source(pixels) as source:
        result = measure.measure_file(source, cinr, progress=lambda p: seen.append(p.done))
        mask = tissue_mask(source.overview(1024), source.background)
    assert mask.shape == (WH[1], WH[0])
    squares = np.where(np.arange(WH[0]) % 2 == 0, 9.0, 1.0)
    mse = float(np.broadcast_to(squares, mask.shape)[mask].mean())
    assert result["psnr_tissue_db"] == pytest.approx(10 * math.log10(255**2 / mse), abs=1e-9)
    assert result["psnr_slide_db"] == pytest.approx(10 * math.log10(255**2 / 5), abs=1e-9)
    assert (result["source_bytes"], result["cinr_bytes"]) == (pixels.nbytes, FILE_BYTES)
    assert (result["slide_px"], result["measured_px"]) == (420_000, 420_000)
    assert result["tissue_px"] == mask.sum()
    assert result["bpp"] == 8 * FILE_BYTES / 420_000
    assert result["tissue_bpp"] == 8 * FILE_BYTES / mask.sum()
    assert seen == [256, 512, 600]


def test_a_large_slide_is_measured_on_a_part(pixels: np.ndarray, cinr: Path) -> None:
    with open_source(pixels) as source:
        result = measure.measure_file(source, cinr, most_px=WH[0] * 300)
    assert result["measured_px"] == WH[0] * (256 + 88)  # strips 0 and 2 of three, the last one cut
    assert "(on 57% of the rows)" in str(demo.table({"slide": "s", "encode_seconds": 1.0, **result}).columns[0]._cells)


def test_glass_has_no_tissue_to_measure(cinr: Path) -> None:
    with open_source(np.full((WH[1], WH[0], 3), 245, np.uint8)) as source:
        result = measure.measure_file(source, cinr)
    assert (result["tissue_px"], result["tissue_bpp"], result["psnr_tissue_db"]) == (0, None, None)


def test_another_slides_file_is_refused(cinr: Path) -> None:
    with (
        open_source(np.zeros((WH[1], WH[0] + 1, 3), np.uint8)) as source,
        pytest.raises(UsageError, match="sizes differ"),
    ):
        measure.measure_file(source, cinr)


def test_demo_shows_the_region_with_most_tissue(pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "REGION_PX", 200)

    def covered(where: Any) -> float:
        x, y, w, h = (int(v) for v in where.split(","))
        assert (w, h) == (200, 200)
        return float((pixels[y : y + h, x : x + w] != 245).any(axis=2).mean())

    with open_source(pixels) as source:
        assert covered(demo.richest_region(source)) > 0.98
    with open_source(pixels[:100, :150]) as source:
        assert demo.richest_region(source) == "0,0,150,100"
