"""The rounds of an encoding by descent: scan, choose sizes, fit what all tiles share, fit every tile, write.

A round is one choice of sizes. Where its first tiles show, or all of them, that a target cannot be met with it, another
round begins. In the job's folder, beside the blank chunks:

    blank.log        squared error of the blank chunks (u64)
    rounds.json      bits a pixel that presets were chosen for, and of PSNR what came of it; the last is under way
    bases.log        the tiles' base layers, where there are any
    tiles-N.log      of round N, a record a tile: what its field would take uncut (u32); squared error of the tile
                     before it was cut to its part of it, and as it is (u64 both); and the field
"""

from __future__ import annotations

import math
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from inrwsi.config import to_dict
from inrwsi.encode_bases import Bases
from inrwsi.encode_common import Sections, Task, db, header_of, write_file
from inrwsi.fields.field import FieldConfig, Tile, estimated_bytes
from inrwsi.fields.ranges import Extremes, Ranges
from inrwsi.fit import optimisers
from inrwsi.fit.losses import Loss
from inrwsi.fit.patches import NO_GUIDE, Guide
from inrwsi.fit.quality import Quality, psnr_db, squared_error
from inrwsi.fit.rate import Error, Rate, Target
from inrwsi.fit.rounds import Rounds
from inrwsi.formats.header import GridInfo, Header
from inrwsi.formats.index import colour_struct
from inrwsi.geometry import Rect, chunk_rect
from inrwsi.job import Job
from inrwsi.memory import give_back_free_pages
from inrwsi.options import DEFAULT_BPP, FIELD_TARGETS, LEAST_BPP, MOST_BPP, FieldSettings
from inrwsi.progress import Progress
from inrwsi.tiles import decode_tile, join_payload, pack_payload
from inrwsi.tissue import is_blank

LEAST_PAYLOAD = 64  # bytes of a tile, where nobody asks for fewer
C = TypeVar("C", bound=FieldConfig)
Fitted = tuple[int, float, dict[str, np.ndarray] | None]

_FIT = struct.Struct("<IQQ")
_ERROR = struct.Struct("<Q")


