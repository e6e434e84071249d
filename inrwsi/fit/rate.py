"""Bytes of what is fitted: what a target leaves for the tiles, how they share it, and how a tile comes to its part.

A table's or a network's shape moves a file in steps of several percent, and how well its numbers compress is known only
from the fit. So a preset is taken that is somewhat too large, and each tile is *cut* to what the budget has for it
before its fit on rounded numbers goes on: a network's weights are rounded to fewer steps, a table's small entries are
0. Neither is of the format's concern.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from inrwsi.errors import Unreachable
from inrwsi.options import flag

TOLERANCE = 0.02  # of bytes
TOLERANCE_DB = 0.1  # of PSNR
CLOSE = 0.003  # a tile that is so near to its part is not cut again
CLOSE_ERROR = 0.01  # likewise, of its part of the squared error
HALVINGS = 12

Arrays = dict[str, np.ndarray]


def file_bytes(option: str, value: float, raw_bytes: int) -> float:
    """Of a file: what `ratio` or `size_bytes` asks for, of a slide of so many bytes without compression."""
    return raw_bytes / value if option == "ratio" else value


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
        return file_bytes(self.option, self.value, self.raw_bytes)

    def payload_bytes(self, other_bytes: float) -> float:
        """What is left for the tiles' fields beside the `other_bytes` of the file, which are in no payload."""
        return self._bytes - self.base_bytes - self._of_file * other_bytes

    def met(self, payload_bytes: float, other_bytes: float) -> bool:
        """Whether it is met within the tolerance."""
        return abs(self._got(payload_bytes, other_bytes) - self._bytes) <= TOLERANCE * self._bytes

    def _got(self, payload_bytes: float, other_bytes: float) -> float:
        """What `_bytes` has become."""
        return payload_bytes + self.base_bytes + self._of_file * other_bytes

    def unreachable(self, payload_bytes: float, other_bytes: float) -> Unreachable:
        """What to raise where nothing that can be chosen meets it; the bytes are the nearest that were found."""
        got = max(1.0, self._got(payload_bytes, other_bytes))
        said = {
            "bpp": f"{8 * got / max(1, self.coded_px):.3g}",
            "ratio": f"{self.raw_bytes / got:,.4g}",
            "size_bytes": f"{got:,.0f} bytes",
        }[self.option]
        return Unreachable(
            f"{flag(self.option)} {self.value:,g} cannot be reached on this slide with model {self.model}; the nearest "
            f"that was found is about {said}"
        )


class Budget:
    """Deals out bytes, or squared error, to the tiles as they are fitted.

    All are cut to the same share of what they take uncut (of squared error: raised to the same multiple), as far as one
    can tell from those before; the last gets what is left.

    Args:
        wanted: of all tiles: bytes of their payloads, or their squared error.
        shares: of each tile, in the order in which they are fitted: about how they differ in what they take.
    """

    def __init__(self, wanted: float, shares: Sequence[float]) -> None:
        self.wanted, self._shares = wanted, list(shares)
        self.tiles = len(self._shares)
        self._uncut: list[int] = []
        self.uncut = self.spent = 0

    def aim(self, uncut: int) -> float:
        """What the next tile may take that takes `uncut` uncut."""
        seen = sum(self._shares[: self.seen + 1])
        later = sum(self._shares[self.seen + 1 :]) * (self.uncut + uncut) / seen
        return max(1.0, (self.wanted - self.spent) * uncut / max(1.0, uncut + later))

    def spend(self, uncut: int, taken: int) -> None:
        """The next tile is done."""
        self._uncut.append(uncut)
        self.uncut += uncut
        self.spent += taken

    @property
    def seen(self) -> int:
        """How many tiles are done."""
        return len(self._uncut)

    @property
    def found_shares(self) -> list[float]:
        """Of the tiles that are done, what they took uncut, in place of `shares`: of the same sum."""
        by = sum(self._shares[: self.seen]) / max(1, self.uncut)
        return [max(1, uncut) * by for uncut in self._uncut]

    @property
    def expected(self) -> float:
        """What all tiles would take uncut, by those that are done, of which there must be one."""
        return self.uncut * sum(self._shares) / sum(self._shares[: self.seen])

    @property
    def surplus(self) -> float:
        """What is expected over what is wanted."""
        return self.expected / self.wanted


@dataclass(frozen=True)
class Error:
    """How a tile's fit asks what squared error it may have.

    Attributes:
        of: of the tile that these tensors decode to, summed over its samples.
        aim: of the tile that has so much as it was fitted.
    """

    of: Callable[[Mapping[str, np.ndarray]], int]
    aim: Callable[[int], float]


@dataclass(frozen=True)
class Rate:
    """How a tile's fit asks what it may take.

    Attributes:
        size: bytes of the payload of these tensors.
        aim: of the payload that would have so many uncut.
        error: what is steered at the end of the fit, in place of the bytes; None where these are.
    """

    size: Callable[[Mapping[str, np.ndarray]], int]
    aim: Callable[[int], float]
    error: Error | None = None


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
            self._aim = self._rate.aim(self._rate.size(self._at(0.0)))
            self.cut = self._closest(self._over_bytes)

    def finish(self) -> Arrays:
        """The tile's tensors: cut again where what came since has moved them from their part, or for their error."""
        arrays = self._at(self.cut)
        if self._rate is None:
            return arrays
        if self._rate.error is None:
            if abs(self._rate.size(arrays) / self._aim - 1) <= CLOSE:
                return arrays
            self.cut = self._closest(self._over_bytes)
        else:
            error = self._rate.error
            found = error.of(arrays)
            allowed = error.aim(found)
            # To cut less would not help: what the fit was cut of is not fitted.
            self.cut = self._closest(
                lambda cut: allowed - error.of(self._at(cut)), least=self.cut, near=CLOSE_ERROR * allowed
            )
        return self._at(self.cut)

    def _over_bytes(self, cut: float) -> float:
        """Bytes that the tile takes beyond its part."""
        return 0.0 if self._rate is None else self._rate.size(self._at(cut)) - self._aim

    def _closest(self, over: Callable[[float], float], *, least: float = 0.0, near: float = 0.0) -> float:
        """The cut from `least` on at which `over` is nearest to 0, by bisection.

        Args:
            over: falls as the cut grows; where it is above 0, more must be cut.
            near: what is near enough.
        """
        low, high = least, 1.0
        best, nearest = least, over(least)
        if nearest <= near:
            return best
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            found = over(middle)
            if abs(found) < nearest:
                best, nearest = middle, abs(found)
            if nearest <= near:
                break
            low, high = (middle, high) if found > 0 else (low, middle)
        return best
