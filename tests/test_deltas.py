"""The networks of a file's own: differences that come back exactly, alike by any reader, and damage that does not."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch

from inrwsi.coding import rans
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves_integer import NETS, check_net, net_tensors
from inrwsi.fields.octaves_model import Decoded, OctavesModel
from inrwsi.fit.deltas import MAX_QUANTUM, MOST_BIAS, Net, apply_deltas, delta_names, pack_deltas
from inrwsi.octave_chunks import ChunkCoder
from tests import octaves_reference as reference
from tests.octaves_reference import draws
from tests.test_octaves_integer import inputs, prior

WHICH = (0, 1, 2)
HEAD_BYTES = 2 + 41 * len(WHICH)


@lru_cache
def fitted(spread: int = 3) -> tuple[Net, ...]:
    """Nets near the prior's: a fifth of all values differ, biases by quarters of their unit and less."""
    nets = []
    for n, net in enumerate(prior().nets):
        changed = dict(net)
        for name in delta_names():
            base = net[name].astype(np.int64)
            by = draws(f"{n} {name} by", -spread, spread, base.shape)
            by[draws(f"{n} {name} which", 0, 4, base.shape) > 0] = 0
            if name.endswith(".bias"):
                by <<= np.maximum(net[name.replace("bias", "shift")].astype(np.int64) - 3, 0)
                changed[name] = (base + by).astype(np.int32)
            else:
                changed[name] = np.clip(base + by, -127, 127).astype(np.int8)
        nets.append(changed)
    return tuple(nets)


def bias_unit(n: int, name: str) -> np.ndarray:
    """What a multiple of a bias is worth."""
    return 2 ** np.maximum(prior().nets[n][name.replace("bias", "shift")].astype(np.int64) - 2, 0)


def same_nets(a: tuple[Net, ...], b: tuple[Net, ...]) -> bool:
    return all(x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x) for x, y in zip(a, b, strict=True))


# What comes back


@pytest.mark.parametrize("quantum", [1, 2, 4, 8, 64])
def test_what_comes_back_is_as_near_as_the_quantum(quantum: int) -> None:
    found = apply_deltas(prior(), pack_deltas(prior(), fitted(30), quantum, WHICH))
    for n in range(NETS):
        assert {k: (v.shape, str(v.dtype)) for k, v in found[n].items()} == net_tensors()
        for name, (_, dtype) in net_tensors().items():
            want = (fitted(30) if n in WHICH else prior().nets)[n][name].astype(np.int64)
            off = np.abs(found[n][name].astype(np.int64) - want)
            base = prior().nets[n][name].astype(np.int64)
            if name.endswith(".bias") and n in WHICH:
                assert (off <= bias_unit(n, name) / 2).all(), name
            elif name.endswith(".weight") and n in WHICH:
                nearest = base + np.rint((want - base) / quantum).astype(np.int64) * quantum
                held = np.abs(nearest) <= 127  # where the nearest is none of int8's, the next one is taken
                assert (off[held] <= quantum / 2).all(), name
                assert (off < quantum).all(), name
                assert dtype == "int8"
            else:
                assert (off == 0).all(), name


