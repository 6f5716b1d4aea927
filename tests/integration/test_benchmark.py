"The benchmark: one small run, looked at from all sides; goes on where it was stopped, and says in one sentence what it cannot do."

import json
import multiprocessing
import re
import shutil
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from sklearn.metrics import average_precision_score, roc_auc_score
from toy_cases import tree, write_case

import mmccd.benchmark as bm
from mmccd import pools
from mmccd.benchmark import dataset, figures, measure, plan, run, schedule, tables
from mmccd.benchmark.dataset import Subject, load_evaluation_set, load_training_data, places
from mmccd.benchmark.measure import RECALLS, entries, measure, pictured, precision_at, score_entry
from mmccd.benchmark.plan import RECIPES, ROWS, Plan, Recipe, ScanSource, evidence
from mmccd.benchmark.result import paired
from mmccd.benchmark.run import check_scans, run_benchmark
from mmccd.benchmark.schedule import Task, in_pool, in_turn, tasks_of
from mmccd.benchmark.tables import PUBLISHED, PUBLISHED_PAIRS, all_tables, cell, of_pair, table_one, table_two
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.cases.subjects import split_from_lists
from mmccd.cli.app import main
from mmccd.detection.maps import map_slices
from mmccd.detector import fingerprint, load_detector
from mmccd.files import round_floats, to_json
from mmccd.phantom import KINDS
from mmccd.registry import METHODS
from mmccd.runtime import single_thread
from mmccd.tables import latex, markdown
from mmccd.training import run
from mmccd.training_loop import TrainConfig
from mmccd.weights import hub

SHORT = TrainConfig(
    steps=4,
    batch_size=4,
    warmup=1,
    log_every=2,
    checkpoint_every=2,
    validate_every=2,
    val_slices=2,
    patience=2,
    progress=0.02,
)
SOME, BOTH = ("dae", "cycle", "mmccd"), (("flair", "t2"), ("t2", "flair"))
FILES = {
    "benchmark.json",
    "tables.md",
    "tables.tex",
    "maps.png",
    "precision_recall.png",
    "dice_by_size.png",
    "ap_evaluations.png",
    "plan.json",
}


class Small(Plan):
    "A plan for seconds; importable, so that other processes know it."

    @property
    def recipe(self):
        return Recipe(
            32,
            48,
            SHORT,
            plan.FOLDED,
            evidence(501, False, healthy=3),
            1,
            evidence(503, False, healthy=1),
            evidence(502, False, healthy=1, glioma=2, ms=1),
            range(74, 78),
            range(74, 78),
            3,
            1,
        )


class Toy(Plan):
    "The same for scans of ten slices."

    @property
    def recipe(self):
        return replace(RECIPES["smoke"], training=SHORT, places=range(2, 8), height=range(10), judged=4)


@pytest.fixture(autouse=True)
def single_thread():
    with single_thread():
        yield


@pytest.fixture(autouse=True)
def nothing_cached():
    for f in (load_evaluation_set, load_training_data):
        f.cache_clear()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A benchmark that ran undisturbed: plan and result."
    plan = Small(tmp_path_factory.mktemp("made") / "out", "smoke", BOTH, SOME, seed=1)
    with single_thread():
        return plan, run_benchmark(plan, progress=False, command="first [a  b]")


def again(plan, folder, *what, **changes):
    "The same plan for another folder, which starts with copies of some of the first one's."
    other = replace(plan, out=str(folder), **changes)
    Path(folder).mkdir()
    plan.write_or_check_plan(other, Path(folder))
    for name in what:
        shutil.copytree(Path(plan.out) / name, Path(folder) / name)
    return other


def bare(x):
    "Without what says when, and how long it took."
    if isinstance(x, dict):
        return {k: bare(v) for k, v in x.items() if k not in ("date", "seconds", "command")}
    return [bare(v) for v in x] if isinstance(x, list) else x


def kept(plan):
    return json.loads((Path(plan.out) / "benchmark.json").read_text())


def entry(plan, key):
    return next(e for e in entries(plan) if e.key == key)


def sentence(f, *args, **kw):
    with pytest.raises(ValueError) as error:
        f(*args, **kw)
    text = str(error.value)
    assert text
    assert "\n" not in text
    assert "Traceback" not in text
    return text


# ------------------------------------------------------------------------------------------------- what is asked for
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(preset="tpu"), "unknown preset 'tpu': choose smoke, cpu, gpu"),
        (dict(methods=("dae", "unet")), "unknown method 'unet': choose "),
        (dict(shipped="yes"), "choose no, also, only"),
        (dict(pairs=(("flair", "flair"),)), "got flair-flair"),
        (dict(pairs=(("flair", "pd"),)), "got flair-pd"),
        (dict(pairs=()), "got none"),
        (dict(pairs=(("flair",),)), "got flair"),
        (dict(pairs=(("t1", "t2"), ("t1", "t2"))), "each pair counts once, got t1-t2, t1-t2"),
    ],
)
def test_bad_plans(tmp_path, changes, words):
    assert words in sentence(Plan, tmp_path / "out", **changes)


