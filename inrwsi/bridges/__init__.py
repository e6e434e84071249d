"""Plug-ins by which others' programs read `.cinr` files. Each needs its program: an extra of the same name.

    large_image   `large_image.open("slide.cinr")`: tile source, entry point group `large_image.source`
    napari        `napari slide.cinr`: reader, manifest `napari.yaml`, group `napari.manifest`
    zarr          `zarr.open(CinrStore("slide.cinr"))`, and `zarr.open("cinr::slide.cinr")` through fsspec, group
                  `fsspec.specs`: an OME-Zarr 0.4 image
    xarray        `xarray.open_dataset("slide.cinr", engine="inrwsi")`: backend, group `xarray.backends`

All of them show a slide's octaves, as `levels` has them: arrays that are decoded where they are read.
"""

from __future__ import annotations

from inrwsi.errors import BackendUnavailable


def missing(package: str, extra: str) -> BackendUnavailable:
    """What to raise where `package` cannot be imported."""
    return BackendUnavailable(f"{package} is not installed, and this needs it; pip install inrwsi[{extra}]")
