"""Figures of the reproduction: curves and spectra from the record alone, and the decoded pictures side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from inrwsi.metrics import luma_of

from .paper_results import PaperRun
from .report_svg import HEIGHT, WIDTH, Axis, Series, chart

NAMES = {"cinr": "CINR", "engp": "ENGP", "ngp": "NGP"}
BANDS = 24
CURVES, SPECTRA = "docs/paper_psnr.svg", "docs/paper_spectrum.svg"
WINDOW_PX, GAP_PX, LABEL_PX = 192, 6, 18
GAIN = 16.0  # of differences, as they are shown


def band_ends() -> np.ndarray:
    """(BANDS,) float64: upper ends of equal bands of spatial frequency, in cycles a pixel, to 0.5."""
    return np.arange(1, BANDS + 1) / (2 * BANDS)


def spectrum(image: np.ndarray) -> tuple[float, ...]:
    """Power of (h, w) float by band of radial frequency, as a share of a pixel's mean square.

    The sum over all bands, and what lies beyond 0.5 cycles along diagonals, is the mean square (Parseval).
    """
    h, w = image.shape
    power = np.abs(np.fft.fft2(image.astype(np.float64))) ** 2 / (h * w) ** 2
    radius = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None])
    band = np.minimum((radius * 2 * BANDS).astype(int), BANDS)
    return tuple(float(v) for v in np.bincount(band.ravel(), power.ravel(), BANDS + 1)[:BANDS])


def curves(run: PaperRun) -> str:
    """PSNR over epochs and over CPU time, one below the other: an SVG that needs nothing else."""
    schedules = list(dict.fromkeys(curve.schedule for curve in run.curves))
    models = list(dict.fromkeys(curve.model for curve in run.curves))

    def series(x: str) -> list[Series]:
        return [
            Series(
                f"{NAMES[c.model]}, {c.schedule}",
                models.index(c.model) + len(models) * schedules.index(c.schedule),
                tuple(
                    (float(getattr(e, x)), e.psnr_db, f"{NAMES[c.model]}, epoch {e.number}: {e.psnr_db:.2f} dB")
                    for e in c.epochs
                ),
                main=c.model == "cinr" and c.schedule == schedules[0],
            )
            for c in run.curves
        ]

    y = Axis("RGB PSNR, dB")
    return _stacked(
        [
            chart("PSNR after an epoch", Axis("epochs", low=0.0), y, series("number"), alone=True),
            chart("PSNR over the fit's time", Axis("CPU seconds", log=True), y, series("cpu_s"), alone=True),
        ]
    )


def spectra(run: PaperRun) -> str:
    """Power of the last differences over frequency, and the crop's own: an SVG that needs nothing else."""
    middles = [end - 1 / (4 * BANDS) for end in run.bands]
    first = run.curves[0].schedule
    lines = [("the crop", run.spectrum), *((NAMES[c.model], c.spectrum) for c in run.of(first))]
    series = [
        Series(
            name,
            7 if name == "the crop" else number - 1,
            tuple(
                (x, 10 * float(np.log10(max(p, 1e-6))), f"{name}: {p:.3g}") for x, p in zip(middles, power, strict=True)
            ),
            main=name == NAMES["cinr"],
        )
        for number, (name, power) in enumerate(lines)
    ]
    x, y = Axis("cycles a pixel", low=0.0, high=0.5), Axis("power of luma a band, dB")
    return chart(f"What is lost, {first} rates", x, y, series, alone=True) + "\n"


def _stacked(charts: list[str]) -> str:
    """Charts that stand alone, as one picture."""
    parts = [
        one.replace("<svg ", f'<svg y="{n * HEIGHT}" width="{WIDTH}" height="{HEIGHT}" ', 1)
        for n, one in enumerate(charts)
    ]
    box = f'viewBox="0 0 {WIDTH} {HEIGHT * len(charts)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {box}>{"".join(parts)}</svg>\n'


def picture(pixels: np.ndarray, decoded: Mapping[str, np.ndarray], out: Path) -> None:
    """A window of the crop and of what each network makes of it, their differences, and the differences' spectra.

    Three rows: pixels; absolute difference, `GAIN` times; log power of the difference in luma (of the luma itself for
    the original), alike for all, low frequencies in the middle.

    Args:
        pixels, decoded: (side, side, 3) uint8.
        out: PNG.
    """
    side = min(WINDOW_PX, len(pixels))
    at = (len(pixels) - side) // 2
    window = (slice(at, at + side), slice(at, at + side))
    columns = [("original", pixels), *((NAMES[model], image) for model, image in decoded.items())]
    step = side + GAP_PX
    sheet = Image.new("RGB", (step * len(columns) - GAP_PX, LABEL_PX + 3 * step - GAP_PX), "white")
    draw = ImageDraw.Draw(sheet)
    for n, (name, image) in enumerate(columns):
        draw.text((n * step + 2, 3), name, fill="black")
        difference = np.abs(image.astype(np.int16) - pixels) * GAIN
        luma = luma_of(image) - luma_of(pixels) if n else luma_of(pixels)
        rows = (image[window], difference.clip(0, 255)[window], _log_power(luma[window]))
        for row, part in enumerate(rows):
            sheet.paste(Image.fromarray(part.astype(np.uint8)), (n * step, LABEL_PX + row * step))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.quantize(128, dither=Image.Dither.NONE).save(out, optimize=True)


def _log_power(luma: np.ndarray) -> np.ndarray:
    """(h, w, 3) uint8 of (h, w): 0 to 255 is -10 to 50 dB of a frequency's power a pixel, without the mean."""
    power = np.abs(np.fft.fftshift(np.fft.fft2(luma - luma.mean()))) ** 2 / luma.size
    grey = (10 * np.log10(np.maximum(power, 1e-9)) + 10) / 60 * 255
    return np.repeat(grey.clip(0, 255)[..., None], 3, 2)


def write(run: PaperRun, root: Path) -> None:
    """The figures that the record alone gives."""
    for name, text in ((CURVES, curves(run)), (SPECTRA, spectra(run))):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
