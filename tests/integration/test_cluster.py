"""Work for several processes: the results of one, though workers die, the run is stopped, or its process is killed.

Workers are real ones: on this computer, and (as a stand-in for other nodes) those of a scheduler with its own ones.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import toy_cluster as toy
from small_benchmark import ScanPlan, sentence, without_times
from toy_cases import tree, write_case
from toy_detection import DETECT, Noisy, ready, refused

import mmccd.cluster as cluster
from mmccd.benchmark.plan import ScanSource
from mmccd.benchmark.run import run_benchmark
from mmccd.cases import prepare as prepare_module
from mmccd.cases import strip
from mmccd.cases.prepare import count_processes, prepare
from mmccd.cases.records import read_records
from mmccd.cluster import KilledError, check_workers, open_workers
from mmccd.cluster.worker import StoppedError
from mmccd.detection.calibration import recalibrate
from mmccd.detection.detect import detect_many, what_loads
from mmccd.detector import load_detector
from mmccd.runtime import single_thread
from mmccd.training.checkpoint import checkpoints

pytest.importorskip("distributed")
SMALL = dict(size=16, fov=28.0, min_brain=1.0, progress=False)


def maps(folder):
    "Everything in a folder of results but for the seconds that it took."
    found = {name: content for name, content in tree(folder).items() if content is not None}
    for name in [n for n in found if n.endswith(".json")]:
        found[name] = without_times(json.loads(found[name]))
    return found


def mortal(tmp_path, deaths):
    "A detector that kills its workers."
    detector = ready(toy.Mortal())
    detector.deaths, detector.file = deaths, str(tmp_path / "seen")
    return detector


def wait_for(what, run=None, seconds=60):
    "Wait until something is so, or a process has ended."
    end = time.monotonic() + seconds
    while not what() and (run is None or run.poll() is None) and time.monotonic() < end:
        time.sleep(0.05)
    assert what(), run and run.communicate()


def toy_share(tmp_path):
    return partial(toy.shared, str(tmp_path / "shared"))


@pytest.fixture(scope="module")
def cluster_of_two():
    with cluster.local_cluster(2) as found:
        yield found


@pytest.fixture
def two(cluster_of_two, monkeypatch):
    "What is to be done by two workers is done by the same two, who have imported everything."

    @contextmanager
    def same(jobs):
        assert jobs == 2
        yield cluster_of_two

    monkeypatch.setattr(cluster, "local_cluster", same)


# ---- workers on this computer
def test_workers(tmp_path, capfd):
    "Results and errors as they are, one thread, nothing on a screen, no port that others reach, and all is put back."
    before = os.environ.get("OMP_NUM_THREADS")
    with open_workers(2, share=toy_share(tmp_path)) as workers:
        ports = [c for p in (psutil.Process(), *toy.children()) for c in p.net_connections() if c.status == "LISTEN"]
        assert {c.laddr.ip for c in ports if c.laddr.port != 0} == {"127.0.0.1"}
        assert 8787 not in {c.laddr.port for c in ports}
        assert workers.client.scheduler.address.startswith("tls" if find_spec("cryptography") else "tcp")
        assert [workers.submit("pair", toy.pair, k).result() for k in range(4)] == [("shared", k) for k in range(4)]
        with pytest.raises(FileNotFoundError, match="x"):
            workers.submit("a", toy.fail, "x").result()
        assert workers.submit("once", toy.kill_workers, tmp_path / "once", 1).result() == "shared"
        assert {workers.submit("about", toy.about).result() for k in range(4)} == {(1, "1", False, True)}
        done = dict(workers.results(("many", toy.pair, k) for k in range(3)))
        assert done["many"].result()[0] == "shared"
        started = toy.children()
    assert len(toy.noted(tmp_path / "once")) == 2
    assert len(toy.noted(tmp_path / "shared")) == len(set(toy.noted(tmp_path / "shared")))  # once in each process
    assert toy.all_gone(started)
    assert os.environ.get("OMP_NUM_THREADS") == before
    assert capfd.readouterr() == ("", "")


def test_a_training_that_is_stopped_saves_a_checkpoint(two, tmp_path):
    "What is still to come is not begun."
    futures, log = [], tmp_path / "run/log.csv"

    def use():
        with open_workers(2, share=toy_share(tmp_path)) as workers:
            futures.append(workers.submit("train", toy.train_long, tmp_path / "run"))
            futures.append(workers.submit("other", toy.endless, tmp_path / "endless"))
            futures.append(workers.submit("next", toy.kill_workers, tmp_path / "never", 0))
            wait_for(lambda: log.exists() and len(log.read_text().split()) > 3)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert all(isinstance(f.exception(), StoppedError) for f in futures)
    assert toy.noted(tmp_path / "endless") == ["begun", "stopped"]
    assert len(checkpoints(tmp_path / "run")) == 1
    assert not (tmp_path / "never").exists()


def test_a_worker_that_ends_hands_its_task_on(two, tmp_path):
    "The task is asked to stop, so that a training saves a checkpoint, and another worker goes on with it."
    file = tmp_path / "endless"

    def use():
        with open_workers(2, share=toy_share(tmp_path)) as workers:
            workers.submit("endless", toy.endless, file)
            wait_for(lambda: toy.noted(file) == ["begun"])
            workers.client.run(toy.end)
            wait_for(lambda: sorted(toy.noted(file)) == ["begun", "begun", "stopped"])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert sorted(toy.noted(file)) == ["begun", "begun", "stopped", "stopped"]


def test_a_second_interrupt_kills(tmp_path, monkeypatch):
    "Work that does not ask whether it should stop is waited for once."
    started, before = [], toy.children()

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    def use():
        with open_workers(1) as workers:
            workers.submit("sleep", time.sleep, 600)
            started.extend(p for p in toy.children() if p not in before)
            monkeypatch.setattr(cluster, "wait", interrupted)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        use()
    assert started
    assert toy.all_gone(started)


# ---- detection
@pytest.mark.usefixtures("quick_reports")
def test_detection_is_that_of_one_process(two, cases, tmp_path):
    with single_thread():
        detect_many(cases, ready(Noisy(), 1.0), tmp_path / "one", "flair", seed=5)
    (cases / "c3").mkdir()
    (cases / "c3/c3_flair.nii.gz").write_text("broken")
    found = detect_many(cases, ready(Noisy(), 1.0), tmp_path / "two", "flair", seed=5, jobs=2)
    assert [c["status"] for c in found["cases"]] == ["done", "done", "done", "failed"]
    assert found == json.loads((tmp_path / "two/detect.json").read_text())
    shutil.rmtree(cases / "c3")
    found["cases"].pop()
    one, two = maps(tmp_path / "one"), maps(tmp_path / "two")
    assert without_times(found) == one.pop("detect.json")
    del two["detect.json"]
    pages = [n for n in one if n.endswith((".png", ".html"))]  # whole ones there, quick ones here
    assert {n: x for n, x in one.items() if n not in pages and not n.endswith("_detect.json")}.items() <= two.items()
    assert one.keys() == two.keys()


@pytest.mark.usefixtures("quick_reports")
@pytest.mark.parametrize("kind", ["", "file://"])  # a URL is written to as a bucket is
def test_a_worker_that_dies_costs_no_case(two, cases, tmp_path, kind):
    "Killed in the middle of one: another worker does it; what is left half written is gone."
    detector = mortal(tmp_path, 1)
    found = detect_many(cases, detector, f"{kind}{tmp_path}/out", jobs=2)
    assert [c["status"] for c in found["cases"]] == ["done"] * 3
    assert len(toy.noted(tmp_path / "seen")) == 3  # two cases show a lesion
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["c0", "c1", "c2", "detect.json"]


@pytest.mark.slow
@pytest.mark.usefixtures("quick_reports")
def test_a_case_that_kills_every_worker_fails_alone(two, tmp_path):
    for i in range(4):
        write_case(tmp_path / "cases", f"c{i}", seed=i, lesion=i == 1)
    found = detect_many(tmp_path / "cases", mortal(tmp_path, 3), tmp_path / "out", jobs=2)
    assert [c["status"] for c in found["cases"]] == ["done", "failed", "done", "done"]
    words = (
        "A worker was killed, perhaps for want of memory; what is finished is kept. It was c1 that 3 workers died of."
    )
    assert found["cases"][1]["error"].startswith(words)
    assert found == json.loads((tmp_path / "out/detect.json").read_text())
    assert len(toy.noted(tmp_path / "seen")) == 3
    again = detect_many(tmp_path / "cases", mortal(tmp_path, 3), tmp_path / "out", skip_existing=True, jobs=2)
    assert [c["status"] for c in again["cases"]] == ["skipped", "done", "skipped", "skipped"]  # here, without a worker


def test_no_processes_for_one_case(cases, tmp_path, monkeypatch, quick_reports):
    monkeypatch.setattr("mmccd.detection.detect.open_workers", None)
    assert len(detect_many(cases / "c0", ready(), tmp_path / "out", jobs=4)["cases"]) == 1
    assert len(detect_many(cases, ready(), tmp_path / "out")["cases"]) == 3
    assert detect_many([], ready(), tmp_path / "none", jobs=2)["cases"] == []
    (tmp_path / "out/c1/c1_report.png").unlink()
    again = detect_many(cases, ready(), tmp_path / "out", skip_existing=True, jobs=2)
    assert [c["status"] for c in again["cases"]] == ["skipped", "done", "skipped"]


def test_what_is_sent_to_workers(tmp_path, monkeypatch):
    "A name or an absolute folder, if that is the same detector; else the detector itself."
    name, folder = "cycle-flair-t2", ready().save_pretrained(tmp_path / "run")
    assert what_loads(load_detector(name), name) == name
    monkeypatch.chdir(tmp_path)
    assert what_loads(load_detector("run"), "run") == str(folder.absolute())
    assert what_loads(ready(threshold=3.0), "run") is None
    assert what_loads(ready(Noisy()), "toy") is None
    assert what_loads(ready(), "") is None


@contextmanager
def started(tmp_path, *words, more=1):
    "The command with two workers in a session of its own, which has done cases; at the end it is gone."
    for i in range(10) if words == () else ():
        write_case(tmp_path / "cases", f"c{i:02d}", seed=i)
    command = [sys.executable, "-m", "mmccd", *DETECT, "cases", "--out", "out", "--jobs", "2", *words]
    run = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        wait_for(lambda: len(list((tmp_path / "out").glob("c*"))) >= more, run)
        yield run
    finally:
        run.kill()
        run.wait()


@pytest.mark.slow
def test_killed_stopped_and_gone_on_with(two, tmp_path):
    "Killed, no worker outlives its parent; then Ctrl-C, which the terminal sends to workers, too; and the rest."
    out = tmp_path / "out"
    with started(tmp_path) as run:
        below = toy.children(run.pid)
        assert len(below) == 2
        run.kill()
        assert toy.all_gone(below)
    before = {p: p.stat().st_mtime_ns for p in out.glob("c*/*_anomaly*")}
    with started(tmp_path, "--skip-existing", more=len(before) + 1) as run:
        below = toy.children(run.pid)
        os.killpg(run.pid, signal.SIGINT)
        _, err = run.communicate(timeout=60)
        assert toy.all_gone(below)
    assert (run.returncode, err) == (130, "mmccd: stopped; finished cases are kept, go on with --skip-existing\n")
    done = {c["id"] for c in json.loads((out / "detect.json").read_text())["cases"]}
    assert done == {p.name for p in out.iterdir() if p.name != "detect.json"}  # nothing half written
    assert len(before) < len(done) < 10
    found = detect_many(tmp_path / "cases", load_detector("threshold-flair"), out, skip_existing=True, jobs=2)
    assert {c["id"] for c in found["cases"] if c["status"] == "skipped"} == done
    assert len(found["cases"]) == 10
    assert all(p.stat().st_mtime_ns == t for p, t in before.items())


# ---- preparation
class Inline:
    "Workers that do nothing but die."

    @contextmanager
    def __call__(self, *_, **__):
        yield self

    def results(self, tasks):
        for id, *_ in tasks:
            future = Future()
            future.set_exception(KilledError(f"A worker was killed by {id}"))
            yield id, future


def test_a_case_that_cannot_be_prepared_for_want_of_memory(two, cases, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr(prepare_module, "open_workers", Inline())
        found = prepare([cases / "c0", cases / "c1"], tmp_path / "s", jobs=2, **SMALL)
    assert [f["error"] for f in found["failed"]] == ["A worker was killed by c0", "A worker was killed by c1"]
    assert not (tmp_path / "s").exists()
    assert prepare(cases, tmp_path / "s", jobs=2, **SMALL)["new"] == 3


def test_a_worker_is_killed_in_preparation(two, tmp_path):
    for i in range(60):
        write_case(tmp_path / "raw", f"c{i:02d}", seed=i)
    work = threading.Thread(target=lambda: prepare(tmp_path / "raw", tmp_path / "s", jobs=2, **SMALL))
    work.start()
    wait_for(lambda: (tmp_path / "s").exists() and read_records(tmp_path / "s"))
    toy.children()[0].kill()
    work.join()
    assert len(read_records(tmp_path / "s")) == 60
    assert not list((tmp_path / "s").glob(".*"))
    prepare(tmp_path / "raw", tmp_path / "calm", **SMALL, jobs=1)
    assert tree(tmp_path / "s") == tree(tmp_path / "calm")


# ---- a scheduler and workers of their own
@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    "A scheduler with two workers: its address, and its file."
    folder = tmp_path_factory.mktemp("dask")
    file, path = folder / "scheduler.json", os.pathsep.join(p for p in sys.path if p)
    common = ["--scheduler-file", file, "--no-dashboard", "--host", "127.0.0.1"]
    options = dict(cwd=folder, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.DEVNULL)
    dask, workers = [sys.executable, "-m", "dask"], ["--nworkers", "2", "--nthreads", "1"]
    first = subprocess.Popen([*dask, "scheduler", *common, "--port", "0"], **options)
    second = subprocess.Popen([*dask, "worker", *common, *workers], **options)
    try:
        wait_for(file.exists, first)
        address = json.loads(file.read_text())["address"]
        with cluster.connect(address) as client:
            client.wait_for_workers(2, timeout=60)
        yield SimpleNamespace(address=address, file=str(file))
    finally:
        below = [*toy.children(second.pid)]
        for process in (second, first):
            process.terminate()
            process.wait(30)
        assert toy.all_gone(below, 30)


@pytest.mark.usefixtures("quick_reports")
def test_the_workers_of_a_scheduler(scheduler, cases, tmp_path, monkeypatch, run):
    "By its address or its file; paths are those of this process, whatever folder the workers are in."
    monkeypatch.chdir(tmp_path)
    with single_thread():
        one = detect_many("cases", ready(Noisy(), 1.0), "one", seed=5)
        prepare("cases", "s1", jobs=1, **SMALL)
    found = detect_many("cases", ready(Noisy(), 1.0), "two", seed=5, scheduler=scheduler.address, device="auto")
    assert without_times(found) == without_times(one)
    for p in Path("one").rglob("*.nii.gz"):
        assert p.read_bytes() == (Path("two") / p.relative_to("one")).read_bytes()
    prepare("cases", "s2", scheduler=scheduler.address, **SMALL)
    assert tree("s1") == tree("s2")
    found = detect_many("cases", mortal(tmp_path, 1), "three", scheduler=scheduler.file)
    assert [c["status"] for c in found["cases"]] == ["done"] * 3
    assert len(toy.noted(tmp_path / "seen")) == 3
    alone, there = (Path(name, "c0/c0_detect.json") for name in ("alone", "there"))
    assert run(*DETECT, "cases", "--out", "alone")[::2] == (0, "")
    assert run(*DETECT, "cases", "--out", "there", "--scheduler", scheduler.file)[::2] == (0, "")
    assert without_times(json.loads(there.read_text())["case"]) == without_times(json.loads(alone.read_text())["case"])
    assert json.loads(there.read_text())["command"] == json.loads(alone.read_text())["command"]


def test_workers_strip_and_calibrate(scheduler, cases, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mmccd.detection.calibration.anomaly_volume", None)  # nothing is done here
    monkeypatch.setattr(strip, "strip_files", None)
    healthy = [write_case("healthy", f"h{i}", seed=9 + i, lesion=False) for i in range(2)]
    there = recalibrate(ready(Noisy()), healthy, fpr=0.05, seed=3, scheduler=scheduler.address)
    with pytest.raises(ValueError, match=r"Cannot calibrate on c\d: it has a lesion"):
        recalibrate(ready(), cases, scheduler=scheduler.address)
    with pytest.raises(ValueError, match=r"Cannot strip c\d: no program is installed"):
        strip.strip_cases(cases, "brains", scheduler=scheduler.file)
    monkeypatch.undo()
    with single_thread():
        here = recalibrate(ready(Noisy()), [tmp_path / h for h in healthy], fpr=0.05, seed=3)
    assert there.calibration == here.calibration


def test_the_benchmark_of_a_scheduler(scheduler, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        write_case("raw", f"c{i}", ("flair", "t2"), seed=i)
    for name, ids in {"train": ("c0",), "val": ("c1",), "test": ("c2", "c3")}.items():
        Path(f"{name}.txt").write_text("\n".join(ids) + "\n")
    prepare("raw", "s", scheduler=scheduler.address, **SMALL)
    scans = ScanSource("s", "train.txt", "val.txt", "test.txt")
    options = dict(preset="smoke", pairs=(("flair", "t2"),), methods=(), scans=scans)
    there = run_benchmark(ScanPlan("there", device="auto", **options), progress=False, scheduler=scheduler.address)
    here = run_benchmark(ScanPlan("here", **options), progress=False)
    assert without_times(there) | {"device": "cpu"} == without_times(here)


def test_work_that_nobody_waits_for_any_more(scheduler, tmp_path):
    "The process that wanted it is killed: a training there would otherwise go on for hours, and be in the way."
    code = f"""
