"""Peak memory of encoding and decoding a slide, and of the same slide repeated 2 x 2: `python -m benchmarks.memory`.

Each is the command line in a process of its own, as a user runs it; its peak is what the kernel counted for it. Memory
is bounded by a setting, not by the slide: the larger slide may take a tenth more, and either less than 2 GB.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import click

from inrwsi.errors import UsageError
from inrwsi.formats.source import open_source

from . import results
from .probe import library_versions
from .record import head
from .results import Record

RESULTS = Path(__file__).parent / "results"
MOST_BYTES = 2 * 2**30
MOST_RATIO = 1.10


@dataclass(frozen=True)
class Peak:
    """One command: `peak_bytes` is its process's greatest resident set."""

    what: str
    slide: str
    width: int
    height: int
    peak_bytes: int
    seconds: float
    output_bytes: int


@dataclass(frozen=True)
class MemoryRun(Record):
    """Of `peaks`, `encode_ratio` and `decode_ratio` are the larger slide's over the smaller one's."""

    effort: str
    quality: float
    peaks: tuple[Peak, ...]
    encode_ratio: float
    decode_ratio: float
    within: bool
    schema: int = 1


def peak_of(arguments: list[str]) -> tuple[int, float]:
    """Peak resident bytes and seconds of the command line with these arguments.

    Raises:
        UsageError: the command failed; its own sentence is on standard error.
    """
    began = time.monotonic()
    code = "from inrwsi.cli.main import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UsageError(f"inrwsi {' '.join(arguments)}: ended with {process.returncode}; see above")
    return usage.ru_maxrss * 1024, time.monotonic() - began


def compile_first(folder: Path, effort: str) -> None:
    """Run both commands on a small slide: what the first run of an installation compiles takes memory of its own."""
    small, cinr, tiff = (str(folder / name) for name in ("small.tiff", "small.cinr", "small.out.tif"))
    peak_of(["sample", "-o", small, "--size", "1024x1024"])
    peak_of(["encode", small, "-o", cinr, "--effort", effort])
    peak_of(["decode", cinr, "-o", tiff])


def measure(slide: Path, folder: Path, effort: str, quality: float) -> list[Peak]:
    """Encode the slide, then decode all of it to a TIFF."""
    with open_source(slide) as source:
        size = source.width, source.height
    cinr, tiff = folder / f"{slide.stem}.cinr", folder / f"{slide.stem}.out.tif"
    found = []
    for what, arguments, out in (
        ("encode", ["encode", str(slide), "-o", str(cinr), "--effort", effort, "--quality", f"{quality:g}"], cinr),
        ("decode", ["decode", str(cinr), "-o", str(tiff)], tiff),
    ):
        peak_bytes, seconds = peak_of(arguments)
        found.append(Peak(what, slide.name, *size, peak_bytes, seconds, out.stat().st_size))
        click.echo(f"{what} {slide.name}, {size[0]} x {size[1]}: {peak_bytes / 2**20:,.0f} MB, {seconds:,.0f} s")
    tiff.unlink()
    return found


@click.command()
@click.option("--slide", type=click.Path(path_type=Path), required=True, help="slide-40x.tiff.")
@click.option("--repeated", type=click.Path(path_type=Path), required=True, help="The same slide, 2 x 2 times.")
@click.option("--effort", default="fast", show_default=True)
@click.option("--quality", default=55.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS / "memory.json", show_default=True)
def main(slide: Path, repeated: Path, effort: str, quality: float, out: Path) -> None:
    """Peak memory of a slide and of one four times as large."""
    with tempfile.TemporaryDirectory() as folder:
        compile_first(Path(folder), effort)
        peaks = [peak for path in (slide, repeated) for peak in measure(path, Path(folder), effort, quality)]
    small_encode, small_decode, encode, decode = (peak.peak_bytes for peak in peaks)
    ratios = encode / small_encode, decode / small_decode
    within = max(ratios) <= MOST_RATIO and max(peak.peak_bytes for peak in peaks) < MOST_BYTES
    command = f"python -m benchmarks.memory --slide {slide.name} --repeated {repeated.name}"
    run = MemoryRun(
        **head(command, library_versions()),
        effort=effort,
        quality=quality,
        peaks=tuple(peaks),
        encode_ratio=ratios[0],
        decode_ratio=ratios[1],
        within=within,
    )
    run = results.save(run, out)
    click.echo(
        f"encode {run.encode_ratio:.3f}, decode {run.decode_ratio:.3f} times the memory: "
        f"{'within' if run.within else 'NOT within'}"
    )


if __name__ == "__main__":
    main()
