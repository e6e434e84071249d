"""Slides of many channels and of 16 bits: through the command line and Python, channel by channel, and what refuses."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import torch

import inrwsi.encode_fields
from inrwsi.compare import compare, worst_tiles_picture
from inrwsi.config import to_dict
from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.encode_common import _preview
from inrwsi.errors import CorruptFile, UsageError
from inrwsi.fields.activations import LINEAR, SINE, SINE_STEPS, range_shares
from inrwsi.fields.models import config_class
from inrwsi.fields.ranges import Extremes, bounds, squared_error, to_levels, zero_sample
from inrwsi.fit import networks
from inrwsi.fit.losses import Loss
from inrwsi.formats.header import GridInfo, Header, SlideInfo
from inrwsi.formats.source import open_source
from inrwsi.formats.writer import ContainerWriter
from inrwsi.metrics import psnr
from inrwsi.options import EncodeOptions
from inrwsi.progress import Progress
from inrwsi.slide import CinrSlide
from tests.cli.conftest import run, told

TOPS = (65535, 4000, 900, 20000, 60000)  # of the channels
WH = (96, 64)
GOLDEN_SHARES = "9980f367d62c9d98c6b1f9ef7f7d4bde67b678c5d3c5c9a74e1bfa0a8164fc59"


def cells_px(tops: tuple[int, ...] = TOPS, wh: tuple[int, int] = WH) -> np.ndarray:
    """(h, w, C) uint16: soft spots on a dim ground, other ones in every channel, from 2 % of its top to all of it."""
    drawn = np.random.default_rng(0)
    y, x = np.mgrid[: wh[1], : wh[0]]
    found = []
    for top in tops:
        spots = [
            b * np.exp(-((x - cx * wh[0]) ** 2 + (y - cy * wh[1]) ** 2) / (2 * r * r))
            for cx, cy, r, b in drawn.uniform((0, 0, 4, 0.4), (1, 1, 10, 1), (14, 4))
        ]
        light = np.sum(spots, axis=0)
        found.append(top * (0.02 + 0.98 * light / light.max()))
    return np.rint(np.stack(found, axis=2)).astype(np.uint16)


def of_range_db(original: np.ndarray, decoded: np.ndarray) -> list[float]:
    """PSNR a channel, of the peak that the channel itself has; of the mean alone it is 11 to 14 dB here."""
    squares = np.square(original.astype(np.float64) - decoded).mean(axis=(0, 1))
    return [float(v) for v in 10 * np.log10(np.ptp(original, axis=(0, 1)).astype(np.float64) ** 2 / squares)]


def encoded(pixels: np.ndarray, out: Path, model: str, bpp: float, passes: int, **options: object) -> Path:
    with open_source(pixels, mpp_um=0.5, objective_power=20) as source:
        settings = EncodeOptions(model, bpp=bpp, passes=passes, tile_px=64, device="cpu", **options)  # type: ignore[arg-type]
        encode(source, out, settings)
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("channels")


@pytest.fixture(scope="module")
def siren(folder: Path) -> Path:
    """`cells_px`, from an OME-TIFF and by the command line."""
    source, out = folder / "cells.ome.tif", folder / "siren.cinr"
    planes = cells_px().transpose(2, 0, 1)
    metadata = {"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    tifffile.imwrite(source, planes, photometric="minisblack", metadata=metadata)
    options = ("--bpp", 8, "--tile-px", 64, "--passes", 80, "--device", "cpu", "-q")
    result = run("encode", source, "-o", out, "--model", "siren", "--objective-power", 20, *options)
    assert (result.exit_code, result.output) == (0, "")
    return out


@pytest.fixture(scope="module")
def cinr(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inrwsi.encode_fields, "NETWORK_STEPS_A_PASS", 20)
        return encoded(cells_px()[:, :64], folder / "cinr.cinr", "cinr", 6, 2)


def test_siren_keeps_five_channels_of_16_bits(siren: Path) -> None:
    """The one that spans 900 of 65535 as well as the others."""
    with Decoder(siren, device="cpu") as decoder:
        decoded, model = decoder.read_region((0, 0), WH), decoder.header.model
    original = cells_px()
    assert (decoded.shape, decoded.dtype) == ((64, 96, 5), np.uint16)
    found = of_range_db(original, decoded)
    assert min(found) > 26.0, found
    assert model["ranges"] == [[int(c.min()), int(c.max())] for c in np.moveaxis(original, 2, 0)]
    assert siren.stat().st_size < original.nbytes / 6


def test_cinr_keeps_five_channels_of_16_bits(cinr: Path) -> None:
    """After a fit of a second or two: 18 to 21 dB. A channel that is left out stays at the 13 dB of its mean."""
    with Decoder(cinr, device="cpu") as decoder:
        decoded = decoder.read_region((0, 0), (64, 64))
        assert (decoder.header.model["features"], decoded.dtype) == (8, np.uint16)
    found = of_range_db(cells_px()[:, :64], decoded)
    assert min(found) > 16.5, found


@pytest.mark.parametrize("name", ["siren", "cinr"])
def test_pixels_are_the_same_however_they_are_asked_for(name: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(name)
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            with Decoder(path, device="cpu") as decoder:
                wh = decoder.header.slide.l0_wh
                whole = decoder.read_region((0, 0), wh)
                parts = np.concatenate(list(decoder.strips((0, 0), wh, strip_rows=23)))
                part = decoder.read_region((33, 21), (29, 40))
                half = decoder.read_region((0, 0), wh, step=2.0)
                thrice = decoder.read_region((33, 21), (20, 10), step=1 / 3)
            found.append(hashlib.sha256(whole.tobytes() + half.tobytes() + thrice.tobytes()).hexdigest())
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]
    assert np.array_equal(parts, whole)
    assert np.array_equal(part, whole[21:61, 33:62])
    assert np.array_equal(thrice[1::3, 1::3], whole[21:31, 33:53])
    four = whole.reshape(wh[1] // 2, 2, wh[0] // 2, 2, 5).astype(np.int64).sum(axis=(1, 3))
    assert np.array_equal(half, (four + 2) // 4)


def test_decode_writes_what_python_gives(siren: Path, tmp_path: Path) -> None:
    region = ("--region", "30,10,50,40", "--device", "cpu", "-q")
    with Decoder(siren, device="cpu") as decoder:
        part, low = (decoder.read_region((30, 10), (50, 40), step=step) for step in (1.0, 2.0))
    assert run("decode", siren, "-o", tmp_path / "part.tif", *region).exit_code == 0
    assert run("decode", siren, "-o", tmp_path / "low.tif", "--mag", 10, *region).exit_code == 0
    assert np.array_equal(tifffile.imread(tmp_path / "part.tif"), part)
    with open_source(tmp_path / "low.tif") as source:
        assert (source.channels, source.bit_depth, source.mpp_um) == (5, 16, pytest.approx((1.0, 1.0)))
        assert np.array_equal(source.read((0, 0), (25, 20)), low)
    for name, sentence in (("a.png", "a .png file cannot hold 5 channels of 16 bits"), ("a.jpg", "a .jpg file cannot")):
        told(run("decode", siren, "-o", tmp_path / name, *region), 2, sentence)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["low.tif", "part.tif"]


def test_info_and_verify(siren: Path, folder: Path) -> None:
    with Decoder(siren, device="cpu") as decoder:
        decoded = decoder.read_region((0, 0), WH)
    shown = run("info", siren).stdout
    assert "96 x 64 pixels, 5 channels of 16 bits" in shown
    ranges = " ".join(f"{c.min()} {c.max()}" for c in np.moveaxis(cells_px(), 2, 0))
    assert re.search(rf"ranges +{ranges}\n", shown)
    error = np.square(cells_px().astype(np.float64) - decoded).mean()
    result = run("verify", siren, "--against", folder / "cells.ome.tif", "--device", "cpu", "-q")
    assert f"PSNR {10 * np.log10(65535**2 / error):.2f} dB" in result.stdout
    report = compare(siren, cells_px(), worst=1, device="cpu")
    shown_px = np.asarray(worst_tiles_picture(report.worst))
    assert shown_px[18:82, 4:100].max() > 80  # the mean of five channels, each as bright as it can be shown
    assert 2 < np.abs(shown_px[18:82, 524:620].astype(int) - 128).mean() < 30  # their difference


def test_what_knows_only_pictures_refuses(siren: Path, tmp_path: Path) -> None:
    has = r"has 5 channels of 16 bits"
    with pytest.raises(UsageError, match=rf"{has}, and a CinrSlide shows 1 or 3 of 8 bits"):
        CinrSlide(siren)
    for name in ("a.tif", "a.dzi"):
        told(run("export", siren, tmp_path / name, "-q"), 2, "an export has 1 or 3 channels of 8 bits")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("pixels", "options", "sentence"),
    [
        (np.zeros((9, 9, 5), np.uint16), {}, r"5 channels of 16 bits; model octaves encodes 1 or 3 .*--model siren"),
        (np.zeros((9, 9, 2), np.uint8), {}, r"2 channels of 8 bits; model octaves"),
        (np.zeros((9, 9), np.uint16), {"model": "siren", "prior": "jpeg"}, r"1 channel of 16 bits; --prior is of"),
        (np.zeros((9, 9, 3), np.uint16), {"model": "cinr", "loss": "stain"}, r"3 channels of 16 bits; --loss stain"),
        (np.zeros((9, 9, 4), np.uint8), {"model": "siren", "loss": "nuclei"}, r"4 channels of 8 bits; --loss nuclei"),
    ],
)
def test_what_cannot_be_encoded(pixels: np.ndarray, options: dict[str, str], sentence: str, tmp_path: Path) -> None:
    settings = EncodeOptions(**options)  # type: ignore[arg-type]
    with open_source(pixels) as source, pytest.raises(UsageError, match=sentence):
        encode(source, tmp_path / "a.cinr", settings)


def test_one_channel_of_16_bits_and_blank_tiles(tmp_path: Path) -> None:
    """A dark tile of a camera's offset is its mean, above 255; the other's range is its own; a PNG holds both."""
    pixels = np.full((64, 128), 300, np.uint16)
    pixels[:, 64:] = cells_px((3700,), (64, 64))[..., 0] + 300
    pixels += np.random.default_rng(1).integers(0, 5, pixels.shape).astype(np.uint16)
    out = encoded(pixels, tmp_path / "a.cinr", "siren", 4, 60)
    with Decoder(out, device="cpu") as decoder:
        decoded = decoder.read_region((0, 0), (128, 64))
        entries = [entry.is_blank for entry in decoder.container.entries(0)]
        assert decoder.header.model["ranges"] == [[int(pixels[:, 64:].min()), int(pixels[:, 64:].max())]]
    assert entries == [True, False]
    assert np.array_equal(decoded[:, :64], np.full((64, 64, 1), 302))
    assert of_range_db(pixels[:, 64:, None], decoded[:, 64:])[0] > 36.0
    assert run("decode", out, "-o", tmp_path / "a.png", "--device", "cpu", "-q").exit_code == 0
    assert np.array_equal(imagecodecs.png_decode((tmp_path / "a.png").read_bytes()), decoded[..., 0])


def test_an_interrupted_encoding_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    """With the ranges that its scan found."""
    pixels = cells_px((4000, 900))
    whole, out = encoded(pixels, tmp_path / "a.cinr", "siren", 4, 2), tmp_path / "b.cinr"
    options = EncodeOptions("siren", bpp=4, passes=2, tile_px=64, device="cpu")

    def stop(progress: Progress) -> None:
        if progress.stage == "tiles":
            raise KeyboardInterrupt

    with open_source(pixels, mpp_um=0.5, objective_power=20) as source:
        with pytest.raises(KeyboardInterrupt):
            encode(source, out, options, progress=stop)
        encode(source, out, options, resume=True)
    assert out.read_bytes() == whole.read_bytes()


def test_many_channels_of_8_bits(tmp_path: Path) -> None:
    """They have no ranges: a sample is a level."""
    pixels = cells_px((255, 200, 120, 255), (32, 32)).astype(np.uint8)
    out = encoded(pixels, tmp_path / "a.cinr", "siren", 16, 100)
    with Decoder(out, device="cpu") as decoder:
        decoded = decoder.read_region((0, 0), (32, 32))
        assert "ranges" not in decoder.header.model
    assert (decoded.shape, decoded.dtype) == ((32, 32, 4), np.uint8)
    assert min(of_range_db(pixels, decoded)) > 25.0


@pytest.mark.parametrize("loss", ["mse", "ms-ssim"])
def test_a_fit_of_16_bits_is_one_of_8_at_another_scale(loss: str) -> None:
    """257 times the samples give 257 times the samples: steps and constants are of the range, not of the bits."""
    pixels = cells_px((255,), (32, 32)).astype(np.uint8)
    pixels[0, :2, 0] = 0, 255
    narrow = config_class("siren").of_width(8, 1, 8)
    deep = replace(narrow, ranges=((0, 65535),))
    found = []
    for config, tile in ((narrow, pixels), (deep, pixels * np.uint16(257))):
        fit = networks.fit_tile(
            config, 32, config.as_levels(tile), passes=8, seed=(0, 0), device=torch.device("cpu"), loss=Loss(loss)
        )
        *steps, (_, _, arrays) = fit
        found.append((arrays, steps[-1][1]))
    (of_8, mse_8), (of_16, mse_16) = found
    if of_8 is None or of_16 is None:
        raise ValueError("a fit gave nothing")
    assert mse_16 == pytest.approx(mse_8, rel=0.02)
    assert np.abs(of_8["sine.0.weight"].astype(int) - of_16["sine.0.weight"]).max() <= 8  # of 32767
    assert of_16["last.multiplier"] == pytest.approx(257 * of_8["last.multiplier"], rel=0.02)
    assert abs(int(of_16["last.bias"][0]) - 257 * int(of_8["last.bias"][0])) <= 257


def test_last_layers_by_hand() -> None:
    """SPEC.md, section A.7."""
    ranges = ((100, 4100), (0, 255), (0, 65535))
    assert [zero_sample(r) for r in ranges] == [2108, 128, 32896]  # 100 + 128 / 255 of 4000
    v = torch.tensor([-9999.0, -2008, -1, 0, 1, 1992, 99999]).reshape(1, 1, 1, 7).expand(1, 3, 1, 7)
    assert LINEAR.samples(v, ranges)[0, :, 0].tolist() == [
        [100, 100, 2107, 2108, 2109, 4100, 4100],
        [0, 0, 127, 128, 129, 255, 255],
        [32896 - 9999, 32896 - 2008, 32895, 32896, 32897, 34888, 65535],
    ]
    assert LINEAR.last_steps(ranges) == [2000, 127.5, 32767.5]
    steps = torch.tensor([0.0, 1024, 3072, 4096 + 341, -1024]).reshape(1, 1, 1, 5).expand(1, 3, 1, 5)
    half = np.sin(2 * np.pi * 341 / SINE_STEPS)
    assert SINE.samples(steps, ranges)[0, :, 0].tolist() == [
        [2100, 4100, 100, round(2100 + 2000 * half), 100],
        [128, 255, 0, round(127.5 + 127.5 * half), 0],
        [32768, 65535, 0, round(32767.5 + 32767.5 * half), 0],
    ]
    levels = LINEAR.soft_samples(torch.tensor([-2000.0, 0, 2000]).reshape(1, 1, 1, 3), ranges[:1])[0, 0, 0]
    low, high, zero = (float(t) for t in bounds(ranges[:1], "cpu"))
    assert levels.tolist() == pytest.approx([(zero + v - low) * 255 / (high - low) for v in (-2000, 0, 2000)])
    assert float(levels[1]) == pytest.approx(128, abs=255 / 4000 / 2)
    assert hashlib.sha256(np.array(range_shares(), "<u4").tobytes()).hexdigest() == GOLDEN_SHARES


def test_ranges() -> None:
    extremes = Extremes(3)
    assert extremes.ranges() == ((0, 65535),) * 3
    extremes.add(np.array([[[7, 65500, 100], [9, 65510, 4000]]], np.uint16))
    extremes.add(np.array([[[8, 65535, 50]]], np.uint16))
    assert extremes.ranges() == ((7, 262), (65280, 65535), (50, 4000))
    levels = to_levels(np.array([[[50, 100], [4000, 355]]], np.uint16), ((50, 4000), (100, 355)))
    assert levels.dtype == np.float32
    assert levels.ravel().tolist() == [0, 0, 255, 255]
    y, target = torch.zeros(1, 2, 1, 1), torch.full((1, 2, 1, 1), 10.0)
    assert squared_error(y, target, ((0, 255), (0, 255))) == 100
    assert squared_error(y, target, ((0, 65535), (0, 6553))) == pytest.approx((100 + (10 * 6553 / 65535) ** 2) / 2)


@pytest.mark.parametrize(
    ("bits", "change", "sentence"),
    [
        (16, {}, "model.ranges is missing, and the slide has 16 bits"),
        (8, {"ranges": [[0, 300], [0, 300]]}, "model.ranges is there, and the slide has 8 bits"),
        (16, {"ranges": [[0, 300]]}, "model.ranges is ((0, 300),), should be 2 pairs"),
        (16, {"ranges": [[0, 300], [9, 263]]}, "model.ranges is (9, 263), should be two numbers of 0 to 65535"),
        (16, {"ranges": [[0, 300], [0, 65536]]}, "model.ranges is (0, 65536), should be"),
        (16, {"ranges": [[-1, 300], [0, 300]]}, "model.ranges is (-1, 300), should be"),
        (16, {"ranges": [[0, 1.5], [0, 300]]}, "model.ranges[0][1] is 1.5, should be int"),
        (8, {"base_layer": "jpeg"}, "model.channels is 2, should be 1 or 3 with a base layer"),
    ],
)
def test_a_file_whose_ranges_are_not_of_the_spec(bits: int, change: dict, sentence: str, tmp_path: Path) -> None:
    config = to_dict(config_class("siren").of_width(8, 2, 8)) | change
    slide = SlideInfo(width=64, height=64, channels=2, bit_depth=bits, background=(0, 0))
    with ContainerWriter(tmp_path / "a.cinr", Header(slide, GridInfo(64, (0,)), config)) as writer:
        writer.put_chunk(0, (0, 0), b"0")
        writer.finish()
    with pytest.raises(CorruptFile, match=re.escape(sentence)):
        Decoder(tmp_path / "a.cinr", device="cpu")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("wh", [(1024, 1), (1, 7), (1, 1)])
def test_a_preview_of_a_line_is_a_line(wh: tuple[int, int], channels: int) -> None:
    overview = np.full((wh[1], wh[0], channels), 200, np.uint8)
    shown = imagecodecs.jpeg8_decode(_preview(overview))
    assert shown.shape == (wh[1], wh[0], 3)[: 2 if channels == 1 else 3]
    assert np.abs(shown.astype(int) - 200).max() <= 2


@pytest.mark.parametrize("psnr_db", [None, 23.0])
def test_the_psnr_of_16_bits_is_that_of_the_file(psnr_db: float | None, tmp_path: Path) -> None:
    """As it is told, and as it is steered by."""
    y, x = np.mgrid[:96, :120]
    waves = [(np.sin(x / (9 + k)) + np.cos(y / (11 + k)) + 2) / 4 * 50000 + 3000 for k in range(2)]
    pixels = np.stack(waves, -1).astype(np.uint16)
    options = EncodeOptions(model="siren", passes=8, tile_px=64, psnr_db=psnr_db, device="cpu")
    with open_source(pixels, mpp_um=(0.5, 0.5)) as source:
        report = encode(source, tmp_path / "a.cinr", options)
    with Decoder(tmp_path / "a.cinr", device="cpu") as decoder:
        found = psnr(pixels, decoder.read_region((0, 0), (120, 96)))
    assert report.psnr_db == pytest.approx(found, abs=1e-6)
    assert found > 20
    assert psnr_db is None or found == pytest.approx(psnr_db, abs=0.1)


@pytest.mark.parametrize("bpp", [None, 2.0])
def test_where_there_is_nothing_to_code_no_bits_are_too_few(bpp: float | None, tmp_path: Path) -> None:
    white = np.full((150, 140, 3), 255, np.uint8)
    options = EncodeOptions(model="siren", passes=1, bpp=bpp, device="cpu")
    with open_source(white, mpp_um=(0.5, 0.5)) as source:
        report = encode(source, tmp_path / "a.cinr", options)
    assert (report.coded_chunks, report.psnr_db) == (0, np.inf)
    with Decoder(tmp_path / "a.cinr", device="cpu") as decoder:
        assert (decoder.read_region((0, 0), (140, 150)) == 255).all()


def test_metrics_and_preview_of_16_bits() -> None:
    a, b = np.zeros((2, 2, 1), np.uint16), np.full((2, 2, 1), 65535, np.uint16)
    assert psnr(a, b) == 0.0
    assert psnr(a, a + np.uint16(1)) == pytest.approx(20 * np.log10(65535))
    with pytest.raises(UsageError, match="both uint16"):
        psnr(a, b.astype(np.uint8))
    overview = cells_px()
    shown = imagecodecs.jpeg8_decode(_preview(overview))
    scaled = (overview - overview.min(axis=(0, 1))) * (255 / np.ptp(overview, axis=(0, 1)))
    assert np.abs(shown - scaled.mean(axis=2)).mean() < 4
