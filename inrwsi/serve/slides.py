"""An open slide as the server reads it: pixels in the colours of a screen, of the `.cinr` file and of its source."""

from __future__ import annotations

import io
import logging
import math
import weakref
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms

from inrwsi.decode import Decoder
from inrwsi.errors import CorruptFile
from inrwsi.formats.source import open_source
from inrwsi.geometry import Rect
from inrwsi.resample import AreaSum
from inrwsi.slide_levels import SlideLevels

BLOCK_PX = 2048  # of the source, read at a time


logger = logging.getLogger(__name__)


class OpenCinr:
    """A `.cinr` file. Thread safe.

    Args:
        decoded_bytes: limit of what is kept decoded.

    Raises:
        CorruptFile, UnsupportedVersion, UsageError: as `Decoder`.
    """

    def __init__(self, path: Path, device: str, decoded_bytes: int) -> None:
        self.decoder = Decoder(path, device=device, cache_bytes=decoded_bytes)
        self.header = self.decoder.header
        self._to_srgb = None
        try:
            self._to_srgb = srgb_transform(self.decoder.container.icc())
        except CorruptFile as error:
            logger.warning("%s; the slide is shown without a profile", error)

    def __del__(self) -> None:
        if hasattr(self, "decoder"):
            self.decoder.close()

    def picture(
        self,
        l0_xy: tuple[int, int],
        l0_wh: tuple[int, int],
        *,
        step: float = 1.0,
        out_wh: tuple[int, int] | None = None,
    ) -> Image.Image:
        """A rectangle, RGB or L, in sRGB where the slide has a profile. Arguments and errors as `Decoder`'s."""
        return self._shown(self.decoder.read_region(l0_xy, l0_wh, step=step, out_wh=out_wh))

    def _shown(self, pixels: np.ndarray) -> Image.Image:
        if pixels.shape[2] == 1:
            return Image.fromarray(pixels[..., 0])
        return to_srgb(Image.fromarray(pixels), self._to_srgb)

    def payload_bytes(self, octave: int, rows: np.ndarray, columns: np.ndarray) -> float:
        """Bytes of an octave's chunks, each times what `rows` and `columns`, (n,) float64, say of its row and column.

        Only chunks between rows that are not 0 are looked at. Raises CorruptFile(INDEX).
        """
        seen, count = np.flatnonzero(rows), len(columns)
        total = 0.0
        for first, sizes in self.decoder.container.payload_sizes(octave, seen[0] * count, (seen[-1] + 1) * count):
            row, column = np.divmod(np.arange(first, first + len(sizes)), count)
            total += float((sizes * rows[row] * columns[column]).sum())
        return total


class OpenSource:
    """The slide that a `.cinr` file was made from, read as `encode` reads it. Thread safe.

    Raises:
        UsageError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        source = open_source(path)
        weakref.finalize(self, source.close)  # who reads it last closes it
        self._levels = SlideLevels(source, path.name)
        self._to_srgb = srgb_transform(source.icc)

    def picture(self, out: Rect, step: float) -> Image.Image:
        """As `read`, RGB, in sRGB where the slide has a profile."""
        return to_srgb(Image.fromarray(self.read(out, step)), self._to_srgb)

    def downsample_of(self, step: float) -> float:
        """What a pixel of the coarsest stored level that is no coarser than `step` is in level-0 pixels."""
        return self._levels.best(step)[1]

    def read(self, out: Rect, step: float, *, stored: float | None = None) -> np.ndarray:
        """Pixels (h, w, 3) uint8 of `step` level-0 pixels a side, as they are stored, over the slide's background.

        They are means over the coarsest stored level that is no coarser than `stored`, or that level's own.

        Args:
            out: in pixels of `step` level-0 pixels, on the slide.
            stored: in level-0 pixels; `step` where it is None.

        Raises:
            UsageError: the file is damaged.
        """
        level, downsample = self._levels.best(stored or step)
        scale, ends = step / downsample, self._levels.ends(level)
        x, y = math.floor(out.x * scale), math.floor(out.y * scale)
        right, bottom = (
            min(math.ceil((out.x + out.w) * scale), ends[0]),
            min(math.ceil((out.y + out.h) * scale), ends[1]),
        )
        total = AreaSum((out.x, out.x + out.w), (out.y, out.y + out.h), (0.0, 0.0), scale, 3)
        for top in range(y, bottom, BLOCK_PX):
            for left in range(x, right, BLOCK_PX):
                block = Rect(left, top, min(BLOCK_PX, right - left), min(BLOCK_PX, bottom - top))
                pixels = self._levels.read(level, block)
                if scale == 1 and (block.w, block.h) == (out.w, out.h):
                    return pixels
                total.add((left, top), (block.w, block.h), pixels)
        return total.result(self._levels.background)


def srgb_transform(icc: bytes | None) -> ImageCms.ImageCmsTransform | None:
    """From a slide's profile to sRGB, by the intent that the profile asks for; None without one that can be used."""
    if not icc:
        return None
    try:
        profile = ImageCms.getOpenProfile(io.BytesIO(icc))
        intent = ImageCms.Intent(ImageCms.getDefaultIntent(profile))
        return ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), "RGB", "RGB", intent)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None


def to_srgb(image: Image.Image, transform: ImageCms.ImageCmsTransform | None) -> Image.Image:
    """The picture in sRGB, changed in place."""
    if transform is not None:
        ImageCms.applyTransform(image, transform, inPlace=True)
        image.info.pop("icc_profile", None)
    return image
