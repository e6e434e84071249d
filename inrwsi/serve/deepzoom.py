"""Deep Zoom: the numbering of levels and tiles, as in `openslide.deepzoom`."""

from __future__ import annotations

from dataclasses import dataclass

from inrwsi.geometry import Rect, grid_wh, octave_wh

# A tile of a level lies in one chunk of an octave, or in four of the next finer one. Of 254 with an overlap of 1, 256,
# 510 with 1, and 512, it is what shows a view with the least decoding, and the first of it soonest.
TILE_PX = 256
OVERLAP_PX = 0


@dataclass(frozen=True)
class DeepZoom:
    """The levels of a slide of `l0_wh`: level 0 is one pixel, the last the slide itself.

    A pixel (z) of level `last - k` stands for 2^k x 2^k level-0 pixels of the slide.
    """

    l0_wh: tuple[int, int]

    @property
    def last(self) -> int:
        """The number of the finest level."""
        return (max(self.l0_wh) - 1).bit_length()

    def downsample(self, level: int) -> int:
        """Level-0 pixels a pixel of the level, along a side."""
        return 1 << (self.last - level)

    def tile(self, level: int, tile_ij: tuple[int, int]) -> Rect:
        """The z pixels of tile (column, row). Raises LookupError where there is none."""
        if not 0 <= level <= self.last:
            raise LookupError(f"there is no level {level}; there are 0 to {self.last}")
        z_wh = octave_wh(self.l0_wh, self.last - level)
        columns, rows = grid_wh(z_wh, TILE_PX)
        if not (0 <= tile_ij[0] < columns and 0 <= tile_ij[1] < rows):
            raise LookupError(f"level {level} has {columns} x {rows} tiles; there is no {tile_ij[0]}_{tile_ij[1]}")
        return Rect(tile_ij[0] * TILE_PX, tile_ij[1] * TILE_PX, TILE_PX, TILE_PX).intersect(Rect(0, 0, *z_wh))

    def dzi(self) -> str:
        """The descriptor, XML."""
        w, h = self.l0_wh
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="jpeg" '
            f'Overlap="{OVERLAP_PX}" TileSize="{TILE_PX}"><Size Width="{w}" Height="{h}"/></Image>\n'
        )
