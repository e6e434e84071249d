"""What `CinrSlide` is made of, besides decoding: errors that are OpenSlide's too, levels, properties, edges."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ctypes import ArgumentError
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise
from typing import Any, SupportsIndex

import numpy as np
import openslide

from inrwsi.config import ConfigError
from inrwsi.errors import CorruptFile, UsageError
from inrwsi.formats.container import Container
from inrwsi.formats.header import Header, SlideInfo
from inrwsi.geometry import check_output_wh, octave_wh, resolve_downsample

COARSEST_LEVEL_PX = 256
DEFAULT_TILE_PX = 256
SLACK = 1e-6  # of a pixel: what lies nearer to a whole one is on it


class ClosedSlide(UsageError, ArgumentError, ValueError):
    """The slide is closed. OpenSlide's own objects raise `ctypes.ArgumentError`, its picture slides `ValueError`."""


class BadArgument(UsageError, ArgumentError, TypeError):
    """An argument is not of the type it should be. OpenSlide raises the one or the other."""


class BadRegion(UsageError, openslide.OpenSlideError):
    """A region cannot be: its size is negative, say."""


class DamagedSlide(CorruptFile, openslide.OpenSlideError):
    """The file is damaged; attributes as of `CorruptFile`."""


@contextmanager
def openslide_errors() -> Iterator[None]:
    """Damage is an `OpenSlideError` too: who reads slides of all kinds catches that one."""
    try:
        yield
    except CorruptFile as error:
        raise DamagedSlide(error.path, error.cause, error.where) from None


@dataclass(frozen=True)
class Level:
    """One level.

    Attributes:
        wh: its size in pixels.
        downsample: level-0 pixels a pixel, as it is stated, and by which a place in the level is found.
        step: level-0 pixels a pixel, as its pixels are made: pixel (i, j) covers [i, i + 1) x [j, j + 1) times this.
    """

    wh: tuple[int, int]
    downsample: int | float
    step: int | float


def octave_levels(l0_wh: tuple[int, int]) -> tuple[Level, ...]:
    """Every octave down to the first that is at most `COARSEST_LEVEL_PX` a side."""
    levels = [Level(l0_wh, 1, 1)]
    while max(levels[-1].wh) > COARSEST_LEVEL_PX:
        step = 2 ** len(levels)
        levels.append(Level(octave_wh(l0_wh, len(levels)), step, step))
    return tuple(levels)


def check_shown(container: Container) -> None:
    """Raise `UsageError` unless OpenSlide's interface, RGBA of 8 bits, can show the slide."""
    slide = container.header.slide
    if not slide.is_picture:
        raise UsageError(
            f"{container.path}: has {slide.samples}, and a CinrSlide shows 1 or 3 of 8 bits; read it with "
            "inrwsi.decode.Decoder, or write it as a .tif with `inrwsi decode`"
        )


def with_scale(header: Header, mpp_um: float | Sequence[float] | None, objective_power: float | None) -> Header:
    """The header with what the caller says of the slide's scale."""
    changes: dict[str, Any] = {}
    if mpp_um is not None:
        both = _numbers(mpp_um)
        if len(both) not in (1, 2):
            raise UsageError(f"mpp_um is {mpp_um!r}; give micrometres a pixel: 0.25, or two for x and y")
        changes |= {"mpp_um": (both[0], both[-1]), "mpp_source": "user"}
    if objective_power is not None:
        power = _numbers(objective_power)
        if len(power) != 1:
            raise UsageError(f"objective_power is {objective_power!r}; give a number, such as 20")
        changes |= {"objective_power": power[0], "objective_source": "user"}
    try:
        slide: SlideInfo = replace(header.slide, **changes)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    return replace(header, slide=slide)


def _numbers(given: Any) -> tuple[float, ...]:
    """One number, or several; none where there is something that is no number."""
    try:
        return tuple(np.asarray(given, np.float64).reshape(-1).tolist()) if not isinstance(given, (str, bytes)) else ()
    except (TypeError, ValueError):
        return ()


