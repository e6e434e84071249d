"""Small files and counted file objects that the tests of the format share."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inrwsi.errors import CorruptFile
from inrwsi.formats.container import Container
from inrwsi.formats.header import AssociatedInfo, GridInfo, Header, SlideInfo
from inrwsi.formats.writer import ContainerWriter
from tests.format.mutate import Editor

GLASS = (244, 243, 245)


def header(wh: tuple[int, int] = (100, 70), octaves: tuple[int, ...] = (0, 1, 2), **more: Any) -> Header:
    """RGB, 8 bits, chunks of 16 pixels: 7 x 5, 4 x 3 and 2 x 2 chunks with the defaults."""
    return Header(SlideInfo(*wh, 3, 8, GLASS, (0.5, 0.25), "user"), GridInfo(16, octaves), {"name": "test"}, **more)


def safetensors(tensor: bytes = bytes(range(200)) * 3) -> bytes:
    """A safetensors file of one u8 tensor, written by hand."""
    text = f'{{"t":{{"dtype":"U8","shape":[{len(tensor)}],"data_offsets":[0,{len(tensor)}]}}}}'.encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + tensor


def payload(number: int) -> bytes | None:
    """What the small file holds for chunk `number`: None is blank, in glass or, for every ninth, another colour."""
    return None if number % 3 == 0 else bytes((number * 7 + i) % 256 for i in range(1 + number * 5 % 23))


def colour(number: int) -> tuple[int, int, int]:
    return (1, 2, 3) if number % 9 == 0 else GLASS


def fill(writer: ContainerWriter, head: Header, order: list[int]) -> None:
    """Put the chunks with these numbers."""
    for number in order:
        octave, chunk_ij = head.chunk_at(number)
        data = payload(number)
        if data is None:
            writer.put_blank(octave, chunk_ij, colour(number))
        else:
            writer.put_chunk(octave, chunk_ij, data)


def small_header() -> Header:
    """With everything a header may have, and long enough to be compressed."""
    images = (AssociatedInfo("label", 8, 8, "png"), AssociatedInfo("macro", 8, 4, "jpeg"))
    software = {f"package {n}": f"{n}.0.{n}" for n in range(9)}
    metadata = {"openslide.vendor": "aperio"}
    return header(preview_format="png", associated=images, metadata=metadata, software=software)


def small_file(path: Path, *, order: list[int] | None = None, head: Header | None = None) -> bytes:
    """Write a file with a section of every kind and, unless `head` says otherwise, 51 chunks at `path`; its bytes."""
    head = head or small_header()
    images = [b"L", b"MM"][: len(head.associated)]
    with ContainerWriter(
        path, head, weights=safetensors(), icc=b"icc" * 9, preview=b"\x89PNG", associated=images
    ) as writer:
        fill(writer, head, list(range(head.chunk_count)) if order is None else order)
        writer.finish()
    return path.read_bytes()


def read_all(container: Container) -> list[bytes | tuple[int, ...] | None]:
    """Payload or colour of every chunk, in index order."""
    found: list[bytes | tuple[int, ...] | None] = []
    for number in range(container.header.chunk_count):
        chunk = container.chunk(*container.header.chunk_at(number))
        found.append(chunk.colour if chunk.payload is None else chunk.payload)
    return found


class CountingFile(io.BytesIO):
    """A file object that keeps (offset, bytes) of each read."""

    def __init__(self, blob: bytes) -> None:
        super().__init__(blob)
        self.reads: list[tuple[int, int]] = []

    def read(self, size: int | None = -1) -> bytes:
        offset = self.tell()
        data = super().read(size)
        self.reads.append((offset, len(data)))
        return data

    @property
    def bytes_read(self) -> int:
        return sum(count for _, count in self.reads)


def damage(blob: bytes) -> list[CorruptFile]:
    """All that opening, or else verifying, finds."""
    try:
        return Container.open(io.BytesIO(blob)).verify()
    except CorruptFile as error:
        return [error]


def only(blob: bytes) -> CorruptFile:
    """The one damage that opening finds."""
    with pytest.raises(CorruptFile) as caught:
        Container.open(io.BytesIO(blob))
    return caught.value


def section_of(edit: Editor, kind: bytes) -> int:
    section = edit.find(kind)
    assert section is not None
    return section


def edited(blob: bytes, change: Callable[[Editor], None]) -> bytes:
    edit = Editor(blob)
    change(edit)
    return edit.seal()
