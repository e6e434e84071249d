"""The project's own models, and the list of all that can be compared. What is in `fields.models` is here by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

import inrwsi
from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.errors import UsageError
from inrwsi.fields.models import config_class
from inrwsi.formats.container import Container
from inrwsi.formats.source import open_source
from inrwsi.geometry import Rect
from inrwsi.options import EncodeOptions, known_models
from inrwsi.progress import Report

from .codecs import FILE, STILL_CODECS, Codec, Reader
from .codecs_tiff import TIFF_CODECS
from .probe import CountedFile
from .sampling import Picture

BPP_LADDER = (0.5, 1.0, 2.0, 4.0)
QUICK_BPP_LADDER = (4.0,)  # one fit is what a quick run has time for; it makes no curve
QUALITY_LADDER = (25.0, 40.0, 55.0, 70.0, 85.0)
QUICK_QUALITY_LADDER = (30.0, 55.0, 80.0)
RAW_BPP = 24  # of RGB without compression
QUICK_SHARE = 6  # of a model's own passes one, where a quick run of `inrwsi bench` does not say how many
EFFORT = "fast"


@dataclass(frozen=True)
class OurCodec:
    """A model of this project, by its quality where it has one, or by bits a pixel.

    Attributes:
        name: of the model.
        passes: over each pixel, as `inrwsi encode --passes`; for the models that are fitted, and 0 for octaves.
        setting: what the ladder holds, `quality` or `bpp`.
        device: auto, cpu or cuda.
        progress: told how the fit goes.
    """

    name: str
    ladder: tuple[float, ...]
    quick_ladder: tuple[float, ...]
    passes: int
    device: str = "auto"
    progress: Report | None = None
    setting: str = "bpp"
    layouts: tuple[str, ...] = (FILE,)
    max_side_px: int = 2**31
    suffix: str = ".cinr"
    ours: bool = True

    @property
    def about(self) -> str:
        if self.name == "octaves":
            return f"this project's model {self.name}, effort {EFFORT}; networks of the package's prior"
        return f"this project's model {self.name}, fitted to the pixels in {self.passes} passes; networks in the file"

    def label(self, value: float) -> str:
        return f"{self.setting}={value:g}"

    def versions(self) -> dict[str, str]:
        return {"inrwsi": inrwsi.__version__, "torch": torch.__version__}

    def encode(self, picture: Picture, layout: str, value: float, path: Path) -> None:
        # A copy that may be written to: torch warns of arrays that may not.
        with open_source(picture.pixels.copy(), mpp_um=picture.slide.mpp_um) as source:
            encode(source, path, self.options(value), progress=self.progress, overwrite=True)

    def options(self, value: float) -> EncodeOptions:
        """The encoder's options at a value of the ladder."""
        if self.name != "octaves":
            return EncodeOptions(model=self.name, bpp=value, passes=self.passes, device=self.device)
        if self.setting == "bpp":
            return EncodeOptions(ratio=RAW_BPP / value, effort=EFFORT, device=self.device)
        return EncodeOptions(quality=value, effort=EFFORT, device=self.device)

    def open(self, path: Path, layout: str) -> Reader:
        return _OurReader(path, self.device)


class _OurReader:
    def __init__(self, path: Path, device: str) -> None:
        self._file = CountedFile(path)
        self._decoder = Decoder(self._file, device=device)  # type: ignore[arg-type]
        self.wh = self._decoder.header.slide.l0_wh

    @property
    def bytes_read(self) -> int:
        return self._file.bytes_read

    def read(self, window: Rect, downsample: int = 1) -> np.ndarray:
        wh = (window.w // downsample, window.h // downsample)
        return self._decoder.read_region((window.x, window.y), (window.w, window.h), out_wh=wh)

    def region_bytes(self, regions: Sequence[Rect]) -> tuple[int, ...] | None:
        return tuple(round(b) for b in chunk_bytes(self._decoder.container, regions))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._decoder.close()
        self._decoder.container.close()
        self._file.close()


def chunk_bytes(container: Container, regions: Sequence[Rect]) -> list[float]:
    """Bytes of all octaves' chunks over each region; a chunk that covers more is shared out by area."""
    header = container.header
    found = [0.0] * len(regions)
    for octave in header.grid.octaves:
        side = header.grid.chunk_px << octave
        for (i, j), payload_bytes, _ in container.entries(octave):
            l0 = Rect(i * side, j * side, side, side).intersect(Rect(0, 0, header.slide.width, header.slide.height))
            for number, region in enumerate(regions):
                cut = l0.intersect(region)
                found[number] += payload_bytes * cut.w * cut.h / (l0.w * l0.h)
    return found


def our_codecs(
    models: Sequence[str],
    *,
    bpp: Sequence[float] = (),
    passes: int | None = None,
    share: int = 1,
    device: str = "auto",
    progress: Report | None = None,
) -> tuple[OurCodec, ...]:
    """Models by name, at the rates `bpp` (none: the model's usual ladder). UsageError for an unknown one.

    Args:
        passes: of those that are fitted; by default of the model's own number one in `share`.
    """
    for name in models:
        if name not in known_models():
            raise UsageError(f"--model {name}: there is no such model; there are {', '.join(known_models())}")
    ladder = tuple(sorted(bpp))
    return tuple(_our_codec(name, ladder, passes or _passes(name) // share, device, progress) for name in models)


def _passes(name: str) -> int:
    return 0 if name == "octaves" else config_class(name).passes


def _our_codec(name: str, ladder: tuple[float, ...], passes: int, device: str, progress: Report | None) -> OurCodec:
    if name == "octaves" and not ladder:
        return OurCodec(name, QUALITY_LADDER, QUICK_QUALITY_LADDER, passes, device, progress, "quality")
    return OurCodec(name, ladder or BPP_LADDER, ladder or QUICK_BPP_LADDER, passes, device, progress)


def other_codecs(names: Sequence[str] = ()) -> tuple[Codec, ...]:
    """The codecs of others by name, in the order of the list; all without names. UsageError for an unknown one."""
    every: tuple[Codec, ...] = (*STILL_CODECS, *TIFF_CODECS)
    known = {c.name for c in every}
    for name in names:
        if name not in known:
            raise UsageError(f"--codec {name}: there is no such codec; there are {', '.join(c.name for c in every)}")
    return tuple(c for c in every if not names or c.name in names)
