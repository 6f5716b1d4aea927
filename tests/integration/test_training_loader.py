"Processes that read ahead change nothing but the time."

import os
import shutil
import signal
import time
from dataclasses import replace

import pytest
import torch
from toy_cases import write_case
from toy_training import QUICK, everything, fit

from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.training.loader import MOST_WORKERS, PieceLoader, read_ahead, workers_for
from mmccd.training_loop import Batches

QUIET = replace(QUICK, steps=6, batch_size=4, validate_every=6, checkpoint_every=6)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    for i in range(3):
        write_case(folder / "raw", f"c{i}", ("flair", "t2"), seed=i, lesion=False)
    prepare(folder / "raw", folder / "s.zarr", size=32, healthy=True, min_brain=0, progress=False)
    return folder / "s.zarr"


@pytest.mark.parametrize("workers", [0, 2])
def test_pieces_are_those_of_one_process(store, workers):
    data = SliceStore(f"file://{store}").dataset(in_memory=False)  # as a store in a bucket is read
    batches = Batches(data, replace(QUIET, accumulate=2), start=2)
    for rank in range(2):
        got = [(s, p, b["flair"].sum().item()) for s, p, b in PieceLoader(batches, workers, rank, ranks=2)]
        assert got == [(s, p, b["flair"].sum().item()) for s, p, b in batches if p == rank]
    assert len(got) == 4


def test_a_thread_reads_one_ahead_and_no_more(store):
    asked = []

    def slow():
        for k in range(5):
            asked.append(k)
            yield k

    items = read_ahead(slow())
    assert next(items) == 0
    time.sleep(0.05)
    assert asked == [0, 1]
    assert list(items) == [1, 2, 3, 4]
    batches = Batches(SliceStore(store).dataset(), QUIET)
    there, here = (list(PieceLoader(batches, gpu=gpu)) for gpu in (True, False))
    assert [(s, p) for s, p, _ in there] == [(s, p) for s, p, _ in here]
    assert all(torch.equal(a["flair"], b["flair"]) for (_, _, a), (_, _, b) in zip(there, here))


def test_run_with_workers_is_the_same_run(store, tmp_path):
    data, val = (SliceStore(store).dataset(ids, in_memory=False) for ids in (["c0", "c1"], "c2"))
    for workers in (0, 1):
        fit(tmp_path / str(workers), QUIET, data=data, val=val, workers=workers)
    assert everything(tmp_path / "0") == everything(tmp_path / "1")


def test_workers_leave_signals_to_the_training(store):
    data = SliceStore(store).dataset(in_memory=False)
    pieces = iter(PieceLoader(Batches(data, replace(QUIET, steps=40)), workers=1))
    next(pieces)
    (worker,) = [p for p in os.popen(f"ps -o pid= --ppid {os.getpid()}").read().split() if is_worker(p)]
    os.kill(int(worker), signal.SIGINT)
    os.kill(int(worker), signal.SIGTERM)
    assert sum(1 for _ in pieces) == 39


def is_worker(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return "spawn_main" in file.read()
    except OSError:
        return False


def test_damage_is_said_in_its_own_words(store, tmp_path):
    shutil.copytree(store, tmp_path / "s.zarr")
    data = SliceStore(tmp_path / "s.zarr").dataset(in_memory=False)
    shutil.rmtree(tmp_path / "s.zarr" / "c1" / "images")
    with pytest.raises(ValueError, match=r"c1.*damaged") as caught:
        list(PieceLoader(Batches(data, QUIET), workers=1))
    assert "Traceback" not in str(caught.value)


def test_how_many_workers(store):
    kept, read = (SliceStore(store).dataset(in_memory=m) for m in (True, False))
    assert workers_for(kept, None) == 0
    assert 1 <= workers_for(read, None) <= MOST_WORKERS
    assert workers_for(kept, 3) == 3
    assert workers_for([], None) == 0
