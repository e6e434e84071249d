"""`inrwsi encode`: a slide goes in, a .cinr file comes out."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from inrwsi.cli.params import (
    BYTES,
    check_output,
    device_option,
    output_option,
    overwrite_option,
    quiet_option,
    threads_option,
    use_threads,
)
from inrwsi.cli.progress_view import duration, progress_view
from inrwsi.errors import UsageError, is_interrupt
from inrwsi.fields.models import model_names

if TYPE_CHECKING:
    from inrwsi.options import EncodeReport

ALL_BUT_NAMED = "\0all"  # cannot be typed, so it is no image's name
SHOWS_A_NAME = ("label", "macro", "overview")
GROUPS = (
    ("Output", ("out", "overwrite", "resume", "keep_associated")),
    ("Target (at most one)", ("quality", "psnr_db", "ratio", "size_bytes", "bpp")),
    ("Model", ("model", "effort", "tune", "self_contained", "seed")),
    (
        "Of the other models",
        ("passes", "tile_px", "weight_bits", "prior", "prior_quality", "loss", "loss_network", "optimiser"),
    ),
    ("What the source does not say", ("source_mpp", "objective_power")),
    ("Running", ("device", "threads", "memory_mb", "quiet")),
)


class EncodeCommand(click.Command):
    """Lets `--keep-associated` stand without a value and never take the word after it, which may be the source."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        options = [f"{a}={ALL_BUT_NAMED}" if a == "--keep-associated" else a for a in args[:end]]
        return super().parse_args(ctx, options + args[end:])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options by what they are about, in the order of `GROUPS`; what is in none of them comes last."""
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        records = {p.name: record for p in options if (record := p.get_help_record(ctx)) is not None}
        for title, names in GROUPS:
            shown = [records.pop(name) for name in names]
            with formatter.section(title):
                formatter.write_dl(shown if (title, names) != GROUPS[-1] else [*shown, *records.values()])


@click.command(
    cls=EncodeCommand,
    epilog="""\b
