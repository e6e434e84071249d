"""Damage under good checksums: one case a rule of SPEC.md."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
import zstandard
from crc32c import crc32c

from inrwsi.errors import Cause, CorruptFile
from inrwsi.formats.container import Container
from tests.format.files import (
    damage,
    edited,
    only,
    payload,
    section_of,
)
from tests.format.mutate import Editor, coded_runs

PREAMBLES: list[tuple[int, str, int, Cause, str]] = [
    (8, "<H", 0, Cause.PREAMBLE, "major version is 0, should be 1"),
    (24, "<B", 1, Cause.PREAMBLE, "reserved bytes are not zero"),
    (55, "<B", 1, Cause.PREAMBLE, "reserved bytes are not zero"),
    (12, "<I", 65, Cause.PREAMBLE, "it says 65 sections, should be at most 64"),
    (12, "<I", 64, Cause.PREAMBLE, "a table of 64 sections does not fit in"),
    (16, "<Q", 2**64 - 1, Cause.TRUNCATED, "should have 18446744073709551615"),
    (16, "<Q", 0, Cause.PREAMBLE, "more than it says"),
]


@pytest.mark.parametrize(("at", "form", "value", "cause", "where"), PREAMBLES, ids=[case[-1] for case in PREAMBLES])
def test_preamble_rules(blob: bytes, at: int, form: str, value: int, cause: Cause, where: str) -> None:
    edit = Editor(blob)
    struct.pack_into(form, edit.data, at, value)
    error = only(edit.seal_preamble())
    assert error.cause is cause
    assert where in error.where


ENTRIES: list[tuple[bytes, int, str, Any, str]] = [
    (b"ICCP", 0, "<4s", b"XXXX", "kind is not one of HEAD, ICCP"),
    (b"ICCP", 0, "<4s", b"PREV", "there are 2 PREV sections, should be 0 to 1"),
    (b"HEAD", 0, "<4s", b"WGHT", "there are 0 HEAD sections, should be 1"),
    (b"INDX", 0, "<4s", b"ASSO", "there are 0 INDX sections, should be 1"),
    (b"ICCP", 4, "<I", 1, "flags are 0x1, should be 0"),
    (b"WGHT", 4, "<I", 2, "flags are 0x2, should be 0 or 1"),
    (b"ICCP", 8, "<Q", 2**64 - 1, "lie outside"),
    (b"ICCP", 8, "<Q", 63, "lie outside"),
    (b"INDX", 8, "<Q", 5, "lie outside"),
    (b"ICCP", 16, "<Q", 2**64 - 1, "lie outside"),
    (b"ICCP", 16, "<Q", 0, "it is empty, should have at least 1 byte"),
    (b"ICCP", 24, "<Q", 28, "it is stored plainly in 27 bytes, but its raw size is 28"),
    (b"ICCP", 24, "<Q", 2**24 + 1, "raw size is 16777217 bytes, should be from 1 to 16777216"),
    (b"PREV", 24, "<Q", 2**20 + 1, "raw size is 1048577 bytes"),
    (b"ASSO", 24, "<Q", 2**26 + 1, "raw size is 67108865 bytes"),
    (b"WGHT", 24, "<Q", 2**29 + 1, "raw size is 536870913 bytes"),
    (b"HEAD", 24, "<Q", 2**20 + 1, "raw size is 1048577 bytes, should be from 1 to 1048576"),
    (b"HEAD", 24, "<Q", 0, "raw size is 0 bytes"),
    (b"ICCP", 36, "<I", 7, "reserved field is 7, should be 0"),
]


@pytest.mark.parametrize(("kind", "at", "form", "value", "where"), ENTRIES, ids=[case[-1] for case in ENTRIES])
def test_section_table_rules(blob: bytes, kind: bytes, at: int, form: str, value: Any, where: str) -> None:
    error = only(edited(blob, lambda e: struct.pack_into(form, e.data, e.entry(section_of(e, kind)) + at, value)))
    assert error.cause is Cause.SECTION_TABLE
    assert where in error.where


def test_sections_that_overlap(blob: bytes) -> None:
    def change(edit: Editor) -> None:
        preview, icc = edit.entry(section_of(edit, b"PREV")), edit.entry(section_of(edit, b"ICCP"))
        edit.data[preview + 8 : preview + 16] = edit.data[icc + 8 : icc + 16]

    error = only(edited(blob, change))
    assert (error.cause, "overlap at byte" in error.where) == (Cause.SECTION_TABLE, True)


def test_a_few_bytes_cannot_claim_to_be_many(blob: bytes) -> None:
    """Refused by the table, so before 512 MiB are asked for."""

    def change(edit: Editor) -> None:
        weights = edit.entry(section_of(edit, b"WGHT"))
        struct.pack_into("<I", edit.data, weights + 4, 1)
        struct.pack_into("<QQ", edit.data, weights + 16, 20, 2**29)

    assert "20 stored bytes cannot hold 536870912 raw ones" in only(edited(blob, change)).where

    def long(edit: Editor) -> None:
        weights = edit.entry(section_of(edit, b"WGHT"))
        struct.pack_into("<I", edit.data, weights + 4, 1)
        offset = len(edit.data)
        edit.data += bytes(1026)
        struct.pack_into("<QQQ", edit.data, weights + 8, offset, 1026, 1)

    assert "1026 stored bytes are too many for 1 raw ones" in only(edited(blob, long)).where


def frames(raw: bytes) -> list[tuple[bytes, str]]:
    sound = zstandard.ZstdCompressor().compress(raw)
    return [
        (zstandard.ZstdCompressor(write_content_size=False).compress(raw), "its zstd frame says"),
        (zstandard.ZstdCompressor().compress(raw + b" "), f"its zstd frame says {len(raw) + 1} bytes"),
        (sound + b"\0", "unused data"),
        (sound + sound, "unused data"),
        (sound[:-1], "cannot be decompressed"),
        (sound[:5], "cannot be decompressed"),
        (b"\x50\x2a\x4d\x18" + sound[4:], "it is compressed, but starts with 50 2a 4d 18"),
    ]


@pytest.mark.parametrize("number", range(7))
def test_zstd_frames_are_exact(blob: bytes, number: int) -> None:
    edit = Editor(blob)
    section = section_of(edit, b"HEAD")
    raw = edit.content(section)
    stored, where = frames(raw)[number]
    entry = struct.pack("<QQQI", len(edit.data), len(stored), len(raw), crc32c(stored))
    edit.data += stored
    edit.data[edit.entry(section) + 8 : edit.entry(section) + 36] = entry
    error = only(edit.seal())
    assert error.cause is Cause.HEADER
    assert where in error.where


HEADERS: list[tuple[str, Any, str]] = [
    ("slide.width", 0, "slide.width is 0, should be from 1 to"),
    ("slide.width", 2**40 + 1, "slide.width is 1099511627777"),
    ("slide.width", 2**40, "grid is"),  # more chunks than there may be
    ("slide.width", True, "slide.width is True, should be int"),
    ("slide.width", 100.0, "slide.width is 100.0, should be int"),
    ("slide.width", "100", "slide.width is '100', should be int"),
    ("slide.channels", 17, "slide.channels is 17"),
    ("slide.channels", 4, "slide.background is (244, 243, 245), should be 4 values"),
    ("slide.bit_depth", 12, "slide.bit_depth is 12, should be 8 or 16"),
    ("slide.background", [244, 243, 256], "should be values below 2^8"),
    ("slide.background", [244, 243, -1], "should be values below 2^8"),
    ("slide.mpp_um", [0.5], "slide.mpp_um has 1 values, should have 2"),
    ("slide.mpp_um", [0.5, 0], "slide.mpp_um is (0.5, 0.0)"),
    ("slide.mpp_source", "guess", "slide.mpp_source is 'guess'"),
    ("slide.objective_power", -20, "slide.objective_power is -20.0"),
    ("slide.colour", 1, "slide.'colour' is not a known key"),
    ("grid.chunk_px", 15, "grid.chunk_px is 15, should be from 16"),
    ("grid.octaves", [], "grid.octaves is 0, should be from 1"),
    ("grid.octaves", [1, 0], "should be ascending, each once"),
    ("grid.octaves", [0, 0], "should be ascending, each once"),
    ("grid.octaves", [0, 41], "should be from 0 to 40"),
    ("grid.octaves", [0, 1], "chunk index"),  # a sound header; the index still has one page, but of 51 chunks
    ("model", {}, "model.name is None"),
    ("model", {"name": [[]]}, "model.name is"),
    ("preview_format", "gif", "preview_format is 'gif'"),
    ("preview_format", None, "the header lists 0, but there are 1 PREV sections"),
    ("associated", [], "the header lists 0, but there are 2 ASSO sections"),
    ("associated", [{"name": "Label", "width": 1, "height": 1, "format": "png"}], "associated[0].name is 'Label'"),
    ("metadata", {"a": 1}, "metadata.'a' is 1, should be str"),
    ("metadata", {"a": "x" * 1025}, "short strings"),
    ("metadata", {str(n): "" for n in range(257)}, "metadata is 257"),
    ("software", {"a": "\ud800"}, "the header is not JSON (UnicodeEncodeError)"),
    ("extra", 1, "'extra' is not a known key"),
]


@pytest.mark.parametrize(("key", "value", "where"), HEADERS, ids=[case[-1] for case in HEADERS])
def test_header_rules(blob: bytes, key: str, value: Any, where: str) -> None:
    def change(edit: Editor) -> None:
        data = json.loads(edit.content(section_of(edit, b"HEAD")))
        node = data
        *parents, last = key.split(".")
        for parent in parents:
            node = node[parent]
        node[last] = value
        edit.set_content(section_of(edit, b"HEAD"), json.dumps(data).encode())

    found = damage(edited(blob, change))[0]
    expected = {"PREV": Cause.PREVIEW, "ASSO": Cause.ASSOCIATED}.get(where[-13:-9], Cause.HEADER)
    assert found.cause is (Cause.INDEX if where == "chunk index" else expected)
    assert where in str(found)


TEXTS: list[tuple[bytes, bytes, str]] = [
    (b'"width":', b'"width":NaN,"w":', "NaN stands in the header"),
    (b'"width":', b'"width":-Infinity,"w":', "-Infinity stands in the header"),
    (b'"width":', b'"width":1,"width":', "a key stands twice"),
    (b'"width":100', b'"width":' + b"9" * 5000, "the header is not JSON (ValueError)"),
    (b'"width":100', b'"width":1e2', "slide.width is 100.0, should be int"),
    (b'"test"', b"[" * 50_000 + b"]" * 50_000, "the header is not JSON (RecursionError)"),
    (b'"test"', b'"\xff"', "the header is not JSON (UnicodeDecodeError)"),
    (b"{", b"", "the header is not JSON (JSONDecodeError)"),
    (b"{", b"\xef\xbb\xbf{", "the header is not JSON (JSONDecodeError)"),
    (b'"test"', b'"' + b"t" * 900_000 + b'"', "model.name is 'ttttt"),
]


@pytest.mark.parametrize(("old", "new", "where"), TEXTS, ids=[case[-1] for case in TEXTS])
def test_header_text_rules(blob: bytes, old: bytes, new: bytes, where: str) -> None:
    def change(edit: Editor) -> None:
        raw = edit.content(section_of(edit, b"HEAD"))
        assert old in raw
        edit.set_content(section_of(edit, b"HEAD"), raw.replace(old, new, 1))

    error = only(edited(blob, change))
    assert error.cause is Cause.HEADER
    assert where in error.where
    assert len(error.where) <= 300


def test_a_header_of_any_depth_is_read_or_refused(blob: bytes) -> None:
    """Near the interpreter's own limit, where what comes after the JSON parser may be what runs out of stack."""
    for depth in range(900, 1000, 3):
        nested = b'"name":' + b"[" * depth + b"]" * depth

        def change(edit: Editor, nested: bytes = nested) -> None:
            raw = edit.content(section_of(edit, b"HEAD")).replace(b'"name":"test"', nested)
            edit.set_content(section_of(edit, b"HEAD"), raw)

        assert only(edited(blob, change)).cause is Cause.HEADER


