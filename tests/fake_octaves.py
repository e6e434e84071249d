"""Files of model `octaves` without networks: noise, which decodes rightly only with the right part of its parent."""

from __future__ import annotations

import threading
import time
import zlib
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from inrwsi.config import to_dict
from inrwsi.fields.octaves_model import CHUNK_PX, FEATURES, Decoded, OctavesModel, coarsest_octave
from inrwsi.formats.header import GridInfo, Header, SlideInfo
from inrwsi.formats.writer import ContainerWriter
from inrwsi.geometry import Rect, chunk_rect, grid_wh, octave_wh

MODEL = OctavesModel("ab" * 32, 4096, (16384, 0, 0, 0, 16384, 0, 0, 0, 16384), (0, 0, 0))
BACKGROUND = (250, 251, 252)
GLASS = (243, 242, 244)
Key = tuple[int, tuple[int, int]]


class FakeCoder:
    """In place of `ChunkCoder`: a payload is what its pixels differ by, bit by bit, from what the parent makes of them.

    Attributes:
        calls: how often each payload was decoded.
        seconds: that a decode takes.
    """

    calls: ClassVar[Counter[bytes]] = Counter()
    seconds = 0.0
    _lock = threading.Lock()

    def __init__(self, model: OctavesModel, weights: bytes | None, device: torch.device) -> None:
        if weights is not None:
            raise ValueError("there are weights")

    def decode_root(self, payload: bytes, mip_wh: tuple[int, int]) -> Decoded:
        return self._unpack(payload, np.zeros((3, mip_wh[1], mip_wh[0]), np.int16))

    def decode(self, octave: int, payload: bytes, parent: Decoded, mip_wh: tuple[int, int]) -> Decoded:
        return self._unpack(payload, guess(parent, mip_wh))

    def blank(self, colour: tuple[int, ...], mip_wh: tuple[int, int], octave: int) -> Decoded:
        return Decoded(_filled(colour, mip_wh), np.full((FEATURES, mip_wh[1], mip_wh[0]), 77, np.uint8))

    def rgb(self, decoded: Decoded) -> np.ndarray:
        return (decoded.pixels >> 6).astype(np.uint8).transpose(1, 2, 0)

    def _unpack(self, payload: bytes, guessed: np.ndarray) -> Decoded:
        with self._lock:
            self.calls[payload] += 1
        time.sleep(self.seconds)
        try:
            raw = zlib.decompress(payload)
        except zlib.error:
            raise ValueError("it is not zlib") from None
        pixels = np.frombuffer(raw, np.int16).reshape(guessed.shape) ^ guessed
        return Decoded(pixels, features(pixels))


