"""Slides out, as pyramids that other programs open: TIFF, OME-Zarr or Deep Zoom by the name of the output."""

from __future__ import annotations

from pathlib import Path

from inrwsi.errors import UsageError
from inrwsi.formats.export_base import PyramidSpec, PyramidWriter
from inrwsi.formats.export_dzi import DeepZoom
from inrwsi.formats.export_tiff import TiffPyramid
from inrwsi.formats.export_zarr import ZarrPyramid

__all__ = ["PyramidSpec", "PyramidWriter", "check_export", "writer_for"]

WRITERS: tuple[type[PyramidWriter], ...] = (TiffPyramid, ZarrPyramid, DeepZoom)


def writer_for(out: Path) -> type[PyramidWriter]:
    """The writer of the format that the name of `out` ends in. UsageError if it is none."""
    for writer in WRITERS:
        if out.name.lower().endswith(writer.suffixes):
            return writer
    raise UsageError(f"{out}: the output's name should end in .tif, .tiff, .ome.zarr or .dzi")


def check_export(out: Path, *, overwrite: bool) -> None:
    """Refuse an output that cannot or should not be written, before any work is done for it.

    Raises:
        UsageError: no such format, no folder to write to, there already without `overwrite`, or something else than
            an export of this format, which is not replaced in any case.
    """
    writer = writer_for(out)
    if not out.parent.is_dir():
        raise UsageError(f"{out}: the folder {out.parent} is not there; make it first")
    for target in writer.targets(out):
        if not target.exists():
            continue
        if not writer.is_own(target):
            raise UsageError(f"{target}: is there and is no such export; give another name, or remove it")
        if not overwrite:
            raise UsageError(f"{target}: is there already; give --overwrite to replace it")
