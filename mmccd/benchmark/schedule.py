"""The order of work: trainings and measurements, here or by workers, each once what it needs is done."""

import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from mmccd.benchmark.dataset import forget_data
from mmccd.benchmark.measure import score_entry
from mmccd.benchmark.networks import Entry, entries, train_method
from mmccd.benchmark.plan import Plan, paths_of, with_absolute_paths
from mmccd.cluster import Workers, open_workers
from mmccd.progress import status_lines
from mmccd.registry import METHODS
from mmccd.runtime import counted, duration

ASK_AGAIN = 10.0  # seconds after which workers that have come meanwhile are given work


@dataclass(frozen=True)
class Task:
    """A piece of work.

    Attributes:
        name: Unique.
        after: Name of the task that must be done before; None: it can begin at once.
        work: A picklable call without arguments that returns a dict.
    """

    name: str
    after: str | None
    work: Callable[[], Any]


def list_tasks(plan: Plan) -> list[Task]:
    """The trainings, those first that others wait for, then the rows of the tables."""

    def training(method: str) -> Task:
        decoder = METHODS[method].decoder_from
        return Task(f"train {method}", f"train {decoder}" if decoder else None, partial(train_method, plan, method))

    def row(entry: Entry) -> Task:
        waits = entry.method in plan.trained and not entry.shipped
        return Task(f"score {entry.key}", f"train {entry.method}" if waits else None, partial(score_entry, plan, entry))

    return [*map(training, plan.training_order), *map(row, entries(plan))]


class ProgressDisplay:
    """Progress on standard error: one bar on a terminal, elsewhere a line for each task that is done."""

    def __init__(self, total: int, out: str | Path, show: bool = True) -> None:
        """Open a bar for `total` tasks of the benchmark in the folder `out`; without `show` nothing is written."""
        from tqdm import tqdm

        self.out, self.show, self.total = Path(out), show, total
        self.started: dict[str, float] = {}  # of the tasks that run
        self.done = 0
        self.closed = threading.Event()
        self.bar = tqdm(total=total, desc="benchmark", unit="task", dynamic_ncols=True, disable=None if show else True)

    def __enter__(self) -> Self:
        threading.Thread(target=self.refresh, daemon=True).start()
        self.lines = status_lines(self.summary, self.show)
        self.lines.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.__exit__(None, None, None)
        self.closed.set()
        self.bar.close()

    def summary(self) -> str:
        """How many tasks are done, and which run."""
        running = "; ".join(self.describe(name) for name in list(self.started))
        return f"benchmark: {self.done} of {counted(self.total, 'task')} done ({running})"

    def refresh(self) -> None:
        """Every two seconds, put the tasks that run beside the bar."""
        while not self.closed.wait(2):
            self.bar.set_postfix_str("; ".join(self.describe(name) for name in list(self.started)))

    def describe(self, name: str) -> str:
        """A task that runs; of a training also the step, as far as its log has got."""
        log = self.out / "runs" / name.removeprefix("train ") / "log.csv"
        with suppress(OSError, IndexError, ValueError):
            _names, *lines = log.read_text(encoding="utf-8").split()
            if name.startswith("train "):
                return f"{name}: step {lines[-1].split(',')[0]}"
        return name

    def message(self, text: str) -> None:
        """Write a line above the bar."""
        if self.show:
            self.bar.write(text, file=sys.stderr)

    def begin(self, name: str) -> None:
        """A task has begun."""
        self.started[name] = time.perf_counter()

    def end(self, name: str, summary: str = "") -> None:
        """A task is done; `summary` goes before its duration."""
        took = duration(time.perf_counter() - self.started.pop(name))
        self.done += 1
        self.bar.update(1)
        self.message(f"{name}: {summary}{took}")


def run_in_turn(tasks: list[Task], display: ProgressDisplay) -> Generator[tuple[str, Any]]:
    """Do the tasks in this process, in their order; yields name and result of each."""
    for t in tasks:
        display.begin(t.name)
        yield t.name, t.work()


def run_on_workers(tasks: list[Task], workers: Workers, display: ProgressDisplay) -> Iterator[tuple[str, Any]]:
    """Let workers do the tasks, each after that which it waits for; yields name and result of each as it is done.

    Raises:
        ValueError: Workers were killed by one of them.
    """
    left = list(tasks)
    running: dict[Future[Any], str] = {}
    done: set[str | None] = {None}
    try:
        while left or running:
            for t in [t for t in left if t.after in done][: max(0, workers.slots - len(running))]:
                running[workers.submit(t.name, t.work)] = t.name
                display.begin(t.name)
                left.remove(t)
            for f in wait(running, ASK_AGAIN, FIRST_COMPLETED).done:
                done.add(name := running.pop(f))
                yield name, f.result()
    except BaseException:
        display.message("stopping: what is being trained writes a checkpoint")
        raise


def run_in_parallel(plan: Plan, jobs: int, scheduler: str, display: ProgressDisplay) -> Generator[tuple[str, Any]]:
    """Let workers do all that the plan asks for, as `run_tasks`.

    Interrupted, it lets every training write a checkpoint before it raises.
    """
    there = with_absolute_paths(plan) if scheduler else plan
    tasks = list_tasks(there)
    with open_workers(min(jobs, len(tasks)), scheduler, forget_data, paths_of(there)) as workers:
        yield from run_on_workers(tasks, workers, display)


def task_summary(result: dict[str, Any]) -> str:
    """The main number of a training or a row, followed by `", "`."""
    if "result" in result:
        return f"{counted(result['result']['step'], 'step')}, validation loss {result['result']['val_loss']:.4g}, "
    kind = next(iter(result["kinds"]))
    return f"AP {result['kinds'][kind]['summary']['ap']['mean']:.2f} ({kind}), "


def run_tasks(plan: Plan, jobs: int = 1, progress: bool = True, scheduler: str = "") -> dict[str, Any]:
    """Train and measure all that the plan asks for; what its folder holds already is not done again.

    Args:
        plan: The benchmark; its stores must be there.
        jobs: Processes.
        progress: Say on standard error what is going on.
        scheduler: Of the workers that do it instead, as for `cluster.open_workers`.

    Returns:
        The result of each task, by its name.
    """
    tasks, found = list_tasks(plan), {}
    with ProgressDisplay(len(tasks), plan.out, progress) as display:
        parallel = jobs > 1 or scheduler
        done = run_in_parallel(plan, jobs, scheduler, display) if parallel else run_in_turn(tasks, display)
        with closing(done):
            for name, result in done:
                found[name] = result
                display.end(name, task_summary(result))
    return found
