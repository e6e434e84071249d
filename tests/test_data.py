"""`PatchDataset`: which patches there are, what is in them, and that workers give the same."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

import inrwsi.data
from inrwsi import CorruptFile, UsageError, open_slide
from inrwsi.data import PatchDataset, tissue_share
from inrwsi.metrics import psnr
from inrwsi.resample import AreaSum
from inrwsi.sample import sample_region
from tests.fake_octaves import FakeCoder, FakeFile, fake_file

WH = (768, 512)
GLASS_PX = 256  # at the right
MPP_UM = 0.5


def reduced(pixels: np.ndarray, by: int) -> np.ndarray:
    h, w = pixels.shape[0] // by, pixels.shape[1] // by
    return pixels.reshape(h, by, w, by, 3).mean(axis=(1, 3)).round().astype(np.uint8)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    found = np.full((WH[1], WH[0], 3), 244, np.uint8)
    found[:, :-GLASS_PX] = sample_region((900, 900), (WH[0] - GLASS_PX, WH[1]), size_wh=(2048, 2048), seed=1)
    return found


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory, pixels: np.ndarray) -> dict[str, Path]:
    """A lossless TIFF pyramid of levels 1 and 4, and a `.cinr` file of it."""
    from inrwsi.encode import encode
    from inrwsi.formats.source import open_source
    from inrwsi.options import EncodeOptions

    folder = tmp_path_factory.mktemp("data")
    found = {"tiff": folder / "slide.tif", "cinr": folder / "slide.cinr"}
    with tifffile.TiffWriter(found["tiff"]) as tiff:
        for by in (1, 4):
            tiff.write(
                reduced(pixels, by),
                photometric="rgb",
                tile=(128, 128),
                compression="zlib",
                subfiletype=int(by > 1),
                resolution=(1e4 / MPP_UM / by,) * 2,
                resolutionunit="CENTIMETER",
                metadata=None,
            )
    with open_source(found["tiff"]) as source:
        encode(source, found["cinr"], EncodeOptions(effort="fast", quality=95, device="cpu"))
    return found


@pytest.fixture(params=["tiff", "cinr"])
def path(request: pytest.FixtureRequest, paths: dict[str, Path]) -> Path:
    return paths[request.param]


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> FakeFile:
    return fake_file(tmp_path_factory.mktemp("noise") / "noise.cinr", (1101, 699))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("inrwsi.octave_tiles.ChunkCoder", FakeCoder)
    monkeypatch.setattr(FakeCoder, "seconds", 0.0)
    FakeCoder.calls.clear()
    yield
    FakeCoder.calls.clear()


def array(item: dict[str, Any]) -> np.ndarray:
    """(h, w, 3) of an item's image."""
    return np.ascontiguousarray(item["image"].numpy().transpose(1, 2, 0))


# ---- which patches


def test_a_grid_of_whole_patches_row_by_row(path: Path) -> None:
    patches = PatchDataset(path, 100, mpp=1.0)
    assert patches.steps == (2.0,)
    corners = [[x, y] for y in (0, 200) for x in (0, 200, 400)]
    assert patches.l0_xy.tolist() == corners
    assert patches.l0_xy.dtype == patches.slide_index.dtype == np.int64
    assert patches.slide_index.tolist() == [0] * 6
    item = patches[4]
    assert (item["image"].shape, item["image"].dtype) == ((3, 100, 100), torch.uint8)
    assert item["image"].is_contiguous()
    assert item["slide"] == 0
    assert item["l0_xy"].tolist() == [200, 200]
    assert len(PatchDataset(path, 100, stride_px=52, mpp=1.0)) == 6 * 4
    assert len(PatchDataset(path, 256)) == 6  # up to the very edge
    assert PatchDataset(path, 16, stride_px=64, downsample=1.37).l0_xy[:4, 0].tolist() == [0, 87, 175, 263]


def test_scales(path: Path) -> None:
    for scale, step in (
        ({}, 1.0),
        ({"downsample": 3}, 3.0),
        ({"mpp": 0.75}, 1.5),
        ({"mpp": 0.75, "mpp_um": 0.25}, 3.0),
        ({"mag": 5, "objective_power": 20}, 4.0),
    ):
        (found,) = PatchDataset(path, 100, **scale).steps  # type: ignore[arg-type]
        assert found == pytest.approx(step, rel=1e-6)


