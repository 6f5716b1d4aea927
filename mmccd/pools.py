""""""

import os
import signal
import threading
from contextlib import suppress
from multiprocessing import connection, parent_process

import torch

BUSY = threading.Event()  # is there work that may be interrupted?


ENDED = threading.Event()  # has the parent asked to stop?


def begin_worker():
    "How a worker begins: one thread, in a group of its own, so that Ctrl-C reaches it once and through its parent, and gone when that is."

    def stop(*_):
        ENDED.set()
        if BUSY.is_set():
            raise KeyboardInterrupt

    def watch():
        connection.wait([parent_process().sentinel])
        os._exit(1)

    with suppress(AttributeError):
        os.setpgrp()
    signal.signal(signal.SIGINT, stop)
    torch.set_num_threads(1)
    threading.Thread(target=watch, daemon=True).start()


def in_worker(
    work,  # a call without arguments
):  # what it returns
    "Do it; only now may it be interrupted."
    BUSY.set()
    try:
        if ENDED.is_set():
            raise KeyboardInterrupt
        return work()
    finally:
        BUSY.clear()


def start_worker():
    "How a worker begins: one thread, deaf to Ctrl-C, and gone when its parent is."
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)

    def watch():
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
