"""Encoding of model `octaves` without networks, in pieces that tests can look at."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inrwsi import encode_fit, encode_octaves, encode_units
from inrwsi.encode import encode
from inrwsi.encode_units import Plan
from inrwsi.fields.octaves_model import Decoded, OctavesModel
from inrwsi.formats.container import Container
from inrwsi.formats.source import open_source
from inrwsi.options import EncodeOptions, EncodeReport
from inrwsi.progress import Progress

GLASS = (243, 242, 244)


class FakeCoder:
    """What `ChunkCoder` gives, by a quantiser in steps of the octave after the octave below drawn large."""

    def __init__(
        self,
        model: OctavesModel,
        weights: bytes | None,
        device: Any,
        *,
        encoder: bool = False,
        analysis: Any = None,
        refine: bool = False,
    ) -> None:
        assert weights is None
        assert analysis is None
        assert not (refine and not encoder)
        self.model = model

    def components(self, rgb: np.ndarray) -> np.ndarray:
        assert rgb.dtype == np.uint8
        assert rgb.shape[2] == 3
        return np.ascontiguousarray(rgb.transpose(2, 0, 1), np.float32) - 128

    def below(self, target: np.ndarray) -> np.ndarray:
        _, h, w = target.shape
        even = np.pad(target, ((0, 0), (0, h % 2), (0, w % 2)), mode="edge")
        return (even[:, 0::2, 0::2] + even[:, 1::2, 0::2] + even[:, 0::2, 1::2] + even[:, 1::2, 1::2]) / 4

    def encode_root(self, target: np.ndarray) -> tuple[bytes, Decoded]:
        assert max(target.shape) <= 16
        payload = zlib.compress(np.rint(target * 64).astype("<i2").tobytes())
        return payload, self.decode_root(payload, (target.shape[2], target.shape[1]))

    def decode_root(self, payload: bytes, mip_wh: tuple[int, int]) -> Decoded:
        pixels = np.frombuffer(zlib.decompress(payload), "<i2").reshape(3, *mip_wh[::-1])
        return Decoded(pixels, self._features(pixels))

    def encode(self, octave: int, target: np.ndarray, parent: Decoded) -> tuple[bytes, Decoded]:
        assert target.dtype == np.float32
        wh = (target.shape[2], target.shape[1])
        quantised = np.rint((target * 64 - self._guess(parent, wh)) / self._step(octave))
        payload = zlib.compress(quantised.astype("<i2").tobytes(), 1)
        return payload, self.decode(octave, payload, parent, wh)

    def decode(self, octave: int, payload: bytes, parent: Decoded, mip_wh: tuple[int, int]) -> Decoded:
        quantised = np.frombuffer(zlib.decompress(payload), "<i2").reshape(3, *mip_wh[::-1])
        pixels = np.clip(quantised * self._step(octave) + self._guess(parent, mip_wh), -32768, 32767).astype(np.int16)
        return Decoded(pixels, self._features(pixels) if octave else None)

    def rgb(self, decoded: Decoded) -> np.ndarray:
        return np.clip(np.rint(decoded.pixels / 64) + 128, 0, 255).astype(np.uint8).transpose(1, 2, 0)

    def _step(self, octave: int) -> int:
        return max(1, round(self.model.equal_step * 64 / 2**octave))

    def _guess(self, parent: Decoded, mip_wh: tuple[int, int]) -> np.ndarray:
        assert parent.features is not None
        assert parent.pixels.shape[1:] == tuple(-(-side // 2) for side in mip_wh[::-1])
        both = parent.pixels.astype(np.int32) + parent.features[:3]
        return both.repeat(2, axis=1).repeat(2, axis=2)[:, : mip_wh[1], : mip_wh[0]]

    @staticmethod
    def _features(pixels: np.ndarray) -> np.ndarray:
        return np.concatenate([pixels & 31, pixels & 15, pixels[:2] & 7]).astype(np.uint8)


def coder_of(model: dict[str, Any]) -> FakeCoder:
    """The coder that a file was made with, of its header's `model`."""
    whole = (tuple(model[key]) for key in ("matrix", "mean"))
    return FakeCoder(OctavesModel(model["prior"], model["step"], *whole, spacing=model["spacing"]), None, 0)


