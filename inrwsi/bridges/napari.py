"""`napari slide.cinr`: the reader that `napari.yaml` declares."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from inrwsi.bridges.levels import dask_array, is_cinr, open_levels

LayerData = tuple[Any, dict[str, Any], str]
Paths = str | Sequence[str]


def get_reader(path: Paths) -> Callable[[Paths], list[LayerData]] | None:
    """What reads these files; None where one of them is no `.cinr` file, for napari to ask another reader."""
    return read_slides if all(is_cinr(one) for one in _listed(path)) else None


def read_slides(path: Paths) -> list[LayerData]:
    """A layer a slide: its octaves as one pyramid of lazy RGB arrays, to scale in micrometres where that is known.

    Raises:
        BackendUnavailable: dask is not installed.
        CorruptFile, UnsupportedVersion, UsageError: as `CinrSlide`.
    """
    return [_layer(one) for one in _listed(path)]


def _layer(path: str) -> LayerData:
    levels = open_levels(path)
    name = os.path.splitext(os.path.basename(path))[0]
    settings: dict[str, Any] = {"name": name, "multiscale": True, "rgb": True, "scale": levels[0].pixel_size}
    settings |= {"units": (levels[0].unit,) * 2, "metadata": {"inrwsi": dict(levels[0].slide.properties)}}
    return ([dask_array(level) for level in levels], settings, "image")


def _listed(path: Paths) -> Sequence[str]:
    return [path] if isinstance(path, str) else path
