"""README's block and figure are those of the committed results, and a changed digit is seen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from inrwsi.benchmarks import readme
from inrwsi.benchmarks.results import Point
from inrwsi.errors import UsageError
from tests.synthetic_run import synthetic_models, synthetic_set

ROOT = Path(__file__).parent.parent


def synthetic() -> readme.Results:
    return readme.Results(synthetic_set(), synthetic_set(), synthetic_models())


def test_readme_and_figure_are_of_the_committed_results() -> None:
    differing = readme.stale(ROOT, readme.load_results(ROOT))
    assert [str(path.relative_to(ROOT)) for path in differing] == [], "run python -m benchmarks.readme"


def test_a_changed_digit_is_stale(tmp_path: Path) -> None:
    results = synthetic()
    page = tmp_path / "README.md"
    others = "\nbetween\n".join("\n".join(markers) for markers in (readme.OCTAVES, readme.MODELS))
    page.write_text(f"before\n{readme.BEGIN}\n{readme.END}\nbetween\n{others}\nafter\n", encoding="utf-8")
    for path, data in readme.stale(tmp_path, results).items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    assert readme.stale(tmp_path, results) == {}
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| **cinr** | **its own file** | **q=2.3** | **2.300** | **30.41** | **0.9714** | **0.914** |" in text
    page.write_text(text.replace("30.41", "30.42"), encoding="utf-8")
    assert list(readme.stale(tmp_path, results)) == [page]
    page.write_text(text, encoding="utf-8")
    figure = tmp_path / readme.FIGURE
    figure.write_bytes(figure.read_bytes() + b" ")
    assert list(readme.stale(tmp_path, results)) == [figure]


def test_block_says_means_ranges_times_and_refusals() -> None:
    block = readme.block(synthetic())
    # Equal on both made-up slides: mean, lowest and highest are one number.
    assert "| avif | 512 px tiles | -37.5 % (-37.5 % to -37.5 %) |" in block
    assert "| avif | one picture |" not in block
    assert "| jpeg-420 | 512 px tiles | q=1.1 | 1 x | 1 x | 1 x | 1,357 |" in block
    assert "cinr (its own file) by MS-SSIM against jpeg-420 (512 px tiles): a common range of 1.2 dB, not 2." in block
    assert "`python -m benchmarks.made_up`" in block
    assert "jpegxl 0.11.1, avif 1.4.0" in block


def test_times_are_told_as_multiples_of_the_peers_and_not_without_it() -> None:
    run = synthetic().speed.runs[0]

    def slower(point: Point) -> Point:
        if point.codec != "avif" or point.encode_mpx_s is None:
            return point
        views = tuple(replace(v, ms=replace(v.ms, median=v.ms.median * 3)) for v in point.views)
        return replace(
            point, encode_mpx_s=replace(point.encode_mpx_s, median=point.encode_mpx_s.median / 40), views=views
        )

    changed = replace(run, points=tuple(map(slower, run.points)))
    rows = {row[0]: row for row in readme.speeds(changed).rows}
    assert rows["avif"][3:6] == ("0.025 x", "1 x", "3 x")
    without = replace(run, points=tuple(p for p in run.points if p.codec != readme.PEER))
    with pytest.raises(UsageError, match="no times of jpeg2000"):
        readme.speeds(without)


def test_figure_stands_alone_and_is_the_same_each_time() -> None:
    figure = readme.figure(synthetic())
    assert figure.startswith('<svg xmlns="http://www.w3.org/2000/svg" ')
    assert "prefers-color-scheme:dark" in figure
    assert figure.count("http") == 1
    assert figure == readme.figure(synthetic())


@pytest.mark.parametrize(
    "text",
    [
        "nothing",
        f"{readme.BEGIN}",
        f"{readme.END}{readme.BEGIN}",
        f"{readme.BEGIN}{readme.END}{readme.END}",
        f"{readme.BEGIN}{readme.BEGIN}{readme.END}",
    ],
)
def test_markers_must_stand_once_in_order(text: str) -> None:
    with pytest.raises(UsageError, match="must stand there once each"):
        readme.replaced(text, "new")
