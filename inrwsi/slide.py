"""A `.cinr` file with the interface of OpenSlide: whoever reads slides with openslide-python reads these."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, BinaryIO

import numpy as np
import openslide
from PIL import Image

from inrwsi.associated import AssociatedImages, associated_image
from inrwsi.errors import Cause, CorruptFile, UsageError
from inrwsi.formats import layout
from inrwsi.formats.byterange import open_ranges
from inrwsi.formats.header import AssociatedInfo
from inrwsi.geometry import Rect
from inrwsi.slide_file import SlideFile
from inrwsi.slide_parts import (
    Level,
    Properties,
    best_level,
    between,
    check_shown,
    choose_levels,
    covered,
    index_of,
    numbers_of,
    octave_levels,
    openslide_errors,
    over,
    property_values,
    quickhash,
    resolve_step,
    size_of,
    whole_and_part,
    with_scale,
)

File = str | bytes | os.PathLike[Any] | BinaryIO
Mpp = float | Sequence[float]
Region = tuple[tuple[int, int], int, tuple[int, int]]


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
        levels, mpp_um, objective_power: as for `CinrSlide`, and for it only.
        device, cache_bytes: as for `CinrSlide`; of no use to others.

    Raises:
        UsageError: a URL or file object is no `.cinr`, or `levels`, `mpp_um` or `objective_power` is given with a slide
            that is none.
        CorruptFile, UnsupportedVersion: a `.cinr` that is damaged (an `openslide.OpenSlideError` too), or of a
            newer version.
        Exception: what `openslide.open_slide` raises where there is no such file, or where it is no slide.
    """
    settings = {"levels": levels, "mpp_um": mpp_um, "objective_power": objective_power}
    local = isinstance(file, (str, bytes, os.PathLike)) and "://" not in os.fsdecode(file)
    if local and CinrSlide.detect_format(file) is None:
        given = [name for name, value in settings.items() if not (value is None or str(value) == "octaves")]
        path = os.fsdecode(file)  # type: ignore[arg-type]
        if given and os.path.exists(path):
            raise UsageError(f"{path}: is no .cinr file, and {given[0]} is for those; leave it out")
        return openslide.open_slide(path)
    try:
        return CinrSlide(file, **settings, device=device, cache_bytes=cache_bytes)  # type: ignore[arg-type]
    except CorruptFile as error:
        if error.cause == Cause.NOT_CINR:
            raise UsageError(f"{error.path}: is no .cinr file; OpenSlide opens others, from a local path") from None
        raise


