"""The pages of the server: the list of slides, the viewer of one, and what went wrong. No script or style is inline.

Addresses in them are relative, so that they hold behind a proxy that puts the server under a folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any
from urllib.parse import quote

# What the pages need, and no more. A server sends it with them as Content-Security-Policy. The hash is that of the one
# <style> that OpenSeadragon 6.1.1 puts into the page.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self' 'sha256-9xTiqzfwFaL2SGb1rmr8gysEwVVjIvqWAgmZgqFqpEE='; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
THUMBNAIL_PX = 320

Slide = Mapping[str, Any]

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1, viewport-fit=cover">
<meta name="referrer" content="same-origin">
<title>$title</title>
<link rel="icon" href="${root}static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="${root}static/common.css">
<link rel="stylesheet" href="${root}static/$css">
"""

_INDEX = Template(
    _HEAD
    + """</head>
<body>
<header>
<h1>Slides</h1>
<p class="count">$count</p>
</header>
<main>
<ul class="slides">
$items</ul>
</main>
</body>
</html>
"""
)

_ITEM = Template(
    """<li><a href="view/$id">
<img src="iiif/$id/full/!$px,$px/0/default.jpg" alt="" loading="lazy" decoding="async">
<h2>$name</h2>
<p>$facts</p>
</a></li>
"""
)

_TROUBLE = Template(
    _HEAD
    + """</head>
<body>
<main>
<h1>This slide cannot be shown</h1>
<p role="alert">$sentence</p>
<p><a href="../">All slides</a></p>
</main>
</body>
</html>
"""
)

_VIEWER = Template(
    _HEAD
    + """<script src="../static/openseadragon.min.js" defer></script>
<script src="../static/viewer.js" type="module"></script>
</head>
<body>
<main id="viewer" data-slide="$data" aria-label="Slide $name" aria-busy="true">
<noscript><p class="message">The viewer needs JavaScript.
<a href="../iiif/$id/full/!1024,1024/0/default.jpg">A picture of the slide</a> does not.</p></noscript>
</main>

<div class="top">
<header class="panel bar">
<a class="control" href="../" aria-label="All slides" title="All slides">$icon_back</a>
<details class="about">
<summary class="control" title="About this slide"><h1>$name</h1></summary>
<p class="panel">$facts</p>
</details>
</header>

<div class="panel bar tools" role="group" aria-label="View">
<span id="magnifications" class="magnifications" role="group" aria-label="Magnification"></span>
<button id="zoom-out" class="control" type="button" aria-label="Zoom out" title="Zoom out (-)">$icon_out</button>
<button id="zoom-in" class="control" type="button" aria-label="Zoom in" title="Zoom in (+)">$icon_in</button>
<button id="fit" class="control" type="button" aria-label="Whole slide" title="Whole slide (0)">$icon_fit</button>
<button id="compare" class="control" type="button" aria-pressed="false" aria-label="Compare with the source slide"
 title="Compare with the source slide (C)" hidden>$icon_compare</button>
<button id="link" class="control" type="button" aria-label="Copy a link to this view"
 title="Copy a link to this view" hidden>$icon_link</button>
<button id="full-screen" class="control" type="button" aria-label="Full screen" title="Full screen (F)"
 hidden>$icon_full</button>
</div>
</div>

<div id="divider" class="divider" hidden>
<span class="side left" aria-hidden="true">Compressed</span>
<span class="side right" aria-hidden="true">Source</span>
<button id="grip" class="grip" type="button" role="slider" aria-label="Share of the view that is compressed"
 aria-orientation="horizontal" aria-valuemin="0" aria-valuemax="100"
 title="Compressed on the left, source on the right">$icon_grip</button>
</div>

<div class="foot">
<dl class="panel readout" aria-label="What is on screen">
<div><dt>Magnification</dt><dd id="magnification">-</dd></div>
<div title="Of what the view is decoded from, by the share that is in view"><dt>Bits in view</dt>
<dd id="bits">-</dd></div>
<div title="Bits in view, by the pixels that it shows of the slide"><dt>bit/px</dt><dd id="bpp">-</dd></div>
<div title="Against the source slide, where the server has it"><dt>PSNR in view</dt><dd id="psnr">-</dd></div>
</dl>
<p id="scale" class="panel scale" role="img" aria-label="Scale bar"><span id="scale-text"></span>
<span id="scale-bar" class="scale-bar"></span></p>
</div>

<div id="navigator" class="panel overview" role="img" aria-label="Overview, with the part that is on screen"></div>
<p id="message" class="panel message" role="status" hidden></p>
</body>
</html>
"""
)


