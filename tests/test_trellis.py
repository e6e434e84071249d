"""Symbols that a trellis chose: the best ones, worth their decibels, and the same bits by both readers."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from inrwsi import octave_choices
from inrwsi.coding import rans, trellis
from inrwsi.coding.tables import FrequencyTables
from inrwsi.encode import encode
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves_integer import PASSES, IntegerNet, net_of
from inrwsi.fields.octaves_model import SHIFTED, Decoded, OctavesModel, spacing_at
from inrwsi.formats.container import Container
from inrwsi.formats.source import open_source
from inrwsi.octave_choices import Choices, rows_of
from inrwsi.octave_chunks import MOST_SYMBOL
from inrwsi.options import EncodeOptions
from inrwsi.sample import sample_region
from tests import octaves_reference as reference
from tests.test_octave_chunks import CPU, MODEL, PRIORS, coder_of, digest, parent_of, plain, released, same, tissue
from tests.test_octaves_integer import prior, said

TRELLIS = replace(MODEL, spacing=21)
# Of one chunk under the tests' prior of whole numbers, with rows of a second quantiser: never another.
GOLDEN_PAYLOAD_SHA256 = "e4159d6845ff3a4f22752abe6e1342e670e78ab1f3a4def6bcaf67fcc410bb8b"
GOLDEN_SHA256 = "3187432fede92c4bc876ea1e703305de4af096cae6de234ae85cafe72aef8c2d"
GOLDEN_WH = (40, 24)


@lru_cache
def two() -> octaves_prior.Prior:
    """The tests' prior, with rows of a second quantiser, each as wide as the first's third further on."""
    rows = prior().tables.frequencies
    moved = rows[(np.arange(64) + 3).clip(0, 63)]
    return replace(prior(), tables=FrequencyTables.from_frequencies(np.concatenate((rows, moved))))


def chosen(name: str) -> octaves_prior.Prior:
    return released() if name == "released" else two()


def read_by_the_reference(
    which: octaves_prior.Prior, model: OctavesModel, octave: int, payload: bytes, parent: Decoded
) -> Decoded:
    held = reference.read_prior(octaves_prior.pack(which))
    wh = (2 * parent.pixels.shape[2], 2 * parent.pixels.shape[1])
    pixels, features, _ = reference.decode(
        held, model.step, octave, payload, plain(parent), wh, shifted=model.shifted, spacing=model.spacing
    )
    return Decoded(pixels.astype(np.int16), features.astype(np.uint8) if octave else None)


# Choosing


def test_the_walk_is_that_of_the_spec() -> None:
    rng = np.random.default_rng(0)
    own, spec = 0, 0
    seen = set()
    for parity in rng.integers(0, 2, 5000).tolist():
        assert own & 1 == reference.parity(spec & 9)
        seen.add((own, spec))
        own = int(trellis.WALK[own, parity])
        spec = 2 * spec % 64 + (reference.parity(spec & 48) ^ parity)
    assert len(seen) == 64


def test_a_trellis_is_worth_its_decibels() -> None:
    """Of a source that is spread evenly: of the 1.53 dB that one quantiser loses, one of 8 states gains 1.09."""
    rng = np.random.default_rng(0)
    wanted = rng.uniform(-60, 60, 40_000).astype(np.float32)
    none = np.zeros(len(wanted), np.int32)
    symbols, second = trellis.choose(
        wanted, none, np.full(len(wanted), 50, np.uint8), np.ones_like(wanted), 0 * wanted, 8, two().tables, begun()
    )
    error = ((trellis.values(symbols, second) / 2 - wanted) ** 2).mean()
    assert 1.24 < 10 * np.log10((1 / 12) / error) < 1.30
    assert 0.4 < second.mean() < 0.6


def begun(count: int = 0) -> tuple[int, np.ndarray]:
    return count, np.zeros(trellis.PATHS, np.uint8)


def test_no_other_symbols_cost_less() -> None:
    rng = np.random.default_rng(5)
    n, spacing = 12, 13
    scales = rng.integers(20, 45, n).astype(np.uint8)
    means = rng.integers(-60, 60, n).astype(np.int32)
    wanted = (means / 16 + rng.normal(0, 1.5, n)).astype(np.float32)
    worth = rng.uniform(0.0, 0.3, n).astype(np.float32)
    counts = rng.uniform(0.5, 2.0, n).astype(np.float32)
    bits = trellis.bits_of(two().tables)
    symbols, second = trellis.choose(wanted, means, scales, counts, worth, spacing, two().tables, begun(3))

    def cost(path: list[int], tried: tuple[int, ...]) -> tuple[float, list[int]]:
        state, total, odd = 0, 0.0, []
        for i, y in zip(path, tried, strict=True):
            odd.append(state & 1)
            value = means[i] / 16 + spacing / 16 * (2 * y - odd[-1] * np.sign(y))
            total += counts[i] * (wanted[i] - value) ** 2 + worth[i] * bits[odd[-1], scales[i], y + 127]
            state = int(trellis.WALK[state, y & 1])
        return total, odd

    for path in ([i for i in range(n) if (i + 3) % 4 == p] for p in range(4)):
        mine, odd = cost(path, tuple(symbols[path].tolist()))
        assert odd == second[path].tolist()
        assert mine == pytest.approx(min(cost(path, tried)[0] for tried in itertools.product(range(-6, 7), repeat=3)))


def test_errors_count_for_more_at_borders() -> None:
    """There they are a quarter smaller than elsewhere in a pass; by patience alone it is 8 %."""
    units = np.random.default_rng(2).laplace(0, 1.5, (64, 64, 9)).astype(np.float32)
    choices = Choices(MODEL.at(round(7.6 * 1024)), two().tables, units, octave_choices.patience_of(64, 64, (0.7, 0.7)))
    wanted = octave_choices.of_pass(units, 2)
    said = choices(2, np.zeros(len(wanted), np.int32), np.full(len(wanted), 36, np.uint8))
    errors = (said - wanted) ** 2  # values are a unit apart
    outer = np.zeros((64, 64, 9), bool)
    outer[[0, -1]] = outer[:, [0, -1]] = True
    at_border = octave_choices.of_pass(outer, 2)
    assert at_border.sum() == 756
    assert errors[at_border].mean() / errors[~at_border].mean() == pytest.approx(0.772, abs=0.02)


def test_one_quantiser_has_whole_units() -> None:
    """And of it, too, the symbols are those that cost least, whichever rows the tables have beside."""
    wanted = np.linspace(-4.4, 4.4, 200).astype(np.float32)
    means, scales = np.full(200, 5, np.int32), np.full(200, 38, np.uint8)
    worth = np.full(200, 0.2, np.float32)
    for tables in (prior().tables, two().tables):
        symbols, second = trellis.choose(wanted, means, scales, np.ones_like(wanted), worth, None, tables, begun())
        assert not second.any()
        tried = np.arange(-7, 8)
        costs = (wanted[:, None] - 5 / 16 - tried) ** 2 + 0.2 * trellis.bits_of(tables)[0, 38, tried + 127]
        assert (tried[costs.argmin(1)] == symbols).all()


def test_symbols_that_are_skipped_take_no_part() -> None:
    scales = np.array([0, 40, 0, 40, 40, 40, 40, 0], np.uint8)
    wanted = np.full(8, 2.3, np.float32)
    none, few = np.zeros(8, np.int32), scales > 0
    worth = np.zeros(8, np.float32)
    symbols, second = trellis.choose(wanted, none, scales, np.ones_like(wanted), worth, 16, two().tables, begun())
    assert not symbols[~few].any()
    one = np.ones_like(wanted[few])
    kept = trellis.choose(wanted[few], none[few], scales[few], one, worth[few], 16, two().tables, begun())
    assert (symbols[few] == kept[0]).all()
    assert (second[few] == kept[1]).all()


def test_scale_indices_move_with_the_spacing() -> None:
    assert trellis.own_scales(8).tolist() == list(range(64))
    for spacing in (9, 16, 21, 50, 128):
        found = trellis.own_scales(spacing)
        assert found.tolist() == [reference.own_index(i, spacing) for i in range(64)]
        assert (np.diff(found.astype(int)) >= 0).all()
    assert trellis.own_scales(16)[[0, 10, 20, 33, 63]].tolist() == [0, 0, 12, 28, 58]


@pytest.mark.parametrize(("equal_step", "spacing", "step"), [(1.0, 8, 1138), (7.6, 16, 4323), (20.0, 22, 8275)])
def test_the_coarser_the_step_the_further_apart_values_are(equal_step: float, spacing: int, step: int) -> None:
    model = MODEL.at(round(equal_step * 1024))
    assert (spacing_at(equal_step), model.spacing, model.step) == (spacing, spacing, step)
    assert model.equal_step == pytest.approx(equal_step, abs=1e-3)
    assert replace(MODEL, step=20 * 1024).equal_step == 20.0


# Coding


@pytest.mark.parametrize("count", [3, 700, 60_000])
def test_the_decoder_walks_as_the_encoder_did(count: int) -> None:
    """In one lane and in four, part by part, with skipped symbols, escapes, and others between that are none of it."""
    rng = np.random.default_rng(count)
    tables = two().tables
    parts, rows, symbols = [], [], []
    at = begun()
    for _ in range(3):
        scales = rng.integers(0, 64, count).astype(np.uint8)
        wanted = rng.laplace(0, 1 + scales / 8).astype(np.float32)
        wanted[::97] *= 300
        worth = np.full(count, 0.05, np.float32)
        between = rng.integers(-3, 4, 5).astype(np.int32)
        at = (at[0] + 5, at[1])
        own, second = trellis.choose(
            wanted, np.zeros(count, np.int32), scales, np.ones_like(wanted), worth, 10, tables, at
        )
        at = (at[0] + int(np.count_nonzero(scales)), at[1])
        parts.append((scales, between, trellis.values(own, second)))
        rows += [np.full(5, 24, np.uint8), scales + 64 * second]
        symbols += [between, own]
    decoder = rans.Decoder(rans.encode(np.concatenate(symbols), np.concatenate(rows), tables), tables)
    for scales, between, values in parts:
        assert (decoder.decode(np.full(5, 24, np.uint8)) == between).all()
        assert (decoder.decode(scales, trellis=True) == values).all()
    decoder.finish()
    assert count < 100 or max(np.abs(values).max() for _, _, values in parts) > 500


def test_one_quantiser_has_no_trellis() -> None:
    with pytest.raises(ValueError, match="a trellis needs 128 rows, but the tables have 64"):
        rans.Decoder(b"", prior().tables).decode(np.ones(3, np.uint8), trellis=True)
    with pytest.raises(ValueError, match="has a spacing, 21, and the tables are of one quantiser"):
        coder_of(prior(), TRELLIS)


@pytest.mark.parametrize("spacing", [7, 129, 0])
def test_a_spacing_out_of_range_is_refused(spacing: int) -> None:
    with pytest.raises(ValueError, match=f"spacing is {spacing}, should be from 8 to 128"):
        replace(MODEL, spacing=spacing)


@pytest.mark.parametrize("which", PRIORS)
@pytest.mark.parametrize("scales", [None, SHIFTED])
@pytest.mark.parametrize(("octave", "wh", "spacing"), [(0, (24, 20), 8), (1, (32, 32), 21), (3, (68, 4), 40)])
def test_a_reader_written_from_the_spec_gives_the_same_bits(
    which: str, scales: str | None, octave: int, wh: tuple[int, int], spacing: int
) -> None:
    model, parent = replace(MODEL, spacing=spacing, scales=scales), parent_of("trellis", wh)
    payload, seen = coder_of(chosen(which), model, encoder=True).encode(octave, tissue(wh), parent)
    for fast in (False, True):
        assert same(coder_of(chosen(which), model, fast=fast).decode(octave, payload, parent, wh), seen)
    assert same(read_by_the_reference(chosen(which), model, octave, payload, parent), seen)


def payload_of(octave: int, wh: tuple[int, int], first: int | None = None) -> tuple[bytes, Decoded, Decoded]:
    """A payload made without a float, beginning with a symbol `first`; its parent and what it decodes to."""
    parent = parent_of("golden trellis", wh)
    held: list[tuple[np.ndarray, np.ndarray]] = []
    states, count = [0] * trellis.PATHS, 0

    def coder(number: int, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
        nonlocal count
        scales = rows_of(TRELLIS, scales)
        symbols = said("golden")(number, means, scales)
        second = np.zeros(len(scales), np.uint8)
        for i in np.flatnonzero(scales).tolist():
            if first is not None and not count:
                symbols[i] = first
            path = count % trellis.PATHS
            second[i] = states[path] & 1
            states[path] = int(trellis.WALK[states[path], symbols[i] & 1])
            count += 1
        held.append((symbols, scales + 64 * second))
        return trellis.values(symbols, second)

    net = IntegerNet(two().nets[net_of(octave)], max(TRELLIS.step >> octave, 256), CPU)
    assert parent.features is not None
    decoded = net.run(parent.pixels, parent.features, coder, hand_up=octave > 0, spacing=21)
    symbols, rows = (np.concatenate(parts) for parts in zip(*held, strict=True))
    assert len(held) == len(PASSES)
    return rans.encode(symbols, rows, two().tables), parent, decoded


@pytest.mark.parametrize("fast", [False, True])
def test_a_golden_payload_decodes_to_its_digest(fast: bool) -> None:
    payload, parent, decoded = payload_of(1, GOLDEN_WH)
    assert hashlib.sha256(payload).hexdigest() == GOLDEN_PAYLOAD_SHA256
    found = coder_of(two(), TRELLIS, fast=fast).decode(1, payload, parent, GOLDEN_WH)
    assert digest(found) == digest(decoded) == GOLDEN_SHA256
    assert same(read_by_the_reference(two(), TRELLIS, 1, payload, parent), found)


def test_a_value_beyond_the_bound_is_refused() -> None:
    for first, refused in ((MOST_SYMBOL // 2, False), (MOST_SYMBOL // 2 + 1, True), (2**30, True), (-(2**30), True)):
        payload, parent, decoded = payload_of(0, (8, 8), first)
        coder = coder_of(two(), TRELLIS)
        if refused:
            with pytest.raises(ValueError, match="units from its mean, should be at most"):
                coder.decode(0, payload, parent, (8, 8))
        else:
            assert same(coder.decode(0, payload, parent, (8, 8)), decoded)


# What it is for


@pytest.mark.skipif(len(PRIORS) < 2, reason="none released")
@pytest.mark.parametrize(("equal_step", "finer"), [(8, 0.85), (20, 0.85), (50, 1.0)])
def test_fewer_bytes_for_less_error(equal_step: int, finer: float) -> None:
    """Than of one quantiser of the same prior, whose step is finer because bits count for more where it chooses."""
    wh, found = (256, 256), []
    target = tissue(wh)
    below = coder_of(released(), encoder=True).below(target)
    parent = Decoded(np.rint(64 * below).astype(np.int16), np.zeros((8, 128, 128), np.uint8))
    for model in (replace(MODEL, step=int(finer * equal_step * 1024)), MODEL.at(equal_step * 1024)):
        payload, seen = coder_of(released(), replace(model, scales=SHIFTED), encoder=True).encode(0, target, parent)
        found.append((len(payload), float(((seen.pixels / 64 - target) ** 2).mean())))
    assert found[1][0] < 0.95 * found[0][0]
    assert found[1][1] < found[0][1]


def test_files_are_made_with_a_trellis(tmp_path: Path) -> None:
    pixels = sample_region((900, 900), (256, 256), size_wh=(2048, 2048), seed=1)
    with open_source(pixels, mpp_um=0.5, objective_power=20) as source:
        encode(source, tmp_path / "a.cinr", EncodeOptions(quality=60, effort="fast"))
    with Container.open(tmp_path / "a.cinr") as container:
        assert container.header.model["spacing"] == 22
        assert container.header.model["step"] == 8210
