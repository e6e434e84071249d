"""Fidelity figures against drawn nuclei, published colour pairs, known stains and known filters."""

from __future__ import annotations

import math
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.color import deltaE_ciede2000, rgb2lab

from inrwsi.benchmarks import fidelity, fidelity_colour, fidelity_nuclei
from inrwsi.errors import UsageError
from inrwsi.nuclei import EOSIN, HAEMATOXYLIN
from inrwsi.sample import sample_region

SLIDES = Path(__file__).parent.parent.parent / "shared" / "slides"
PLASMA, NUCLEUS = (235, 190, 215), (90, 60, 140)
BETTER_IS_MORE = ("nuclei_f1", "nuclei_dice", "spectrum_ratio")


def jpeg(rgb: np.ndarray, level: int) -> np.ndarray:
    return imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(rgb, level=level))


def discs(centres_yx: list[tuple[int, int]], radius: float, side: int = 400) -> np.ndarray:
    """(side, side, 3) uint8: round nuclei on eosin."""
    y, x = np.mgrid[:side, :side]
    rgb = np.full((side, side, 3), PLASMA, np.uint8)
    for cy, cx in centres_yx:
        rgb[(y - cy) ** 2 + (x - cx) ** 2 <= radius**2] = NUCLEUS
    return rgb


GRID = [(40 + 50 * i, 40 + 50 * j) for i in range(7) for j in range(7)]


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    """(512, 512, 3) uint8: generated H&E."""
    return sample_region((900, 900), (512, 512), size_wh=(2048, 2048), seed=1)


@pytest.fixture(scope="module")
def tissue_reference(tissue: np.ndarray) -> fidelity.Reference:
    return fidelity.reference(tissue)


# --- nuclei ---


@pytest.mark.parametrize("radius", [6, 10, 15])
def test_drawn_nuclei_are_all_found(radius: int) -> None:
    found = fidelity_nuclei.find_nuclei(discs(GRID, radius))
    assert found.count == 49
    assert found.areas_px == pytest.approx(np.full(49, math.pi * radius**2), rel=0.2)
    centres = ndimage.center_of_mass(found.labels > 0, found.labels, range(1, 50))
    assert sorted((round(y), round(x)) for y, x in centres) == GRID


def test_touching_nuclei_are_parted() -> None:
    pairs = [(y, x + dx) for y, x in GRID[::8] for dx in (0, 18)]
    assert fidelity_nuclei.find_nuclei(discs(pairs, 10)).count == 14


def test_size_limits_are_of_micrometres() -> None:
    rgb = discs([(200, 200)], 16)
    assert fidelity_nuclei.find_nuclei(rgb, 0.5).count == 1
    assert fidelity_nuclei.find_nuclei(rgb, 1.0).count == 0  # 800 um^2
    assert fidelity_nuclei.find_nuclei(discs([(200, 200)], 26), 0.5).count == 0  # 530 um^2


def test_finer_pixels_give_the_same_nuclei() -> None:
    rgb = discs(GRID, 8)
    coarse = fidelity_nuclei.find_nuclei(rgb, 0.5)
    fine = fidelity_nuclei.find_nuclei(rgb.repeat(2, axis=0).repeat(2, axis=1), 0.25)
    assert fine.working_mpp_um == coarse.working_mpp_um == 0.5
    assert np.array_equal(fine.labels, coarse.labels)


def test_match_by_hand() -> None:
    def nuclei(*boxes: tuple[int, int, int]) -> fidelity_nuclei.Nuclei:
        labels = np.zeros((40, 60), np.int32)
        for number, (y, x, side) in enumerate(boxes, 1):
            labels[y : y + side, x : x + side] = number
        return fidelity_nuclei.Nuclei(labels, np.bincount(labels.ravel())[1:], 0.5)

    original = nuclei((0, 0, 10), (0, 20, 10), (20, 0, 10), (20, 20, 10))
    # The same; moved by 3 (IoU 70 / 130); moved by 4 (60 / 140: no); the fourth is missing, and two are new.
    decoded = nuclei((0, 0, 10), (0, 23, 10), (20, 4, 10), (20, 40, 10), (0, 45, 10))
    found = fidelity_nuclei.match(original, decoded)
    assert found == fidelity_nuclei.Match(2, 4, 5, 230, 400, 500)
    expected = {"nuclei_f1": 4 / 9, "nuclei_dice": 460 / 900, "count_error": 0.25, "area_error": 0.0}
    assert found.metrics() == pytest.approx(expected, abs=1e-12)
    twice = found + fidelity_nuclei.match(decoded, original)
    assert twice == fidelity_nuclei.Match(4, 9, 9, 460, 900, 900)
    assert twice.metrics()["count_error"] == 0


