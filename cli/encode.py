"""`inrwsi encode`: a slide goes in, a .cinr file comes out."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from inrwsi.cli.params import (
    check_output,
    device_option,
    output_option,
    overwrite_option,
    quiet_option,
    threads_option,
    use_threads,
)
from inrwsi.cli.progress_view import duration, progress_view
from inrwsi.errors import UsageError

if TYPE_CHECKING:
    from inrwsi.options import EncodeReport

ALL_BUT_NAMED = "\0all"  # cannot be typed, so it is no image's name
SHOWS_A_NAME = ("label", "macro", "overview")


class EncodeCommand(click.Command):
    """Lets `--keep-associated` stand without a value and never take the word after it, which may be the source."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        options = [f"{a}={ALL_BUT_NAMED}" if a == "--keep-associated" else a for a in args[:end]]
        return super().parse_args(ctx, options + args[end:])


@click.command(
    cls=EncodeCommand,
    epilog="""\b
Examples:
  inrwsi encode slide.svs -o slide.cinr
  inrwsi encode scan.tif -o scan.cinr --source-mpp 0.25 --objective-power 40 --bpp 0.5
  inrwsi encode slide.svs -o slide.cinr --keep-associated --keep-associated=label
  inrwsi encode slide.svs -o slide.cinr --resume        (after it was interrupted)""",
)
@click.argument("source", type=click.Path(path_type=Path))
@output_option("The file to write; its name ends in .cinr.")
@click.option("--model", type=click.Choice(["cinr"]), default="cinr", show_default=True, help="The neural field.")
@click.option(
    "--bpp",
    type=click.FloatRange(0.02, 24),
    default=4.0,
    show_default=True,
    metavar="BITS",
    help="Bits to spend on a pixel of tissue. Glass costs next to nothing.",
)
@click.option(
    "--passes",
    type=click.IntRange(1, 10_000),
    default=6,
    show_default=True,
    metavar="N",
    help="How often the fit sees each pixel of tissue: more is slower and sharper.",
)
@click.option(
    "--tile-px",
    type=click.IntRange(64, 2048),
    default=512,
    metavar="PX",
    show_default=True,
    help="Side of the tiles that have a table of their own.",
)
@click.option(
    "--weight-bits",
    type=click.Choice(["8", "16"]),
    default="8",
    show_default=True,
    help="Bits of a weight of the network, which all tiles share.",
)
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, metavar="N", help="Of all that is drawn."
)
@click.option(
    "--source-mpp",
    type=click.FloatRange(1e-4, 1e4),
    metavar="UM",
    help="Micrometres a pixel, where the source does not say or is wrong.",
)
@click.option(
    "--objective-power",
    type=click.FloatRange(0, 1000, min_open=True),
    metavar="P",
    help="Power of the objective, such as 40, where the source does not say or is wrong.",
)
@click.option(
    "--keep-associated",
    multiple=True,
    metavar="[=NAME]",
    help="Keep the slide's associated images: alone, all but the label and the macro, which show a patient's name; "
    "as --keep-associated=NAME, the one of that name. May be given more than once.  [default: none are kept]",
)
@click.option("--resume", is_flag=True, help="Go on from where an interrupted run of the same command stopped.")
@overwrite_option
@device_option
@click.option(
    "--memory-mb",
    type=click.IntRange(256),
    default=1024,
    show_default=True,
    metavar="MB",
    help="Memory for pixels held while encoding.",
)
@threads_option
@quiet_option
def encode(
    source: Path,
    out: Path,
    model: str,
    bpp: float,
    passes: int,
    tile_px: int,
    weight_bits: str,
    seed: int,
    source_mpp: float | None,
    objective_power: float | None,
    keep_associated: tuple[str, ...],
    resume: bool,
    overwrite: bool,
    device: str,
    memory_mb: int,
    threads: int | None,
    quiet: bool,
) -> None:
    """Encode SOURCE, a whole-slide image or a picture, as a .cinr file.

    SOURCE is anything that OpenSlide opens, a TIFF or OME-TIFF, a PNG or a JPEG. The file appears under its name when
    it is whole, not before. Names, dates and numbers of patients and cases are never carried over.
    """
    check_output(out, (".cinr",), overwrite=overwrite)
    from inrwsi.formats.source import open_source
    from inrwsi.options import EncodeOptions, check_encodable

    with open_source(source, mpp_um=source_mpp, objective_power=objective_power) as slide:
        kept = resolve_associated(keep_associated, slide.associated, source)
        options = EncodeOptions(
            model=model,
            bpp=bpp,
            passes=passes,
            tile_px=tile_px,
            weight_bits=int(weight_bits),
            seed=seed,
            device=device,
            keep_associated=kept,
            memory_mb=memory_mb,
        )
        check_encodable(slide, out, options, overwrite=overwrite)
        # From here on torch is there; every mistake that can be seen without it has been told.
        from inrwsi.encode import encode as encode_slide

        use_threads(threads)
        try:
            with progress_view(quiet=quiet) as progress:
                report = encode_slide(slide, out, options, progress=progress, resume=resume, overwrite=overwrite)
        except KeyboardInterrupt:
            work = out.with_name(out.name + ".work")
            if not work.is_dir():
                raise
            raise KeyboardInterrupt(f"{work} holds what is done; the same command with --resume goes on") from None
    if not quiet:
        click.echo(summary(report))


def resolve_associated(asked: tuple[str, ...], there: Collection[str], source: Path) -> tuple[str, ...]:
    """Names of the associated images to keep, in the source's order.

    Args:
        asked: values of `--keep-associated`; `ALL_BUT_NAMED` where it stood alone.
        there: names that the source has.

    Raises:
        UsageError: a name that the source does not have.
    """
    names = set(asked)
    if ALL_BUT_NAMED in names:
        names.remove(ALL_BUT_NAMED)
        names |= {n for n in there if not any(word in n.lower() for word in SHOWS_A_NAME)}
    for name in sorted(names.difference(there)):
        has = f"it has {', '.join(there)}" if there else "it has none"
        raise UsageError(f"{source}: --keep-associated={name}: there is no associated image of that name; {has}")
    return tuple(n for n in there if n in names)


def summary(report: EncodeReport) -> str:
    """What was made, in plain lines. Sizes are those of the files on the disk."""
    ratio = report.source_bytes / report.cinr_bytes
    compared = f"{ratio:,.2f} times smaller" if ratio >= 1 else f"{1 / ratio:,.2f} times larger"
    return "\n".join(
        (
            f"{report.path}: {report.cinr_bytes:,} bytes, {compared} than the source's {report.source_bytes:,} bytes",
            f"slide: {report.slide_px / 1e6:,.2f} Mpx at {report.bpp:.3f} bits a pixel",
            f"tissue: {report.tissue_px / 1e6:,.2f} Mpx at {report.tissue_bpp:.3f} bits a pixel",
            f"chunks: {report.coded_chunks:,} coded, {report.blank_chunks:,} blank",
            f"time: {duration(report.seconds)}",
        )
    )
