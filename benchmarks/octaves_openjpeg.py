"""JPEG 2000 in separate tiles, at its best: bits go to the tiles where they save the most error.

OpenJPEG is told a PSNR, and codes to it. In tiles of a slide that would spend on the edge of the tissue, most of it
glass, as little as the same PSNR needs there, and on a full tile too much: at equal PSNR of the slide it takes more
bits than it must. So each tile is coded at the target with the least of squared error plus lambda times bits, one
lambda for the slide, which is what a common quantiser step does for the other codecs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from . import tilepack
from .codecs import TILED
from .octaves_points import Coder, PeerCoder, peers
from .probe import cores
from .sampling import TILE_PX

TARGETS_DB = (*range(17, 46), 48, 51, 54, 57)
NAME = "jpeg2000"


@dataclass(frozen=True)
class SlopeTiles(PeerCoder):
    """Tiles of one slope. A value of v dB stands for lambda = 2 ln 2 x 3 x 255^2 / 10^(v / 10), squared error a bit:
    what more bits save in a tile that is all tissue and is coded to about v dB.

    Attributes:
        known: (bits, squared error) of a tile at a target, by their names: the values of a curve share them.
    """

    known: dict[tuple[str, int], tuple[int, float]] = field(default_factory=dict, compare=False, repr=False)

    def facts(self) -> Any:
        return [*super().facts(), "one slope", TARGETS_DB]

    def label(self, value: float) -> str:
        return f"slope of {value:g} dB"

    def encode(self, pixels: Any, value: float, path: Path) -> None:
        slope = 2 * math.log(2) * 3 * 255**2 / 10 ** (value / 10)
        tilepack.write(path, pixels.rgb, TILE_PX, lambda t: self._tile(t, slope), threads=cores())

    def _tile(self, tile: np.ndarray, slope: float) -> bytes | bytearray:
        name = sha256(tile.data).hexdigest()
        costs = {}
        for target_db in TARGETS_DB:
            if (name, target_db) not in self.known:
                self.known[name, target_db] = self._try(tile, target_db)
            bits, squares = self.known[name, target_db]
            costs[target_db] = squares + slope * bits
            if squares == 0:
                break
        return self.codec.encoder(tile, min(costs, key=lambda t: costs[t]), 1)

    def _try(self, tile: np.ndarray, target_db: int) -> tuple[int, float]:
        coded = bytes(self.codec.encoder(tile, target_db, 1))
        return 8 * len(coded), float(np.square(self.codec.decoder(coded, 1).astype(np.float64) - tile).sum())


def tiled_peers() -> Sequence[Coder]:
    """The codecs to be compared with, in tiles."""
    return [SlopeTiles(p.codec, TILED) if p.name == NAME else p for p in peers(TILED)]
