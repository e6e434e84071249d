"""Model `octaves` read by a decoder written from SPEC.md, Annex B, and nothing else: small, slow, plain numpy integers.

Also a prior of random integers, made without a float or a random generator that may change: what golden tests need.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import zstandard

LAYERS = {  # (outputs, inputs, kernel)
    "trunk1": (32, 16, 3),
    "trunk2": (32, 32, 3),
    "squeeze": (10, 32, 1),
    "synthesis1": (32, 19, 3),
    "synthesis2": (32, 32, 3),
    "pixels": (12, 32, 1),
    "up": (32, 32, 1),
    "heads.1.neighbours": (32, 3, 5),
    "heads.2.neighbours": (32, 3, 3),
    "heads.3.neighbours": (32, 9, 3),
    **{f"heads.{p}.features": (32, 32, 1) for p in range(4)},
    **{f"heads.{p}.hidden": (32, 32, 1) for p in range(4)},
    **{f"heads.{p}.out": (outputs, 32, 1) for p, outputs in enumerate((6, 6, 12, 12))},
}
PASSES = ((0, 3, 0, 0), (0, 3, 1, 3), (3, 6, 0, 3), (3, 6, 1, 9))  # first band, bands, colour, bands seen
TYPES = {"I8": "i1", "I32": "<i4", "U16": "<u2", "F16": "<f2", "F32": "<f4"}

DOUBLES_IN = {"activity": 8, "half activity": 16}
STEP_FACTORS = {steps: tuple(round(1024 * 2 ** (n / d)) for n in range(-16, 13)) for steps, d in DOUBLES_IN.items()}
ACTIVITY_FLOORS = tuple(int(1500 * 6561 * 4096 * 2 ** (n / 2 - 8.25)) for n in range(1, 29))
Tensors = dict[str, np.ndarray]
Chunk = tuple[np.ndarray, np.ndarray]  # pixels (3, h, w) and features (8, h, w), int64


def draws(name: str, least: int, most: int, shape: tuple[int, ...]) -> np.ndarray:
    """Integers from `least` to `most` that `name` stands for, int64: the same for ever."""
    raw = hashlib.shake_256(name.encode()).digest(4 * prod(shape))
    return (np.frombuffer(raw, "<u4").astype(np.int64) % (most - least + 1) + least).reshape(shape)


def random_tensors(seed: int) -> Tensors:
    """A prior's tensors (B.3): nets whose activations neither vanish nor saturate, tables that widen with the index."""
    tensors: Tensors = {"tables": _widening_tables()}  # of one quantiser, as those of the first priors were
    for n in range(4):
        for name, (outputs, inputs, kernel) in LAYERS.items():
            key = f"net.{n}.{name}"
            shape = (outputs, inputs, kernel, kernel)
            tensors[f"{key}.weight"] = draws(f"{seed} {key} weight", -127, 127, shape).astype(np.int8)
            if name.endswith("neighbours"):
                continue
            shift = draws(f"{seed} {key} shift", 9, 10, (outputs,)) + (2 if name.endswith("out") else 0)
            bias = draws(f"{seed} {key} bias", -40, 40, (outputs,)) << shift
            tensors[f"{key}.shift"] = shift.astype(np.int8)
            tensors[f"{key}.bias"] = bias.astype(np.int32)
        inverse = draws(f"{seed} {n} inverse", 1000, 12000, (9,))
        inverse[draws(f"{seed} {n} least", 0, 8, (1,))] = 1
        tensors[f"net.{n}.inverse_factor"] = inverse.astype(np.int32)
        for name, shape in _analysis_shapes().items():
            small = draws(f"{seed} {n} {name}", -64, 64, shape) / 1024
            tensors[f"analysis.{n}.{name}"] = small.astype(np.float16)
        for name, count in _unit_shapes().items():
            tensors[f"unit.{n}.{name}"] = np.full(count, 1 / 64, np.float32)
    return tensors


def _analysis_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"log_factor": (9,)}
    for name, outputs, inputs, kernel in (("layer1", 48, 20, 3), ("layer2", 48, 48, 3), ("layer3", 9, 48, 1)):
        shapes |= {f"{name}.weight": (outputs, inputs, kernel, kernel), f"{name}.bias": (outputs,)}
    return shapes


def _unit_shapes() -> dict[str, int]:
    heads = [f"heads.{p}.{layer}" for p in range(4) for layer in ("features", "hidden")]
    names = dict.fromkeys(("trunk1", "trunk2", "synthesis1", "synthesis2", *heads), 32)
    return names | {"squeeze": 10, "given": 8, "up": 8}


