"""The lazy arrays under all bridges: the pixels of `CinrSlide`, by NumPy's rules, decoded where asked for."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inrwsi import BackendUnavailable, CorruptFile, UsageError
from inrwsi.bridges.levels import dask_array, is_cinr, open_levels
from inrwsi.geometry import Rect
from tests.bridges.conftest import LEVELS_WH, MPP_UM, NOISE_WH, WH, Bridged, decoded_chunks
from tests.fake_octaves import BACKGROUND, FakeFile, fake_file

KEYS = [
    np.s_[...],
    np.s_[3],
    np.s_[-1, -2],
    np.s_[5, 7, 2],
    np.s_[..., 1],
    np.s_[10:20],
    np.s_[10:20, 250:270],
    np.s_[:, ::-1, ::-1],
    np.s_[600:100:-37, 3:900:11],
    np.s_[-20:, -5:, 1:],
    np.s_[20:20, 4:9],
    np.s_[690:5000, np.int64(3) :],
    np.s_[..., 4, :],
]


def test_indexing_is_numpys(noise: FakeFile) -> None:
    level, want = open_levels(noise.path)[0], noise.octaves[0]
    assert (level.shape, level.dtype, level.ndim, len(level)) == (want.shape, np.uint8, 3, len(want))
    assert np.array_equal(np.asarray(level), want)
    for key in KEYS:
        got = level[key]
        assert got.shape == want[key].shape, key
        assert np.array_equal(got, want[key]), key


@pytest.mark.parametrize("key", [np.s_[0, 0, 0, 0], np.s_[..., ...], 699, np.s_[0, -1102], "image", [1, 2], 1.5])
def test_what_is_no_index(noise: FakeFile, key: Any) -> None:
    with pytest.raises(IndexError):
        open_levels(noise.path)[0][key]


def test_levels_are_the_slides_octaves(slide: Bridged) -> None:
    levels = open_levels(slide.path)
    assert [level.shape for level in levels] == [(h, w, 3) for w, h in LEVELS_WH]
    assert [level.downsample for level in levels] == [1, 2, 4]
    assert [level.pixel_size for level in levels] == [(0.4, 0.5), (0.8, 1.0), (1.6, 2.0)]
    assert {level.unit for level in levels} == {"micrometer"}
    assert {level.piece_px for level in levels} == {512}
    for level, want in zip(levels, slide.octaves, strict=True):
        assert np.array_equal(level[...], want)
        assert np.array_equal(level[101:140, 33:47], want[101:140, 33:47])
    beyond = levels[1].read(Rect(340, 300, 20, 10))
    assert np.array_equal(beyond[:5, :10], slide.octaves[1][300:, 340:])
    assert (beyond[5:] == 255).all()
    assert (beyond[:, 10:] == 255).all()


def test_scale_that_is_given_or_unknown(noise: FakeFile) -> None:
    level = open_levels(noise.path)[1]
    assert (level.pixel_size, level.unit) == ((2.0, 2.0), "pixel")
    level = open_levels(noise.path, mpp_um=0.25)[1]
    assert (level.pixel_size, level.unit) == ((0.5, 0.5), "micrometer")


def test_only_what_is_asked_for_is_decoded(noise: FakeFile) -> None:
    levels = open_levels(noise.path)
    pyramid = [dask_array(level) for level in levels]
    assert not any(decoded_chunks(noise, octave) for octave in range(4))
    part = pyramid[0][10:20, 600:610].compute()
    assert np.array_equal(part, noise.octaves[0][10:20, 600:610])
    assert decoded_chunks(noise, 0) == {(2, 0), (3, 0), (2, 1), (3, 1)}  # the piece of 512 x 512 that it is in
    assert decoded_chunks(noise, 1) == {(1, 0)}


def test_pieces_in_threads_are_the_whole(slide: Bridged) -> None:
    level = open_levels(slide.path)[0]
    rects = [Rect(x, y, 130, 90) for y in range(0, WH[1], 90) for x in range(0, WH[0], 130)]
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(level.read, rects))
    for rect, part in zip(rects, parts, strict=True):
        want = slide.octaves[0][rect.y :, rect.x :][:90, :130]
        assert np.array_equal(part[: want.shape[0], : want.shape[1]], want)
    array = dask_array(level)
    assert array.chunks == ((512, 98), (512, 188), (3,))
    assert np.array_equal(array.compute(scheduler="threads"), slide.octaves[0])


def test_a_dask_array_of_the_same_pixels_has_the_same_name(slide: Bridged, tmp_path: Path) -> None:
    other = fake_file(tmp_path / "other.cinr", WH).path
    names = [dask_array(level).name for level in (*open_levels(slide.path), *open_levels(other))]
    assert len(set(names)) == 6
    assert dask_array(open_levels(slide.path)[1]).name == names[1]
    again = pickle.loads(pickle.dumps(dask_array(open_levels(slide.path)[2])))
    assert np.array_equal(again.compute(), slide.octaves[2])


def test_damage_is_told(damaged: FakeFile) -> None:
    level = open_levels(damaged.path)[0]
    assert np.array_equal(level[:256], damaged.octaves[0][:256])
    with pytest.raises(CorruptFile, match="octave 0, column 1, row 1"):
        level[256, 256]
    with pytest.raises(CorruptFile, match="octave 0, column 1, row 1"):
        dask_array(level)[300, 300].compute()
    assert (level.read(Rect(*NOISE_WH, 3, 2)) == BACKGROUND).all()


def test_which_files_are_slides(slide: Bridged) -> None:
    assert is_cinr(slide.path)
    assert is_cinr(str(slide.path))
    assert not is_cinr(__file__)
    assert not is_cinr(slide.path.parent)
    assert not is_cinr(slide.path.parent / "none.cinr")
    with pytest.raises(UsageError, match=r"none\.cinr: cannot be opened"):
        open_levels(slide.path.parent / "none.cinr")
    with open_levels(slide.path)[0].slide as opened:
        assert opened.mpp_um == MPP_UM


@pytest.mark.parametrize(
    ("package", "bridge", "extra"),
    [
        ("zarr", "zarr", "zarr"),
        ("xarray", "xarray", "xarray"),
        ("large_image", "large_image", "large-image"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, package: str, bridge: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules['{package}'] = None\n"
        "from inrwsi import BackendUnavailable\n"
        f"try:\n    import inrwsi.bridges.{bridge}\n"
        f"except BackendUnavailable as error:\n    sys.exit('pip install inrwsi[{extra}]' not in str(error))\n"
        "sys.exit(9)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_dask_is_named(monkeypatch: pytest.MonkeyPatch, slide: Bridged) -> None:
    monkeypatch.setitem(sys.modules, "dask.array", None)
    with pytest.raises(BackendUnavailable, match=r"dask is not installed, .*; pip install inrwsi\[napari\]"):
        dask_array(open_levels(slide.path)[0])


def test_hosts_load_no_torch_when_they_start() -> None:
    """Programs import their plug-ins whatever they are asked to do."""
    code = (
        "import sys, warnings; warnings.simplefilter('ignore')\n"
        "import inrwsi.bridges.xarray, inrwsi.bridges.fsspec, inrwsi.bridges.napari, inrwsi.bridges.large_image\n"
        "sys.exit(bool({'torch', 'openslide', 'numba', 'imagecodecs'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
