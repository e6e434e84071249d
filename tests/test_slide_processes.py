"""`CinrSlide` read many regions at once: in batches, from threads, in forks and in DataLoader workers."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from inrwsi import CinrSlide, open_slide
from inrwsi.sample import sample_region
from tests.fake_octaves import FakeFile


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that decodes in any process: 600 x 400 pixels at 0.5 um and 20x."""
    from inrwsi.encode import encode
    from inrwsi.formats.source import open_source
    from inrwsi.options import EncodeOptions

    path = tmp_path_factory.mktemp("real") / "slide.cinr"
    pixels = sample_region((900, 900), (600, 400), size_wh=(2048, 2048), seed=1)
    with open_source(pixels, mpp_um=0.5, objective_power=20) as source:
        encode(source, path, EncodeOptions(effort="fast", device="cpu"))
    return path


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("as_array", [False, True])
def test_regions_in_a_batch(slide: CinrSlide, two_threads: None, as_array: bool) -> None:
    regions = [((x << k, 64 << k), k, (70, 50)) for k in range(4) for x in range(0, 120, 40)]
    regions += [((0, 0), 9, (4, 4)), ((0, 0), 0, (0, 3))]
    got = slide.read_regions(regions, as_array=as_array)
    for region, one in zip(regions, got, strict=True):
        want = slide.read_region(*region, as_array=as_array)
        assert type(one) is type(want)
        assert np.array_equal(np.asarray(one), np.asarray(want))
    corners = [(x, 33) for x in range(-20, 1100, 300)]
    got = slide.read_regions_at(corners, (31, 17), downsample=2.5, as_array=as_array)
    if as_array:
        assert got.shape == (4, 17, 31, 3)
        assert slide.read_regions_at([], (31, 17), as_array=True).shape == (0, 17, 31, 3)
    for corner, one in zip(corners, got, strict=True):
        want = slide.read_region_at(corner, (31, 17), downsample=2.5, as_array=as_array)
        assert np.array_equal(np.asarray(one), np.asarray(want))
    assert slide.read_regions([]) == []
    with pytest.raises(openslide.OpenSlideError):
        slide.read_regions([((0, 0), 0, (5, 5)), ((0, 0), 0, (-5, 5))])


def test_batches_from_several_threads(slide: CinrSlide, noise: FakeFile, two_threads: None) -> None:
    regions = [((x, y), 0, (60, 60)) for x in range(0, 1000, 90) for y in range(0, 600, 90)]
    with ThreadPoolExecutor(4) as pool:
        for batch in pool.map(lambda _: slide.read_regions(regions, as_array=True), range(8)):
            for (x, y), _, _ in regions[:1]:
                assert np.array_equal(batch[0], noise.octaves[0][y : y + 60, x : x + 60])
            assert len(batch) == len(regions)


def test_pickling(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(real.parent)
    with open_slide(real.name, mpp_um=0.3, levels=(1, 4)) as slide:
        monkeypatch.chdir("/")
        with pickle.loads(pickle.dumps(slide)) as again:
            assert again.level_downsamples == (1.0, 4.0)
            assert again.mpp_um == (0.3, 0.3)
            assert again.read_region((9, 9), 1, (20, 20)).tobytes() == slide.read_region((9, 9), 1, (20, 20)).tobytes()
    with open_slide(io.BytesIO(real.read_bytes())) as slide, pickle.loads(pickle.dumps(slide)) as again:
        assert again.dimensions == slide.dimensions
    with open(real, "rb") as file, open_slide(file) as slide, pickle.loads(pickle.dumps(slide)) as again:
        assert again.dimensions == slide.dimensions


class Patches(Dataset[torch.Tensor]):
    """What a training loop might read."""

    def __init__(self, slide: CinrSlide) -> None:
        self.slide = slide

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.slide.read_region_at((index * 64, 32), (64, 64), mag=10, as_array=True))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 and later, of any fork beside threads
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_data_loader_workers(real: Path, two_threads: None, start: str) -> None:
    with open_slide(real) as slide:
        patches = Patches(slide)
        want = torch.stack([patches[i] for i in range(6)])  # which leaves the decoder, its pool and its cache behind
        loader = DataLoader(patches, batch_size=3, num_workers=2, multiprocessing_context=start, timeout=60)
        assert torch.equal(torch.cat(list(loader)), want)


def read_in_child(slide: Any, queue: Any) -> None:
    try:
        region = slide.read_region((10, 10), 0, (100, 100), as_array=True)
        batch = slide.read_regions([((i * 64, 0), 0, (64, 64)) for i in range(6)], as_array=True)
        thumb = np.asarray(slide.get_thumbnail((64, 64)))
        queue.put((region, batch, thumb))
    except BaseException as error:
        queue.put(error)


def in_a_fork(slide: Any) -> Any:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(slide, queue))
    child.start()
    try:
        return queue.get(timeout=60)
    finally:
        child.kill()
        child.join()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_beside_threads_that_read(real: Path, two_threads: None) -> None:
    """OpenMP has a team in this thread, and other threads hold the slide's locks, when the fork is made."""
    with open_slide(real, cache_bytes=0) as slide:
        torch.nn.functional.conv2d(torch.randn(1, 64, 128, 128), torch.randn(64, 64, 3, 3))
        region = slide.read_region((10, 10), 0, (100, 100), as_array=True)
        stop = threading.Event()

        def keep_reading() -> None:
            while not stop.is_set():
                slide.read_region((200, 100), 0, (300, 300))

        readers = [threading.Thread(target=keep_reading) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            for _ in range(3):
                there = in_a_fork(slide)
                assert not isinstance(there, BaseException), there
                assert np.array_equal(there[0], region)
        finally:
            stop.set()
            for reader in readers:
                reader.join()
        assert len(there[1]) == 6
        assert there[2].shape == (43, 64, 3)
        assert np.array_equal(slide.read_region((10, 10), 0, (100, 100), as_array=True), region)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forks_of_slides_that_were_opened_as_file_objects(real: Path) -> None:
    with open_slide(io.BytesIO(real.read_bytes())) as slide:
        assert isinstance(in_a_fork(slide), tuple)
    with open(real, "rb") as file, open_slide(file) as slide:
        assert isinstance(in_a_fork(slide), tuple)

    class Own(io.BytesIO):
        """Of which nothing is known."""

    class Wrapped:
        def __init__(self) -> None:
            held = Own(real.read_bytes())
            self.read, self.seek = held.read, held.seek

    with open_slide(Wrapped()) as slide:  # type: ignore[arg-type]
        assert "a file object cannot be shared by processes" in str(in_a_fork(slide))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fork_after_the_file_was_replaced(real: Path, noise: FakeFile, tmp_path: Path) -> None:
    path = tmp_path / "s.cinr"
    path.write_bytes(real.read_bytes())
    with open_slide(path) as slide:
        other = tmp_path / "other"
        other.write_bytes(noise.path.read_bytes())
        other.replace(path)
        assert "is not the slide any more that it was" in str(in_a_fork(slide))
