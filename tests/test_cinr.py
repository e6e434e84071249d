"""The paper's model on whole numbers: exact, the same in any company, and what the fit believed it to be."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
import torch

from inrwsi.coding import tensors
from inrwsi.config import ConfigError, from_dict, to_dict
from inrwsi.fields.activations import sample_table, sine_table
from inrwsi.fields.field import Tile, decode_block, forward
from inrwsi.fields.grid import plan_axis
from inrwsi.fields.models.cinr import CinrConfig
from inrwsi.fields.tables import features, tile_positions

CONFIG = CinrConfig(
    levels=4, features=2, log2_table=9, base_resolution=4, per_level_scale=2.0, width=8, channels=3, table_bits=6,
    weight_bits=8,
)  # fmt: skip
CPU = torch.device("cpu")


def random_weights(config: CinrConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of the file's shapes, whose sines turn a few times and whose other layers use their range."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, (shape, dtype) in config.slide_tensors().items():
        if name.endswith(".weight"):
            most = np.iinfo(dtype).max
            weights[name] = rng.integers(-most, most + 1, shape).astype(dtype)
    for layer in config.layers():
        spread = math.sqrt(math.prod(layer.shape[1:])) * config.weight_max(layer) * 40
        target = 500.0 if layer.activation.name == "sine" else 60.0
        weights[f"{layer.name}.multiplier"] = (rng.uniform(0.5, 1.5, layer.outputs) * target / spread).astype(
            np.float32
        )
    weights["table.gain"] = np.full(config.levels, 127 / config.table_max, np.float32)
    return weights


def random_table(config: CinrConfig, seed: int = 1) -> torch.Tensor:
    shape = (config.grid.entry_count, config.features)
    return torch.from_numpy(
        np.random.default_rng(seed).integers(-config.table_max, config.table_max + 1, shape)
    ).float()


def tile_of(config: CinrConfig, weights: dict[str, np.ndarray], table: torch.Tensor) -> Tile:
    shared = config.slide_from(weights, CPU)
    return Tile(shared.numbers, table, shared.gain)


def test_config_is_strict() -> None:
    assert from_dict(CinrConfig, to_dict(CONFIG)) == CONFIG
    for key, value in (("width", 257), ("table_bits", 7), ("levels", 33), ("name", "other"), ("width", 8.0)):
        with pytest.raises(ConfigError, match=key):
            from_dict(CinrConfig, {**to_dict(CONFIG), key: value})
    with pytest.raises(ConfigError, match="table values"):
        from_dict(
            CinrConfig, {**to_dict(CONFIG), "log2_table": 28, "levels": 14, "per_level_scale": 2.0, "features": 8}
        )


def _numpy_forward(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The network in int64 and by the words of SPEC.md, Annex A: (inputs, h, w) to (channels, h - 10, w - 10)."""

    def convolve(name: str, x: np.ndarray) -> np.ndarray:
        weight = weights[f"{name}.weight"].astype(np.int64)
        k = weight.shape[2]
        h, w = x.shape[1] - k + 1, x.shape[2] - k + 1
        total = np.zeros((weight.shape[0], h, w), np.int64)
        for dy in range(k):
            for dx in range(k):
                total += np.einsum("oi,ihw->ohw", weight[:, :, dy, dx], x[:, dy : dy + h, dx : dx + w])
        return total

    def layer(name: str, x: np.ndarray) -> np.ndarray:
        total = convolve(name, x).astype(np.float32) * weights[f"{name}.multiplier"][:, None, None]
        whole = np.rint(total).astype(np.int64)
        if name == "last":
            return np.floor(127.5 * (1 + np.sin(2 * np.pi * (whole % 4096) / 4096)) + 0.5 + 1e-9).astype(np.int64)
        if name.startswith("cnn"):
            return np.rint(127 * np.sin(2 * np.pi * (whole % 4096) / 4096)).astype(np.int64)
        return np.clip(whole, 0, 255) if name[-1] in "01" else np.clip(whole, -127, 127)

    flow = layer("mlp1.2", layer("mlp1.1", layer("mlp1.0", x[:, 2:-2, 2:-2])))
    waves = layer("cnn1.1", layer("cnn1.0", x))
    waves = layer("cnn2.1", layer("cnn2.0", np.concatenate([waves, flow])))
    flow = layer("mlp2.2", layer("mlp2.1", layer("mlp2.0", flow[:, 2:-2, 2:-2])))
    return layer("last", np.concatenate([waves, flow]))


@pytest.mark.parametrize("bits", [8, 16])
def test_decoding_is_integer_arithmetic(bits: int) -> None:
    """fp32 (8-bit weights) and fp64 (16-bit) convolutions give what int64 gives, to the last pixel."""
    config = CinrConfig(**{**to_dict(CONFIG), "weight_bits": bits})
    weights, table = random_weights(config), random_table(config)
    tile = tile_of(config, weights, table)
    assert {n.weight.dtype for n in tile.numbers.values()} >= {torch.float32 if bits == 8 else torch.float64}
    axis = plan_axis(config.grid, tile_positions(64, 10 - 5, 20 + 10))
    x = features(table, config, tile.gain, [axis], [axis])
    assert x.abs().max() > 60
    want = _numpy_forward(weights, x[0].numpy().astype(np.int64)).transpose(1, 2, 0)
    got = decode_block(config, tile, 64, (10, 10), (20, 20))
    assert got.dtype == np.uint8
    assert got.std() > 40
    assert np.array_equal(got, want)