def guess(parent: Decoded, mip_wh: tuple[int, int]) -> np.ndarray:
    """What a chunk of `mip_wh` is told by the octave below: exactly that part of it, pixels and features."""
    if parent.features is None or parent.pixels.shape != (3, -(-mip_wh[1] // 2), -(-mip_wh[0] // 2)):
        raise TypeError(f"the parent is {parent.pixels.shape}, for a chunk of {mip_wh}")
    told = parent.pixels ^ parent.features[:3]
    return told.repeat(2, axis=1).repeat(2, axis=2)[:, : mip_wh[1], : mip_wh[0]]


def features(pixels: np.ndarray) -> np.ndarray:
    return (pixels[[0, 1, 2, 0, 1, 2, 0, 1]] & 255).astype(np.uint8)


def _filled(colour: tuple[int, ...], mip_wh: tuple[int, int]) -> np.ndarray:
    rgb = np.array(colour * 3 if len(colour) == 1 else colour, np.int16)
    return np.broadcast_to(rgb[:, None, None] * 64, (3, mip_wh[1], mip_wh[0])).copy()


@dataclass(frozen=True)
class FakeFile:
    """A file, its octaves' pixels from the finest, (h, w, channels) uint8, and the payloads of its chunks."""

    path: Path
    wh: tuple[int, int]
    octaves: tuple[np.ndarray, ...]
    payloads: dict[Key, bytes]

    def rect(self, octave: int, ij: tuple[int, int]) -> Rect:
        return chunk_rect(octave_wh(self.wh, octave), CHUNK_PX, ij)


def header(wh: tuple[int, int], channels: int = 3) -> Header:
    slide = SlideInfo(*wh, channels, 8, BACKGROUND[:channels])
    return Header(slide, GridInfo(CHUNK_PX, tuple(range(coarsest_octave(wh) + 1))), to_dict(MODEL))


def fake_file(
    path: Path, wh: tuple[int, int], *, channels: int = 3, blank: Collection[Key] = (), bad: Collection[Key] = ()
) -> FakeFile:
    """Write a slide of noise, with other noise in each octave; chunks `blank` are glass, payloads `bad` not zlib."""
    rng = np.random.default_rng(sum(wh))
    colour, coarsest = GLASS[:channels], coarsest_octave(wh)
    octaves: list[np.ndarray] = []
    payloads: dict[Key, bytes] = {}
    above: Decoded | None = None
    with ContainerWriter(path, header(wh, channels)) as writer:
        for octave in range(coarsest, -1, -1):
            mip_wh = octave_wh(wh, octave)
            pixels = rng.integers(0, 256 * 64, (3, mip_wh[1], mip_wh[0]), dtype=np.int16)
            handed_up = features(pixels)
            columns, rows = grid_wh(mip_wh, CHUNK_PX)
            for ij in ((i, j) for j in range(rows) for i in range(columns)):
                rect = chunk_rect(mip_wh, CHUNK_PX, ij)
                at = np.s_[:, rect.y : rect.y + rect.h, rect.x : rect.x + rect.w]
                if (octave, ij) in blank:
                    pixels[at], handed_up[at] = _filled(colour, (rect.w, rect.h)), 77
                    writer.put_blank(octave, ij, colour)
                    continue
                told = np.zeros_like(pixels[at])
                if above is not None:
                    part = above.cut(rect.x // 2, rect.y // 2, -(-rect.w // 2), -(-rect.h // 2))
                    told = guess(part, (rect.w, rect.h))
                payload = b"bad" if (octave, ij) in bad else zlib.compress((pixels[at] ^ told).tobytes(), 1)
                payloads[octave, ij] = payload
                writer.put_chunk(octave, ij, payload)
            above = Decoded(pixels, handed_up)
            octaves.insert(0, (pixels >> 6).astype(np.uint8).transpose(1, 2, 0)[..., :channels])
        writer.finish()
    return FakeFile(path, wh, tuple(octaves), payloads)


def overlaps(start_px: float, step_px: float, count: int, octave: int, side_px: int) -> np.ndarray:
    """(count, samples): the level-0 pixels that output pixels have in common with samples of an octave, in px.

    Sample i is centred on the centre of pixel 2^octave i; the first and the last go to the slide's edges.
    """
    low = start_px + np.arange(count)[:, None] * step_px
    edges = (np.arange(-(-side_px >> octave) + 1) - 0.5) * 2**octave + 0.5
    edges[0], edges[-1] = 0, side_px
    return np.clip(np.minimum(low + step_px, edges[1:]) - np.maximum(low, edges[:-1]), 0, None)


def area_means(
    file: FakeFile, octave: int, start_px: tuple[float, float], step_px: tuple[float, float], wh: tuple[int, int]
) -> np.ndarray:
    """(h, w, channels) float64 means of an octave's samples, the background where nothing of the slide lies under."""
    image = file.octaves[octave].astype(np.float64)
    x, y = (overlaps(start_px[a], step_px[a], wh[a], octave, file.wh[a]) for a in (0, 1))
    area = y.sum(1)[:, None] * x.sum(1)[None]
    means = weigh(image, y, x) / np.where(area > 0, area, np.inf)[:, :, None]
    means[area == 0] = BACKGROUND[: image.shape[2]]
    return means


def weigh(image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """(h, w, C) samples to (y, x, C) sums, weighed by (y, h) and (x, w)."""
    return np.tensordot(np.tensordot(rows, image, 1), columns, (1, 1)).transpose(0, 2, 1)
