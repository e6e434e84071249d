"""Octaves and their chunks: every region at every octave, decoded once each, and what damage costs. No networks."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inrwsi.config import to_dict
from inrwsi.decode import Decoder
from inrwsi.errors import Cause, CorruptFile
from inrwsi.formats.container import Container
from inrwsi.formats.header import GridInfo, Header
from inrwsi.formats.writer import ContainerWriter
from inrwsi.geometry import Rect, octave_wh
from inrwsi.octave_tiles import OctaveTiles, _use_one_torch_thread
from inrwsi.resample import Sampling
from tests.fake_octaves import BACKGROUND, GLASS, MODEL, FakeCoder, FakeFile, area_means, fake_file, header, weigh

WH = (1101, 699)  # 5 x 3, 3 x 2, 2 x 1 chunks, then one an octave; no side that halves evenly throughout
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    monkeypatch.setattr(FakeCoder, "seconds", 0.0)
    FakeCoder.calls.clear()


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> FakeFile:
    return fake_file(tmp_path_factory.mktemp("octaves") / "noise.cinr", WH)


def plain(tiles: OctaveTiles, octave: int, rect: Rect) -> np.ndarray:
    """The pixels of an octave as they are, (h, w, channels) uint8; where a chunk is damaged, the background."""
    slide = tiles._slide
    out = np.full((rect.h, rect.w, slide.channels), 7, np.uint8)
    seen = np.zeros((rect.h, rect.w), np.int64)
    for block, content in tiles.blocks(rect, Sampling(octave=octave)):
        part = block.intersect(rect)
        at = np.s_[part.y - rect.y : part.y - rect.y + part.h, part.x - rect.x : part.x - rect.x + part.w]
        colours = np.array(slide.background if isinstance(content, CorruptFile) else content)
        whole = np.broadcast_to(colours, (block.h, block.w, slide.channels))
        out[at] = whole[part.y - block.y :, part.x - block.x :][: part.h, : part.w]
        seen[at] += 1
    assert (seen == 1).all()
    return out


def plain_octave(tiles: OctaveTiles, octave: int) -> np.ndarray:
    return plain(tiles, octave, Rect(0, 0, *octave_wh(tiles._slide.l0_wh, octave)))


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
    w, h = (-(-side // (apart * step)) * apart for side in WH)
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
        strips = decoder.strips((0, 0), WH, step=step, strip_rows=23)
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
    [(1e-3, 0), (1, 0), (2, 0), (2 + 1e-12, 0), (2.001, 1), (2.7, 1), (4, 1), (4.1, 2), (8, 2), (256, 7), (1e9, 7)],
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
            for corner in ((-side - 2, 0), (0, -side - 2), (WH[0] + 2, 0), (0, WH[1] + 2), (-(10**9), 10**9)):
                assert (decoder.read_region(corner, (side, side), step=step) == BACKGROUND).all()
        assert (decoder.read_region((-40, 0), (40, 40), step=4.0) == BACKGROUND).all()
        assert (decoder.read_region((WH[0], 0), (40, 40), step=4.0) == BACKGROUND).all()
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


@pytest.mark.parametrize("channels", [1, 3])
def test_blank_chunks_and_their_children(tmp_path: Path, channels: int, threads: int) -> None:
    """Glass in any octave, coded chunks under glass among them, and a slide of one colour throughout."""
    blank = {(0, (1, 1)), (0, (4, 2)), (1, (1, 0)), (2, (1, 0)), (7, (0, 0))}
    file = fake_file(tmp_path / "b.cinr", WH, channels=channels, blank=blank)
    with Container.open(file.path) as container:
        tiles = OctaveTiles(container, CPU, 1 << 28)
        for octave, want in enumerate(file.octaves):
            assert np.array_equal(plain_octave(tiles, octave), want)
    with Decoder(file.path, device="cpu") as decoder:
        for octave in range(8):
            step = 2.0 ** (octave + 1)
            got = decoder.read_region((0, 0), WH, step=step)
            assert np.abs(got - area_means(file, octave, (0, 0), (step, step), got.shape[1::-1])).max() <= 0.6
        assert decoder.read_region((300, 300), (5, 5)).tolist() == [[list(GLASS[:channels])] * 5] * 5
    every = {(k, (i, j)) for k in range(8) for i in range(5) for j in range(3)}
    with Decoder(fake_file(tmp_path / "g.cinr", WH, channels=channels, blank=every).path, device="cpu") as decoder:
        FakeCoder.calls.clear()
        assert (decoder.read_region((0, 0), WH) == GLASS[:channels]).all()
        for step in (0.3, 2.0, 2.7, 64.0):
            assert (decoder.read_region((10, 10), (99, 99), step=step) == GLASS[:channels]).all()
    assert not FakeCoder.calls


@pytest.mark.parametrize("wh", [(1, 1), (16, 16), (17, 1), (256, 512), (257, 513)])
def test_small_slides(tmp_path: Path, wh: tuple[int, int], threads: int) -> None:
    file = fake_file(tmp_path / "s.cinr", wh)
    with Decoder(file.path, device="cpu") as decoder:
        assert np.array_equal(decoder.read_region((0, 0), wh), file.octaves[0])
        for octave in range(len(file.octaves)):
            step, size = 2.0 ** (octave + 1), octave_wh(wh, octave + 1)
            got = decoder.read_region((0, 0), (size[0] << octave + 1, size[1] << octave + 1), step=step)
            assert got.shape == (size[1], size[0], 3)
            assert np.abs(got - area_means(file, octave, (0, 0), (step, step), size)).max() <= 0.6
    with Container.open(file.path) as container:
        tiles = OctaveTiles(container, CPU, 1 << 20)
        for octave, want in enumerate(file.octaves):
            assert np.array_equal(plain_octave(tiles, octave), want)


def test_each_chunk_is_decoded_once_and_memory_is_bounded(noise: FakeFile, threads: int) -> None:
    with Decoder(noise.path, device="cpu") as decoder:
        decoder.read_region((0, 0), WH)
        assert set(FakeCoder.calls) == set(noise.payloads.values())
        assert set(FakeCoder.calls.values()) == {1}
        decoder.read_region((100, 100), (900, 500), step=3.0)
        assert set(FakeCoder.calls.values()) == {1}
    # Room for a few chunks: what has gone is decoded again, with what it needs.
    FakeCoder.calls.clear()
    with Decoder(noise.path, device="cpu", cache_bytes=3 << 20) as decoder:
        tiles = decoder._model
        assert isinstance(tiles, OctaveTiles)
        for _ in range(2):
            decoder.read_region((0, 0), WH)
            for cache in (tiles._decoded, tiles._shown):
                held = cache._held
                assert held._held == sum(v.nbytes for v in held._entries.values()) <= 3 << 19
    assert FakeCoder.calls[noise.payloads[0, (0, 0)]] == 2
    assert FakeCoder.calls[noise.payloads[1, (0, 0)]] >= 2


def test_many_threads_decode_each_chunk_once(noise: FakeFile, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeCoder, "seconds", 0.005)
    regions = [(0, 0, 1101, 699), (200, 200, 600, 300), (255, 255, 2, 2), (512, 0, 512, 512)] * 2
    results: dict[int, np.ndarray] = {}
    with Decoder(noise.path, device="cpu") as decoder:

        def read(number: int) -> None:
            x, y, w, h = regions[number]
            results[number] = decoder.read_region((x, y), (w, h))

        readers = [threading.Thread(target=read, args=(n,)) for n in range(len(regions))]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join(60)
    for number, (x, y, w, h) in enumerate(regions):
        assert np.array_equal(results[number], noise.octaves[0][y : y + h, x : x + w])
    assert set(FakeCoder.calls.values()) == {1}


@pytest.mark.parametrize(
    ("damaged", "first_octave_1", "first_octave_0"),
    [
        ((0, (1, 1)), None, [(1, 1)]),
        ((1, (1, 0)), [(1, 0)], [(2, 0), (3, 0), (2, 1), (3, 1)]),
        ((2, (1, 0)), [(2, 0), (2, 1)], [(4, 0), (4, 1), (4, 2)]),
    ],
)
def test_damage_costs_a_chunk_and_its_descendants(
    tmp_path: Path,
    damaged: tuple[int, tuple[int, int]],
    first_octave_1: list[tuple[int, int]] | None,
    first_octave_0: list[tuple[int, int]],
    threads: int,
) -> None:
    """The chunk's checksum fails, or its payload is nonsense: the error names the chunk that is damaged itself."""
    octave, (column, row) = damaged
    good = fake_file(tmp_path / "good.cinr", WH)
    flipped = bytearray(good.path.read_bytes())
    flipped[flipped.index(good.payloads[damaged]) + 5] ^= 4
    (tmp_path / "flipped.cinr").write_bytes(flipped)
    named = rf"octave {octave}, column {column}, row {row}: "
    for path, what in (
        (tmp_path / "flipped.cinr", "its .* do not match their checksum"),
        (fake_file(tmp_path / "bad.cinr", WH, bad=[damaged]).path, "it is not zlib"),
    ):
        with Decoder(path, device="cpu") as decoder:
            with pytest.raises(CorruptFile, match=named + what) as caught:
                decoder.read_region((0, 0), WH)
            assert caught.value.cause == Cause.CHUNK
            assert np.array_equal(decoder.read_region((0, 0), (256, 256)), good.octaves[0][:256, :256])
        with Decoder(path, device="cpu", salvage=True) as decoder:
            spared: dict[int, np.ndarray] = {}
            for k, lost in ((0, first_octave_0), (1, first_octave_1 or [])):
                spared[k] = good.octaves[k].copy()
                for ij in lost:
                    rect = good.rect(k, ij)
                    spared[k][rect.y : rect.y + rect.h, rect.x : rect.x + rect.w] = BACKGROUND
                assert isinstance(decoder._model, OctaveTiles)
                assert np.array_equal(plain_octave(decoder._model, k), spared[k])
            assert np.array_equal(decoder.read_region((0, 0), WH), spared[0])
            left = replace(good, octaves=(spared[0], spared[1]))
            for k, step in ((0, 2.0), (1, 4.0), (1, 2.7)):
                got = decoder.read_region((0, 0), WH, step=step)
                assert np.abs(got - area_means(left, k, (0, 0), (step, step), got.shape[1::-1])).max() <= 0.6
            assert [d.where.startswith(f"octave {octave}, column {column}, row {row}") for d in decoder.damaged] == [
                True
            ]


