"""What is on screen is what the slide decodes to, at every zoom, and an address brings it back."""

from __future__ import annotations

import io
from collections.abc import Callable
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import inrwsi
import inrwsi.serve
from tests.viewer.conftest import TIMES, WINDOW_WH, Slides, Visit, difference


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


def test_past_native_the_screen_shows_the_slides_pixels(visit: Callable[..., Visit]) -> None:
    """Each as a square of its own, also beside the edges of tiles: column 768 of the slide is in the middle."""
    page = visit("#x=768&y=512&zoom=3")
    page.wait()
    root = page.url.removesuffix("view/slide")
    tiles = {(i, j): page.tab.request.get(f"{root}dz/slide_files/11/{i}_{j}.jpeg") for i in (2, 3) for j in (1, 2)}
    rgb = {ij: np.array(Image.open(io.BytesIO(answer.body()))) for ij, answer in tiles.items()}
    native = np.vstack([np.hstack([rgb[2, j], rgb[3, j]]) for j in (1, 2)])  # from pixel (512, 256) of the slide
    expected = native[256 - 60 : 256 + 60, 256 - 80 : 256 + 80].repeat(3, axis=0).repeat(3, axis=1)
    shown = page.pixels()[300 - 180 : 300 + 180, 400 - 240 : 400 + 240]
    assert np.abs(shown.astype(int) - expected).max() <= 2
    page.tab.get_by_role("button", name="Whole slide").click()
    page.wait()
    home = page.pixels()[100:400, 100:650]
    fresh = visit()
    fresh.wait()
    assert difference(home, fresh.pixels()[100:400, 100:650]) < 0.5  # smooth again


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
