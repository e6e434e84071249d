"""IIIF Image API 3.0 (https://iiif.io/api/image/3.0/), level 2 and some more: requests to pictures, and info.json."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image, ImageOps

from inrwsi.errors import UsageError
from inrwsi.geometry import Rect
from inrwsi.serve.deepzoom import TILE_PX, DeepZoom

if TYPE_CHECKING:
    from inrwsi.serve.slides import OpenCinr

CONTEXT = "http://iiif.io/api/image/3/context.json"
PROFILE = "http://iiif.io/api/image/3/level2.json"
JSON_LD = f'application/ld+json;profile="{CONTEXT}"'
QUALITIES = ("default", "color", "gray", "bitonal")
FORMATS = ("jpg", "png")
EXTRA_FEATURES = ("canonicalLinkHeader", "mirroring", "profileLinkHeader", "regionSquare", "sizeUpscaling")
_NUMBER = r"(\d+(?:\.\d*)?|\.\d+)"
_TURNS = {1: Image.Transpose.ROTATE_270, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_90}


@dataclass(frozen=True)
class ImageRequest:
    """A picture, however it was spelled.

    Attributes:
        region: in level-0 pixels, on the slide.
        size_wh: of the region's picture, in pixels, before it is turned.
        mirrored: about the vertical axis, before it is turned.
        quarter_turns: clockwise.
        quality, format: of `QUALITIES` and `FORMATS`.
    """

    region: Rect
    size_wh: tuple[int, int]
    mirrored: bool
    quarter_turns: int
    quality: str
    format: str

    def canonical(self, l0_wh: tuple[int, int], max_side_px: int) -> str:
        """`region/size/rotation/quality.format` in the form that section 4.7 asks for."""
        r, (w, h) = self.region, self.size_wh
        region = "full" if (r.x, r.y, r.w, r.h) == (0, 0, *l0_wh) else f"{r.x},{r.y},{r.w},{r.h}"
        up = "^" if w > r.w or h > r.h else ""
        size = "max" if self.size_wh == _largest(r, max_side_px, up=False) else f"{up}{w},{h}"
        rotation = f"{'!' if self.mirrored else ''}{90 * self.quarter_turns}"
        return f"{region}/{size}/{rotation}/{self.quality}.{self.format}"


def parse(region: str, size: str, rotation: str, leaf: str, l0_wh: tuple[int, int], max_side_px: int) -> ImageRequest:
    """The picture that the four last parts of a path ask for, of a slide of `l0_wh`.

    Raises:
        UsageError: a part is not of the specification, is not supported, or asks for too much or nothing.
    """
    quality, _, suffix = leaf.rpartition(".")
    if quality not in QUALITIES:
        raise UsageError(f"quality {quality!r} is not one of {', '.join(QUALITIES)}")
    if suffix not in FORMATS:
        raise UsageError(f"format {suffix!r} is not one of {', '.join(FORMATS)}")
    turned = re.fullmatch(rf"(!?){_NUMBER}", rotation, re.ASCII)
    if turned is None or float(turned[2]) not in (0, 90, 180, 270, 360):
        raise UsageError(f"rotation {rotation!r} is not 0, 90, 180 or 270, or one of these after '!'")
    rect = _region(region, l0_wh)
    size_wh = _size(size, rect, max_side_px)
    # The decoder goes through the samples of the finer of the two scales.
    step = min(rect.w / size_wh[0], rect.h / size_wh[1])
    if rect.w * rect.h / step**2 > max(2 * max_side_px**2, 4 * rect.w):
        raise UsageError(f"size {size!r} scales width and height of the region too differently")
    quarter_turns = round(float(turned[2]) / 90) % 4
    return ImageRequest(
        rect, size_wh, bool(turned[1]), quarter_turns, "default" if quality == "color" else quality, suffix
    )


def _region(text: str, l0_wh: tuple[int, int]) -> Rect:
    w, h = l0_wh
    if text == "full":
        return Rect(0, 0, w, h)
    if text == "square":
        side = min(w, h)
        return Rect((w - side) // 2, (h - side) // 2, side, side)
    if match := re.fullmatch(r"(\d{1,13}),(\d{1,13}),(\d{1,13}),(\d{1,13})", text, re.ASCII):
        rect = Rect(*(int(v) for v in match.groups()))
    elif match := re.fullmatch(",".join([_NUMBER] * 4).join(("pct:", "")), text, re.ASCII):
        x, y, pct_w, pct_h = (float(v) / 100 for v in match.groups())
        left, top = round(min(x, 1) * w), round(min(y, 1) * h)
        rect = Rect(left, top, round(min(x + pct_w, 1) * w) - left, round(min(y + pct_h, 1) * h) - top)
    else:
        raise UsageError(f"region {text!r} is not full, square, x,y,w,h or pct:x,y,w,h")
    rect = rect.intersect(Rect(0, 0, w, h))
    if rect.empty:
        raise UsageError(f"region {text!r} holds nothing of the slide, which is {w} x {h} pixels")
    return rect


def _size(text: str, region: Rect, max_side_px: int) -> tuple[int, int]:
    up, plain = text.startswith("^"), text.removeprefix("^")
    w, h = region.w, region.h
    if plain == "max":
        return _largest(region, max_side_px, up=up)
    larger = False
    if match := re.fullmatch(rf"pct:{_NUMBER}", plain, re.ASCII):
        share = min(float(match[1]) / 100, 1e9)
        size, larger = (round(w * share), round(h * share)), share > 1
    elif match := re.fullmatch(r"!(\d{1,9}),(\d{1,9})", plain, re.ASCII):
        within = (int(match[1]), int(match[2]))
        # The text of the specification would allow the region as it is; its validator asks for a refusal.
        larger = within[0] > w and within[1] > h
        limited = (min(within[0], max_side_px), min(within[1], max_side_px))
        size = _confined(region, limited, up=True) if all(within) else (0, 0)
    elif (match := re.fullmatch(r"(\d{0,9}),(\d{0,9})", plain, re.ASCII)) and (match[1] or match[2]):
        # A side that is not given is at least a pixel; one that is given as 0 is a mistake.
        size = (
            int(match[1]) if match[1] else max(1, round(w * int(match[2]) / h)),
            int(match[2]) if match[2] else max(1, round(h * int(match[1]) / w)),
        )
    else:
        raise UsageError(f"size {text!r} is not max, w, or ,h or w,h or !w,h or pct:n, or one of these after '^'")
    if min(size) < 1:
        raise UsageError(f"size {text!r} is less than a pixel")
    if max(size) > max_side_px:
        raise UsageError(f"size {text!r} is {size[0]} x {size[1]} pixels; the limit is {max_side_px} a side")
    if not up and (larger or size[0] > w or size[1] > h):
        raise UsageError(f"size {text!r} is larger than the region's {w} x {h} pixels; ask for '^{text}'")
    return size


def _largest(region: Rect, max_side_px: int, *, up: bool) -> tuple[int, int]:
    return _confined(region, (max_side_px, max_side_px), up=up)


def _confined(region: Rect, within: tuple[int, int], *, up: bool) -> tuple[int, int]:
    """The largest of the region's proportions `within`, and unless `up` no larger than the region."""
    scale = min(within[0] / region.w, within[1] / region.h)
    if scale >= 1 and not up:
        return (region.w, region.h)
    return (
        max(1, min(within[0], round(region.w * scale))),
        max(1, min(within[1], round(region.h * scale))),
    )


