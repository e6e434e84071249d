"""The pages of the server as HTML: nothing inline, nothing from elsewhere, readable."""

from __future__ import annotations

import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from inrwsi.serve import page

STATIC = Path(page.__file__).parent / "static"
TIMES = "\N{MULTIPLICATION SIGN}"
SLIDE = {
    **{"id": "a b", "name": "a b.cinr", "width": 7243, "height": 8391, "mpp_um": [0.506, 0.506]},
    **{"objective_power": 20.0, "file_bytes": 4_187_654, "bpp": 0.5513, "source": True},
}


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
