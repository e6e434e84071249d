"""A user's TorchScript network as a loss: by hand, refused where it is of no use, and from the command line."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.errors import UsageError
from inrwsi.fit.loss_network import LossNetwork
from inrwsi.fit.losses import NETWORK_WEIGHT, PERCEPTUAL_WEIGHT, Loss
from inrwsi.formats.source import open_source
from inrwsi.options import EncodeOptions
from inrwsi.progress import Progress
from tests.cli.conftest import run, told
from tests.test_model_files import picture_px

PAGE = (Path(__file__).parent.parent / "docs" / "guidance.md").read_text(encoding="utf-8")
CPU = torch.device("cpu")


class Sum(nn.Module):
    """A convolution of 1 x 1: R + 2 G + 3 B, and `last` on it."""

    def __init__(self, last: nn.Module | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 3.0])[None, :, None, None])
        self.last = last or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(F.conv2d(x, self.weight.to(x.dtype)))
        return y


class Beside(nn.Module):
    """Logits of two classes, whose second are 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, 0 * x], dim=1)


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x.mean(dim=(2, 3)), x


class Named(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": x}


class First(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:1]


class Whole(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.argmax(dim=1, keepdim=True)


class Cut(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()


class Shared(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / x.mean(dim=(1, 2, 3), keepdim=True)


class Refusing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 4, "four channels wanted"
        return x


def saved(module: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(str(path))
    return path


def loaded(module: nn.Module, folder: Path, *, segments: bool = False) -> LossNetwork:
    return LossNetwork(saved(module, folder / "net.pt"), channels=3, device=CPU, segments=segments)


def flat(r: float, g: float, b: float, side: int = 32) -> Tensor:
    """(1, 3, side, side) fp64 of one colour."""
    return torch.tensor([r, g, b], dtype=torch.float64)[None, :, None, None].expand(1, 3, side, side)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


Y, TARGET = flat(51, 102, 153), flat(51, 51, 51)  # whose sums are 0.2 + 0.8 + 1.8 and 0.2 + 0.4 + 0.6
FOUND, WANTED = 2.8, 1.2


def test_features_by_hand(tmp_path: Path) -> None:
    """The squared difference over the square of what is wanted; in units of a call, by its weight."""
    network = loaded(Sum(), tmp_path)
    assert network.feature_error(Y, TARGET) == pytest.approx((FOUND - WANTED) ** 2 / WANTED**2)
    loss = Loss("perceptual", network=network)
    more = loss(Y, TARGET) - Loss()(Y, TARGET)
    assert more == pytest.approx(PERCEPTUAL_WEIGHT * (FOUND - WANTED) ** 2 / WANTED**2)
    assert loss(TARGET, TARGET) == 0
    base = flat(100, 90, 80)
    over = loss(Y - base + 128, TARGET - base + 128, base=base)
    assert over == pytest.approx(float(loss(Y, TARGET)))
    assert loaded(Pair(), tmp_path).feature_error(Y, TARGET) == pytest.approx((0.2**2 + 0.4**2) / (3 * 0.2**2))


@pytest.mark.parametrize("last", [None, nn.Sigmoid(), Beside(), nn.Sequential(Beside(), nn.Softmax(dim=1))])
def test_segmentation_by_hand(last: nn.Module | None, tmp_path: Path) -> None:
    """Logits and probabilities, of one class and of two, say the same: the divergence, and one less Dice's."""
    p, q, px = sigmoid(FOUND), sigmoid(WANTED), 32 * 32
    divergence = q * math.log(q / p) + (1 - q) * math.log((1 - q) / (1 - p))
    dice = 1 - (2 * p * q * px + 1) / ((p * p + q * q) * px + 1)
    if isinstance(last, (Beside, nn.Sequential)):
        other = 1 - (2 * (1 - p) * (1 - q) * px + 1) / (((1 - p) ** 2 + (1 - q) ** 2) * px + 1)
        dice = (dice + other) / 2
    network = loaded(Sum(last), tmp_path, segments=True)
    loss = Loss("segmentation", network=network)
    with torch.no_grad():
        assert network.segmentation_error(Y, TARGET) == pytest.approx(dice + divergence, rel=1e-6)
        more = loss(Y, TARGET) - Loss()(Y, TARGET)
        assert more == pytest.approx(NETWORK_WEIGHT * (dice + divergence), rel=1e-6)
        assert loss(TARGET, TARGET) == pytest.approx(0, abs=1e-12)
    assert loss.guide(np.zeros((4, 4, 3), np.uint8)) == {}


@pytest.mark.parametrize("name", ["perceptual", "segmentation"])
def test_gradients(name: str, tmp_path: Path) -> None:
    """To the picture, through what the picture is continued by; not to the network."""
    network = loaded(Sum(), tmp_path, segments=name == "segmentation")
    drawn = np.random.default_rng(0)
    y, target = (torch.from_numpy(drawn.uniform(40, 200, (2, 3, 3, 4))).requires_grad_(grad) for grad in (True, False))
    assert torch.autograd.gradcheck(lambda y: Loss(name, network=network)(y, target), y)
    assert not any(p.requires_grad for p in network._module.parameters())


def test_what_it_is_given(tmp_path: Path) -> None:
    """0..1, in sides of whole multiples of 32, continued by the last pixels."""
    network = loaded(nn.Identity(), tmp_path)
    pictures = torch.from_numpy(np.random.default_rng(1).uniform(-40, 300, (2, 3, 33, 20))).float()
    seen = network(pictures)
    assert seen.shape == (2, 3, 64, 32)
    assert torch.equal(seen[..., :33, :20], pictures.clamp(0, 255) / 255)
    assert torch.equal(seen[..., 33:, :], seen[..., 32:33, :].expand(-1, -1, 31, -1))
    assert torch.equal(seen[..., 20:], seen[..., 19:20].expand(-1, -1, -1, 12))


@pytest.mark.parametrize(
    ("module", "segments", "sentence"),
    [
        (Named(), False, "gives dict; it should be a tensor"),
        (First(), False, r"gives float32 of shape \(1, 3, 64, 64\) for pictures of shape \(5, 3, 64, 64\); it should"),
        (Whole(), False, r"gives int64 of shape \(5, 1, 64, 64\)"),
        (Cut(), False, "gives what has no gradient by the pixels"),
        (Shared(), False, "gives numbers that are not finite"),
        (Pair(), True, r"gives shape \(5, 3\) .*; as a segmentation it should be \(5, classes, rows, columns\)"),
        (Refusing(), False, r"fails on pictures of shape \(5, 3, 64, 64\) \(.*four channels wanted.*\); see docs/guid"),
        (nn.Conv2d(1, 2, 3), False, r"fails on pictures of shape \(5, 3, 64, 64\) \(.*1 channels.*\); see docs/guid"),
    ],
)
def test_a_network_of_no_use_is_refused(module: nn.Module, segments: bool, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=rf"--loss-network \S+net\.pt: the network {sentence}"):
        loaded(module, tmp_path, segments=segments)


def test_what_is_no_torchscript_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("weights")
    torch.save(Sum().state_dict(), tmp_path / "state.pt")
    whole = saved(Sum(), tmp_path / "whole.pt").read_bytes()
    (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("text.pt", "state.pt", "half.pt"):
        with pytest.raises(UsageError, match=rf"{name}: is not a TorchScript file; save the network by torch\.jit\."):
            LossNetwork(tmp_path / name, channels=3, device=CPU, segments=False)
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\)"):
        LossNetwork(tmp_path, channels=3, device=CPU, segments=False)


@pytest.fixture
def blue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The network that docs/guidance.md makes."""
    (source,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    program = tmp_path / "page.py"
    program.write_text(source, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        __import__("page")
    return tmp_path / "blue.pt"


def test_the_command_line_takes_the_pages_network(blue: Path, tmp_path: Path) -> None:
    """Both losses; the file is decoded without the network, and differs from squared error's."""
    Image.fromarray(picture_px()).save(tmp_path / "slide.png")
    found = []
    shared = ("--model", "siren", "--bpp", 3, "--tile-px", 72, "--passes", 4, "--device", "cpu", "-q")
    for loss in ("mse", "segmentation", "perceptual"):
        out = tmp_path / f"{loss}.cinr"
        network = () if loss == "mse" else ("--loss-network", blue)
        result = run("encode", tmp_path / "slide.png", "-o", out, *shared, "--loss", loss, *network)
        assert (result.exit_code, result.output) == (0, "")
    blue.unlink()
    for loss in ("mse", "segmentation", "perceptual"):
        assert (tmp_path / f"{loss}.cinr").stat().st_size == pytest.approx(136 * 72 * 3 / 8, rel=0.15)
        with Decoder(tmp_path / f"{loss}.cinr", device="cpu") as decoder:
            found.append(decoder.read_region((0, 0), (136, 72)))
    assert not any(np.array_equal(found[a], found[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    asked = ("encode", tmp_path / "slide.png", "-o", tmp_path / "more.cinr", *shared, "--loss", "perceptual")
    told(run(*asked, "--loss-network", blue), 2, "blue.pt: there is no such file; give a TorchScript file")
    told(run(*asked), 2, "--loss perceptual is by a network's features, and there is no --loss-network; give one")


def test_it_goes_on_with_the_same_network_only(tmp_path: Path) -> None:
    """Stopped in its second tile, an encoding goes on with a copy of the network to the same bytes; no other does."""

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.stage == "tiles" and progress.done > 0.6 * progress.total:
            raise Stop

    def options(name: str) -> EncodeOptions:
        shared = {"bpp": 2.0, "tile_px": 72, "passes": 3, "device": "cpu", "loss": "perceptual"}
        return EncodeOptions("siren", loss_network=tmp_path / name, **shared)

    saved(Sum(), tmp_path / "net.pt")
    (tmp_path / "copy.pt").write_bytes((tmp_path / "net.pt").read_bytes())
    saved(Sum(nn.Tanh()), tmp_path / "other.pt")
    out = tmp_path / "slide.cinr"
    with open_source(picture_px()) as source:
        encode(source, tmp_path / "whole.cinr", options("net.pt"))
        with pytest.raises(Stop):
            encode(source, out, options("net.pt"), progress=stop)
        with pytest.raises(
            UsageError, match=r"was begun with (--loss-network [0-9a-f]{64}), now it is with (?!\1)--loss-network "
        ):
            encode(source, out, options("other.pt"), resume=True)
        encode(source, out, options("copy.pt"), resume=True)
    assert out.read_bytes() == (tmp_path / "whole.cinr").read_bytes()
