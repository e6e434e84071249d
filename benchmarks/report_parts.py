"""The parts of a report's page that are neither curve nor table: the figures on top, crops, and the map of bits."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

import numpy as np

from . import report_curves as curves
from . import report_tables as tables
from .report_page import table_html
from .report_pictures import (
    DIFFERENCE_GAIN,
    ByteMap,
    Crop,
    Decoded,
    difference,
    draw_byte_map,
    jpeg_address,
    lossless_address,
    ramp,
)
from .results import Run


def headline_cards(run: Run) -> str:
    """BD-rate over RGB PSNR of each of our models against each other codec, in a layout with random access."""
    own = curves.own_codecs(run)
    cards = []
    for row in run.bd:
        pair = (row.codec in own) and (row.reference not in own) and row.metric == "psnr_rgb"
        if not pair or row.reference_layout == "whole":
            continue
        words = escape(f"bits of {row.codec} against {row.reference} at equal PSNR")
        if row.rate_percent is None:
            cards.append(f'<div class="card"><b>{tables.NONE}</b><small>{words}: {escape(row.refused)}</small></div>')
            continue
        within = tables.interval(row)
        note = "" if within == tables.NONE else f"<small>95 %: {escape(within)}</small>"
        cards.append(
            f'<div class="card"><b>{escape(tables.percent(row.rate_percent))}</b><small>{words}</small>{note}</div>'
        )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def crops_html(crops: Iterable[Crop], own: set[str]) -> str:
    """Each crop: the original, then what each codec made of it above what it changed."""
    parts = []
    for crop in crops:
        caption = "<b>original</b><br>below the others: what differs from it"
        figures = [
            f'<figure><img alt="original" '
            f'src="{lossless_address(crop.original)}"><figcaption>{caption}</figcaption></figure>'
        ]
        figures += [_decoded_html(crop, decoded, decoded.codec in own) for decoded in crop.decoded]
        parts.append(f'<h3>{escape(crop.name)}</h3><div class="crops">{"".join(figures)}</div>')
    if not parts:
        return ""
    text = (
        "<p>Crops are chosen by the original alone, where its luma varies most, and shown without further loss. "
        "Under each, "
        f"the largest difference of the three channels x {DIFFERENCE_GAIN}; black is equal. Rates and PSNR are of "
        f"all measured "
        "pixels.</p>"
    )
    return text + "".join(parts)


def _decoded_html(crop: Crop, decoded: Decoded, mine: bool) -> str:
    psnr = "no error" if decoded.psnr_db is None else f"{decoded.psnr_db:.2f} dB"
    name = escape(decoded.codec)
    return (
        f'<figure{" class=own" if mine else ""}><img alt="{name}" src="{lossless_address(decoded.pixels)}">'
        f'<img alt="what {name} changed" src="{lossless_address(difference(crop.original, decoded.pixels))}">'
        f"<figcaption><b>{name}</b> {escape(decoded.setting)}<br>{decoded.bpp:.3f} bpp, {psnr}</figcaption></figure>"
    )


def byte_map_html(where: ByteMap, run: Run) -> str:
    """The map of bits over what was encoded, and every byte of the file by what it is for."""
    drawn, top = draw_byte_map(where)
    strip = np.rint(ramp(np.tile(np.linspace(0, 1, 180), (8, 1)))).astype(np.uint8)
    what = "the slide" if run.sample.full else "the measured regions, side by side as they were encoded"
    table = tables.bytes_table(where)
    text = (
        f"<p>Bits a pixel of <code>{escape(where.file)}</code> over {what}. Each chunk's bytes are spread over "
        f"the pixels that it "
        "covers, all octaves together; network weights and index belong to no place and are not on the map.</p>"
    )
    return (
        f'{text}<div class="map"><figure><img alt="map of bits" width="{drawn.shape[1]}" height="{drawn.shape[0]}" '
        f'src="{jpeg_address(drawn)}"><div class="ramp">0<img alt="" src="{lossless_address(strip)}">{top:.3g} '
        f"bits a pixel "
        f"and more</div></figure>{table_html(table, [False] * len(table.rows))}</div>"
    )
