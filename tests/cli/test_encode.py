"""`inrwsi encode`: options, exit codes, and files that are whole or not there."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from inrwsi.cli.encode import ALL_BUT_NAMED, resolve_associated
from inrwsi.cli.main import main
from inrwsi.errors import UsageError
from inrwsi.formats.container import Container
from inrwsi.options import EncodeOptions, EncodeReport
from tests.cli.conftest import INRWSI, SLIDE_WH, run, told
from tests.interrupts import start_interruptible

# A line for every step of the fit, where off a terminal there is one every few seconds.
TALKATIVE = """
from inrwsi.cli import main, progress_view
progress_view.SECONDS_BETWEEN_LINES = 0.0
main.main(prog_name="inrwsi")
"""


def test_associated_images_are_kept_by_asking() -> None:
    there = ("label", "macro", "thumbnail", "Slide Overview", "map")
    source = Path("a.svs")
    assert resolve_associated((), there, source) == ()
    assert resolve_associated((ALL_BUT_NAMED,), there, source) == ("thumbnail", "map")
    assert resolve_associated((ALL_BUT_NAMED, "label"), there, source) == ("label", "thumbnail", "map")
    assert resolve_associated(("macro", "map"), there, source) == ("macro", "map")
    with pytest.raises(UsageError, match=r"a\.svs: --keep-associated=Label: .* it has label, macro"):
        resolve_associated(("Label",), there, source)
    with pytest.raises(UsageError, match="it has none"):
        resolve_associated(("label",), (), source)


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ((), ()),
        (("--keep-associated",), ("thumbnail",)),
        (("--keep-associated=label", "--keep-associated"), ("label", "thumbnail")),
    ],
)
@pytest.mark.parametrize(
    ("settings", "options"),
    [
        (("--size", "1.5G", "--effort", "fast"), EncodeOptions(size_bytes=1_500_000_000, effort="fast")),
        (("--size", "350k"), EncodeOptions(size_bytes=350_000)),
        (("--size", "4.1M"), EncodeOptions(size_bytes=4_100_000)),
        (("--size", "1.001k"), EncodeOptions(size_bytes=1001)),
        (("--size", "77"), EncodeOptions(size_bytes=77)),
        (("--psnr", "40.5", "--effort", "best"), EncodeOptions(psnr_db=40.5, effort="best")),
        (("--ratio", "20"), EncodeOptions(ratio=20)),
        (("--quality", "75"), EncodeOptions(quality=75)),
        (
            ("--model", "cinr", "--bpp", "0.5", "--passes", "3", "--tile-px", "128", "--weight-bits", "16"),
            EncodeOptions("cinr", bpp=0.5, passes=3, tile_px=128, weight_bits=16),
        ),
        (
            ("--model", "inif", "--psnr", "33", "--optimiser", "soap"),
            EncodeOptions("inif", psnr_db=33, optimiser="soap"),
        ),
    ],
)
def test_options_reach_the_encoder(
    arguments: tuple[str, ...],
    kept: tuple[str, ...],
    settings: tuple[str, ...],
    options: EncodeOptions,
    picture: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import inrwsi.encode
    from inrwsi.formats import source_base

    calls: list[tuple[Any, ...]] = []

    def record(source: Any, out: Path, options: Any, **rest: Any) -> Any:
        calls.append((source.mpp_um, source.mpp_source, source.objective_power, options, rest))
        return EncodeReport(str(out), 300_000, 100_000, 800_000, 400_000, 5, 7, 65.4, 41.237, 20_480)

    monkeypatch.setattr(inrwsi.encode, "encode", record)
    monkeypatch.setattr(source_base.BaseSource, "associated", ("label", "thumbnail"), raising=False)
    original = source_base.BaseSource.__init__

    def with_associated(self: Any, facts: Any) -> None:
        original(self, facts)
        self.associated = ("label", "thumbnail")

    monkeypatch.setattr(source_base.BaseSource, "__init__", with_associated)
    out = folder / "options.cinr"
    more = ("--source-mpp", "0.25", "--objective-power", "40", "--resume", "--device", "cpu", "--memory-mb", "512")
    more += ("--seed", "9")
    # The bare flag stands right before the source and does not swallow it.
    result = run("encode", *settings, *more, "-o", out, *arguments, picture)
    assert result.exit_code == 0, result.output
    ((mpp_um, mpp_source, power, got, rest),) = calls
    assert (mpp_um, mpp_source, power) == ((0.25, 0.25), "user", 40.0)
    assert got == replace(options, seed=9, device="cpu", keep_associated=kept, memory_mb=512)
    assert (rest["resume"], rest["overwrite"]) == (True, False)
    assert result.stdout.splitlines() == [
        f"{out}: 100,000 bytes, 3.00 times smaller than the source's 300,000 bytes",
        "slide: 0.80 Mpx at 1.000 bits a pixel",
        "tissue: 0.40 Mpx at 2.000 bits a pixel",
        "PSNR: 41.24 dB, glass and all",
        "chunks: 7 coded, 5 blank",
        "time: 1 min 05 s",
    ]


def test_encoded_file_says_what_it_was_told(cinr: Path) -> None:
    with Container.open(cinr) as container:
        slide = container.header.slide
        assert slide.l0_wh == SLIDE_WH
        assert (slide.mpp_um, slide.mpp_source) == ((0.5, 0.5), "user")
        assert (slide.objective_power, slide.objective_source) == (20.0, "user")
        assert [(e.chunk_ij, e.is_blank) for e in container.entries(0)] == [
            ((i, j), i == 2) for j in range(2) for i in range(3)
        ]
        assert container.verify() == []
    assert not cinr.with_name("slide.cinr.work").exists()


def test_interrupted_encode_leaves_nothing_and_resumes(folder: Path, picture: Path) -> None:
    out = folder / "long.cinr"
    cinr = ("--model", "cinr", "--tile-px", "64", "--passes", "2000", "--device", "cpu")
    command = ("encode", str(picture), "-o", str(out), *cinr)
    with start_interruptible([sys.executable, "-c", TALKATIVE, *command], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            line = before = ""
            while not line.startswith("network: "):  # its fit is under way
                before, line = line, process.stderr.readline()
                assert line, before
            assert before.startswith("scan: 6 of 6 tiles, 4 with tissue")
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 130
    last = error.splitlines()[-1]
    assert last == f"inrwsi: interrupted; {out}.work holds what is done; the same command with --resume goes on"
    assert "Traceback" not in error
    assert [name for name in os.listdir(folder) if name.startswith((".long", "long"))] == ["long.cinr.work"]
    told(run(*command, "--resume", "--seed", 5), 2, "was begun with --seed 0, now it is with --seed 5")
    told(run(*command, "--resume", "--source-mpp", 2), 2, "now it is with --source-mpp [2.0, 2.0]")


@pytest.mark.parametrize("cause", [KeyboardInterrupt, MemoryError])
def test_an_interrupt_of_compiled_code_says_what_can_be_resumed(
    cause: type[BaseException], picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """numba hands Ctrl-C on as a SystemError; what is no interrupt stays what it is."""
    out = tmp_path / "a.cinr"

    def encode(*_: object, **__: object) -> None:
        out.with_name("a.cinr.work").mkdir()
        raise SystemError("returned a result with an exception set") from cause()

    monkeypatch.setattr("inrwsi.encode.encode", encode)
    result = CliRunner().invoke(main, ["encode", str(picture), "-o", str(out), "--quiet"])
    if cause is KeyboardInterrupt:
        assert result.exit_code == 130
        assert result.stderr == (
            f"inrwsi: interrupted; {out}.work holds what is done; the same command with --resume goes on\n"
        )
    else:
        assert isinstance(result.exception, SystemError)


def test_machine_errors_are_sentences(folder: Path, picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import inrwsi.formats.source

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "disk")

    monkeypatch.setattr(inrwsi.formats.source, "open_source", full)
    told(run("encode", picture, "-o", folder / "full.cinr"), 1, "inrwsi: disk: No space left on device")
    result = run("--debug", "encode", picture, "-o", folder / "full.cinr")
    assert isinstance(result.exception, OSError)
    assert result.exception.errno == errno.ENOSPC


def test_a_reader_that_goes_away_is_no_error(hollow: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run([*INRWSI, "info", hollow], stdout=closed, stderr=subprocess.PIPE, timeout=60)
    assert (done.returncode, done.stderr) == (1, b"")