class FieldCoder(ABC, Generic[C]):
    """The stages of one encoding, but for what is fitted; each goes on from what the job holds."""

    margin = 1.05  # of the preset over what is wanted, so that tiles are cut and not short

    def __init__(self, task: Task, kind: type[C], settings: FieldSettings, loss: Loss, job: Job) -> None:
        self.task, self.source, self.kind = task, task.source, kind
        self.settings, self.seed, self.tissue = settings, task.options.seed, task.tissue
        self.memory_bytes = task.options.memory_mb * 2**20
        self.job, self.device, self.report = job, task.device, task.report
        self.loss = loss
        self.shared: Tile | None = None  # what the slide's tiles have in common, where they have anything
        self.optimiser = optimisers.NAMED[settings.optimiser]
        self.bases = Bases(settings, job)
        self.sections = Sections.of(task)
        self.coded: list[int] = []
        self.ranges: Ranges | None = None  # of 16 bits
        self.blank_error = 0
        self.samples, self.peak = math.prod(task.l0_wh) * self.source.channels, 2**self.source.bit_depth - 1
        self.psnr_db = math.inf  # of the slide, once it is met
        self.weights: bytes | None = None
        self.header = self._header({"name": kind.name})  # its grid holds for all rounds

    def _header(self, model: dict[str, Any]) -> Header:
        header = header_of(self.task, GridInfo(chunk_px=self.settings.tile_px, octaves=(0,)), model)
        return replace(header, software={**header.software, **self.bases.software})

    def _choose(self, bpp: float) -> None:
        """Take the preset that spends about `bpp` bits a pixel on a tile."""
        settings = self.settings
        config = self.kind.for_bpp(bpp, settings.tile_px, self.source.channels, settings.weight_bits)
        self.config = replace(config, base_layer=settings.prior, ranges=self.ranges)
        self.header = self._header(to_dict(self.config))

    def rect(self, number: int) -> Rect:
        _, ij = self.header.chunk_at(number)
        return chunk_rect(self.header.slide.l0_wh, self.header.grid.chunk_px, ij)

    def pixels(self, number: int) -> np.ndarray:
        rect = self.rect(number)
        return self.source.read((rect.x, rect.y), (rect.w, rect.h))

    def _px(self, number: int) -> int:
        rect = self.rect(number)
        return rect.w * rect.h

    def scan(self, glass: tuple[int, ...] | None) -> None:
        """Find the blank chunks; the others are `coded`. `glass` is the slide's colour of it, where it shows any.

        Of 16 bits, find the ranges of the samples of those that are coded, too.
        """
        before, count = self.job.load_state("scan"), self.header.chunk_count
        if before and all(n in self.job for n in set(range(count)).difference(before["coded"])):  # as many as were
            self.coded, self.blank_error, ranges = before["coded"], before["blank_error"], before["ranges"]
            self.ranges = None if ranges is None else tuple((low, high) for low, high in ranges)
            return
        extremes = Extremes(self.source.channels) if self.source.bit_depth == 16 else None
        errors = self.job.log("blank")
        for number in range(count):
            if number in self.job and number in errors:
                continue
            pixels = None if glass is None and extremes is None else self.pixels(number)
            colour = None if glass is None or pixels is None else is_blank(pixels, glass)
            if colour is None or pixels is None:
                self.coded.append(number)
                if extremes is not None and pixels is not None:
                    extremes.add(pixels)
            else:
                if number not in errors:
                    errors.put(number, _ERROR.pack(squared_error(pixels, np.array(colour))))
                if number not in self.job:
                    self.job.put(number, colour_struct(self.header.slide).pack(*colour), blank=True)
            self.report(Progress("scan", number + 1, count, "tiles", f"{len(self.coded)} with tissue"))
        self.blank_error = sum(_ERROR.unpack(errors.get(number))[0] for number in errors.numbers())
        self.ranges = None if extremes is None else extremes.ranges()
        state = {"coded": self.coded, "blank_error": self.blank_error, "ranges": self.ranges}
        self.job.save_state("scan", state)

    def target(self, number: int) -> np.ndarray:
        """What a tile's field is fitted to, (h, w, channels): its pixels or what its base layer lacks, `as_levels`."""
        return self.config.as_levels(self.bases.target(number, self.pixels(number)))

    def guide(self, number: int) -> Guide:
        """What the loss has to know of a tile beside its target."""
        if self.loss.name == "mse":
            return NO_GUIDE
        pixels = self.pixels(number)
        return self.loss.guide(pixels, self.bases.picture(number, pixels.shape))

    def meet_target(self) -> None:
        """Fit rounds until one meets the target.

        Raises:
            UsageError: none does.
        """
        self.rounds = self._rounds()
        before = self.job.load_state("rounds")
        if before:
            self.rounds.restore(before)
        while True:
            self._choose(self.rounds.bpp * self.margin)
            name = self._log_name
            if not self._another_round():
                return
            self.job.drop_network()
            self.job.drop_log(name)
            self.job.save_state("rounds", self.rounds.state)  # last: a kill before it has this round fitted again

    def _rounds(self) -> Rounds:
        settings, source = self.settings, self.source
        option = next((name for name in FIELD_TARGETS if getattr(settings, name) is not None), None)
        value = getattr(settings, option) if option else DEFAULT_BPP
        raw_bytes = source.width * source.height * source.channels * source.bit_depth // 8
        base_bytes = sum(len(join_payload(base, b"")) for base in map(self.bases.get, self.coded))
        least_bpp = max(LEAST_BPP, self.kind.least_bpp(settings.tile_px, source.channels, settings.weight_bits))
        coded_px = sum(map(self._px, self.coded))
        if option is None and self.coded:  # of a slide that is a corner of its tile the least network takes more
            whole_px = sum(map(self.share, self.coded)) * settings.tile_px**2
            value = max(value, max(least_bpp * whole_px, 8 * LEAST_PAYLOAD * len(self.coded)) / coded_px)
        target = Target(option or "bpp", value, raw_bytes, coded_px, self.kind.name, base_bytes)
        if option != "psnr_db":
            first_bpp = self._first_bpp(target)
            if option is None or not self.coded:  # nobody asked for less than the model can have
                first_bpp = max(first_bpp, least_bpp)
            return Rounds(target, None, asked=option is not None, first_bpp=first_bpp, least_bpp=least_bpp)
        quality = Quality(value, self.samples, self.peak, self.blank_error, self.kind.name)
        if quality.tiles_error <= 0:
            raise quality.unreachable([quality.db(0)])
        target = replace(target, option="bpp", base_bytes=0)
        return Rounds(target, quality, asked=True, first_bpp=quality.first_bpp(least_bpp), least_bpp=least_bpp)

    def _first_bpp(self, target: Target) -> float:
        """Bits a pixel of a whole tile that the target leaves, about."""
        self._choose(MOST_BPP)  # whatever it is, what tiles share is as large
        other_bytes = self._other_bytes() + estimated_bytes(self.config.slide_tensors())
        wanted = target.payload_bytes(other_bytes)
        if self.coded and wanted < len(self.coded):
            raise target.unreachable(len(self.coded), other_bytes)
        return 8 * wanted / max(1.0, sum(map(self.share, self.coded)) * self.settings.tile_px**2)

    def _other_bytes(self) -> int:
        """Of a file, but for its payloads: that of one with a byte a payload, but for these."""
        path = self.job.folder / "other.cinr"
        chunks = ((n, self.job.get(n) if n in self.job else b"0", n in self.job) for n in self._numbers())
        size = write_file(path, self.header, self.weights, self.sections, chunks, lambda *_: None)
        path.unlink()
        return size - len(self.coded)

    def _another_round(self) -> bool:
        """Fit everything under the config; whether there must be another round, which is then under way.

        Raises:
            UsageError: the target is not met, and no round is left.
        """
        self.weights = self.fit_shared()
        order = [int(n) for n in np.random.default_rng(self.seed).permutation(self.coded)]
        self.rounds.begin(self._other_bytes(), list(map(self.share, order)), list(map(self._px, order)))
        done, total = 0.0, sum(map(self._tile_mpx, order))
        for number in order:
            self._code_tile(number, done, total)
            done += self._tile_mpx(number)
            if self.rounds.probe():
                return True
        self.psnr_db = psnr_db(self.rounds.errors.spent + self.blank_error, self.samples, self.peak)
        return self.rounds.end()

    def fit_shared(self) -> bytes | None:
        """Fit what all tiles share, or take it from the job. Returns the file's weights, if it has any."""
        return None

    @property
    def _log_name(self) -> str:
        return f"tiles-{self.rounds.number}"

    def _code_tile(self, number: int, done_mpx: float, total_mpx: float) -> None:
        """Fit a tile, or take it from the job, and have the budgets know of it."""
        log, sizes, errors = self.job.log(self._log_name), self.rounds.sizes, self.rounds.errors
        if number not in log:
            uncut_bytes, as_fitted = 0, None
            size, seen = self._tile_mpx(number), 0.0
            error = self._error_of(number)

            def aim(uncut: int) -> float:
                nonlocal uncut_bytes
                uncut_bytes = uncut
                return sizes.aim(uncut)

            def aim_error(found: int) -> float:
                nonlocal as_fitted
                as_fitted = found
                return errors.aim(found)

            steered = None if self.rounds.quality is None else Error(error, aim_error)
            rate = Rate(lambda arrays: len(pack_payload(self.config, arrays)), aim, steered)
            for pixels, mse, arrays in self.fit_tile(number, rate):
                seen = min(size, seen + pixels / 1e6)
                if arrays is not None:
                    left = error(arrays)
                    head = _FIT.pack(uncut_bytes, left if as_fitted is None else as_fitted, left)
                    log.put(number, head + pack_payload(self.config, arrays))
                self.report(Progress("tiles", done_mpx + seen, total_mpx, "Mpx", db(mse)))
            give_back_free_pages()
        uncut_bytes, as_fitted, left = _FIT.unpack_from(log.get(number))
        sizes.spend(uncut_bytes, log.size(number) - _FIT.size)
        errors.spend(as_fitted, left)

    def _error_of(self, number: int) -> Callable[[Mapping[str, np.ndarray]], int]:
        """From a tile's tensors to the squared error of what the file will decode to, summed over its samples."""
        pixels, rect = self.pixels(number), self.rect(number)
        base = self.bases.picture(number, pixels.shape)

        def error(arrays: Mapping[str, np.ndarray]) -> int:
            tile = self.config.tile_from(self.shared, arrays, self.device)
            return squared_error(pixels, decode_tile(self.config, tile, self.settings.tile_px, (rect.w, rect.h), base))

        return error

    def _tile_mpx(self, number: int) -> float:
        return self._px(number) * self.settings.passes / 1e6

    @abstractmethod
    def share(self, number: int) -> float:
        """About what a tile takes uncut, where a whole one takes 1."""

    @abstractmethod
    def fit_tile(self, number: int, rate: Rate) -> Iterator[Fitted]:
        """(pixels fitted, mean squared error, None) a step, and last with the tensors of the tile."""

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
            else (n, join_payload(self.bases.get(n), log.get(n)[_FIT.size :]), False)
            for n in self._numbers()
        )
        return write_file(path, self.header, self.weights, self.sections, chunks, written)
