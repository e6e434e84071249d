"""Exports as their readers see them: OpenSlide, tifffile, zarr, Deep Zoom; whole or not there; tiles each once."""

from __future__ import annotations

import io
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import tifffile
from click.testing import CliRunner, Result
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image, ImageCms

import inrwsi.export
from inrwsi import BackendUnavailable, CorruptFile, UsageError, open_slide
from inrwsi.cli.main import main
from inrwsi.export import ExportReport, export, halves, pyramid_tiles
from inrwsi.formats.container import Container
from inrwsi.formats.export_base import PyramidSpec
from inrwsi.formats.export_tiff import bare_jpeg, per_cm_ratio
from inrwsi.formats.header import AssociatedInfo
from inrwsi.formats.writer import ContainerWriter
from inrwsi.metrics import psnr
from inrwsi.progress import Progress
from inrwsi.sample import sample_region
from tests.fake_octaves import BACKGROUND, FakeCoder, fake_file, header

WH = (1301, 777)
LEVELS_WH = ((1301, 777), (651, 389), (326, 195))
MPP_UM = (0.2527, 0.2531)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
MACRO = np.full((40, 90, 3), (200, 30, 90), np.uint8)


@dataclass(frozen=True)
class Made:
    """A file with all that an export can carry, and what it decodes to."""

    path: Path
    pixels: np.ndarray


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A slide that was encoded, and copied into a file that has a profile and an associated image too."""
    from inrwsi.decode import Decoder
    from inrwsi.encode import encode
    from inrwsi.formats.source import open_source
    from inrwsi.options import EncodeOptions

    folder = tmp_path_factory.mktemp("export")
    tissue = sample_region((900, 900), WH, size_wh=(4096, 4096), seed=1)
    with open_source(tissue, mpp_um=MPP_UM, objective_power=40) as source:
        encode(source, folder / "bare.cinr", EncodeOptions(effort="fast", quality=70, device="cpu"))
    buffer = io.BytesIO()
    Image.fromarray(MACRO).save(buffer, "png")
    with Container.open(folder / "bare.cinr") as bare:
        head = replace(bare.header, associated=(AssociatedInfo("macro", 90, 40, "png"),), preview_format=None)
        sections = {"weights": bare.weights(), "associated": (buffer.getvalue(),), "icc": ICC}
        with ContainerWriter(folder / "slide.cinr", head, **sections) as writer:
            for number in range(head.chunk_count):
                at = head.chunk_at(number)
                chunk = bare.chunk(*at)
                if chunk.payload is None:
                    writer.put_blank(*at, chunk.colour or ())
                else:
                    writer.put_chunk(*at, chunk.payload)
            writer.finish()
    with Decoder(folder / "slide.cinr", device="cpu") as decoder:
        return Made(folder / "slide.cinr", decoder.read_region((0, 0), WH))


@pytest.fixture(scope="module")
def tiff(made: Made) -> tuple[Path, ExportReport]:
    out = made.path.with_name("slide.tif")
    return out, export(made.path, out, quality=95, device="cpu")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ---- TIFF


def test_openslide_reads_the_tiff(made: Made, tiff: tuple[Path, ExportReport]) -> None:
    path, report = tiff
    with openslide.OpenSlide(path) as slide:
        properties = slide.properties
        assert properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == LEVELS_WH == report.levels_wh
        assert slide.level_downsamples == pytest.approx((1, 2, 4), rel=4e-3)
        assert float(properties["openslide.mpp-x"]) == pytest.approx(MPP_UM[0], rel=1e-7)
        assert float(properties["openslide.mpp-y"]) == pytest.approx(MPP_UM[1], rel=1e-7)
        assert properties["openslide.level[2].tile-width"] == "512"
        assert slide.read_region((0, 0), 0, (1, 1)).info["icc_profile"] == ICC
        for level, want in enumerate(halves(made.pixels, 2)):
            rgba = np.asarray(slide.read_region((0, 0), level, LEVELS_WH[level]))
            assert (rgba[..., 3] == 255).all()
            assert psnr(np.ascontiguousarray(rgba[..., :3]), want) > 36
    assert report.written_bytes == path.stat().st_size
    assert report.damaged == ()


def test_the_tiff_is_an_ome_tiff_too(made: Made, tiff: tuple[Path, ExportReport]) -> None:
    """One slide with levels and a scale, and the macro, by a reader of OME-TIFF; a page a level by the main chain."""
    with tifffile.TiffFile(tiff[0]) as file:
        assert not file.is_bigtiff
        slide, macro = file.series
        assert [level.shape[1::-1] for level in slide.levels] == list(LEVELS_WH)
        assert (slide.name, macro.name) == ("slide", "macro")
        assert psnr(slide.asarray(), made.pixels) > 40
        assert np.abs(macro.asarray().astype(int) - MACRO).max() <= 3
        pages = [file.pages.get(number, aspage=True) for number in range(len(file.pages))]
        assert [page.subfiletype for page in pages] == [0, 0, 1, 1]
        assert [page.is_tiled for page in pages] == [True, False, True, True]
        assert pages[0].subifds == tuple(page.offset for page in pages[2:])
        root = ElementTree.fromstring(file.ome_metadata)
    space = {"ome": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}
    objective = root.find("ome:Instrument/ome:Objective", space)
    assert objective is not None
    assert objective.get("NominalMagnification") == "40"
    pixels = root.find("ome:Image/ome:Pixels", space)
    assert pixels is not None
    assert (pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeY")) == ("0.25269999999999998", "0.25309999999999999")
    assert (pixels.get("SizeX"), pixels.get("SizeC")) == ("1301", "3")


def test_tiles_say_nothing_of_colour(tiff: tuple[Path, ExportReport]) -> None:
    """No JFIF marker, components 0 to 2: with either, Bio-Formats shows a 4:4:4 slide in magenta."""
    with tifffile.TiffFile(tiff[0]) as file, open(tiff[0], "rb") as raw:
        page = file.pages.first
        for offset in page.dataoffsets:
            raw.seek(offset)
            head = raw.read(700)
            assert head.startswith(b"\xff\xd8\xff\xdb")
            frame = head.index(b"\xff\xc0")
            assert [head[frame + 10 + 3 * k] for k in range(3)] == [0, 1, 2]
            assert head[frame + 11] == 0x11  # 4:4:4
        assert page.tags["YCbCrSubSampling"].value == (1, 1)
        assert page.tags["PhotometricInterpretation"].value == 6


def test_less_quality_is_half_the_colour(made: Made, tiff: tuple[Path, ExportReport], tmp_path: Path) -> None:
    report = export(made.path, tmp_path / "small.tiff", quality=60, device="cpu")
    assert report.written_bytes < tiff[1].written_bytes / 2
    with tifffile.TiffFile(tmp_path / "small.tiff") as file:
        assert file.pages.first.tags["YCbCrSubSampling"].value == (2, 2)
        assert file.pages.first.jpegheader is None
    with openslide.OpenSlide(tmp_path / "small.tiff") as slide:
        rgba = np.asarray(slide.read_region((0, 0), 0, WH))
        assert 28 < psnr(np.ascontiguousarray(rgba[..., :3]), made.pixels) < 36


def test_a_large_tiff_is_a_bigtiff(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrwsi.formats.export_tiff._CLASSIC_BYTES", 1000)
    export(made.path, tmp_path / "big.tif", device="cpu")
    with tifffile.TiffFile(tmp_path / "big.tif") as file:
        assert file.is_bigtiff
        assert len(file.pages) == 4
        assert [len(series.levels) for series in file.series] == [3, 1]
    with openslide.OpenSlide(tmp_path / "big.tif") as slide:
        assert slide.level_dimensions == LEVELS_WH
        assert np.asarray(slide.read_region((0, 0), 2, LEVELS_WH[2]))[..., 3].min() == 255


def test_a_slide_says_its_scale(made: Made, tmp_path: Path) -> None:
    with open_slide(made.path, mpp_um=1.5) as slide:
        export(slide, tmp_path / "told.tif", device="cpu")
        assert slide.read_region((0, 0), 0, (3, 3)).size == (3, 3)  # it stays open
    with openslide.OpenSlide(tmp_path / "told.tif") as told:
        assert float(told.properties["openslide.mpp-x"]) == pytest.approx(1.5, rel=1e-7)


@pytest.mark.parametrize("channels", [1, 3])
def test_small_slides_without_facts(channels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One level, no scale, no profile; grey stays grey."""
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    noise = fake_file(tmp_path / "noise.cinr", (300, 200), channels=channels)
    export(noise.path, tmp_path / "noise.tif", quality=100, device="cpu")
    with tifffile.TiffFile(tmp_path / "noise.tif") as file:
        (series,) = file.series
        assert series.shape == ((200, 300, 3) if channels == 3 else (200, 300))
        assert psnr(series.asarray().reshape(200, 300, channels), noise.octaves[0]) > 40
        assert b"PhysicalSize" not in file.ome_metadata.encode()
    with openslide.OpenSlide(tmp_path / "noise.tif") as slide:
        assert slide.level_count == 1
        assert "openslide.mpp-x" not in slide.properties
        rgb = np.asarray(slide.read_region((0, 0), 0, (300, 200)))[..., :3]
        want = noise.octaves[0].repeat(3 // channels, axis=2)
        assert psnr(np.ascontiguousarray(rgb), want) > 40


@pytest.mark.parametrize("mpp_um", [1e-4, 0.05, 0.2527, 0.499, 1 / 3, 32.0, 1e4 * 2**20])
def test_resolutions_fit_a_tiff(mpp_um: float) -> None:
    pixels, cm = per_cm_ratio(mpp_um)
    assert 0 < pixels < 2**32
    assert 0 < cm < 2**32
    assert 1e4 * cm / pixels == pytest.approx(mpp_um, rel=1e-7)


def test_a_jpeg_without_what_it_says_of_colour() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (10, 200, 30)).save(buffer, "jpeg", subsampling=0)
    bare = bare_jpeg(buffer.getvalue())
    assert len(bare) == len(buffer.getvalue()) - 18
    assert b"JFIF" not in bare


