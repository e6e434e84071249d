"""Damage that knows nothing of the format, and mutants: found, named, and costing only what it hits."""

from __future__ import annotations

import io
import pickle
import random
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from inrwsi.errors import Cause, CorruptFile, UnsupportedVersion
from inrwsi.formats.container import Container
from tests.format.files import (
    colour,
    damage,
    header,
    only,
    payload,
    read_all,
    section_of,
    small_file,
    small_header,
)
from tests.format.mutate import BLIND, SEALED, Editor, coded_runs, mutants


def test_each_cut_is_found(blob: bytes) -> None:
    for length in range(len(blob)):
        error = only(blob[:length])
        assert error.cause is (Cause.NOT_CINR if length < 8 else Cause.TRUNCATED), length
        if length >= 64:
            assert error.where == f"it has {length} bytes, should have {len(blob)}"


def test_bytes_behind_the_end_are_found(blob: bytes) -> None:
    error = only(blob + b"xyz")
    assert error.cause is Cause.PREAMBLE
    assert error.where == f"it has {len(blob) + 3} bytes, 3 more than it says"


@pytest.mark.parametrize("start", [b"", b"\x89", b"II*\0" + bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_other_files_are_not_cinr(start: bytes) -> None:
    assert only(start).cause is Cause.NOT_CINR


def owner(blob: bytes, at: int) -> tuple[Cause, int | None]:
    """What byte `at` of the sound file belongs to, and for a payload the number of its chunk."""
    edit = Editor(blob)
    for end, cause in (
        (8, Cause.NOT_CINR),
        (64, Cause.PREAMBLE),
        (edit.entry(edit.section_count), Cause.SECTION_TABLE),
    ):
        if at < end:
            return cause, None
    causes = {b"HEAD": Cause.HEADER, b"ICCP": Cause.ICC, b"PREV": Cause.PREVIEW, b"ASSO": Cause.ASSOCIATED}
    causes |= {b"WGHT": Cause.WEIGHTS, b"INDX": Cause.INDEX}
    for section in range(edit.section_count):
        offset, stored = struct.unpack_from("<QQ", edit.data, edit.entry(section) + 8)
        if offset <= at < offset + stored:
            return causes[edit.kind(section)], None
    for number in range(8):
        data = payload(number)
        if data is not None:
            offset = payload_offset(blob, number)
            if offset <= at < offset + len(data):
                return Cause.CHUNK, number
    return Cause.INDEX, None


def payload_offset(blob: bytes, number: int) -> int:
    """Where the payload of chunk `number` lies: the small file holds payloads in order, right before its page."""
    edit = Editor(blob)
    first = min(offset for _, offset, _ in coded_runs(edit, 0))
    return first + sum(len(payload(n) or b"") for n in range(number))


def test_a_flipped_bit_is_found_and_named_wherever_it_is(tmp_path: Path) -> None:
    head = header((40, 20), (0, 1), preview_format="png", associated=small_header().associated[:1])
    blob = small_file(tmp_path / "a.cinr", head=head)
    assert head.chunk_count == 8
    named: Counter[Cause] = Counter()
    for at in range(len(blob)):
        cause, number = owner(blob, at)
        for bit in range(8):
            damaged = bytearray(blob)
            damaged[at] ^= 1 << bit
            found = damage(bytes(damaged))
            assert [error.cause for error in found] == [cause], (at, bit)
            if number is not None:
                octave, (column, row) = head.chunk_at(number)
                assert found[0].where.startswith(f"octave {octave}, column {column}, row {row}: its ")
        named[cause] += 1
    assert set(named) == set(Cause) - {Cause.TRUNCATED}
    assert sum(named.values()) == len(blob)


def test_a_damaged_chunk_costs_only_itself(blob: bytes) -> None:
    damaged = bytearray(blob)
    damaged[payload_offset(blob, 10)] ^= 16
    container = Container.open(io.BytesIO(bytes(damaged)))
    for number in range(51):
        octave, chunk_ij = container.header.chunk_at(number)
        if number == 10:
            with pytest.raises(CorruptFile, match="octave 1, column 2, row 1: its ") as caught:
                container.chunk(octave, chunk_ij)
            assert caught.value.cause is Cause.CHUNK
        else:
            chunk = container.chunk(octave, chunk_ij)
            assert (chunk.payload, chunk.colour) == (payload(number), None if payload(number) else colour(number))


def test_verify_finds_all_damage_at_once(blob: bytes) -> None:
    damaged = bytearray(blob)
    for number in (1, 10, 50):
        damaged[payload_offset(blob, number)] ^= 1
    edit = Editor(bytes(damaged))
    for kind in (b"ICCP", b"WGHT"):
        (offset,) = struct.unpack_from("<Q", edit.data, edit.entry(section_of(edit, kind)) + 8)
        edit.data[offset] ^= 1
    assert [e.cause for e in damage(bytes(edit.data))] == [Cause.ICC, Cause.WEIGHTS] + [Cause.CHUNK] * 3


def test_a_damaged_section_leaves_the_others_readable(blob: bytes) -> None:
    edit = Editor(blob)
    (offset,) = struct.unpack_from("<Q", edit.data, edit.entry(section_of(edit, b"ICCP")) + 8)
    edit.data[offset] ^= 1
    container = Container.open(io.BytesIO(bytes(edit.data)))
    assert container.preview() == b"\x89PNG"
    assert read_all(container) == read_all(Container.open(io.BytesIO(blob)))
    with pytest.raises(CorruptFile, match=r"damaged \(ICC profile\): the 27 bytes of section ICCP at \d+ do not match"):
        container.icc()


def test_errors_survive_a_process_border(blob: bytes) -> None:
    error = pickle.loads(pickle.dumps(only(blob[:100])))
    assert (error.cause, str(error)) == (Cause.TRUNCATED, str(only(blob[:100])))


def test_mutants_are_the_same_for_the_same_seed(blob: bytes) -> None:
    assert list(mutants(blob, 30, 5)) == list(mutants(blob, 30, 5))
    assert list(mutants(blob, 30, 5)) != list(mutants(blob, 30, 6))


def test_mutants_raise_only_what_they_may(blob: bytes) -> None:
    causes: Counter[str] = Counter()
    slowest_s, longest = 0.0, 0
    for mutant in mutants(blob, 2000, seed=1):
        start = time.perf_counter()
        try:
            container = Container.open(io.BytesIO(mutant))
            found = container.verify()
            for cause in {e.cause for e in found}:
                causes[cause.name] += 1
            touch(container)
            causes["sound"] += not found
        except CorruptFile as error:
            causes[error.cause.name] += 1
            longest = max(longest, len(str(error)))
        except UnsupportedVersion:
            causes["version"] += 1
        slowest_s = max(slowest_s, time.perf_counter() - start)
    assert slowest_s < 2
    assert longest < 600
    wanted = {cause.name for cause in Cause} | {"sound", "version"}
    assert {name for name, count in causes.items() if count >= 5} >= wanted, causes


def touch(container: Container) -> None:
    """Ask for everything; what is damaged raises CorruptFile and nothing else."""
    asked: list[Callable[[], object]] = [container.icc, container.preview, container.weights]
    asked += [lambda name=a.name: container.associated(name) for a in container.header.associated]  # type: ignore[misc]
    for number in range(min(container.header.chunk_count, 200)):
        asked.append(lambda n=number: container.chunk(*container.header.chunk_at(n)))  # type: ignore[misc]
    for ask in asked:
        try:
            ask()
        except CorruptFile as error:
            str(error).encode("utf-8")


@pytest.mark.parametrize("mutation", BLIND, ids=lambda f: f.__name__)
def test_blind_damage_never_passes(blob: bytes, mutation: Callable[..., bytes]) -> None:
    rng = random.Random(7)
    for _ in range(150):
        mutant = mutation(blob, rng)
        assert mutant == blob or damage(mutant)


@pytest.mark.parametrize("mutation", SEALED, ids=lambda f: f.__name__)
def test_sealed_damage_gets_past_the_first_checksums(blob: bytes, mutation: Callable[..., bytes]) -> None:
    """Else the checks behind them would go untested."""
    rng = random.Random(7)
    behind = 0
    for _ in range(60):
        mutant = mutation(blob, rng)
        try:
            found = Container.open(io.BytesIO(mutant)).verify()
        except UnsupportedVersion:
            behind += 1
        except CorruptFile as error:
            behind += "checksum" not in error.where
        else:
            behind += not any("checksum" in error.where for error in found)
    assert behind >= 30
