"""The report: every number on the page is that of the JSON, nothing is fetched, and pictures are what they say."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from rich.console import Console

from inrwsi.benchmarks import report
from inrwsi.benchmarks import report_tables as tables
from inrwsi.benchmarks.report_curves import QUALITY_CURVES, colours, draw, equal_bits, target_bpp
from inrwsi.benchmarks.report_pictures import (
    ByteMap,
    Crop,
    OctaveBytes,
    Pictures,
    byte_map,
    difference,
    draw_byte_map,
    lossless_address,
    rate_map,
    richest_window,
)
from inrwsi.benchmarks.report_svg import Axis, Series, chart
from inrwsi.benchmarks.results import Run, load
from inrwsi.errors import UsageError
from inrwsi.formats.container import Container
from tests.format.files import small_file
from tests.synthetic_run import synthetic_pictures, synthetic_run

KEPT = {"tiled512": "512 px tiles", "whole": "one picture", "file": "its own file"}


class Page(HTMLParser):
    """What a browser would see of it: tables as text, attributes, words, and whether each tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def table(self, *heads: str) -> list[dict[str, str]]:
        """Rows, by head, of the only table that has all of these heads."""
        (found,) = [t for t in self.tables if set(heads) <= set(t[0])]
        return [dict(zip(found[0], row, strict=True)) for row in found[1:]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, dict[str, Any], str]:
    folder = tmp_path_factory.mktemp("report") / "made"
    path = report.write(synthetic_run(), synthetic_pictures(), folder)
    text = path.read_text(encoding="utf-8")
    return Page(text), json.loads((folder / "report.json").read_text(encoding="utf-8")), text


def test_page_is_whole_and_fetches_nothing(written: tuple[Page, dict[str, Any], str]) -> None:
    page, _, text = written
    assert page.open == []
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "base", "form", "audio", "video", "source"}
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    for tag, attrs in page.tags:
        for key, value in attrs.items():
            assert not key.startswith("on"), f"{tag} has {key}"
            if key in ("src", "href", "srcset", "poster", "action", "data", "style"):
                assert value is not None
                assert value.startswith("data:image/") or value.removeprefix("#") in ids
    assert not re.search(r"https?:|//[a-z]|url\(|@import|javascript:", re.sub(r'src="data:[^"]*"', "", text))
    policies = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def test_what_comes_from_files_is_text_never_markup(written: tuple[Page, dict[str, Any], str]) -> None:
    page, _, text = written
    assert "made-up slide <&> \"'.svs" in page.words
    assert "a note <b>" in page.words
    assert "4:4:4, <made up>" in page.words
    assert "<made up>" not in text


def test_every_number_of_the_points_is_of_the_json(written: tuple[Page, dict[str, Any], str]) -> None:
    page, data, _ = written
    quality = {
        "bytes": (",", lambda p: p["file_bytes"]),
        "bpp": (".3f", lambda p: p["bpp"]),
        "bpp, tissue": (".3f", lambda p: p["tissue_bpp"]),
        "PSNR, dB": (".2f", lambda p: p["metrics"].get("psnr_rgb")),
        "tissue, dB": (".2f", lambda p: p["metrics"].get("psnr_rgb_tissue")),
        "luma, dB": (".2f", lambda p: p["metrics"].get("psnr_luma")),
        "worst 1 %, dB": (".2f", lambda p: p["metrics"].get("worst1pct_psnr")),
        "SSIM": (".4f", lambda p: p["metrics"].get("ssim")),
        "MS-SSIM": (".4f", lambda p: p["metrics"].get("ms_ssim")),
        "MS-SSIM, tissue": (".4f", lambda p: p["metrics"].get("ms_ssim_tissue")),
    }
    fidelity = {
        "bpp": (".3f", lambda p: p["bpp"]),
        "nuclei F1": (".3f", lambda p: p["metrics"].get("nuclei_f1")),
        "nuclei Dice": (".3f", lambda p: p["metrics"].get("nuclei_dice")),
        "count error": (".1%", lambda p: p["metrics"].get("count_error")),
        "area error": (".1%", lambda p: p["metrics"].get("area_error")),
        "stain angle, °": (".2f", lambda p: p["metrics"].get("stain_angle_deg")),
        "OD drift": (".4f", lambda p: p["metrics"].get("od_drift")),
        "CIEDE2000": (".2f", lambda p: p["metrics"].get("ciede2000")),
        "fine power": (".3f", lambda p: p["metrics"].get("spectrum_ratio")),
    }
    for rows, columns in ((page.table("bytes", "bpp"), quality), (page.table("nuclei Dice", "bpp"), fidelity)):
        assert len(rows) == len(data["points"]) == 30
        for row, point in zip(rows, data["points"], strict=True):
            assert row.pop("codec") == point["codec"]
            assert row.pop("kept as") == KEPT[point["layout"]]
            assert row.pop("setting") == point["setting"] + (", lossless" if point["lossless"] else "")
            want = {head: (form, get(point)) for head, (form, get) in columns.items()}
            assert row == {head: "-" if value is None else format(value, form) for head, (form, value) in want.items()}


