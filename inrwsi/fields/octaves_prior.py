"""The released priors: networks, tables and analysis of model `octaves` that come with the package.

A prior is one file of `inrwsi/priors`, named by the SHA-256 of its bytes, by which files refer to it: it is never
changed, and never removed. It is zstd of safetensors; `fit.release` makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.resources import files

import numpy as np

from inrwsi.coding import tensors
from inrwsi.coding.tables import FrequencyTables
from inrwsi.fields.octaves_integer import HEAD_WIDTH, NETS, PASSES, SCALES, SQUEEZE, WIDTH, net_tensors
from inrwsi.fields.octaves_model import FEATURES

CURRENT = "current.txt"
SYMBOL_LIMIT = 127
ANALYSIS_WIDTH = 48
MAX_BYTES = 8 << 20
SUFFIX = ".prior"


@dataclass(frozen=True, eq=False)
class Prior:
    """A released prior.

    Attributes:
        sha256: of its file.
        nets: the integer tensors of each net.
        tables: frequencies for the entropy coder.
        analysis: of each net, the encoder's transform, float16.
        units: of each net, what one unit of each activation is worth in the networks as trained, float32.
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
    held: dict[str, np.ndarray] = {"tables": prior.tables.frequencies}
    for n in range(NETS):
        held |= {f"net.{n}.{name}": array for name, array in prior.nets[n].items()}
        held |= {f"analysis.{n}.{name}": array for name, array in prior.analysis[n].items()}
    held |= {f"unit.{name}": array for name, array in prior.units.items()}
    return tensors.squeeze(tensors.pack(held))


def unpack(raw: bytes) -> Prior:
    """The inverse of `pack`.

    Raises:
        ValueError: it is not a prior of this build's shapes.
    """
    expected: dict[str, tuple[tuple[int, ...], str]] = {"tables": ((SCALES, 2 * SYMBOL_LIMIT + 2), "uint16")}
    for n in range(NETS):
        expected |= {f"net.{n}.{name}": spec for name, spec in net_tensors().items()}
        expected |= {f"analysis.{n}.{name}": spec for name, spec in analysis_tensors().items()}
    expected |= {f"unit.{name}": spec for name, spec in unit_tensors().items()}
    held = tensors.unpack(tensors.unsqueeze(raw, MAX_BYTES), expected)

    def part(prefix: str) -> dict[str, np.ndarray]:
        return {name[len(prefix) :]: array for name, array in held.items() if name.startswith(prefix)}

    return Prior(
        sha256=sha256(raw).hexdigest(),
        nets=tuple(part(f"net.{n}.") for n in range(NETS)),
        tables=FrequencyTables.from_frequencies(held["tables"]),
        analysis=tuple(part(f"analysis.{n}.") for n in range(NETS)),
        units=part("unit."),
    )


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