def _icon(path: str) -> str:
    return (
        '<svg viewBox="0 0 24 24" width="24" height="24" fill="none" stroke="currentColor" stroke-width="2" '
        f'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false"><path d="{path}"/></svg>'
    )


_ICONS = {
    "icon_back": _icon("M15 5l-7 7 7 7"),
    "icon_out": _icon("M5 12h14"),
    "icon_in": _icon("M5 12h14M12 5v14"),
    "icon_fit": _icon("M4 9V5a1 1 0 0 1 1-1h4M15 4h4a1 1 0 0 1 1 1v4M20 15v4a1 1 0 0 1-1 1h-4M9 20H5a1 1 0 0 1-1-1v-4"),
    "icon_compare": _icon("M12 3v18M9 6H4v12h5M15 6h5v12h-5M6 12h1M17 12h1"),
    "icon_link": _icon("M10 14a4 4 0 0 0 6 0l3-3a4 4 0 0 0-6-6l-1 1M14 10a4 4 0 0 0-6 0l-3 3a4 4 0 0 0 6 6l1-1"),
    "icon_full": _icon("M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7"),
    "icon_grip": _icon("M9 7l-5 5 5 5M15 7l5 5-5 5"),
}


def index(slides: Sequence[Slide]) -> str:
    """The list of slides, each with a picture.

    Args:
        slides: each with `id`, `name`, `width` and `height` in level-0 pixels, `mpp_um` [x, y] or None,
            `objective_power` or None, `file_bytes`, and `bpp`, its bits a level-0 pixel.

    Returns:
        HTML. Addresses in it are relative to the folder of the page.
    """
    items = "".join(
        _ITEM.substitute(id=_path(slide), px=THUMBNAIL_PX, name=escape(slide["name"]), facts=escape(facts(slide)))
        for slide in slides
    )
    count = "1 slide" if len(slides) == 1 else f"{len(slides)} slides" if slides else "There are no slides here."
    return _INDEX.substitute(root="", title="Slides - inrwsi", css="index.css", count=count, items=items)


def viewer(slide: Slide) -> str:
    """The viewer of one slide.

    Args:
        slide: as for `index`, with `source`: whether the slide that it was made of can be shown beside it.

    Returns:
        HTML. Addresses in it are relative to a page one folder below that of the list of slides.
    """
    data = {key: slide[key] for key in ("name", "width", "height", "mpp_um", "objective_power", "source")}
    return _VIEWER.substitute(
        _ICONS,
        root="../",
        title=escape(f"{slide['name']} - inrwsi"),
        css="viewer.css",
        id=_path(slide),
        name=escape(slide["name"]),
        facts=escape(facts(slide)),
        data=escape(json.dumps({"path": _path(slide), **data})),
    )


def trouble(sentence: str) -> str:
    """In place of the viewer: why there is none. Addresses in it are as in `viewer`."""
    title = "This slide cannot be shown - inrwsi"
    return _TROUBLE.substitute(root="../", title=title, css="index.css", sentence=escape(sentence))


def facts(slide: Slide) -> str:
    """What is known of a slide, in one line for a person; it may be broken between the facts."""
    found = [f"{slide['width']:,} \N{MULTIPLICATION SIGN} {slide['height']:,} px"]
    if slide["objective_power"] is not None:
        found.append(f"{slide['objective_power']:g}\N{MULTIPLICATION SIGN}")
    if slide["mpp_um"] is not None:
        found.append(f"{slide['mpp_um'][0]:.4g} µm/px")
    found += [_size(slide["file_bytes"]), f"{slide['bpp']:.3g} bit/px"]
    return " · ".join(fact.replace(" ", "\N{NO-BREAK SPACE}") for fact in found)


def _path(slide: Slide) -> str:
    """The slide's id as one segment of an address; what quotes leaves is safe in HTML too."""
    return quote(str(slide["id"]), safe="")


def _size(count_bytes: int) -> str:
    value, unit = float(count_bytes), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.3g} {unit}"
