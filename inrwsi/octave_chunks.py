"""Chunks of model `octaves`, to bytes and back: the integer networks between the wavelet and the entropy coder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from inrwsi.coding import lifting, rans, shifts, tensors
from inrwsi.errors import UnsupportedVersion
from inrwsi.fields import octaves, octaves_prior
from inrwsi.fields.octaves_fused import FusedNet
from inrwsi.fields.octaves_integer import FACTOR_UNIT, PASSES, WHOLE, IntegerNet, fast_bf16, net_of, octave_step
from inrwsi.fields.octaves_model import COARSEST_PX, FEATURES, STEP_UNIT, Decoded, OctavesModel
from inrwsi.fields.wavelet import border_details
from inrwsi.fields.wavelet_planes import below97, fill, forward97
from inrwsi.fit.deltas import apply_deltas
from inrwsi.fit.refine import Refiner
from inrwsi.octave_choices import REFINED_PATIENCE, Choices, patience_at, patience_of, rows_of

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
        refine: refine the coefficients of what is encoded, in so many rounds as there are shares (`fit.refine`): about
            1 % fewer bytes at equal PSNR.
        fast: use convolutions in bf16, and in 8-bit numbers; by default where they pay. Decoding gives the same.

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
        refine: Sequence[float] = (),
        fast: bool | None = None,
    ) -> None:
        if model.prior:
            prior = prior or octaves_prior.load(model.prior)
        else:
            prior, weights = _whole_prior(weights), None
        if prior is None:
            raise UnsupportedVersion(
                f"made with prior {model.prior[:16]}, which this build does not have; it needs a newer inrwsi"
            )
        self.model, self._device = model, device
        self._weights = _weights_of(prior, weights)
        self._tables = prior.tables
        if model.spacing is not None and not prior.tables.two:
            raise ValueError(f"the model has a spacing, {model.spacing}, and the tables are of one quantiser")
        self._spacing = model.spacing or WHOLE
        self._fast = fast_bf16(device) if fast is None else fast
        self._in_bytes = fast is None or fast
        self._matrix = np.array(model.matrix, np.int64).reshape(3, 3)
        self._rgb_matrix = model.rgb_matrix
        self._mean = np.array(model.mean, np.int64)
        self._analyses = [_analysis(t, device) for t in prior.analysis] if encoder else []
        used = replace(prior, nets=self._weights.nets)
        self._refiner = Refiner(used, device, refine, fast=self._fast, model=model) if refine else None
        self._patience = patience_at(model, REFINED_PATIENCE if refine else 1.0)

    def _net(self, octave: int) -> IntegerNet:
        model, least = self.model, self.model.least_octave_step
        step = octave_step(model.step, octave, model.own_step(octave), least)
        return _net(
            self._weights, net_of(octave), (step, model.active, least), self._device, self._fast, self._in_bytes
        )

    def components(self, rgb: np.ndarray) -> np.ndarray:
        """(h, w, 3) uint8 to the slide's colour components, (3, h, w) float32 in grey levels about the mean."""
        return self.model.klt.forward(rgb)

    def rgb(self, decoded: Decoded) -> np.ndarray:
        """(h, w, 3) uint8."""
        return lifting.to_rgb(np.ascontiguousarray(decoded.pixels), self._rgb_matrix, self._mean)

    def below(self, target: np.ndarray) -> np.ndarray:
        """True pixels of the octave below a chunk of (3, h, w) float32: (3, ceil(h / 2), ceil(w / 2))."""
        return below97(_pad(target, 2))

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
        limit = lifting.PIXEL_MAX // self.model.root  # a spot's low-pass may lie further from the mean than it does
        units = np.rint(target * (lifting.PIXEL_UNIT / self.model.root)).clip(-limit, limit).astype(np.int16)
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
        limit = lifting.PIXEL_MAX // self.model.root
        if np.abs(units).max() > limit:
            raise ValueError(f"a pixel is {np.abs(units).max()} units from the mean, should be at most {limit}")
        pixels = (units * self.model.root).astype(np.int16).reshape(3, mip_wh[1], mip_wh[0])
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
            scales = rows_of(self.model, scales)
            if self.model.shifted:
                scales = shifts.shifted(scales, decoder.decode(shifts.own_scales(PASSES[number][1])))
            symbols = decoder.decode(scales, trellis=self.model.spacing is not None)
            most = max(int(symbols.max()), -int(symbols.min()))
            if most > MOST_SYMBOL:
                raise ValueError(f"a coefficient is {most} units from its mean, should be at most {MOST_SYMBOL}")
            return symbols

        whole = self._net(octave).run(below, features, read, hand_up=octave > 0, spacing=self._spacing)
        decoder.finish()
        return whole.cut(0, 0, *mip_wh)

    def encode(self, octave: int, target: np.ndarray, parent: Decoded) -> tuple[bytes, Decoded]:
        """A chunk's payload and what it decodes to, of true pixels (3, h, w) float32 and its part of what is below."""
        mip_wh = (target.shape[2], target.shape[1])
        below, features = _parent(parent, mip_wh)
        net = self._net(octave)
        own = net.at_sites(below)[0]
        steps, worth = own.astype(np.float32) / STEP_UNIT, self._worth(octave, own)
        decoded = below.astype(np.float32) / lifting.PIXEL_UNIT
        true = _filled(target, decoded)
        units = self._units(octave, true, decoded, steps) / worth
        patience = patience_of(*steps.shape, self._patience)
        if self._refiner:
            units = self._refiner.refined(octave, true, decoded, features, units, steps, worth, patience)
        choices = Choices(self.model, self._tables, units, patience)
        whole = net.run(below, features, choices, hand_up=octave > 0, spacing=self._spacing)
        self.coded(choices)
        stream = choices.stream()
        # A payload has at least a byte; one of zeros alone counts as one shorter, so that the empty stream has its own.
        return stream if any(stream) else stream + b"\0", whole.cut(0, 0, *mip_wh)

    def coded(self, choices: Choices) -> None:
        """Hears what each encoded chunk was coded with: for who counts symbols."""

    @torch.inference_mode()
    def _units(self, octave: int, true: np.ndarray, below: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """(h, w, 9) float32: the coefficients of a chunk, in steps, before they are rounded."""
        analysis = self._analyses[net_of(octave)]
        step = torch.from_numpy(steps)[None, None].to(self._device)
        low, details = (torch.from_numpy(part)[None].to(self._device) for part in forward97(true))
        decoded = torch.from_numpy(below)[None].to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._fast):
            units = analysis(low, details + border_details(low - decoded), decoded, step)
        return units.float()[0].permute(1, 2, 0).contiguous().cpu().numpy()

    def _worth(self, octave: int, steps: np.ndarray) -> np.ndarray:
        """(h, w, 9) float32: a quantiser unit in steps, of which `steps` (h, w) are the decoder's.

        To rounding it is what the analysis was trained with. But the decoder rounds units down to 1 / 1024 grey level:
        of a fine step that is 1 % of a coefficient, and half a grey level of a large one.
        """
        factors = self._weights.nets[net_of(octave)]["inverse_factor"].astype(np.int64)
        units = np.maximum(factors * steps[..., None] // FACTOR_UNIT, 1)
        return (units / steps[..., None]).astype(np.float32)


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
def _net(
    weights: _Weights,
    number: int,
    steps: tuple[int, int, int],
    device: torch.device,
    fast: bool,
    in_bytes: bool,
) -> IntegerNet:
    """A net at a step. Kept: a file that is opened again, or another of the same step, has it at once.

    Args:
        steps: the step, `active` and `least`.
    """
    step, active, least = steps
    if device.type == "cpu":
        return FusedNet(weights.nets[number], step, device, fast=fast, active=active, least=least, in_bytes=in_bytes)
    return IntegerNet(weights.nets[number], step, device, active=active, least=least)


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
        if grow[axis][1]:
            pixels = np.pad(pixels, grow, mode="edge" if pixels.shape[axis] % 2 else "reflect")
    return pixels


def _filled(target: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A chunk's true pixels up to whole sites; what is beyond the edge is such that the octave below is nearly `below`.

    Nobody sees those pixels, but the wavelet's lines end with them, and where the picture has ended the decoder repeats
    the last row or column of the octave below. Were they as the edge is, that would be wrong by what the picture
    changes from one site to the next, and a twentieth of it would show in the last row that is seen. In the coarsest
    octaves this is several grey levels, which reach over hundreds of rows of the slide.

    Args:
        target: (3, h, w) float32, in grey levels about the mean.
        below: (3, H / 2, W / 2) float32, the decoded octave below with what is repeated; H and W are multiples of
            `PAD_TO`.

    Returns:
        (3, H, W) float32.
    """
    filled = _pad(target, PAD_TO)
    for axis in (1, 2):
        seen = target.shape[axis]
        if below.shape[axis] > -(-seen // 2):
            fill(np.swapaxes(filled, 1, axis), np.swapaxes(below, 1, axis), filled.shape[axis] - seen)
    return filled


def _parent(parent: Decoded, mip_wh: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels and features of the octave below at the sites of a chunk of `mip_wh`."""
    if parent.features is None:
        raise ValueError("the octave below has handed nothing up")
    w, h = (-(-side // PAD_TO) * PAD_TO // 2 for side in mip_wh)
    grow = ((0, 0), (0, h - parent.pixels.shape[1]), (0, w - parent.pixels.shape[2]))
    if grow == ((0, 0), (0, 0), (0, 0)):
        return np.ascontiguousarray(parent.pixels), np.ascontiguousarray(parent.features)
    return np.pad(parent.pixels, grow, mode="edge"), np.pad(parent.features, grow, mode="edge")
