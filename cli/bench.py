"""`inrwsi bench`: a slide through every codec, measured on what comes back from the files, as one report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from inrwsi.cli.params import device_option, overwrite_option, quiet_option
from inrwsi.cli.progress_view import progress_view
from inrwsi.errors import BackendUnavailable, UsageError
from inrwsi.fields.models import model_names

QUICK_REGIONS = 4
WIDTH_OFF_TERMINAL = 120


@click.command(
    epilog="""\b
Examples:
  inrwsi bench slide.svs --out report
  inrwsi bench slide.svs --quick --codec jpeg-420 --codec avif
  inrwsi bench slide.svs --out report --bpp 0.3 --bpp 0.6 --bpp 1.2 --task classifier.pt"""
)
@click.argument("slide", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default=Path("report"),
    show_default=True,
    help="The folder for report.html and report.json; made if it is not there. A run that was cut short goes on in it.",
)
@click.option("--quick", is_flag=True, help="Four regions, three settings a codec and a short fit.")
@click.option("--full", is_flag=True, help="All pixels of the slide instead of a sample of its tissue.")
@click.option(
    "--codec", "codecs", multiple=True, metavar="NAME", help="A codec to run; may be given more than once.  [all]"
)
@click.option(
    "--model",
    "models",
    multiple=True,
    default=("octaves",),
    show_default=True,
    metavar="NAME",
    help=f"A model of this project to run; may be given more than once; 'none' for none. There are octaves, "
    f"{', '.join(model_names())}.",
)
@click.option(
    "--bpp",
    multiple=True,
    type=click.FloatRange(0.02, 24),
    metavar="BITS",
    help="Bits a pixel to run the models at; may be given more than once.  [octaves: its qualities; others: 0.5 to 4]",
)
@click.option(
    "--passes",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="Of the models' fit, as for inrwsi encode.  [the model's own; a sixth of them with --quick]",
)
@click.option(
    "--task",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A TorchScript (.pt) or ONNX (.onnx) model to ask of the original and of what was decoded. It is run: give "
    "only files that you trust.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, metavar="N", help="Of the sample."
)
@device_option
@overwrite_option
@quiet_option
def bench(
    slide: Path,
    out: Path,
    quick: bool,
    full: bool,
    codecs: tuple[str, ...],
    models: tuple[str, ...],
    bpp: tuple[float, ...],
    passes: int | None,
    task: Path | None,
    seed: int,
    device: str,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Measure SLIDE in every codec side by side: bytes, quality, fidelity for diagnosis and speed."""
    if quick and full:
        raise UsageError("--quick and --full are given; give one of them")
    try:
        from inrwsi.benchmarks import bench_slide
    except ImportError as error:
        raise BackendUnavailable(
            f"the benchmark needs {error.name}, which is not installed: pip install 'inrwsi[bench]'"
        ) from None
    with progress_view(quiet=quiet) as progress:
        outcome = bench_slide.bench_slide(
            bench_slide.Request(
                slide=slide,
                out=out,
                quick=quick,
                full=full,
                codecs=codecs,
                models=tuple(name for name in models if name != "none"),
                bpp=bpp,
                passes=passes,
                most_regions=QUICK_REGIONS if quick else None,
                task=task,
                seed=seed,
                device=device,
                overwrite=overwrite,
                command=_command(click.get_current_context()),
            ),
            progress,
        )
    if not quiet:
        from rich.console import Console

        # Into a file or a pipe there is no width to keep to, and 80 columns would cut every number.
        Console(width=None if sys.stdout.isatty() else WIDTH_OFF_TERMINAL).print(outcome.table)
    click.echo(str(outcome.page))


def _command(ctx: click.Context) -> str:
    """What was typed, for the report: files without their folders, and only what differs from the defaults."""
    words = ["inrwsi", "bench"]
    for param in ctx.command.params:
        value = ctx.params[param.name or ""]
        if param.name in ("quiet", "overwrite") or value in (None, (), False) or value == param.get_default(ctx):
            continue
        option = max(param.opts, key=len)
        for item in value if isinstance(value, tuple) else (value,):
            text = item.name if isinstance(item, Path) else f"{item:g}" if isinstance(item, float) else str(item)
            words += [text] if isinstance(param, click.Argument) else [option] if item is True else [option, text]
    return shlex.join(words)
