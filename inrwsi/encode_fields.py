"""Models that are fitted by descent: those of a network a tile, and those of a table a tile under one network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from inrwsi.coding import tensors
from inrwsi.encode_common import Outcome, Task, about, db
from inrwsi.encode_tiles import FieldCoder, Fitted
from inrwsi.fields.coordinates import CoordinateConfig
from inrwsi.fields.models import config_class
from inrwsi.fields.tables import MARGIN_PX, TableConfig
from inrwsi.fit import networks, tables
from inrwsi.fit.losses import Loss, loss_of
from inrwsi.fit.patches import Patch
from inrwsi.fit.rate import Rate
from inrwsi.fit.rounds import tile_px_of
from inrwsi.geometry import Rect
from inrwsi.job import Job
from inrwsi.options import FieldSettings
from inrwsi.progress import Progress
from inrwsi.tissue import glass_colour

SAMPLE_TILES = 16
BATCH = 2
NETWORK_STEPS_A_PASS = 60
CHECKPOINT_SECONDS = 20.0


def encode(task: Task) -> Outcome:
    """Encode with a model of `fields.models`; called by `encode.encode`, which checks first."""
    kind = config_class(task.options.model)
    tile_px = tile_px_of(kind, task.options, task.l0_wh, task.source.channels, task.source.bit_depth)
    settings = task.options.field(tile_px=tile_px, passes=kind.passes)
    loss = loss_of(settings, mpp_um=task.source.mpp_um, channels=task.source.channels, device=task.device)
    # The tiles that a network is fitted to are as many as the memory allows.
    same = {**about(task, {"name": kind.name}, settings), "--memory-mb": task.options.memory_mb}
    same["--loss-network"] = None if loss.network is None else loss.network.sha256  # wherever the file lies
    with Job(task.out, same, resume=task.resume, overwrite=task.overwrite) as job:
        if issubclass(kind, TableConfig):
            coder: FieldCoder[Any] = _TableCoder(task, kind, settings, loss, job)
        elif issubclass(kind, CoordinateConfig):
            coder = _NetworkCoder(task, kind, settings, loss, job)
        else:
            raise TypeError(f"{kind.__name__} is neither a TableConfig nor a CoordinateConfig")
        coder.scan(glass_colour(task.overview, task.source.background))
        coder.bases.code(coder.coded, coder.pixels, task.report)
        coder.meet_target()
        cinr_bytes = coder.write(task.out)
        job.discard()
    return Outcome(cinr_bytes, coder.header.chunk_count - len(coder.coded), len(coder.coded), coder.psnr_db)


class _NetworkCoder(FieldCoder[CoordinateConfig]):
    """Of models of a network a tile."""

    def share(self, number: int) -> float:
        return 1.0

    def fit_tile(self, number: int, rate: Rate) -> Iterator[Fitted]:
        return networks.fit_tile(
            self.config,
            self.settings.tile_px,
            self.target(number),
            passes=self.settings.passes,
            seed=(self.seed, number),
            device=self.device,
            rate=rate,
            loss=self.loss,
            guide=self.guide(number),
            optimiser=self.optimiser,
        )


class _TableCoder(FieldCoder[TableConfig]):
    """Of models of a table a tile under one network a slide."""

    margin = 1.15

    def __init__(self, task: Task, kind: type[TableConfig], settings: FieldSettings, loss: Loss, job: Job) -> None:
        super().__init__(task, kind, settings, loss, job)
        self.sampled: dict[int, np.ndarray] = {}
        self.fit: tables.NetworkFit | None = None

    def fit_shared(self) -> bytes | None:
        """Fit and freeze the network."""
        chosen = self._sample()
        tiles = [self.target(n) for n in chosen]
        fit = tables.NetworkFit(
            self.config,
            self.settings.tile_px,
            tiles,
            steps=NETWORK_STEPS_A_PASS * self.settings.passes,
            batch=BATCH,
            seed=self.seed,
            device=self.device,
            loss=self.loss,
            guides=[self.guide(n) for n in chosen],
            optimiser=self.optimiser,
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
        level_bytes = 1 if self.ranges is None else 4
        tile_bytes = self.settings.tile_px**2 * self.source.channels * level_bytes
        tile_bytes += self.config.grid.parameter_count * 16
        count = max(1, min(SAMPLE_TILES, self.memory_bytes // 4 // tile_bytes))
        numbers = self.coded or [0]
        shares = np.array([self._tissue_share(self.rect(n)) for n in numbers])
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

    def share(self, number: int) -> float:
        rect, around_px = self.rect(number), 2 * MARGIN_PX  # vertices of a table lie around the tile too
        return (rect.w + around_px) * (rect.h + around_px) / (self.settings.tile_px + around_px) ** 2

    def fit_tile(self, number: int, rate: Rate) -> Iterator[Fitted]:
        if self.shared is None or self.fit is None:
            raise RuntimeError("tiles are fitted after the network")
        pixels = self.target(number)
        start = self.sampled.get(number)
        tile = self.rect(number)

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
            rate=rate,
            loss=self.loss,
            guide=self.guide(number),
        )
