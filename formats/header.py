"""The schema of the header: what a `.cinr` file says of its slide, as frozen dataclasses. SPEC.md, section 5."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from inrwsi import geometry
from inrwsi.config import ConfigError, check, check_int, from_dict, to_dict

MAX_CHUNKS = 2**28
MAX_CHANNELS = 16
MAX_OCTAVES = 32
MPP_RANGE_UM = (1e-4, 1e4)
UNKNOWN = "unknown"
PROVENANCE = ("user", "openslide", "ome-xml", "tiff-resolution", "png-phys", "jpeg-density", "generated", UNKNOWN)
IMAGE_FORMATS = ("png", "jpeg")
_NAME = re.compile(r"[a-z0-9][a-z0-9 ._-]{0,63}")


@dataclass(frozen=True)
class SlideInfo:
    """The slide itself. Sizes in level-0 pixels; `background` is the colour of glass, one value a channel."""

    width: int
    height: int
    channels: int
    bit_depth: int
    background: tuple[int, ...]
    mpp_um: tuple[float, float] | None = None
    mpp_source: str = UNKNOWN
    objective_power: float | None = None
    objective_source: str = UNKNOWN

    def __post_init__(self) -> None:
        check_int("width", self.width, 1, geometry.MAX_SIDE_PX)
        check_int("height", self.height, 1, geometry.MAX_SIDE_PX)
        check_int("channels", self.channels, 1, MAX_CHANNELS)
        check(self.bit_depth in (8, 16), "bit_depth", self.bit_depth, "8 or 16")
        check_colour("background", self.background, self)
        if self.mpp_um is not None:
            check(
                all(MPP_RANGE_UM[0] <= v <= MPP_RANGE_UM[1] for v in self.mpp_um), "mpp_um", self.mpp_um, "1e-4 to 1e4"
            )
        if self.objective_power is not None:
            check(0 < self.objective_power <= 1000, "objective_power", self.objective_power, "above 0, to 1000")
        for key in ("mpp_source", "objective_source"):
            check(getattr(self, key) in PROVENANCE, key, getattr(self, key), f"one of {', '.join(PROVENANCE)}")

    @property
    def l0_wh(self) -> tuple[int, int]:
        return (self.width, self.height)

    @property
    def samples(self) -> str:
        """What a pixel is, for messages."""
        return f"{self.channels} channel{'' if self.channels == 1 else 's'} of {self.bit_depth} bits"

    @property
    def is_picture(self) -> bool:
        """Whether it is grey or RGB of 8 bits, which is all that OpenSlide's interface, viewers and JPEG know."""
        return self.channels in (1, 3) and self.bit_depth == 8


def check_colour(key: str, colour: tuple[int, ...], slide: SlideInfo) -> None:
    """Raise `ConfigError` unless `colour` has one value a channel, each within the bit depth."""
    check(len(colour) == slide.channels, key, colour, f"{slide.channels} values")
    check(all(0 <= v < 2**slide.bit_depth for v in colour), key, colour, f"values below 2^{slide.bit_depth}")


@dataclass(frozen=True)
class GridInfo:
    """Which octaves are stored, coarsest last, and the side of a chunk in mip pixels."""

    chunk_px: int
    octaves: tuple[int, ...]

    def __post_init__(self) -> None:
        check_int("chunk_px", self.chunk_px, 16, 65536)
        check_int("octaves", len(self.octaves), 1, MAX_OCTAVES)
        check(self.octaves == tuple(sorted(set(self.octaves))), "octaves", self.octaves, "ascending, each once")
        check(self.octaves[0] >= 0 and self.octaves[-1] <= 40, "octaves", self.octaves, "from 0 to 40")


