"""README's parts on chunks: error where two meet, memory whatever the slide's size, and what refining them is worth."""

from __future__ import annotations

from pathlib import Path

from .memory import MemoryRun
from .readme_fields import Block
from .report_tables import Table
from .results import load
from .seams import SeamsRun
from .settings import SettingsRun

SEAMS = ("<!-- seams:begin -->", "<!-- seams:end -->")
REFINED = ("<!-- refined:begin -->", "<!-- refined:end -->")
TUNED = ("<!-- tuned:begin -->", "<!-- tuned:end -->")
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
    if (path := folder / "settings.json").exists():
        run = load(SettingsRun, path)
        found += [Block(REFINED, refined(run), None), Block(TUNED, tuned(run), None)]
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


def refined(run: SettingsRun) -> str:
    """Bits that refinement saves, by effort."""
    images = {p.image for p in run.points}
    means = {w.variant: w.psnr_percent for w in run.worth if w.image == "all"}
    single = {v: [w.psnr_percent for w in run.worth if w.variant == v and w.image != "all"] for v in means}
    said = " and ".join(
        f"with `--effort {v}` {-means[v]:.1f} % ({-max(single[v]):.1f} to {-min(single[v]):.1f} %)"
        for v in ("default", "best")
    )
    return (
        f"Refining alone takes, at equal PSNR and of the bits of `fast`, {said}: means and ranges of {len(images)} "
        f"crops of {run.crop_px} px (`{run.command}`, [the record](benchmarks/results/settings.json))."
    )


def tuned(run: SettingsRun) -> str:
    """What the tunings for one metric take of the default's bits, at equal values of either."""
    means = {w.variant: w for w in run.worth if w.image == "all"}
    said = "; ".join(
        f"`--tune {tune}` {mean.psnr_percent:+.1f} % at equal PSNR and {mean.ms_ssim_percent:+.1f} % at equal MS-SSIM"
        for tune in ("psnr", "ms-ssim")
        for mean in [means[f"fast, tune {tune}"]]
    )
    return (
        f"Bits beside the default's: {said}; the means of {len({p.image for p in run.points})} crops of "
        f"{run.crop_px} px (`{run.command}`, [the record](benchmarks/results/settings.json))."
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
