"""A run that is killed at any change of a file: nothing lies, and the next run puts everything right."""

import json
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import pytest
from toy_cases import write_case
from toy_detection import Noisy, ready

from mmccd.detection.detect import detect_many
from mmccd.detection.provenance import check_origin, find_run, scored_ids
from mmccd.detection.records import OtherResultsError, read_state
from mmccd.files import hash_file

pytestmark = [
    pytest.mark.usefixtures("quick_reports"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

CHANGES = ("rename", "replace", "unlink", "rmdir", "mkdir", "link")


def run(cases, out, seed, **options):
    return detect_many(cases, ready(Noisy(), 1.0), out, "flair", seed=seed, **options)


def in_a_fork(work, die_at=0):
    "Do something in a copy of this process, which is killed right after its nth change; returns how many it made."
    reader, writer = os.pipe()
    if not (child := os.fork()):
        n = 0

        def counted(real):
            def change(*args, **kwargs):
                nonlocal n
                n += 1
                real(*args, **kwargs)
                if n == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            return change

        for name in CHANGES:
            setattr(os, name, counted(getattr(os, name)))
        try:
            work()
            os.write(writer, str(n).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as pipe:
        return int(pipe.read() or 0)


def contents(out):
    "Everything in a folder of results by hash, hidden files too, but without the seconds that it took."
    found = {}
    for p in sorted(out.rglob("*")):
        if p.name.endswith(".json"):
            record = json.loads(p.read_text())
            for case in record.get("cases", [record.get("case")]):
                case.pop("seconds")
            found[str(p.relative_to(out))] = record
        elif p.is_file():
            found[str(p.relative_to(out))] = hash_file(p)
    return found


def check_honest(out, maps):
    "Records speak of the files beside them, and what would be scored was made by the run that the scores name."
    state = read_state(out)
    assert not state.damaged
    for record in state.records.values():
        there = {k: out / f for k, f in record["case"]["files"].items() if (out / f).exists()}
        assert {k: hash_file(f) for k, f in there.items()}.items() <= record["sha256"].items()
    named = find_run(out, state) if state.run else next(iter(state.records.values()), {})
    for id in scored_ids(out, state):
        map = out / id / f"{id}_anomaly.nii.gz"
        if map.exists() and hash_file(map) not in maps[named["seed"]]:
            with pytest.raises(ValueError, match="made by"):
                check_origin(id, state, named)
    return named


@pytest.fixture
def place(tmp_path, monkeypatch):
    "Cases, what the old run and the new one make of them, and the hashes of their maps by seed."
    monkeypatch.setattr("mmccd.viz.save_png", lambda figure, path, dpi: Path(path).write_bytes(b"png"))
    for i in range(2):
        write_case(tmp_path / "cases", f"c{i}", seed=i)
    run(tmp_path / "cases", tmp_path / "old", 1)
    run(tmp_path / "cases/c0", tmp_path / "new", 2)
    (tmp_path / "old/c0/notes.txt").write_text("mine")
    return tmp_path, {
        s: {hash_file(p) for p in (tmp_path / n).glob("*/*_anomaly*")} for s, n in ((1, "old"), (2, "new"))
    }


def test_killed_in_a_new_folder(place):
    tmp_path, maps = place
    case, out, want = tmp_path / "cases/c0", tmp_path / "out", contents(tmp_path / "new")
    n = in_a_fork(lambda: run(case, out, 2))
    assert contents(out) == want
    assert n > 10
    for k in range(1, n + 1):
        shutil.rmtree(out)
        in_a_fork(lambda: run(case, out, 2), k)
        check_honest(out, maps)
        run(case, out, 2, skip_existing=True)
        assert contents(out) == want, k


def test_killed_while_another_run_is_replaced(place):
    tmp_path, maps = place
    case, out, old = tmp_path / "cases/c0", tmp_path / "out", tmp_path / "old"
    want = contents(tmp_path / "new") | {"c0/notes.txt": hash_file(old / "c0/notes.txt")}
    shutil.copytree(old, out)
    n = in_a_fork(lambda: run(case, out, 2, overwrite=True))
    assert contents(out) == want
    refused = 0
    for k in range(1, n + 1):
        shutil.rmtree(out)
        shutil.copytree(old, out)
        in_a_fork(lambda: run(case, out, 2, overwrite=True), k)
        check_honest(out, maps)
        with suppress(OtherResultsError):
            refused += 1
            run(tmp_path / "cases", out, 1, skip_existing=True)
            refused -= 1
            assert contents(out) == contents(old), k
        run(case, out, 2, overwrite=True, skip_existing=True)
        assert contents(out) == want, k
    assert 0 < refused < n
