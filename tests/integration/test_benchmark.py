"The benchmark: one small run, checked from the weights and the stores; it goes on where it was stopped."

import json
import multiprocessing
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from small_benchmark import BOTH, FILES, SHORT, SOME, SmallPlan, entry, raw_arrays, spoil, without_times, written
from toy_cases import tree

from mmccd import runtime
from mmccd.benchmark import measure, networks, run, schedule
from mmccd.benchmark.dataset import load_evaluation_set, load_training_data, store_paths
from mmccd.benchmark.measure import anomaly_maps, count_evaluations, precision_at, score_entry
from mmccd.benchmark.plan import RECIPES, Plan, write_or_check_plan
from mmccd.benchmark.run import run_benchmark
from mmccd.benchmark.tables import all_tables
from mmccd.cases.store import SliceStore
from mmccd.cli.app import main
from mmccd.detection.maps import map_slices
from mmccd.detector import fingerprint, load_detector
from mmccd.files import round_floats
from mmccd.registry import new_detector
from mmccd.tables import latex_table
from mmccd.weights.hub import packaged_places

pytestmark = pytest.mark.usefixtures("quick_trainings")


@pytest.fixture(autouse=True)
def one_thread():
    with runtime.single_thread():
        yield


@pytest.fixture(autouse=True)
def nothing_cached():
    for f in (load_evaluation_set, load_training_data):
        f.cache_clear()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A benchmark that ran undisturbed: plan and result."
    plan = SmallPlan(tmp_path_factory.mktemp("made") / "out", "smoke", BOTH, SOME, seed=1)
    with runtime.single_thread():
        return plan, run_benchmark(plan, progress=False, command="first [a  b]")


def again(plan, folder, *what, **changes):
    "The same plan for another folder, which starts with copies of some of the first one's."
    other = replace(plan, out=str(folder), **changes)
    Path(folder).mkdir()
    write_or_check_plan(other, Path(folder))
    for name in what:
        shutil.copytree(Path(plan.out) / name, Path(folder) / name)
    return other


def refuse(*_, **__):
    raise AssertionError("this was done already")


# ------------------------------------------------------------------------------------------------- what a run leaves
def test_folder(made):
    plan, result = made
    out = Path(plan.out)
    assert {p.name for p in out.iterdir()} == FILES | {"stores", "runs", "scores"}
    assert not list(out.rglob("*.part"))
    assert written(plan) == result
    assert "NaN" not in (out / "benchmark.json").read_text()
    keys = [
        "everything",
        "threshold-flair",
        "threshold-t2",
        "dae-flair",
        "dae-t2",
        "cycle-flair-t2",
        "cycle-t2-flair",
        "mmccd-flair-t2",
        "mmccd-t2-flair",
    ]
    assert list(result["scores"]) == keys
    assert {p.stem for p in (out / "scores").iterdir()} == set(keys)
    assert (result["command"], result["preset"], result["seed"]) == ("first [a  b]", "smoke", 1)
    assert (result["device"], result["pairs"]) == ("cpu", ["flair-t2", "t2-flair"])
    assert [row[1] for row in result["subjects"]["rows"]] == ["glioma", "glioma", "ms"]
    assert result["subjects"]["healthy"] == ["phantom1-healthy-s502-000"]
    assert not result["subjects"]["left_out"]
    assert (out / "tables.md").read_text() == all_tables(result)
    assert (out / "tables.tex").read_text() == all_tables(result, latex_table)


def test_seed_reaches_everything(made):
    plan, result = made
    for m in SOME:
        about = json.loads((Path(plan.out) / "runs" / m / "train.json").read_text())["about"]
        assert about["training"]["seed"] == 1 == result["training"]["seed"]
    recipe = load_training_data(plan)[0].recipe
    first, other = (networks.untrained(p, "dae", recipe) for p in (plan, replace(plan, seed=0)))
    assert fingerprint(first) != fingerprint(other)


