"""A `.cinr` file with the interface of OpenSlide: whoever reads slides with openslide-python reads these."""

from __future__ import annotations

import io
import math
import operator
import os
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, SupportsIndex, TypeVar

import numpy as np
import openslide
from PIL import Image

from inrwsi.config import ConfigError
from inrwsi.errors import Cause, CorruptFile, UsageError
from inrwsi.formats import layout
from inrwsi.formats.byterange import open_ranges
from inrwsi.formats.container import Container
from inrwsi.formats.header import Header, SlideInfo
from inrwsi.geometry import Rect, check_output_wh, resolve_downsample
from inrwsi.options import check_model
from inrwsi.slide_parts import (
    AssociatedImages,
    BadArgument,
    BadRegion,
    ClosedSlide,
    Level,
    Properties,
    best_level,
    between,
    choose_levels,
    covered,
    octave_levels,
    openslide_errors,
    over,
    property_values,
    quickhash,
    whole_and_part,
)

if TYPE_CHECKING:
    from inrwsi.decode import Decoder

File = str | bytes | os.PathLike[Any] | BinaryIO
Mpp = float | Sequence[float]
Region = tuple[tuple[int, int], int, tuple[int, int]]
T = TypeVar("T")

_forked = False  # whether this process was forked from one that had this module


def _note_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


@dataclass
class _Live:
    """What a process has open of a slide; no other may use it."""

    pid: int
    container: Container
    decoder: Decoder | None = None


def open_slide(
    file: File,
    *,
    levels: str | Sequence[float] = "octaves",
    mpp_um: Mpp | None = None,
    objective_power: float | None = None,
    device: str = "auto",
    cache_bytes: int = 256 << 20,
) -> CinrSlide | openslide.OpenSlide | openslide.ImageSlide:
    """Open a slide: a `.cinr` file, by what it begins with, or else whatever OpenSlide opens.

    Args:
        file: path, URL or seekable binary file object; the last two for `.cinr` only.
        levels, mpp_um, objective_power, device, cache_bytes: as for `CinrSlide`, and for it only.

    Raises:
        UsageError: a URL or file object is no `.cinr`, or a setting is given with a slide that is none.
        CorruptFile, UnsupportedVersion: it is a damaged `.cinr` (this is an `openslide.OpenSlideError` too), or a newer one.
        Exception: what `openslide.open_slide` raises where there is no such file, or where it is no slide.
    """
    settings = {"levels": levels, "mpp_um": mpp_um, "objective_power": objective_power}
    local = isinstance(file, (str, bytes, os.PathLike)) and "://" not in os.fsdecode(file)
    if local and CinrSlide.detect_format(file) is None:
        given = [name for name, value in settings.items() if value not in (None, "octaves")]
        if given and os.path.exists(file):  # type: ignore[arg-type]
            raise UsageError(
                f"{os.fsdecode(file)}: is no .cinr file, and {given[0]} is for those; leave it out"  # type: ignore[arg-type]
            )
        return openslide.open_slide(file)  # type: ignore[arg-type]
    try:
        return CinrSlide(file, **settings, device=device, cache_bytes=cache_bytes)  # type: ignore[arg-type]
    except CorruptFile as error:
        if error.cause == Cause.NOT_CINR:
            raise UsageError(f"{error.path}: is no .cinr file; OpenSlide opens others, from a local path") from None
        raise


