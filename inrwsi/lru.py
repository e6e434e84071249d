"""What is kept in memory for the next time, bounded in bytes, and computed once however many ask."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

V = TypeVar("V")
BLANK_BYTES = 256  # of an entry that is a colour alone: the key and the entry are most of it


class Lru(Generic[V]):
    """The least recently used entries go first once `limit_bytes` are held. Thread safe."""

    def __init__(self, limit_bytes: int, size_of: Callable[[V], int]) -> None:
        self._limit, self._size_of = limit_bytes, size_of
        self._held = 0
        self._entries: OrderedDict[Hashable, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        with self._lock:
            value = self._entries.get(key)
            if value is not None:
                self._entries.move_to_end(key)
            return value

    def put(self, key: Hashable, value: V) -> None:
        with self._lock:
            if key in self._entries:
                return
            self._entries[key] = value
            self._held += self._size_of(value)
            while self._held > self._limit and self._entries:
                _, gone = self._entries.popitem(last=False)
                self._held -= self._size_of(gone)


class OnceLru(Generic[V]):
    """An `Lru` that computes what it lacks. Who asks for what another thread is computing waits for that. Thread safe.

    A computation may ask for other keys, as long as no chain of such askings comes back to where it began.
    """

    def __init__(self, limit_bytes: int, size_of: Callable[[V], int]) -> None:
        self._held: Lru[V] = Lru(limit_bytes, size_of)
        self._under_way: dict[Hashable, Future[V]] = {}
        self._lock = threading.Lock()

    def held(self, key: Hashable) -> V | None:
        """The value, where it is in memory."""
        return self._held.get(key)

    def get(self, key: Hashable, compute: Callable[[], V]) -> V:
        """The value, from memory or from `compute`, whose exception everyone gets who waits for it; none is kept."""
        with self._lock:  # an entry is put before its future goes: who finds neither is the first to ask
            value = self._held.get(key)
            if value is not None:
                return value
            theirs = self._under_way.get(key)
            if theirs is None:
                mine = self._under_way[key] = Future()
        if theirs is not None:
            return theirs.result()
        try:
            value = compute()
            self._held.put(key, value)
        except BaseException as error:
            self._done(key)
            mine.set_exception(error)
            raise
        self._done(key)
        mine.set_result(value)
        return value

    def _done(self, key: Hashable) -> None:
        with self._lock:
            del self._under_way[key]
