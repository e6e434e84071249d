"""`inrwsi info`: what a .cinr file holds, from its header and index alone. Imports no torch."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from inrwsi.config import to_dict

if TYPE_CHECKING:
    from inrwsi.formats.container import Container


@click.command(
    epilog="""\b
Examples:
  inrwsi info slide.cinr
  inrwsi info slide.cinr --json | jq .slide.mpp_um"""
)
@click.argument("file")
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for programs.")
def info(file: str, as_json: bool) -> None:
    """Say what FILE, a .cinr file or its address, holds. Reads its header and index, not its pixels."""
    from inrwsi.formats.container import Container

    with Container.open(file) as container:
        facts = gather(container)
    click.echo(json.dumps(facts, indent=2) if as_json else "\n".join(lines(facts)))


def gather(container: Container) -> dict[str, Any]:
    """What is known of a file without decoding it, as plain JSON values. Sizes in bytes, of the stored form."""
    header = container.header
    by_kind: dict[str, int] = {}
    for kind, _, stored_bytes, _ in container.sections():
        by_kind[kind] = by_kind.get(kind, 0) + stored_bytes
    octaves = []
    for octave in header.grid.octaves:
        coded = payload_bytes = 0
        cols, rows = header.grid_wh(octave)
        for _, sizes in container.payload_sizes(octave, 0, cols * rows):
            coded += int((sizes > 0).sum())
            payload_bytes += int(sizes.sum(dtype="int64"))
        octaves.append(
            {
                "octave": octave,
                "columns": cols,
                "rows": rows,
                "coded": coded,
                "blank": cols * rows - coded,
                "payload_bytes": payload_bytes,
            }
        )
    return {
        "file": container.path,
        "file_bytes": container.file_bytes,
        "version": list(container.version),
        "bpp": 8 * container.file_bytes / (header.slide.width * header.slide.height),
        **to_dict(header),
        "sections": by_kind,
        "icc_bytes": next((raw_bytes for kind, _, _, raw_bytes in container.sections() if kind == "ICCP"), None),
        "chunks": octaves,
    }


def lines(facts: dict[str, Any]) -> list[str]:
    """`gather`'s facts for a person."""
    slide, grid, model = facts["slide"], facts["grid"], facts["model"]
    rows = [
        ("file", f"{facts['file']}, {facts['file_bytes']:,} bytes, {facts['bpp']:.3f} bits a pixel of the slide"),
        ("format", ".".join(map(str, facts["version"]))),
        (
            "slide",
            f"{slide['width']} x {slide['height']} pixels, {slide['channels']} channels of {slide['bit_depth']} bits",
        ),
        ("um a pixel", _known(slide.get("mpp_um"), slide["mpp_source"])),
        ("objective", _known(slide.get("objective_power"), slide["objective_source"])),
        ("background", _plain(slide["background"])),
        ("model", f"{model['name']}"),
        *((f"  {key}", _plain(value)) for key, value in model.items() if key not in ("name", "prior")),
        *((("  prior", _prior(model["prior"], "WGHT" in facts["sections"])),) if "prior" in model else ()),
        ("chunks", f"{grid['chunk_px']} pixels a side"),
        *((f"  octave {o['octave']}", _octave(o)) for o in facts["chunks"]),
        ("sections", ""),
        *((f"  {kind}", f"{size:,} bytes") for kind, size in facts["sections"].items()),
        ("ICC profile", "none" if facts["icc_bytes"] is None else f"{facts['icc_bytes']:,} bytes"),
        ("associated", ", ".join(f"{a['name']} ({a['width']} x {a['height']})" for a in facts["associated"]) or "none"),
        *((key, value) for key, value in facts["metadata"].items() if not key.startswith("openslide.level[")),
        ("software", _plain(facts["software"])),
    ]
    return [f"{_shown(name):<14} {_shown(text)}".rstrip() for name, text in rows]


def _shown(text: str) -> str:
    """What a file says may hold anything: signs that a terminal would act on are spelt out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _prior(digest: Any, has_weights: bool) -> str:
    """Which networks of the package the file needs."""
    if digest == "":
        return "none: the file holds all its networks"
    return f"{_plain(digest)}, {'from which the networks of the file differ' if has_weights else 'as released'}"


def _octave(octave: dict[str, Any]) -> str:
    grid, coded, blank = f"{octave['columns']} x {octave['rows']}", octave["coded"], octave["blank"]
    return f"{grid} chunks: {coded:,} coded in {octave['payload_bytes']:,} bytes, {blank:,} blank"


def _known(value: Any, provenance: str) -> str:
    return "unknown" if value is None else f"{_plain(value)} (from: {provenance})"


def _plain(value: Any) -> str:
    """A JSON value in as few signs as a person needs."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return " ".join(map(_plain, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
