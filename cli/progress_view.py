"""Progress as a person sees it: a bar with rate and time left on a terminal, now and then a plain line off it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from inrwsi.progress import Progress, Report

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress_view(*, quiet: bool) -> Iterator[Report]:
    """A function that shows each `Progress` it is given, on standard error, until the block ends."""
    if quiet:
        yield lambda progress: None
    elif sys.stderr.isatty():
        with _bars() as report:
            yield report
    else:
        lines = PlainLines(lambda line: click.echo(line, err=True), time.monotonic)
        yield lines.report


class PlainLines:
    """One line at the end of a stage, and between at most one every `SECONDS_BETWEEN_LINES`.

    Args:
        write: takes a line.
        clock: seconds that only go up.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._write, self._clock = write, clock
        self._stage: str | None = None
        self._start_s = self._line_s = self._start_done = 0.0
        self._ended = False

    def report(self, progress: Progress) -> None:
        now_s = self._clock()
        if progress.stage != self._stage:
            self._stage, self._ended = progress.stage, False
            # A resumed stage starts part-way: the rate is of what is done from here on.
            self._start_s, self._line_s, self._start_done = now_s, now_s, progress.done
        at_end = _ended(progress)
        if self._ended or not (at_end or now_s - self._line_s >= SECONDS_BETWEEN_LINES):
            return
        self._line_s, self._ended = now_s, at_end
        self._write(self._line(progress, now_s - self._start_s))

    def _line(self, progress: Progress, elapsed_s: float) -> str:
        parts = [f"{progress.stage}: {count(progress.done)} of {count(progress.total)} {progress.unit}"]
        if progress.note:
            parts.append(progress.note)
        # The time before the first report is not known: over less than a second the rate would be fiction.
        rate = (progress.done - self._start_done) / elapsed_s if elapsed_s >= 1 else 0.0
        if rate > 0:
            parts.append(f"{speed(rate)} {progress.unit}/s")
        if _ended(progress):
            parts.append(f"{duration(elapsed_s)}")
        elif rate > 0:
            parts.append(f"{duration((progress.total - progress.done) / rate)} left")
        return ", ".join(parts)


@contextmanager
def _bars() -> Iterator[Report]:
    """A bar a stage, with rate and time left; rich is imported only where there is a terminal to draw on."""
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.fields[counts]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    tasks: dict[str, TaskID] = {}
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def report(progress: Progress) -> None:
            if progress.stage not in tasks:
                for earlier in tasks.values():
                    bars.stop_task(earlier)
                tasks[progress.stage] = bars.add_task(progress.stage, counts="", rate="", note="")
            task = tasks[progress.stage]
            rate = bars.tasks[task].speed
            bars.update(
                task,
                completed=progress.done,
                total=progress.total,
                counts=f"{count(progress.done)}/{count(progress.total)} {progress.unit}",
                rate=f"{speed(rate)} {progress.unit}/s" if rate else "",
                note=progress.note,
            )

        yield report


def _ended(progress: Progress) -> bool:
    return progress.done >= progress.total * (1 - 1e-9)  # sums of floats may stop a hair short


def count(value: float) -> str:
    """A count for a person: whole numbers whole, others to one decimal, small ones to two."""
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def speed(rate: float) -> str:
    """A rate for a person: three digits, and more only where they are whole."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def duration(seconds: float) -> str:
    """Seconds as 42 s, 3 min 05 s or 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
