"""The released priors: networks, tables and analysis of model `octaves` that come with the package.

A prior is one file of `inrwsi/priors`, named by the SHA-256 of its bytes, by which files refer to it: it is never
changed, and never removed. It is zstd of safetensors; `fit.release` makes it.

A file that is to need no prior holds one of its own, `pack_decoding`: the same tensors, but for those of the encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files

import numpy as np

from inrwsi.coding import tensors
from inrwsi.coding.tables import FrequencyTables
from inrwsi.fields.octaves_integer import HEAD_WIDTH, NETS, PASSES, SCALES, SQUEEZE, WIDTH, check_net, net_tensors
from inrwsi.fields.octaves_model import FEATURES

CURRENT = "current.txt"
SYMBOL_LIMIT = 127
ANALYSIS_WIDTH = 48
MAX_BYTES = 8 << 20
MOST_WEIGHT, MOST_BIAS = 127, 2**23  # magnitudes, of what a file holds of its own
SUFFIX = ".prior"
_ONE_QUANTISER = {"tables": ((SCALES, 2 * SYMBOL_LIMIT + 2), "uint16")}  # of priors up to the third


@dataclass(frozen=True, eq=False)
class Prior:
    """A released prior, or what a file holds in its place.

    Attributes:
        sha256: of its file, or of the section.
        nets: the integer tensors of each net.
        tables: frequencies for the entropy coder; of priors up to the third, of one quantiser.
        analysis: of each net, the encoder's transform, float16. Empty of a file's own.
        units: of each net, what one unit of each activation is worth in the networks as trained, float32. Empty of a
            file's own.
    """

    sha256: str
    nets: tuple[dict[str, np.ndarray], ...]
    tables: FrequencyTables
    analysis: tuple[dict[str, np.ndarray], ...]
    units: dict[str, np.ndarray]


def analysis_tensors() -> dict[str, tuple[tuple[int, ...], str]]:
    """Every tensor of one analysis: name to (shape, dtype)."""
    width = ANALYSIS_WIDTH
    shapes: dict[str, tuple[int, ...]] = {"log_factor": (9,)}
    for name, shape in {
        "layer1": (width, 9 + 9 + 2, 3, 3),
        "layer2": (width, width, 3, 3),
        "layer3": (9, width, 1, 1),
    }.items():
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]
    return {name: (shape, "float16") for name, shape in shapes.items()}


def unit_tensors() -> dict[str, tuple[tuple[int, ...], str]]:
    """Units of the activations: name to (shape, dtype)."""
    own = {"trunk1": WIDTH, "trunk2": WIDTH, "squeeze": SQUEEZE, "synthesis1": WIDTH, "synthesis2": WIDTH}
    own |= {"given": FEATURES, "up": FEATURES}
    for n in range(len(PASSES)):
        own |= {f"heads.{n}.features": HEAD_WIDTH, f"heads.{n}.hidden": HEAD_WIDTH}
    return {f"{net}.{name}": ((count,), "float32") for net in range(NETS) for name, count in own.items()}


def pack(prior: Prior) -> bytes:
    """The bytes of a prior's file."""
    held = _decoding_tensors(prior.nets, prior.tables)
    for n in range(NETS):
        held |= {f"analysis.{n}.{name}": array for name, array in prior.analysis[n].items()}
    held |= {f"unit.{name}": array for name, array in prior.units.items()}
    return tensors.squeeze(tensors.pack(held))


def pack_decoding(nets: Sequence[Mapping[str, np.ndarray]], tables: FrequencyTables) -> bytes:
    """The section of weights of a file that needs no prior: these nets and tables. The container compresses it."""
    return tensors.pack(_decoding_tensors(nets, tables))


def _decoding_tensors(nets: Sequence[Mapping[str, np.ndarray]], tables: FrequencyTables) -> dict[str, np.ndarray]:
    held = {"tables": tables.frequencies}
    for n in range(NETS):
        held |= {f"net.{n}.{name}": array for name, array in nets[n].items()}
    return held


def unpack(raw: bytes) -> Prior:
    """The inverse of `pack`.

    Raises:
        ValueError: it is not a prior of this build's shapes.
    """
    expected = _expected_to_decode()
    for n in range(NETS):
        expected |= {f"analysis.{n}.{name}": spec for name, spec in analysis_tensors().items()}
    expected |= {f"unit.{name}": spec for name, spec in unit_tensors().items()}
    held = tensors.unpack(tensors.unsqueeze(raw, MAX_BYTES), expected, _ONE_QUANTISER)
    return Prior(
        sha256=sha256(raw).hexdigest(),
        nets=tuple(_part(held, f"net.{n}.") for n in range(NETS)),
        tables=FrequencyTables.from_frequencies(held["tables"]),
        analysis=tuple(_part(held, f"analysis.{n}.") for n in range(NETS)),
        units=_part(held, "unit."),
    )


def unpack_decoding(weights: bytes | None) -> Prior:
    """The inverse of `pack_decoding`: what a file that names no prior holds, checked as all that comes from files is.

    Raises:
        ValueError: there is no such section, or it is not of the spec.
    """
    if weights is None:
        raise ValueError("the file names no prior, and holds no networks in its place")
    if len(weights) > MAX_BYTES:
        raise ValueError(f"it has {len(weights)} bytes, should have at most {MAX_BYTES}")
    held = tensors.unpack(weights, _expected_to_decode(), _ONE_QUANTISER)
    tables = FrequencyTables.from_frequencies(held["tables"])
    nets = tuple(_part(held, f"net.{n}.") for n in range(NETS))
    for net in nets:
        for name, array in net.items():
            most = {"weight": MOST_WEIGHT, "bias": MOST_BIAS}.get(name.rpartition(".")[2])
            if most is not None and (found := int(np.abs(array.astype(np.int64)).max())) > most:
                raise ValueError(f"a value of {name} is {found}, should be at most {most}")
        check_net(net)
    return Prior(sha256(weights).hexdigest(), nets, tables, analysis=(), units={})


def _expected_to_decode() -> dict[str, tuple[tuple[int, ...], str]]:
    """What decoding needs of a prior: name to (shape, dtype)."""
    expected: dict[str, tuple[tuple[int, ...], str]] = {"tables": ((2 * SCALES, 2 * SYMBOL_LIMIT + 2), "uint16")}
    for n in range(NETS):
        expected |= {f"net.{n}.{name}": spec for name, spec in net_tensors().items()}
    return expected


def _part(held: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {name[len(prefix) :]: array for name, array in held.items() if name.startswith(prefix)}


def current_sha256() -> str:
    """The prior that new files are made with."""
    return (files("inrwsi") / "priors" / CURRENT).read_text().strip()


@lru_cache(maxsize=4)
def load(digest: str) -> Prior | None:
    """A released prior by the SHA-256 of its file; None where this build does not have it.

    Raises:
        ValueError: the package's file is damaged.
    """
    path = files("inrwsi") / "priors" / f"{digest[:16]}{SUFFIX}"
    if not path.is_file():
        return None
    raw = path.read_bytes()
    found = sha256(raw).hexdigest()
    if found != digest:
        if found[:16] == digest[:16]:  # whole, but another prior, whose digest begins alike
            return None
        raise ValueError(f"the package's prior {digest[:16]} does not have its SHA-256; install inrwsi again")
    return unpack(raw)
