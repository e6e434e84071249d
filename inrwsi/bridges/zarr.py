"""`zarr.open(CinrStore("slide.cinr"))`: a slide as a Zarr store, to read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any

from inrwsi.bridges import missing
from inrwsi.bridges.ngff import NgffKeys

try:
    from zarr.abc.store import OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
except ImportError:
    raise missing("zarr, version 3 or later,", "zarr") from None

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype


class CinrStore(Store):
    """A slide as an OME-Zarr 0.4 image: a group of arrays `0`, `1`, ..., one an octave, each (c, y, x) uint8.

    Chunks are decoded when they are read, in threads; the store holds no pixels but those of `cache_bytes`. Readers
    of OME-Zarr find the scale in micrometres, where the slide's is known.

    Args:
        file, settings: as for `CinrSlide`, all but `levels`.

    Raises:
        CorruptFile, UnsupportedVersion, UsageError: as `CinrSlide`. A damaged chunk raises where it is read.
    """

    supports_writes = False
    supports_deletes = False
    supports_listing = True
    supports_consolidated_metadata = False

    def __init__(self, file: Any, **settings: Any) -> None:
        super().__init__(read_only=True)
        self._keys = NgffKeys.open(file, **settings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CinrStore) and other._keys.levels[0].slide is self._keys.levels[0].slide

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._keys.levels[0].slide!r})"

    def close(self) -> None:
        """Close the slide."""
        super().close()
        self._keys.close()

    def with_read_only(self, read_only: bool = False) -> CinrStore:
        """Itself.

        Raises:
            ValueError: it is to be written to.
        """
        if not read_only:
            raise ValueError(f"{self!r} can only be read; open it with mode='r'")
        return self

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        value = await asyncio.to_thread(self._keys.get, key)
        return None if value is None else prototype.buffer.from_bytes(value[_slice(byte_range)])

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return await asyncio.gather(*(self.get(key, prototype, byte_range) for key, byte_range in key_ranges))

    async def exists(self, key: str) -> bool:
        return self._keys.size_bytes(key) is not None

    async def getsize(self, key: str) -> int:
        size_bytes = self._keys.size_bytes(key)
        if size_bytes is None:
            raise FileNotFoundError(key)
        return size_bytes

    async def list(self) -> AsyncIterator[str]:
        for key in self._keys.walk():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for key in self._keys.walk(prefix):
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for name in self._keys.list_dir(prefix):
            yield name

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()


def _slice(byte_range: ByteRequest | None) -> slice:
    if isinstance(byte_range, RangeByteRequest):
        return slice(byte_range.start, byte_range.end)
    if isinstance(byte_range, OffsetByteRequest):
        return slice(byte_range.offset, None)
    if isinstance(byte_range, SuffixByteRequest):
        return slice(-byte_range.suffix, None) if byte_range.suffix else slice(0)
    return slice(None)
