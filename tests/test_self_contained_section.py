"""What a file holds in the place of a prior: all that decoding needs, by any reader, and damage that is refused."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inrwsi import encode_fit
from inrwsi.coding import tensors
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves_integer import NETS, net_tensors
from inrwsi.fields.octaves_model import Decoded, OctavesModel
from inrwsi.fields.octaves_prior import pack_decoding, unpack_decoding
from inrwsi.fit.deltas import apply_deltas, pack_deltas, pack_whole
from inrwsi.formats import layout
from inrwsi.geometry import octave_wh
from inrwsi.octave_chunks import ChunkCoder
from tests import octaves_reference as reference
from tests.octaves_reference import draws
from tests.test_deltas import WHICH, as_net, fitted, same_nets
from tests.test_octave_chunks import CURRENT, GOLDEN_PAYLOADS, GOLDEN_SHA256, GOLDEN_WH, MODEL, digest, released
from tests.test_octaves_integer import inputs, prior

CPU = torch.device("cpu")
TENSOR_BYTES = 2 * 64 * 256 + 4 * (45_440 + 4 * 9 + (4 + 1) * 474)  # tables; weights, factors, biases, shifts
NO_PRIOR = OctavesModel("", MODEL.step, MODEL.matrix, MODEL.mean)


def stored_bytes(weights: bytes) -> int:
    return len(layout.compress("WGHT", weights)[1])


@lru_cache
def section() -> bytes:
    return pack_decoding(prior().nets, prior().tables)


# What it holds


@pytest.mark.skipif(not CURRENT.is_file(), reason="none released")
def test_what_the_released_prior_costs_in_a_file() -> None:
    weights = pack_whole(released(), None)
    both = TENSOR_BYTES + 2 * 64 * 256  # the tables of a second quantiser
    assert both < len(weights) < both + 25_000
    assert 120_000 < stored_bytes(weights) < 170_000
    found = unpack_decoding(weights)
    assert same_nets(found.nets, released().nets)
    assert (found.tables.frequencies == released().tables.frequencies).all()


def test_it_holds_the_networks_and_nothing_of_the_encoder() -> None:
    assert len(section()) == 8 + int.from_bytes(section()[:8], "little") + TENSOR_BYTES
    found = unpack_decoding(section())
    assert same_nets(found.nets, prior().nets)
    assert (found.tables.frequencies == prior().tables.frequencies).all()
    assert (found.analysis, found.units) == ((), {})
    assert pack_decoding(found.nets, found.tables) == section()


def test_differences_from_a_prior_are_in_it() -> None:
    weights = pack_deltas(prior(), fitted(), 2, WHICH)
    whole = pack_whole(prior(), weights)
    assert same_nets(unpack_decoding(whole).nets, apply_deltas(prior(), weights))
    assert unpack_decoding(whole).sha256 != unpack_decoding(section()).sha256


def test_golden_payloads_decode_to_the_same_bits() -> None:
    """Those that hold the format with a prior that is named."""
    coder = ChunkCoder(NO_PRIOR, section(), CPU)
    decoded = coder.decode_root(bytes.fromhex(GOLDEN_PAYLOADS[2]), octave_wh(GOLDEN_WH, 2))
    assert digest(decoded) == GOLDEN_SHA256[2]
    for octave in (1, 0):
        payload = bytes.fromhex(GOLDEN_PAYLOADS[octave])
        decoded = coder.decode(octave, payload, decoded, octave_wh(GOLDEN_WH, octave))
        assert digest(decoded) == GOLDEN_SHA256[octave]
    assert hashlib.sha256(coder.rgb(decoded).tobytes()).hexdigest() == GOLDEN_SHA256[-1]


@pytest.mark.parametrize("own", [False, True])
def test_a_reader_written_from_the_spec_reads_it(own: bool) -> None:
    deltas = pack_deltas(prior(), fitted(), 2, WHICH) if own else None
    weights = pack_whole(prior(), deltas)
    held = reference.whole_nets(weights)
    assert same_nets(unpack_decoding(weights).nets, tuple(as_net(held, n) for n in range(NETS)))
    parent = Decoded(*inputs("whole", 5, 6))
    target = draws("whole target", -80, 80, (3, 10, 12)).astype(np.float32)
    payload, seen = ChunkCoder(MODEL, deltas, CPU, encoder=True, prior=prior()).encode(1, target, parent)
    found = ChunkCoder(NO_PRIOR, weights, CPU).decode(1, payload, parent, (12, 10))
    parts = (np.asarray(part, np.int64) for part in (parent.pixels, parent.features))
    pixels, features, _ = reference.decode(held, MODEL.step, 1, payload, tuple(parts), (12, 10))
    assert (found.pixels == pixels).all()
    assert (found.features == features).all()
    assert (seen.pixels == pixels).all()


def test_networks_of_one_file_are_not_taken_for_those_of_another() -> None:
    """They are kept between files, and these two name the same prior, none, and have the same step."""
    parent = Decoded(*inputs("two", 6, 6))
    target = draws("two target", -80, 80, (3, 12, 12)).astype(np.float32)
    for deltas in (None, pack_deltas(prior(), fitted(), 2, WHICH)):
        payload, seen = ChunkCoder(MODEL, deltas, CPU, encoder=True, prior=prior()).encode(1, target, parent)
        found = ChunkCoder(NO_PRIOR, pack_whole(prior(), deltas), CPU).decode(1, payload, parent, (12, 12))
        assert (found.pixels == seen.pixels).all()


# Damage


def changed(**arrays: Any) -> bytes:
    """A section with other tensors, by name with __ for a dot; without those that are None."""
    held = {k: v for k, v in reference.random_tensors(1).items() if k.startswith(("net.", "tables"))}
    held |= {name.replace("__", "."): array for name, array in arrays.items()}
    return tensors.pack({name: array for name, array in held.items() if array is not None})


def like(name: str, value: int, at: int = 5) -> np.ndarray:
    """The tensor of that name, with one other value."""
    array = reference.random_tensors(1)[name].copy()
    array.reshape(-1)[at] = value
    return array


TABLES = reference.random_tensors(1)["tables"]
# Each value within its bounds, and all together not.
LOUD = {"net__2__trunk2__weight": np.full((32, 32, 3, 3), 127, np.int8)}
LOUD |= {"net__2__trunk2__bias": np.full(32, 2**23, np.int32)}
DAMAGED = [
    (None, "the file names no prior, and holds no networks in its place"),
    (b"", "not safetensors"),
    (b"\7\2" + bytes(123), "not safetensors"),  # differences from a prior
    (bytes(2**23 + 1), "it has 8388609 bytes, should have at most 8388608"),
    (changed(net__3__up__bias=None), "'net.3.up.bias' is missing or not one"),
    (changed(analysis__0__log_factor=np.zeros(9, np.float16)), "'analysis.0.log_factor' is missing or not one"),
    (changed(net__0__up__bias=np.zeros(31, np.int32)), r"net\.0\.up\.bias is int32\[31\], should be int32\[32\]"),
    (changed(net__0__up__bias=np.zeros(32, np.int16)), r"net\.0\.up\.bias is int16"),
    (changed(net__1__up__weight=like("net.1.up.weight", -128)), r"a value of up\.weight is 128, should be at most 127"),
    (changed(net__1__up__bias=like("net.1.up.bias", 2**23 + 1)), r"a value of up\.bias is 8388609, should be at most"),
    (changed(**LOUD), "the sums of trunk2 reach"),
    (changed(net__2__up__shift=like("net.2.up.shift", 25)), "a shift of up is"),
    (changed(net__2__inverse_factor=like("net.2.inverse_factor", 0)), "inverse_factor is 0 or"),
    (changed(tables=like("tables", 0, at=127)), "frequencies of scale 0 sum to"),
    (changed(tables=np.where(np.arange(256) == 127, 32768, 0 * TABLES).astype(np.uint16)), "no frequency for the esc"),
]


@pytest.mark.parametrize(("weights", "sentence"), DAMAGED)
def test_what_is_not_of_the_spec_is_said(weights: bytes | None, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ChunkCoder(NO_PRIOR, weights, CPU)


def test_every_kind_of_corruption_is_refused_or_gives_networks() -> None:
    rng = np.random.default_rng(5)
    refused = 0
    for n in range(60):
        weights = bytearray(section())
        # the header of safetensors, which is a tenth of it, twice as often as the tensors
        weights[int(rng.integers(0, 20_000 if n % 3 else len(weights)))] ^= 1 << int(rng.integers(8))
        try:
            found = unpack_decoding(bytes(weights))
        except ValueError:
            refused += 1
        else:
            for net in found.nets:
                assert {k: (v.shape, str(v.dtype)) for k, v in net.items()} == net_tensors()
    assert refused > 30
    for size in (0, 7, 8, 20_000, len(section()) - 1):
        with pytest.raises(ValueError, match="not safetensors"):
            unpack_decoding(section()[:size])


def test_numbers_of_the_spec_are_those_of_the_code() -> None:
    spec = (Path(__file__).parents[1] / "formats" / "SPEC.md").read_text(encoding="utf-8")
    part = spec.split("### B.13")[1].split("### B.14")[0]
    assert f"at most 2^{octaves_prior.MAX_BYTES.bit_length() - 1}, are safetensors" in part
    assert f"+-{octaves_prior.MOST_WEIGHT} and each bias within +-2^{octaves_prior.MOST_BIAS.bit_length() - 1}" in part
    assert f"less than {encode_fit.WHOLE_SHARE * 100:g} % of it" in part
