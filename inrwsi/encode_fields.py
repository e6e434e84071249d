"""Models that are fitted by descent: scan, choose sizes, fit what all tiles share, fit every tile, write.

A round is one choice of sizes. Where its first tiles show, or all of them, that a target cannot be met with it, another
round begins. In the job's folder, beside the blank chunks:

    rounds.json      bits a pixel that presets were chosen for, a round each; the last is under way
    bases.log        the tiles' base layers, where there are any
    tiles-N.log      of round N, a record a tile: what its field would take uncut (u32), and the field
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from inrwsi.coding import tensors
from inrwsi.config import to_dict
from inrwsi.encode_bases import Bases
from inrwsi.encode_common import Outcome, Sections, Task, about, db, header_of, write_file
from inrwsi.fields.coordinates import CoordinateConfig
from inrwsi.fields.field import FieldConfig, Tile, estimated_bytes
from inrwsi.fields.models import config_class
from inrwsi.fields.tables import MARGIN_PX, TableConfig
from inrwsi.fit import networks, tables
from inrwsi.fit.losses import Loss
from inrwsi.fit.patches import Patch
from inrwsi.fit.rate import Budget, Rate, Target
from inrwsi.formats.header import GridInfo, Header
from inrwsi.geometry import Rect, chunk_rect
from inrwsi.job import Job
from inrwsi.memory import give_back_free_pages
from inrwsi.nuclei import WORKING_MPP_UM
from inrwsi.options import DEFAULT_BPP, FIELD_TARGETS, MOST_BPP, FieldSettings
from inrwsi.progress import Progress
from inrwsi.tiles import join_payload, pack_payload
from inrwsi.tissue import glass_colour, is_blank

C = TypeVar("C", bound=FieldConfig)
Fitted = tuple[int, float, dict[str, np.ndarray] | None]

SAMPLE_TILES = 16
BATCH = 2
NETWORK_STEPS_A_PASS = 60
CHECKPOINT_SECONDS = 20.0
ROUNDS = 4
PROBE_TILES = 3  # that show whether a round can meet the target
MOST_SURPLUS = 1.7  # of what tiles would take over what they may, before smaller ones are better than cut ones
_UNCUT = struct.Struct("<I")


def encode(task: Task) -> Outcome:
    """Encode with a model of `fields.models`; called by `encode.encode`, which checks first."""
    kind = config_class(task.options.model)
    settings = task.options.field(tile_px=kind.tile_px, passes=kind.passes)
    # The tiles that a network is fitted to are as many as the memory allows.
    same = {**about(task, {"name": kind.name}, settings), "memory_mb": task.options.memory_mb}
    job = Job(task.out, same, resume=task.resume, overwrite=task.overwrite)
    try:
        if issubclass(kind, TableConfig):
            coder: _Coder[Any] = _TableCoder(task, kind, settings, job)
        elif issubclass(kind, CoordinateConfig):
            coder = _NetworkCoder(task, kind, settings, job)
        else:
            raise TypeError(f"{kind.__name__} is neither a TableConfig nor a CoordinateConfig")
        coder.scan(glass_colour(task.overview, task.source.background))
        coder.bases.code(coder.coded, coder._pixels, task.report)
        coder.meet_target()
        cinr_bytes = coder.write(task.out)
        job.discard()
    finally:
        job.close()
    return Outcome(cinr_bytes, coder.header.chunk_count - len(coder.coded), len(coder.coded))


class _Coder(Generic[C]):
    """The stages of one encoding; each goes on from what the job holds."""

    margin = 1.05  # of the preset over what is wanted, so that tiles are cut and not short

    def __init__(self, task: Task, kind: type[C], settings: FieldSettings, job: Job) -> None:
        self.task, self.source, self.kind = task, task.source, kind
        self.settings, self.seed, self.tissue = settings, task.options.seed, task.tissue
        self.memory_bytes = task.options.memory_mb * 2**20
        self.job, self.device, self.report = job, task.device, task.report
        self.loss = Loss(settings.loss)
        self.bases = Bases(settings, job)
        self.sections = Sections.of(task)
        self.coded: list[int] = []
        self.weights: bytes | None = None
        self.number = 0  # of the round
        self.header = self._header({"name": kind.name})  # its grid holds for all rounds

    def _header(self, model: dict[str, Any]) -> Header:
        header = header_of(self.task, GridInfo(chunk_px=self.settings.tile_px, octaves=(0,)), model)
        return replace(header, software={**header.software, **self.bases.software})

    def _choose(self, bpp: float) -> None:
        """Take the preset that spends about `bpp` bits a pixel on a tile."""
        settings = self.settings
        config = self.kind.for_bpp(bpp, settings.tile_px, self.source.channels, settings.weight_bits)
        self.config = replace(config, base_layer=settings.prior)
        self.header = self._header(to_dict(self.config))

    def _rect(self, number: int) -> Rect:
        _, ij = self.header.chunk_at(number)
        return chunk_rect(self.header.slide.l0_wh, self.header.grid.chunk_px, ij)

    def _pixels(self, number: int) -> np.ndarray:
        rect = self._rect(number)
        return self.source.read((rect.x, rect.y), (rect.w, rect.h))

    def _px(self, number: int) -> int:
        rect = self._rect(number)
        return rect.w * rect.h

    def scan(self, glass: tuple[int, ...] | None) -> None:
        """Find the blank chunks; the others are `coded`. `glass` is the slide's colour of it, where it shows any."""
        before, count = self.job.load_state("scan"), self.header.chunk_count
        if before:
            self.coded = before["coded"]
            return
        for number in range(count):
            if number in self.job:
                continue
            colour = None if glass is None else is_blank(self._pixels(number), glass)
            if colour is None:
                self.coded.append(number)
            else:
                self.job.put(number, bytes(colour), blank=True)
            self.report(Progress("scan", number + 1, count, "tiles", f"{len(self.coded)} with tissue"))
        self.job.save_state("scan", {"coded": self.coded})

    def _target(self, number: int) -> np.ndarray:
        """What a tile's field is fitted to, (h, w, channels) uint8."""
        return self.bases.target(number, self._pixels(number))

    def _weights(self, number: int) -> np.ndarray | None:
        """What each pixel of a tile counts to the loss, (h, w, 1) fp32; None where all count the same."""
        mpp_um = self.source.mpp_um or (WORKING_MPP_UM, WORKING_MPP_UM)
        return self.loss.weights(self._pixels(number), sum(mpp_um) / 2) if self.loss.name == "nuclei" else None

    def meet_target(self) -> None:
        """Fit rounds until one meets the target.

        Raises:
            UsageError: none does.
        """
        option = next((name for name in FIELD_TARGETS if getattr(self.settings, name) is not None), None)
        self.asked = option is not None
        value = getattr(self.settings, option) if option else DEFAULT_BPP
        raw_bytes = self.source.width * self.source.height * self.source.channels
        coded_px = sum(map(self._px, self.coded))
        base_bytes = sum(len(join_payload(base, b"")) for base in map(self.bases.get, self.coded))
        self.target = Target(option or "bpp", value, raw_bytes, coded_px, self.kind.name, base_bytes)
        rounds = self.job.load_state("rounds").get("bpp") or [self._first_bpp()]
        while True:
            self.number = len(rounds) - 1
            self._choose(rounds[-1] * self.margin)
            surplus = self._round(last=not self.asked or len(rounds) == ROUNDS)
            if surplus is None:
                return
            self.job.drop_network()
            self.job.drop_log(self._log_name)
            rounds.append(rounds[-1] / surplus)
            self.job.save_state("rounds", {"bpp": rounds})

    def _first_bpp(self) -> float:
        """Bits a pixel of a whole tile that the target leaves, about."""
        self._choose(MOST_BPP)  # whatever it is, what tiles share is as large
        other_bytes = self._other_bytes() + estimated_bytes(self.config.slide_tensors())
        wanted = self.target.payload_bytes(other_bytes)
        if self.coded and wanted < len(self.coded):
            raise self.target.unreachable(len(self.coded), other_bytes)
        return 8 * wanted / max(1.0, sum(map(self._share, self.coded)) * self.settings.tile_px**2)

    def _other_bytes(self) -> int:
        """Of a file, but for its payloads: that of one with a byte a payload, but for these."""
        path = self.job.folder / "other.cinr"
        chunks = ((n, self.job.get(n) if n in self.job else b"0", n in self.job) for n in self._numbers())
        size = write_file(path, self.header, self.weights, self.sections, chunks, lambda *_: None)
        path.unlink()
        return size - len(self.coded)

    def _round(self, *, last: bool) -> float | None:
        """Fit everything under the config.

        Args:
            last: there will be no other round.

        Returns:
            None where the target is met, or what tiles would take over what they should.

        Raises:
            UsageError: it is not met in the last round, though it was asked for.
        """
        self.weights = self.fit_shared()
        other_bytes = self._other_bytes()
        wanted = self.target.payload_bytes(other_bytes)
        if self.coded and wanted < len(self.coded):
            raise self.target.unreachable(len(self.coded), other_bytes)
        order = [int(n) for n in np.random.default_rng(self.seed).permutation(self.coded)]
        budget = Budget(wanted, [self._share(n) for n in order])
        done, total = 0.0, sum(map(self._tile_mpx, order))
        for place, number in enumerate(order):
            self._code_tile(number, budget, done, total)
            done += self._tile_mpx(number)
            least = 1 if place + 1 < len(order) else 0  # after the last tile it counts whether the target is met
            probed = place + 1 == min(PROBE_TILES, len(order))
            if probed and not last and not least <= budget.surplus <= MOST_SURPLUS:
                return budget.surplus
        if not self.asked or self.target.met(budget.spent_bytes, other_bytes):
            return None
        if last or not order:
            raise self.target.unreachable(budget.spent_bytes, other_bytes)
        return budget.spent_bytes / wanted  # not 1, with which the next round would be this one

    def fit_shared(self) -> bytes | None:
        """Fit what all tiles share, or take it from the job. Returns the file's weights, if it has any."""
        return None

    @property
    def _log_name(self) -> str:
        return f"tiles-{self.number}"

    def _code_tile(self, number: int, budget: Budget, done_mpx: float, total_mpx: float) -> None:
        """Fit a tile, or take it from the job, and have the budget know of it."""
        log = self.job.log(self._log_name)
        if number not in log:
            uncut = 0
            size, seen = self._tile_mpx(number), 0.0

            def aim(uncut_bytes: int) -> float:
                nonlocal uncut
                uncut = uncut_bytes
                return budget.aim(uncut_bytes)

            rate = Rate(lambda arrays: len(pack_payload(self.config, arrays)), aim)
            for pixels, mse, arrays in self._fit_tile(number, rate):
                seen = min(size, seen + pixels / 1e6)
                if arrays is not None:
                    log.put(number, _UNCUT.pack(uncut) + pack_payload(self.config, arrays))
                self.report(Progress("tiles", done_mpx + seen, total_mpx, "Mpx", db(mse)))
            give_back_free_pages()
        (uncut,) = _UNCUT.unpack_from(log.get(number))
        budget.spend(uncut, log.size(number) - _UNCUT.size)

    def _tile_mpx(self, number: int) -> float:
        return self._px(number) * self.settings.passes / 1e6

    def _share(self, number: int) -> float:
        """About what a tile takes uncut, where a whole one takes 1."""
        raise NotImplementedError

    def _fit_tile(self, number: int, rate: Rate) -> Iterator[Fitted]:
        """(pixels fitted, mean squared error, None) a step, and last with the tensors of the tile."""
        raise NotImplementedError

    def _numbers(self) -> range:
        return range(self.header.chunk_count)

    def write(self, path: Path) -> int:
        """Assemble the file; returns its bytes."""
        log = self.job.log(self._log_name)

        def written(done: int, total: int) -> None:
            self.report(Progress("write", done, total, "tiles"))

        chunks = (
            (n, self.job.get(n), True)
            if n in self.job
            else (n, join_payload(self.bases.get(n), log.get(n)[_UNCUT.size :]), False)
            for n in self._numbers()
        )
        return write_file(path, self.header, self.weights, self.sections, chunks, written)


