"""The command line as a person meets it, and small files for it to work on, encoded once for all of its tests."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from inrwsi.cli.main import main
from inrwsi.formats.header import GridInfo, Header, SlideInfo
from inrwsi.formats.writer import ContainerWriter

INRWSI = (sys.executable, "-c", "from inrwsi.cli.main import main; main(prog_name='inrwsi')")
ENCODE = ("--model", "cinr", "--tile-px", "64", "--passes", "1", "--device", "cpu", "-q")
SLIDE_WH = (150, 100)
TILE_PX = 64


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def told(result: Result, code: int, sentence: str) -> None:
    """`result` ended with `code` and said `sentence` on standard error, with no traceback."""
    assert result.exit_code == code, result.output
    assert sentence in re.sub(r"\s+", " ", result.stderr)
    assert "Traceback" not in result.output


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="package")
def picture(folder: Path) -> Path:
    """A small slide: smooth tissue-coloured texture on the left two tiles' columns, glass on the right."""
    w, h = SLIDE_WH
    y, x = np.mgrid[:h, :w]
    wave = np.sin(x / 5) * np.cos(y / 7)
    pixels = np.stack([170 + 40 * wave, 90 + 50 * wave, 150 + 30 * np.cos((x + y) / 9)], axis=-1)
    pixels[:, 2 * TILE_PX :] = 252
    path = folder / "slide.png"
    Image.fromarray(np.rint(pixels).astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="package")
def cinr(folder: Path, picture: Path) -> Path:
    """`picture`, encoded by the command line, with a fit of a few steps: what it looks like is not the point here."""
    import inrwsi.encode_fields

    path = folder / "slide.cinr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inrwsi.encode_fields, "NETWORK_STEPS_A_PASS", 3)
        result = run("encode", picture, "-o", path, "--source-mpp", 0.5, "--objective-power", 20, *ENCODE)
    assert (result.exit_code, result.output) == (0, "")
    return path


@pytest.fixture(scope="package")
def hollow(folder: Path) -> Path:
    """A file of known content whose payloads are of no model; what `info` and `verify` need is all there."""
    path = folder / "hollow.cinr"
    slide = SlideInfo(40, 20, 3, 8, (255, 255, 255), (0.25, 0.25), "user")
    header = Header(slide, GridInfo(16, (0,)), {"name": "cinr", "levels": 3}, software={"inrwsi": "0.1.0"})
    with ContainerWriter(path, header, weights=b"weights", icc=b"profile") as writer:
        for number in range(header.chunk_count):
            octave, ij = header.chunk_at(number)
            if number == 4:
                writer.put_chunk(octave, ij, b"payload")
            else:
                writer.put_blank(octave, ij, (240, 241, 242))
        writer.finish()
    return path
