"""The load benchmark: where its clients look, what it counts, and a short run of both servers."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from inrwsi.benchmarks.serve_load import SERVERS, Tally, line, main, summary
from inrwsi.benchmarks.serve_walk import SCREEN_WH, Walk
from inrwsi.errors import UsageError
from inrwsi.serve.deepzoom import DeepZoom
from tests.conftest import Encoded

L0_WH = (40_000, 25_001)


def test_a_walk_stays_on_the_slide_and_asks_nothing_twice() -> None:
    zoom, walk = DeepZoom(L0_WH), Walk(L0_WH, 7)
    views = list(itertools.islice(walk, 300))
    tiles = [tile for view in views for tile in view]
    assert len(tiles) == len(set(tiles))
    for level, column, row in tiles:
        assert not zoom.tile(level, (column, row)).empty
    # 1250 x 782 pixels: the slide as a whole, the first thing on the screen.
    assert views[0] == [(11, column, row) for row in range(4) for column in range(5)]
    assert max(map(len, views)) <= (SCREEN_WH[0] // 256 + 2) * (SCREEN_WH[1] // 256 + 2)
    assert {level for level, _, _ in tiles} == set(range(11, 17))
    assert list(itertools.islice(walk.again(), 300)) == views
    assert list(itertools.islice(Walk(L0_WH, 8), 300)) != views


def test_a_walk_on_a_slide_smaller_than_the_screen() -> None:
    walk = Walk((300, 20), 1)
    assert [next(walk) for _ in range(50)] == [[(9, 0, 0), (9, 1, 0)], *[[]] * 49]
    assert 0.5 <= walk.pause_s(1.0) <= 1.5


def test_what_is_counted() -> None:
    load = summary("x", Tally([k / 1000 for k in range(1, 102)], 5000, ["first", "second"]), 10.0, 12.5)
    assert (load.tiles, load.errors, load.first_error, load.tiles_a_second) == (101, 2, "first", 10.1)
    assert (load.p50_ms, load.p95_ms, load.max_ms) == (51, 96, 101)
    assert line(load) == "101 tiles, 2 errors, 10.1 tiles/s; p50 51 ms, p95 96 ms, most 101 ms a tile"
    assert summary("x", Tally([0.5]), 1.0, None).p95_ms == 500
    with pytest.raises(UsageError, match="x: no tile came in 3 s \\(refused\\)"):
        summary("x", Tally(errors=["refused"]), 3.0, None)


def test_a_short_run(encoded: Encoded, tmp_path: Path) -> None:
    """Every server is asked the same tiles: all of the slide, once a client, in so short a walk."""
    Image.fromarray(encoded.pixels).save(tmp_path / "source.png")
    arguments = ["--cinr", encoded.path, "--source", tmp_path / "source.png", "--out", tmp_path / "new" / "load.json"]
    result = CliRunner().invoke(main, [*map(str, arguments), "--seconds", "0.5", "--clients", "3", "--look", "0.01"])
    assert result.exit_code == 0, result.output
    run = json.loads((tmp_path / "new" / "load.json").read_text())
    assert [load["server"] for load in run["servers"]] == list(SERVERS)
    assert [(load["tiles"], load["errors"], load["first_error"]) for load in run["servers"]] == [(3, 0, "")] * 3
    assert all(0 < load["p50_ms"] <= load["p95_ms"] <= load["max_ms"] for load in run["servers"])
    ours, anew, theirs = (load["bytes_sent"] for load in run["servers"])
    assert ours == anew
    assert theirs != ours
    assert (run["slide"]["width"], run["slide"]["height"]) == (200, 140)
    assert run["settings"]["clients"] == 3
    assert set(run["versions"]) >= {"inrwsi", "openslide-python", "uvicorn", "aiohttp"}


def test_mistakes(encoded: Encoded, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(tmp_path / "source.png")
    out = tmp_path / "load.json"
    for cinr, source, sentence in (
        (tmp_path / "no.cinr", tmp_path / "source.png", "no such file or folder"),
        (encoded.path, tmp_path / "no.png", "no such file"),
        (encoded.path, tmp_path / "source.png", "is 5 x 5 pixels, and"),
    ):
        result = CliRunner().invoke(main, ["--cinr", str(cinr), "--source", str(source), "--out", str(out)])
        assert (result.exit_code, sentence in result.output) == (2, True)
    assert not out.exists()
