"""All models beside the codecs: what is said of them is of the files, and none can be forgotten."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import pytest
from click.testing import CliRunner

from inrwsi.benchmarks import fixed, rate_distortion, readme_models
from inrwsi.benchmarks.codecs import FILE, Codec
from inrwsi.benchmarks.codecs_ours import other_codecs
from inrwsi.benchmarks.plan import Plan
from inrwsi.benchmarks.results import Run, RunSet, load, save
from inrwsi.benchmarks.run import Bench
from inrwsi.benchmarks.sampling import Picture
from inrwsi.decode import Decoder
from inrwsi.errors import UsageError
from inrwsi.fields.models import config_class, model_names
from inrwsi.formats.source import open_source
from inrwsi.metrics import psnr
from inrwsi.options import known_models
from inrwsi.sample import sample_region
from tests.synthetic_run import synthetic_models

SIDE = 96
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Picture, Sequence[Codec], Path]:
    """Two models and two codecs on a generated crop."""
    folder = tmp_path_factory.mktemp("models")
    pixels = sample_region((900, 900), (SIDE, SIDE), size_wh=(2048, 2048), seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rate_distortion, "SHARE", 30)
        ours = rate_distortion.fitted_by_share(("siren", "octaves"), (4.0,))
    few = {"octaves": (50.0,), "jpeg-420": (75,), "jpeg2000": (33, 37)}
    codecs = [replace(c, ladder=few.get(c.name, c.ladder)) for c in (*other_codecs(("jpeg-420", "jpeg2000")), *ours)]  # type: ignore[type-var]
    with open_source(pixels, mpp_um=(0.5, 0.5), objective_power=20) as crop:
        picture = rate_distortion.crop_picture(crop, "slide.tiff", (70, 80))
        run = rate_distortion.compare(crop, picture, codecs, folder, lambda _: None, "python -m made_up")
    save(RunSet("python -m made_up", (run,)), folder / "models.json")
    return load(RunSet, folder / "models.json").runs[0], picture, codecs, folder


def test_bytes_and_quality_are_those_of_the_files(
    measured: tuple[Run, Picture, Sequence[Codec], Path],
) -> None:
    run, picture, codecs, folder = measured
    assert [(p.codec, p.setting) for p in run.points] == [
        ("jpeg-420", "q=75"),
        ("jpeg2000", "33 dB"),
        ("jpeg2000", "37 dB"),
        ("octaves", "quality=50"),
        ("siren", "bpp=4"),
    ]
    bench = Bench(picture, Plan(tuple(codecs), False, rate_distortion.SEED, folder))
    coded = imagecodecs.jpeg8_encode(picture.pixels, 75, subsampling="420", optimize=True)
    assert run.points[0].file_bytes == 16 + 8 + len(coded)  # one tile of a pack
    assert run.points[0].metrics["psnr_rgb"] == pytest.approx(psnr(picture.pixels, imagecodecs.jpeg8_decode(coded)))
    for point in run.points[3:]:
        path = bench.kept_file(point)
        assert path is not None
        assert point.file_bytes == os.stat(path).st_size
        with Decoder(path) as decoder:
            decoded = decoder.read_region((0, 0), (SIDE, SIDE))
        assert point.metrics["psnr_rgb"] == pytest.approx(psnr(picture.pixels, decoded), abs=1e-3)
        assert point.bpp == pytest.approx(8 * point.file_bytes / SIDE**2)
    assert 4 * SIDE**2 / 8 * 0.98 < run.points[4].file_bytes < 4 * SIDE**2 / 8 + 700
    assert "fitted to the pixels in 2 passes" in run.settings["codecs"]["siren"]


def test_the_crop_says_where_it_lay_and_a_fit_takes_the_most_cpu(
    measured: tuple[Run, Picture, Sequence[Codec], Path],
) -> None:
    run = measured[0]
    assert (run.slide.name, run.sample.l0_xy, run.sample.picture_wh) == ("slide.tiff", ((70, 80),), (SIDE, SIDE))
    assert run.sample.text.startswith("the crop of 96 x 96 pixels at 70, 80, ")
    seconds = [p.encode_cpu_s.median for p in run.points if p.encode_cpu_s]
    assert seconds.index(max(seconds)) == 4
    assert [p.encode_cpu_s.repeats for p in run.points if p.encode_cpu_s] == [3, 1, 3, 3, 3]
    assert not any(p.views for p in run.points)


def test_a_model_that_was_not_measured_is_noticed(measured: tuple[Run, Picture, Sequence[Codec], Path]) -> None:
    missing = ", ".join(name for name in known_models() if name not in ("octaves", "siren"))
    with pytest.raises(UsageError, match=f"lacks {missing}; run python -m made_up"):
        readme_models.paragraphs(measured[0])
    whole = synthetic_models().runs[0]
    without = replace(whole, points=tuple(p for p in whole.points if p.codec != "conv-inr"))
    for draw in (readme_models.paragraphs, readme_models.figure):
        with pytest.raises(UsageError, match=r"results/models.json: lacks conv-inr; run inrwsi bench"):
            draw(without)
    without = replace(whole, points=tuple(p for p in whole.points if p.codec != readme_models.PEER))
    with pytest.raises(UsageError, match="lacks times of jpeg2000"):
        readme_models.paragraphs(without)


def test_every_model_is_in_the_table_with_what_it_takes_beside_the_peer() -> None:
    run = synthetic_models().runs[0]
    texts = [text for text, _ in readme_models.paragraphs(run)]
    text = texts[0]
    assert "`made-up-crop.tiff`, made-up numbers, nothing was measured" in text
    assert texts[-1].endswith("2 of 6 `cinr`, `engp`, `ngp`; 2 of 60 `conv-inr`, `fourier`, `inif`, `siren`.")
    table = readme_models.times_table(run)
    assert [row[0] for row in table.rows] == [
        *("octaves", "octaves"),
        *(name for name in model_names() for _ in range(2)),
        *("jpeg-420", "jpeg-420", "jpeg2000", "jpeg2000", "avif", "avif"),
    ]
    lines = {row[:2]: row[2:] for row in table.rows}
    # Of octaves and the codecs the nearest to 1 and to 4 bpp.
    assert [setting for name, setting in lines if name == "avif"] == ["q=1.1", "q=3.9"]
    # The first of eleven takes 8 s of 4.19 Mpx, jpeg2000 ten times as long.
    assert lines["cinr", "bpp=1"] == ("524,288", "1.000", "30.12", "0.9694", "1.91 (0.1 x)", "1.91 (0.1 x)")
    assert lines["jpeg2000", "q=1.1"][-1] == "19.1 (1 x)"


def test_the_figure_names_every_curve_beside_it() -> None:
    run = synthetic_models().runs[0]
    figure = readme_models.figure(run)
    assert figure == readme_models.figure(run)
    root = ElementTree.fromstring(figure)
    names = [e for e in root.iter(f"{SVG}text") if e.get("class") == "key"]
    assert {e.text for e in names} == {p.codec for p in run.points}
    rows = [float(e.get("y") or 0) for e in names]
    assert rows == sorted(rows)
    assert min(b - a for a, b in pairwise(rows)) >= 16.9
    assert rows[-1] <= 356
    assert [names[0].text, names[-1].text] == ["cinr", "avif"]  # best and worst at the right end
    assert len({g.get("class") for g in root.iter(f"{SVG}g") if "main" in str(g.get("class"))}) == len(known_models())
    assert len(re.findall("<title>", figure)) == len(run.points)


def test_a_share_of_a_model_s_own_passes_and_the_slowest_last() -> None:
    codecs = rate_distortion.fitted_by_share(known_models(), (1.0, 4.0))
    assert [codecs[0].name, codecs[-1].name] == ["octaves", "engp"]
    assert {c.name: c.passes for c in codecs} == {"octaves": 0, "engp": 1} | {
        name: config_class(name).passes // 3 for name in model_names() if name != "engp"
    }
    assert {c.ladder for c in codecs[1:]} == {(1.0, 4.0)}
    assert len(codecs[0].ladder) == 5
    assert {c.layouts for c in codecs} == {(FILE,)}


def test_the_command_takes_one_set_and_needs_the_slide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fixed, "RESULTS", tmp_path / "results")
    found = CliRunner().invoke(rate_distortion.main, ["--models", "--quick"])
    assert found.exit_code == 2
    assert "--quick and --models are given; give one of them" in found.stderr
    found = CliRunner().invoke(rate_distortion.main, ["--models", "--slides", str(tmp_path)])
    assert found.exit_code == 2
    assert "models: none of the slides is there" in found.stderr
    assert not (tmp_path / "results").exists()


def test_crops_are_of_the_pixels_that_they_say() -> None:
    pixels = sample_region((0, 0), (SIDE, SIDE), size_wh=(2048, 2048), seed=1)
    with open_source(pixels, mpp_um=(0.5, 0.5)) as crop:
        assert np.array_equal(rate_distortion.crop_picture(crop, "a", (0, 0)).pixels, pixels)
