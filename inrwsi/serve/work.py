"""Work for requests: a bounded number at once, each piece once however many ask, none for those who have gone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.requests import Request

from inrwsi.lru import Lru


class Busy(Exception):
    """More waits to be done than is let in."""


class ClientGone(Exception):
    """Nobody listens any more."""


@dataclass
class _Flight:
    """One piece of work, from when it is first asked for until it is done.

    Attributes:
        waiting: requests that want it.
        started: a thread has it; it is then done to its end, and kept.
    """

    task: asyncio.Task[bytes] = field(init=False)
    waiting: int = 0
    started: bool = False


class Work:
    """Makes bytes in threads, and keeps them.

    Args:
        threads: pieces of work at once.
        most_waiting: pieces under way or waiting for a thread.
        kept_bytes: of what was made, the latest used.

    Attributes:
        done, dropped: pieces of work that were done, and that were dropped because whoever asked had gone.
    """

    def __init__(self, threads: int, most_waiting: int, kept_bytes: int) -> None:
        self._threads, self._most_waiting = threads, most_waiting
        self._slots = asyncio.Semaphore(threads)
        self._kept: Lru[bytes] = Lru(kept_bytes, len)
        self._flights: dict[Hashable, _Flight] = {}
        self.done = self.dropped = 0

    async def get(self, key: Hashable, make: Callable[[], bytes], request: Request) -> bytes:
        """What `make` gives, from memory, from whoever is at it already, or made now. Its exception everyone gets.

        Raises:
            Busy: too much waits already.
            ClientGone: the request's client went away first. Work that nobody else wants, and that no thread has
                begun, is dropped.
        """
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        flight = self._flights.get(key) or self._take_off(key, make)
        flight.waiting += 1
        gone = asyncio.create_task(_gone(request))
        try:
            await asyncio.wait((flight.task, gone), return_when=asyncio.FIRST_COMPLETED)
            if not flight.task.done():
                raise ClientGone
            return flight.task.result()
        finally:
            gone.cancel()
            flight.waiting -= 1
            if not (flight.waiting or flight.started):
                self._flights.pop(key, None)  # at once: who asks next must not find work that is given up
                flight.task.cancel()
                self.dropped += 1

    def _take_off(self, key: Hashable, make: Callable[[], bytes]) -> _Flight:
        if len(self._flights) >= self._most_waiting:
            raise Busy
        flight = self._flights[key] = _Flight()
        flight.task = asyncio.create_task(self._make(key, make, flight))
        flight.task.add_done_callback(_look_at)
        return flight

    async def _make(self, key: Hashable, make: Callable[[], bytes], flight: _Flight) -> bytes:
        from inrwsi.octave_tiles import thread_pool  # torch

        async with self._slots:
            flight.started = True
            try:
                pool = thread_pool(self._threads, os.getpid())
                made = await asyncio.get_running_loop().run_in_executor(pool, make)
                self._kept.put(key, made)
                self.done += 1
                return made
            finally:
                self._flights.pop(key, None)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _look_at(task: asyncio.Task[bytes]) -> None:
    """Take note of how it ended: of an exception that all who asked have left behind, asyncio would complain."""
    with suppress(asyncio.CancelledError):
        task.exception()
