"""Octaves and their chunks: every region at every octave, decoded once each, and what damage costs. No networks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from inrwsi.decode import Decoder
from inrwsi.formats.container import Container
from inrwsi.geometry import Rect
from inrwsi.octave_tiles import OctaveTiles
from inrwsi.resample import Sampling
from tests.conftest import NOISE_WH
from tests.fake_octaves import BACKGROUND, FakeCoder, FakeFile, area_means, fake_file, weigh
from tests.octaves_plain import plain

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("fake")


@pytest.mark.parametrize("octave", range(8))
def test_every_region_is_its_part_of_the_whole(noise: FakeFile, octave: int, threads: int) -> None:
    want = noise.octaves[octave]
    h, w = want.shape[:2]
    assert len(noise.octaves) == 8
    rng = np.random.default_rng(octave)
    corners = rng.integers(0, (w, h), (6, 2))
    regions = [(0, 0, w, h), (w - 1, h - 1, 1, 1)]
    regions += [(x, y, *(rng.integers(1, (w - x + 1, h - y + 1)).tolist())) for x, y in corners.tolist()]
    for cache_bytes in (0, 1 << 20, 1 << 28):
        with Container.open(noise.path) as container:
            tiles = OctaveTiles(container, CPU, cache_bytes)
            for x, y, rw, rh in regions if cache_bytes else regions[-2:]:
                assert np.array_equal(plain(tiles, octave, Rect(x, y, rw, rh)), want[y : y + rh, x : x + rw])


@pytest.mark.parametrize("step", [1.0, 2.0, 2.7, 4.0, 8.0, 25.6])
def test_a_pixel_depends_on_neither_region_nor_strip(noise: FakeFile, step: float, threads: int) -> None:
    """Where the regions begin whole output pixels and whole level-0 pixels apart."""
    apart = next(n for n in range(1, 11) if (n * step).is_integer())
    w, h = (-(-side // (apart * step)) * apart for side in NOISE_WH)
    with Decoder(noise.path, device="cpu") as decoder:

        def read(x: int, y: int, w: int, h: int) -> np.ndarray:
            at = (round(x * step), round(y * step))
            # For more than the whole, as a region is of whole level-0 pixels.
            return decoder.read_region(at, (math.ceil(w * step), math.ceil(h * step)), step=step)[:h, :w]

        whole = read(-apart, -apart, int(w) + 2 * apart, int(h) + 2 * apart)
        if step == 1:
            assert np.array_equal(whole[1:700, 1:1102], noise.octaves[0])
        rng = np.random.default_rng(round(step))
        for _ in range(8):
            x, y = (rng.integers(0, (whole.shape[1], whole.shape[0])) // apart * apart).tolist()
            rw, rh = rng.integers(1, (whole.shape[1] - x + 1, whole.shape[0] - y + 1)).tolist()
            assert np.array_equal(read(x - apart, y - apart, rw, rh), whole[y : y + rh, x : x + rw])
        strips = decoder.strips((0, 0), NOISE_WH, step=step, strip_rows=23)
        together = np.concatenate(list(strips))
        assert np.array_equal(together, whole[apart:, apart:][: together.shape[0], : together.shape[1]])


STEPS = [1.5, 2.0, 2.7, 3.0, 4.0, 5.5, 8.0, 31.0, 400.0, (300, 150), (260, 150), (600, 7), (7, 600)]


@pytest.mark.parametrize("step", STEPS)
def test_magnifications_between_octaves_are_area_means(noise: FakeFile, step: float | tuple[int, int]) -> None:
    """Of the coarsest octave whose pixels are smaller, each where it lies on the slide."""
    out_wh = step if isinstance(step, tuple) else None
    w, h = out_wh or (round(600 / step), round(600 / step))  # type: ignore[operator]
    step_px = (600 / w, 600 / h) if isinstance(step, tuple) else (step, step)
    octave, start = min(max(math.ceil(math.log2(min(step_px))) - 1, 0), 7), (90, 33)
    want = area_means(noise, octave, start, step_px, (w, h))
    with Decoder(noise.path, device="cpu") as decoder:
        size = {"out_wh": out_wh} if out_wh else {"step": step}
        got = decoder.read_region(start, (600, 600), **size)
        assert got.shape == (h, w, 3)
        assert np.abs(got - want).max() <= 0.6  # half a grey level, and shares rounded to 1/4096
        strips = np.concatenate(list(decoder.strips(start, (600, 600), **size, strip_rows=7)))
    assert np.array_equal(strips, got)


@pytest.mark.parametrize(
    ("step", "octave"),
    [(1e-3, 0), (1, 0), (2, 0), (2.0008, 0), (2.03, 1), (2.7, 1), (4, 1), (4.1, 2), (8, 2), (256, 7), (1e9, 7)],
)
def test_the_octave_for_a_step(noise: FakeFile, step: float, octave: int) -> None:
    with Container.open(noise.path) as container:
        assert OctaveTiles(container, CPU, 0).sampling(step) == Sampling(octave=octave)


def test_a_view_at_an_octave_is_made_of_the_finer_one_where_its_samples_lie(noise: FakeFile) -> None:
    """At 1/4: pixel 50 covers columns 200 to 204, and sample i of octave 1 columns 2 i - 1/2 to 2 i + 3/2."""
    with Decoder(noise.path, device="cpu") as decoder:
        native = decoder.read_region((200, 0), (4, 2), step=2.0)[0]
        quarter = decoder.read_region((200, 40), (4, 4), step=4.0)[0, 0]
    means = noise.octaves[0][:2, 200:204].astype(float).reshape(2, 2, 2, 3).mean(axis=(0, 2))
    assert np.abs(native - means).max() <= 0.5
    shares = np.array([1.5, 2, 0.5]) / 4  # of samples 100, 101 and 102, and 20, 21 and 22
    want = np.einsum("y,yxc,x", shares, noise.octaves[1][20:23, 100:103].astype(float), shares)
    assert np.abs(quarter - want).max() <= 0.5


def test_an_odd_edge_ends_where_the_slide_ends(noise: FakeFile) -> None:
    """Sample 550 of octave 1 is column 1100, and half a column on either side: the slide has one and a half."""
    with Decoder(noise.path, device="cpu") as decoder:
        across = decoder.read_region((1097, 0), (8, 4), step=4.0)[0]
        last = decoder.read_region((1100, 0), (4, 4), step=4.0)[0, 0]
        past = decoder.read_region((1101, 0), (4, 4), step=4.0)[0, 0]
        before = decoder.read_region((-4, 0), (4, 4), step=4.0)[0, 0]
        partly = decoder.read_region((-3, 0), (4, 4), step=4.0)[0, 0]
    samples = np.array([1.5, 2, 0.5]) @ noise.octaves[1][:3].astype(float).transpose(1, 0, 2) / 4
    want = (0.5 * samples[548] + 2 * samples[549] + 1.5 * samples[550]) / 4
    assert np.abs(across[0] - want).max() <= 0.5
    assert across[1].tolist() == past.tolist() == before.tolist() == list(BACKGROUND)
    assert np.abs(last - samples[550]).max() <= 0.5
    assert np.abs(partly - samples[0]).max() <= 0.5


@pytest.mark.parametrize("wh", [(1101, 699), (1024, 512), (257, 256), (33, 1), (2, 1040)])
@pytest.mark.parametrize("step", [2.0, 2.7, 4.0, 4.5, 9.0, 33.3, 300.0])
def test_edges_of_any_slide_at_any_offset(tmp_path: Path, wh: tuple[int, int], step: float) -> None:
    """Nothing of the slide beyond its edges, nothing but the slide within them, however little lies under a pixel."""
    file = fake_file(tmp_path / "e.cinr", wh)
    octave = min(math.ceil(math.log2(step)) - 1, len(file.octaves) - 1)
    count = 4
    with Decoder(file.path, device="cpu") as decoder:
        for past_px in (0.5, 1, 1.5, 2, 3, 7, 40):
            for corner in range(4):
                # Of four pixels along each axis the second, or the last but one, reaches past an edge by so much.
                low = past_px - 2 * step
                x, y = (low if corner >> a & 1 else wh[a] - past_px - step for a in (0, 1))
                side = math.ceil(count * step)
                got = decoder.read_region((x, y), (side, side), step=step)[:count, :count]  # type: ignore[arg-type]
                want = area_means(file, octave, (x, y), (step, step), got.shape[1::-1])
                assert np.abs(got - want).max() <= 0.6, (past_px, corner)


def test_beside_the_slide_no_chunk_is_read(noise: FakeFile) -> None:
    with Decoder(noise.path, device="cpu") as decoder:
        for step in (0.5, 1.0, 2.0, 2.7, 4.0, 64.0):
            side = round(10 * step)
            for corner in (
                (-side - 2, 0),
                (0, -side - 2),
                (NOISE_WH[0] + 2, 0),
                (0, NOISE_WH[1] + 2),
                (-(10**9), 10**9),
            ):
                assert (decoder.read_region(corner, (side, side), step=step) == BACKGROUND).all()
        assert (decoder.read_region((-40, 0), (40, 40), step=4.0) == BACKGROUND).all()
        assert (decoder.read_region((NOISE_WH[0], 0), (40, 40), step=4.0) == BACKGROUND).all()
    assert not FakeCoder.calls


def test_a_thin_slide_is_seen_whole(tmp_path: Path) -> None:
    """One column of pixels, whose coarsest samples lie nearly outside the slide."""
    thin = fake_file(tmp_path / "thin.cinr", (1, 100_000))
    with Decoder(thin.path, device="cpu") as decoder:
        assert decoder.header.grid.octaves[-1] == 13
        for step, octave in ((512.0, 8), (4096.0, 11), (8192.0, 12), (9000.0, 13)):
            height = round(100_000 / step)
            for x in (0, 1 - round(step)):  # a pixel begins at the slide's column, or ends with it
                view = decoder.read_region((x, 0), (round(step), 100_000), step=step)
                assert view.shape == (height, 1, 3)
                want = area_means(thin, octave, (0, 0), (1, step), (1, height))
                assert np.abs(view - want).max() <= 0.6
            for x in (1, -round(step)):
                beside = decoder.read_region((x, 0), (round(step), 100_000), step=step)
                assert (beside == BACKGROUND).all()


def test_past_native_is_cubic_between_the_pixels(noise: FakeFile) -> None:
    def kernel(x: np.ndarray) -> np.ndarray:
        x = np.abs(x)
        return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, np.where(x < 2, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2, 0))

    def axis(start: int, step: float, count: int, samples: int) -> np.ndarray:
        centre = start + (np.arange(count) + 0.5) * step - 0.5
        taps = np.floor(centre).astype(int)[:, None] + np.arange(-1, 3)
        weights = np.zeros((count, samples))
        for n in range(4):
            np.add.at(weights, (np.arange(count), taps[:, n].clip(0, samples - 1)), kernel(taps[:, n] - centre))
        return weights

    image = noise.octaves[0].astype(np.float64)
    h, w = image.shape[:2]
    for (x, y), step in (((0, 0), 0.5), ((240, 230), 1 / 3), ((1060, 660), 0.37), ((1101 - 40, 699 - 39), 0.93)):
        out_wh = (round(40 / step), round(39 / step))
        with Decoder(noise.path, device="cpu") as decoder:
            got = decoder.read_region((x, y), (40, 39), step=step)
        rows, columns = axis(y, step, out_wh[1], h), axis(x, step, out_wh[0], w)
        want = np.clip(weigh(image, rows, columns), 0, 255)
        assert got.shape == want.shape
        outside = x + (np.arange(out_wh[0]) + 0.5) * step >= w
        assert not outside.all()
        assert (got[:, outside] == BACKGROUND).all()
        # Centres are rounded to 1/4096 sample, in noise of up to 255 a sample.
        below = y + (np.arange(out_wh[1]) + 0.5) * step < h
        assert np.abs(got - want)[below][:, ~outside].max() <= 0.7


def test_past_native_does_not_depend_on_the_region(noise: FakeFile, threads: int) -> None:
    with Decoder(noise.path, device="cpu") as decoder:
        for step in (0.5, 0.4, 1 / 3, 0.25, 0.1):
            whole = decoder.read_region((250, 250), (20, 20), step=step)
            for dx, dy, w, h in ((2, 4, 2, 6), (6, 0, 12, 2), (18, 18, 2, 2)):
                n = 2 / step
                part = decoder.read_region((250 + dx, 250 + dy), (w, h), step=step)
                at = np.s_[round(dy / 2 * n) :, round(dx / 2 * n) :]
                assert np.array_equal(part, whole[at][: part.shape[0], : part.shape[1]])
            strips = np.concatenate(list(decoder.strips((250, 250), (20, 20), step=step, strip_rows=3)))
            assert np.array_equal(strips, whole)
        wide = decoder.read_region((250, 250), (20, 60), out_wh=(50, 25))  # enlarged across, reduced down
        assert np.array_equal(wide[5:10], decoder.read_region((250, 262), (20, 12), out_wh=(50, 5)))