def test_evaluations(made):
    "Of one slice: autoencoders and denoiser one, the cycle two, MMCCD as `fast` needs, DDPM its steps."
    plan, result = made
    assert {k.rsplit("-")[0]: e["evaluations"] for k, e in result["scores"].items()} == {
        "everything": 0,
        "threshold": 0,
        "dae": 1,
        "cycle": 2,
        "mmccd": 36,
    }
    batch = load_evaluation_set(plan).subjects[0].batch
    x = torch.zeros(3, 1, 32, 32)
    for method in ("ae", "vae", "ddpm"):
        d = new_detector(method, 0, input="flair", unet="tiny", size=32).eval()
        n = d.config.n_steps if method == "ddpm" else 1
        with count_evaluations(d) as counts:
            anomaly_maps(d, batch, 0)
        assert sum(counts) == n, method
        with count_evaluations(d) as counts:
            d.anomaly_map(x, x == 0, torch.Generator().manual_seed(0))
        assert sum(counts) == 3 * n, method
    assert not any(m._forward_pre_hooks for m in d.modules())


def test_noise(made):
    "It follows the seed, and no slice depends on its neighbours."
    d = new_detector("ddpm", 0, input="flair", unet="tiny", size=32).eval()
    with torch.no_grad():
        for p in d.parameters():
            p.add_(0.1)  # untrained it gives 0 for any noise
    batch = {k: torch.cat([s.batch[k] for s in load_evaluation_set(made[0]).subjects[:2]]) for k in ("flair", "brain")}
    both, alone = anomaly_maps(d, batch, 1), anomaly_maps(d, {k: v[1:] for k, v in batch.items()}, 1)
    assert torch.equal(both[1:], alone)
    assert not torch.equal(both, anomaly_maps(d, batch, 2))


def test_networks(made):
    plan, result = made
    runs = Path(plan.out) / "runs"
    for m, n in result["networks"].items():
        losses = [row[3] for row in n["curve"]["rows"]]
        assert n["steps"] * SHORT.batch_size == n["samples"] == n["curve"]["rows"][-1][1]
        assert n["val_loss"] == losses[-1]
        assert n["curve"]["columns"] == ["step", "samples", "loss", "val_loss"]
        assert n["slices"] == 8
        assert n["converged"] == (len(losses) > 2 and min(losses[-2:]) >= 0.98 * min(losses[:-2]))
        assert n["fingerprint"] == fingerprint(load_detector(runs / m))
    assert result["networks"]["mmccd"]["trained"] < result["networks"]["mmccd"]["parameters"]
    assert result["networks"]["cycle"]["trained"] == result["networks"]["cycle"]["parameters"]
    decoder, cycle = load_detector(runs / "mmccd").g.state_dict(), load_detector(runs / "cycle").translator.state_dict()
    assert all(torch.equal(v, cycle[k]) for k, v in decoder.items())


def test_scores_by_hand(made):
    "One row again, from the weights and the stores alone."
    plan, result = made
    row, paths = result["scores"]["cycle-flair-t2"], store_paths(plan)
    channel = SliceStore(paths["test"]).recipe["modalities"].index("flair")
    d = load_detector(Path(plan.out) / "runs/cycle").for_pair("flair", "t2")

    def brain_scores(images, masks, k):
        x, brain = (torch.from_numpy(v[None, None]) for v in (images[k, channel], masks[k, 0]))
        return map_slices(d, x, brain, torch.Generator().manual_seed(1))[0, 0].numpy()[masks[k, 0]]

    values = []
    for id in SliceStore(paths["calibrate"]).ids:
        images, masks = raw_arrays(paths["calibrate"], id)
        values += [brain_scores(images, masks, k) for k in (0, 1, 2)]  # 3 of 4, evenly
    values = np.sort(np.concatenate(values))
    h = values[len(values) - 1 - int(0.01 * len(values))]
    assert row["threshold"] == pytest.approx(h, rel=1e-4)
    assert (values > h).mean() <= 0.01
    assert row["fpr_reached"] == pytest.approx((values > h).mean(), rel=1e-4)
    subjects = []
    for id, kind, place, _ in result["subjects"]["rows"]:
        images, masks = raw_arrays(paths["test"], id)
        k = int((masks[:, 0] & masks[:, 1]).sum((1, 2)).argmax())
        assert place == 74 + k
        subjects.append((kind, brain_scores(images, masks, k), masks[k, 1][masks[k, 0]]))
    full = json.loads((Path(plan.out) / "scores/cycle-flair-t2.json").read_text())["kinds"]  # all its digits
    for kind in ("glioma", "ms"):
        ours = [(a, t) for k, a, t in subjects if k == kind]
        check_kind(row["kinds"][kind], ours, h, full[kind]["oracle_threshold"])


