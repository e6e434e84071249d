"""The guidance ablation: points on tiny files and from the disk, its network, and what README says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from inrwsi.benchmarks import guidance, guidance_network, readme_guidance, results
from inrwsi.benchmarks.probe import machine
from inrwsi.benchmarks.readme import markdown
from inrwsi.nuclei import nuclei_map
from inrwsi.options import EncodeOptions
from inrwsi.sample import sample_region

SIDE_PX = 192  # MS-SSIM needs 176


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return sample_region((700, 700), (256, 256), size_wh=(2048, 2048), seed=1)


def test_the_busiest_crop_is_chosen(tissue: np.ndarray, tmp_path: Path) -> None:
    """Of a picture that is glass but for its right lower corner, that corner."""
    pixels = np.full((300, 300, 3), 240, np.uint8)
    pixels[150:, 150:] = tissue[:150, :150]
    Image.fromarray(pixels).save(tmp_path / "slide.png")
    crop, cut = guidance.busiest(tmp_path / "slide.png", 128)
    x, y = crop.l0_xy
    assert min(x, y) >= 122
    assert np.array_equal(cut, pixels[y : y + 128, x : x + 128])
    assert (crop.slide, crop.nuclei) == ("slide.png", guidance.find_nuclei(cut, 0.5).count)
    assert crop.nuclei > 5


def test_the_network_learns_the_classical_map(
    tissue: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are of all of it and of all but the last layer, and the same each time."""
    monkeypatch.setattr(guidance_network, "SIDE_PX", 256)
    monkeypatch.setattr(guidance_network, "PATCH_PX", 32)
    Image.fromarray(tissue).save(tmp_path / "slide.png")
    paths = [tmp_path / name for name in ("features.pt", "segmentation.pt", "again.pt", "other.pt")]
    for pair in (paths[:2], paths[2:]):
        guidance_network.train(tmp_path / "slide.png", *pair, steps=2)
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        first, again = (torch.jit.load(str(path)).state_dict() for path in (paths[1], paths[3]))
    assert all(torch.equal(first[name], again[name]) for name in first)
    trained = guidance_network.train(tmp_path / "slide.png", *paths[:2], steps=70)
    assert (trained.slide, trained.steps) == ("slide.png", 70)
    assert trained.weights == (27 * 12 + 12) + 2 * (9 * 12 * 12 + 12) + (12 + 1)
    assert trained.dice > 0.6
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        features, segmentation = (torch.jit.load(str(path)) for path in paths[:2])
    pictures = torch.from_numpy(tissue).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        seen, found = features(pictures), segmentation(pictures)
    assert (seen.shape, found.shape) == ((1, 12, 256, 256), (1, 1, 256, 256))
    both = ((found[0, 0].numpy() > 0) & nuclei_map(tissue)).sum()
    assert 2 * both / ((found > 0).sum() + nuclei_map(tissue).sum()) > 0.6


def test_a_point_is_of_its_file_and_measured_once(tissue: np.ndarray, tmp_path: Path) -> None:
    pixels = np.ascontiguousarray(tissue[:SIDE_PX, :SIDE_PX])
    original = guidance.find_nuclei(pixels, 0.5)
    crop = guidance.Crop("slide.png", (0, 0), original.count)
    options = EncodeOptions("siren", size_bytes=9000, passes=2, device="cpu")
    folder = tmp_path / "points"
    bench = guidance.Bench(folder, tmp_path / "features.pt", tmp_path / "segmentation.pt", options)
    folder.mkdir()
    point = bench.point(crop, pixels, original, guidance.Variant("nuclei"))
    assert point.file_bytes == pytest.approx(9000, rel=0.02)
    assert point.bpp == 8 * point.file_bytes / SIDE_PX**2
    assert 10 < point.psnr_db < 40
    assert 0 < point.ms_ssim < 1
    (kept,) = folder.iterdir()
    results.save(replace(point, psnr_db=99.0), kept)
    assert bench.point(crop, pixels, original, guidance.Variant("nuclei")).psnr_db == 99
    assert bench.point(crop, pixels, original, guidance.Variant("nuclei", seed=1)).psnr_db != 99


def made_up() -> guidance.GuidanceRun:
    points = []
    for number, variant in enumerate(guidance.VARIANTS):
        seconds = 10.0 if variant.loss == "mse" else 25.0
        figures = {
            "psnr_db": (300 + number) / 10,
            "ms_ssim": 0.95,
            "nuclei_f1": (80 + number) / 100,
            "nuclei_dice": 0.9,
        }
        points.append(guidance.GuidancePoint("a.png", variant, 18_000 + number, 1.0, **figures, cpu_seconds=seconds))
    return guidance.GuidanceRun(
        command="python -m benchmarks.made_up",
        created_utc="2026-01-01T00:00:00+00:00",
        machine=machine(),
        versions={},
        model="siren",
        crop_px=384,
        passes=60,
        network=guidance_network.Trained("b.png", 2965, 400, 0.951),
        crops=(guidance.Crop("a.png", (3, 4), 321),),
        points=tuple(points),
    )


def test_readme_says_means_ranges_and_times(tmp_path: Path) -> None:
    made = made_up()
    results.save(made, tmp_path / "guidance.json")
    assert results.load(guidance.GuidanceRun, tmp_path / "guidance.json") == made
    rows = markdown(readme_guidance.table(made), set()).splitlines()
    assert len(rows) == 2 + 1 + 6
    mse = "30.10 (30.00 to 30.20) | 0.9500 (0.9500 to 0.9500) | 0.810 (0.800 to 0.820) | 0.900 (0.900 to 0.900)"
    assert rows[2] == f"| a.png | mse | 18,001 | {mse} | 1 x |"
    assert rows[3] == "| a.png | ms-ssim | 18,003 | 30.30 | 0.9500 | 0.830 | 0.900 | 2.5 x |"
    assert rows[-1] == "| a.png | perceptual, by a network | 18,008 | 30.80 | 0.9500 | 0.880 | 0.900 | 2.5 x |"
    text = readme_guidance.text(made)
    for part in ("`a.png` at 3, 4 (321 nuclei)", "384 x 384", "1.00 bits", "mean of 3 seeds", "2,965", "of 0.95"):
        assert part in text


def test_missing_images_are_said(tmp_path: Path) -> None:
    from click.testing import CliRunner

    result = CliRunner().invoke(guidance.main, ["--slides", str(tmp_path)])
    assert result.exit_code == 1
    assert (
        f"lacks {', '.join((*guidance.SLIDES, guidance.NETWORK_SLIDE))}; give the development images" in result.output
    )
