"""Values of options that click has no type for, and the checks that every command makes before anything slow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import click

from inrwsi.errors import Cause, CorruptFile, UsageError

F = TypeVar("F", bound=Callable[..., Any])


class RegionType(click.ParamType):
    """`x,y,w,h` in level-0 pixels, whole numbers of at most 12 digits; w and h at least 1."""

    name = "x,y,w,h"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int, int, int]:
        match = re.fullmatch(r"(-?\d{1,12}),(-?\d{1,12}),(\d{1,12}),(\d{1,12})", str(value).replace(" ", ""))
        if match is None:
            self.fail(
                f"{value!r} should be four whole numbers x,y,w,h of at most 12 digits, such as 1024,2048,512,512",
                param,
                ctx,
            )
        x, y, w, h = (int(v) for v in match.groups())
        if w < 1 or h < 1:
            self.fail(f"{value!r} is {w} x {h} pixels; width and height should be at least 1", param, ctx)
        return x, y, w, h


class SizeType(click.ParamType):
    """`WxH` in pixels, whole numbers of at least 1."""

    name = "WxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        match = re.fullmatch(r"(\d{1,9})[xX](\d{1,9})", str(value).strip())
        if match is None or "0" in (match[1].lstrip("0") or "0", match[2].lstrip("0") or "0"):
            self.fail(f"{value!r} should be a width and a height in pixels, such as 1024x768", param, ctx)
        return int(match[1]), int(match[2])


class BytesType(click.ParamType):
    """A size in bytes, whole or with k, M or G for thousands, millions and thousands of millions: 350k, 300M, 1.5G."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)([kMG]?)", str(value).strip())
        size = (
            Decimal(0) if match is None else Decimal(match[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[match[2]]
        )
        if size < 1 or size != int(size):
            self.fail(f"{value!r} should be a number of bytes, such as 350000, 350k, 300M or 1.5G", param, ctx)
        return int(size)


REGION = RegionType()
SIZE = SizeType()
BYTES = BytesType()

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where the network runs; auto takes a CUDA GPU where there is one.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    metavar="N",
    help="Most CPU threads to use.  [default: one a core]",
)
salvage_option = click.option(
    "--salvage", is_flag=True, help="Fill damaged chunks with the background and say which, instead of refusing."
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace the output if it is there already.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress and no summary; errors are still told.")


def output_option(help: str) -> Callable[[F], F]:
    """The `-o` that every command that writes has; given with `help`."""
    return click.option("-o", "--output", "out", required=True, type=click.Path(path_type=Path), help=help)


def cache_option(help: str, *, default_mb: int = 256) -> Callable[[F], F]:
    """The `--cache-mb` that every command that decodes has; given with `help`."""
    return click.option(
        "--cache-mb", type=click.IntRange(0), default=default_mb, show_default=True, metavar="MB", help=help
    )


def jpeg_quality_option(help: str) -> Callable[[F], F]:
    """The `--quality` of whatever JPEG a command makes; given with `help`."""
    return click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help=help)


def check_output(out: Path, suffixes: tuple[str, ...], *, overwrite: bool) -> None:
    """Refuse an output that cannot or should not be written, before any work is done for it.

    Raises:
        UsageError: wrong suffix, a folder that is not there, a folder of that name, or a file there already.
    """
    if out.suffix.lower() not in suffixes:
        wanted = suffixes[0] if len(suffixes) == 1 else f"{', '.join(suffixes[:-1])} or {suffixes[-1]}"
        raise UsageError(f"{out}: the output's name should end in {wanted}")
    if not out.parent.is_dir():
        raise UsageError(f"{out}: the folder {out.parent} is not there; make it first")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; give the name of a file")
    if out.exists() and not overwrite:
        raise UsageError(f"{out}: is there already; give --overwrite to replace it")


def tell_salvaged(damaged: Iterable[CorruptFile]) -> None:
    """Say on standard error what `--salvage` filled in, and what it left out."""
    for error in damaged:
        done = "left out" if error.cause in (Cause.ICC, Cause.ASSOCIATED) else "filled with the background"
        click.echo(f"inrwsi: {done}: {error}", err=True)


def use_threads(threads: int | None) -> None:
    """Hold torch and numba to `threads` CPU threads; None leaves them at one a core. Imports torch."""
    if threads is None:
        return
    import numba
    import torch

    torch.set_num_threads(threads)
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
