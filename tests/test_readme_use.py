"""README's sentences on patches and on many clients, from their records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from inrwsi.benchmarks import readme_use, results
from inrwsi.benchmarks.patches import PatchesRun
from inrwsi.benchmarks.readme_use import PATCHES, SERVED
from inrwsi.benchmarks.results import Spread
from inrwsi.benchmarks.serve_load import LoadRun

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def test_patches_go_from_the_slowest_order_to_the_fastest(tmp_path: Path) -> None:
    run = results.load(PatchesRun, RESULTS / "patches_quick.json")
    ratios = (0.4, 0.25, 0.3)
    speeds = tuple(
        replace(run.speeds[0], workers=n, ratio=Spread(0.01, ratio, 9.0, 3)) for n, ratio in enumerate(ratios)
    )
    slide = replace(run.slide, cinr_bytes=1_260_000, bytes_on_disk=88_700_000, step=1.98)
    machine = replace(run.machine, cores=4)
    results.save(replace(run, speeds=speeds, slide=slide, machine=machine), tmp_path / "patches_quick.json")
    (block,) = readme_use.blocks(tmp_path)
    assert block.markers == PATCHES
    assert block.text.startswith(
        "In one run on 4 cores, with 0 to 2 workers, patches at 2 level-0 pixels a pixel of a `.cinr` file of 1.3 MB "
        "came at 0.25 to 0.40 times the rate of OpenSlide's of its source of 89 MB (`python -m benchmarks.patches "
    )


def test_tiles_are_timed_by_those_of_openslide(tmp_path: Path) -> None:
    run = results.load(LoadRun, RESULTS / "serve_load.json")
    assert [server.server for server in run.servers] == ["inrwsi", "inrwsi, no tiles kept", "openslide"]
    times = ((20.0, 100.0), (30.0, 250.0), (40.0, 200.0))
    servers = tuple(
        replace(server, p50_ms=p50, p95_ms=p95, errors=2 * n)
        for n, (server, (p50, p95)) in enumerate(zip(run.servers, times, strict=True))
    )
    settings = run.settings | {"clients": 7, "seconds": 30.0}
    slide = run.slide | {"name": "some/slide.tiff"}
    results.save(replace(run, servers=servers, settings=settings, slide=slide), tmp_path / "serve_load.json")
    (block,) = readme_use.blocks(tmp_path)
    assert block.markers == SERVED
    assert block.text == (
        f"7 clients that pan for 30 seconds on {run.machine.cores} cores: 2 errors, and a tile in 0.50 (median) and "
        "0.50 (95th percentile) of the time that a Deep Zoom server on OpenSlide takes for the source slide in the "
        "same run; 0.75 (median) and 1.25 (95th percentile) where no tile is kept (`python -m benchmarks.serve_load "
        "--cinr slide.cinr --source slide.tiff`, [the record](benchmarks/results/serve_load.json))."
    )
