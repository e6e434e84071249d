"""OME-Zarr: OME-NGFF 0.4, a multiscale image in a folder of Zarr version 2, through zarr-python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from inrwsi import __version__
from inrwsi.errors import BackendUnavailable
from inrwsi.formats.export_base import TILE_PX, PyramidSpec, PyramidWriter

_NGFF_VERSION = "0.4"
_METHOD = "inrwsi export"
_COLOURS = {1: (("Grey", "FFFFFF"),), 3: (("Red", "FF0000"), ("Green", "00FF00"), ("Blue", "0000FF"))}


class ZarrPyramid(PyramidWriter):
    """One array a level, (c, y, x) uint8, a chunk a tile and channel; zarr's default compressor, so without loss.

    OME-NGFF 0.4 has a place for the scale, and none for an ICC profile, an objective power or associated images.
    """

    suffixes: ClassVar[tuple[str, ...]] = (".ome.zarr", ".zarr")

    def __init__(self, out: Path, spec: PyramidSpec) -> None:
        super().__init__(out, spec)
        try:
            import zarr
        except ImportError:
            raise BackendUnavailable(f"{out}: writing Zarr needs zarr; pip install inrwsi[zarr]") from None
        self._zarr = zarr
        self._arrays: list[Any] = []

    @classmethod
    def is_own(cls, target: Path) -> bool:
        try:
            attributes = json.loads((target / ".zattrs").read_bytes())
            return bool(attributes["multiscales"][0]["metadata"]["method"] == _METHOD)
        except (OSError, ValueError, LookupError, TypeError):  # it is none, or not of that form
            return False

    def _begin(self) -> None:
        group = self._zarr.open_group(self._partial / self.out.name, mode="w", zarr_format=2)
        for level in range(self.level_count):
            width, height = self.spec.level_wh(level)
            array = group.create_array(
                str(level),
                shape=(self.spec.channels, height, width),
                chunks=(1, TILE_PX, TILE_PX),
                dtype="uint8",
                fill_value=0,
                chunk_key_encoding={"name": "v2", "separator": "/"},
            )
            self._arrays.append(array)
        group.attrs.update(ngff_attributes(self.spec, self.level_count))

    def put(self, level: int, tile_ij: tuple[int, int], pixels: np.ndarray) -> None:
        y, x = tile_ij[1] * TILE_PX, tile_ij[0] * TILE_PX
        h, w = pixels.shape[:2]
        self._arrays[level][:, y : y + h, x : x + w] = np.ascontiguousarray(pixels.transpose(2, 0, 1))


def ngff_attributes(spec: PyramidSpec, level_count: int) -> dict[str, Any]:
    """`multiscales` and `omero` of OME-NGFF 0.4, sections 3.4 and 3.5. Without a known scale, lengths are pixels."""
    unit = {} if spec.mpp_um is None else {"unit": "micrometer"}
    x_um, y_um = spec.mpp_um or (1.0, 1.0)
    datasets = [
        {
            "path": str(level),
            "coordinateTransformations": [{"type": "scale", "scale": [1.0, y_um * 2**level, x_um * 2**level]}],
        }
        for level in range(level_count)
    ]
    multiscale = {
        "version": _NGFF_VERSION,
        "name": "slide",
        "axes": [
            {"name": "c", "type": "channel"},
            {"name": "y", "type": "space", **unit},
            {"name": "x", "type": "space", **unit},
        ],
        "datasets": datasets,
        "type": "mean",
        "metadata": {"method": _METHOD, "version": __version__},
    }
    channels = [
        {"label": label, "color": colour, "active": True, "window": {"min": 0, "max": 255, "start": 0, "end": 255}}
        for label, colour in _COLOURS[spec.channels]
    ]
    model = "color" if spec.channels == 3 else "greyscale"
    omero = {"version": _NGFF_VERSION, "name": "slide", "channels": channels, "rdefs": {"model": model}}
    return {"multiscales": [multiscale], "omero": omero}
