"""README's part on the default model: a summary of all runs, times, and each run's groups and values to unfold."""

from __future__ import annotations

from dataclasses import replace

from inrwsi.benchmarks import readme_octaves
from inrwsi.benchmarks.octaves_results import CROP, HELD_OUT, TISSUE, TRAINED, Mean, OctavesRun, Verdict
from inrwsi.benchmarks.probe import machine
from tests.octaves_run import speed, subject


def mean(peer: str, area: str, metric: str, group: str, percent: float, of: int, worst: str) -> Mean:
    return Mean(peer, area, metric, group, percent, of, of, worst, percent + 10)


def crops() -> OctavesRun:
    names = ("all", TRAINED, HELD_OUT)
    means = tuple(
        mean(peer, CROP, metric, group, base - 10 * place, (3, 2, 1)[place], "b.png")
        for metric, base in (("psnr_rgb", -20.0), ("ms_ssim", 4.0))
        for peer in ("jpeg-420", "avif")
        for place, group in enumerate(names)
    )
    verdicts = (
        Verdict("bits at equal PSNR", -20.0, -5.0, True),
        Verdict("bits at equal MS-SSIM", 4.0, 0.0, False),
        Verdict("native, ms", None, 80.0, False),
    )
    subjects = tuple(subject(f"{name}.png", TRAINED) for name in "abc")
    settings = {"effort": "fast", "tune": "balanced"}
    return OctavesRun(
        "python -m made", "2026", machine(), {}, settings, subjects, (), (), means, verdicts, speed(), ("peers kept",)
    )


def slide() -> OctavesRun:
    means = tuple(
        mean("avif", TISSUE, "psnr_rgb", group, -24.8, 1, "slide.tiff") for group in ("all", TRAINED, HELD_OUT)
    )
    bars = (Verdict("bits", -24.8, -12.0, True),)
    settings = {"effort": "default", "tune": "ms-ssim"}
    return replace(
        crops(), settings=settings, subjects=(subject("slide.tiff", TRAINED),), means=means, verdicts=bars, speed=None
    )


def test_the_summary_has_a_line_a_run_area_and_metric() -> None:
    (_, table), *_ = readme_octaves.paragraphs([crops(), slide()])
    assert table is not None
    assert table.heads == ("pixels", "encoded with", "at equal", "jpeg-420", "avif")
    assert table.rows == (
        ("3 crops, 3 trained on", "`--effort fast`", "PSNR", "-20.0 %", "-20.0 %"),
        ("1 of them, held out", "`--effort fast`", "PSNR", "-40.0 %", "-40.0 %"),
        ("3 crops, 3 trained on", "`--effort fast`", "MS-SSIM", "**+4.0 %**", "**+4.0 %**"),
        ("1 of them, held out", "`--effort fast`", "MS-SSIM", "-16.0 %", "-16.0 %"),
        (
            "slide.tiff, 51.1 Mpx of tiles with any tissue, trained on",
            "`--effort default --tune ms-ssim`",
            "PSNR",
            "-",
            "-24.8 %",
        ),
    )


def test_what_a_mean_is_not_of_is_told() -> None:
    """A refused comparison counts for nothing, and a curve that ends early says nothing of finer steps."""
    means = (
        replace(mean("avif", CROP, "psnr_rgb", "all", -9.0, 16, "b.png"), count=15, peer_bpp=(0.3, 0.9)),
        replace(mean("jpeg-420", CROP, "psnr_rgb", "all", -9.0, 1, "b.png"), peer_bpp=(0.3, 0.87)),
        replace(mean("jpegxl", CROP, "psnr_rgb", "all", 9.0, 1, "b.png"), peer_bpp=(0.3, 1.99)),
    )
    parts = readme_octaves.paragraphs([replace(crops(), means=means)])
    assert parts[0][1] is not None
    assert parts[0][1].rows[0][3:] == ("-9.0 % (15 of 16)", "-9.0 % (to 0.87 bpp)", "**+9.0 %**")
    assert any(table and "-9.0 % (b.png +1.0 %) (15 of 16)" in table.rows[0] for _, table in parts)


def test_times_are_multiples_of_peers_in_the_run() -> None:
    parts = readme_octaves.paragraphs([crops()])
    encoding, views = parts[1][1], parts[2][1]
    assert encoding is not None
    assert views is not None
    assert encoding.rows == (
        ("avif whole", "q=50", "10", "-", "1 x"),
        ("octaves fast", "quality=60", "9", "33.00", "1 x"),
    )
    assert views.rows == (("1:1", "1", "1.00 x", "0.50 x"), ("1:1.9", "1.9", "3.00 x", "1.50 x"))
    assert "11.80 kMAC a pixel, and the entropy decoder 150 million symbols" in parts[2][0]


def test_what_is_missed_is_told_before_it_is_unfolded() -> None:
    parts = readme_octaves.paragraphs([crops()])
    texts = [text for text, _ in parts]
    first = texts.index(
        "<details><summary><code>python -m made</code>: 1 of 3 values are what they must be, not bits at equal "
        "MS-SSIM: 4.00; native, ms: -</summary>"
    )
    assert texts[-2:] == ["Peers kept.", "</details>"]
    heading, groups = parts[first + 1]
    assert heading == (
        "Bits at equal PSNR, crop, means over all (3), trained on (2), held out (1); in brackets the image that does "
        "worst:"
    )
    assert groups is not None
    assert groups.rows[0] == ("all", "-20.0 % (b.png -10.0 %)", "-20.0 % (b.png -10.0 %)")
    assert parts[-3][1] is not None
    assert parts[-3][1].rows[1] == ("bits at equal MS-SSIM", "4.00", "at most 0", "**no**")


def test_groups_of_all_the_images_are_not_told_again() -> None:
    parts = readme_octaves.paragraphs([slide()])
    groups = next(table for text, table in parts if text.startswith("Bits at equal PSNR, tissue"))
    assert groups is not None
    assert [row[0] for row in groups.rows] == ["all"]
    # In the summary, too: one line, and none for the held out that are all there are.
    assert parts[0][1] is not None
    assert len(parts[0][1].rows) == 1
    assert readme_octaves.paragraphs([]) == []
