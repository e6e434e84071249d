"""What is decoded for a region, by whom and how often; glass, damage, and files that are refused."""

from __future__ import annotations

import threading
import time
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
from tests.conftest import NOISE_WH
from tests.fake_octaves import BACKGROUND, GLASS, MODEL, FakeCoder, FakeFile, area_means, fake_file, header
from tests.octaves_plain import plain_octave

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("fake")


@pytest.mark.parametrize("channels", [1, 3])
def test_blank_chunks_and_their_children(tmp_path: Path, channels: int, threads: int) -> None:
    """Glass in any octave, coded chunks under glass among them, and a slide of one colour throughout."""
    blank = {(0, (1, 1)), (0, (4, 2)), (1, (1, 0)), (2, (1, 0)), (7, (0, 0))}
    file = fake_file(tmp_path / "b.cinr", NOISE_WH, channels=channels, blank=blank)
    with Container.open(file.path) as container:
        tiles = OctaveTiles(container, CPU, 1 << 28)
        for octave, want in enumerate(file.octaves):
            assert np.array_equal(plain_octave(tiles, octave), want)
    with Decoder(file.path, device="cpu") as decoder:
        for octave in range(8):
            step = 2.0 ** (octave + 1)
            got = decoder.read_region((0, 0), NOISE_WH, step=step)
            assert np.abs(got - area_means(file, octave, (0, 0), (step, step), got.shape[1::-1])).max() <= 0.6
        assert decoder.read_region((300, 300), (5, 5)).tolist() == [[list(GLASS[:channels])] * 5] * 5
    every = {(k, (i, j)) for k in range(8) for i in range(5) for j in range(3)}
    with Decoder(
        fake_file(tmp_path / "g.cinr", NOISE_WH, channels=channels, blank=every).path, device="cpu"
    ) as decoder:
        FakeCoder.calls.clear()
        assert (decoder.read_region((0, 0), NOISE_WH) == GLASS[:channels]).all()
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
        decoder.read_region((0, 0), NOISE_WH)
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
            decoder.read_region((0, 0), NOISE_WH)
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
    good = fake_file(tmp_path / "good.cinr", NOISE_WH)
    flipped = bytearray(good.path.read_bytes())
    flipped[flipped.index(good.payloads[damaged]) + 5] ^= 4
    (tmp_path / "flipped.cinr").write_bytes(flipped)
    named = rf"octave {octave}, column {column}, row {row}: "
    for path, what in (
        (tmp_path / "flipped.cinr", "its .* do not match their checksum"),
        (fake_file(tmp_path / "bad.cinr", NOISE_WH, bad=[damaged]).path, "it is not zlib"),
    ):
        with Decoder(path, device="cpu") as decoder:
            with pytest.raises(CorruptFile, match=named + what) as caught:
                decoder.read_region((0, 0), NOISE_WH)
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
            assert np.array_equal(decoder.read_region((0, 0), NOISE_WH), spared[0])
            left = replace(good, octaves=(spared[0], spared[1]))
            for k, step in ((0, 2.0), (1, 4.0), (1, 2.7)):
                got = decoder.read_region((0, 0), NOISE_WH, step=step)
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
            blocks = tiles.blocks(Rect(0, 0, *NOISE_WH), Sampling())
            first, _ = next(blocks)
            finest = [payload for (octave, _), payload in noise.payloads.items() if octave == 0]
            until = time.monotonic() + 30
            while sum(FakeCoder.calls[payload] for payload in finest) < 4 and time.monotonic() < until:
                time.sleep(0.01)
            time.sleep(0.2)  # for what should not be begun
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
    weights, whole = change.get("weights"), header(NOISE_WH)
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