def test_bd_rates_stand_with_interval_range_and_refusal(written: tuple[Page, dict[str, Any], str]) -> None:
    page, data, _ = written
    rows = page.table("PSNR: bits", "MS-SSIM: bits")
    assert len(rows) == len({(b["codec"], b["layout"]) for b in data["bd"]}) == 6
    by_name = {(r["codec"], r["kept as"]): r for r in rows}
    assert [r["PSNR: bits"] for r in rows][:2] == ["-38.6 %", "-37.5 %"]  # best first
    for b in data["bd"]:
        row = by_name[b["codec"], KEPT[b["layout"]]]
        name = {"psnr_rgb": "PSNR", "ms_ssim": "MS-SSIM"}[b["metric"]]
        rate = b.get("rate_percent")
        digits = 1 if rate is None or abs(rate) < 100 else 0
        assert row[f"{name}: bits"] == ("-" if rate is None else f"{rate:+.{digits}f} %")
    (table,) = [t for t in page.tables if "PSNR: bits" in t[0]]
    avif = next(row for row in table if row[0] == "avif" and row[1] == "512 px tiles")
    assert avif[2:6] == ["-37.5 %", "-41.0 % to -35.3 %", "25.5 to 33.2", "+1.05"]
    cinr = next(row for row in table if row[0] == "cinr")
    assert cinr[2:] == ["+136 %", "+120 % to +151 %", "25.5 to 28.5", "-4.20", "-", "-", "-", "-"]
    text = " ".join(page.words)
    assert "cinr (its own file) by MS-SSIM against jpeg-420 (512 px tiles): a common range of 1.2 dB, not 2." in text
    assert "+136 % bits of cinr against jpeg-420 at equal PSNR 95 %: +120 % to +151 %" in " ".join(text.split())


def test_times_views_and_bytes_of_the_file(written: tuple[Page, dict[str, Any], str]) -> None:
    page, _, _ = written
    (jpeg,) = [r for r in page.table("encode, MB") if r["codec"] == "jpeg-420"]
    # Of 9.3 / 1.1, 8.1 / 1.1 and 11.7 / 1.1; a single measurement has no spread to show.
    assert (jpeg["encode, Mpx/s"], jpeg["decode, Mpx/s"]) == ("8.45 (7.36 to 10.6)", "21.5")
    assert (jpeg["encode, MB"], jpeg["decode, MB"]) == ("123", "57")
    (view,) = [r for r in page.table("20x, ms") if r["codec"] == "jpeg-420"]
    assert (view["setting"], view["20x, ms"], view["20x, bytes read"]) == ("q=1.1", "4.5 (3.25 to 9.12)", "1,357")
    parts = {r["part"]: r for r in page.table("part", "share")}
    counts = {name: int(r["bytes"].replace(",", "")) for name, r in parts.items()}
    assert counts["index and tables"] == 4321
    assert counts["network weights"] == 20_000
    whole = counts.pop("the file")
    assert sum(counts.values()) == whole
    assert (parts["octave 0"]["chunks"], parts["octave 0"]["blank"]) == ("300", "75")


def test_method_names_command_machine_pixels_and_versions(written: tuple[Page, dict[str, Any], str]) -> None:
    page, _, _ = written
    words = " ".join(page.words)
    for want in (
        *("inrwsi bench made-up.svs --quick", "ab" * 32, "jpegxl 0.11.1, avif 1.4.0", "no processor, 2 cores"),
        *("2,048 x 2,048", "made-up numbers, nothing was measured", "tissue on 71% of it", "0.4942 µm", "4.2 Mpx"),
    ):
        assert want in words
    assert page.table("stratum")[1] == {"stratum": "edge", "regions on the slide": "440", "measured": "6"}


