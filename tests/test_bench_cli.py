"""`inrwsi bench` from a file to a report whose numbers are those of the files."""

from __future__ import annotations

import json
from pathlib import Path

import click
import imagecodecs
import numpy as np
import pytest
from click.testing import CliRunner, Result

from inrwsi.benchmarks import results
from inrwsi.benchmarks.results import Run
from inrwsi.cli.bench import bench
from inrwsi.cli.main import HouseGroup
from inrwsi.sample import sample_region

SIDE = 400


def run(*arguments: object) -> Result:
    group = HouseGroup("inrwsi", params=[click.Option(["--debug"], is_flag=True)])
    group.add_command(bench)
    return CliRunner().invoke(group, ["bench", *map(str, arguments)])


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "made.png"
    path.write_bytes(imagecodecs.png_encode(sample_region((900, 900), (SIDE, SIDE), size_wh=(2048, 2048), seed=1)))
    return path


def test_a_report_holds_what_was_measured(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report"
    found = run(slide, "--out", out, "--quick", "--codec", "jpeg-420", "--codec", "webp", "--model", "none", "-q")
    assert found.exit_code == 0, found.output
    assert found.stdout == f"{out / 'report.html'}\n"
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "report.json"]
    measured = results.load(Run, out / "report.json")
    assert measured.command == "inrwsi bench made.png --out report --quick --codec jpeg-420 --codec webp --model none"
    assert [(p.codec, p.layout) for p in measured.points] == [
        ("source", "file"),
        *[("jpeg-420", "tiled512")] * 3,
        *[("jpeg-420", "whole")] * 3,
        *[("webp", "tiled512")] * 3,
        *[("webp", "whole")] * 3,
    ]
    assert measured.points[0].file_bytes == slide.stat().st_size
    pixels = imagecodecs.png_decode(slide.read_bytes())
    coded = imagecodecs.jpeg8_encode(pixels, 60, subsampling="420", optimize=True)
    whole = next(p for p in measured.points if (p.layout, p.setting) == ("whole", "q=60"))
    assert whole.file_bytes == len(coded)
    mse = np.mean((imagecodecs.jpeg8_decode(coded).astype(float) - pixels) ** 2)
    assert whole.metrics["psnr_rgb"] == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-4)
    tiled = next(p for p in measured.points if (p.layout, p.setting) == ("tiled512", "q=60"))
    assert tiled.file_bytes == 16 + 8 + len(coded)
    assert {r.codec for r in measured.bd if r.rate_percent is not None} == {"jpeg-420", "webp"}
    assert "libwebp" in measured.versions
    page = (out / "report.html").read_text()
    assert "made.png" in page
    assert page.count("data:image/webp") >= 3  # the original, and each codec at about a bit a pixel


def test_a_run_that_was_cut_short_goes_on(slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inrwsi.benchmarks import bench_slide

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    arguments = (slide, "--out", tmp_path, "--quick", "--codec", "jpeg-420", "--model", "none", "-q")
    with monkeypatch.context() as patch:
        patch.setattr(bench_slide.report, "write", fail)
        assert run(*arguments).exit_code == 130
    partial = sorted((tmp_path / ".partial").glob("*.json"))
    assert len(partial) == 6
    data = json.loads(partial[0].read_text())
    data["metrics"]["ssim"] = 0.125
    partial[0].write_text(json.dumps(data))
    assert run(*arguments).exit_code == 0
    assert not (tmp_path / ".partial").exists()
    found = results.load(Run, tmp_path / "report.json")
    assert [p.metrics["ssim"] for p in found.points if p.metrics].count(0.125) == 1


def test_a_rate_that_no_file_has_is_noted_and_the_rest_measured(slide: Path, tmp_path: Path) -> None:
    asked = ("--model", "octaves", "--bpp", "0.02")
    found = run(slide, "--out", tmp_path, "--quick", "--codec", "jpeg-420", *asked, "-q")
    assert found.exit_code == 0, found.output
    measured = results.load(Run, tmp_path / "report.json")
    assert {p.codec for p in measured.points} == {"source", "jpeg-420"}
    sentence = (
        "octaves file bpp=0.02: not measured: --ratio 1,200 cannot be reached on this slide; the nearest that was"
    )
    assert any(note.startswith(sentence) for note in measured.notes)
    assert sentence in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--quick", "--full"), "--quick and --full are given"),
        (("--codec", "gif"), "--codec gif: there is no such codec"),
        (("--model", "nobody"), "--model nobody: there is no such model"),
        (("--task", "absent.pt"), "absent.pt: no such file"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    arguments: tuple[str, ...], sentence: str, slide: Path, tmp_path: Path
) -> None:
    found = run(slide, "--out", tmp_path / "out", *arguments)
    assert found.exit_code == 2
    assert sentence in found.stderr
    assert not (tmp_path / "out").exists()


def test_a_slide_that_is_not_there_is_told(tmp_path: Path) -> None:
    found = run(tmp_path / "absent.svs", "--out", tmp_path / "out", "--model", "none")
    assert found.exit_code == 2
    assert "absent.svs: no such file" in found.stderr
    assert not (tmp_path / "out").exists()


def test_a_report_that_is_there_is_not_lost(slide: Path, tmp_path: Path) -> None:
    """Another slide's, as likely as not: the folder has the same name for all."""
    (tmp_path / "report.html").write_text("of another slide")
    arguments = (slide, "--out", tmp_path, "--quick", "--codec", "jpeg-420", "--model", "none", "-q")
    found = run(*arguments)
    assert found.exit_code == 2
    assert "report.html: is there already; give --overwrite, or another folder with --out" in found.stderr
    assert [p.read_text() for p in tmp_path.iterdir()] == ["of another slide"]
    assert run(*arguments, "--overwrite").exit_code == 0
    assert "overwrite" not in results.load(Run, tmp_path / "report.json").command
