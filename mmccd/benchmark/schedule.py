""""""

import os
import signal
import sys
import threading
import time
from collections import namedtuple
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from mmccd.benchmark.measure import entries, score_entry, train_method
from mmccd.pools import begin_worker, in_worker
from mmccd.registry import METHODS
from mmccd.runtime import counted, duration

Task = namedtuple(
    "Task", "name after work"
)  # after: name of the task that must be done first, or None; work: a picklable call without arguments


def tasks_of(
    plan,  # a `Plan`
) -> list:  # of `Task`, those that others wait for first
    "Trainings, then the lines of the tables."
    decoders = {METHODS[m].decoder_from for m in plan.trained}
    first = sorted(plan.trained, key=lambda m: m not in decoders)
    train = [
        Task(f"train {m}", f"train {d}" if (d := METHODS[m].decoder_from) else None, partial(train_method, plan, m))
        for m in first
    ]

    def waits(e):
        return None if e.shipped or e.method not in plan.trained else f"train {e.method}"

    return train + [Task(f"score {e.key}", waits(e), partial(score_entry, plan, e)) for e in entries(plan)]


def in_pool(
    tasks: list,  # of `Task`
    jobs: int,  # processes
    display,  # a `Display`
):  # yields (name, what it returned) as they are done
    "Do the tasks in processes, each as soon as what it waits for is done."
    left, running, done = list(tasks), {}, {None}
    with ProcessPoolExecutor(jobs, get_context("spawn"), begin_worker) as pool:
        try:
            while left or running:
                for t in [t for t in left if t.after in done][: jobs - len(running)]:
                    running[pool.submit(in_worker, t.work)] = t.name
                    display.begin(t.name)
                    left.remove(t)
                for f in wait(running, return_when=FIRST_COMPLETED).done:
                    done.add(name := running.pop(f))
                    yield name, f.result()
        except BaseException as error:
            display.say("stopping: what is being trained writes a checkpoint")
            for p in list(pool._processes.values()):
                stop_process(p)
            pool.shutdown(cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise ValueError(
                    "a worker was killed, perhaps for want of memory; what is done is kept. Run the same command again, with fewer --jobs"
                ) from error
            raise


def stop_process(
    process,  # of the pool
):
    "Ask it to stop at the next step."
    with suppress(OSError, ValueError, TypeError):
        os.kill(process.pid, signal.SIGINT)


def in_turn(
    tasks: list,  # of `Task`, in an order that works
    display,  # a `Display`
):  # yields (name, what it returned)
    "Do the tasks here, one after the other."
    for t in tasks:
        display.begin(t.name)
        yield t.name, t.work()


class Display:
    "One line for all that is going on: a bar on a terminal, elsewhere a line for each thing that is done."

    def __init__(
        self,
        total: int,  # tasks
        out,  # folder of the benchmark
        show=True,  # False: says nothing
    ):
        from tqdm import tqdm

        self.out, self.active, self.show, self.over = Path(out), {}, show, threading.Event()
        self.bar = tqdm(total=total, desc="benchmark", unit="task", dynamic_ncols=True, disable=None if show else True)

    def __enter__(self):
        threading.Thread(target=self.keep_telling, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.bar.close()

    def keep_telling(self):
        while not self.over.wait(2):
            self.bar.set_postfix_str("; ".join(self.doing(n) for n in list(self.active)))

    def doing(self, name):
        "How far is it?"
        log = self.out / "runs" / name.removeprefix("train ") / "log.csv"
        with suppress(OSError, IndexError, ValueError):
            _names, *lines = log.read_text().split()
            if name.startswith("train "):
                return f"{name}: step {lines[-1].split(',')[0]}"
        return name

    def say(self, text):
        if self.show:
            (self.bar.write if not self.bar.disable else print)(text, file=sys.stderr)

    def begin(self, name):
        self.active[name] = time.perf_counter()

    def end(self, name, words=""):
        took = duration(time.perf_counter() - self.active.pop(name))
        self.bar.update(1)
        self.say(f"{name}: {words}{took}")


def task_summary(
    found,  # what a task returned
) -> str:  # ends in ", "; "" where there is nothing to say
    "What came out, in a few words."
    if "result" in found:
        return f"{counted(found['result']['step'], 'step')}, validation loss {found['result']['val_loss']:.4g}, "
    return "".join(f"AP {k['summary']['ap']['mean']:.2f} ({name}), " for name, k in list(found["kinds"].items())[:1])


def work_off(
    plan,  # a `Plan`
    jobs: int = 1,  # processes
    progress=True,  # on standard error
) -> dict:  # what each task returned, by name
    "Train and measure; what is done already is taken from the folder."
    tasks, found = tasks_of(plan), {}
    with Display(len(tasks), plan.out, progress) as display:
        for name, got in in_turn(tasks, display) if jobs == 1 else in_pool(tasks, jobs, display):
            found[name] = got
            display.end(name, task_summary(got))
    return found
