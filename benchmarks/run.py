"""The engine: one picture through every codec at every setting, measured on what comes back from the files.

Every point is written to a folder of partial results as soon as it is whole, under a name that stands for all that
it depends on (pixels, codec, setting, library versions, this code), so that a run that was cut short goes on.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cache, reduce
from hashlib import sha256
from itertools import product
from operator import add
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np

import inrwsi
import inrwsi.formats
from inrwsi.config import ConfigError, from_dict
from inrwsi.errors import InrwsiError, Unreachable
from inrwsi.formats.source import SlideSource
from inrwsi.geometry import Rect
from inrwsi.progress import Progress

from . import fidelity, quality
from .codecs import FILE, WHOLE, BrokenCodec, Codec
from .intervals import bd_rows, wide
from .plan import Plan, fits, middle, values
from .probe import Seconds, clocked, cores, library_versions, machine, spread, timed, with_peak
from .results import Point, Regions, Run, View, save
from .sampling import TILE_PX, Picture
from .viewer import views

REPEATS = 3
REPEAT_BUDGET_S = 20.0  # what took longer than this in all is not repeated again
VIEW_BUDGET_S = 5.0  # of the places of one view: no more are visited once it is spent


def run_all(source: SlideSource, bench: Bench, *, command: str) -> Run:
    """Measure everything of a picture and put it together.

    Raises:
        BrokenCodec: a codec gave something that is not the picture.
    """
    picture, plan = bench.picture, bench.plan
    wanted = plan.points(picture)
    points = [source_point(source, picture)] if plan.with_source and not picture.slide.halved else []
    unreached: list[str] = []
    for number, (codec, layout, value) in enumerate(wanted):
        name = f"{codec.name} {layout} {codec.label(value)}"
        plan.report(Progress("points", number, len(wanted), "points", name))
        try:
            points.append(bench.point(codec, layout, value))
        except Unreachable as error:
            unreached.append(f"{name}: not measured: {error}")
    plan.report(Progress("points", len(wanted), len(wanted), "points"))
    rows = bd_rows(points, plan.seed)
    notes = [
        f"{codec.name} cannot hold a picture of {picture.wh[0]} x {picture.wh[1]} pixels as one codestream"
        for codec in plan.codecs
        if WHOLE in codec.layouts and WHOLE in plan.layouts and not fits(codec, WHOLE, picture)
    ]
    versions = library_versions()
    for codec in plan.codecs:
        versions |= codec.versions()
    return Run(
        command=command,
        created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=machine(),
        versions=versions,
        slide=picture.slide,
        sample=picture.sample,
        settings={
            "quick": plan.quick,
            "seed": plan.seed,
            "threads": cores(),
            "repeats_at_middle_setting": REPEATS,
            "task": Path(plan.task.name).name if plan.task else "",
            "codecs": {codec.name: codec.about for codec in plan.codecs},
        },
        points=tuple(points),
        bd=rows,
        notes=tuple(note for note in (*notes, *unreached, wide(rows)) if note),
    )


def source_point(source: SlideSource, picture: Picture) -> Point:
    """The slide's own file, over all its pixels: what is to be replaced. It is the original, so nothing differs."""
    pixels = source.width * source.height
    tissue = round(picture.slide.tissue_share * pixels)
    bits = 8 * source.bytes_on_disk
    return Point(
        codec="source",
        layout=FILE,
        setting="as it is",
        file_bytes=source.bytes_on_disk,
        pixels=pixels,
        tissue_pixels=tissue,
        bpp=bits / pixels,
        tissue_bpp=bits / tissue if tissue else None,
        lossless=True,
        metrics={},
    )


