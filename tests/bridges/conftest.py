"""A slide of two scales, encoded once for all bridges, and one of noise whose pixels are known to the bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from inrwsi import CinrSlide
from inrwsi.sample import sample_region
from tests.fake_octaves import FakeCoder, FakeFile, fake_file

WH = (700, 610)
LEVELS_WH = ((700, 610), (350, 305), (175, 153))
MPP_UM = (0.5, 0.4)  # x, y
NOISE_WH = (1101, 699)


@dataclass(frozen=True)
class Bridged:
    """A file, the pixels that were encoded, its associated image, and each octave as `CinrSlide` reads it whole."""

    path: Path
    pixels: np.ndarray
    macro: np.ndarray
    octaves: tuple[np.ndarray, ...]


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Bridged:
    from inrwsi.encode import encode
    from inrwsi.formats.source import open_source
    from inrwsi.options import EncodeOptions

    path = tmp_path_factory.mktemp("bridges") / "slide.cinr"
    pixels = sample_region((900, 900), WH, size_wh=(4096, 4096), seed=1)
    macro = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    with open_source(pixels, mpp_um=MPP_UM, objective_power=20) as source, pytest.MonkeyPatch.context() as patch:
        patch.setattr(source, "associated", ("macro",))
        patch.setattr(source, "read_associated", lambda name: macro)
        options = EncodeOptions(effort="fast", quality=95, device="cpu", keep_associated=("macro",))
        encode(source, path, options)
    with CinrSlide(path, device="cpu") as opened:
        assert opened.level_dimensions == LEVELS_WH
        octaves = tuple(opened.read_region((0, 0), k, wh, as_array=True) for k, wh in enumerate(LEVELS_WH))
    return Bridged(path, pixels, macro, octaves)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    FakeCoder.calls.clear()
    yield
    FakeCoder.calls.clear()


@pytest.fixture
def noise(tmp_path: Path, fake: None) -> FakeFile:
    return fake_file(tmp_path / "noise.cinr", NOISE_WH)


@pytest.fixture
def damaged(tmp_path: Path, fake: None) -> FakeFile:
    """Of noise, with one chunk that cannot be decoded: octave 0, column 1, row 1."""
    return fake_file(tmp_path / "damaged.cinr", NOISE_WH, bad=[(0, (1, 1))])


def decoded_chunks(file: FakeFile, octave: int) -> set[tuple[int, int]]:
    """(column, row) of the chunks of an octave that were decoded in this test."""
    return {ij for (k, ij), payload in file.payloads.items() if k == octave and payload in FakeCoder.calls}
