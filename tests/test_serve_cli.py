"""`inrwsi serve`: says where it is, ends with Ctrl-C, and tells mistakes in one sentence."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from inrwsi.cli.main import main
from tests.fake_octaves import fake_file
from tests.interrupts import start_interruptible


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["serve", *map(str, arguments)])
    return result.exit_code, result.output


def test_it_says_where_it_is_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    slide = fake_file(tmp_path / "slide.cinr", (300, 200))
    (tmp_path / "bad.cinr").write_bytes(b"nothing")
    command = [sys.executable, "-W", "error", "-c", FAKED, "serve", str(tmp_path), "--port", "0"]
    with start_interruptible(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"slide\.cinr at (http://127\.0\.0\.1:\d+/) \(Ctrl-C ends it\)\n", line)
        try:
            assert match is not None, line
            with urllib.request.urlopen(f"{match[1]}iiif/slide/0,0,40,30/max/0/default.png", timeout=300) as answer:
                assert np.array_equal(np.asarray(Image.open(answer)), slide.octaves[0][:30, :40])
        finally:
            process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=300)
    assert (rest, process.returncode) == ("", 0)
    assert errors == f"inrwsi: left out: {tmp_path / 'bad.cinr'}: damaged (not a .cinr file): {BAD}\nstopped\n"


FAKED = """
import inrwsi.octave_tiles
from tests.fake_octaves import FakeCoder
from tests.test_serve_cli import main

inrwsi.octave_tiles.ChunkCoder = FakeCoder
main()
"""
BAD = "it starts with 6e 6f 74 68 69 6e 67, not 89 43 49 4e 52 0d 0a 1a"


def test_mistakes(tmp_path: Path) -> None:
    assert run(tmp_path / "no.cinr") == (
        2,
        f"inrwsi: {tmp_path / 'no.cinr'}: no such file or folder; give .cinr files on this machine, or folders of "
        "them\n",
    )
    assert run(tmp_path)[0] == 2
    slide = fake_file(tmp_path / "slide.cinr", (40, 30)).path
    cut = tmp_path / "cut.cinr"
    cut.write_bytes(slide.read_bytes()[:-1])
    code, output = run(cut)
    assert code == 3
    assert "damaged (truncated)" in output
    code, output = run(slide, "--source", tmp_path / "no.svs")
    assert (code, "no.svs: no such file; --source should be the slide" in output) == (2, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, output = run(slide, "--port", port)
    assert code == 2
    assert output == (
        f"inrwsi: port {port} of 127.0.0.1 cannot be had (Address already in use); give another with --port, or 0 for "
        "any free one\n"
    )
    for host in ("no.such.host.invalid", "a..b"):  # the latter could be no name
        code, output = run(slide, "--host", host)
        assert (code, "there is no such address" in output) == (2, True)


@pytest.mark.parametrize("module", ["starlette", "uvicorn"])
def test_a_missing_extra_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    slide = fake_file(tmp_path / "slide.cinr", (40, 30)).path
    for name in [n for n in sys.modules if n.split(".")[0] == module or n == "inrwsi.serve.server"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    code, output = run(slide, "--port", "0")
    assert code == 2
    assert output.endswith("install it with pip install inrwsi[serve]\n")


def test_mistakes_answer_without_torch(tmp_path: Path) -> None:
    code = "import sys, inrwsi.serve.server; sys.exit(bool({'torch', 'numba'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
