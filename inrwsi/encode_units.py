"""Model `octaves`, the pieces of an encoding: which chunks there are, which are blank, and how a unit is coded.

A unit is a chunk of the coarsest of the (at most three) finest octaves with all that lies under it, 1024 x 1024 level-0
pixels: what is read at once, and all that one piece of work needs beside its part of the decoded octave above it.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import crc32c
import numpy as np

from inrwsi.coding.lifting import PIXEL_UNIT
from inrwsi.errors import UsageError
from inrwsi.fields.octaves_model import CHUNK_PX, FEATURES, Decoded, coarsest_octave
from inrwsi.fit.quality import squared_error
from inrwsi.geometry import Rect, chunk_rect, grid_wh, octave_wh
from inrwsi.octave_chunks import ChunkCoder
from inrwsi.tissue import is_blank

UNIT_OCTAVE = 2
SAME_GLASS = 2  # levels of 255 between plain chunks of a unit that are given one colour
# A chunk of plain glass is blank where its one colour errs by less than so little of the step, root mean square: a
# quarter or less of the squared error that tissue is left with. Glass is noise and shades, but MS-SSIM counts it like
# all else: of one colour whatever the step, the tissue tiles of a slide had 5 dB less of it at quality 99.
GLASS_STEP = 20.0
_PART_PX = CHUNK_PX // 2
_SSE = struct.Struct("<Q")
_CRC = struct.Struct("<I")

Ij = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """The chunks of a slide. `top` is the octave that is stored plainly, `unit` that of the units."""

    l0_wh: tuple[int, int]
    top: int
    unit: int

    @classmethod
    def of(cls, l0_wh: tuple[int, int]) -> Plan:
        top = coarsest_octave(l0_wh)
        return cls(l0_wh, top, min(UNIT_OCTAVE, top - 1))

    def grid(self, octave: int) -> tuple[int, int]:
        """Columns and rows of chunks."""
        return grid_wh(octave_wh(self.l0_wh, octave), CHUNK_PX)

    def rect(self, octave: int, ij: Ij) -> Rect:
        """The mip pixels of a chunk."""
        return chunk_rect(octave_wh(self.l0_wh, octave), CHUNK_PX, ij)

    def number(self, octave: int, ij: Ij) -> int:
        """Of a chunk among those of its octave, row by row."""
        return ij[1] * self.grid(octave)[0] + ij[0]

    def chunks(self, octave: int) -> Iterator[Ij]:
        """All of an octave, row by row."""
        columns, rows = self.grid(octave)
        return ((i, j) for j in range(rows) for i in range(columns))

    def children(self, octave: int, ij: Ij) -> Iterator[Ij]:
        """The chunks of the next finer octave that lie on this one, row by row."""
        columns, rows = self.grid(octave - 1)
        for j in range(2 * ij[1], min(2 * ij[1] + 2, rows)):
            for i in range(2 * ij[0], min(2 * ij[0] + 2, columns)):
                yield i, j

    def quadrant(self, octave: int, ij: Ij) -> Rect:
        """Where a chunk lies on its parent chunk, in the parent's pixels from the parent's corner."""
        rect = self.rect(octave, ij)
        return Rect(_PART_PX * (ij[0] % 2), _PART_PX * (ij[1] % 2), -(-rect.w // 2), -(-rect.h // 2))

    def l0_rect(self, octave: int, ij: Ij) -> Rect:
        """The level-0 pixels under a chunk."""
        side = CHUNK_PX << octave
        whole = Rect(0, 0, *self.l0_wh)
        return Rect(ij[0] * side, ij[1] * side, side, side).intersect(whole)

    def leaves(self, unit_ij: Ij) -> list[Ij]:
        """The octave-0 chunks of a unit, row by row."""
        columns, rows = self.grid(0)
        side = 1 << self.unit
        return [
            (i, j)
            for j in range(unit_ij[1] * side, min((unit_ij[1] + 1) * side, rows))
            for i in range(unit_ij[0] * side, min((unit_ij[0] + 1) * side, columns))
        ]


class Parts:
    """What an octave hands to the chunks of the next finer one, on disk: for each of those, its part of this octave.

    Not mapped into memory: pages of a map count as the process's own. Thread safe.

    Args:
        path: made if it is not there; what an earlier run wrote is in it.
        plan: of the slide.
        octave: of the finer chunks, by which parts are asked for.
        features: FEATURES for decoded octaves, 0 for true ones.
    """

    def __init__(self, path: Path, plan: Plan, octave: int, features: int) -> None:
        self.path, self._plan, self._octave, self._features = path, plan, octave, features
        self._stride = _CRC.size + _PART_PX**2 * (6 + features)
        path.touch()
        self._file = open(path, "r+b", buffering=0)  # noqa: SIM115 - open for as long as the object
        self._lock = threading.Lock()

    def put(self, ij: Ij, part: Decoded) -> None:
        data = np.ascontiguousarray(part.pixels, "<i2").tobytes()
        if self._features and part.features is not None:
            data += np.ascontiguousarray(part.features).tobytes()
        left = memoryview(_CRC.pack(crc32c.crc32c(data)) + data)
        with self._lock:
            self._file.seek(self._plan.number(self._octave, ij) * self._stride)
            while left:  # a full disk takes a part without a word; only the next write is refused
                left = left[self._file.write(left) :]

    def get(self, ij: Ij) -> Decoded:
        """The part under chunk `ij` of the finer octave.

        Raises:
            UsageError: it is not what was written.
        """
        rect = self._plan.quadrant(self._octave, ij)
        count = rect.w * rect.h
        with self._lock:
            self._file.seek(self._plan.number(self._octave, ij) * self._stride)
            raw = self._file.read(_CRC.size + count * (6 + self._features))
        data = raw[_CRC.size :]
        if len(data) != count * (6 + self._features) or _CRC.unpack_from(raw)[0] != crc32c.crc32c(data):
            raise UsageError(f"{self.path}: is damaged; encode again with --overwrite")
        pixels = np.frombuffer(data, "<i2", 3 * count).astype(np.int16).reshape(3, rect.h, rect.w)
        if not self._features:
            return Decoded(pixels, None)
        features = np.frombuffer(data, np.uint8, offset=6 * count).reshape(FEATURES, rect.h, rect.w)
        return Decoded(pixels, features)

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        self.close()
        self.path.unlink(missing_ok=True)


class Glass:
    """The octave-0 chunks that are plain glass, as a scan tells, and what one colour for each of them loses."""

    def __init__(self, plan: Plan, channels: int) -> None:
        self._plan = plan
        self._leaf = np.dtype([("plain", np.bool_), ("colour", np.uint8, (channels,)), ("sse", "<u8")])
        self._leaves = np.zeros(plan.grid(0)[::-1], self._leaf)
        w, h = (np.minimum(CHUNK_PX, side - np.arange(0, side, CHUNK_PX)) for side in plan.l0_wh)
        self._px = h[:, None] * w

    def take(self, unit_ij: Ij, record: bytes) -> None:
        """What `Scanned.record` says of a unit."""
        values = np.frombuffer(record, self._leaf)
        for (i, j), value in zip(self._plan.leaves(unit_ij), values, strict=True):
            self._leaves[j, i] = value

    def content(self) -> list[Ij]:
        """The others, row by row: those that hold something."""
        return [(int(i), int(j)) for j, i in np.argwhere(~self._leaves["plain"])]

    def content_px(self, chunks: Iterable[Ij]) -> int:
        """Pixels of those of `chunks` that hold something."""
        return sum(int(self._px[j, i]) for i, j in chunks if not self._leaves["plain"][j, i])

    def blanks(self, equal_step: float) -> Blanks:
        """Which chunks are blank where steps are equal to so many grey levels: those that lose little beside that."""
        most = self._px * self._leaf["colour"].shape[0] * (equal_step / GLASS_STEP) ** 2
        plain = self._leaves["plain"] & (self._leaves["sse"] <= most)
        return Blanks(self._plan, plain, self._leaves["colour"], int(self._leaves["sse"][plain].sum()))


class Blanks:
    """Which chunks of every octave are blank: those with nothing but blank octave-0 chunks of one colour under them.

    Args:
        blank, colour: of octave 0, (rows, columns) bool and (rows, columns, C) uint8.
        sse: squared error of all of them.
    """

    def __init__(self, plan: Plan, blank: np.ndarray, colour: np.ndarray, sse: int) -> None:
        self._plan, self.sse = plan, sse
        self._blank, self._colour = [blank], [np.where(blank[..., None], colour, 0)]
        for k in range(1, plan.top + 1):
            h, w = self._blank[k - 1].shape
            odd = ((0, h % 2), (0, w % 2))
            finer = np.pad(self._blank[k - 1], odd, mode="edge")
            colours = np.pad(self._colour[k - 1], (*odd, (0, 0)), mode="edge")
            four = [(finer[y::2, x::2], colours[y::2, x::2]) for y in (0, 1) for x in (0, 1)]
            first = four[0][1]
            same = np.logical_and.reduce([(part == first).all(axis=2) & own for own, part in four])
            self._blank.append(same)
            self._colour.append(np.where(same[..., None], first, 0))

    def has(self, octave: int, ij: Ij) -> bool:
        """Whether a chunk is blank."""
        return bool(self._blank[octave][ij[1], ij[0]])

    def colour(self, octave: int, ij: Ij) -> tuple[int, ...] | None:
        """The colour of a blank chunk; None of a coded one."""
        if not self.has(octave, ij):
            return None
        return tuple(int(v) for v in self._colour[octave][ij[1], ij[0]])

    def coded(self, octave: int) -> list[Ij]:
        """The chunks of an octave that are not blank, row by row."""
        return [(int(i), int(j)) for j, i in np.argwhere(~self._blank[octave])]

    def coded_px(self, octave: int, chunks: list[Ij]) -> int:
        """Mip pixels of those of `chunks` that are coded."""
        rects = [self._plan.rect(octave, ij) for ij in chunks if not self._blank[octave][ij[1], ij[0]]]
        return sum(rect.w * rect.h for rect in rects)

    @property
    def count(self) -> int:
        """Blank chunks of all octaves."""
        return sum(int(blank.sum()) for blank in self._blank)


@dataclass(frozen=True)
class Scanned:
    """What the scan keeps of a unit: its plain chunks, for the log, and the true octave above it."""

    record: bytes
    above: np.ndarray


def scan_unit(coder: ChunkCoder, plan: Plan, unit_ij: Ij, pixels: np.ndarray, glass: tuple[int, ...] | None) -> Scanned:
    """Find a unit's chunks of plain glass, and make the octave above the units from its pixels.

    Those whose colours are alike are given one, so that the coarser chunks on them can be blank, too.

    Args:
        pixels: (h, w, C) uint8, of level 0.
        glass: the slide's colour of it, where it shows any.
    """
    origin = plan.l0_rect(plan.unit, unit_ij)
    leaves = plan.leaves(unit_ij)
    views = [_view(plan.rect(0, ij), origin, pixels) for ij in leaves]
    found = [None if glass is None else is_blank(view, glass) for view in views]
    known = np.array([colour for colour in found if colour is not None])
    if len(known) and np.ptp(known, axis=0).max() <= SAME_GLASS:
        own = tuple(int(v) for v in np.rint(known.mean(axis=0)))
        found = [None if colour is None else own for colour in found]
    record = b"".join(
        bytes(1 + pixels.shape[2] + _SSE.size)
        if colour is None
        else bytes((1, *colour)) + _SSE.pack(squared_error(view, np.array(colour)))
        for view, colour in zip(views, found, strict=True)
    )
    # Of its own pixels, glass and all: which chunks are blank is known when the step is.
    above = coder.below(unit_targets(coder, plan, unit_ij, pixels, dict.fromkeys(leaves))[plan.unit, unit_ij])
    return Scanned(record, above)


def unit_targets(
    coder: ChunkCoder, plan: Plan, unit_ij: Ij, pixels: np.ndarray, colours: dict[Ij, tuple[int, ...] | None]
) -> dict[tuple[int, Ij], np.ndarray]:
    """The true pixels of a unit's chunks: (octave, chunk) to (3, h, w) float32.

    Args:
        pixels: (h, w, C) uint8, of level 0.
        colours: of the octave-0 chunks that are blank: what lies above one is made of its colour.
    """
    origin = plan.l0_rect(plan.unit, unit_ij)
    targets: dict[tuple[int, Ij], np.ndarray] = {}
    for ij in plan.leaves(unit_ij):
        view, colour = _view(plan.rect(0, ij), origin, pixels), colours[ij]
        if colour is not None:
            view = np.broadcast_to(np.array(colour, np.uint8), view.shape)
        targets[0, ij] = coder.components(as_rgb(view))
    level = plan.leaves(unit_ij)
    for octave in range(1, plan.unit + 1):
        parts = {ij: coder.below(targets[octave - 1, ij]) for ij in level}
        level = list(dict.fromkeys((i // 2, j // 2) for i, j in level))
        for ij in level:
            targets[octave, ij] = joined(plan, octave, ij, parts)
    return targets


def joined(plan: Plan, octave: int, ij: Ij, parts: dict[Ij, np.ndarray]) -> np.ndarray:
    """A chunk (3, h, w) float32 from its children's parts of it."""
    rect = plan.rect(octave, ij)
    whole = np.empty((3, rect.h, rect.w), np.float32)
    for child in plan.children(octave, ij):
        part = plan.quadrant(octave - 1, child)
        whole[:, part.y : part.y + part.h, part.x : part.x + part.w] = parts[child]
    return whole


