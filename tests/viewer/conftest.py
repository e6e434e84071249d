"""A browser on the viewer page of a small slide. At the end no page may have complained of anything."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
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
from tests.encoded import encode_fast, tissue

WH = (1600, 1200)
WINDOW_WH = (800, 600)
MPP_UM = 0.5
POWER = 20.0
TIMES = "\N{MULTIPLICATION SIGN}"


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


@pytest.fixture(scope="package")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Slides:
    """The source is a negative of what was encoded, so that nobody takes it for the slide."""
    folder = tmp_path_factory.mktemp("slides")
    pixels = tissue(WH)
    encode_fast(pixels, folder / "slide.cinr", mpp_um=MPP_UM, objective_power=POWER)
    encode_fast(pixels, folder / "plain.cinr")
    negative = 255 - pixels
    tifffile.imwrite(folder / "slide.tif", negative, tile=(256, 256), photometric="rgb", compression="deflate")
    return Slides(folder, negative)


@pytest.fixture(scope="package")
def address(slides: Slides) -> Iterator[str]:
    pytest.importorskip("starlette", reason="starlette is not installed (extra serve)")
    pytest.importorskip("uvicorn", reason="uvicorn is not installed (extra serve)")
    with served(inrwsi.serve.app([slides.folder])) as url:
        yield f"{url}/view/slide"


@pytest.fixture(scope="package")
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