def test_patches_of_several_slides(paths: dict[str, Path]) -> None:
    both = [paths["tiff"], str(paths["cinr"])]
    patches = PatchDataset(both, 200)
    assert patches.slides == tuple(map(str, both))
    assert len(patches) == 12
    assert patches.slide_index.tolist() == [0] * 6 + [1] * 6
    assert patches.l0_xy[:6].tolist() == patches.l0_xy[6:].tolist()
    given = PatchDataset(both, 64, l0_xy=[[], [(5.4, 7), (-3, 2.6)]])
    assert given.slide_index.tolist() == [1, 1]
    assert given.l0_xy.tolist() == [[5, 7], [-3, 3]]


def test_tissue(path: Path) -> None:
    whole = PatchDataset(path, 128)
    half = PatchDataset(path, 128, min_tissue=0.5)
    assert len(whole) == 24
    assert len(half) == 16
    assert half.l0_xy[:, 0].max() == 384
    corners = [(448, 0), (600, 0)]  # half on the glass, and wholly
    assert PatchDataset(path, 128, l0_xy=corners, min_tissue=0.4).l0_xy.tolist() == [[448, 0]]
    with pytest.raises(UsageError, match=r"no patch of 128 pixels is left; .* or have less tissue than min_tissue=0.1"):
        PatchDataset(path, 128, l0_xy=corners[1:], min_tissue=0.1)


def test_the_share_of_tissue_is_by_area() -> None:
    l0_wh, cell = (4090, 2999), 4
    tissue = np.random.default_rng(0).random((750, 1023)) < 0.4
    each = tissue.repeat(cell, axis=0).repeat(cell, axis=1)[: l0_wh[1], : l0_wh[0]]
    corners = np.array([(0, 0), (7, 13), (1000, 2001), (4000, 2900), (-50, -10), (5000, 0), (3990, 2899)])
    found = tissue_share(tissue, l0_wh, corners, 100)
    for (x, y), share in zip(corners.tolist(), found, strict=True):
        inside = each[max(y, 0) : max(y + 100, 0), max(x, 0) : max(x + 100, 0)]
        assert share == pytest.approx(inside.sum() / 100**2, abs=1e-9)
    assert tissue_share(np.ones((750, 1023), np.bool_), l0_wh, corners[-1:], 100)[0] == pytest.approx(1, abs=1e-12)


# ---- what is in them


def test_patches_are_means_of_the_slide(path: Path, pixels: np.ndarray) -> None:
    """Of a lossless source to the digit, at steps of its levels, between them and past native."""
    exact = path.suffix == ".tif"
    for step in (1, 2, 3, 4, 8):
        side = 48
        (item,) = PatchDataset(path, side, l0_xy=[(96, 48)], downsample=step)
        want = reduced(pixels[48 : 48 + side * step, 96 : 96 + side * step], step)
        worst = np.abs(array(item).astype(int) - want).max()
        assert worst <= 1 if exact else psnr(array(item), want) > (38 if step == 1 else 33)
    (item,) = PatchDataset(path, 64, l0_xy=[(96, 48)], downsample=0.5)
    assert np.abs(reduced(array(item), 2).astype(int) - pixels[48:80, 96:128]).mean() < 4


def test_patches_of_a_cinr_file_are_what_the_slide_reads(noise: FakeFile, fake: None) -> None:
    patches = PatchDataset(noise.path, 96, downsample=2.7)
    with open_slide(noise.path) as slide:
        for item in patches:
            want = slide.read_region_at(item["l0_xy"].tolist(), (96, 96), downsample=2.7, as_array=True)
            assert np.array_equal(array(item), want)
    assert len(patches) == 8


def test_outside_is_background(path: Path) -> None:
    with open_slide(path) as slide:
        colour = slide.properties.get("openslide.background-color", "FFFFFF")
    patches = PatchDataset(path, 64, l0_xy=[(-32, 10), (WH[0] + 5, 0)])
    assert (array(patches[0])[:, :32] == tuple(bytes.fromhex(colour))).all()
    assert array(patches[0])[:, 32:].std() > 5
    assert (array(patches[1]) == tuple(bytes.fromhex(colour))).all()


