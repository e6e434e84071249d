"""`inrwsi export`: a .cinr file as a pyramid that other programs open."""

from __future__ import annotations

from pathlib import Path

import click

from inrwsi.cli.params import (
    cache_option,
    device_option,
    jpeg_quality_option,
    overwrite_option,
    quiet_option,
    salvage_option,
    tell_salvaged,
    threads_option,
    use_threads,
)
from inrwsi.cli.progress_view import duration, progress_view


@click.command(
    epilog="""\b
Examples:
  inrwsi export slide.cinr slide.tif              for OpenSlide, QuPath and what reads OME-TIFF
  inrwsi export slide.cinr slide.ome.zarr         needs pip install inrwsi[zarr]
  inrwsi export slide.cinr slide.dzi --quality 80"""
)
@click.argument("file")
@click.argument("out", type=click.Path(path_type=Path))
@jpeg_quality_option(
    "Of JPEG in .tif and .dzi: from 90 on with full colour resolution (4:4:4), below with half (4:2:0). .ome.zarr "
    "loses nothing."
)
@salvage_option
@overwrite_option
@device_option
@cache_option(
    "Memory for tiles that are needed again. The rest of what an export holds is bounded, whatever the slide."
)
@threads_option
@quiet_option
def export(
    file: str,
    out: Path,
    quality: int,
    salvage: bool,
    overwrite: bool,
    device: str,
    cache_mb: int,
    threads: int | None,
    quiet: bool,
) -> None:
    """Write all of FILE, a .cinr file or its address, as a pyramid: OUT.tif, OUT.ome.zarr or OUT.dzi.

    A .tif carries the scale, the ICC profile and the associated images; an .ome.zarr the scale. OUT appears when it
    is whole; until then a hidden folder beside it holds what is made, for a .tif up to twice its size.
    """
    from inrwsi.formats.container import Container
    from inrwsi.formats.export import check_export
    from inrwsi.options import check_model

    check_export(out, overwrite=overwrite)
    with Container.open(file) as container:
        check_model(container)
        # From here on torch is there; every mistake that can be seen without it has been told.
        from inrwsi.export import export as export_slide

        use_threads(threads)
        with progress_view(quiet=quiet) as progress:
            report = export_slide(
                container,
                out,
                quality=quality,
                overwrite=overwrite,
                salvage=salvage,
                device=device,
                cache_bytes=cache_mb << 20,
                progress=progress,
            )
    tell_salvaged(report.damaged)
    if not quiet:
        (width, height), levels = report.levels_wh[0], len(report.levels_wh)
        size = f"{report.written_bytes:,} bytes, {width:,} x {height:,} pixels"
        click.echo(f"{report.path}: {size}, {levels} levels, {duration(report.seconds)}")
