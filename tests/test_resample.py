"""Area sampling: exact means, one value a pixel however it was asked, no aliasing."""

from __future__ import annotations

import numpy as np
import pytest

from inrwsi import resample
from inrwsi.errors import UsageError
from inrwsi.resample import CUBIC_UNIT, PHASES, SHARE, AreaSum, CubicSum, Sampling, axis_shares, cubic_weights


def _whole(image: np.ndarray, step: float, out_wh: tuple[int, int], start: tuple[float, float] = (0, 0)) -> np.ndarray:
    total = AreaSum((0, out_wh[0]), (0, out_wh[1]), start, step, image.shape[2])
    total.add((0, 0), (image.shape[1], image.shape[0]), image)
    return total.result(np.array([255] * image.shape[2]))


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
        assert np.array_equal(total.result(np.array([255] * 3)), want)


def test_a_block_of_one_colour_is_that_block() -> None:
    full = np.full((20, 30, 3), (9, 8, 7), np.uint8)
    total = AreaSum((0, 12), (0, 8), (0, 0), 2.5, 3)
    total.add((0, 0), (30, 20), np.array([9, 8, 7]))
    assert np.array_equal(total.result(np.array([255] * 3)), _whole(full, 2.5, (12, 8)))


def test_weights_are_kept_of_so_many_blocks_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(5).integers(0, 256, (40, 400, 3), dtype=np.uint8)
    want = _whole(image, 7.3, (54, 5))
    monkeypatch.setattr(resample, "MOST_KNOWN", 3)
    total = AreaSum((0, 54), (0, 5), (0, 0), 7.3, 3)
    for y, x in np.ndindex(4, 40):
        total.add((10 * x, 10 * y), (10, 10), image[10 * y : 10 * y + 10, 10 * x : 10 * x + 10])
        assert len(total._known) <= 4
    assert np.array_equal(total.result(np.array([255] * 3)), want)


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


