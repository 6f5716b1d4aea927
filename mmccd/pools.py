"""Worker processes that begin the same way everywhere, end with their parent, and can be interrupted in their work."""

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing import connection, get_context, parent_process
from types import TracebackType
from typing import Any, Self, TypeVar

T = TypeVar("T")

_working = threading.Event()  # in a worker: it does something that may be interrupted
_interrupted = threading.Event()  # in a worker: its parent wants it to stop


def start_worker() -> None:
    """Make this process a worker: one thread, out of reach of the terminal's Ctrl-C, and gone when its parent is."""
    import torch

    with suppress(AttributeError):  # Windows has no process groups
        os.setpgrp()
    signal.signal(signal.SIGINT, _on_interrupt)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _on_interrupt(*_: Any) -> None:
    """Raise KeyboardInterrupt in the middle of work; between two pieces of it, remember it for the next one."""
    _interrupted.set()
    if _working.is_set():
        raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Wait for the parent to end, however it does, and end too."""
    if parent := parent_process():
        connection.wait([parent.sentinel])
        os._exit(1)


def run_interruptible(work: Callable[[], T]) -> T:
    """Return what `work` returns; only now, and not between two pieces of work, does an interrupt raise.

    Raises:
        KeyboardInterrupt: The parent called `ProcessPool.interrupt`, now or before.
    """
    _working.set()
    try:
        if _interrupted.is_set():
            raise KeyboardInterrupt
        return work()
    finally:
        _working.clear()


class ProcessPool:
    """Processes that do picklable work. At the end of the context it waits for what runs and drops what does not."""

    def __init__(self, jobs: int) -> None:
        """Start up to `jobs` processes, each when there is work for it."""
        self._executor = ProcessPoolExecutor(jobs, get_context("spawn"), start_worker)

    def submit(self, work: Callable[..., T], *args: Any) -> Future[T]:
        """Do `work(*args)` in the next process that is free."""
        return self._executor.submit(run_interruptible, partial(work, *args))

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in all work that runs, and in what a process would begin next."""
        for process in list(self._executor._processes.values()):
            with suppress(OSError, ValueError):  # it has ended already
                if process.pid:
                    os.kill(process.pid, signal.SIGINT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise ValueError(
                "A worker was killed, perhaps for want of memory; what is finished is kept. Run it again with fewer "
                'jobs (--jobs); in a script, put the call under if __name__ == "__main__":.'
            ) from error
