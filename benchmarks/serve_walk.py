"""A person's way over a slide, as the tiles that a viewer asks for."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from inrwsi.geometry import octave_wh
from inrwsi.serve.deepzoom import TILE_PX, DeepZoom

SCREEN_WH = (1280, 800)
Tile = tuple[int, int, int]  # level, column, row


class Walk:
    """One person's way over a slide: an endless iterator of the tiles of a view that have not been seen.

    It begins with the whole slide on the screen, and goes on by panning half a screen or so, zooming in about a point
    of it, and zooming out, more often in than out.
    """

    def __init__(self, l0_wh: tuple[int, int], seed: int) -> None:
        self._zoom, self._l0_wh, self._seed = DeepZoom(l0_wh), l0_wh, seed
        self._random = random.Random(seed)
        fit = max(side / most for side, most in zip(l0_wh, SCREEN_WH, strict=True))
        self._overview = min(self._zoom.last, max(0, self._zoom.last - (max(1, math.ceil(fit)) - 1).bit_length()))
        self._level, self._seen = self._overview, set[Tile]()
        self._centre = [0.5, 0.5]  # of the slide
        self._moved = False

    def again(self) -> Walk:
        """The same walk from its start."""
        return Walk(self._l0_wh, self._seed)

    def __iter__(self) -> Iterator[list[Tile]]:
        return self

    def __next__(self) -> list[Tile]:
        if self._moved:
            self._move()
        self._moved = True
        fresh = [tile for tile in self._view() if tile not in self._seen]
        self._seen.update(fresh)
        return fresh

    def pause_s(self, mean_s: float) -> float:
        """How long this view is looked at."""
        return mean_s * self._random.uniform(0.5, 1.5)

    def _move(self) -> None:
        turn = self._random.random()
        z_wh = self._z_wh()
        if turn < 0.25 and self._level < self._zoom.last:
            self._level += 1
            shift = 0.25
        elif turn < 0.4 and self._level > self._overview:
            self._level -= 1
            shift = 0.0
        else:
            shift = 0.75
        for axis in (0, 1):
            step = self._random.uniform(-shift, shift) * SCREEN_WH[axis] / z_wh[axis]
            self._centre[axis] = min(1.0, max(0.0, self._centre[axis] + step))

    def _z_wh(self) -> tuple[int, int]:
        return octave_wh(self._l0_wh, self._zoom.last - self._level)

    def _view(self) -> list[Tile]:
        """The tiles of the screen."""
        spans = []
        for side, screen, centre in zip(self._z_wh(), SCREEN_WH, self._centre, strict=True):
            low = min(max(0, round(centre * side - screen / 2)), max(0, side - screen))
            spans.append(range(low // TILE_PX, (min(side, low + screen) - 1) // TILE_PX + 1))
        return [(self._level, column, row) for row in spans[1] for column in spans[0]]
