"""`inrwsi decode`: a rectangle of a .cinr file, at any magnification, as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from inrwsi.cli.params import (
    REGION,
    SIZE,
    cache_option,
    check_output,
    device_option,
    jpeg_quality_option,
    output_option,
    overwrite_option,
    quiet_option,
    salvage_option,
    tell_salvaged,
    threads_option,
    use_threads,
)
from inrwsi.cli.progress_view import progress_view
from inrwsi.errors import CorruptFile, UsageError, unless_damaged
from inrwsi.geometry import Rect, check_output_wh, output_wh, resolve_downsample
from inrwsi.progress import Progress

if TYPE_CHECKING:
    from inrwsi.formats.container import Container
    from inrwsi.formats.header import SlideInfo

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg")


@dataclass(frozen=True)
class View:
    """What is asked for: a rectangle of the slide, and the picture that it becomes.

    Attributes:
        l0_xy, l0_wh: the rectangle in level-0 pixels; it may reach past the slide.
        step: level-0 pixels an output pixel, where `exact_wh` does not say.
        exact_wh: size of the picture, if that was asked for; the step then follows, and may differ by axis.
    """

    l0_xy: tuple[int, int]
    l0_wh: tuple[int, int]
    step: float
    exact_wh: tuple[int, int] | None

    @property
    def out_wh(self) -> tuple[int, int]:
        return self.exact_wh or output_wh(self.l0_wh, self.step)

    def mpp_um(self, slide: SlideInfo) -> tuple[float, float] | None:
        """Micrometres a pixel of the picture, (x, y); None where the slide's are unknown."""
        if slide.mpp_um is None:
            return None
        steps = (self.step, self.step)
        if self.exact_wh is not None:
            steps = (self.l0_wh[0] / self.exact_wh[0], self.l0_wh[1] / self.exact_wh[1])
        return (slide.mpp_um[0] * steps[0], slide.mpp_um[1] * steps[1])


@click.command(
    epilog="""\b
Examples:
  inrwsi decode slide.cinr -o region.png --region 10000,8000,2048,2048
  inrwsi decode slide.cinr -o low.tif --mag 5
  inrwsi decode slide.cinr -o patch.png --region 10000,8000,512,512 --size 224x224
  inrwsi decode damaged.cinr -o rest.tif --salvage"""
)
@click.argument("file")
@output_option("The picture to write: .png, .tif, .tiff, .jpg or .jpeg.")
@click.option(
    "--region",
    type=REGION,
    metavar="x,y,w,h",
    help="The rectangle, in pixels of the slide at full resolution. What lies outside the slide is filled with its "
    "background.  [default: the whole slide]",
)
@click.option("--mag", type=float, metavar="M", help="Magnification, such as 10 or 2.5.")
@click.option("--mpp", type=float, metavar="U", help="Micrometres an output pixel.")
@click.option(
    "--downsample",
    type=float,
    metavar="D",
    help="Slide pixels an output pixel, any positive number; below 1 looks between the pixels.  [default: 1]",
)
@click.option(
    "--size", type=SIZE, metavar="WxH", help="Exact size of the picture, instead of --mag, --mpp and --downsample."
)
@jpeg_quality_option("Of a JPEG; PNG and TIFF lose nothing.")
@salvage_option
@overwrite_option
@device_option
@cache_option("Memory for tiles that are needed again.")
@threads_option
@quiet_option
def decode(
    file: str,
    out: Path,
    region: tuple[int, int, int, int] | None,
    mag: float | None,
    mpp: float | None,
    downsample: float | None,
    size: tuple[int, int] | None,
    quality: int,
    salvage: bool,
    overwrite: bool,
    device: str,
    cache_mb: int,
    threads: int | None,
    quiet: bool,
) -> None:
    """Decode a region of FILE, a .cinr file or its address, and write it as a picture.

    The picture is made and written strip by strip: its size is bounded by the disk, not by memory.
    """
    check_output(out, SUFFIXES, overwrite=overwrite)
    from inrwsi.formats.container import Container
    from inrwsi.options import check_model

    with Container.open(file) as container:
        check_model(container)
        slide = container.header.slide
        view = resolve_view(slide, region=region, mag=mag, mpp=mpp, downsample=downsample, size=size)
        damaged = write_view(container, view, out, quality, salvage, device, cache_mb << 20, threads, quiet)
    tell_salvaged(damaged)


def resolve_view(
    slide: SlideInfo,
    *,
    region: tuple[int, int, int, int] | None,
    mag: float | None,
    mpp: float | None,
    downsample: float | None,
    size: tuple[int, int] | None,
) -> View:
    """The view that the options ask for.

    Raises:
        UsageError: the region lies wholly outside the slide, or the scale is given twice or cannot be known.
    """
    whole = Rect(0, 0, slide.width, slide.height)
    rect = whole if region is None else Rect(*region)
    if rect.intersect(whole).empty:
        raise UsageError(
            f"--region {rect.x},{rect.y},{rect.w},{rect.h} lies outside the slide, which is {slide.width} x "
            f"{slide.height} pixels"
        )
    scales = {"--mag": mag, "--mpp": mpp, "--downsample": downsample}
    given = [name for name, value in scales.items() if value is not None]
    if size is not None and given:
        raise UsageError(f"--size and {given[0]} are given; --size sets the scale too, give one of them")
    step = resolve_downsample(
        mag=mag, mpp=mpp, downsample=downsample, objective_power=slide.objective_power, mpp_um=slide.mpp_um
    )
    view = View((rect.x, rect.y), (rect.w, rect.h), step, size)
    check_output_wh(view.out_wh)
    return view


def write_view(
    container: Container,
    view: View,
    out: Path,
    quality: int,
    salvage: bool,
    device: str,
    cache_bytes: int,
    threads: int | None,
    quiet: bool,
) -> list[CorruptFile]:
    """Decode `view` into the picture `out`, which appears when it is whole; what was filled in or left out."""
    from inrwsi.formats.output import open_writer

    slide = container.header.slide
    left_out: list[CorruptFile] | None = [] if salvage else None
    width, height = view.out_wh
    mpp_um = view.mpp_um(slide)
    writer = open_writer(
        out,
        (width, height),
        slide.channels,
        mpp_um=mpp_um,
        icc=unless_damaged(container.icc, left_out),
        quality=quality,
        bit_depth=slide.bit_depth,
    )
    with writer:
        # From here on torch is there; every mistake that can be seen without it has been told.
        from inrwsi.decode import Decoder

        use_threads(threads)
        rows = 0
        with (
            Decoder(container, device=device, cache_bytes=cache_bytes, salvage=salvage) as decoder,
            progress_view(quiet=quiet) as progress,
        ):
            strips = decoder.strips(
                view.l0_xy, view.l0_wh, step=view.step, out_wh=view.exact_wh, strip_rows=writer.strip_rows
            )
            for strip in strips:
                writer.write(strip)
                rows += len(strip)
                progress(Progress("decode", rows * width / 1e6, height * width / 1e6, "Mpx"))
                del strip  # before the next one is made
            damaged = [*(left_out or ()), *decoder.damaged]
    return damaged
