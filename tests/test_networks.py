"""The dual-flow network: shapes and counts of the reference, its halo, its dilation and its start."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from inrwsi.fields.networks import DualFlowConfig, DualFlowNet, Layer, dual_flow_layers

SMALL = DualFlowConfig(inputs=6, width=8, channels=3)


def _net(config: DualFlowConfig = SMALL, seed: int = 0) -> DualFlowNet:
    return DualFlowNet(config, torch.Generator().manual_seed(seed)).double()


def _features(height: int, width: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, SMALL.inputs, height, width, generator=generator, dtype=torch.float64)


def test_weights_by_part_are_the_references() -> None:
    with torch.device("meta"):
        net = DualFlowNet(DualFlowConfig(48, 128, 3))
    counts = {part: sum(w.numel() for w in weights) for part, weights in net.part_parameters().items()}
    assert counts == {"mlp1": 38_912, "cnn1": 202_752, "mlp2": 49_152, "cnn2": 442_368, "last": 6_912}
    assert net.macs_per_pixel() == sum(counts.values()) == 740_096
    assert list(net.part_parameters()) == ["mlp1", "cnn1", "mlp2", "cnn2", "last"]


def test_state_has_one_weight_a_layer_under_its_name() -> None:
    state = _net().state_dict()
    layers = dual_flow_layers(SMALL)
    assert set(state) == {f"{layer.name}.weight" for layer in layers}
    for layer in layers:
        assert state[f"{layer.name}.weight"].shape == (layer.outputs, layer.inputs, layer.kernel_px, layer.kernel_px)
    sines = [layer.name for layer in layers if layer.activation.name == "sine"]
    assert sines == ["cnn1.0", "cnn1.1", "cnn2.0", "cnn2.1", "last"]
    assert [layer.name for layer in layers if layer.activation.name == "linear"] == ["mlp1.2", "mlp2.2"]


def test_forward_equals_the_formula_with_padded_convolutions() -> None:
    net, x = _net(), _features(15, 17)
    w = {name.removesuffix(".weight"): weight for name, weight in net.state_dict().items()}

    def mlp(part: str, x: torch.Tensor) -> torch.Tensor:
        x = torch.einsum("bihw,oi->bohw", x, w[f"{part}.0"][..., 0, 0]).clamp(min=0)
        x = torch.einsum("bihw,oi->bohw", x, w[f"{part}.1"][..., 0, 0]).clamp(min=0)
        return torch.einsum("bihw,oi->bohw", x, w[f"{part}.2"][..., 0, 0])

    def wave(name: str, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(30 * F.conv2d(x, w[name], padding=1))

    flow = mlp("mlp1", x)
    waves = wave("cnn1.1", wave("cnn1.0", x))
    waves = wave("cnn2.1", wave("cnn2.0", torch.cat((waves, flow), 1)))
    expected = wave("last", torch.cat((waves, mlp("mlp2", flow)), 1))[..., 5:-5, 5:-5]
    out = net(x)
    assert out.shape == (2, 3, 5, 7)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-12)


def test_a_pixel_depends_on_exactly_its_halo() -> None:
    net, x = _net(), _features(21, 21).requires_grad_()
    net(x)[0, :, 5, 5].sum().backward()
    assert x.grad is not None
    reached = x.grad[0].abs().sum(0) > 0
    expected = torch.zeros(21, 21, dtype=torch.bool)
    expected[5:16, 5:16] = True  # pixel (5, 5) of the output is (10, 10) of the input
    assert torch.equal(reached, expected)
    assert net.halo_px == 5


def test_a_pixel_does_not_depend_on_the_rectangle() -> None:
    net, x = _net(), _features(40, 44)
    whole = net(x)
    part = net(x[..., 7 : 7 + 19, 12 : 12 + 25])
    torch.testing.assert_close(part, whole[..., 7 : 7 + 9, 12 : 12 + 15], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("finer", [2, 3])
def test_dilation_reads_the_same_neighbours_on_a_finer_grid(finer: int) -> None:
    net, native = _net(), _features(14, 15)
    fine = _features(14 * finer, 15 * finer, seed=4)
    fine[..., ::finer, ::finer] = native
    torch.testing.assert_close(net(fine, dilation=finer)[..., ::finer, ::finer], net(native), rtol=1e-12, atol=1e-13)
    assert net(fine, dilation=finer).shape[2:] == (4 * finer, 5 * finer)


def test_start_neither_collapses_nor_saturates() -> None:
    phase_rms = {}

    class Watched(DualFlowNet):
        def run_layer(self, layer: Layer, x: torch.Tensor, dilation: int) -> torch.Tensor:
            out = F.conv2d(x, self.get_submodule(layer.name).weight) * layer.omega
            phase_rms[layer.name] = out.square().mean().sqrt().item()
            return super().run_layer(layer, x, dilation)

    net = Watched(DualFlowConfig(48, 128, 3), torch.Generator().manual_seed(3))
    out = net(torch.rand(1, 48, 18, 18, generator=torch.Generator().manual_seed(5)) * 2 - 1)
    assert len(phase_rms) == 11
    for name, rms in phase_rms.items():
        assert 0.1 < rms < 1.5, (name, rms)
    assert out.abs().max() <= 1
    assert out.std() > 0.1


def test_start_is_within_its_bounds_and_fills_them() -> None:
    net = DualFlowNet(DualFlowConfig(48, 64, 3, omega=20.0), torch.Generator().manual_seed(7))
    bounds = {
        "mlp1.0": math.sqrt(6 / 112),
        "mlp2.2": math.sqrt(6 / 128),
        "cnn1.0": 1 / (48 * 9),
        "cnn1.1": math.sqrt(6 / (64 * 9)) / 20,
        "last": math.sqrt(6 / (128 * 9)) / 20,
    }
    for name, bound in bounds.items():
        largest = net.get_submodule(name).weight.abs().max().item()
        assert 0.99 * bound < largest <= bound * (1 + 1e-6), name


def test_the_generator_decides_the_start() -> None:
    first, again, other = _net(seed=1), _net(seed=1), _net(seed=2)
    assert torch.equal(first.last.weight, again.last.weight)
    assert not torch.equal(first.last.weight, other.last.weight)


def test_a_subclass_changes_what_a_layer_does() -> None:
    class Doubled(DualFlowNet):
        def run_layer(self, layer: Layer, x: torch.Tensor, dilation: int) -> torch.Tensor:
            out = super().run_layer(layer, x, dilation)
            return 2 * out if layer.name == "last" else out

    net, x = _net(), _features(12, 12)
    doubled = Doubled(SMALL).double()
    doubled.load_state_dict(net.state_dict())
    assert torch.equal(doubled(x), 2 * net(x))


def test_every_weight_gets_a_gradient() -> None:
    net = _net()
    net(_features(12, 12)).square().sum().backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("shape", "dilation", "message"),
    [
        ((1, 6, 10, 12), 1, r"H and W at least 11"),
        ((1, 6, 40, 20), 2, r"H and W at least 21"),
        ((1, 5, 20, 20), 1, r"\(1, 5, 20, 20\); they must be \(B, 6, H, W\)"),
        ((6, 20, 20), 1, r"\(6, 20, 20\)"),
        ((1, 6, 20, 20), 0, "the dilation is 0"),
    ],
)
def test_wrong_features_are_refused(shape: tuple[int, ...], dilation: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _net()(torch.zeros(shape, dtype=torch.float64), dilation)


@pytest.mark.parametrize(
    "numbers", [(0, 8, 3), (6, 2000, 3), (6, 8, 65), (6.0, 8, 3), (6, 8, 3, 0.0), (6, 8, 3, float("nan")), (6, True, 3)]
)
def test_config_refuses_numbers_out_of_range(numbers: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="it must be"):
        DualFlowConfig(*numbers)  # type: ignore[arg-type]
