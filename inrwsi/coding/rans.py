"""Interleaved rANS: signed integers under integer tables to bytes and back, without a float (Duda 2013; Giesen 2014).

Coded symbols (those of scale 0 are skipped and cost nothing) take turns on LANES states of 32 bits, which share one
list of 16-bit words, so that a processor works on several symbols at a time. A lane begins at 2**16, the least value
from which it may give a word away. That is 2 bytes of nothing, so a payload of at most ONE_LANE_BYTES has one lane,
which begins at 0: the decoder's rule is "a state below 2**16 takes a word if one is left", and when none is left the
state of the only lane runs down to where the encoder began.

A payload is one of (numbers are little-endian; the last byte of a state is not 0):

    nothing                             state 0: all coded symbols are 0
    state (1 to 4 bytes)                one lane
    state (3 or 4) | words (2 each)     one lane, 5 to ONE_LANE_BYTES bytes; odd and even lengths tell 3 from 4
    header (1) | 4 states | words       longer: bit i of the header says that the state of lane i has 4 bytes, not 3
    header (1) | state | words          longer, header 16: one lane, of a stream that four lanes would make too short

A value without a frequency is an escape, followed in its lane by its zigzag code: LEB128 bytes, 8 plain bits each.

Where a trellis chose the symbols (`coding.trellis`) each goes on one of its paths and says from which quantiser's row
the next one on that path is read. Here that is all there is to it: a symbol's row depends on the one before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from inrwsi.coding.tables import BUCKET_BITS, MOST_SCALES, PRECISION_BITS, FrequencyTables
from inrwsi.coding.trellis import PATHS, WALK

LANES = 4  # decodes 1.6 times as fast as 1 lane, 1.2 times as 2; 8 are no faster and cost 8 bytes more
ONE_LANE_BYTES = 8192  # four lanes cost 10 bytes more, and save little time where symbols cost little
MOST_MAGNITUDE = 2**30
_WORD_BITS = 16
_LONG_ONE_LANE = 1 << LANES

# All of the decoder is uint64, also where 32 bits would do: numba makes a float of uint64 beside int64.
_SLOT_BITS = np.uint64(PRECISION_BITS)
_SLOT_MASK = np.uint64((1 << PRECISION_BITS) - 1)
_BUCKET = np.uint64(BUCKET_BITS)
_FULL_BITS = np.uint64(32 - PRECISION_BITS)
_WORD = np.uint64(_WORD_BITS)
_WORD_MASK = np.uint64((1 << _WORD_BITS) - 1)
_LOW = np.uint64(1 << _WORD_BITS)
_BYTE = np.uint64(8)
_BYTE_MASK = np.uint64(255)
_BYTE_FULL = np.uint64(1 << 24)
_ONE = np.uint64(1)
_ZERO = np.uint64(0)
_MOST_ZIGZAG = np.uint64(2 * MOST_MAGNITUDE)

# The decoder's registers: the lanes, then these.
_POSITION, _COUNT, _FAILED, _REGISTERS = LANES, LANES + 1, LANES + 2, LANES + 3
_SKIPPED_NOT_ZERO, _TOO_LARGE = -1, -2  # what `_gather` returns instead of a count
_BLOCK = 1 << 14  # symbols whose buffers stay in the processor's nearest caches
_PATH_MASK = np.uint64(PATHS - 1)
_NO_WALK = np.zeros((1, 2), np.uint8)  # of one quantiser: a state that never changes
_SECOND_ROWS = MOST_SCALES


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call, without holding the interpreter, and keep the machine code where a folder allows."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(nogil=True, error_model="numpy")(function)


class Decoder:
    """Symbols of one payload, part by part: the scales of a part may depend on the symbols before it.

    For one thread; decoders in several threads share tables and run at the same time.
    """

    def __init__(self, payload: bytes | memoryview, tables: FrequencyTables) -> None:
        """Read the states.

        Raises:
            ValueError: the payload cannot be a stream.
        """
        data = bytes(payload)
        begin = int(len(data) > ONE_LANE_BYTES)
        if begin and data[0] > _LONG_ONE_LANE:
            raise ValueError(f"coded symbols begin with {data[0]}, should be at most {_LONG_ONE_LANE}")
        if begin and data[0] < _LONG_ONE_LANE:
            lengths = [3 + (data[0] >> lane & 1) for lane in range(LANES)]
        else:
            left = len(data) - begin
            lengths = [left if left <= 4 else 4 - left % 2]
        self._registers = np.zeros(_REGISTERS, np.uint64)
        for lane, length in enumerate(lengths):
            state = data[begin : begin + length]
            begin += length
            if length and state[-1] == 0:
                raise ValueError(f"state {lane} of coded symbols ends with a zero byte")
            self._registers[lane] = int.from_bytes(state, "little")
        if (len(data) - begin) % 2:
            raise ValueError("coded symbols end with half a word")
        self._words = np.frombuffer(data, "<u2", offset=begin).astype(np.uint16)
        self._lanes = len(lengths)
        self._tables = tables
        self._states = np.zeros(PATHS, np.uint8)

    def decode(self, scales: np.ndarray, *, trellis: bool = False) -> np.ndarray:
        """The next symbols.

        Args:
            scales: (n,) uint8 scale indices, any n; 0 is a skipped symbol.
            trellis: a trellis chose them, from the two quantisers whose rows the tables have.

        Returns:
            (n,) int32; of a trellis, what the symbols stand for, in multiples of the spacing.

        Raises:
            ValueError: not such scales, or the payload holds a value beyond 2**30. Other damage gives wrong symbols,
                which `finish` finds.
        """
        tables = self._tables
        if trellis and not tables.two:
            raise ValueError(f"a trellis needs {2 * MOST_SCALES} rows, but the tables have {tables.n_scales}")
        scales = _scales(scales, tables.n_scales)
        out = np.empty(scales.size, np.int32)
        walk, states = (WALK, self._states) if trellis else (_NO_WALK, np.zeros(PATHS, np.uint8))
        held = (tables.zero, tables.spans, tables.begins)
        _decode_spread(scales, self._lanes, self._words, self._registers, walk, states, *held, out)
        if self._registers[_FAILED]:
            raise ValueError(f"coded symbols hold a value beyond {MOST_MAGNITUDE}")
        return out

    def finish(self) -> None:
        """Check that the decoded symbols were all of the payload.

        Raises:
            ValueError: words are left, or the states are not where an encoder starts: the payload is damaged, or was
                coded with other scales, tables or numbers of symbols.
        """
        left = self._words.size - int(self._registers[_POSITION])
        if left:
            raise ValueError(f"{2 * left} bytes of coded symbols are left over")
        if self._registers[_FAILED] or (self._registers[: self._lanes] != _start(self._lanes)).any():
            raise ValueError("coded symbols do not end where their encoder began")


def encode(symbols: np.ndarray, scales: np.ndarray, tables: FrequencyTables) -> bytes:
    """The payload of all symbols of a stream; equal arguments give equal bytes on every machine.

    Args:
        symbols: (n,) int16 or int32, from -2**30 to 2**30.
        scales: (n,) uint8 scale indices; where 0, the symbol is 0. Of a symbol of a trellis's second quantiser, that
            many rows further.

    Raises:
        ValueError: not such symbols or scales.
    """
    scales = _scales(scales, tables.frequencies.shape[0])
    if symbols.shape != scales.shape or symbols.dtype not in (np.int16, np.int32):
        raise ValueError(f"symbols are {symbols.dtype}{list(symbols.shape)}, should be int32[{scales.size}]")
    values, rows = np.empty(scales.size + 1, np.int32), np.empty(scales.size + 1, np.uint8)
    symbols = np.require(symbols, np.int32, ["C", "W"])
    n_coded, n_escaped = _gather(symbols, scales, tables.frequencies, values, rows)
    if n_coded == _SKIPPED_NOT_ZERO:
        raise ValueError("a symbol of scale 0 is not 0")
    if n_coded == _TOO_LARGE:
        raise ValueError(f"a symbol is beyond {MOST_MAGNITUDE}")
    values, rows = values[:n_coded], rows[:n_coded]
    payload = _payload(*_run(values, rows, n_escaped, tables, LANES))
    if len(payload) > ONE_LANE_BYTES:
        return payload
    payload = _payload(*_run(values, rows, n_escaped, tables, 1))
    return payload if len(payload) <= ONE_LANE_BYTES else bytes([_LONG_ONE_LANE]) + payload


def _scales(scales: np.ndarray, rows: int) -> np.ndarray:
    if scales.ndim != 1 or scales.dtype != np.uint8:
        raise ValueError(f"scale indices are {scales.dtype}{list(scales.shape)}, should be a list of uint8")
    if scales.size and int(scales.max()) >= rows:
        raise ValueError(f"scale index {scales.max()}, but the tables have {rows}")
    return np.require(scales, requirements=["C", "W"])  # one kind of array, or the kernels are compiled for each


def _start(lanes: int) -> int:
    return 0 if lanes == 1 else 1 << _WORD_BITS


def _run(
    values: np.ndarray, rows: np.ndarray, n_escaped: int, tables: FrequencyTables, lanes: int
) -> tuple[list[int], np.ndarray]:
    """Final states of `lanes` lanes, and the words."""
    words = np.empty(values.size + 5 * n_escaped, np.uint16)  # a step moves one word at most
    states = np.full(lanes, _start(lanes), np.uint64)
    free = _encode(values, rows, np.uint64(lanes - 1), states, tables.spans, words)
    return [int(x) for x in states], words[free:]


def _payload(states: list[int], words: np.ndarray) -> bytes:
    tail = words.astype("<u2").tobytes()
    if len(states) == 1:
        return states[0].to_bytes((states[0].bit_length() + 7) // 8, "little") + tail
    lengths = [3 + (x >= 1 << 24) for x in states]
    header = sum((length == 4) << lane for lane, length in enumerate(lengths))
    packed = (x.to_bytes(length, "little") for x, length in zip(states, lengths, strict=True))
    return b"".join((bytes([header]), *packed, tail))


@_compiled
def _decode_spread(
    scales: np.ndarray,
    lanes: int,
    words: np.ndarray,
    registers: np.ndarray,
    walk: np.ndarray,
    states: np.ndarray,
    zero: np.ndarray,
    spans: np.ndarray,
    begins: np.ndarray,
    out: np.ndarray,
) -> None:
    """Take the coded symbols together, so that skipped ones cost no branch, decode them and spread them out."""
    rows, found = np.empty(_BLOCK + 1, np.uint8), np.empty(_BLOCK + 1, np.int32)
    for begin in range(0, scales.size, _BLOCK):
        end = min(begin + _BLOCK, scales.size)
        n_coded = 0
        for i in range(begin, end):
            rows[n_coded] = scales[i]
            n_coded += scales[i] != 0
        if n_coded == end - begin:
            _decode(rows[:n_coded], lanes, words, registers, walk, states, zero, spans, begins, out[begin:end])
            continue
        _decode(rows[:n_coded], lanes, words, registers, walk, states, zero, spans, begins, found)
        found[n_coded] = 0
        n_coded = 0
        for i in range(begin, end):
            coded = scales[i] != 0
            out[i] = found[n_coded] if coded else 0
            n_coded += coded


@_compiled
def _decode(
    rows: np.ndarray,
    lanes: int,
    words: np.ndarray,
    registers: np.ndarray,
    walk: np.ndarray,
    states: np.ndarray,
    zero: np.ndarray,
    spans: np.ndarray,
    begins: np.ndarray,
    out: np.ndarray,
) -> None:
    """Decode symbols of scales `rows`, none of them 0. In one piece: numba counts references at each inner call.

    No index comes from the payload but the slot, which is masked, the state, which `walk` gives by parity alone, and
    the position, which is compared.
    """
    position, count = registers[_POSITION], registers[_COUNT]
    n_words, lane_mask = np.uint64(words.size), np.uint64(lanes - 1)
    limit = spans.shape[1] // 2 - 1
    factor = 1 + int(len(walk) > 1)
    for k in range(rows.size):
        lane, path = (count + np.uint64(k)) & lane_mask, (count + np.uint64(k)) & _PATH_MASK
        x, state = registers[lane], states[path]
        second = np.int64(state & 1)
        row = np.int64(rows[k]) + second * _SECOND_ROWS
        slot = x & _SLOT_MASK
        freq_zero = np.uint64(zero[row])
        if slot < freq_zero:  # mostly; the processor guesses so, and does not wait for a look-up
            x = freq_zero * (x >> _SLOT_BITS) + slot
            if x < _LOW and position < n_words:
                x = x << _WORD | np.uint64(words[position])
                position += _ONE
            out[k] = 0
            states[path] = walk[state, 0]
        else:
            column = np.int64(begins[row, slot >> _BUCKET])
            span = np.uint64(spans[row, column])
            while (span >> _WORD) + (span & _WORD_MASK) <= slot:  # the last, the escape, reaches beyond every slot
                column += 1
                span = np.uint64(spans[row, column])
            x = (span & _WORD_MASK) * (x >> _SLOT_BITS) + slot - (span >> _WORD)
            if x < _LOW and position < n_words:
                x = x << _WORD | np.uint64(words[position])
                position += _ONE
            y = column - limit
            if y > limit:
                code, shift, more = _ZERO, _ZERO, True
                while more and shift < np.uint64(35):
                    byte = x & _BYTE_MASK
                    x >>= _BYTE
                    if x < _LOW and position < n_words:
                        x = x << _WORD | np.uint64(words[position])
                        position += _ONE
                    code |= (byte & np.uint64(127)) << shift
                    shift += np.uint64(7)
                    more = byte >= np.uint64(128)
                if more or code > _MOST_ZIGZAG:
                    registers[_FAILED] = _ONE
                    code = _ZERO
                y = np.int64(code >> _ONE) ^ -np.int64(code & _ONE)
            out[k] = factor * y - second * (np.int64(y > 0) - np.int64(y < 0))
            states[path] = walk[state, y & 1]
        registers[lane] = x
    registers[_POSITION] = position
    registers[_COUNT] = count + np.uint64(rows.size)


@_compiled
def _gather(
    symbols: np.ndarray, scales: np.ndarray, frequencies: np.ndarray, values: np.ndarray, rows: np.ndarray
) -> tuple[int, int]:
    """Copy the symbols that are coded to `values` and `rows`; their number, and that of escapes among them."""
    limit = frequencies.shape[1] // 2 - 1
    n_coded, n_escaped = 0, 0
    for i in range(symbols.size):
        y, row = np.int64(symbols[i]), scales[i]
        values[n_coded] = y
        rows[n_coded] = row
        if row == 0:
            if y != 0:
                return _SKIPPED_NOT_ZERO, 0
            continue
        n_coded += 1
        if y < -limit or y > limit:
            if y < -MOST_MAGNITUDE or y > MOST_MAGNITUDE:
                return _TOO_LARGE, 0
            n_escaped += 1
        elif frequencies[row, y + limit] == 0:
            n_escaped += 1
    return n_coded, n_escaped


@_compiled
def _encode(
    values: np.ndarray,
    rows: np.ndarray,
    lane_mask: np.uint64,
    states: np.ndarray,
    spans: np.ndarray,
    words: np.ndarray,
) -> int:
    """Code from the last symbol to the first, words from the end of `words` down; where they begin."""
    limit = spans.shape[1] // 2 - 1
    free = words.size
    for k in range(values.size - 1, -1, -1):
        lane = np.uint64(k) & lane_mask
        y, row = np.int64(values[k]), rows[k]
        span = _ZERO
        if -limit <= y <= limit:
            span = np.uint64(spans[row, y + limit])
        if span & _WORD_MASK == _ZERO:
            code = np.uint64((y << 1) ^ (y >> 63))
            n_bytes = 1
            while code >> np.uint64(7 * n_bytes) != _ZERO:
                n_bytes += 1
            for b in range(n_bytes - 1, -1, -1):
                if states[lane] >= _BYTE_FULL:
                    free -= 1
                    words[free] = states[lane] & _WORD_MASK
                    states[lane] >>= _WORD
                byte = code >> np.uint64(7 * b) & np.uint64(127)
                if b < n_bytes - 1:
                    byte |= np.uint64(128)
                states[lane] = states[lane] << _BYTE | byte
            span = np.uint64(spans[row, 2 * limit + 1])
        x, freq = states[lane], span & _WORD_MASK
        if x >= freq << _FULL_BITS:
            free -= 1
            words[free] = x & _WORD_MASK
            x >>= _WORD
        quotient = x // freq
        states[lane] = (quotient << _SLOT_BITS) + (x - quotient * freq) + (span >> _WORD)
    return free
