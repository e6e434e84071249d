"""Slides through napari's plug-in manager, npe2, which finds the manifest, and through napari where it is installed."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.bridges.conftest import LEVELS_WH, Bridged, decoded_chunks
from tests.fake_octaves import FakeFile

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of pydantic, about npe2 itself
    npe2 = pytest.importorskip("npe2", reason="napari's plug-in manager (extra: napari)")


@pytest.fixture(autouse=True)
def discovered() -> Any:
    """What napari does when it starts: the plug-ins of all packages that are installed."""
    manager = npe2.PluginManager.instance()
    manager.discover()
    return manager


def test_the_manifest_is_found(discovered: Any) -> None:
    manifest = discovered.get_manifest("inrwsi")
    (reader,) = manifest.contributions.readers
    assert (reader.filename_patterns, reader.accepts_directories) == (["*.cinr"], False)
    assert manifest.package_metadata.name == "inrwsi"
    readers = list(discovered.iter_compatible_readers(["slide.cinr"]))
    assert [one.command for one in readers] == ["inrwsi.get_reader"]


def test_a_slide_is_a_lazy_pyramid(slide: Bridged) -> None:
    ((levels, settings, kind),) = npe2.read([str(slide.path)], stack=False, plugin_name="inrwsi")
    assert kind == "image"
    metadata = settings.pop("metadata")
    assert metadata["inrwsi"]["openslide.objective-power"] == "20"
    units = ("micrometer", "micrometer")
    assert settings == {"name": "slide", "multiscale": True, "rgb": True, "scale": (0.4, 0.5), "units": units}
    assert [level.shape for level in levels] == [(h, w, 3) for w, h in LEVELS_WH]
    assert levels[0].chunks == ((512, 98), (512, 188), (3,))
    for level, want in zip(levels, slide.octaves, strict=True):
        assert np.array_equal(level[50:90, 60:140].compute(), want[50:90, 60:140])


def test_several_files_are_several_layers(slide: Bridged, noise: FakeFile) -> None:
    first, second = npe2.read([str(slide.path), str(noise.path)], stack=True, plugin_name="inrwsi")
    assert (first[1]["name"], second[1]["name"]) == ("slide", "noise")
    assert (second[1]["scale"], second[1]["units"]) == ((1.0, 1.0), ("pixel", "pixel"))
    assert not decoded_chunks(noise, 0)
    assert np.array_equal(second[0][0][:3, :4].compute(), noise.octaves[0][:3, :4])


def test_another_file_of_that_name_is_left_to_others(slide: Bridged, tmp_path: Path) -> None:
    other = tmp_path / "text.cinr"
    other.write_text("not a slide")
    with pytest.raises(ValueError, match=r"text\.cinr"):
        npe2.read([str(other)], stack=False, plugin_name="inrwsi")
    shutil.copy(slide.path, tmp_path / "copy.cinr")
    assert len(npe2.read([str(tmp_path / "copy.cinr")], stack=False, plugin_name="inrwsi")) == 1


@pytest.mark.filterwarnings("ignore")
def test_napari_opens_it(slide: Bridged) -> None:
    """The model of its viewer, without a screen."""
    components = pytest.importorskip("napari.components", reason="napari is not among what the tests install")
    (layer,) = components.ViewerModel().open(str(slide.path), plugin="inrwsi")
    assert (layer.name, layer.multiscale, layer.rgb, layer.ndim) == ("slide", True, True, 2)
    assert layer.level_shapes.tolist() == [[h, w] for w, h in LEVELS_WH]
    assert layer.scale.tolist() == [0.4, 0.5]
    assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
    assert np.array_equal(np.asarray(layer.data[1]), slide.octaves[1])
    assert layer.get_value((100.2, 150.3), world=True)[1].shape == (3,)