Examples:
  inrwsi encode slide.svs -o slide.cinr
  inrwsi encode slide.svs -o slide.cinr --size 300M --effort fast
  inrwsi encode scan.tif -o scan.cinr --source-mpp 0.25 --objective-power 40 --psnr 38
  inrwsi encode slide.svs -o slide.cinr --keep-associated --keep-associated=label
  inrwsi encode slide.svs -o slide.cinr --resume        (after it was interrupted)""",
)
@click.argument("source", type=click.Path(path_type=Path))
@output_option("The file to write; its name ends in .cinr.")
@click.option(
    "--quality",
    type=click.FloatRange(1, 100),
    metavar="Q",
    help="Of octaves. The same error for every slide, as of a quantiser with steps of 20 grey levels at 60, of 10 at "
    "78. No search, so the fastest.  [default: 60]",
)
@click.option(
    "--psnr",
    "psnr_db",
    type=click.FloatRange(10, 70),
    metavar="DB",
    help="PSNR of RGB over the whole slide, glass and all; met within 0.1 dB.",
)
@click.option(
    "--ratio",
    type=click.FloatRange(1, 1_000_000),
    metavar="N",
    help="N times smaller than the pixels without compression, which are 3 bytes each (grey: 1; other slides a byte or "
    "two a channel); met within 2 %.",
)
@click.option(
    "--size",
    "size_bytes",
    type=BYTES,
    metavar="BYTES",
    help="Size of the file, such as 350k, 300M or 1.5G (in thousands); met within 2 %.",
)
@click.option(
    "--model",
    default="octaves",
    show_default=True,
    metavar="NAME",
    help=f"octaves compresses. Others are neural fields of the literature, slow and large: {', '.join(model_names())}.",
)
@click.option(
    "--effort",
    type=click.Choice(["fast", "default", "best"]),
    help="Of octaves. fast codes with the networks that the package ships; default fits them first to a slide with 2 "
    "Mpx of tissue or more, in two passes over it or more of a small one, keeps what pays for its bytes, and refines "
    "every chunk; best takes sixteen passes, and refines for longer. At one --quality, slower ones give a higher PSNR "
    "and often more bytes; at one PSNR, fewer.  [default: default]",
)
@click.option(
    "--tune",
    type=click.Choice(["balanced", "psnr", "ms-ssim"]),
    help="Of octaves. What bits are spent for. ms-ssim gives more of them to what is smooth and to luma, psnr alike to "
    "all; balanced takes half of what the one saves for little of what it costs the other.  [default: balanced]",
)
@click.option(
    "--self-contained",
    is_flag=True,
    default=None,
    help="Of octaves. Hold all networks in the file, for about 156 kB: it then needs none of the package's. Files from "
    "16 MB on do so anyway.",
)
@click.option(
    "--bpp",
    type=click.FloatRange(0.02, 24),
    metavar="BITS",
    help="Of the other models. Bits a pixel of the tiles that are not blank, met within 2 %; header, index and what "
    "the tiles share come on top.  [default: 4]",
)
@click.option(
    "--passes",
    type=click.IntRange(1, 10_000),
    metavar="N",
    help="How often the fit sees each pixel of tissue: more is slower and sharper.  [default: 6; where each tile has a "
    "network of its own 60]",
)
@click.option(
    "--tile-px",
    type=click.IntRange(64, 2048),
    metavar="PX",
    help="Side of the tiles that have a table or a network of their own; by default more where the target is too small "
    "for a network each.  [default: 512; for networks 128, of fourier 256]",
)
@click.option(
    "--weight-bits",
    type=click.Choice(["8", "16"]),
    help="Bits of a weight of a network.  [default: 8]",
)
@click.option(
    "--prior",
    type=click.Choice(["jpeg", "jpegxl", "jpeg2000"]),
    help="Of the other models. Hold each tile in this codec too, and have the field say what it lacks.  "
    "[default: none]",
)
@click.option(
    "--prior-quality",
    type=click.FloatRange(1, 100),
    metavar="Q",
    help="Of the prior; of jpeg2000 it is a PSNR in dB.  [default: 30]",
)
@click.option(
    "--loss",
    type=click.Choice(["mse", "ms-ssim", "stain", "nuclei", "segmentation", "perceptual"]),
    help="Of the other models. What the fit makes small: squared error (mse); with MS-SSIM; with that of haematoxylin "
    "and eosin (stain); so that it counts five times in nuclei; with how far these are found again (segmentation); or "
    "with the error of a network's features (perceptual).  [default: mse]",
)
@click.option(
    "--loss-network",
    type=click.Path(path_type=Path),
    metavar="NET.pt",
    help="Of --loss perceptual, and of segmentation in place of the classical map of nuclei: a TorchScript file, as "
    "docs/guidance.md says. It is a program, which runs: use none that is not trusted. Decoding does not need it.",
)
@click.option(
    "--optimiser",
    type=click.Choice(["adam", "soap"]),
    help="Of the other models. What the networks are fitted by.  [default: adam]",
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
    help="Keep the slide's associated images: alone, all but label, macro and overview, which show a patient's name; "
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
    quality: float | None,
    psnr_db: float | None,
    ratio: float | None,
    size_bytes: int | None,
    model: str,
    effort: str | None,
    tune: str | None,
    self_contained: bool | None,
    bpp: float | None,
    passes: int | None,
    tile_px: int | None,
    weight_bits: str | None,
    prior: str | None,
    prior_quality: float | None,
    loss: str | None,
    loss_network: Path | None,
    optimiser: str | None,
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

    SOURCE is anything that OpenSlide opens, a TIFF or OME-TIFF, a PNG or a JPEG, of 1 or 3 channels of 8 bits; with
    any model but octaves of up to 16, of 8 or 16 bits. The file appears under its name when it is whole, not before.
    Names, dates and numbers of patients and cases are never carried over.
    """
    check_output(out, (".cinr",), overwrite=overwrite)
    from inrwsi.formats.source import open_source
    from inrwsi.options import EncodeOptions, check_encodable

    options = EncodeOptions(
        model=model,
        quality=quality,
        psnr_db=psnr_db,
        ratio=ratio,
        size_bytes=size_bytes,
        effort=effort,
        tune=tune,
        self_contained=self_contained,
        bpp=bpp,
        passes=passes,
        tile_px=tile_px,
        weight_bits=None if weight_bits is None else int(weight_bits),
        prior=prior,
        prior_quality=prior_quality,
        loss=loss,
        loss_network=loss_network,
        optimiser=optimiser,
        seed=seed,
        device=device,
        memory_mb=memory_mb,
    )
    with open_source(source, mpp_um=source_mpp, objective_power=objective_power) as slide:
        options = replace(options, keep_associated=resolve_associated(keep_associated, slide.associated, source))
        check_encodable(slide, out, options, overwrite=overwrite)
        # From here on torch is there; every mistake that can be seen without it has been told.
        from inrwsi.encode import encode as encode_slide

        use_threads(threads)
        try:
            with progress_view(quiet=quiet) as progress:
                report = encode_slide(slide, out, options, progress=progress, resume=resume, overwrite=overwrite)
        except (KeyboardInterrupt, SystemError) as error:
            work = out.with_name(out.name + ".work")
            if not is_interrupt(error) or not work.is_dir():
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
    lines = [
        f"{report.path}: {report.cinr_bytes:,} bytes, {compared} than the source's {report.source_bytes:,} bytes",
        f"slide: {report.slide_px / 1e6:,.2f} Mpx at {report.bpp:.3f} bits a pixel",
        f"tissue: {report.tissue_px / 1e6:,.2f} Mpx at {report.tissue_bpp:.3f} bits a pixel",
    ]
    if report.psnr_db is not None:
        lossless = "without any error"
        lines.append(
            f"PSNR: {f'{report.psnr_db:.2f} dB' if math.isfinite(report.psnr_db) else lossless}, glass and all"
        )
    lines.append(f"chunks: {report.coded_chunks:,} coded, {report.blank_chunks:,} blank")
    lines.append(f"time: {duration(report.seconds)}")
    return "\n".join(lines)
