"""Points of rate and quality: a file of each codec at each setting, decoded again, and kept so that a run can go on.

A point stands in a folder under a name that covers all that it depends on: pixels, setting, versions, and the code that
codes. Of a peer that is its few lines in `codecs`; of ours every line of the package, comments and docstrings left out.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce
from hashlib import sha256
from operator import add
from pathlib import Path
from types import CodeType
from typing import Any, Protocol

import numpy as np

import inrwsi
import inrwsi.formats
from inrwsi.geometry import Rect
from inrwsi.options import TUNES
from inrwsi.progress import Progress, Report

from . import quality, tilepack
from .codecs import STILL_CODECS, TILED, WHOLE, BrokenCodec, StillCodec
from .octaves_results import SLIDE, TISSUE, Figures, FilePoint, load_point
from .octaves_subjects import Pixels
from .probe import cores, timed
from .results import save
from .sampling import TILE_PX

MEASURING = 1  # counted up whenever a point would come out different
LOSSLESS_DB = 100.0  # JSON has no infinity
LOW_BPP, HIGH_BPP = 0.3, 2.0
OURS_LOW_BPP, OURS_HIGH_BPP = 0.12, 2.3  # ours, to reach the qualities of the weakest and the strongest peer there
PEERS = {  # settings from few bits to many: a curve takes those from the last below 0.3 bpp to the first above 2
    "jpeg-420": (2, 4, 7, 12, 20, 32, 47, 62, 74, 83, 90, 95, 98),
    "jpeg2000": (19, 21, 23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43, 46, 49, 52),
    "jpegxl": (25, 15, 10, 7, 5, 3.5, 2.5, 1.8, 1.2, 0.8, 0.5, 0.3),
    "avif": (2, 10, 18, 26, 34, 42, 50, 58, 66, 74, 82, 90, 96),
    "avif-psnr": (1, 5, 10, 16, 22, 29, 36, 43, 50, 58, 66, 74, 82, 90, 96),
}
OURS = (4, 12, 20, 28, 36, 44, 52, 60, 68, 76, 84, 92, 100)


class Reading(Protocol):
    """A coded file, opened by its path alone. A context manager."""

    def read(self, window: Rect) -> np.ndarray: ...

    def area_bytes(self, pixels: Pixels, area: str, file_bytes: int) -> float: ...

    def __enter__(self) -> Reading: ...

    def __exit__(self, *exc: object) -> None: ...


class Coder(Protocol):
    """Makes and opens files. `facts`: what its points depend on beside pixels and value. `kept`: its files stay."""

    @property
    def name(self) -> str: ...

    @property
    def suffix(self) -> str: ...

    @property
    def kept(self) -> bool: ...

    def facts(self) -> Any: ...

    def label(self, value: float) -> str: ...

    def encode(self, pixels: Pixels, value: float, path: Path) -> None: ...

    def open(self, path: Path) -> Reading: ...


@dataclass(frozen=True)
class PeerCoder:
    """A codec of others: one codestream for the whole picture, by one thread (its bytes may depend on how many), or one
    for each 512-pixel tile."""

    codec: StillCodec
    layout: str
    suffix: str = ".coded"
    kept: bool = False

    @property
    def name(self) -> str:
        return self.codec.name

    def facts(self) -> Any:
        codec = self.codec
        code = [code_facts(f.__code__) for f in (codec.encoder, codec.decoder)]
        return [codec.name, codec.about, self.layout, codec.versions(), code]

    def label(self, value: float) -> str:
        return self.codec.label(value)

    def encode(self, pixels: Pixels, value: float, path: Path) -> None:
        if self.layout == WHOLE:
            path.write_bytes(self.codec.encoder(pixels.rgb, value, 1))
        else:
            tilepack.write(path, pixels.rgb, TILE_PX, lambda t: self.codec.encoder(t, value, 1), threads=cores())

    def open(self, path: Path) -> Reading:
        return _PeerReading(self.codec, path, self.layout)


class _PeerReading:
    def __init__(self, codec: StillCodec, path: Path, layout: str) -> None:
        self._reader = codec.open(path, layout)
        self._tiled = layout == TILED

    def read(self, window: Rect) -> np.ndarray:
        return self._reader.read(window)

    def area_bytes(self, pixels: Pixels, area: str, file_bytes: int) -> float:
        """Of a tile pack: the area's codestreams with the pack's head and their entries in its index."""
        if not self._tiled or area == SLIDE:
            return file_bytes
        lengths = self._reader.region_bytes([pixels.blocks[n] for n in pixels.areas[area]]) or ()
        return 16 + sum(8 + length for length in lengths)

    def __enter__(self) -> _PeerReading:
        return self

    def __exit__(self, *exc: object) -> None:
        self._reader.__exit__()


@dataclass(frozen=True)
class OurCoder:
    """Model `octaves` by quality, at one effort and tuning.

    Attributes:
        in_part: a sample of tiles is measured: count the payload of the octave-0 chunks under them, and the rest of the
            file in proportion.
    """

    effort: str
    tune: str = TUNES[0]
    in_part: bool = False
    kept: bool = False
    report: Report | None = None
    suffix: str = ".cinr"

    @property
    def name(self) -> str:
        return f"octaves {self.effort}" + (f" {self.tune}" if self.tune != TUNES[0] else "")

    def facts(self) -> Any:
        return [self.name, inrwsi.__version__, package_digest(), self.in_part]

    def label(self, value: float) -> str:
        return f"quality={value:g}"

    def encode(self, pixels: Pixels, value: float, path: Path) -> None:
        from inrwsi.encode import encode  # here: the peers need none of it
        from inrwsi.options import EncodeOptions

        options = EncodeOptions(model="octaves", quality=value, effort=self.effort, tune=self.tune, device="cpu")
        begun = path.with_name(path.name + ".work").exists()
        with pixels.open() as source:
            encode(source, path, options, progress=self.report, resume=begun, overwrite=True)

    def open(self, path: Path) -> Reading:
        return _OurReading(path, self.in_part)


class _OurReading:
    def __init__(self, path: Path, in_part: bool) -> None:
        from inrwsi.decode import Decoder

        self._decoder, self._in_part = Decoder(path, device="cpu"), in_part

    def read(self, window: Rect) -> np.ndarray:
        return self._decoder.read_region((window.x, window.y), (window.w, window.h))

    def area_bytes(self, pixels: Pixels, area: str, file_bytes: int) -> float:
        """All of the file but for chunks that nothing in the area needs; `in_part`, the octave-0 chunks' payload,
        scaled from all such payload to the file.
        """
        rects = [pixels.blocks[n] for n in pixels.areas[area]]
        if not self._in_part:
            return file_bytes - bytes_beside(self._decoder.container, rects)
        own, every = finest_bytes(self._decoder.container, rects)
        return file_bytes * own / every

    def __enter__(self) -> _OurReading:
        return self

    def __exit__(self, *exc: object) -> None:
        self._decoder.close()


def bytes_beside(container: Any, rects: Sequence[Rect]) -> int:
    """Payload bytes of chunks, of all octaves, that lie over no part of the rectangles: decoding these reads none."""
    grid = container.header.grid
    beside = 0
    for octave in grid.octaves:
        over = _chunks_over(rects, grid.chunk_px << octave)
        beside += sum(payload_bytes for chunk_ij, payload_bytes, _ in container.entries(octave) if chunk_ij not in over)
    return beside


def finest_bytes(container: Any, rects: Sequence[Rect]) -> tuple[int, int]:
    """Payload bytes of the octave-0 chunks inside the rectangles, and of all octave-0 chunks."""
    wanted = _chunks_over(rects, container.header.grid.chunk_px)
    own = every = 0
    for chunk_ij, payload_bytes, _ in container.entries(0):
        every += payload_bytes
        own += payload_bytes if chunk_ij in wanted else 0
    return own, max(1, every)


def _chunks_over(rects: Sequence[Rect], side: int) -> set[tuple[int, int]]:
    """(column, row) of the chunks of `side` level-0 pixels that lie over any part of the rectangles."""
    return {
        (i, j)
        for r in rects
        for i in range(r.x // side, -(-(r.x + r.w) // side))
        for j in range(r.y // side, -(-(r.y + r.h) // side))
    }


@dataclass(frozen=True)
class Store:
    """Points on the disk. `folder` is made when the first is kept."""

    folder: Path
    report: Report = lambda _: None

    def point(self, pixels: Pixels, coder: Coder, value: float) -> FilePoint:
        """One point, from the folder if it is there. BrokenCodec if what comes back is not the picture."""
        key = self._key(pixels, coder, value)
        partial, coded = self.folder / f"{key}.json", self.folder / f"{key}{coder.suffix}"
        known = load_point(partial)
        if known is not None and (coded.exists() or not coder.kept):
            return known
        self.folder.mkdir(parents=True, exist_ok=True)
        self.report(Progress(pixels.facts.name, 0, 1, "points", f"{coder.name} {coder.label(value)}"))
        try:
            point = measure(pixels, coder, value, coded)
        finally:
            if not coder.kept:
                coded.unlink(missing_ok=True)
        save(point, partial)
        return point

    def file(self, pixels: Pixels, coder: Coder, value: float) -> Path:
        """The coded file of a point whose coder keeps them."""
        return self.folder / f"{self._key(pixels, coder, value)}{coder.suffix}"

    def curve(
        self, pixels: Pixels, coder: Coder, ladder: Sequence[float], area: str, low: float, high: float
    ) -> list[FilePoint]:
        """From the middle of the ladder down to the first point of at most `low` bpp, and up to one of `high`."""
        at = len(ladder) // 2
        found = {at: self.point(pixels, coder, ladder[at])}
        for step, enough in ((-1, lambda bpp: bpp <= low), (1, lambda bpp: bpp >= high)):
            n = at
            while not enough(found[n].over(area).bpp) and 0 <= n + step < len(ladder):
                n += step
                found[n] = self.point(pixels, coder, ladder[n])
        return [found[n] for n in sorted(found)]

    def _key(self, pixels: Pixels, coder: Coder, value: float) -> str:
        areas = sha256(json.dumps(pixels.areas).encode()).hexdigest()
        facts = [MEASURING, pixels.facts.sha256, pixels.facts.wh, areas, coder.facts(), coder.label(value)]
        digest = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return f"{Path(pixels.facts.name).stem}-{coder.name.replace(' ', '-')}-{value:g}-{digest[:16]}"


def measure(pixels: Pixels, coder: Coder, value: float, path: Path) -> FilePoint:
    """Code to `path` and measure what comes back from it."""
    name = f"{pixels.facts.name}, {coder.name} {coder.label(value)}"
    _, seconds = timed(lambda: coder.encode(pixels, value, path))
    file_bytes = os.stat(path).st_size
    members = sorted({n for numbers in pixels.areas.values() for n in numbers})
    with coder.open(path) as reading:
        sums = {n: _sums(pixels.rgb, pixels.blocks[n], reading, name) for n in members}
        spent = {area: reading.area_bytes(pixels, area, file_bytes) for area in pixels.areas}
    figures = []
    for area, numbers in pixels.areas.items():
        metrics = reduce(add, (sums[n] for n in numbers)).metrics()
        bpp = 8 * spent[area] / pixels.facts.area_px[area]
        psnr_db = min(metrics["psnr_rgb"], LOSSLESS_DB)
        figures.append(Figures(area, spent[area], bpp, psnr_db, metrics.get("ms_ssim")))
    return FilePoint(
        pixels.facts.name, coder.name, float(value), coder.label(value), file_bytes, seconds, tuple(figures)
    )


def _sums(rgb: np.ndarray, block: Rect, reading: Reading, name: str) -> quality.Sums:
    original, decoded = rgb[block.y : block.y + block.h, block.x : block.x + block.w], reading.read(block)
    if decoded.shape != original.shape or decoded.dtype != np.uint8:
        raise BrokenCodec(f"{name}: decodes to {decoded.dtype} {decoded.shape}, should be uint8 {original.shape}")
    return quality.tally(original, decoded).whole


def peers(layout: str) -> list[PeerCoder]:
    """The codecs to be compared with, in the order of PEERS."""
    known = {c.name: c for c in STILL_CODECS}
    return [PeerCoder(known[name], layout) for name in PEERS]


def peer_curve(store: Store, pixels: Pixels, coder: Coder, *, every: int = 1) -> list[FilePoint]:
    """A peer's points over 0.3 to 2 bpp of the crop or of tissue; `every` second setting and so on."""
    area = TISSUE if TISSUE in pixels.areas else next(iter(pixels.areas))
    return store.curve(pixels, coder, PEERS[coder.name][::every], area, LOW_BPP, HIGH_BPP)


