"""The pixels of an octave as they are."""

from __future__ import annotations

import numpy as np

from inrwsi.errors import CorruptFile
from inrwsi.geometry import Rect, octave_wh
from inrwsi.octave_tiles import OctaveTiles
from inrwsi.resample import Sampling


def plain(tiles: OctaveTiles, octave: int, rect: Rect) -> np.ndarray:
    """The pixels of an octave as they are, (h, w, channels) uint8; where a chunk is damaged, the background."""
    slide = tiles._slide
    out = np.full((rect.h, rect.w, slide.channels), 7, np.uint8)
    seen = np.zeros((rect.h, rect.w), np.int64)
    for block, content in tiles.blocks(rect, Sampling(octave=octave)):
        part = block.intersect(rect)
        at = np.s_[part.y - rect.y : part.y - rect.y + part.h, part.x - rect.x : part.x - rect.x + part.w]
        colours = np.array(slide.background if isinstance(content, CorruptFile) else content)
        whole = np.broadcast_to(colours, (block.h, block.w, slide.channels))
        out[at] = whole[part.y - block.y :, part.x - block.x :][: part.h, : part.w]
        seen[at] += 1
    assert (seen == 1).all()
    return out


def plain_octave(tiles: OctaveTiles, octave: int) -> np.ndarray:
    return plain(tiles, octave, Rect(0, 0, *octave_wh(tiles._slide.l0_wh, octave)))
