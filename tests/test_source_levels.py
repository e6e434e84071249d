"""`levels="source"`: the pyramid of the slide that was encoded, as OpenSlide states it there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from inrwsi import UsageError, open_slide
from inrwsi.encode import encode
from inrwsi.formats.source import open_source
from inrwsi.metrics import psnr
from inrwsi.options import EncodeOptions
from inrwsi.sample import sample_region
from inrwsi.slide_parts import Level, source_levels
from tests.fake_octaves import header

# At 1/4 a column and a row are cut, and at 1/16 too: OpenSlide calls them 4.0117 and 16.18.
WH = (1030, 771)
FACTORS = (1, 4, 16)
SIZES = ((1030, 771), (257, 192), (64, 48))


def reduced(pixels: np.ndarray, by: int) -> np.ndarray:
    """Means of by x by pixels; what is left at the right and at the bottom is cut."""
    h, w = pixels.shape[0] // by, pixels.shape[1] // by
    whole = pixels[: h * by, : w * by].reshape(h, by, w, by, 3)
    return whole.mean(axis=(1, 3)).round().astype(np.uint8)


def write_pyramid(path: Path, levels: list[np.ndarray], **options: object) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for number, pixels in enumerate(levels):
            reduced_page = {"subfiletype": 1} if number else {}
            tiff.write(pixels, photometric="rgb", tile=(256, 256), metadata=None, **reduced_page, **options)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A TIFF pyramid, and the `.cinr` file that was made of it."""
    folder = tmp_path_factory.mktemp("levels")
    tiff, cinr = folder / "slide.tif", folder / "slide.cinr"
    pixels = sample_region((900, 900), WH, size_wh=(4096, 4096), seed=1)
    write_pyramid(tiff, [reduced(pixels, by) for by in FACTORS], compression="zlib")
    with open_source(tiff) as source:
        encode(source, cinr, EncodeOptions(effort="fast", quality=95, device="cpu"))
    return tiff, cinr


def test_levels_are_openslides_of_the_source(paths: tuple[Path, Path]) -> None:
    with openslide.OpenSlide(paths[0]) as theirs, open_slide(paths[1], levels="source") as ours:
        assert theirs.level_dimensions == SIZES
        assert theirs.level_downsamples[1] == pytest.approx(4.0117, abs=1e-4)
        assert ours.level_count == theirs.level_count == 3
        assert ours.level_dimensions == theirs.level_dimensions
        assert ours.level_downsamples == theirs.level_downsamples
        for wanted in (0.5, 1, 2, 4, 4.0117, 16, 16.2, 100):
            assert ours.get_best_level_for_downsample(wanted) == theirs.get_best_level_for_downsample(wanted)
        for key in (f"openslide.level[{k}].{what}" for k in range(3) for what in ("width", "height", "downsample")):
            assert float(ours.properties[key]) == float(theirs.properties[key])
    with open_slide(paths[1]) as ours:
        assert ours.level_downsamples == (1.0, 2.0, 4.0, 8.0)
        assert ours.properties["openslide.level-count"] == "4"


def test_pixels_are_those_of_the_sources_levels(paths: tuple[Path, Path]) -> None:
    """The last corner too. Pixels of 4.0117, and not of 4, would be of 24 dB at levels 1 and 2."""
    with openslide.OpenSlide(paths[0]) as theirs, open_slide(paths[1], levels="source") as ours:
        for level, least_db in enumerate((34, 38, 32)):
            w, h = theirs.level_dimensions[level]
            want, got = (np.asarray(s.read_region((0, 0), level, (w, h))) for s in (theirs, ours))
            assert np.array_equal(want[..., 3], got[..., 3])
            for part in (np.s_[:, :], np.s_[-48:, -48:]):
                assert psnr(*(np.ascontiguousarray(p[part][..., :3]) for p in (want, got))) > least_db


def levels_of(path: Path) -> tuple[Level, ...]:
    """Those that a file encoded from a slide would have, without encoding it."""
    with open_source(path) as source:
        return source_levels(replace(header((source.width, source.height)), metadata=source.metadata))


def test_levels_of_a_long_narrow_slide(tmp_path: Path) -> None:
    """OpenSlide's downsample is the mean of both sides' quotients, from which neither side can be told."""
    sizes = [(3001, 203), (750, 50), (187, 12)]
    pages = [np.full((h, w, 3), 200, np.uint8) for w, h in sizes]
    write_pyramid(tmp_path / "a.tif", pages)
    found = levels_of(tmp_path / "a.tif")
    with openslide.OpenSlide(tmp_path / "a.tif") as slide:
        assert [level.wh for level in found] == sizes == list(slide.level_dimensions)
        assert [level.downsample for level in found] == list(slide.level_downsamples)
        assert round(3001 / slide.level_downsamples[1]) == 745
    assert [level.step for level in found] == [1, 4, 16]


def test_levels_of_a_pyramid_that_openslide_does_not_open(tmp_path: Path) -> None:
    grey = np.zeros((300, 500), np.uint16)
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as tiff:
        tiff.write(grey, subifds=1, tile=(128, 128), metadata={"axes": "YX"})
        tiff.write(grey[:100, :167], subfiletype=1, tile=(128, 128))
    found = levels_of(tmp_path / "a.ome.tif")
    assert found == (Level((500, 300), 1, 1), Level((167, 100), (500 / 167 + 3) / 2, 3))


def test_a_slide_of_one_level_says_so_and_a_picture_does_not(tmp_path: Path) -> None:
    write_pyramid(tmp_path / "a.tif", [np.zeros((300, 500, 3), np.uint8)])
    assert levels_of(tmp_path / "a.tif") == (Level((500, 300), 1, 1),)
    with open_source(np.zeros((30, 50, 3), np.uint8)) as source:
        assert source.metadata == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"level[0].width": "1029"},  # of another slide
        {"level[0].downsample": "2"},
        {"level[1].downsample": "1"},
        {"level[1].downsample": "0"},
        {"level[1].downsample": "inf"},
        {"level[1].downsample": "nan"},
        {"level[1].downsample": "four"},
        {"level[1].height": "0"},
        {"level[1].height": "-3"},
        {"level[1].width": "1099511627776"},
        {"level[1].width": "2.5"},
    ],
)
def test_what_cannot_be_is_not_believed(changes: dict[str, str]) -> None:
    sides = {"level[0].width": "1030", "level[0].height": "771", "level[1].width": "257", "level[1].height": "192"}
    facts = {**sides, "level[0].downsample": "1", "level[1].downsample": "4.0117"}

    def found(entries: dict[str, str]) -> tuple[Level, ...]:
        whole = replace(header(WH), metadata={f"openslide.{key}": value for key, value in entries.items()})
        return source_levels(whole)

    assert found(facts) == (Level((1030, 771), 1, 1), Level((257, 192), 4.0117, 4))
    assert found(facts | changes) == ()


def test_a_file_that_does_not_say(paths: tuple[Path, Path], tmp_path: Path) -> None:
    with open_source(np.zeros((40, 50, 3), np.uint8)) as source:
        encode(source, tmp_path / "a.cinr", EncodeOptions(effort="fast", device="cpu"))
    with pytest.raises(UsageError, match="does not say which levels its source had"):
        open_slide(tmp_path / "a.cinr", levels="source")
