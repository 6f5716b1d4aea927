"""What a Dask worker knows of a run: what its tasks share, and whether they are asked to stop.

Needs Dask distributed; `mmccd.cluster` imports it only where there is work for several processes.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

from distributed import Reschedule, Status, Worker, WorkerPlugin, get_worker

from mmccd import __version__
from mmccd.runtime import check_stop, single_thread, stopped_by


class StoppedError(Exception):
    """A task ended early, since its run was asked to stop."""


class Run(WorkerPlugin):
    """A run on the workers. The scheduler keeps it, so that a worker that is started again gets it again.

    Args:
        token: Name of the run, unlike that of any other.
        share: Makes what all tasks of a worker share, once, when the first one begins.
    """

    def __init__(self, token: str, share: Callable[[], tuple[Any, ...]] | None) -> None:
        self.name, self.share = token, share
        self.shared: tuple[Any, ...] | None = None

    def setup(self, worker: Worker) -> None:
        self.worker, self.stop = worker, threading.Event()
        self.key: Any = None  # of the task that runs
        RUNS[self.name] = self

    def teardown(self, worker: Worker) -> None:
        RUNS.pop(self.name, None)

    def asks_to_stop(self) -> bool:
        """Is the task that runs asked to stop, does this worker end, or has the process gone that waits for it?"""
        task, ends = self.worker.state.tasks.get(self.key), self.worker.status in (Status.closing, Status.closed)
        return self.stop.is_set() or ends or task is None or task.state == "cancelled"

    def get_shared(self) -> tuple[Any, ...]:
        """What the tasks share; made by the first of them."""
        if self.shared is None:
            self.shared = self.share() if self.share else ()
        return self.shared


RUNS: dict[str, Run] = {}
"""The runs that this worker takes part in, by token."""


def perform(token: str, work: Callable[..., Any], *args: Any) -> Any:
    """Do a task of a run with one thread: `work(*shared, *args)`.

    Raises:
        StoppedError: The run was asked to stop.
        Reschedule: This worker ends, as where its time on a node is over; another one does it.
    """
    run = RUNS[token]
    run.key = get_worker().get_current_task()
    try:
        with stopped_by(run.asks_to_stop), single_thread():
            check_stop()
            return work(*run.get_shared(), *args)
    except KeyboardInterrupt:
        raise (StoppedError(token) if run.stop.is_set() else Reschedule) from None


def stop(token: str) -> None:
    """Ask what runs of a run, and what is still to come, to stop."""
    if token in RUNS:
        RUNS[token].stop.set()


def describe(paths: tuple[str, ...], dask_worker: Worker) -> dict[str, Any]:
    """The version of mmccd here, the number of threads, and the first of some paths that cannot be seen from here."""
    missing = next((p for p in paths if not os.path.exists(p)), None)
    return {"mmccd": __version__, "threads": dask_worker.state.nthreads, "missing": missing}