class _NetworkCoder(_Coder[CoordinateConfig]):
    """Of models of a network a tile."""

    def _share(self, number: int) -> float:
        return 1.0

    def _fit_tile(self, number: int, rate: Rate) -> Iterator[Fitted]:
        return networks.fit_tile(
            self.config,
            self.settings.tile_px,
            self._target(number),
            passes=self.settings.passes,
            seed=(self.seed, number),
            device=self.device,
            rate=rate,
            loss=self.loss,
            weights=self._weights(number),
        )


class _TableCoder(_Coder[TableConfig]):
    """Of models of a table a tile under one network a slide."""

    margin = 1.15

    def __init__(self, task: Task, kind: type[TableConfig], settings: FieldSettings, job: Job) -> None:
        super().__init__(task, kind, settings, job)
        self.shared: Tile | None = None
        self.sampled: dict[int, np.ndarray] = {}
        self.fit: tables.NetworkFit | None = None

    def fit_shared(self) -> bytes | None:
        """Fit and freeze the network."""
        chosen = self._sample()
        tiles = [self._target(n) for n in chosen]
        weights = [w for w in map(self._weights, chosen) if w is not None]
        fit = tables.NetworkFit(
            self.config,
            self.settings.tile_px,
            tiles,
            steps=NETWORK_STEPS_A_PASS * self.settings.passes,
            batch=BATCH,
            seed=self.seed,
            device=self.device,
            loss=self.loss,
            weights=weights or None,
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

    def _share(self, number: int) -> float:
        rect, around_px = self._rect(number), 2 * MARGIN_PX  # vertices of a table lie around the tile too
        return (rect.w + around_px) * (rect.h + around_px) / (self.settings.tile_px + around_px) ** 2

    def _fit_tile(self, number: int, rate: Rate) -> Iterator[Fitted]:
        if self.shared is None or self.fit is None:
            raise RuntimeError("tiles are fitted after the network")
        pixels = self._target(number)
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
            rate=rate,
            loss=self.loss,
            weights=self._weights(number),
        )