def overlap(p, t):
    return 2 * (p & t).sum() / (p.sum() + t.sum())


def check_kind(found, ours, h, oracle):
    "Scores of one kind of subject, from scores and truth of the brain's pixels."
    steps = np.concatenate([[-1.0], *(a for a, _ in ours)])
    means = {
        "ap": np.mean([average_precision_score(t, a) for a, t in ours]),
        "auroc": np.mean([roc_auc_score(t, a) for a, t in ours]),
        "dice": np.mean([overlap(a > h, t) for a, t in ours]),
        "dice_oracle": max(np.mean([overlap(a > v, t) for a, t in ours]) for v in steps),
        "fpr": np.mean([(a > h)[~t].mean() for a, t in ours]),
    }
    assert {k: found["summary"][k]["mean"] for k in means} == pytest.approx(means, rel=1e-4, abs=1e-6)
    assert found["summary"]["ap"]["n"] == len(ours)
    marked = [(a > oracle, t) for a, t in ours]
    tp, fp, fn = np.array([[(p & t).sum(), (p & ~t).sum(), (~p & t).sum()] for p, t in marked], float).T
    shares = {
        "jaccard_oracle": tp / (tp + fp + fn),
        "precision_oracle": tp / (tp + fp),
        "recall_oracle": tp / (tp + fn),
    }
    assert {k: found["summary"][k]["mean"] for k in shares} == pytest.approx(
        {k: v.mean() for k, v in shares.items()}, rel=1e-4
    )
    assert found["curve"] == pytest.approx(np.mean([precision_at(a, t) for a, t in ours], 0).tolist(), rel=1e-4)


def test_everything_positive(made):
    "The floor, and no other row has it."
    scores = made[1]["scores"]
    assert scores["everything"]["healthy"] == [1.0]
    assert all(0 <= e["healthy"][0] < 1 for k, e in scores.items() if k != "everything")
    for kind in scores["everything"]["kinds"].values():
        for r in (dict(zip(kind["columns"], row)) for row in kind["rows"]):
            assert (r["fpr"], r["auroc"], r["recall"]) == (1, 0.5, 1)
            assert r["precision"] == r["ap"]
            assert r["dice"] == r["dice_oracle"]


def test_same_pixels_for_all(made):
    scores = made[1]["scores"].values()
    assert {e["check"] for e in scores} == {made[1]["data"]["check"]}
    assert all(len(e["kinds"][k]["rows"]) == n for e in scores for k, n in (("glioma", 2), ("ms", 1)))


def test_thresholds_know_nothing_of_the_test(made, tmp_path):
    "Other labels, and other test images, leave every threshold where it was; other calibration slices do not."
    plan, result = made
    other = again(plan, tmp_path / "out", "stores", "runs")
    paths = store_paths(other)

    def measured():
        load_evaluation_set.cache_clear()
        return {k: measure.measure(other, entry(other, k)) for k in ("threshold-flair", "dae-t2")}

    def ap(e):
        return e["kinds"]["glioma"]["summary"]["ap"]["mean"]

    spoil(paths["test"], 1, lambda v: v[:, ::-1])
    first = measured()
    assert all(v["threshold"] == pytest.approx(result["scores"][k]["threshold"], rel=1e-4) for k, v in first.items())
    assert any(ap(v) != pytest.approx(ap(result["scores"][k]), rel=1e-3) for k, v in first.items())
    for m in ("flair", "t2"):
        spoil(paths["test"], m, lambda v: -v)
    assert {k: v["threshold"] for k, v in measured().items()} == {k: v["threshold"] for k, v in first.items()}
    for m in ("flair", "t2"):
        spoil(paths["calibrate"], m, lambda v: -v)
    assert all(v["threshold"] != first[k]["threshold"] for k, v in measured().items())


