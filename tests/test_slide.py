"""`CinrSlide` beyond what OpenSlide does, and what the contract's one slide does not show. `contract/` has the rest."""

from __future__ import annotations

import importlib
import io
import pickle
import subprocess
import sys
from ctypes import ArgumentError
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
from PIL import Image

import inrwsi
from inrwsi import CinrSlide, CorruptFile, UnsupportedVersion, UsageError, open_slide
from inrwsi.formats.header import AssociatedInfo, Header
from inrwsi.formats.writer import ContainerWriter
from inrwsi.slide_parts import DamagedSlide, whole_and_part
from tests.conftest import NOISE_WH
from tests.fake_octaves import BACKGROUND, FakeFile, area_means, fake_file, header


def blank_file(path: Path, whole: Header | None = None, **sections: Any) -> Path:
    """A file of nothing but glass, of any header."""
    whole = whole or header(NOISE_WH)
    with ContainerWriter(path, whole, **sections) as writer:
        for number in range(whole.chunk_count):
            writer.put_blank(*whole.chunk_at(number), BACKGROUND)
        writer.finish()
    return path


# ---- opening


def test_importing_the_package_imports_nothing_slow() -> None:
    code = "import sys, inrwsi; sys.exit(bool({'torch', 'openslide', 'numba'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, inrwsi; inrwsi.open_slide; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_exports_what_it_says() -> None:
    for name in inrwsi.__all__:
        assert getattr(inrwsi, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = inrwsi.nothing
    importlib.import_module("inrwsi.encode")  # whichever comes first
    assert callable(inrwsi.encode)
    with pytest.raises(TypeError, match="missing 2 required"):
        inrwsi.encode()
    assert inrwsi.encode.encode.__module__ == "inrwsi.encode"


def test_a_cinr_file_is_known_by_its_bytes_not_its_name(noise: FakeFile, tmp_path: Path) -> None:
    other = tmp_path / "slide.svs"
    other.write_bytes(noise.path.read_bytes())
    for file in (other, str(other), bytes(other), io.BytesIO(noise.path.read_bytes())):
        with open_slide(file) as opened:
            assert isinstance(opened, CinrSlide)
            assert opened.dimensions == NOISE_WH
    assert CinrSlide.detect_format(other) == "inrwsi"
    assert CinrSlide.detect_format(tmp_path) is None


def test_other_slides_are_openslides_own(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (1, 2, 3)).save(tmp_path / "picture.cinr", "png")
    with open_slide(tmp_path / "picture.cinr") as opened:
        assert type(opened) is openslide.ImageSlide
        assert opened.dimensions == (30, 20)
    with pytest.raises(UsageError, match=r"is no \.cinr file, and mpp_um is for those"):
        open_slide(tmp_path / "picture.cinr", mpp_um=0.5)
    with pytest.raises(UsageError, match=r"is no \.cinr file; OpenSlide opens others, from a local path"):
        open_slide(io.BytesIO(b"no slide at all"))
    with pytest.raises(FileNotFoundError):
        open_slide(tmp_path / "missing.cinr")
    with pytest.raises(UsageError, match="cannot be opened"):
        CinrSlide(tmp_path / "missing.cinr")


def test_a_closed_slide_reads_nothing_outside_its_levels_either(noise: FakeFile, fake: None) -> None:
    slide = open_slide(noise.path)
    assert np.asarray(slide.read_region((0, 0), 99, (4, 4))).sum() == 0
    slide.close()
    for level in (0, 99):
        with pytest.raises(ValueError, match="closed"):
            slide.read_region((0, 0), level, (4, 4))
    with pytest.raises(ValueError, match="closed"):
        slide.read_region((-100, -100), 0, (4, 4))


def test_damage_is_openslides_error_too(noise: FakeFile, tmp_path: Path, fake: None) -> None:
    cut = tmp_path / "cut.cinr"
    cut.write_bytes(noise.path.read_bytes()[:-100])
    with pytest.raises(openslide.OpenSlideError, match="truncated") as caught:
        open_slide(cut)
    assert isinstance(caught.value, CorruptFile)
    bad = fake_file(tmp_path / "bad.cinr", NOISE_WH, bad=[(0, (1, 1))])
    with open_slide(bad.path) as opened:
        with pytest.raises(openslide.OpenSlideError, match="octave 0, column 1, row 1"):
            opened.read_region((300, 300), 0, (10, 10))
        assert opened.read_region((0, 0), 0, (256, 256)).size == (256, 256)  # the error does not stay
    again = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(again, DamagedSlide)
    assert str(again) == str(caught.value)


def test_a_model_that_this_build_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedVersion, match="its model is 'later'"):
        open_slide(blank_file(tmp_path / "later.cinr", replace(header(NOISE_WH), model={"name": "later"})))