class CinrSlide(openslide.AbstractSlide):
    """An open `.cinr` file, with the attributes and methods of `openslide.OpenSlide`, and more ways to read.

    Thread safe. A fork, and whoever it is pickled for, opens the file anew when it first reads.

    A pixel of a level stands for the `downsample` x `downsample` level-0 pixels that it covers, as in a TIFF pyramid.
    In model `octaves`, level k from 1 on is made of octave k - 1 of a wavelet: of means over two of its samples, taken
    where those lie. It is sharper than means of level-0 pixels are, and lies over them.

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
        UsageError: among others, it is not of 1 or 3 channels of 8 bits, which is all that OpenSlide's interface knows;
            `decode.Decoder` reads any.
        UnsupportedVersion.
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
        super().__init__()
        self._settings: dict[str, Any] = {"levels": levels, "mpp_um": mpp_um, "objective_power": objective_power}
        self._settings |= {"device": device, "cache_bytes": cache_bytes}
        with openslide_errors():
            name = os.fsdecode(file) if isinstance(file, (bytes, os.PathLike)) else file
            self._file = SlideFile(name, device, cache_bytes)
            try:
                container = self._file.container
                check_shown(container)
                self.header = with_scale(container.header, mpp_um, objective_power)
                self._levels = choose_levels(self.header, levels, container.path)
                self._octaves = octave_levels(self.header.slide.l0_wh)
                self._profile = self._sound_profile()
            except BaseException:
                self._file.close()
                raise

    def _sound_profile(self) -> bytes | None:
        """The ICC profile; None with a warning where it is damaged, for the pixels are not."""
        try:
            return self._file.container.icc()
        except CorruptFile as error:
            warnings.warn(f"{error}; the slide is read without a profile", stacklevel=4)
            return None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._file.file!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        self._file.check_open()
        return (_reopen, (self._file.where or self._file.file, self._settings))

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

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
        self._file.close()

    # ---- OpenSlide's interface

    @property
    def level_count(self) -> int:
        self._file.check_open()
        return len(self._levels)

    @property
    def level_dimensions(self) -> tuple[tuple[int, int], ...]:
        """(width, height) of each level."""
        self._file.check_open()
        return tuple(level.wh for level in self._levels)

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels a pixel of each level, along a side."""
        self._file.check_open()
        return tuple(float(level.downsample) for level in self._levels)

    @property
    def properties(self) -> Mapping[str, str]:
        """OpenSlide's properties, and what the file has of its source's."""
        self._file.check_open()
        values = property_values(self.header, self._levels, len(self._profile or b""))
        return Properties(values, self._quickhash)

    def _quickhash(self) -> str:
        with openslide_errors():
            return quickhash(self._file.container)

    @property
    def associated_images(self) -> Mapping[str, Image.Image]:
        """The associated images by name, RGBA, each read when it is asked for."""
        self._file.check_open()
        return AssociatedImages(self.header, self._associated)

    def _associated(self, info: AssociatedInfo) -> Image.Image:
        with openslide_errors():
            return associated_image(self._file.container, info)

    def get_best_level_for_downsample(self, downsample: float) -> int:
        """The coarsest level that is no coarser than `downsample`."""
        self._file.check_open()
        return best_level(self._levels, downsample)

    def set_cache(self, cache: openslide.OpenSlideCache) -> None:
        """Taken, as OpenSlide takes it, and without effect: `cache_bytes` bounds what this slide keeps."""
        self._file.check_open()
        if not hasattr(cache, "_openslide_cache"):
            raise TypeError("Not a cache object")

    def get_thumbnail(self, size: tuple[int, int]) -> Image.Image:
        """An RGB picture of the slide, at most `size`; it is made of a level of at most four times its pixels."""
        self._file.check_open()
        downsample = max(side / most for side, most in zip(self.dimensions, size, strict=True))
        level = self._octaves[best_level(self._octaves, downsample)]
        rgba = self._file.run(partial(self._level_rgba, level, (0, 0), level.wh))
        thumb = self._image(over(rgba, self._background))
        thumb.thumbnail(size, Image.Resampling.LANCZOS)
        return thumb

    def read_region(
        self, location: tuple[int, int], level: int, size: tuple[int, int], *, as_array: bool = False
    ) -> Any:
        """A region of a level, as OpenSlide gives it.

        Where the location is a multiple of the level's downsample, the pixels are those of the level, the same
        bits however the region is cut; elsewhere they are means of the up to four that they lie over.

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
        return self._given(self._file.run(self._region_job((location, level, size))), as_array)

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
        return [self._given(rgba, as_array) for rgba in self._file.run_all(jobs)]

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
        job = partial(self._rgba_at, numbers_of(l0_xy), self._step(mag, mpp, downsample), size_of(size))
        return self._given(self._file.run(job), as_array)

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
        step, wh = self._step(mag, mpp, downsample), size_of(size)
        rgba = self._file.run_all([partial(self._rgba_at, numbers_of(l0_xy), step, wh) for l0_xy in l0_xys])
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
        scales = {"mag": mag, "mpp": mpp, "downsample": downsample}
        slide = self.header.slide
        return resolve_step(self._file.file, scales, mpp_um=slide.mpp_um, objective_power=slide.objective_power)

    def _region_job(self, region: Region) -> Callable[[], np.ndarray]:
        """What reads a region (h, w, 4) uint8; the arguments are checked now."""
        location, level, size = region
        number, l0_xy, wh = index_of(level), (index_of(location[0]), index_of(location[1])), size_of(size)
        self._file.check_open()
        if not 0 <= number < len(self._levels):
            return partial(np.zeros, (wh[1], wh[0], 4), np.uint8)
        return partial(self._level_rgba, self._levels[number], l0_xy, wh)

    def _level_rgba(self, level: Level, l0_xy: tuple[int, int], wh: tuple[int, int]) -> np.ndarray:
        """(h, w, 4) uint8 of a level, from a corner in level-0 pixels."""
        (x, part_x), (y, part_y) = (whole_and_part(v, level.downsample) for v in l0_xy)
        rect = Rect(x, y, wh[0] + (part_x > 0), wh[1] + (part_y > 0))
        rgba = np.zeros((rect.h, rect.w, 4), np.uint8)
        part = rect.intersect(Rect(0, 0, *level.wh))
        if wh[0] and wh[1] and not part.empty:
            d = level.step
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
            self._file.check_open()
        return rgba

    def _pixels(self, l0_xy: tuple[float, float], step: float, wh: tuple[int, int]) -> np.ndarray:
        """(h, w, channels) uint8 from the decoder."""
        with openslide_errors():
            return self._file.decoder.read_at(l0_xy, step, wh)

    def _given(self, rgba: np.ndarray, as_array: bool) -> Any:
        return over(rgba, self._background) if as_array else self._image(rgba)

    def _image(self, pixels: np.ndarray) -> Image.Image:
        if pixels.size == 0:
            return Image.new("RGBA", (pixels.shape[1], pixels.shape[0]))
        image = Image.fromarray(pixels)
        if self._profile is not None:
            image.info["icc_profile"] = self._profile
        return image


def _reopen(file: Any, settings: dict[str, Any]) -> CinrSlide:
    return CinrSlide(file, **settings)