def test_a_transform(path: Path) -> None:
    patches = PatchDataset(path, 32, transform=lambda image: image.float().mean())
    assert patches[0]["image"].shape == ()
    assert float(patches[0]["image"]) == pytest.approx(array(PatchDataset(path, 32)[0]).mean(), rel=1e-5)


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A pyramid as scanners write them: 1951 x 1003, and a level of the whole 4 x 4 in it, 487 x 250."""
    path = tmp_path_factory.mktemp("scanned") / "slide.tif"
    pixels = sample_region((900, 900), (1951, 1003), size_wh=(4096, 4096), seed=2)
    with tifffile.TiffWriter(path) as tiff:
        for by in (1, 4):
            level = reduced(pixels[: 1003 // by * by, : 1951 // by * by], by)
            how = {"photometric": "rgb", "tile": (128, 128), "compression": "zlib", "metadata": None}
            tiff.write(level, subfiletype=int(by > 1), **how)
    return path, pixels


def test_a_levels_pixels_are_where_they_lie_however_its_size_was_rounded(scanned: tuple[Path, np.ndarray]) -> None:
    """OpenSlide calls the level 4.0091: by the far side that is four of its pixels."""
    path, pixels = scanned
    for x, y in ((0, 0), (768, 256), (1536, 512), (1690, 742)):
        (item,) = PatchDataset(path, 64, l0_xy=[(x, y)], downsample=4)
        total = AreaSum((0, 64), (0, 64), (x / 4, y / 4), 1.0, 3)  # between its pixels, where it is asked for there
        total.add((0, 0), (487, 250), reduced(pixels[:1000, :1948], 4))
        want = total.result(np.array([255] * 3))
        assert np.abs(array(item).astype(int) - want).max() <= 1  # as near to a whole pixel as OpenSlide can be told
        if x % 4 == y % 4 == 0:
            assert np.array_equal(want, reduced(pixels[y : y + 256, x : x + 256], 4))


@pytest.mark.parametrize(("step", "level"), [(1.1, 1), (1.4028, 1), (3.3, 1), (5.7, 4)])
def test_between_levels_pixels_count_by_area(scanned: tuple[Path, np.ndarray], step: float, level: int) -> None:
    path, pixels = scanned
    x, y, side = 771, 257, 100
    (item,) = PatchDataset(path, side, l0_xy=[(x, y)], downsample=step)
    own = reduced(pixels[: 1003 // level * level, : 1951 // level * level], level)
    total = AreaSum((0, side), (0, side), (x / level, y / level), step / level, 3)
    total.add((0, 0), (own.shape[1], own.shape[0]), own)
    worst = np.abs(array(item).astype(int) - total.result(np.array([255] * 3))).max()
    assert worst <= (0 if level == 1 else 1)


def test_a_turned_photograph_is_cut_up_upright(tmp_path: Path) -> None:
    turned = np.full((384, 512, 3), 244, np.uint8)
    turned[-128:] = sample_region((900, 900), (512, 128), size_wh=(2048, 2048), seed=1)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(turned).save(tmp_path / "a.jpg", exif=exif, quality=95)
    patches = PatchDataset(tmp_path / "a.jpg", 128, min_tissue=0.5)
    assert patches.l0_xy.tolist() == [[0, y] for y in range(0, 512, 128)]  # what was below is at the left
    upright = np.rot90(turned, -1)
    for item in patches:
        x, y = item["l0_xy"].tolist()
        assert psnr(array(item), np.ascontiguousarray(upright[y : y + 128, x : x + 128])) > 30


def test_an_ome_tiff_of_planes_is_its_three_channels(tmp_path: Path, pixels: np.ndarray) -> None:
    """In tiles, where OpenSlide opens it, too, and shows the first plane in grey."""
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(tmp_path / "a.ome.tif", planes, ome=True, tile=(128, 128), photometric="minisblack")
    (item,) = PatchDataset(tmp_path / "a.ome.tif", 64, l0_xy=[(64, 32)])
    assert np.array_equal(array(item), pixels[32:96, 64:128])


@pytest.mark.parametrize(
    ("mpp", "step"), [(0.5, 2.0), (0.4998, 2.0), (0.51, 0.51 / 0.2499), (0.25, 1.0), (0.12, 0.12 / 0.2499)]
)
def test_a_scale_that_is_nearly_the_slides_own_is_that(
    mpp: float, step: float, scanned: tuple[Path, np.ndarray]
) -> None:
    """Of 256 pixels half a one: 2.0008 would be blurred, and lie between the pixels that are there."""
    patches = PatchDataset(scanned[0], 256, mpp=mpp, mpp_um=0.2499)
    assert patches.steps == (pytest.approx(step, rel=1e-9),)
    if step == 2:
        assert (patches.l0_xy % 512 == 0).all()
        x, y = patches.l0_xy[1]
        want = reduced(scanned[1][y : y + 512, x : x + 512], 2)
        assert np.abs(array(patches[1]).astype(int) - want).max() <= 1  # `reduced` rounds halves to even


def test_pictures_are_slides_too(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    patches = PatchDataset(tmp_path / "a.png", 64, min_tissue=0.5)
    assert len(patches) == 64
    assert np.array_equal(array(patches[9]), pixels[64:128, 64:128])


# ---- in batches, by whichever process


def test_a_batch_in_any_order(paths: dict[str, Path]) -> None:
    patches = PatchDataset(list(paths.values()), 128)
    numbers = [30, 2, 47, 2, -1, 0, np.int64(25), torch.tensor(7)]
    for number, item in zip(numbers, patches.__getitems__(numbers), strict=True):
        alone = patches[number]
        assert torch.equal(item["image"], alone["image"])
        assert item["slide"] == alone["slide"] == patches.slide_index[int(number)]
        assert torch.equal(item["l0_xy"], torch.from_numpy(patches.l0_xy[int(number)]))
    assert patches.__getitems__([]) == []
    for wrong in (48, -49):
        with pytest.raises(IndexError):
            patches[wrong]


def test_neighbours_in_a_batch_share_chunks(tmp_path: Path, fake: None) -> None:
    """With a cache of a row of chunks: read in the batch's own order, all would be decoded five times."""
    wide = fake_file(tmp_path / "wide.cinr", (2200, 1400))
    patches = PatchDataset(wide.path, 64, cache_bytes=14 << 20)
    patches.__getitems__(np.random.default_rng(0).permutation(len(patches)).tolist())
    assert len(patches) == 34 * 21
    assert len(FakeCoder.calls) == len(wide.payloads) == 82
    assert sum(FakeCoder.calls.values()) < 1.2 * 82


