"""Each model against its paper's formula: counts, start, a value by hand, gradients; and its whole numbers."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch

from inrwsi.config import ConfigError, from_dict, to_dict
from inrwsi.errors import UsageError
from inrwsi.fields.coordinates import (
    CoordinateConfig,
    FourierFeatures,
    Identity,
    frequencies,
    positions,
    split_mix,
)
from inrwsi.fields.field import Span, decode_block
from inrwsi.fields.models import config_class, model_names
from inrwsi.fields.networks import INPUT, FieldNet, run_layers
from inrwsi.fields.tables import TableConfig
from inrwsi.fit.whole import frozen, measure_activations, quantise
from inrwsi.tiles import pack_payload, unpack_payload

CPU = torch.device("cpu")
OWN = tuple(n for n in model_names() if issubclass(config_class(n), CoordinateConfig))
TABLES = tuple(n for n in model_names() if issubclass(config_class(n), TableConfig))


def config_of(name: str, bpp: float = 6.0, tile_px: int = 64) -> Any:
    return config_class(name).for_bpp(bpp, tile_px, 3, 8)


def net_of(name: str, *, seed: int = 0, **keys: Any) -> FieldNet:
    config = dataclasses.replace(config_of(name, 16.0, 128), **keys)
    return FieldNet(config.layers(), torch.Generator().manual_seed(seed)).double()


def grid_of(side: int) -> torch.Tensor:
    """(1, 2, side, side) positions in [-1, 1]."""
    line = positions(side, Span(0, side))
    return (Identity()(line, line, CPU) * Identity.unit).double()


# ---- formulas


def test_every_model_is_one_of_two_kinds() -> None:
    assert OWN == ("conv-inr", "fourier", "inif", "siren")
    assert TABLES == ("cinr", "engp", "ngp")


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("ngp", 24 * 128 + 3 * 128**2 + 128 * 3),
        ("engp", 24 * 256 + 7 * 256**2 + 256 * 3),
        ("siren", 2 * 20 + 3 * 20**2 + 20 * 3),
        ("inif", 2 * 20 + 3 * 20**2 + 20 * 3),
        ("conv-inr", 9 * (2 * 20 + 2 * 20**2 + 20 * 3)),
        ("fourier", 512 * 20 + 2 * 20**2 + 20 * 3),
    ],
)
def test_counts(name: str, weights: int) -> None:
    """Weights of the presets: the papers' numbers of layers; widths of networks a tile are chosen by the target."""
    config = config_of(name, 16.0, 128)
    if name in OWN:
        config = dataclasses.replace(config, width=20)
    net = FieldNet(config.layers())
    assert net.macs_per_pixel() == weights
    biases = sum(p.numel() for n, p in net.named_parameters() if n.endswith("bias"))
    assert biases == (sum(layer.outputs for layer in config.layers()) if name in OWN else 0)


@pytest.mark.parametrize("name", OWN)
def test_a_value_by_hand(name: str) -> None:
    """One pixel, by numpy, from the formula of the paper."""
    net = net_of(name, width=8, **({"frequencies": 5} if name == "fourier" else {}))
    state = {k: v.numpy() for k, v in net.state_dict().items()}
    features = FourierFeatures(5, 10.0, 0)
    x = grid_of(9) if name != "fourier" else torch.rand(1, features.outputs, 9, 9, dtype=torch.float64)
    out = net(x)[0, :, 0, 0].detach().numpy()
    halo = net.halo_px
    assert halo == (4 if name == "conv-inr" else 0)

    def value(index: int, y: int, x_: int) -> np.ndarray:
        """What layer `index` gives at a place of the input's grid."""
        if index < 0:
            return x[0, :, y, x_].numpy()
        layer = net.layers[index]
        weight, bias = state[f"{layer.name}.weight"], state[f"{layer.name}.bias"]
        r = layer.kernel_px // 2
        total = bias.copy()
        for dy in range(-r, r + 1):
            for dx in range(-r, r + 1):
                total += weight[:, :, dy + r, dx + r] @ value(index - 1, y + dy, x_ + dx)
        if layer is net.layers[-1]:
            return total
        if name == "fourier":
            return np.maximum(total, 0)
        return np.cos(30 * total) if name == "inif" else np.sin(30 * total)

    assert np.allclose(out, value(len(net.layers) - 1, halo, halo), rtol=1e-9, atol=1e-12)