def choose_levels(header: Header, levels: str | Sequence[float], name: str) -> tuple[Level, ...]:
    """The levels that a caller asked for: `octaves`, `source`, or downsamples, the first of which is 1.

    Raises:
        UsageError: it is none of these, or the file does not say what its source had.
    """
    if levels == "octaves":
        return octave_levels(header.slide.l0_wh)
    if levels == "source":
        found = source_levels(header)
        if not found:
            raise UsageError(
                f"{name}: does not say which levels its source had; leave levels at 'octaves', or give their "
                "downsamples: levels=(1, 4, 16)"
            )
        return found
    try:
        given = [float(v) for v in levels] if not isinstance(levels, str) else []
    except (TypeError, ValueError):
        given = []
    if not _are_downsamples(given):
        raise UsageError(f"levels is {levels!r}; it should be 'octaves', 'source', or downsamples such as (1, 4, 16)")
    return tuple(Level(_rounded_wh(header.slide.l0_wh, d), d, d) for d in map(_whole, given))


def source_levels(header: Header) -> tuple[Level, ...]:
    """The levels of the slide that was encoded, as OpenSlide states them there; none where the file does not say."""
    facts, l0_wh = header.metadata, header.slide.l0_wh
    found: list[Level] = []
    while (text := facts.get(f"openslide.level[{len(found)}].downsample")) is not None:
        sides = [facts.get(f"openslide.level[{len(found)}].{side}") for side in ("width", "height")]
        try:
            downsample = _whole(float(text))
            wh = (int(sides[0]), int(sides[1])) if sides[0] and sides[1] else _rounded_wh(l0_wh, downsample)
            found.append(Level(wh, downsample, _step(l0_wh, wh, downsample)))
        except (ValueError, ArithmeticError):  # of a writer that does not keep to the spec
            return ()
    fits = _are_downsamples([level.downsample for level in found]) and found[0].wh == l0_wh
    return tuple(found) if fits and all(min(level.wh) >= 1 and max(level.wh) <= max(l0_wh) for level in found) else ()


def resolve_step(
    name: object,
    scales: Mapping[str, float | None],
    *,
    mpp_um: tuple[float, float] | None,
    objective_power: float | None,
    opener: str = "open_slide",
) -> float:
    """Level-0 pixels a pixel of what is asked for, by at most one of `mag`, `mpp` and `downsample`; none means 1.

    Args:
        name: of the slide, and `opener`, by which its scale can be given: for the message.
        scales: what was given for each of the three.
        mpp_um, objective_power: of the slide, where they are known.

    Raises:
        UsageError: two scales are given, one is not a positive number, or the slide lacks what it is relative to.
    """
    given = {key: value for key, value in scales.items() if value is not None}
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are given; give one of them")
    for key, value in given.items():
        if not (isinstance(value, (int, float, np.number)) and math.isfinite(value) and value > 0):
            raise UsageError(f"{key} is {value!r}; it should be a positive number")
    for key, known, what, option in (
        ("mag", objective_power, "objective power", "objective_power=20"),
        ("mpp", mpp_um, "micrometres a pixel", "mpp_um=0.5"),
    ):
        if key in given and known is None:
            raise UsageError(
                f"{key}={given[key]:g} is asked for, but the {what} of {name} is not known; "
                f"say it, as in {opener}(..., {option}), or use downsample="
            )
    return resolve_downsample(**given, objective_power=objective_power, mpp_um=mpp_um)


def _are_downsamples(values: Sequence[float]) -> bool:
    return bool(values) and values[0] == 1 and all(a < b < math.inf for a, b in pairwise(values))


def _whole(downsample: float) -> int | float:
    """An int where it is one: places in the level are then found exactly."""
    return int(downsample) if downsample.is_integer() else downsample


