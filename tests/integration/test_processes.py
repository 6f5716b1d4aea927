"Processes: a pool of workers, and what a fresh interpreter imports."

import signal
import subprocess
import sys

import pytest

from mmccd.pools import ProcessPool


def test_a_pool():
    "Work comes back, an error as it is; a worker that is killed is one sentence, and ends the pool."
    pool = ProcessPool(1)

    def use():
        with pool:
            assert pool.submit(pow, 2, 5).result() == 32
            assert isinstance(pool.submit(divmod, 1, 0).exception(), ZeroDivisionError)
            pool.submit(signal.raise_signal, signal.SIGKILL).result()

    with pytest.raises(ValueError, match=r"^A worker was killed, .* what is finished is kept"):
        use()
    with pytest.raises(RuntimeError):
        pool.submit(pow, 2, 5)


def test_the_registry_imports_no_torch():
    "The command line reads the names of methods for its help, which has to be quick."
    code = "import sys, mmccd.registry, mmccd.benchmark; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
