"""The base layers of an encoding: coded before anything is fitted, and kept in the job's `bases.log`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from inrwsi.coding import base_layer
from inrwsi.job import Job
from inrwsi.options import FieldSettings
from inrwsi.progress import Progress, Report


class Bases:
    """Base layers by number of chunk; where the settings name no prior, each is of no bytes."""

    def __init__(self, settings: FieldSettings, job: Job) -> None:
        self._kind, self._quality, self._job = settings.prior, settings.prior_quality, job

    @property
    def software(self) -> dict[str, str]:
        """What codes them, for the header."""
        return {} if self._kind is None else base_layer.software(self._kind)

    def code(self, numbers: Sequence[int], pixels: Callable[[int], np.ndarray], report: Report) -> None:
        """Code those of the tiles that the job does not hold yet."""
        if self._kind is None:
            return
        log = self._job.log("bases")
        for done, number in enumerate(numbers):
            if number not in log:
                log.put(number, base_layer.encode(self._kind, pixels(number), self._quality))
                report(Progress("prior", done + 1, len(numbers), "tiles", self._kind))

    def get(self, number: int) -> bytes:
        """A tile's base layer."""
        return b"" if self._kind is None else self._job.log("bases").get(number)

    def target(self, number: int, pixels: np.ndarray) -> np.ndarray:
        """What a tile's field is fitted to: its pixels, (h, w, channels) uint8, or what its base layer lacks."""
        base = self.picture(number, pixels.shape)
        return pixels if base is None else base_layer.residual(pixels, base)

    def picture(self, number: int, shape: tuple[int, ...]) -> np.ndarray | None:
        """What a tile's base layer decodes to, of that shape (h, w, channels) uint8; None where it has none."""
        if self._kind is None or number not in self._job.log("bases"):  # a blank tile has none
            return None
        h, w, channels = shape
        return base_layer.decode(self._kind, self.get(number), (h, w, channels))
