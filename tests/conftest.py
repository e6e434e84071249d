"""Small slides, made once for all tests: one that is encoded, and one of noise that needs no networks."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from inrwsi.sample import sample_region

if TYPE_CHECKING:
    from inrwsi import CinrSlide
    from tests.fake_octaves import FakeFile

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does
TILE_PX = 64
WH = (200, 140)
NOISE_WH = (1101, 699)  # 5 x 3, 3 x 2, 2 x 1 chunks, then one an octave; no side that halves evenly throughout


def pytest_collection_finish() -> None:
    """Keep what the imports made out of every later collection: measuring memory collects before each point."""
    gc.freeze()


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
    import inrwsi.encode_fields

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inrwsi.encode_fields, "NETWORK_STEPS_A_PASS", 25)
        yield


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory, few_steps: None) -> Encoded:
    from inrwsi.encode import encode
    from inrwsi.formats.source import open_source
    from inrwsi.options import EncodeOptions

    pixels, path = small_slide(), tmp_path_factory.mktemp("encoded") / "slide.cinr"
    with open_source(pixels, mpp_um=0.5, objective_power=20) as source:
        options = EncodeOptions(model="cinr", tile_px=TILE_PX, passes=3, bpp=3.0, device="cpu")
        report = encode(source, path, options)
    return Encoded(pixels, path, report)


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> FakeFile:
    """A file of model `octaves` that `fake` decodes. Tests leave it and its folder as they are."""
    from tests.fake_octaves import fake_file

    return fake_file(tmp_path_factory.mktemp("noise") / "noise.cinr", NOISE_WH)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of noise are decoded, at once; `FakeCoder.calls` counts from nought."""
    from tests.fake_octaves import FakeCoder

    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    monkeypatch.setattr(FakeCoder, "seconds", 0.0)
    FakeCoder.calls.clear()


@pytest.fixture
def slide(noise: FakeFile, fake: None) -> Iterator[CinrSlide]:
    """`noise`, open."""
    from inrwsi import CinrSlide

    with CinrSlide(noise.path) as opened:
        yield opened


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    """How many threads torch has, which is one and more than one."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def threads_kept() -> Iterator[None]:
    """The test leaves torch's threads as they were."""
    import torch

    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before
