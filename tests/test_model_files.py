"""Files of every model: from the command line and back, damage, and encodings that were interrupted."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inrwsi.coding.tensors import squeeze
from inrwsi.config import to_dict
from inrwsi.decode import Decoder
from inrwsi.encode import encode
from inrwsi.errors import CorruptFile
from inrwsi.fields.models import model_names
from inrwsi.formats.header import GridInfo, Header, SlideInfo
from inrwsi.formats.source import open_source
from inrwsi.formats.writer import ContainerWriter
from inrwsi.metrics import psnr
from inrwsi.options import EncodeOptions
from inrwsi.progress import Progress
from inrwsi.sample import sample_region
from inrwsi.tiles import pack_payload
from tests.cli.conftest import run
from tests.test_models import rounded


def picture_px() -> np.ndarray:
    """(72, 136, 3): generated tissue, in two tiles of 72, the second cut at the edge."""
    return sample_region((900, 900), (136, 72), size_wh=(2048, 2048), seed=1)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "slide.png"
    Image.fromarray(picture_px()).save(path)
    return path


# Bits a pixel, the side of a tile, passes for a fit of a second or two, and the least PSNR that this reaches.
SETTINGS: dict[str, tuple[float, int, int, float]] = {
    "cinr": (3, 72, 3, 23.0),
    "ngp": (3, 72, 2, 22.0),
    "engp": (3, 72, 1, 19.5),
    "siren": (4, 72, 150, 33.0),
    "inif": (4, 72, 150, 33.0),
    "fourier": (15, 136, 25, 29.5),
    "conv-inr": (4, 72, 60, 23.5),
}


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", model_names())
def test_every_model_encodes_and_decodes_from_the_command_line(name: str, picture: Path, tmp_path: Path) -> None:
    """The picture comes back at its bound; the mean colour alone gives 15 dB. Then any region, at any scale."""
    bpp, tile_px, passes, least_db = SETTINGS[name]
    options = ("--bpp", bpp, "--tile-px", tile_px, "--passes", passes, "--device", "cpu", "-q")
    out = tmp_path / "slide.cinr"
    result = run("encode", picture, "-o", out, "--model", name, *options)
    assert (result.exit_code, result.output) == (0, "")
    assert run("verify", out, "-q").exit_code == 0
    assert re.search(rf"model +{name}", run("info", out).stdout)
    result = run("decode", out, "-o", tmp_path / "part.png", "--region", "50,30,40,20", "--device", "cpu", "-q")
    assert result.exit_code == 0, result.output
    with Decoder(out, device="cpu") as decoder:
        whole = decoder.read_region((0, 0), (136, 72))
        thrice = decoder.read_region((50, 30), (40, 20), step=1 / 3)
        half = decoder.read_region((0, 0), (136, 72), step=2.0)
        payloads = [entry.payload_bytes for entry in decoder.container.entries(0)]
    assert psnr(picture_px(), whole) > least_db
    assert 8 * sum(payloads) / (136 * 72) == pytest.approx(bpp, rel=0.02)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "part.png")), whole[30:50, 50:90])
    assert np.array_equal(thrice[1::3, 1::3], whole[30:50, 50:90])
    assert (thrice != np.repeat(np.repeat(whole[30:50, 50:90], 3, 0), 3, 1)).mean() > 0.2
    mean = np.floor(whole.reshape(36, 2, 68, 2, 3).mean(axis=(1, 3), dtype=np.float64) + 0.5)
    assert np.array_equal(half, mean)


# Of each model a target, its value, the side of a tile and passes: of table models the network is most of the file.
TARGETS: dict[str, tuple[str, float, int, int]] = {
    "cinr": ("size", 54_500, 72, 2),
    "ngp": ("size", 60_000, 72, 2),
    "engp": ("size", 477_000, 72, 1),
    "siren": ("ratio", 7, 72, 4),
    "inif": ("size", 3_500, 72, 4),
    "fourier": ("ratio", 1.6, 136, 2),
    "conv-inr": ("size", 6_000, 72, 2),
}


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("name", model_names())
def test_every_model_meets_a_size(name: str, picture: Path, tmp_path: Path) -> None:
    """By what the disk says; a width more or less would miss it."""
    option, value, tile_px, passes = TARGETS[name]
    options = EncodeOptions(
        name,
        ratio=value if option == "ratio" else None,
        size_bytes=int(value) if option == "size" else None,
        tile_px=tile_px,
        passes=passes,
        device="cpu",
    )
    out = tmp_path / "slide.cinr"
    with open_source(picture) as source:
        report = encode(source, out, options)
    want = value if option == "size" else 136 * 72 * 3 / value
    assert out.stat().st_size == report.cinr_bytes == pytest.approx(want, rel=0.02)
    assert [p.name for p in tmp_path.iterdir()] == ["slide.cinr"]
    with Decoder(out, device="cpu") as decoder:
        assert decoder.read_region((0, 0), (136, 72)).std() > 5


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize(
    ("name", "asked", "sentence"),
    [
        ("engp", ("--size", 100_000), r"--size 100,000 cannot be reached on this slide with model engp; the nearest "
         r"that was found is about 4[5-7]\d,\d{3} bytes"),
        ("siren", ("--ratio", 100), "--ratio 100 cannot be reached on this slide with model siren; the nearest that"),
        ("siren", ("--ratio", 40), r"model siren in tiles of 72 pixels takes 0\.26 bits a pixel at least, and the t"),
        ("fourier", ("--bpp", 0.5), r"model fourier in tiles of 72 pixels takes 3\.2 bits a pixel at least, .* 0\.5;"),
    ],
)  # fmt: skip
def test_a_size_out_of_reach_is_said(
    name: str, asked: tuple[str, float], sentence: str, picture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "slide.cinr"
    result = run("encode", picture, "-o", out, "--model", name, *asked, "--tile-px", 72, "--passes", 1, "-q")
    assert result.exit_code == 2
    assert re.search(sentence, result.output.replace("\n", " ")), result.output
    assert not out.exists()


def test_damage_is_told(tmp_path: Path) -> None:
    """A payload that is not of the config costs its own tile; weights that no tile uses cost the file."""
    config, tensors = rounded("siren")
    good = pack_payload(config, tensors)
    slide = SlideInfo(100, 50, 3, 8, (9, 9, 9))
    header = Header(slide, GridInfo(64, (0,)), to_dict(config))
    for name, weights in (("chunk", None), ("weights", b"some")):
        with ContainerWriter(tmp_path / f"{name}.cinr", header, weights=weights) as writer:
            writer.put_chunk(0, (0, 0), good)
            writer.put_chunk(0, (1, 0), squeeze(bytes(100)))
            writer.finish()
    with Decoder(tmp_path / "chunk.cinr", device="cpu") as decoder:
        left = decoder.read_region((0, 0), (64, 50))
        with pytest.raises(CorruptFile, match=r"column 1, row 0: its content is 100 bytes, should be \d+"):
            decoder.read_region((0, 0), (65, 50))
    with Decoder(tmp_path / "chunk.cinr", device="cpu", salvage=True) as decoder:
        saved = decoder.read_region((0, 0), (100, 50))
    assert np.array_equal(saved[:, :64], left)
    assert (saved[:, 64:] == 9).all()
    with pytest.raises(CorruptFile, match="there are some, and model siren has none"):
        Decoder(tmp_path / "weights.cinr", device="cpu")


def test_a_resumed_encoding_gives_the_same_file(tmp_path: Path) -> None:
    """Of a network a tile: stopped in the second, it goes on from the first and ends in the same bytes."""

    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.stage == "tiles" and progress.done > 0.6 * progress.total:
            raise Stop

    options = EncodeOptions("siren", bpp=2.0, tile_px=72, passes=4, device="cpu")
    with open_source(picture_px()) as source:
        encode(source, tmp_path / "whole.cinr", options)
        with pytest.raises(Stop):
            encode(source, tmp_path / "slide.cinr", options, progress=stop)
        stages: list[float] = []
        encode(source, tmp_path / "slide.cinr", options, resume=True, progress=lambda p: stages.append(p.done))
    assert (tmp_path / "slide.cinr").read_bytes() == (tmp_path / "whole.cinr").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["slide.cinr", "whole.cinr"]
