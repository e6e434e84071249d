"""The associated images of a file, as pictures: a label, a macro image, a thumbnail."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping

from PIL import Image, UnidentifiedImageError

from inrwsi.errors import Cause, CorruptFile
from inrwsi.formats.container import Container
from inrwsi.formats.header import AssociatedInfo, Header


def associated_image(container: Container, info: AssociatedInfo) -> Image.Image:
    """One of them, RGBA.

    Raises:
        CorruptFile: it is damaged, or not the picture that the header says.
    """
    try:
        with Image.open(io.BytesIO(container.associated(info.name)), formats=[info.format]) as image:
            if image.size != (info.width, info.height):
                w, h = image.size
                raise ValueError(f"it is of {w} x {h} pixels, should be of {info.width} x {info.height}")
            return image.convert("RGBA")
    # What Pillow raises for what it does not know, is cut short, or is larger than a picture should be.
    except UnidentifiedImageError:
        raise CorruptFile(container.path, Cause.ASSOCIATED, f"{info.name}: it is no {info.format.upper()}") from None
    except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
        raise CorruptFile(container.path, Cause.ASSOCIATED, f"{info.name}: {error}") from None


class AssociatedImages(Mapping[str, Image.Image]):
    """The associated images by name, each RGBA, read from the file when it is asked for."""

    def __init__(self, header: Header, read: Callable[[AssociatedInfo], Image.Image]) -> None:
        self._infos, self._read = {info.name: info for info in header.associated}, read

    def __getitem__(self, key: str) -> Image.Image:
        return self._read(self._infos[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._infos)

    def __len__(self) -> int:
        return len(self._infos)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {dict(self)!r}>"
