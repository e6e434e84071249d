"""Deep Zoom: a small XML file and, beside it, a folder of JPEG tiles for each level, down to a single pixel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

import numpy as np

from inrwsi import __version__
from inrwsi.formats.export_base import TILE_PX, PyramidWriter, encode_jpeg

_FORMAT = "jpeg"
# Deep Zoom counts its levels from the single pixel up, and its tiles may overlap; without, each pixel is stored once.
_XML = """<?xml version="1.0" encoding="UTF-8"?>
<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" Format="{format}" Overlap="0" TileSize="{tile_px}">
  <Size Width="{width}" Height="{height}"/>
</Image>
<!-- {made_by} {version} -->
"""
_MADE_BY = "Made by inrwsi"
_TILE_NAME = re.compile(rf"\d+_\d+\.{_FORMAT}")


class DeepZoom(PyramidWriter):
    """Deep Zoom has no place for scale, objective power, ICC profile and associated images."""

    suffixes: ClassVar[tuple[str, ...]] = (".dzi",)
    smallest_level_px: ClassVar[int] = 1

    @classmethod
    def targets(cls, out: Path) -> tuple[Path, ...]:
        return (out.with_name(f"{out.stem}_files"), out)

    @classmethod
    def is_own(cls, target: Path) -> bool:
        if target.suffix.lower() in cls.suffixes:
            return target.is_file() and _MADE_BY.encode() in _beginning(target)
        stem = target.name.removesuffix("_files")
        beside = (path for path in target.parent.iterdir() if path.stem == stem and path.suffix.lower() in cls.suffixes)
        if not (target.is_dir() and any(map(cls.is_own, beside))):
            return False
        levels = {entry.name: entry for entry in target.iterdir()}
        return levels.keys() == set(map(str, range(len(levels)))) and all(map(_only_tiles, levels.values()))

    def _begin(self) -> None:
        self._tiles, description = (self._partial / target.name for target in self.targets(self.out))
        for number in range(self.level_count):
            (self._tiles / str(number)).mkdir(parents=True)
        width, height = self.spec.l0_wh
        said = {"format": _FORMAT, "tile_px": TILE_PX, "made_by": _MADE_BY, "version": __version__}
        text = _XML.format(width=width, height=height, **said)
        description.write_text(text, encoding="utf-8")

    def put(self, level: int, tile_ij: tuple[int, int], pixels: np.ndarray) -> None:
        folder = self._tiles / str(self.level_count - 1 - level)
        (folder / f"{tile_ij[0]}_{tile_ij[1]}.{_FORMAT}").write_bytes(encode_jpeg(pixels, self.spec))


def _beginning(path: Path) -> bytes:
    """As much as a description has: another's file of the name may be of any size."""
    with open(path, "rb") as file:
        return file.read(1024)


def _only_tiles(folder: Path) -> bool:
    """Whether there is nothing else in it."""
    return folder.is_dir() and all(_TILE_NAME.fullmatch(entry.name) for entry in folder.iterdir())
