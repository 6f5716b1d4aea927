"""Signs of life of what takes long: a bar on a terminal, elsewhere a line now and then, and none for what is quick."""

import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from mmccd.runtime import counted, duration, say

T = TypeVar("T")

FIRST, LONGEST = 30.0, 300.0  # seconds before the first line, and at most between two


def next_line(elapsed: float) -> float:
    """Return after how many seconds a line is due, if the last was written after `elapsed`: ever more rarely."""
    return elapsed + min(max(FIRST, elapsed / 10), LONGEST)


@contextmanager
def status_lines(describe: Callable[[], str], show: bool = True) -> Generator[None]:
    """While the work inside goes on, say on standard error how far it is: after half a minute, then ever more rarely.

    Args:
        describe: returns how far it is, as "prepare: 3 of 40 cases".
        show: say it, unless standard error is a terminal, where a bar does that.
    """
    if not show or sys.stderr.isatty():
        yield
        return
    start, done = time.perf_counter(), threading.Event()

    def speak() -> None:
        elapsed = 0.0
        while not done.wait(start + next_line(elapsed) - time.perf_counter()):
            elapsed = time.perf_counter() - start
            say(f"{describe()} after {duration(elapsed)}")

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def track(
    items: Iterable[T], doing: str, unit: str, total: int | None = None, first: int = 0, show: bool = True
) -> Iterator[T]:
    """Yield the items, and show on standard error how many are done.

    Args:
        items: what is worked on.
        doing: the work in a word, as "prepare".
        unit: what an item is, as "case".
        total: how many there are, with those done before; None asks `items`.
        first: how many were done before.
        show: show it.
    """
    from tqdm import tqdm

    total = len(items) if total is None else total  # type: ignore[bad-argument-type]
    done = first
    bar = tqdm(items, doing, total, initial=first, unit=unit, disable=None if show else True)
    with status_lines(lambda: f"{doing}: {done} of {counted(total, unit)}", show):
        for item in bar:
            yield item
            done += 1
