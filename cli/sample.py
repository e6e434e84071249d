"""`inrwsi sample`: a generated slide, for trying things out where no real slide is at hand."""

from __future__ import annotations

from pathlib import Path

import click

from inrwsi.cli.params import SIZE, check_output, output_option, overwrite_option, quiet_option
from inrwsi.cli.progress_view import progress_view
from inrwsi.progress import Progress


@click.command(
    epilog="""\b
Example:
  inrwsi sample -o sample.tiff --size 20000x15000 --seed 7"""
)
@output_option("The pyramidal TIFF to write: .tif or .tiff.")
@click.option(
    "--size", type=SIZE, metavar="WxH", default="4096x4096", show_default=True, help="Size of the slide in pixels."
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=1,
    show_default=True,
    metavar="N",
    help="Another seed, another slide.",
)
@click.option(
    "--mpp", type=click.FloatRange(0.1, 2), default=0.5, show_default=True, metavar="UM", help="Micrometres a pixel."
)
@overwrite_option
@quiet_option
def sample(out: Path, size: tuple[int, int], seed: int, mpp: float, overwrite: bool, quiet: bool) -> None:
    """Write a generated slide that looks like H&E under a microscope. The same seed gives the same slide."""
    check_output(out, (".tif", ".tiff"), overwrite=overwrite)
    from inrwsi.sample import write_sample

    with progress_view(quiet=quiet) as progress:
        write_sample(
            out,
            size_wh=size,
            seed=seed,
            mpp_um=mpp,
            progress=lambda done, total: progress(Progress("sample", done, total, "tiles")),
        )