class CinrSlide(openslide.AbstractSlide):
    """An open `.cinr` file, with the attributes and methods of `openslide.OpenSlide`, and more ways to read.

    Thread safe. A fork, and whoever it is pickled for, opens the file anew when it first reads.

    Args:
        file: path, URL, or seekable binary file object (which stays the caller's to close).
        levels: `octaves`: the slide at 1/2, 1/4, ... down to 256 pixels. Or downsamples, such as those of the source
            slide: (1, 4, 16). `source`: those that the file has of its source, if it has any.
        mpp_um: micrometres a pixel, one number or (x, y), in place of what the file says.
        objective_power: in place of what the file says.
        device: auto, cpu or cuda. In a forked process auto is cpu.
        cache_bytes: limit of what is kept decoded.

    Raises:
        CorruptFile: it is damaged or no `.cinr` file; an `openslide.OpenSlideError` too.
        UnsupportedVersion, UsageError.
    """

    def __init__(
        self,
        file: File,
        *,
        levels: str | Sequence[float] = "octaves",
        mpp_um: Mpp | None = None,
        objective_power: float | None = None,
        device: str = "auto",
        cache_bytes: int = 256 << 20,
    ) -> None:
        self._closed = True  # until it is open
        super().__init__()
        self._file: Any = os.fsdecode(file) if isinstance(file, (bytes, os.PathLike)) else file
        self._path = _absolute(self._file)
        self._settings = (levels, mpp_um, objective_power, device, cache_bytes)
        self._device, self._cache_bytes = device, cache_bytes
        self._locks: dict[int, threading.Lock] = {}
        self._inherited: list[_Live] = []  # kept as they are: their threads and connections are another process's
        with openslide_errors():
            container = Container.open(self._file)
            self._live = _Live(os.getpid(), container)
            self._closed = False
            try:
                check_model(container)
                self._stored = container.header
                self.header = _with_scale(container.header, mpp_um, objective_power)
                self._levels = choose_levels(self.header, levels, container.path)
                self._octaves = octave_levels(self.header.slide.l0_wh)
                self._profile = container.icc()
            except BaseException:
                self.close()
                raise

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._file!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        if self._closed:
            raise self._closed_error()
        return (_reopen, (self._path or self._file, *self._settings))

    def __del__(self) -> None:
        self.close()

    @classmethod
    def detect_format(cls, filename: Any) -> str | None:
        """`inrwsi` if the file begins like a `.cinr`, else None; None too if it cannot be read."""
        try:
            ranges = open_ranges(os.fsdecode(filename) if isinstance(filename, bytes) else filename)
            try:
                return "inrwsi" if ranges.read(0, len(layout.MAGIC)) == layout.MAGIC else None
            finally:
                ranges.close()
        except UsageError:
            return None

    def close(self) -> None:
        """Close the file. What is asked of the slide afterwards raises `ValueError`; closing it again does nothing."""
        if not self._closed:
            self._closed = True
            if self._live.pid == os.getpid():
                self._live.container.close()

    # ---- what is open, in this process

    def _closed_error(self) -> ClosedSlide:
        return ClosedSlide(f"{self._file}: the slide is closed; open it again")

    def _here(self) -> _Live:
        if self._closed:
            raise self._closed_error()
        if self._live.pid != os.getpid():
            # A lock of the parent's might be held, by a thread that this process does not have.
            with self._locks.setdefault(os.getpid(), threading.Lock()):
                if self._live.pid != os.getpid():
                    self._inherited.append(self._live)
                    self._live = _Live(os.getpid(), self._open_again())
        return self._live

    def _open_again(self) -> Container:
        if self._path is None and not isinstance(self._file, io.BytesIO):
            raise UsageError(f"{self!r}: a file object cannot be shared by processes; open the slide by its path")
        container = Container.open(self._path or self._file)
        if container.header != self._stored:
            container.close()
            raise UsageError(f"{container.path}: is another file than it was when it was opened; open it again")
        return container

    @property
    def _decoder(self) -> Decoder:
        live = self._here()
        if live.decoder is None:
            from inrwsi.decode import Decoder

            with self._locks.setdefault(os.getpid(), threading.Lock()):
                if live.decoder is None:
                    # CUDA cannot be used in a fork of a process that has used it.
                    device = "cpu" if _forked and self._device == "auto" else self._device
                    live.decoder = Decoder(live.container, device=device, cache_bytes=self._cache_bytes)
        return live.decoder

    # ---- OpenSlide's interface

    @property
    def level_count(self) -> int:
        self._here()
        return len(self._levels)

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level."""
        self._here()
        return tuple(level.wh for level in self._levels)

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels a pixel of each level, along a side."""
        self._here()
        return tuple(float(level.downsample) for level in self._levels)

    @property
    def properties(self) -> Mapping[str, str]:
        """OpenSlide's properties, and what the file has of its source's."""
        self._here()
        values = property_values(self.header, self._levels, len(self._profile or b""))
        return Properties(values, lambda: quickhash(self._here().container))

    @property
    def associated_images(self) -> Mapping[str, Image.Image]:
        """The associated images by name, RGBA, each read when it is asked for."""
        self._here()
        return AssociatedImages(self.header, self._associated)

    def _associated(self, name: str) -> bytes:
        with openslide_errors():
            return self._here().container.associated(name)

    def get_best_level_for_downsample(self, downsample: float) -> int:
        """The coarsest level that is no coarser than `downsample`."""
        self._here()
        return best_level(self._levels, downsample)

    def set_cache(self, cache: openslide.OpenSlideCache) -> None:
        """Taken, as OpenSlide takes it, and without effect: `cache_bytes` bounds what this slide keeps."""
        self._here()
        if not hasattr(cache, "_openslide_cache"):
            raise TypeError("Not a cache object")

    def get_thumbnail(self, size: tuple[int, int]) -> Image.Image:
        """An RGB picture of the slide, at most `size`; it costs at most four times its pixels, whatever the levels."""
        self._here()
        downsample = max(side / most for side, most in zip(self.dimensions, size, strict=True))
        level = self._octaves[best_level(self._octaves, downsample)]
        rgba = self._run(partial(self._level_rgba, level, (0, 0), level.wh))
        thumb = self._image(over(rgba, self._background))
        thumb.thumbnail(size, Image.Resampling.LANCZOS)
        return thumb

    def read_region(
        self, location: tuple[int, int], level: int, size: tuple[int, int], *, as_array: bool = False
    ) -> Any:
        """A region of a level, as OpenSlide gives it.

        Where the location is a multiple of the level's downsample, the pixels are the level's own, the same bits
        however the region is cut; elsewhere they are means of the up to four that they lie over.

        Args:
            location: (x, y) of the top left corner, in level-0 pixels; may lie outside the slide.
            level: number of the level; one that is not there gives a transparent picture.
            size: (width, height) in pixels of the level.
            as_array: give an array instead.

        Returns:
            An RGBA picture, transparent outside the slide, with `info["icc_profile"]` where the slide has one. Or
            (h, w, 3) uint8, RGB, the slide's background outside the slide.

        Raises:
            OpenSlideError: a size is negative.
            CorruptFile: a chunk is damaged; an `OpenSlideError` too.
        """
        return self._given(self._run(self._region_job((location, level, size))), as_array)

    # ---- and beyond

    @property
    def mpp_um(self) -> tuple[float, float] | None:
        """Micrometres a pixel of level 0, (x, y), or None where they are unknown."""
        return self.header.slide.mpp_um

    @property
    def objective_power(self) -> float | None:
        """Of the scan, or None where it is unknown."""
        return self.header.slide.objective_power

    def read_regions(self, regions: Iterable[Region], *, as_array: bool = False) -> list[Any]:
        """What `read_region` gives for each (location, level, size), decoded on all of torch's threads."""
        jobs = [self._region_job(region) for region in regions]
        return [self._given(rgba, as_array) for rgba in self._run_all(jobs)]

    def read_region_at(
        self,
        l0_xy: tuple[float, float],
        size: tuple[int, int],
        *,
        mag: float | None = None,
        mpp: float | None = None,
        downsample: float | None = None,
        as_array: bool = False,
    ) -> Any:
        """A region at any scale. A pixel is the mean of the slide under it; past native the slide is interpolated.

        Args:
            l0_xy: (x, y) of the top left corner, in level-0 pixels; may lie outside the slide.
            size: (width, height) of the result, in pixels.
            mag: magnification, such as 20; or
            mpp: micrometres a pixel of the result, the geometric mean where the slide's differ by axis; or
            downsample: level-0 pixels a pixel of the result, any positive number. 1 if none of the three is given.
            as_array: as for `read_region`.

        Returns:
            As `read_region`.

        Raises:
            UsageError: two scales are given, one is not a positive number, or the slide lacks what it is relative to.
            OpenSlideError, CorruptFile: as `read_region`.
        """
        job = partial(self._rgba_at, _numbers(l0_xy), self._step(mag, mpp, downsample), _size(size))
        return self._given(self._run(job), as_array)

    def read_regions_at(
        self,
        l0_xys: Iterable[tuple[float, float]],
        size: tuple[int, int],
        *,
        mag: float | None = None,
        mpp: float | None = None,
        downsample: float | None = None,
        as_array: bool = False,
    ) -> Any:
        """`read_region_at` for each corner, on all of torch's threads: a list, or (n, h, w, 3) uint8 `as_array`."""
        step, wh = self._step(mag, mpp, downsample), _size(size)
        rgba = self._run_all([partial(self._rgba_at, _numbers(l0_xy), step, wh) for l0_xy in l0_xys])
        if not as_array:
            return [self._given(one, False) for one in rgba]
        return (
            np.stack([over(one, self._background) for one in rgba]) if rgba else np.zeros((0, *wh[::-1], 3), np.uint8)
        )

    # ---- pixels

    @property
    def _background(self) -> tuple[int, ...]:
        slide = self.header.slide
        return slide.background * 3 if slide.channels == 1 else slide.background

    def _step(self, mag: float | None, mpp: float | None, downsample: float | None) -> float:
        """Level-0 pixels a pixel of the result."""
        given = {k: v for k, v in {"mag": mag, "mpp": mpp, "downsample": downsample}.items() if v is not None}
        if len(given) > 1:
            raise UsageError(f"{' and '.join(given)} are given; give one of them")
        for name, value in given.items():
            if not (isinstance(value, (int, float, np.number)) and math.isfinite(value) and value > 0):
                raise UsageError(f"{name} is {value!r}; it should be a positive number")
        slide = self.header.slide
        for name, known, what, option in (
            ("mag", slide.objective_power, "objective power", "objective_power=20"),
            ("mpp", slide.mpp_um, "micrometres a pixel", "mpp_um=0.5"),
        ):
            if name in given and known is None:
                raise UsageError(
                    f"{name}={given[name]:g} is asked for, but the {what} of {self._file} is not known; say it, as in "
                    f"open_slide(..., {option}), or use downsample="
                )
        return resolve_downsample(**given, objective_power=slide.objective_power, mpp_um=slide.mpp_um)

    def _region_job(self, region: Region) -> Callable[[], np.ndarray]:
        """What reads a region (h, w, 4) uint8; the arguments are checked now."""
        location, level, size = region
        number, l0_xy, wh = _index(level), (_index(location[0]), _index(location[1])), _size(size)
        if not 0 <= number < len(self._levels):
            self._here()
            return partial(np.zeros, (wh[1], wh[0], 4), np.uint8)
        return partial(self._level_rgba, self._levels[number], l0_xy, wh)

    def _level_rgba(self, level: Level, l0_xy: tuple[int, int], wh: tuple[int, int]) -> np.ndarray:
        """(h, w, 4) uint8 of a level, from a corner in level-0 pixels."""
        (x, part_x), (y, part_y) = (whole_and_part(v, level.downsample) for v in l0_xy)
        rect = Rect(x, y, wh[0] + (part_x > 0), wh[1] + (part_y > 0))
        rgba = np.zeros((rect.h, rect.w, 4), np.uint8)
        part = rect.intersect(Rect(0, 0, *level.wh))
        if wh[0] and wh[1] and not part.empty:
            d = level.downsample
            at = rgba[part.y - y :, part.x - x :][: part.h, : part.w]
            at[..., :3] = self._pixels((part.x * d, part.y * d), d, (part.w, part.h))
            at[..., 3] = 255
        return between(rgba, (part_x, part_y)) if part_x or part_y else rgba

    def _rgba_at(self, l0_xy: tuple[float, float], step: float, wh: tuple[int, int]) -> np.ndarray:
        """(h, w, 4) uint8 from a corner in level-0 pixels, at `step` of them a pixel."""
        x, y = (covered(l0_xy[a], step, wh[a], self.header.slide.l0_wh[a]) for a in (0, 1))
        rgba = np.zeros((wh[1], wh[0], 4), np.uint8)
        if x.any() and y.any():
            # No more than is on the slide: a corner may be far from it.
            left, right = np.flatnonzero(x)[[0, -1]].tolist()
            top, bottom = np.flatnonzero(y)[[0, -1]].tolist()
            at = rgba[top : bottom + 1, left : right + 1]
            corner = (l0_xy[0] + left * step, l0_xy[1] + top * step)
            at[..., :3] = self._pixels(corner, step, (right + 1 - left, bottom + 1 - top))
            at[..., 3] = 255
        else:
            self._here()
        return rgba

    def _pixels(self, l0_xy: tuple[float, float], step: float, wh: tuple[int, int]) -> np.ndarray:
        """(h, w, channels) uint8 from the decoder, which takes a region's size in whole level-0 pixels."""
        l0_wh = (_l0_side(wh[0], step), _l0_side(wh[1], step))
        with openslide_errors():
            pixels = self._decoder.read_region(l0_xy, l0_wh, step=step)  # type: ignore[arg-type]
        return pixels[: wh[1], : wh[0]]

    def _run(self, job: Callable[[], T]) -> T:
        (result,) = self._run_all([job])
        return result

    def _run_all(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """What the jobs give, in their order.

        A fork inherits the state of OpenMP in the thread that forked, but not the threads that it waits for: with more
        than one thread to use, the work is done in threads of its own. A DataLoader's worker uses one.
        """
        import torch

        from inrwsi.octave_tiles import _pool

        threads = torch.get_num_threads()
        if threads == 1 or (len(jobs) < 2 and not _forked):
            return [job() for job in jobs]
        return list(_pool(threads, os.getpid()).map(lambda job: job(), jobs))

    def _given(self, rgba: np.ndarray, as_array: bool) -> Any:
        return over(rgba, self._background) if as_array else self._image(rgba)

    def _image(self, pixels: np.ndarray) -> Image.Image:
        if pixels.size == 0:
            return Image.new("RGBA", (pixels.shape[1], pixels.shape[0]))
        image = Image.fromarray(pixels)
        if self._profile is not None:
            image.info["icc_profile"] = self._profile
        return image


def _reopen(
    file: Any, levels: Any, mpp_um: Mpp | None, objective_power: float | None, device: str, cache_bytes: int
) -> CinrSlide:
    return CinrSlide(
        file,
        levels=levels,
        mpp_um=mpp_um,
        objective_power=objective_power,
        device=device,
        cache_bytes=cache_bytes,
    )


def _absolute(file: Any) -> str | None:
    """By what another process can open the file: its path or URL, or that of a file object if it is still there."""
    if isinstance(file, str):
        return file if "://" in file else os.path.abspath(file)
    try:
        name = os.path.abspath(file.name)
        return name if os.path.samestat(os.stat(name), os.fstat(file.fileno())) else None
    except (AttributeError, TypeError, OSError, ValueError):
        return None


def _with_scale(header: Header, mpp_um: Mpp | None, objective_power: float | None) -> Header:
    """The header with what the caller says of the slide's scale."""
    changes: dict[str, Any] = {}
    if mpp_um is not None:
        both = tuple(map(float, mpp_um)) if isinstance(mpp_um, Sequence) else (float(mpp_um),) * 2
        if len(both) != 2:
            raise UsageError(f"mpp_um is {mpp_um}; give micrometres a pixel: 0.25, or two for x and y")
        changes |= {"mpp_um": both, "mpp_source": "user"}
    if objective_power is not None:
        changes |= {"objective_power": float(objective_power), "objective_source": "user"}
    try:
        slide: SlideInfo = replace(header.slide, **changes)
    except ConfigError as error:
        raise UsageError(str(error)) from None
    return replace(header, slide=slide)


def _l0_side(count: int, step: float) -> int:
    """The fewest whole level-0 pixels that make at least `count` pixels of `step` each."""
    side = max(1, round(count * step))
    return side if max(1, round(side / step)) >= count else side + 1


def _index(value: SupportsIndex) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise BadArgument(f"{value!r} is given for a whole number") from None


def _size(size: tuple[int, int]) -> tuple[int, int]:
    wh = (_index(size[0]), _index(size[1]))
    if min(wh) < 0:
        raise BadRegion(f"negative width ({wh[0]}) or negative height ({wh[1]}) not allowed")
    if min(wh) > 0:
        check_output_wh(wh)
    return wh


def _numbers(l0_xy: tuple[float, float]) -> tuple[float, float]:
    x, y = l0_xy
    for value in (x, y):
        if not (isinstance(value, (int, float, np.number)) and math.isfinite(value)):
            raise BadArgument(f"l0_xy is {l0_xy!r}; it should be two numbers of level-0 pixels")
    return (x if isinstance(x, int) else float(x), y if isinstance(y, int) else float(y))