def test_plan():
    p = Plan("x", methods=["mmccd", "dae"], pairs=[["t1", "t2"], ["t1", "flair"]], seed=5)
    assert p.methods == ("everything", "threshold", "dae", "mmccd")
    assert p.trained == ("dae", "cycle", "mmccd")
    assert p.modalities == ("flair", "t1", "t2")
    assert p.inputs == ("t1",)
    assert [e.key for e in entries(p)] == ["everything", "threshold-t1", "dae-t1", "mmccd-t1-t2", "mmccd-t1-flair"]
    assert hash(p) == hash(replace(p))
    assert p.training == replace(p.recipe.training, seed=5)
    assert [t.name for t in tasks_of(p)][:3] == ["train cycle", "train dae", "train mmccd"]
    assert [t.after for t in tasks_of(p)][:3] == [None, None, "train cycle"]
    waits = {t.name: t.after for t in tasks_of(p)}
    assert waits["score dae-t1"] == "train dae"
    assert waits["score threshold-t1"] is None
    assert waits["score mmccd-t1-t2"] == "train mmccd"
    only = replace(p, shipped="only")
    assert only.trained == ()
    assert [e.key for e in entries(only)] == [
        "everything",
        "threshold-t1",
        "dae-t1 shipped",
        "mmccd-t1-t2 shipped",
        "mmccd-t1-flair shipped",
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_nobody_is_for_two_things(name):
    "Phantoms that learn, calibrate and are tested come from other seeds, in every preset and between them."
    seeds = [
        p.seed
        for r in {id(r): r for r in (RECIPES[name], RECIPES["smoke" if name != "smoke" else "cpu"])}.values()
        for p in (r.learn, r.calibrate, r.test)
    ]
    assert len(set(seeds)) == 6
    assert not any(getattr(p, k) for p in (RECIPES[name].learn, RECIPES[name].calibrate) for k in KINDS[1:])


def test_published_numbers():
    "As on the poster."
    one = """AE 0.2249 0.4621 0.1513 0.2190 0.2636 3.5936
        VAE 0.2640 0.4739 0.1910 0.2717 0.2837 3.513
        DAE 0.4619 0.9298 0.3291 0.4346 0.5477 7.5508
        DDPM 0.5662 0.9267 0.4172 0.5958 0.5949 6.5021
        CYCLE 0.5810 0.9409 0.4470 0.6545 0.5823 6.3487
        MMCCD 0.6092 0.9409 0.4682 0.6505 0.6336 6.1171"""
    assert {n.lower(): tuple(map(float, v)) for n, *v in map(str.split, one.splitlines())} == PUBLISHED
    assert tables.HEADINGS == (
        "dice_oracle",
        "auroc",
        "jaccard_oracle",
        "precision_oracle",
        "recall_oracle",
        "assd_oracle",
    )
    two = """dae 0.4619 0.4619 0.2803 0.2803 0.2325 0.2325
        ddpm 0.5662 0.5662 0.4633 0.4633 0.2865 0.2865
        cycle 0.5810 0.5732 0.4819 0.4036 0.3262 0.3906
        mmccd 0.6092 0.6090 0.4873 0.4993 0.3337 0.4239"""
    ways = ("flair-t2", "flair-t1", "t2-flair", "t2-t1", "t1-t2", "t1-flair")
    assert {
        n: dict(zip(ways, map(float, v), strict=True)) for n, *v in map(str.split, two.splitlines())
    } == PUBLISHED_PAIRS


# ------------------------------------------------------------------------------------------------- pieces
@pytest.mark.parametrize("seed", range(6))
def test_precision_at(seed):
    "The best precision of all thresholds that give this recall or more, ties and all."
    rng = np.random.default_rng(seed)
    truth = rng.random(80) < 0.3
    truth[0] = True
    score = np.round(rng.random(80) + truth * rng.random(), 2 - seed % 3)
    found = [(truth[score >= h].sum() / truth.sum(), truth[score >= h].mean()) for h in set(score)]
    assert np.allclose(precision_at(score, truth), [max(p for r, p in found if r >= want - 1e-12) for want in RECALLS])
    assert np.all(precision_at(np.ones(80), truth) == truth.mean())
    assert np.all(precision_at(truth * 1.0, truth) == 1)


def test_pictured():
    some = [Subject(str(n), "glioma", 0, float(n), 1.0, {}) for n in (3, 0, 4, 1, 2)]
    assert pictured(some[:1]) == ["3"]
    assert pictured(some[:3]) == ["0", "3", "4"]
    assert pictured(some) == list("01234")
    many = [Subject(f"{n:02}", "glioma", 0, float(n), 1.0, {}) for n in range(20)] + [
        Subject("ms", "ms", 0, 99.0, 1.0, {})
    ]
    assert pictured(many) == ["02", "06", "10", "14", "18"]
    assert pictured(many, 1) == ["10"]


@pytest.mark.parametrize(
    "x",
    [
        {},
        {"a": [], "b": {"c": [1, 2.5, None], "d": {}}},
        {"command": "out [a  b] { c }", "t": ["[ x", "y  ]"]},
        [[{"a": 1}], [1, [2]], "é"],
    ],
)
def test_dump(x):
    assert json.loads(to_json(x)) == x
    assert to_json(x).endswith("\n")
    with pytest.raises(ValueError):
        to_json({"x": float("nan")})


def test_tidy():
    assert round_floats({"a": (1, 1 / 3, None, True), "b": [1e-9 / 3, "x"]}) == {
        "a": [1, 0.33333, None, True],
        "b": [3.3333e-10, "x"],
    }


def test_cell():
    s = dict(n=3, mean=0.126, low=0.1, high=0.2)
    assert [
        cell(s),
        cell(s, 1),
        cell(s, 2, True),
        cell(s | dict(low=None, high=None), 2, True),
        cell(s | dict(mean=None)),
        cell(None),
    ] == ["0.13", "0.1", "0.13 [0.10, 0.20]", "0.13", "-", "-"]


def test_paired():
    "Like with like: each trained line less the threshold on its input, and MMCCD less the others, shipped less shipped."

    def line(method, x, y, shipped, v):
        return {
            "method": method,
            "input": x,
            "target": y,
            "shipped": shipped,
            "kinds": {"ms": {"columns": ["dice", "ap", "dice_oracle"], "rows": [[0, a, 0] for a in v]}},
        }

    scores = {
        "everything": line("everything", None, None, False, (9, 9)),
        "threshold-t1": line("threshold", "t1", None, False, (8, 8)),
        "threshold-t2": line("threshold", "t2", None, False, (0.1, 0.2)),
        "dae-t2": line("dae", "t2", None, False, (0.5, None)),
        "dae-t2 shipped": line("dae", "t2", None, True, (0, 0)),
        "cycle-t2-t1": line("cycle", "t2", "t1", False, (0.3, 0.3)),
        "cycle-t2-flair": line("cycle", "t2", "flair", False, (7, 7)),
        "mmccd-t2-t1": line("mmccd", "t2", "t1", False, (0.6, 0.9)),
        "mmccd-t2-t1 shipped": line("mmccd", "t2", "t1", True, (0.6, 0.9)),
    }
    found = paired(scores, "ms")
    assert list(found) == [
        "dae-t2 - threshold-t2",
        "dae-t2 shipped - threshold-t2",
        "cycle-t2-t1 - threshold-t2",
        "cycle-t2-flair - threshold-t2",
        "mmccd-t2-t1 - threshold-t2",
        "mmccd-t2-t1 - dae-t2",
        "mmccd-t2-t1 - cycle-t2-t1",
        "mmccd-t2-t1 shipped - threshold-t2",
        "mmccd-t2-t1 shipped - dae-t2 shipped",
    ]
    assert found["mmccd-t2-t1 - cycle-t2-t1"]["ap"]["mean"] == pytest.approx(0.45)
    assert found["mmccd-t2-t1 - dae-t2"]["ap"]["n"] == 1


# ------------------------------------------------------------------------------------------------- what a run leaves
def test_folder(made):
    plan, result = made
    assert {p.name for p in Path(plan.out).iterdir()} == FILES | {"stores", "runs", "scores"}
    assert not list(Path(plan.out).rglob("*.part"))
    assert kept(plan) == result
    assert "NaN" not in (Path(plan.out) / "benchmark.json").read_text()
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
    assert {p.stem for p in (Path(plan.out) / "scores").iterdir()} == set(keys)
    assert (result["command"], result["preset"], result["seed"], result["device"], result["pairs"]) == (
        "first [a  b]",
        "smoke",
        1,
        "cpu",
        ["flair-t2", "t2-flair"],
    )
    assert [r[1] for r in result["subjects"]["rows"]] == ["glioma", "glioma", "ms"]
    assert result["subjects"]["healthy"] == ["phantom1-healthy-s502-000"]
    assert not result["subjects"]["left_out"]


def test_seed_reaches_everything(made):
    plan, result = made
    for m in SOME:
        assert (
            json.loads((Path(plan.out) / "runs" / m / "train.json").read_text())["about"]["training"]["seed"]
            == 1
            == result["training"]["seed"]
        )
    zero = measure.untrained(replace(plan, seed=0), "dae", load_training_data(plan)[0].recipe)
    assert fingerprint(zero) != fingerprint(measure.untrained(plan, "dae", load_training_data(plan)[0].recipe))


def test_evaluations(made):
    "Of one slice: autoencoders and denoiser one, the cycle two, MMCCD as `fast` needs."
    plan, result = made
    assert {k.rsplit("-")[0]: e["evaluations"] for k, e in result["scores"].items()} == {
        "everything": 0,
        "threshold": 0,
        "dae": 1,
        "cycle": 2,
        "mmccd": 36,
    }
    from mmccd.registry import new_detector

    batch = load_evaluation_set(plan).subjects[0].batch
    for m, n in (("ae", 1), ("vae", 1), ("ddpm", None)):
        d = new_detector(m, 0, input="flair", unet="tiny", size=32).eval()
        with measure.count_evaluations(d) as asked:
            measure.maps(d, batch, 0)
        assert sum(asked) == (n or d.config.n_steps), m
        with measure.count_evaluations(d) as asked:
            d.anomaly_map(torch.zeros(3, 1, 32, 32), torch.ones(3, 1, 32, 32) > 0, torch.Generator().manual_seed(0))
        assert sum(asked) == 3 * (n or d.config.n_steps), m
    with measure.count_evaluations(d) as asked:
        pass
    assert not any(m._forward_pre_hooks for m in d.modules())


def test_noise(made):
    "It follows the seed, and no slice depends on its neighbours."
    from mmccd.registry import new_detector

    d = new_detector("ddpm", 0, input="flair", unet="tiny", size=32).eval()
    with torch.no_grad():
        [p.add_(0.1) for p in d.parameters()]  # untrained it gives 0 for any noise
    batch = {k: torch.cat([s.batch[k] for s in load_evaluation_set(made[0]).subjects[:2]]) for k in ("flair", "brain")}
    both, alone = measure.maps(d, batch, 1), measure.maps(d, {k: v[1:] for k, v in batch.items()}, 1)
    assert torch.equal(both[1:], alone)
    assert not torch.equal(both, measure.maps(d, batch, 2))


def test_networks(made):
    plan, result = made
    for m, n in result["networks"].items():
        losses = [r[3] for r in n["curve"]["rows"]]
        assert n["steps"] * SHORT.batch_size == n["samples"] == n["curve"]["rows"][-1][1]
        assert n["val_loss"] == losses[-1]
        assert n["curve"]["columns"] == ["step", "samples", "loss", "val_loss"]
        assert n["slices"] == 8
        assert n["converged"] == (len(losses) > 2 and min(losses[-2:]) >= 0.98 * min(losses[:-2]))
        assert n["fingerprint"] == fingerprint(load_detector(Path(plan.out) / "runs" / m))
    assert result["networks"]["mmccd"]["trained"] < result["networks"]["mmccd"]["parameters"]
    assert result["networks"]["cycle"]["trained"] == result["networks"]["cycle"]["parameters"]
    a, b = (load_detector(Path(plan.out) / "runs" / m) for m in ("mmccd", "cycle"))
    assert all(torch.equal(v, b.translator.state_dict()[k]) for k, v in a.g.state_dict().items())


def raw(place, id):
    "Images and masks of a subject as they lie in the store."
    group = zarr.open_group(str(place), mode="r")[id]
    return np.asarray(group["images"][:], np.float32), np.asarray(group["masks"][:]) > 0


def test_scores_by_hand(made):
    "One line again, from the weights and the stores alone."
    plan, result = made
    line, channel = (
        result["scores"]["cycle-flair-t2"],
        SliceStore(places(plan)["test"]).recipe["modalities"].index("flair"),
    )
    d = load_detector(Path(plan.out) / "runs/cycle").for_pair("flair", "t2")

    def look(images, brain):
        return map_slices(
            d,
            torch.from_numpy(images[None, None]),
            torch.from_numpy(brain[None, None]),
            torch.Generator().manual_seed(1),
        )[0, 0].numpy()

    values = []
    for id in SliceStore(places(plan)["calibrate"]).ids:
        images, masks = raw(places(plan)["calibrate"], id)
        values += [look(images[k, channel], masks[k, 0])[masks[k, 0]] for k in (0, 1, 2)]  # 3 of 4, evenly
    values = np.sort(np.concatenate(values))
    h = values[len(values) - 1 - int(0.01 * len(values))]
    assert line["threshold"] == pytest.approx(h, rel=1e-4)
    assert (values > h).mean() <= 0.01
    assert line["fpr_reached"] == pytest.approx((values > h).mean(), rel=1e-4)
    judged = []
    for id, kind, place, _ in result["subjects"]["rows"]:
        images, masks = raw(places(plan)["test"], id)
        k = int((masks[:, 0] & masks[:, 1]).sum((1, 2)).argmax())
        assert place == 74 + k
        judged.append((kind, look(images[k, channel], masks[k, 0])[masks[k, 0]], masks[k, 1][masks[k, 0]]))

    def overlap(p, t):
        return 2 * (p & t).sum() / (p.sum() + t.sum())

    for kind in ("glioma", "ms"):
        ours, own = [(a, t) for k, a, t in judged if k == kind], line["kinds"][kind]
        best = max(
            np.mean([overlap(a > v, t) for a, t in ours]) for v in np.concatenate([[-1.0], *(a for a, _ in ours)])
        )
        means = {
            "ap": np.mean([average_precision_score(t, a) for a, t in ours]),
            "auroc": np.mean([roc_auc_score(t, a) for a, t in ours]),
            "dice": np.mean([overlap(a > h, t) for a, t in ours]),
            "dice_oracle": best,
            "fpr": np.mean([(a > h)[~t].mean() for a, t in ours]),
        }
        assert {k: own["summary"][k]["mean"] for k in means} == pytest.approx(means, rel=1e-4, abs=1e-6)
        assert own["summary"]["ap"]["n"] == len(ours)
        o = json.loads((Path(plan.out) / "scores/cycle-flair-t2.json").read_text())["kinds"][kind][
            "oracle_threshold"
        ]  # all its digits
        tp, fp, fn = np.array(
            [[((a > o) & t).sum(), ((a > o) & ~t).sum(), ((a <= o) & t).sum()] for a, t in ours], float
        ).T
        shares = {
            "jaccard_oracle": tp / (tp + fp + fn),
            "precision_oracle": tp / (tp + fp),
            "recall_oracle": tp / (tp + fn),
        }
        assert {k: own["summary"][k]["mean"] for k in shares} == pytest.approx(
            {k: v.mean() for k, v in shares.items()}, rel=1e-4
        )
        assert own["curve"] == pytest.approx(np.mean([precision_at(a, t) for a, t in ours], 0).tolist(), rel=1e-4)


def test_everything_positive(made):
    for kind in made[1]["scores"]["everything"]["kinds"].values():
        rows = [dict(zip(kind["columns"], r)) for r in kind["rows"]]
        assert all(
            r["fpr"] == 1
            and r["auroc"] == 0.5
            and r["recall"] == 1
            and r["precision"] == r["ap"]
            and r["dice"] == r["dice_oracle"]
            for r in rows
        )
    assert made[1]["scores"]["everything"]["healthy"] == [1.0]
    assert all(
        e["healthy"] == pytest.approx(e["healthy"]) and 0 <= e["healthy"][0] < 1
        for k, e in made[1]["scores"].items()
        if k != "everything"
    )


def test_same_pixels_for_all(made):
    assert len({e["check"] for e in made[1]["scores"].values()} | {made[1]["data"]["check"]}) == 1
    assert all(
        len(e["kinds"][k]["rows"]) == n for e in made[1]["scores"].values() for k, n in (("glioma", 2), ("ms", 1))
    )


def spoil(store, channel, change, id=None):
    "Change one channel of what a store keeps: images by modality, or masks (0 brain, 1 lesion)."
    for id in [id] if id else SliceStore(store).ids:
        name, at = (
            ("masks", channel)
            if isinstance(channel, int)
            else ("images", SliceStore(store).recipe["modalities"].index(channel))
        )
        array = zarr.open_array(str(store), path=f"{id}/{name}", mode="r+")
        values = array[:]
        values[:, at] = change(values[:, at])
        array[:] = values


def test_thresholds_know_nothing_of_the_test(made, tmp_path):
    "Other labels, and other test images, leave every threshold where it was; other calibration slices do not."
    plan, result = made
    other = again(plan, tmp_path / "out", "stores", "runs")

    def thresholds():
        load_evaluation_set.cache_clear()
        return {k: measure(other, entry(other, k)) for k in ("threshold-flair", "dae-t2")}

    spoil(places(other)["test"], 1, lambda v: v[:, ::-1])
    found = thresholds()
    assert all(v["threshold"] == pytest.approx(result["scores"][k]["threshold"], rel=1e-4) for k, v in found.items())
    assert any(
        v["kinds"]["glioma"]["summary"]["ap"]["mean"]
        != pytest.approx(result["scores"][k]["kinds"]["glioma"]["summary"]["ap"]["mean"], rel=1e-3)
        for k, v in found.items()
    )
    for m in ("flair", "t2"):
        spoil(places(other)["test"], m, lambda v: -v)
    assert {k: v["threshold"] for k, v in thresholds().items()} == {k: v["threshold"] for k, v in found.items()}
    for m in ("flair", "t2"):
        spoil(places(other)["calibrate"], m, lambda v: -v)
    assert all(v["threshold"] != found[k]["threshold"] for k, v in thresholds().items())


# ------------------------------------------------------------------------------------------------- tables
def cells(line):
    return [c.strip() for c in line.strip().strip("|").split(" | ")]


def test_table_one(made):
    _plan, result = made
    _, head, rows = table_one(result)
    assert head == [
        "method",
        "AP",
        "AUROC",
        "Dice (calibrated)",
        "healthy above",
        "Dice (oracle)",
        "Jaccard (oracle)",
        "precision (oracle)",
        "recall (oracle)",
        "ASSD mm (oracle)",
    ]
    assert [r[0] for r in rows if isinstance(r[0], str)] == [
        "everything positive",
        "threshold",
        "DAE",
        "Cyclic U-Net",
        "MMCCD",
    ]
    assert all(len(r) == len(head) for r in rows)
    order = [
        "ap",
        "auroc",
        "dice",
        None,
        "dice_oracle",
        "jaccard_oracle",
        "precision_oracle",
        "recall_oracle",
        "assd_oracle",
    ]
    for r, e in zip([r for r in rows if isinstance(r[0], str)], of_pair(result, "flair-t2").values(), strict=True):
        s = e["kinds"]["glioma"]["summary"]
        for text, k in zip(r[1:], order, strict=True):
            want = np.mean(e["healthy"]) * 100 if k is None else s[k]["mean"]
            assert abs(float(re.match(r"[\d.]+", text)[0]) - want) <= (
                0.0501 if k in (None, "assd_oracle") else 0.00501
            ), (e["method"], k)
        assert all(
            f"[{s[k]['low']:.2f}, {s[k]['high']:.2f}]" in r[1 + order.index(k)] for k in ("ap", "dice", "dice_oracle")
        )
    said = next(rows[i + 1] for i, r in enumerate(rows) if r[0] == "MMCCD")
    assert [c[1] if c else "" for c in said] == [
        "published",
        "",
        "0.94",
        "",
        "",
        "0.61",
        "0.47",
        "0.65",
        "0.63",
        "6.1 px",
    ]
    assert not any(c and c[0] for c in said)
    assert [rows[i - 1][0] for i, r in enumerate(rows) if not isinstance(r[0], str)] == ["DAE", "Cyclic U-Net", "MMCCD"]


def test_published_only_where_they_belong(made):
    "Not beside lesions of another kind, nor another pair, nor weights that came with mmccd."
    _, result = made

    def plain(t):
        return all(isinstance(c, str) for r in t[2] for c in r)

    assert not plain(table_one(result))
    assert plain(table_one(result, "ms"))
    assert plain(table_one(result, pair="t2-flair"))
    assert not plain(table_two(result, "dice_oracle"))
    assert plain(table_two(result, "ap"))
    assert plain(table_two(result, "dice"))
    shipped = result | {
        "scores": {
            f"{k} shipped" if METHODS[e["method"]].trainable else k: e | {"shipped": METHODS[e["method"]].trainable}
            for k, e in result["scores"].items()
        }
    }
    assert plain(table_one(shipped))
    assert plain(table_two(shipped, "dice_oracle"))
    assert "MMCCD, shipped weights" in [r[0] for r in table_two(shipped)[2]]


def test_table_two(made):
    _, result = made
    _, head, rows = table_two(result, "dice_oracle")
    assert head == ["method", "FLAIR to T2", "T2 to FLAIR"]
    assert [r[0] for r in rows] == [
        "everything positive",
        "threshold",
        "DAE",
        "Cyclic U-Net",
        "MMCCD",
    ]

    def mean(k):
        return f"{result['scores'][k]['kinds']['glioma']['summary']['dice_oracle']['mean']:.2f}"

    assert [r[1:] for r in rows] == [
        [mean("everything")] * 2,
        [mean("threshold-flair"), mean("threshold-t2")],
        [(mean("dae-flair"), "0.46"), (mean("dae-t2"), "0.28")],
        [(mean("cycle-flair-t2"), "0.58"), (mean("cycle-t2-flair"), "0.48")],
        [(mean("mmccd-flair-t2"), "0.61"), (mean("mmccd-t2-flair"), "0.49")],
    ]


def test_markdown(made):
    text = (Path(made[0].out) / "tables.md").read_text()
    assert text == all_tables(made[1])
    assert text.count("| --- |") >= 5
    assert "other data, other protocol" in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        assert len({len(cells(l)) for l in table.splitlines()}) == 1
    assert all('<span style="color:gray">(' in l for l in text.splitlines() if "published" in l and l[0] == "|")
    assert (
        markdown("c", ["a", "b"], [["x", ("1", "2")]])
        == 'c\n\n| a | b |\n| --- | --- |\n| x | 1 <span style="color:gray">(2)</span> |'
    )


def test_latex(made):
    text = (Path(made[0].out) / "tables.tex").read_text()
    assert text == all_tables(made[1], latex)
    assert text.count("{") == text.count("}")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 5
    assert not re.search(r"(?<!\\)[%_#$]", text)
    for table in re.findall(r"\\begin\{tabular\}\{(l?r*)\}(.*?)\\end\{tabular\}", text, re.S):
        rows = [l for l in table[1].splitlines() if l.endswith(r"\\")]
        assert len(rows) > 3
        assert {l.count("&") for l in rows} == {len(table[0]) - 1}
    assert r"a\_b & 1 \textcolor{gray}{(5\%)}" in latex("c", ["x", "y"], [["a_b", ("1", "5%")]])


def test_figures_show_what_was_found(made):
    _, result = made
    lines = figures.recall_figure(result).axes[0].get_lines()
    assert [l.get_ydata().tolist() for l in lines] == [
        e["kinds"]["glioma"]["curve"] for e in of_pair(result, "flair-t2").values()
    ]
    assert len({l.get_color() for l in lines}) == 5
    dots = {
        (l.get_xdata()[0], l.get_ydata()[0])
        for l in figures.cost_figure(result).axes[0].get_lines()
        if l.get_marker() == "o"
    }
    assert dots == {
        (e["evaluations"], e["kinds"]["glioma"]["summary"]["ap"]["mean"])
        for e in of_pair(result, "flair-t2").values()
        if e["evaluations"]
    }
    assert len({figures.colour_of(m) for m in ROWS}) == len(ROWS)


# ------------------------------------------------------------------------------------------------- again, and on
def refuse(*_, **__):
    raise AssertionError("this was done already")


def test_same_command_does_nothing_anew(made, monkeypatch):
    plan, result = made
    before = tree(Path(plan.out) / "runs") | tree(Path(plan.out) / "scores") | tree(Path(plan.out) / "stores")
    monkeypatch.setattr(bm, "measure", refuse)
    monkeypatch.setattr("mmccd.training.run_fit", refuse)
    monkeypatch.setattr("mmccd.store.prepare_one", refuse)
    assert run_benchmark(plan, progress=False, command=result["command"]) | {"date": result["date"]} == result
    assert before == tree(Path(plan.out) / "runs") | tree(Path(plan.out) / "scores") | tree(Path(plan.out) / "stores")


def test_killed_and_gone_on_with(made, tmp_path, monkeypatch):
    "Killed in a training, before its weights are written, and in a measurement; another day, the same numbers."
    plan, result = made
    other = again(plan, tmp_path / "out", "stores")

    def killed(*_, **__):
        raise RuntimeError("killed")

    real_fit, real_measure = run.train, measure.measure

    def at_mmccd(detector, data, val, out, *a, **k):
        if Path(out).name == "mmccd":
            monkeypatch.setattr("mmccd.training.finish", killed)
        return real_fit(detector, data, val, out, *a, **k)

    def at_cycle(plan, e):
        return killed() if e.method == "cycle" else real_measure(plan, e)

    for name, change in (("train", at_mmccd), ("measure", at_cycle), ("whole_result", killed)):
        with monkeypatch.context() as m:
            m.setattr(bm, name, change)
            with pytest.raises(RuntimeError, match="killed"):
                run_benchmark(other, progress=False)
        monkeypatch.undo()
        assert not (tmp_path / "out/benchmark.json").exists()
    assert bare(run_benchmark(other, progress=False)) == bare(result)
    assert (tmp_path / "out/runs/mmccd/model.safetensors").read_bytes() == (
        Path(plan.out) / "runs/mmccd/model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    "what", ["half", "list", "older weights", "no maps", "older mmccd", "other slices", "other weights"]
)
def test_what_is_stale_is_measured_again(made, tmp_path, monkeypatch, what):
    plan, _result = made
    other, seen = again(plan, tmp_path / "out", "stores", "scores", "runs"), []
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
    if what == "older mmccd":
        monkeypatch.setattr(bm, "__version__", "99")
    if what == "other slices":
        spoil(places(other)["test"], "t2", lambda v: v + np.float16(0.5))
    if what == "other weights":
        d = load_detector(tmp_path / "out/runs/dae")
        with torch.no_grad():
            next(d.parameters()).mul_(1.5)
        d.save_pretrained(tmp_path / "out/runs/dae")
    monkeypatch.setattr(
        bm, "measure", lambda p, e: seen.append(e.key) or old | {"mmccd": bm.__version__, "maps": {"x": torch.zeros(1)}}
    )
    score_entry(other, entry(other, "dae-flair"))
    assert seen == ["dae-flair"]
    assert file.with_suffix(".npz").exists()
    assert json.loads(file.read_text())


def test_a_score_that_fits_is_taken(made, monkeypatch):
    monkeypatch.setattr(bm, "measure", refuse)
    assert round_floats(score_entry(made[0], entry(made[0], "cycle-t2-flair"))) == made[1]["scores"]["cycle-t2-flair"]


@pytest.mark.parametrize(
    "changes", [dict(seed=2), dict(pairs=BOTH[:1]), dict(methods=("dae",)), dict(preset="cpu"), dict(shipped="also")]
)
def test_another_plan_in_the_same_folder(made, changes):
    plan, _ = made
    before = tree(Path(plan.out))
    assert re.match(
        rf"cannot go on with the benchmark in {re.escape(plan.out)}: \w+ was .* now; ask for the same, or choose another folder",
        sentence(run_benchmark, replace(plan, **changes), progress=False),
    )
    assert tree(Path(plan.out)) == before


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.txt", "mine", "is not empty and holds no benchmark"),
        ("plan.json", "{", "its plan.json is damaged"),
        ("plan.json", "[1]", "its plan.json is damaged"),
    ],
)
def test_folder_of_something_else(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    before = tree(tmp_path)
    assert words in sentence(run_benchmark, Plan(tmp_path, "smoke"), progress=False)
    assert tree(tmp_path) == before


def test_file_for_a_folder(tmp_path):
    (tmp_path / "out").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "out/deeper"):
        assert "a file is where a folder should be" in sentence(run_benchmark, Plan(out, "smoke"), progress=False)
    assert "jobs must be 1 or more, got 0" in sentence(run_benchmark, Plan(tmp_path / "new", "smoke"), jobs=0)
    assert not (tmp_path / "new").exists()


