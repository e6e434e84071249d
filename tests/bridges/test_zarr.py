"""Slides through `zarr.open`: by a store, and by an address."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from inrwsi import CorruptFile, UsageError
from inrwsi.bridges.zarr import CinrStore
from inrwsi.metrics import psnr
from tests.bridges.conftest import LEVELS_WH, Bridged, decoded_chunks
from tests.fake_octaves import BACKGROUND, FakeFile

PIECE_BYTES = 3 * 512 * 512


def image(group: zarr.Group, level: int) -> np.ndarray:
    """(h, w, 3) of a level."""
    return np.asarray(group[str(level)]).transpose(1, 2, 0)


@pytest.fixture(params=["store", "address"])
def group(request: pytest.FixtureRequest, slide: Bridged) -> zarr.Group:
    """The same through each door."""
    opened = zarr.open(CinrStore(slide.path) if request.param == "store" else f"cinr::{slide.path}", mode="r")
    assert isinstance(opened, zarr.Group)
    return opened


def test_every_level_is_the_slides(group: zarr.Group, slide: Bridged) -> None:
    assert sorted(group.array_keys()) == ["0", "1", "2"]
    assert sorted(group.group_keys()) == []
    for level, (w, h) in enumerate(LEVELS_WH):
        array = group[str(level)]
        assert (array.shape, array.dtype, array.chunks) == ((3, h, w), np.uint8, (3, 512, 512))
        assert np.array_equal(image(group, level), slide.octaves[level])
    assert psnr(image(group, 0), slide.pixels) > 40
    part = group["0"][1, 500:600, 505:520]
    assert np.array_equal(part, slide.octaves[0][500:600, 505:520, 1])


def test_it_says_of_itself_what_readers_of_ome_zarr_ask(group: zarr.Group) -> None:
    assert group.metadata.zarr_format == 2
    (multiscale,) = group.attrs["multiscales"]
    assert multiscale["version"] == "0.4"
    assert multiscale["axes"] == [
        {"name": "c", "type": "channel"},
        {"name": "y", "type": "space", "unit": "micrometer"},
        {"name": "x", "type": "space", "unit": "micrometer"},
    ]
    scales = [(1.0, 0.4, 0.5), (1.0, 0.8, 1.0), (1.0, 1.6, 2.0)]
    assert multiscale["datasets"] == [
        {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": list(scale)}]}
        for k, scale in enumerate(scales)
    ]
    channels = group.attrs["omero"]["channels"]
    assert [channel["color"] for channel in channels] == ["FF0000", "00FF00", "0000FF"]
    assert json.loads(json.dumps(group.attrs.asdict())) == group.attrs.asdict()


def test_only_the_chunks_under_a_piece_are_decoded(noise: FakeFile) -> None:
    opened = zarr.open(CinrStore(noise.path))
    assert opened["0"].nchunks == opened["0"].nchunks_initialized == 6
    assert opened["0"].nbytes_stored() - 6 * PIECE_BYTES < 500  # what is left is .zarray
    assert not decoded_chunks(noise, 0)
    assert np.array_equal(opened["0"][:, 511, 511], noise.octaves[0][511, 511])
    assert decoded_chunks(noise, 0) == {(0, 0), (1, 0), (0, 1), (1, 1)}
    assert "unit" not in opened.attrs["multiscales"][0]["axes"][1]
    assert zarr.open(CinrStore(noise.path, mpp_um=0.25)).attrs["multiscales"][0]["axes"][1]["unit"] == "micrometer"


def test_a_piece_goes_on_beyond_the_slide_in_its_background(noise: FakeFile) -> None:
    piece = fsspec.filesystem("cinr", fo=str(noise.path)).cat_file("0/0/1/2")
    assert len(piece) == PIECE_BYTES
    pixels = np.frombuffer(piece, np.uint8).reshape(3, 512, 512).transpose(1, 2, 0)
    h, w = 699 - 512, 1101 - 1024
    assert np.array_equal(pixels[:h, :w], noise.octaves[0][512:, 1024:])
    assert (pixels[h:] == BACKGROUND).all()
    assert (pixels[:, w:] == BACKGROUND).all()


def test_a_damaged_chunk_is_not_black(damaged: FakeFile) -> None:
    """Zarr fills in what a store does not have."""
    for opened in (zarr.open(CinrStore(damaged.path)), zarr.open(f"cinr::{damaged.path}", mode="r")):
        with pytest.raises(CorruptFile, match="octave 0, column 1, row 1"):
            opened["0"][:, 300, 300]
        assert np.array_equal(opened["0"][:, 300, 600], damaged.octaves[0][300, 600])


def test_keys_of_the_store(slide: Bridged) -> None:
    store = CinrStore(slide.path)

    async def listed(prefix: str) -> list[str]:
        return [key async for key in store.list_prefix(prefix)]

    async def names(prefix: str) -> list[str]:
        return [name async for name in store.list_dir(prefix)]

    keys = sync(listed(""))
    assert len(keys) == len(set(keys)) == 2 + 3 + 4 + 1 + 1
    assert keys == [*sync(listed(".z")), *sync(listed("0")), *sync(listed("1/")), *sync(listed("2"))]
    assert sync(listed("0/0/1")) == ["0/0/1/0", "0/0/1/1"]
    assert sync(names("")) == [".zattrs", ".zgroup", "0", "1", "2"]
    assert sync(names("0")) == sync(names("0/")) == [".zarray", "0"]
    assert sync(names("0/0")) == sync(names("0/0/1")) == ["0", "1"]
    for prefix in ("3", "0/1", "0/0/2", "0/0/0/0", ".zattrs"):
        assert sync(names(prefix)) == []
    for key in keys:
        value = sync(store.get(key, default_buffer_prototype()))
        assert value is not None
        assert sync(store.getsize(key)) == len(value)
    for key in ("", "0", "zarr.json", "0/zarr.json", ".zmetadata", "3/.zarray", "0/0/2/0", "0/0/0", "0/0/00/0"):
        assert not sync(store.exists(key))
        assert sync(store.get(key, default_buffer_prototype())) is None
        with pytest.raises(FileNotFoundError):
            sync(store.getsize(key))


def test_parts_of_values(slide: Bridged) -> None:
    store = CinrStore(slide.path)
    whole = slide.octaves[2].transpose(2, 0, 1)[0, 0].tobytes()
    wanted = [
        (RangeByteRequest(10, 20), whole[10:20]),
        (OffsetByteRequest(PIECE_BYTES - 3), b"\xff" * 3),
        (SuffixByteRequest(2), b"\xff" * 2),
        (SuffixByteRequest(0), b""),
    ]
    got = sync(store.get_partial_values(default_buffer_prototype(), [("2/0/0/0", part) for part, _ in wanted]))
    assert [None if value is None else value.to_bytes() for value in got] == [value for _, value in wanted]


def test_it_is_not_written_to(slide: Bridged) -> None:
    store = CinrStore(slide.path)
    assert (store.read_only, store.supports_writes, store.supports_deletes) == (True, False, False)
    assert store.with_read_only(True) is store
    with pytest.raises(ValueError, match=r"CinrStore\(.*slide\.cinr'\)\) can only be read"):
        store.with_read_only(False)
    for mode in ("w", "a", "r+"):
        with pytest.raises(ValueError, match="read-only"):
            zarr.open(store, mode=mode)
    opened = zarr.open(store)
    for write in (lambda: opened.attrs.update(x=1), lambda: opened["0"].__setitem__(0, 0)):
        with pytest.raises(ValueError, match="read-only mode"):
            write()
    with pytest.raises(UsageError, match=r"\.zgroup: .* a slide can only be read"):
        zarr.open(f"cinr::{slide.path}").attrs["x"] = 1


def test_a_store_crosses_processes_and_closes(slide: Bridged) -> None:
    store = CinrStore(slide.path)
    again = pickle.loads(pickle.dumps(zarr.open(store)["2"]))
    assert np.array_equal(np.asarray(again).transpose(1, 2, 0), slide.octaves[2])
    assert store != again.store
    same, other = (zarr.open(one)["2"].store for one in (store, CinrStore(slide.path)))
    assert (same == store, other == store) == (True, False)
    with store:
        pass
    with pytest.raises(ValueError, match="the slide is closed"):
        zarr.open(store)
    with pytest.raises(UsageError, match=r"none\.cinr: cannot be opened"):
        CinrStore(slide.path.parent / "none.cinr")


def test_dask_reads_it_by_its_address(slide: Bridged) -> None:
    import dask.array

    array = dask.array.from_zarr(f"cinr::{slide.path}", component="1")
    assert array.chunksize == (3, 305, 350)
    assert np.array_equal(array.compute().transpose(1, 2, 0), slide.octaves[1])


def test_the_file_system(slide: Bridged, tmp_path: Path) -> None:
    files, path = fsspec.core.url_to_fs(f"cinr::{slide.path}")
    assert (type(files).__name__, path) == ("CinrFileSystem", "")
    assert files.ls("", detail=False) == [".zattrs", ".zgroup", "0", "1", "2"]
    assert files.ls("0/0/1", detail=False) == ["0/0/1/0", "0/0/1/1"]
    assert files.ls("1/.zarray") == [files.info("1/.zarray")]
    assert files.info("0/0/1/1") == {"name": "0/0/1/1", "size": PIECE_BYTES, "type": "file"}
    assert len(files.find("")) == 11
    assert files.isdir("2/0")
    assert not files.exists("3")
    with files.open("2/0/0/0") as file:
        assert file.read(5) == slide.octaves[2][0, :5, 0].tobytes()
    with pytest.raises(FileNotFoundError):
        files.cat_file("0/0/2/0")
    with pytest.raises(UsageError, match="cinr:: names no slide"):
        fsspec.filesystem("cinr")
    with fsspec.open("memory://bridges/slide.cinr", "wb") as file:
        file.write(slide.path.read_bytes())
    for options in ({}, {"memory": {"skip_instance_cache": True}}):
        opened = zarr.open("cinr::memory://bridges/slide.cinr", mode="r", storage_options=options)
        assert np.array_equal(image(opened, 2), slide.octaves[2])
    files.close()
    with pytest.raises(ValueError, match="the slide is closed"):
        files.cat_file("2/0/0/0")
