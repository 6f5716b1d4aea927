"""Runs a Jupyter server that ends with the process that started it, however that ends: `kill -9` included.

`python -m mmccd.explorer.served FOLDER MODULE WORD...` is `python -m MODULE WORD...`, with standard input held open by
the other process. When that is gone, so is the other end of the pipe; then the server is told to stop, its kernels end
with it, and FOLDER, which nobody else will remove, goes too.
"""

import os
import runpy
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable

PATIENCE = 20  # seconds for an orderly end


def when_alone(act: Callable[[], object]) -> None:
    """Call `act` in a thread as soon as standard input ends."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        act()

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Run the module whose name is the second word."""
    folder, module = sys.argv[1:3]
    sys.argv[1:3] = []

    def stop() -> None:
        if os.name == "posix":
            os.kill(os.getpid(), signal.SIGTERM)
        else:  # where `os.kill` leaves no time for an orderly end
            signal.raise_signal(signal.SIGTERM)
        time.sleep(PATIENCE)
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # until the server has its own way to end
    alone = threading.Event()
    when_alone(lambda: (alone.set(), stop()))
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        if alone.is_set():
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
