"""Slides through OpenSlide: SVS, NDPI, MRXS, SCN, VMS, BIF, SVSlide, DICOM and RGB TIFF pyramids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide

from inrwsi.errors import UsageError
from inrwsi.formats.metadata import OBJECTIVE_RANGE, allowed_metadata, number_within, plausible_mpp
from inrwsi.formats.source_base import BaseSource, Facts, Scale, composite, default_background

NEAR_PX = 128  # a downsample that is off by 0.009, as of a side of 1003, comes back to whole pixels every 110


class OpenSlideSource(BaseSource):
    """Level 0 of a slide as RGB, 8 bits. Where a slide was not scanned, its own background colour shows."""

    def __init__(self, path: Path) -> None:
        """Raises `openslide.OpenSlideError` if OpenSlide will not open the file; open_source() decides what then."""
        self._slide = openslide.OpenSlide(path)
        try:
            super().__init__(_facts(self._slide, path))
        except BaseException:
            self._slide.close()
            raise

    @property
    def levels_wh(self) -> tuple[tuple[int, int], ...]:
        return self._slide.level_dimensions

    def _tile_wh(self, level: int) -> tuple[int, int]:
        get = self._slide.properties.get
        return (
            int(get(f"openslide.level[{level}].tile-width", "256")),
            int(get(f"openslide.level[{level}].tile-height", "256")),
        )

    def _read_level(self, level: int, x: int, y: int, w: int, h: int) -> np.ndarray:
        # OpenSlide wants the corner in level-0 pixels, whatever the level.
        downsample = self._slide.level_downsamples[level]
        left, top = _start(x, downsample), _start(y, downsample)
        l0_xy = (round(left * downsample), round(top * downsample))
        try:
            rgba = np.asarray(self._slide.read_region(l0_xy, level, (w + x - left, h + y - top)))
        except openslide.OpenSlideError as error:
            raise UsageError(
                f"{self.name}: the pixels at x={l0_xy[0]}, y={l0_xy[1]} cannot be decoded ({error}); "
                "the file is damaged or incomplete: copy it again from where it came"
            ) from error
        return composite(rgba[y - top :, x - left :], self.background)

    def read_associated(self, name: str) -> np.ndarray:
        if name not in self.associated:
            return super().read_associated(name)
        try:
            return composite(np.asarray(self._slide.associated_images[name]), default_background(3, 8))
        except openslide.OpenSlideError as error:
            raise UsageError(f"{self.name}: the associated image {name!r} cannot be decoded ({error})") from error

    def close(self) -> None:
        self._slide.close()


def _start(first: int, downsample: float) -> int:
    """The column or row of a level, at `first` or shortly before, to read from.

    OpenSlide takes level-0 pixels and divides them by its own downsample, which it tells from sizes: 4.003. What is
    left of a pixel then it shifts the picture by, and blurs it; that is least of some near column. Up to half a level-0
    pixel it stays where 4 is told as 4.0001: whole pixels come thousands of columns apart.
    """
    starts = np.arange(first, max(0, first - NEAR_PX) - 1, -1)
    left = np.abs(np.rint(starts * downsample) / downsample - starts)
    return int(starts[np.argmin(left > left.min() + 1e-6)])


def _facts(slide: openslide.OpenSlide, path: Path) -> Facts:
    width, height = slide.dimensions
    background = slide.properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
    # The profile's own bytes: `color_profile` hands over a parsed object, which is not written back as it was.
    icc = slide.read_region((0, 0), slide.level_count - 1, (1, 1)).info.get("icc_profile")
    return Facts(
        name=path.name,
        width=width,
        height=height,
        channels=3,
        bit_depth=8,
        background=tuple(bytes.fromhex(background)),
        scale=_scale(slide),
        icc=icc,
        associated=tuple(slide.associated_images),
        metadata=allowed_metadata(slide.properties),
        bytes_on_disk=_bytes_on_disk(path),
    )


def _scale(slide: openslide.OpenSlide) -> Scale:
    properties = slide.properties

    def number(key: str, lowest: float, highest: float) -> float | None:
        return number_within(properties.get(key, ""), lowest, highest)

    mpp = plausible_mpp(
        number(openslide.PROPERTY_NAME_MPP_X, 0, 1e6),
        number(openslide.PROPERTY_NAME_MPP_Y, 0, 1e6),
    )
    objective = number(openslide.PROPERTY_NAME_OBJECTIVE_POWER, *OBJECTIVE_RANGE)
    # For a TIFF of no known vendor, OpenSlide has no more to go by than the resolution tags.
    plain_tiff = properties.get(openslide.PROPERTY_NAME_VENDOR) == "generic-tiff"
    mpp_source = "tiff-resolution" if plain_tiff else "openslide"
    return Scale(
        mpp_um=mpp,
        mpp_source=mpp_source if mpp else "unknown",
        objective_power=objective,
        objective_source="openslide" if objective else "unknown",
    )


def _bytes_on_disk(path: Path) -> int:
    """Size of the slide; a MIRAX slide keeps its pixels in a folder of the same name."""
    size = path.stat().st_size
    folder = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and folder.is_dir():
        size += sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return size
