"""Work for several processes, on this computer or on many, by Dask distributed: each task once, though workers die.

`open_workers` starts processes here, or connects to a scheduler whose workers run on other nodes. A worker that is
killed is replaced, and its task is given to another one. Where the run is interrupted, nothing new begins, trainings
write a checkpoint, and the rest ends at its next `runtime.check_stop`.
"""

import logging
import os
import secrets
import signal
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, as_completed, wait
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmccd import __version__
from mmccd.errors import display_name
from mmccd.extras import is_installed, require
from mmccd.files import user_path
from mmccd.runtime import interrupts_later

if TYPE_CHECKING:
    from distributed import Client, LocalCluster

DEATHS = 3
"""How many workers may die of one task; after the last of them the task has failed."""
PATIENCE = "10s"  # for a scheduler to answer
RESTORED = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")  # Dask sets them
LOCAL = {
    "distributed.scheduler.allowed-failures": DEATHS - 1,
    "distributed.scheduler.worker-saturation": 1.0,  # a worker that dies takes no other task with it
    "distributed.scheduler.http.routes": [],  # a web server is started all the same, but serves nothing
    "distributed.worker.http.routes": [],
    "distributed.worker.daemon": False,  # so that a training may load its slices in processes of its own
}
"""Settings of Dask for workers on this computer."""


class KilledError(ValueError):
    """Every worker that came to a task was killed."""


class Workers:
    """Processes that do picklable work; from `open_workers`."""

    def __init__(self, client: "Client", jobs: int = 0) -> None:
        """Use the workers of a client's scheduler, which are `jobs`, or (0) come and go."""
        self.client, self.jobs = client, jobs
        self.token = f"mmccd-{secrets.token_hex(8)}"
        self.executor = client.get_executor(pure=False)
        self.unfinished: set[Future[Any]] = set()

    @property
    def slots(self) -> int:
        """How many tasks can be done at a time."""
        return self.jobs or max(1, len(self.client.nthreads()))

    def submit(self, name: str, work: Callable[..., Any], *args: Any) -> Future[Any]:
        """Do `work(*shared, *args)` in the next process that is free.

        Args:
            name: What the task is called if it kills its workers.
            work: Picklable, and so are its arguments and what it returns.
            *args: What comes after that which the tasks of a worker share.

        Returns:
            Its result, or what it raised; `KilledError` where it cost `DEATHS` workers.
        """
        from mmccd.cluster.worker import perform

        outer: Future[Any] = Future()
        self.unfinished.add(outer)
        outer.add_done_callback(self.unfinished.discard)
        self.executor.submit(perform, self.token, work, *args).add_done_callback(partial(pass_on, outer, name))
        return outer

    def results(self, tasks: Iterable[tuple[Any, ...]]) -> Iterator[tuple[str, Future[Any]]]:
        """Submit tasks, each a tuple of the arguments of `submit`; yields name and future of each as it is done."""
        names = {self.submit(*t): t[0] for t in tasks}
        for done in as_completed(names):
            yield names.pop(done), done

    def stop(self) -> None:
        """Let nothing new begin, ask what runs to stop, and wait until it has."""
        from mmccd.cluster import worker

        while self.unfinished:  # asked again and again: a worker may have been started meanwhile
            with suppress(Exception):
                if not self.client.run(worker.stop, self.token, on_error="return"):
                    self.unfinished.clear()  # no worker lives, so nothing runs
            wait(set(self.unfinished), timeout=1)


def pass_on(outer: Future[Any], name: str, inner: Future[Any]) -> None:
    """Give a task's outcome to the future that waits for it, in our own words where no worker survives the task."""
    from distributed import KilledWorker

    if inner.cancelled():
        outer.set_exception(
            ValueError("The connection to the Dask scheduler was lost; what is finished is kept. Run it again.")
        )
    elif isinstance(error := inner.exception(), KilledWorker):
        text = (
            f"A worker was killed, perhaps for want of memory; what is finished is kept. It was {display_name(name)} "
            f"that {error.allowed_failures + 1} workers died of. Run it again with fewer jobs (--jobs)."
        )
        outer.set_exception(KilledError(text))
    elif error:
        outer.set_exception(error)
    else:
        outer.set_result(inner.result())


