"""Training crops for the prior: pictures in memory, and what is done to a crop before it is coded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np
import torch
import torch.nn.functional as F

from inrwsi.colour import Klt
from inrwsi.formats.source import open_source
from inrwsi.tissue import tissue_mask

COLOUR_SAMPLES = 8192
MASK_PX = 16  # a pixel of the tissue map, in pixels of the picture


@dataclass(frozen=True)
class Picture:
    """One training picture: pixels (h, w, 3) uint8, the places (n, 2) where crops may begin about, and a weight."""

    name: str
    pixels: np.ndarray
    tissue_xy: np.ndarray
    colours: np.ndarray
    weight: float


def load(path: Path, weight: float, seed: int) -> Picture:
    """Read a whole picture. Crops are drawn about its tissue."""
    with open_source(path) as source:
        pixels = np.ascontiguousarray(source.read((0, 0), (source.width, source.height))[..., :3])
        overview = source.overview(max(1, max(source.width, source.height) // MASK_PX))
        mask = tissue_mask(overview, source.background)
    by = pixels.shape[0] / mask.shape[0]
    rows, columns = np.nonzero(mask)
    places = np.stack((columns, rows), 1) * by
    rng = np.random.default_rng(seed)
    chosen = places[rng.integers(0, len(places), COLOUR_SAMPLES)].astype(np.int64)
    chosen += rng.integers(0, MASK_PX, chosen.shape)
    chosen = np.minimum(chosen, [pixels.shape[1] - 1, pixels.shape[0] - 1])
    return Picture(path.name, pixels, places.astype(np.float32), pixels[chosen[:, 1], chosen[:, 0]], weight)


class Crops:
    """Draws augmented crops: number n is always the same one.

    Augmentation: scale (up to 1.7 times smaller, by area, or 2 times larger: native 40x pixels hold less detail
    than those at half resolution), flips and turns, colour (gain and gamma a channel, saturation), sharpening or
    softening, and JPEG of random quality: a quarter of the slides in the world have been through a poor one.
    """

    def __init__(self, pictures: list[Picture], crop_px: int, seed: int) -> None:
        self._pictures, self._crop_px, self._seed = pictures, crop_px, seed
        weights = np.array([p.weight for p in pictures])
        self._shares = weights / weights.sum()

    def __call__(self, number: int) -> np.ndarray:
        """Crop `number`: (3, crop_px, crop_px) float32, colour components about the mean, in grey levels."""
        rng = np.random.default_rng((self._seed, number))
        picture = self._pictures[rng.choice(len(self._pictures), p=self._shares)]
        kind = rng.random()
        if kind < 0.2:
            crop = _magnify(_cut(picture, rng, round(self._crop_px / rng.uniform(1.2, 2.0))), self._crop_px, rng)
        else:
            scale = rng.uniform(1, 1.7) if kind < 0.45 else 1.0
            crop = _shrink(_cut(picture, rng, round(self._crop_px * scale)), self._crop_px)
        if rng.random() < 0.5:
            crop = crop.swapaxes(0, 1)
        crop = crop[:: rng.choice((-1, 1)), :: rng.choice((-1, 1))]
        colours = picture.colours.astype(np.float32)
        if rng.random() < 0.6:
            jitter = _Jitter(rng)
            crop, colours = jitter(crop), jitter(colours)
        if rng.random() < 0.25:
            crop = _sharpen(crop, rng.uniform(-0.5, 1.0))
        crop8 = np.clip(np.rint(crop), 0, 255).astype(np.uint8)
        if rng.random() < 0.15:
            sub = "420" if rng.random() < 0.5 else "444"
            raw = imagecodecs.jpeg8_encode(
                np.ascontiguousarray(crop8), level=int(rng.integers(60, 96)), subsampling=sub
            )
            crop8 = imagecodecs.jpeg8_decode(raw)
        klt = Klt.of(np.clip(np.rint(colours), 0, 255).astype(np.uint8))
        return klt.forward(crop8)


def _cut(picture: Picture, rng: np.random.Generator, side: int) -> np.ndarray:
    h, w, _ = picture.pixels.shape
    away = 0.6 if rng.random() < 0.3 else 0.1  # the further, the more glass beside the tissue
    x, y = picture.tissue_xy[rng.integers(len(picture.tissue_xy))] + rng.uniform(-0.5 - away, -0.5 + away, 2) * side
    x, y = int(np.clip(x, 0, w - side)), int(np.clip(y, 0, h - side))
    return picture.pixels[y : y + side, x : x + side]


def _shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """To `side` x `side`, each pixel the mean over its footprint: float32."""
    out = pixels.astype(np.float32)
    if pixels.shape[0] == side:
        return out
    edges = np.linspace(0, pixels.shape[0], side + 1)
    whole = edges.astype(np.int64)
    total: np.ndarray
    for _ in (0, 1):  # the integral along an axis at fractional places, and its differences
        total = np.concatenate((np.zeros_like(out[:1]), np.cumsum(out, axis=0, dtype=np.float64)))
        here, after = total[whole], total[np.minimum(whole + 1, len(total) - 1)]
        at: np.ndarray = here + (after - here) * (edges - whole)[:, None, None]
        out = (np.diff(at, axis=0) / (edges[1] - edges[0])).swapaxes(0, 1)
    return np.ascontiguousarray(out, np.float32)


def _magnify(pixels: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """To `side` x `side` by cubic interpolation, with a little of a camera's noise: float32."""
    planes = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)[None], np.float32))
    larger = F.interpolate(planes, (side, side), mode="bicubic", align_corners=False)
    out = larger[0].permute(1, 2, 0).contiguous().numpy()
    return out + rng.normal(0, rng.uniform(0, 2), out.shape).astype(np.float32)


class _Jitter:
    """Another laboratory's stain and another scanner's colours."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._gain = rng.uniform(0.85, 1.1, 3).astype(np.float32)
        self._gamma = rng.uniform(0.75, 1.3) * rng.uniform(0.9, 1.1, 3).astype(np.float32)
        self._saturation = np.float32(rng.uniform(0.5, 1.4))

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        x = np.power(np.maximum(rgb, 0.5) / 255, self._gamma.astype(np.float32)) * 255 * self._gain
        grey = x.mean(-1, keepdims=True)
        return np.clip(grey + (x - grey) * self._saturation, 0, 255)


def _sharpen(x: np.ndarray, amount: float) -> np.ndarray:
    """Unsharp mask over 3 x 3; a negative amount softens."""
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    blurred = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9
    return np.clip(x + np.float32(amount) * (x - blurred), 0, 255)
