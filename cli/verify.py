"""`inrwsi verify`: whether a .cinr file is whole, byte for byte (without torch), and how near it is to its source."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from inrwsi.cli.params import (
    cache_option,
    check_output,
    device_option,
    overwrite_option,
    quiet_option,
    threads_option,
    use_threads,
)
from inrwsi.cli.progress_view import progress_view
from inrwsi.errors import UsageError

if TYPE_CHECKING:
    from inrwsi.compare import CompareReport
    from inrwsi.formats.container import Container

EXIT_DAMAGED = 3


@click.command(
    epilog="""\b
Examples:
  inrwsi verify slide.cinr && echo whole
  inrwsi verify slide.cinr --against slide.svs --worst-tiles worst.png"""
)
@click.argument("file")
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="SLIDE",
    help="The slide that FILE was made of: decode all of FILE, and say PSNR, SSIM and the worst tiles.",
)
@click.option(
    "--worst-tiles",
    "picture",
    type=click.Path(path_type=Path),
    metavar="OUT.png",
    help="With --against: a picture of the worst tiles, source beside decoded beside their difference.",
)
@click.option(
    "--worst",
    type=click.IntRange(0, 64),
    default=8,
    show_default=True,
    metavar="N",
    help="With --against: how many of the worst tiles.",
)
@overwrite_option
@device_option
@cache_option("With --against: memory for tiles that are needed again.")
@threads_option
@quiet_option
def verify(
    file: str,
    against: Path | None,
    picture: Path | None,
    worst: int,
    overwrite: bool,
    device: str,
    cache_mb: int,
    threads: int | None,
    quiet: bool,
) -> None:
    """Read all of FILE, a .cinr file or its address, and check every byte of it against a checksum.

    Lists what is damaged. Exit code 0: whole; 3: damaged.
    A damaged file is compared with nothing.
    """
    if picture is not None:
        if against is None:
            raise UsageError("--worst-tiles needs a slide to compare with; give --against too")
        if worst == 0:
            raise UsageError("--worst-tiles is given with --worst 0; give a number of tiles to show")
        check_output(picture, (".png",), overwrite=overwrite)
    from inrwsi.formats.container import Container

    with Container.open(file) as container:
        damage = container.verify()
        if not damage:
            sections, chunks = len(container.sections()), container.header.chunk_count
            click.echo(f"ok: {sections} sections, {chunks:,} chunks, {container.file_bytes:,} bytes")
            if against is not None:
                report = _compare(container, against, worst, device, cache_mb << 20, threads, quiet)
                click.echo(_figures(report, against))
                if picture is not None:
                    from inrwsi.compare import save_picture, worst_tiles_picture

                    save_picture(worst_tiles_picture(report.worst), picture)
            return
    for error in damage:
        click.echo(str(error))
    click.echo(f"inrwsi: {file}: {len(damage)} damaged {'part' if len(damage) == 1 else 'parts'}", err=True)
    raise click.exceptions.Exit(EXIT_DAMAGED)


def _compare(
    container: Container,
    against: Path,
    worst: int,
    device: str,
    cache_bytes: int,
    threads: int | None,
    quiet: bool,
) -> CompareReport:
    from inrwsi.compare import compare

    use_threads(threads)
    with progress_view(quiet=quiet) as progress:
        return compare(container, against, worst=worst, device=device, cache_bytes=cache_bytes, progress=progress)


def _figures(report: CompareReport, against: Path) -> str:
    """PSNR and SSIM in a line, and a line a tile."""
    from inrwsi.compare import TILE_PX

    (width, height) = report.l0_wh
    ssim = "too small for SSIM" if math.isnan(report.ssim) else f"SSIM {report.ssim:.4f}"
    lines = [f"against {against}: PSNR {report.psnr_db:.2f} dB, {ssim}, glass and all; {width * height / 1e6:,.2f} Mpx"]
    if report.worst:
        lines.append(f"worst tiles of {TILE_PX} x {TILE_PX}:")
        lines.append(f"{'x':>10} {'y':>10} {'PSNR, dB':>10}")
    lines += [f"{tile.l0_xy[0]:>10} {tile.l0_xy[1]:>10} {tile.psnr_db:>10.2f}" for tile in report.worst]
    return "\n".join(lines)
