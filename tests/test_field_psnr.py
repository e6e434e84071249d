"""`--psnr` of models that are fitted: what a file decodes to has it, glass and all, also after an interruption."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.errors import UsageError
from inrwsi.fit import quality
from inrwsi.formats.source import open_source
from inrwsi.metrics import psnr
from inrwsi.options import EncodeOptions
from inrwsi.progress import Progress
from tests.cli.conftest import run
from tests.test_model_files import picture_px

GLASS = (243, 241, 244)


def with_glass() -> np.ndarray:
    """(144, 136, 3): tissue over two tiles of 72 of glass, which is not all of one colour."""
    glass = np.array(GLASS) + np.random.default_rng(0).integers(-2, 3, (72, 136, 3))
    return np.concatenate([picture_px(), glass.astype(np.uint8)])


def decoded(path: Path) -> np.ndarray:
    with Decoder(path, device="cpu") as decoder:
        return decoder.read_region((0, 0), decoder.header.slide.l0_wh)


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(
    ("options", "pixels", "at_1_bpp_db"),
    [
        (EncodeOptions("siren", psnr_db=25, tile_px=72, passes=8), with_glass(), 19.5),
        (EncodeOptions("cinr", psnr_db=21, tile_px=72, passes=2), picture_px()[:, :72], 21.2),
        (EncodeOptions("inif", psnr_db=31.5, tile_px=72, passes=4, prior="jpeg", prior_quality=60), picture_px(), 31),
    ],
)
def test_a_file_has_the_psnr_that_was_asked_for(
    options: EncodeOptions, pixels: np.ndarray, at_1_bpp_db: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`at_1_bpp_db` is a first guess for a fit so short, which spares rounds."""
    monkeypatch.setattr(quality, "AT_1_BPP_DB", at_1_bpp_db)
    out = tmp_path / "slide.cinr"
    with open_source(pixels) as source:
        report = encode(source, out, replace(options, device="cpu"))
    got = psnr(pixels, decoded(out))
    assert got == pytest.approx(options.psnr_db, abs=0.1)
    assert report.psnr_db == pytest.approx(got, abs=1e-9)
    assert report.blank_chunks == (2 if len(pixels) == 144 else 0)
    assert [p.name for p in tmp_path.iterdir()] == ["slide.cinr"]


def test_the_report_has_the_psnr_of_any_target(tmp_path: Path) -> None:
    with open_source(with_glass()) as source:
        report = encode(source, tmp_path / "a.cinr", EncodeOptions("siren", bpp=1, tile_px=72, passes=2, device="cpu"))
    assert report.psnr_db == pytest.approx(psnr(with_glass(), decoded(tmp_path / "a.cinr")), abs=1e-9)


class Stop(Exception):
    pass


def test_a_resumed_encoding_gives_the_same_file(tmp_path: Path) -> None:
    """Stopped every few steps, in the scan and in each of several rounds."""
    options, rounds = EncodeOptions("siren", psnr_db=25, tile_px=72, passes=8, device="cpu"), set()
    stops, seen = 0, 0
    out = tmp_path / "slide.cinr"

    def stop(progress: Progress) -> None:
        nonlocal seen
        seen += 1
        rounds.update(p.name for p in (tmp_path / "slide.cinr.work").glob("tiles-*.log"))
        if seen > 50:
            raise Stop

    with open_source(with_glass()) as source:
        encode(source, tmp_path / "whole.cinr", options)
        while not out.exists() and stops < 50:
            seen, stops = 0, stops + 1
            try:
                report = encode(source, out, options, progress=stop, resume=True)
            except Stop:
                continue
    assert stops > 3
    assert len(rounds) > 1
    assert out.read_bytes() == (tmp_path / "whole.cinr").read_bytes()
    assert report.psnr_db == pytest.approx(25, abs=0.1)


@pytest.mark.parametrize("lost", ["chunks", "blank"])
def test_records_that_a_power_cut_lost_are_made_again(lost: str, tmp_path: Path) -> None:
    """The last tile's colour, or its error: the file and its PSNR are those of an encoding at once."""
    options, out = EncodeOptions("siren", psnr_db=25, tile_px=72, passes=8, device="cpu"), tmp_path / "slide.cinr"

    def stop(progress: Progress) -> None:
        if progress.stage == "tiles":
            raise Stop

    with open_source(with_glass()) as source:
        whole = encode(source, tmp_path / "whole.cinr", options)
        with pytest.raises(Stop):
            encode(source, out, options, progress=stop)
        log = tmp_path / "slide.cinr.work" / f"{lost}.log"
        os.truncate(log, log.stat().st_size - 1)
        report = encode(source, out, options, resume=True)
    assert report.psnr_db == whole.psnr_db
    assert out.read_bytes() == (tmp_path / "whole.cinr").read_bytes()


def test_what_cannot_be_reached_is_said(tmp_path: Path) -> None:
    """By a fit that is too short; and at once, by glass whose noise is all that there is room for."""
    Image.fromarray(picture_px()).save(tmp_path / "slide.png")
    asked = ("--model", "siren", "--psnr", 48, "--tile-px", 72, "--passes", 1, "--device", "cpu", "-q")
    result = run("encode", tmp_path / "slide.png", "-o", tmp_path / "slide.cinr", *asked)
    assert result.exit_code == 2
    said = (
        r"--psnr 48 cannot be reached on this slide with model siren; the nearest that was found is about [12]\d\.\d\d"
    )
    assert re.search(said, result.output.replace("\n", " ")), result.output
    assert not (tmp_path / "slide.cinr").exists()
    options, steps = EncodeOptions("siren", psnr_db=60, tile_px=72, device="cpu"), list[str]()
    with open_source(with_glass()) as source, pytest.raises(UsageError, match=r"nearest that was found is about 48\.1"):
        encode(source, tmp_path / "a.cinr", options, progress=lambda p: steps.append(p.stage))
    assert set(steps) == {"scan"}