def test_closing(noise: FakeFile) -> None:
    opened = open_slide(noise.path)
    opened.close()
    opened.close()
    for error in (UsageError, ArgumentError, ValueError):
        with pytest.raises(error, match="the slide is closed"):
            opened.read_region((0, 0), 0, (1, 1))
    with pytest.raises(UsageError, match="the slide is closed"):
        opened.read_regions([((0, 0), 0, (1, 1))])
    with pytest.raises(UsageError, match="the slide is closed"):
        opened.read_region_at((10**9, 0), (1, 1))
    with pytest.raises(UsageError, match="the slide is closed"):
        pickle.dumps(opened)
    file = open(noise.path, "rb")  # noqa: SIM115
    open_slide(file).close()
    assert not file.closed
    file.close()


# ---- levels


def test_octaves_of_odd_sides(slide: CinrSlide, noise: FakeFile) -> None:
    assert slide.level_dimensions == ((1101, 699), (551, 350), (276, 175), (138, 88))
    assert slide.level_downsamples == (1.0, 2.0, 4.0, 8.0)
    for level, (w, h) in enumerate(slide.level_dimensions):
        step = 2.0**level
        want = area_means(noise, max(level - 1, 0), (0, 0), (step, step), (w, h))
        got = np.asarray(slide.read_region((-2 << level, -1 << level), level, (w + 5, h + 4)))
        assert np.abs(got[1 : h + 1, 2 : w + 2, :3] - want).max() <= (0.6 if level else 0)
        assert (got[1 : h + 1, 2 : w + 2, 3] == 255).all()
        got = got.copy()
        got[1 : h + 1, 2 : w + 2] = 0
        assert not got.any()


def test_a_pixel_is_the_same_however_the_region_is_cut(slide: CinrSlide) -> None:
    for level in range(4):
        whole = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))
        rng = np.random.default_rng(level)
        for _ in range(10):
            x, y = rng.integers((0, 0), (whole.shape[1], whole.shape[0])).tolist()
            w, h = rng.integers(1, (whole.shape[1] - x + 1, whole.shape[0] - y + 1)).tolist()
            part = np.asarray(slide.read_region((x << level, y << level), level, (w, h)))
            assert np.array_equal(part, whole[y : y + h, x : x + w])


def test_levels_of_given_downsamples(noise: FakeFile, fake: None) -> None:
    with open_slide(noise.path, levels=(1, 4, 10.5)) as slide:
        assert slide.level_dimensions == (NOISE_WH, (275, 175), (105, 67))
        assert slide.level_downsamples == (1.0, 4.0, 10.5)
        assert slide.get_best_level_for_downsample(10) == 1
        assert slide.properties["openslide.level[2].downsample"] == "10.5"
        want = area_means(noise, 1, (0, 0), (4, 4), (275, 175))
        assert np.abs(slide.read_region((0, 0), 1, (275, 175), as_array=True) - want).max() <= 0.6
        whole = slide.read_region((0, 0), 2, (105, 67))
        assert whole.getextrema()[3] == (255, 255)
        part = slide.read_region((42, 21), 2, (50, 40))
        assert np.array_equal(np.asarray(part), np.asarray(whole)[2:42, 4:54])
        assert slide.get_thumbnail((100, 100)).size == (100, 64)


def test_levels_of_the_source(noise: FakeFile, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"does not say which levels its source had; .* levels=\(1, 4, 16\)"):
        open_slide(noise.path, levels="source")
    levels = {f"openslide.level[{k}].downsample": text for k, text in enumerate(("1", "4.0003", "16.03"))}
    with open_slide(
        blank_file(tmp_path / "s.cinr", replace(header(NOISE_WH), metadata=levels)), levels="source"
    ) as slide:
        assert slide.level_downsamples == (1.0, 4.0003, 16.03)
    with open_slide(tmp_path / "s.cinr") as slide:
        assert slide.properties["openslide.level[1].downsample"] == "2"


