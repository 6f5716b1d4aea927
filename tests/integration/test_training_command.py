"""`mmccd train`: on a store, in real processes that are stopped and killed, and what it says about wrong options."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from toy_training import everything, log

from mmccd.cases.phantoms import Phantoms, write_phantom
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.cli import main
from mmccd.detector import Detector
from mmccd.phantom import make_phantom
from mmccd.registry import new_detector
from mmccd.runtime import single_thread
from mmccd.training import make_config, store_data, train
from mmccd.training.checkpoint import checkpoints

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
STEPS = 120
pytestmark = pytest.mark.usefixtures("quick_trainings")


@pytest.fixture(autouse=True)
def _one_thread():
    with single_thread():
        yield


def small_store(place, **counts):
    "Slices of 32×32 pixels of some phantoms."
    names = ["flair", "t2"]
    prepare(Phantoms(**counts), place, size=32, slices=range(78, 82), modalities=names, progress=False)
    return place


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("store") / "slices.zarr", healthy=4, glioma=1, seed=7)


# ------------------------------------------------------------------------------------------------- real processes
def words(store, out, *more):
    line = f"train toy {store} --input flair --target t2 --out {out} --steps {STEPS} --batch-size 8 --val 0.25"
    return [*f"{line} --checkpoint-every 20 --device cpu".split(), *more]


def start(store, out, *more, before="", threads=1):
    "A process that runs `mmccd train`; `before` is Python that runs first."
    script = f"import sys\n{before}\nfrom mmccd.cli import main\nsys.exit(main({words(store, out, *more)}))"
    env = os.environ | dict.fromkeys(THREADS, str(threads)) | {"CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", script], stdout=pipe, stderr=pipe, text=True, env=env)


def wait_for(condition, process, seconds=400):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.fixture(scope="module")
def undisturbed(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    with single_thread():
        assert main(words(store, out)) == 0
    return out


def check_resumed(store, out, undisturbed):
    "This process goes on with what another one left, and nobody can tell."
    assert main(words(store, out, "--resume")) == 0
    assert everything(out) == everything(undisturbed)
    assert not list(out.rglob("*.part"))


# else a fast machine is done before it is stopped
SLOW_STEPS = """
import time
from mmccd.training.progress import Progress
real_step = Progress.step
Progress.step = lambda *args: (time.sleep(0.06), real_step(*args))
"""
SLOW_DISK = """
import os
real_sync = os.fsync
os.fsync = lambda fd: (time.sleep(0.4), real_sync(fd))
"""


def test_killed(store, undisturbed, tmp_path):
    "SIGKILL twice: before the first checkpoint, with two threads, and while a checkpoint is being written."
    out = tmp_path / "run"

    def unfinished():
        return list(out.glob("checkpoints/.mmccd-*.part"))

    for before, sign_of_life, threads in (
        (SLOW_STEPS, (out / "log.csv").exists, 2),
        (SLOW_STEPS + SLOW_DISK, lambda: checkpoints(out) and unfinished(), 1),
    ):
        process = start(store, out, "--resume", before=before, threads=threads)
        wait_for(sign_of_life, process)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert unfinished()
    check_resumed(store, out, undisturbed)


@pytest.mark.slow
def test_disk_full(store, undisturbed, tmp_path):
    pytest.importorskip("resource")
    out = tmp_path / "run"
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (70_000, 70_000))"
    process = start(store, out, before=limit)
    _text, err = process.communicate()
    assert process.returncode == 2, err
    sentence = f"mmccd: Cannot write into {out}: File too large; put that right and go on with --resume"
    assert err.splitlines()[-1].startswith(sentence)
    assert "Traceback" not in err
    assert not checkpoints(out)
    check_resumed(store, out, undisturbed)


@pytest.mark.slow
def test_ctrl_c(store, undisturbed, tmp_path):
    out = tmp_path / "run"
    process = start(store, out, before=SLOW_STEPS)
    wait_for(lambda: checkpoints(out), process)
    process.send_signal(signal.SIGINT)
    text, err = process.communicate()
    assert process.returncode == 130, err
    assert not text
    assert err.splitlines()[0].startswith("learning from 12 healthy slices of 3 subjects")
    assert "the threshold rests on 1 validation subject only" in err
    assert err.splitlines()[-1].startswith("mmccd: stopped at step ")
    assert err.endswith(f"of {STEPS}; go on with --resume\n")
    check_resumed(store, out, undisturbed)


def test_what_was_trained_can_be_used(undisturbed, tmp_path, capsys):
    "The run folder of a command is what the next command loads."
    case = write_phantom(make_phantom("glioma", seed=3, index=0, slices=range(76, 80), twin=False), tmp_path / "cases")
    line = ["detect", str(case), "--weights", str(undisturbed), "--out", str(tmp_path / "out"), "--device", "cpu"]
    assert main(line) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "detect.json").read_text())["detector"] == "ToyCycle"
    assert len(list((tmp_path / "out").rglob("*_anomaly.nii.gz"))) == 1
    d = Detector.from_pretrained(undisturbed)
    assert (d.config.input, d.config.target, d.config.size) == ("flair", "t2", 32)
    assert "phantom" in d.calibration["data"]
    losses = [float(r["val_loss"]) for r in log(undisturbed) if r["val_loss"]]
    assert losses[-1] < 0.8 * losses[0]  # it has learned something
    whole = json.loads((undisturbed / "train.json").read_text())
    assert "the threshold rests on 1 validation subject only" in whole["notes"][0]
    record = whole["about"]
    assert not set(record["data"]["ids"]) & set(record["validation"]["ids"])


# ------------------------------------------------------------------------------------------------- options
def smoke(store, *more):
    line = f"train toy {store} --input flair --target t2 --device cpu --preset smoke"
    return [*line.split(), *map(str, more)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({1: "cicle"}, "unknown method 'cicle': choose "),
        ({2: "/no/such"}, "/no/such"),
        ({6: "flair"}, "input and target are both flair"),
        ({6: "t1"}, "no modality t1"),
        ({8: "gpu"}, "'gpu'"),
        ({10: "huge"}, "unknown preset"),
        (["--batch-size", "6", "--accumulate", "4"], "4 equal pieces"),
        (["--precision", "fp16"], "fp16 needs"),
        (["--train-list", "x"], "--val-list"),
        (["--train-list", "nofile", "--val-list", "nofile"], "nofile"),
        (["--lr", "0"], "lr"),
        (["--val", "2.5"], "2.5"),
        (["--val", "0"], "--val must leave at least one subject to validate on"),
        (["--steps", "0"], "steps"),
    ],
)
def test_wrong_options(store, tmp_path, capsys, change, sentence):
    line = smoke(store, *(change if isinstance(change, list) else []))
    for i, word in change.items() if isinstance(change, dict) else ():
        line[i] = word
    code = main([*line, "--out", str(tmp_path / "run")])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("mmccd: ")
    assert sentence in err
    assert not (tmp_path / "run").exists()


def test_one_subject_and_no_healthy_slice(tmp_path, capsys):
    one = small_store(tmp_path / "one.zarr", healthy=1, seed=7)
    ill = small_store(tmp_path / "ill.zarr", glioma=2, seed=3)
    for place, sentence in ((one, "1 subject"), (ill, "show lesion")):
        assert main(smoke(place, "--out", tmp_path / "run")) == 2
        err = capsys.readouterr().err
        assert sentence in err
        assert err.count("\n") == 1


def test_lists_and_json(store, tmp_path, capsys):
    ids = [i for i in SliceStore(store).ids if "healthy" in i]
    (tmp_path / "train.txt").write_bytes("\r\n".join(ids[:2]).encode())
    (tmp_path / "val.txt").write_text(ids[2])
    lists = ["--train-list", tmp_path / "train.txt", "--val-list", tmp_path / "val.txt"]
    assert main(smoke(store, "--steps", 4, *lists, "--out", tmp_path / "run", "--json")) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["about"]["data"]["ids"] == ids[:2]
    assert record["about"]["validation"]["ids"] == [ids[2]]
    assert record["result"]["step"] == 4


# ------------------------------------------------------------------------------------------------- data of a store
def test_the_ill_are_not_drawn_for_validation(tmp_path):
    "Only subjects with a healthy slice are split, so that every seed gives something to validate on; lists may differ."
    place = small_store(tmp_path / "slices.zarr", healthy=2, glioma=3, seed=3)
    table = SliceStore(place).table
    ill = {r.id for r in table} - {r.id for r in table if not r.lesion_cm2}
    assert ill
    for seed in range(8):
        data, val = store_data(place, "flair", "t2", 1, seed=seed)
        assert len(val.ids) == 1
        assert not ill & {*data.ids, *val.ids}
    (tmp_path / "ill.txt").write_text(min(ill))
    (tmp_path / "well.txt").write_text(data.ids[0])
    for lists, purpose in ((("ill", "well"), "training"), (("well", "ill"), "validation")):
        train_list, val_list = (tmp_path / f"{name}.txt" for name in lists)
        sentence = (
            f"^no subject for {purpose} has a healthy slice: choose a larger --val, another --seed, or other lists$"
        )
        with pytest.raises(ValueError, match=sentence):
            store_data(place, "flair", "t2", train_list=train_list, val_list=val_list)


def test_only_healthy_slices_of_the_modalities(store):
    for data in store_data(store, "flair", "t2", 0.25):
        assert not data.batch(range(len(data)))["lesion"].any()
    for modalities, expected in (((), {"flair"}), (("flair", "t2"), {"flair", "t2"})):
        data, _ = store_data(store, "flair", "", 0.25, modalities=modalities)
        assert set(data.batch([0])) - {"brain", "lesion"} == expected


@pytest.mark.parametrize(
    ("method", "name"), [("vae", "AE"), ("dae", "DAE"), pytest.param("ddpm-simplex", "DDPM", marks=pytest.mark.slow)]
)
def test_without_a_target(store, tmp_path, method, name):
    "Two steps on a store, of which only the input is loaded."
    data, val = store_data(store, "flair", "", 0.25)
    assert not set(data.ids) & set(val.ids)
    d = new_detector(method, 0, input="flair", target="t2", **{k: data.recipe[k] for k in ("size", "normalisation")})
    assert not hasattr(d.config, "target")
    assert (d.config.size, type(d).__name__) == (32, name)
    config = make_config("smoke", steps=2, val_slices=2)
    record = train(d, data, val, tmp_path / "run", config, progress=False, device="cpu")
    again = Detector.from_pretrained(tmp_path / "run")
    assert record["about"]["detector"] == name
    assert again.config == d.config
    assert again.threshold == record["result"]["threshold"]
    text = (tmp_path / "run/README.md").read_text()
    assert "not a medical device" in text
    assert "t2" not in text
    assert "None" not in text
    assert any(not torch.equal(v, d.state_dict()[k]) for k, v in again.state_dict().items())
