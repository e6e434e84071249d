"""Models of one octave and a field a tile: from a rectangle to the blocks of pixels that cover it."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping

import numpy as np
import torch

from inrwsi.coding import base_layer, tensors
from inrwsi.config import ConfigError, from_dict
from inrwsi.errors import Cause, CorruptFile
from inrwsi.fields.field import BLOCK_PX, MAX_TILE_PX, FieldConfig, Tile, decode_block
from inrwsi.fields.models import config_class
from inrwsi.formats.container import Container
from inrwsi.geometry import Rect, chunk_rect
from inrwsi.lru import BLANK_BYTES, Lru
from inrwsi.resample import Sampling

MAX_FINER = 16
_BASE_BYTES = struct.Struct("<I")
MAX_PAYLOAD_BYTES = 2**25
MAX_BLOCK_SAMPLES = 512  # along a side
MAX_MAP_VALUES = 2**25  # of a layer: what bounds the memory of a block


class FieldTiles:
    """Decodes files of the models that are fitted: the case of one octave, a chunk a tile.

    Args:
        container: an open file whose model is one of `fields.models`.
        device: where to compute.
        cache_bytes: limit of decoded blocks and payloads held.

    Raises:
        CorruptFile: the model's config or weights are not of the spec.
    """

    def __init__(self, container: Container, device: torch.device, cache_bytes: int) -> None:
        self._container, self._device = container, device
        self._header = container.header
        self.config = self._parse_config()
        self._slide = self._parse_weights()
        widest = max(max(layer.inputs, layer.outputs) for layer in self.config.layers())
        self._most_side = min(MAX_BLOCK_SAMPLES, math.isqrt(MAX_MAP_VALUES // widest))
        self._payloads: Lru[bytes | tuple[int, ...]] = Lru(
            cache_bytes // 4, lambda v: BLANK_BYTES if isinstance(v, tuple) else len(v)
        )
        self._blocks: Lru[np.ndarray] = Lru(cache_bytes - cache_bytes // 4, lambda a: a.nbytes)

    def _parse_config(self) -> FieldConfig:
        header, path = self._header, self._container.path
        newer = self._container.version[1] > 0
        name = header.model["name"]
        try:
            config = from_dict(config_class(name), header.model, ignore_unknown=newer)
        except ConfigError as error:
            raise CorruptFile(path, Cause.HEADER, f"model.{error}") from None
        wrong = None
        if header.grid.octaves != (0,):
            wrong = f"grid.octaves is {list(header.grid.octaves)}, should be [0] for {name}"
        elif header.grid.chunk_px > MAX_TILE_PX:
            wrong = f"grid.chunk_px is {header.grid.chunk_px}, should be at most {MAX_TILE_PX} for {name}"
        elif config.channels != header.slide.channels:
            wrong = f"model.channels is {config.channels}, should be the slide's {header.slide.channels}"
        elif (config.ranges is None) != (header.slide.bit_depth == 8):
            there = "missing" if config.ranges is None else "there"
            wrong = f"model.ranges is {there}, and the slide has {header.slide.bit_depth} bits; it is of 16"
        if wrong:
            raise CorruptFile(path, Cause.HEADER, wrong)
        return config

    def _parse_weights(self) -> Tile | None:
        """What all tiles share; None where each has a network of its own."""
        expected, path = self.config.slide_tensors(), self._container.path
        raw = self._container.weights()
        if not expected:
            if raw is not None:
                raise CorruptFile(path, Cause.WEIGHTS, f"there are some, and model {self.config.name} has none")
            return None
        if raw is None:
            raise CorruptFile(path, Cause.WEIGHTS, f"there are none, and model {self.config.name} needs them")
        try:
            return self.config.slide_from(tensors.unpack(raw, expected), self._device)
        except ValueError as error:
            raise CorruptFile(path, Cause.WEIGHTS, str(error)) from None

    def sampling(self, step: float) -> Sampling:
        """Samples for an output pixel of `step` level-0 pixels: the pixels, or past native the field between them."""
        return Sampling(finer=min(MAX_FINER, max(1, math.ceil(1 / step - 1e-9))))

    def blocks(
        self, rect: Rect, sampling: Sampling
    ) -> Iterator[tuple[Rect, np.ndarray | tuple[int, ...] | CorruptFile]]:
        """What covers `rect`, in samples, already cut to the slide.

        Yields:
            A rectangle in samples, and its (h, w, channels) samples (uint8 or uint16), its one colour where it is
            blank, or what is wrong with its chunk. Every sample of `rect` is covered once; rectangles may reach beyond
            it.
        """
        finer = sampling.finer
        chunk_px = self._header.grid.chunk_px * finer
        for j in range(rect.y // chunk_px, (rect.y + rect.h - 1) // chunk_px + 1):
            for i in range(rect.x // chunk_px, (rect.x + rect.w - 1) // chunk_px + 1):
                l0 = chunk_rect(self._header.slide.l0_wh, self._header.grid.chunk_px, (i, j))
                whole = Rect(l0.x * finer, l0.y * finer, l0.w * finer, l0.h * finer)
                try:
                    payload = self._payload((i, j))
                    if isinstance(payload, tuple):
                        yield whole, payload
                    else:
                        yield from self._tile_blocks((i, j), whole, payload, rect, finer)
                except CorruptFile as error:
                    yield whole, error

    def _tile_blocks(
        self, chunk_ij: tuple[int, int], whole: Rect, payload: bytes, rect: Rect, finer: int
    ) -> Iterator[tuple[Rect, np.ndarray]]:
        """Blocks of a fixed grid, whatever was asked for: a sample is always computed in the same company.

        Raises:
            CorruptFile: the payload is not of the spec; before the first block.
        """
        side = min(BLOCK_PX, max(8, self._most_side // finer)) * finer
        wanted = whole.intersect(rect)
        tile, base = None, None
        for y in range((wanted.y - whole.y) // side * side, wanted.y - whole.y + wanted.h, side):
            for x in range((wanted.x - whole.x) // side * side, wanted.x - whole.x + wanted.w, side):
                w, h = min(side, whole.w - x), min(side, whole.h - y)
                key = (chunk_ij, x, y, finer)
                samples = self._blocks.get(key)
                if samples is None:
                    if tile is None:
                        tile, base = self._tile(chunk_ij, payload, (whole.w // finer, whole.h // finer))
                    at, size = (x // finer, y // finer), (w // finer, h // finer)
                    samples = decode_block(self.config, tile, self._header.grid.chunk_px, at, size, finer)
                    if base is not None:
                        samples = base_layer.corrected(base_layer.between(base, at, size, finer), samples)
                    self._blocks.put(key, samples)
                yield Rect(whole.x + x, whole.y + y, w, h), samples

    def _payload(self, chunk_ij: tuple[int, int]) -> bytes | tuple[int, ...]:
        """A tile's payload, or the colour of a blank one."""
        held = self._payloads.get(chunk_ij)
        if held is None:
            chunk = self._container.chunk(0, chunk_ij)
            held = tuple(chunk.colour or ()) if chunk.payload is None else chunk.payload
            self._payloads.put(chunk_ij, held)
        return held

    def _tile(self, chunk_ij: tuple[int, int], payload: bytes, wh: tuple[int, int]) -> tuple[Tile, np.ndarray | None]:
        """What a tile is decoded from, and its base layer, (h, w, channels) uint8, where the model has one."""
        config = self.config
        try:
            coded, field = split_payload(config, payload)
            tile = config.tile_from(self._slide, unpack_payload(config, field), self._device)
            if config.base_layer is None:
                return tile, None
            return tile, base_layer.decode(config.base_layer, coded, (wh[1], wh[0], config.channels))
        except ValueError as error:
            where = f"octave 0, column {chunk_ij[0]}, row {chunk_ij[1]}: {error}"
            raise CorruptFile(self._container.path, Cause.CHUNK, where) from None