# ------------------------------------------------------------------------------------------------- again, and on
def parts(plan):
    return [tree(Path(plan.out) / name) for name in ("runs", "scores", "stores")]


def test_same_command_does_nothing_anew(made, monkeypatch):
    plan, result = made
    before = parts(plan)
    monkeypatch.setattr(measure, "measure", refuse)
    monkeypatch.setattr("mmccd.training.run.run_fit", refuse)
    monkeypatch.setattr("mmccd.cases.prepare.prepare_one", refuse)
    assert run_benchmark(plan, progress=False, command=result["command"]) | {"date": result["date"]} == result
    assert parts(plan) == before


def test_killed_and_gone_on_with(made, tmp_path, monkeypatch):
    "Killed in a training before its weights are written, in a measurement, and before the end: the same numbers."
    plan, result = made
    other = again(plan, tmp_path / "out", "stores")

    def killed(*_, **__):
        raise RuntimeError("killed")

    real_train, real_measure = networks.train, measure.measure

    def train_until_mmccd(detector, data, val, out, *a, **k):
        if Path(out).name == "mmccd":
            monkeypatch.setattr("mmccd.training.run.finish", killed)
        return real_train(detector, data, val, out, *a, **k)

    def measure_until_cycle(plan, e):
        return killed() if e.method == "cycle" else real_measure(plan, e)

    for module, name, change in (
        (networks, "train", train_until_mmccd),
        (measure, "measure", measure_until_cycle),
        (run, "collect_result", killed),
    ):
        with monkeypatch.context() as m:
            m.setattr(module, name, change)
            with pytest.raises(RuntimeError, match="killed"):
                run_benchmark(other, progress=False)
        monkeypatch.undo()
        assert not (tmp_path / "out/benchmark.json").exists()
    assert without_times(run_benchmark(other, progress=False)) == without_times(result)
    first, second = (Path(p.out) / "runs/mmccd/model.safetensors" for p in (plan, other))
    assert first.read_bytes() == second.read_bytes()


STALE = (
    *("half", "list", "older weights", "no maps", "damaged maps", "another digit", "older mmccd", "other slices"),
    "other weights",
)


