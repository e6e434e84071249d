"""The slide's own colour transform: with fixed signs, whatever the tissue, and back within a level."""

from __future__ import annotations

import numpy as np
import pytest

from inrwsi.coding.lifting import to_rgb
from inrwsi.colour import MEAN_UNIT, UNIT, Klt
from inrwsi.fields.octaves_model import OctavesModel

RNG = np.random.default_rng(4)
STAINED = np.clip(
    [180, 120, 170] + RNG.normal(0, 30, (2000, 1)) * [0.6, 1, 0.7] + RNG.normal(0, 6, (2000, 3)), 0, 255
).astype(np.uint8)
SAMPLES = {
    "stained": STAINED,
    "any": RNG.integers(0, 256, (500, 3)).astype(np.uint8),
    "grey": np.repeat(RNG.integers(0, 256, (500, 1)), 3, 1).astype(np.uint8),
    "one colour": np.tile(np.array([[10, 200, 30]], np.uint8), (9, 1)),
    "one pixel": np.zeros((1, 3), np.uint8),
    "white": np.full((7, 3), 255, np.uint8),
    "only blue varies": np.column_stack((np.full((256, 2), 90), np.arange(256))).astype(np.uint8),
    "two extremes": np.array([[0, 255, 0], [255, 0, 255]], np.uint8),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_it_is_a_rotation_that_a_file_can_hold(name: str) -> None:
    klt = Klt.of(SAMPLES[name])
    matrix = np.array(klt.matrix) / UNIT
    assert np.abs(matrix @ matrix.T - np.eye(3)).max() < 2e-4
    assert matrix[0].sum() > 0
    for row in matrix[1:]:
        assert row[np.abs(row).argmax()] > 0
    assert np.abs(np.array(klt.mean) / MEAN_UNIT - SAMPLES[name].mean(0)).max() <= 0.5 / MEAN_UNIT + 1e-9
    assert klt.inverse is None
    assert OctavesModel("0" * 64, 1024, sum(klt.matrix, ()), klt.mean).klt == klt
    assert OctavesModel.of("0" * 64, 1024, klt, tune="psnr").klt == klt
    assert all(type(v) is int for v in sum(klt.matrix, klt.mean))


@pytest.mark.parametrize("name", SAMPLES)
def test_luma_can_count_more_than_colour(name: str) -> None:
    """An error of one length in the components is half as long along luma as across it, in units of RGB."""
    klt = Klt.of(SAMPLES[name], luma=2.0)
    matrix = np.array(klt.matrix) / UNIT
    assert klt.inverse is not None
    inverse = np.array(klt.inverse) / UNIT
    assert np.abs(inverse @ matrix - np.eye(3)).max() < 4e-4
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(np.sort(np.linalg.svd(inverse)[1]) - [1, 2, 2]).max() < 4e-4
    assert np.linalg.norm(luma @ inverse) == pytest.approx(np.linalg.norm(luma), rel=4e-4)
    assert np.linalg.norm(np.array([1, 0, -0.299 / 0.114]) @ inverse) == pytest.approx(
        2 * np.hypot(1, 0.299 / 0.114), 1e-3
    )
    assert OctavesModel.of("0" * 64, 1024, klt, tune="psnr").klt == klt


@pytest.mark.parametrize("luma", [1.0, 2.0])
@pytest.mark.parametrize("name", SAMPLES)
def test_there_and_back_is_within_a_level(name: str, luma: float) -> None:
    klt = Klt.of(SAMPLES[name], luma=luma)
    corners = np.array(np.meshgrid([0, 255], [0, 255], [0, 255])).reshape(3, -1).T
    rgb = np.concatenate((corners, RNG.integers(0, 256, (992, 3)))).astype(np.uint8).reshape(40, 25, 3)
    components = klt.forward(rgb)
    assert components.dtype == np.float32
    assert components.shape == (3, 40, 25)
    assert components.flags.c_contiguous
    pixels = np.rint(components * 64)
    assert np.abs(pixels).max() <= 32000
    model = OctavesModel.of("0" * 64, 1024, klt, tune="psnr")
    back = to_rgb(pixels.astype(np.int16), model.rgb_matrix, np.array(klt.mean, np.int64))
    assert np.abs(back.astype(int) - rgb).max() <= 1


def test_it_takes_the_correlation_out() -> None:
    components = Klt.of(STAINED).forward(STAINED.reshape(40, 50, 3)).reshape(3, -1)
    covariance = np.cov(components)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 0.01 * covariance[0, 0]
    assert covariance[0, 0] > covariance[1, 1] > covariance[2, 2]
    assert np.abs(components.mean(1)).max() < 0.05


def test_equal_tissue_gives_equal_transforms() -> None:
    shuffled = RNG.permutation(STAINED)
    assert np.abs(np.array(Klt.of(shuffled).matrix) - np.array(Klt.of(STAINED).matrix)).max() <= 1
    assert Klt.of(STAINED.reshape(40, 50, 3)) == Klt.of(STAINED)
