"""Devices, threads, signals, seeds and messages: what every room needs, and what knows nothing of the rest."""

import hashlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import FrameType

from mmccd.errors import display_name


def say(text: str) -> None:
    """Print one line for the user on standard error, so that standard output stays clean."""
    print(f"mmccd: {display_name(text)}", file=sys.stderr)


def shell_line(*words: object) -> str:
    """Return words as they are typed into this system's shell, those with spaces in quotes."""
    return (subprocess.list2cmdline if os.name == "nt" else shlex.join)([str(word) for word in words])


def pick_device(name: str) -> str:
    """Return the device that `name` stands for, one of cpu, cuda and mps.

    Args:
        name: auto, which takes the fastest there is; cpu, cuda or mps.

    Raises:
        ValueError: if there is no such device, or not on this computer.
    """
    import torch

    known = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}  # fastest first
    available = [device for device, yes in known.items() if yes]
    if name not in ("auto", *known):
        raise ValueError(f"unknown device {name!r}: choose auto, cpu, cuda or mps")
    if name not in ("auto", *available):
        raise ValueError(f"the device {name!r} is not available here: choose {' or '.join(['auto', *available])}")
    return available[0] if name == "auto" else name


STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name))
"""Signals that ask a process to stop; Windows has no SIGHUP, and sends SIGBREAK when the terminal is closed."""

_received: list[int] = []  # those that asked this one


def note_signal(number: int) -> None:
    """Remember that a signal asked this process to stop; for signal handlers."""
    _received.append(number)


def interrupted_code() -> int:
    """Return the exit code of a command that was stopped, by custom 128 + the first signal; 130 after Ctrl-C."""
    return 128 + (_received or [signal.SIGINT])[0]


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let a plain `kill` and the end of the terminal (SIGTERM, SIGHUP) raise KeyboardInterrupt inside, as Ctrl-C does.

    A signal that the process ignores, as under `nohup`, stays ignored. In a thread, where signals cannot be handled,
    nothing changes.
    """

    def stop(number: int, _frame: object) -> None:
        note_signal(number)
        raise KeyboardInterrupt

    _received.clear()
    signals = STOPPING[1:] if threading.current_thread() is threading.main_thread() else ()
    old = {s: signal.signal(s, stop) for s in signals if signal.getsignal(s) != signal.SIG_IGN}
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


@contextmanager
def interrupts_later() -> Iterator[None]:
    """Let the first signal that asks this process to stop wait until the end; the second one is not kept waiting.

    For work that a library does in threads of its own, which would go on where an exception has left it. In another
    thread than the main one, where signals cannot be handled, nothing changes.
    """
    waiting: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        if waiting:
            old[number](number, frame)
        waiting.append(number)

    in_main = threading.current_thread() is threading.main_thread()
    old = {s: h for s in STOPPING if in_main and callable(h := signal.getsignal(s))}
    for number in old:
        signal.signal(number, keep)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        if waiting:
            old[waiting[0]](waiting[0], None)


_asks_to_stop: ContextVar[Callable[[], bool]] = ContextVar("_asks_to_stop", default=lambda: False)


@contextmanager
def stopped_by(asks: Callable[[], bool]) -> Generator[None]:
    """Let the work inside end early once `asks` returns True, at its next `check_stop` or its next checkpoint.

    For work in a thread, which no signal reaches.
    """
    token = _asks_to_stop.set(asks)
    try:
        yield
    finally:
        _asks_to_stop.reset(token)


def stop_requested() -> bool:
    """Return whether the work of this thread has been asked to stop, other than by a signal."""
    return _asks_to_stop.get()()


def check_stop() -> None:
    """Raise KeyboardInterrupt if the work of this thread has been asked to stop; for long loops."""
    if stop_requested():
        raise KeyboardInterrupt


def derive_seed(*words: object) -> int:
    """Return a seed in [0, 2^63) that depends on all the words, and on nothing else.

    Args:
        *words: what the randomness is for: numbers, names, or tuples of them.
    """
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "big") >> 1


def kept_random_state() -> AbstractContextManager[None]:
    """Return a context after which PyTorch's own random state is what it was before, whatever is drawn inside."""
    import torch

    return torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else [])


def counted(n: int, what: str) -> str:
    """Return a number and its noun: `1 case`, `2 cases`."""
    return f"{n} {what}{'s' * (n != 1)}"


def evenly_spaced(n: int, most: int) -> list[int]:
    """Return at most `most` of the indices 0 to n - 1, evenly spread and the same every time."""
    return list(range(n)) if n <= most else [i * n // most for i in range(most)]


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it: `40 s`, `12.3 min`, `5.0 h`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


CGROUPS = (  # files with the limit of a container's or a job's memory and with what it uses: version 2, version 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def number_in(file: str) -> float:
    """Return the number that is all there is in a file of the system's."""
    return float(Path(file).read_text(encoding="utf-8"))


def free_memory() -> float:
    """Return how many bytes this process may still take, as far as the system says: 4e9 where it says nothing.

    Where a container or a cluster's job has a limit of its own, that counts.
    """
    with suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        free = float(text.split("MemAvailable:")[1].split()[0]) * 1024
        for limit, used in CGROUPS:
            with suppress(OSError, ValueError):  # "max" where there is none
                free = min(free, number_in(limit) - number_in(used))
        return max(free, 0.0)
    return 4e9


@contextmanager
def cpu_threads(n: int) -> Iterator[None]:
    """Let PyTorch compute with `n` threads inside; with one, results do not depend on how many cores there are."""
    import torch

    if n == 1:
        with single_thread():
            yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


_single_threaded: Counter[int] = Counter()  # how often each thread is inside `single_thread`
_single_thread_lock = threading.Lock()
_threads_before = 1  # PyTorch's number of threads when the first of them came in


@contextmanager
def single_thread() -> Iterator[None]:
    """Let PyTorch compute with one thread inside, so that results do not depend on how many cores there are.

    It may be nested, and several Python threads may be inside at once. PyTorch keeps one number for each of them and
    one for threads that are still to come; whoever leaves gets back the number from before the first came in.
    """
    global _threads_before
    import torch

    me = threading.get_ident()
    with _single_thread_lock:
        here = torch.get_num_threads()  # asked in every thread: the first question of a thread sets its number
        if not _single_threaded:
            _threads_before = here
        _single_threaded[me] += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _single_thread_lock:
            _single_threaded[me] -= 1
            if not _single_threaded[me]:
                del _single_threaded[me]
                torch.set_num_threads(_threads_before)