import sys
import toy_cluster as toy
from functools import partial
from mmccd.cluster import open_workers
with open_workers(scheduler={scheduler.address!r}, share=partial(toy.shared, {str(tmp_path / "shared")!r})) as workers:
    workers.submit("endless", toy.endless, {str(tmp_path / "file")!r}).result()
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    run = subprocess.Popen([sys.executable, "-c", code], env=env)
    wait_for(lambda: toy.noted(tmp_path / "file"), run)
    run.kill()
    run.wait()
    wait_for(lambda: toy.noted(tmp_path / "file") == ["begun", "stopped"])
    with open_workers(scheduler=scheduler.address, share=toy_share(tmp_path)) as workers:
        assert {workers.submit("pair", toy.pair, k).result() for k in range(4)} == {("shared", k) for k in range(4)}


def test_workers_that_cannot_be_used(scheduler, cases, tmp_path, monkeypatch):
    with cluster.connect(scheduler.address) as client:
        words = sentence(check_workers, client, "s", (str(tmp_path), str(tmp_path / "gone")))
        assert f"cannot see {tmp_path / 'gone'}: with --scheduler" in words
        with monkeypatch.context() as m:
            m.setattr(cluster, "__version__", "0.0.1")
            assert "has another mmccd than this process" in sentence(check_workers, client, "s", ())

    def answers(**found):
        return SimpleNamespace(run=lambda *_, **__: found)

    fine = {"mmccd": cluster.__version__, "threads": 1, "missing": None}
    check_workers(answers(a=fine), "s", ())
    assert "has no workers: start some" in sentence(check_workers, answers(), "s", ())
    assert "none that fits" in sentence(check_workers, answers(a=ModuleNotFoundError("mmccd")), "s", ())
    assert "--nthreads 1" in sentence(check_workers, answers(a=fine, b=fine | {"threads": 4}), "s", ())
    monkeypatch.setattr(cluster, "PATIENCE", "0.5s")
    for place in ("tcp://127.0.0.1:1", "no such file", "x://y"):
        words = sentence(detect_many, cases, ready(), tmp_path / "out", scheduler=place)
        assert f"The Dask scheduler {place} cannot be reached" in words
    assert not (tmp_path / "out").exists()


# ---- without Dask
def test_without_the_extra(cases, tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    install = "pip install 'mmccd[cluster]'"
    refused(run(*DETECT, cases, "--out", tmp_path / "out", "--jobs", 2), "--jobs", install)
    refused(run(*DETECT, cases, "--out", tmp_path / "out", "--scheduler", "tcp://x:1"), "--scheduler", install)
    assert install in sentence(prepare, cases, tmp_path / "s", jobs=2, **SMALL)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "s").exists()
    assert count_processes(0, 100, tmp_path) == 1
    assert prepare(cases, tmp_path / "s", jobs=0, **SMALL)["new"] == 3