def test_json_is_the_run_and_the_page_is_the_same_each_time(tmp_path: Path) -> None:
    run, pictures = synthetic_run(), Pictures()
    report.write(run, pictures, tmp_path / "deep" / "er")
    loaded = load(Run, tmp_path / "deep" / "er" / "report.json")
    assert loaded.points[5].metrics == pytest.approx(run.points[5].metrics, rel=1e-6)
    assert report.render(loaded, pictures) == report.render(run, pictures)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="file: cannot be written"):
        report.write(run, pictures, tmp_path / "file")


def test_terminal_shows_every_point() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report.terminal_table(synthetic_run()))
    lines = [line.split() for line in console.export_text().splitlines()]
    shown = [" ".join(line) for line in lines]
    assert "jpegxl 512 px tiles q=1.1 1.100 33.53 0.9861 0.958 0.86 8.45 21.5" in shown
    assert sum("q=0.6" in line for line in lines) == 7


def test_curves_are_where_the_numbers_are() -> None:
    series = Series("a", 0, ((4.0, 30.0, "high"), (0.5, 20.0, "low"), (1.0, None, "exact")))
    drawn = chart("t", Axis("x", log=True), Axis("y"), [series])
    # The axes run from 0.5 to 4 over x = 58 to 480, and from 20 to 30 over y = 356 to 34.
    assert '<path class="line" d="M58.0 356.0L480.0 34.0"/>' in drawn
    assert '<circle class="mark" cx="480.0" cy="34.0" r="3.4"><title>high</title></circle>' in drawn
    assert '<circle class="open" cx="198.7" cy="34.0" r="3.4"><title>exact</title></circle>' in drawn
    ticks = re.findall(r">([\d.]+)</text>", drawn)
    assert ticks == ["0.5", "1", "2", "4", "20", "22", "24", "26", "28", "30"]
    assert "nothing was measured" in chart("t", Axis("x"), Axis("y"), [])
    assert chart("<", Axis("&"), Axis("y"), [series]).count("&lt;") == 2


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (5.0, 5.0), (-1e-9, 1e-9), (0.123, 1234.5), (37.0, 37.01)])
def test_axes_hold_what_they_show(low: float, high: float) -> None:
    drawn = chart("t", Axis("x"), Axis("y"), [Series("a", 1, ((low, high, "p"), (high, low, "q")))])
    assert drawn.count("<title>") == 2
    for x, y in re.findall(r'class="mark" x="([-\d.]+)" y="([-\d.]+)"[^>]*><title>', drawn):
        assert 54 <= float(x) <= 480
        assert 30 <= float(y) <= 356


def test_codecs_keep_their_colour_and_ours_comes_first() -> None:
    run = synthetic_run()
    assert colours(run)["cinr"] == 0
    assert len(set(colours(run).values())) == len({p.codec for p in run.points})
    drawn = draw(run, QUALITY_CURVES[0])
    keys = re.findall(r'<g class="(c\d+)[ a-z]*"><path class="line" d="[^L]*?"/><.*?class="key"[^>]*>([^<]+)<', drawn)
    assert keys[0] == ("c0", "cinr")
    assert {n: int(c[1:]) for c, n in keys}.items() <= colours(run).items()
    # What has no error is shown, at the edge; what is far beyond the others' rates is not.
    assert "jpegxl-lossless, 512 px tiles, d=0: 9.346 bpp, RGB PSNR ∞" in drawn
    assert "source" not in drawn
    assert "avif, one picture" not in drawn


def test_equal_bits_takes_the_nearest_and_leaves_out_what_is_far() -> None:
    run = synthetic_run()
    # All of ours have six codecs beside them; the dearest of them is taken, and 1.1 once it has more.
    assert target_bpp(run) == pytest.approx(2.3, abs=1e-6)
    one_less = replace(run, points=tuple(p for p in run.points if (p.codec, p.setting) != ("avif", "q=2.3")))
    near = equal_bits(one_less)
    assert [p.codec for p in near] == ["cinr", "jpeg-420", "jpeg2000", "jpegxl", "avif", "pyramid-tiff"]
    assert {p.setting for p in near} == {"q=1.1"}
    assert {p.layout for p in near} == {"tiled512", "file"}
    assert {p.codec for p in equal_bits(run, 10.0)} == {"jpegxl-lossless"}
    assert equal_bits(run, 100.0) == []
    others = replace(run, points=tuple(p for p in run.points if p.codec != "cinr"))
    assert target_bpp(others) == 1.0


