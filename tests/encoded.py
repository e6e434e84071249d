"""Small slides of generated tissue, encoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from inrwsi.sample import sample_region


def tissue(wh: tuple[int, int]) -> np.ndarray:
    """(h, w, 3) uint8: the same part of the same generated slide each time, tissue throughout."""
    return sample_region((900, 900), wh, size_wh=(4096, 4096), seed=1)


def encode_fast(
    pixels: np.ndarray,
    path: Path,
    *,
    mpp_um: float | tuple[float, float] | None = None,
    objective_power: float | None = None,
    quality: float | None = None,
) -> None:
    """Encode (h, w, 3) uint8 on the CPU, with the networks that the package ships."""
    from inrwsi.encode import encode
    from inrwsi.formats.source import open_source
    from inrwsi.options import EncodeOptions

    with open_source(pixels, mpp_um=mpp_um, objective_power=objective_power) as source:
        encode(source, path, EncodeOptions(effort="fast", quality=quality, device="cpu"))
