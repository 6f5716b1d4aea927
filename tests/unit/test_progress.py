"""Signs of life: a line now and then where there is no terminal, none for what is quick, numbers that add up."""

import itertools
import sys
import time

import pytest

from mmccd import progress
from mmccd.benchmark.schedule import ProgressDisplay
from mmccd.training.progress import Progress, estimate, validations_left


class Log:
    "What was written on standard error so far, which is no terminal, as under a scheduler."

    def __init__(self, capsys):
        self.capsys, self.text = capsys, ""

    def getvalue(self):
        self.text += self.capsys.readouterr().err
        return self.text


@pytest.fixture
def log(capsys):
    return Log(capsys)


def wait_for(words, log):
    for _ in range(1000):
        if words in log.getvalue():
            return
        time.sleep(0.01)
    pytest.fail(f"{words!r} is not in {log.getvalue()!r}")


def test_a_long_run_says_how_far_it_is(log, monkeypatch):
    "Also while a single item takes long."
    monkeypatch.setattr(progress, "FIRST", 0.01)
    for k, _item in enumerate(progress.track("abc", "prepare", "case", total=5, first=2)):
        wait_for(f"mmccd: prepare: {k + 2} of 5 cases after 0 s\n", log)
    before = log.getvalue()
    time.sleep(0.05)
    assert log.getvalue() == before
    assert "\r" not in before


@pytest.mark.parametrize("show", [False, True])
def test_a_short_run_is_quiet(log, show):
    assert list(progress.track("abc", "prepare", "case", show=show)) == ["a", "b", "c"]
    assert log.getvalue() == ""


def test_a_terminal_has_a_bar_alone(log, monkeypatch):
    monkeypatch.setattr(progress, "FIRST", 0.01)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    for _ in progress.track("ab", "prepare", "case"):
        time.sleep(0.05)
    assert "prepare: 100%" in log.getvalue()
    assert "mmccd:" not in log.getvalue()


def test_lines_end_with_the_work(log, monkeypatch):
    monkeypatch.setattr(progress, "FIRST", 0.01)

    def work():
        for _ in progress.track("ab", "detect", "case"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    before = log.getvalue()
    time.sleep(0.05)
    assert log.getvalue() == before


def test_lines_become_rarer(monkeypatch):
    monkeypatch.setattr(progress, "FIRST", 30)
    times, elapsed = [], 0.0
    while elapsed < 24 * 3600:
        times.append(elapsed := progress.next_line(elapsed))
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert times[0] == 30
    assert all(b >= a - 1e-6 for a, b in itertools.pairwise(gaps))
    assert max(gaps) == pytest.approx(300)
    assert len(times) < 350


def test_a_benchmark_says_what_runs(log, monkeypatch, tmp_path):
    monkeypatch.setattr(progress, "FIRST", 0.01)
    with ProgressDisplay(3, tmp_path) as display:
        display.begin("train cycle")
        (tmp_path / "runs/cycle").mkdir(parents=True)
        (tmp_path / "runs/cycle/log.csv").write_text("step,samples\n0,0\n7,70\n")
        wait_for("benchmark: 0 of 3 tasks done (train cycle: step 7) after 0 s", log)
        display.end("train cycle")
        wait_for("benchmark: 1 of 3 tasks done ()", log)


def test_a_training_between_two_tenths(log, monkeypatch):
    "Where a tenth of the steps takes hours, or a validation minutes, a line comes now and then."
    monkeypatch.setattr(progress, "FIRST", 0.01)
    shown = Progress(100_000, 0)
    wait_for("mmccd: train: step 0 of 100000 after 0 s\n", log)
    shown.step(1, {"loss": 0.5}, 0)
    wait_for("mmccd: train: step 1 of 100000: loss 0.5 after 0 s\n", log)
    shown.close()
    before = log.getvalue()
    time.sleep(0.05)
    assert log.getvalue() == before


def test_the_numbers_of_an_estimate_add_up():
    assert estimate(0.64, 10, 0) == "10 steps to go will take about 6 s (0.64 s each)"
    assert estimate(0.64, 10, 3.6) == "10 steps to go will take about 10 s (0.64 s each, and 4 s to validate)"
    assert estimate(2, 3600, 1800) == "3600 steps to go will take about 2.5 h (2 s each, and 30.0 min to validate)"


@pytest.mark.parametrize(("steps", "every"), [(20, 20), (20, 10), (25, 10), (7, 10), (1, 1)])
def test_how_many_validations_are_left(steps, every):
    def due(step):
        return step % every == 0 or step == steps

    for step in range(steps + 1):
        assert validations_left(step, steps, every) == sum(due(k) for k in range(step + 1, steps + 1))
