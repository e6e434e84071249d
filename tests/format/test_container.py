"""The container: what goes in comes out, what it costs in bytes, and how little is read to get at it."""

from __future__ import annotations

import io
import os
import random
import threading
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inrwsi.errors import BackendUnavailable, Cause, CorruptFile, UsageError
from inrwsi.formats import index
from inrwsi.formats.container import Chunk, Container
from inrwsi.formats.header import GridInfo, Header, SlideInfo
from inrwsi.formats.writer import ContainerWriter
from tests.format.files import (
    GLASS,
    CountingFile,
    colour,
    fill,
    header,
    payload,
    read_all,
    safetensors,
    small_file,
    small_header,
)


def expected(count: int) -> list[bytes | tuple[int, ...]]:
    return [colour(n) if (data := payload(n)) is None else data for n in range(count)]


def test_all_parts_come_back(tmp_path: Path) -> None:
    small_file(tmp_path / "a.cinr")
    with Container.open(tmp_path / "a.cinr") as container:
        assert container.header.chunk_count == 51
        assert read_all(container) == expected(51)
        assert container.verify() == []
        assert container.version == (1, 0)
        assert container.path == str(tmp_path / "a.cinr")
        assert container.file_bytes == os.stat(tmp_path / "a.cinr").st_size
        assert container.header == small_header()
        assert (container.icc(), container.preview(), container.weights()) == (b"icc" * 9, b"\x89PNG", safetensors())
        assert (container.associated("label"), container.associated("macro")) == (b"L", b"MM")
        assert [kind for kind, *_ in container.sections()] == ["HEAD", "ICCP", "PREV", "ASSO", "ASSO", "WGHT", "INDX"]
        with pytest.raises(UsageError, match="no associated image 'thumbnail'; there are label, macro"):
            container.associated("thumbnail")
        with pytest.raises(IndexError, match="octave 3 is not in the file"):
            container.chunk(3, (0, 0))


def test_parts_that_are_not_there_are_none(tmp_path: Path) -> None:
    head = header((16, 16), (0,))
    with ContainerWriter(tmp_path / "a.cinr", head) as out:
        out.put_chunk(0, (0, 0), b"x")
        out.finish()
    with Container.open(str(tmp_path / "a.cinr")) as container:
        assert (container.icc(), container.preview(), container.weights()) == (None, None, None)
        assert container.chunk(0, (0, 0)) == Chunk(b"x", None)
        with pytest.raises(UsageError, match="there are none"):
            container.associated("label")


def test_equal_input_gives_equal_bytes_and_any_order_equal_content(tmp_path: Path) -> None:
    first = small_file(tmp_path / "a.cinr")
    assert small_file(tmp_path / "b.cinr") == first
    order = list(range(51))
    random.Random(1).shuffle(order)
    shuffled = small_file(tmp_path / "c.cinr", order=order)
    assert shuffled != first
    assert len(shuffled) > len(first)  # more runs
    container = Container.open(io.BytesIO(shuffled))
    assert read_all(container) == expected(51)
    assert container.verify() == []


