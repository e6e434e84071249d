"""What the engine is to run: every codec in its layouts at the settings of its ladder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inrwsi.progress import Report

from .codecs import FILE, TILED, WHOLE, Codec
from .fidelity_task import Task
from .sampling import Picture


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        codecs: in the order of the result.
        quick: the short ladders.
        seed: of places and intervals.
        layouts: which of the codecs' layouts to run.
        middle_only: the middle setting of each ladder alone: for times.
        with_source: the slide's own file as a point, where it is what was measured.
        with_views: what a viewer asks for, at the middle settings.
        folder: for coded files and partial results; made if it is not there.
        task: a model to ask of the originals and of what was decoded.
        report: told how it goes.
    """

    codecs: tuple[Codec, ...]
    quick: bool
    seed: int
    folder: Path
    layouts: tuple[str, ...] = (TILED, WHOLE, FILE)
    middle_only: bool = False
    with_source: bool = True
    with_views: bool = True
    task: Task | None = None
    report: Report = lambda _: None

    def points(self, picture: Picture) -> list[tuple[Codec, str, float]]:
        """Codec, layout and value of every point that is possible."""
        return [
            (codec, layout, value)
            for codec in self.codecs
            for layout in codec.layouts
            if layout in self.layouts and fits(codec, layout, picture)
            for value in values(codec, layout, self.quick)
            if not self.middle_only or value == middle(values(codec, layout, self.quick))
        ]


def fits(codec: Codec, layout: str, picture: Picture) -> bool:
    """Whether the format can hold the picture in this layout."""
    return layout == TILED or max(picture.wh) <= codec.max_side_px


def values(codec: Codec, layout: str, quick: bool) -> tuple[float, ...]:
    """The ladder to run. Whole codestreams are there beside tiles to show what tiling costs: the short one does."""
    return codec.quick_ladder if quick or layout == WHOLE else codec.ladder


def middle(ladder: Sequence[float]) -> float:
    """The setting that times are taken at."""
    return ladder[len(ladder) // 2]