def test_lost_and_shrunken_nuclei_are_counted() -> None:
    original = fidelity.reference(discs(GRID, 10))
    lost = fidelity.tally(original, discs(GRID[7:], 10)).metrics()
    assert lost["nuclei_f1"] == pytest.approx(2 * 42 / 91)
    assert lost["count_error"] == pytest.approx(1 / 7)
    assert lost["area_error"] < 0.01
    smaller = fidelity.tally(original, discs(GRID, 8)).metrics()
    assert (smaller["nuclei_f1"], smaller["count_error"]) == (1, 0)
    assert smaller["area_error"] == pytest.approx(1 - 0.64, abs=0.05)


# --- colour ---


@pytest.mark.parametrize(
    ("a", "b", "difference"),
    [  # Sharma, Wu, Dalal 2005, table 1
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
        ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0009), 7.1792),
        ((50.0, 2.49, -0.001), (50.0, -2.49, 0.0011), 7.2195),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_ciede2000_of_published_pairs(a: tuple[float, ...], b: tuple[float, ...], difference: float) -> None:
    assert fidelity_colour.lab_difference(*a, *b) == pytest.approx(difference, abs=5e-5)
    assert fidelity_colour.lab_difference(*b, *a) == pytest.approx(difference, abs=5e-5)


def test_ciede2000_of_pictures_is_scikit_images() -> None:
    a, b = np.random.default_rng(3).integers(0, 256, (2, 60, 50, 3), np.uint8)
    b[:20] = a[:20]
    expected = float(deltaE_ciede2000(rgb2lab(a), rgb2lab(b)).sum())
    assert fidelity_colour.ciede2000_sum(a, b) == pytest.approx(expected, rel=1e-4)
    assert fidelity_colour.ciede2000_sum(a, a) == 0


def stained_picture(vectors: np.ndarray, seed: int) -> np.ndarray:
    """(160, 160, 3) uint8 by Beer and Lambert: two stains, alone and mixed, no noise but rounding."""
    rng = np.random.default_rng(seed)
    share = np.clip(rng.uniform(-0.2, 1.2, (160, 160, 1)), 0, 1)
    amount = rng.uniform(0.4, 0.9, (160, 160, 1))
    od = amount * (share * vectors[0] + (1 - share) * vectors[1])
    return np.clip(np.rint(256 * 10**-od - 1), 0, 255).astype(np.uint8)


def test_stain_vectors_are_recovered() -> None:
    vectors = np.array([HAEMATOXYLIN, EOSIN])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    a = fidelity_colour.stain_of(stained_picture(vectors, 1), 0.5)
    assert a.vectors is not None
    assert np.degrees(np.arccos((a.vectors * vectors).sum(axis=1))).max() < 1

    # The first stain turned by 10 degrees away from the second, in their plane.
    normal = vectors[0] - (vectors[0] @ vectors[1]) * vectors[1]
    angle = np.arccos(vectors[0] @ vectors[1]) + np.radians(10)
    turned = np.array([np.cos(angle) * vectors[1] + np.sin(angle) * normal / np.linalg.norm(normal), vectors[1]])
    b = fidelity_colour.stain_of(stained_picture(turned, 1), 0.5, a.stained)
    assert fidelity_colour.vector_angle_deg(a, b) == pytest.approx(10, abs=0.7)
    assert fidelity_colour.vector_angle_deg(a, a) == pytest.approx(0, abs=1e-5)


