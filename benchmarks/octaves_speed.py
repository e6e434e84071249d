"""Times of model `octaves` beside AVIF and OpenJPEG, all in one process in one go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

import imagecodecs
import numpy as np
import torch

from inrwsi.errors import UsageError
from inrwsi.fields.octaves import OctavesConfig, mac_per_px
from inrwsi.formats.source import open_source
from inrwsi.geometry import Rect
from inrwsi.metrics import SquaredError
from inrwsi.options import EncodeOptions
from inrwsi.progress import Progress, Report

from . import tilepack
from .codecs import STILL_CODECS
from .entropy_speed import CHUNK_SYMBOLS, MEAN_LOG_SCALES, fastest, ours_decode, stream
from .octaves_results import EffortSpeed, Speed, ViewTime
from .probe import cores, spread, timed
from .results import Spread
from .sampling import TILE_PX

VIEW_PX = 512
PLACES = 3
REPEATS = 5
PAIRS = 30  # of a view and a native one
BETWEEN = (1.5, 1.9)  # steps for which the octave below is too coarse and the finest four times too large
PIECE_PX = 1536
BUDGET_S = 20.0  # of one measurement: no more repeats once it is spent
OPENJPEG_STEPS = 7


@dataclass(frozen=True)
class Tested:
    """What is timed.

    Attributes:
        rgb: (h, w, 3) uint8, the whole picture.
        cinr: its file.
        piece: of the picture: what is encoded.
        quality, efforts: of ours.
        avif_value: that gives AVIF about our PSNR.
        folder: for files.
    """

    rgb: np.ndarray
    cinr: Path
    piece: Rect
    quality: float
    efforts: tuple[str, ...]
    avif_value: float
    folder: Path
    report: Report


def measure(tested: Tested) -> Speed:
    """Everything, one after the other."""
    tested.report(Progress("views", 0, 1, "views"))
    views, places = view_times(tested.rgb, tested.cinr)
    native_db = psnr_of(tested.rgb, tested.cinr, places)
    openjpeg_ms = spread([ms for r in places for ms in openjpeg_times(cut(tested.rgb, r), native_db, tested.folder)])
    bulk = tested.piece
    bulk_db = psnr_of(tested.rgb, tested.cinr, [bulk])
    bulk_s = repeated(lambda: read(tested.cinr, bulk, (bulk.w, bulk.h)))
    bulk_openjpeg_s = [ms / 1000 for ms in openjpeg_times(cut(tested.rgb, bulk), bulk_db, tested.folder)]
    megapixels = bulk.w * bulk.h / 1e6
    return Speed(
        threads=cores(),
        torch_threads=torch.get_num_threads(),
        piece=f"{bulk.w} x {bulk.h} pixels at ({bulk.x}, {bulk.y})",
        encode=tuple(encode_speeds(tested)),
        views=tuple(_view(view, openjpeg_ms) for view in views),
        openjpeg_ms=openjpeg_ms,
        native_psnr_db=native_db,
        bulk_mpx_s=megapixels / min(bulk_s),
        openjpeg_bulk_mpx_s=megapixels / min(bulk_openjpeg_s),
        mac_per_px=mac_per_px(OctavesConfig()),
        msymbol_s=symbols_per_second(),
    )


@dataclass(frozen=True)
class Timed:
    """One kind of view: milliseconds of each time, and each as a multiple of the native view's just before it."""

    label: str
    step: float
    out_wh: tuple[int, int]
    ms: tuple[float, ...]
    to_native: tuple[float, ...]


def _view(view: Timed, openjpeg_ms: Spread) -> ViewTime:
    ms = spread(list(view.ms))
    ratio = median(view.to_native)
    return ViewTime(view.label, view.step, view.out_wh, ms, ratio, ms.median / openjpeg_ms.median)


