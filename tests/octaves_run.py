"""Points of rate and quality, subjects and times that are made up, for the tests of the bench of model `octaves`."""

from __future__ import annotations

import numpy as np

from inrwsi.benchmarks.octaves_results import CROP, TISSUE, EffortSpeed, Figures, FilePoint, Speed, Subject, ViewTime
from inrwsi.benchmarks.results import Spread

OURS = "octaves fast"
RATES = (0.2, 0.3, 0.6, 1.0, 2.0, 3.0)


def point(subject: str, codec: str, area: str, bpp: float, psnr_db: float, ms_ssim: float | None = 0.9) -> FilePoint:
    figures = (Figures(area, bpp, bpp, psnr_db, ms_ssim),)
    return FilePoint(subject, codec, psnr_db, f"{psnr_db:g} dB", 1, 0.0, figures)


def points(subject: str, codec: str, by: float, area: str = CROP) -> list[FilePoint]:
    """3 dB for twice the bits; MS-SSIM that rises with them."""
    return [point(subject, codec, area, r * by, 30 + 3 * np.log2(r), 1 - 0.05 / r) for r in RATES]


def subject(name: str, group: str) -> Subject:
    return Subject(name, group, (8, 8), (0, 0), False, "0", "made", {CROP: 64, TISSUE: 51_098_112})


def speed() -> Speed:
    ms = Spread(20.0, 30.0, 50.0, 5)
    views = (ViewTime("1:1", 1.0, (512, 512), ms, 1.0, 0.5), ViewTime("1:1.9", 1.9, (512, 512), ms, 3.0, 1.5))
    encode = (
        EffortSpeed("avif whole", "q=50", ms, 10),
        EffortSpeed(OURS, "quality=60", ms, 9, 33.0, 1.2),
        EffortSpeed("octaves best", "quality=60", refused="not here"),
    )
    return Speed(2, 1, "a piece", encode, views, ms, 33.0, 5.0, 4.0, 11800.0, {"decode": 150.0, "encode": 90.0})
