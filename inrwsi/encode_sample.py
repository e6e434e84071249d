"""Model `octaves`, a sample of the units: what a step would give of the whole slide, without coding it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from inrwsi.encode_units import Blanks, Glass, Ij, Plan, encode_unit, quadrant
from inrwsi.fields.octaves_model import Decoded
from inrwsi.octave_chunks import ChunkCoder
from inrwsi.progress import Progress, Report
from inrwsi.rate_control import PROBES
from inrwsi.workers import Workers

MOST_UNITS, FEWEST_UNITS, SHARE = 16, 4, 8  # one unit of so many, within bounds
PLAIN_UNITS = 3  # of glass alone, which costs little and is much alike
FULL = 0.9  # coded share of the pixels of a unit that is not at the tissue's border


class Slide(Protocol):
    """What a measurement needs of the encoding under way."""

    plan: Plan
    blanks: Blanks
    workers: Workers
    report: Report
    most_units: int

    def pixels(self, unit_ij: Ij) -> np.ndarray: ...

    def unit_mpx(self, unit_ij: Ij) -> float: ...

    def encode_above(self, coder: ChunkCoder, octave: int, ij: Ij, parent: Decoded | None) -> tuple[bytes, Decoded]: ...


@dataclass(frozen=True)
class Stratum:
    """Units that are alike: those of the sample, and how many coded pixels of the slide one of theirs stands for."""

    units: tuple[Ij, ...]
    weight: float


@dataclass(frozen=True)
class Sample:
    """Units, evenly over the slide from a drawn start: of its full ones, of those at borders, and of glass alone."""

    strata: tuple[Stratum, ...]

    @classmethod
    def of(cls, plan: Plan, glass: Glass, seed: int) -> Sample:
        """Draw it."""
        rng = np.random.default_rng(seed)
        held = {ij: glass.content_px(plan.leaves(ij)) for ij in plan.chunks(plan.unit)}
        areas = {ij: plan.l0_rect(plan.unit, ij) for ij in held}
        total, some = sum(held.values()), sum(map(bool, held.values()))
        count = min(some, MOST_UNITS, max(FEWEST_UNITS, some // SHARE))
        full: list[Ij] = []
        border: list[Ij] = []
        plain: list[Ij] = []
        for ij, px in held.items():
            kind = full if px >= FULL * areas[ij].w * areas[ij].h else border if px else plain
            kind.append(ij)
        strata = []
        for units in (full, border):
            own = sum(held[ij] for ij in units)
            if own:
                chosen = _spread(units, max(min(2, len(units)), round(count * own / total)), rng)
                strata.append(Stratum(chosen, own / sum(held[ij] for ij in chosen)))
        if plain:
            chosen = _spread(plain, min(PLAIN_UNITS, len(plain)), rng)
            own, seen = (sum(areas[ij].w * areas[ij].h for ij in units) for units in (plain, chosen))
            strata.append(Stratum(chosen, own / seen))
        return cls(tuple(strata))

    def measure(self, slide: Slide, coder: ChunkCoder, number: int | None) -> tuple[float, float]:
        """Bytes of all chunks of the slide, and its squared error, as the sample has it with a coder.

        Args:
            number: of the steps that were measured before, for the progress; None where it is not to be told.
        """
        strata = [
            replace(s, units=tuple(ij for ij in s.units if not slide.blanks.has(slide.plan.unit, ij)))
            for s in self.strata
        ]
        units = [ij for stratum in strata for ij in stratum.units]
        total_bytes, parents = self._above(slide, coder, units)
        own_mpx = sum(map(slide.unit_mpx, units))
        done = (number or 0) * own_mpx

        def work(ij: Ij) -> tuple[int, int]:
            coded = encode_unit(coder, slide.plan, slide.blanks, ij, slide.pixels(ij), parents[ij])
            return coded.nbytes, coded.sse

        found: dict[Ij, tuple[int, int]] = {}
        for ij, one in slide.workers.run(work, units, most=slide.most_units):
            found[ij] = one
            done += slide.unit_mpx(ij)
            if number is not None:
                slide.report(Progress("search", min(done, PROBES * own_mpx), PROBES * own_mpx, "Mpx"))
        sse = float(slide.blanks.sse)
        for stratum in strata:
            total_bytes += stratum.weight * sum(found[ij][0] for ij in stratum.units)
            sse += stratum.weight * sum(found[ij][1] for ij in stratum.units)
        return total_bytes, sse

    def _above(self, slide: Slide, coder: ChunkCoder, units: list[Ij]) -> tuple[float, dict[Ij, Decoded]]:
        """Code what lies above the units of the sample.

        Returns:
            Bytes of these octaves over the whole slide; and each unit's part of the decoded octave above it.
        """
        plan, blanks = slide.plan, slide.blanks
        total_bytes = 0.0
        parents: dict[Ij, Decoded] = {}
        for octave in range(plan.top, plan.unit, -1):
            by = octave - plan.unit
            chosen = sorted({(i >> by, j >> by) for i, j in units})
            needed = {(i >> (by - 1), j >> (by - 1)) for i, j in units}
            work = partial(_code, slide, coder, octave, parents)
            below: dict[Ij, Decoded] = {}
            payload_bytes = 0
            for ij, (count, whole) in slide.workers.run(work, chosen, most=slide.workers.count):
                payload_bytes += count
                for child in needed.intersection(plan.children(octave, ij)):
                    below[child] = quadrant(plan, octave - 1, child, whole)
            parents = below
            if chosen:
                share = blanks.coded_px(octave, chosen) / blanks.coded_px(octave, blanks.coded(octave))
                total_bytes += payload_bytes / share
        return total_bytes, parents


def _code(slide: Slide, coder: ChunkCoder, octave: int, parents: dict[Ij, Decoded], ij: Ij) -> tuple[int, Decoded]:
    payload, whole = slide.encode_above(coder, octave, ij, parents.get(ij))
    return len(payload), whole


def _spread(units: Sequence[Ij], count: int, rng: np.random.Generator) -> tuple[Ij, ...]:
    """`count` of the units, evenly over their order from a drawn start."""
    start = rng.random()
    return tuple(units[int((start + n) * len(units) / count)] for n in range(count))