def view_times(rgb: np.ndarray, cinr: Path) -> tuple[list[Timed], list[Rect]]:
    """Views of 512 x 512 at every octave, between the two finest, and of the whole; and where the native ones are.

    Each is timed beside a native view of the busiest part of the same place: a machine of many tenants has slow and
    fast seconds, and a view that is partly of glass takes less time.
    """
    wh = (rgb.shape[1], rgb.shape[0])
    octaves = [2.0**k for k in range(1, 24) if VIEW_PX << k <= min(wh)]
    steps = [s for s in sorted([1.0, *BETWEEN, *octaves]) if round(VIEW_PX * s) <= min(wh)]
    plan = [(f"1:{s:g}", s, busiest(rgb, round(VIEW_PX * s)), (VIEW_PX, VIEW_PX)) for s in steps]
    if not plan:
        small = Rect(0, 0, min(VIEW_PX, wh[0]), min(VIEW_PX, wh[1]))
        plan.append(("1:1", 1.0, [small], (small.w, small.h)))
    whole = max(wh) / VIEW_PX
    out_wh = (max(1, round(wh[0] / whole)), max(1, round(wh[1] / whole)))
    plan.append(("whole", whole, [Rect(0, 0, *wh)], out_wh))
    native = plan[0][2]
    read(cinr, native[0], (native[0].w, native[0].h))  # what compiles, compiles now
    found = []
    for label, step, places, size in plan:
        near = [native_in(rgb, place) for place in places]
        pairs = [_pair(cinr, near[n % len(near)], places[n % len(places)], size) for n in range(PAIRS)]
        found.append(Timed(label, step, size, tuple(ms for _, ms in pairs), tuple(ms / n for n, ms in pairs)))
    return found, native


def native_in(rgb: np.ndarray, place: Rect) -> Rect:
    """The busiest native view in a place; of a place that is smaller than one, all of it."""
    squares = busiest(cut(rgb, place), VIEW_PX) or [Rect(0, 0, place.w, place.h)]
    return Rect(place.x + squares[0].x, place.y + squares[0].y, squares[0].w, squares[0].h)


def _pair(cinr: Path, native: Rect, place: Rect, out_wh: tuple[int, int]) -> tuple[float, float]:
    """Milliseconds of a native view, and of another right after it."""
    native_s = timed(lambda: read(cinr, native, (native.w, native.h)))[1]
    return 1000 * native_s, 1000 * timed(lambda: read(cinr, place, out_wh))[1]


