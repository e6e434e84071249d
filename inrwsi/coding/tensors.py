"""Named arrays to bytes and back: safetensors, and nothing but the arrays that the caller expects."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import zstandard
from safetensors import SafetensorError
from safetensors.numpy import load, save

Expected = Mapping[str, tuple[tuple[int, ...], str]]


def pack(tensors: Mapping[str, np.ndarray]) -> bytes:
    """safetensors bytes, names in sorted order: equal tensors are equal bytes."""
    return save({name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)})


def unpack(raw: bytes, expected: Expected, instead: Expected | None = None) -> dict[str, np.ndarray]:
    """The arrays of safetensors bytes.

    Args:
        expected: name to (shape, numpy dtype name): exactly these must be there.
        instead: of some of them, what else they may be.

    Raises:
        ValueError: it is not safetensors, or not of these names, shapes and dtypes, or holds a NaN or infinity.
    """
    try:
        tensors = load(raw)
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"not safetensors ({str(error)[:80]})") from None
    if set(tensors) != set(expected):
        strange = sorted(set(tensors) ^ set(expected))[0][:40]
        raise ValueError(f"tensor {strange!r} is missing or not one of this model's {len(expected)}")
    for name, (shape, dtype) in expected.items():
        array = tensors[name]
        if (array.shape, array.dtype.name) not in ((shape, dtype), (instead or {}).get(name)):
            raise ValueError(f"{name} is {array.dtype}{list(array.shape)}, should be {dtype}{list(shape)}")
        _check_finite(name, array)
    return tensors


def pack_bare(tensors: Mapping[str, np.ndarray], expected: Expected) -> bytes:
    """The arrays one after another in the order of `expected`, little endian, without their names."""
    return b"".join(tensors[n].astype(np.dtype(t).newbyteorder("<")).tobytes() for n, (_, t) in expected.items())


def unpack_bare(raw: bytes, expected: Expected) -> dict[str, np.ndarray]:
    """The inverse of `pack_bare`.

    Raises:
        ValueError: it has not the length of these arrays, or holds a NaN or infinity.
    """
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in expected.values()]
    if sum(sizes) != len(raw):
        raise ValueError(f"its content is {len(raw)} bytes, should be {sum(sizes)}")
    found, at = {}, 0
    for (name, (shape, dtype)), size in zip(expected.items(), sizes, strict=True):
        stored = np.frombuffer(raw, np.dtype(dtype).newbyteorder("<"), count=math.prod(shape), offset=at)
        found[name] = stored.astype(dtype).reshape(shape)
        _check_finite(name, found[name])
        at += size
    return found


def _check_finite(name: str, array: np.ndarray) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} holds a value that is not finite")


def squeeze(raw: bytes) -> bytes:
    """One zstd frame that says its size."""
    return zstandard.ZstdCompressor(level=19).compress(raw)


def unsqueeze(frame: bytes, max_bytes: int) -> bytes:
    """The inverse of `squeeze`.

    Raises:
        ValueError: not one whole zstd frame, or one that does not say its size, or says more than `max_bytes`.
    """
    try:
        size = zstandard.frame_content_size(frame)
        if not 0 <= size <= max_bytes:
            raise ValueError(f"its content is {size} bytes, should be at most {max_bytes}")
        # one call into a buffer of the stated size: a frame that lies about it is an error, not an allocation
        raw = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"not zstd ({str(error)[:80]})") from None
    if len(raw) != size:
        raise ValueError(f"its zstd frame holds {len(raw)} of {size} bytes")
    return raw
