"""Help says what a person needs, and the library's own defaults."""

from __future__ import annotations

import click
import pytest

from inrwsi import __version__
from inrwsi.cli.main import main
from inrwsi.errors import UsageError
from inrwsi.fields.models import config_class, model_names
from inrwsi.options import DEFAULT_BPP, OF_FIELDS, OF_OCTAVES, EncodeOptions
from tests.cli.conftest import run, told


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
                "--model NAME",
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
    for name in ("model", *OF_OCTAVES, *OF_FIELDS, "seed", "device", "memory_mb"):
        assert defaults[name] == getattr(options, name), name
    shown = {p.name: getattr(p, "help", None) or "" for p in main.commands["encode"].params}
    assert shown["effort"].endswith("[default: default]")
    assert shown["bpp"].endswith(f"[default: {DEFAULT_BPP:g}]")
    for name, value in {"weight_bits": 8, "quality": options.octaves.quality}.items():
        assert shown[name].endswith(f"[default: {value:g}]")
        assert value == getattr(options.octaves if name == "quality" else options.field(tile_px=1, passes=1), name)
    kinds = [config_class(name) for name in model_names()]
    assert {(kind.tile_px, kind.passes) for kind in kinds} == {(512, 6), (128, 60), (256, 60)}
    assert shown["passes"].endswith("[default: 6; where each tile has a network of its own 60]")
    assert shown["tile_px"].endswith("[default: 512; for networks 128, of fourier 256]")
    assert all(name in shown["model"] for name in model_names())
    ends = {"quality": (1, 100), "psnr_db": (10, 70), "ratio": (1, 1_000_000), "seed": (0, 2**32 - 1)}
    ends |= {"bpp": (0.02, 24), "passes": (1, 10000), "tile_px": (64, 2048)}
    for name, (low, high) in ends.items():
        param = next(p for p in main.commands["encode"].params if p.name == name)
        assert isinstance(param.type, click.FloatRange | click.IntRange)
        assert (param.type.min, param.type.max) == (low, high)
        model = "cinr" if name in OF_FIELDS else "octaves"
        for inside, outside in ((low, low - 0.01), (high, high + 1)):
            EncodeOptions(model=model, **{name: inside})
            with pytest.raises(UsageError, match=param.opts[-1]):
                EncodeOptions(model=model, **{name: outside})
    told(run("encode", "x.png", "-o", "x.cinr", "--memory-mb", 255), 2, "255 is not in the range")
    with pytest.raises(UsageError, match="--memory-mb is 255"):
        EncodeOptions(memory_mb=255)