def busiest(rgb: np.ndarray, side_px: int) -> list[Rect]:
    """Up to PLACES squares of a grid of `side_px` (of its nearest whole chunks), those whose green varies most."""
    h, w = rgb.shape[:2]
    grid = max(TILE_PX, side_px // TILE_PX * TILE_PX)
    squares = [
        Rect(x, y, side_px, side_px)
        for y, x in product(range(0, h - side_px + 1, grid), range(0, w - side_px + 1, grid))
    ]
    squares.sort(key=lambda r: -float(cut(rgb, r)[::4, ::4, 1].std()))
    return squares[:PLACES]


def read(cinr: Path, place: Rect, out_wh: tuple[int, int]) -> np.ndarray:
    """From a closed file and an empty cache."""
    from inrwsi.decode import Decoder

    with Decoder(cinr, device="cpu") as decoder:
        return decoder.read_region((place.x, place.y), (place.w, place.h), out_wh=out_wh)


def psnr_of(rgb: np.ndarray, cinr: Path, places: Sequence[Rect]) -> float:
    """RGB PSNR in dB over the places together."""
    error = SquaredError()
    for place in places:
        error.add(cut(rgb, place), read(cinr, place, (place.w, place.h)))
    return min(error.psnr_db, 100.0)


def openjpeg_times(rgb: np.ndarray, psnr_db: float, folder: Path) -> list[float]:
    """Milliseconds of OpenJPEG to decode these pixels, as one codestream of this PSNR, from a closed file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "openjpeg.coded"
    path.write_bytes(openjpeg_at(rgb, psnr_db))
    try:
        decode = lambda: imagecodecs.jpeg2k_decode(path.read_bytes(), numthreads=cores())  # noqa: E731
        return [1000 * s for s in repeated(decode)]
    finally:
        path.unlink()


def openjpeg_at(rgb: np.ndarray, psnr_db: float) -> bytes:
    """The codestream nearest to this PSNR, by bisection of the one that is asked for."""
    low, high = psnr_db - 2, psnr_db + 3
    tried = []
    for _ in range(OPENJPEG_STEPS):
        asked = (low + high) / 2
        level: Any = asked  # annotated as an int, but taken as a float
        coded = bytes(imagecodecs.jpeg2k_encode(rgb, level, reversible=False, codecformat="j2k", numthreads=cores()))
        error = SquaredError()
        error.add(rgb, imagecodecs.jpeg2k_decode(coded))
        tried.append((abs(error.psnr_db - psnr_db), coded))
        low, high = (low, asked) if error.psnr_db > psnr_db else (asked, high)
    return min(tried)[1]


def encode_speeds(tested: Tested) -> list[EffortSpeed]:
    """Ours at each effort, and AVIF in both ways, with the faster of which the ratios are taken."""
    rgb = np.ascontiguousarray(cut(tested.rgb, tested.piece))
    megapixels = rgb.shape[0] * rgb.shape[1] / 1e6
    avif = next(c for c in STILL_CODECS if c.name == "avif")
    path = tested.folder / "avif.coded"
    ways: dict[str, Callable[[], object]] = {
        "avif whole": lambda: path.write_bytes(avif.encoder(rgb, tested.avif_value, cores())),
        "avif tiles": lambda: tilepack.write(
            path, rgb, TILE_PX, lambda t: avif.encoder(t, tested.avif_value, 1), threads=cores()
        ),
    }
    found = []
    tested.folder.mkdir(parents=True, exist_ok=True)
    for who, work in ways.items():
        tested.report(Progress("encode", 0, 1, "Mpx", who))
        speeds = spread([megapixels / s for s in repeated(work)])
        found.append(EffortSpeed(who, avif.label(round(tested.avif_value)), speeds, path.stat().st_size))
    path.unlink()
    best = max(e.mpx_s.median for e in found if e.mpx_s)
    return [*found, *(_effort(tested, rgb, effort, best) for effort in tested.efforts)]


def _effort(tested: Tested, rgb: np.ndarray, effort: str, avif_mpx_s: float) -> EffortSpeed:
    who, setting = f"octaves {effort}", f"quality={tested.quality:g}"
    path = tested.folder / "speed.cinr"
    megapixels = rgb.shape[0] * rgb.shape[1] / 1e6
    tested.report(Progress("encode", 0, 1, "Mpx", who))
    try:
        _encode(rgb[:TILE_PX, :TILE_PX], path, tested.quality, "fast")  # what compiles, compiles now
        mpx_s = spread([megapixels / s for s in repeated(lambda: _encode(rgb, path, tested.quality, effort))])
    except UsageError as error:
        return EffortSpeed(who, setting, refused=str(error))
    psnr_db = psnr_of(rgb, path, [Rect(0, 0, rgb.shape[1], rgb.shape[0])])
    file_bytes = path.stat().st_size
    path.unlink()
    return EffortSpeed(who, setting, mpx_s, file_bytes, psnr_db, mpx_s.median / avif_mpx_s)


def _encode(rgb: np.ndarray, path: Path, quality: float, effort: str) -> None:
    from inrwsi.encode import encode

    with open_source(rgb.copy()) as source:
        options = EncodeOptions(model="octaves", quality=quality, effort=effort, device="cpu")
        encode(source, path, options, overwrite=True)


def symbols_per_second() -> dict[str, float]:
    """Millions of symbols a second and core: decoded, and encoded, the mean over the kinds of stream."""
    from inrwsi.coding.rans import encode

    found: dict[str, list[float]] = {"decode": [], "encode": []}
    for mean in MEAN_LOG_SCALES.values():
        given = stream(CHUNK_SYMBOLS, 0, mean)
        payload = encode(given.symbols, given.rows, given.tables)
        work: dict[str, Callable[[], object]] = {
            "decode": lambda p=payload, g=given: ours_decode(p, g.scales, g.tables),  # type: ignore[misc]
            "encode": lambda g=given: encode(g.symbols, g.rows, g.tables),  # type: ignore[misc]
        }
        for name, seconds in fastest(work, 10).items():
            found[name].append(CHUNK_SYMBOLS / seconds / 1e6)
    return {name: fmean(values) for name, values in found.items()}


def repeated(work: Callable[[], object]) -> list[float]:
    """Seconds of each of up to REPEATS runs, within the budget."""
    seconds: list[float] = []
    while len(seconds) < REPEATS and sum(seconds) < BUDGET_S:
        seconds.append(timed(work)[1])
    return seconds


def cut(rgb: np.ndarray, rect: Rect) -> np.ndarray:
    """The rectangle of (h, w, 3) pixels."""
    return rgb[rect.y : rect.y + rect.h, rect.x : rect.x + rect.w]


def busiest_piece(rgb: np.ndarray) -> Rect:
    """The piece for encoding: PIECE_PX a side, or what there is."""
    side = min(PIECE_PX, rgb.shape[0], rgb.shape[1])
    return busiest(rgb, side)[0] if side >= TILE_PX else Rect(0, 0, side, side)