def test_no_more_is_begun_than_will_soon_be_taken(noise: FakeFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks come in their order; those ahead of the reader are bounded, and dropped when it stops."""
    monkeypatch.setattr("inrwsi.octave_tiles.AHEAD", 4)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with Container.open(noise.path) as container:
            tiles = OctaveTiles(container, CPU, 1 << 28)
            blocks = tiles.blocks(Rect(0, 0, *WH), Sampling())
            first, _ = next(blocks)
            time.sleep(0.2)
            finest = [payload for (octave, _), payload in noise.payloads.items() if octave == 0]
            assert first == Rect(0, 0, 256, 256)
            assert sum(FakeCoder.calls[payload] for payload in finest) == 4
            blocks.close()  # type: ignore[attr-defined]
            order = [(r.x // 256, r.y // 256) for r, _ in tiles.blocks(Rect(300, 10, 600, 500), Sampling())]
        assert order == [(1, 0), (2, 0), (3, 0), (1, 1), (2, 1), (3, 1)]
    finally:
        torch.set_num_threads(before)


def test_a_thread_of_the_pool_leaves_the_others_their_torch_threads() -> None:
    before, seen = torch.get_num_threads(), []

    def worker() -> None:
        _use_one_torch_thread()
        torch.ones(9).sum()
        seen.append(torch.get_num_threads())

    try:
        torch.set_num_threads(3)
        for target in (worker, lambda: seen.append(torch.get_num_threads())):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
        assert [*seen, torch.get_num_threads()] == [1, 3, 3]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"grid": GridInfo(256, (0, 1, 2))}, r"grid\.octaves is \[0, 1, 2\], should be 0 to 7"),
        ({"grid": GridInfo(256, (*range(7), 8))}, r"grid\.octaves is .*, should be 0 to 7"),
        ({"grid": GridInfo(512, tuple(range(8)))}, r"grid\.chunk_px is 512, should be 256"),
        ({"model": {**to_dict(MODEL), "step": 1}}, r"model\.step is 1, should be from 512"),
        ({"model": {**to_dict(MODEL), "more": 1}}, r"model\..*more.* is not a known key"),
        ({"channels": 4}, "the slide has 4 channels of 8 bits, should have 1 or 3"),
        ({"bit_depth": 16}, "the slide has 3 channels of 16 bits"),
        ({"weights": b"there are some"}, "weights.*: there are weights"),
    ],
)
def test_what_is_not_of_the_model_is_refused(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    weights, whole = change.get("weights"), header(WH)
    slide_change = {k: v for k, v in change.items() if k in ("channels", "bit_depth")}
    channels = int(str(slide_change.get("channels", 3)))
    slide = replace(whole.slide, **slide_change, background=(9,) * channels)  # type: ignore[arg-type]
    grid, model = change.get("grid", whole.grid), change.get("model", whole.model)
    changed = Header(slide, grid, model)  # type: ignore[arg-type]
    with ContainerWriter(tmp_path / "w.cinr", changed, weights=weights) as writer:  # type: ignore[arg-type]
        for number in range(changed.chunk_count):
            writer.put_blank(*changed.chunk_at(number), (9,) * channels)
        writer.finish()
    with pytest.raises(CorruptFile, match=sentence):
        Decoder(tmp_path / "w.cinr", device="cpu")
