"""The generated slide: what OpenSlide sees, that pixels depend on nothing but position, and that it looks like H&E."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from inrwsi import sample
from inrwsi.errors import UsageError
from inrwsi.sample import box_mean, level_sizes, sample_region, write_sample

SIZE_WH = (2049, 1310)  # the last tile column is one pixel wide, and neither side is a multiple of four
SEED = 3
GOLDEN_SHA256 = "fe10646dd31719bc75c241329de6c03e2e1641ea882b10cb6b37f0ba6c0ac64b"


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sample") / "sample.tiff"
    write_sample(path, size_wh=SIZE_WH, seed=SEED, mpp_um=0.25)
    return path


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Level 0 of `slide_path` before JPEG."""
    return sample_region((0, 0), SIZE_WH, size_wh=SIZE_WH, seed=SEED, mpp_um=0.25)


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """512x512 pixels at 0.5 um from the middle of the default slide."""
    return sample_region((1536, 3072), (512, 512), size_wh=(4096, 4096), seed=1)


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def test_openslide_sees_the_pyramid_and_its_mpp(slide_path: Path) -> None:
    with openslide.OpenSlide(slide_path) as slide:
        assert slide.level_dimensions == (SIZE_WH, (512, 327))
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25, rel=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.25, rel=1e-6)
        assert slide.properties["openslide.level[0].tile-width"] == "512"
        assert slide.properties["openslide.level[1].tile-height"] == "512"
        assert slide.properties["openslide.comment"] == "Generated H&E-like slide, seed 3"
        assert "openslide.objective-power" not in slide.properties


@pytest.mark.parametrize("mpp_um", [0.2525, 1.0 / 3.0, 2.0])
def test_mpp_survives_the_resolution_tags(tmp_path: Path, mpp_um: float) -> None:
    write_sample(tmp_path / "a.tif", size_wh=(64, 96), mpp_um=mpp_um)
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert slide.level_dimensions == ((64, 96),)
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(mpp_um, rel=1e-6)


def test_level_0_is_the_painted_pixels_within_jpeg(slide_path: Path, truth: np.ndarray) -> None:
    with openslide.OpenSlide(slide_path) as slide:
        decoded = np.asarray(slide.read_region((0, 0), 0, SIZE_WH).convert("RGB"))
    assert psnr_db(decoded, truth) > 38.0
    # The last row of tiles and the column of one pixel are where padding goes wrong.
    assert psnr_db(decoded[1290:], truth[1290:]) > 36.0
    assert np.abs(decoded[:, 2048].astype(int) - truth[:, 2048]).mean() < 2.0


def test_reduced_level_is_the_box_mean_of_the_level_above(slide_path: Path, truth: np.ndarray) -> None:
    expected = box_mean(truth)
    assert expected.shape == (327, 512, 3)
    with openslide.OpenSlide(slide_path) as slide:
        decoded = np.asarray(slide.read_region((0, 0), 1, (512, 327)).convert("RGB"))
    assert psnr_db(decoded, expected) > 34.0
    assert np.abs((decoded.astype(float) - expected).mean(axis=(0, 1))).max() < 0.3
    shifted = np.roll(expected, 1, axis=1)
    assert psnr_db(decoded, shifted) < psnr_db(decoded, expected) - 6.0


def test_second_reduction_reads_the_first_ones_spool(tmp_path: Path) -> None:
    size_wh = (4600, 80)
    write_sample(tmp_path / "thin.tiff", size_wh=size_wh, seed=9)
    twice = box_mean(box_mean(sample_region((0, 0), size_wh, size_wh=size_wh, seed=9)))
    with openslide.OpenSlide(tmp_path / "thin.tiff") as slide:
        assert slide.level_dimensions == (size_wh, (1150, 20), (287, 5))
        decoded = np.asarray(slide.read_region((0, 0), 2, (287, 5)).convert("RGB"))
    # Single pixels of a 16x reduction are hard on JPEG; a strip in the wrong place is far worse.
    assert psnr_db(decoded, twice) > 29.0
    assert psnr_db(decoded, np.roll(twice, 1, axis=1)) < 24.0


def test_box_mean_rounds_halves_up() -> None:
    pixels = np.zeros((5, 7, 3), np.uint8)
    pixels[0, 0] = (8, 7, 255)
    assert box_mean(pixels).tolist() == [[[1, 0, 16]]]


