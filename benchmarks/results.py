"""What a benchmark run leaves: one JSON file, strict both ways, written whole or not at all.

Rates are of real files: `file_bytes` is `os.stat` of a file that was decoded again for the metrics beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from inrwsi.config import ConfigError, check, from_dict, to_dict
from inrwsi.errors import UsageError
from inrwsi.job import write_whole

LAYOUTS = ("tiled512", "whole", "file")
R = TypeVar("R")


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one thing, in the unit that the field's name says."""

    min: float
    median: float
    max: float
    repeats: int


@dataclass(frozen=True)
class View:
    """One picture as a viewer asks for it, each time from a closed file.

    Attributes:
        label: "40x", "20x", "5x" or "thumbnail"; "1:8" and the like where the magnification is not known.
        downsample: level-0 pixels an output pixel.
        out_wh: pixels of the picture.
        ms: from opening the file to the pixels, over several places, the same for every codec.
        bytes_read: from the file, the mean over these places.
    """

    label: str
    downsample: int
    out_wh: tuple[int, int]
    ms: Spread
    bytes_read: int


@dataclass(frozen=True)
class Regions:
    """The measured regions one by one, all of the same number of pixels: what an interval is drawn from.

    Attributes:
        bytes: of the file that code this region alone; the rest of the file is shared by all.
        mse: RGB mean squared error.
        scales: means of contrast x structure at the five scales of MS-SSIM (at the coarsest: of SSIM).
    """

    bytes: tuple[int, ...]
    mse: tuple[float, ...]
    scales: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Point:
    """One codec at one setting.

    Attributes:
        codec, layout, setting: e.g. "avif", "tiled512", "q=60". Layouts: 512-pixel tiles each on its own, in one
            file with an index; the whole picture as one codestream; a file format with a layout of its own.
        file_bytes: size of the file on the disk.
        pixels, tissue_pixels: level-0 pixels that the file holds, and those of tissue among them.
        bpp, tissue_bpp: 8 x file_bytes over these.
        lossless: every measured pixel came back as it was. PSNR, being infinite, is then absent.
        metrics: psnr_rgb, psnr_luma (dB), ssim, ms_ssim, worst1pct_psnr; with `_tissue` over tissue only; and what
            `fidelity.measure` gives as single numbers.
        spectrum_ratio: power of the decoded picture over the original's, by frequency band, lowest first.
        encode_mpx_s, decode_mpx_s: millions of level-0 pixels a second.
        encode_cpu_s, decode_cpu_s: seconds of the CPU for all of the picture, over all threads: on a machine that does
            other things too, what can be compared.
        encode_rss_mb, decode_rss_mb: highest memory above what the process held before, in MB of 10^6 bytes.
        views: at the middle setting of each codec only.
        regions: only where the file says what each region costs.
    """

    codec: str
    layout: str
    setting: str
    file_bytes: int
    pixels: int
    tissue_pixels: int
    bpp: float
    lossless: bool
    metrics: dict[str, float]
    tissue_bpp: float | None = None
    spectrum_ratio: tuple[float, ...] = ()
    encode_mpx_s: Spread | None = None
    decode_mpx_s: Spread | None = None
    encode_cpu_s: Spread | None = None
    decode_cpu_s: Spread | None = None
    encode_rss_mb: float | None = None
    decode_rss_mb: float | None = None
    views: tuple[View, ...] = ()
    regions: Regions | None = None

    def __post_init__(self) -> None:
        check(self.layout in LAYOUTS, "layout", self.layout, f"one of {', '.join(LAYOUTS)}")


@dataclass(frozen=True)
class BdRow:
    """Bjontegaard comparison of one codec with a reference, both in their layouts; see `bd`.

    Attributes:
        metric: "psnr_rgb", or "ms_ssim" in dB (-10 log10(1 - x)).
        rate_percent: BD-rate: mean difference in bits at equal quality, negative is fewer.
        low_percent, high_percent: its 95 % interval over regions (bootstrap); `se_percent`: its standard error.
        range_db: the common range of quality it is taken over.
        quality_db: BD-PSNR (or the same of MS-SSIM): mean difference in quality at equal rate; `range_bpp`: over that.
        refused: why there is no BD-rate; empty otherwise.
    """

    codec: str
    layout: str
    reference: str
    reference_layout: str
    metric: str
    rate_percent: float | None = None
    low_percent: float | None = None
    high_percent: float | None = None
    se_percent: float | None = None
    range_db: tuple[float, float] | None = None
    quality_db: float | None = None
    range_bpp: tuple[float, float] | None = None
    refused: str = ""


@dataclass(frozen=True)
class Stratum:
    """A kind of region: how many the slide has, and how many were measured."""

    name: str
    population: int
    measured: int


