"""PSNR as what is asked of a fit: the squared error that it leaves to the tiles, and bits a pixel that come near it.

A round is fitted to bits a pixel, chosen so that it comes out somewhat better than asked. Each tile is then cut once
more, to its part of the squared error that the slide may have: all by the same factor (`rate.Budget`). So the slide
ends where it should, and the choice of bits decides only how much of the fit was in vain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from inrwsi.errors import Unreachable
from inrwsi.fit.rate import TOLERANCE_DB
from inrwsi.options import MOST_BPP

SPARE_DB = 0.5  # of a round over what is wanted, so that tiles are cut and not short
MOST_EXCESS_DB = 2.0  # over it, before fewer bits are better than cut tiles
SURE_DB = 1.0  # a round that is short by this, and cannot have more bits, is not fitted to its end
AT_1_BPP_DB = 31.0  # a first guess, of stained tissue
SLOPE_DB = 4.0  # for twice the bits, where rounds do not say
_SLOPE_BOUNDS_DB = (1.5, 8.0)
_MOST_STEP = 4.0  # of bits from one round to the next


@dataclass(frozen=True)
class Round:
    """Bits a pixel that a round was fitted to, and where it is over, what came of it.

    Attributes:
        db: PSNR of the slide before tiles are cut to their part of the error, by the tiles that were fitted.
        tiles: how many these were.
        short: whether tiles took fewer bits than were wanted, uncut.
    """

    bpp: float
    db: float | None = None
    tiles: int = 0
    short: bool = False


@dataclass(frozen=True)
class Quality:
    """What was asked for.

    Attributes:
        psnr_db: over the whole slide, all channels together.
        samples: of the slide, pixels times channels.
        peak: the largest sample.
        blank_error: squared error, summed over the samples of the blank tiles.
        model: its name.
    """

    psnr_db: float
    samples: int
    peak: int
    blank_error: float
    model: str

    @property
    def tiles_error(self) -> float:
        """Squared error that is left to the tiles that are not blank."""
        return self.samples * self.peak**2 / 10 ** (self.psnr_db / 10) - self.blank_error

    def db(self, tiles_error: float) -> float:
        """PSNR of the slide with that squared error in the tiles that are not blank."""
        return psnr_db(tiles_error + self.blank_error, self.samples, self.peak)

    def met(self, tiles_error: float) -> bool:
        """Whether it is met within the tolerance."""
        return abs(self.db(tiles_error) - self.psnr_db) <= TOLERANCE_DB

    def enough(self, db: float) -> bool:
        """Whether tiles can be cut from `db` to what is asked, without wasting much."""
        return -TOLERANCE_DB / 2 <= db - self.psnr_db <= MOST_EXCESS_DB

    def first_bpp(self, least_bpp: float) -> float:
        """Bits a pixel to begin with."""
        guess: float = 2 ** ((self.psnr_db - AT_1_BPP_DB) / SLOPE_DB)
        return self.within(guess, least_bpp)

    @staticmethod
    def within(bpp: float, least_bpp: float) -> float:
        """Between the least and the most that a round can have."""
        return min(MOST_BPP, max(least_bpp, bpp))

    def next_bpp(self, rounds: Sequence[Round], least_bpp: float) -> float:
        """Bits a pixel of the next round: along the line through the last two, in dB over the logarithm of bits.

        Args:
            rounds: those before, at least one, all with a `db`.
            least_bpp: that the model can have.
        """
        last, slope = rounds[-1], SLOPE_DB
        # PSNR of other numbers of tiles is that of other tiles.
        alike = [r for r in rounds[:-1] if r.tiles == last.tiles and r.bpp != last.bpp]
        if alike:
            slope = (last.db - alike[-1].db) / math.log2(last.bpp / alike[-1].bpp)  # type: ignore[operator]
        low, high = _SLOPE_BOUNDS_DB
        doublings = (self.psnr_db + SPARE_DB - last.db) / min(high, max(low, slope))  # type: ignore[operator]
        factor = min(_MOST_STEP, max(1 / _MOST_STEP, 2**doublings))
        return self.within(last.bpp * factor, least_bpp)

    def unreachable(self, found_db: Sequence[float]) -> Unreachable:
        """What to raise where no round meets it.

        Args:
            found_db: PSNR of rounds, at least one.
        """
        nearest = min(found_db, key=lambda db: abs(db - self.psnr_db))
        said = f"about {nearest:.2f}" if math.isfinite(nearest) else "a file without any error"
        return Unreachable(
            f"--psnr {self.psnr_db:g} cannot be reached on this slide with model {self.model}; the nearest that was "
            f"found is {said}"
        )


def psnr_db(squared_error: float, samples: int, peak: int) -> float:
    """10 log10(peak^2 / mean squared error), infinite where there is no error."""
    return 10 * math.log10(peak**2 * samples / squared_error) if squared_error else math.inf


def squared_error(a: np.ndarray, b: np.ndarray) -> int:
    """Summed over all samples of two pictures of whole numbers."""
    return int(np.square(a.astype(np.int64) - b).sum())