def our_curve(
    store: Store, pixels: Pixels, coder: Coder, qualities: Sequence[float], *, every: int = 1
) -> list[FilePoint]:
    """Our points at `qualities`, or where none are given over the rates that the peers' qualities need."""
    if qualities:
        return [store.point(pixels, coder, q) for q in sorted(qualities)]
    area = TISSUE if TISSUE in pixels.areas else next(iter(pixels.areas))
    return store.curve(pixels, coder, OURS[::every], area, OURS_LOW_BPP, OURS_HIGH_BPP)


def code_facts(code: CodeType) -> list[Any]:
    """What a function does, whatever its line and layout."""
    constants = [code_facts(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return [code.co_code.hex(), constants, list(code.co_names)]


@cache
def package_digest() -> str:
    """Of everything in the package that could change a file: its code, and the name of its current prior."""
    found = []
    for package in (inrwsi, inrwsi.formats):
        folder = Path(str(package.__file__)).parent
        found += [ast.dump(_without_docstrings(p.read_text(encoding="utf-8"))) for p in sorted(folder.rglob("*.py"))]
    current = Path(str(inrwsi.__file__)).parent / "priors" / "current.txt"
    found.append(current.read_text() if current.exists() else "")
    return sha256("\0".join(found).encode()).hexdigest()


def _without_docstrings(source: str) -> ast.Module:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return tree