def test_a_pixel_is_the_same_in_any_block_and_thread_count() -> None:
    tile = tile_of(CONFIG, random_weights(CONFIG), random_table(CONFIG))
    whole = decode_block(CONFIG, tile, 64, (0, 0), (64, 64))
    for x, y, w, h in ((0, 0, 64, 1), (13, 7, 30, 41), (63, 63, 1, 1)):
        assert np.array_equal(decode_block(CONFIG, tile, 64, (x, y), (w, h)), whole[y : y + h, x : x + w])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert np.array_equal(decode_block(CONFIG, tile, 64, (0, 0), (64, 64)), whole)
    finally:
        torch.set_num_threads(threads)


def test_golden_pixels() -> None:
    """Holds the arithmetic for the future: the hash is of pixels that a released decoder has shown."""
    pixels = decode_block(CONFIG, tile_of(CONFIG, random_weights(CONFIG), random_table(CONFIG)), 64, (0, 0), (64, 64))
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == GOLDEN_BLOCK
    tables = (
        sine_table("cpu").numpy().astype(np.int8).tobytes() + sample_table("cpu").numpy().astype(np.uint8).tobytes()
    )
    assert hashlib.sha256(tables).hexdigest() == GOLDEN_TABLES


def test_between_the_pixels() -> None:
    """Three samples a pixel: the middle ones are the pixels themselves, and the others lie between neighbours."""
    tile = tile_of(CONFIG, random_weights(CONFIG), random_table(CONFIG))
    fine = decode_block(CONFIG, tile, 64, (20, 20), (8, 6), finer=3)
    native = decode_block(CONFIG, tile, 64, (20, 20), (8, 6))
    assert fine.shape == (18, 24, 3)
    assert np.array_equal(fine[1::3, 1::3], native)
    assert not np.array_equal(fine[0::3, 0::3], native)


def test_the_fit_sees_what_is_decoded() -> None:
    """The differentiable forward of the fit and the exact one differ by the sine table's steps only."""
    tile = tile_of(CONFIG, random_weights(CONFIG), random_table(CONFIG))
    axis = plan_axis(CONFIG.grid, tile_positions(64, -5, 74))
    x = features(tile.table, CONFIG, tile.gain, [axis], [axis], exact=False)
    soft = forward(CONFIG.layers(), tile.numbers, x, exact=False)[0].permute(1, 2, 0).numpy()
    hard = decode_block(CONFIG, tile, 64, (0, 0), (64, 64))
    assert np.abs(soft - hard).mean() < 1.0
    assert np.percentile(np.abs(soft - hard), 90) < 2.5


def test_hostile_multipliers_stay_in_the_table() -> None:
    weights = random_weights(CONFIG)
    for layer in CONFIG.layers():
        weights[f"{layer.name}.multiplier"][:] = 3e38
    pixels = decode_block(CONFIG, tile_of(CONFIG, weights, random_table(CONFIG)), 64, (0, 0), (16, 16))
    assert pixels.shape == (16, 16, 3)


def test_tensors_are_exactly_those_expected() -> None:
    raw = tensors.pack(random_weights(CONFIG))
    expected = CONFIG.slide_tensors()
    assert set(tensors.unpack(raw, expected)) == set(expected)
    with pytest.raises(ValueError, match="not safetensors"):
        tensors.unpack(raw[:-1], expected)
    with pytest.raises(ValueError, match="missing or not one"):
        tensors.unpack(raw, {**expected, "more": ((1,), "int8")})
    with pytest.raises(ValueError, match=r"should be int16"):
        tensors.unpack(raw, {**expected, "last.weight": ((3, 16, 3, 3), "int16")})
    bad = random_weights(CONFIG)
    bad["table.gain"][1] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        tensors.unpack(tensors.pack(bad), expected)


def test_a_frame_says_its_size_and_keeps_to_it() -> None:
    frame = tensors.squeeze(bytes(100_000))
    assert len(frame) < 50
    assert tensors.unsqueeze(frame, 100_000) == bytes(100_000)
    with pytest.raises(ValueError, match="at most 99999"):
        tensors.unsqueeze(frame, 99_999)
    for bad in (frame[:-1], frame + b"\0", b"", b"not zstd at all", frame + frame):
        with pytest.raises(ValueError, match="not zstd"):
            tensors.unsqueeze(bad, 1 << 20)


GOLDEN_BLOCK = "a1af0eccbeb53d93e2a171a3aa79131747bb7fa133841d3d869e79736472cf8b"
GOLDEN_TABLES = "b29c0c7d1b3715fe4911ac3ca459b760cefa4fc6703d5bd63a9e57d4143c6efc"
