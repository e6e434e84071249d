"""A slide in, a file out, any region back: the same pixels however they are asked for."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.errors import CorruptFile, UnsupportedVersion, UsageError
from inrwsi.formats.container import Container
from inrwsi.formats.source import open_source
from inrwsi.metrics import psnr
from inrwsi.options import EncodeOptions, EncodeReport
from inrwsi.progress import Progress
from inrwsi.tiles import FieldTiles
from tests.conftest import TILE_PX, WH, Encoded, small_slide


def test_the_picture_comes_back(encoded: Encoded) -> None:
    report = encoded.report
    assert isinstance(report, EncodeReport)
    with Decoder(encoded.path) as decoder:
        decoded = decoder.read_region((0, 0), WH)
    # a fit of seconds; the mean colour alone gives 15 dB
    assert psnr(encoded.pixels, decoded) > 17.5
    assert report.cinr_bytes == os.stat(encoded.path).st_size == 8 * report.cinr_bytes // 8
    assert report.bpp == 8 * os.stat(encoded.path).st_size / (200 * 140)
    assert (report.coded_chunks, report.blank_chunks) == (9, 3)
    assert not encoded.path.with_name("slide.cinr.work").exists()


def test_glass_is_a_colour_and_no_payload(encoded: Encoded) -> None:
    with Container.open(encoded.path) as container:
        entries = {e.chunk_ij: e for e in container.entries(0)}
        assert [ij for ij, e in entries.items() if e.is_blank] == [(3, 0), (3, 1), (3, 2)]
        assert container.chunk(0, (3, 1)).payload is None
        assert container.verify() == []
    with Decoder(encoded.path) as decoder:
        assert (decoder.read_region((192, 0), (8, 140)) == (243, 242, 244)).all()


def test_a_colour_counts_in_the_cache(encoded: Encoded) -> None:
    """Its key and its entry take some hundred bytes: of slides that are nearly all glass that is what there is."""
    with Container.open(encoded.path) as container:
        tiles = FieldTiles(container, torch.device("cpu"), 4 * 600)
        for j in range(3):
            assert tiles._payload((3, j)) == (243, 242, 244)
        assert len(tiles._payloads._entries) == 2


@pytest.mark.parametrize("region", [(0, 0, 200, 140), (50, 45, 77, 81), (63, 63, 2, 2), (199, 139, 1, 1)])
def test_a_region_is_the_same_however_it_is_asked(encoded: Encoded, region: tuple[int, int, int, int]) -> None:
    """Alone, inside the whole, by strips, without a cache, with one thread, and from eight threads at once."""
    x, y, w, h = region
    with Decoder(encoded.path) as decoder:
        want = decoder.read_region((0, 0), WH)[y : y + h, x : x + w]
        strips = np.concatenate(list(decoder.strips((x, y), (w, h), strip_rows=17)))
    assert np.array_equal(strips, want)
    before = torch.get_num_threads()
    for threads, cache_bytes in ((1, 0), (2, 0), (1, 1 << 20), (3, 1 << 28)):
        torch.set_num_threads(threads)
        try:
            with Decoder(encoded.path, cache_bytes=cache_bytes) as fresh:
                assert np.array_equal(fresh.read_region((x, y), (w, h)), want)
        finally:
            torch.set_num_threads(before)
    with Decoder(encoded.path, cache_bytes=1 << 16) as shared:
        results: list[np.ndarray] = []
        workers = [
            threading.Thread(target=lambda: results.append(shared.read_region((x, y), (w, h)))) for _ in range(8)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert len(results) == 8
    assert all(np.array_equal(r, want) for r in results)


def test_below_native_is_the_mean_of_the_footprint(encoded: Encoded) -> None:
    with Decoder(encoded.path) as decoder:
        native = decoder.read_region((0, 0), WH).astype(np.float64)
        quarter = decoder.read_region((0, 0), WH, step=4.0)
        by_size = decoder.read_region((0, 0), WH, out_wh=(50, 35))
        cut = decoder.read_region((40, 80), (120, 40), step=4.0)
    want = np.floor(native.reshape(35, 4, 50, 4, 3).mean(axis=(1, 3)) + 0.5)
    assert np.array_equal(quarter, want)
    assert np.array_equal(by_size, want)
    assert np.array_equal(cut, want[20:30, 10:40])
    with Decoder(encoded.path) as decoder:
        odd = decoder.read_region((0, 0), WH, step=3.7)
    assert odd.shape == (38, 54, 3)
    assert abs(odd.mean() - native.mean()) < 1.0


def test_past_native_the_field_is_evaluated_between_the_pixels(encoded: Encoded) -> None:
    with Decoder(encoded.path) as decoder:
        native = decoder.read_region((60, 40), (50, 30))
        thrice = decoder.read_region((60, 40), (50, 30), step=1 / 3)
        part = decoder.read_region((70, 50), (10, 10), step=1 / 3)
        odd = decoder.read_region((60, 40), (50, 30), step=0.4)
    assert np.array_equal(thrice[1::3, 1::3], native)
    assert np.array_equal(part, thrice[30:60, 30:60])
    nearest = native.repeat(3, axis=0).repeat(3, axis=1)
    assert (thrice != nearest).mean() > 0.5
    assert odd.shape == (75, 125, 3)


def test_outside_the_slide_is_background(encoded: Encoded) -> None:
    with Decoder(encoded.path) as decoder:
        view = decoder.read_region((-10, 130), (30, 20))
        inside = decoder.read_region((0, 130), (20, 10))
        far = decoder.read_region((1000, 1000), (8, 8), step=2.0)
    assert (view[:, :10] == 255).all()
    assert (view[10:] == 255).all()
    assert np.array_equal(view[:10, 10:], inside)
    assert (far == 255).all()
    with Decoder(encoded.path) as decoder, pytest.raises(UsageError, match="0 x 5"):
        decoder.read_region((0, 0), (0, 5))


def _damage(encoded: Encoded, tmp_path: Path, chunk_ij: tuple[int, int]) -> Path:
    """A copy with one bit of one chunk's payload turned."""
    blob = bytearray(encoded.path.read_bytes())
    with Container.open(encoded.path) as container:
        payload = container.chunk(0, chunk_ij).payload
    if payload is None:
        raise ValueError("the chunk is blank")
    blob[blob.index(payload) + len(payload) // 2] ^= 0x10
    path = tmp_path / "damaged.cinr"
    path.write_bytes(blob)
    return path


def test_a_damaged_chunk_costs_its_own_pixels_alone(encoded: Encoded, tmp_path: Path) -> None:
    path = _damage(encoded, tmp_path, (1, 1))
    with Decoder(encoded.path) as decoder:
        want = decoder.read_region((0, 0), WH)
    with Decoder(path) as decoder:
        with pytest.raises(CorruptFile, match=r"column 1, row 1"):
            decoder.read_region((0, 0), WH)
        assert np.array_equal(decoder.read_region((0, 0), (200, 64)), want[:64])
    with Decoder(path, salvage=True) as decoder:
        saved = decoder.read_region((0, 0), WH)
        decoder.read_region((0, 0), WH, step=2.0)
        assert ["column 1, row 1" in d.where for d in decoder.damaged] == [True]
    want[TILE_PX : 2 * TILE_PX, TILE_PX : 2 * TILE_PX] = 255
    assert np.array_equal(saved, want)


def test_an_unknown_model_is_named(tmp_path: Path) -> None:
    from inrwsi.formats.header import GridInfo, Header, SlideInfo
    from inrwsi.formats.writer import ContainerWriter

    header = Header(SlideInfo(20, 20, 3, 8, (255, 255, 255)), GridInfo(32, (0,)), {"name": "tomorrow"})
    with ContainerWriter(tmp_path / "t.cinr", header) as writer:
        writer.put_blank(0, (0, 0), (1, 2, 3))
        writer.finish()
    with pytest.raises(UnsupportedVersion, match="'tomorrow'"):
        Decoder(tmp_path / "t.cinr")


class _Stop(Exception):
    pass


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("stage", ["scan", "network", "tiles", "write"])
def test_a_resumed_encoding_gives_the_same_file(
    encoded: Encoded, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in any stage: nothing under the final name, and going on ends in the same bytes."""
    monkeypatch.setattr("inrwsi.encode_fields.CHECKPOINT_SECONDS", 0.0)
    out = tmp_path / "slide.cinr"
    options = EncodeOptions(model="cinr", tile_px=TILE_PX, passes=3, bpp=3.0, device="cpu")
    seen = 0

    def stop(progress: Progress) -> None:
        nonlocal seen
        seen += progress.stage == stage
        if seen == 7:
            raise _Stop

    with open_source(small_slide(), mpp_um=0.5, objective_power=20) as source:
        with pytest.raises(_Stop):
            encode(source, out, options, progress=stop)
        assert sorted(p.name for p in tmp_path.iterdir()) == ["slide.cinr.work"]
        with pytest.raises(UsageError, match="--resume goes on with it, --overwrite begins again"):
            encode(source, out, options)
        with pytest.raises(UsageError, match="was begun with --passes 3, now it is with --passes 4"):
            encode(source, out, replace(options, passes=4), resume=True)
        stages: list[str] = []
        encode(source, out, options, resume=True, progress=lambda p: stages.append(p.stage))
    assert out.read_bytes() == encoded.path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["slide.cinr"]
    if stage == "write":
        assert "scan" not in stages
        assert "network" not in stages


@pytest.mark.usefixtures("few_steps")
def test_blank_tiles_whose_records_were_lost_are_found_again(encoded: Encoded, tmp_path: Path) -> None:
    out = tmp_path / "slide.cinr"
    options = EncodeOptions(model="cinr", tile_px=TILE_PX, passes=3, bpp=3.0, device="cpu")

    def stop(progress: Progress) -> None:
        if progress.stage == "network":
            raise _Stop

    with open_source(small_slide(), mpp_um=0.5, objective_power=20) as source:
        with pytest.raises(_Stop):
            encode(source, out, options, progress=stop)
        log = tmp_path / "slide.cinr.work" / "chunks.log"
        assert log.stat().st_size > 40
        log.write_bytes(log.read_bytes()[:-20])
        encode(source, out, options, resume=True)
    assert out.read_bytes() == encoded.path.read_bytes()


def test_what_cannot_be_encoded_is_said(tmp_path: Path) -> None:
    with (
        open_source(np.zeros((64, 64, 3), np.uint16)) as deep,
        pytest.raises(UsageError, match="3 channels of 16 bits"),
    ):
        encode(deep, tmp_path / "a.cinr")
    with open_source(small_slide()) as source:
        with pytest.raises(UsageError, match=r"should end in \.cinr"):
            encode(source, tmp_path / "a.png")
        with pytest.raises(UsageError, match="no associated image 'label'"):
            encode(source, tmp_path / "a.cinr", EncodeOptions(keep_associated=("label",)))
        with pytest.raises(UsageError, match="--bpp is 99"):
            EncodeOptions(model="cinr", bpp=99)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(
    ("bpp", "table_bits", "weight_bits", "stored"),
    [(2.0, 4, 16, (0.5, 2.5)), (10.0, 6, 8, (4, 11)), (16.0, 8, 8, (8, 17))],
)
def test_every_depth_of_tables_and_weights(
    tmp_path: Path, bpp: float, table_bits: int, weight_bits: int, stored: tuple[float, float]
) -> None:
    """The target chooses the tables' bits; what the tiles take in the file stays within it."""
    pixels, out = small_slide()[:64, :128], tmp_path / "slide.cinr"
    options = EncodeOptions(model="cinr", tile_px=TILE_PX, passes=2, bpp=bpp, weight_bits=weight_bits, device="cpu")
    with open_source(pixels) as source:
        encode(source, out, options)
    with Decoder(out) as decoder:
        model = decoder.header.model
        assert (model["table_bits"], model["weight_bits"]) == (table_bits, weight_bits)
        entries = list(decoder.container.entries(0))
        low, high = stored
        assert low < 8 * sum(e.payload_bytes for e in entries) / (128 * 64) < high
        assert psnr(pixels, decoder.read_region((0, 0), (128, 64))) > 17.0


def test_memory_does_not_grow_with_the_region(encoded: Encoded, tmp_path: Path) -> None:
    """A tall slide of repeated tiles, decoded in strips: the second half takes no more memory than the first."""
    from inrwsi.formats.writer import ContainerWriter

    with Container.open(encoded.path) as small:
        header = small.header
        tall = replace(header, slide=replace(header.slide, width=1024, height=64 * 60))
        payload = small.chunk(0, (0, 0)).payload
        if payload is None:
            raise ValueError("the chunk is blank")
        with ContainerWriter(tmp_path / "tall.cinr", tall, weights=small.weights()) as writer:
            for n in range(tall.chunk_count):
                writer.put_chunk(0, (n % 16, n // 16), payload)
            writer.finish()

    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to read its own memory")
    with Decoder(tmp_path / "tall.cinr", device="cpu", cache_bytes=1 << 20) as decoder:
        held = [resident_mb() for _ in decoder.strips((0, 0), tall.slide.l0_wh, strip_rows=64)]
    assert len(held) == 60
    assert max(held[30:]) < max(held[10:30]) + 12
