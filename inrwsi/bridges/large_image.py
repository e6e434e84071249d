"""`large_image.open("slide.cinr")`: a tile source of large_image, of which Girder and HistomicsTK read slides."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

from PIL import Image, ImageCms

from inrwsi.bridges import missing
from inrwsi.bridges.levels import is_cinr, open_levels
from inrwsi.errors import InrwsiError
from inrwsi.geometry import Rect

try:
    from large_image.cache_util import LruCacheMetaclass, methodcache
    from large_image.constants import TILE_FORMAT_NUMPY, SourcePriority
    from large_image.exceptions import TileSourceError
    from large_image.tilesource import FileTileSource
except ImportError:
    raise missing("large-image", "large-image") from None

TILE_PX = 256
# Less than `CinrSlide` takes by itself: large_image keeps as many sources open as fit an eighth of the memory if each
# takes 24 MiB. With so little, a pan decodes twice as long as with 256.
CACHE_BYTES = 64 << 20


class CinrTileSource(FileTileSource, metaclass=LruCacheMetaclass):
    """A slide as large_image's tiles: level 0 is one tile, the last one the slide's own pixels. Thread safe.

    Beyond the slide, tiles are of its background. large_image applies the slide's ICC profile where its settings say
    so, as it does with every source.

    Raises:
        TileSourceError: the file is damaged or cannot be read.
    """

    cacheName = "tilesource"
    name = "inrwsi"
    # Under any other name the file is known by its first bytes, when large_image has nothing better left to try.
    extensions: ClassVar[dict[str | None, SourcePriority]] = {
        None: SourcePriority.FALLBACK_HIGH,
        "cinr": SourcePriority.PREFERRED,
    }
    mimeTypes: ClassVar[dict[str | None, SourcePriority]] = {None: SourcePriority.FALLBACK_HIGH}

    def __init__(self, path: Any, **settings: Any) -> None:
        super().__init__(path, **settings)
        with _host_errors():
            self._pyramid = open_levels(self.largeImagePath, cache_bytes=CACHE_BYTES)
        self._slide = self._pyramid[0].slide
        self.sizeX, self.sizeY = self._slide.dimensions
        self.tileWidth = self.tileHeight = TILE_PX
        self.levels = len(self._pyramid)
        self._dtype, self._bandCount = self._pyramid[0].dtype, 3
        with suppress(ImageCms.PyCMSError):  # a profile that nobody can read is as good as none
            profile = self._slide.color_profile
            if profile is not None:
                self._iccprofiles = [profile.tobytes()]

    @classmethod
    def canRead(cls, path: Any, *_: Any, **__: Any) -> bool:
        """By its first bytes: what is wrong with a damaged one is told when it is opened."""
        return is_cinr(path)

    def getNativeMagnification(self) -> dict[str, float | None]:
        x_um, y_um = self._slide.mpp_um or (None, None)
        return {
            "magnification": self._slide.objective_power,
            "mm_x": None if x_um is None else x_um / 1000,
            "mm_y": None if y_um is None else y_um / 1000,
        }

    def getInternalMetadata(self, **_: Any) -> dict[str, Any]:
        """The properties of the slide, those of the scanner's file among them."""
        return {"inrwsi": dict(self._slide.properties)}

    def getAssociatedImagesList(self) -> list[str]:
        return sorted(self._slide.associated_images)

    def _getAssociatedImage(self, imageKey: str) -> Image.Image | None:
        with _host_errors():
            return self._slide.associated_images.get(imageKey)

    @methodcache()
    def getTile(
        self, x: int, y: int, z: int, pilImageAllowed: bool = False, numpyAllowed: bool | str = False, **settings: Any
    ) -> Any:
        """Tile (x, y) of level z, as large_image asks for it."""
        self._xyzInRange(x, y, z)
        with _host_errors():
            tile = self._pyramid[self.levels - 1 - z].read(Rect(x * TILE_PX, y * TILE_PX, TILE_PX, TILE_PX))
        return self._outputTile(tile, TILE_FORMAT_NUMPY, x, y, z, pilImageAllowed, numpyAllowed, **settings)


@contextmanager
def _host_errors() -> Iterator[None]:
    try:
        yield
    except InrwsiError as error:
        raise TileSourceError(str(error)) from error