def _widening_tables() -> np.ndarray:
    """(64, 256) uint16: rows that fall with the fourth power, twice as wide every five rows."""
    rows = np.zeros((64, 256), np.uint16)
    for q in range(64):
        width = 32 + 4 * (q - 33) // 5
        weights = [(1 << 40) // (1 + ((y**4 << 32) >> width)) for y in range(-127, 128)]
        left = 32768 - 1 - q
        rows[q, :-1] = [weight * left // sum(weights) for weight in weights]
        rows[q, 127] += left - int(rows[q].sum(dtype=np.int64))
        rows[q, 255] = 1 + q
    return rows


def read_prior(raw: bytes) -> Tensors:
    """The tensors of a prior's file: zstd of safetensors."""
    return read_safetensors(zstandard.ZstdDecompressor().decompress(raw))


def read_safetensors(blob: bytes) -> Tensors:
    """The tensors of the bytes of safetensors."""
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    tensors = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        tensors[name] = np.frombuffer(blob[begin:end], TYPES[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def own_nets(prior: Tensors, weights: bytes) -> Tensors:
    """B.12: the prior's tensors, with those that a `WGHT` section changes as they are in its file."""
    mask, quantum = weights[0], weights[1]
    assert 1 <= mask <= 15
    assert 1 <= quantum <= 64
    names = sorted([f"{name}.weight" for name in LAYERS] + [f"{n}.bias" for n in LAYERS if "neighbours" not in n])
    assert len(names) == 41
    keys = [f"net.{n}.{name}" for n in range(4) if mask >> n & 1 for name in names]
    indices, stream = weights[2 : 2 + len(keys)], Stream(weights[2 + len(keys) :], prior["tables"])
    nets = dict(prior)
    for key, q in zip(keys, indices, strict=True):
        assert q < 64
        base = prior[key].astype(np.int64)
        multiples = np.array([stream.symbol(q) for _ in range(base.size)], np.int64).reshape(base.shape)
        if key.endswith("weight"):
            nets[key], most = base + quantum * multiples, 127
        else:
            shifts = prior[key.replace("bias", "shift")].astype(np.int64)
            nets[key], most = base + multiples * 2 ** np.maximum(shifts - 2, 0), 2**23
        assert np.abs(nets[key]).max() <= most
    stream.finish()
    return nets


def whole_nets(weights: bytes) -> Tensors:
    """B.13: the tensors that a `WGHT` section holds in the place of a prior's."""
    assert len(weights) <= 2**23
    held = read_safetensors(weights)
    expected = {"tables"} | {f"net.{n}.inverse_factor" for n in range(4)}
    for key in (f"net.{n}.{name}" for n in range(4) for name in LAYERS):
        expected |= {f"{key}.weight"} if "neighbours" in key else {f"{key}.{t}" for t in ("weight", "bias", "shift")}
    assert held.keys() == expected
    for key, array in held.items():
        if key.endswith(("weight", "bias")):
            assert np.abs(array.astype(np.int64)).max() <= (127 if key.endswith("weight") else 2**23)
    assert (held["tables"].sum(1, dtype=np.int64) == 2**15).all()
    return held


class Stream:
    """B.11: the entropy coder's stream."""

    def __init__(self, stream: bytes, tables: np.ndarray) -> None:
        if len(stream) <= 8192:
            sizes, at = [len(stream) if len(stream) <= 4 else 4 - len(stream) % 2], 0
            self._end = 0
        elif stream[0] == 16:
            sizes, at, self._end = [4 - (len(stream) - 1) % 2], 1, 0
        else:
            assert stream[0] < 16
            sizes, at, self._end = [3 + (stream[0] >> lane) % 2 for lane in range(4)], 1, 1 << 16
        self.states = []
        for size in sizes:
            assert size == 0 or stream[at + size - 1] != 0
            self.states.append(int.from_bytes(stream[at : at + size], "little"))
            at += size
        assert (len(stream) - at) % 2 == 0
        self._words = [int.from_bytes(stream[i : i + 2], "little") for i in range(at, len(stream), 2)][::-1]
        self._count = 0
        self._paths = [0] * 4
        order = [127, *range(127), *range(128, 256)]
        self._order = np.array(order) - 127
        self._frequencies = tables.astype(np.int64)[:, order]
        self._starts = np.cumsum(self._frequencies, 1) - self._frequencies

    def _refill(self, x: int) -> int:
        return x << 16 | self._words.pop() if x < 1 << 16 and self._words else x

    def symbol(self, q: int) -> int:
        if q == 0:
            return 0
        lane = self._count % len(self.states)
        self._count += 1
        x = self.states[lane]
        slot = x % 32768
        place = int(np.searchsorted(self._starts[q], slot, side="right")) - 1
        x = self._refill(int(self._frequencies[q, place]) * (x >> 15) + slot - int(self._starts[q, place]))
        y = int(self._order[place])
        if y == 128:
            code = 0
            for n in range(5):
                byte, x = x % 256, self._refill(x >> 8)
                code += byte % 128 << 7 * n
                if byte < 128:
                    break
            assert byte < 128
            assert code <= 2**31
            y = code >> 1 if code % 2 == 0 else -((code + 1) >> 1)
        self.states[lane] = x
        return y

    def value(self, q: int) -> int:
        """B.7: of a symbol that a trellis chose, what it stands for."""
        if q == 0:
            return 0
        path = self._count % 4
        state = self._paths[path]
        second = parity(state & 9)
        y = self.symbol(q + 64 * second)
        self._paths[path] = 2 * state % 64 + (parity(state & 48) ^ y % 2)
        return 2 * y - second * ((y > 0) - (y < 0))

    def finish(self) -> None:
        assert not self._words
        assert all(state == self._end for state in self.states)


def parity(x: int) -> int:
    return bin(x).count("1") % 2


def own_index(i: int, spacing: int) -> int:
    """B.7: a scale index where there is a trellis."""
    scale = (0.05 + math.exp((i - 33) / 7)) * 8 / spacing
    return sum(0.05 + math.exp((k - 33.5) / 7) <= scale for k in range(1, 64)) if i else 0


def round8(s: np.ndarray) -> np.ndarray:
    """To eight significant bits, halves to even."""
    out = s.copy()
    for exponent in range(1, 17):
        big = np.abs(s) >= 128 << exponent
        out[big] = (rounded_shift(s, np.int64(exponent)) << exponent)[big]
    return out


def rounded_shift(x: np.ndarray, n: np.ndarray) -> np.ndarray:
    """x / 2^n to the nearest integer, halves to even."""
    below = x >> n
    twice_rest = (x - (below << n)) << 1
    unit = np.int64(1) << n
    return below + ((twice_rest > unit) | ((twice_rest == unit) & (below % 2 == 1)))


def convolve(x: np.ndarray, weight: np.ndarray, mode: str) -> np.ndarray:
    """(inputs, h, w) to (outputs, h, w), with edges repeated or zeros around."""
    kernel = weight.shape[2]
    pad = ((0, 0), (kernel // 2,) * 2, (kernel // 2,) * 2)
    padded = np.pad(x, pad, mode="edge") if mode == "edge" else np.pad(x, pad)
    h, w = x.shape[1:]
    total = np.zeros((weight.shape[0], h, w), np.int64)
    for dy in range(kernel):
        for dx in range(kernel):
            part = padded[:, dy : dy + h, dx : dx + w].reshape(x.shape[0], -1)
            total += (weight[:, :, dy, dx].astype(np.int64) @ part).reshape(-1, h, w)
    return total


def logs(s: int) -> tuple[int, int]:
    """B.4."""
    s = max(s, 256)
    whole = s.bit_length() - 1
    m, r = (s << 31) >> whole, whole
    for _ in range(16):
        m = (m * m) >> 31
        bit = m >> 32
        m >>= bit
        r = 2 * r + bit
    first = ((32 * r + 32768) >> 16) - 416
    return first, (first * first + 64) >> 7


def activity_index(brightness: np.ndarray) -> np.ndarray:
    """B.4: (h, w) of (h, w)."""
    tent = np.outer((1, 2, 3, 2, 1), (1, 2, 3, 2, 1))
    h, w = brightness.shape
    padded = np.pad(brightness, 2, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5))
    total, square = (windows * tent).sum((2, 3)), (windows**2 * tent).sum((2, 3))
    active = 2 * (81 * square - total**2) + 1572725238
    return (active[..., None] >= np.array(ACTIVITY_FLOORS)).sum(2).reshape(h, w)


class Net:
    """The net of an octave, at its step, or at those that follow activity."""

    def __init__(
        self, prior: Tensors, octave: int, model_step: int, *, steps: str | None = None, own: int = 16, least: int = 256
    ) -> None:
        key = f"net.{min(octave, 3)}."
        self._t = {k[len(key) :]: v.astype(np.int64) for k, v in prior.items() if k.startswith(key)}
        self.step, self.follows, self.least = max((model_step * own // 16) >> octave, least), steps, least

    def steps_of(self, below: np.ndarray) -> np.ndarray:
        """B.4: of each site (h, w)."""
        if not self.follows:
            return np.full(below.shape[1:], self.step)
        factors = np.array(STEP_FACTORS[self.follows])[activity_index(below[0])]
        return np.maximum(self.step * factors // 1024, self.least)

    def units_of(self, steps: np.ndarray) -> np.ndarray:
        """B.4: of each band and site, (9, h, w)."""
        return np.maximum(self._t["inverse_factor"][:, None, None] * steps // 4096, 1)

    def rescale(self, name: str, total: np.ndarray, least: int, most: int) -> np.ndarray:
        bias, shift = self._t[f"{name}.bias"], self._t[f"{name}.shift"]
        return rounded_shift(total + bias[:, None, None], shift[:, None, None]).clip(least, most)

    def layer(self, name: str, x: np.ndarray, least: int = 0, most: int = 255) -> np.ndarray:
        return self.rescale(name, round8(convolve(x, self._t[f"{name}.weight"], "edge")), least, most)

    def trunk(self, below: np.ndarray, given: np.ndarray) -> np.ndarray:
        nine = np.ones((1, 1, 3, 3), np.int64)
        around = np.concatenate([convolve(below[c : c + 1], nine, "edge") for c in range(3)])
        steps = self.steps_of(below)
        high = (256 * (9 * below - around) + 9 * steps) // (18 * steps)
        x = np.concatenate((((below + 32) >> 6).clip(-255, 255), high.clip(-255, 255), given))
        weight = self._t["trunk1.weight"]
        if self.follows:
            told = np.array([[logs(int(s)) for s in row] for row in steps]).clip(-255, 255).transpose(2, 0, 1)
            total = round8(convolve(np.concatenate((x, told)), weight, "edge"))
        else:
            total = round8(convolve(x, weight[:, :14], "edge"))
            total += (weight[:, 14:].sum((2, 3)) @ np.array(logs(self.step)))[:, None, None]
        return self.layer("trunk2", self.rescale("trunk1", total, 0, 255))

    def head(self, number: int, trunk: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and scale indices of a pass, at all sites."""
        name = f"heads.{number}"
        total = round8(convolve(trunk, self._t[f"{name}.features.weight"], "zero"))
        if number:
            total = total + round8(convolve(seen, self._t[f"{name}.neighbours.weight"], "zero"))
        x = self.layer(f"{name}.hidden", self.rescale(f"{name}.features", total, 0, 255))
        out = self.layer(f"{name}.out", x, -2032, 2032)
        bands = len(out) // 2
        return out[:bands], (out[bands:] + 33).clip(0, 63)


def sites(h: int, w: int, colour: int) -> Iterator[tuple[int, int]]:
    """The sites of a pass in their order."""
    for parity in (0, 1):
        for i in range(parity, h, 2):
            yield from ((i, j) for j in range(w) if (i + j) % 2 == colour)


def seen_of(coefficients: np.ndarray) -> np.ndarray:
    return ((coefficients + 2) >> 2).clip(-255, 255)


def decode(
    prior: Tensors,
    model_step: int,
    octave: int,
    payload: bytes,
    parent: Chunk,
    wh: tuple[int, int],
    *,
    steps: str | None = None,
    shifted: bool = False,
    own_steps: Sequence[int] = (16,),
    spacing: int | None = None,
    least_step: int = 256,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels (3, h, w), features (8, h, w) and coefficients (9, sites) of a chunk of octave k below K."""
    w, h = wh
    rows = np.minimum(np.arange(2 * -(-h // 4)), -(-h // 2) - 1)
    columns = np.minimum(np.arange(2 * -(-w // 4)), -(-w // 2) - 1)
    below, given = (part[:, rows][:, :, columns].astype(np.int64) for part in parent)
    net, stream = (
        Net(prior, octave, model_step, steps=steps, own=(own_steps[octave:] or own_steps[-1:])[0], least=least_step),
        Stream(b"" if payload == b"\0" else payload, prior["tables"]),
    )
    trunk = net.trunk(below, given)
    coefficients = np.zeros((9, len(rows), len(columns)), np.int64)
    for number, (first, bands, colour, seen) in enumerate(PASSES):
        means, indices = net.head(number, trunk, seen_of(coefficients[:seen]))
        if spacing is not None:
            indices = np.array([own_index(i, spacing) for i in range(64)])[indices]
        if shifted:
            narrow, wide = ([stream.symbol(24) for _ in range(bands)] for _ in range(2))
            assert max(map(abs, narrow + wide)) <= 63
            for b in range(bands):
                moved = indices[b] + np.where(indices[b] < 32, narrow[b], wide[b])
                indices[b] = np.where(indices[b] == 0, 0, moved.clip(1, 63))
        for i, j in sites(len(rows), len(columns), colour):
            for b in range(bands):
                q = int(indices[b, i, j])
                y = stream.symbol(q) if spacing is None else stream.value(q)
                assert abs(y) <= 2**20
                coefficients[first + b, i, j] = (spacing or 16) * y + means[b, i, j]
    stream.finish()
    x = np.concatenate((net.layer("squeeze", trunk), seen_of(coefficients)))
    x = net.layer("synthesis2", net.layer("synthesis1", x))
    steps = net.steps_of(below)
    residual = (shuffle(net.layer("pixels", x, -32768, 32768) * steps) + 2048) >> 12
    details = ((coefficients * net.units_of(steps) + 128) >> 8).clip(-(2**20), 2**20)
    pixels = (lift(below, details) + residual).clip(-32000, 32000)
    return pixels[:, :h, :w], shuffle(net.layer("up", x))[:, :h, :w], coefficients


def shuffle(x: np.ndarray) -> np.ndarray:
    """(4 n, h, w) to (n, 2 h, 2 w)."""
    out = np.empty((len(x) // 4, 2 * x.shape[1], 2 * x.shape[2]), np.int64)
    for a in (0, 1):
        for b in (0, 1):
            out[:, a::2, b::2] = x[2 * a + b :: 4]
    return out


def undo(e: np.ndarray, o: np.ndarray) -> np.ndarray:
    """One dimension of the inverse wavelet, along the last axis."""

    def before(x: np.ndarray) -> np.ndarray:
        return np.concatenate((x[..., :1], x[..., :-1]), -1)

    def after(x: np.ndarray) -> np.ndarray:
        return np.concatenate((x[..., 1:], x[..., -1:]), -1)

    e = e - ((3633 * (o + before(o)) + 4096) >> 13)
    o = o - ((7233 * (e + after(e)) + 4096) >> 13)
    e = e - ((-434 * (o + before(o)) + 4096) >> 13)
    o = o - ((-12994 * (e + after(e)) + 4096) >> 13)
    return np.stack((e, o), -1).reshape(*e.shape[:-1], -1)


def lift(below: np.ndarray, details: np.ndarray) -> np.ndarray:
    """(3, h, w) and (9, h, w) to (3, 2 h, 2 w)."""
    across, down, diagonal = details[0::3], details[1::3], details[2::3]

    def columns(e: np.ndarray, o: np.ndarray) -> np.ndarray:
        return undo(e.swapaxes(1, 2), o.swapaxes(1, 2)).swapaxes(1, 2)

    low = columns((12397 * below + 4096) >> 13, down)
    return undo(low, columns(across, (10827 * diagonal + 4096) >> 13))


def decode_root(payload: bytes, wh: tuple[int, int], unit: int = 16) -> Chunk:
    """The coarsest octave."""
    raw = zstandard.ZstdDecompressor().decompress(payload)
    assert len(raw) == 6 * wh[0] * wh[1]
    units = np.cumsum(np.frombuffer(raw, "<i2").astype(np.int64)).reshape(3, wh[1], wh[0])
    assert np.abs(units).max() <= 32000 // unit
    return unit * units, np.zeros((8, wh[1], wh[0]), np.int64)


def blank(model: dict, colour: tuple[int, ...], wh: tuple[int, int]) -> Chunk:
    """What a blank chunk counts as."""
    rgb = np.array(colour * 3 if len(colour) == 1 else colour)
    matrix = np.array(model["matrix"]).reshape(3, 3)
    values = ((matrix @ (64 * rgb - np.array(model["mean"])) + 8192) >> 14).clip(-32000, 32000)
    return np.tile(values[:, None, None], (1, wh[1], wh[0])), np.zeros((8, wh[1], wh[0]), np.int64)


def to_rgb(model: dict, pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3)."""
    back = (
        np.array(model["inverse"]).reshape(3, 3) if model.get("inverse") else np.array(model["matrix"]).reshape(3, 3).T
    )
    total = np.einsum("jc,cyx->yxj", back, pixels) + np.array(model["mean"]) * 16384
    return ((total + (1 << 19)) >> 20).clip(0, 255)