def test_level_sizes_stop_under_1024_or_at_a_side_of_one() -> None:
    assert level_sizes((100_000, 80_000)) == [
        (100_000, 80_000),
        (25_000, 20_000),
        (6_250, 5_000),
        (1_562, 1_250),
        (390, 312),
    ]
    assert level_sizes((1024, 1024)) == [(1024, 1024)]
    assert level_sizes((1 << 20, 64))[-1] == (1 << 14, 1)


def test_pixels_are_the_same_on_every_machine() -> None:
    window = sample_region((1700, 1500), (97, 61), size_wh=(4096, 4096), seed=1)
    assert window.shape == (61, 97, 3)
    assert window.dtype == np.uint8
    assert hashlib.sha256(window.tobytes()).hexdigest() == GOLDEN_SHA256


def test_windows_agree_bit_for_bit(truth: np.ndarray) -> None:
    generator = np.random.default_rng(5)
    for _ in range(12):
        width, height = (int(n) for n in generator.integers(1, 150, 2))
        x, y = int(generator.integers(0, SIZE_WH[0] - width + 1)), int(generator.integers(0, SIZE_WH[1] - height + 1))
        window = sample_region((x, y), (width, height), size_wh=SIZE_WH, seed=SEED, mpp_um=0.25)
        assert np.array_equal(window, truth[y : y + height, x : x + width]), (x, y, width, height)


