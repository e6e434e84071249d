"""Base layers: a classic codec's picture of each tile, and the field that says what it lacks."""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from inrwsi.coding import base_layer
from inrwsi.config import ConfigError, from_dict, to_dict
from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.errors import CorruptFile, UsageError
from inrwsi.fields.models import config_class
from inrwsi.formats.source import open_source
from inrwsi.formats.writer import ContainerWriter
from inrwsi.metrics import psnr
from inrwsi.options import EncodeOptions
from inrwsi.tiles import join_payload, split_payload
from tests.test_model_files import picture_px

SHAPE = (72, 64, 3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("kind", "least_db"), [("jpeg", 28), ("jpegxl", 27), ("jpeg2000", 29)])
def test_codecs(kind: str, least_db: float, channels: int) -> None:
    pixels = picture_px()[:, :64, :channels]
    data = base_layer.encode(kind, pixels, 30)
    base = base_layer.decode(kind, data, pixels.shape)
    assert base.shape == pixels.shape
    assert len(data) < pixels.size / 4
    assert least_db < psnr(pixels, base) < 36
    assert np.array_equal(base_layer.corrected(base, base_layer.residual(pixels, base)), pixels)
    (version,) = base_layer.software(kind).values()
    assert version[0].isdigit()
    for bad in (data[:40], b"", b"\xff\xd8" + bytes(60)):
        with pytest.raises(ValueError, match=f"the {kind} base layer does not decode"):
            base_layer.decode(kind, bad, pixels.shape)
    with pytest.raises(ValueError, match="does not decode"):
        base_layer.decode(kind, data, (72, 60, channels))


def test_residuals_saturate() -> None:
    pixels, base = np.array([[[0, 200, 255]]], np.uint8), np.array([[[255, 190, 0]]], np.uint8)
    field = base_layer.residual(pixels, base)
    assert field.tolist() == [[[0, 138, 255]]]
    assert base_layer.corrected(base, field).tolist() == [[[127, 200, 127]]]


@pytest.mark.parametrize("finer", [1, 2, 3, 4])
def test_between_the_pixels_the_base_is_linear(finer: int) -> None:
    """Against the formula in floats; a block is what the whole has there; past the outer centres nothing changes."""
    base = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    whole = base_layer.between(base, (0, 0), (5, 7), finer)
    assert whole.shape == (7 * finer, 5 * finer, 3)
    rows, columns = (((np.arange(n * finer) + 0.5) / finer - 0.5).clip(0, n - 1) for n in (7, 5))
    y, x = (np.floor(at).astype(int).clip(0, n - 2) for at, n in ((rows, 7), (columns, 5)))
    v, u = (rows - y)[:, None, None], (columns - x)[:, None]
    above, below = (base[i][:, x] * (1 - u) + base[i][:, x + 1] * u for i in (y, y + 1))
    assert np.array_equal(whole, np.floor(above * (1 - v) + below * v + 0.5 + 1e-9))
    block = base_layer.between(base, (1, 2), (3, 4), finer)
    assert np.array_equal(block, whole[2 * finer : 6 * finer, finer : 4 * finer])


def test_the_key_is_none_of_older_files() -> None:
    config = config_class("siren").for_bpp(4, 72, 3, 8)
    assert "base_layer" not in to_dict(config)
    held = from_dict(type(config), {**to_dict(config), "base_layer": "jpeg"})
    assert held.base_layer == "jpeg"
    with pytest.raises(ConfigError, match="base_layer"):
        from_dict(type(config), {**to_dict(config), "base_layer": "gif"})
    assert split_payload(config, b"field") == (b"", b"field")
    assert split_payload(held, join_payload(b"base", b"field")) == (b"base", b"field")
    for bad in (b"", b"\1\0\0", struct.pack("<I", 0) + b"field", struct.pack("<I", 5) + b"field"):
        with pytest.raises(ValueError, match="its base layer has"):
            split_payload(held, bad)


def test_a_quality_is_of_a_prior() -> None:
    with pytest.raises(UsageError, match="--prior-quality is 40, and there is no --prior"):
        EncodeOptions("siren", prior_quality=40)
    assert EncodeOptions("siren", prior="jpeg").field(tile_px=64, passes=1).prior_quality == 30


