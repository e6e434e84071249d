"""The learning-rate schedule of the `cinr` fit against the reference's constant 1e-5, on the same pixels.

    python -m benchmarks.schedule [--slide PATH] [--seconds 120] [--out DIR]

Both fit the same network and tables, from the same seed, to the same four 512x512 tiles, for the same number of steps
(those that fill the time), in floats, without rounding, and are measured over 20 batches at a time. The JSON goes to
DIR/schedule.json.
"""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from inrwsi.config import to_dict
from inrwsi.fields.models.cinr import CinrConfig
from inrwsi.fit import tables
from inrwsi.formats.source import open_source
from inrwsi.job import write_whole

from .probe import machine

TILE_PX = 512
TILES_A_SIDE = 2
BPP = 4.0
WINDOW = 20


@click.command()
@click.option(
    "--slide",
    type=click.Path(path_type=Path),
    default=Path("../shared/slides/liver-HE.png"),
    show_default=True,
    help="The middle of it is fitted.",
)
@click.option("--seconds", type=click.FloatRange(1), default=120.0, show_default=True, help="For each schedule.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("benchmarks/results"), show_default=True, help="Folder."
)
def main(slide: Path, seconds: float, out: Path) -> None:
    """Fit the same tiles under both schedules and print PSNR against time."""
    tiles = middle_tiles(slide)
    steps = planned_steps(tiles, seconds)
    schedules = {"ours": tables.Schedule(), "reference": tables.REFERENCE_SCHEDULE}
    runs = {name: run(tiles, schedule, steps) for name, schedule in schedules.items()}
    for name, points in runs.items():
        shown = points[:: max(1, len(points) // 6)]
        click.echo(f"{name:10}" + "".join(f"  {p['seconds']:5.0f} s {p['psnr_db']:5.2f} dB" for p in shown))
    record = {
        "command": f"python -m benchmarks.schedule --slide {slide.name} --seconds {seconds:g}",
        "slide": slide.name,
        "pixels": f"{TILES_A_SIDE**2} tiles of {TILE_PX} px from the middle",
        "settings": {"bpp": BPP, "seconds": seconds, "steps": steps},
        "machine": to_dict(machine()),
        "versions": {name: version(name) for name in ("inrwsi", "torch")},
        "runs": runs,
    }
    write_whole(out / "schedule.json", json.dumps(record, indent=1).encode() + b"\n")


def middle_tiles(slide: Path) -> list[np.ndarray]:
    """(512, 512, 3) uint8 each, from the middle of the slide."""
    with open_source(slide) as source:
        side = TILE_PX * TILES_A_SIDE
        x, y = (source.width - side) // 2, (source.height - side) // 2
        steps = range(0, side, TILE_PX)
        return [source.read((x + dx, y + dy), (TILE_PX, TILE_PX)) for dy in steps for dx in steps]


def network_fit(tiles: list[np.ndarray], schedule: tables.Schedule, steps: int) -> tables.NetworkFit:
    """A joint fit that stays in floats: its rounding would begin after the last step."""
    config = CinrConfig.for_bpp(BPP, TILE_PX)
    fit = tables.NetworkFit(
        config, TILE_PX, tiles, steps=steps, batch=2, seed=0, device=torch.device("cpu"), schedule=schedule
    )
    fit.rounding_from = steps + 1
    return fit


def planned_steps(tiles: list[np.ndarray], seconds: float) -> int:
    """How many steps fit into the time, from a few of them: a cosine has to know where it ends."""
    fit = network_fit(tiles, tables.Schedule(), 1000)
    fit.step()
    began = time.perf_counter()
    for _ in range(10):
        fit.step()
    return max(WINDOW, int(seconds / ((time.perf_counter() - began) / 10)))


def run(tiles: list[np.ndarray], schedule: tables.Schedule, steps: int) -> list[dict[str, Any]]:
    """PSNR of the last `WINDOW` batches against time and steps."""
    fit = network_fit(tiles, schedule, steps)
    points: list[dict[str, Any]] = []
    errors: list[float] = []
    began = time.perf_counter()
    while fit.step_number < steps:
        errors.append(fit.step()[1])
        if fit.step_number % WINDOW == 0:
            psnr_db = 10 * float(np.log10(255**2 / np.mean(errors[-WINDOW:])))
            spent = time.perf_counter() - began
            points.append({"step": fit.step_number, "seconds": round(spent, 1), "psnr_db": round(psnr_db, 3)})
    return points


if __name__ == "__main__":
    main()
