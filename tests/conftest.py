"""A small slide, encoded once for all tests that look at a decoded one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from inrwsi.sample import sample_region

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does
TILE_PX = 64
WH = (200, 140)


@dataclass(frozen=True)
class Encoded:
    """A slide's pixels, the options, the file, and what `encode` said of it."""

    pixels: np.ndarray
    path: Path
    report: object


def small_slide() -> np.ndarray:
    """(140, 200, 3): generated tissue, and glass in the last column of tiles, which ends at the slide's edge."""
    pixels = np.full((WH[1], WH[0], 3), (243, 242, 244), np.uint8)
    pixels[:, : 3 * TILE_PX] = sample_region((900, 900), (3 * TILE_PX, WH[1]), size_wh=(2048, 2048), seed=1)
    return pixels


@pytest.fixture(scope="session")
def few_steps() -> Iterator[None]:
    """The network's fit cut short: what tests look at does not need a good one."""
    import inrwsi.encode_cinr

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inrwsi.encode_cinr, "NETWORK_STEPS_A_PASS", 25)
        yield


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory, few_steps: None) -> Encoded:
    from inrwsi.encode import encode
    from inrwsi.formats.source import open_source
    from inrwsi.options import EncodeOptions

    pixels, path = small_slide(), tmp_path_factory.mktemp("encoded") / "slide.cinr"
    with open_source(pixels, mpp_um=0.5, objective_power=20) as source:
        options = EncodeOptions(model="cinr", tile_px=TILE_PX, passes=2, bpp=3.0, device="cpu")
        report = encode(source, path, options)
    return Encoded(pixels, path, report)
