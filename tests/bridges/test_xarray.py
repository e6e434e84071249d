"""Slides through `xarray.open_dataset` and `xarray.open_datatree`."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray

from inrwsi import CorruptFile, UsageError
from tests.bridges.conftest import LEVELS_WH, Bridged, decoded_chunks
from tests.fake_octaves import FakeFile


def test_the_engine_is_known_and_guessed(slide: Bridged, tmp_path: Path) -> None:
    engine = xarray.backends.list_engines()["inrwsi"]
    assert type(engine).__module__ == "inrwsi.bridges.xarray"
    assert engine.guess_can_open(slide.path)
    assert engine.guess_can_open("https://host/SLIDE.CINR")
    assert not engine.guess_can_open("slide.nc")
    assert not engine.guess_can_open(b"CDF\x01")
    with xarray.open_dataset(slide.path) as guessed:
        assert dict(guessed.sizes) == {"y": 610, "x": 700, "c": 3}
    other = shutil.copy(slide.path, tmp_path / "slide.bin")
    with xarray.open_dataset(other, engine="inrwsi") as named:
        assert dict(named.sizes) == {"y": 610, "x": 700, "c": 3}


def test_a_level_is_the_slides(slide: Bridged) -> None:
    for level, (w, h) in enumerate(LEVELS_WH):
        with xarray.open_dataset(slide.path, engine="inrwsi", level=level) as found:
            image = found["image"]
            assert (image.dims, image.shape, image.dtype) == (("y", "x", "c"), (h, w, 3), np.uint8)
            assert np.array_equal(image, slide.octaves[level])
            assert found.attrs == {
                "level": level,
                "downsample": 2**level,
                "mpp_um": (0.5, 0.4),
                "objective_power": 20.0,
            }
            assert found["y"].attrs == found["x"].attrs == {"units": "micrometer"}
            assert np.allclose(found["x"][[0, 1, -1]], (np.array([0.5, 1.5, w - 0.5]) * 0.5 * 2**level))
            assert np.allclose(found["y"][[0, 1, -1]], (np.array([0.5, 1.5, h - 0.5]) * 0.4 * 2**level))
            assert found["c"].values.tolist() == ["R", "G", "B"]
    with xarray.open_dataset(slide.path, engine="inrwsi", level=-1) as found:
        assert found.attrs["level"] == 2


def test_selection_by_micrometres(slide: Bridged) -> None:
    with xarray.open_dataset(slide.path, engine="inrwsi", level=1) as found:
        part = found["image"].sel(y=slice(40, 60), x=slice(100, 110), c="G")
        assert np.array_equal(part, slide.octaves[1][50:75, 100:110, 1])
        point = found["image"].sel(y=50.3, x=105.6, method="nearest")
        assert np.array_equal(point, slide.octaves[1][62, 105])
        some = found["image"].isel(y=[3, 300, 7], x=[9, 2])
        assert np.array_equal(some, slide.octaves[1][[3, 300, 7]][:, [9, 2]])
        assert np.array_equal(found["image"][::-50, 5], slide.octaves[1][::-50, 5])


def test_nothing_is_decoded_before_it_is_asked_for(noise: FakeFile) -> None:
    with xarray.open_dataset(noise.path, engine="inrwsi") as found:
        part = found["image"].isel(y=slice(10, 20), x=slice(300, 310))
        assert not decoded_chunks(noise, 0)
        assert np.array_equal(part, noise.octaves[0][10:20, 300:310])
        assert decoded_chunks(noise, 0) == {(1, 0)}
        assert found["x"].attrs == {"units": "pixel"}
        assert "mpp_um" not in found.attrs
    with xarray.open_dataset(noise.path, engine="inrwsi", mpp_um=0.25) as found:
        assert found["x"][0] == 0.125


def test_dask_arrays_are_of_whole_chunks(slide: Bridged) -> None:
    with xarray.open_dataset(slide.path, engine="inrwsi", chunks={}) as found:
        assert found["image"].chunks == ((512, 98), (512, 188), (3,))
        mean = found["image"].mean(("y", "x")).compute()
        assert np.allclose(mean, slide.octaves[0].mean((0, 1)))


def test_a_tree_has_every_level(slide: Bridged) -> None:
    tree = xarray.open_datatree(slide.path, engine="inrwsi", chunks={})
    assert tree.attrs == {"level_count": 3}
    assert sorted(tree.children) == ["0", "1", "2"]
    for level, octave in enumerate(slide.octaves):
        assert np.array_equal(tree[f"{level}/image"], octave)
    assert tree["1"].attrs["downsample"] == 2
    tree.close()
    with pytest.raises(ValueError, match="the slide is closed"):
        tree["2/image"].compute()
    groups = xarray.open_groups(slide.path, engine="inrwsi", mpp_um=1)
    assert list(groups) == ["/", "/0", "/1", "/2"]
    assert groups["/2"]["y"][0] == 2
    groups["/"].close()


def test_closing_and_mistakes(slide: Bridged, damaged: FakeFile) -> None:
    found = xarray.open_dataset(slide.path, engine="inrwsi", drop_variables="c")
    assert "c" not in found.coords
    found.close()
    with pytest.raises(ValueError, match="the slide is closed"):
        found["image"].load()
    for level in (3, -4, "finest", 0.5):
        with pytest.raises(UsageError, match=r"slide\.cinr: level is .*; it should be from 0 to 2"):
            xarray.open_dataset(slide.path, engine="inrwsi", level=level)
    with (
        xarray.open_dataset(damaged.path, engine="inrwsi") as found,
        pytest.raises(CorruptFile, match="octave 0, column 1, row 1"),
    ):
        found["image"].load()
