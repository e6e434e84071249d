"""Chunks that say by how much the networks misjudge their scales: the same bits by both readers, and fewer of them."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import inrwsi
from inrwsi.coding import rans, shifts
from inrwsi.encode import encode
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves_integer import PASSES, IntegerNet
from inrwsi.fields.octaves_model import SHIFTED, Decoded
from inrwsi.formats.container import Container
from inrwsi.formats.source import open_source
from inrwsi.options import EncodeOptions
from inrwsi.sample import sample_region
from tests import octaves_reference as reference
from tests.test_octave_chunks import (
    CPU,
    MODEL,
    PRIORS,
    chosen,
    coder_of,
    digest,
    parent_of,
    plain,
    released,
    same,
    silent,
    tissue,
)
from tests.test_octaves_integer import prior, said

SHIFTED_MODEL = replace(MODEL, scales=SHIFTED)
# Of one chunk whose shifts are `golden_shifts`, under the tests' prior of whole numbers: never another.
GOLDEN_PAYLOAD_SHA256 = "19763f6a278d1c1fcd3e37ebcc8751e13ce5b5f181aa5204cbd69551555f2bd9"
GOLDEN_SHA256 = "4f0e5f4ac3ef6d9bbdb7b90611a988690b4515b33d8671136993b97703597713"
GOLDEN_WH = (40, 24)


def read_by_the_reference(which: octaves_prior.Prior, octave: int, payload: bytes, parent: Decoded) -> Decoded:
    held = reference.read_prior(octaves_prior.pack(which))
    wh = (2 * parent.pixels.shape[2], 2 * parent.pixels.shape[1])
    pixels, features, _ = reference.decode(held, MODEL.step, octave, payload, plain(parent), wh, shifted=True)
    return Decoded(pixels.astype(np.int16), features.astype(np.uint8) if octave else None)


def test_each_class_of_each_band_has_its_own_shift() -> None:
    scales = np.array([0, 1, 31, 32, 63, 40, 5, 0, 33], np.uint8)  # three sites of three bands
    found = shifts.shifted(scales, np.array([4, -2, 1, -9, 30, 0], np.int32))
    assert found.tolist() == [0, 1, 32, 23, 63, 40, 9, 0, 33]
    assert found.dtype == np.uint8
    assert shifts.shifted(scales, np.zeros(6, np.int32)).tolist() == scales.tolist()
    with pytest.raises(ValueError, match="scales shift by 64, should by at most 63"):
        shifts.shifted(scales, np.array([0, 0, -64, 0, 0, 0], np.int32))


def test_the_best_shifts_are_those_that_cost_least() -> None:
    rng = np.random.default_rng(0)
    bands, tables = 3, prior().tables
    scales = rng.integers(0, 64, 4000 * bands).astype(np.uint8)
    spread = 2.0 ** (scales / 8 - 3 + np.tile([1.0, -0.5, 0.0], 4000))  # band 0 wider than its scales say, 1 narrower
    symbols = np.where(scales > 0, np.rint(rng.laplace(0, spread)), 0).astype(np.int32)
    found = shifts.best(symbols, scales, bands, tables)
    bits, zero = tables.bits(), tables.limit
    for at, (wide, band) in enumerate(itertools.product((False, True), range(bands))):
        own = (np.arange(len(scales)) % bands == band) & (scales > 0) & ((scales >= 32) == wide)
        column = np.where(np.abs(symbols[own]) > zero, 2 * zero + 1, symbols[own] + zero)
        by_shift = [
            bits[(scales[own].astype(int) + k).clip(1, 63), column].sum() + bits[shifts.OWN_SCALE, zero + k]
            for k in range(-7, 8)
        ]
        assert by_shift[found[at] + 7] <= min(by_shift) + 0.01 * own.sum()
    assert len(set(found.tolist())) > 2


@pytest.mark.parametrize("which", PRIORS)
@pytest.mark.parametrize(("octave", "wh"), [(0, (24, 20)), (1, (32, 32)), (3, (68, 4)), (0, (4, 4))])
def test_a_reader_written_from_the_spec_gives_the_same_bits(which: str, octave: int, wh: tuple[int, int]) -> None:
    parent = parent_of("shifted", wh)
    payload, seen = coder_of(chosen(which), SHIFTED_MODEL, encoder=True).encode(octave, tissue(wh), parent)
    for fast in (False, True):
        assert same(coder_of(chosen(which), SHIFTED_MODEL, fast=fast).decode(octave, payload, parent, wh), seen)
    assert same(read_by_the_reference(chosen(which), octave, payload, parent), seen)


def golden_shifts(number: int) -> np.ndarray:
    """Of each pass others, near and far, so that scales are clamped at both ends."""
    return (np.arange(2 * PASSES[number][1], dtype=np.int32) * 37 + 11 * number) % 127 - 63


def payload_of(octave: int, wh: tuple[int, int], most: int = 63) -> tuple[bytes, Decoded, Decoded]:
    """A payload made without a float, with shifts up to `most`; its parent and what it decodes to."""
    parent = parent_of("golden shifts", wh)
    held: list[tuple[np.ndarray, np.ndarray]] = []

    def coder(number: int, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
        own = golden_shifts(number)
        own[0] = most
        held.append((own, shifts.own_scales(PASSES[number][1])))
        scales = shifts.shifted(scales, own.clip(-63, 63))
        held.append((said("golden")(number, means, scales), scales))
        return held[-1][0]

    net = IntegerNet(prior().nets[octave], max(MODEL.step >> octave, 256), CPU)
    assert parent.features is not None
    decoded = net.run(parent.pixels, parent.features, coder, hand_up=octave > 0)
    symbols, scales = (np.concatenate(parts) for parts in zip(*held, strict=True))
    return rans.encode(symbols, scales, prior().tables), parent, decoded


@pytest.mark.parametrize("fast", [False, True])
def test_a_golden_payload_decodes_to_its_digest(fast: bool) -> None:
    payload, parent, decoded = payload_of(1, GOLDEN_WH)
    assert hashlib.sha256(payload).hexdigest() == GOLDEN_PAYLOAD_SHA256
    found = coder_of(prior(), SHIFTED_MODEL, fast=fast).decode(1, payload, parent, GOLDEN_WH)
    assert digest(found) == digest(decoded) == GOLDEN_SHA256
    assert same(read_by_the_reference(prior(), 1, payload, parent), found)


def test_a_shift_beyond_63_is_refused() -> None:
    coder = coder_of(prior(), SHIFTED_MODEL)
    for most in (64, 2**30):
        payload, parent, _ = payload_of(0, (8, 8), most)
        with pytest.raises(ValueError, match=f"scales shift by {most}, should by at most 63"):
            coder.decode(0, payload, parent, (8, 8))


def test_a_chunk_without_a_coded_symbol_is_one_byte() -> None:
    parent = parent_of("silent", (12, 8))
    payload, _ = coder_of(silent(), SHIFTED_MODEL, encoder=True).encode(1, tissue((12, 8)), parent)
    assert payload == b"\0"


@pytest.mark.skipif(len(PRIORS) < 2, reason="none released")
def test_what_the_networks_misjudge_costs_less() -> None:
    """The same pixels in fewer bytes: of noise, for which networks that were trained on tissue are no judges."""
    wh, rng = (256, 256), np.random.default_rng(3)
    parent = parent_of("smooth", wh)
    parent = Decoded((parent.pixels // 64).astype(np.int16), np.zeros_like(parent.features))
    for spread, most in ((2.0, 0.99), (25.0, 0.97)):
        target = rng.normal(0, spread, (3, 256, 256)).astype(np.float32)
        plainly, seen = coder_of(released(), encoder=True).encode(0, target, parent)
        payload, found = coder_of(released(), SHIFTED_MODEL, encoder=True).encode(0, target, parent)
        assert same(found, seen)
        assert same(coder_of(released(), SHIFTED_MODEL).decode(0, payload, parent, wh), seen)
        assert len(payload) < most * len(plainly)


def test_files_are_made_with_shifts(tmp_path: Path) -> None:
    pixels = sample_region((900, 900), (256, 256), size_wh=(2048, 2048), seed=1)
    with open_source(pixels, mpp_um=0.5, objective_power=20) as source:
        encode(source, tmp_path / "a.cinr", EncodeOptions(quality=50, effort="fast"))
    with Container.open(tmp_path / "a.cinr") as container:
        assert container.header.model["scales"] == "shifted"
    with inrwsi.open_slide(tmp_path / "a.cinr") as slide:
        decoded = np.asarray(slide.read_region((0, 0), 0, (256, 256)))[..., :3]
    assert ((decoded.astype(float) - pixels) ** 2).mean() < 30
