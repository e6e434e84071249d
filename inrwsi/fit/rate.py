"""Bytes of what is fitted: what a target leaves for the tiles, how they share it, and how a tile comes to its part.

A table's or a network's shape moves a file in steps of several percent, and how well its numbers compress is known only
from the fit. So a preset is taken that is somewhat too large, and each tile is *cut* to what the budget has for it
before its fit on rounded numbers goes on: a network's weights are rounded to fewer steps, a table's small entries are
0. Neither is of the format's concern.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from inrwsi.errors import UsageError

TOLERANCE = 0.02
CLOSE = 0.003  # a tile that is so near to its part is not cut again
HALVINGS = 12

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Target:
    """What was asked for.

    Attributes:
        option: `ratio`, `size_bytes` or `bpp`, as of `EncodeOptions`.
        value: of it.
        raw_bytes: of the slide without compression, one or two a pixel and channel.
        base_bytes: of the tiles' base layers, which are in their payloads and not the fit's affair.
        coded_px: pixels of the tiles that are not blank, of which `bpp` is.
        model: its name.
    """

    option: str
    value: float
    raw_bytes: int
    coded_px: int
    model: str
    base_bytes: int = 0

    @property
    def _of_file(self) -> bool:
        return self.option != "bpp"

    @property
    def _bytes(self) -> float:
        """Of the file, or of the tiles' payloads where the target is of these."""
        if self.option == "bpp":
            return self.value * self.coded_px / 8
        return self.raw_bytes / self.value if self.option == "ratio" else self.value

    def payload_bytes(self, other_bytes: float) -> float:
        """What is left for the tiles' fields beside the `other_bytes` of the file, which are in no payload."""
        return self._bytes - self.base_bytes - self._of_file * other_bytes

    def met(self, payload_bytes: float, other_bytes: float) -> bool:
        """Whether it is met within the tolerance."""
        return abs(self._got(payload_bytes, other_bytes) / max(self._bytes, 1) - 1) <= TOLERANCE

    def _got(self, payload_bytes: float, other_bytes: float) -> float:
        """What `_bytes` has become."""
        return payload_bytes + self.base_bytes + self._of_file * other_bytes

    def unreachable(self, payload_bytes: float, other_bytes: float) -> UsageError:
        """What to raise where nothing that can be chosen meets it; the bytes are the nearest that were found."""
        got = max(1.0, self._got(payload_bytes, other_bytes))
        name = {"size_bytes": "size"}.get(self.option, self.option)
        said = {
            "bpp": f"{8 * got / max(1, self.coded_px):.3g}",
            "ratio": f"{self.raw_bytes / got:,.4g}",
            "size_bytes": f"{got:,.0f} bytes",
        }[self.option]
        return UsageError(
            f"--{name} {self.value:,g} cannot be reached on this slide with model {self.model}; the nearest that was "
            f"found is about {said}"
        )


class Budget:
    """Deals out bytes to the tiles as they are fitted.

    All are cut by the same share of what they take uncut, as far as one can tell from those before; the last gets what
    is left.

    Args:
        wanted_bytes: of all payloads.
        shares: of each tile, in the order in which they are fitted: about how they differ in what they take.
    """

    def __init__(self, wanted_bytes: float, shares: list[float]) -> None:
        self.wanted_bytes, self._shares = wanted_bytes, shares
        self._seen = 0
        self.uncut_bytes = self.spent_bytes = 0.0

    def aim(self, uncut_bytes: int) -> float:
        """What the next tile may take that takes `uncut_bytes` uncut."""
        seen = sum(self._shares[: self._seen + 1])
        later = sum(self._shares[self._seen + 1 :]) * (self.uncut_bytes + uncut_bytes) / seen
        return max(1.0, (self.wanted_bytes - self.spent_bytes) * uncut_bytes / (uncut_bytes + later))

    def spend(self, uncut_bytes: int, payload_bytes: int) -> None:
        """The next tile is done."""
        self._seen += 1
        self.uncut_bytes += uncut_bytes
        self.spent_bytes += payload_bytes

    @property
    def surplus(self) -> float:
        """What all tiles would take uncut, by those that are done, over what is wanted; at least one must be."""
        return self.uncut_bytes * sum(self._shares) / sum(self._shares[: self._seen]) / self.wanted_bytes


@dataclass(frozen=True)
class Rate:
    """How a tile's fit asks what it may take.

    Attributes:
        size: bytes of the payload of these tensors.
        aim: of the payload that would have so many uncut.
    """

    size: Callable[[Mapping[str, np.ndarray]], int]
    aim: Callable[[int], float]


class Cutter:
    """Cuts one tile to its part.

    Args:
        rate: None where a tile may take what it takes.
        at: the tile's tensors as they stand, with a cut of 0 (none) to 1 (nothing is left).
    """

    def __init__(self, rate: Rate | None, at: Callable[[float], Arrays]) -> None:
        self._rate, self._at, self._aim = rate, at, 0.0
        self.cut = 0.0

    def begin(self) -> None:
        """Find what the tile takes uncut, and the cut that brings it to its part."""
        if self._rate is not None:
            uncut = self._rate.size(self._at(0.0))
            self._aim = self._rate.aim(uncut)
            self.cut = self._closest(uncut)

    def finish(self) -> Arrays:
        """The tile's tensors: cut again where what came since has moved them from their part."""
        arrays = self._at(self.cut)
        if self._rate is None or abs(self._rate.size(arrays) / self._aim - 1) <= CLOSE:
            return arrays
        self.cut = self._closest(self._rate.size(self._at(0.0)))
        return self._at(self.cut)

    def _closest(self, uncut_bytes: int) -> float:
        """The cut whose payload is nearest to the tile's part: by bisection, sizes fall as it grows."""
        if self._rate is None or uncut_bytes <= self._aim:
            return 0.0
        low, high = 0.0, 1.0
        best, nearest = 0.0, uncut_bytes - self._aim
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            over = self._rate.size(self._at(middle)) - self._aim
            if abs(over) < nearest:
                best, nearest = middle, abs(over)
            low, high = (middle, high) if over > 0 else (low, middle)
        return best