def render(slide: OpenCinr, asked: ImageRequest) -> Image.Image:
    """The picture. Raises CorruptFile."""
    image = _scaled(slide, asked)
    if asked.mirrored:
        image = ImageOps.mirror(image)
    if asked.quarter_turns:
        image = image.transpose(_TURNS[asked.quarter_turns])
    if asked.quality == "default":
        return image
    return image.convert("L" if asked.quality == "gray" else "1")


def _scaled(slide: OpenCinr, asked: ImageRequest) -> Image.Image:
    region, (w, h) = asked.region, asked.size_wh
    step = 1 << max(0, round(math.log2(region.w / w)))
    # A tile at the slide's edge is as much smaller as its region is, rounded up: its pixels are those of its level.
    slide_wh = slide.header.slide.l0_wh
    ends = (region.x + region.w == slide_wh[0], region.y + region.h == slide_wh[1])
    whole = all(side % step == 0 or end for side, end in zip((region.w, region.h), ends, strict=True))
    if whole and (-(-region.w // step), -(-region.h // step)) == (w, h):
        return slide.picture((region.x, region.y), (w * step, h * step), step=float(step))
    return slide.picture((region.x, region.y), (region.w, region.h), out_wh=(w, h))


def info(l0_wh: tuple[int, int], address: str, max_side_px: int) -> dict[str, Any]:
    """The image information document of a slide whose base URI is `address`."""
    zoom = DeepZoom(l0_wh)
    factors = [1 << k for k in range(zoom.last + 1) if k == 0 or TILE_PX << (k - 1) < max(l0_wh)]
    sizes = [(-(-l0_wh[0] // f), -(-l0_wh[1] // f)) for f in reversed(factors)]
    return {
        "@context": CONTEXT,
        "id": address,
        "type": "ImageService3",
        "protocol": "http://iiif.io/api/image",
        "profile": "level2",
        "width": l0_wh[0],
        "height": l0_wh[1],
        "maxWidth": max_side_px,
        "maxHeight": max_side_px,
        "sizes": [{"width": w, "height": h} for w, h in sizes if max(w, h) <= max_side_px],
        "tiles": [{"width": TILE_PX, "height": TILE_PX, "scaleFactors": factors}],
        "preferredFormats": ["jpg"],
        "extraQualities": [q for q in QUALITIES if q != "default"],
        "extraFeatures": list(EXTRA_FEATURES),
    }


def info_media_type(accept: str | None) -> str:
    """JSON-LD with its profile, unless the Accept header prefers plain JSON (section 5.1)."""
    weights = {"application/json": -1.0, "application/ld+json": -1.0}
    for part in (accept or "").split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if match := re.fullmatch(r"q=([01](?:\.\d{0,3})?)", parameter):
                weight = float(match[1])
        if name.lower() in weights:
            weights[name.lower()] = weight
    return "application/json" if weights["application/json"] > weights["application/ld+json"] else JSON_LD
