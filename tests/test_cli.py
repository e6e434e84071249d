"""The command line as a person meets it: help, exit codes, sentences, files that are whole or not there."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from inrwsi import __version__
from inrwsi.cli.encode import ALL_BUT_NAMED, resolve_associated
from inrwsi.cli.main import main
from inrwsi.cli.progress_view import PlainLines, _bars, duration
from inrwsi.errors import UsageError
from inrwsi.formats.container import Container
from inrwsi.formats.header import GridInfo, Header, SlideInfo
from inrwsi.formats.writer import ContainerWriter
from inrwsi.options import OF_CINR, OF_OCTAVES, CinrSettings, EncodeOptions, EncodeReport
from inrwsi.progress import Progress

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def cinr(folder: Path, picture: Path) -> Path:
    """`picture`, encoded by the command line, with a fit of a few steps: what it looks like is not the point here."""
    import inrwsi.encode_cinr

    path = folder / "slide.cinr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inrwsi.encode_cinr, "NETWORK_STEPS_A_PASS", 3)
        result = run("encode", picture, "-o", path, "--source-mpp", 0.5, "--objective-power", 20, *ENCODE)
    assert (result.exit_code, result.output) == (0, "")
    return path


@pytest.fixture(scope="module")
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


# Help


@pytest.mark.parametrize(
    ("command", "lines"),
    [
        ((), ["Usage: inrwsi [OPTIONS] COMMAND [ARGS]...", "Start with: inrwsi encode slide.svs -o slide.cinr"]),
        (
            ("encode",),
            [
                "Usage: inrwsi encode [OPTIONS] SOURCE",
                "--quality Q",
                "--psnr DB",
                "--ratio N",
                "--size BYTES",
                "--model [octaves|cinr]",
                "--effort [fast|default|best]",
                "--bpp BITS",
                "--passes N",
                "--tile-px PX",
                "--weight-bits [8|16]",
                "--source-mpp UM",
                "--objective-power P",
                "--keep-associated [=NAME]",
                "--device [auto|cpu|cuda]",
                "--memory-mb MB",
                "inrwsi encode slide.svs -o slide.cinr --keep-associated --keep-associated=label",
            ],
        ),
        (
            ("decode",),
            [
                "Usage: inrwsi decode [OPTIONS] FILE",
                "--region x,y,w,h",
                "--mag M",
                "--mpp U",
                "--downsample D",
                "--size WxH",
                "--salvage",
                "inrwsi decode slide.cinr -o region.png --region 10000,8000,2048,2048",
            ],
        ),
        (("info",), ["Usage: inrwsi info [OPTIONS] FILE", "inrwsi info slide.cinr --json"]),
        (("export",), ["Usage: inrwsi export [OPTIONS] FILE OUT"]),
        (("serve",), ["Usage: inrwsi serve [OPTIONS] PATHS..."]),
        (("verify",), ["Usage: inrwsi verify [OPTIONS] FILE", "Exit code 0: whole; 3: damaged."]),
        (("sample",), ["Usage: inrwsi sample [OPTIONS]", "inrwsi sample -o sample.tiff --size 20000x15000 --seed 7"]),
    ],
)
def test_help_says_what_a_person_needs(command: tuple[str, ...], lines: list[str]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    for line in lines:
        assert line in result.stdout, line
    assert run(*command, "-h").stdout == result.stdout


def test_version() -> None:
    assert run("--version").stdout == f"inrwsi, version {__version__}\n"


def test_defaults_are_those_of_the_library() -> None:
    command = main.commands["encode"]
    defaults = command.make_context("encode", ["x.png", "-o", "x.cinr"]).params
    options = EncodeOptions()
    for name in ("model", *OF_OCTAVES, *OF_CINR, "seed", "device", "memory_mb"):
        assert defaults[name] == getattr(options, name), name
    shown = {p.name: getattr(p, "help", None) or "" for p in main.commands["encode"].params}
    assert shown["effort"].endswith("[default: default]")
    for name, value in {**asdict(CinrSettings()), "quality": options.octaves.quality}.items():
        assert shown[name].endswith(f"[default: {value:g}]")
    ends = {"quality": (1, 100), "psnr_db": (10, 70), "ratio": (1, 1_000_000), "seed": (0, 2**32 - 1)}
    ends |= {"bpp": (0.02, 24), "passes": (1, 10000), "tile_px": (64, 2048)}
    for name, (low, high) in ends.items():
        param = next(p for p in main.commands["encode"].params if p.name == name)
        assert isinstance(param.type, click.FloatRange | click.IntRange)
        assert (param.type.min, param.type.max) == (low, high)
        model = "cinr" if name in OF_CINR else "octaves"
        for inside, outside in ((low, low - 0.01), (high, high + 1)):
            EncodeOptions(model=model, **{name: inside})
            with pytest.raises(UsageError, match=param.opts[-1]):
                EncodeOptions(model=model, **{name: outside})
    told(run("encode", "x.png", "-o", "x.cinr", "--memory-mb", 255), 2, "255 is not in the range")
    with pytest.raises(UsageError, match="--memory-mb is 255"):
        EncodeOptions(memory_mb=255)


# What needs no torch

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
        (("encode", picture, "-o", "x.cinr", "--model", "mlp"), 2, "'mlp' is not"),
        (("encode", picture, "-o", "x.cinr", "--bpp", "0"), 2, "0.0 is not in the range"),
        (
            ("encode", picture, "-o", "x.cinr", "--bpp", "2"),
            2,
            "--bpp is a setting of model cinr, and the model is oct",
        ),
        (("encode", picture, "-o", "x.cinr", "--model", "cinr", "--psnr", "40"), 2, "--psnr is a setting of model oct"),
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


# Encode


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
        (("--size", "77"), EncodeOptions(size_bytes=77)),
        (("--psnr", "40.5", "--effort", "best"), EncodeOptions(psnr_db=40.5, effort="best")),
        (("--ratio", "20"), EncodeOptions(ratio=20)),
        (("--quality", "75"), EncodeOptions(quality=75)),
        (
            ("--model", "cinr", "--bpp", "0.5", "--passes", "3", "--tile-px", "128", "--weight-bits", "16"),
            EncodeOptions("cinr", bpp=0.5, passes=3, tile_px=128, weight_bits=16),
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
    with subprocess.Popen([*INRWSI, *command], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            # The scan is over, and the fit of the network has begun or is about to.
            assert process.stderr.readline().startswith("scan: 6 of 6 tiles, 4 with tissue")
            time.sleep(0.3)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    last = error.splitlines()[-1]
    assert last == f"inrwsi: interrupted; {out}.work holds what is done; the same command with --resume goes on"
    assert "Traceback" not in error
    assert [name for name in os.listdir(folder) if name.startswith((".long", "long"))] == ["long.cinr.work"]
    told(run(*command, "--resume", "--seed", 5), 2, "was begun with seed 0, now it is 5")


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


# Decode


@pytest.fixture(scope="module")
def whole(cinr: Path) -> np.ndarray:
    """All pixels of the file, as the library decodes them."""
    from inrwsi.decode import Decoder

    with Decoder(cinr, device="cpu") as decoder:
        return decoder.read_region((0, 0), SLIDE_WH)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".TIFF"])
def test_whole_slide_without_loss(suffix: str, cinr: Path, whole: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / f"all{suffix}"
    result = run("decode", cinr, "-o", out, "--device", "cpu", "-q")
    assert (result.exit_code, result.output) == (0, "")
    with Image.open(out) as image:
        assert np.array_equal(np.asarray(image), whole)
        # 0.5 um a pixel is 20,000 pixels a centimetre.
        if suffix == ".png":
            assert image.info["dpi"][0] == pytest.approx(20000 * 2.54, rel=1e-4)
        else:
            assert float(image.tag_v2[282]) == pytest.approx(20000, rel=1e-6)
    assert os.listdir(tmp_path) == [out.name]


def test_jpeg_is_near_and_takes_a_quality(cinr: Path, whole: np.ndarray, tmp_path: Path) -> None:
    sizes, errors = [], []
    for quality in (50, 95):
        out = tmp_path / f"{quality}.jpg"
        assert run("decode", cinr, "-o", out, "--quality", quality, "--device", "cpu", "-q").exit_code == 0
        with Image.open(out) as image:
            errors.append(np.abs(np.asarray(image).astype(int) - whole).mean())
        sizes.append(out.stat().st_size)
    assert sizes[0] < sizes[1]
    assert errors[1] < errors[0] / 2


@pytest.mark.parametrize(
    ("options", "size_wh", "mpp_um"),
    [
        (("--mag", 20), (30, 20), 0.5),
        (("--mag", 5), (8, 5), 2.0),  # 7.5 rounds to the even 8
        (("--mpp", 1.25), (12, 8), 1.25),
        (("--downsample", 0.5), (60, 40), 0.25),
        (("--size", "15x10"), (15, 10), 1.0),
    ],
)
def test_scales(
    options: tuple[object, ...], size_wh: tuple[int, int], mpp_um: float, cinr: Path, tmp_path: Path
) -> None:
    from inrwsi.decode import Decoder

    out = tmp_path / "view.tif"
    result = run("decode", cinr, "-o", out, "--region", "50,40,30,20", *options, "--device", "cpu", "-q")
    assert result.exit_code == 0, result.output
    with Decoder(cinr, device="cpu") as decoder:
        exact = size_wh if options[0] == "--size" else None
        expected = decoder.read_region((50, 40), (30, 20), step=mpp_um / 0.5, out_wh=exact)
    with Image.open(out) as image:
        assert image.size == size_wh
        assert np.array_equal(np.asarray(image), expected)
        assert 1e4 / float(image.tag_v2[282]) == pytest.approx(mpp_um, rel=1e-5)


def test_region_past_the_edge_is_filled_with_the_background(cinr: Path, whole: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "edge.png"
    assert run("decode", cinr, "-o", out, "--region", "-10,90,30,20", "--device", "cpu", "-q").exit_code == 0
    with Container.open(cinr) as container:
        background = container.header.slide.background
    with Image.open(out) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (20, 30, 3)
    assert np.array_equal(pixels[:10, 10:], whole[90:, :20])
    assert (pixels[10:] == background).all()
    assert (pixels[:, :10] == background).all()


def test_damaged_chunk_is_refused_or_salvaged(cinr: Path, whole: np.ndarray, tmp_path: Path) -> None:
    blob = bytearray(cinr.read_bytes())
    with Container.open(cinr) as container:
        payload = container.chunk(0, (1, 0)).payload
        background = container.header.slide.background
    assert payload is not None
    blob[blob.index(payload) + len(payload) // 2] ^= 1
    damaged, out = tmp_path / "damaged.cinr", tmp_path / "rest.png"
    damaged.write_bytes(blob)
    told(run("decode", damaged, "-o", out, "--device", "cpu", "-q"), 3, "column 1, row 0")
    assert os.listdir(tmp_path) == ["damaged.cinr"]
    # A region that does not need the damaged chunk is not refused.
    assert run("decode", damaged, "-o", out, "--region", "0,0,64,64", "--device", "cpu", "-q").exit_code == 0
    result = run("decode", damaged, "-o", out, "--salvage", "--overwrite", "--device", "cpu", "-q")
    told(result, 0, "inrwsi: filled with the background: ")
    assert "column 1, row 0" in result.stderr
    with Image.open(out) as image:
        pixels = np.asarray(image)
    expected = whole.copy()
    expected[:TILE_PX, TILE_PX : 2 * TILE_PX] = background
    assert np.array_equal(pixels, expected)


# Sample


def test_sample_is_a_slide(tmp_path: Path) -> None:
    out = tmp_path / "sample.tiff"
    assert run("sample", "-o", out, "--size", "300x200", "--seed", 3, "--mpp", 0.25, "-q").output == ""
    from inrwsi.formats.source import open_source

    with open_source(out) as source:
        assert (source.width, source.height) == (300, 200)
        assert source.mpp_um == pytest.approx((0.25, 0.25), rel=1e-4)
    told(run("sample", "-o", out), 2, "is there already")


# Progress


def test_plain_lines_are_few_and_end_a_stage() -> None:
    now = [100.0]
    lines: list[str] = []
    view = PlainLines(lines.append, lambda: now[0])
    for second in range(13):
        now[0] = 100.0 + second
        view.report(Progress("network", second * 2.5, 30, "Mpx", "31.2 dB"))
    view.report(Progress("network", 30, 30, "Mpx", "31.3 dB"))
    now[0] = 120.0
    view.report(Progress("tiles", 6, 10, "tiles"))  # resumed: the first six were done before
    now[0] = 126.0
    view.report(Progress("tiles", 9, 10, "tiles"))
    view.report(Progress("tiles", 10, 10, "tiles"))
    assert lines == [
        "network: 12.5 of 30 Mpx, 31.2 dB, 2.5 Mpx/s, 7.0 s left",
        "network: 25 of 30 Mpx, 31.2 dB, 2.5 Mpx/s, 2.0 s left",
        "network: 30 of 30 Mpx, 31.2 dB, 2.5 Mpx/s, 12 s",
        "tiles: 9 of 10 tiles, 0.5 tiles/s, 2.0 s left",
        "tiles: 10 of 10 tiles, 0.667 tiles/s, 6.0 s",
    ]


def test_bars_show_each_stage(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with _bars() as report:
        report(Progress("network", 1.5, 3, "Mpx", "31.2 dB"))
        report(Progress("network", 3, 3, "Mpx", "32.0 dB"))
        report(Progress("tiles", 2, 4, "Mpx"))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err)
    assert "3/3 Mpx" in shown
    assert "32.0 dB" in shown
    assert "2/4 Mpx" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (41.6, "42 s"),
        (59.9, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