def test_od_drift_of_a_known_darkening() -> None:
    a = 2 * np.random.default_rng(4).integers(30, 60, (64, 64, 3), np.uint8) + 1
    a[:, 32:] = 255  # glass counts neither for nor against
    b = a.copy()
    b[:, :32] = (a[:, :32].astype(int) + 1) // 2 - 1
    stains = fidelity_colour.stain_of(a, 0.5), fidelity_colour.stain_of(b, 0.5)
    total, values = fidelity_colour.od_drifts(*stains, 0.5)
    assert values == 4 * 2 * 3  # cells of 16 pixels
    assert total / values == pytest.approx(math.log10(2), abs=1e-5)


def test_a_shifted_hue_is_caught(tissue: np.ndarray, tissue_reference: fidelity.Reference) -> None:
    good = fidelity.tally(tissue_reference, jpeg(tissue, 95)).metrics()
    shifted = tissue.copy()
    shifted[..., 0] = np.minimum(tissue[..., 0].astype(int) + 12, 255)
    found = fidelity.tally(tissue_reference, shifted).metrics()
    assert found["ciede2000"] > good["ciede2000"] + 1
    assert found["stain_angle_deg"] > 2 * good["stain_angle_deg"]
    assert found["od_drift"] > 5 * good["od_drift"]
    assert found["spectrum_ratio"] == pytest.approx(1, abs=0.02)


# --- spectrum ---


def test_half_the_contrast_is_a_quarter_of_the_power() -> None:
    a = 128 + 2 * np.random.default_rng(5).integers(-40, 40, (256, 512, 1)).repeat(3, axis=2)
    b = 128 + (a - 128) // 2
    found = fidelity.tally(fidelity.reference(a.astype(np.uint8)), b.astype(np.uint8))
    assert found.spectrum() == pytest.approx((0.25,) * fidelity.BANDS, rel=1e-4)
    assert found.metrics()["spectrum_ratio"] == pytest.approx(0.25, rel=1e-4)


def test_a_wave_lies_in_its_band() -> None:
    y, x = np.mgrid[:256, :256]
    for cycles, band in ((44, 5), (100, 12)):  # of 256 pixels; a band is 8 wide
        wave = np.rint(128 + 100 * np.sin(2 * np.pi * (0.6 * x + 0.8 * y) * cycles / 256))
        power = fidelity.reference(wave[..., None].repeat(3, axis=2).astype(np.uint8)).power
        assert power[band] / power.sum() > 0.97


def test_blur_is_caught_and_follows_the_filter(tissue: np.ndarray) -> None:
    noise = np.random.default_rng(6).integers(0, 256, (512, 512, 1), np.uint8).repeat(3, axis=2)
    sigma = 0.7
    blurred = np.rint(ndimage.gaussian_filter(noise.astype(float), (sigma, sigma, 0))).astype(np.uint8)
    ratios = fidelity.tally(fidelity.reference(noise), blurred).spectrum()
    centres = (np.array(fidelity.BAND_EDGES[:-1]) + fidelity.BAND_EDGES[1:]) / 2
    assert ratios[:11] == pytest.approx(np.exp(-((2 * np.pi * centres[:11] * sigma) ** 2)), rel=0.1, abs=0.01)
    soft = np.rint(ndimage.gaussian_filter(tissue.astype(float), (1, 1, 0))).astype(np.uint8)
    assert fidelity.measure(tissue, soft)["spectrum_ratio"] < 0.2
    assert fidelity.measure(tissue, jpeg(tissue, 90))["spectrum_ratio"] > 0.7


# --- all together ---


def test_identical_pictures(tissue: np.ndarray, tissue_reference: fidelity.Reference) -> None:
    assert tissue_reference.nuclei.count > 50
    found = fidelity.tally(tissue_reference, tissue.copy())
    best = {"nuclei_f1": 1, "nuclei_dice": 1, "count_error": 0, "area_error": 0, "stain_angle_deg": 0}
    best |= {"od_drift": 0, "ciede2000": 0, "spectrum_ratio": 1}
    assert found.metrics() == pytest.approx(best, abs=1e-5)
    assert found.spectrum() == (1.0,) * fidelity.BANDS