@dataclass(frozen=True)
class Coded:
    """A coded unit: payloads of its chunks by (octave, chunk), and the squared error of its coded level-0 pixels."""

    payloads: dict[tuple[int, Ij], bytes]
    sse: int

    @property
    def nbytes(self) -> int:
        """Of the payloads."""
        return sum(map(len, self.payloads.values()))


def encode_unit(
    coder: ChunkCoder, plan: Plan, blanks: Blanks, unit_ij: Ij, pixels: np.ndarray, parent: Decoded
) -> Coded:
    """Code a unit's chunks, coarse to fine, those that are not blank.

    Args:
        pixels: (h, w, C) uint8, of level 0.
        parent: the unit's part of the decoded octave above it.
    """
    origin = plan.l0_rect(plan.unit, unit_ij)
    colours = {ij: blanks.colour(0, ij) for ij in plan.leaves(unit_ij)}
    targets = unit_targets(coder, plan, unit_ij, pixels, colours)
    payloads: dict[tuple[int, Ij], bytes] = {}
    sse = 0
    waiting = [(plan.unit, unit_ij, parent)]
    while waiting:
        octave, ij, below = waiting.pop()
        if blanks.colour(octave, ij) is not None:
            continue
        payloads[octave, ij], decoded = coder.encode(octave, targets.pop((octave, ij)), below)
        if octave == 0:
            sse += squared_error(_view(plan.rect(0, ij), origin, pixels), coder.rgb(decoded)[..., : pixels.shape[2]])
        else:
            finer = octave - 1
            waiting += [(finer, child, quadrant(plan, finer, child, decoded)) for child in plan.children(octave, ij)]
    return Coded(payloads, sse)


def quadrant(plan: Plan, octave: int, ij: Ij, parent: Decoded) -> Decoded:
    """A chunk's part of its decoded parent."""
    rect = plan.quadrant(octave, ij)
    return parent.cut(rect.x, rect.y, rect.w, rect.h)


def as_held(target: np.ndarray) -> Decoded:
    """True pixels (3, h, w) float32 as `Parts` hold them."""
    return Decoded(np.rint(np.clip(target * PIXEL_UNIT, -32767, 32767)).astype(np.int16), None)


def as_true(held: Decoded) -> np.ndarray:
    """The inverse of `as_held`."""
    return held.pixels.astype(np.float32) / PIXEL_UNIT


def as_rgb(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 1 or 3) to (h, w, 3): grey is coded as three equal channels."""
    return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


def _view(rect: Rect, origin: Rect, pixels: np.ndarray) -> np.ndarray:
    return pixels[rect.y - origin.y :, rect.x - origin.x :][: rect.h, : rect.w]
