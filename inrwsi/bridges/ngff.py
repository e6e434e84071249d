"""A slide as the keys and values of an OME-Zarr image: version 0.4, https://ngff.openmicroscopy.org/0.4.

.zgroup, .zattrs      the group, and what it is
k/.zarray             octave k: (c, y, x) uint8, not compressed, chunks of all three colours
k/0/row/column        one chunk of it, decoded when it is asked for; beyond the slide is its background
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from inrwsi.bridges.levels import LevelArray, open_levels
from inrwsi.geometry import Rect, grid_wh


@dataclass(frozen=True)
class NgffKeys:
    """The keys of a slide's image, with `/` between their parts and none at the ends. Thread safe; picklable.

    Args:
        levels: the octaves of one slide, finest first.
    """

    levels: tuple[LevelArray, ...]

    @classmethod
    def open(cls, file: Any, **settings: Any) -> NgffKeys:
        """Of a file; arguments and errors as of `open_levels`."""
        return cls(open_levels(file, **settings))

    def close(self) -> None:
        self.levels[0].slide.close()

    def get(self, key: str) -> bytes | None:
        """The value of a key; None where there is no such key.

        Raises:
            CorruptFile: a chunk is damaged. It is not given as missing: Zarr would show that as black.
        """
        text = self._document(key)
        if text is not None:
            return text
        chunk = self._chunk(key)
        if chunk is None:
            return None
        level, row, column = chunk
        side = level.piece_px
        return level.read(Rect(column * side, row * side, side, side)).transpose(2, 0, 1).tobytes()

    def size_bytes(self, key: str) -> int | None:
        """Of a key's value, without decoding it; None where there is no such key."""
        text = self._document(key)
        if text is not None:
            return len(text)
        chunk = self._chunk(key)
        return None if chunk is None else 3 * chunk[0].piece_px ** 2

    def list_dir(self, prefix: str) -> list[str]:
        """What is directly under a prefix: the next part of each key, once each."""
        parts = [part for part in prefix.split("/") if part]
        if not parts:
            return [".zattrs", ".zgroup", *(str(level.number) for level in self.levels)]
        level = self._level(parts[0])
        if level is None or len(parts) > 3:
            return []
        columns, rows = _grid(level)
        if len(parts) == 1:
            return [".zarray", "0"]
        if parts[1] != "0" or (len(parts) == 3 and _number(parts[2], rows) is None):
            return []
        return [str(i) for i in range(rows if len(parts) == 2 else columns)]

    def walk(self, prefix: str = "") -> Iterator[str]:
        """Every key that begins with a prefix."""
        for key in self._all():
            if key.startswith(prefix):
                yield key

    def _all(self) -> Iterator[str]:
        yield from (".zattrs", ".zgroup")
        for level in self.levels:
            yield f"{level.number}/.zarray"
            columns, rows = _grid(level)
            yield from (f"{level.number}/0/{j}/{i}" for j in range(rows) for i in range(columns))

    def _level(self, text: str) -> LevelArray | None:
        number = _number(text, len(self.levels))
        return None if number is None else self.levels[number]

    def _document(self, key: str) -> bytes | None:
        found: dict[str, Any] | None = None
        if key == ".zgroup":
            found = {"zarr_format": 2}
        elif key == ".zattrs":
            found = attributes(self.levels)
        elif key.endswith("/.zarray"):
            level = self._level(key.removesuffix("/.zarray"))
            found = None if level is None else _zarray(level)
        return None if found is None else json.dumps(found, indent=2).encode()

    def _chunk(self, key: str) -> tuple[LevelArray, int, int] | None:
        """The level, the row and the column of a chunk."""
        parts = key.split("/")
        level = self._level(parts[0])
        if level is None or len(parts) != 4 or parts[1] != "0":
            return None
        columns, rows = _grid(level)
        row, column = _number(parts[2], rows), _number(parts[3], columns)
        return None if row is None or column is None else (level, row, column)


def attributes(levels: tuple[LevelArray, ...]) -> dict[str, Any]:
    """What the group says of itself: as a file that the slide is exported to."""
    from inrwsi.formats.export_base import PyramidSpec
    from inrwsi.formats.export_zarr import ngff_attributes

    slide = levels[0].slide
    spec = PyramidSpec(slide.dimensions, 3, slide.mpp_um, slide.objective_power, icc=None, quality=100)
    return ngff_attributes(spec, len(levels))


def _zarray(level: LevelArray) -> dict[str, Any]:
    h, w, colours = level.shape
    return {
        "zarr_format": 2,
        "shape": [colours, h, w],
        "chunks": [colours, level.piece_px, level.piece_px],
        "dtype": "|u1",
        "order": "C",
        "dimension_separator": "/",
        "compressor": None,
        "filters": None,
        "fill_value": 0,
    }


def _grid(level: LevelArray) -> tuple[int, int]:
    """Columns and rows of its chunks."""
    h, w, _ = level.shape
    return grid_wh((w, h), level.piece_px)


def _number(text: str, count: int) -> int | None:
    """The number below `count` that is written so."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else count
    return number if number < count and str(number) == text else None