ROOTS: list[tuple[int, str, int, str]] = [
    (0, "<I", 0, "chunks a page are 0, should be a power of two, 16 to 32768"),
    (0, "<I", 8, "chunks a page are 8"),
    (0, "<I", 65536, "chunks a page are 65536"),
    (0, "<I", 1000, "chunks a page are 1000"),
    (0, "<I", 16, "it has 1 pages, should have 4"),
    (4, "<I", 2, "it has 2 pages, should have 1"),
    (4, "<I", 2**32 - 1, "it has 4294967295 pages, should have 1"),
    (8, "<Q", 0, "page 0 is outside bytes 344 to"),
    (8, "<Q", 343, "page 0 is outside bytes 344 to"),
    (8, "<Q", 2**64 - 1, "page 0 is outside"),
    (8, "<Q", 2**63, "page 0 is outside"),
    (8, "<Q", 350, "its pages overlap each other or a section at byte"),
    (16, "<I", 0, "page 0 is empty"),
    (16, "<I", 2**32 - 1, "page 0 is outside"),
]


@pytest.mark.parametrize(("at", "form", "value", "where"), ROOTS, ids=[case[-1] for case in ROOTS])
def test_index_root_rules(blob: bytes, at: int, form: str, value: int, where: str) -> None:
    def change(edit: Editor) -> None:
        raw = bytearray(edit.content(section_of(edit, b"INDX")))
        struct.pack_into(form, raw, at, value)
        edit.set_content(section_of(edit, b"INDX"), bytes(raw))

    error = only(edited(blob, change))
    assert error.cause is Cause.INDEX
    assert where in error.where


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda raw: raw[:7], "its root has 7 bytes, should have at least 8"),
        (lambda raw: raw + b"\0", "its root has 25 bytes, should have 24"),
        (lambda raw: raw[:-1], "its root has 23 bytes, should have 24"),
    ],
)
def test_index_root_size(blob: bytes, change: Callable[[bytes], bytes], where: str) -> None:
    changed = edited(blob, lambda e: e.set_content(section_of(e, b"INDX"), change(e.content(section_of(e, b"INDX")))))
    assert only(changed).where == where