def test_siren_starts_as_its_theorem_says() -> None:
    """Sitzmann et al. 2020, theorem 1.8: through any depth, inputs of sines are normal with unit variance, and their
    outputs have the arcsine distribution, of variance 1/2, for positions drawn evenly from [-1, 1]."""
    net = net_of("siren", width=256, hidden=5, omega=30.0)
    assert 0.49 < net.get_submodule("sine.0").weight.abs().max() <= 0.5
    bound = math.sqrt(6 / 256) / 30
    assert 0.99 * bound < net.get_submodule("sine.3").weight.abs().max() <= bound * (1 + 1e-6)
    xy = torch.rand(1, 2, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def step(layer: Any, x: torch.Tensor) -> torch.Tensor:
        weight = net.get_submodule(layer.name).weight
        out = net.run_layer(layer, x, 1)
        seen[layer.name] = (layer.omega * torch.einsum("bihw,oi->bohw", x, weight[..., 0, 0]), out)
        return out

    run_layers(net.layers, xy, step)
    for i in range(1, 6):
        phase, out = (t.detach() for t in seen[f"sine.{i}"])
        assert 0.85 < phase.var().item() < 1.15, i
        share = (phase.abs() < 1).double().mean().item()
        assert abs(share - 0.683) < 0.04, i  # of a normal distribution within one deviation
        assert abs(out.var().item() - 0.5) < 0.02, i
        # P(|sin| < 1/2) = 1/3 in the arcsine distribution
        assert abs((out.abs() < 0.5).double().mean().item() - 1 / 3) < 0.02, i


def test_inif_learns_its_frequencies() -> None:
    """One a channel, which starts at omega and gets a gradient; SIREN has none. Multipliers hold what they become."""
    net = net_of("inif", width=6, hidden=1)
    omega = net.get_submodule("sine.1").omega
    assert torch.equal(omega, torch.full((6,), 30.0, dtype=torch.float64))
    x = grid_of(4)
    net(x).sum().backward()
    assert omega.grad.abs().min() > 0
    siren = net_of("siren", width=6, hidden=1)
    assert not any(n.endswith("omega") for n, _ in siren.named_parameters())
    config, tensors = rounded("inif")
    real = FieldNet(config.layers(), torch.Generator().manual_seed(5))
    with torch.no_grad():
        real.get_submodule("sine.1").omega[0] = 60.0
    doubled = frozen(config, quantise(real, config, config.encoding.unit, {}))
    ratio = doubled["sine.1.multiplier"] / tensors["sine.1.multiplier"]
    assert ratio[0] == pytest.approx(2, rel=1e-6)
    assert np.array_equal(ratio[1:], np.ones(config.width - 1, np.float32))


def test_gaussian_frequencies_are_integers_from_the_seed() -> None:
    """Tancik et al. 2020, section 6: B is normal with deviation sigma. SplitMix64's published numbers; a golden row."""
    assert split_mix(1234567, 2) == [6457827717110365317, 3203168211198807973]
    features = FourierFeatures(256, 10.0, 7)
    drawn = frequencies(features)
    assert drawn.dtype == np.int64
    assert drawn.shape == (256, 2)
    many = np.stack([frequencies(FourierFeatures(256, 10.0, seed)) for seed in range(16)]) / 256
    assert abs(many.std() - 10) < 0.25
    assert abs(many.mean()) < 0.4
    assert abs((np.abs(many) < 10).mean() - 0.683) < 0.02
    assert not np.array_equal(frequencies(FourierFeatures(256, 10.0, 8)), drawn)
    assert drawn[:2].tolist() == GOLDEN_FREQUENCIES


def test_fourier_features_are_those_of_the_formula() -> None:
    """cos(2 pi B v) and sin(2 pi B v) at pixel centres v in [0, 1], within the steps of the table and the rounding."""
    features = FourierFeatures(6, 10.0, 3)
    line = positions(32, Span(0, 32))
    x = features(line, line, CPU)[0].numpy() * features.unit
    v = (np.arange(32) + 0.5) / 32
    b = frequencies(features) / 256
    turns = 2 * np.pi * (b[:, 0, None, None] * v[None, None, :] + b[:, 1, None, None] * v[None, :, None])
    assert np.abs(x[:6] - np.cos(turns)).max() < 0.006
    assert np.abs(x[6:] - np.sin(turns)).max() < 0.006


def test_positions_span_a_tile_and_do_not_depend_on_the_region() -> None:
    whole = positions(100, Span(0, 100))
    assert (whole[0], whole[-1]) == (2**16 // 200, 2**16 * 199 // 200)
    assert np.array_equal(positions(100, Span(30, 20)), whole[30:50])
    assert np.array_equal(positions(100, Span(0, 300, finer=3))[1::3], whole)
    assert np.array_equal(positions(100, Span(3, 9, stride=11)), whole[3::11])
    assert (positions(100, Span(-2, 2)) < 0).all()


@pytest.mark.parametrize("name", [*OWN, "ngp"])
def test_gradients(name: str) -> None:
    """Of every weight, bias and frequency, against differences, in float64."""
    keys: dict[str, Any] = {"width": 4, "hidden": 2}
    if name == "fourier":
        keys["frequencies"] = 2
    net = net_of(name, **keys)
    inputs = next(layer.inputs for layer in net.layers if layer.after == (INPUT,))
    side = 2 + 2 * net.halo_px
    x = torch.rand(1, inputs, side, side, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 0.5
    names = [n for n, _ in net.named_parameters()]

    def outputs(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(net, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(outputs, tuple(p.detach().requires_grad_() for p in net.parameters()), eps=1e-7)


# ---- whole numbers


def rounded(name: str) -> tuple[CoordinateConfig, dict[str, np.ndarray]]:
    """The numbers of a network as it starts, rounded, with ranges measured on the tile."""
    config = config_of(name, 8.0)
    net = FieldNet(config.layers(), torch.Generator().manual_seed(5))
    spans = positions(64, Span(0, 64).widened(config.halo_px))
    scales = measure_activations(net, [config.encoding(spans, spans, CPU) * config.encoding.unit])
    return config, frozen(config, quantise(net, config, config.encoding.unit, scales))


@pytest.mark.parametrize("name", OWN)
def test_decoding_a_network_a_tile_is_integer_arithmetic(name: str) -> None:
    """By the words of SPEC.md, Annex C, in int64."""
    config, tensors = rounded(name)
    tile = config.tile_from(None, tensors, CPU)
    got = decode_block(config, tile, 64, (10, 20), (9, 7))
    rows = positions(64, Span(20, 7).widened(config.halo_px))
    columns = positions(64, Span(10, 9).widened(config.halo_px))
    x = config.encoding(rows, columns, CPU)[0].numpy().astype(np.int64)
    for layer in config.layers():
        weight = tensors[f"{layer.name}.weight"].astype(np.int64)
        k = layer.kernel_px
        h, w = x.shape[1] - k + 1, x.shape[2] - k + 1
        total = np.zeros((layer.outputs, h, w), np.int64)
        for dy in range(k):
            for dx in range(k):
                total += np.einsum("oi,ihw->ohw", weight[:, :, dy, dx], x[:, dy : dy + h, dx : dx + w])
        scaled = total.astype(np.float32) * tensors[f"{layer.name}.multiplier"][:, None, None]
        v = np.rint(scaled).astype(np.int64) + tensors[f"{layer.name}.bias"][:, None, None]
        if layer.name == "last":
            x = np.clip(v + 128, 0, 255)
        elif name == "fourier":
            x = np.clip(v, 0, 255)
        else:
            turn = (v + (1024 if name == "inif" else 0)) % 4096
            x = np.rint(127 * np.sin(2 * np.pi * turn / 4096)).astype(np.int64)
    assert got.std() > 2
    assert np.array_equal(got, x.transpose(1, 2, 0))


@pytest.mark.parametrize("name", OWN)
def test_a_rounded_network_is_nearly_the_real_one(name: str) -> None:
    """The network as it starts, before any fit to the rounding: within two grey levels, and no bias lost."""
    config = config_of(name, 8.0)
    net = FieldNet(config.layers(), torch.Generator().manual_seed(5))
    _, tensors = rounded(name)
    spans = positions(64, Span(0, 64).widened(config.halo_px))
    real = net(config.encoding(spans, spans, CPU) * config.encoding.unit)[0].detach() * 127.5 + 128
    got = decode_block(config, config.tile_from(None, tensors, CPU), 64, (0, 0), (64, 64))
    error = np.abs(got - np.clip(real.permute(1, 2, 0).numpy(), 0, 255))
    assert error.mean() < 2.0
    assert real.std() > 3


@pytest.mark.parametrize("name", OWN)
def test_hostile_numbers_give_pixels(name: str) -> None:
    """Whatever a payload says that keeps the spec, there is a picture and no error."""
    config, tensors = rounded(name)
    for layer in config.layers():
        tensors[f"{layer.name}.multiplier"][:] = np.float32(3e38)
        tensors[f"{layer.name}.bias"][:] = -32768
        tensors[f"{layer.name}.weight"][:] = np.iinfo(tensors[f"{layer.name}.weight"].dtype).min
    pixels = decode_block(config, config.tile_from(None, tensors, CPU), 64, (0, 0), (8, 8), 2)
    assert pixels.shape == (16, 16, 3)


@pytest.mark.parametrize("name", OWN)
def test_payloads_are_exactly_those_of_the_config(name: str) -> None:
    config, tensors = rounded(name)
    payload = pack_payload(config, tensors)
    back = unpack_payload(config, payload)
    assert {n: a.tolist() for n, a in back.items()} == {n: a.tolist() for n, a in tensors.items()}
    assert config.estimated_bytes() == pytest.approx(len(payload), rel=0.12)
    with pytest.raises(ValueError, match=r"its content is \d+ bytes, should be \d+"):
        unpack_payload(dataclasses.replace(config, width=config.width + 1), payload)
    with pytest.raises(ValueError, match="not zstd"):
        unpack_payload(config, payload[:-1])
    tensors["last.multiplier"][0] = np.inf
    with pytest.raises(ValueError, match=r"last\.multiplier holds a value that is not finite"):
        unpack_payload(config, pack_payload(config, tensors))


@pytest.mark.parametrize("name", model_names())
def test_configs_are_strict(name: str) -> None:
    config = config_of(name)
    assert from_dict(type(config), to_dict(config)) == config
    for key in to_dict(config):
        if key != "name":
            with pytest.raises(ConfigError, match=f"{key} is missing"):
                from_dict(type(config), {k: v for k, v in to_dict(config).items() if k != key})
        with pytest.raises(ConfigError, match=key):
            from_dict(type(config), {**to_dict(config), key: "other"})
    with pytest.raises(ConfigError, match="width"):
        from_dict(type(config), {**to_dict(config), "width": 100_000})


def test_a_target_chooses_the_width_and_what_cannot_be_is_said() -> None:
    siren = config_class("siren")
    widths = [siren.for_bpp(bpp, 128, 3, 8).width for bpp in (0.5, 1.0, 2.0, 4.0)]
    assert widths == sorted(set(widths))
    for name in OWN:
        config = config_of(name, 8.0, 256)
        assert 1.0 <= 8 * config.estimated_bytes() / 256**2 / 8.0 < 1.1
    with pytest.raises(
        UsageError,
        match=r"model fourier in tiles of 64 pixels takes 4\.1 bits a pixel at least, and the target leaves 0",
    ):
        config_class("fourier").for_bpp(0.1, 64, 3, 8)


GOLDEN_FREQUENCIES = [[-1721, -630], [749, -687]]