@pytest.mark.parametrize("what", STALE)
def test_what_is_stale_is_measured_again(made, tmp_path, monkeypatch, what):
    plan, _ = made
    needed = ["stores"] * (what == "other slices")
    other, seen = again(plan, tmp_path / "out", *needed, "scores", "runs"), []
    if not needed:
        (tmp_path / "out/stores").symlink_to(Path(plan.out) / "stores")
    file = tmp_path / "out/scores/dae-flair.json"
    old = json.loads(file.read_text())
    if what == "half":
        file.write_text(file.read_text()[:99])
    if what == "list":
        file.write_text("[]")
    if what == "older weights":
        file.write_text(json.dumps(old | {"fingerprint": "0" * 16}))
    if what == "no maps":
        file.with_suffix(".npz").unlink()
    if what == "damaged maps":
        content = bytearray(file.with_suffix(".npz").read_bytes())
        content[len(content) // 3] ^= 1
        file.with_suffix(".npz").write_bytes(content)
    if what == "another digit":
        file.write_text(json.dumps(old | {"threshold": old["threshold"] * 1.5}))
    if what == "older mmccd":
        monkeypatch.setattr(measure, "__version__", "99")
    if what == "other slices":
        spoil(store_paths(other)["test"], "t2", lambda v: v + np.float16(0.5))
    if what == "other weights":
        d = load_detector(tmp_path / "out/runs/dae")
        with torch.no_grad():
            next(d.parameters()).mul_(1.5)
        d.save_pretrained(tmp_path / "out/runs/dae")
    monkeypatch.setattr(measure, "measure", lambda p, e: seen.append(e.key) or old | {"maps": {"x": torch.zeros(1)}})
    score_entry(other, entry(other, "dae-flair"))
    assert seen == ["dae-flair"]
    assert file.with_suffix(".npz").exists()
    assert json.loads(file.read_text())


def test_a_score_that_fits_is_taken(made, monkeypatch):
    monkeypatch.setattr(measure, "measure", refuse)
    kept = score_entry(made[0], entry(made[0], "cycle-t2-flair"))
    assert round_floats(kept) == made[1]["scores"]["cycle-t2-flair"]


def test_two_in_one_process(made, tmp_path):
    "What one benchmark has read is not taken for another's, even in the same folder."
    plan, result = made
    other = again(plan, tmp_path / "out", "stores")
    first = load_evaluation_set(other).check
    spoil(store_paths(other)["test"], "flair", lambda v: v + np.float16(0.25))
    run.check_data(other)
    assert first == result["data"]["check"] != load_evaluation_set(other).check
    assert load_evaluation_set(plan).check == first


def test_shipped_only(made, tmp_path, monkeypatch):
    "Nothing is trained; the weights in the package are meant, whatever is in the working directory."
    plan, result = made
    monkeypatch.setattr(networks, "train", refuse)
    other = again(plan, tmp_path / "out", "stores", shipped="only", methods=("dae", "cycle"), pairs=BOTH[:1])
    (tmp_path / "cycle-flair-t2").mkdir()
    (tmp_path / "cycle-flair-t2/config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    found = run_benchmark(other, progress=False)
    assert list(found["scores"]) == ["everything", "threshold-flair", "dae-flair shipped", "cycle-flair-t2 shipped"]
    assert found["networks"] == {}
    assert not (tmp_path / "out/runs").exists()
    assert found["scores"]["threshold-flair"]["kinds"] == result["scores"]["threshold-flair"]["kinds"]
    packaged = fingerprint(load_detector(packaged_places()["cycle-flair-t2"]))
    assert found["scores"]["cycle-flair-t2 shipped"]["fingerprint"] == packaged
    assert {p.name for p in (tmp_path / "out").iterdir()} >= FILES
    assert "DAE, shipped weights" in (tmp_path / "out/tables.md").read_text()


@pytest.mark.slow
def test_two_processes_and_ctrl_c(made, tmp_path, monkeypatch):
    "Stopped after the first of the trainings, which all end at a checkpoint; then on, with the numbers of one process."
    plan, result = made
    other = again(plan, tmp_path / "out", "stores")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(schedule.ProgressDisplay, "end", stop)
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(other, jobs=2, progress=False)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "out/benchmark.json").exists()
    assert not list((tmp_path / "out").rglob("*.part"))
    assert without_times(run_benchmark(other, jobs=2, progress=False)) == without_times(result)
    assert not multiprocessing.active_children()


# ------------------------------------------------------------------------------------------------- the command
def test_from_the_command_line(tmp_path, capsys, monkeypatch):
    "What another run with the same seed has in common with it agrees, whatever else is trained."
    monkeypatch.setitem(RECIPES, "smoke", SmallPlan(tmp_path).recipe)  # tests/golden runs the real one
    out = tmp_path / "a folder"
    options = ["--pairs", "flair-t2", "--device", "cpu", "--seed", "3"]
    assert main(["benchmark", "--preset", "smoke", *options, "--methods", "dae", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    first = json.loads((out / "benchmark.json").read_text())
    second = run_benchmark(Plan(tmp_path / "b", "smoke", pairs=BOTH[:1], methods=("ae", "dae"), seed=3), progress=False)
    assert set(first["networks"]) == {"dae"}
    assert list(first["scores"]) == ["everything", "threshold-flair", "dae-flair"]
    assert set(first["scores"]) < set(second["scores"])
    assert without_times(first["scores"]) == without_times({k: second["scores"][k] for k in first["scores"]})
    assert without_times(first["networks"]["dae"]) == without_times(second["networks"]["dae"])
    assert first["data"] == second["data"]
    assert {p.name for p in out.iterdir() if p.is_file()} == FILES
    assert all(f"\n{name}" in printed for name in ("everything positive", "threshold", "DAE"))
    assert f"all tables in {out}/tables.md" in printed
