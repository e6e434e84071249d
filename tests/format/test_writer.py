"""A writer leaves a whole file or nothing, and refuses what the format cannot hold."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inrwsi.config import ConfigError
from inrwsi.errors import UsageError
from inrwsi.formats import writer
from inrwsi.formats.container import Chunk, Container
from inrwsi.formats.writer import ContainerWriter
from tests.format.files import GLASS, fill, header

# Leaving nothing behind


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_nothing_is_left_after_an_exception(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.cinr"
    path.write_bytes(b"what was here before")
    with pytest.raises(error), ContainerWriter(path, header()) as out:  # noqa: PT012
        out.put_blank(0, (0, 0), GLASS)
        assert [p.name for p in tmp_path.iterdir() if p != path] == [out._partial.name]
        raise error
    assert [p.name for p in tmp_path.iterdir()] == ["a.cinr"]
    assert path.read_bytes() == b"what was here before"


def test_a_clean_exit_without_finish_leaves_nothing(tmp_path: Path) -> None:
    with ContainerWriter(tmp_path / "a.cinr", header()):
        pass
    assert list(tmp_path.iterdir()) == []


def test_finish_refuses_missing_chunks_and_leaves_nothing(tmp_path: Path) -> None:
    head = header()
    with ContainerWriter(tmp_path / "a.cinr", head) as out:
        fill(out, head, [n for n in range(51) if n != 4 + 4 + 2])
        with pytest.raises(ValueError, match=r"1 chunks are missing, the first is \(2, 1\), octave 1"):
            out.finish()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_inside_the_constructor_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ContainerWriter, "_append_section", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ContainerWriter(tmp_path / "a.cinr", header())
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    head = header()
    monkeypatch.setattr(writer.os, "fsync", full)
    with ContainerWriter(tmp_path / "a.cinr", head) as out:
        fill(out, head, list(range(51)))
        with pytest.raises(UsageError, match=r"a\.cinr: cannot be written: No space left on device"):
            out.finish()
    assert list(tmp_path.iterdir()) == []


def test_a_finished_file_and_its_name_are_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before it gets its name, and the folder after: then the work that it was made of may go."""
    head, path, seen = header(), tmp_path / "a.cinr", []
    real = os.fsync

    def heard(descriptor: int) -> None:
        real(descriptor)
        seen.append((os.path.samestat(os.fstat(descriptor), tmp_path.stat()), path.exists()))

    monkeypatch.setattr(writer.os, "fsync", heard)
    with ContainerWriter(path, head) as out:
        fill(out, head, list(range(51)))
        out.finish()
    assert seen == [(False, False), (True, True)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_writer_whose_disk_was_full_once_writes_no_more(tmp_path: Path) -> None:
    out = ContainerWriter(tmp_path / "a.cinr", header())
    out._file.close()
    out._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(UsageError, match="No space left on device"):
        out.put_chunk(0, (0, 0), b"x")
    with pytest.raises(ValueError, match="closed file"):
        out.put_chunk(0, (0, 0), b"x")
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        ContainerWriter(tmp_path / "missing" / "a.cinr", header())
    with pytest.raises(UsageError, match="is a folder"):
        ContainerWriter(tmp_path, header())


# Programmers' mistakes


def test_the_writer_refuses_what_the_format_cannot_hold(tmp_path: Path) -> None:
    path, head = tmp_path / "a.cinr", header()
    with pytest.raises(ValueError, match="those that the header lists"):
        ContainerWriter(path, head, preview=b"x")
    with pytest.raises(ValueError, match="those that the header lists"):
        ContainerWriter(path, head, associated=[b"x"])
    with pytest.raises(ValueError, match="section ICCP would have 16777217 bytes, should be from 1 to 16777216"):
        ContainerWriter(path, head, icc=bytes(2**24 + 1))
    with pytest.raises(ValueError, match="section WGHT would have 0 bytes"):
        ContainerWriter(path, head, weights=b"")
    with ContainerWriter(path, head) as out:
        with pytest.raises(ValueError, match="a payload has 0 bytes"):
            out.put_chunk(0, (0, 0), b"")
        with pytest.raises(ConfigError, match="colour"):
            out.put_blank(0, (0, 0), (0, 0))
        with pytest.raises(ConfigError, match="colour"):
            out.put_blank(0, (0, 0), (0, 0, 256))
        with pytest.raises(IndexError, match="outside octave 0"):
            out.put_blank(0, (7, 0), GLASS)
        out.put_blank(0, (6, 4), GLASS)
        with pytest.raises(ValueError, match=r"chunk \(6, 4\) of octave 0 is written twice"):
            out.put_chunk(0, (6, 4), b"x")
        fill(out, head, list(range(50)))
        with pytest.raises(ValueError, match=r"chunk \(0, 0\) of octave 2 is written twice"):
            out.put_chunk(2, (0, 0), b"x")
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_name_do_not_meet(tmp_path: Path) -> None:
    head = header((16, 16), (0,))
    path = tmp_path / "a.cinr"
    with ContainerWriter(path, head) as one, ContainerWriter(path, head) as two:
        one.put_chunk(0, (0, 0), b"one")
        two.put_chunk(0, (0, 0), b"two")
        two.finish()
        one.finish()
    assert [p.name for p in tmp_path.iterdir()] == ["a.cinr"]
    with Container.open(path) as container:
        assert container.chunk(0, (0, 0)) == Chunk(b"one", None)
