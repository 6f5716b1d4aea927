"""What every other module relies on: threads, seeds and words for numbers."""

import os
import signal
import threading

import pytest
import torch

from mmccd.runtime import (
    check_stop,
    interrupted_code,
    interrupts_later,
    shell_line,
    sigterm_as_interrupt,
    single_thread,
    stop_requested,
    stopped_by,
)


@pytest.fixture
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def in_new_thread(function):
    "What `function` returns in a thread of its own."
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.usefixtures("four_threads")
def test_one_thread_inside_and_as_before_outside():
    with single_thread():
        assert torch.get_num_threads() == 1
        with single_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 4
    with pytest.raises(ValueError, match="inside"), single_thread():
        raise ValueError("inside")
    assert torch.get_num_threads() == 4


@pytest.mark.usefixtures("four_threads")
@pytest.mark.parametrize("first_to_leave", ["first", "second"])
def test_two_python_threads_inside_at_once(first_to_leave):
    "Whoever leaves first: nobody inside is disturbed, and nobody outside is left with a single thread."
    entered, leave = ({k: threading.Event() for k in ("first", "second")} for _ in range(2))
    inside, after = {}, {}

    def visit(name):
        with single_thread():
            entered[name].set()
            assert leave[name].wait(60)
            inside[name] = torch.get_num_threads()
        after[name] = torch.get_num_threads()

    threads = {}
    for name in ("first", "second"):  # the second comes in while the first is inside
        threads[name] = threading.Thread(target=visit, args=[name])
        threads[name].start()
        assert entered[name].wait(60)
    for name in (first_to_leave, *({"first", "second"} - {first_to_leave})):
        leave[name].set()
        threads[name].join()
    assert inside == {"first": 1, "second": 1}
    assert after == {"first": 4, "second": 4}
    assert torch.get_num_threads() == in_new_thread(torch.get_num_threads) == 4


def test_the_first_signal_waits_and_the_second_does_not():
    done, before = [], signal.getsignal(signal.SIGINT)

    def work(number):
        with interrupts_later():
            for i in (1, 2):
                signal.raise_signal(number)
                done.append(i)

    with pytest.raises(KeyboardInterrupt):
        work(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), sigterm_as_interrupt():
        work(signal.SIGTERM)
    assert done == [1, 1]
    assert interrupted_code() == 143
    assert signal.getsignal(signal.SIGINT) == before


def test_work_in_a_thread_is_asked_to_stop():
    "The work of that thread alone, and only as long as it is inside."
    asked, elsewhere = threading.Event(), []
    with stopped_by(asked.is_set):
        check_stop()
        asked.set()
        other = threading.Thread(target=lambda: elsewhere.append(stop_requested()))
        other.start()
        other.join()
        with pytest.raises(KeyboardInterrupt):
            check_stop()
    assert elsewhere == [False]
    check_stop()


def test_words_are_quoted_as_the_systems_shell_wants_them(monkeypatch):
    assert shell_line("mmccd", "my cases") == "mmccd 'my cases'"
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", "nt")
        line = shell_line("mmccd", "C:\\my cases")
    assert line == 'mmccd "C:\\my cases"'
