"""Models that are fitted by descent: scan, fit what all tiles share, fit every tile, write."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import numpy as np

from inrwsi.coding import tensors
from inrwsi.config import to_dict
from inrwsi.encode_common import Outcome, Sections, Task, about, db, header_of, write_file
from inrwsi.fields.coordinates import CoordinateConfig
from inrwsi.fields.field import FieldConfig, Tile
from inrwsi.fields.models import config_class
from inrwsi.fields.tables import TableConfig
from inrwsi.fit import networks, tables
from inrwsi.fit.patches import Patch
from inrwsi.formats.header import GridInfo, Header
from inrwsi.geometry import Rect, chunk_rect
from inrwsi.job import Job
from inrwsi.memory import give_back_free_pages
from inrwsi.options import FieldSettings
from inrwsi.progress import Progress
from inrwsi.tiles import pack_payload
from inrwsi.tissue import glass_colour, is_blank

C = TypeVar("C", bound=FieldConfig)
Fitted = tuple[int, float, dict[str, np.ndarray] | None]

SAMPLE_TILES = 16
BATCH = 2
NETWORK_STEPS_A_PASS = 60
CHECKPOINT_SECONDS = 20.0


def encode(task: Task) -> Outcome:
    """Encode with a model of `fields.models`; called by `encode.encode`, which checks first."""
    kind = config_class(task.options.model)
    settings = task.options.field(tile_px=kind.tile_px, passes=kind.passes)
    config = kind.for_bpp(settings.bpp, settings.tile_px, task.source.channels, settings.weight_bits)
    model = to_dict(config)
    header = header_of(task, GridInfo(chunk_px=settings.tile_px, octaves=(0,)), model)
    # The tiles that a network is fitted to are as many as the memory allows.
    same = {**about(task, model, settings), "memory_mb": task.options.memory_mb}
    job = Job(task.out, same, resume=task.resume, overwrite=task.overwrite)
    try:
        if isinstance(config, TableConfig):
            coder: _Coder[Any] = _TableCoder(task, header, config, settings, job)
        elif isinstance(config, CoordinateConfig):
            coder = _NetworkCoder(task, header, config, settings, job)
        else:
            raise TypeError(f"{kind.__name__} is neither a TableConfig nor a CoordinateConfig")
        coder.scan(glass_colour(task.overview, task.source.background))
        weights = coder.fit_shared()
        coder.fit_tiles()

        def written(done: int, total: int) -> None:
            task.report(Progress("write", done, total, "tiles"))

        cinr_bytes = write_file(task.out, header, weights, Sections.of(task), job.chunks(), written)
        coded = sum(not job.blank(n) for n in range(header.chunk_count))
        job.discard()
    finally:
        job.close()
    return Outcome(cinr_bytes, header.chunk_count - coded, coded)


class _Coder(Generic[C]):
    """The stages of one encoding; each goes on from what the job holds."""

    def __init__(self, task: Task, header: Header, config: C, settings: FieldSettings, job: Job) -> None:
        self.source, self.header, self.config = task.source, header, config
        self.settings, self.seed, self.tissue = settings, task.options.seed, task.tissue
        self.memory_bytes = task.options.memory_mb * 2**20
        self.job, self.device, self.report = job, task.device, task.report
        self.coded: list[int] = []

    def _rect(self, number: int) -> Rect:
        _, ij = self.header.chunk_at(number)
        return chunk_rect(self.header.slide.l0_wh, self.header.grid.chunk_px, ij)

    def _pixels(self, number: int) -> np.ndarray:
        rect = self._rect(number)
        return self.source.read((rect.x, rect.y), (rect.w, rect.h))

    def scan(self, glass: tuple[int, ...] | None) -> None:
        """Find the blank chunks; the others are `coded`. `glass` is the slide's colour of it, where it shows any."""
        count = self.header.chunk_count
        for number in range(count):
            if number in self.job:
                if not self.job.blank(number):
                    self.coded.append(number)
                continue
            colour = None if glass is None else is_blank(self._pixels(number), glass)
            if colour is None:
                self.coded.append(number)
            else:
                self.job.put(number, bytes(colour), blank=True)
            self.report(Progress("scan", number + 1, count, "tiles", f"{len(self.coded)} with tissue"))

    def fit_shared(self) -> bytes | None:
        """Fit what all tiles share, or take it from the job. Returns the file's weights, if it has any."""
        return None

    def fit_tiles(self) -> None:
        """Fit every coded chunk that the job does not hold yet."""
        sizes = [self._tile_mpx(n) for n in self.coded]
        total, done = sum(sizes), 0.0
        for number, size in zip(self.coded, sizes, strict=True):
            if number not in self.job:
                seen = 0.0
                for pixels, mse, arrays in self._fit_tile(number):
                    seen = min(size, seen + pixels / 1e6)
                    if arrays is not None:
                        self.job.put(number, pack_payload(self.config, arrays), blank=False)
                    self.report(Progress("tiles", done + seen, total, "Mpx", db(mse)))
                give_back_free_pages()
            done += size

    def _tile_mpx(self, number: int) -> float:
        rect = self._rect(number)
        return rect.w * rect.h * self.settings.passes / 1e6

    def _fit_tile(self, number: int) -> Iterator[Fitted]:
        """(pixels fitted, mean squared error, None) a step, and last with the tensors of the tile."""
        raise NotImplementedError