@dataclass(frozen=True)
class AssociatedInfo:
    """One associated image, in the order of the file's ASSO sections."""

    name: str
    width: int
    height: int
    format: str

    def __post_init__(self) -> None:
        check(_NAME.fullmatch(self.name) is not None, "name", self.name, "1 to 64 of a-z 0-9 space . _ -")
        check_int("width", self.width, 1, 65535)
        check_int("height", self.height, 1, 65535)
        check(self.format in IMAGE_FORMATS, "format", self.format, "png or jpeg")


@dataclass(frozen=True)
class Header:
    """The whole header. `model` has a `name`; the rest of it is that model's own strict config."""

    slide: SlideInfo
    grid: GridInfo
    model: dict[str, Any]
    preview_format: str | None = None
    associated: tuple[AssociatedInfo, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    software: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        name = self.model.get("name")
        check(isinstance(name, str) and _NAME.fullmatch(name) is not None, "model.name", name, "a model's name")
        if self.preview_format is not None:
            check(self.preview_format in IMAGE_FORMATS, "preview_format", self.preview_format, "png or jpeg")
        names = [a.name for a in self.associated]
        check(len(names) <= 16 and len(set(names)) == len(names), "associated", names, "at most 16 names, each once")
        for key, strings in (("metadata", self.metadata), ("software", self.software)):
            check(len(strings) <= 256, key, len(strings), "at most 256 entries")
            check(all(len(k) <= 128 and len(v) <= 1024 for k, v in strings.items()), key, "an entry", "short strings")
        check_int("grid", self.chunk_count, 1, MAX_CHUNKS)

    def grid_wh(self, octave: int) -> tuple[int, int]:
        """Columns and rows of chunks in `octave`."""
        return geometry.grid_wh(geometry.octave_wh(self.slide.l0_wh, octave), self.grid.chunk_px)

    @property
    def chunk_count(self) -> int:
        """Chunks in all octaves."""
        return sum(cols * rows for cols, rows in map(self.grid_wh, self.grid.octaves))

    def chunk_number(self, octave: int, chunk_ij: tuple[int, int]) -> int:
        """Number of a chunk in index order: octaves coarsest first, within one row by row."""
        number = 0
        for k in reversed(self.grid.octaves):
            cols, rows = self.grid_wh(k)
            if k == octave:
                if not (0 <= chunk_ij[0] < cols and 0 <= chunk_ij[1] < rows):
                    raise IndexError(f"chunk {chunk_ij} is outside octave {k}, {cols} x {rows} chunks")
                return number + chunk_ij[1] * cols + chunk_ij[0]
            number += cols * rows
        raise IndexError(f"octave {octave} is not in the file; it has {self.grid.octaves}")

    def chunk_at(self, number: int) -> tuple[int, tuple[int, int]]:
        """(octave, (column, row)) of the chunk with this number: the inverse of `chunk_number`."""
        rest = number
        for k in reversed(self.grid.octaves):
            cols, rows = self.grid_wh(k)
            if 0 <= rest < cols * rows:
                return k, (rest % cols, rest // cols)
            rest -= cols * rows
        raise IndexError(f"chunk number {number} is outside the file's {self.chunk_count} chunks")

    def to_json(self) -> bytes:
        """UTF-8 JSON with sorted keys, no white space and no defaults: equal headers are equal bytes."""
        data = to_dict(self)
        said = {key: value for key, value in data.items() if value not in ([], {})}
        said["slide"] = {key: value for key, value in data["slide"].items() if value != UNKNOWN}
        return json.dumps(said, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parse_header(raw: bytes, *, ignore_unknown: bool) -> Header:
    """The header from its JSON.

    Raises:
        ConfigError: it is not JSON or not of the schema.
    """
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
        json.dumps(data, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is JSON, but cannot be printed
        return from_dict(Header, data, ignore_unknown=ignore_unknown)
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number of thousands of digits, too deep
        raise ConfigError(f"the header is not JSON ({type(error).__name__})") from None


def _no_constant(name: str) -> None:
    raise ConfigError(f"{name} stands in the header; it is not a number of JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ConfigError("a key stands twice in an object of the header")
    return data