def test_two_in_one_process(made, tmp_path):
    "What one benchmark has read is not taken for another's, even in the same folder."
    plan, result = made
    other = again(plan, tmp_path / "out", "stores")
    first = load_evaluation_set(other).check
    spoil(places(other)["test"], "flair", lambda v: v + np.float16(0.25))
    run.check_all(other)
    assert first == result["data"]["check"] != load_evaluation_set(other).check
    assert load_evaluation_set(plan).check == first


def test_shipped_only(made, tmp_path, monkeypatch):
    "Nothing is trained; the weights in the package are meant, whatever lies in the working directory."
    plan, result = made
    monkeypatch.setattr(bm, "train", refuse)
    other = again(plan, tmp_path / "out", "stores", shipped="only", methods=("dae", "cycle"), pairs=BOTH[:1])
    (tmp_path / "cycle-flair-t2").mkdir()
    (tmp_path / "cycle-flair-t2/config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    found = run_benchmark(other, progress=False)
    assert list(found["scores"]) == ["everything", "threshold-flair", "dae-flair shipped", "cycle-flair-t2 shipped"]
    assert found["networks"] == {}
    assert not (tmp_path / "out/runs").exists()
    assert found["scores"]["threshold-flair"]["kinds"] == result["scores"]["threshold-flair"]["kinds"]
    assert found["scores"]["cycle-flair-t2 shipped"]["fingerprint"] == fingerprint(
        load_detector(hub.packaged_places()["cycle-flair-t2"])
    )
    assert {p.name for p in (tmp_path / "out").iterdir()} >= FILES
    assert "DAE, shipped weights" in (tmp_path / "out/tables.md").read_text()


# ------------------------------------------------------------------------------------------------- processes
class Show:
    "A display that shows nothing."

    def begin(self, name):
        pass

    def say(self, text):
        pass


class Inline:
    "A pool without processes: each task is done when it is waited for, the newest first."

    def __init__(self, *_):
        self._processes, self.running, self.most, self.down = {}, [], 0, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, f, work):
        self.running.append((future := Future(), f, work))
        self.most = max(self.most, len(self.running))
        return future

    def shutdown(self, **_):
        self.down = True

    def wait(self, running, **_):
        future, f, work = self.running.pop()
        try:
            future.set_result(f(work))
        except Exception as e:
            future.set_exception(e)
        return type("Done", (), {"done": {future}})