def _rounded_wh(l0_wh: tuple[int, int], downsample: float) -> tuple[int, int]:
    return (max(1, round(l0_wh[0] / downsample)), max(1, round(l0_wh[1] / downsample)))


def _step(l0_wh: tuple[int, int], wh: tuple[int, int], downsample: int | float) -> int | float:
    """What a level's pixels really are in level-0 pixels: the whole number that its sides are rounded quotients of.

    What is stated is a mean of quotients of sides, 3.9996 or 4.0015 where a scanner averaged 4 x 4 and cut or filled
    what was left. By its last column such a number is off by a pixel, and 4.0015 is past the octave that serves 4.
    """
    whole = round(downsample)
    if all(side // whole <= have <= -(-side // whole) for side, have in zip(l0_wh, wh, strict=True)):
        return whole
    return downsample


def best_level(levels: Sequence[Level], downsample: float) -> int:
    """The coarsest level that is no coarser than `downsample`; 0 where there is none, the last for NaN."""
    coarser = (number for number, level in enumerate(levels) if downsample < level.downsample)
    return max(0, next(coarser, len(levels)) - 1)


class Properties(Mapping[str, str]):
    """A slide's properties, by key. `quickhash` is called when its property is first asked for, as it reads a chunk."""

    def __init__(self, values: dict[str, str], quickhash: Callable[[], str]) -> None:
        self._values, self._quickhash = values, quickhash

    def __getitem__(self, key: str) -> str:
        if key == openslide.PROPERTY_NAME_QUICKHASH1 and not self._values[key]:
            self._values[key] = self._quickhash()
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {dict(self)!r}>"


def property_values(header: Header, levels: Sequence[Level], icc_bytes: int) -> dict[str, str]:
    """All properties, the hash still empty: what is stored of the source's, and what OpenSlide says of every slide.

    `openslide.vendor` is this format; what it was of the source is `inrwsi.source-vendor`.
    """
    slide, stored = header.slide, dict(header.metadata)
    source_vendor = stored.pop(openslide.PROPERTY_NAME_VENDOR, None)
    if source_vendor is not None:
        stored["inrwsi.source-vendor"] = source_vendor
    own = {openslide.PROPERTY_NAME_VENDOR: "inrwsi", "openslide.level-count": str(len(levels))}
    background = slide.background * 3 if slide.channels == 1 else slide.background
    own[openslide.PROPERTY_NAME_BACKGROUND_COLOR] = bytes(background).hex().upper()
    own[openslide.PROPERTY_NAME_QUICKHASH1] = ""
    facts = {
        openslide.PROPERTY_NAME_MPP_X: slide.mpp_um and slide.mpp_um[0],
        openslide.PROPERTY_NAME_MPP_Y: slide.mpp_um and slide.mpp_um[1],
        openslide.PROPERTY_NAME_OBJECTIVE_POWER: slide.objective_power,
    }
    for key, value in facts.items():
        if value is not None:
            own[key] = f"{value:.17g}"
    if icc_bytes:
        own["openslide.icc-size"] = str(icc_bytes)
    for number, level in enumerate(levels):
        tile = header.grid.chunk_px if math.log2(level.downsample) in header.grid.octaves else DEFAULT_TILE_PX
        sizes = {"width": level.wh[0], "height": level.wh[1], "tile-width": tile, "tile-height": tile}
        own |= {f"openslide.level[{number}].{key}": str(value) for key, value in sizes.items()}
        own[f"openslide.level[{number}].downsample"] = f"{level.downsample:.17g}"
    for info in header.associated:
        own[f"openslide.associated.{info.name}.width"] = str(info.width)
        own[f"openslide.associated.{info.name}.height"] = str(info.height)
    stored = {key: value for key, value in stored.items() if not key.startswith("openslide.level[")}
    return dict(sorted((stored | own).items()))


def quickhash(container: Container) -> str:
    """Of the header, the file's size, and the first chunk of its coarsest octave: SHA-256 in hex."""
    chunk = container.chunk(container.header.grid.octaves[-1], (0, 0))
    content = chunk.payload if chunk.payload is not None else bytes(chunk.colour or ())
    parts = (container.header.to_json(), str(container.file_bytes).encode(), content)
    return sha256(b"".join(sha256(part).digest() for part in parts)).hexdigest()


def whole_and_part(l0: int, downsample: int | float) -> tuple[int, float]:
    """A position in level-0 pixels as a whole one of a level and what is left, from 0 to below 1.

    Before the slide nothing is left: OpenSlide takes positions there as whole ones, the nearer to the slide.
    """
    if l0 < 0:
        return -(-l0 // downsample if isinstance(downsample, int) else math.floor(-l0 / downsample + SLACK)), 0.0
    if isinstance(downsample, int):
        whole, rest = divmod(l0, downsample)
        return whole, rest / downsample
    at = l0 / downsample
    whole = math.floor(at + SLACK)
    part = at - whole
    return whole, part if part > SLACK else 0.0


def between(rgba: np.ndarray, part_xy: tuple[float, float]) -> np.ndarray:
    """Pixels between those of a level: each is the mean of what it lies over, and as opaque as that.

    Args:
        rgba: (h, w, 4) uint8, with one more row and column than the result along an axis whose part is not 0.
        part_xy: how far past the first pixel the result begins, 0 to below 1.

    Returns:
        (h, w, 4) uint8, not premultiplied.
    """
    held = rgba.astype(np.float32)
    held[..., :3] *= held[..., 3:] / 255
    for axis, part in ((1, part_xy[0]), (0, part_xy[1])):
        if part:
            first, second = (held[:, :-1], held[:, 1:]) if axis == 1 else (held[:-1], held[1:])
            held = first * np.float32(1 - part) + second * np.float32(part)
    alpha = held[..., 3:]
    held[..., :3] *= 255 / np.where(alpha > 0, alpha, np.float32(np.inf))
    return np.floor(np.clip(held, 0, 255) + np.float32(0.5)).astype(np.uint8)


def covered(start: float, step: float, count: int, side: int) -> np.ndarray:
    """(count,) bool: which output pixels, `step` level-0 pixels each, show something of a slide that is `side` long.

    Where they are no smaller than the slide's, those that lie over any of it; smaller ones by their centre.
    """
    low = start + np.arange(count) * step
    if step < 1:
        return (low + step / 2 >= 0) & (low + step / 2 < side)
    return (np.minimum(low + step, side) - np.maximum(low, 0)) > SLACK


def over(rgba: np.ndarray, background: tuple[int, ...]) -> np.ndarray:
    """(h, w, 3) uint8: (h, w, 4) over one colour."""
    alpha = rgba[..., 3:].astype(np.int32)
    if alpha.size == 0 or alpha.min() == 255:
        return np.ascontiguousarray(rgba[..., :3])
    colour = np.array(background, np.int32)
    return ((rgba[..., :3] * alpha + colour * (255 - alpha) + 127) // 255).astype(np.uint8)


def index_of(value: SupportsIndex) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise BadArgument(f"{value!r} is given for a whole number") from None


def size_of(size: tuple[int, int]) -> tuple[int, int]:
    wh = (index_of(size[0]), index_of(size[1]))
    if min(wh) < 0:
        raise BadRegion(f"negative width ({wh[0]}) or negative height ({wh[1]}) not allowed")
    if min(wh) > 0:
        check_output_wh(wh)
    return wh


def numbers_of(l0_xy: tuple[float, float]) -> tuple[float, float]:
    x, y = l0_xy
    for value in (x, y):
        if not (isinstance(value, (int, float, np.number)) and math.isfinite(value)):
            raise BadArgument(f"l0_xy is {l0_xy!r}; it should be two numbers of level-0 pixels")
    return (x if isinstance(x, int) else float(x), y if isinstance(y, int) else float(y))
