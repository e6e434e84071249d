"""Adam against SOAP on the networks of `inif` and `siren`: `python -m benchmarks.optimisers`, into optimisers.json.

Each has the best learning rate of a grid, found on a tile of another slide. Then four tiles of the measured slide are
fitted by one and the other in turn, tile by tile, with more and more passes. Of both slides it is the middle of the
crop with the most contrast. Times are CPU seconds of the process; PSNR is that of the file, decoded again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch

from inrwsi.config import to_dict
from inrwsi.decode import Decoder
from inrwsi.errors import UsageError
from inrwsi.fields.coordinates import CoordinateConfig
from inrwsi.fields.models import config_class
from inrwsi.fit import networks
from inrwsi.fit.optimisers import Optimiser
from inrwsi.formats.header import GridInfo, Header, SlideInfo
from inrwsi.formats.writer import ContainerWriter
from inrwsi.metrics import psnr
from inrwsi.options import OPTIMISERS
from inrwsi.tiles import pack_payload

from . import results
from .hybrid import busiest_crop
from .probe import library_versions
from .record import head
from .results import Record

RESULTS = Path(__file__).parent / "results"
MODELS = ("inif", "siren")
TUNED_ON, MEASURED_ON = "kidney-pale-HE.png", "liver-HE.png"
TILE_PX, SIDE = 128, 2
BPP = 2.0
RATES = (0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
TUNING_PASSES = 60
PASSES = (15, 30, 60, 120)


@dataclass(frozen=True)
class Tuned:
    """PSNR of the tile that learning rates were tried on. `rate` multiplies the model's own."""

    model: str
    optimiser: str
    rate: float
    psnr_db: float


@dataclass(frozen=True)
class Fitted:
    """A file of the four tiles, by an optimiser at its best learning rate."""

    model: str
    optimiser: str
    rate: float
    passes: int
    steps: int
    cpu_seconds: float
    file_bytes: int
    psnr_db: float


@dataclass(frozen=True)
class Gain:
    """Of SOAP over Adam.

    Attributes:
        equal_steps_db: PSNR after as many steps.
        cpu_percent: CPU time of a step beyond Adam's.
        equal_time_db: PSNR over Adam's after as much CPU time, by the line between Adam's two points about it, over the
            logarithm of time; None where it has no point behind it.
    """

    model: str
    passes: int
    equal_steps_db: float
    cpu_percent: float
    equal_time_db: float | None = None


@dataclass(frozen=True)
class OptimisersRun(Record):
    """All of it."""

    tuned_on: str
    measured_on: str
    tiles: int
    tile_px: int
    bpp: float
    tuned: tuple[Tuned, ...]
    points: tuple[Fitted, ...]
    gains: tuple[Gain, ...]
    schema: int = 1


def busiest(slide: Path, side_px: int) -> np.ndarray:
    """(side_px, side_px, 3) uint8, the middle of the slide's crop with the most contrast."""
    crop, _ = busiest_crop(slide)
    at = (len(crop) - side_px) // 2
    return np.ascontiguousarray(crop[at : at + side_px, at : at + side_px, :3])


class Race:
    """Fits of one picture, of which each tile is fitted by every optimiser before the next one is.

    Args:
        pixels: (h, w, 3) uint8, whole tiles.
    """

    def __init__(self, pixels: np.ndarray, model: str, tile_px: int = TILE_PX) -> None:
        config = config_class(model).for_bpp(BPP, tile_px, 3, 8)
        if not isinstance(config, CoordinateConfig):
            raise UsageError(f"model {model} has one network a slide; give one that has a network a tile")
        self.pixels, self.config, self.tile_px = pixels, config, tile_px
        self.columns, self.rows = pixels.shape[1] // tile_px, pixels.shape[0] // tile_px

    def run(self, optimisers: Sequence[Optimiser], passes: int) -> list[Fitted]:
        """A file of each."""
        payloads: list[list[bytes]] = [[] for _ in optimisers]
        seconds, steps = [0.0] * len(optimisers), [0] * len(optimisers)
        for number in range(self.columns * self.rows):
            y, x = (self.tile_px * n for n in divmod(number, self.columns))
            tile = self.pixels[y : y + self.tile_px, x : x + self.tile_px]
            for i, optimiser in enumerate(optimisers):
                began = time.process_time()
                fit = networks.fit_tile(
                    self.config,
                    self.tile_px,
                    tile,
                    passes=passes,
                    seed=(0, number),
                    device=torch.device("cpu"),
                    optimiser=optimiser,
                )
                for _, _, arrays in fit:
                    steps[i] += arrays is None
                    if arrays is not None:
                        payloads[i].append(pack_payload(self.config, arrays))
                seconds[i] += time.process_time() - began
        return [
            Fitted(self.config.name, o.name, o.rate, passes, steps[i], seconds[i], *self._file(payloads[i]))
            for i, o in enumerate(optimisers)
        ]

    def _file(self, payloads: Sequence[bytes]) -> tuple[int, float]:
        """Bytes and PSNR of the file with these tiles."""
        h, w, channels = self.pixels.shape
        slide = SlideInfo(w, h, channels, 8, (255,) * channels)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "tiles.cinr"
            header = Header(slide, GridInfo(self.tile_px, (0,)), to_dict(self.config))
            with ContainerWriter(path, header) as writer:
                for number, payload in enumerate(payloads):
                    row, column = divmod(number, self.columns)
                    writer.put_chunk(0, (column, row), payload)
                writer.finish()
            with Decoder(path, device="cpu") as decoder:
                decoded = decoder.read_region((0, 0), (w, h))
            return path.stat().st_size, psnr(self.pixels, decoded)


