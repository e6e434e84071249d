"""The chunk index: pages of runs, and their root. Pure functions between bytes and arrays. SPEC.md, section 7."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from crc32c import crc32c

from inrwsi.errors import Cause, CorruptFile
from inrwsi.formats.header import Header, SlideInfo

PAGE_CHUNKS = 1024  # what the writer uses: a page of coded chunks is 8 kB, a slide of 10^10 pixels has 200
MIN_PAGE_CHUNKS, MAX_PAGE_CHUNKS = 16, 2**15
MAX_PAGES = 2**20
MAX_PAYLOAD_BYTES = 2**28
TAG_BLANK, TAG_CODED = 0, 1
BLANK_OFFSET = -1

# One chunk in memory, 16 bytes. offset > 0: coded, `crc` is its payload's. offset == BLANK_OFFSET: blank, `crc` is the
# number of its colour. offset == 0: not written yet (the preamble is there, never a payload).
ENTRY = np.dtype([("offset", "<i8"), ("payload_bytes", "<u4"), ("crc", "<u4")])
# One page in the root.
PAGE = np.dtype([("offset", "<u8"), ("page_bytes", "<u4"), ("crc", "<u4")])
_ROOT = struct.Struct("<II")  # chunks a page, pages
_RUN = struct.Struct("<BH")  # tag, chunks
_OFFSET = struct.Struct("<Q")

Entries = npt.NDArray[np.void]
Extents = npt.NDArray[np.int64]  # (n, 2): first byte, byte after the last


def colour_struct(slide: SlideInfo) -> struct.Struct:
    """How the colour of a blank run stands in a page: one u8 or u16 a channel."""
    return struct.Struct(f"<{slide.channels}{'B' if slide.bit_depth == 8 else 'H'}")


def run_starts(entries: Entries) -> npt.NDArray[np.intp]:
    """Where runs start: coded chunks whose payloads lie end to end, or blank ones of one colour."""
    coded = entries["offset"] > 0
    ends = entries["offset"] + entries["payload_bytes"]
    goes_on = coded[1:] & coded[:-1] & (entries["offset"][1:] == ends[:-1])
    goes_on |= ~coded[1:] & ~coded[:-1] & (entries["crc"][1:] == entries["crc"][:-1])
    return np.flatnonzero(np.concatenate(([True], ~goes_on)))


def encode_page(entries: Entries, colours: list[bytes]) -> bytes:
    """A page's bytes; `colours[n]` is what stands for blank entries with `crc` n. At most MAX_PAGE_CHUNKS entries."""
    parts = []
    for run in np.split(entries, run_starts(entries)[1:]):
        first = run[0]
        if first["offset"] == BLANK_OFFSET:
            parts += [_RUN.pack(TAG_BLANK, len(run)), colours[first["crc"]]]
        else:
            sizes = np.column_stack((run["payload_bytes"], run["crc"])).astype("<u4")
            parts += [_RUN.pack(TAG_CODED, len(run)), _OFFSET.pack(first["offset"]), sizes.tobytes()]
    return b"".join(parts)


@dataclass(frozen=True)
class Page:
    """A parsed page: one entry a chunk, and the colours that blank entries number."""

    entries: Entries
    colours: tuple[tuple[int, ...], ...]

    def extents(self) -> Extents:
        """(n, 2) int64: where the payloads lie in the file, those that lie end to end as one."""
        if not len(self.entries):
            return np.zeros((0, 2), np.int64)
        starts = run_starts(self.entries)
        last = np.append(starts[1:], len(self.entries)) - 1
        offset = self.entries["offset"]
        ends = offset[last] + self.entries["payload_bytes"][last]
        return np.stack((offset[starts], ends), axis=1)[offset[starts] > 0]


@dataclass(frozen=True)
class Root:
    """The index root, checked against the file: where each page lies."""

    page_chunks: int
    pages: npt.NDArray[np.void]  # (page_count,) of PAGE
    chunk_count: int

    def page_range(self, page: int) -> range:
        """Numbers of the chunks in a page."""
        return range(page * self.page_chunks, min((page + 1) * self.page_chunks, self.chunk_count))


def overhead_bytes(pages: int) -> int:
    """Of an index of so many pages, each of one run of coded chunks: all but what stands there of each chunk."""
    return _ROOT.size + pages * (PAGE.itemsize + _RUN.size + _OFFSET.size)


def encode_root(page_chunks: int, pages: npt.NDArray[np.void]) -> bytes:
    """The bytes of the INDX section."""
    return _ROOT.pack(page_chunks, len(pages)) + pages.astype(PAGE).tobytes()


