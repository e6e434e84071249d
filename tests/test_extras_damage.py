"""What is damaged beside the pixels costs itself alone; what a file says is neither trusted nor acted on."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner, Result
from PIL import Image, ImageCms

import inrwsi
from inrwsi.cli.main import main
from inrwsi.decode import Decoder
from inrwsi.errors import Cause, CorruptFile
from inrwsi.export import export
from inrwsi.formats.header import AssociatedInfo
from inrwsi.serve.slides import OpenCinr
from inrwsi.slide_parts import DamagedSlide
from tests.copied import copied, flipped
from tests.fake_octaves import FakeCoder, fake_file

WH = (300, 200)
LABEL = AssociatedInfo("label", 64, 48, "png")
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)


def label() -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)  # so that the bit is not in its headers
    Image.fromarray(noise).save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    bare = fake_file(tmp_path / "bare.cinr", WH).path
    return copied(bare, tmp_path / "whole.cinr", icc=ICC, associated=[(LABEL, label())])


def run(*args: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in args])


def test_a_damaged_profile_does_not_hide_the_slide(whole: Path, tmp_path: Path) -> None:
    bad = flipped(whole, tmp_path / "bad.cinr", "ICCP")
    with inrwsi.open_slide(whole) as slide:
        region = slide.read_region((0, 0), 0, WH)
        assert region.info["icc_profile"] == ICC
    with pytest.warns(
        UserWarning, match=r"bad\.cinr: damaged \(ICC profile\): .*; the slide is read without a profile"
    ):
        slide = inrwsi.open_slide(bad)
    with slide:
        found = slide.read_region((0, 0), 0, WH)
        assert (np.asarray(found) == np.asarray(region)).all()
        assert "icc_profile" not in found.info
        assert slide.color_profile is None
    out = tmp_path / "out.png"
    refused = run("decode", bad, "-o", out, "-q", "--device", "cpu")
    assert (refused.exit_code, out.exists()) == (3, False)
    salvaged = run("decode", bad, "-o", out, "-q", "--device", "cpu", "--salvage")
    assert salvaged.exit_code == 0
    assert "inrwsi: left out: " in salvaged.stderr
    with Image.open(out) as image:
        assert (np.asarray(image) == np.asarray(region)[..., :3]).all()
    told = run("info", bad)
    assert (told.exit_code, f"ICC profile    {len(ICC)} bytes" in told.stdout) == (0, True)


def test_the_server_shows_it_without_a_profile(whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shown = OpenCinr(flipped(whole, tmp_path / "bad.cinr", "ICCP"), "cpu", 1 << 20)
    with Decoder(whole, device="cpu") as decoder:
        assert (np.asarray(shown.picture((0, 0), WH)) == decoder.read_region((0, 0), WH)).all()
    assert "the slide is shown without a profile" in caplog.text


@pytest.mark.parametrize(("kind", "cause"), [("ICCP", Cause.ICC), ("ASSO", Cause.ASSOCIATED)])
def test_an_export_leaves_out_what_is_damaged(kind: str, cause: Cause, whole: Path, tmp_path: Path) -> None:
    bad, out = flipped(whole, tmp_path / "bad.cinr", kind), tmp_path / "out.tif"
    with pytest.raises(CorruptFile):
        export(bad, out, device="cpu")
    report = export(bad, out, device="cpu", salvage=True)
    assert [error.cause for error in report.damaged] == [cause]
    with tifffile.TiffFile(out) as tiff:
        assert ("InterColorProfile" in tiff.pages.first.tags) == (kind != "ICCP")
        assert tiff.pages.first.description.count("<Image ") == (1 if kind == "ASSO" else 2)


def empty_png(wh: tuple[int, int]) -> bytes:
    """It says that it is of `wh`, and holds nothing."""

    def part(kind: bytes, raw: bytes) -> bytes:
        return struct.pack(">I", len(raw)) + kind + raw + struct.pack(">I", zlib.crc32(kind + raw))

    head = part(b"IHDR", struct.pack(">IIBBBBB", *wh, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + part(b"IDAT", zlib.compress(bytes(100))) + part(b"IEND", b"")


@pytest.mark.parametrize(
    ("raw", "sentence"),
    [
        (b"hello", "label: it is no PNG"),
        (empty_png((60000, 60000)), "decompression bomb|60000 x 60000 pixels"),
        (empty_png((65, 48)), "it is of 65 x 48 pixels, should be of 64 x 48"),
        (empty_png((64, 48)), "label: "),
    ],
)
def test_an_associated_image_that_is_none(raw: bytes, sentence: str, whole: Path, tmp_path: Path) -> None:
    """Checksums and all are right: somebody wrote it so."""
    bad = copied(whole, tmp_path / "bad.cinr", associated=[(LABEL, raw)])
    with (
        inrwsi.open_slide(bad) as slide,
        pytest.raises(DamagedSlide, match=f"associated image.*({sentence})") as caught,
    ):
        _ = slide.associated_images["label"]
    assert caught.value.cause == Cause.ASSOCIATED
    assert run("export", bad, tmp_path / "out.tif", "-q").exit_code == 3


def test_what_a_file_says_is_not_done(whole: Path, tmp_path: Path) -> None:
    """By a terminal: a title, a cleared screen, rows that are none."""
    software = {"inrwsi": "0.1\x1b]0;OWNED\x07\x1b[2J"}
    odd = copied(whole, tmp_path / "odd.cinr", software=software, metadata={"note\nformat": "9.9\x1b[8m \u202e é"})
    told = run("info", odd).stdout
    assert "\x1b" not in told
    assert "\u202e" not in told
    assert "inrwsi 0.1\\x1b]0;OWNED\\x07\\x1b[2J" in told
    assert "note\\nformat   9.9\\x1b[8m \\u202e é\n" in told


def test_errors_cross_processes_whole() -> None:
    error = DamagedSlide("a.cinr", Cause.CHUNK, "octave 0")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.cause) == (DamagedSlide, str(error), Cause.CHUNK)
    # A DataLoader makes a worker's error again from its text alone, and gives up for a RuntimeError where it cannot.
    told = DamagedSlide(f"Caught DamagedSlide in DataLoader worker process 0.\n{error}")
    assert (str(told).count("octave 0"), told.cause, told.exit_code) == (1, None, 3)


@pytest.mark.parametrize("downsample", [2e-6, 0.01, 0.3])
def test_far_past_native_no_more_is_made_than_asked_for(whole: Path, downsample: float) -> None:
    with warnings.catch_warnings(), inrwsi.open_slide(whole) as slide:
        warnings.simplefilter("error")
        found = slide.read_region_at((10, 20), (7, 5), downsample=downsample, as_array=True)
        with Decoder(whole, device="cpu") as decoder:
            wide = decoder.read_at((10, 20), downsample, (14, 10))
    assert found.shape == (5, 7, 3)
    assert (found == wide[:5, :7]).all()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (
            ("--downsample", "1e-300"),
            "--downsample 1e-300 is 1e-300 level-0 pixels a pixel; it should be from 1e-6 to 2e12",
        ),
        (("--downsample", "1e13"), "it should be from 1e-6 to 2e12"),
        (("--region", "0,0," + "9" * 400 + ",5"), "four whole numbers x,y,w,h of at most 12 digits"),
        (("--size", "9" * 5000 + "x5"), "a width and a height in pixels"),
    ],
)
def test_extremes_are_mistakes(args: tuple[str, str], sentence: str, whole: Path, tmp_path: Path) -> None:
    result = run("decode", whole, "-o", tmp_path / "out.png", *args)
    assert (result.exit_code, sentence in " ".join(result.stderr.split())) == (2, True), result.stderr[:500]


@pytest.mark.parametrize("step", [0, -1.0, float("nan"), float("inf")])
def test_a_step_is_a_positive_number(step: float, whole: Path) -> None:
    with Decoder(whole, device="cpu") as decoder, pytest.raises(inrwsi.UsageError, match=r"the step is .* from 1e-6"):
        decoder.read_region((0, 0), (10, 10), step=step)


def test_a_large_picture_is_put_together(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of parts, of which the sums are made one by one: the same pixels."""
    with Decoder(whole, device="cpu") as decoder:
        found = decoder.read_region((3, 5), (290, 190), step=0.37)
        monkeypatch.setattr("inrwsi.decode.PX_AT_ONCE", 1)
        monkeypatch.setattr("inrwsi.decode.CHUNK_ROWS", 100)
        assert (decoder.read_region((3, 5), (290, 190), step=0.37) == found).all()
    assert found.shape == (514, 784, 3)


def test_a_name_that_is_no_text_is_told(whole: Path) -> None:
    """As what it is: the file may be there, and its name must not end the command that made it."""
    odd = whole.rename(os.fsdecode(os.fsencode(whole.parent) + b"/m\xff.cinr"))
    code = "from inrwsi.cli.main import main; main(prog_name='inrwsi')"
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    ended = subprocess.run([sys.executable, "-c", code, "info", str(odd)], env=strict, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"m\\udcff.cinr" in ended.stdout
