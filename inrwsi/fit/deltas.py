"""What a file holds of its own networks: quantised differences from the prior's. SPEC.md, Annex B.

    u8      which nets differ: bit n for net n
    u8      quantum q: weights differ by multiples of it
    u8 ...  for each such net, for each of its tensors in the order of `delta_names`: a scale index, 0 for no difference
    ...     one stream of the entropy coder over the prior's tables: the multiples, tensors in that order, row-major

Differences of biases are multiples of 2^max(0, shift - 2): quarters of an activation's unit.
"""

from __future__ import annotations

import numpy as np

from inrwsi.coding import rans
from inrwsi.coding.tables import FrequencyTables
from inrwsi.fields.octaves_integer import NETS, check_net, net_tensors
from inrwsi.fields.octaves_prior import MOST_BIAS, MOST_WEIGHT, Prior, pack_decoding

MAX_QUANTUM = 64
BIAS_BITS = 2

Net = dict[str, np.ndarray]


def delta_names() -> list[str]:
    """The tensors that a file may change, in the order of the stream."""
    return [name for name in sorted(net_tensors()) if name.endswith((".weight", ".bias"))]


def _quanta(net: Net, name: str, quantum: int) -> np.ndarray:
    """What one multiple is worth, in shape to broadcast over the tensor."""
    if name.endswith(".weight"):
        return np.array(quantum, np.int64)
    shift = net[name.removesuffix("bias") + "shift"].astype(np.int64)
    return np.int64(1) << np.maximum(shift - BIAS_BITS, 0)


def _most(name: str) -> int:
    """The largest magnitude of a value of a tensor."""
    return MOST_WEIGHT if name.endswith(".weight") else MOST_BIAS


def pack_deltas(prior: Prior, nets: tuple[Net, ...], quantum: int, which: tuple[int, ...]) -> bytes:
    """The section of a file whose nets `which` are near `nets`; `apply_deltas` gives what they then are."""
    head = bytearray((sum(1 << n for n in which), quantum))
    symbols, scales = [], []
    costs = prior.tables.bits()[: prior.tables.n_scales]
    for n in which:
        for name in delta_names():
            base = prior.nets[n][name].astype(np.int64)
            delta = nets[n][name].astype(np.int64) - base
            quanta, most = _quanta(prior.nets[n], name, quantum), _most(name)
            # A multiple must not lead out of the range. Both bounds are beyond 0: the prior is within it.
            multiples = np.rint(delta / quanta).clip(-((most + base) // quanta), (most - base) // quanta)
            multiples = multiples.astype(np.int32)
            scale = _cheapest(multiples.reshape(-1), costs)
            head.append(scale)
            symbols.append(multiples.reshape(-1) if scale else np.zeros(multiples.size, np.int32))
            scales.append(np.full(multiples.size, scale, np.uint8))
    return bytes(head) + rans.encode(np.concatenate(symbols), np.concatenate(scales), prior.tables)


def _cheapest(multiples: np.ndarray, costs: np.ndarray) -> int:
    """The scale index that codes a tensor in the fewest bits; 0 where nothing differs."""
    if not multiples.any():
        return 0
    limit = costs.shape[1] // 2 - 1
    columns = np.where(np.abs(multiples) <= limit, multiples + limit, costs.shape[1] - 1)
    counts = np.bincount(columns, minlength=costs.shape[1])
    used = counts > 0
    return 1 + int(np.argmin(costs[1:, used] @ counts[used]))


def apply_deltas(prior: Prior, weights: bytes) -> tuple[Net, ...]:
    """The nets of a file, from its section and the prior.

    Raises:
        ValueError: not of the spec.
    """
    if len(weights) < 2:
        raise ValueError(f"it has {len(weights)} bytes, should have at least 2")
    mask, quantum = weights[0], weights[1]
    if not 1 <= mask < 1 << NETS:
        raise ValueError(f"it changes the nets of mask {mask}, should be from 1 to {(1 << NETS) - 1}")
    if not 1 <= quantum <= MAX_QUANTUM:
        raise ValueError(f"its quantum is {quantum}, should be from 1 to {MAX_QUANTUM}")
    which = [n for n in range(NETS) if mask >> n & 1]
    names = delta_names()
    body = 2 + len(which) * len(names)
    if len(weights) < body:
        raise ValueError(f"it has {len(weights)} bytes, should have at least {body}")
    decoder = rans.Decoder(weights[body:], prior.tables)
    nets = [dict(net) for net in prior.nets]
    for at, (n, name) in enumerate((n, name) for n in which for name in names):
        nets[n][name] = _changed(decoder, weights[2 + at], prior.tables, nets[n], name, quantum)
    decoder.finish()
    for n in which:
        check_net(nets[n])
    return tuple(nets)


def pack_whole(prior: Prior, weights: bytes | None) -> bytes:
    """The section of a file that is to need no prior, in place of differences from it, or of none (None).

    The nets and tables are the same, bit for bit, and so is what they decode.
    """
    return pack_decoding(prior.nets if weights is None else apply_deltas(prior, weights), prior.tables)


def _changed(
    decoder: rans.Decoder, scale: int, tables: FrequencyTables, net: Net, name: str, quantum: int
) -> np.ndarray:
    if scale >= tables.n_scales:
        raise ValueError(f"a scale index of {name} is {scale}, should be below {tables.n_scales}")
    base = net[name]
    multiples = decoder.decode(np.full(base.size, scale, np.uint8)).astype(np.int64).reshape(base.shape)
    value = base.astype(np.int64) + multiples * _quanta(net, name, quantum)
    most = _most(name)
    if np.abs(value).max() > most:
        raise ValueError(f"a value of {name} is {np.abs(value).max()}, should be at most {most}")
    return value.astype(base.dtype)
