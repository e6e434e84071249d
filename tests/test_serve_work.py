"""Work for requests: how much at once, once each, and for whom not."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from inrwsi.serve.work import Busy, ClientGone, Work


class Client:
    """A request: goes away when it is told to."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}


def slow(at: list[int], peak: list[int], lock: threading.Lock) -> bytes:
    with lock:
        at[0] += 1
        peak[0] = max(peak[0], at[0])
    time.sleep(0.03)
    with lock:
        at[0] -= 1
    return b"made"


def test_no_more_at_once_than_threads() -> None:
    async def run() -> tuple[list[bytes], int, int]:
        work, at, peak, lock = Work(3, 100, 1000), [0], [0], threading.Lock()
        gets = [work.get(k, lambda: slow(at, peak, lock), Client()) for k in range(12)]  # type: ignore[arg-type]
        return await asyncio.gather(*gets), peak[0], work.done

    assert asyncio.run(run()) == ([b"made"] * 12, 3, 12)


def test_what_was_made_is_kept_while_there_is_room() -> None:
    async def run() -> list[int]:
        work, counts = Work(1, 10, 25), []
        for key in ("a", "b", "a", "c", "b", "a"):  # ten bytes each: c pushes out b, and b then a
            await work.get(key, lambda: bytes(10), Client())  # type: ignore[arg-type]
            counts.append(work.done)
        return counts

    assert asyncio.run(run()) == [1, 2, 2, 3, 4, 5]


def test_everyone_gets_the_exception_and_it_is_not_kept() -> None:
    def fail() -> bytes:
        time.sleep(0.02)
        raise ValueError("no")

    async def run() -> tuple[list[Any], bytes, int]:
        work = Work(1, 10, 100)
        gets = [work.get("k", fail, Client()) for _ in range(3)]  # type: ignore[arg-type]
        failed = await asyncio.gather(*gets, return_exceptions=True)
        return failed, await work.get("k", lambda: b"well", Client()), work.done  # type: ignore[arg-type]

    failed, again, done = asyncio.run(run())
    assert [str(error) for error in failed] == ["no"] * 3
    assert (again, done) == (b"well", 1)


def test_work_is_dropped_when_all_who_asked_have_gone_and_only_then() -> None:
    async def run() -> tuple[list[str], Work, list[Any]]:
        work, made, block = Work(1, 10, 100), [], threading.Event()

        def make(name: str) -> bytes:
            made.append(name)
            block.wait(10)
            return name.encode()

        clients = [Client() for _ in range(5)]
        names = ("first", "left", "shared", "shared", "late")
        tasks = [
            asyncio.ensure_future(work.get(n, lambda n=n: make(n), c))  # type: ignore[arg-type,misc]
            for n, c in zip(names, clients, strict=True)
        ]
        while not made:
            await asyncio.sleep(0.01)
        for gone in (0, 1, 2):  # the first is under way, the second alone, the third not
            clients[gone].left.set()
        await asyncio.wait(tasks[:3])
        block.set()
        return made, work, await asyncio.gather(*tasks, return_exceptions=True)

    made, work, ends = asyncio.run(run())
    assert made == ["first", "shared", "late"]
    assert [type(end) for end in ends] == [ClientGone, ClientGone, ClientGone, bytes, bytes]
    assert (work.done, work.dropped, work._flights) == (3, 1, {})


def test_what_was_given_up_can_be_asked_for_again() -> None:
    async def run() -> bytes:
        work, block = Work(1, 10, 100), threading.Event()
        first = asyncio.ensure_future(work.get("a", lambda: bytes(block.wait(10)), Client()))  # type: ignore[arg-type]
        leaver = Client()
        second = asyncio.ensure_future(work.get("b", lambda: b"old", leaver))  # type: ignore[arg-type]
        await asyncio.sleep(0.02)
        leaver.left.set()
        await asyncio.wait([second])
        third = asyncio.ensure_future(work.get("b", lambda: b"new", Client()))  # type: ignore[arg-type]
        block.set()
        await first
        assert isinstance(second.exception(), ClientGone)
        return await third

    assert asyncio.run(run()) == b"new"


def test_a_queue_has_an_end() -> None:
    async def run() -> list[Any]:
        work = Work(1, 2, 0)
        gets = [work.get(k, lambda: time.sleep(0.02) or b"x", Client()) for k in "abc"]  # type: ignore[arg-type]
        return await asyncio.gather(*gets, return_exceptions=True)

    first, second, third = asyncio.run(run())
    assert (first, second) == (b"x", b"x")
    assert isinstance(third, Busy)
    with pytest.raises(Busy):
        raise third
