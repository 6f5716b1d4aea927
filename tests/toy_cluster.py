"""Work that is dangerous for those who do it; importable, so that workers know it."""

import multiprocessing
import os
import signal
import time
from functools import partial
from pathlib import Path

import psutil

from mmccd.detector import Threshold
from mmccd.runtime import check_stop


def note(file, word=""):
    "Add a line to a file."
    with open(file, "a") as f:
        f.write(f"{word or os.getpid()}\n")


def noted(file):
    "The lines of a file, which may be missing."
    return Path(file).read_text().split() if Path(file).exists() else []


def shared(file):
    "What the tasks of a worker share; notes that it was made."
    note(file)
    return ("shared",)


def kill_workers(word, file, times):
    "Kill the process that does this, the first so many times."
    note(file)
    if len(noted(file)) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return word


def fail(word, path):
    raise FileNotFoundError(2, "No such file", path)


def pair(word, k):
    return word, k


def about(word):
    "What kind of process this is: its threads, whether it may have children, and whether Ctrl-C reaches it."
    import torch

    process, kept_away = multiprocessing.current_process(), signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return torch.get_num_threads(), os.environ["OMP_NUM_THREADS"], process.daemon, signal.SIGINT in kept_away


def endless(word, file):
    "Work until it is asked to stop."
    note(file, "begun")
    try:
        while True:
            check_stop()
            time.sleep(0.05)
    finally:
        note(file, "stopped")


def end(dask_worker):
    "Let a worker that does something end, as where its time on a node is over."
    if dask_worker.state.executing_count:
        dask_worker.loop.add_callback(partial(dask_worker.close, nanny=False))


def train_long(word, out):
    "A training that takes hours."
    from toy_training import QUICK, fit

    return fit(out, type(QUICK)(**{**vars(QUICK), "steps": 10**6, "checkpoint_every": 10**6}))


class Mortal(Threshold):
    "Kills its process where it sees a lesion, as often as `deaths` says; it notes that in a file."

    deaths, file = 0, ""

    def score(self, x, brain, generator=None):
        if x.amax() > 3:  # standard deviations: only lesions are as bright
            note(self.file)
            if len(noted(self.file)) <= self.deaths:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().score(x, brain)


def is_worker(process):
    "Is this a process, and not the one in which Python itself keeps account of what to clear up?"
    try:
        return "resource_tracker" not in " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return False


def children(pid=None):
    "The processes that a process (None: this one) has started, and those that these have."
    return [p for p in psutil.Process(pid).children(recursive=True) if is_worker(p)]


def all_gone(processes, seconds=10):
    "Have these processes ended, perhaps after some seconds?"
    _, alive = psutil.wait_procs(processes, seconds)
    return not alive
