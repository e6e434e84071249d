"""The crop of a slide that the reproduction is measured on: where there is most to be seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inrwsi.errors import UsageError
from inrwsi.formats.source import SlideSource, open_source

PROBES, PROBE_PX = 6, 64  # windows of a crop that are looked at, a side, and their pixels


def crop_of(slide: Path, side_px: int, places: int = 12) -> tuple[np.ndarray, tuple[int, int]]:
    """(side, side, 3) uint8 of the place with the most detail among those of a grid over the slide, and its corner.

    Args:
        places: of the grid, a side.

    Raises:
        UsageError: the slide is not there, or is smaller, or not of three channels.
    """
    with open_source(slide) as source:
        if min(source.width, source.height) < side_px or source.channels != 3:
            raise UsageError(
                f"{slide}: has {source.width} x {source.height} pixels of {source.channels} channels; the crop is of "
                f"{side_px} x {side_px} pixels of 3"
            )
        ys, xs = (
            np.unique(np.linspace(0, n - side_px, places).astype(int)).tolist() for n in (source.height, source.width)
        )
        l0_xy = max(((x, y) for y in ys for x in xs), key=lambda xy: _detail(source, xy, side_px))
        return source.read(l0_xy, (side_px, side_px)).copy(), l0_xy


def _detail(source: SlideSource, l0_xy: tuple[int, int], side_px: int) -> float:
    """Mean difference of neighbouring pixels' green, over windows spread on the crop."""
    probe_px = min(PROBE_PX, side_px)
    at = np.linspace(0, side_px - probe_px, min(PROBES, side_px // probe_px)).astype(int).tolist()
    windows = [source.read((l0_xy[0] + x, l0_xy[1] + y), (probe_px, probe_px)) for y in at for x in at]
    return float(np.mean([np.abs(np.diff(window[..., 1].astype(np.int16), axis=1)).mean() for window in windows]))