@pytest.fixture
def inline(monkeypatch):
    pool = Inline()
    monkeypatch.setattr(bm, "ProcessPoolExecutor", lambda *_: pool)
    monkeypatch.setattr(bm, "wait", pool.wait)
    return pool


def toy_tasks(log):
    return [
        Task(n, after, partial(lambda n: log.append(n) or n.upper(), n))
        for n, after in (("a", None), ("b", None), ("c", "a"), ("d", "c"), ("e", "b"))
    ]


def test_tasks_wait_for_what_they_need(inline):
    for jobs in (1, 2, 3):
        log, inline.most = [], 0
        assert dict(in_pool(toy_tasks(log), jobs, Show())) == {n: n.upper() for n in "abcde"}
        assert inline.most == min(jobs, 2)
        assert log.index("a") < log.index("c") < log.index("d")
        assert log.index("b") < log.index("e")
    assert list(in_turn(toy_tasks([]), Show())) == [(n, n.upper()) for n in "abcde"]


def test_a_task_that_fails(inline):
    def fails():
        raise ValueError("no room on the disk")

    with pytest.raises(ValueError, match="^no room on the disk$"):
        list(in_pool([Task("a", None, fails), Task("b", "a", refuse)], 2, Show()))

    def dies():
        raise BrokenProcessPool("SIGKILL")

    assert "with fewer --jobs" in sentence(list, in_pool([Task("a", None, dies)], 2, Show()))
    assert inline.down


