"""Encoding with model octaves, its networks replaced by a plain quantiser: which chunks, which bytes, every stop."""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inrwsi import encode_fit, encode_octaves, encode_units
from inrwsi.encode import encode
from inrwsi.encode_units import Blanks, Parts, Plan
from inrwsi.errors import UsageError
from inrwsi.fields.octaves_model import FEATURES, Decoded, OctavesModel
from inrwsi.formats.container import Container
from inrwsi.formats.source import open_source
from inrwsi.formats.source_image import ArraySource
from inrwsi.options import EncodeOptions, EncodeReport
from inrwsi.progress import Progress
from inrwsi.rate_control import step_of_quality
from inrwsi.workers import Workers

GLASS = (243, 242, 244)


class FakeCoder:
    """What `ChunkCoder` gives, by a quantiser in steps of the octave after the octave below drawn large."""

    def __init__(
        self, model: OctavesModel, weights: bytes | None, device: Any, *, encoder: bool = False, analysis: Any = None
    ) -> None:
        assert weights is None
        assert analysis is None
        self.model = model

    def components(self, rgb: np.ndarray) -> np.ndarray:
        assert rgb.dtype == np.uint8
        assert rgb.shape[2] == 3
        return np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32) - 128

    def below(self, target: np.ndarray) -> np.ndarray:
        _, h, w = target.shape
        even = np.pad(target, ((0, 0), (0, h % 2), (0, w % 2)), mode="edge")
        return (even[:, 0::2, 0::2] + even[:, 1::2, 0::2] + even[:, 0::2, 1::2] + even[:, 1::2, 1::2]) / 4

    def encode_root(self, target: np.ndarray) -> tuple[bytes, Decoded]:
        assert max(target.shape) <= 16
        payload = zlib.compress(np.rint(target * 64).astype("<i2").tobytes())
        return payload, self.decode_root(payload, (target.shape[2], target.shape[1]))

    def decode_root(self, payload: bytes, mip_wh: tuple[int, int]) -> Decoded:
        pixels = np.frombuffer(zlib.decompress(payload), "<i2").reshape(3, *mip_wh[::-1])
        return Decoded(pixels, self._features(pixels))

    def encode(self, octave: int, target: np.ndarray, parent: Decoded) -> tuple[bytes, Decoded]:
        assert target.dtype == np.float32
        wh = (target.shape[2], target.shape[1])
        quantised = np.rint((target * 64 - self._guess(parent, wh)) / self._step(octave))
        payload = zlib.compress(quantised.astype("<i2").tobytes(), 1)
        return payload, self.decode(octave, payload, parent, wh)

    def decode(self, octave: int, payload: bytes, parent: Decoded, mip_wh: tuple[int, int]) -> Decoded:
        quantised = np.frombuffer(zlib.decompress(payload), "<i2").reshape(3, *mip_wh[::-1])
        pixels = np.clip(quantised * self._step(octave) + self._guess(parent, mip_wh), -32768, 32767).astype(np.int16)
        return Decoded(pixels, self._features(pixels) if octave else None)

    def rgb(self, decoded: Decoded) -> np.ndarray:
        return np.clip(np.rint(decoded.pixels / 64) + 128, 0, 255).astype(np.uint8).transpose(1, 2, 0)

    def _step(self, octave: int) -> int:
        return max(1, round(self.model.step / 16 / 2**octave))

    def _guess(self, parent: Decoded, mip_wh: tuple[int, int]) -> np.ndarray:
        assert parent.features is not None
        assert parent.pixels.shape[1:] == tuple(-(-side // 2) for side in mip_wh[::-1])
        both = parent.pixels.astype(np.int32) + parent.features[:3]
        return both.repeat(2, axis=1).repeat(2, axis=2)[:, : mip_wh[1], : mip_wh[0]]

    @staticmethod
    def _features(pixels: np.ndarray) -> np.ndarray:
        return np.concatenate([pixels & 31, pixels & 15, pixels[:2] & 7]).astype(np.uint8)


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_coder(monkeypatch)


def patch_coder(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(encode_fit, "ChunkCoder", FakeCoder)
    patch.setattr(encode_octaves.octaves_prior, "current_sha256", lambda: "5e" * 32)


@lru_cache
def texture(w: int, h: int, channels: int = 3) -> np.ndarray:
    """(h, w, channels) uint8 of waves and noise."""
    y, x = np.mgrid[:h, :w]
    wave = 40 * np.sin(x / 9) * np.cos(y / 7) + 25 * np.sin((x + 2 * y) / 61)
    noise = np.random.default_rng(w).normal(0, 9, (h, w, channels))
    return np.clip(np.stack([170 + wave, 90 + 1.2 * wave, 150 - wave], -1)[..., :channels] + noise, 0, 255).astype(
        np.uint8
    )


@lru_cache
def with_glass(w: int, h: int) -> np.ndarray:
    """Texture, and glass of nearly one colour in the right third and in an inner corner."""
    pixels = texture(w, h).copy()
    grain = np.random.default_rng(3).integers(-1, 2, (h, w, 3)) + np.array(GLASS)
    for part in (np.s_[:, 2 * w // 3 :], np.s_[h // 2 :, : w // 3]):
        pixels[part] = grain[part]
    return pixels


def make(pixels: np.ndarray, out: Path, threads: int = 1, **how: Any) -> EncodeReport:
    """Encode, with so many workers."""
    run = {key: how.pop(key) for key in ("progress", "resume", "overwrite") if key in how}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with open_source(pixels) as source:
            return encode(source, out, EncodeOptions(device="cpu", **how), **run)
    finally:
        torch.set_num_threads(before)


def decoded(path: Path) -> tuple[np.ndarray, int]:
    """The slide from its chunks, coarse to fine, as SPEC.md has it; and how many are blank."""
    with Container.open(path) as container:
        header = container.header
        model = header.model
        coder = FakeCoder(
            OctavesModel(model["prior"], model["step"], tuple(model["matrix"]), tuple(model["mean"])), None, 0
        )
        plan = Plan.of(header.slide.l0_wh)
        assert header.grid.octaves == tuple(range(plan.top + 1))
        assert container.verify() == []
        whole = np.zeros((header.slide.height, header.slide.width, header.slide.channels), np.uint8)
        held: dict[tuple[int, tuple[int, int]], Decoded] = {}
        blank = 0
        for octave in range(plan.top, -1, -1):
            for ij in plan.chunks(octave):
                chunk, rect = container.chunk(octave, ij), plan.rect(octave, ij)
                if chunk.payload is None:
                    blank += 1
                    here: Any = chunk.colour
                    children = plan.children(octave, ij) if octave else ()
                    assert all(container.chunk(octave - 1, c).colour == here for c in children)
                elif octave == plan.top:
                    held[octave, ij] = coder.decode_root(chunk.payload, (rect.w, rect.h))
                else:
                    parent = held[octave + 1, (ij[0] // 2, ij[1] // 2)]
                    part = encode_units.quadrant(plan, octave, ij, parent)
                    held[octave, ij] = coder.decode(octave, chunk.payload, part, (rect.w, rect.h))
                    here = coder.rgb(held[octave, ij])[..., : header.slide.channels]
                if octave == 0:
                    whole[rect.y : rect.y + rect.h, rect.x : rect.x + rect.w] = here
    return whole, blank


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    mse = ((a.astype(np.float64) - b) ** 2).mean()
    return 10 * math.log10(255**2 / mse) if mse else math.inf


# What is in a file


@pytest.mark.parametrize(
    "wh",
    [(700, 531), (1500, 1300), (2100, 1030), (1, 1), (17, 9), (33, 20), (64, 65), (257, 1), (1, 3000), (513, 1025)],
)
def test_every_chunk_decodes_to_what_the_report_says(wh: tuple[int, int], tmp_path: Path) -> None:
    pixels, out = with_glass(*wh), tmp_path / "a.cinr"
    report = make(pixels, out, quality=75)
    back, blank = decoded(out)
    with Container.open(out) as container:
        assert container.header.model["step"] == report.step == step_of_quality(75)
        assert container.header.chunk_count == report.blank_chunks + report.coded_chunks
    assert (report.blank_chunks, report.cinr_bytes) == (blank, out.stat().st_size)
    assert report.psnr_db == pytest.approx(psnr(pixels, back), abs=1e-9)
    assert psnr(pixels, back) > 33
    assert [p.name for p in tmp_path.iterdir()] == ["a.cinr"]


def test_true_octaves_are_those_of_whole_chunks(tmp_path: Path) -> None:
    """At the finest step each octave decodes to the mean over its footprint, as `below` has it."""
    pixels, out = texture(1500, 1300), tmp_path / "a.cinr"
    make(pixels, out, psnr_db=50, effort="fast")
    with Container.open(out) as container:
        plan, model = Plan.of((1500, 1300)), container.header.model
        coder = FakeCoder(
            OctavesModel(model["prior"], model["step"], tuple(model["matrix"]), tuple(model["mean"])), None, 0
        )
        held: dict[Any, Decoded] = {}
        for octave in range(plan.top, 2, -1):
            for ij in plan.chunks(octave):
                rect, payload = plan.rect(octave, ij), container.chunk(octave, ij).payload
                assert payload is not None
                if octave == plan.top:
                    held[octave, ij] = coder.decode_root(payload, (rect.w, rect.h))
                else:
                    part = encode_units.quadrant(plan, octave, ij, held[octave + 1, (ij[0] // 2, ij[1] // 2)])
                    held[octave, ij] = coder.decode(octave, payload, part, (rect.w, rect.h))
    true = coder.components(pixels)
    for _ in range(3):
        true = coder.below(true)
    assert np.abs(held[3, (0, 0)].pixels / 64 - true).max() < model["step"] / 1024


def test_grey_is_coded_and_comes_back(tmp_path: Path) -> None:
    pixels = texture(600, 500, 1)
    report = make(pixels, tmp_path / "a.cinr", quality=70)
    back, _ = decoded(tmp_path / "a.cinr")
    assert back.shape == (500, 600, 1)
    assert report.psnr_db == pytest.approx(psnr(pixels, back), abs=1e-9)


def test_glass_of_nearly_one_colour_costs_a_colour(tmp_path: Path) -> None:
    """A slide of glass is one colour throughout; a step of the light in it leaves two."""
    glass = np.random.default_rng(0).integers(-1, 2, (1100, 1300, 3)) + np.array(GLASS)
    flat = glass.astype(np.uint8)
    report = make(flat, tmp_path / "a.cinr")
    back, _ = decoded(tmp_path / "a.cinr")
    assert report.coded_chunks == 0
    assert (back == GLASS).all()
    assert report.psnr_db == pytest.approx(psnr(flat, back), abs=1e-9)
    glass[:, 1024:] -= 6
    stepped = glass.astype(np.uint8)
    report = make(stepped, tmp_path / "b.cinr")
    back, blank = decoded(tmp_path / "b.cinr")
    assert sorted(map(tuple, np.unique(back.reshape(-1, 3), axis=0).tolist())) == sorted(
        [GLASS, tuple(v - 6 for v in GLASS)]
    )
    plan = Plan.of((1300, 1100))
    above = sum(math.prod(plan.grid(k)) for k in range(3, plan.top + 1))
    assert (report.coded_chunks, report.blank_chunks) == (above, blank)


def test_a_noisy_quality_costs_more_where_it_is_higher(tmp_path: Path) -> None:
    pixels = with_glass(700, 531)
    reports = [make(pixels, tmp_path / f"{q}.cinr", quality=q) for q in (20, 50, 80)]
    assert [r.cinr_bytes for r in reports] == sorted(r.cinr_bytes for r in reports)
    assert reports[0].psnr_db < reports[1].psnr_db < reports[2].psnr_db  # type: ignore[operator]


# The same bytes


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def test_bytes_do_not_depend_on_workers_or_memory(tmp_path: Path) -> None:
    pixels = with_glass(2300, 1300)
    want = None
    for threads, memory_mb in ((1, 1024), (2, 1024), (3, 256), (5, 4096)):
        before = torch.get_num_threads()
        make(pixels, tmp_path / "a.cinr", threads, ratio=12, memory_mb=memory_mb, overwrite=True)
        assert torch.get_num_threads() == before
        want = want or digest(tmp_path / "a.cinr")
        assert digest(tmp_path / "a.cinr") == want


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the file that `test_a_resumed_encoding_gives_the_same_file` ends in."""
    out = tmp_path_factory.mktemp("whole") / "a.cinr"
    with pytest.MonkeyPatch.context() as patch:
        patch_coder(patch)
        patch.setattr(encode_octaves, "settle", two_rounds)
        make(with_glass(2300, 1300), out, 2, size_bytes=400_000)
    return digest(out)


class _Stop(Exception):
    pass


def stopping(stage: str, after: int) -> Callable[[Progress], None]:
    """Raises at the `after`th report of a stage."""
    seen = 0

    def stop(progress: Progress) -> None:
        nonlocal seen
        seen += progress.stage == stage
        if seen == after:
            raise _Stop

    return stop


@pytest.mark.parametrize(
    ("stage", "after"),
    [
        *(("scan", 1), ("scan", 6), ("search", 2), ("search", 9), ("encode", 1), ("encode", 4), ("encode", 8)),
        *(("write", 1), ("write", 50), ("encode, round 2", 1), ("encode, round 2", 6), ("write, round 2", 20)),
    ],
)
def test_a_resumed_encoding_gives_the_same_file(
    stage: str, after: int, uninterrupted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_octaves, "settle", two_rounds)
    pixels, out = with_glass(2300, 1300), tmp_path / "a.cinr"
    with pytest.raises(_Stop):
        make(pixels, out, 2, size_bytes=400_000, progress=stopping(stage, after))
    assert [p.name for p in tmp_path.iterdir()] == ["a.cinr.work"]
    with pytest.raises(UsageError, match="--resume goes on with it, --overwrite begins again"):
        make(pixels, out, size_bytes=400_000)
    with pytest.raises(UsageError, match="was begun with size_bytes 400000, now it is 500000"):
        make(pixels, out, size_bytes=500_000, resume=True)
    stages: list[str] = []
    make(pixels, out, 1, size_bytes=400_000, resume=True, progress=lambda p: stages.append(p.stage))
    assert digest(out) == uninterrupted
    assert [p.name for p in tmp_path.iterdir()] == ["a.cinr"]
    if stage not in ("scan", "search"):
        assert not {"scan", "search"} & set(stages)
    if "round 2" in stage:
        assert "encode" not in stages


def two_rounds(goal: Any, curve: Any, encode_with: Callable[[int], Any]) -> int:
    """In place of `settle`: a round that misses, so that there is a second."""
    encode_with(curve.step(goal.wanted) * 2)
    step = curve.step(goal.wanted)
    encode_with(step)
    return int(step)


def test_a_log_that_a_kill_cut_goes_on(tmp_path: Path) -> None:
    """Whatever of the log's end is lost, and whatever stands there instead, the file is the same."""
    pixels, out = with_glass(1500, 1300), tmp_path / "a.cinr"
    make(pixels, tmp_path / "want.cinr")
    with pytest.raises(_Stop):
        make(pixels, out, progress=stopping("write", 3))
    (log,) = (tmp_path / "a.cinr.work").glob("round-*.log")
    whole = log.read_bytes()
    for keep in (0, 1, len(whole) // 3, len(whole) - 1):
        log.write_bytes(whole[:keep] + b"\x07" * 5)
        with pytest.raises(_Stop):
            make(pixels, out, resume=True, progress=stopping("write", 3))
        assert log.stat().st_size == len(whole)
    log.write_bytes(whole[: len(whole) // 2])
    make(pixels, out, resume=True)
    assert digest(out) == digest(tmp_path / "want.cinr")


def test_what_lies_on_disk_between_stages_is_checked(tmp_path: Path) -> None:
    pixels, out = with_glass(1500, 1300), tmp_path / "a.cinr"
    with pytest.raises(_Stop):
        make(pixels, out, progress=stopping("encode", 1))
    path = tmp_path / "a.cinr.work" / "true-2.parts"
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=r"true-2\.parts: is damaged; encode again with --overwrite"):
        make(pixels, out, resume=True)
    make(pixels, out, overwrite=True)
    assert decoded(out)[1] > 0


# Targets


TARGETS = (
    {"size_bytes": 0.045},
    {"size_bytes": 0.2},
    {"ratio": 9.0},
    {"ratio": 30.0},
    {"psnr_db": 31},
    {"psnr_db": 44.5},
)


@pytest.mark.parametrize(
    ("shape", "how"),
    [
        *(((700, 531), how) for how in TARGETS),
        *(((1500, 1300), how) for how in TARGETS[2:4]),
        *(((3600, 2300), how) for how in TARGETS[1::3]),  # more units than are in the sample
    ],
)
def test_targets_are_met(shape: tuple[int, int], how: dict[str, float], tmp_path: Path) -> None:
    pixels, out = with_glass(*shape), tmp_path / "a.cinr"
    (name, value), raw = next(iter(how.items())), math.prod(shape) * 3
    value = round(value * raw) if name == "size_bytes" else value
    report = make(pixels, out, effort="fast", **{name: value})
    if name == "psnr_db":
        assert psnr(pixels, decoded(out)[0]) == pytest.approx(value, abs=0.1)
    else:
        want = value if name == "size_bytes" else raw / value
        assert out.stat().st_size == pytest.approx(want, rel=0.0201)
    assert report.cinr_bytes == out.stat().st_size


def test_what_no_step_reaches_is_said(tmp_path: Path) -> None:
    pixels, out = with_glass(700, 531), tmp_path / "a.cinr"
    with pytest.raises(UsageError, match="--size 300 cannot be reached on this slide; the nearest that can is about"):
        make(pixels, out, size_bytes=300)
    with pytest.raises(UsageError, match="--psnr 70 cannot be reached on this slide; the nearest that can is"):
        make(pixels, out, psnr_db=70, overwrite=True)
    assert not out.exists()


# Work in pieces


def test_units_in_flight_are_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    held, most = 0, 0
    lock = threading.Lock()
    read, encode_unit, scan_unit = ArraySource.read, encode_octaves.encode_unit, encode_octaves.scan_unit

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def work(*arguments: Any) -> Any:
            nonlocal held
            try:
                return function(*arguments)
            finally:
                with lock:
                    held -= 1

        return work

    def reading(self: Any, l0_xy: tuple[int, int], wh: tuple[int, int]) -> np.ndarray:
        nonlocal held, most
        if max(wh) > encode_octaves.WINDOW_PX:
            with lock:
                held += 1
                most = max(most, held)
        return read(self, l0_xy, wh)

    monkeypatch.setattr(ArraySource, "read", reading)
    monkeypatch.setattr(encode_octaves, "encode_unit", counted(encode_unit))
    monkeypatch.setattr(encode_octaves, "scan_unit", counted(scan_unit))
    make(texture(4000, 3000), tmp_path / "a.cinr", 8, memory_mb=256)
    # 256 MB, half of it for units of 48 MB.
    assert held == 0
    assert most == 2


def test_workers_hand_over_everything_and_stop_at_an_error() -> None:
    with Workers(3) as workers:
        assert sorted(workers.run(lambda n: n * n, range(20), most=4)) == [(n, n * n) for n in range(20)]
        assert list(workers.run(lambda n: n, [], most=4)) == []
        begun: list[int] = []

        def work(n: int) -> int:
            begun.append(n)
            if n == 5:
                raise ValueError("five")
            return torch.get_num_threads()

        with pytest.raises(ValueError, match="five"):
            list(workers.run(work, range(1000), most=4))
        assert len(begun) < 20
        assert {threads for _, threads in workers.run(work, range(6, 9), most=2)} == {1}


@pytest.mark.parametrize("wh", [(1, 1), (40, 30), (1500, 1300), (5000, 300)])
def test_a_plan_covers_the_slide_once(wh: tuple[int, int]) -> None:
    plan = Plan.of(wh)
    assert plan.unit == min(2, plan.top - 1)
    assert sorted(ij for unit in plan.chunks(plan.unit) for ij in plan.leaves(unit)) == sorted(plan.chunks(0))
    for octave in range(1, plan.top + 1):
        children = [c for ij in plan.chunks(octave) for c in plan.children(octave, ij)]
        assert sorted(children) == sorted(plan.chunks(octave - 1))
        for ij in plan.chunks(octave):
            covered = np.zeros((plan.rect(octave, ij).h, plan.rect(octave, ij).w), int)
            for child in plan.children(octave, ij):
                part = plan.quadrant(octave - 1, child)
                covered[part.y : part.y + part.h, part.x : part.x + part.w] += 1
            assert (covered == 1).all()


def test_parts_come_back_in_any_order(tmp_path: Path) -> None:
    plan, rng = Plan.of((1500, 1300)), np.random.default_rng(2)
    parts = Parts(tmp_path / "a.parts", plan, 0, FEATURES)
    kept = {}
    for ij in sorted(plan.chunks(0), key=lambda ij: rng.random()):
        rect = plan.quadrant(0, ij)
        kept[ij] = Decoded(
            rng.integers(-32768, 32767, (3, rect.h, rect.w)).astype(np.int16),
            rng.integers(0, 255, (FEATURES, rect.h, rect.w)).astype(np.uint8),
        )
        parts.put(ij, kept[ij])
    parts.close()
    parts = Parts(tmp_path / "a.parts", plan, 0, FEATURES)
    for ij, part in kept.items():
        back = parts.get(ij)
        assert np.array_equal(back.pixels, part.pixels)
        assert back.features is not None
        assert np.array_equal(back.features, part.features)
    parts.remove()
    assert not list(tmp_path.iterdir())


def test_blank_octaves_are_those_of_one_colour_alone() -> None:
    plan = Plan.of((2048, 1024))
    blanks = Blanks(plan, 1)
    records = {(0, 0): [(1, 9)] * 16, (1, 0): [(1, 9)] * 10 + [(1, 8)] + [(1, 9)] * 4 + [(0, 0)]}
    for ij, record in records.items():
        blanks.take(ij, (5).to_bytes(8, "little") + b"".join(bytes(r) for r in record))
    blanks.finish()
    assert blanks.sse == 10
    assert [len(blanks.coded(k)) for k in range(4)] == [1, 1, 1, 1]
    assert (blanks.coded(1), blanks.coded(2), blanks.coded(3)) == ([(3, 1)], [(1, 0)], [(0, 0)])
    assert (blanks.colour(2, (0, 0)), blanks.colour(0, (6, 2)), blanks.colour(0, (7, 3))) == ((9,), (8,), None)
    assert blanks.coded_px(0, list(plan.chunks(0))) == 256 * 256


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Every test leaves torch's threads as they were."""
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before
