"""SPEC.md's worked example, byte for byte, and read by a reader written from SPEC.md alone."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import struct
from pathlib import Path

from crc32c import crc32c

from inrwsi.fields.coordinates import CoordinateConfig
from inrwsi.fields.models import config_class, model_names
from inrwsi.fields.models.cinr import CinrConfig
from inrwsi.formats import header, index, layout, metadata
from inrwsi.formats.container import Container
from inrwsi.formats.header import GridInfo, Header, SlideInfo
from inrwsi.formats.writer import ContainerWriter
from tests.format.files import read_all

SPEC = (Path(__file__).parents[2] / "formats" / "SPEC.md").read_text(encoding="utf-8")
GLASS, BLUE = (244, 243, 245), (0, 0, 255)
CHUNKS = [b"\xa1\xa2\xa3", b"\xb1\xb2", GLASS, GLASS, GLASS, GLASS, b"\xc1\xc2\xc3\xc4", BLUE]


def example() -> bytes:
    """The bytes of the hex dump in SPEC.md."""
    (dump,) = re.findall(r"```hex\n(.*?)```", SPEC, re.DOTALL)
    out = b""
    for line in dump.splitlines():
        offset, digits = line[:4], line[6:53]
        assert int(offset, 16) == len(out)
        out += bytes.fromhex(digits)
    return out


def test_the_writer_makes_the_worked_example_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "example.cinr"
    head = Header(SlideInfo(40, 20, 3, 8, GLASS), GridInfo(16, (0, 1)), {"name": "example"})
    with ContainerWriter(path, head) as writer:
        for number, content in enumerate(CHUNKS):
            octave, chunk_ij = head.chunk_at(number)
            if isinstance(content, bytes):
                writer.put_chunk(octave, chunk_ij, content)
            else:
                writer.put_blank(octave, chunk_ij, content)
        assert writer.finish() == 389
    assert path.read_bytes() == example()


def test_the_reader_reads_the_worked_example() -> None:
    container = Container.open(io.BytesIO(example()))
    assert read_all(container) == CHUNKS
    assert container.verify() == []
    assert container.sections() == [("HEAD", 0x90, 154, 154), ("INDX", 0x16D, 24, 24)]


def plain_reader(blob: bytes) -> tuple[dict, dict[tuple[int, int, int], bytes | tuple[int, ...]]]:
    """Header and {(octave, column, row): payload or colour}, written from SPEC.md and nothing else."""
    magic, major, minor, section_count, file_bytes, reserved, table_crc, preamble_crc = struct.unpack(
        "<8sHHIQ32sII", blob[:64]
    )
    assert magic == bytes.fromhex("89 43 49 4E 52 0D 0A 1A")
    assert (major, minor, reserved, file_bytes) == (1, 0, bytes(32), len(blob))
    assert preamble_crc == crc32c(blob[:60])
    table = blob[64 : 64 + 40 * section_count]
    assert table_crc == crc32c(table)
    sections = {}
    used = [(0, 64 + len(table))]
    for kind, flags, offset, stored, raw, crc, zero in struct.iter_unpack("<4sIQQQII", table):
        assert (flags, stored, zero) == (0, raw, 0)
        sections[kind.decode("ascii")] = content = blob[offset : offset + stored]
        assert crc32c(content) == crc
        used.append((offset, offset + stored))
    head = json.loads(sections["HEAD"])
    slide, chunk_px = head["slide"], head["grid"]["chunk_px"]
    numbers = []
    for k in sorted(head["grid"]["octaves"], reverse=True):
        columns = math.ceil(math.ceil(slide["width"] / 2**k) / chunk_px)
        rows = math.ceil(math.ceil(slide["height"] / 2**k) / chunk_px)
        numbers += [(k, column, row) for row in range(rows) for column in range(columns)]
    page_chunks, page_count = struct.unpack_from("<II", sections["INDX"])
    assert page_count == math.ceil(len(numbers) / page_chunks)
    contents: list[bytes | tuple[int, ...]] = []
    for page_offset, page_bytes, page_crc in struct.iter_unpack("<QII", sections["INDX"][8:]):
        page = blob[page_offset : page_offset + page_bytes]
        assert crc32c(page) == page_crc
        used.append((page_offset, page_offset + page_bytes))
        at = 0
        while at < len(page):
            tag, count = struct.unpack_from("<BH", page, at)
            at += 3
            if tag == 0:
                layout_of_colour = f"<{slide['channels']}{'B' if slide['bit_depth'] == 8 else 'H'}"
                contents += [struct.unpack_from(layout_of_colour, page, at)] * count
                at += struct.calcsize(layout_of_colour)
                continue
            (offset,) = struct.unpack_from("<Q", page, at)
            for size, crc in struct.iter_unpack("<II", page[at + 8 : at + 8 + 8 * count]):
                assert crc32c(blob[offset : offset + size]) == crc
                contents.append(blob[offset : offset + size])
                used.append((offset, offset + size))
                offset += size
            at += 8 + 8 * count
    used.sort()
    assert [a for a, _ in used] + [len(blob)] == [0] + [b for _, b in used]
    return head, dict(zip(numbers, contents, strict=True))


def test_a_reader_written_from_the_spec_alone_reads_the_worked_example() -> None:
    head, chunks = plain_reader(example())
    assert (head["slide"]["width"], head["slide"]["height"], head["model"]) == (40, 20, {"name": "example"})
    assert chunks == {
        (1, 0, 0): b"\xa1\xa2\xa3",
        (1, 1, 0): b"\xb1\xb2",
        **{(0, *chunk_ij): GLASS for chunk_ij in ((0, 0), (1, 0), (2, 0), (0, 1))},
        (0, 1, 1): b"\xc1\xc2\xc3\xc4",
        (0, 2, 1): BLUE,
    }


def test_the_annotation_of_the_example_is_true() -> None:
    blob = example()
    rows = re.findall(r"^\| ([0-9a-f]{4}) to ([0-9a-f]{4}) \| (.*) \|$", SPEC, re.MULTILINE)
    assert [int(a, 16) for a, _, _ in rows] == [0] + [int(b, 16) for _, b, _ in rows[:-1]]
    assert int(rows[-1][1], 16) == len(blob)
    for first, last, text in rows:
        piece = blob[int(first, 16) : int(last, 16)]
        for hexadecimal in re.findall(r"(?:crc|table_crc|preamble_crc|at|from|bytes,) (?:0x)([0-9a-f]+)", text):
            value = int(hexadecimal, 16)
            packed = value.to_bytes(4 if value >= 2**16 else 2, "little")
            assert packed in piece, f"{text}: {hexadecimal} does not stand in bytes {first} to {last}"


def test_crc_is_castagnoli() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_the_limits_that_the_spec_states_are_those_of_the_code() -> None:
    powers = dict(re.findall(r"^\| `([A-Z]{4})` \| [^|]* \| ([^|]*?) \|", SPEC, re.MULTILINE))
    for kind, limits in layout.KINDS.items():
        exponent = int(re.findall(r"2\^(\d+)", powers[kind])[0])
        assert limits.max_raw_bytes == 2**exponent + (8 if kind == "INDX" else 0), kind
    assert (layout.MAX_SECTIONS, header.MAX_OCTAVES, header.MAX_CHUNKS) == (64, 32, 2**28)
    assert (index.MAX_PAGES, index.MAX_PAGE_CHUNKS, index.MAX_PAYLOAD_BYTES) == (2**20, 2**15, 2**28)
    assert index.max_run_bytes(SlideInfo(1, 1, 16, 16, (0,) * 16)) == 35
    for source in header.PROVENANCE:
        assert f"`{source}`" in SPEC


def test_the_metadata_keys_of_the_spec_are_those_that_are_let_through() -> None:
    section = SPEC.split("## 12. Privacy")[1].split("## 13.")[0]
    rows = re.findall(r"^\| (`.*?`) \| ", section, re.MULTILINE)
    assert {key for row in rows for key in re.findall(r"`([^`]+)`", row)} == set(metadata.ALLOWED)


def test_annex_a_names_the_tables_of_the_decoder() -> None:
    """The checksums of the sine and sample tables, which every decoder of model `cinr` has to meet."""
    from tests.test_channels import GOLDEN_SHARES
    from tests.test_cinr import GOLDEN_TABLES

    assert re.findall(r"`([0-9a-f]{64})`", SPEC) == [GOLDEN_TABLES, GOLDEN_SHARES]
    keys = re.findall(
        r"^\| `(\w+)` \| (?:integer|number|string|array) \|", SPEC.split("### A.1")[1].split("### A.2")[0], re.M
    )
    assert sorted(keys) == sorted(f.name for f in dataclasses.fields(CinrConfig))


def test_the_annexes_list_the_keys_of_every_model() -> None:
    tables = [
        set(re.findall(r"^\| `(\w+)` \| (?:integer|number|string|array) \|", part, re.M))
        for part in SPEC.split("### C.1")[1].split("### C.2")[0].split("Keys of `model` of `fourier`")
    ]
    for name in model_names():
        kind = config_class(name)
        assert re.search(rf"^- 1\.0: .*`{name}`", SPEC, re.M), name
        if issubclass(kind, CoordinateConfig):
            assert {f.name for f in dataclasses.fields(kind)} == tables[name == "fourier"], name