def test_numbers_in_words() -> None:
    assert tables.number(None, ".2f") == "-"
    assert tables.number(-0.0004, ".3f") == "0.000"
    assert tables.number(-0.0006, ".3f") == "-0.001"
    assert tables.percent(-3.14159) == "-3.1 %"
    assert [tables.measure(v) for v in (0.03451, 4.5, 99.94, 100.4, 5861.0)] == [
        "0.0345",
        "4.5",
        "99.9",
        "100",
        "5,861",
    ]
    assert tables.percent(1234.5) == "+1,234 %"


def test_rates_on_the_map_add_up_to_the_bytes() -> None:
    fine = np.arange(1, 13, dtype=np.int64).reshape(3, 4) * 100
    where = ByteMap(
        "a.cinr",
        (400, 300),
        np.full((30, 40, 3), 255, np.uint8),
        (OctaveBytes(0, 100, fine, 0), OctaveBytes(1, 200, np.array([[7, 9], [11, 13]]), 0)),
        {},
        10_000,
    )
    rates = rate_map(where, (40, 30))
    assert rates.sum() * 100 == pytest.approx(8 * (fine.sum() + 40))
    # Top left: its own chunk of 100 bytes over 100 x 100 pixels, and a quarter of the 7 bytes below it.
    assert rates[0, 0] == pytest.approx(8 * 100 / 1e4 + 8 * 7 / 4e4)
    # Bottom right: the coarse chunk is cut by the slide's lower edge to 200 x 100 pixels.
    assert rates[29, 39] == pytest.approx(8 * 1200 / 1e4 + 8 * 13 / 2e4)
    drawn, top = draw_byte_map(where)
    assert drawn.shape == (300, 400, 3)
    assert top == pytest.approx(rates.max(), rel=0.01)
    assert drawn[-1, -1].tolist() == [round(0.72 * c + 0.28 * 255) for c in (253, 231, 37)]


def test_byte_map_of_a_file_accounts_for_all_of_it(tmp_path: Path) -> None:
    blob = small_file(tmp_path / "a.cinr")
    with Container.open(str(tmp_path / "a.cinr")) as container:
        where = byte_map(container, np.zeros((8, 8, 3), np.uint8))
        entries = {k: list(container.entries(k)) for k in container.header.grid.octaves}
    assert where.file_bytes == len(blob)
    assert where.file == "a.cinr"
    for octave in where.octaves:
        assert octave.blank_chunks == sum(e.is_blank for e in entries[octave.octave])
        for (column, row), payload_bytes, _ in entries[octave.octave]:
            assert octave.chunk_bytes[row, column] == payload_bytes
    rows = tables.bytes_table(where).rows
    counts = [int(row[3].replace(",", "")) for row in rows]
    assert sum(counts[:-1]) == counts[-1] == len(blob)
    assert min(counts) >= 0


def test_differences_and_crops() -> None:
    original = np.full((4, 5, 3), 100, np.uint8)
    decoded = original.copy()
    decoded[1, 2] = (103, 99, 90)
    decoded[3, 4] = (0, 255, 100)
    shown = difference(original, decoded)
    assert shown[1, 2] == 60
    assert shown[3, 4] == 255
    assert np.count_nonzero(shown) == 2
    flat = np.full((400, 600, 3), 200, np.uint8)
    flat[200:392:2, 384:576] = 20
    assert richest_window(flat) == (384, 192, 192, 192)
    assert richest_window(flat[:50, :70]) == (0, 0, 70, 50)
    with pytest.raises(UsageError, match="crop a: pictures must be uint8"):
        Crop("a", original, (synthetic_pictures().crops[0].decoded[0],))


def test_crops_on_the_page_are_the_pixels(written: tuple[Page, dict[str, Any], str]) -> None:
    page, _, text = written
    crop = synthetic_pictures().crops[0]
    shown = {a["alt"]: str(a["src"]) for t, a in page.tags if t == "img"}

    def pixels(name: str) -> np.ndarray:
        return imagecodecs.webp_decode(base64.b64decode(shown[name].split(",")[1]))

    assert np.array_equal(pixels("original"), crop.original)
    (cinr,) = [d for d in crop.decoded if d.codec == "cinr"]
    assert np.array_equal(pixels("cinr"), cinr.pixels)
    assert np.array_equal(pixels("what cinr changed")[..., 0], difference(crop.original, cinr.pixels))
    assert lossless_address(crop.original).startswith("data:image/webp;base64,UklGR")
    assert len(text) < 1_500_000
