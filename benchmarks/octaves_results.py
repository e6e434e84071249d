"""What the bench of model `octaves` leaves: the form of its JSON. Sizes are `os.stat` of files that were decoded."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inrwsi.config import ConfigError, check, from_dict

from .results import Machine, Spread

CROP, TISSUE, SLIDE = "crop", "tissue", "slide"
TRAINED, HELD_OUT, NEVER = "trained on", "held out", "never seen"
GROUPS = (TRAINED, HELD_OUT, NEVER)


@dataclass(frozen=True)
class Subject:
    """Pixels that were measured.

    Attributes:
        name: of the slide's file.
        group: what the prior knows of it, one of GROUPS.
        wh: in pixels, of what every codec was given.
        l0_xy: its corner in the slide.
        halved: 2x2 means of the file's pixels.
        sha256: of the RGB bytes.
        about: one sentence.
        area_px: pixels that count, by area.
    """

    name: str
    group: str
    wh: tuple[int, int]
    l0_xy: tuple[int, int]
    halved: bool
    sha256: str
    about: str
    area_px: dict[str, int]

    def __post_init__(self) -> None:
        check(self.group in GROUPS, "group", self.group, f"one of {', '.join(GROUPS)}")


@dataclass(frozen=True)
class Figures:
    """One file over one area: all of a crop, the tissue tiles of a slide, or all of a slide.

    Attributes:
        payload_bytes: of the file that count for the area: of a crop and of a whole slide, all of it.
        bpp: 8 x payload_bytes over the pixels of the area.
        psnr_db: RGB, peak 255, all channels together. ms_ssim: of luma; None where the pixels are too few.
    """

    area: str
    payload_bytes: float
    bpp: float
    psnr_db: float
    ms_ssim: float | None = None


@dataclass(frozen=True)
class FilePoint:
    """One codec at one setting on one subject. `encode_s`: seconds at the time, whatever else the machine did."""

    subject: str
    codec: str
    value: float
    setting: str
    file_bytes: int
    encode_s: float
    figures: tuple[Figures, ...]

    def over(self, area: str) -> Figures:
        """The figures of one area. KeyError if it was not measured."""
        for found in self.figures:
            if found.area == area:
                return found
        raise KeyError(area)


@dataclass(frozen=True)
class Comparison:
    """BD-rate of ours to a peer on one subject.

    Attributes:
        metric: "psnr_rgb", or "ms_ssim" in dB (-10 log10(1 - x)).
        percent: mean difference in bits at equal quality, negative is fewer; None where it was refused.
        range_db: the qualities it is the mean over: those of the peer at 0.3 to 2 bpp, as far as both were measured.
        peer_bpp: the peer's rates at their ends.
        complete: they are all of the peer's at 0.3 to 2 bpp.
        refused: why there is no number; empty otherwise.
    """

    subject: str
    peer: str
    area: str
    metric: str
    percent: float | None = None
    range_db: tuple[float, float] | None = None
    peer_bpp: tuple[float, float] | None = None
    complete: bool = False
    refused: str = ""


@dataclass(frozen=True)
class Mean:
    """Mean of the BD-rates over a group of subjects ("all" or one of GROUPS, or "unseen": not trained on).

    `count` of `of` subjects have a number. `peer_bpp`: from where to where all of them reach on the peer's curve, which
    0.3 and 2 bpp limit; None in records made before it was told.
    """

    peer: str
    area: str
    metric: str
    group: str
    percent: float
    count: int
    of: int
    worst: str
    worst_percent: float
    peer_bpp: tuple[float, float] | None = None


@dataclass(frozen=True)
class EffortSpeed:
    """Encoding one piece of tissue, from pixels in memory to a file.

    Attributes:
        who: "octaves fast" and so on; "avif whole" on all threads, "avif tiles" of 512 px, a thread each.
        ratio_to_avif: how many times as fast as the faster of both.
        refused: why it was not measured; empty otherwise.
    """

    who: str
    setting: str
    mpx_s: Spread | None = None
    file_bytes: int | None = None
    psnr_db: float | None = None
    ratio_to_avif: float | None = None
    refused: str = ""


@dataclass(frozen=True)
class ViewTime:
    """A picture from a file that nothing is decoded of yet, in a process that has decoded others.

    Attributes:
        label: "1:1" at native resolution and so on; "whole" for all of the slide.
        step: level-0 pixels an output pixel.
        ms: from opening the file to the pixels.
        to_native: the median over the times of what each took beside a view at "1:1" in the same place just before it.
        to_openjpeg: the median over that of OpenJPEG for 512 x 512 pixels of tissue.
    """

    label: str
    step: float
    out_wh: tuple[int, int]
    ms: Spread
    to_native: float
    to_openjpeg: float


@dataclass(frozen=True)
class Speed:
    """All times, of one process in one go.

    Attributes:
        threads: that every codec may use.
        torch_threads: that torch does use.
        piece: what was encoded and decoded.
        openjpeg_ms: OpenJPEG from a closed file of the native views' pixels at their PSNR (`native_psnr_db`).
        bulk_mpx_s, openjpeg_bulk_mpx_s: decoding the whole piece, at one PSNR.
        msymbol_s: entropy coder, one core, on a made-up stream: "decode" and "encode".
    """

    threads: int
    torch_threads: int
    piece: str
    encode: tuple[EffortSpeed, ...]
    views: tuple[ViewTime, ...]
    openjpeg_ms: Spread
    native_psnr_db: float
    bulk_mpx_s: float
    openjpeg_bulk_mpx_s: float
    mac_per_px: float
    msymbol_s: dict[str, float]


@dataclass(frozen=True)
class Verdict:
    """One bar: `value` should be below (or, with `above`, not under) `must`; `aim` is what to hope for."""

    what: str
    value: float | None
    must: float
    met: bool
    aim: float | None = None
    aim_met: bool | None = None
    above: bool = False
    note: str = ""


@dataclass(frozen=True)
class OctavesRun:
    """One run of `benchmarks.octaves`."""

    command: str
    created_utc: str
    machine: Machine
    versions: dict[str, str]
    settings: dict[str, Any]
    subjects: tuple[Subject, ...]
    points: tuple[FilePoint, ...]
    comparisons: tuple[Comparison, ...]
    means: tuple[Mean, ...]
    verdicts: tuple[Verdict, ...]
    speed: Speed | None = None
    notes: tuple[str, ...] = field(default=())
    schema: int = 1


def load_point(path: Path) -> FilePoint | None:
    """A point that was saved; None where there is none that can be read."""
    try:
        return from_dict(FilePoint, json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, ConfigError):
        return None
