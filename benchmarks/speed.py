"""The README's times: `python -m benchmarks.speed [--quick]`, into results/speed.json.

One piece of the complete duodenum slide, glass and all, at the middle setting of every codec: encoding, decoding, and
what a viewer asks for, from closed files. Every codec may use all cores. Cut short, the same command goes on.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from inrwsi.benchmarks.codecs_ours import other_codecs, our_codecs
from inrwsi.benchmarks.fixed import PARTIAL, SEED, find_complete, finish, options
from inrwsi.benchmarks.pilot import choose_picture
from inrwsi.benchmarks.plan import Plan
from inrwsi.benchmarks.results import RunSet
from inrwsi.benchmarks.run import Bench, run_all
from inrwsi.benchmarks.sampling import TILE_PX, find_cells
from inrwsi.formats.source import SlideSource, open_source
from inrwsi.progress import Report

SIDE_PX, QUICK_SIDE_PX = 3072, 1024
PASSES, QUICK_PASSES = 2, 1


@click.command()
@options
def main(slides: Path, complete: Path | None, quick: bool) -> None:
    """How fast every codec is, and what it reads, on one piece of a slide."""
    command = f"python -m benchmarks.speed{' --quick' if quick else ''}"
    folder = PARTIAL / f"speed{'_quick' if quick else ''}"

    def make(report: Report) -> RunSet | None:
        path = find_complete(slides, complete)
        if path is None:
            return None
        ours = our_codecs(("octaves", "cinr"), passes=QUICK_PASSES if quick else PASSES, device="cpu", progress=report)
        with open_source(path) as source, piece(source, QUICK_SIDE_PX if quick else SIDE_PX) as small:
            picture = choose_picture(small, folder, seed=SEED, full=True)
            plan = Plan(
                (*other_codecs(), *ours), quick, SEED, folder, middle_only=True, with_source=False, report=report
            )
            return RunSet(command, (run_all(small, Bench(picture, plan), command=command),))

    finish("speed", quick, make)


def piece(source: SlideSource, side_px: int) -> SlideSource:
    """The square of `side_px` with the most squares of tissue in it, as a slide of its own."""
    cells = find_cells(source)
    grid = np.zeros((source.height // TILE_PX, source.width // TILE_PX), np.int64)
    grid[cells.ij[:, 1], cells.ij[:, 0]] = 1
    side = min(side_px // TILE_PX, *grid.shape)
    windows = np.lib.stride_tricks.sliding_window_view(grid, (side, side)).sum(axis=(2, 3))
    row, column = np.unravel_index(windows.argmax(), windows.shape)
    pixels = source.read((int(column) * TILE_PX, int(row) * TILE_PX), (side * TILE_PX, side * TILE_PX))
    small = open_source(pixels, mpp_um=source.mpp_um, objective_power=source.objective_power)
    small.name = source.name
    return small


if __name__ == "__main__":
    main()
