"""Which symbols a chunk of model `octaves` is coded with: squared error against bits, pass by pass. Encoders alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from inrwsi.coding import rans, shifts, trellis
from inrwsi.coding.tables import FrequencyTables, quantiser_rows
from inrwsi.fields import octaves
from inrwsi.fields.octaves_integer import PASSES
from inrwsi.fields.octaves_model import ACTIVITY, HALF_ACTIVITY, OctavesModel

# What bits of brightness and of colour count when a symbol is chosen, against what they counted in training: at an
# equal step of six grey levels, and what a step twice as coarse adds. A tenth more or less changes 0.1 % of the bits.
PATIENCE_AT, PATIENCE, PATIENCE_RISE = 6.0, (0.45, 0.5), (0.04, 0.2)
LEAST_PATIENCE, MOST_PATIENCE = 0.3, 2.5
# Bits of colour count so many times more where steps follow activity as far as SSIM would have them: for MS-SSIM, which
# is of luma. 2.5 takes 1.8 % fewer bits at equal MS-SSIM of four crops of a slide, 3.3 % of three other images; 5 and
# 6 % more at equal PSNR. Half as far, 1.6 takes 2 % fewer on a slide at equal MS-SSIM, and 1.3 % more at equal PSNR.
ACTIVE_COLOUR = {None: 1.0, HALF_ACTIVITY: 1.0, ACTIVITY: 2.5}
# What share of that counts where coefficients are refined.
REFINED_PATIENCE = 0.8
# What share of that counts at a chunk's outer sites, where the wavelet's errors add up, and errors so many times more:
# of details across its border, and of those along it. (Less patience alone would leave the trellis's path to others.)
# So squared error within two pixels of borders is level with the rest's (`benchmarks.seams`).
BORDER_SHARES = (0.55, 0.8)
_HORIZONTAL, _VERTICAL = ([n for n in range(9) if n % 3 in bands] for bands in ((0, 2), (1, 2)))  # the diagonal is both


class Choices:
    """The symbols of one chunk, as its passes come: what `IntegerNet.run` asks for.

    Args:
        model: the model's part of the header.
        tables: of its prior.
        units: (h, w, 9) float32, the coefficients that are wanted, in quantiser units.
        patience: how much the bits of each count, and its error.
    """

    def __init__(self, model: OctavesModel, tables: FrequencyTables, units: np.ndarray, patience: Patience) -> None:
        self._model, self._tables = model, tables
        self._units, self._patience = units, patience
        self._worth = np.float32(3 * octaves.RATE_WEIGHT * model.spread**2)
        self._states, self._coded = np.zeros(trellis.PATHS, np.uint8), 0
        self.said: list[tuple[np.ndarray, np.ndarray]] = []
        """Of each pass the shifts, and then the symbols, each with their rows of the tables."""

    def __call__(self, number: int, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """What the symbols of pass `number` stand for, in spacings, (n,) int32."""
        bands, spacing = PASSES[number][1], self._model.spacing
        scales = rows_of(self._model, scales)
        self._coded += 2 * bands * self._model.shifted
        wanted, begun = of_pass(self._units, number), (self._coded, self._states)
        worth, counts = self._patience.passes[number]
        symbols, second = trellis.choose(
            wanted, means, scales, counts, worth * self._worth, spacing, self._tables, begun
        )
        self._coded += int(np.count_nonzero(scales))
        if self._model.shifted:
            own = shifts.best(symbols, scales, bands, self._tables, second)
            self.said.append((own, shifts.own_scales(bands)))
            scales = shifts.shifted(scales, own)
        self.said.append((symbols, quantiser_rows(scales, second)))
        return symbols if spacing is None else trellis.values(symbols, second)

    def stream(self) -> bytes:
        """All of them, coded."""
        symbols, rows = (np.concatenate(parts) for parts in zip(*self.said, strict=True))
        return rans.encode(symbols, rows, self._tables)


def rows_of(model: OctavesModel, scales: np.ndarray) -> np.ndarray:
    """The rows of the tables, (n,) uint8, for scale indices as the networks say."""
    return scales if model.spacing is None else trellis.own_scales(model.spacing).take(scales)


def of_pass(values: np.ndarray, number: int) -> np.ndarray:
    """What (h, w, 9) has of a pass's coefficients, (n,), in the order in which they are coded."""
    first, bands, white, _, _ = PASSES[number]
    own = values[..., first : first + bands]
    return np.stack((own[0::2, int(white) :: 2], own[1::2, int(not white) :: 2])).reshape(-1)


def patience_at(model: OctavesModel, share: float = 1.0) -> tuple[float, float]:
    """How much bits of brightness and of colour count at a slide's step: `share` of the rule's."""
    doublings = float(np.log2(model.equal_step / PATIENCE_AT))
    luma, colour = (
        min(max(base + rise * doublings, LEAST_PATIENCE), MOST_PATIENCE)
        for base, rise in zip(PATIENCE, PATIENCE_RISE, strict=True)
    )
    return share * luma, share * colour * ACTIVE_COLOUR[model.steps]


@dataclass(frozen=True, eq=False)
class Patience:
    """What counts how much in a chunk.

    Attributes:
        bits: (h, w, 9) float32, of each coefficient.
        passes: of each pass the same, (n,), and how much a squared error counts, (n,) float32.
    """

    bits: np.ndarray
    passes: tuple[tuple[np.ndarray, np.ndarray], ...]


@lru_cache(maxsize=64)
def patience_of(h: int, w: int, patience: tuple[float, float]) -> Patience:
    """How much the bits of each coefficient of a chunk of (h, w) sites count, and its errors."""
    shares = _border_shares(h, w)
    bits, errors = np.full((h, w, 9), patience[0], np.float32), 1 / shares
    bits[..., octaves.CHROMA] = patience[1]
    bits *= shares
    return Patience(bits, tuple((of_pass(bits, n), of_pass(errors, n)) for n in range(len(PASSES))))


def _border_shares(h: int, w: int) -> np.ndarray:
    """(h, w, 9) float32: 1, and at the outer sites what `BORDER_SHARES` says; in corners the less."""
    lines = []
    for size, across in ((h, _VERTICAL), (w, _HORIZONTAL)):
        line = np.ones((size, 9), np.float32)
        line[[0, -1]] = BORDER_SHARES[1]
        line[np.ix_([0, -1], across)] = BORDER_SHARES[0]
        lines.append(line)
    return np.minimum(lines[0][:, None], lines[1][None])
