"""Figures of quality against closed forms, scikit-image and a slow reference written from the papers."""

from __future__ import annotations

import math

import imagecodecs
import numpy as np
import pytest
from scipy import signal
from skimage.metrics import structural_similarity

from inrwsi.benchmarks import quality
from inrwsi.errors import UsageError
from inrwsi.sample import sample_region

WH = (448, 320)


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """(320, 448, 3) uint8: generated tissue."""
    return sample_region((900, 900), WH, size_wh=(2048, 2048), seed=1)


def jpeg(rgb: np.ndarray, level: int) -> np.ndarray:
    return imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(rgb, level=level))


def noisy(rgb: np.ndarray, seed: int, spread: int) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-spread, spread + 1, rgb.shape)
    return np.clip(rgb.astype(int) + noise, 0, 255).astype(np.uint8)


def slow_ms_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang, Simoncelli, Bovik 2003, in the plainest way: full 2-D windows, one statistic after the other."""
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    window /= window.sum()

    def mean(values: np.ndarray) -> np.ndarray:
        return signal.convolve2d(values, window, mode="valid")

    c1, c2, product = 2.55**2, 7.65**2, 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        if scale:
            a, b = (v[: v.shape[0] // 2 * 2, : v.shape[1] // 2 * 2] for v in (a, b))
            a, b = ((v[::2, ::2] + v[1::2, ::2] + v[::2, 1::2] + v[1::2, 1::2]) / 4 for v in (a, b))
        mu_a, mu_b = mean(a), mean(b)
        var_a, var_b, cov = mean(a * a) - mu_a**2, mean(b * b) - mu_b**2, mean(a * b) - mu_a * mu_b
        found = (2 * cov + c2) / (var_a + var_b + c2)
        if scale == 4:
            found = found * (2 * mu_a * mu_b + c1) / (mu_a**2 + mu_b**2 + c1)
        product *= found.mean() ** weight
    return float(product)


def test_psnr_of_known_errors() -> None:
    a = np.full((32, 32, 3), 100, np.uint8)
    b = a.copy()
    b[..., 0] += 6
    found = quality.measure(a, b)
    assert found["psnr_rgb"] == pytest.approx(10 * math.log10(255**2 / 12), abs=1e-12)
    assert found["psnr_luma"] == pytest.approx(20 * math.log10(255 / (0.299 * 6)), abs=1e-4)


def test_identical_pictures(tissue: np.ndarray) -> None:
    found = quality.measure(tissue, tissue.copy(), np.ones(tissue.shape[:2], bool))
    names = ("psnr_rgb", "psnr_luma", "ssim", "ms_ssim", "worst1pct_psnr")
    assert set(found) == {name + suffix for name in names for suffix in ("", "_tissue")}
    for name, value in found.items():
        assert value == math.inf if "psnr" in name else value == pytest.approx(1, abs=1e-12)


def test_flat_pictures_by_their_closed_form() -> None:
    a, b = np.full((176, 180, 3), 60, np.uint8), np.full((176, 180, 3), 90, np.uint8)
    luminance = (2 * 60 * 90 + 2.55**2) / (60**2 + 90**2 + 2.55**2)
    found = quality.measure(a, b)
    assert found["ssim"] == pytest.approx(luminance, abs=1e-6)
    assert found["ms_ssim"] == pytest.approx(luminance**0.1333, abs=1e-6)


def test_ssim_is_scikit_images(tissue: np.ndarray) -> None:
    decoded = jpeg(tissue, 40)
    a, b = (quality.luma_of(v).astype(np.float64) for v in (tissue, decoded))
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    assert quality.measure(tissue, decoded)["ssim"] == pytest.approx(structural_similarity(a, b, **settings), abs=1e-6)


@pytest.mark.parametrize("crop", [(176, 177), (301, 195)])
def test_ms_ssim_is_the_papers(tissue: np.ndarray, crop: tuple[int, int]) -> None:
    original = np.ascontiguousarray(tissue[: crop[0], : crop[1]])
    for decoded in (jpeg(original, 15), noisy(original, 1, 30)):
        a, b = (quality.luma_of(v).astype(np.float64) for v in (original, decoded))
        assert quality.measure(original, decoded)["ms_ssim"] == pytest.approx(slow_ms_ssim(a, b), abs=1e-6)


def test_it_is_symmetrical(tissue: np.ndarray) -> None:
    decoded, mask = jpeg(tissue, 20), np.arange(WH[0]) > np.arange(WH[1])[:, None]
    assert quality.measure(tissue, decoded, mask) == pytest.approx(quality.measure(decoded, tissue, mask), rel=1e-9)


def test_an_inverted_picture_has_no_structure_left(tissue: np.ndarray) -> None:
    found = quality.measure(tissue, 255 - tissue)
    assert found["ms_ssim"] == 0
    assert found["ssim"] < 0


def test_better_files_measure_better(tissue: np.ndarray) -> None:
    figures = [quality.measure(tissue, jpeg(tissue, level), np.ones(WH[::-1], bool)) for level in (10, 30, 60, 90)]
    for name in figures[0]:
        values = [f[name] for f in figures]
        assert values == sorted(set(values)), name


def test_a_decode_that_is_wrong_on_purpose_is_seen(tissue: np.ndarray) -> None:
    good = quality.measure(tissue, jpeg(tissue, 75))
    shifted = quality.measure(tissue, np.roll(tissue, 1, axis=1))
    swapped = quality.measure(tissue, np.ascontiguousarray(tissue[..., ::-1]))
    assert shifted["psnr_rgb"] < good["psnr_rgb"] - 3
    assert shifted["ms_ssim"] < good["ms_ssim"] - 0.005
    assert swapped["psnr_rgb"] < good["psnr_rgb"] - 5


def test_mask_decides_what_counts(tissue: np.ndarray) -> None:
    decoded, mask = tissue.copy(), np.zeros(WH[::-1], bool)
    mask[:, :224] = True
    decoded[:, 320:] = 255 - decoded[:, 320:]
    found = quality.measure(tissue, decoded, mask)
    assert found["psnr_rgb_tissue"] == found["worst1pct_psnr_tissue"] == math.inf
    assert found["ssim_tissue"] == pytest.approx(1, abs=1e-12)
    assert found["psnr_rgb"] < 20
    assert found["ssim"] < 0.7
    other = quality.measure(tissue, decoded, ~mask)
    squares = np.square(tissue.astype(float) - decoded)[:, 224:].mean()
    assert other["psnr_rgb_tissue"] == pytest.approx(10 * math.log10(255**2 / squares), abs=1e-9)
    everywhere = quality.measure(tissue, decoded, np.ones_like(mask))
    for name in quality.measure(tissue, decoded):
        assert everywhere[name + "_tissue"] == pytest.approx(everywhere[name], rel=1e-12)


def test_worst_tiles_are_found() -> None:
    a = np.full((640, 1280, 3), 100, np.uint8)
    b = a + 1
    b[64:128, 128:192] = 130
    b[576:, 1216:] = 80
    found = quality.measure(a, b)  # 200 tiles, so the worst two
    assert found["worst1pct_psnr"] == pytest.approx(10 * math.log10(255**2 / 650), abs=1e-9)
    mask = np.ones((640, 1280), bool)
    mask[64:128, 128:161] = False  # less than half of the worst tile is left
    found = quality.measure(a, b, mask)  # 199 tiles of tissue
    assert found["worst1pct_psnr_tissue"] == pytest.approx(10 * math.log10(255**2 / ((400 + 1) / 2)), abs=1e-9)


def test_tiles_leave_no_sliver() -> None:
    a = np.zeros((100, 70, 3), np.uint8)
    assert [samples for _, samples in quality.tally(a, a).tiles] == [50 * 70 * 3] * 2
    assert len(quality.tally(a, a, tile_px=1000).tiles) == 1


def test_regions_add_up_to_the_whole(tissue: np.ndarray) -> None:
    decoded, mask = jpeg(tissue, 30), np.zeros(WH[::-1], bool)
    mask[50:, 30:] = True
    whole = quality.tally(tissue, decoded, mask)
    cuts = [(np.s_[:, :256], 0), (np.s_[:, 256:], 1)]
    parts = [quality.tally(np.ascontiguousarray(tissue[c]), np.ascontiguousarray(decoded[c]), mask[c]) for c, _ in cuts]
    both = parts[0] + parts[1]
    assert both.whole.squares_rgb == whole.whole.squares_rgb
    assert sorted(both.tiles) == sorted(whole.tiles)
    for name in ("psnr_rgb", "psnr_luma", "psnr_rgb_tissue", "worst1pct_psnr", "worst1pct_psnr_tissue"):
        assert both.metrics()[name] == pytest.approx(whole.metrics()[name], abs=1e-6)
    # No window crosses the cut, so these are near, not the same; the sums themselves are exact.
    assert both.metrics()["ms_ssim"] == pytest.approx(whole.metrics()["ms_ssim"], abs=2e-3)
    counts = [p.whole.scale_windows[0] for p in parts]
    mean = sum(p.whole.scale_means[0] * n for p, n in zip(parts, counts, strict=True)) / sum(counts)
    assert both.whole.scale_means[0] == pytest.approx(mean, rel=1e-12)
    assert quality.ms_ssim_of(both.whole.scale_means) == both.metrics()["ms_ssim"]
    with pytest.raises(UsageError, match="do not add up"):
        parts[0] + quality.tally(tissue, decoded)


def test_what_pixels_cannot_give_is_absent() -> None:
    def names(h: int, w: int) -> set[str]:
        a = np.zeros((h, w, 3), np.uint8)
        return set(quality.measure(a, a, np.zeros((h, w), bool)))

    assert names(10, 400) == {"psnr_rgb", "psnr_luma", "worst1pct_psnr"}
    assert names(175, 400) == {"psnr_rgb", "psnr_luma", "worst1pct_psnr", "ssim"}
    assert names(176, 176) == {"psnr_rgb", "psnr_luma", "worst1pct_psnr", "ssim", "ms_ssim"}


def test_what_does_not_fit_is_refused() -> None:
    a = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(UsageError, match=r"must be \(20, 30, 3\) like its original, not \(20, 29, 3\)"):
        quality.measure(a, a[:, :29])
    with pytest.raises(UsageError, match="float32"):
        quality.measure(a, np.full(a.shape, np.nan, np.float32))
    with pytest.raises(UsageError, match="original must be uint8"):
        quality.measure(a[..., 0], a[..., 0])
    with pytest.raises(UsageError, match="original must be"):
        quality.measure(a[:0], a[:0])
    with pytest.raises(UsageError, match="mask must be bool"):
        quality.measure(a, a, np.zeros((20, 30), np.uint8))