def test_quantum_1_gives_weights_back_exactly() -> None:
    """And biases too, where they differ by what they are held in."""
    nets = [dict(net) for net in fitted()]
    for n, net in enumerate(nets):
        for name in (name for name in delta_names() if name.endswith(".bias")):
            unit, base = bias_unit(n, name), prior().nets[n][name]
            net[name] = (base + (net[name] - base) // unit * unit).astype(np.int32)
    assert same_nets(apply_deltas(prior(), pack_deltas(prior(), tuple(nets), 1, (0, 1, 2, 3))), tuple(nets))


@pytest.mark.parametrize("which", [(0,), (3,), (1, 3), (0, 1, 2, 3)])
def test_only_the_named_nets_differ(which: tuple[int, ...]) -> None:
    weights = pack_deltas(prior(), fitted(), 2, which)
    assert weights[0] == sum(1 << n for n in which)
    found = apply_deltas(prior(), weights)
    for n in range(NETS):
        assert same_nets((found[n],), (prior().nets[n],)) == (n not in which)


def test_nets_that_do_not_differ_cost_a_few_bytes() -> None:
    weights = pack_deltas(prior(), prior().nets, 4, WHICH)
    assert weights == bytes([7, 4]) + bytes(41 * 3)
    assert same_nets(apply_deltas(prior(), weights), prior().nets)
    assert len(pack_deltas(prior(), prior().nets, 4, (1,))) == 43


def test_coarser_and_fewer_differences_are_shorter() -> None:
    sizes = [len(pack_deltas(prior(), fitted(30), quantum, WHICH)) for quantum in (1, 2, 4, 8, 16)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(pack_deltas(prior(), fitted(30), 2, (0, 1))) < len(pack_deltas(prior(), fitted(30), 2, WHICH))


def test_a_multiple_does_not_lead_out_of_the_range() -> None:
    base = [dict(net) for net in prior().nets]
    name = "up.weight"
    base[1][name] = np.full_like(base[1][name], 120)
    base[1]["up.bias"] = np.full_like(base[1]["up.bias"], MOST_BIAS - 1)
    held = dataclasses.replace(prior(), nets=tuple(base))
    nets = [dict(net) for net in base]
    nets[1][name] = np.full_like(base[1][name], 127)
    nets[1]["up.bias"] = np.full_like(base[1]["up.bias"], MOST_BIAS)
    found = apply_deltas(held, pack_deltas(held, tuple(nets), 8, (1,)))
    assert (found[1][name] == 120).all()
    assert (found[1]["up.bias"] == MOST_BIAS - 1).all()
    found = apply_deltas(held, pack_deltas(held, tuple(nets), 4, (1,)))
    assert (found[1][name] == 124).all()


# The specification


def as_net(tensors: reference.Tensors, n: int) -> Net:
    key = f"net.{n}."
    return {name[len(key) :]: array for name, array in tensors.items() if name.startswith(key)}


@pytest.mark.parametrize(("quantum", "which", "spread"), [(1, (0, 1, 2), 3), (5, (1, 3), 100), (8, (2,), 0)])
def test_a_reader_written_from_the_spec_gives_the_same_nets(quantum: int, which: tuple[int, ...], spread: int) -> None:
    weights = pack_deltas(prior(), fitted(spread), quantum, which)
    held = reference.read_prior(octaves_prior.pack(prior()))
    found = reference.own_nets(held, weights)
    assert same_nets(apply_deltas(prior(), weights), tuple(as_net(found, n) for n in range(NETS)))
    assert (found["tables"] == held["tables"]).all()


def test_both_readers_decode_a_chunk_with_a_files_own_nets() -> None:
    weights = pack_deltas(prior(), fitted(), 2, WHICH)
    model = OctavesModel("0" * 64, 20480, (16384, 0, 0, 0, 16384, 0, 0, 0, 16384), (0, 0, 0))
    coder = ChunkCoder(model, weights, torch.device("cpu"), encoder=True, prior=prior())
    held = reference.own_nets(reference.read_prior(octaves_prior.pack(prior())), weights)
    parent = Decoded(*inputs("own", 5, 6))
    target = draws("own target", -80, 80, (3, 10, 12)).astype(np.float32)
    payload, seen = coder.encode(1, target, parent)
    found = coder.decode(1, payload, parent, (12, 10))
    parts = (np.asarray(part, np.int64) for part in (parent.pixels, parent.features))
    pixels, features, _ = reference.decode(held, model.step, 1, payload, tuple(parts), (12, 10))
    assert (found.pixels == pixels).all()
    assert (seen.pixels == pixels).all()
    assert (found.features == features).all()
    plain_prior = ChunkCoder(model, None, torch.device("cpu"), encoder=True, prior=prior())
    assert plain_prior.encode(1, target, parent)[0] != payload


def test_an_empty_stream_says_zeros_at_any_scale_index() -> None:
    head = bytes([5, 7]) + bytes(range(1, 42)) + bytes(41)
    assert same_nets(apply_deltas(prior(), head), prior().nets)
    found = reference.own_nets(reference.read_prior(octaves_prior.pack(prior())), head)
    assert same_nets(prior().nets, tuple(as_net(found, n) for n in range(NETS)))


def test_numbers_of_the_spec_are_those_of_the_code() -> None:
    spec = (Path(__file__).parents[1] / "formats" / "SPEC.md").read_text(encoding="utf-8")
    part = spec.split("### B.12")[1].split("### B.13")[0]
    assert f"| 1 | quantum | 1 to {MAX_QUANTUM}:" in part
    assert f"1 to {2**NETS - 1}: bit n is set where net n differs" in part
    assert f"{len(delta_names())} for each bit" in part
    weights = [name for name in delta_names() if name.endswith(".weight")]
    assert f"{len(weights)} weights and {len(delta_names()) - len(weights)} biases" in part
    said = re.findall(r"`([\w.]+\.(?:weight|bias))`", part.split("of their names")[1])
    assert said == [*delta_names()[:3], delta_names()[-1]]
    assert MOST_BIAS == 2**23


# Damage


def refused(weights: bytes) -> bool:
    """Whether they are; else they are nets that can be coded with."""
    try:
        nets = apply_deltas(prior(), weights)
    except ValueError:
        return True
    for net in nets:
        check_net(net)
        assert {k: (v.shape, str(v.dtype)) for k, v in net.items()} == net_tensors()
        assert all(np.abs(net[k].astype(int)).max() <= 127 for k in net if k.endswith(".weight"))
    return False


@lru_cache
def whole() -> bytes:
    """A section of one net, whose stream has four lanes."""
    weights = pack_deltas(prior(), fitted(30), 1, (1,))
    assert len(weights) > 43 + rans.ONE_LANE_BYTES
    return weights


@lru_cache
def short() -> bytes:
    """A section of one net, whose stream has one lane: some hundred weights of one tensor differ."""
    nets = [dict(net) for net in prior().nets]
    name = "heads.2.neighbours.weight"
    nets[1][name] = fitted()[1][name]
    return pack_deltas(prior(), tuple(nets), 1, (1,))


def test_every_truncation_is_refused_or_gives_nets() -> None:
    assert 43 < len(short()) < 1000
    outcomes = [refused(short()[:size]) for size in range(len(short()))]
    assert all(outcomes[:43])
    assert sum(outcomes) > 0.95 * len(outcomes)
    assert all(refused(whole()[:size]) for size in (*range(43), *range(44, len(whole()), 499)))
    assert refused(short() + b"\0")
    assert refused(whole() + b"\0\0")


@pytest.mark.parametrize("which", [short, whole])
def test_corruptions_are_refused_or_give_nets(which: Callable[[], bytes]) -> None:
    rng = np.random.default_rng(4)
    count = 0
    for n in range(300):
        weights = bytearray(which())
        where = rng.integers(0, 43 if n % 3 == 0 else len(weights), 1 + n % 2)
        for at in where:
            weights[at] ^= int(rng.integers(1, 256))
        count += refused(bytes(weights))
    # A coarser quantum, or a scale index of a tensor without differences, may give other nets and break no rule.
    assert count > 250


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        (b"", "it has 0 bytes, should have at least 2"),
        (b"\1", "it has 1 bytes, should have at least 2"),
        (bytes(43), "it changes the nets of mask 0, should be from 1 to 15"),
        (b"\x10\1" + bytes(41), "it changes the nets of mask 16, should be from 1 to 15"),
        (b"\1\0" + bytes(41), "its quantum is 0, should be from 1 to 64"),
        (b"\1\x41" + bytes(41), "its quantum is 65, should be from 1 to 64"),
        (b"\7\1" + bytes(122), "it has 124 bytes, should have at least 125"),
        (b"\1\1" + bytes(40) + b"\x40", r"a scale index of up\.weight is 64, should be below 64"),
        (b"\1\1" + bytes(41) + b"\0", "state 0 of coded symbols ends with a zero byte"),
        (b"\1\1" + bytes(41) + b"\1", "do not end where their encoder began"),
    ],
)
def test_what_is_not_of_the_spec_is_said(weights: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        apply_deltas(prior(), weights)


def of_multiples(name: str, multiples: np.ndarray, quantum: int) -> bytes:
    """A section in which only tensor `name` of net 0 differs, by these multiples (n,)."""
    at = delta_names().index(name)
    scales = np.concatenate([np.full(prior().nets[0][k].size, k == name, np.uint8) for k in delta_names()]) * 40
    symbols = np.zeros(scales.size, np.int32)
    symbols[scales > 0] = multiples
    return (
        bytes([1, quantum])
        + bytes(40 * (n == at) for n in range(41))
        + rans.encode(symbols, scales.astype(np.uint8), prior().tables)
    )


@pytest.mark.parametrize(("name", "most"), [("trunk2.weight", 127), ("squeeze.bias", MOST_BIAS)])
@pytest.mark.parametrize("sign", [1, -1])
def test_values_beyond_their_range_are_refused(name: str, most: int, sign: int) -> None:
    base = prior().nets[0][name].astype(np.int64).reshape(-1)
    multiples = np.zeros(base.size, np.int32)
    if name.endswith(".weight"):
        multiples[5] = sign * most - base[5]
        last = sign * most
    else:
        unit = int(bias_unit(0, name)[5])
        multiples[5] = sign * ((most - sign * base[5]) // unit)
        last = base[5] + multiples[5] * unit
    found = apply_deltas(prior(), of_multiples(name, multiples, 1))
    assert found[0][name].reshape(-1)[5] == last
    multiples[5] += sign
    with pytest.raises(ValueError, match=rf"a value of {re.escape(name)} is \d+, should be at most {most}"):
        apply_deltas(prior(), of_multiples(name, multiples, 1))
    multiples[5] = sign * 2**30
    with pytest.raises(ValueError, match="a value of"):
        apply_deltas(prior(), of_multiples(name, multiples, 64))


def test_sums_that_could_leave_24_bits_are_refused() -> None:
    """Each value is within its range, and all together are not."""
    base = [dict(net) for net in prior().nets]
    base[0]["trunk2.bias"] = np.full_like(base[0]["trunk2.bias"], MOST_BIAS)
    held = dataclasses.replace(prior(), nets=tuple(base))
    check_net(base[0])
    own = base[0]["trunk2.weight"].astype(np.int32).reshape(-1)
    multiples = 127 * np.sign(own) - own
    with pytest.raises(ValueError, match="the sums of trunk2 reach"):
        apply_deltas(held, of_multiples("trunk2.weight", multiples, 1))
