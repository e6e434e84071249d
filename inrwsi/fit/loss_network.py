"""A network of the user's own as a loss: how far its features of a picture, or its segmentation, are from those wanted.

The network is a TorchScript file. It takes pictures, (B, channels, h, w) fp32 within 0..1 with h and w multiples of 32,
and gives floats, (B, ...); of several outputs, the first is taken. As a segmentation these are (B, classes, rows,
columns), of any resolution: logits, of the sigmoid where there is one class and of the softmax over several, or their
probabilities.

A TorchScript file is a program: what it holds runs, so it should come from a source that is trusted. Nothing of it goes
into a .cinr file.
"""

from __future__ import annotations

import io
import warnings
from hashlib import sha256
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from inrwsi.errors import UsageError

SIDE_MULTIPLE_PX = 32  # of what the network sees, so that one that halves five times takes patches of any size
PROBE_PX = 64
LEAST_SHARE = 1e-6  # that a probability counts as
SUM_TOLERANCE = 1e-3  # of probabilities over the classes, about 1


class LossNetwork:
    """A TorchScript file, checked on pictures of noise and of one colour.

    Args:
        path: of the file.
        channels: of the pictures.
        segments: whether it is to give a segmentation.

    Attributes:
        sha256: of the file, in hexadecimal.

    Raises:
        UsageError: it is not there, is no TorchScript, fails on the pictures or gives what is of no use for a loss.
    """

    def __init__(self, path: str | Path, *, channels: int, device: torch.device, segments: bool) -> None:
        self.path = Path(path)
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise UsageError(f"--loss-network {path}: cannot be read ({error.strerror}); give a file") from None
        self.sha256 = sha256(data).hexdigest()
        try:
            with warnings.catch_warnings():  # deprecated for export, whose files are of another form
                warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit.*")
                self._module = torch.jit.load(io.BytesIO(data), map_location=device)
        except RuntimeError:
            raise UsageError(
                f"--loss-network {path}: is not a TorchScript file; save the network by torch.jit.script(it).save(...)"
            ) from None
        self._module.eval()
        for weight in self._module.parameters():
            weight.requires_grad_(False)
        self._segments, self._shares = segments, False
        probe = _probe(channels).to(device).requires_grad_()
        with torch.enable_grad():
            out = self(probe)
        if not out.requires_grad:
            raise self._wrong("gives what has no gradient by the pixels", "without it nothing can be fitted")
        if not bool(out.isfinite().all()):
            raise self._wrong("gives numbers that are not finite", "they should be for any picture")
        self._shares = segments and _are_shares(out.detach())

    def __call__(self, pictures: Tensor) -> Tensor:
        """What the network gives.

        Args:
            pictures: (B, channels, h, w), samples 0..255, beyond which they count as these; at the right and below
                they are continued by their last pixels to sides of which 32 is a divisor.
        """
        h, w = pictures.shape[2:]
        whole = (0, -w % SIDE_MULTIPLE_PX, 0, -h % SIDE_MULTIPLE_PX)
        x = F.pad(pictures.clamp(0, 255) / 255, whole, mode="replicate")
        shape = tuple(x.shape)
        try:
            found = self._module(x)
        except (RuntimeError, torch.jit.Error) as error:  # the latter of what the network itself raises
            said = str(error).strip().splitlines()[-1][:200]
            raise self._wrong(f"fails on pictures of shape {shape} ({said})", "see docs/guidance.md") from None
        out = found[0] if isinstance(found, (tuple, list)) and found else found
        if not isinstance(out, Tensor):
            raise self._wrong(f"gives {type(found).__name__}", "it should be a tensor, or several")
        if out.dim() < 2 or out.shape[0] != x.shape[0] or not out.is_floating_point() or not out.numel():
            found = f"{out.dtype} of shape {tuple(out.shape)}".removeprefix("torch.")
            raise self._wrong(f"gives {found} for pictures of shape {shape}", f"it should be floats, ({shape[0]}, ...)")
        if self._segments and out.dim() != 4:
            wanted = f"as a segmentation it should be ({shape[0]}, classes, rows, columns)"
            raise self._wrong(f"gives shape {tuple(out.shape)} for pictures of shape {shape}", wanted)
        return out

    def feature_error(self, y: Tensor, target: Tensor) -> Tensor:
        """The mean squared difference of what it gives, over the mean square of what it gives for `target`."""
        with torch.no_grad():
            wanted = self(target)
        return (self(y) - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12)

    def segmentation_error(self, y: Tensor, target: Tensor) -> Tensor:
        """`soft_dice_error` plus the cross-entropy, less what this is of `target` with itself (so 0 at the least)."""
        with torch.no_grad():
            wanted, wanted_log = self._classes(self(target))
        found, found_log = self._classes(self(y))
        divergence = (wanted_log.exp() * (wanted_log - found_log)).sum(dim=1).mean()
        return soft_dice_error(found, wanted) + divergence

    def _classes(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the classes; and the logarithms of these, of one class also that of its absence."""
        if out.shape[1] > 1:
            logs = out.clamp(LEAST_SHARE, 1).log() if self._shares else F.log_softmax(out, dim=1)
            return logs.exp(), logs
        if self._shares:
            share = out.clamp(LEAST_SHARE, 1 - LEAST_SHARE)
            logs = torch.cat([share.log(), (1 - share).log()], dim=1)
        else:
            logs = torch.cat([F.logsigmoid(out), F.logsigmoid(-out)], dim=1)
        return logs[:, :1].exp(), logs

    def _wrong(self, what: str, wanted: str) -> UsageError:
        return UsageError(f"--loss-network {self.path}: the network {what}; {wanted}")


def soft_dice_error(found: Tensor, wanted: Tensor) -> Tensor:
    """One less the Dice coefficient of maps of 0..1 (Milletari, Navab and Ahmadi 2016, section 3), 0 of equal maps.

    Both are (B, classes, h, w); sums are over all but the classes, whose mean it is. A pixel is added to what is common
    and to the whole, so that where there is next to nothing, next to nothing is wrong.
    """
    common = (found * wanted).sum(dim=(0, 2, 3))
    both = (found.square() + wanted.square()).sum(dim=(0, 2, 3))
    return (1 - (2 * common + 1) / (both + 1)).mean()


def _are_shares(out: Tensor) -> bool:
    """Whether these are probabilities and not logits."""
    if bool((out < 0).any()) or bool((out > 1).any()):
        return False
    return out.shape[1] == 1 or bool(((out.sum(dim=1) - 1).abs() < SUM_TOLERANCE).all())


def _probe(channels: int) -> Tensor:
    """(5, channels, 64, 64): noise, black, grey and white, and half a picture each of these two."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, channels, PROBE_PX, PROBE_PX, generator=generator) * 255
    flat = [torch.full_like(noise, level) for level in (0.0, 127.5, 255.0)]
    split = flat[1].clone()
    split[..., PROBE_PX // 2 :] = 255
    return torch.cat([noise, *flat, split])
