"""Encoding with model octaves, its networks replaced by a plain quantiser: which chunks, which bytes, every stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inrwsi import encode_octaves, encode_units
from inrwsi.encode_units import Plan
from inrwsi.errors import UsageError
from inrwsi.fields.octaves_model import Decoded, OctavesModel
from inrwsi.formats.container import Container
from inrwsi.job import Log
from inrwsi.rate_control import step_of_quality
from tests.octaves_encoded import (
    GLASS,
    _Stop,
    coder_of,
    decoded,
    digest,
    make,
    patch_coder,
    psnr,
    stopping,
    texture,
    with_glass,
)

pytestmark = pytest.mark.usefixtures("threads_kept")


@pytest.fixture(autouse=True)
def fake_coder(monkeypatch: pytest.MonkeyPatch) -> None:
    patch_coder(monkeypatch)


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
        model = OctavesModel("0" * 64, 1024, (16384, 0, 0, 0, 16384, 0, 0, 0, 16384), (0, 0, 0)).at(step_of_quality(75))
        held = container.header.model
        assert (held["step"], held["spacing"]) == (model.step, model.spacing)
        assert report.step == model.step
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
        coder = coder_of(model)
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
    with pytest.raises(UsageError, match="was begun with --size 400000, now it is with --size 500000"):
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


def flipped(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 4
    path.write_bytes(raw)


@pytest.mark.parametrize("log", ["scan", "round"])
@pytest.mark.parametrize("damage", ["number", "last flag", "zeros"])
def test_a_record_that_is_none_is_made_again(log: str, damage: str, tmp_path: Path) -> None:
    """Its number and flag count as its payload does; and zeros behind the end are what a power cut leaves."""
    pixels, out = with_glass(1500, 1300), tmp_path / "a.cinr"
    make(pixels, tmp_path / "want.cinr")
    with pytest.raises(_Stop):
        make(pixels, out, progress=stopping("write", 3))
    (path,) = (tmp_path / "a.cinr.work").glob(f"{log}*.log")
    if damage == "zeros":
        path.write_bytes(path.read_bytes() + bytes(4096))
    elif damage == "number":
        flipped(path, 0)
    else:
        held = Log(path)
        flipped(path, held._done[held.numbers()[-1]][0] + 8)
        held.close()
    make(pixels, out, resume=True)
    assert digest(out) == digest(tmp_path / "want.cinr")


def test_a_finished_round_is_looked_at_before_it_is_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, out = with_glass(1500, 1300), tmp_path / "a.cinr"
    make(pixels, tmp_path / "want.cinr")

    meet_target = encode_octaves._meet_target

    def killed(*args: Any) -> None:
        meet_target(*args)
        raise _Stop

    for damaged in (False, True):
        monkeypatch.setattr(encode_octaves, "_meet_target", killed)
        with pytest.raises(_Stop):
            make(pixels, out)
        monkeypatch.setattr(encode_octaves, "_meet_target", meet_target)
        (path,) = (tmp_path / "a.cinr.work").glob("round-*.cinr")
        if damaged:
            flipped(path, path.stat().st_size // 2)
        stages: list[str] = []
        make(pixels, out, resume=True, progress=lambda p, seen=stages: seen.append(p.stage))
        assert ("encode" in stages) is damaged
        assert digest(out) == digest(tmp_path / "want.cinr")
        out.unlink()


def test_what_was_measured_is_checked(tmp_path: Path) -> None:
    pixels, out = with_glass(1500, 1300), tmp_path / "a.cinr"
    with pytest.raises(_Stop):
        make(pixels, out, size_bytes=400_000, progress=stopping("encode", 1))
    path = tmp_path / "a.cinr.work" / "search.json"
    text = path.read_text()
    for old, new in (("1", "2"), (" {", "  {"), (text, "[]"), (text, "")):
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(UsageError, match=r"search\.json: is damaged; encode again with --overwrite"):
            make(pixels, out, size_bytes=400_000, resume=True)


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