def patch_coder(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(encode_fit, "ChunkCoder", FakeCoder)
    patch.setattr(encode_octaves.octaves_prior, "current_sha256", lambda: "5e" * 32)


@lru_cache
def texture(w: int, h: int, channels: int = 3) -> np.ndarray:
    """(h, w, channels) uint8 of waves and noise."""
    y, x = np.mgrid[:h, :w]
    wave = 40 * np.sin(x / 9) * np.cos(y / 7) + 25 * np.sin((x + 2 * y) / 61)
    noise = np.random.default_rng(w).normal(0, 9, (h, w, channels))
    return np.clip(np.stack([170 + wave, 90 + 1.2 * wave, 150 - wave], -1)[..., :channels] + noise, 0, 255).astype(
        np.uint8
    )


@lru_cache
def with_glass(w: int, h: int) -> np.ndarray:
    """Texture, and glass of nearly one colour in the right third and in an inner corner."""
    pixels = texture(w, h).copy()
    grain = np.random.default_rng(3).integers(-1, 2, (h, w, 3)) + np.array(GLASS)
    for part in (np.s_[:, 2 * w // 3 :], np.s_[h // 2 :, : w // 3]):
        pixels[part] = grain[part]
    return pixels


def make(pixels: np.ndarray, out: Path, threads: int = 1, **how: Any) -> EncodeReport:
    """Encode, with so many workers."""
    run = {key: how.pop(key) for key in ("progress", "resume", "overwrite") if key in how}
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with open_source(pixels) as source:
            return encode(source, out, EncodeOptions(device="cpu", **how), **run)
    finally:
        torch.set_num_threads(before)


def decoded(path: Path) -> tuple[np.ndarray, int]:
    """The slide from its chunks, coarse to fine, as SPEC.md has it; and how many are blank."""
    with Container.open(path) as container:
        header = container.header
        model = header.model
        coder = coder_of(model)
        plan = Plan.of(header.slide.l0_wh)
        assert header.grid.octaves == tuple(range(plan.top + 1))
        assert container.verify() == []
        whole = np.zeros((header.slide.height, header.slide.width, header.slide.channels), np.uint8)
        held: dict[tuple[int, tuple[int, int]], Decoded] = {}
        blank = 0
        for octave in range(plan.top, -1, -1):
            for ij in plan.chunks(octave):
                chunk, rect = container.chunk(octave, ij), plan.rect(octave, ij)
                if chunk.payload is None:
                    blank += 1
                    here: Any = chunk.colour
                    children = plan.children(octave, ij) if octave else ()
                    assert all(container.chunk(octave - 1, c).colour == here for c in children)
                elif octave == plan.top:
                    held[octave, ij] = coder.decode_root(chunk.payload, (rect.w, rect.h))
                else:
                    parent = held[octave + 1, (ij[0] // 2, ij[1] // 2)]
                    part = encode_units.quadrant(plan, octave, ij, parent)
                    held[octave, ij] = coder.decode(octave, chunk.payload, part, (rect.w, rect.h))
                    here = coder.rgb(held[octave, ij])[..., : header.slide.channels]
                if octave == 0:
                    whole[rect.y : rect.y + rect.h, rect.x : rect.x + rect.w] = here
    return whole, blank


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    mse = ((a.astype(np.float64) - b) ** 2).mean()
    return 10 * math.log10(255**2 / mse) if mse else math.inf


def digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


class _Stop(Exception):
    pass


def stopping(stage: str, after: int) -> Callable[[Progress], None]:
    """Raises at the `after`th report of a stage."""
    seen = 0

    def stop(progress: Progress) -> None:
        nonlocal seen
        seen += progress.stage == stage
        if seen == after:
            raise _Stop

    return stop
