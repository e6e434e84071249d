"""Reading a `.cinr` file: header, sections, chunks by number, verification. SPEC.md says what each byte means.

The container knows no model: payloads and weights are bytes. Nothing that a file says is used before it is checked
against the file's size and the limits of the format.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np
from crc32c import crc32c

from inrwsi.config import ConfigError
from inrwsi.errors import Cause, CorruptFile, UsageError
from inrwsi.formats import index, layout
from inrwsi.formats.byterange import ByteRanges, open_ranges
from inrwsi.formats.header import Header, parse_header

HEAD_READ_BYTES = 16384  # one request that covers preamble, section table and nearly always the header
CACHED_PAGES = 64  # 1 MiB of parsed index with 1024 chunks a page
_MAX_TILING_REPORTS = 16


@dataclass(frozen=True)
class Chunk:
    """What is stored for one chunk: the model's bytes, or the one colour that all its pixels have."""

    payload: bytes | None
    colour: tuple[int, ...] | None


class Entry(NamedTuple):
    """One chunk as the index has it. `payload_bytes` is 0 where it is blank."""

    chunk_ij: tuple[int, int]
    payload_bytes: int
    is_blank: bool


class Container:
    """An open `.cinr` file. All methods may be called from several threads.

    Attributes:
        path: name of the file, for messages.
        header: what the file says of its slide.
        version: (major, minor) of the format it is written in.
        file_bytes: its size.
    """

    def __init__(self, ranges: ByteRanges) -> None:
        """Read preamble, section table, header and index root; `open` is the way in.

        Raises:
            CorruptFile, UnsupportedVersion: as `open`.
        """
        self._ranges = ranges
        self.path = ranges.name
        self.file_bytes = ranges.size
        start = ranges.read(0, min(HEAD_READ_BYTES, self.file_bytes))
        preamble = layout.parse_preamble(self.path, start[: layout.PREAMBLE.size], self.file_bytes)
        self._table_end = preamble.table_end
        if len(start) < self._table_end:
            raise CorruptFile(self.path, Cause.TRUNCATED, f"{len(start)} bytes came, {self._table_end} were expected")
        self.version = (preamble.major, preamble.minor)
        self._start = start
        self._sections = layout.parse_table(self.path, start[layout.PREAMBLE.size : self._table_end], preamble)
        try:
            self.header: Header = parse_header(self._content(self._one("HEAD")), ignore_unknown=preamble.newer)
        except ConfigError as error:
            raise CorruptFile(self.path, Cause.HEADER, _cut(str(error))) from None
        self._check_header_against_sections()
        taken = np.array([(s.offset, s.end) for s in self._sections], np.int64)
        root = self._content(self._one("INDX"))
        self._root = index.parse_root(self.path, root, self.header, self._table_end, taken, self.file_bytes)
        self._start = b""  # what it was read for is read
        self._pages: OrderedDict[int, index.Page] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path_or_file: str | os.PathLike[str] | BinaryIO) -> Container:
        """Open a path, a URL (`://`, through fsspec) or a seekable binary file object, which stays the caller's.

        Raises:
            UsageError: it is not there or cannot be read.
            CorruptFile: preamble, section table, header or index root are damaged, or it is no `.cinr` file.
            UnsupportedVersion: it is of a newer major version.
        """
        ranges = open_ranges(path_or_file)
        try:
            return cls(ranges)
        except BaseException:
            ranges.close()
            raise

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; a caller's file object stays open."""
        self._ranges.close()

    # Sections

    def sections(self) -> list[tuple[str, int, int, int]]:
        """(kind, offset, stored bytes, raw bytes) of each section, in the order of the section table."""
        return [(s.kind, s.offset, s.stored_bytes, s.raw_bytes) for s in self._sections]

    def icc(self) -> bytes | None:
        """The ICC profile, as the source had it. Raises CorruptFile(ICC)."""
        return self._optional("ICCP")

    def preview(self) -> bytes | None:
        """The preview, a file of `header.preview_format`. Raises CorruptFile(PREVIEW)."""
        return self._optional("PREV")

    def weights(self) -> bytes | None:
        """The weights, decompressed: safetensors, which is the model's to check. Raises CorruptFile(WEIGHTS)."""
        return self._optional("WGHT")

    def associated(self, name: str) -> bytes:
        """The associated image `name`, a file of the format that the header lists.

        Raises:
            UsageError: there is none of this name.
            CorruptFile: ASSOCIATED.
        """
        names = [a.name for a in self.header.associated]
        if name not in names:
            raise UsageError(f"{self.path}: no associated image {name!r}; there are {', '.join(names) or 'none'}")
        return self._content([s for s in self._sections if s.kind == "ASSO"][names.index(name)])

    def _one(self, kind: str) -> layout.Section:
        return next(s for s in self._sections if s.kind == kind)

    def _optional(self, kind: str) -> bytes | None:
        return next((self._content(s) for s in self._sections if s.kind == kind), None)

    def _content(self, section: layout.Section) -> bytes:
        return layout.decompress(self.path, section, self._stored(section))

    def _stored(self, section: layout.Section) -> bytes:
        stored = self._read(section.offset, section.stored_bytes)
        if crc32c(stored) != section.crc:
            raise CorruptFile(
                self.path,
                section.cause,
                f"the {section.stored_bytes} bytes of section {section.kind} at {section.offset} do not match their "
                "checksum",
            )
        return stored

    def _check_header_against_sections(self) -> None:
        for kind, want in (
            ("ASSO", len(self.header.associated)),
            ("PREV", int(self.header.preview_format is not None)),
        ):
            have = sum(s.kind == kind for s in self._sections)
            if have != want:
                raise CorruptFile(
                    self.path,
                    layout.KINDS[kind].cause,
                    f"the header lists {want}, but there are {have} {kind} sections",
                )

    def _read(self, offset: int, count: int) -> bytes:
        if offset + count <= len(self._start):
            return self._start[offset : offset + count]
        data = self._ranges.read(offset, count)
        if len(data) < count:  # the size was checked on opening: it shrank since, or the server sends less
            raise CorruptFile(
                self.path, Cause.TRUNCATED, f"{len(data)} bytes came from {offset}, {count} were expected"
            )
        return data

    # Chunks

    def chunk(self, octave: int, chunk_ij: tuple[int, int]) -> Chunk:
        """What is stored for chunk (column, row) of `octave`. Reads its index page, where not cached, and its bytes.

        Raises:
            CorruptFile: CHUNK, or INDEX where its page is damaged; other chunks are not touched by either.
            IndexError: the file has no such octave or chunk.
        """
        number = self.header.chunk_number(octave, chunk_ij)
        page_number, within = divmod(number, self._root.page_chunks)
        page = self._page(page_number)
        offset, payload_bytes, crc = page.entries[within].item()
        if offset == index.BLANK_OFFSET:
            return Chunk(None, page.colours[crc])
        return Chunk(self._payload(number, offset, payload_bytes, crc), None)

    def entries(self, octave: int) -> Iterator[Entry]:
        """Each chunk of `octave`, row by row, as the index has it; no payload is read.

        Raises:
            CorruptFile: INDEX.
            IndexError: the file has no such octave.
        """
        cols, rows = self.header.grid_wh(octave)
        for first, sizes in self.payload_sizes(octave, 0, cols * rows):
            for number, payload_bytes in enumerate(sizes.tolist(), first):
                yield Entry((number % cols, number // cols), payload_bytes, payload_bytes == 0)

    def payload_sizes(self, octave: int, first: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        """Payload bytes of chunks `first` to `stop` of `octave`, counted row by row; a page of the index at a time.

        Yields:
            The number of the first, and (n,) uint32, 0 where a chunk is blank.

        Raises:
            CorruptFile: INDEX.
            IndexError: the file has no such octave.
        """
        begin = self.header.chunk_number(octave, (0, 0))
        page_chunks = self._root.page_chunks
        for page_number in range((begin + first) // page_chunks, (begin + stop - 1) // page_chunks + 1):
            chunks = self._root.page_range(page_number)
            low, high = max(begin + first, chunks.start), min(begin + stop, chunks.stop)
            sizes = self._page(page_number).entries["payload_bytes"]
            yield low - begin, sizes[low - chunks.start : high - chunks.start]

    def _page(self, number: int) -> index.Page:
        with self._lock:
            if number in self._pages:
                self._pages.move_to_end(number)
                return self._pages[number]
        page = self._load_page(number)  # two threads may both load it; both get the same
        with self._lock:
            self._pages[number] = page
            if len(self._pages) > CACHED_PAGES:
                self._pages.popitem(last=False)
        return page

    def _load_page(self, number: int) -> index.Page:
        offset, page_bytes, _ = self._root.pages[number].item()
        raw = self._read(offset, page_bytes)
        slide = self.header.slide
        return index.parse_page(self.path, number, raw, self._root, slide, self._table_end, self.file_bytes)

    def _payload(self, number: int, offset: int, payload_bytes: int, crc: int) -> bytes:
        payload = self._read(offset, payload_bytes)
        if crc32c(payload) != crc:
            octave, (column, row) = self.header.chunk_at(number)
            raise CorruptFile(
                self.path,
                Cause.CHUNK,
                f"octave {octave}, column {column}, row {row}: its {payload_bytes} bytes at {offset} do not match "
                "their checksum",
            )
        return payload

    # Verification

    def verify(self) -> list[CorruptFile]:
        """Check every checksum, and that each byte of the file belongs to exactly one thing. Empty: all is well.

        Damage is collected, not raised. One chunk is in memory at a time, and 16 bytes a run of the index.
        """
        found: list[CorruptFile] = []
        for section in self._sections:
            try:
                # Of a kind that only a newer minor version knows, no more than the checksum is ours to judge.
                _ = self._content(section) if section.kind in layout.KINDS else self._stored(section)
            except CorruptFile as error:
                found.append(error)
        extents, damaged_pages = [self._fixed_extents()], set()
        for number in range(len(self._root.pages)):
            try:
                extents.append(self._load_page(number).extents())
            except CorruptFile as error:
                found.append(error)
                damaged_pages.add(number)
        payload_extents = np.concatenate(extents[1:]) if len(extents) > 1 else np.zeros((0, 2), np.int64)
        found += self._tiling_errors(np.concatenate(extents), complete=not damaged_pages)
        # An index whose payloads overlap could ask for more reading than any file is long.
        if int((payload_extents[:, 1] - payload_extents[:, 0]).sum()) <= self.file_bytes:
            for number in range(len(self._root.pages)):
                if number not in damaged_pages:
                    found += self._chunk_errors(number)
        return found

    def _chunk_errors(self, page_number: int) -> Iterator[CorruptFile]:
        entries = self._load_page(page_number).entries
        first = self._root.page_range(page_number).start
        for within in np.flatnonzero(entries["offset"] > 0).tolist():
            try:
                self._payload(first + within, *entries[within].item())
            except CorruptFile as error:
                yield error

    def _fixed_extents(self) -> index.Extents:
        """Where preamble and table, the sections and the index pages lie."""
        parts = [(0, self._table_end), *((s.offset, s.end) for s in self._sections)]
        starts = self._root.pages["offset"].astype(np.int64)
        pages = np.stack((starts, starts + self._root.pages["page_bytes"]), axis=1)
        return np.concatenate((np.array(parts, np.int64), pages))

    def _tiling_errors(self, extents: index.Extents, *, complete: bool) -> list[CorruptFile]:
        """Gaps and overlaps. Where a page is damaged (`complete` is false) its chunks are no gaps, but unknown."""
        ordered = extents[np.argsort(extents[:, 0], kind="stable")]
        starts = np.append(ordered[:, 0], self.file_bytes)
        reach = np.concatenate(([0], np.maximum.accumulate(ordered[:, 1])))
        shared, unused = np.flatnonzero(starts < reach), np.flatnonzero(starts > reach)
        wheres = [f"byte {starts[i]} belongs to two things" for i in shared[:_MAX_TILING_REPORTS]]
        if complete:
            wheres += [f"bytes {reach[i]} to {starts[i]} belong to nothing" for i in unused[:_MAX_TILING_REPORTS]]
        return [CorruptFile(self.path, Cause.INDEX, where) for where in wheres]


def _cut(text: str) -> str:
    """What stands in a damaged header can be a megabyte; a message need not."""
    return text if len(text) <= 300 else text[:297] + "..."
