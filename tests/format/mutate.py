"""Damaged files for fuzzing, by seed: blind damage, and damage whose checksums are made good again.

The second kind gets past the checksums to the checks behind them. The offsets here are written from SPEC.md, not taken
from the reader.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import zstandard
from crc32c import crc32c

PREAMBLE_BYTES, ENTRY_BYTES, PAGE_ENTRY_BYTES = 64, 40, 16
EXTREMES = (
    0,
    1,
    2,
    3,
    4,
    7,
    16,
    255,
    1023,
    2**15,
    2**16 - 1,
    2**20,
    2**28,
    2**31 - 1,
    2**32 - 1,
    2**40,
    2**63,
    2**64 - 1,
)
JSON_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 8, 16, 17, 255, 65536, 2**28, 2**40, 2**53 + 1, 10**30, 0.5, -0.5, 1e-9, 1e300),
    *("", "png", "jpeg", "cinr", "octaves", "x" * 5000, "\ud800", "\x1b[2J", [], [0], [0, 0], [0.5, 0.5], [1, 2, 3]),
    *([255, 255, 255], list(range(33)), [2**31] * 16, {}, {"name": "cinr"}, {"a": {"b": []}}, [[[[]]]]),
)


class Editor:
    """A file that can be changed part by part, and sealed: sizes and checksums made to fit again."""

    def __init__(self, blob: bytes) -> None:
        self.data = bytearray(blob)
        (self.section_count,) = struct.unpack_from("<I", blob, 12)

    def kind(self, section: int) -> bytes:
        return bytes(self.data[self.entry(section) : self.entry(section) + 4])

    def find(self, kind: bytes) -> int | None:
        """Number of the first section of a kind."""
        return next((n for n in range(self.section_count) if self.kind(n) == kind), None)

    def entry(self, section: int) -> int:
        return PREAMBLE_BYTES + section * ENTRY_BYTES

    def content(self, section: int) -> bytes:
        """The raw bytes of a section."""
        flags, offset, stored, raw, _ = struct.unpack_from("<IQQQI", self.data, self.entry(section) + 4)
        data = bytes(self.data[offset : offset + stored])
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=raw) if flags & 1 else data

    def set_content(self, section: int, raw: bytes) -> None:
        """Replace a section: in place where the size stays, else at the end of the file."""
        flags, offset, stored_bytes = struct.unpack_from("<IQQ", self.data, self.entry(section) + 4)
        stored = zstandard.ZstdCompressor().compress(raw) if flags & 1 else raw
        if len(stored) != stored_bytes:
            offset = len(self.data)
            self.data += stored
        else:
            self.data[offset : offset + len(stored)] = stored
        entry = struct.pack("<QQQI", offset, len(stored), len(raw), crc32c(stored))
        self.data[self.entry(section) + 8 : self.entry(section) + 36] = entry

    def pages(self) -> list[tuple[int, int]]:
        """(offset, bytes) of each index page."""
        section = self.find(b"INDX")
        return [] if section is None else [(o, n) for o, n, _ in struct.iter_unpack("<QII", self.content(section)[8:])]

    def set_page(self, number: int, raw: bytes) -> None:
        section = self.find(b"INDX")
        if section is not None:
            root = bytearray(self.content(section))
            offset, size = self.pages()[number]
            if len(raw) != size:
                offset = len(self.data)
                self.data += raw
            else:
                self.data[offset : offset + size] = raw
            struct.pack_into("<QII", root, 8 + number * PAGE_ENTRY_BYTES, offset, len(raw), crc32c(raw))
            self.set_content(section, bytes(root))

    def seal(self) -> bytes:
        """The file with its size, table and preamble checksums right."""
        struct.pack_into("<Q", self.data, 16, len(self.data))
        table = bytes(self.data[PREAMBLE_BYTES : self.entry(self.section_count)])
        struct.pack_into("<I", self.data, 56, crc32c(table))
        return self.seal_preamble()

    def seal_preamble(self) -> bytes:
        struct.pack_into("<I", self.data, 60, crc32c(bytes(self.data[:60])))
        return bytes(self.data)


Mutation = Callable[[bytes, random.Random], bytes]


def _int(rng: random.Random, byte_count: int) -> bytes:
    value = rng.choice(EXTREMES) if rng.random() < 0.7 else rng.getrandbits(8 * byte_count)
    return (value % 2 ** (8 * byte_count)).to_bytes(byte_count, "little")


def _poke(data: bytes, rng: random.Random, *, fields: bool = True) -> bytes:
    """A few bytes changed: a flipped bit, a random byte or an extreme integer."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(out))
        size = rng.choice((1, 2, 4, 8)) if fields and rng.random() < 0.5 else 1
        new = _int(rng, size) if size > 1 else bytes([out[at] ^ 1 << rng.randrange(8)])
        out[at : at + size] = new[: len(out) - at]
    return bytes(out)


