"""What a long piece of work says of itself while it runs. How that is shown is the command line's business."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A moment of a long piece of work.

    Attributes:
        stage: name of the stage, e.g. "network"; stages follow one another and do not come back.
        done: how much of the stage is done, in `unit`, from 0 to `total`.
        total: how much the stage is in all, in `unit`.
        unit: what is counted, e.g. "Mpx".
        note: what else a person would like to see, e.g. "31.2 dB".
    """

    stage: str
    done: float
    total: float
    unit: str
    note: str = ""


Report = Callable[[Progress], None]
"""Who is told how the work goes."""
