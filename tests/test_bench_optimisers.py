"""Optimisers side by side, and ratios asked and got: gains of made-up points, files of a generated picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from inrwsi.benchmarks import optimisers, ratios, readme
from inrwsi.benchmarks.optimisers import Fitted, OptimisersRun, Race, Tuned, best, gains
from inrwsi.benchmarks.ratios import Ratio, RatiosRun
from inrwsi.benchmarks.readme import Results, stale
from inrwsi.benchmarks.readme_fields import blocks, hybrid
from inrwsi.benchmarks.record import head
from inrwsi.benchmarks.report_tables import NONE
from inrwsi.benchmarks.results import save
from inrwsi.errors import UsageError
from inrwsi.fit.optimisers import Optimiser
from inrwsi.sample import sample_region
from tests.synthetic_run import synthetic_models, synthetic_set


def test_gains_are_those_of_the_curves() -> None:
    """Adam gains 2 dB a doubling of time; SOAP is 0.5 dB better after as many steps, of half as much time again."""

    def point(name: str, passes: int, seconds: float, psnr_db: float) -> Fitted:
        return Fitted("inif", name, 1.0, passes, 16 * passes, seconds, 1000, psnr_db)

    adam = [point("adam", n, n / 10, db) for n, db in ((10, 28.0), (20, 30.0), (40, 32.0))]
    soap = [point("soap", n, 1.5 * n / 10, db + 0.5) for n, db in ((10, 28.0), (20, 30.0), (40, 32.0))]
    found = gains([*soap, *adam])
    assert [g.passes for g in found] == [10, 20, 40]
    assert [g.equal_steps_db for g in found] == pytest.approx([0.5] * 3)
    assert [g.cpu_percent for g in found] == pytest.approx([50] * 3)
    assert [g.equal_time_db for g in found[:2]] == pytest.approx([-0.66993] * 2, abs=1e-5)
    assert found[2].equal_time_db is None


def test_the_best_rate_is_of_the_model() -> None:
    tuned = [
        *(Tuned("inif", "adam", rate, db) for rate, db in ((0.5, 29.0), (1.0, 31.0), (2.0, 30.0))),
        *(Tuned("inif", "soap", rate, db) for rate, db in ((0.5, 32.0), (1.0, 31.0))),
        Tuned("siren", "adam", 2.0, 40.0),
    ]
    assert best(tuned, "inif") == [Optimiser("adam", 1.0), Optimiser("soap", 0.5)]


def test_a_race_is_of_files() -> None:
    pixels = sample_region((900, 900), (128, 64), size_wh=(2048, 2048), seed=1)
    adam, soap, once = Race(pixels, "inif", 64).run([Optimiser(), Optimiser("soap"), Optimiser()], 16)
    assert adam.steps == soap.steps == 2 * 16 * 4  # two tiles of 64 x 64, 1024 pixels a step
    assert (adam.file_bytes, adam.psnr_db) == (once.file_bytes, once.psnr_db)
    assert adam.psnr_db != soap.psnr_db
    assert min(adam.psnr_db, soap.psnr_db) > 21  # the mean colour alone gives 15
    assert 8 * adam.file_bytes / (128 * 64) == pytest.approx(optimisers.BPP, rel=0.5)
    with pytest.raises(UsageError, match="model ngp has one network a slide"):
        Race(pixels, "ngp")


def test_a_ratio_of_512_is_met_or_refused(tmp_path: Path) -> None:
    """Of 512 x 512 pixels, in a file of 1,536 bytes, header and index and all; a hash grid's network is larger."""
    rgb = sample_region((900, 900), (512, 512), size_wh=(2048, 2048), seed=1)
    calls = []

    def make(model: str, asked: float) -> Ratio:
        calls.append((model, asked))
        if len(calls) == 8:
            raise KeyboardInterrupt
        return (
            ratios.measure(rgb, model, asked, 1)
            if (model, asked) in (("inif", 512), ("ngp", 64))
            else Ratio(model, asked)
        )

    with pytest.raises(KeyboardInterrupt):
        ratios.all_rows(tmp_path / "some.partial", make)
    rows = {(row.model, row.asked): row for row in ratios.all_rows(tmp_path / "some.partial", make)}
    assert len(calls) == len(set(calls)) + 1 == len(rows) + 1 == 22
    met, refused = rows["inif", 512], rows["ngp", 64]
    assert met.file_bytes == pytest.approx(1536, rel=0.02)
    assert met.got == pytest.approx(512, rel=0.02)
    assert met.tile_px == 256
    assert refused.file_bytes == 0
    assert refused.refused.startswith("--ratio 64 cannot be reached on this slide with model ngp; the nearest that was")


def test_the_readme_says_what_was_measured(tmp_path: Path) -> None:
    record: dict[str, Any] = head("python -m benchmarks.made_up", {})
    points = tuple(
        Fitted("inif", name, rate, n, 16 * n, seconds * n, 900, db + n / 10)
        for n in (10, 20)
        for name, rate, seconds, db in (("adam", 1.0, 0.1, 30.0), ("soap", 0.7, 0.12, 30.25))
    )
    save(OptimisersRun(**record, tuned_on="a.png", measured_on="b.png", tiles=4, tile_px=128, bpp=2.0, tuned=(),
                       points=points, gains=tuple(gains(points))), tmp_path / "optimisers.json")  # fmt: skip
    rows = (Ratio("inif", 512, 511.6, 24_595, 256, 14.0), Ratio("ngp", 512, refused="--ratio 512 cannot be reached"))
    save(RatiosRun(**record, slide="c.png", side_px=2048, passes=1, rows=rows), tmp_path / "ratios.json")
    optimisers_block, ratios_block = blocks(tmp_path)
    assert "1 of `inif` by Adam, 0.7 of `inif` by SOAP" in optimisers_block.text
    assert optimisers_block.table.rows == (
        ("`inif`", "10", "31.00", "31.25", "+20 %", "-0.01"),
        ("`inif`", "20", "32.00", "32.25", "+20 %", NONE),
    )
    assert ratios_block.table.rows == (("`inif`", "511.6"), ("`ngp`", "refused"))
    assert blocks(tmp_path / "none") == ()
    row = {"what": "siren", "bpp": 1.0, "psnr_db": 31.62, "seconds": 50.0}
    alone = {"what": "jpeg", "bpp": 0.99, "psnr_db": 33.48, "seconds": 0.01}
    both = {**row, "what": "jpeg + siren", "psnr_db": 30.98, "base_psnr_db": 30.7, "seconds": 29.0}
    _, table = hybrid({"command": "", "slide": "", "pixels": "", "rows": [row, alone, both]})
    assert table.rows == (("1", "jpeg", "31.62", "33.48", "30.98", "30.70", "0.58 x"),)
    page = tmp_path / "README.md"
    page.write_text("".join((*readme_markers(), *optimisers_block.markers, *ratios_block.markers)), encoding="utf-8")
    own = (optimisers_block, ratios_block)
    found = stale(tmp_path, Results(synthetic_set(), synthetic_set(), synthetic_models(), blocks=own))
    assert b"| `inif` | 20 | 32.00 | 32.25 | +20 % |" in found[page]
    assert b"| `ngp` | refused |" in found[page]


def readme_markers() -> tuple[str, ...]:
    return (readme.BEGIN, readme.END, *readme.OCTAVES, *readme.MODELS)