def brighter(image: torch.Tensor) -> torch.Tensor:
    return image.float() + 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 and later, of any fork beside threads
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_the_same(paths: dict[str, Path], start: str) -> None:
    patches = PatchDataset(list(paths.values()), 128, mpp=1.0, transform=brighter)
    here = DataLoader(patches, batch_size=5)
    want = list(here)  # which leaves both slides open when the workers are forked
    loader = DataLoader(patches, batch_size=5, num_workers=2, multiprocessing_context=start, timeout=100)
    for got, batch in zip(loader, want, strict=True):
        assert got.keys() == batch.keys() == {"image", "slide", "l0_xy"}
        assert all(torch.equal(got[key], batch[key]) for key in batch)
    assert want[0]["image"].shape == (5, 3, 128, 128)
    assert want[2]["slide"].tolist() == [1, 1]
    assert want[2]["l0_xy"].tolist() == [[256, 256], [512, 256]]


def test_pickled_and_in_part(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(paths["tiff"].parent)
    patches = PatchDataset([path.name for path in paths.values()], 128)
    first = patches[0]["image"]
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(patches))
    assert len(pickle.dumps(patches)) < 5000  # no pixels, no open files
    assert torch.equal(again[0]["image"], first)
    assert torch.equal(Subset(again, [0, 30]).__getitems__([0])[0]["image"], first)


