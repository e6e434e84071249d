"""Writing a `.cinr` file: streamed, in any order of chunks, under its final name only when whole."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from crc32c import crc32c

from inrwsi.errors import UsageError, unwritten
from inrwsi.formats import index, layout
from inrwsi.formats.header import Header, check_colour

_serial = itertools.count()  # two writers in one process never share a temporary file


class ContainerWriter:
    """Writes one file; a context manager. Chunks may come from several threads, each once, in any order.

    Nothing stands under the final name until `finish`. Leaving the `with` block in any other way, an exception or
    Ctrl-C among them, removes the temporary file. Memory: the index takes 16 bytes a chunk in pages (1024 chunks in
    index order) that are begun, 8 bytes a coded chunk in pages that are full, and nothing in those not begun; a full
    page of one blank colour takes under 100 bytes. Equal header, sections and chunks in equal order give equal bytes.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: Header,
        *,
        weights: bytes | None = None,
        icc: bytes | None = None,
        preview: bytes | None = None,
        associated: Sequence[bytes] = (),
    ) -> None:
        """Make the temporary file and write the sections.

        Args:
            weights: what the model's annex says; compressed here.
            icc: ICC profile, raw.
            preview: a file of `header.preview_format`.
            associated: files of the formats that `header.associated` lists, in its order.

        Raises:
            UsageError: the file cannot be written.
            ValueError: sections do not fit the header or the format's limits.
        """
        if (preview is None) != (header.preview_format is None) or len(associated) != len(header.associated):
            raise ValueError("preview and associated images must be those that the header lists")
        self._header = header
        self._slide = header.slide
        self._lock = threading.Lock()
        self._begun: dict[int, index.Entries] = {}
        self._full: dict[int, bytes] = {}
        self._missing = np.full(-(-header.chunk_count // index.PAGE_CHUNKS), index.PAGE_CHUNKS, np.int32)
        self._missing[-1] -= len(self._missing) * index.PAGE_CHUNKS - header.chunk_count
        self._colours: dict[bytes, int] = {}
        self._palette: list[bytes] = []  # the same, by number
        contents = [("HEAD", header.to_json()), ("ICCP", icc), ("PREV", preview)]
        contents += [("ASSO", image) for image in associated] + [("WGHT", weights)]
        packed = [(kind, raw, *_checked(kind, raw)) for kind, raw in contents if raw is not None]
        self.path = Path(path)
        if self.path.is_dir():
            raise UsageError(f"{self.path}: is a folder; give a file name")
        self._sections: list[layout.Section] = []
        self._end = layout.PREAMBLE.size + layout.SECTION.size * (len(packed) + 1)  # and the index root
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.{next(_serial)}.partial")
        try:
            self._file = open(self._partial, "wb")  # noqa: SIM115 - open for the life of the writer
        except OSError as error:
            raise self._usage_error(error) from error
        try:
            with self._file_errors():
                self._file.write(bytes(self._end))
            for kind, raw, flags, stored in packed:
                self._append_section(kind, flags, stored, len(raw))
        except BaseException:
            self.abort()
            raise

    def __enter__(self) -> ContainerWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def put_chunk(self, octave: int, chunk_ij: tuple[int, int], payload: bytes) -> None:
        """Write the payload of chunk (column, row) of `octave`: 1 to 2^28 bytes.

        Raises:
            UsageError: the file cannot be written.
            ValueError: the payload's size, or the chunk is there already.
            IndexError: the header has no such octave or chunk.
        """
        if not 1 <= len(payload) <= index.MAX_PAYLOAD_BYTES:
            raise ValueError(f"a payload has {len(payload)} bytes, should be from 1 to {index.MAX_PAYLOAD_BYTES}")
        number, crc = self._header.chunk_number(octave, chunk_ij), crc32c(payload)
        with self._lock:
            slot = self._slot(number)
            slot["offset"], slot["payload_bytes"], slot["crc"] = self._append(payload), len(payload), crc
            self._count(number)

    def put_blank(self, octave: int, chunk_ij: tuple[int, int], colour: tuple[int, ...]) -> None:
        """Say that every pixel of chunk (column, row) of `octave` has `colour`, one value a channel.

        Raises:
            ValueError: the colour does not fit the slide, or the chunk is there already.
            IndexError: the header has no such octave or chunk.
        """
        check_colour("colour", colour, self._slide)
        packed = index.colour_struct(self._slide).pack(*colour)
        number = self._header.chunk_number(octave, chunk_ij)
        with self._lock:
            slot = self._slot(number)
            colour_number = self._colours.setdefault(packed, len(self._palette))
            if colour_number == len(self._palette):
                self._palette.append(packed)
            slot["offset"], slot["crc"] = index.BLANK_OFFSET, colour_number
            self._count(number)

    def finish(self) -> int:
        """Write the index, put the file under its final name and return its size in bytes.

        Raises:
            UsageError: the file cannot be written.
            ValueError: chunks are missing.
        """
        with self._lock:
            if self._missing.any():
                octave, chunk_ij = self._first_missing()
                raise ValueError(
                    f"{int(self._missing.sum())} chunks are missing, the first is {chunk_ij}, octave {octave}"
                )
            pages = np.zeros(len(self._missing), index.PAGE)
            for number in range(len(pages)):
                raw = self._full[number]
                pages[number] = (self._append(raw), len(raw), crc32c(raw))
            root = index.encode_root(index.PAGE_CHUNKS, pages)
            self._append_section("INDX", 0, root, len(root))
            with self._file_errors():
                self._file.seek(0)
                self._file.write(layout.pack_start(self._sections, self._end))
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()
                os.replace(self._partial, self.path)
                sync_folder(self.path.parent)
                return os.stat(self.path).st_size

    def abort(self) -> None:
        """Remove the temporary file. After `finish`, or a second time, it does nothing."""
        try:
            self._file.close()
        except OSError:  # a full disk again, on the way out
            pass
        finally:
            self._partial.unlink(missing_ok=True)

    def _append(self, data: bytes) -> int:
        """Write `data` at the end; returns its offset."""
        offset = self._end
        with self._file_errors():
            self._file.write(data)
        self._end += len(data)
        return offset

    def _append_section(self, kind: str, flags: int, stored: bytes, raw_bytes: int) -> None:
        offset = self._append(stored)
        self._sections.append(layout.Section(kind, flags, offset, len(stored), raw_bytes, crc32c(stored)))

    def _slot(self, number: int) -> np.void:
        """The index entry of a chunk that is not written yet."""
        page_number, within = divmod(number, index.PAGE_CHUNKS)
        page = self._begun.get(page_number)
        if page is None and page_number not in self._full:
            page = self._begun[page_number] = np.zeros(int(self._missing[page_number]), index.ENTRY)
        if page is None or page["offset"][within]:
            octave, chunk_ij = self._header.chunk_at(number)
            raise ValueError(f"chunk {chunk_ij} of octave {octave} is written twice")
        slot: np.void = page[within]
        return slot

    def _count(self, number: int) -> None:
        """One chunk more is written; a page that is full shrinks to its bytes."""
        page_number = number // index.PAGE_CHUNKS
        self._missing[page_number] -= 1
        if not self._missing[page_number]:
            self._full[page_number] = index.encode_page(self._begun.pop(page_number), self._palette)

    def _first_missing(self) -> tuple[int, tuple[int, int]]:
        page_number = int(np.flatnonzero(self._missing)[0])
        page = self._begun.get(page_number)
        within = 0 if page is None else int(np.flatnonzero(page["offset"] == 0)[0])
        return self._header.chunk_at(page_number * index.PAGE_CHUNKS + within)

    @contextmanager
    def _file_errors(self) -> Iterator[None]:
        """A file system's error ends the writer: what a failed write left in the file is not known."""
        try:
            yield
        except OSError as error:
            self.abort()
            raise self._usage_error(error) from error

    def _usage_error(self, error: OSError) -> UsageError:
        return unwritten(error)(f"{self.path}: cannot be written: {error.strerror or error}")


def sync_folder(folder: Path) -> None:
    """So that the new name, too, is there after a power cut: what the file was made from may be thrown away then."""
    with suppress(OSError):  # the file is whole and in place; folders of some file systems cannot be asked
        held = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(held)
        finally:
            os.close(held)


def _checked(kind: str, raw: bytes) -> tuple[int, bytes]:
    """(flags, stored bytes) of a section's content, or ValueError where it is outside the format's limits."""
    most = layout.KINDS[kind].max_raw_bytes
    if not 1 <= len(raw) <= most:
        raise ValueError(f"section {kind} would have {len(raw)} bytes, should be from 1 to {most}")
    return layout.compress(kind, raw)
