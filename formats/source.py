"""Where pixels come from: one protocol over OpenSlide, TIFF, pictures and arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
import openslide

from inrwsi.errors import UsageError
from inrwsi.formats.byterange import check_positions
from inrwsi.formats.source_base import BaseSource, overview_step
from inrwsi.formats.source_image import ArraySource, image_wh, open_image
from inrwsi.formats.source_openslide import OpenSlideSource
from inrwsi.formats.source_tiff import TiffSource, is_plain_rgb

__all__ = ["SlideSource", "open_source", "overview_step", "source_wh"]

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class SlideSource(Protocol):
    """A slide to be encoded: facts, and pixels by window. A context manager; reads are thread safe.

    Attributes:
        name: basename of the file, for messages; never stored.
        width, height: level-0 pixels.
        channels: 3 for RGB, 1 for grey, up to 16.
        bit_depth: 8 or 16, of the dtype that is handed over.
        mpp_um: (x, y) micrometres a pixel, or None; `mpp_source` says from where: "openslide", "tiff-resolution",
            "ome-xml", "png-phys", "jpeg-density", "user" or "unknown".
        objective_power: e.g. 20.0, or None: it is never guessed from mpp. `objective_source`: "openslide", "ome-xml",
            "user" or "unknown".
        background: the colour where nothing was scanned, one value a channel. The real glass is rarely just that.
        icc: the raw ICC profile, or None.
        associated: names of the associated images (label, macro, thumbnail), none of which is decoded yet.
        metadata: what may be stored of the slide's properties (`inrwsi.formats.metadata`).
        bytes_on_disk: what the slide weighs as it is.
        levels_wh: sizes of the stored levels, level 0 first.
    """

    name: str
    width: int
    height: int
    channels: int
    bit_depth: int
    mpp_um: tuple[float, float] | None
    mpp_source: str
    objective_power: float | None
    objective_source: str
    background: tuple[int, ...]
    icc: bytes | None
    associated: tuple[str, ...]
    metadata: dict[str, str]
    bytes_on_disk: int

    @property
    def levels_wh(self) -> tuple[tuple[int, int], ...]: ...

    def read(self, l0_xy: tuple[int, int], wh: tuple[int, int]) -> np.ndarray:
        """(h, w, C) uint8 or uint16 of a level-0 window inside the slide; UsageError if it leaves the slide."""
        ...

    def read_level(self, level: int, xy: tuple[int, int], wh: tuple[int, int]) -> np.ndarray:
        """(h, w, C) of a window inside a stored level, in that level's own pixels; UsageError if it is damaged."""
        ...

    def overview(self, max_px: int) -> np.ndarray:
        """The whole slide, area-averaged, long side <= max_px: (h, w, C). One pixel is `overview_step` l0 pixels."""
        ...

    def read_associated(self, name: str) -> np.ndarray:
        """(h, w, 3) uint8; UsageError if there is no such image."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_source(
    slide: str | PathLike[str] | np.ndarray,
    *,
    mpp_um: float | Sequence[float] | None = None,
    objective_power: float | None = None,
) -> SlideSource:
    """Open a slide file, a picture, or an array (H, W[, C]) of uint8 or uint16.

    Args:
        mpp_um: micrometres a pixel, one number or (x, y); overrides what the file says, provenance "user".
        objective_power: overrides what the file says, provenance "user".

    Raises:
        UsageError: there is no such file, it cannot be read, or it is not one picture of 8 or 16 bits.
    """
    stated_mpp = None if mpp_um is None else _stated_mpp(mpp_um)
    if objective_power is not None and not (math.isfinite(objective_power) and objective_power > 0):
        raise UsageError(f"objective power {objective_power} is not possible; give a number such as 20")
    source = ArraySource(slide) if isinstance(slide, np.ndarray) else _open_file(Path(slide))
    if stated_mpp is not None:
        source.mpp_um, source.mpp_source = stated_mpp, "user"
    if objective_power is not None:
        source.objective_power, source.objective_source = float(objective_power), "user"
    return source


def _stated_mpp(mpp_um: float | Sequence[float]) -> tuple[float, float]:
    values = tuple(float(v) for v in mpp_um) if isinstance(mpp_um, Sequence) else (float(mpp_um),) * 2
    if len(values) != 2 or not all(math.isfinite(v) and v > 0 for v in values):
        raise UsageError(f"mpp {mpp_um} is not a pixel size; give micrometres a pixel: 0.25, or two for x and y")
    return (values[0], values[1])


def source_wh(path: Path) -> tuple[int, int]:
    """Size in level-0 pixels of what `open_source` would open, for little: the pixels of a picture are not decoded.

    Raises:
        UsageError: as `open_source`, as far as that is known without the pixels.
    """
    slide = _open_slide(path)
    if slide is None:
        return image_wh(path)
    with slide:
        return slide.width, slide.height


def _open_file(path: Path) -> BaseSource:
    return _open_slide(path) or open_image(path)


def _open_slide(path: Path) -> BaseSource | None:
    """A slide or TIFF, of which pixels are read when they are asked for; None where it may be a picture."""
    try:
        check_positions(path, "a slide")
        with open(path, "rb") as file:
            magic = file.read(4)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise UsageError(f"{path}: is a folder; name the slide file (of a MIRAX slide the .mrxs file)") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error

    refusal: Exception | None = None
    vendor = openslide.OpenSlide.detect_format(path)
    if vendor is not None and (vendor != "generic-tiff" or is_plain_rgb(path)):
        try:
            return OpenSlideSource(path)
        except (openslide.OpenSlideError, ValueError) as error:
            refusal = error
    if magic in _TIFF_MAGIC:
        try:
            return TiffSource(path)
        except UsageError as error:
            raise UsageError(f"{error} (OpenSlide: {refusal})" if refusal else str(error)) from error
    if refusal is not None:
        raise UsageError(f"{path}: OpenSlide cannot open it ({refusal}); the file is damaged") from refusal
    return None