def test_few_slides_are_open_at_a_time(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = inrwsi.data._open
    monkeypatch.setattr(inrwsi.data, "_open", lambda path, *rest: opened.append(path) or real(path, *rest))
    monkeypatch.setattr(inrwsi.data, "MOST_OPEN", 2)
    three = [paths["tiff"], paths["cinr"], paths["tiff"]]
    patches = PatchDataset(three, 256)
    assert len(opened) == 3
    opened.clear()
    for number in (0, 6, 1, 7, 12, 0):
        patches[number]
    assert opened == [str(three[0]), str(three[1]), str(three[2]), str(three[0])]


# ---- mistakes


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"mag": 10},
            r"mag=10 .* the objective power of .*slide.* is not known; .*PatchDataset\(.*objective_power=20\)",
        ),
        ({"mag": 10, "mpp": 1}, "mag and mpp are given; give one of them"),
        ({"downsample": -1}, "downsample is -1; it should be a positive number"),
        ({"patch_px": 0}, "patch_px is 0; it should be a whole number of pixels"),
        ({"patch_px": 2.5}, "patch_px is 2.5; it should be a whole number of pixels"),
        ({"stride_px": 0}, "stride_px is 0; it should be a whole number of pixels"),
        ({"min_tissue": 50}, "min_tissue is 50; it should be a share, from 0 to 1"),
        ({"mpp_um": -0.5}, "mpp_um is -0.5; it should be a positive number"),
        ({"patch_px": 700}, "no patch of 700 pixels is left; at 1 level-0 pixels a pixel the slides are smaller than"),
        ({"stride_px": 1, "downsample": 0.5}, "a stride of 1 is 0.5 level-0 pixels there, .* give 2 or more"),
        ({"l0_xy": [(1, 2, 3)]}, r"slide.*: l0_xy should be \(n, 2\) numbers"),
        ({"l0_xy": [(1, float("nan"))]}, r"slide.*: l0_xy should be \(n, 2\) numbers"),
        ({"l0_xy": 7}, r"slide.*: l0_xy should be \(n, 2\) numbers"),
        ({"l0_xy": [(1, 2)], "stride_px": 9}, "l0_xy and stride_px are given"),
    ],
)
def test_arguments_that_cannot_be(path: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        PatchDataset(path, **settings)


def test_of_addresses_there_are_only_cinr_files() -> None:
    fsspec.filesystem("memory").pipe("/slide.svs", b"II*\0" + bytes(60))
    with pytest.raises(UsageError, match=r"slide.svs: is no \.cinr file; OpenSlide opens others, from a local path"):
        PatchDataset("memory://slide.svs", 64)


def test_slides_that_cannot_be(paths: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "text.svs").write_text("no slide")
    for slides, sentence in (
        ([], "no slide is given"),
        ([7], r"slides is \[7\]; it should be the path of a slide, or a list of such"),
        (tmp_path / "missing.svs", r"missing.svs: no such file"),
        (tmp_path / "missing.cinr", r"missing.cinr: no such file"),
        (tmp_path / "text.svs", r"text.svs: not an image that can be read; give a slide"),
        ("http://127.0.0.1:9/slide.cinr", "127.0.0.1"),
    ):
        with pytest.raises(UsageError, match=sentence):
            PatchDataset(slides)
    with pytest.raises(UsageError, match=r"l0_xy has corners for 1 slides, and 2 are given; give \(n, 2\) for each"):
        PatchDataset(list(paths.values()), l0_xy=[[(1, 2)]])


def test_damage(tmp_path: Path, paths: dict[str, Path], fake: None) -> None:
    bad = fake_file(tmp_path / "bad.cinr", (600, 600), bad=[(0, (1, 1))])
    patches = PatchDataset(bad.path, 200)
    assert array(patches[0]).shape == (200, 200, 3)
    with pytest.raises(CorruptFile, match=r"bad\.cinr: damaged \(chunk\): octave 0, column 1, row 1"):
        patches[4]
    whole = bytearray(paths["tiff"].read_bytes())
    with tifffile.TiffFile(paths["tiff"]) as tiff:
        offset = tiff.pages[0].dataoffsets[7]
    whole[offset : offset + 40] = bytes(40)
    (tmp_path / "bad.tif").write_bytes(whole)
    patches = PatchDataset(tmp_path / "bad.tif", 128)
    with pytest.raises(UsageError, match=r"bad\.tif: the pixels at x=128, y=128 cannot be decoded .* copy it again"):
        patches[7]


def test_slides_of_16_bits_are_refused(tmp_path: Path) -> None:
    """OpenSlide would show what is brighter than 255 as white."""
    tifffile.imwrite(tmp_path / "deep.tif", np.full((300, 300), 30000, np.uint16), photometric="minisblack")
    with pytest.raises(UsageError, match=r"deep\.tif: has 1 channels of 16 bits; give a slide with 1 or 3 of 8"):
        _ = PatchDataset(tmp_path / "deep.tif", 64)[0]
