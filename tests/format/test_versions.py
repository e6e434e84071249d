"""What a reader makes of newer files."""

from __future__ import annotations

import io
import json
import struct

import pytest

from inrwsi.errors import Cause, UnsupportedVersion
from inrwsi.formats.container import Container
from tests.format.files import (
    only,
    read_all,
    section_of,
)
from tests.format.mutate import Editor


def versioned(edit: Editor, major: int, minor: int) -> bytes:
    struct.pack_into("<HH", edit.data, 8, major, minor)
    return edit.seal()


def test_a_newer_major_version_is_refused_as_such(blob: bytes) -> None:
    with pytest.raises(UnsupportedVersion, match=r"of format version 2\.7; this build reads up to 1\.x"):
        Container.open(io.BytesIO(versioned(Editor(blob), 2, 7)))


def newer_file(blob: bytes) -> Editor:
    """With a section of a new kind, of a new flag, new keys at two depths and new meaning in reserved fields."""
    edit = Editor(blob)
    icc = edit.entry(section_of(edit, b"ICCP"))
    struct.pack_into("<4sI", edit.data, icc, b"NEW1", 1)
    struct.pack_into("<Q", edit.data, icc + 24, 2**62)
    struct.pack_into("<I", edit.data, icc + 36, 5)
    edit.data[30] = 1
    head = json.loads(edit.content(section_of(edit, b"HEAD")))
    head["novelty"], head["slide"]["novelty"] = {"a": 1}, 2
    edit.set_content(section_of(edit, b"HEAD"), json.dumps(head).encode())
    return edit


def test_what_a_newer_minor_version_adds_is_passed_over(blob: bytes) -> None:
    container = Container.open(io.BytesIO(versioned(newer_file(blob), 1, 1)))
    assert container.version == (1, 1)
    assert container.icc() is None
    assert read_all(container) == read_all(Container.open(io.BytesIO(blob)))
    assert ("NEW1", 27) in [(kind, stored) for kind, _, stored, _ in container.sections()]
    old_header = Editor(blob).data[344:].index(b"(\xb5/\xfd") + 344
    assert [e.where.split(" to ")[0] for e in container.verify()] == [f"bytes {old_header}"]  # the header moved


def test_sections_of_unknown_kinds_are_verified_by_their_checksum(blob: bytes) -> None:
    edit = newer_file(blob)
    (offset,) = struct.unpack_from("<Q", edit.data, edit.entry(1) + 8)
    edit.data[offset] ^= 1
    found = Container.open(io.BytesIO(versioned(edit, 1, 1))).verify()
    assert [e.cause for e in found] == [Cause.SECTION_TABLE, Cause.INDEX]


def test_what_a_newer_minor_version_adds_is_damage_in_this_one(blob: bytes) -> None:
    assert only(versioned(newer_file(blob), 1, 0)).cause is Cause.PREAMBLE
    edit = newer_file(blob)
    edit.data[30] = 0
    assert only(versioned(edit, 1, 0)).cause is Cause.SECTION_TABLE
    assert only(versioned(Editor(blob), 0, 9)).where == "major version is 0, should be 1"