def test_asked_to_stop_before_it_began(monkeypatch):
    "A worker that idles takes Ctrl-C as a word for its next task."
    assert pools.in_worker(lambda: 5) == 5
    assert not pools.BUSY.is_set()
    pools.ENDED.set()
    try:
        with pytest.raises(KeyboardInterrupt):
            pools.in_worker(refuse)
    finally:
        pools.ENDED.clear()


def test_two_processes_and_ctrl_c(made, tmp_path, monkeypatch):
    "Stopped after the first of the trainings, which all end at a checkpoint; then on, with the numbers of one process."
    plan, result = made
    other = again(plan, tmp_path / "out", "stores")
    with monkeypatch.context() as m:

        def stop(*_):
            raise KeyboardInterrupt

        m.setattr(schedule.Display, "end", stop)
        with pytest.raises(KeyboardInterrupt):
            run_benchmark(other, jobs=2, progress=False)
    assert not multiprocessing.active_children()
    assert not (tmp_path / "out/benchmark.json").exists()
    assert not list((tmp_path / "out").rglob("*.part"))
    assert bare(run_benchmark(other, jobs=2, progress=False)) == bare(result)
    assert not multiprocessing.active_children()


# ------------------------------------------------------------------------------------------------- scans
LISTS = {"train": ("c0", "c1"), "val": ("c2",), "test": ("c3", "c4")}