def test_a_page_larger_than_its_runs_could_be(blob: bytes) -> None:
    changed = edited(blob, lambda e: e.set_page(0, bytes(1024 * 19 + 1)))
    assert only(changed).where == "page 0 is larger than 19456 bytes"


def coded(offset: int, *sizes: int) -> bytes:
    return struct.pack("<BHQ", 1, len(sizes), offset) + b"".join(struct.pack("<II", n, 0) for n in sizes)


def blank(count: int) -> bytes:
    return struct.pack("<BH", 0, count) + b"\1\2\3"


PAGES: list[tuple[bytes, str]] = [
    (blank(50), "its runs have 50 chunks, should have 51"),
    (blank(52), "a run has 52 chunks where 51 are left"),
    (blank(51) + blank(1), "a run has 1 chunks where 0 are left"),
    (blank(0) + blank(51), "a run has 0 chunks where 51 are left"),
    (blank(51) + b"\0", "it ends inside a run"),
    (blank(51)[:-1], "it ends inside a run"),
    (blank(50) + coded(400, 5)[:-1], "it ends inside a run"),
    (blank(50) + coded(400, 5)[:10], "it ends inside a run"),
    (b"\2" + blank(51)[1:], "the tag of a run is 2, should be 0 or 1"),
    (blank(50) + coded(400, 0), "a payload has 0 bytes, should be from 1 to 268435456"),
    (blank(50) + coded(400, 2**28 + 1), "a payload has 268435457 bytes"),
    (blank(50) + coded(400, 2**32 - 1), "a payload has 4294967295 bytes"),
    (blank(50) + coded(343, 1), "payloads at bytes 343 to 344 lie outside 344 to"),
    (blank(50) + coded(2**64 - 1, 1), "payloads at bytes 18446744073709551615 to 18446744073709551616 lie outside"),
    (blank(49) + coded(400, 1, 2**28), "payloads at bytes 400 to 268435857 lie outside"),
]