def flip_bytes(blob: bytes, rng: random.Random) -> bytes:
    return _poke(blob, rng)


def truncate(blob: bytes, rng: random.Random) -> bytes:
    return blob[: rng.randrange(len(blob))]


def splice(blob: bytes, rng: random.Random) -> bytes:
    """Bytes cut out, put in, or doubled somewhere else."""
    a, b = sorted((rng.randrange(len(blob)), rng.randrange(len(blob))))
    at = rng.randrange(len(blob))
    piece = rng.choice((b"", rng.randbytes(rng.randrange(1, 40)), blob[a:b]))
    return blob[:at] + piece + blob[rng.choice((at, b)) :]


def swap_ranges(blob: bytes, rng: random.Random) -> bytes:
    size = rng.randrange(1, max(2, len(blob) // 4))
    a, b = sorted((rng.randrange(len(blob) - 2 * size + 1), rng.randrange(len(blob) - 2 * size + 1)))
    b += size
    return blob[:a] + blob[b : b + size] + blob[a + size : b] + blob[a : a + size] + blob[b + size :]


def preamble(blob: bytes, rng: random.Random) -> bytes:
    """A field of the preamble, sealed or not."""
    edit = Editor(blob)
    at, size = rng.choice(((0, 8), (8, 2), (10, 2), (12, 4), (16, 8), (24, 8), (48, 8), (56, 4)))
    edit.data[at : at + size] = _int(rng, size)
    return edit.seal_preamble() if rng.random() < 0.8 else bytes(edit.data)


def section_entry(blob: bytes, rng: random.Random) -> bytes:
    """A field of the section table: kind, flags, offset, sizes, checksum, reserved."""
    edit = Editor(blob)
    at, size = rng.choice(((0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 4), (36, 4)))
    start = edit.entry(rng.randrange(edit.section_count)) + at
    old = int.from_bytes(edit.data[start : start + size], "little")
    near = (old + rng.choice((-8, -1, 1, 8, 64))) % 2 ** (8 * size)
    edit.data[start : start + size] = near.to_bytes(size, "little") if rng.random() < 0.4 else _int(rng, size)
    if at == 0:
        edit.data[start : start + 4] = rng.choice((b"HEAD", b"INDX", b"WGHT", b"ASSO", b"ICCP", b"NEWK", b"\0\0\0\0"))
    if rng.random() < 0.2:
        edit.data[10:12] = b"\x01\x00"  # of a newer minor version
    return edit.seal()


def section_content(blob: bytes, rng: random.Random) -> bytes:
    """The content of a section, under good checksums."""
    edit = Editor(blob)
    section = rng.randrange(edit.section_count)
    raw = edit.content(section)
    edit.set_content(section, truncate(raw, rng) if rng.random() < 0.2 else _poke(raw, rng))
    return edit.seal()


def stored_frame(blob: bytes, rng: random.Random) -> bytes:
    """The stored bytes of a section, so zstd's own fields and blocks, under good checksums."""
    edit = Editor(blob)
    entry = edit.entry(rng.randrange(edit.section_count))
    offset, stored = struct.unpack_from("<QQ", edit.data, entry + 8)
    edit.data[offset : offset + stored] = _poke(bytes(edit.data[offset : offset + stored]), rng)
    struct.pack_into("<I", edit.data, entry + 32, crc32c(bytes(edit.data[offset : offset + stored])))
    return edit.seal()


def header_value(blob: bytes, rng: random.Random) -> bytes:
    """Values and keys of the header's JSON."""
    edit = Editor(blob)
    section = edit.find(b"HEAD")
    assert section is not None
    data = json.loads(edit.content(section))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change_json(data, rng)
    edit.set_content(section, json.dumps(data).encode())
    return edit.seal()


def _change_json(data: dict[str, Any], rng: random.Random) -> None:
    """One value changed at a random depth, or a key removed or added."""
    node: Any = data
    while isinstance(node, (dict, list)) and node:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        if not isinstance(node[key], (dict, list)) or not node[key] or rng.random() < 0.15:
            if rng.random() < 0.1:
                del node[key]
            elif rng.random() < 0.1 and isinstance(node, dict):
                node["unknown"] = node[key]
            elif isinstance(node[key], int) and rng.random() < 0.6:
                node[key] = rng.choice((node[key] + rng.choice((-1, 1, 16)), node[key] * 2, node[key] // 2, 2**40))
            else:
                node[key] = deepcopy(rng.choice(JSON_VALUES))
            return
        node = node[key]


def header_text(blob: bytes, rng: random.Random) -> bytes:
    """A header that is not the JSON it should be: poked, cut, deep, doubled keys, constants that are not JSON."""
    edit = Editor(blob)
    section = edit.find(b"HEAD")
    assert section is not None
    raw = edit.content(section)
    depth = rng.choice((10, 100, 900, 990, 5000, 100_000))
    deep = b'{"model":' + b"[" * depth + b"]" * depth + b"," + raw[1:]
    named = b'{"model":{"name":' + b"[" * depth + b"]" * depth + b"}," + raw[1:].replace(b'"model"', b'"m"')
    constant = raw.replace(b'"width":', b'"width":' + rng.choice((b"NaN", b"Infinity", b"9" * 6000)) + b',"w":')
    doubled = raw[:-1] + b',"grid":{}}'
    edit.set_content(
        section, rng.choice((_poke(raw, rng, fields=False), truncate(raw, rng), deep, named, constant, doubled))
    )
    return edit.seal()


def index_root(blob: bytes, rng: random.Random) -> bytes:
    """Chunks a page, page count, or where a page lies and how long it is."""
    edit = Editor(blob)
    section = edit.find(b"INDX")
    assert section is not None
    raw = bytearray(edit.content(section))
    page = 8 + PAGE_ENTRY_BYTES * rng.randrange(max(1, (len(raw) - 8) // PAGE_ENTRY_BYTES))
    at, size = rng.choice(((0, 4), (4, 4), (page, 8), (page + 8, 4), (page + 12, 4)))
    raw[at : at + size] = _int(rng, size)
    edit.set_content(section, bytes(raw) + (raw[-16:] if rng.random() < 0.1 else b""))
    return edit.seal()


def index_page(blob: bytes, rng: random.Random) -> bytes:
    """Runs of a page: tags, counts, offsets, sizes, colours; or pages exchanged, cut and doubled."""
    edit = Editor(blob)
    pages = edit.pages()
    number = rng.randrange(len(pages))
    offset, size = pages[number]
    raw = bytes(edit.data[offset : offset + size])
    other, other_size = rng.choice(pages)
    edit.set_page(
        number, rng.choice((_poke(raw, rng), _poke(raw, rng), truncate(raw, rng) or b"\0", raw + raw, raw + b"\0\1\0"))
    )
    if rng.random() < 0.1:
        edit.set_page(number, bytes(edit.data[other : other + other_size]))
    return edit.seal()


def chunk_payload(blob: bytes, rng: random.Random) -> bytes:
    """The payload of a chunk, under a good checksum: what the model behind it has to withstand."""
    edit = Editor(blob)
    runs = [(number, run) for number in range(len(edit.pages())) for run in coded_runs(edit, number)]
    if not runs:
        return flip_bytes(blob, rng)
    number, (sizes_at, payload_at, count) = rng.choice(runs)
    offset, size = edit.pages()[number]
    page = bytearray(edit.data[offset : offset + size])
    for i in range(rng.randrange(count) + 1):
        (payload_bytes,) = struct.unpack_from("<I", page, sizes_at + 8 * i)
        damaged = _poke(bytes(edit.data[payload_at : payload_at + payload_bytes]), rng)
        edit.data[payload_at : payload_at + payload_bytes] = damaged
        struct.pack_into("<I", page, sizes_at + 8 * i + 4, crc32c(damaged))
        payload_at += payload_bytes
    edit.set_page(number, bytes(page))
    return edit.seal()


def coded_runs(edit: Editor, number: int) -> Iterator[tuple[int, int, int]]:
    """(where in the page its sizes stand, offset of its first payload, chunks) of each coded run of a sound page."""
    section = edit.find(b"HEAD")
    assert section is not None
    slide = json.loads(edit.content(section))["slide"]
    colour_bytes = slide["channels"] * slide["bit_depth"] // 8
    offset, size = edit.pages()[number]
    at = offset
    while at < offset + size:
        tag, count = struct.unpack_from("<BH", edit.data, at)
        if tag == 0:
            at += 3 + colour_bytes
        else:
            yield at + 11 - offset, struct.unpack_from("<Q", edit.data, at + 3)[0], count
            at += 11 + 8 * count


def weights(blob: bytes, rng: random.Random) -> bytes:
    """The safetensors inside: its length field, its JSON, its numbers."""
    edit = Editor(blob)
    section = edit.find(b"WGHT")
    if section is None:
        return section_content(blob, rng)
    raw = edit.content(section)
    size = int.from_bytes(raw[:8], "little")
    text = raw[8 : 8 + size]
    changed = json.loads(text)
    _change_json(changed, rng)
    new_text = json.dumps(changed).encode()
    choices = (
        _int(rng, 8) + raw[8:],
        raw[:8] + _poke(text, rng, fields=False) + raw[8 + size :],
        len(new_text).to_bytes(8, "little") + new_text + raw[8 + size :],
        raw[: 8 + size] + _poke(raw[8 + size :] or b"\0", rng),
        truncate(raw, rng) or b"\0",
        raw + b"\0" * 8,
    )
    edit.set_content(section, rng.choice(choices))
    return edit.seal()


def table(blob: bytes, rng: random.Random) -> bytes:
    """Sections dropped, doubled and exchanged."""
    edit = Editor(blob)
    a, b = (edit.entry(rng.randrange(edit.section_count)) for _ in range(2))
    entry_a, entry_b = bytes(edit.data[a : a + ENTRY_BYTES]), bytes(edit.data[b : b + ENTRY_BYTES])
    if rng.random() < 0.3:
        edit.section_count -= 1
        edit.data[12:16] = struct.pack("<I", edit.section_count)
    elif rng.random() < 0.5:
        edit.data[a : a + ENTRY_BYTES] = entry_b
    else:
        edit.data[a : a + ENTRY_BYTES], edit.data[b : b + ENTRY_BYTES] = entry_b, entry_a
    return edit.seal()


BLIND: tuple[Mutation, ...] = (flip_bytes, truncate, splice, swap_ranges)
SEALED: tuple[Mutation, ...] = (
    *(preamble, section_entry, section_content, stored_frame, header_value, header_text, index_root, index_page),
    *(chunk_payload, weights, table),
)


def mutants(blob: bytes, count: int, seed: int) -> Iterator[bytes]:
    """`count` damaged versions of the sound file `blob`; the same for the same seed. A few may equal it."""
    rng = random.Random(seed)
    for _ in range(count):
        yield rng.choice(BLIND + 2 * SEALED)(blob, rng)