@pytest.mark.parametrize("levels", ["pyramid", (), (2, 4), (1, 4, 4), (1, float("inf")), ("a",), 3])
def test_levels_that_cannot_be(noise: FakeFile, levels: Any) -> None:
    with pytest.raises(UsageError, match=r"levels is .*; it should be 'octaves', 'source', or downsamples"):
        open_slide(noise.path, levels=levels)


def test_positions_in_a_level() -> None:
    assert whole_and_part(7, 2) == (3, 0.5)
    assert whole_and_part(2**60 + 1, 4) == (2**58, 0.25)
    assert whole_and_part(-7, 2) == (-3, 0.0)
    assert whole_and_part(21, 10.5) == (2, 0.0)
    assert whole_and_part(-22, 10.5) == (-2, 0.0)


# ---- what it says of itself


def test_properties_and_associated_images(tmp_path: Path, fake: None) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 10, 20)).save(buffer, "png")
    source = {
        "openslide.vendor": "aperio",
        "aperio.ScannerType": "AT2",
        "openslide.mpp-x": "9",
        "openslide.bounds-x": "7",
    }
    slide = replace(header(NOISE_WH).slide, mpp_um=(0.499, 0.5), mpp_source="user", objective_power=20.0)
    infos = (AssociatedInfo("macro", 40, 30, "png"),)
    whole = replace(header(NOISE_WH), slide=slide, metadata=source, associated=infos)
    path = blank_file(tmp_path / "facts.cinr", whole, associated=(buffer.getvalue(),), icc=b"not a profile")
    with open_slide(path) as opened:
        properties = opened.properties
        assert properties["openslide.vendor"] == "inrwsi"
        assert properties["inrwsi.source-vendor"] == "aperio"
        assert properties["aperio.ScannerType"] == "AT2"
        assert float(properties["openslide.mpp-x"]) == 0.499
        assert properties["openslide.mpp-y"] == "0.5"
        assert properties["openslide.objective-power"] == "20"
        assert properties["openslide.bounds-x"] == "7"
        assert properties["openslide.background-color"] == "FAFBFC"
        assert properties["openslide.icc-size"] == "13"
        assert properties["openslide.associated.macro.width"] == "40"
        assert properties["openslide.associated.macro.height"] == "30"
        assert all(isinstance(value, str) for value in properties.values())
        assert list(opened.associated_images) == ["macro"]
        macro = opened.associated_images["macro"]
        assert (macro.mode, macro.size, macro.getpixel((0, 0))) == ("RGBA", (40, 30), (200, 10, 20, 255))
        assert "macro" in repr(opened.associated_images)
        assert opened.read_region((0, 0), 0, (4, 4)).info["icc_profile"] == b"not a profile"
        first = properties["openslide.quickhash-1"]
    with open_slide(blank_file(tmp_path / "other.cinr")) as opened:
        assert opened.properties["openslide.quickhash-1"] != first


# ---- at any scale


def test_regions_at_a_scale(noise: FakeFile, fake: None) -> None:
    with open_slide(noise.path, mpp_um=0.25, objective_power=40) as slide:
        assert (slide.mpp_um, slide.objective_power) == ((0.25, 0.25), 40.0)
        assert slide.properties["openslide.mpp-x"] == "0.25"
        want = slide.read_region((40, 80), 2, (50, 60))
        for scale in ({"mag": 10}, {"mpp": 1.0}, {"downsample": 4}, {"downsample": np.float32(4)}):
            assert slide.read_region_at((40, 80), (50, 60), **scale).tobytes() == want.tobytes()
        got = slide.read_region_at((40, 80), (50, 60), mag=10, as_array=True)
        assert got.dtype == np.uint8
        assert np.array_equal(got, np.asarray(want)[..., :3])
        assert np.array_equal(slide.read_region_at((3, 5), (7, 9), as_array=True), noise.octaves[0][5:14, 3:10])


