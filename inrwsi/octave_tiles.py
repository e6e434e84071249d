"""Model `octaves`: from a rectangle of an octave to the chunks that cover it, each decoded from its ancestors."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial

import numpy as np
import torch

from inrwsi.config import ConfigError, from_dict
from inrwsi.errors import Cause, CorruptFile, UnsupportedVersion
from inrwsi.fields.octaves_model import CHUNK_PX, FEATURES, Decoded, OctavesModel, coarsest_octave
from inrwsi.formats.container import Container
from inrwsi.geometry import Rect, chunk_rect, octave_wh
from inrwsi.lru import BLANK_BYTES, OnceLru
from inrwsi.octave_chunks import ChunkCoder
from inrwsi.resample import Sampling

AHEAD = 16  # chunks of a rectangle that are under way at a time, or twice the threads if that is more
DECODED_BYTES = CHUNK_PX**2 * (3 * 2 + FEATURES)
STEP_TOLERANCE = 0.01

Colour = tuple[int, ...]
ChunkIj = tuple[int, int]


def octave_for(step: float, coarsest: int) -> int:
    """What an output pixel of `step` level-0 pixels is made from: the coarsest octave whose pixels are smaller.

    Smaller, not as large: a mean over two samples is a better pixel than the wavelet's, which lies elsewhere.
    `STEP_TOLERANCE`: pixels of 0.2499 um make as sharp a picture of 0.5 um a pixel as those of 0.25 do.
    """
    octave = 0
    while octave < coarsest and 2.0 ** (octave + 1) * (1 + STEP_TOLERANCE) < step:
        octave += 1
    return octave


class OctaveTiles:
    """Decodes `octaves` files. Thread safe.

    A chunk needs the chunk of the next coarser octave that it lies in, that one the next, and so on. What serves
    others, the decoded chunks of octaves from 1, is kept apart from the pixels that were shown. Chunks are decoded in
    as many threads as torch has, one torch thread each: they are too small for more.

    Args:
        container: an open file whose model is `octaves`.
        device: where to compute.
        cache_bytes: limit of decoded chunks and pixels held.

    Raises:
        CorruptFile: the model's config, the grid or the weights are not of the spec.
        UnsupportedVersion: the model's prior is not in this build.
    """

    def __init__(self, container: Container, device: torch.device, cache_bytes: int) -> None:
        self._container = container
        self._slide = container.header.slide
        self._coarsest = coarsest_octave(self._slide.l0_wh)
        self.model = self._parse_model()
        try:
            self._coder = ChunkCoder(self.model, container.weights(), device)
        except ValueError as error:
            raise CorruptFile(container.path, Cause.WEIGHTS, str(error)) from None
        except UnsupportedVersion as error:
            raise UnsupportedVersion(f"{container.path}: {error}") from None
        self._decoded_bytes = cache_bytes // 2
        self._decoded: OnceLru[Decoded | Colour] = OnceLru(self._decoded_bytes, _bytes_of)
        self._shown: OnceLru[np.ndarray | Colour] = OnceLru(cache_bytes - self._decoded_bytes, _bytes_of)

    def _parse_model(self) -> OctavesModel:
        header, path = self._container.header, self._container.path
        try:
            model = from_dict(OctavesModel, header.model, ignore_unknown=self._container.version[1] > 0)
        except ConfigError as error:
            raise CorruptFile(path, Cause.HEADER, f"model.{error}") from None
        slide, grid = header.slide, header.grid
        wrong = None
        if grid.octaves != tuple(range(self._coarsest + 1)):
            wrong = f"grid.octaves is {list(grid.octaves)}, should be 0 to {self._coarsest}, each once, for octaves"
        elif grid.chunk_px != CHUNK_PX:
            wrong = f"grid.chunk_px is {grid.chunk_px}, should be {CHUNK_PX} for octaves"
        elif not slide.is_picture:
            wrong = f"the slide has {slide.channels} channels of {slide.bit_depth} bits, should have 1 or 3 of 8 bits"
        if wrong:
            raise CorruptFile(path, Cause.HEADER, wrong)
        return model

    def sampling(self, step: float) -> Sampling:
        """Samples for an output pixel of `step` level-0 pixels."""
        return Sampling(octave=octave_for(step, self._coarsest))

    def blocks(self, rect: Rect, sampling: Sampling) -> Iterator[tuple[Rect, np.ndarray | Colour | CorruptFile]]:
        """The chunks over `rect`, in pixels of the octave, row by row, cut to the octave's size.

        Yields:
            A chunk's rectangle, and its (h, w, channels) uint8 pixels, its one colour where it is blank, or what is
            wrong with it or with the ancestor that it cannot be decoded without. Pixels are not to be written to.
        """
        octave = sampling.octave
        columns = range(rect.x // CHUNK_PX, (rect.x + rect.w - 1) // CHUNK_PX + 1)
        rows = range(rect.y // CHUNK_PX, (rect.y + rect.h - 1) // CHUNK_PX + 1)
        chunks = [(i, j) for j in rows for i in columns]
        workers = torch.get_num_threads()
        outcomes: Iterator[tuple[ChunkIj, np.ndarray | Colour | CorruptFile]]
        if workers == 1 or len(chunks) == 1:
            outcomes = ((ij, _outcome(partial(self._show, octave, ij))) for ij in chunks)
        else:
            outcomes = self._in_parallel(octave, chunks, thread_pool(workers, os.getpid()), max(AHEAD, 2 * workers))
        for ij, content in outcomes:
            yield self._rect(octave, ij), content

    def _in_parallel(
        self, octave: int, chunks: list[ChunkIj], pool: ThreadPoolExecutor, ahead: int
    ) -> Iterator[tuple[ChunkIj, np.ndarray | Colour | CorruptFile]]:
        """The chunks in their order, with at most `ahead` of them under way or waiting to be taken."""
        under_way: deque[tuple[ChunkIj, Future[np.ndarray | Colour]]] = deque()
        try:
            for number, ij in enumerate(chunks):
                if number % (ahead // 2) == 0:
                    for above, ancestor_ij in self._lacking(octave, chunks[number : number + ahead // 2]):
                        pool.submit(self._decode, above, ancestor_ij)
                under_way.append((ij, pool.submit(self._show, octave, ij)))
                if len(under_way) == ahead:
                    first_ij, future = under_way.popleft()
                    yield first_ij, _outcome(future.result)
            while under_way:
                first_ij, future = under_way.popleft()
                yield first_ij, _outcome(future.result)
        finally:
            for _, future in under_way:
                future.cancel()

    def _lacking(self, octave: int, chunks: list[ChunkIj]) -> list[tuple[int, ChunkIj]]:
        """Ancestors of `chunks` that are not in memory, coarsest first. None if they would not stay there.

        Decoded in this order, before the chunks, they keep all threads busy: siblings would wait for one parent.
        """
        found: list[tuple[int, ChunkIj]] = []
        here = {ij for ij in chunks if self._shown.held((octave, ij)) is None}
        for above in range(octave + 1, self._coarsest + 1):
            here = {(i // 2, j // 2) for i, j in here}
            here = {ij for ij in here if self._decoded.held((above, ij)) is None}
            found = [(above, ij) for ij in sorted(here)] + found
        return found if len(found) * DECODED_BYTES <= self._decoded_bytes else []

    def _rect(self, octave: int, chunk_ij: ChunkIj) -> Rect:
        return chunk_rect(octave_wh(self._slide.l0_wh, octave), CHUNK_PX, chunk_ij)

    def _show(self, octave: int, chunk_ij: ChunkIj) -> np.ndarray | Colour:
        """Pixels (h, w, channels) uint8, or the colour (channels,) of a blank chunk. Raises CorruptFile."""
        return self._shown.get((octave, chunk_ij), partial(self._pixels, octave, chunk_ij))

    def _pixels(self, octave: int, chunk_ij: ChunkIj) -> np.ndarray | Colour:
        # Nothing is predicted from octave 0: as it is by far the largest, only its pixels are kept.
        decoded = self._decode(octave, chunk_ij) if octave else self._compute(octave, chunk_ij)
        if isinstance(decoded, tuple):
            return decoded
        rgb = self._coder.rgb(decoded)
        return rgb if self._slide.channels == 3 else np.ascontiguousarray(rgb[..., :1])

    def _decode(self, octave: int, chunk_ij: ChunkIj) -> Decoded | Colour:
        return self._decoded.get((octave, chunk_ij), partial(self._compute, octave, chunk_ij))

    def _compute(self, octave: int, chunk_ij: ChunkIj) -> Decoded | Colour:
        chunk = self._container.chunk(octave, chunk_ij)
        if chunk.payload is None:
            return chunk.colour or ()
        rect = self._rect(octave, chunk_ij)
        parent = self._parent(octave, rect) if octave < self._coarsest else None
        try:
            if parent is None:
                return self._coder.decode_root(chunk.payload, (rect.w, rect.h))
            return self._coder.decode(octave, chunk.payload, parent, (rect.w, rect.h))
        except ValueError as error:
            where = f"octave {octave}, column {chunk_ij[0]}, row {chunk_ij[1]}: {error}"
            raise CorruptFile(self._container.path, Cause.CHUNK, where) from None

    def _parent(self, octave: int, rect: Rect) -> Decoded:
        """The part of octave + 1 under a chunk's rectangle of `octave`: it lies in one chunk."""
        above_ij = (rect.x // (2 * CHUNK_PX), rect.y // (2 * CHUNK_PX))
        whole = self._rect(octave + 1, above_ij)
        decoded = self._decode(octave + 1, above_ij)
        if isinstance(decoded, tuple):
            decoded = self._coder.blank(decoded, (whole.w, whole.h), octave + 1)
        return decoded.cut(rect.x // 2 - whole.x, rect.y // 2 - whole.y, (rect.w + 1) // 2, (rect.h + 1) // 2)


def _bytes_of(value: Decoded | np.ndarray | Colour) -> int:
    return BLANK_BYTES if isinstance(value, tuple) else value.nbytes


def _outcome(get: Callable[[], np.ndarray | Colour]) -> np.ndarray | Colour | CorruptFile:
    try:
        return get()
    except CorruptFile as error:
        return error.with_traceback(None)  # whose frames would hold the arrays they worked on


@lru_cache(maxsize=2)
def thread_pool(workers: int, process: int) -> ThreadPoolExecutor:
    """Threads for all slides of this process; a child process must not wait for threads that only its parent has."""
    return ThreadPoolExecutor(workers, "inrwsi-decode", initializer=_use_one_torch_thread)


def _use_one_torch_thread() -> None:
    """Hold this thread's share of torch to itself, and leave what threads that are yet to come start with.

    `set_num_threads` holds for the calling thread, and for later threads too. A thread that has not used torch yet
    takes the latest such number when it first does, whatever it has set: hence the question before the setting.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    restore = threading.Thread(target=torch.set_num_threads, args=(before,))
    restore.start()
    restore.join()
