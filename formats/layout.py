"""Byte layout that reader and writer share: preamble, section table, compressed sections. SPEC.md, sections 2 to 4."""

from __future__ import annotations

import itertools
import struct
from collections import Counter
from dataclasses import dataclass

import zstandard
from crc32c import crc32c

from inrwsi.errors import Cause, CorruptFile, UnsupportedVersion

MAGIC = b"\x89CINR\r\n\x1a"
MAJOR, MINOR = 1, 0
PREAMBLE = struct.Struct("<8sHHIQ32sII")  # magic, major, minor, sections, file bytes, reserved, table CRC, own CRC
SECTION = struct.Struct("<4sIQQQII")  # kind, flags, offset, stored bytes, raw bytes, CRC, reserved
MAX_SECTIONS = 64
FLAG_ZSTD = 1

_MIB = 2**20
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_MAX_RATIO = 2**15  # a block makes at most 128 KiB and takes at least 4 bytes
_COMPRESS_FROM_BYTES = 256  # below, a frame saves next to nothing and hides the text from a hex dump
_THOROUGH_UP_TO_BYTES = 4 * _MIB  # level 19 takes a second for this much, and minutes for a hash table


@dataclass(frozen=True)
class Kind:
    """What the format says of one kind of section: how many there may be, how large, whether it may be compressed."""

    least: int
    most: int
    max_raw_bytes: int
    zstd: bool
    cause: Cause


KINDS = {
    "HEAD": Kind(1, 1, _MIB, True, Cause.HEADER),
    "ICCP": Kind(0, 1, 16 * _MIB, False, Cause.ICC),
    "PREV": Kind(0, 1, _MIB, False, Cause.PREVIEW),
    "ASSO": Kind(0, 16, 64 * _MIB, False, Cause.ASSOCIATED),
    "WGHT": Kind(0, 1, 512 * _MIB, True, Cause.WEIGHTS),
    "INDX": Kind(1, 1, 16 * _MIB + 8, False, Cause.INDEX),
}
_UNKNOWN = Kind(0, MAX_SECTIONS, 2**63, False, Cause.SECTION_TABLE)


@dataclass(frozen=True)
class Preamble:
    """The first 64 bytes. `table_end` is where the section table ends, in bytes from the start of the file."""

    major: int
    minor: int
    section_count: int
    file_bytes: int
    table_crc: int

    @property
    def table_end(self) -> int:
        return PREAMBLE.size + SECTION.size * self.section_count

    @property
    def newer(self) -> bool:
        """Of a later minor version than this reader: what it does not know is passed over."""
        return self.minor > MINOR


@dataclass(frozen=True)
class Section:
    """One entry of the section table. Offsets and sizes in bytes; `crc` is over the bytes as stored."""

    kind: str
    flags: int
    offset: int
    stored_bytes: int
    raw_bytes: int
    crc: int

    @property
    def end(self) -> int:
        return self.offset + self.stored_bytes

    @property
    def cause(self) -> Cause:
        return KINDS.get(self.kind, _UNKNOWN).cause

    def pack(self) -> bytes:
        kind = self.kind.encode("ascii")
        return SECTION.pack(kind, self.flags, self.offset, self.stored_bytes, self.raw_bytes, self.crc, 0)


def pack_start(sections: list[Section], file_bytes: int) -> bytes:
    """Preamble and section table of a finished file."""
    table = b"".join(section.pack() for section in sections)
    head = PREAMBLE.pack(MAGIC, MAJOR, MINOR, len(sections), file_bytes, bytes(32), crc32c(table), 0)[:-4]
    return head + struct.pack("<I", crc32c(head)) + table


def parse_preamble(path: str, raw: bytes, actual_bytes: int) -> Preamble:
    """Check and read the first 64 bytes of a file that is `actual_bytes` long.

    Raises:
        CorruptFile: NOT_CINR, TRUNCATED or PREAMBLE.
        UnsupportedVersion: the file is of a newer major version.
    """
    if raw[: len(MAGIC)] != MAGIC:
        raise CorruptFile(path, Cause.NOT_CINR, f"it starts with {raw[:8].hex(' ') or 'nothing'}, not {MAGIC.hex(' ')}")
    if len(raw) < PREAMBLE.size:
        raise CorruptFile(path, Cause.TRUNCATED, f"it has {actual_bytes} bytes, the preamble alone {PREAMBLE.size}")
    _, major, minor, count, file_bytes, reserved, table_crc, crc = PREAMBLE.unpack(raw)
    # The checksum first: a flipped bit in the version is damage, not a version.
    if crc32c(raw[:-4]) != crc:
        raise CorruptFile(path, Cause.PREAMBLE, "its 60 bytes do not match their checksum")
    if major > MAJOR:
        raise UnsupportedVersion(
            f"{path}: the file is of format version {major}.{minor}; this build reads up to {MAJOR}.x, so it needs a "
            "newer inrwsi"
        )
    if major < MAJOR:
        raise CorruptFile(path, Cause.PREAMBLE, f"major version is {major}, should be {MAJOR}")
    preamble = Preamble(major, minor, count, file_bytes, table_crc)
    if any(reserved) and not preamble.newer:
        raise CorruptFile(path, Cause.PREAMBLE, "reserved bytes are not zero")
    if file_bytes > actual_bytes:
        raise CorruptFile(path, Cause.TRUNCATED, f"it has {actual_bytes} bytes, should have {file_bytes}")
    if file_bytes < actual_bytes:
        raise CorruptFile(
            path, Cause.PREAMBLE, f"it has {actual_bytes} bytes, {actual_bytes - file_bytes} more than it says"
        )
    if count > MAX_SECTIONS:
        raise CorruptFile(path, Cause.PREAMBLE, f"it says {count} sections, should be at most {MAX_SECTIONS}")
    if preamble.table_end > file_bytes:
        raise CorruptFile(path, Cause.PREAMBLE, f"a table of {count} sections does not fit in {file_bytes} bytes")
    return preamble


