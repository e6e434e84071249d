"""What the panels say of the view, and that they can be seen and reached."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.viewer.conftest import MPP_UM, TIMES, Slides, Visit


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
    megabits, unit = page.text("bits").split()
    assert unit == "Mbit"
    for told, value in ((megabits, quality["bits"] / 1e6), (page.text("bpp"), quality["bpp"])):
        assert len(told) <= 4  # three digits, and a point; a tie may go either way
        assert abs(float(told) - value) <= 0.5001 * 10 ** (math.floor(math.log10(value)) - 2)
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
    assert [page.text(name) for name in ("bits", "bpp", "psnr")] == ["812 bit", "0.813", "not known"]


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("**/quality/**", "not measured"),
        ("**/dz/*_files/**", "A part of the slide could not be loaded. slide: damaged (chunk)"),
        ("**/dz/*.dzi", "The slide could not be opened: the server gave no tiles of it."),
        ("**/dz-source/*.dzi", "The source slide could not be opened."),
    ],
    ids=["quality", "tiles", "slide", "source"],
)
def test_what_fails_is_said(visit: Callable[..., Visit], broken: str, sentence: str) -> None:
    def fail(route: Any) -> None:
        route.fulfill(status=500, body="slide: damaged (chunk): octave 0, column 1, row 1\n")

    page = visit("#x=800&y=600&zoom=1", before=lambda tab: tab.route(broken, fail))
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