@pytest.mark.parametrize("step", [0.3, 0.5, 0.9, 1.0, 1.37, 2.0, 3.1, 700.0])
def test_a_pixel_at_a_scale_is_the_decoders(slide: CinrSlide, noise: FakeFile, step: float) -> None:
    """Of the size asked for, whatever the step; the same for a part that begins whole pixels further on."""
    from inrwsi.decode import Decoder

    for wh in ((1, 1), (5, 3), (37, 41)):
        got = slide.read_region_at((100.0, 50.0), wh, downsample=step)
        assert got.size == wh
    with Decoder(noise.path, device="cpu") as decoder:
        want = decoder.read_region((100, 50), (60, 60), step=step)
    rgba = np.asarray(slide.read_region_at((100, 50), want.shape[1::-1], downsample=step))
    assert np.array_equal(rgba[..., :3][rgba[..., 3] > 0], want[rgba[..., 3] > 0])


@pytest.mark.parametrize("step", [0.5, 1.0, 3.0])
def test_outside_at_a_scale(slide: CinrSlide, step: float) -> None:
    corner = (NOISE_WH[0] - 30, NOISE_WH[1] - 9)
    rgba = np.asarray(slide.read_region_at(corner, (80, 40), downsample=step))
    w, h = int(30 / step), int(9 / step)
    assert (rgba[:h, :w, 3] == 255).all()
    assert not rgba[h:].any()
    assert not rgba[:, w:].any()
    rgb = slide.read_region_at(corner, (80, 40), downsample=step, as_array=True)
    assert (rgb[h:] == BACKGROUND).all()
    assert not np.asarray(slide.read_region_at((1e15, -1e15), (3, 3), downsample=step)).any()


@pytest.mark.parametrize(
    ("scale", "sentence"),
    [
        ({"mag": 20}, r"mag=20 .* the objective power of .*noise.cinr is not known; .*objective_power=20\)"),
        ({"mpp": 0.5}, r"mpp=0.5 .* the micrometres a pixel of .* is not known; .*mpp_um=0.5\)"),
        ({"mag": 20, "mpp": 0.5}, "mag and mpp are given; give one of them"),
        ({"downsample": 0}, "downsample is 0; it should be a positive number"),
        ({"downsample": float("nan")}, "downsample is nan; it should be a positive number"),
        ({"downsample": "4"}, "downsample is '4'; it should be a positive number"),
    ],
)
def test_scales_that_cannot_be(slide: CinrSlide, scale: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        slide.read_region_at((0, 0), (5, 5), **scale)


def test_other_mistakes(slide: CinrSlide, noise: FakeFile) -> None:
    with pytest.raises(openslide.OpenSlideError, match="negative width"):
        slide.read_region_at((0, 0), (-1, 5))
    with pytest.raises(UsageError, match="the output would be 2000000 x 1 pixels"):
        slide.read_region((0, 0), 0, (2_000_000, 1))
    with pytest.raises(TypeError, match="should be two numbers"):
        slide.read_region_at((float("nan"), 0), (5, 5))
    wrongs: tuple[dict[str, Any], ...] = (
        *({"mpp_um": mpp} for mpp in (-1, (0.5, 0.5, 0.5), (0.1, "a"), "0.25", (), [[0.5], [0.5, 0.5]])),
        *({"objective_power": power} for power in (0, "x", (20, 40))),
    )
    for wrong in wrongs:
        with pytest.raises(UsageError, match=next(iter(wrong))):
            open_slide(noise.path, **wrong)


def test_micrometres_may_be_an_array(noise: FakeFile) -> None:
    with open_slide(noise.path, mpp_um=np.array([0.25, 0.5])) as slide:  # type: ignore[arg-type]
        assert slide.mpp_um == (0.25, 0.5)


def test_grey_slides_are_rgb(tmp_path: Path, fake: None) -> None:
    grey = fake_file(tmp_path / "grey.cinr", (300, 200), channels=1)
    with open_slide(grey.path) as slide:
        got = slide.read_region((-1, 0), 0, (301, 200), as_array=True)
        assert np.array_equal(got[:, 1:], grey.octaves[0].repeat(3, axis=2))
        assert (got[:, 0] == BACKGROUND[0]).all()