def parse_table(path: str, raw: bytes, preamble: Preamble) -> tuple[Section, ...]:
    """Check and read the section table: kinds and how many, extents inside the file and apart, sizes within limits.

    Raises:
        CorruptFile: SECTION_TABLE.
    """

    def bad(where: str) -> CorruptFile:
        return CorruptFile(path, Cause.SECTION_TABLE, where)

    if crc32c(raw) != preamble.table_crc:
        raise bad(f"its {len(raw)} bytes do not match their checksum")
    sections = []
    for number, (kind, flags, offset, stored, size, crc, reserved) in enumerate(SECTION.iter_unpack(raw)):
        name = kind.decode("ascii", "backslashreplace")
        section = Section(name, flags, offset, stored, size, crc)
        problem = _section_problem(section, preamble)
        if not problem and reserved and not preamble.newer:
            problem = f"reserved field is {reserved}, should be 0"
        if problem:
            raise bad(f"section {number} ({name!r}): {problem}")
        sections.append(section)
    counts = Counter(section.kind for section in sections)
    for name, kind in KINDS.items():
        if not kind.least <= counts[name] <= kind.most:
            want = f"{kind.least}" if kind.least == kind.most else f"{kind.least} to {kind.most}"
            raise bad(f"there are {counts[name]} {name} sections, should be {want}")
    for before, after in itertools.pairwise(sorted(sections, key=lambda s: s.offset)):
        if before.end > after.offset:
            raise bad(f"sections {before.kind} and {after.kind} overlap at byte {after.offset}")
    return tuple(sections)


def _section_problem(section: Section, preamble: Preamble) -> str:
    """What is wrong with one entry, or nothing. Python's integers do not overflow, so sums are safe."""
    kind = KINDS.get(section.kind)
    if kind is None and not (preamble.newer and section.kind.isascii() and section.kind.isalnum()):
        return f"kind is not one of {', '.join(KINDS)}"
    if not (section.offset >= preamble.table_end and section.end <= preamble.file_bytes):
        return (
            f"bytes {section.offset} to {section.end} lie outside {preamble.table_end} to {preamble.file_bytes}, "
            "where sections are"
        )
    if section.stored_bytes == 0:
        return "it is empty, should have at least 1 byte"
    if kind is None:
        return ""
    if section.flags not in ((0, FLAG_ZSTD) if kind.zstd else (0,)):
        return f"flags are {section.flags:#x}, should be {'0 or 1' if kind.zstd else '0'}"
    if not 1 <= section.raw_bytes <= kind.max_raw_bytes:
        return f"raw size is {section.raw_bytes} bytes, should be from 1 to {kind.max_raw_bytes}"
    if not section.flags and section.stored_bytes != section.raw_bytes:
        return f"it is stored plainly in {section.stored_bytes} bytes, but its raw size is {section.raw_bytes}"
    if section.flags and section.raw_bytes > section.stored_bytes * _ZSTD_MAX_RATIO:
        return f"{section.stored_bytes} stored bytes cannot hold {section.raw_bytes} raw ones"
    if section.stored_bytes > section.raw_bytes + section.raw_bytes // 256 + 1024:
        return f"{section.stored_bytes} stored bytes are too many for {section.raw_bytes} raw ones"
    return ""


def compress(kind: str, raw: bytes) -> tuple[int, bytes]:
    """(flags, stored bytes) of a section's content. Equal content gives equal bytes, with one version of zstd."""
    if not KINDS[kind].zstd or len(raw) < _COMPRESS_FROM_BYTES:
        return 0, raw
    level = 19 if len(raw) <= _THOROUGH_UP_TO_BYTES else 9
    return FLAG_ZSTD, zstandard.ZstdCompressor(level=level, write_content_size=True).compress(raw)


def decompress(path: str, section: Section, stored: bytes) -> bytes:
    """The raw bytes of a section from its stored ones, whose checksum is good.

    Raises:
        CorruptFile: the section's cause, where they are not one zstd frame of exactly `raw_bytes`.
    """
    if not section.flags & FLAG_ZSTD:
        return stored
    try:
        if stored[:4] != _ZSTD_MAGIC:
            raise CorruptFile(path, section.cause, f"it is compressed, but starts with {stored[:4].hex(' ')}")
        declared = zstandard.frame_content_size(stored)
        if declared != section.raw_bytes:
            raise CorruptFile(
                path, section.cause, f"its zstd frame says {declared} bytes, the table {section.raw_bytes}"
            )
        raw = zstandard.ZstdDecompressor().decompress(
            stored, max_output_size=section.raw_bytes, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise CorruptFile(path, section.cause, f"its zstd frame cannot be decompressed ({error})") from None
    if len(raw) != section.raw_bytes:
        raise CorruptFile(path, section.cause, f"it decompresses to {len(raw)} bytes, not {section.raw_bytes}")
    return raw