def test_windows_agree_at_the_far_corner_of_the_largest_slide() -> None:
    side = 1 << 20
    whole = sample_region((side // 2, side // 2), (96, 96), size_wh=(side, side), seed=(1 << 32) - 1)
    part = sample_region((side // 2 + 31, side // 2 + 45), (9, 7), size_wh=(side, side), seed=(1 << 32) - 1)
    assert np.array_equal(part, whole[45:52, 31:40])
    corner = sample_region((side - 64, side - 64), (64, 64), size_wh=(side, side), seed=0)
    assert corner.min() > 200  # glass


def test_file_depends_on_the_seed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for threads, seed in ((1, 4), (5, 4), (5, 5)):
        monkeypatch.setattr(sample.os, "cpu_count", lambda threads=threads: threads)
        write_sample(tmp_path / "a.tiff", size_wh=(1100, 300), seed=seed)
        digests.append(hashlib.sha256((tmp_path / "a.tiff").read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_half_of_the_slide_is_glass() -> None:
    for seed in range(8):
        pixels = sample_region((0, 0), (512, 512), size_wh=(512, 512), seed=seed, mpp_um=2.0)
        glass = float((pixels.min(axis=2) > 222).mean())
        assert 0.40 < glass < 0.60, (seed, glass)


def test_nuclei_are_dark_and_blue_and_stroma_is_pink(tissue: np.ndarray) -> None:
    red, green, blue = (tissue[..., c].astype(float) for c in range(3))
    nuclei, pale = red < 110, (red > 180) & (green < 200)
    assert 0.10 < nuclei.mean() < 0.45
    assert (blue - red)[nuclei].mean() > 30
    assert pale.mean() > 0.25
    assert (red - green)[pale].mean() > 40
    assert tissue[pale].mean() - tissue[nuclei].mean() > 70


def test_nuclei_are_6_to_10_um_whatever_the_mpp() -> None:
    for mpp_um in (0.25, 0.5):
        side = int(2048 / mpp_um)
        start, extent = int(768 / mpp_um), int(192 / mpp_um)
        pixels = sample_region((start, start), (extent, extent), size_wh=(side, side), seed=1, mpp_um=mpp_um)
        dark = np.pad((pixels[..., 0] < 120).astype(np.int8), ((0, 0), (1, 1)))
        steps = np.diff(dark, axis=1)
        chords_px = np.nonzero(steps.ravel() == -1)[0] - np.nonzero(steps.ravel() == 1)[0]
        chords_um = chords_px[chords_px * mpp_um > 1.5] * mpp_um
        # A disc's mean chord is pi/4 of its diameter; spindles cut across and touching nuclei widen the spread.
        assert 4.0 < np.mean(chords_um) * 4 / np.pi < 10.0


def test_it_costs_what_real_slides_cost(tissue: np.ndarray) -> None:
    """Real H&E at 0.5 um took 2.0 to 3.1 bits a pixel as JPEG Q80 4:2:0; smooth pictures take a fifth of that."""
    buffer = io.BytesIO()
    Image.fromarray(tissue).save(buffer, "JPEG", quality=80, subsampling=2)
    assert 1.8 < len(buffer.getvalue()) * 8 / (512 * 512) < 3.2
    # Detail at every scale: what each halving takes away, in 8-bit levels (a real stomach: 14, 18, 21, 20, 16).
    level = tissue.astype(float).mean(axis=2)
    for octave in range(5):
        side = level.shape[0] // 2
        half = level.reshape(side, 2, side, 2).mean(axis=(1, 3))
        assert 7.0 < (level - half.repeat(2, 0).repeat(2, 1)).std() < 30.0, octave
        level = half


def test_pen_marks_one_corner() -> None:
    pixels = sample_region((0, 0), (1024, 1024), size_wh=(1024, 1024), seed=1, mpp_um=2.0).astype(int)
    ink = (pixels[..., 2] > 165) & (pixels[..., 0] < 90)
    rows, columns = np.nonzero(ink)
    assert 0.002 < ink.mean() < 0.02
    assert rows.min() > 820
    assert columns.min() > 700


_MEMORY = """
import resource, sys
from inrwsi.sample import write_sample
write_sample(sys.argv[1], size_wh=(3000, 512))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_sample(sys.argv[1], size_wh=(20000, 512))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, "torch" in sys.modules)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read in Linux's units")
def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _MEMORY, str(tmp_path / "long.tiff")]
    grown_kib, torch_loaded = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert int(grown_kib) < 12 * 1024  # the pixels are 30 MB
    assert torch_loaded == "False"


@pytest.mark.parametrize("stop_at", [1, 5, 8])
def test_stopping_leaves_the_old_file_and_nothing_else(tmp_path: Path, stop_at: int) -> None:
    target = tmp_path / "a.tiff"
    target.write_bytes(b"old")

    def stop(done: int, total: int) -> None:
        assert total == 8
        if done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sample(target, size_wh=(3000, 64), progress=stop)
    assert os.listdir(tmp_path) == ["a.tiff"]
    assert target.read_bytes() == b"old"


def test_progress_counts_every_tile(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_sample(tmp_path / "a.tiff", size_wh=(1500, 600), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 7) for n in range(1, 8)]
    assert os.listdir(tmp_path) == ["a.tiff"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size_wh": (63, 512)}, "64 to 1048576 pixels a side, not 63x512"),
        ({"size_wh": (512, (1 << 20) + 1)}, "not 512x1048577"),
        ({"size_wh": (512.5, 512)}, "whole numbers"),
        ({"size_wh": (512,)}, "whole numbers"),
        ({"seed": -1}, "0 to 4294967295, not -1"),
        ({"seed": 1 << 32}, "not 4294967296"),
        ({"mpp_um": 0.05}, "0.1 to 2 micrometres a pixel, not 0.05"),
        ({"mpp_um": float("nan")}, "not nan"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        write_sample(tmp_path / "a.tiff", **arguments)  # type: ignore[arg-type]
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.tiff").mkdir()
    for place in (tmp_path / "missing" / "a.tiff", tmp_path / "file" / "a.tiff"):
        with pytest.raises(UsageError, match=r"a\.tiff: cannot be written: N"):
            write_sample(place, size_wh=(64, 64))
    with pytest.raises(UsageError, match="is a folder"):
        write_sample(tmp_path / "folder.tiff", size_wh=(64, 64))
    with pytest.raises(UsageError, match=r"must end in \.tif or \.tiff"):
        write_sample(tmp_path / "a.png", size_wh=(64, 64))


@pytest.mark.parametrize(("l0_xy", "wh"), [((-1, 0), (8, 8)), ((0, 0), (0, 8)), ((60, 0), (8, 8)), ((0, 57), (8, 8))])
def test_windows_outside_the_slide_are_refused(l0_xy: tuple[int, int], wh: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="does not lie inside 64x64"):
        sample_region(l0_xy, wh, size_wh=(64, 64), seed=1)
