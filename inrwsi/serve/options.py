"""What bounds a server, and how good its pictures are."""

from __future__ import annotations

import os
from dataclasses import dataclass

from inrwsi.errors import UsageError

MAX_SIDE_PX = 16384


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class ServeOptions:
    """Limits of a server.

    Attributes:
        device: auto, cpu or cuda.
        decodes: pictures that are made at once, each by one thread; None: one a core.
        waiting: pictures that may wait to be made; who asks for more is told to come back.
        decoded_bytes: kept decoded, of all open slides together.
        tile_bytes: kept of pictures that were sent.
        open_slides: files held open; the one that was longest not asked for is closed for another.
        jpeg_quality: 1 to 100; chroma is never subsampled.
        max_side_px: longest side of a IIIF picture.

    Raises:
        UsageError: a value is out of its range.
    """

    device: str = "auto"
    decodes: int | None = None
    waiting: int = 2000
    decoded_bytes: int = 512 << 20
    tile_bytes: int = 256 << 20
    open_slides: int = 8
    jpeg_quality: int = 90
    max_side_px: int = 4096

    def __post_init__(self) -> None:
        for name, low, high in (
            ("decodes", 1, 1024),
            ("waiting", 1, 10**6),
            ("decoded_bytes", 0, 2**50),
            ("tile_bytes", 0, 2**50),
            ("open_slides", 1, 10**4),
            ("jpeg_quality", 1, 100),
            ("max_side_px", 256, MAX_SIDE_PX),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise UsageError(f"{name} is {value}; it should be from {low} to {high}")

    @property
    def threads(self) -> int:
        return self.decodes or cores()
