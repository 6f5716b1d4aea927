""""""

import hashlib
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager


def say(
    text: str,  # one line
):
    "Tell the user something on standard error, so that standard output stays clean."
    print(f"mmccd: {text}", file=sys.stderr)


class Interrupted(Exception):
    "Ctrl-C, where the command itself says what is kept."


def pick_device(
    name: str,  # auto, cpu, cuda or mps
) -> str:  # cpu, cuda or mps
    "A device that is really there; `auto` takes the fastest."
    import torch

    there = [
        d
        for d, yes in [("cuda", torch.cuda.is_available()), ("mps", torch.backends.mps.is_available()), ("cpu", True)]
        if yes
    ]
    if name not in ("auto", "cpu", "cuda", "mps"):
        raise ValueError(f"unknown device {name!r}: choose auto, cpu, cuda or mps")
    if name not in (*there, "auto"):
        raise ValueError(f"the device {name!r} is not available here: choose {' or '.join(['auto', *there])}")
    return there[0] if name == "auto" else name


@contextmanager
def sigterm_as_interrupt():
    "Other ways to be asked to stop."

    def stop(*_):
        raise KeyboardInterrupt

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    old = {s: signal.signal(s, stop) for s in signals if signal.getsignal(s) != signal.SIG_IGN}
    try:
        yield
    finally:
        for s, handler in old.items():
            signal.signal(s, handler)


def derive_seed(
    *words,  # numbers and names: what the randomness is for
) -> int:  # in [0, 2^63)
    "A seed that depends on all the words, and on nothing else."
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:8], "big") >> 1


def kept_random_state():  # a context
    "Whatever is drawn inside, PyTorch's own random state is afterwards what it was before."
    import torch

    return torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else [])


def counted(
    n: int,  # how many
    what: str,  # one of them
) -> str:
    "A number and its noun."
    return f"{n} {what}{'s' * (n != 1)}"


def evenly_spaced(
    n: int,  # how many there are
    most: int,  # how many are wanted
) -> list[int]:  # at most `most` of 0 .. n-1, evenly spread
    "The same few of many, every time."
    return list(range(n)) if n <= most else [i * n // most for i in range(most)]


def duration(
    seconds: float,  # >= 0
) -> str:
    "A time that can be said aloud."
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


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