@pytest.fixture
def scans(tmp_path):
    "Toy cases with lists: a call that gives the plan, after changes to the lists."
    for i in range(6):
        write_case(tmp_path / "raw", f"c{i}", ("flair", "t2"), seed=i, lesion=i in (3, 4))
    prepare(tmp_path / "raw", tmp_path / "toy.zarr", size=32, slices=None, min_brain=1.0, progress=False)

    def plan(methods=(), pairs=BOTH[:1], store="toy.zarr", test_store="", **lists):
        for name, ids in (LISTS | lists).items():
            (tmp_path / f"{name}.txt").write_text("\n".join(ids) + "\n")
        s = ScanSource(
            str(tmp_path / store),
            *(str(tmp_path / f"{n}.txt") for n in LISTS),
            test_store=test_store and str(tmp_path / test_store),
        )
        return Toy(tmp_path / "out", "smoke", pairs, methods, scans=s)

    return plan


def test_scans(scans, tmp_path):
    "Somebody without lesion on the list to test is named, and not scored."
    found = run_benchmark(scans(("dae",), test=("c3", "c4", "c5")), progress=False)
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES | {"runs", "scores"}
    assert [r[:2] for r in found["subjects"]["rows"]] == [["c3", "patient"], ["c4", "patient"]]
    assert found["subjects"]["left_out"] == ["c5"]
    assert not found["subjects"]["healthy"]
    assert {r[2] for r in found["subjects"]["rows"]} <= {4, 5}
    assert "4 slices (places 2 to 7) of" in found["data"]["calibrate"]
    assert "of 1 case" in found["data"]["calibrate"]
    about = json.loads((tmp_path / "out/runs/dae/train.json").read_text())["about"]
    assert (about["data"]["ids"], about["validation"]["ids"]) == (["c0", "c1"], ["c2"])
    assert "2 patients, slice protocol" in (tmp_path / "out/tables.md").read_text()
    assert " - |" in (tmp_path / "out/tables.md").read_text()


