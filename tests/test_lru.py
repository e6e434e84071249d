"""Caches: bounded, the oldest first, and one computation however many threads ask."""

from __future__ import annotations

import threading
import time

import pytest

from inrwsi.lru import Lru, OnceLru


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache: Lru[bytes] = Lru(10, len)
    for key in "abc":
        cache.put(key, bytes(3))
    assert cache.get("a") == bytes(3)
    cache.put("d", bytes(3))
    assert [key for key in "abcd" if cache.get(key) is not None] == ["a", "c", "d"]
    cache.put("huge", bytes(11))
    assert all(cache.get(key) is None for key in ("a", "c", "d", "huge"))


def test_what_is_put_twice_is_held_once() -> None:
    cache: Lru[bytes] = Lru(10, len)
    for key in "aaab":
        cache.put(key, bytes(4))
    assert [key for key in "ab" if cache.get(key) is not None] == ["a", "b"]


def test_threads_that_ask_at_once_share_one_computation() -> None:
    cache: OnceLru[bytes] = OnceLru(100, len)
    calls, results = [], []

    def compute() -> bytes:
        calls.append(threading.get_ident())
        time.sleep(0.05)
        return b"value"

    threads = [threading.Thread(target=lambda: results.append(cache.get("key", compute))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert results == [b"value"] * 8
    assert len(calls) == 1
    assert cache.held("key") == b"value"


def test_an_exception_reaches_everyone_and_is_not_kept() -> None:
    cache: OnceLru[bytes] = OnceLru(100, len)
    caught: list[str] = []
    calls, asking = [], []

    def fail() -> bytes:
        calls.append(1)
        while len(asking) < 4:
            time.sleep(0.001)
        time.sleep(0.05)
        raise OSError("the disk is gone")

    def ask() -> None:
        asking.append(1)
        try:
            cache.get("key", fail)
        except OSError as error:
            caught.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert caught == ["the disk is gone"] * 4
    assert len(calls) == 1
    assert cache.get("key", lambda: b"back") == b"back"


def test_a_computation_may_ask_for_others_and_nothing_need_be_kept() -> None:
    cache: OnceLru[int] = OnceLru(0, lambda _: 1)

    def depth(n: int) -> int:
        return cache.get(n, lambda: 0 if n == 40 else 1 + depth(n + 1))

    assert depth(0) == 40
    assert cache.held(0) is None
    with pytest.raises(ZeroDivisionError):
        cache.get("bad", lambda: 1 // 0)
