"""The rounds of a fit: which bits a pixel the next one gets, until one meets what was asked for.

All tiles are fitted under one choice of sizes. The first of them, or all, may show that it cannot meet the target; then
another round begins, with another choice.
"""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

from inrwsi.fields.field import FieldConfig
from inrwsi.fit.quality import SURE_DB, Quality, Round
from inrwsi.fit.rate import Budget, Target, file_bytes
from inrwsi.geometry import grid_wh
from inrwsi.options import EncodeOptions

ROUNDS = 8  # most of them end with their first tiles
PROBE_TILES = 3  # that show whether a round can meet the target
_ASIDE = 1.2
MOST_TILE_PX = 2048
LEAST_SHARE = 0.95  # of a target's bits for payloads, for the least networks
OTHER_BYTES, TILE_BYTES = 700, 20  # of a file beside its payloads, and of each tile's entries, about
SPARE = 1.25  # of what tiles lacked, in the next round: what they have too much is cut, and they rarely take all of it
MOST_SURPLUS = 1.7  # of what tiles would take over what they may, before smaller ones are better than cut ones


class Rounds:
    """The rounds, of which the last is under way.

    Args:
        target: in bytes; where a PSNR is asked for, `bpp` of any value, of no base layers.
        quality: the PSNR that is asked for, if one is.
        asked: whether anything is; if not, whatever a round gives is good.
        first_bpp: bits a pixel of a tile in the first round.
        least_bpp: that the model can have.

    Attributes:
        sizes, errors: what the tiles of the round may take and have taken, once it has begun.
    """

    def __init__(
        self, target: Target, quality: Quality | None, *, asked: bool, first_bpp: float, least_bpp: float
    ) -> None:
        self._target, self.quality, self._asked, self._least_bpp = target, quality, asked, least_bpp
        self._rounds = [Round(first_bpp)]
        self.sizes = self.errors = Budget(0, [])
        self._other_bytes = 0.0
        self._known: list[float] = []

    @property
    def state(self) -> dict[str, Any]:
        """JSON values that `restore` goes on from."""
        return {"rounds": [asdict(r) for r in self._rounds], "known": self._known}

    def restore(self, state: dict[str, Any]) -> None:
        self._rounds = [Round(**r) for r in state["rounds"]]
        self._known = list(state["known"])

    @property
    def bpp(self) -> float:
        """Bits a pixel of a tile in the round that is under way."""
        return self._rounds[-1].bpp

    @property
    def number(self) -> int:
        """Of the round, from 0."""
        return len(self._rounds) - 1

    @property
    def _last(self) -> bool:
        return not self._asked or len(self._rounds) == ROUNDS

    def begin(self, other_bytes: float, shares: list[float], px: list[int]) -> None:
        """Begin the round.

        Args:
            other_bytes: of the file, in no payload.
            shares: of each tile, in the order in which they are fitted: about how they differ in bytes, as far as no
                earlier round knows better. The order is that of the earlier rounds.
            px: pixels of each.

        Raises:
            UsageError: the target does not even leave a byte a tile.
        """
        if self.quality is not None:
            self._target = replace(self._target, value=self.bpp)
        self._other_bytes = other_bytes
        wanted = self._target.payload_bytes(other_bytes)
        if self.quality is None and wanted < len(px):
            raise self._target.unreachable(len(px), other_bytes)
        self.sizes = Budget(wanted, [*self._known, *shares[len(self._known) :]])
        self.errors = Budget(0 if self.quality is None else self.quality.tiles_error, px)

    def probe(self) -> bool:
        """Whether the tiles so far show that there must be another round, which is then under way.

        Bytes are looked at after the first tiles, and errors, which differ more, with each doubling; so are bytes where
        they fall short, which no cut mends. A round with fewer bits than one that fell short is not tried.

        Raises:
            UsageError: there must be one, and there is none left.
        """
        seen = self.errors.seen
        first = seen == min(PROBE_TILES, self.errors.tiles)
        doubled = seen > PROBE_TILES and math.log2(seen / PROBE_TILES).is_integer()
        if self.quality is None:
            least = 1 if seen < self.errors.tiles else 0  # after the last tile it counts whether the target is met
            surplus = self.sizes.surplus
            large = first and surplus > MOST_SURPLUS and self.bpp / surplus > max(self._short_bpp, default=0.0)
            poor = large or ((first or doubled) and surplus < least)
            return self._go_on(self._other_bpp(1 / surplus) if poor and not self._last else None)
        short = self.quality.db(self.errors.expected) < self.quality.psnr_db
        return self._go_on(self._better_bpp(self.quality) if first or (doubled and short) else None)

    def end(self) -> bool:
        """As `probe`, when all tiles are done. UsageError where the target is not met and no round is left."""
        sizes, errors, quality = self.sizes, self.errors, self.quality
        if quality is not None:
            if quality.met(errors.spent):
                return False
            found_db = quality.db(errors.spent)
            bpp = self._better_bpp(quality) if errors.seen else None
            if bpp is None and errors.seen and not self._last:  # cuts are coarse here: they may fall better elsewhere
                bpp = quality.within(self.bpp * (_ASIDE if found_db < quality.psnr_db else 1 / _ASIDE), self._least_bpp)
            if bpp is None or bpp == self.bpp:
                raise quality.unreachable([*self._found_db, found_db])
            return self._go_on(bpp)
        if not self._asked or self._target.met(sizes.spent, self._other_bytes):
            return False
        if self._last or not sizes.seen:
            raise self._target.unreachable(sizes.spent, self._other_bytes)
        return self._go_on(self._other_bpp(sizes.wanted / sizes.spent))  # not as it was: that would be this round again

    def _go_on(self, bpp: float | None) -> bool:
        if bpp is not None:
            self._rounds.append(Round(bpp))
            self._known = max(self._known, self.sizes.found_shares, key=len)
        return bpp is not None

    def _other_bpp(self, times: float) -> float:
        """So many times the bits, and some to spare where even uncut tiles take too few."""
        if self.sizes.surplus >= 1:
            return self.bpp * times
        self._rounds[-1] = replace(self._rounds[-1], short=True)
        return self.bpp * times * SPARE

    @property
    def _short_bpp(self) -> list[float]:
        return [r.bpp for r in self._rounds if r.short]

    def _better_bpp(self, quality: Quality) -> float | None:
        """Of a round that comes nearer, by the tiles so far; None where this one is near enough, or must do.

        Raises:
            UsageError: this one is far too short, and there is none left.
        """
        db = quality.db(self.errors.expected)
        if quality.enough(db):
            return None
        self._rounds[-1] = now = replace(self._rounds[-1], db=db, tiles=self.errors.seen)
        bpp = quality.next_bpp(self._rounds, self._least_bpp)
        if self._last or bpp == now.bpp:
            if db < quality.psnr_db - SURE_DB:
                raise quality.unreachable(self._found_db)
            return None
        known_short = [r.bpp for r in self._rounds if r.db is not None and r.db < quality.psnr_db]
        return None if db > quality.psnr_db and bpp <= max(known_short, default=0.0) else bpp

    @property
    def _found_db(self) -> list[float]:
        return [r.db for r in self._rounds if r.db is not None]


def tile_px_of(
    kind: type[FieldConfig], options: EncodeOptions, l0_wh: tuple[int, int], channels: int, bit_depth: int = 8
) -> int:
    """Side of a tile where nobody says: the model's, doubled while the target does not pay for its least network."""
    px, tile_px = math.prod(l0_wh), kind.tile_px
    bits = None if options.bpp is None else options.bpp * px
    for option in ("ratio", "size_bytes"):
        value = getattr(options, option)
        if value is not None:
            bits = 8 * file_bytes(option, value, px * channels * bit_depth // 8)
    while bits is not None and tile_px < min(MOST_TILE_PX, max(l0_wh)):  # further the slide is one tile anyway
        tiles = math.prod(grid_wh(l0_wh, tile_px))
        # A tile that the slide's edge cuts has a network like any other.
        least = tiles * tile_px**2 * kind.least_bpp(tile_px, channels, options.weight_bits or 8)
        if least <= LEAST_SHARE * (bits - 8 * (OTHER_BYTES + TILE_BYTES * tiles)):
            break
        tile_px *= 2
    return tile_px
