"""The pages of the server: as HTML, and in a browser, which has to show what the slide decodes to."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import tifffile
from PIL import Image

import inrwsi
import inrwsi.serve
from inrwsi.benchmarks.viewer_shot import BROWSERS, FLAGS, find_browser, served, settle
from inrwsi.sample import sample_region
from inrwsi.serve import page

STATIC = Path(page.__file__).parent / "static"
WH = (1600, 1200)
WINDOW_WH = (800, 600)
MPP_UM = 0.5
POWER = 20.0
TIMES = "\N{MULTIPLICATION SIGN}"
SLIDE = {
    **{"id": "a b", "name": "a b.cinr", "width": 7243, "height": 8391, "mpp_um": [0.506, 0.506]},
    **{"objective_power": 20.0, "file_bytes": 4_187_654, "bpp": 0.5513, "source": True},
}


# ---- the HTML


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text of those that a browser would run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.run: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.found and self.found[-1][0] in ("script", "style") and data.strip():
            self.run.append(data)


def addresses(html: str) -> list[str]:
    return [a[k] or "" for _, a in Elements(html).found for k in ("src", "href") if k in a]


@pytest.mark.parametrize("html", [page.index([SLIDE]), page.viewer(SLIDE)], ids=["index", "viewer"])
def test_a_page_runs_nothing_inline_and_names_only_files_that_are_there(html: str) -> None:
    elements = Elements(html)
    assert elements.run == []
    assert not [name for _, a in elements.found for name in a if name.startswith("on") or name == "style"]
    assert not [url for url in addresses(html) if "//" in url or url.startswith("/")]
    files = [url.split("static/")[1] for url in addresses(html) if "static/" in url]
    assert len(files) >= 3
    assert [name for name in files if not (STATIC / name).is_file()] == []


def test_modules_import_only_files_that_are_there() -> None:
    imported = [n for p in STATIC.glob("*.js") for n in re.findall(r'from "\./(.+?)"', p.read_text("utf-8"))]
    assert sorted(set(imported)) == ["compare.js", "drawer.js", "readout.js", "view.js"]
    assert [name for name in imported if not (STATIC / name).is_file()] == []


def test_names_are_escaped() -> None:
    name = """<script>alert('1')</script>" onload="x&amp;"""
    hostile = {**SLIDE, "name": name, "id": "../x?y#z\"<'&"}
    for html in (page.index([hostile]), page.viewer(hostile)):
        plain = Elements(html)
        assert plain.run == []
        assert [a for tag, a in plain.found if tag == "script" and "src" not in a] == []
        assert not [a for _, a in plain.found if "onload" in a]
        assert "%2E%2E" in html or "..%2Fx%3Fy%23z%22%3C%27%26" in html
    (main,) = [a for tag, a in Elements(page.viewer(hostile)).found if tag == "main"]
    assert main["aria-label"] == f"Slide {name}"


def test_the_list_says_what_a_slide_is() -> None:
    html = page.index([SLIDE, {**SLIDE, "mpp_um": None, "objective_power": None, "file_bytes": 812}])
    text = html.replace("\N{NO-BREAK SPACE}", " ")
    assert f"<p>7,243 {TIMES} 8,391 px · 20{TIMES} · 0.506 µm/px · 4.19 MB · 0.551 bit/px</p>" in text
    assert f"<p>7,243 {TIMES} 8,391 px · 812 bytes · 0.551 bit/px</p>" in text
    assert 'href="view/a%20b"' in html
    assert 'src="iiif/a%20b/full/!320,320/0/default.jpg"' in html
    assert "2 slides" in html
    assert "There are no slides here." in page.index([])


def test_openseadragon_is_as_released_with_its_licence() -> None:
    files = {
        "openseadragon.min.js": "14d587cd3ee7c4861f1a41077ce642029364a21029956ba635bd8fb1202cf9ad",
        "openseadragon.LICENSE.txt": "17da96b26ac706d2cbd06d4555dedb43026782f4943faf0156fe7acf89454228",
    }
    for name, sha256 in files.items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == sha256


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_over_whatever_lies_below(scheme: str) -> None:
    css = (STATIC / "common.css").read_text("utf-8")
    light, dark = css.split("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--([\w-]+): #(\w+);", light))
    if scheme == "dark":
        colours |= dict(re.findall(r"--([\w-]+): #(\w+);", dark))
    for below in ("ffffff", "1e0f3c"):  # glass, and the darkest nucleus
        surface = blend(colours["surface"], below)
        for ink in ("ink", "quiet", "accent"):
            assert contrast(rgb(colours[ink]), surface) >= 4.5, (ink, below)
    assert contrast(rgb(colours["accent-ink"]), rgb(colours["accent"])) >= 4.5


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (0, 2, 4)], float)


def blend(over: str, below: str) -> np.ndarray:
    alpha = int(over[6:8], 16) / 255
    return alpha * rgb(over) + (1 - alpha) * rgb(below)


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    """As WCAG 2.2 defines it."""

    def luminance(colour: np.ndarray) -> float:
        c = colour / 255
        return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))

    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


# ---- in a browser


@dataclass
class Visit:
    """One page in the browser, and what it has asked the server for and said since it was opened."""

    tab: Any
    url: str
    requests: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def wait(self) -> None:
        """Until the view is at rest and every tile in it is there."""
        settle(self.tab)

    def pixels(self) -> np.ndarray:
        """(600, 800, 3) uint8 of the window."""
        return np.array(Image.open(io.BytesIO(self.tab.screenshot())).convert("RGB"))

    def text(self, name: str) -> str:
        return self.tab.locator(f"#{name}").inner_text()

    def view(self) -> dict[str, float]:
        """What the address says."""
        return {k: float(v[0]) for k, v in parse_qs(urlsplit(self.tab.url).fragment).items()}

    def levels(self, layer: str = "dz") -> set[int]:
        """Deep Zoom levels of which tiles were asked for."""
        found = [re.search(rf"/{layer}/[^/]+_files/(\d+)/", url) for url in self.requests]
        return {int(match[1]) for match in found if match}


@dataclass(frozen=True)
class Slides:
    """A folder of two slides, "slide" with a source beside it, and "plain", of which no scale is known."""

    folder: Path
    source: np.ndarray


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Slides:
    """The source is a negative of what was encoded, so that nobody takes it for the slide."""
    from inrwsi.encode import encode
    from inrwsi.formats.source import open_source
    from inrwsi.options import EncodeOptions

    folder = tmp_path_factory.mktemp("slides")
    pixels = sample_region((900, 900), WH, size_wh=(4096, 4096), seed=1)
    for name, known in (("slide", {"mpp_um": MPP_UM, "objective_power": POWER}), ("plain", {})):
        with open_source(pixels, **known) as source:
            encode(source, folder / f"{name}.cinr", EncodeOptions(effort="fast", device="cpu"))
    negative = 255 - pixels
    tifffile.imwrite(folder / "slide.tif", negative, tile=(256, 256), photometric="rgb", compression="deflate")
    return Slides(folder, negative)


@pytest.fixture(scope="module")
def address(slides: Slides) -> Iterator[str]:
    pytest.importorskip("starlette", reason="starlette is not installed (extra serve)")
    pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra serve)")
    with served(inrwsi.serve.app([slides.folder])) as url:
        yield f"{url}/view/slide"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
    path = find_browser()
    if path is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Visit]]:
    """Opens the viewer, or another page; at the end no page may have complained of anything."""
    visits: list[Visit] = []

    def open_page(
        fragment: str = "", url: str = address, before: Callable[[Any], None] | None = None, **how: Any
    ) -> Visit:
        how = {"viewport": dict(zip(("width", "height"), WINDOW_WH, strict=True)), "reduced_motion": "reduce"} | how
        tab = browser.new_context(**how).new_page()
        tab.set_default_timeout(60_000)
        opened = Visit(tab, url)
        tab.on("request", lambda request: opened.requests.append(request.url))
        tab.on("console", lambda message: opened.said.append(f"{message.type}: {message.text}"))
        tab.on("pageerror", lambda error: opened.said.append(f"error: {error}"))
        if before:
            before(tab)
        tab.goto(url + fragment)
        visits.append(opened)
        return opened

    yield open_page
    for opened in visits:
        opened.tab.context.close()
    assert [said for opened in visits for said in opened.said] == []


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b).mean())


def test_the_screen_shows_what_the_slide_decodes_to(visit: Callable[..., Visit], slides: Slides) -> None:
    page = visit("#x=800&y=600&zoom=1")  # the middle of the window, which begins at (400, 300)
    page.wait()
    shown = page.pixels()[100:400, 100:650]  # between the panels
    with inrwsi.open_slide(slides.folder / "slide.cinr") as slide:
        expected = slide.read_region_at((500, 400), (550, 300), as_array=True)
        beside = slide.read_region_at((501, 400), (550, 300), as_array=True)
    # Tile (2, 2) of the finest level begins at (112, 212) of the window, and is drawn pixel by pixel.
    answer = page.tab.request.get(f"{page.url.removesuffix('view/slide')}dz/slide_files/11/2_2.jpeg")
    tile = np.array(Image.open(io.BytesIO(answer.body())))[:88]
    assert np.abs(page.pixels()[212:300, 112:368].astype(int) - tile).max() <= 2
    assert difference(shown, expected) < 2.5
    assert difference(shown, beside) > 3 * difference(shown, expected)
    assert 11 in page.levels()
    assert min(page.levels()) >= 8  # no tiles of tiles' size
    assert page.levels("dz-source") == set()  # nobody has asked to compare


def test_zooming_asks_for_other_tiles_and_shows_them(visit: Callable[..., Visit]) -> None:
    page = visit()
    page.wait()
    home = page.view()
    assert page.levels() == {8, 9, 10}  # all of 1600 x 1200 in a window of 800 x 600 is level 10
    assert home == {"x": 800, "y": 600, "zoom": 0.5}
    assert page.text("magnification") == f"10{TIMES}"
    page.requests.clear()
    before = page.pixels()
    page.tab.get_by_role("button", name=f"40{TIMES}").click()
    page.wait()
    assert page.levels() == {11}
    assert page.view()["zoom"] == 2
    assert page.text("magnification") == f"40{TIMES} (2{TIMES} past native)"
    assert page.tab.get_by_role("button", name=f"40{TIMES}").get_attribute("aria-pressed") == "true"
    assert difference(before[100:400, 100:650], page.pixels()[100:400, 100:650]) > 10

    page.tab.mouse.move(400, 300)
    page.tab.mouse.wheel(0, 300)
    page.wait()
    assert page.view()["zoom"] == pytest.approx(2 / 1.3, rel=0.001)
    page.tab.keyboard.press("Tab")
    page.tab.locator(".openseadragon-canvas").first.focus()
    page.tab.keyboard.press("0")
    page.wait()
    assert page.view() == home


def test_the_scale_bar_is_as_long_as_it_says(visit: Callable[..., Visit], slides: Slides) -> None:
    page = visit("#x=800&y=600&zoom=0.8")
    page.wait()
    assert page.text("scale-text") == "50 µm"
    assert page.tab.locator("#scale-bar").bounding_box()["width"] == pytest.approx(50 / MPP_UM * 0.8, abs=0.1)
    assert page.tab.locator("#scale").get_attribute("aria-label") == "Scale bar: 50 µm"


def test_a_slide_of_unknown_scale_has_a_bar_in_pixels(visit: Callable[..., Visit], address: str) -> None:
    page = visit("#x=800&y=600&zoom=0.8", url=address.removesuffix("slide") + "plain")
    page.wait()
    assert page.text("scale-text") == "100 px"
    assert page.tab.locator("#scale-bar").bounding_box()["width"] == pytest.approx(80, abs=0.1)
    assert page.text("magnification") == "80 %"
    assert not page.tab.locator("#compare").is_visible()
    page.tab.wait_for_selector("#psnr[data-state=measured]")
    assert page.text("psnr") == "not known"


def test_the_readout_is_what_the_server_says_of_the_view(visit: Callable[..., Visit]) -> None:
    answers: list[Any] = []

    def listen(tab: Any) -> None:
        tab.on("response", lambda r: answers.append(r) if "/quality/" in r.url else None)

    page = visit("#x=600&y=600&zoom=0.4", before=listen)
    page.tab.wait_for_selector("#psnr[data-state=measured]")
    page.wait()
    asked = {k: float(v[0]) for k, v in parse_qs(urlsplit(answers[-1].url).query).items()}
    # 800 x 600 of the screen at 2.5 level-0 pixels each, but no more than is slide
    assert asked == {"x": 0, "y": 0, "w": 1600, "h": 1200, "downsample": 2.5}
    quality = answers[-1].json()
    assert page.text("bits") == f"{quality['bits'] / 1e6:.3g} Mbit"
    assert page.text("psnr") == f"{quality['psnr_db']:.2f} dB"


def test_the_readout_asks_once_a_view_and_drops_what_is_out_of_date(visit: Callable[..., Visit]) -> None:
    held: list[Any] = []
    dropped: list[str] = []

    def hold(tab: Any) -> None:
        tab.route("**/quality/**", lambda route: held.append(route))
        tab.on("requestfailed", lambda request: dropped.append(request.url))

    page = visit("#x=800&y=600&zoom=1", before=hold)
    page.wait()
    assert len(held) == 1
    page.tab.locator(".openseadragon-canvas").first.focus()
    for _ in range(3):
        page.tab.keyboard.press("ArrowRight", delay=20)
    page.wait()
    assert len(held) == 2
    assert dropped == [held[0].request.url]
    held[0].abort()  # nobody waits for it: this is for playwright
    held[1].fulfill(json={"bits": 812, "bpp": 0.8125, "psnr_db": None})
    page.tab.wait_for_selector("#psnr[data-state=measured]")
    assert (page.text("bits"), page.text("psnr")) == ("812 bit", "not known")


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("**/quality/**", "not measured"),
        ("**/dz/*.dzi", "The slide could not be opened: the server gave no tiles of it."),
        ("**/dz-source/*.dzi", "The source slide could not be opened."),
    ],
    ids=["quality", "slide", "source"],
)
def test_what_fails_is_said(visit: Callable[..., Visit], broken: str, sentence: str) -> None:
    page = visit("#x=800&y=600&zoom=1", before=lambda tab: tab.route(broken, lambda route: route.fulfill(status=500)))
    if "source" in broken:
        page.wait()
        page.tab.get_by_role("button", name="Compare").click()
    page.tab.get_by_text(sentence).first.wait_for()
    if "source" in broken:
        assert page.tab.locator("#compare").get_attribute("aria-pressed") == "false"
        page.wait()
        assert "compare" not in page.view()
    assert any("status of 500" in said for said in page.said)
    page.said.clear()


def test_the_divider_has_the_slide_on_its_left_and_the_source_on_its_right(
    visit: Callable[..., Visit], slides: Slides
) -> None:
    page = visit("#x=800&y=600&zoom=1")
    page.wait()
    page.tab.locator(".openseadragon-canvas").first.focus()
    page.tab.keyboard.press("c")
    page.wait()
    assert page.view()["compare"] == 0.5
    with inrwsi.open_slide(slides.folder / "slide.cinr") as slide:
        ours = slide.read_region_at((400, 300), WINDOW_WH, as_array=True)
    source = slides.source[300:900, 400:1200]
    rows = slice(100, 250)  # above the grip and the names of the sides

    def sides(edge: int) -> tuple[float, float]:
        shown = page.pixels()[rows]
        left, right = slice(20, edge - 4), slice(edge + 4, 650)
        return (
            difference(shown[:, left], ours[rows, left]),
            difference(shown[:, right], source[rows, right]),
        )

    assert max(sides(400)) < 4
    assert difference(ours[rows], source[rows]) > 50

    grip = page.tab.get_by_role("slider")
    grip.focus()
    for key in ("ArrowRight", "ArrowRight", "PageDown"):
        page.tab.keyboard.press(key)
    page.wait()
    assert grip.get_attribute("aria-valuenow") == "44"
    assert grip.get_attribute("aria-valuetext") == "44% compressed, 56% source"
    assert max(sides(352)) < 4

    box = grip.bounding_box()
    page.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.tab.mouse.down()
    page.tab.mouse.move(200, 300, steps=3)
    page.tab.mouse.up()
    page.wait()
    assert page.view() == {"x": 800, "y": 600, "zoom": 1, "compare": 0.25}
    assert max(sides(200)) < 4

    page.tab.get_by_role("button", name="Compare").click()
    page.wait()
    assert "compare" not in page.view()
    assert difference(page.pixels()[rows, 20:650], ours[rows, 20:650]) < 2.5


def test_an_address_brings_back_the_view(visit: Callable[..., Visit]) -> None:
    page = visit()
    page.wait()
    page.tab.mouse.move(300, 200)
    page.tab.mouse.down()
    page.tab.mouse.move(420, 330, steps=4)
    page.tab.mouse.up()
    page.tab.get_by_role("button", name=f"20{TIMES}").click()
    page.tab.get_by_role("button", name="Compare").click()
    page.wait()
    sent = urlsplit(page.tab.url).fragment
    other = visit(f"#{sent}")
    other.wait()
    assert urlsplit(other.tab.url).fragment == sent
    assert difference(other.pixels(), page.pixels()) < 0.5
    other.tab.evaluate("location.hash = '#x=700&y=500&zoom=1.5'")  # as if it were pasted
    other.wait()
    assert other.view() == {"x": 700, "y": 500, "zoom": 1.5}
    other.tab.evaluate("location.hash = '#x=nowhere&zoom=-1'")
    other.wait()
    assert other.view() == {"x": 700, "y": 500, "zoom": 1.5}


def test_numbers_are_rounded_as_people_write_them(visit: Callable[..., Visit]) -> None:
    page = visit()
    text = """async () => { const v = await import(new URL('../static/view.js', location)); return [
      [0.03, 1, 7.3, 50, 99.999999999, 4200].map(v.roundLength),
      [0.2, 20, 500, 2000].map((length) => v.lengthText(length, 'um')), v.lengthText(5000, 'px'),
      [812, 4120, 12_345_678].map(v.bitsText),
      v.presets(40, 0.02, 16).map(({text}) => text), v.presets(null, 0.2, 16).map(({zoom}) => zoom),
      v.viewOf('#x=1&y=2&zoom=3&compare=7'), v.viewOf('#x=1&y=2'), v.viewOf('#x=1&y=2&zoom=0'), v.viewOf(''),
      v.hashOf({x: 10.04, y: 2e6, zoom: 1 / 3, compare: 0}),
    ]; }"""
    assert page.tab.evaluate(text) == [
        [pytest.approx(0.02), 1, 5, 50, 100, 2000],
        ["200 nm", "20 µm", "500 µm", "2 mm"],
        "5,000 px",
        ["812 bit", "4.12 kbit", "12.3 Mbit"],
        [f"{power}{TIMES}" for power in (5, 10, 20, 40, 80, 160)],
        [0.25, 0.5, 1, 2, 4],
        {"x": 1, "y": 2, "zoom": 3, "compare": 1},
        *(None, None, None),
        "#x=10&y=2000000&zoom=0.33333&compare=0",
    ]


@pytest.mark.parametrize(
    "wh", [(360, 640), (844, 390), (800, 600), (3840, 2160)], ids=["phone", "on its side", "small", "4k"]
)
def test_panels_are_on_screen_and_do_not_overlap(visit: Callable[..., Visit], wh: tuple[int, int]) -> None:
    touch = 360 in wh or 390 in wh
    page = visit(viewport={"width": wh[0], "height": wh[1]}, has_touch=touch, is_mobile=touch)
    page.wait()
    boxes = {
        name: page.tab.locator(name).bounding_box()
        for name in ("header.panel", ".tools", ".readout", ".scale", ".overview")
    }
    for box in boxes.values():
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= wh[0]
        assert box["y"] + box["height"] <= wh[1]
    for name, a in boxes.items():
        for other, b in boxes.items():
            apart = a["x"] + a["width"] <= b["x"] or a["y"] + a["height"] <= b["y"]
            apart |= b["x"] + b["width"] <= a["x"] or b["y"] + b["height"] <= a["y"]
            assert name == other or apart, (name, other)
    if touch:
        sides = [page.tab.locator(f"#{name}").bounding_box() for name in ("zoom-in", "fit", "compare")]
        assert min(side for box in sides for side in (box["width"], box["height"])) >= 44


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(visit: Callable[..., Visit]) -> None:
    page = visit()
    page.wait()
    page.tab.get_by_role("button", name="Compare").click()
    reached = []
    page.tab.locator("body").press("Tab")
    for _ in range(30):
        name = page.tab.evaluate(
            "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText"
        )
        if name in reached:
            break
        reached.append(name)
        page.tab.keyboard.press("Tab")
    assert [n for n in reached if n.startswith("Slide slide.cinr. Arrow keys pan")]
    wanted = {
        "All slides",
        "slide.cinr",
        f"20{TIMES}",
        "Zoom out",
        "Zoom in",
        "Whole slide",
        "Compare with the source slide",
    }
    wanted |= {"Copy a link to this view", "Share of the view that is compressed"}
    assert wanted - set(reached) == set()


def test_the_list_shows_a_picture_that_leads_to_the_viewer(visit: Callable[..., Visit], address: str) -> None:
    page = visit(url=address.removesuffix("view/slide"))
    picture = page.tab.locator("li", has_text="slide.cinr").locator("img")
    page.tab.wait_for_function("() => document.querySelector('li img').naturalWidth")
    assert picture.evaluate("(img) => [img.naturalWidth, img.naturalHeight]") == [320, 240]
    picture.click()
    page.wait()
    assert page.tab.url.startswith(address)