def test_cubic_weights_are_whole_and_interpolate() -> None:
    weights = cubic_weights(np.arange(PHASES))
    assert (weights.sum(axis=1) == CUBIC_UNIT).all()
    assert (weights == np.rint(weights)).all()
    assert weights[0].tolist() == [0, CUBIC_UNIT, 0, 0]
    assert (weights[PHASES // 2] * 16 / CUBIC_UNIT).tolist() == [-1, 9, 9, -1]
    at = np.arange(-1, 3)  # Keys' kernel reproduces parabolas
    t = np.arange(PHASES) / PHASES
    assert np.abs(weights @ (at * at) / CUBIC_UNIT - t * t).max() < 5 / CUBIC_UNIT


def _enlarged(image: np.ndarray, step: float, out_x: tuple[int, int], out_y: tuple[int, int], side: int) -> np.ndarray:
    h, w = image.shape[:2]
    total = CubicSum(out_x, out_y, (0.0, 0.0), (step, step), image.shape[2], (w, h))
    for y in range(0, h, side):
        for x in range(0, w, side):
            part = image[y : y + side, x : x + side]
            total.add((x, y), (part.shape[1], part.shape[0]), part)
    return total.result(np.array([255] * image.shape[2]))


@pytest.mark.parametrize("step", [0.5, 0.37, 0.01])
def test_cubic_pixels_are_the_same_in_any_blocks_and_region(step: float) -> None:
    image = np.random.default_rng(3).integers(0, 256, (23, 31, 3), dtype=np.uint8)
    w, h = round(31 / step), round(23 / step)
    if step < 0.1:
        w, h = 400, 300
    want = _enlarged(image, step, (0, w), (0, h), 64)
    assert np.array_equal(_enlarged(image, step, (0, w), (0, h), 1), want)
    assert np.array_equal(_enlarged(image, step, (0, w), (0, h), 7), want)
    assert np.array_equal(_enlarged(image, step, (w // 3, w // 2), (5, h), 7), want[5:, w // 3 : w // 2])


def test_cubic_keeps_its_range_and_a_flat_field() -> None:
    flat = np.full((5, 5, 1), 200, np.uint8)
    assert (_enlarged(flat, 0.3, (0, 16), (0, 16), 2) == 200).all()
    edge = np.zeros((8, 8, 1), np.uint8)
    edge[:, 4:] = 255
    row = _enlarged(edge, 0.25, (0, 32), (0, 32), 8)[9, :, 0].astype(int)
    assert (row[:8].max(), row[-8:].min()) == (0, 255)  # overshoot is cut off
    assert (np.diff(row)[10:21] >= 0).all()


def test_sampling_counts_samples() -> None:
    assert Sampling().samples_wh((5, 7)) == (5, 7)
    assert Sampling(finer=3).samples_wh((5, 7)) == (15, 21)
    assert Sampling(octave=2).samples_wh((5, 8)) == (2, 2)
    assert (Sampling().begins, Sampling().ends((5, 7))) == (0.0, (5.0, 7.0))
    assert (Sampling(finer=3).begins, Sampling(finer=3).ends((5, 7))) == (0.0, (15.0, 21.0))
    # Sample i of octave 2 is centred on the centre of pixel 4 i: i + 0.5 samples are 4 i + 0.5 pixels.
    assert Sampling(octave=2).begins == 0.5 - 0.5 / 4
    assert Sampling(octave=2).ends((5, 8)) == (5 / 4 + 0.375, 8 / 4 + 0.375)
    with pytest.raises(ValueError, match="finer than level 0, coarser, or neither"):
        Sampling(finer=2, octave=1)


def test_the_first_and_last_sample_go_to_the_edges_of_the_slide() -> None:
    """8 pixels in octave 1: samples 0 to 3, of which 0 begins within itself and 3 ends a quarter beyond."""
    sampling = Sampling(octave=1)
    begins, (ends, _) = sampling.begins, sampling.ends((8, 8))
    assert (begins, ends) == (0.25, 4.25)
    first, shares = axis_shares(-1 + begins, 1.25, (0, 9), (0, 4), begins, ends)
    assert first == 0
    want = [[0.25, 0, 0, 0], [0.5, 0.75, 0, 0], [0, 0.25, 1, 0], [0, 0, 0, 1.25]]
    assert (shares / SHARE).tolist() == want
    first, shares = axis_shares(4.125, 1.5, (0, 1), (0, 4), begins, ends)  # all of it beyond the last sample
    assert (shares / SHARE).tolist() == [[0, 0, 0, 0.125]]
    for start in (ends, begins - 1.5):
        assert axis_shares(start, 1.5, (0, 1), (0, 4), begins, ends)[1].shape == (0, 4)


@pytest.mark.parametrize("octave", [1, 13, 36])
def test_a_source_of_one_sample_counts_wherever_it_is_touched(octave: int) -> None:
    """One pixel wide, in an octave of which it is 2^-octave samples; and nothing where it is not touched."""
    sampling = Sampling(octave=octave)
    begins, (ends, _) = sampling.begins, sampling.ends((1, 1))
    for start_px, there in ((-2, (False, False)), (-1.5, (False, True)), (0, (True, False)), (0.5, (True, False))):
        start = start_px * sampling.a_px + begins
        first, shares = axis_shares(start, sampling.a_px, (0, 2), (0, 1), begins, ends)
        touched = np.zeros(2, bool)
        touched[first : first + len(shares)] = shares[:, 0] > 0
        assert tuple(touched.tolist()) == there


UINT16 = np.dtype(np.uint16)


def test_means_of_16_bits() -> None:
    """Of samples that 32 bits could not sum: 1200 rows of them, and with odd shares."""
    image = np.random.default_rng(3).integers(60000, 65536, (1200, 30, 2)).astype(np.uint16)
    total = AreaSum((0, 10), (0, 4), (0.0, 0.0), (3.0, 300.0), 2, ends=(30, 1200), dtype=UINT16)
    total.add((0, 0), (30, 1200), image)
    means = total.result(np.array([0, 0]))
    sums = image.reshape(4, 300, 10, 3, 2).astype(np.int64).sum(axis=(1, 3))
    assert means.dtype == np.uint16
    assert np.array_equal(means, (sums + 450) // 900)
    total = AreaSum((0, 2), (0, 1), (0.0, 0.0), (1.5, 1.0), 1, dtype=UINT16)
    total.add((0, 0), (3, 1), np.array([[[65535], [1000], [4]]], np.uint16))
    assert total.result(np.array([0]))[0, :, 0].tolist() == [round((65535 + 500) / 1.5), round((500 + 4) / 1.5)]


def test_cubic_of_16_bits() -> None:
    """At the quarters between samples, by Keys' weights; what rings beyond 0 and 65535 is cut there."""
    row = np.array([0, 0, 65535, 65535, 40000], np.uint16)
    total = CubicSum((0, 10), (0, 1), (0.0, 0.0), (0.5, 1.0), 1, (5, 1), UINT16)
    total.add((0, 0), (5, 1), row[None, :, None])
    padded = np.pad(row.astype(np.float64), 2, mode="edge")
    quarter, three = cubic_weights(np.array([PHASES // 4, 3 * PHASES // 4])) / CUBIC_UNIT
    want = [w @ padded[at : at + 4] for i in range(5) for w, at in ((three, i), (quarter, i + 1))]
    found = total.result(np.array([0]))[0, :, 0]
    assert found.tolist() == [min(max(int(np.floor(v + 0.5)), 0), 65535) for v in want]
    assert (found == 0).any()
    assert (found == 65535).any()


def test_more_than_64_bits_hold_is_refused() -> None:
    AreaSum((0, 1), (0, 1), (0.0, 0.0), 2048.0, 1, ends=(9000, 9000), dtype=UINT16)
    AreaSum((0, 1), (0, 1), (0.0, 0.0), 9000.0, 1, ends=(9000, 9000))
    AreaSum((0, 1), (0, 1), (0.0, 0.0), 9000.0, 1, ends=(9000, 100), dtype=UINT16)
    with pytest.raises(UsageError, match="the mean of 2,049 x 2,049 samples; of 16 bits at most 2,048 x 2,048"):
        AreaSum((0, 1), (0, 1), (0.0, 0.0), 2049.0, 1, ends=(9000, 9000), dtype=UINT16)