def assert_worse_in_each(worse: dict[str, float], better: dict[str, float]) -> None:
    for name, value in better.items():
        assert worse[name] < value if name in BETTER_IS_MORE else worse[name] > value, name


def test_a_worse_file_is_worse_in_each_figure(tissue: np.ndarray, tissue_reference: fidelity.Reference) -> None:
    worse, better = (fidelity.tally(tissue_reference, jpeg(tissue, level)).metrics() for level in (10, 90))
    assert len(better) == 8
    assert_worse_in_each(worse, better)


@pytest.mark.skipif(not SLIDES.is_dir(), reason="no real slides beside the project")
@pytest.mark.parametrize("name", ["kidney-pale-HE", "stomach-giemsa", "duodenum-NET-synaptophysin-IHC"])
def test_a_worse_file_of_a_real_slide_is_worse(name: str) -> None:
    with Image.open(SLIDES / f"{name}.png") as picture:
        original = np.asarray(picture.convert("RGB").crop((500, 500, 1012, 1012)))
    reference = fidelity.reference(original)
    assert reference.nuclei.count > 50
    worse, better = (fidelity.tally(reference, jpeg(original, level)).metrics() for level in (10, 90))
    for figures in (worse, better):
        # Differences of two large counts: one crop gives them by chance as much as by quality.
        del figures["count_error"], figures["area_error"]
    assert_worse_in_each(worse, better)
    assert better["nuclei_f1"] > 0.85


def test_regions_add_up(tissue: np.ndarray) -> None:
    decoded = jpeg(tissue, 20)
    tallies = [fidelity.tally(fidelity.reference(tissue[s]), decoded[s]) for s in (np.s_[:256], np.s_[256:])]
    both = tallies[0] + tallies[1]
    whole = fidelity.tally(fidelity.reference(tissue), decoded)
    assert both.px == whole.px
    assert both.power_decoded == pytest.approx(whole.power_decoded, rel=1e-4)
    assert both.metrics()["ciede2000"] == pytest.approx(whole.metrics()["ciede2000"], rel=1e-9)
    assert both.metrics()["od_drift"] == pytest.approx(whole.metrics()["od_drift"], rel=1e-5)
    assert both.nuclei.original == tallies[0].nuclei.original + tallies[1].nuclei.original
    assert (tallies[0] + tallies[0]).metrics() == pytest.approx(tallies[0].metrics(), rel=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (40, 300), (300, 257)])
@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (40, 30, 200)])
def test_plain_pictures_give_what_they_can(shape: tuple[int, int], colour: tuple[int, int, int]) -> None:
    plain = np.full((*shape, 3), colour, np.uint8)
    found = fidelity.tally(fidelity.reference(plain, mpp_um=0.25), plain)
    assert set(found.metrics()) <= {"ciede2000", "od_drift"}
    assert found.spectrum() == ()


def test_fluorescence_and_noise_give_finite_figures() -> None:
    rng = np.random.default_rng(7)
    dark = np.zeros((300, 300, 3), np.uint8)
    dark[..., 2] = ndimage.gaussian_filter(rng.uniform(0, 255, (300, 300)), 4).astype(np.uint8)
    noise = rng.integers(0, 256, (300, 300, 3), np.uint8)
    for original in (dark, noise):
        for decoded in (jpeg(original, 30), 255 - original):
            figures = fidelity.measure(original, decoded, mpp_um=0.23)
            assert all(math.isfinite(value) for value in figures.values())


def test_what_does_not_fit_is_refused(tissue: np.ndarray, tissue_reference: fidelity.Reference) -> None:
    with pytest.raises(UsageError, match="like its original"):
        fidelity.tally(tissue_reference, tissue[:-1])
    with pytest.raises(UsageError, match="uint8"):
        fidelity.measure(tissue, tissue.astype(np.float32))
    with pytest.raises(UsageError, match="must be positive, not nan"):
        fidelity.reference(tissue, mpp_um=math.nan)
