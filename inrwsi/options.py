"""What an encoding is asked to do, what can be said against it at once, and what became of it. Imports no torch."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from inrwsi.errors import UnsupportedVersion, UsageError
from inrwsi.formats.container import Container
from inrwsi.formats.source import SlideSource

MODEL_NAMES = ("cinr",)


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode.

    Attributes:
        model: `cinr`.
        bpp: target bits a pixel of tissue; chooses the tables' size.
        passes: over every tile's pixels; time grows with it.
        tile_px: side of a tile, 64 to 2048.
        weight_bits: 8 or 16, of the network's weights.
        seed: of everything random. The same seed, machine and settings give the same file.
        device: auto, cpu or cuda.
        keep_associated: names of the source's associated images to store.
        memory_mb: bounds what the fit holds at once, beside the libraries themselves.
    """

    model: str = "cinr"
    bpp: float = 4.0
    passes: int = 6
    tile_px: int = 512
    weight_bits: int = 8
    seed: int = 0
    device: str = "auto"
    keep_associated: tuple[str, ...] = ()
    memory_mb: int = 1024

    def __post_init__(self) -> None:
        wants = (
            ("--model", self.model, self.model in MODEL_NAMES, f"one of {', '.join(MODEL_NAMES)}"),
            ("--bpp", self.bpp, 0.02 <= self.bpp <= 24, "from 0.02 to 24 bits a pixel"),
            ("--passes", self.passes, 1 <= self.passes <= 10000, "from 1 to 10000"),
            ("--tile-px", self.tile_px, 64 <= self.tile_px <= 2048, "from 64 to 2048"),
            ("--weight-bits", self.weight_bits, self.weight_bits in (8, 16), "8 or 16"),
            ("--seed", self.seed, 0 <= self.seed < 2**32, "from 0 to 2^32 - 1"),
            ("--memory-mb", self.memory_mb, self.memory_mb >= 256, "at least 256"),
        )
        for name, value, ok, want in wants:
            if not ok:
                raise UsageError(f"{name} is {value}; it should be {want}")


@dataclass(frozen=True)
class EncodeReport:
    """What became of it. Sizes in bytes are `os.stat` of the files."""

    path: str
    source_bytes: int
    cinr_bytes: int
    slide_px: int
    tissue_px: int
    blank_chunks: int
    coded_chunks: int
    seconds: float

    @property
    def bpp(self) -> float:
        """Bits a pixel of the whole slide."""
        return 8 * self.cinr_bytes / self.slide_px

    @property
    def tissue_bpp(self) -> float:
        """Bits a pixel of tissue: the whole file over the pixels that the tissue map counts."""
        return 8 * self.cinr_bytes / max(1, self.tissue_px)


def check_encodable(source: SlideSource, out: Path, options: EncodeOptions, *, overwrite: bool) -> None:
    """Raise `UsageError`, before anything slow, where `source` cannot be encoded to `out`."""
    if out.suffix != ".cinr":
        raise UsageError(f"{out}: the output should end in .cinr")
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: exists already; use --overwrite to replace it")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: the folder {out.parent} does not exist; make it first")
    if not os.access(out.parent, os.W_OK):
        raise UsageError(f"{out}: the folder {out.parent} is not writable; choose another")
    if source.bit_depth != 8 or source.channels not in (1, 3):
        raise UsageError(
            f"{source.name}: has {source.channels} channels of {source.bit_depth} bits; model cinr encodes 1 or 3 "
            "channels of 8 bits, so convert it first"
        )
    for name in options.keep_associated:
        if name not in source.associated:
            there = ", ".join(source.associated) or "none"
            raise UsageError(f"{source.name}: has no associated image {name!r} to keep; there are: {there}")


def check_model(container: Container) -> None:
    """Raise `UnsupportedVersion` where this build has no decoder for the file's model."""
    name = container.header.model["name"]
    if name not in MODEL_NAMES:
        known = ", ".join(MODEL_NAMES)
        raise UnsupportedVersion(f"{container.path}: its model is {name!r}; this build decodes {known}")
