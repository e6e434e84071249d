"""README's parts on what chunks cost: error where two meet, and memory whatever the slide's size."""

from __future__ import annotations

from pathlib import Path

from .memory import MemoryRun
from .readme_fields import Block
from .report_tables import Table
from .results import load
from .seams import SeamsRun

SEAMS = ("<!-- seams:begin -->", "<!-- seams:end -->")
MEMORY = ("<!-- memory:begin -->", "<!-- memory:end -->")


def blocks(folder: Path) -> tuple[Block, ...]:
    """Of each of the records that are in the folder of results.

    Raises:
        UsageError: a record is of another form.
    """
    found = []
    if (path := folder / "seams.json").exists():
        found.append(Block(SEAMS, seams(load(SeamsRun, path)), None))
    if (path := folder / "memory.json").exists():
        found.append(Block(MEMORY, *memory(load(MemoryRun, path))))
    return tuple(found)


def seams(run: SeamsRun) -> str:
    """Squared error near chunk borders, on the mean and at its worst."""
    images, qualities = ({getattr(s, key) for s in run.seams} for key in ("image", "quality"))
    return (
        f"Squared error within {run.near_px} pixels of a chunk's border is {_percent(run.mean_ratio)} that of the "
        f"rest, and {_percent(run.mean_same_pixels)} that of the very same pixels where the chunks begin half "
        f"a chunk later: the means of {len(images)} crops at {len(qualities)} qualities. From crop to crop the first "
        f"goes from {_percent(min(s.ratio for s in run.seams))} to {_percent(max(s.ratio for s in run.seams))} "
        f"({run.worst}), as what lies there is easy or hard "
        f"(`{run.command}`, [the record](benchmarks/results/seams.json))."
    )


def memory(run: MemoryRun) -> tuple[str, Table]:
    """Peaks of a slide and of a larger one, and the larger's over the smaller's."""
    text = (
        f"Peak memory of `encode --effort {run.effort} --quality {run.quality:g}` and of `decode` of all of it to a "
        f"TIFF, a process each: of the larger slide {run.encode_ratio:.3f} and {run.decode_ratio:.3f} times the "
        f"smaller's (`{run.command}`, [the record](benchmarks/results/memory.json)):"
    )
    rows = tuple(
        (p.slide, f"{p.width:,} x {p.height:,}", p.what, f"{p.peak_bytes / 2**20:,.0f} MB", f"{p.output_bytes:,}")
        for p in run.peaks
    )
    return text, Table(("slide", "pixels", "what", "peak", "bytes written"), rows, 3)


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %"