class _NetworkCoder(_Coder[CoordinateConfig]):
    """Of models of a network a tile."""

    def _fit_tile(self, number: int) -> Iterator[Fitted]:
        return networks.fit_tile(
            self.config,
            self.settings.tile_px,
            self._pixels(number),
            passes=self.settings.passes,
            seed=(self.seed, number),
            device=self.device,
        )


class _TableCoder(_Coder[TableConfig]):
    """Of models of a table a tile under one network a slide."""

    def __init__(self, task: Task, header: Header, config: TableConfig, settings: FieldSettings, job: Job) -> None:
        super().__init__(task, header, config, settings, job)
        self.shared: Tile | None = None
        self.sampled: dict[int, np.ndarray] = {}
        self.fit: tables.NetworkFit | None = None

    def fit_shared(self) -> bytes | None:
        """Fit and freeze the network."""
        chosen = self._sample()
        tiles = [self._pixels(n) for n in chosen]
        fit = tables.NetworkFit(
            self.config,
            self.settings.tile_px,
            tiles,
            steps=NETWORK_STEPS_A_PASS * self.settings.passes,
            batch=BATCH,
            seed=self.seed,
            device=self.device,
        )
        before = self.job.load_network()
        if before is not None:
            fit.restore(*before)
        saved = time.monotonic()
        seen = 0
        while fit.step_number < fit.steps:
            pixels, mse = fit.step()
            seen += pixels
            total = seen / 1e6 * fit.steps / fit.step_number
            self.report(Progress("network", total * fit.step_number / fit.steps, total, "Mpx", db(mse)))
            if time.monotonic() - saved > CHECKPOINT_SECONDS or fit.step_number == fit.steps:
                self.job.save_network(*fit.state())
                saved = time.monotonic()
        frozen = fit.frozen()
        self.shared = self.config.slide_from(frozen, self.device)
        self.sampled = {n: fit.table(i) for i, n in enumerate(chosen)}
        self.fit = fit
        return tensors.pack(frozen)

    def _sample(self) -> list[int]:
        """Tiles for the network's fit: drawn at random from those with the most tissue, within the memory setting."""
        tile_bytes = self.settings.tile_px**2 * self.source.channels + self.config.grid.parameter_count * 16
        count = max(1, min(SAMPLE_TILES, self.memory_bytes // 4 // tile_bytes))
        numbers = self.coded or [0]
        shares = np.array([self._tissue_share(self._rect(n)) for n in numbers])
        rich = [n for n, share in zip(numbers, shares, strict=True) if share >= min(0.5, shares.max())]
        rng = np.random.default_rng(self.seed)
        return sorted(int(n) for n in rng.permutation(rich)[:count])

    def _tissue_share(self, l0_rect: Rect) -> float:
        """Share of a rectangle that the tissue map counts."""
        slide = self.header.slide
        h, w = self.tissue.shape
        x0, y0 = l0_rect.x * w // slide.width, l0_rect.y * h // slide.height
        x1 = max(x0 + 1, -(-(l0_rect.x + l0_rect.w) * w // slide.width))
        y1 = max(y0 + 1, -(-(l0_rect.y + l0_rect.h) * h // slide.height))
        return float(self.tissue[y0:y1, x0:x1].mean())

    def _fit_tile(self, number: int) -> Iterator[Fitted]:
        if self.shared is None or self.fit is None:
            raise RuntimeError("tiles are fitted after the network")
        pixels = self._pixels(number)
        start = self.sampled.get(number)
        tile = self._rect(number)

        def busy(patch: Patch) -> bool:
            return self._tissue_share(Rect(tile.x + patch.x, tile.y + patch.y, patch.w, patch.h)) > 0

        return tables.fit_tile(
            self.config,
            self.shared,
            self.settings.tile_px,
            pixels,
            self.fit.start(pixels) if start is None else start,
            passes=self.settings.passes,
            batch=BATCH,
            seed=(self.seed, number),
            busy=busy,
        )
