"""OME-Zarr as zarr reads it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from inrwsi import BackendUnavailable
from inrwsi.export import export, halves
from tests.export.conftest import MPP_UM, Made, left


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
