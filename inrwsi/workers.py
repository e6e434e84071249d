"""Many pieces of work on a few threads, with a bound on how many are begun: what is begun holds its pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self, TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """Threads that each compute on one core; a context manager.

    A piece of work is done on one thread whatever their number, so that its sums are added up in the same order.

    Args:
        count: threads; as many as torch may use where it is None.
    """

    def __init__(self, count: int | None = None) -> None:
        self._torch_threads = torch.get_num_threads()
        self.count = count or self._torch_threads
        self._pool = ThreadPoolExecutor(self.count, "inrwsi", initializer=torch.set_num_threads, initargs=(1,))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._torch_threads)  # what the threads set is also what later ones begin with

    def run(self, work: Callable[[T], R], items: Iterable[T], *, most: int) -> Iterator[tuple[T, R]]:
        """Each item with what `work` makes of it, as they are done: in no fixed order.

        Args:
            most: how many may be begun and not yet handed over.

        Raises:
            Exception: what `work` raises; pieces that are not begun by then are dropped.
        """
        begun: dict[Future[R], T] = {}
        waiting = iter(items)
        more = True
        try:
            while begun or more:
                while more and len(begun) < max(1, most):
                    try:
                        item = next(waiting)
                    except StopIteration:
                        more = False
                        break
                    begun[self._pool.submit(work, item)] = item
                if begun:
                    done, _ = wait(begun, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield begun.pop(future), future.result()
        finally:
            for future in begun:
                future.cancel()
            wait(begun)