@contextmanager
def open_workers(
    jobs: int = 1,
    scheduler: str = "",
    share: Callable[[], tuple[Any, ...]] | None = None,
    paths: Iterable[str | os.PathLike[str]] = (),
) -> Generator[Workers]:
    """Give processes that do work, one thread each. At the end they are gone; where it raises, what runs is stopped.

    Whoever can connect to a Dask scheduler can run programs as the user who started it. Processes here listen to
    127.0.0.1 only, and with the package cryptography, which the extra `cluster` brings, nobody but this run can connect
    to them. A scheduler of your own, in a network that you share with people you do not trust, needs Dask's TLS.

    Args:
        jobs: How many processes to start here; those of a scheduler are as many as it has.
        scheduler: Address of a Dask scheduler whose workers do it instead, such as `tcp://host:8786`, or the file that
            it was told to write its address into. Each worker needs the same version of mmccd and one thread
            (`dask worker ADDRESS --nthreads 1`).
        share: Picklable; returns what all tasks of a worker get first. It is sent once to each worker, and called there
            once, by the first task.
        paths: What the workers of a scheduler have to see under the same absolute path.

    Raises:
        ValueError: Dask distributed is not installed, no process can be started, the scheduler cannot be reached or has
            no workers, or one of these has another version of mmccd, several threads, or does not see a path.
    """
    require("--scheduler" if scheduler else "More than one process (--jobs)", "distributed")
    from distributed.utils import silence_logging_cmgr

    from mmccd.cluster.worker import Run

    with ExitStack() as stack:
        stack.enter_context(silence_logging_cmgr(logging.CRITICAL + 1))
        if scheduler:
            client = stack.enter_context(connect(scheduler))
            check_workers(client, scheduler, tuple(os.path.abspath(p) for p in paths))
            workers = Workers(client)
        else:
            cluster = stack.enter_context(local_cluster(jobs))
            client = stack.enter_context(client_of(cluster))
            workers = Workers(client, jobs)
            stack.push(partial(kill_after_second_interrupt, cluster, workers))
        with interrupts_later():
            client.register_plugin(Run(workers.token, share))
        if scheduler:
            stack.callback(forget, workers)
        try:
            yield workers
        except BaseException:
            workers.stop()
            raise


@contextmanager
def client_of(address: Any, **options: Any) -> Generator["Client"]:
    """Connect to a scheduler, without becoming the client that other code in this process finds."""
    from distributed import Client

    client = Client(address, set_as_default=False, **options)
    try:
        yield client
    finally:
        with suppress(Exception):
            client.close()


@contextmanager
def connect(scheduler: str) -> Generator["Client"]:
    """Connect to a scheduler by its address or its file.

    Raises:
        ValueError: It cannot be reached.
    """
    file = Path(user_path(scheduler))
    options: dict[str, Any] = {"scheduler_file": str(file)} if file.is_file() else {"address": scheduler}
    with ExitStack() as stack:
        try:
            client = stack.enter_context(client_of(options.pop("address", None), timeout=PATIENCE, **options))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"The Dask scheduler {display_name(scheduler)} cannot be reached: check its address, such as "
                "tcp://host:8786; `dask scheduler` starts one."
            ) from error
        yield client


def check_workers(client: "Client", scheduler: str, paths: tuple[str, ...]) -> None:
    """Refuse workers that would give other results than this process, or none.

    Raises:
        ValueError: There is none, or one has another version of mmccd, several threads, or does not see a path.
    """
    from mmccd.cluster import worker

    found = client.run(worker.describe, paths, on_error="return")
    if not found:
        raise ValueError(
            f"The Dask scheduler {display_name(scheduler)} has no workers: start some with "
            f"`dask worker {display_name(scheduler)} --nthreads 1`."
        )
    for address, about in sorted(found.items()):
        if not isinstance(about, dict) or about["mmccd"] != __version__:
            other = about["mmccd"] if isinstance(about, dict) else "none that fits"
            raise ValueError(
                f"The worker {address} has another mmccd than this process ({other}, not {__version__}): install the "
                "same version on both."
            )
        if about["threads"] != 1:
            raise ValueError(
                f"The worker {address} has {about['threads']} threads, and results depend on that: start it with "
                "--nthreads 1 (and several processes with --nworkers N)."
            )
        if about["missing"]:
            raise ValueError(
                f"The worker {address} cannot see {display_name(about['missing'])}: with --scheduler, cases, weights "
                "and results lie in folders that all workers find under the same path."
            )


def forget(workers: Workers) -> None:
    """Let the scheduler and its workers forget a run that is over."""
    with suppress(Exception):
        workers.client.unregister_worker_plugin(workers.token)


@contextmanager
def local_cluster(jobs: int) -> Generator["LocalCluster"]:
    """Start processes on this computer, which end with this one, however it ends.

    Raises:
        ValueError: They do not start.
    """
    import dask
    from distributed import LocalCluster

    environment = {name: os.environ.get(name) for name in RESTORED}
    with ExitStack() as stack:
        stack.callback(restore, environment)
        stack.enter_context(dask.config.set(LOCAL))  # until the end: workers that are started again follow it, too
        try:
            with interrupts_later(), signals_kept_from_children():
                cluster = LocalCluster(
                    n_workers=jobs,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=0,  # the system's limit is the only one
                    dashboard_address=None,
                    scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
                    security=True if is_installed("cryptography") else None,
                    silence_logs=logging.CRITICAL + 1,
                )
                stack.callback(cluster.close)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                "No worker could be started; run it again with fewer jobs (--jobs); in a script, put the call under "
                'if __name__ == "__main__":.'
            ) from error
        yield cluster


def restore(environment: Mapping[str, str | None]) -> None:
    """Give environment variables the values that they had before; None: none."""
    for name, value in environment.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@contextmanager
def signals_kept_from_children() -> Generator[None]:
    """Let the processes that are started inside, and by threads that are, never get the terminal's Ctrl-C or hang-up.

    The terminal sends both to them, too, while it is for this process to decide what they do about it.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # Python lets signals through again once it has started this
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})  # noqa: TID251  as above
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


def kill_after_second_interrupt(cluster: "LocalCluster", workers: Workers, *_: object) -> None:
    """Kill the workers if some still work, which is so where waiting for them was interrupted, too."""
    if not workers.unfinished:
        return
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        with suppress(Exception):
            os.kill(nanny.process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
