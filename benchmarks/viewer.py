"""What a viewer asks of a slide: windows by magnification, and a thumbnail, at the same places for every codec."""

from __future__ import annotations

import math

import numpy as np

from inrwsi.geometry import Rect

from .sampling import Picture

VIEW_PX = 512
VIEW_PLACES = 3
THUMBNAIL_PX = 512
MAGNIFICATIONS = (40, 20, 5)


def views(picture: Picture, seed: int) -> list[tuple[str, int, list[Rect]]]:
    """What a viewer asks for: label, downsample, and the same seeded places for every codec, in level-0 pixels."""
    rng = np.random.default_rng(seed)
    found = []
    for label, d in _magnifications(picture):
        w, h = (min(VIEW_PX, side // d) * d for side in picture.wh)
        if min(w, h) < d:
            continue
        places = [
            [int(rng.integers(0, (side - s) // d + 1)) * d for side, s in zip(picture.wh, (w, h), strict=True)]
            for _ in range(VIEW_PLACES)
        ]
        found.append((label, d, [Rect(x, y, w, h) for x, y in places]))
    d = 1 << max(0, math.ceil(math.log2(max(picture.wh) / THUMBNAIL_PX)))
    w, h = (max(d, side // d * d) for side in picture.wh)
    if w <= picture.wh[0] and h <= picture.wh[1]:
        found.append(("thumbnail", d, [Rect(0, 0, w, h)] * VIEW_PLACES))
    return found


def _magnifications(picture: Picture) -> list[tuple[str, int]]:
    """Labels and downsamples; by magnification where the slide says its own, or its pixel size leaves no doubt."""
    power = picture.slide.objective_power
    if power is None and picture.slide.mpp_um is not None:
        power = 10 / picture.slide.mpp_um  # 0.25 um a pixel is what a 40x scan has
    if power is None:
        return [("1:1", 1), ("1:2", 2), ("1:8", 8)]
    steps = {f"{m}x": math.log2(power / m) for m in MAGNIFICATIONS}
    return [(label, 1 << round(s)) for label, s in steps.items() if round(s) >= 0 and abs(s - round(s)) < 0.15]