def best(tuned: Sequence[Tuned], model: str) -> list[Optimiser]:
    """Each optimiser at the learning rate that was best for the model."""
    found = []
    for name in dict.fromkeys(t.optimiser for t in tuned):
        own = [t for t in tuned if (t.model, t.optimiser) == (model, name)]
        found.append(Optimiser(name, max(own, key=lambda t: t.psnr_db).rate))
    return found


def gains(points: Sequence[Fitted]) -> list[Gain]:
    """SOAP over Adam, of each model and number of passes."""
    found = []
    for model in dict.fromkeys(p.model for p in points):
        adam, soap = (
            sorted((p for p in points if (p.model, p.optimiser) == (model, name)), key=lambda p: p.passes)
            for name in ("adam", "soap")
        )
        for a, s in zip(adam, soap, strict=True):
            at, times = math.log(s.cpu_seconds), [math.log(p.cpu_seconds) for p in adam]
            equal_time_db = None
            if times[0] <= at <= times[-1]:
                equal_time_db = s.psnr_db - float(np.interp(at, times, [p.psnr_db for p in adam]))
            cpu_percent = 100 * (s.cpu_seconds / a.cpu_seconds - 1)
            found.append(Gain(model, a.passes, s.psnr_db - a.psnr_db, cpu_percent, equal_time_db))
    return found


@click.command()
@click.option("--slides", type=click.Path(path_type=Path), default=Path("../shared/slides"), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "optimisers.json", show_default=True)
def main(slides: Path, out: Path) -> None:
    """PSNR against CPU time of fits by Adam and by SOAP."""
    for name in (TUNED_ON, MEASURED_ON):
        if not (slides / name).exists():
            raise UsageError(f"{slides / name}: is not there; give the folder of the development images by --slides")
    tuned, points = list[Tuned](), list[Fitted]()
    for model in MODELS:
        race = Race(busiest(slides / TUNED_ON, TILE_PX), model)
        race.run([Optimiser(name) for name in OPTIMISERS], 1)  # what comes first in a process takes longer
        for rate in RATES:
            tried = race.run([Optimiser(name, rate) for name in OPTIMISERS], TUNING_PASSES)
            tuned += [Tuned(model, t.optimiser, t.rate, t.psnr_db) for t in tried]
            click.echo(", ".join(f"{model} {t.optimiser}, rate x {rate:g}: {t.psnr_db:.2f} dB" for t in tried))
        race = Race(busiest(slides / MEASURED_ON, SIDE * TILE_PX), model)
        for passes in PASSES:
            points += race.run(best(tuned, model), passes)
            for p in points[-2:]:
                click.echo(f"{model} {p.optimiser}: {p.steps} steps, {p.cpu_seconds:.1f} s, {p.psnr_db:.2f} dB")
    run = OptimisersRun(
        **head("python -m benchmarks.optimisers", library_versions()),
        tuned_on=TUNED_ON,
        measured_on=MEASURED_ON,
        tiles=SIDE**2,
        tile_px=TILE_PX,
        bpp=BPP,
        tuned=tuple(tuned),
        points=tuple(points),
        gains=tuple(gains(points)),
    )
    results.save(run, out)


if __name__ == "__main__":
    main()