def decode_tile(
    config: FieldConfig, tile: Tile, tile_px: int, wh: tuple[int, int], base: np.ndarray | None = None
) -> np.ndarray:
    """All of a tile as a file decodes to it, (h, w, channels) uint8, or uint16 where the config has ranges.

    `base` is its base layer, of the same shape.
    """
    w, h = wh
    out = np.empty((h, w, config.channels), np.uint8 if config.ranges is None else np.uint16)
    for y in range(0, h, BLOCK_PX):
        for x in range(0, w, BLOCK_PX):
            size = (min(BLOCK_PX, w - x), min(BLOCK_PX, h - y))
            out[y : y + BLOCK_PX, x : x + BLOCK_PX] = decode_block(config, tile, tile_px, (x, y), size)
    return out if base is None else base_layer.corrected(base, out)


def pack_payload(config: FieldConfig, arrays: Mapping[str, np.ndarray]) -> bytes:
    """The field of a coded tile, from the tensors of `config.tile_tensors`: a zstd frame of safetensors, or where the
    config has none of their names, of the numbers alone. The tile's payload, but for base layers (`join_payload`)."""
    return tensors.squeeze(
        tensors.pack(arrays) if config.named_payload else tensors.pack_bare(arrays, config.tile_tensors())
    )


def join_payload(base: bytes, field: bytes) -> bytes:
    """The payload of a tile with a base layer; the field alone where `base` is of no bytes."""
    return _BASE_BYTES.pack(len(base)) + base + field if base else field


def split_payload(config: FieldConfig, payload: bytes) -> tuple[bytes, bytes]:
    """Base layer and field of a payload; the former of no bytes where the config has none.

    Raises:
        ValueError: the payload is not of the spec.
    """
    if config.base_layer is None:
        return b"", payload
    size = _BASE_BYTES.unpack_from(payload)[0] if len(payload) >= _BASE_BYTES.size else len(payload)
    end = _BASE_BYTES.size + size
    if not 0 < size < len(payload) - _BASE_BYTES.size:
        raise ValueError(f"its base layer has {size} bytes, and the payload {len(payload)}")
    return payload[_BASE_BYTES.size : end], payload[end:]


def unpack_payload(config: FieldConfig, payload: bytes) -> dict[str, np.ndarray]:
    """The inverse of `pack_payload`.

    Raises:
        ValueError: the payload is not of the spec.
    """
    raw, expected = tensors.unsqueeze(payload, MAX_PAYLOAD_BYTES), config.tile_tensors()
    return tensors.unpack(raw, expected) if config.named_payload else tensors.unpack_bare(raw, expected)
