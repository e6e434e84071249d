"""Octaves and their chunks: every region at every octave, decoded once each, and what damage costs. No networks."""

from __future__ import annotations

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
from inrwsi.geometry import Rect
from inrwsi.octave_tiles import OctaveTiles, _use_one_torch_thread
from inrwsi.resample import Sampling
from tests.fake_octaves import BACKGROUND, GLASS, MODEL, FakeCoder, FakeFile, fake_file, header

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


def overlaps(start: float, step: float, count: int, samples: int, end: float) -> np.ndarray:
    """(count, samples): the length that output pixels have in common with samples, of which the last ends at `end`."""
    low = start + np.arange(count)[:, None] * step
    at = np.arange(samples)[None, :]
    return np.clip(np.minimum(low + step, np.minimum(at + 1, end)) - np.maximum(low, at), 0, None)


def weigh(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(h, w, C) samples to (y, x, C) sums, weighed by (y, h) and (x, w)."""
    return np.tensordot(np.tensordot(rows, image, 1), columns, (1, 1)).transpose(0, 2, 1)


@pytest.mark.parametrize("octave", range(8))
def test_every_region_is_its_part_of_the_whole(noise: FakeFile, octave: int, threads: int) -> None:
    scale, want = 2**octave, noise.octaves[octave]
    h, w = want.shape[:2]
    assert len(noise.octaves) == 8
    rng = np.random.default_rng(octave)
    corners = rng.integers(0, (w, h), (6, 2))
    regions = [(0, 0, w, h), (w - 1, h - 1, 1, 1)]
    regions += [(x, y, *(rng.integers(1, (w - x + 1, h - y + 1)).tolist())) for x, y in corners.tolist()]
    for cache_bytes in (0, 1 << 20, 1 << 28):
        with Decoder(noise.path, device="cpu", cache_bytes=cache_bytes) as decoder:
            for x, y, rw, rh in regions if cache_bytes else regions[-2:]:
                at = {"l0_xy": (x * scale, y * scale), "l0_wh": (rw * scale, rh * scale)}
                got = decoder.read_region(**at, step=float(scale))
                assert np.array_equal(got, want[y : y + rh, x : x + rw])
                strips = np.concatenate(list(decoder.strips(**at, step=float(scale), strip_rows=150)))
                assert np.array_equal(strips, got)


@pytest.mark.parametrize("step", [1.5, 2.0, 2.7, 3.0, 5.5, 31.0, 400.0, (260, 150), (600, 7), (7, 600)])
def test_magnifications_between_octaves_are_area_means(noise: FakeFile, step: float | tuple[int, int]) -> None:
    """Of the coarsest octave whose pixels are no larger, of which the slide may end within the last sample."""
    out_wh = step if isinstance(step, tuple) else None
    w, h = out_wh or (round(600 / step), round(600 / step))  # type: ignore[operator]
    x_step, y_step = (600 / w, 600 / h) if out_wh else (step, step)
    octave = int(np.log2(min(x_step, y_step)))  # type: ignore[type-var]
    image, scale, start = noise.octaves[min(octave, 7)].astype(np.float64), 2 ** min(octave, 7), (90, 33)
    x = overlaps(start[0] / scale, x_step / scale, w, image.shape[1], WH[0] / scale)
    y = overlaps(start[1] / scale, y_step / scale, h, image.shape[0], WH[1] / scale)
    want = weigh(image, y, x) / (y.sum(1)[:, None] * x.sum(1)[None])[:, :, None]
    with Decoder(noise.path, device="cpu") as decoder:
        size = {"out_wh": out_wh} if out_wh else {"step": step}
        got = decoder.read_region(start, (600, 600), **size)
        assert got.shape == (h, w, 3)
        assert np.abs(got - want).max() <= 0.6  # half a grey level, and shares rounded to 1/4096
        strips = np.concatenate(list(decoder.strips(start, (600, 600), **size, strip_rows=7)))
    assert np.array_equal(strips, got)


@pytest.mark.parametrize(
    ("step", "octave"), [(1e-3, 0), (1.0, 0), (1.99, 0), (2.0, 1), (2 - 1e-12, 1), (3.9, 1), (4.0, 2), (1e9, 7)]
)
def test_the_octave_for_a_step(noise: FakeFile, step: float, octave: int) -> None:
    with Container.open(noise.path) as container:
        assert OctaveTiles(container, CPU, 0).sampling(step) == Sampling(octave=octave)


def test_an_odd_edge_ends_where_the_slide_ends(noise: FakeFile) -> None:
    """Sample 550 of octave 1 stands for columns 1100 and 1101, of which the slide has the first."""
    with Decoder(noise.path, device="cpu") as decoder:
        inside = decoder.read_region((1099, 0), (4, 2), step=2.0)[0]
        aligned = decoder.read_region((1098, 0), (4, 2), step=2.0)[0]
        mean = decoder.read_region((1097, 0), (4, 4), step=4.0)[0]
    image = noise.octaves[1].astype(int)
    assert np.array_equal(aligned, image[0, 549:551])
    assert np.array_equal(inside[0], (image[0, 549] + image[0, 550] + 1) // 2)
    assert inside[1].tolist() == list(BACKGROUND)
    columns = noise.octaves[2][0, 274:276].astype(float)  # 1097..1100: three quarters of sample 274, one of 275
    assert np.abs(mean[0] - (0.75 * columns[0] + 0.25 * columns[1])).max() <= 0.5


def test_a_thin_slide_is_seen_whole(tmp_path: Path) -> None:
    """One column of pixels, whose coarsest samples lie nearly outside the slide."""
    thin = fake_file(tmp_path / "thin.cinr", (1, 100_000))
    with Decoder(thin.path, device="cpu") as decoder:
        assert decoder.header.grid.octaves[-1] == 13
        for step in (8192.0, 9000.0):
            view = decoder.read_region((0, 0), (1, 100_000), step=step)
            assert view.shape == (round(100_000 / step), 1, 3)
            assert (view != np.array(BACKGROUND)).any(axis=2).all()


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
    with Decoder(file.path, device="cpu") as decoder:
        for octave, want in enumerate(file.octaves):
            got = decoder.read_region((0, 0), WH, step=2.0**octave, out_wh=None)
            assert np.array_equal(got, want[: got.shape[0], : got.shape[1]])
        assert decoder.read_region((300, 300), (5, 5)).tolist() == [[list(GLASS[:channels])] * 5] * 5
    every = {(k, (i, j)) for k in range(8) for i in range(5) for j in range(3)}
    with Decoder(fake_file(tmp_path / "g.cinr", WH, channels=channels, blank=every).path, device="cpu") as decoder:
        FakeCoder.calls.clear()
        assert (decoder.read_region((0, 0), WH) == GLASS[:channels]).all()
        assert (decoder.read_region((10, 10), (99, 99), step=0.3) == GLASS[:channels]).all()
    assert not FakeCoder.calls


@pytest.mark.parametrize("wh", [(1, 1), (16, 16), (17, 1), (256, 512), (257, 513)])
def test_small_slides(tmp_path: Path, wh: tuple[int, int], threads: int) -> None:
    file = fake_file(tmp_path / "s.cinr", wh)
    with Decoder(file.path, device="cpu") as decoder:
        assert np.array_equal(decoder.read_region((0, 0), wh), file.octaves[0])
        for octave, want in enumerate(file.octaves):
            size = (want.shape[1] << octave, want.shape[0] << octave)
            assert np.array_equal(decoder.read_region((0, 0), size, step=2.0**octave), want)


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
            for k, lost in ((0, first_octave_0), (1, first_octave_1 or [])):
                want = good.octaves[k].copy()
                for ij in lost:
                    rect = good.rect(k, ij)
                    want[rect.y : rect.y + rect.h, rect.x : rect.x + rect.w] = BACKGROUND
                size = (want.shape[1] << k, want.shape[0] << k)
                assert np.array_equal(decoder.read_region((0, 0), size, step=2.0**k), want)
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
