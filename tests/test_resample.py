"""Area sampling: exact means, one value a pixel however it was asked, no aliasing."""

from __future__ import annotations

import numpy as np
import pytest

from inrwsi.resample import SHARE, AreaSum, axis_shares


def _whole(image: np.ndarray, step: float, out_wh: tuple[int, int], start: tuple[float, float] = (0, 0)) -> np.ndarray:
    total = AreaSum((0, out_wh[0]), (0, out_wh[1]), start, step, image.shape[2])
    total.add((0, 0), (image.shape[1], image.shape[0]), image)
    return total.result(np.array([255] * image.shape[2]), np.uint8)


def test_box_means_at_a_whole_step() -> None:
    image = np.random.default_rng(1).integers(0, 256, (24, 36, 3), dtype=np.uint8)
    want = np.floor(image.reshape(8, 3, 12, 3, 3).mean(axis=(1, 3)) + 0.5)
    assert np.array_equal(_whole(image, 3.0, (12, 8)), want)


def test_a_cut_pixel_gives_its_share() -> None:
    image = np.zeros((1, 4, 1), np.uint8)
    image[0, 1] = 200
    # output pixel 0 covers [0, 1.5): all of pixel 0, half of pixel 1
    assert _whole(image, 1.5, (2, 1))[0, :, 0].tolist() == [67, 67]
    first, shares = axis_shares(0.0, 1.5, (0, 2), (0, 4))
    assert first == 0
    assert (shares / SHARE).tolist() == [[1, 0.5, 0, 0], [0, 0.5, 1, 0]]


def test_blocks_in_any_order_give_the_same_bits() -> None:
    rng = np.random.default_rng(2)
    image = rng.integers(0, 256, (130, 170, 3), dtype=np.uint8)
    want = _whole(image, 2.37, (70, 53), (1.25, 0.5))
    blocks = [(x, y) for y in range(0, 130, 37) for x in range(0, 170, 41)]
    for _ in range(3):
        total = AreaSum((0, 70), (0, 53), (1.25, 0.5), 2.37, 3)
        for i in rng.permutation(len(blocks)):
            x, y = blocks[i]
            part = image[y : y + 37, x : x + 41]
            total.add((x, y), (part.shape[1], part.shape[0]), part)
        assert np.array_equal(total.result(np.array([255] * 3), np.uint8), want)


def test_a_block_of_one_colour_is_that_block() -> None:
    full = np.full((20, 30, 3), (9, 8, 7), np.uint8)
    total = AreaSum((0, 12), (0, 8), (0, 0), 2.5, 3)
    total.add((0, 0), (30, 20), np.array([9, 8, 7]))
    assert np.array_equal(total.result(np.array([255] * 3), np.uint8), _whole(full, 2.5, (12, 8)))


def test_what_no_source_covers_is_outside() -> None:
    out = _whole(np.zeros((4, 4, 1), np.uint8), 1.0, (6, 4), (-1, 0))
    assert out[0, :, 0].tolist() == [255, 0, 0, 0, 0, 255]


@pytest.mark.parametrize("step", [4.0, 5.3])
def test_a_zone_plate_does_not_alias(step: float) -> None:
    """Rings finer than the output pixels average out to grey; picking every n-th pixel would show false rings."""
    n = 512
    y, x = np.mgrid[:n, :n] - n / 2 + 0.5
    plate = np.rint(127.5 + 127 * np.cos(np.pi * (x**2 + y**2) / n)).astype(np.uint8)[:, :, None]
    side = int(n / step)
    small = _whole(plate, step, (side, side))[:, :, 0].astype(float)
    fine = (np.hypot(*(np.mgrid[:side, :side] - side / 2 + 0.5)) * step) > 0.9 * n / 2
    picked = plate[:: int(step), :: int(step), 0][:side, :side].astype(float)
    assert small[fine].std() < 14  # a box over 4 px of rings near 2 px a period leaves a tenth at most
    assert picked[fine].std() > 80
    assert abs(small.mean() - plate.mean()) < 0.5
