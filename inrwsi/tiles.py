"""Models of one octave and a table a tile: from a rectangle to the blocks of pixels that cover it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from inrwsi.coding import tensors
from inrwsi.config import ConfigError, from_dict
from inrwsi.errors import Cause, CorruptFile
from inrwsi.fields.cinr import BLOCK_PX, MAX_TABLE_VALUES, MAX_TILE_PX, CinrConfig, IntegerField
from inrwsi.formats.container import Container
from inrwsi.geometry import Rect, chunk_rect
from inrwsi.lru import Lru
from inrwsi.resample import Sampling

MAX_FINER = 16
MAX_BLOCK_SAMPLES = 512


class CinrTiles:
    """Decodes `cinr` files: the case of one octave, a chunk a tile.

    Args:
        container: an open file whose model is `cinr`.
        device: where to compute.
        cache_bytes: limit of decoded blocks and tables held.

    Raises:
        CorruptFile: the model's config or weights are not of the spec.
    """

    def __init__(self, container: Container, device: torch.device, cache_bytes: int) -> None:
        self._container, self._device = container, device
        self._header = header = container.header
        self.config = self._parse_config()
        self._field = IntegerField(self.config, header.grid.chunk_px, self._parse_weights(), device)
        self._tables: Lru[np.ndarray] = Lru(cache_bytes // 4, lambda a: a.nbytes)
        self._blocks: Lru[np.ndarray] = Lru(cache_bytes - cache_bytes // 4, lambda a: a.nbytes)

    def _parse_config(self) -> CinrConfig:
        header, path = self._header, self._container.path
        newer = self._container.version[1] > 0
        try:
            config = from_dict(CinrConfig, header.model, ignore_unknown=newer)
        except ConfigError as error:
            raise CorruptFile(path, Cause.HEADER, f"model.{error}") from None
        wrong = None
        if header.grid.octaves != (0,):
            wrong = f"grid.octaves is {list(header.grid.octaves)}, should be [0] for cinr"
        elif header.grid.chunk_px > MAX_TILE_PX:
            wrong = f"grid.chunk_px is {header.grid.chunk_px}, should be at most {MAX_TILE_PX} for cinr"
        elif config.channels != header.slide.channels or header.slide.bit_depth != 8:
            wrong = f"model.channels is {config.channels}, should be the slide's {header.slide.channels} of 8 bits"
        if wrong:
            raise CorruptFile(path, Cause.HEADER, wrong)
        return config

    def _parse_weights(self) -> dict[str, np.ndarray]:
        raw = self._container.weights()
        if raw is None:
            raise CorruptFile(self._container.path, Cause.WEIGHTS, "there are none, and model cinr needs them")
        try:
            return tensors.unpack(raw, self.config.weight_tensors())
        except ValueError as error:
            raise CorruptFile(self._container.path, Cause.WEIGHTS, str(error)) from None

    def sampling(self, step: float) -> Sampling:
        """Samples for an output pixel of `step` level-0 pixels: the pixels, or past native the field between them."""
        return Sampling(finer=min(MAX_FINER, max(1, math.ceil(1 / step - 1e-9))))

    def blocks(
        self, rect: Rect, sampling: Sampling
    ) -> Iterator[tuple[Rect, np.ndarray | tuple[int, ...] | CorruptFile]]:
        """What covers `rect`, in samples, already cut to the slide.

        Yields:
            A rectangle in samples, and its (h, w, channels) uint8 samples, its one colour where it is blank, or what
            is wrong with its chunk. Every sample of `rect` is covered once; rectangles may reach beyond it.
        """
        finer = sampling.finer
        chunk_px = self._header.grid.chunk_px * finer
        for j in range(rect.y // chunk_px, (rect.y + rect.h - 1) // chunk_px + 1):
            for i in range(rect.x // chunk_px, (rect.x + rect.w - 1) // chunk_px + 1):
                l0 = chunk_rect(self._header.slide.l0_wh, self._header.grid.chunk_px, (i, j))
                whole = Rect(l0.x * finer, l0.y * finer, l0.w * finer, l0.h * finer)
                try:
                    table = self._table((i, j))
                except CorruptFile as error:
                    yield whole, error
                    continue
                if table.ndim == 1:
                    yield whole, tuple(table.tolist())
                else:
                    yield from self._tile_blocks((i, j), whole, table, rect, finer)

    def _tile_blocks(
        self, chunk_ij: tuple[int, int], whole: Rect, table: np.ndarray, rect: Rect, finer: int
    ) -> Iterator[tuple[Rect, np.ndarray]]:
        """Blocks of a fixed grid, whatever was asked for: a sample is always computed in the same company."""
        side = min(BLOCK_PX, max(16, MAX_BLOCK_SAMPLES // finer)) * finer
        wanted = whole.intersect(rect)
        on_device = None
        for y in range((wanted.y - whole.y) // side * side, wanted.y - whole.y + wanted.h, side):
            for x in range((wanted.x - whole.x) // side * side, wanted.x - whole.x + wanted.w, side):
                w, h = min(side, whole.w - x), min(side, whole.h - y)
                key = (chunk_ij, x, y, finer)
                samples = self._blocks.get(key)
                if samples is None:
                    if on_device is None:
                        on_device = torch.from_numpy(table).to(self._device, torch.float32)
                    at, size = (x // finer, y // finer), (w // finer, h // finer)
                    samples = self._field.block(on_device, at, size, finer)
                    self._blocks.put(key, samples)
                yield Rect(whole.x + x, whole.y + y, w, h), samples

    def _table(self, chunk_ij: tuple[int, int]) -> np.ndarray:
        """A tile's table (entries, features) int8, or the colour (channels,) of a blank one."""
        held = self._tables.get(chunk_ij)
        if held is not None:
            return held
        chunk = self._container.chunk(0, chunk_ij)
        if chunk.payload is None:
            table = np.array(chunk.colour, np.uint8)
        else:
            try:
                table = unpack_table(chunk.payload, self.config)
            except ValueError as error:
                where = f"octave 0, column {chunk_ij[0]}, row {chunk_ij[1]}: {error}"
                raise CorruptFile(self._container.path, Cause.CHUNK, where) from None
        self._tables.put(chunk_ij, table)
        return table


def pack_table(table: np.ndarray) -> bytes:
    """A tile's payload: zstd of safetensors with `table` int8 (entries, features)."""
    return tensors.squeeze(tensors.pack({"table": table}))


def unpack_table(payload: bytes, config: CinrConfig) -> np.ndarray:
    """The inverse of `pack_table`: (entries, features) int8.

    Raises:
        ValueError: the payload is not of the spec.
    """
    raw = tensors.unsqueeze(payload, MAX_TABLE_VALUES + 4096)
    shape = (config.grid.entry_count, config.features)
    table = tensors.unpack(raw, {"table": (shape, "int8")})["table"]
    if np.abs(table.astype(np.int16)).max() > config.table_max:
        raise ValueError(f"a table entry is beyond {config.table_max}, the most of {config.table_bits} bits")
    return table
