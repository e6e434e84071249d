"""Every codec of the list gives back the picture, at a size that is the file's, and opens from its path alone."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import imagecodecs
import numpy as np
import openslide
import pytest

from inrwsi.benchmarks import bd, sampling
from inrwsi.benchmarks.codecs import STILL_CODECS, TILED, WHOLE, Codec, area_mean
from inrwsi.benchmarks.codecs_ours import OurCodec, chunk_bytes, other_codecs, our_codecs
from inrwsi.benchmarks.codecs_tiff import TIFF_CODECS
from inrwsi.benchmarks.sampling import Picture
from inrwsi.errors import UsageError
from inrwsi.fields.models import config_class, model_names
from inrwsi.formats.source import open_source
from inrwsi.geometry import Rect
from inrwsi.metrics import psnr
from inrwsi.options import known_models
from inrwsi.sample import sample_region

WH = (600, 200)
CASES = [(c, layout) for c in other_codecs() for layout in c.layouts]


@pytest.fixture(scope="module")
def picture() -> Picture:
    """Generated tissue, and a corner of pure white and black, which codecs overshoot; two tiles, cut at the edges."""
    pixels = sample_region((900, 900), WH, size_wh=(2048, 2048), seed=1).copy()
    pixels[:64, :64] = np.where(np.indices((64, 64)).sum(axis=0)[..., None] // 8 % 2, 255, 0)
    with open_source(pixels, mpp_um=0.5) as source:
        return sampling.full_picture(source, sampling.find_cells(source))


@pytest.mark.parametrize(("codec", "layout"), CASES, ids=[f"{c.name}-{layout}" for c, layout in CASES])
def test_more_bytes_more_quality(codec: Codec, layout: str, picture: Picture, tmp_path: Path) -> None:
    path = tmp_path / f"a{codec.suffix}"
    whole = Rect(0, 0, *WH)
    sizes, qualities = [], []
    for value in codec.quick_ladder:
        codec.encode(picture, layout, value, path)
        with codec.open(path, layout) as reader:
            assert reader.wh == WH
            decoded = reader.read(whole)
        assert decoded.shape == picture.pixels.shape
        assert decoded.dtype == np.uint8
        sizes.append(path.stat().st_size)
        qualities.append(psnr(np.asarray(picture.pixels), decoded))
        # A sample that wraps around, a channel in another's place or a tile in another's: all far beyond this.
        difference = np.abs(decoded.astype(int) - picture.pixels)
        assert np.percentile(difference, 99.9) < 130
    assert sizes == sorted(sizes)
    assert qualities == sorted(qualities)
    assert qualities[-1] > 33  # 4:2:0 on strong stains
    assert sizes[0] > 1000
    assert codec.label(codec.quick_ladder[0]) in ("lossless", *(["q=25", "q=15", "q=30", "step=0.15", "d=6"]), "28 dB")
    assert picture.digest() == picture.sample.sha256


@pytest.mark.parametrize("codec", [c for c in other_codecs() if c.name != "jpegxl-lossless"], ids=lambda c: c.name)
def test_windows_are_cut_from_the_same_decoded_picture(codec: Codec, picture: Picture, tmp_path: Path) -> None:
    path, layout = tmp_path / f"a{codec.suffix}", codec.layouts[0]
    codec.encode(picture, layout, codec.quick_ladder[1], path)
    with codec.open(path, layout) as reader:
        whole = reader.read(Rect(0, 0, *WH))
    with codec.open(path, layout) as reader:
        window = Rect(520, 40, 70, 60)  # inside one tile of four
        assert np.array_equal(reader.read(window), whole[40:100, 520:590])
        assert 0 < reader.bytes_read < 0.6 * path.stat().st_size
    with codec.open(path, layout) as reader:
        small = reader.read(Rect(96, 32, 480, 160), 4)
        assert small.shape == (40, 120, 3)
        assert psnr(area_mean(whole[32:192, 96:576], 4), small) > 30


@pytest.mark.parametrize("codec", other_codecs(), ids=lambda c: c.name)
def test_versions_are_said_by_the_libraries(codec: Codec) -> None:
    versions = codec.versions()
    assert versions
    assert all(number[0].isdigit() and "." in number for number in versions.values())


@pytest.mark.parametrize("name", ["avif", "avif-psnr"])
def test_avif_keeps_colour_at_full_size(name: str, picture: Picture, tmp_path: Path) -> None:
    """By the file's own configuration (AV1 in ISOBMFF, 2.3.3): a peer at 4:2:0 would lose a contest of RGB PSNR."""
    (codec,) = other_codecs((name,))
    codec.encode(picture, WHOLE, 50, tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    flags = data[data.index(b"av1C") + 6]
    assert flags >> 2 & 3 == 0  # chroma_subsampling_x and _y
    assert flags >> 4 & 1 == 0  # monochrome
    assert "4:4:4" in codec.about


def test_avif_has_a_peer_of_each_kind(picture: Picture, tmp_path: Path) -> None:
    """Tuned for PSNR it takes fewer bits at equal PSNR than tuned for eyes, as libavif does where nobody says."""
    found = {}
    for codec in other_codecs(("avif", "avif-psnr")):
        points = []
        for value in codec.ladder:
            codec.encode(picture, WHOLE, value, tmp_path / "a")
            with codec.open(tmp_path / "a", WHOLE) as reader:
                decoded = reader.read(Rect(0, 0, *reader.wh))
            error = np.square(decoded.astype(float) - picture.pixels).mean()
            points.append(((tmp_path / "a").stat().st_size, 10 * np.log10(255**2 / error)))
        found[codec.name] = bd.curve(points)
    assert bd.bd_rate(found["avif-psnr"], found["avif"])[0] < -3


def test_jpeg_xl_is_made_with_the_effort_that_is_told(picture: Picture, tmp_path: Path) -> None:
    (codec,) = other_codecs(("jpegxl",))
    codec.encode(picture, WHOLE, 2.5, tmp_path / "a")
    assert "effort 7" in codec.about
    told = imagecodecs.jpegxl_encode(picture.pixels, distance=2.5, effort=7)
    assert (tmp_path / "a").read_bytes() == bytes(told)


def test_htj2k_does_not_wrap_white_to_black(picture: Picture, tmp_path: Path) -> None:
    (codec,) = other_codecs(("htj2k",))
    codec.encode(picture, WHOLE, 0.15, tmp_path / "a")
    with codec.open(tmp_path / "a", WHOLE) as reader:
        corner = reader.read(Rect(16, 16, 32, 32)).astype(int)
    assert np.abs(corner - picture.pixels[16:48, 16:48]).max() < 200


def test_regions_are_charged_their_own_tiles(picture: Picture, tmp_path: Path) -> None:
    regions = [Rect(0, 0, 512, 200), Rect(512, 0, 88, 200)]
    for codec in (STILL_CODECS[0], TIFF_CODECS[0]):
        path = tmp_path / f"{codec.name}{codec.suffix}"
        codec.encode(picture, codec.layouts[0], 60, path)
        with codec.open(path, codec.layouts[0]) as reader:
            sizes = reader.region_bytes(regions)
        assert sizes is not None
        assert sizes[0] > 2 * sizes[1] > 0
        assert sum(sizes) < path.stat().st_size
    STILL_CODECS[0].encode(picture, WHOLE, 60, tmp_path / "whole")
    with STILL_CODECS[0].open(tmp_path / "whole", WHOLE) as reader:
        assert reader.region_bytes(regions) is None


def test_the_pyramid_is_one_that_openslide_reads(picture: Picture, tmp_path: Path) -> None:
    TIFF_CODECS[0].encode(picture, "file", 90, tmp_path / "a.tiff")
    with openslide.OpenSlide(tmp_path / "a.tiff") as slide:
        assert slide.level_dimensions == (WH, (300, 100))
        with TIFF_CODECS[0].open(tmp_path / "a.tiff", "file") as reader:
            ours = reader.read(Rect(0, 0, *WH), 2)
        theirs = np.asarray(slide.read_region((0, 0), 1, (300, 100)))[..., :3]
        assert np.array_equal(ours, theirs)
    with TIFF_CODECS[0].open(tmp_path / "a.tiff", "file") as reader:
        tile = reader.read(Rect(0, 0, 512, 200))
    padded = np.pad(picture.pixels[:, :512], ((0, 312), (0, 0), (0, 0)), mode="edge")
    alone = imagecodecs.jpeg8_decode(imagecodecs.jpeg8_encode(padded, 90, subsampling="420"))
    assert np.array_equal(tile, alone[:200])


def test_every_model_of_ours_is_there_by_itself() -> None:
    found = our_codecs(known_models())
    assert {c.name: c.passes for c in found} == {"octaves": 0} | {n: config_class(n).passes for n in model_names()}
    assert {c.name: c.passes for c in our_codecs(("cinr", "siren"), share=6)} == {"cinr": 1, "siren": 10}
    (codec,) = our_codecs(("siren",), bpp=(2, 0.5), passes=3)
    assert isinstance(codec, OurCodec)
    assert (codec.ladder, codec.label(0.5), codec.passes) == ((0.5, 2), "bpp=0.5", 3)
    with pytest.raises(UsageError, match="--model nobody: there is no such model; there are octaves, cinr, conv-inr"):
        our_codecs(("nobody",), passes=1)
    with pytest.raises(UsageError, match="--codec gif: there is no such codec; there are jpeg-420"):
        other_codecs(("gif",))


def test_chunks_of_coarse_octaves_are_shared_out_by_area() -> None:
    entries = {0: [((i, 0), 100 * (i + 1), False) for i in range(4)], 1: [((0, 0), 60, False), ((1, 0), 30, False)]}
    header = SimpleNamespace(
        grid=SimpleNamespace(octaves=(0, 1), chunk_px=256), slide=SimpleNamespace(width=1024, height=256)
    )
    container = SimpleNamespace(header=header, entries=lambda octave: entries[octave])
    regions = [Rect(0, 0, 256, 256), Rect(256, 0, 512, 256), Rect(768, 0, 256, 256)]
    found = chunk_bytes(container, regions)  # type: ignore[arg-type]
    assert found == [100 + 30, 200 + 300 + 30 + 15, 400 + 15]
    assert TILED in STILL_CODECS[0].layouts