# ---- OME-Zarr


def test_zarr_reads_the_export(made: Made, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    out = tmp_path / "slide.ome.zarr"
    report = export(made.path, out, device="cpu")
    group = zarr.open_group(out, mode="r", zarr_format=2)
    for level, want in enumerate(halves(made.pixels, 2)):
        array = group[str(level)]
        assert (array.shape, array.chunks, array.dtype) == ((3, *want.shape[:2]), (1, 512, 512), np.uint8)
        assert np.array_equal(np.moveaxis(array[:], 0, 2), want)
    attributes = dict(group.attrs)
    (image,) = attributes["multiscales"]
    assert image["version"] == "0.4"
    assert [(axis["name"], axis["type"], axis.get("unit")) for axis in image["axes"]] == [
        ("c", "channel", None),
        ("y", "space", "micrometer"),
        ("x", "space", "micrometer"),
    ]
    assert [dataset["path"] for dataset in image["datasets"]] == ["0", "1", "2"]
    scales = [dataset["coordinateTransformations"] for dataset in image["datasets"]]
    assert scales[1] == [{"type": "scale", "scale": [1.0, 2 * MPP_UM[1], 2 * MPP_UM[0]]}]
    assert [channel["color"] for channel in attributes["omero"]["channels"]] == ["FF0000", "00FF00", "0000FF"]
    assert (out / "0" / "2" / "1" / "2").is_file()  # keys with slashes, as OME-NGFF asks
    assert report.written_bytes == sum(path.stat().st_size for path in out.rglob("*") if path.is_file())


def test_zarr_that_is_missing_is_named(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(BackendUnavailable, match=r"writing Zarr needs zarr; pip install inrwsi\[zarr\]"):
        export(made.path, tmp_path / "slide.ome.zarr", device="cpu")
    assert left(tmp_path) == set()


# ---- Deep Zoom


def test_deep_zoom_has_openslides_geometry(made: Made, tmp_path: Path) -> None:
    report = export(made.path, tmp_path / "slide.dzi", quality=95, device="cpu")
    assert left(tmp_path) == {"slide.dzi", "slide_files"}
    root = ElementTree.parse(tmp_path / "slide.dzi").getroot()
    assert dict(root.attrib) == {"Format": "jpeg", "Overlap": "0", "TileSize": "512"}
    assert dict(root[0].attrib) == {"Width": "1301", "Height": "777"}
    with open_slide(made.path) as slide:
        theirs = DeepZoomGenerator(slide, tile_size=512, overlap=0)
        assert len(report.levels_wh) == theirs.level_count == 12
        assert tuple(reversed(report.levels_wh)) == theirs.level_dimensions
        assert len(list((tmp_path / "slide_files").rglob("*.jpeg"))) == theirs.tile_count
        for level, (columns, rows) in enumerate(theirs.level_tiles):
            for ij in ((i, j) for i in range(columns) for j in range(rows)):
                with Image.open(tmp_path / "slide_files" / str(level) / f"{ij[0]}_{ij[1]}.jpeg") as tile:
                    assert tile.size == theirs.get_tile_dimensions(level, ij)
    with Image.open(tmp_path / "slide_files" / "11" / "2_1.jpeg") as tile:
        assert psnr(np.asarray(tile), np.ascontiguousarray(made.pixels[512:, 1024:])) > 38
    with Image.open(tmp_path / "slide_files" / "0" / "0_0.jpeg") as pixel:
        assert np.abs(np.asarray(pixel)[0, 0] - made.pixels.mean(axis=(0, 1))).max() < 10


# ---- tiles


def test_each_tile_once_whatever_the_blocks(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks: levels 0 and 1 of one pass over four of them, level 2 of a pass of its own."""
    from inrwsi.decode import Decoder

    monkeypatch.setattr(inrwsi.export, "HALVINGS", 1)
    monkeypatch.setattr(inrwsi.export, "BLOCK_PX", 1024)
    seen: list[Progress] = []
    spec = PyramidSpec(WH, 3, None, None, None, 90)
    levels = [np.zeros((*spec.level_wh(level)[::-1], 3), np.uint8) for level in range(3)]
    counts = [np.zeros(level.shape[:2], int) for level in levels]
    with Decoder(made.path, device="cpu") as decoder:
        for level, (i, j), pixels in pyramid_tiles(decoder, WH, 3, seen.append):
            at = np.s_[j * 512 : j * 512 + pixels.shape[0], i * 512 : i * 512 + pixels.shape[1]]
            levels[level][at] = pixels
            counts[level][at] += 1
        direct = decoder.read_region((0, 0), (326 * 4, 195 * 4), step=4)
    assert all((count == 1).all() for count in counts)
    full, half = halves(made.pixels, 1)
    assert np.array_equal(levels[0], full)
    assert np.array_equal(levels[1], half)
    assert np.array_equal(levels[2], direct)
    assert seen[-1].done == pytest.approx(seen[-1].total) == pytest.approx((1301 * 777 + 326 * 195) / 1e6)


def test_means_are_rounded_once() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (48, 32, 3), dtype=np.uint8)
    pixels[:8, :8] = 255
    for level, got in enumerate(halves(pixels, 3)):
        side = 1 << level
        want = pixels.reshape(48 // side, side, 32 // side, side, 3).mean(axis=(1, 3))
        assert np.array_equal(got, np.floor(want + 0.5))
    odd = list(halves(np.arange(15, dtype=np.uint8).reshape(5, 3, 1), 2))
    assert [level.shape for level in odd] == [(5, 3, 1), (3, 2, 1), (2, 1, 1)]
    assert odd[1][2, 1] == 14  # the corner stands for the four that it covers


# ---- whole or not there


@pytest.mark.parametrize("name", ["slide.tif", "slide.ome.zarr", "slide.dzi"])
def test_interrupted_leaves_nothing_and_what_was_there(name: str, made: Made, tmp_path: Path) -> None:
    if name.endswith("zarr"):
        pytest.importorskip("zarr")

    def interrupt(progress: Progress) -> None:
        raise KeyboardInterrupt

    out = tmp_path / name
    with pytest.raises(KeyboardInterrupt):
        export(made.path, out, device="cpu", progress=interrupt)
    assert left(tmp_path) == set()
    export(made.path, out, device="cpu")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="is there already; give --overwrite to replace it"):
        export(made.path, out, device="cpu")
    with pytest.raises(KeyboardInterrupt):
        export(made.path, out, device="cpu", overwrite=True, progress=interrupt)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    export(made.path, out, device="cpu", overwrite=True, quality=50)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert after.keys() == before.keys()
    assert (after == before) == name.endswith("zarr")


def test_nothing_but_an_export_is_replaced(made: Made, tmp_path: Path) -> None:
    (tmp_path / "a_files" / "thesis").mkdir(parents=True)
    (tmp_path / "b.ome.zarr").mkdir()
    (tmp_path / "c.tif").mkdir()
    for name in ("a.dzi", "b.ome.zarr", "c.tif"):
        with pytest.raises(UsageError, match="is there and is no such export; give another name, or remove it"):
            export(made.path, tmp_path / name, overwrite=True, device="cpu")
    assert (tmp_path / "a_files" / "thesis").is_dir()


@pytest.mark.parametrize(
    ("out", "settings", "sentence"),
    [
        ("slide.png", {}, r"name should end in \.tif, \.tiff, \.ome\.zarr or \.dzi"),
        ("missing/slide.tif", {}, "the folder .*missing is not there; make it first"),
        ("slide.tif", {"quality": 0}, "JPEG quality 0 is not possible; give 1 to 100"),
    ],
)
def test_outputs_that_cannot_be(out: str, settings: dict[str, Any], sentence: str, made: Made, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=sentence):
        export(made.path, tmp_path / out, device="cpu", **settings)
    assert left(tmp_path) == set()


def test_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    bad = fake_file(tmp_path / "bad.cinr", (700, 300), bad=[(0, (1, 0))])
    with pytest.raises(CorruptFile, match="octave 0, column 1, row 0"):
        export(bad.path, tmp_path / "bad.tif", device="cpu")
    assert left(tmp_path) == {"bad.cinr"}
    report = export(bad.path, tmp_path / "bad.tif", quality=100, device="cpu", salvage=True)
    assert len(report.damaged) == 1
    with tifffile.TiffFile(tmp_path / "bad.tif") as file:
        filled = file.series[0].asarray()[8:248, 264:504]
    assert np.abs(filled.astype(int) - BACKGROUND).max() <= 2


def test_many_channels_are_refused(tmp_path: Path) -> None:
    from inrwsi.formats.export_tiff import TiffPyramid

    with pytest.raises(UsageError, match="has 4 channels; an export has 1 or 3"):
        TiffPyramid(tmp_path / "a.tif", PyramidSpec(WH, 4, None, None, None, 90))


# ---- the command


def test_command(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "slide.tif"
    result = run("export", made.path, out, "--quality", 80, "--device", "cpu")
    assert result.exit_code == 0, result.output
    size = out.stat().st_size
    assert f"slide.tif: {size:,} bytes, 1,301 x 777 pixels, 3 levels, " in result.stdout
    assert "export: 1.01 of 1.01 Mpx" in result.stderr
    assert run("export", made.path, out).exit_code == 2
    quiet = run("export", made.path, out, "--overwrite", "-q", "--quality", 80, "--device", "cpu")
    assert (quiet.exit_code, quiet.output) == (0, "")
    damaged = tmp_path / "damaged.cinr"
    damaged.write_bytes(made.path.read_bytes()[:-50])
    assert run("export", damaged, tmp_path / "b.tif").exit_code == 3
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    bad = fake_file(tmp_path / "bad.cinr", (300, 300), bad=[(0, (1, 0))])
    result = run("export", bad.path, tmp_path / "bad.tif", "--device", "cpu", "-q")
    assert result.exit_code == 3
    result = run("export", bad.path, tmp_path / "bad.tif", "--device", "cpu", "-q", "--salvage")
    assert result.exit_code == 0
    assert "filled with the background" in result.stderr


def test_mistakes_are_told_without_torch(tmp_path: Path) -> None:
    fake_header = header((300, 200))
    with ContainerWriter(tmp_path / "a.cinr", fake_header) as writer:
        for number in range(fake_header.chunk_count):
            writer.put_blank(*fake_header.chunk_at(number), BACKGROUND)
        writer.finish()
    code = (
        "import sys; from inrwsi.cli.main import main\n"
        "try: main(['export', sys.argv[1], sys.argv[2]], prog_name='inrwsi')\n"
        "except SystemExit as end: sys.exit(9 if 'torch' in sys.modules else end.code)\n"
    )
    end = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.cinr"), str(tmp_path / "a.gif")], capture_output=True, text=True
    )
    assert end.returncode == 2, end.stderr
    assert "name should end in .tif" in end.stderr