@pytest.mark.parametrize(("page", "where"), PAGES, ids=[case[-1] for case in PAGES])
def test_index_page_rules(blob: bytes, page: bytes, where: str) -> None:
    container = Container.open(io.BytesIO(edited(blob, lambda e: e.set_page(0, page))))
    with pytest.raises(CorruptFile) as caught:
        container.chunk(0, (0, 0))
    assert caught.value.cause is Cause.INDEX
    assert caught.value.where.startswith(f"page 0, chunks 0 to 50: {where}")
    with pytest.raises(CorruptFile):
        list(container.entries(0))
    assert where in container.verify()[0].where


def test_bytes_that_belong_to_nothing_or_to_two_things(blob: bytes) -> None:
    gap = edited(blob, lambda e: e.data.extend(b"hidden"))
    assert [e.where for e in damage(gap)] == [f"bytes {len(blob)} to {len(blob) + 6} belong to nothing"]

    def share(edit: Editor) -> None:
        offset, size = edit.pages()[0]
        sizes_at, payload_at, _ = list(coded_runs(edit, 0))[1]
        page = bytearray(edit.data[offset : offset + size])
        struct.pack_into("<Q", page, sizes_at - 8, payload_at - 1)
        edit.set_page(0, bytes(page))

    found = [e.where for e in damage(edited(blob, share))]
    (_, payload_at, count), *_ = list(coded_runs(Editor(blob), 0))[1:]
    end = payload_at + sum(len(payload(n) or b"") for n in (4, 5))
    assert count == 2
    assert found[:2] == [f"byte {payload_at - 1} belongs to two things", f"bytes {end - 1} to {end} belong to nothing"]
    assert len(found) == 4  # and both payloads fail their checksums


def test_an_index_that_asks_for_more_than_the_file_holds_is_not_followed(blob: bytes) -> None:
    page = b"".join(coded(344, len(blob) - 344) for _ in range(51))
    found = damage(edited(blob, lambda e: e.set_page(0, page)))
    assert {e.cause for e in found} == {Cause.INDEX}
    assert 1 <= len(found) <= 32