@settings(max_examples=30, deadline=None)
@given(
    wh=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    octaves=st.sets(st.integers(0, 12), min_size=1, max_size=4),
    channels=st.integers(1, 16),
    bit_depth=st.sampled_from((8, 16)),
    seed=st.integers(0, 2**32),
)
def test_any_grid_in_any_order(
    tmp_path_factory: pytest.TempPathFactory,
    wh: tuple[int, int],
    octaves: set[int],
    channels: int,
    bit_depth: int,
    seed: int,
) -> None:
    rng = random.Random(seed)
    slide = SlideInfo(*wh, channels, bit_depth, (0,) * channels)
    head = Header(slide, GridInfo(16, tuple(sorted(octaves))), {"name": "test"})
    path = tmp_path_factory.mktemp("grid") / "a.cinr"
    colours = [tuple(rng.randrange(2**bit_depth) for _ in range(channels)) for _ in range(3)]
    want: dict[int, Chunk] = {}
    with ContainerWriter(path, head) as out:
        for number in rng.sample(range(head.chunk_count), head.chunk_count):
            octave, chunk_ij = head.chunk_at(number)
            if rng.random() < 0.5:
                want[number] = Chunk(None, rng.choice(colours))
                out.put_blank(octave, chunk_ij, want[number].colour or ())
            else:
                want[number] = Chunk(rng.randbytes(rng.randrange(1, 30)), None)
                out.put_chunk(octave, chunk_ij, want[number].payload or b"")
        out.finish()
    with Container.open(path) as container:
        assert {n: container.chunk(*head.chunk_at(n)) for n in range(head.chunk_count)} == want
        assert container.verify() == []
        for octave in octaves:
            cols, rows = head.grid_wh(octave)
            entries = list(container.entries(octave))
            assert [e.chunk_ij for e in entries] == [(i, j) for j in range(rows) for i in range(cols)]
            for entry in entries:
                data = want[head.chunk_number(octave, entry.chunk_ij)].payload
                assert (entry.payload_bytes, entry.is_blank) == (len(data or b""), data is None)


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100k x 80k, nine octaves, 163,538 chunks; all glass but a 12 x 10 patch of octave 0."""
    path = tmp_path_factory.mktemp("large") / "large.cinr"
    head = Header(SlideInfo(100_000, 80_000, 3, 8, GLASS), GridInfo(256, tuple(range(9))), {"name": "test"})
    with ContainerWriter(path, head) as out:
        for octave in reversed(head.grid.octaves):
            cols, rows = head.grid_wh(octave)
            for j in range(rows):
                for i in range(cols):
                    if octave == 0 and 200 <= i < 212 and 100 <= j < 110:
                        out.put_chunk(octave, (i, j), bytes([i % 256, j]) * 2000)
                    else:
                        out.put_blank(octave, (i, j), GLASS)
        out.finish()
    return path


def test_glass_costs_next_to_nothing(large_file: Path) -> None:
    size = os.stat(large_file).st_size
    with Container.open(large_file) as container:
        head_bytes = len(container.header.to_json())
    start, root, blank_pages = 64 + 2 * 40, 8 + 160 * 16, 160 * 6
    # Each of the ten rows cuts a run of glass in two, and is a run of its own.
    patch = 10 * (6 + 11 + 12 * 8) + 120 * 4000
    assert size == start + head_bytes + root + blank_pages + patch
    assert size - patch < 4000  # for 163,418 blank chunks


def test_opening_and_a_region_read_little(large_file: Path) -> None:
    file = CountingFile(large_file.read_bytes())
    container = Container.open(file)
    assert len(file.reads) == 2  # preamble, table and header in one, the index root
    assert file.bytes_read < 20_000
    file.reads.clear()
    assert container.chunk(0, (205, 104)) == Chunk(bytes([205, 104]) * 2000, None)
    assert len(file.reads) == 2  # its index page, its payload
    assert file.reads[1][1] == 4000
    assert file.reads[0][1] == 3 * (11 + 12 * 8) + 4 * 6  # three rows of the patch and the glass between
    file.reads.clear()
    region = [container.chunk(0, (i, 104)) for i in range(204, 210)]
    assert [c.payload[:2] if c.payload else None for c in region] == [bytes([i, 104]) for i in range(204, 210)]
    assert [count for _, count in file.reads] == [4000] * 6  # the page is remembered
    file.reads.clear()
    assert container.chunk(5, (3, 3)) == Chunk(None, GLASS)
    assert file.bytes_read == 6  # a page of one blank run


def test_few_pages_are_held(large_file: Path) -> None:
    with Container.open(large_file) as container:
        assert sum(1 for _ in container.entries(0)) == 391 * 313
        assert len(container._pages) == 64


def test_index_memory_of_the_writer(tmp_path: Path) -> None:
    head = header((1024 * 16, 48), (0,))  # three pages, a row each
    with ContainerWriter(tmp_path / "a.cinr", head) as out:
        out.put_chunk(0, (5, 2), b"x")
        assert {n: page.nbytes for n, page in out._begun.items()} == {2: 16 * 1024}
        for i in range(1024):
            out.put_chunk(0, (i, 0), b"xy")
            out.put_blank(0, (i, 1), GLASS)
        assert {n: len(raw) for n, raw in out._full.items()} == {0: 11 + 8 * 1024, 1: 6}


def test_threads_may_write_and_read(tmp_path: Path) -> None:
    head = header((64 * 16, 64 * 16), (0, 1, 2))
    numbers = list(range(head.chunk_count))
    path = tmp_path / "a.cinr"
    with ContainerWriter(path, head) as out:
        run_threads([lambda part=numbers[n::4]: fill(out, head, part) for n in range(4)])  # type: ignore[misc]
        out.finish()
    found: list[object] = []
    with Container.open(path) as container, Container.open(io.BytesIO(path.read_bytes())) as from_object:
        assert container.verify() == []
        run_threads([lambda c=c: found.append(read_all(c)) for c in (container, from_object) * 2])  # type: ignore[misc]
    assert found == [expected(head.chunk_count)] * 4


def run_threads(jobs: list) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# Where a file may be


def test_a_url_opens_through_fsspec(tmp_path: Path) -> None:
    blob = small_file(tmp_path / "a.cinr")
    with fsspec.open("memory://folder/a.cinr", "wb") as file:
        file.write(blob)
    with Container.open("memory://folder/a.cinr") as container:
        assert container.path == "memory://folder/a.cinr"
        assert read_all(container) == expected(51)
    with Container.open(f"file://{tmp_path}/a.cinr") as container:
        assert container.verify() == []


@pytest.mark.parametrize(
    ("url", "error"),
    [("memory://nothing.cinr", UsageError), ("nosuchthing://a.cinr", UsageError), ("file:///nothing.cinr", UsageError)],
)
def test_a_url_that_cannot_be_opened(url: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=url):
        Container.open(url)


def test_a_url_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(BackendUnavailable, match=r"s3://bucket/a\.cinr: Install s3fs"):
        Container.open("s3://bucket/a.cinr")


def test_a_callers_file_object_stays_open_and_may_give_less_than_asked(tmp_path: Path) -> None:
    class Dribble(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(size, 7) if size and size > 0 else size)

    file = Dribble(small_file(tmp_path / "a.cinr"))
    with Container.open(file) as container:
        assert container.path == "<file object>"
        assert read_all(container) == expected(51)
    assert not file.closed


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.cinr: cannot be opened: No such file"):
        Container.open(tmp_path / "missing.cinr")
    with pytest.raises(UsageError, match="cannot be opened: Is a directory"):
        Container.open(tmp_path)
    with pytest.raises(UsageError, match="a int is given"):
        Container.open(3)  # type: ignore[arg-type]
    read_end, write_end = os.pipe()
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe, pytest.raises(UsageError, match="cannot be read at any position"):
        Container.open(pipe)


def test_a_file_that_shrinks_while_it_is_open_is_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.cinr"
    small_file(path)
    with Container.open(path) as container:
        os.truncate(path, 400)
        with pytest.raises(CorruptFile, match="were expected") as caught:
            container.chunk(0, (6, 4))
        assert caught.value.cause is Cause.TRUNCATED


def test_a_closed_container_reads_no_other_file(tmp_path: Path) -> None:
    small_file(tmp_path / "a.cinr")
    container = Container.open(tmp_path / "a.cinr")
    container.close()
    with pytest.raises(ValueError, match="closed"):
        container.icc()


def test_a_page_of_as_many_runs_as_chunks_is_within_its_limit() -> None:
    slide = SlideInfo(16, 16, 16, 16, (0,) * 16)
    entries = np.zeros(1024, index.ENTRY)
    entries["offset"] = index.BLANK_OFFSET
    entries["crc"] = np.arange(1024) % 2
    assert len(index.encode_page(entries, [bytes(32), bytes(32)])) == 1024 * index.max_run_bytes(slide)
