"""A made-up run of the benchmark: no number in it was measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from inrwsi.benchmarks.report_pictures import ByteMap, Decoded, OctaveBytes, Pictures, crop
from inrwsi.benchmarks.results import (
    BdRow,
    Machine,
    Point,
    Regions,
    Run,
    RunSet,
    Sample,
    Slide,
    Spread,
    Stratum,
    View,
    mean_bd,
)
from inrwsi.fields.models import model_names
from inrwsi.options import known_models
from inrwsi.sample import sample_region

PIXELS, TISSUE_PIXELS = 4 * 1024 * 1024, 3_000_000
# Codec, layout, and how much better than JPEG it is made out to be, in dB.
CODECS = (
    ("jpeg-420", "tiled512", 0.0),
    ("jpeg2000", "tiled512", 2.1),
    ("jpegxl", "tiled512", 2.8),
    ("avif", "tiled512", 3.4),
    ("avif", "whole", 3.5),
    ("pyramid-tiff", "file", -0.6),
    ("cinr", "file", -5.0),
)


def synthetic_point(codec: str, layout: str, gain_db: float, bpp: float) -> Point:
    """Quality that rises with the logarithm of the rate, in numbers that look nothing like each other."""
    file_bytes = round(bpp * PIXELS / 8)
    psnr = 30.123456 + gain_db + 4.4 * np.log2(bpp)
    lost = float(0.05 * 2 ** (-(psnr - 28) / 3))
    metrics = {
        "psnr_rgb": psnr,
        "psnr_luma": psnr + 1.51,
        "psnr_rgb_tissue": psnr - 0.42,
        "worst1pct_psnr": psnr - 3.33,
        "ssim": 1 - 2 * lost,
        "ms_ssim": 1 - lost,
        "ms_ssim_tissue": 1 - 1.1 * lost,
        "nuclei_f1": 1 - 3 * lost,
        "nuclei_dice": 1 - 2.5 * lost,
        "count_error": lost * 1.7,
        "area_error": -lost * 0.9,
        "stain_angle_deg": lost * 30,
        "od_drift": lost / 9,
        "ciede2000": 0.3 + lost * 40,
        "spectrum_ratio": 1 - 4 * lost,
    }
    timed = Spread(8.1 / bpp, 9.3 / bpp, 11.7 / bpp, 3)
    view = View("20x", 1, (512, 512), Spread(3.25, 4.5, 9.125, 3), round(1234 * bpp))
    return Point(
        codec=codec,
        layout=layout,
        setting=f"q={bpp:g}",
        file_bytes=file_bytes,
        pixels=PIXELS,
        tissue_pixels=TISSUE_PIXELS,
        bpp=8 * file_bytes / PIXELS,
        tissue_bpp=8 * file_bytes / TISSUE_PIXELS,
        lossless=False,
        metrics={name: float(value) for name, value in metrics.items()},
        spectrum_ratio=tuple(float(1 - lost * i) for i in range(16)),
        encode_mpx_s=timed,
        decode_mpx_s=Spread(21.5, 21.5, 21.5, 1),
        encode_rss_mb=123.4,
        decode_rss_mb=56.7,
        views=(view,) if bpp == 1.1 else (),
        regions=Regions((100, 200), (10.0, 20.0), ((0.9,) * 5, (0.8,) * 5)),
    )


def synthetic_run(name: str = "made-up slide <&> \"'.svs") -> Run:
    """One slide with a name that would break careless HTML."""
    points = [synthetic_point(*c, bpp) for c in CODECS for bpp in (0.3, 0.6, 1.1, 2.3)]
    source = Point("source", "file", "as it is", 9_000_000, PIXELS, TISSUE_PIXELS, 17.166, True, {}, tissue_bpp=24.0)
    lossless = Point(
        "jpegxl-lossless", "tiled512", "d=0", 4_900_000, PIXELS, TISSUE_PIXELS, 9.3460083, True, {}, tissue_bpp=13.1
    )
    bd = []
    for codec, layout, gain in CODECS[1:6]:
        rate = -11.04 * gain
        numbers = (rate, rate - 3.5, rate + 2.25, 0.8, (25.5, 33.25), 0.31 * gain)
        bd += [BdRow(codec, layout, "jpeg-420", "tiled512", m, *numbers) for m in ("psnr_rgb", "ms_ssim")]
    bd.append(BdRow("cinr", "file", "jpeg-420", "tiled512", "psnr_rgb", 135.6, 120.25, 151.0, 7.7, (25.5, 28.5), -4.2))
    bd.append(BdRow("cinr", "file", "jpeg-420", "tiled512", "ms_ssim", refused="a common range of 1.2 dB, not 2"))
    return Run(
        command="inrwsi bench made-up.svs --quick",
        created_utc="2026-01-02T03:04:05+00:00",
        machine=Machine("made-up", "no processor", 2, 7.8, "3.11.0"),
        versions={"jpegxl": "0.11.1", "avif": "1.4.0"},
        slide=Slide(name, 20000, 15000, 9_000_000, 0.71, False, 0.4942, 20.0),
        sample=Sample(
            "made-up numbers, nothing was measured",
            False,
            5,
            512,
            640,
            (Stratum("full, dark", 200, 10), Stratum("edge", 440, 6)),
            ((0, 0),) * 16,
            (2048, 2048),
            TISSUE_PIXELS,
            "ab" * 32,
        ),
        settings={"quick": True, "seed": 5, "task": "", "codecs": {"avif": "4:4:4, <made up>"}},
        points=(source, *points, lossless),
        bd=tuple(bd),
        notes=("a note <b>",),
    )


def synthetic_pictures() -> Pictures:
    """Two crops of the generated slide with more and more noise, and a map of made-up bytes."""
    rng = np.random.default_rng(1)
    original = sample_region((900, 900), (480, 360), size_wh=(2048, 2048), seed=1)
    decoded = []
    for number, (codec, layout, _) in enumerate(CODECS):
        noisy = original + rng.normal(0, 2 + number, original.shape)
        pixels = np.clip(np.rint(noisy), 0, 255).astype(np.uint8)
        decoded.append(Decoded(codec, layout, "q=1.1", 1.1, 30.5 - number, pixels))
    fine = rng.integers(0, 9000, (15, 20))
    fine[:, :5] = 0
    octaves = (OctaveBytes(0, 1024, fine, 75), OctaveBytes(2, 4096, rng.integers(1, 3000, (4, 5)), 0))
    sections = {"HEAD": 700, "WGHT": 20_000}
    size = sum(int(o.chunk_bytes.sum()) for o in octaves) + 20_700 + 4321
    where = ByteMap("made-up.cinr", (20000, 15000), original, octaves, sections, size)
    return Pictures((crop("region 3", original, decoded),), where)


def synthetic_set() -> RunSet:
    """Two slides."""
    runs = (synthetic_run("made-up-a.svs"), synthetic_run("made-up-b.svs"))
    return RunSet("python -m benchmarks.made_up", runs, mean_bd(runs))


def synthetic_models() -> RunSet:
    """One crop, every model of ours and three codecs; fitted models at two rates."""
    names = [*(name for name in known_models() if name != "octaves"), "octaves", "jpeg-420", "jpeg2000", "avif"]
    points = []
    for number, name in enumerate(names):
        fitted = name in model_names()
        layout = "file" if name in known_models() else "tiled512"
        for bpp in (1.0, 4.0) if fitted else (0.5, 1.1, 3.9):
            point = synthetic_point(name, layout, -number / 2, bpp)
            seconds = Spread(8.0, 8.0 * (number + 1), 99.0, 3 if bpp == 1.1 else 1)
            setting = f"bpp={bpp:g}" if fitted else point.setting
            points.append(replace(point, setting=setting, encode_cpu_s=seconds, decode_cpu_s=seconds))
    about = {name: f"this project's model {name}, fitted to the pixels in 2 passes" for name in known_models()}
    settings = {"codecs": about | {"avif": "4:4:4"}}
    run = replace(synthetic_run("made-up-crop.tiff"), points=tuple(points), bd=(), settings=settings)
    return RunSet("python -m benchmarks.made_up", (run,))
