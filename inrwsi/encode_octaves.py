"""Model `octaves`: scan, find the step that meets the target, code the coarse octaves, then the units, and write.

The slide is read twice, a unit of 1024 x 1024 pixels at a time: once for its plain chunks and its octave 3, from which
all coarser octaves are made and coded; then, with the decoded octave 3 at hand, to code the three finest. What is
between lies in the job's folder:

    scanned.log           a record a unit, its plain chunks; and one when the coarser true octaves are made
    true-K.parts          true pixels of the octave above K, for each chunk of K
    search.json           what steps gave, on the sample ("probes") and on whole files ("rounds")
    round-STEP.log        the payloads; and for each unit, when it is whole, its squared error
    decoded-STEP-K.parts  decoded pixels and features of the octave above K, for each chunk of K
    round-STEP.cinr       the whole file
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from inrwsi.colour import Klt
from inrwsi.config import to_dict
from inrwsi.encode_common import Outcome, Sections, Task, about, bytes_beside, db, header_of, write_file
from inrwsi.encode_fit import PASSES, InFile, Weights, coder_of, fit_networks, in_file
from inrwsi.encode_sample import Sample
from inrwsi.encode_units import (
    Blanks,
    Coded,
    Glass,
    Ij,
    Parts,
    Plan,
    Scanned,
    as_held,
    as_rgb,
    as_true,
    encode_unit,
    joined,
    quadrant,
    scan_unit,
)
from inrwsi.errors import CorruptFile, UnsupportedVersion
from inrwsi.fields import octaves_prior
from inrwsi.fields.octaves_model import CHUNK_PX, FEATURES, TUNINGS, Decoded, OctavesModel
from inrwsi.formats.container import Container
from inrwsi.formats.header import GridInfo, Header
from inrwsi.formats.writer import sync_folder
from inrwsi.job import Job, Log
from inrwsi.memory import give_back_free_pages
from inrwsi.octave_chunks import ChunkCoder
from inrwsi.options import TARGETS
from inrwsi.progress import Progress
from inrwsi.rate_control import START_STEP, Goal, Measured, search, settle, step_of_quality
from inrwsi.tissue import glass_colour
from inrwsi.workers import Workers

WINDOWS, WINDOW_PX = 64, 64  # from which the colour transform is made
UNIT_BYTES_A_PX = 48  # of memory, while a unit is coded
_SSE = struct.Struct("<Q")


def encode(task: Task) -> Outcome:
    """Encode with model `octaves`; called by `encode.encode`, which checks first."""
    plan = Plan.of(task.l0_wh)
    settings = task.options.octaves
    klt = Klt.of(_tissue_pixels(task), luma=TUNINGS[settings.tune].luma if task.source.channels == 3 else 1.0)
    model = OctavesModel.of(octaves_prior.current_sha256(), START_STEP, klt, tune=settings.tune)
    same = about(task, {**to_dict(model), "step": None, "spacing": None, "root_unit": None}, settings)
    if settings.effort in PASSES:  # networks are fitted to as much of the slide as the memory allows
        same["--memory-mb"] = task.options.memory_mb
    with Job(task.out, same, resume=task.resume, overwrite=task.overwrite) as job:
        with ExitStack() as files, Workers() as workers:  # the workers end first
            coder = _Coder(task, plan, model, job, workers, files)
            coder.scan(glass_colour(task.overview, task.source.background))
            step = _meet_target(task, coder)
        path, measured = coder.made(step)
        os.replace(path, task.out)
        sync_folder(task.out.parent)
        blank = coder.blanks_at(step).count
        job.discard()
    coded, used = coder.header.chunk_count - blank, coder.model_at(step)
    return Outcome(int(measured.file_bytes), blank, coded, measured.psnr_db, used.step)


def _meet_target(task: Task, coder: _Coder) -> int:
    """Fit the networks and encode until the target is met; the step of the file that meets it best."""
    settings = task.options.octaves
    if settings.quality is not None:
        step = step_of_quality(settings.quality)
        coder.weights = fit_networks(coder, coder.model_at(step), settings.effort, whole=settings.self_contained)
        coder.round(step)
        return step
    option = next(name for name in TARGETS if getattr(settings, name) is not None)
    raw_bytes = task.source.width * task.source.height * task.source.channels
    goal = Goal(option, float(getattr(settings, option)), raw_bytes)
    curve = search(goal, coder.probe)
    model = coder.model_at(curve.step(goal.wanted))
    coder.weights = fit_networks(coder, model, settings.effort, whole=settings.self_contained)
    if coder.weights is not None:  # the same bytes are worth another step now
        curve = search(goal, coder.probe)
    return settle(goal, curve, coder.round)


def _tissue_pixels(task: Task) -> np.ndarray:
    """Sample pixels (n, 3) uint8 of level 0 where the tissue map has something; of anywhere where it has nothing."""
    rng = np.random.default_rng(task.options.seed)
    cells = np.argwhere(task.tissue)
    if not len(cells):
        cells = np.argwhere(~task.tissue)
    chosen = cells[np.sort(rng.permutation(len(cells))[:WINDOWS])]
    (rows, columns), (width, height) = task.tissue.shape, task.l0_wh
    w, h = min(WINDOW_PX, width), min(WINDOW_PX, height)
    found = []
    for row, column in chosen.tolist():
        x = min(max(0, (2 * column + 1) * width // (2 * columns) - w // 2), width - w)
        y = min(max(0, (2 * row + 1) * height // (2 * rows) - h // 2), height - h)
        found.append(as_rgb(task.source.read((x, y), (w, h))).reshape(-1, 3))
    return np.concatenate(found)


class _Coder:
    """The stages of one encoding; each goes on from what the job holds."""

    def __init__(
        self, task: Task, plan: Plan, model: OctavesModel, job: Job, workers: Workers, files: ExitStack
    ) -> None:
        self.task, self.plan, self.model, self.job, self.workers, self.files = task, plan, model, job, workers, files
        self.source, self.report = task.source, task.report
        self.header = self._header(model)
        self.glass = Glass(plan, task.source.channels)
        self.blanks: Blanks  # of the step that is coded with now
        self.weights: Weights = None
        self.sections = Sections.of(task)
        unit_bytes = UNIT_BYTES_A_PX * (CHUNK_PX << plan.unit) ** 2
        self.most_units = max(1, min(2 * workers.count, task.options.memory_mb * 2**20 // 2 // unit_bytes))
        self._true: dict[int, Parts] = {}
        self._sample: Sample | None = None
        self._rounds = 0
        self._made: set[int] = set()  # steps whose files this process wrote or looked at

    def _header(self, model: OctavesModel) -> Header:
        grid = GridInfo(CHUNK_PX, tuple(range(self.plan.top + 1)))
        return header_of(self.task, grid, to_dict(model))

    def model_at(self, step: int) -> OctavesModel:
        return self.model.at(step)

    def blanks_at(self, step: int) -> Blanks:
        return self.glass.blanks(self.model_at(step).equal_step)

    def _begin(self, step: int) -> ChunkCoder:
        """Code with a step from here on."""
        self.blanks = self.blanks_at(step)
        return coder_of(self.task, self.model_at(step), self.weights)

    def _in_file(self, chunk_bytes: float) -> InFile:
        """What a file whose chunks have so many bytes says of its networks."""
        whole = self.task.options.octaves.self_contained
        return in_file(self.model.prior, self.weights, chunk_bytes, always_whole=whole)

    def pixels(self, unit_ij: Ij) -> np.ndarray:
        """(h, w, C) uint8 of a unit."""
        rect = self.plan.l0_rect(self.plan.unit, unit_ij)
        return self.source.read((rect.x, rect.y), (rect.w, rect.h))

    def unit_mpx(self, unit_ij: Ij) -> float:
        rect = self.plan.l0_rect(self.plan.unit, unit_ij)
        return rect.w * rect.h / 1e6

    def parts(self, name: str, octave: int, features: int) -> Parts:
        """What lies in the job's folder under that name of the octave above `octave`; closed when the encoding ends."""
        parts = Parts(self.job.folder / f"{name}-{octave}.parts", self.plan, octave, features)
        self.files.callback(parts.close)
        return parts

    def true_parts(self, octave: int) -> Parts:
        """The true octave above `octave`."""
        if octave not in self._true:
            self._true[octave] = self.parts("true", octave, 0)
        return self._true[octave]

    def target(self, octave: int, ij: Ij) -> np.ndarray:
        """The true pixels (3, h, w) float32 of a chunk above the units."""
        parts = self.true_parts(octave - 1)
        return joined(self.plan, octave, ij, {c: as_true(parts.get(c)) for c in self.plan.children(octave, ij)})

    # ---- scan

    def scan(self, glass: tuple[int, ...] | None) -> None:
        """Find the plain chunks, and make the true octaves above the units. `glass` is the slide's colour of it."""
        log, unit = self.job.log("scanned"), self.plan.unit
        units = list(self.plan.chunks(unit))
        coder, parts = coder_of(self.task, self.model_at(START_STEP), self.weights), self.true_parts(unit)

        def work(ij: Ij) -> Scanned:
            scanned = scan_unit(coder, self.plan, ij, self.pixels(ij), glass)
            parts.put(ij, as_held(scanned.above))  # before the record, which says that it is there
            return scanned

        missing = [ij for ij in units if self.plan.number(unit, ij) not in log]
        total = sum(map(self.unit_mpx, units))
        done = total - sum(map(self.unit_mpx, missing))
        for ij, scanned in self.workers.run(work, missing, most=self.most_units):
            log.put(self.plan.number(unit, ij), scanned.record)
            done += self.unit_mpx(ij)
            self.report(Progress("scan", min(done, total), total, "Mpx"))
            give_back_free_pages()
        for ij in units:
            self.glass.take(ij, log.get(self.plan.number(unit, ij)))
        if len(units) not in log:
            for octave in range(unit + 1, self.plan.top):
                self._make_above(coder, octave)
            log.put(len(units), b"")

    def _make_above(self, coder: ChunkCoder, octave: int) -> None:
        parts = self.true_parts(octave)

        def work(ij: Ij) -> None:
            parts.put(ij, as_held(coder.below(self.target(octave, ij))))

        for _ in self.workers.run(work, self.plan.chunks(octave), most=2 * self.workers.count):
            pass

    # ---- search

    def sample(self) -> Sample:
        """The units that steps and networks are tried on."""
        if self._sample is None:
            self._sample = Sample.of(self.plan, self.glass, self.task.options.seed)
        return self._sample

    def trial(self, model: OctavesModel, weights: Weights) -> tuple[float, float]:
        """Bytes of all chunks of the slide, and its squared error, as the sample has it with these networks.

        Not refined: that takes twice the time, and is worth the same by all of them.
        """
        self.blanks = self.glass.blanks(model.equal_step)
        return self.sample().measure(self, coder_of(self.task, model, weights, refined=False), None)

    def probe(self, step: int) -> Measured:
        """What a step gives, by a sample of the units."""
        state = self.job.load_state("search")
        probes = state.setdefault("probes" if self.weights is None else "probes, fitted", {})
        if str(step) not in probes:
            probes[str(step)] = self.sample().measure(self, self._begin(step), len(probes))
            self.job.save_state("search", state)
        coded_bytes, sse = probes[str(step)]
        coded = self.header.chunk_count - self.blanks_at(step).count
        beside = bytes_beside(self.header, self.sections) + 8 * coded
        return self._measured(coded_bytes + self._in_file(coded_bytes).stored_bytes + beside, sse)

    def _measured(self, file_bytes: float, sse: float) -> Measured:
        count = self.source.width * self.source.height * self.source.channels
        mse = sse / count
        return Measured(file_bytes, 10 * math.log10(255**2 / mse) if mse else math.inf)

    # ---- encode

    def round(self, step: int) -> Measured:
        """Encode everything with a step, into a file in the job's folder."""
        state = self.job.load_state("search")
        rounds = state.setdefault("rounds", {})
        self._rounds += 1
        if str(step) not in rounds or not self._whole(step):
            again = f", round {self._rounds}" if self._rounds > 1 else ""
            name = f"round-{step}"
            log = self.job.log(name)
            coder = self._begin(step)
            decoded = self._code_coarse(coder, step, log, f"encode{again}")
            sse = self._code_units(coder, log, decoded[self.plan.unit], f"encode{again}")
            file_bytes = self._write(step, log, f"write{again}")
            self._made.add(step)
            rounds[str(step)] = [file_bytes, sse]
            self.job.save_state("search", state)
            self.job.drop_log(name)
            for parts in decoded.values():
                parts.remove()
        return self.made(step)[1]

    def _whole(self, step: int) -> bool:
        """Whether the round's file is there, and what was written: an earlier run's is looked at."""
        path = self._path(step)
        if step in self._made or not path.exists():
            return path.exists()
        try:
            with Container.open(path) as container:
                whole = not container.verify()
        except (CorruptFile, UnsupportedVersion):
            whole = False
        if whole:
            self._made.add(step)
        return whole

    def made(self, step: int) -> tuple[Path, Measured]:
        """The file of a round, and what it measures."""
        return self._path(step), self._measured(*self.job.load_state("search")["rounds"][str(step)])

    def _path(self, step: int) -> Path:
        return self.job.folder / f"round-{step}.cinr"

    def encode_above(self, coder: ChunkCoder, octave: int, ij: Ij, parent: Decoded | None) -> tuple[bytes, Decoded]:
        """Code a chunk above the units; `parent` is its part of the decoded octave above, None for the coarsest."""
        target = self.target(octave, ij)
        return coder.encode_root(target) if parent is None else coder.encode(octave, target, parent)

    def _code_coarse(self, coder: ChunkCoder, step: int, log: Log, stage: str) -> dict[int, Parts]:
        """Code the octaves above the units, coarse to fine. Returns what each decodes to, by the octave below it."""
        plan = self.plan
        decoded = {k: self.parts(f"decoded-{step}", k, FEATURES) for k in range(plan.unit, plan.top)}
        total_mpx = sum(map(self.unit_mpx, self.blanks.coded(plan.unit)))
        for octave in range(plan.top, plan.unit, -1):
            numbers = {ij: self.header.chunk_number(octave, ij) for ij in self.blanks.coded(octave)}
            missing = [ij for ij, number in numbers.items() if number not in log]

            def work(octave: int, ij: Ij) -> bytes:
                parent = None if octave == plan.top else decoded[octave].get(ij)
                payload, whole = self.encode_above(coder, octave, ij, parent)
                for child in plan.children(octave, ij):
                    decoded[octave - 1].put(child, quadrant(plan, octave - 1, child, whole))
                return payload

            for done, (ij, payload) in enumerate(
                self.workers.run(partial(work, octave), missing, most=2 * self.workers.count)
            ):
                log.put(numbers[ij], payload)
                note = f"octave {octave}: chunk {done + 1:,} of {len(missing):,}"
                self.report(Progress(stage, 0, total_mpx, "Mpx", note))
        return decoded

    def _code_units(self, coder: ChunkCoder, log: Log, parents: Parts, stage: str) -> int:
        """Code all that the units hold. Returns the squared error over the slide, blank chunks and all."""
        unit, first = self.plan.unit, self.header.chunk_count  # the numbers from there on are the units' own
        wholes = {ij: first + self.plan.number(unit, ij) for ij in self.blanks.coded(unit)}
        missing = [ij for ij, number in wholes.items() if number not in log]
        total = sum(map(self.unit_mpx, wholes))
        left = sum(map(self.unit_mpx, missing))

        def work(ij: Ij) -> Coded:
            return encode_unit(coder, self.plan, self.blanks, ij, self.pixels(ij), parents.get(ij))

        sse, px = 0, 0
        for ij, coded in self.workers.run(work, missing, most=self.most_units):
            for (octave, chunk_ij), payload in coded.payloads.items():
                number = self.header.chunk_number(octave, chunk_ij)
                if number not in log:
                    log.put(number, payload)
            log.put(wholes[ij], _SSE.pack(coded.sse))
            left -= self.unit_mpx(ij)
            sse += coded.sse
            px += self.blanks.coded_px(0, self.plan.leaves(ij))
            note = db(sse / (px * self.source.channels)) if px else ""
            self.report(Progress(stage, total - max(left, 0.0), total, "Mpx", note))
            give_back_free_pages()
        return self.blanks.sse + sum(_SSE.unpack(log.get(number))[0] for number in wholes.values())

    # ---- write

    def _write(self, step: int, log: Log, stage: str) -> int:
        def written(done: int, total: int) -> None:
            self.report(Progress(stage, done, total, "chunks"))

        chunks = self.header.chunk_count  # what the log has from there on are the units' errors
        own = self._in_file(sum(log.size(number) for number in log.numbers() if number < chunks))
        header = self._header(replace(self.model_at(step), prior=own.prior))
        return write_file(self._path(step), header, own.weights, self.sections, self._chunks(log), written)

    def _chunks(self, log: Log) -> Iterable[tuple[int, bytes, bool]]:
        """All chunks in index order."""
        for number in range(self.header.chunk_count):
            colour = self.blanks.colour(*self.header.chunk_at(number))
            yield (number, log.get(number), False) if colour is None else (number, bytes(colour), True)
