"""Work done in forks of this process, which has imported everything: they may be killed, starved of memory, or hang."""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MB = 2**20


@dataclass(frozen=True)
class Outcome:
    """How a copy of this process ended.

    Attributes:
        code: Exit code; negative: the signal that ended it.
        value: What the work returned, if it did.
        err: What it wrote to standard error.
        peak_mb: Megabytes of memory that it took beyond what this process holds.
        hung: It was still at work when its time was over.
        seconds: Wall time.
    """

    code: int
    value: Any
    err: str
    peak_mb: float
    hung: bool
    seconds: float

    def fault(self, *codes: int) -> str:
        """What no command may do, in words; empty where it ended with one of `codes` and in one sentence."""
        lines = self.err.strip().splitlines()
        last = lines[-1] if lines else ""
        if self.hung:
            return f"hung for {self.seconds:.0f} s"
        if "Traceback" in self.err or "nexpected" in self.err:
            return f"traceback: {self.err.strip()[-300:]}"
        if self.code not in codes:
            return f"exit code {self.code}: {self.err.strip()[-300:]}"
        if self.code > 0 and not last.startswith("mmccd: "):
            return f"exit code {self.code} without a sentence: {self.err.strip()[-300:]}"
        return ""


class Fork:
    """Work that has begun in a copy of this process.

    Args:
        work: Returns what JSON knows; the exit code is 0, or what a `Command` returns.
        memory: Megabytes of address space that it may take in addition to what this process has.
        largest_file: Bytes that a file may have; writing more fails.
    """

    def __init__(self, work: Callable[[], Any], memory: int = 0, largest_file: int | None = None) -> None:
        self.out, self.err, self.answer = (tempfile.TemporaryFile() for _ in range(3))  # noqa: SIM115  closed by `end`
        self.began, self.code, self.peak_kb = time.monotonic(), None, 0
        self.before_kb = _resident_kb()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if not self.pid:
            self._child(work, memory, largest_file)

    def _child(self, work: Callable[[], Any], memory: int, largest_file: int | None) -> None:
        code = 99
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            for number, file in ((1, self.out), (2, self.err)):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (open(n, "w", closefd=False) for n in (1, 2))  # noqa: SIM115
            if memory:
                most = _address_space() + memory * MB
                resource.setrlimit(resource.RLIMIT_AS, (most, most))
            if largest_file is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
            value = work()
            code = value if isinstance(work, Command) else 0
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
            os.write(self.answer.fileno(), json.dumps(value).encode())
        except BaseException:
            with suppress(BaseException):
                traceback.print_exc()
        finally:
            with suppress(BaseException):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def running(self) -> bool:
        """Has it not ended yet?"""
        if self.code is None:
            pid, status, used = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.code, self.peak_kb = os.waitstatus_to_exitcode(status), used.ru_maxrss
        return self.code is None

    def wait(self, seconds: float) -> bool:
        """Wait for its end, but not longer; has it ended?"""
        end, pause = time.monotonic() + seconds, 0.001
        while self.running():
            if time.monotonic() > end:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 0.02)
        return True

    def send(self, number: int) -> None:
        """Send it a signal, if it has not ended."""
        with suppress(ProcessLookupError):
            if self.running():
                os.kill(self.pid, number)

    def end(self, seconds: float = 120) -> Outcome:
        """Wait for it, kill it if it takes longer, and return how it ended."""
        hung = not self.wait(seconds)
        if hung:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)  # its own group: those that it started, and nobody else
            self.wait(60)
        err, answer = (_content(f) for f in (self.err, self.answer))
        self.out.close()
        value = json.loads(answer) if answer and not hung else None
        peak = max(0, self.peak_kb - self.before_kb) / 1024
        return Outcome(self.code or 0, value, err, peak, hung, time.monotonic() - self.began)


class Command:
    """A command line of `mmccd`, to be run in a fork; calling it returns its exit code."""

    def __init__(self, *words: object) -> None:
        self.words = [str(w) for w in words]

    def __call__(self) -> int:
        from mmccd.cli import main

        return main(self.words)

    def __str__(self) -> str:
        return " ".join(["mmccd", *self.words])


class Call(Command):
    """A function, run as if it were a command: a ValueError is one sentence and exit code 2."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__()
        self.work = work

    def __call__(self) -> int:
        from mmccd.runtime import say

        try:
            self.work()
        except ValueError as error:
            say(str(error))
            return 2
        return 0


def in_fork(work: Callable[[], Any], seconds: float = 120, memory: int = 0, largest_file: int | None = None) -> Outcome:
    """Do some work in a copy of this process, and return how it ended; see `Fork`."""
    return Fork(work, memory, largest_file).end(seconds)


def warm() -> None:
    """Import what the commands need, so that no fork has to, and let it compute on one thread."""
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in ("matplotlib.backends.backend_agg", "scipy.ndimage", "sklearn.metrics", "zarr", "lightning.pytorch"):
        importlib.import_module(name)
    package = Path(importlib.import_module("mmccd").__file__).parent
    for path in sorted(package.rglob("*.py")):
        if path.name not in ("__main__.py", "_modidx.py"):
            parts = path.relative_to(package.parent).with_suffix("").parts
            importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))


def _content(file: Any) -> str:
    with file:
        file.seek(0)
        return file.read().decode(errors="replace")


def _resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 1024


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
