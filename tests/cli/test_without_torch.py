"""What needs no torch: mistakes, `info` and `verify`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inrwsi.formats.container import Container
from tests.cli.conftest import run, told

NO_TORCH = """
import json, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise RuntimeError("torch is imported")
sys.meta_path.insert(0, Blocker())
from click.testing import CliRunner
from inrwsi.cli.main import main
for line in sys.stdin:
    result = CliRunner().invoke(main, json.loads(line))
    print(json.dumps([result.exit_code, result.stdout, result.stderr]), flush=True)
"""


def without_torch(calls: Sequence[Sequence[object]], cwd: Path) -> list[list[Any]]:
    """[exit code, standard output, standard error] of each call, in a process where torch cannot be imported."""
    lines = "".join(json.dumps([str(a) for a in call]) + "\n" for call in calls)
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH], input=lines, capture_output=True, text=True, cwd=cwd, check=True, timeout=120
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_mistakes_are_told_without_torch(folder: Path, picture: Path, hollow: Path) -> None:
    (folder / "there.cinr").write_bytes(b"kept")
    (folder / "there.png").write_bytes(b"kept")
    (folder / "cut.cinr").write_bytes(hollow.read_bytes()[:-1])
    size = len(hollow.read_bytes())
    cases: list[tuple[tuple[object, ...], int, str]] = [
        ((), 2, "Usage: inrwsi"),
        (("encode", "none.svs", "-o", "x.cinr"), 2, "none.svs"),
        (("encode", picture), 2, "Missing option '-o'"),
        (("encode", "-o", "x.cinr"), 2, "Missing argument 'SOURCE'"),
        (("encode", "-o", "x.cinr", "--keep-associated"), 2, "Missing argument 'SOURCE'"),
        (("encode", picture, "-o", "x.tif"), 2, "x.tif: the output's name should end in .cinr"),
        (("encode", picture, "-o", "none/x.cinr"), 2, "the folder none is not there"),
        (("encode", picture, "-o", "there.cinr"), 2, "there.cinr: is there already; give --overwrite"),
        (
            ("encode", picture, "-o", "x.cinr", "--model", "mlp"),
            2,
            "--model is mlp; it should be one of octaves,",
        ),
        (("encode", picture, "-o", "x.cinr", "--bpp", "0"), 2, "0.0 is not in the range"),
        (
            ("encode", picture, "-o", "x.cinr", "--bpp", "2"),
            2,
            "--bpp is a setting of models that are fitted, and the model is oct",
        ),
        (
            ("encode", picture, "-o", "x.cinr", "--model", "cinr", "--tune", "psnr"),
            2,
            "--tune is a setting of model oct",
        ),
        (("encode", picture, "-o", "x.cinr", "--quality", "0"), 2, "0.0 is not in the range"),
        (("encode", picture, "-o", "x.cinr", "--size", "3 apples"), 2, "'3 apples' should be a number of bytes"),
        (("encode", picture, "-o", "x.cinr", "--size", "0.5"), 2, "'0.5' should be a number of bytes"),
        (
            ("encode", picture, "-o", "x.cinr", "--size", "1M", "--ratio", "9"),
            2,
            "--ratio and --size are given; give one",
        ),
        (("encode", picture, "-o", "x.cinr", "--effort", "some"), 2, "'some' is not one of"),
        (("encode", picture, "-o", "x.cinr", "--source-mpp", "-1"), 2, "-1.0 is not in the range"),
        (("encode", picture, "-o", "x.cinr", "--keep-associated=label"), 2, "no associated image of that name"),
        (("encode", hollow, "-o", "x.cinr"), 2, "hollow.cinr"),
        (("decode", hollow), 2, "Missing option '-o'"),
        (("decode", "none.cinr", "-o", "x.png"), 2, "none.cinr"),
        (("decode", hollow, "-o", "x.bmp"), 2, "should end in .png, .tif, .tiff, .jpg or .jpeg"),
        (("decode", hollow, "-o", "there.png"), 2, "there.png: is there already"),
        (("decode", picture, "-o", "x.png"), 3, "not a .cinr file"),
        (("decode", "cut.cinr", "-o", "x.png"), 3, "truncated"),
        (("decode", hollow, "-o", "x.png", "--region", "1,2,3"), 2, "four whole numbers x,y,w,h"),
        (("decode", hollow, "-o", "x.png", "--region", "1,2,0,4"), 2, "0 x 4 pixels"),
        (("decode", hollow, "-o", "x.png", "--region", "40,0,9,9"), 2, "the slide, which is 40 x 20 pixels"),
        (("decode", hollow, "-o", "x.png", "--region", "-9,0,9,9"), 2, "--region -9,0,9,9 lies outside"),
        (("decode", hollow, "-o", "x.png", "--size", "5x0"), 2, "a width and a height"),
        (("decode", hollow, "-o", "x.png", "--size", "5x5", "--mpp", "1"), 2, "--size and --mpp are given"),
        (("decode", hollow, "-o", "x.png", "--mpp", "1", "--downsample", "2"), 2, "give one of them"),
        (("decode", hollow, "-o", "x.png", "--downsample", "-2"), 2, "should be a positive number"),
        (("decode", hollow, "-o", "x.png", "--mag", "5"), 2, "objective power is unknown"),
        (("decode", hollow, "-o", "x.jpg", "--size", "70000x9"), 2, "70000"),
        (("info", "none.cinr"), 2, "none.cinr"),
        (("info", picture), 3, "not a .cinr file"),
        (("info", "cut.cinr"), 3, f"{size - 1:}"),
        (("verify", "none.cinr"), 2, "none.cinr"),
        (("verify", "cut.cinr"), 3, "truncated"),
        (("sample", "-o", "x.png"), 2, "should end in .tif or .tiff"),
        (("sample", "-o", "x.tif", "--size", "big"), 2, "a width and a height"),
        (("sample", "-o", "none/x.tif"), 2, "the folder none is not there"),
    ]
    before = sorted(os.listdir(folder))
    for (arguments, code, sentence), (got, _, error) in zip(
        cases, without_torch([c[0] for c in cases], folder), strict=True
    ):
        assert got == code, (arguments, error)
        assert sentence in re.sub(r"\s+", " ", error), (arguments, error)
        assert "Traceback" not in error
        # One sentence of ours, or click's usage and its error.
        assert error.startswith("Usage: ") or (error.startswith("inrwsi: ") and error.count("\n") == 1), error
    assert sorted(os.listdir(folder)) == before
    assert (folder / "there.cinr").read_bytes() == (folder / "there.png").read_bytes() == b"kept"


def test_info_and_verify_without_torch(folder: Path, hollow: Path) -> None:
    size = hollow.stat().st_size
    info, plain, verify = without_torch([("info", "--json", hollow), ("info", hollow), ("verify", hollow)], folder)
    facts = json.loads(info[1])
    assert (info[0], plain[0], verify[0]) == (0, 0, 0)
    assert facts["file_bytes"] == size
    assert facts["version"] == [1, 0]
    assert facts["bpp"] == 8 * size / 800
    assert facts["slide"]["mpp_um"] == [0.25, 0.25]
    assert facts["slide"]["mpp_source"] == "user"
    assert facts["model"] == {"name": "cinr", "levels": 3}
    assert facts["icc_bytes"] == 7
    assert facts["chunks"] == [{"octave": 0, "columns": 3, "rows": 2, "coded": 1, "blank": 5, "payload_bytes": 7}]
    assert facts["sections"]["WGHT"] < 100
    for line in (
        "slide          40 x 20 pixels, 3 channels of 8 bits",
        "um a pixel     0.25 0.25 (from: user)",
        "objective      unknown",
        "model          cinr",
        "  octave 0     3 x 2 chunks: 1 coded in 7 bytes, 5 blank",
        "ICC profile    7 bytes",
        "associated     none",
        "software       inrwsi 0.1.0",
    ):
        assert line in plain[1].splitlines()
    with Container.open(hollow) as container:
        sections = len(container.sections())
    assert verify[1] == f"ok: {sections} sections, 6 chunks, {size:,} bytes\n"


def test_verify_lists_damage(folder: Path, hollow: Path) -> None:
    blob = hollow.read_bytes()
    damaged = folder / "flipped.cinr"
    damaged.write_bytes(blob.replace(b"payload", b"Payload"))
    result = run("verify", damaged)
    told(result, 3, "flipped.cinr: 1 damaged part")
    assert result.stdout.count("\n") == 1
    assert "chunk" in result.stdout
    assert "column 1, row 1" in result.stdout