class Bench:
    """One picture, whose originals are looked at once for all points."""

    def __init__(self, picture: Picture, plan: Plan) -> None:
        self.picture, self.plan = picture, plan
        self.mpp_um = picture.slide.mpp_um
        self._task_digest = sha256(Path(plan.task.name).read_bytes()).hexdigest() if plan.task else ""
        self._references: list[fidelity.Reference] | None = None
        plan.folder.mkdir(parents=True, exist_ok=True)

    def point(self, codec: Codec, layout: str, value: float) -> Point:
        """One point, from the folder if it is there. BrokenCodec if what comes back is not the picture."""
        key = self.key(codec, layout, value)
        partial = self.plan.folder / f"{key}.json"
        known = _load_point(partial)
        if known is not None:
            return known
        coded = self.plan.folder / f"{key}{codec.suffix}"
        try:
            point, decoded = self._measure(codec, layout, value, coded)
            self._keep(key, codec, coded, decoded)
        finally:
            coded.unlink(missing_ok=True)
        save(point, partial)
        return point

    def key(self, codec: Codec, layout: str, value: float) -> str:
        """Names a point by all that it depends on."""
        facts = [
            *(codec.name, codec.about, layout, codec.label(value), self.picture.sample.sha256, cores()),
            *(codec.versions(), library_versions(), self._task_digest, str(self.mpp_um), self.plan.seed),
            code_digest(codec.ours),
        ]
        digest = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return f"{codec.name}-{layout}-{digest[:16]}"

    def shown(self) -> Rect:
        """The square that a report may show: the one whose luma varies most, chosen by the original alone."""

        def variance(rect: Rect) -> float:
            return float(quality.luma_of(_cut(self.picture.pixels, rect)).var())

        w, h = self.picture.wh
        corners = product(range(0, max(1, h - TILE_PX + 1), TILE_PX), range(0, max(1, w - TILE_PX + 1), TILE_PX))
        squares = [Rect(x, y, TILE_PX, TILE_PX).intersect(Rect(0, 0, w, h)) for y, x in corners]
        return max(squares, key=variance)

    def shown_pixels(self, point: Point) -> np.ndarray | None:
        """The shown block as it came back at `point`, (h, w, 3) uint8; None where it was not kept."""
        path = self._kept(point, "png")
        return imagecodecs.png_decode(path.read_bytes()) if path else None

    def kept_file(self, point: Point) -> Path | None:
        """The file of one of our models at `point`; None where it was not kept."""
        return self._kept(point, "kept.cinr")

    def _kept(self, point: Point, suffix: str) -> Path | None:
        for codec, layout, value in self.plan.points(self.picture):
            if (codec.name, layout, codec.label(value)) == (point.codec, point.layout, point.setting):
                path = self.plan.folder / f"{self.key(codec, layout, value)}.{suffix}"
                return path if path.exists() else None
        return None

    def _keep(self, key: str, codec: Codec, coded: Path, decoded: np.ndarray) -> None:
        """What a report shows of a point: one block as it came back, and a file of ours whole."""
        shown = np.ascontiguousarray(_cut(decoded, self.shown()))
        (self.plan.folder / f"{key}.png").write_bytes(imagecodecs.png_encode(shown, level=1))
        if codec.ours:
            os.replace(coded, self.plan.folder / f"{key}.kept{codec.suffix}")

    def _measure(self, codec: Codec, layout: str, value: float, path: Path) -> tuple[Point, np.ndarray]:
        picture = self.picture
        at_middle = value == middle(values(codec, layout, self.plan.quick))
        repeats = REPEATS if at_middle else 1
        encoding, encode_mb = self._encode(codec, layout, value, path, repeats)
        decoded, decoding, decode_mb = self._decode(codec, layout, path, repeats)
        self._check(codec, layout, decoded)
        megapixels = picture.wh[0] * picture.wh[1] / 1e6
        metrics, spectrum, regions, lossless = self._figures(codec, layout, path, decoded)
        file_bytes = os.stat(path).st_size
        tissue = picture.sample.tissue_pixels
        point = Point(
            codec=codec.name,
            layout=layout,
            setting=codec.label(value),
            file_bytes=file_bytes,
            pixels=picture.wh[0] * picture.wh[1],
            tissue_pixels=tissue,
            bpp=8 * file_bytes / (picture.wh[0] * picture.wh[1]),
            tissue_bpp=8 * file_bytes / tissue if tissue else None,
            lossless=lossless,
            metrics=metrics,
            spectrum_ratio=spectrum,
            encode_mpx_s=spread([megapixels / s.wall_s for s in encoding]),
            decode_mpx_s=spread([megapixels / s.wall_s for s in decoding]),
            encode_cpu_s=spread([s.cpu_s for s in encoding]),
            decode_cpu_s=spread([s.cpu_s for s in decoding]),
            encode_rss_mb=encode_mb,
            decode_rss_mb=decode_mb,
            views=tuple(self._views(codec, layout, path)) if at_middle and self.plan.with_views else (),
            regions=regions,
        )
        return point, decoded

    def _encode(
        self, codec: Codec, layout: str, value: float, path: Path, repeats: int
    ) -> tuple[list[Seconds], float | None]:
        def work() -> None:
            try:
                codec.encode(self.picture, layout, value, path)
            except InrwsiError:
                raise
            except Exception as error:  # every library has errors of its own
                raise BrokenCodec(f"{codec.name}, {layout}, {codec.label(value)}: does not encode: {error}") from error

        (_, first), peak_mb = with_peak(lambda: clocked(work))
        return repeated(work, first, repeats), peak_mb

    def _decode(
        self, codec: Codec, layout: str, path: Path, repeats: int
    ) -> tuple[np.ndarray, list[Seconds], float | None]:
        """The whole picture from the file, each time opened anew."""

        def whole() -> np.ndarray:
            try:
                with codec.open(path, layout) as reader:
                    if reader.wh != self.picture.wh:
                        raise BrokenCodec(
                            f"{codec.name}, {layout}: the file says {reader.wh[0]} x {reader.wh[1]} pixels, the "
                            f"picture has {self.picture.wh[0]} x {self.picture.wh[1]}"
                        )
                    return reader.read(Rect(0, 0, *self.picture.wh))
            except BrokenCodec:
                raise
            except Exception as error:  # every library has errors of its own
                raise BrokenCodec(f"{codec.name}, {layout}: its file does not decode: {error}") from error

        (decoded, first), peak_mb = with_peak(lambda: clocked(whole))
        return decoded, repeated(whole, first, repeats), peak_mb

    def _check(self, codec: Codec, layout: str, decoded: np.ndarray) -> None:
        """The guards: same pixels in, the right form out."""
        expected = (*self.picture.wh[::-1], 3)
        if decoded.shape != expected or decoded.dtype != np.uint8:
            raise BrokenCodec(
                f"{codec.name}, {layout}: decodes to {decoded.dtype} {decoded.shape}, should be uint8 {expected}"
            )
        if self.picture.digest() != self.picture.sample.sha256:
            raise BrokenCodec(f"{codec.name}, {layout}: changed the pixels that all codecs are given")

    def _figures(
        self, codec: Codec, layout: str, path: Path, decoded: np.ndarray
    ) -> tuple[dict[str, float], tuple[float, ...], Regions | None, bool]:
        picture = self.picture

        def one(rect: Rect) -> quality.Tally:
            return quality.tally(_cut(picture.pixels, rect), _cut(decoded, rect), _cut(picture.tissue, rect))

        with ThreadPoolExecutor(cores()) as pool:
            tallies = list(pool.map(one, picture.blocks))
            looked = list(pool.map(fidelity.tally, self.references(), (_cut(decoded, r) for r in picture.blocks)))
        fidelities = reduce(add, looked)
        metrics = reduce(add, tallies).metrics() | fidelities.metrics()
        metrics |= self._task(decoded)
        for name, value in metrics.items():
            if math.isnan(value):
                raise BrokenCodec(f"{codec.name}, {layout}: {name} is not a number")
        lossless = not any(t.whole.squares_rgb for t in tallies)
        regions = None
        if picture.regions:
            with codec.open(path, layout) as reader:
                sizes = reader.region_bytes(picture.regions)
            if sizes is not None and not lossless:
                wholes = [t.whole for t in tallies]
                regions = Regions(sizes, tuple(w.mse_rgb for w in wholes), tuple(w.scale_means for w in wholes))
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
        return finite, fidelities.spectrum(), regions, lossless

    def _task(self, decoded: np.ndarray) -> dict[str, float]:
        """Figures of the user's own model."""
        if self.plan.task is None:
            return {}
        side = self.plan.task.side_px
        # A thin band at the slide's edge holds no patch; a picture that is all thin says so itself.
        blocks = [r for r in self.picture.blocks if min(r.w, r.h) >= side] or self.picture.blocks
        found = (self.plan.task.agreement(_cut(self.picture.pixels, r), _cut(decoded, r)) for r in blocks)
        return reduce(add, found).metrics()

    def references(self) -> list[fidelity.Reference]:
        """What `fidelity` finds in the originals of the blocks."""
        if self._references is None:
            scale = {} if self.mpp_um is None else {"mpp_um": self.mpp_um}
            with ThreadPoolExecutor(cores()) as pool:
                self._references = list(
                    pool.map(lambda r: fidelity.reference(_cut(self.picture.pixels, r), **scale), self.picture.blocks)
                )
        return self._references

    def _views(self, codec: Codec, layout: str, path: Path) -> Iterator[View]:
        for label, downsample, windows in views(self.picture, self.plan.seed):
            ms, read = [], []
            for window in windows:

                def look(window: Rect = window, downsample: int = downsample) -> int:
                    with codec.open(path, layout) as reader:
                        reader.read(window, downsample)
                        return reader.bytes_read

                count, seconds = timed(look)
                ms.append(1000 * seconds)
                read.append(count)
                if sum(ms) > 1000 * VIEW_BUDGET_S:
                    break
            out_wh = (windows[0].w // downsample, windows[0].h // downsample)
            yield View(label, downsample, out_wh, spread(ms), round(sum(read) / len(read)))


def repeated(work: Callable[[], Any], first: Seconds, repeats: int) -> list[Seconds]:
    """What `work` takes, which took `first` the first time: up to `repeats` times in all, within the budget."""
    found = [first]
    while len(found) < repeats and sum(s.wall_s for s in found) < REPEAT_BUDGET_S:
        found.append(clocked(work)[1])
    return found


def _cut(array: np.ndarray, rect: Rect) -> np.ndarray:
    return array[rect.y : rect.y + rect.h, rect.x : rect.x + rect.w]


def _load_point(path: Path) -> Point | None:
    """A point that was whole; None where there is none that can be read."""
    try:
        return from_dict(Point, json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, ConfigError):
        return None


@cache
def code_digest(ours: bool) -> str:
    """Of the code that codes and measures; with `ours`, of the whole package as well."""
    here = Path(__file__).parent
    patterns = (
        "codecs*.py",
        "fidelity*.py",
        "quality.py",
        "tilepack.py",
        "sampling.py",
        "probe.py",
        "run.py",
        "viewer.py",
    )
    files = [path for pattern in patterns for path in sorted(here.glob(pattern))]
    if ours:
        for package in (inrwsi, inrwsi.formats):
            files += sorted(Path(str(package.__file__)).parent.rglob("*.py"))
    return sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()