# Of each a model, a target in bytes and passes, and by how much the field has to better the base layer alone, in dB.
HYBRIDS = [("jpeg", "siren", 6000, 40, 1.0), ("jpegxl", "conv-inr", 6000, 20, 0.3), ("jpeg2000", "ngp", 63000, 4, 0.5)]


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(("kind", "name", "size_bytes", "passes", "gain_db"), HYBRIDS)
def test_the_field_betters_the_base(
    kind: str, name: str, size_bytes: int, passes: int, gain_db: float, tmp_path: Path
) -> None:
    pixels, out = picture_px(), tmp_path / "slide.cinr"
    options = EncodeOptions(name, size_bytes=size_bytes, tile_px=72, passes=passes, prior=kind, device="cpu")
    with open_source(pixels) as source:
        encode(source, out, options)
    assert out.stat().st_size == pytest.approx(size_bytes, rel=0.02)
    alone = np.concatenate(
        [
            base_layer.decode(kind, base_layer.encode(kind, part, 30), part.shape)
            for part in (pixels[:, :72], pixels[:, 72:])
        ],
        axis=1,
    )
    with Decoder(out, device="cpu") as decoder:
        header = decoder.header
        assert header.model["base_layer"] == kind
        assert header.software.items() >= base_layer.software(kind).items()
        whole = decoder.read_region((0, 0), (136, 72))
        thrice = decoder.read_region((50, 30), (40, 20), step=1 / 3)
        payloads = [decoder.container.chunk(0, (i, 0)).payload for i in (0, 1)]
    assert psnr(pixels, whole) > psnr(pixels, alone) + gain_db
    assert np.array_equal(thrice[1::3, 1::3], whole[30:50, 50:90])
    with Decoder(out, device="cpu") as decoder:
        weights = decoder.container.weights()
    config = from_dict(config_class(name), header.model)
    base, field = split_payload(config, payloads[1])
    with ContainerWriter(tmp_path / "bad.cinr", header, weights=weights) as writer:
        writer.put_chunk(0, (0, 0), payloads[0])
        writer.put_chunk(0, (1, 0), join_payload(base[:30], field))
        writer.finish()
    with Decoder(tmp_path / "bad.cinr", device="cpu") as decoder:
        assert np.array_equal(decoder.read_region((0, 0), (72, 72)), whole[:, :72])
        with pytest.raises(CorruptFile, match=f"column 1, row 0: the {kind} base layer does not decode"):
            decoder.read_region((0, 0), (73, 72))


def test_a_prior_that_fills_the_target_is_said(tmp_path: Path) -> None:
    options = EncodeOptions("siren", size_bytes=1500, tile_px=72, prior="jpeg", prior_quality=90, device="cpu")
    with open_source(picture_px()) as source, pytest.raises(UsageError, match="--size 1,500 cannot be reached"):
        encode(source, tmp_path / "slide.cinr", options)


def test_a_size_that_is_claimed_is_not_allocated() -> None:
    """OpenJPEG takes 12 bytes a pixel of what a codestream says before anyone compares: 30 TB of this one."""
    kind, shape = "jpeg2000", (32, 40, 3)
    data = bytearray(base_layer.encode(kind, np.zeros(shape, np.uint8), 40))
    assert base_layer.decode(kind, bytes(data), shape).shape == shape
    claimed = bytes(data[:8]) + struct.pack(">II", 1_600_000, 1_600_000) + bytes(data[16:])
    for wrong in (claimed, b"", b"\0" * 60, bytes(data[:30])):
        with pytest.raises(ValueError, match=r"does not decode .it is no whole picture of 40 x 32 pixels with 3 comp"):
            base_layer.decode(kind, wrong, shape)


def test_what_libraries_decode_though_it_is_no_base_layer_is_refused() -> None:
    """libjpeg fills up what is cut off with grey, and with a buffer of bytes OpenJPEG takes another depth for eight."""
    pixels = np.ascontiguousarray(picture_px()[:, :64])
    whole = base_layer.encode("jpeg", pixels, 80)
    assert base_layer.decode("jpeg", whole, pixels.shape).shape == pixels.shape
    subsampled = bytes(imagecodecs.jpeg8_encode(pixels, level=80, subsampling="420"))
    deep = bytearray(base_layer.encode("jpeg2000", pixels, 40))
    deep[struct.calcsize(">4sHH4I4IH")] = 3  # four bits, of the first component's
    wrongs = [("jpeg", whole[: len(whole) // 2]), ("jpeg", subsampled), ("jpeg2000", bytes(deep))]
    for kind, wrong in wrongs:
        with pytest.raises(ValueError, match=r"is no whole picture of 64 x .* of 8 bits, none of them subsampled"):
            base_layer.decode(kind, wrong, pixels.shape)