@dataclass(frozen=True)
class Sample:
    """Which pixels were measured.

    Attributes:
        text: one sentence for a reader.
        full: the whole slide, rather than a mosaic of sampled regions.
        seed, tile_px: of the sampling; side of a region.
        population: regions of the slide with tissue in them.
        strata: with a sample.
        l0_xy: corners of the regions in the slide, in the order in which they lie in the mosaic, row by row.
        picture_wh: of what every codec was given.
        tissue_pixels: of it.
        sha256: of its RGB bytes; every codec was given exactly these.
    """

    text: str
    full: bool
    seed: int
    tile_px: int
    population: int
    strata: tuple[Stratum, ...]
    l0_xy: tuple[tuple[int, int], ...]
    picture_wh: tuple[int, int]
    tissue_pixels: int
    sha256: str


@dataclass(frozen=True)
class Slide:
    """The slide as its file says. `halved`: measured on 2x2 means of the file's pixels; all numbers are of those."""

    name: str
    width: int
    height: int
    bytes_on_disk: int
    tissue_share: float
    halved: bool
    mpp_um: float | None = None
    objective_power: float | None = None


@dataclass(frozen=True)
class Machine:
    """Where it ran, all of it."""

    platform: str
    cpu: str
    cores: int
    memory_gb: float
    python: str


@dataclass(frozen=True)
class Record:
    """What the record of a run begins with.

    Attributes:
        command: what was typed.
        created_utc: when it ended, ISO 8601.
        versions: of every library that coded, decoded or measured.
    """

    command: str
    created_utc: str
    machine: Machine
    versions: dict[str, str]


@dataclass(frozen=True)
class Run(Record):
    """One slide, every codec side by side in one run.

    Attributes:
        settings: of the run, as JSON values.
        notes: what a reader must know: layouts that were left out, standard errors above what was aimed at.
    """

    slide: Slide
    sample: Sample
    settings: dict[str, Any]
    points: tuple[Point, ...]
    bd: tuple[BdRow, ...]
    notes: tuple[str, ...] = ()
    schema: int = 1


@dataclass(frozen=True)
class MeanBd:
    """BD-rates of one codec against a reference, by slide and their mean; `slides` names those it exists for."""

    codec: str
    layout: str
    reference: str
    reference_layout: str
    metric: str
    mean_percent: float
    slides: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunSet:
    """A fixed set: several slides by one command, the complete slide first."""

    command: str
    runs: tuple[Run, ...]
    mean_bd: tuple[MeanBd, ...] = ()
    schema: int = 1


def save(result: R, path: Path) -> R:
    """Write a frozen dataclass as JSON, whole or not at all, and give what a reader of the file finds.

    That has fewer digits: what is printed beside the file is to be of it, or a figure's last digit may differ.

    Raises:
        ConfigError: it could not be read back.
    """
    text = json.dumps(_rounded(to_dict(result)), indent=1, allow_nan=False)
    found = from_dict(type(result), json.loads(text))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _flat_lists(text).encode() + b"\n")
    return found


def load(kind: type[R], path: Path) -> R:
    """Read what `save` wrote.

    Raises:
        UsageError: the file is not there or is not of this form.
    """
    try:
        return from_dict(kind, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; run the benchmark that makes it") from None
    except (ConfigError, ValueError) as error:
        raise UsageError(f"{path}: is not a result of this version: {error}") from None


def mean_bd(runs: tuple[Run, ...]) -> tuple[MeanBd, ...]:
    """The BD-rates of several slides together; a slide whose BD-rate was refused counts for nothing."""
    return tuple(_mean_bd(runs))


def _mean_bd(runs: tuple[Run, ...]) -> Iterator[MeanBd]:
    found: dict[tuple[str, str, str, str, str], dict[str, float]] = {}
    for run in runs:
        for row in run.bd:
            if row.rate_percent is not None:
                key = (row.codec, row.layout, row.reference, row.reference_layout, row.metric)
                found.setdefault(key, {})[run.slide.name] = row.rate_percent
    for key, by_slide in found.items():
        yield MeanBd(*key, mean_percent=sum(by_slide.values()) / len(by_slide), slides=by_slide)


def _rounded(value: Any) -> Any:
    """Floats to 7 significant digits: more is noise, and the file is read by people."""
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _flat_lists(text: str) -> str:
    """Lists of numbers on one line each: a region a line would make a file of ten thousand lines."""
    # A string in JSON holds no line break, so this cannot touch one.
    return re.sub(r"\[\n\s+([-\d.e+,\s]+?)\n\s*\]", lambda m: f"[{' '.join(m[1].split())}]", text)
