"""Chunks of model `octaves`, to bytes and back: the integer networks between the wavelet and the entropy coder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from inrwsi.coding import lifting, rans, shifts, sites, tensors
from inrwsi.coding.tables import FrequencyTables
from inrwsi.errors import UnsupportedVersion
from inrwsi.fields import octaves, octaves_prior
from inrwsi.fields.octaves_fused import FusedNet
from inrwsi.fields.octaves_integer import PASSES, IntegerNet, fast_bf16, net_of, octave_step
from inrwsi.fields.octaves_model import COARSEST_PX, FEATURES, STEP_UNIT, Decoded, OctavesModel
from inrwsi.fields.wavelet import border_details, forward97
from inrwsi.fit.deltas import apply_deltas
from inrwsi.fit.refine import Refiner

# What bits of brightness and of colour count when a symbol is chosen, against what they counted in training: at a step
# of six grey levels, and what a step twice as coarse adds. Against 1 and 1.75 at every step, at equal PSNR and on seven
# crops: 1.2 % fewer bits at 45 dB, 0.5 at 41, none at 31, and 1 % fewer at 25.
PATIENCE_AT, PATIENCE, PATIENCE_RISE = 6.0, (0.77, 0.85), (0.085, 0.33)
LEAST_PATIENCE, MOST_PATIENCE = 0.5, 2.5
# What share of that counts where coefficients are refined: 0.3 % fewer bits than with all of it.
REFINED_PATIENCE = 0.8
# What share of that counts at a chunk's outer sites, where the wavelet's errors add up: of details across its left and
# upper border, of those along it; of the same at its right and lower one. Squared error within two pixels of borders is
# 18 % above the rest's without, and 2 % with them, for which other shares took more bits.
BORDER_PATIENCE = (0.1, 0.3, 0.15, 0.45)
_HORIZONTAL, _VERTICAL = ([n for n in range(9) if n % 3 in bands] for bands in ((0, 2), (1, 2)))  # the diagonal is both
ROOT_UNIT = 16  # of the octave that is stored plainly: a quarter of a grey level
MOST_SYMBOL = 2**20  # whose coefficient, in sixteenths of a unit, 32 bits hold
PAD_TO = 4  # pixels: sites in two rows and two columns, so that every colour of the checkerboard is there


class ChunkCoder:
    """Codes the chunks of one slide. Thread safe.

    Args:
        model: the model's part of the header.
        weights: what the file holds of its own: differences from the prior, or all that decoding needs where the model
            names none. None: the prior's networks as they are.
        device: where to compute.
        encoder: also load what only encoding needs; the model then names a prior.
        prior: use this one, which is not released yet, for the one that the model names.
        analysis: the encoder's transforms of each net, where they were fitted with `weights`.
        refine: refine the coefficients of what is encoded, in so many rounds as there are shares (`fit.refine`): 1.5 to
            2 % fewer bytes at equal PSNR.
        fast: use bf16 convolutions, whether or not they pay here; decoding gives the same either way.

    Raises:
        UnsupportedVersion: the prior is not in this build.
        ValueError: the weights are not of the spec.
    """

    def __init__(
        self,
        model: OctavesModel,
        weights: bytes | None,
        device: torch.device,
        *,
        encoder: bool = False,
        prior: octaves_prior.Prior | None = None,
        analysis: Sequence[dict[str, np.ndarray]] | None = None,
        refine: Sequence[float] = (),
        fast: bool | None = None,
    ) -> None:
        if model.prior:
            prior = prior or octaves_prior.load(model.prior)
        else:
            prior, weights = _whole_prior(weights), None
        if prior is None:
            raise UnsupportedVersion(
                f"the file was made with prior {model.prior[:16]}, which this build does not have; it needs a "
                "newer inrwsi"
            )
        self.model, self._device = model, device
        self._weights = _weights_of(prior, weights)
        self._tables = prior.tables
        self._fast = fast_bf16(device) if fast is None else fast
        self._matrix = np.array(model.matrix, np.int64).reshape(3, 3)
        self._rgb_matrix = model.rgb_matrix
        self._mean = np.array(model.mean, np.int64)
        self._analyses = [_analysis(t, device) for t in analysis or prior.analysis] if encoder else []
        used = replace(prior, nets=self._weights.nets)
        self._refiner = Refiner(used, device, refine, fast=self._fast) if refine else None
        self._patience = patience_at(model.step / STEP_UNIT, REFINED_PATIENCE if refine else 1.0)
        self._limits = tuple(
            tuple(thresholds(prior.tables, patience * share) for share in (1.0, *BORDER_PATIENCE))
            for patience in (self._patience if encoder else ())
        )

    def _net(self, octave: int) -> IntegerNet:
        step = octave_step(self.model.step, octave)
        return _net(self._weights, net_of(octave), step, self._device, self._fast, self.model.active)

    def components(self, rgb: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 to the slide's colour components, (3, h, w) float32 in grey levels about the mean."""
        return self.model.klt.forward(rgb)

    def rgb(self, decoded: Decoded) -> np.ndarray:
        """(h, w, 3) uint8."""
        return lifting.to_rgb(np.ascontiguousarray(decoded.pixels), self._rgb_matrix, self._mean)

    def below(self, target: np.ndarray) -> np.ndarray:
        """True pixels of the octave below a chunk of (3, h, w) float32: (3, ceil(h / 2), ceil(w / 2))."""
        return forward97(torch.from_numpy(_pad(target, 2))[None])[0][0].numpy()

    def blank(self, colour: tuple[int, ...], mip_wh: tuple[int, int], octave: int) -> Decoded:
        """What a blank chunk counts as, for its children."""
        rgb = np.array(colour * 3 if len(colour) == 1 else colour, np.int64)
        values = (self._matrix @ (rgb * lifting.PIXEL_UNIT - self._mean) + (1 << 13)) >> 14
        values = values.clip(-lifting.PIXEL_MAX, lifting.PIXEL_MAX)  # a damaged matrix need not be orthonormal
        pixels = np.broadcast_to(values.astype(np.int16)[:, None, None], (3, mip_wh[1], mip_wh[0]))
        features = np.zeros((FEATURES, mip_wh[1], mip_wh[0]), np.uint8) if octave else None
        return Decoded(np.ascontiguousarray(pixels), features)

    def encode_root(self, target: np.ndarray) -> tuple[bytes, Decoded]:
        """The coarsest octave, plainly: (3, h, w) float32, at most COARSEST_PX a side."""
        units = np.rint(target * (lifting.PIXEL_UNIT / ROOT_UNIT)).astype(np.int16)
        payload = tensors.squeeze(np.diff(units.reshape(-1), prepend=np.int16(0)).astype("<i2").tobytes())
        return payload, self.decode_root(payload, (target.shape[2], target.shape[1]))

    def decode_root(self, payload: bytes, mip_wh: tuple[int, int]) -> Decoded:
        """The inverse of `encode_root`.

        Raises:
            ValueError: it is not of the spec.
        """
        raw = tensors.unsqueeze(payload, 6 * COARSEST_PX**2)
        count = 3 * mip_wh[0] * mip_wh[1]
        if len(raw) != 2 * count:
            raise ValueError(f"it holds {len(raw)} bytes of pixels, should hold {2 * count}")
        units = np.cumsum(np.frombuffer(raw, "<i2"), dtype=np.int64)
        limit = lifting.PIXEL_MAX // ROOT_UNIT
        if np.abs(units).max() > limit:
            raise ValueError(f"a pixel is {np.abs(units).max()} units from the mean, should be at most {limit}")
        pixels = (units * ROOT_UNIT).astype(np.int16).reshape(3, mip_wh[1], mip_wh[0])
        return Decoded(pixels, np.zeros((FEATURES, mip_wh[1], mip_wh[0]), np.uint8))

    def decode(self, octave: int, payload: bytes, parent: Decoded, mip_wh: tuple[int, int]) -> Decoded:
        """A chunk of `mip_wh` from its payload and its part of the decoded octave below.

        Raises:
            ValueError: the payload is not of the spec.
        """
        stream = payload[:-1] if not any(payload) else payload
        decoder = rans.Decoder(stream, self._tables)
        below, features = _parent(parent, mip_wh)

        def read(number: int, _means: np.ndarray, scales: np.ndarray) -> np.ndarray:
            if self.model.shifted:
                scales = shifts.shifted(scales, decoder.decode(shifts.own_scales(PASSES[number][1])))
            symbols = decoder.decode(scales)
            most = max(int(symbols.max()), -int(symbols.min()))
            if most > MOST_SYMBOL:
                raise ValueError(f"a coefficient is {most} units from its mean, should be at most {MOST_SYMBOL}")
            return symbols

        whole = self._net(octave).run(below, features, read, hand_up=octave > 0)
        decoder.finish()
        return whole.cut(0, 0, *mip_wh)

    def encode(self, octave: int, target: np.ndarray, parent: Decoded) -> tuple[bytes, Decoded]:
        """A chunk's payload and what it decodes to, of true pixels (3, h, w) float32 and its part of what is below."""
        mip_wh = (target.shape[2], target.shape[1])
        below, features = _parent(parent, mip_wh)
        net = self._net(octave)
        steps = net.at_sites(below)[0].astype(np.float32) / STEP_UNIT
        units = self._units(octave, target, below, steps)
        if self._refiner:
            decoded, true = below.astype(np.float32) / lifting.PIXEL_UNIT, _pad(target, PAD_TO)
            patience = _patience_of(*steps.shape, self._patience)
            units = self._refiner.refined(octave, true, decoded, features, units, steps, patience)
        said: list[tuple[np.ndarray, np.ndarray]] = []

        def choose(number: int, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
            first, bands = PASSES[number][:2]
            symbols = _choose(units, number, means, scales, self._limits[int(first > 0)])
            if self.model.shifted:
                own = shifts.best(symbols, scales, bands, self._tables)
                said.append((own, shifts.own_scales(bands)))
                scales = shifts.shifted(scales, own)
            said.append((symbols, scales))
            self.said(symbols, scales)
            return symbols

        whole = net.run(below, features, choose, hand_up=octave > 0)
        symbols, scales = (np.concatenate(parts) for parts in zip(*said, strict=True))
        stream = rans.encode(symbols, scales, self._tables)
        # A payload has at least a byte; one of zeros alone counts as one shorter, so that the empty stream has its own.
        return stream if any(stream) else stream + b"\0", whole.cut(0, 0, *mip_wh)

    def said(self, symbols: np.ndarray, scales: np.ndarray) -> None:
        """Hears every symbol (n,) that is encoded, with its scale index (n,): for who counts them."""

    @torch.inference_mode()
    def _units(self, octave: int, target: np.ndarray, below: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """(h, w, 9) float32: the coefficients of a chunk, in quantiser units, before they are rounded."""
        analysis = self._analyses[net_of(octave)]
        x = torch.from_numpy(_pad(target, PAD_TO))[None].to(self._device)
        step = torch.from_numpy(steps)[None, None].to(self._device)
        low, details = forward97(x)
        decoded = torch.from_numpy(below.astype(np.float32) / lifting.PIXEL_UNIT)[None].to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._fast):
            units = analysis(low, details + border_details(low - decoded), decoded, step)
        units = units.float() * torch.exp(analysis.log_factor).view(1, -1, 1, 1)
        return units[0].permute(1, 2, 0).contiguous().cpu().numpy()


@dataclass(frozen=True, eq=False)
class _Weights:
    """The integer tensors of each net. Equal to itself alone: what is made of it is kept under it."""

    nets: tuple[dict[str, np.ndarray], ...]


@lru_cache(maxsize=8)
def _whole_prior(weights: bytes | None) -> octaves_prior.Prior:
    return octaves_prior.unpack_decoding(weights)


@lru_cache(maxsize=8)
def _weights_of(prior: octaves_prior.Prior, weights: bytes | None) -> _Weights:
    return _Weights(tuple(prior.nets if weights is None else apply_deltas(prior, weights)))


@lru_cache(maxsize=64)
def _net(weights: _Weights, number: int, step: int, device: torch.device, fast: bool, active: bool) -> IntegerNet:
    """A net at a step. Kept: a file that is opened again, or another of the same step, has it at once."""
    kind = FusedNet if device.type == "cpu" else IntegerNet
    return kind(weights.nets[number], step, device, fast=fast, active=active)


def _choose(
    units: np.ndarray, number: int, means: np.ndarray, scales: np.ndarray, limits: Sequence[np.ndarray]
) -> np.ndarray:
    """The symbols of a pass; `limits` are those within the chunk, and at each share of `BORDER_PATIENCE`."""
    own = _of_pass(units, number)
    symbols = sites.choose(own, means, scales, limits[0])
    for where, own_limits in zip(_borders(*units.shape[:2], number), limits[1:], strict=True):
        symbols[where] = sites.choose(own[where], means[where], scales[where], own_limits)
    return symbols


def _of_pass(values: np.ndarray, number: int) -> np.ndarray:
    """What (h, w, 9) has of a pass's coefficients, (n,), in the order in which they are coded."""
    first, bands, white, _, _ = PASSES[number]
    own = values[..., first : first + bands]
    return np.stack((own[0::2, int(white) :: 2], own[1::2, int(not white) :: 2])).reshape(-1)


def patience_at(step: float, share: float = 1.0) -> tuple[float, float]:
    """How much bits of brightness and of colour count at a slide's step, in grey levels: `share` of the rule's."""
    doublings = float(np.log2(step / PATIENCE_AT))
    luma, colour = (
        min(max(base + rise * doublings, LEAST_PATIENCE), MOST_PATIENCE)
        for base, rise in zip(PATIENCE, PATIENCE_RISE, strict=True)
    )
    return share * luma, share * colour


@lru_cache(maxsize=64)
def _patience_of(h: int, w: int, patience: tuple[float, float]) -> np.ndarray:
    """(h, w, 9) float32: how much the bits of each coefficient of a chunk count, as the limits of `_choose` have it."""
    counts = np.full((h, w, 9), patience[0], np.float32)
    counts[..., octaves.CHROMA] = patience[1]
    return counts * _border_shares(h, w)


@lru_cache(maxsize=64)
def _borders(h: int, w: int, number: int) -> tuple[np.ndarray, ...]:
    """Of a pass's symbols, the numbers of those that have each of `BORDER_PATIENCE`."""
    own = _of_pass(_border_shares(h, w), number)
    return tuple(np.flatnonzero(own == np.float32(share)) for share in BORDER_PATIENCE)


@lru_cache(maxsize=64)
def _border_shares(h: int, w: int) -> np.ndarray:
    """(h, w, 9) float32: 1, and at the outer sites what `BORDER_PATIENCE` says; in corners the less."""
    lines = []
    for size, across in ((h, _VERTICAL), (w, _HORIZONTAL)):
        line = np.ones((size, 9), np.float32)
        line[0, :], line[-1, :] = BORDER_PATIENCE[1], BORDER_PATIENCE[3]
        line[0, across], line[-1, across] = BORDER_PATIENCE[0], BORDER_PATIENCE[2]
        lines.append(line)
    return np.minimum(lines[0][:, None], lines[1][None])


def thresholds(tables: FrequencyTables, patience: float = 1.0) -> np.ndarray:
    """(scales, 2) float32: how far past 0, and past a larger whole number, the next symbol begins to pay.

    The symbol that minimises squared error (in quantiser units) and `patience` times the bits, weighed as in training.
    """
    bits = tables.bits()[1:]  # row 0 has one symbol, and nothing to choose
    zero = tables.limit
    one = (bits[:, zero + 1] + bits[:, zero - 1]) / 2
    two = (bits[:, zero + 2] + bits[:, zero - 2]) / 2
    weight = patience * 3 * octaves.RATE_WEIGHT / 2
    gaps = np.pad(np.stack((one - bits[:, zero], two - one), 1), ((1, 0), (0, 0)))
    return (0.5 + weight * np.clip(gaps, 0, 30)).astype(np.float32)


def _analysis(held: dict[str, np.ndarray], device: torch.device) -> octaves.Analysis:
    analysis = octaves.Analysis(octaves.OctavesConfig(analysis_width=octaves_prior.ANALYSIS_WIDTH))
    analysis.load_state_dict({name: torch.from_numpy(array.astype(np.float32)) for name, array in held.items()})
    return analysis.to(device, memory_format=torch.channels_last).eval()


def _pad(pixels: np.ndarray, multiple: int) -> np.ndarray:
    """Sides up to a multiple: even ones mirrored about the last row or column, odd ones as the last one is.

    So what the wavelet of the padded picture has below is nearest to what that of the picture has, which is what the
    decoder knows. Repeating the rows of even sides costs a picture of 1200 x 1200 five decibels.
    """
    for axis in (1, 2):
        grow = [(0, 0)] * 3
        grow[axis] = (0, -pixels.shape[axis] % multiple)
        pixels = np.pad(pixels, grow, mode="edge" if pixels.shape[axis] % 2 else "reflect")
    return pixels


def _parent(parent: Decoded, mip_wh: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and features of the octave below at the sites of a chunk of `mip_wh`."""
    if parent.features is None:
        raise ValueError("the octave below has handed nothing up")
    w, h = (-(-side // PAD_TO) * PAD_TO // 2 for side in mip_wh)
    grow = ((0, 0), (0, h - parent.pixels.shape[1]), (0, w - parent.pixels.shape[2]))
    if grow == ((0, 0), (0, 0), (0, 0)):
        return np.ascontiguousarray(parent.pixels), np.ascontiguousarray(parent.features)
    return np.pad(parent.pixels, grow, mode="edge"), np.pad(parent.features, grow, mode="edge")
