"What a worker does: an interrupt reaches what runs, and what would be next."

import pytest

from mmccd import pools
from mmccd.pools import run_interruptible


def refuse():
    raise AssertionError("this must not be done")


def test_an_interrupt_between_two_pieces_of_work(monkeypatch):
    "A worker that idles when it is interrupted stops before its next piece."
    assert run_interruptible(lambda: 5) == 5
    assert not pools._working.is_set()
    pools._on_interrupt()  # as the signal does: nothing is raised while nothing runs
    try:
        with pytest.raises(KeyboardInterrupt):
            run_interruptible(refuse)
    finally:
        pools._interrupted.clear()


def test_an_interrupt_in_the_middle_of_work():
    try:
        with pytest.raises(KeyboardInterrupt):
            run_interruptible(pools._on_interrupt)
        assert not pools._working.is_set()
    finally:
        pools._interrupted.clear()
