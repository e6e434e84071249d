"""What `benchmarks.paper` leaves in results/paper.json."""

from __future__ import annotations

from dataclasses import dataclass

from .results import Record


@dataclass(frozen=True)
class Grid:
    """The hash grid that all networks share; `entries_a_px` is of the whole table over the crop."""

    levels: int
    features: int
    log2_table: int
    base_resolution: int
    per_level_scale: float
    parameters: int
    entries_a_px: float


@dataclass(frozen=True)
class Epoch:
    """The whole crop after an epoch.

    Attributes:
        number: from 1.
        steps: of Adam until then.
        cpu_s: CPU seconds of the process until then, of the fit alone.
        psnr_db: of RGB samples, rounded to 8 bits.
        ssim: of luma, the mean over the crop.
    """

    number: int
    steps: int
    cpu_s: float
    psnr_db: float
    ssim: float


@dataclass(frozen=True)
class Curve:
    """One network under one schedule.

    Attributes:
        parameters: of the network, without the table.
        spectrum: power of the last epoch's difference in luma, mean squared grey levels a band of `bands`.
    """

    model: str
    schedule: str
    parameters: int
    epochs: tuple[Epoch, ...]
    spectrum: tuple[float, ...]


@dataclass(frozen=True)
class FileRow:
    """A `.cinr` file of the crop, as it is decoded; `cpu_s` to encode."""

    model: str
    file_bytes: int
    bpp: float
    psnr_db: float
    ssim: float
    cpu_s: float


@dataclass(frozen=True)
class Rates:
    """Adam's first learning rates; constant, or a warm-up and a cosine to a twentieth."""

    schedule: str
    table: float
    sine: float
    mlp: float
    constant: bool


@dataclass(frozen=True)
class PaperRun(Record):
    """All of it.

    Attributes:
        slide, l0_xy, side_px: where the crop is. `sha256` of its RGB bytes.
        patch_px, batch: side of a patch, and how many a step.
        bands: upper ends of the spectra's bands, cycles a pixel; `spectrum` is the crop's own.
    """

    slide: str
    l0_xy: tuple[int, int]
    side_px: int
    sha256: str
    seed: int
    grid: Grid
    patch_px: int
    batch: int
    rates: tuple[Rates, ...]
    curves: tuple[Curve, ...]
    files: tuple[FileRow, ...]
    bands: tuple[float, ...]
    spectrum: tuple[float, ...]
    schema: int = 1

    def of(self, schedule: str) -> list[Curve]:
        """The curves of one schedule, in the order of the run."""
        return [curve for curve in self.curves if curve.schedule == schedule]