def test_one_patient(scans):
    "No interval for one, and no NaN."
    found = run_benchmark(scans(test=("c3",)), progress=False)
    s = found["scores"]["threshold-flair"]["kinds"]["patient"]["summary"]["ap"]
    assert (s["n"], s["low"], s["high"]) == (1, None, None)
    assert s["mean"] > 0.9
    assert kept(scans()) == found


def test_test_store_of_its_own(scans, tmp_path):
    "At another size, and without those to learn from."
    for i in (0, 1):
        shutil.rmtree(tmp_path / f"raw/c{i}")
    prepare(tmp_path / "raw", tmp_path / "large.zarr", size=40, slices=None, min_brain=1.0, progress=False)
    plan = scans(test_store="large.zarr")
    check_scans(plan)
    assert [(s.id, s.batch["brain"].shape[-1]) for s in load_evaluation_set(plan).subjects] == [("c3", 40), ("c4", 40)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(test=("c3", "c0")), "c0 is in the list for train and in that for test"),
        (dict(val=("c2", "c3")), "c3 is in the list for val and in that for test"),
        (dict(test=("c3", "c9")), "c9"),
        (dict(test=("c2 ", "c5")), "in the list for val"),
        (dict(test=("c5",)), "shows a lesion"),
        (dict(pairs=(("flair", "t1"),)), "has no t1"),
        (dict(store="none.zarr"), "none.zarr"),
        (dict(test_store="none.zarr"), "none.zarr"),
    ],
)
def test_scans_that_do_not_fit(scans, tmp_path, changes, words):
    "Refused before anything is written, and long before anything is trained."
    assert words in sentence(run_benchmark, scans(("dae",), **changes), progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("list", ["test", "val"])
def test_scans_without_segmentation(scans, tmp_path, list):
    id = LISTS[list][0]
    (tmp_path / f"raw/{id}/{id}_seg.nii.gz").unlink()
    prepare(tmp_path / "raw", tmp_path / "unknown.zarr", size=32, slices=None, min_brain=1.0, progress=False)
    text = sentence(run_benchmark, scans(store="unknown.zarr"), progress=False)
    assert id in text
    assert "no segmentation" in text
    assert not (tmp_path / "out").exists()


def test_scans_with_other_places(scans, tmp_path):
    prepare(tmp_path / "raw", tmp_path / "low.zarr", size=32, slices=range(0, 2), min_brain=0.1, progress=False)
    text = sentence(run_benchmark, scans(store="low.zarr"), progress=False)
    assert "c3 has no slice at places 2 to 7: prepare it with --slices 2:7 or wider" in text
    assert not (tmp_path / "out").exists()


def test_scans_of_another_ruler(scans, tmp_path):
    from mmccd.intensity import DEFAULT, METHODS

    other = next(m for m in METHODS if m != DEFAULT)
    prepare(
        tmp_path / "raw",
        tmp_path / "other.zarr",
        size=32,
        slices=None,
        min_brain=1.0,
        normalisation=other,
        progress=False,
    )
    text = sentence(run_benchmark, scans(test_store="other.zarr"), progress=False)
    assert DEFAULT in text
    assert other in text
    assert not (tmp_path / "out").exists()


def test_calibrated_elsewhere_if_it_must(scans, tmp_path):
    "Where none of the places is healthy, healthy slices of other places set the threshold, and the record says so."
    plan = scans()

    class Ill(Toy):
        @property
        def recipe(self):
            return replace(super().recipe, places=range(4, 6))

    ill = Ill(
        tmp_path / "out",
        "smoke",
        BOTH[:1],
        (),
        scans=replace(plan.scans, val_list=plan.scans.test_list, test_list=plan.scans.val_list),
    )
    batch, words = dataset.calibration_slices(ill)
    assert "all places, as none of places 4 to 5 is free of lesion" in words
    assert len(batch["brain"]) == 4
    assert not batch["lesion"].any()


def test_most_lesion_and_its_ruler(scans):
    "The slice with most lesion inside the brain; its pixels are as large as the scan says."
    plan = scans()
    for s in load_evaluation_set(plan).subjects:
        _images, masks = raw(places(plan)["test"], s.id)
        areas = (masks[:, 0] & masks[:, 1]).sum((1, 2))
        rows = [r for r in SliceStore(places(plan)["test"]).table if r.id == s.id]
        k = max((k for k, r in enumerate(rows) if 2 <= r.place < 8), key=lambda k: areas[rows[k].index])
        assert s.place == rows[k].place
        assert s.batch["lesion"].sum() == areas.max() > 0
        assert s.spacing**2 * s.batch["brain"].sum().item() == pytest.approx(100 * rows[k].brain_cm2)


def test_packaged_lists():
    "The published lists: nobody twice."
    lists = plan.split_lists("brats2021")
    names = {k: {l.split()[0] for l in Path(p).read_text().splitlines() if l.strip()} for k, p in lists.items()}
    parts = split_from_lists(
        set().union(*names.values()), train=lists["train_list"], val=lists["val_list"], test=lists["test_list"]
    )
    assert {k: len(v) for k, v in parts.items()} == {"train": 974, "val": 138, "test": 139}


@pytest.mark.parametrize("missing", ["test.txt", None])
def test_lists_that_are_not_there(tmp_path, missing):
    if missing:
        for n in ("train.txt", "val.txt"):
            (tmp_path / n).write_text("a\n")
    assert ("has no test.txt" if missing else "there is no folder") in sentence(
        plan.split_lists, tmp_path if missing else tmp_path / "none"
    )


def test_smoke_from_the_command_line(tmp_path, capsys):
    "The preset `smoke`, whole: every method on every pair; and what a second run with the same seed has in common with it agrees."
    assert main(["benchmark", "--preset", "smoke", "--out", str(tmp_path / "a"), "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert (
        main(
            [
                "benchmark",
                "--preset",
                "smoke",
                "--out",
                str(tmp_path / "b"),
                "--device",
                "cpu",
                "--methods",
                "dae,cycle",
                "--json",
                str(tmp_path / "b.json"),
            ]
        )
        == 0
    )
    first, second = (
        json.loads((tmp_path / "a/benchmark.json").read_text()),
        json.loads((tmp_path / "b.json").read_text()),
    )
    assert set(first["networks"]) == {"ae", "vae", "dae", "ddpm", "cycle", "mmccd"}
    assert len(first["pairs"]) == 6
    assert len(first["scores"]) == 1 + 3 * 5 + 6 * 2
    assert first["command"] == f"mmccd benchmark --preset smoke --out {tmp_path / 'a'}"
    assert second["command"] == f"mmccd benchmark --preset smoke --methods dae,cycle --out {tmp_path / 'b'}"
    assert set(second["scores"]) < set(first["scores"])
    assert bare({k: first["scores"][k] for k in second["scores"]}) == bare(second["scores"])
    assert {m: bare(first["networks"][m]) for m in ("dae", "cycle")} == bare(second["networks"])
    assert first["data"] == second["data"]
    assert {p.name for p in (tmp_path / "a").iterdir() if p.is_file()} == FILES
    assert all(f"\n{METHODS[e['method']].title}" in said for e in first["scores"].values())