def parse_root(path: str, raw: bytes, header: Header, first_byte: int, taken: Extents, file_bytes: int) -> Root:
    """Check and read the index root.

    Args:
        first_byte: where the section table ends; pages lie after it.
        taken: extents of all sections, which pages must keep out of.

    Raises:
        CorruptFile: INDEX.
    """

    def bad(where: str) -> CorruptFile:
        return CorruptFile(path, Cause.INDEX, where)

    if len(raw) < _ROOT.size:
        raise bad(f"its root has {len(raw)} bytes, should have at least {_ROOT.size}")
    page_chunks, page_count = _ROOT.unpack_from(raw)
    if not MIN_PAGE_CHUNKS <= page_chunks <= MAX_PAGE_CHUNKS or page_chunks & (page_chunks - 1):
        raise bad(f"chunks a page are {page_chunks}, should be a power of two, {MIN_PAGE_CHUNKS} to {MAX_PAGE_CHUNKS}")
    want = -(-header.chunk_count // page_chunks)
    if page_count != want or want > MAX_PAGES:
        raise bad(f"it has {page_count} pages, should have {want}, at most {MAX_PAGES}")
    if len(raw) != _ROOT.size + page_count * PAGE.itemsize:
        raise bad(f"its root has {len(raw)} bytes, should have {_ROOT.size + page_count * PAGE.itemsize}")
    pages = np.frombuffer(raw, PAGE, offset=_ROOT.size)
    outside = (pages["offset"] < first_byte) | (pages["offset"] > file_bytes)  # so the sum below cannot overflow
    start = np.where(outside, 0, pages["offset"]).astype(np.int64)
    end = start + pages["page_bytes"]
    outside |= end > file_bytes
    max_bytes = page_chunks * max_run_bytes(header.slide)
    for problem, what in (
        (outside, f"outside bytes {first_byte} to {file_bytes}"),
        (pages["page_bytes"] == 0, "empty"),
        (pages["page_bytes"] > max_bytes, f"larger than {max_bytes} bytes"),
    ):
        if problem.any():
            raise bad(f"page {int(np.argmax(problem))} is {what}")
    problem = first_overlap(np.concatenate((np.stack((start, end), axis=1), taken)))
    if problem is not None:
        raise bad(f"its pages overlap each other or a section at byte {problem}")
    return Root(page_chunks, pages, header.chunk_count)


def max_run_bytes(slide: SlideInfo) -> int:
    """The most bytes that a page needs for one chunk."""
    return max(_RUN.size + _OFFSET.size + 8, _RUN.size + colour_struct(slide).size)


def first_overlap(extents: Extents) -> int | None:
    """The first byte that two of the extents share, in order of their starts; None where they are apart."""
    ordered = extents[np.argsort(extents[:, 0], kind="stable")]
    shared = np.flatnonzero(ordered[1:, 0] < ordered[:-1, 1])
    return int(ordered[shared[0] + 1, 0]) if len(shared) else None


def parse_page(path: str, number: int, raw: bytes, root: Root, slide: SlideInfo, first_byte: int, end: int) -> Page:
    """Check and read page `number`. Payloads must lie within bytes `first_byte` to `end` of the file.

    Raises:
        CorruptFile: INDEX.
    """
    chunks = root.page_range(number)

    def bad(where: str) -> CorruptFile:
        return CorruptFile(path, Cause.INDEX, f"page {number}, chunks {chunks[0]} to {chunks[-1]}: {where}")

    if crc32c(raw) != root.pages["crc"][number]:
        raise bad(f"its {len(raw)} bytes do not match their checksum")
    colour = colour_struct(slide)
    colours: dict[tuple[Any, ...], int] = {}
    entries = np.zeros(len(chunks), ENTRY)
    at = done = 0
    while at < len(raw):
        if at + _RUN.size > len(raw):
            raise bad("it ends inside a run")
        tag, count = _RUN.unpack_from(raw, at)
        at += _RUN.size
        if tag not in (TAG_BLANK, TAG_CODED):
            raise bad(f"the tag of a run is {tag}, should be {TAG_BLANK} or {TAG_CODED}")
        if not 1 <= count <= len(chunks) - done:
            raise bad(f"a run has {count} chunks where {len(chunks) - done} are left")
        run_bytes = colour.size if tag == TAG_BLANK else _OFFSET.size + 8 * count
        if at + run_bytes > len(raw):
            raise bad("it ends inside a run")
        run = entries[done : done + count]
        if tag == TAG_BLANK:
            run["offset"] = BLANK_OFFSET
            run["crc"] = colours.setdefault(colour.unpack_from(raw, at), len(colours))
        else:
            problem = _fill_coded(run, raw, at, first_byte, end)
            if problem:
                raise bad(problem)
        at += run_bytes
        done += count
    if done != len(chunks):
        raise bad(f"its runs have {done} chunks, should have {len(chunks)}")
    return Page(entries, tuple(colours))


def _fill_coded(run: Entries, raw: bytes, at: int, first_byte: int, end: int) -> str:
    """Fill the entries of a coded run that stands at `raw[at]`; what is wrong with it, or nothing."""
    (offset,) = _OFFSET.unpack_from(raw, at)
    sizes = np.frombuffer(raw, "<u4", 2 * len(run), at + _OFFSET.size).reshape(-1, 2)
    payload_bytes = sizes[:, 0].astype(np.int64)
    least, most = int(payload_bytes.min()), int(payload_bytes.max())
    if least < 1 or most > MAX_PAYLOAD_BYTES:
        return f"a payload has {least if least < 1 else most} bytes, should be from 1 to {MAX_PAYLOAD_BYTES}"
    ends = np.cumsum(payload_bytes)
    if offset < first_byte or offset + int(ends[-1]) > end:
        return f"payloads at bytes {offset} to {offset + int(ends[-1])} lie outside {first_byte} to {end}"
    run["offset"] = offset + ends - payload_bytes
    run["payload_bytes"] = sizes[:, 0]
    run["crc"] = sizes[:, 1]
    return ""
