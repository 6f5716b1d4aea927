"""The evidence on phantoms: what it measures is what stands in the words beside it."""

import json
import shlex
import shutil
from types import SimpleNamespace

import cyclic_phantom as tool
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from mmccd import cli, intensity, slices, store
from mmccd.cases import prepare
from mmccd.cases.case import Case
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.cli import app
from mmccd.cycle import CyclicUNet
from mmccd.detection.maps import anomaly_volume
from mmccd.detector import Threshold, load_detector
from mmccd.phantom import make_phantom
from mmccd.scoring import dice, slice_protocol
from mmccd.translate import directed_pairs

SMALL = dict(channels=8, mults=(1, 2), blocks=1, attention=())


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "Evidence and calibration in small, with an untrained network for six pairs, and one for a pair."
    folder = tmp_path_factory.mktemp("small")
    for name, who in (
        ("evidence", Phantoms(healthy=2, glioma=2, ms=1, seed=5)),
        ("calibration", Phantoms(healthy=2, seed=6)),
    ):
        prepare(
            who,
            folder / f"{name}.zarr",
            size=64,
            slices=range(70, 90),
            modalities=list(tool.MODALITIES),
            progress=False,
        )
    torch.manual_seed(0)
    first = CyclicUNet(size=32, modalities=tool.MODALITIES, unet=SMALL).eval()
    for p in first.parameters():
        torch.nn.init.normal_(p, std=0.2)  # an untrained U-Net of ours ends in zeros
    cycles = {p: first.for_pair(*p) for p in directed_pairs(tool.MODALITIES)}
    two = CyclicUNet(size=32, unet=SMALL).eval()
    methods = tool.ordered(
        tool.all_methods(cycles, {("flair", "t2"): two}, {m: Threshold(input=m) for m in tool.MODALITIES})
    )
    evidence, calibration = SliceStore(folder / "evidence.zarr"), SliceStore(folder / "calibration.zarr")
    said = []
    result = tool.evaluate(methods, evidence, calibration, said.append)
    return SimpleNamespace(
        evidence=evidence, calibration=calibration, cycles=cycles, two=two, methods=methods, result=result, said=said
    )


def arrays(s, id):
    "A subject's slices, read without the tool: images (20 3 h w), brain, lesion (20 h w)."
    import zarr

    group = zarr.open_group(str(s.place), path=id, mode="r")
    masks = group["masks"][:].astype(bool)
    return group["images"][:].astype(np.float32), masks[:, 0], masks[:, 1]


def test_every_method_has_its_row(small):
    keys = list(small.result["methods"])
    pairs = ["-".join(p) for p in directed_pairs(tool.MODALITIES)]
    assert set(keys) == {
        "everything positive",
        "two networks flair-t2",
        *(f"threshold {m}" for m in tool.MODALITIES),
        *(f"{k} {p}" for k in ("one-way", "cycle") for p in pairs),
    }
    assert len(small.said) == len(keys)
    assert keys[0] == "everything positive"
    assert keys.index("threshold t1") < keys.index("cycle t1-flair")
    assert {k: m["needs"] for k, m in small.result["methods"].items() if len(m["needs"]) > 1} == {
        f"one-way {p}": p.split("-") for p in pairs
    }
    assert [r["id"] for r in tool.rows(small.result, "glioma", "cycle t1-t2")] == [
        "phantom1-glioma-s5-000",
        "phantom1-glioma-s5-001",
    ]
    assert small.result["kinds"]["infarct"] == {}
    assert len(small.result["healthy"]["ids"]) == 2


@pytest.mark.parametrize(("m", "sign"), [("flair", 1), ("t1", -1), ("t2", 1)])
def test_the_threshold_row_is_what_a_hand_computes(small, m, sign):
    channel, made = tool.MODALITIES.index(m), small.result["methods"][f"threshold {m}"]["threshold"]

    def mapped(x):
        return np.log1p(np.exp(3 * sign * x[:, channel]))

    healthy = np.sort(
        np.concatenate(
            [mapped(x)[brain] for x, brain, _ in (arrays(small.calibration, id) for id in small.calibration.ids)]
        )
    )
    assert made == pytest.approx(healthy[len(healthy) - 1 - int(0.01 * len(healthy))], rel=1e-4)
    for row in tool.rows(small.result, "glioma", f"threshold {m}"):
        x, brain, lesion = arrays(small.evidence, row["id"])
        k = int((brain & lesion).sum((1, 2)).argmax())
        a, truth = mapped(x)[k][brain[k]], lesion[k][brain[k]]
        assert row["place"] == 70 + k
        assert row["pixels"] == brain[k].sum()
        assert row["prevalence"] == pytest.approx(truth.mean(), rel=1e-4)
        assert row["ap"] == pytest.approx(average_precision_score(truth, a), rel=1e-4)
        assert row["dice"] == pytest.approx(dice(a > made, truth), abs=2e-3)
        assert row["dice_oracle"] >= 0
        assert row["fpr"] == pytest.approx((a > made)[~truth].mean(), abs=1e-3)


def test_at_most_a_hundredth_of_the_calibration_lies_above(small):
    batches = [tool.slices_of(small.calibration, id)[1] for id in small.calibration.ids]
    for m in small.methods:
        said = small.result["methods"][m.key]
        if m.key == "everything positive":
            assert said["threshold"] == 0
            assert said["fpr_reached"] is None
            continue
        values = torch.cat([m.maps(b)[b["brain"]] for b in batches])
        assert (
            said["fpr_reached"] <= 0.01
            and (values > said["threshold"] * (1 + 1e-4)).double().mean()
            <= 0.01
            <= (values >= said["threshold"] * (1 - 1e-4)).double().mean()
        ), m.key


def test_everything_positive_is_the_floor(small):
    for row in tool.rows(small.result, "glioma", "everything positive") + tool.rows(
        small.result, "ms", "everything positive"
    ):
        p = row["prevalence"]
        assert row["ap"] == pytest.approx(p, rel=1e-4)
        assert row["auroc"] == 0.5
        assert row["fpr"] == 1
        assert row["dice"] == row["dice_oracle"] == pytest.approx(2 * p / (1 + p), rel=1e-4)
    assert small.result["healthy"]["shares"]["everything positive"] == [1, 1]


def test_the_cycle_is_what_detect_writes(tmp_path, small, monkeypatch):
    "A store of whole slices and the path of `mmccd detect` agree, but for float16."
    p = make_phantom("glioma", 5, 0, range(70, 90), twin=False)
    monkeypatch.setattr(store, "make_phantom", lambda *_, **__: p)  # it need not be made twice
    prepare(
        Phantoms(glioma=1, seed=5),
        tmp_path / "s.zarr",
        size=240,
        slices=range(70, 90),
        modalities=list(tool.MODALITIES),
        progress=False,
    )
    detector = small.cycles["flair", "t1"]
    case, chosen = (
        Case.from_phantom(p, modalities=tool.MODALITIES),
        tool.protocol_slice(SliceStore(tmp_path / "s.zarr"), p.id),
    )
    anomaly = anomaly_volume(case, detector, "flair")
    _, a, truth = tool.pixels(tool.method("c", "c", detector), chosen)
    wanted, same = slice_protocol(anomaly, p.labels > 0, case.brain, range(20))
    assert (truth == same).all()
    assert wanted.std() > 0.01
    np.testing.assert_allclose(a, wanted, atol=0.02 * wanted.max())
    assert chosen.lesion_cm2 == pytest.approx((p.labels > 0).sum((0, 1)).max() / 100)


class Perfect:
    "A translator that knows the answer, but for a constant."

    device = torch.device("cpu")

    def __init__(self, answer, off=0.0, size=64):
        self.answer, self.off, self.config = (
            answer,
            off,
            SimpleNamespace(input="flair", target="t2", size=size, normalisation="tukey"),
        )

    def translate(self, x, brain, generator=None):
        return self.answer + self.off


def test_a_perfect_translator_finds_nothing(small):
    _, batch = tool.slices_of(small.evidence, small.evidence.ids[0])

    def there(**o):
        return tool.mapper(tool.OneWay(Perfect(batch["t2"], **o)), ("flair", "t2"), "cpu")(batch)

    assert there().abs().max() == 0
    torch.testing.assert_close(there(off=0.5), torch.where(batch["brain"], 0.25, 0.0), atol=1e-5, rtol=0)
    assert tool.translation_error(Perfect(batch["t2"]), batch) == 0
    assert tool.translation_error(Perfect(batch["t2"], 0.5), batch) == pytest.approx(0.25, abs=1e-5)
    swapped = tool.mapper(tool.OneWay(Perfect(batch["t2"])), ("t2", "flair"), "cpu")(batch)
    torch.testing.assert_close(swapped, torch.where(batch["brain"], (batch["t2"] - batch["flair"]) ** 2, 0.0))


def test_one_way_and_cycle_are_of_one_network(small):
    "At the network's own size: the error of f(x) against y, and of g(f(x)) against x."
    batch = {m: torch.rand(2, 1, 32, 32) for m in tool.MODALITIES} | {"brain": torch.rand(2, 1, 32, 32) > 0.3}
    d, brain = small.cycles["t1", "t2"], batch["brain"]
    with torch.no_grad():
        y = d.translator(batch["t1"], brain, "t1", "t2")
        x = d.translator(y, brain, "t2", "t1")
    for one_way, wanted in ((True, (y - batch["t2"]) ** 2), (False, (x - batch["t1"]) ** 2)):
        torch.testing.assert_close(tool.method("k", "n", d, one_way).maps(batch), torch.where(brain, wanted, 0.0))


def test_the_translation_error_is_of_healthy_subjects(small):
    got = tool.translations(small.cycles, {("flair", "t2"): small.two}, small.evidence)
    assert set(got) == {"-".join(p) for p in small.cycles}
    assert set(got["flair-t1"]) == {"shared"}
    assert got["flair-t1"]["shared"]["n"] == 2
    d, single = (
        got["flair-t2"],
        [
            tool.translation_error(small.two, tool.slices_of(small.evidence, id)[1])
            for id in small.evidence.ids
            if "healthy" in id
        ],
    )
    assert d["two networks"]["mean"] == pytest.approx(np.mean(single), rel=1e-4)
    assert d["shared - two networks"]["mean"] == pytest.approx(
        d["shared"]["mean"] - d["two networks"]["mean"], rel=1e-2
    )


def test_pairs_are_compared_subject_by_subject(small):
    a, b = (tool.rows(small.result, "glioma", k) for k in ("cycle flair-t2", "threshold flair"))
    there, back = tool.difference(a, b), tool.difference(b, a)
    for c in there:
        assert (there[c]["mean"], there[c]["low"]) == pytest.approx((-back[c]["mean"], -back[c]["high"]), abs=1e-9)
    assert tool.difference(a, a)["ap"] == dict(n=2, mean=0, low=0, high=0)
    assert tool.paired(small.result)["glioma"]["flair-t2"]["cycle - threshold"]["ap"]["mean"] == pytest.approx(
        np.mean([x["ap"] - y["ap"] for x, y in zip(a, b)]), rel=1e-4
    )
    assert "cycle - two networks" in tool.paired(small.result)["glioma"]["flair-t2"]
    assert "cycle - two networks" not in tool.paired(small.result)["glioma"]["t2-flair"]
    with pytest.raises(ValueError, match="the same subjects"):
        tool.difference(a, b[::-1])


def test_each_lesion_has_one_size(small):
    bins, everyone = (
        tool.by_size(small.result),
        [r for k in ("glioma", "ms") for r in tool.rows(small.result, k, "threshold flair")],
    )
    for name, (least, most) in tool.BINS.items():
        inside = [r["ap"] for r in everyone if least <= r["lesion_cm2"] < most]
        got = bins[name]["threshold flair"]["ap"]
        assert got["n"] == len(inside)
        assert not inside or got["mean"] == pytest.approx(np.mean(inside), rel=1e-4)
    assert (
        sum(b["threshold flair"]["ap"]["n"] for b in bins.values())
        == sum(sum(b["subjects"].values()) for b in bins.values())
        == len(everyone)
        == 3
    )


def test_who_has_no_lesion_there_is_left_out_and_named(tmp_path, small, monkeypatch):
    import zarr

    shutil.copytree(small.evidence.place, tmp_path / "s.zarr")
    zarr.open_group(str(tmp_path / "s.zarr"), path="phantom1-glioma-s5-001", mode="r+")["masks"][:, 1] = 0
    s = SliceStore(tmp_path / "s.zarr")
    got = tool.evaluate([tool.method("threshold flair", "t", Threshold())], s, small.calibration, lambda _: None)
    assert [line.split(":")[0] for line in got["left_out"]] == ["phantom1-glioma-s5-001"]
    assert [r["id"] for r in tool.rows(got, "glioma", "threshold flair")] == ["phantom1-glioma-s5-000"]
    monkeypatch.setattr(tool, "PLACES", range(60, 80))
    with pytest.raises(ValueError, match="has not all slices at places 60 to 79"):
        tool.slices_of(s, s.ids[0])


@pytest.mark.parametrize("name", tool.STORES)
def test_the_command_makes_the_store_of_the_tool(name, tmp_path, monkeypatch):
    "What a stranger types and what the tool calls ask for the same."
    asked = []

    def noted(raw, place, **options):
        asked.append(
            (
                raw,
                {
                    k: options.get(k, v)
                    for k, v in dict(
                        size=64,
                        slices=None,
                        modalities=None,
                        tumour_free=False,
                        min_brain=slices.MIN_BRAIN,
                        healthy=False,
                        normalisation=intensity.DEFAULT,
                    ).items()
                },
            )
        )
        return {
            "failed": [],
            "cases": 0,
            "slices": 0,
            "ill": 0,
            "unknown": 0,
            "bytes": 0,
            "store": str(place),
            "new": 0,
            "kept": 0,
        }

    monkeypatch.setattr(store, "prepare", noted)
    monkeypatch.setattr(tool, "prepare", noted)
    words = shlex.split(tool.store_command(name, "build"))
    assert words[0] == "mmccd"
    assert app.main(words[1:]) == 0
    tool.fill({name: tmp_path / "x.zarr"})
    assert asked[0] == asked[1]
    assert asked[0][0].seed == tool.STORES[name][0].seed
    assert prepare.plan(asked[1][0], tmp_path / "x.zarr", **asked[1][1])[1] == tool.recipe_of(name)


def test_the_evidence_and_the_calibration_share_nobody():
    evidence, calibration = ({id for id, _ in p.tasks()} for p, _ in tool.STORES.values())
    assert len(evidence) == 150
    assert len(calibration) == 20
    assert not evidence & calibration


def test_the_json_is_short_and_says_the_same(small):
    result = small.result | {"paired": tool.paired(small.result), "by_size": tool.by_size(small.result)}
    text = tool.dump(result)
    assert json.loads(text) == json.loads(json.dumps(result))
    assert text.count("\n") < json.dumps(result, indent=1).count("\n") / 3
    assert sum(line.strip().startswith('["phantom1-') for line in text.splitlines()) == 3, "a line for each subject"


def test_the_table_shows_the_rows(small):
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in tool.table(small.result).splitlines()]
    assert {len(line) for line in lines} == {7}
    assert len(lines) == 2 + len(small.methods)
    row = next(line for line in lines if line[:3] == ["FLAIR", "T2", "cycle"])
    s = small.result["kinds"]["glioma"]["cycle flair-t2"]["summary"]
    assert (
        row[3]
        == f"{s['ap']['mean']:.2f} [{s['ap']['low']:.2f}, {s['ap']['high']:.2f}] / {s['dice_oracle']['mean']:.2f} / {s['dice']['mean']:.2f}"
    )
    assert row[5] == "-"


def test_a_run_that_does_not_fit_is_refused(tmp_path, small):
    small.cycles["flair", "t2"].save_pretrained(tmp_path / "shared")
    with pytest.raises(ValueError, match="does not hold two networks"):
        tool.load_runs([tmp_path / "shared"])
    small.two.save_pretrained(tmp_path / "two")
    record = {
        "status": "not done",
        "about": {
            "data": {"ids": ["a"], "what": "w"},
            "validation": {"ids": ["b"]},
            "training": {"lr": 1, "batch_size": 2, "seed": 0},
        },
    }
    (tmp_path / "two" / "train.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="is not done"):
        tool.load_runs([tmp_path / "two"])
    (tmp_path / "two" / "train.json").write_text(
        json.dumps(record | {"status": "done", "result": {"step": 3, "samples": 6}})
    )
    with pytest.raises(ValueError, match="trained on b, a subject of the evidence"):
        tool.load_runs([tmp_path / "two"], ["b", "c"])
    runs, trained = tool.load_runs([tmp_path / "two"], ["c"])
    assert set(runs) == {("flair", "t2"), ("t2", "flair")}
    assert trained["t2", "flair"]["samples"] == 6
    batch = {m: torch.rand(1, 1, 32, 32) for m in ("flair", "t2")}
    torch.testing.assert_close(
        runs["t2", "flair"].translate(batch["t2"], batch["t2"] > 0.2), small.two.translate_back(batch["t2"], batch["t2"] > 0.2)
    )


def test_the_training_commands_say_what_was_trained(tmp_path, monkeypatch):
    ids, asked = [f"phantom1-healthy-s9-{i:03d}" for i in range(5)], []
    about = {
        "config": {"input": "t1", "target": "t2"},
        "training": vars(tool.make_config("tiny", steps=1500, lr=0.003)),
        "validation": {"ids": ids[3:]},
        "data": {
            "ids": ids[:3],
            "recipe": tool.recipe_of("calibration")
            | {"size": 64, "phantom": {"version": 1, "seed": 9, "whole": False}},
        },
    }
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.json").write_text(json.dumps({"about": about}))
    monkeypatch.setattr(cli, "run_training", lambda asked_for: asked.append(asked_for) or 0)
    made, first, second = tool.train_commands([tmp_path / "a", tmp_path / "b"], "w")
    assert (
        made
        == "mmccd prepare phantom w/train.zarr --healthy 5 --seed 9 --slices 30:125 --size 64 --modalities flair,t1,t2"
    )
    assert app.main(shlex.split(second)[1:]) == 0
    assert second == first.replace("w/a", "w/b")
    assert {
        k: asked[0][k] for k in ("method", "store", "input", "target", "steps", "lr", "val", "modalities", "seed")
    } == dict(
        method="cycle",
        store="w/train.zarr",
        input="t1",
        target="t2",
        steps=1500,
        lr=0.003,
        val=2,
        modalities="",
        seed=0,
    )
    about["data"]["recipe"]["min_brain"] = 7.0
    (tmp_path / "a" / "train.json").write_text(json.dumps({"about": about}))
    with pytest.raises(ValueError, match="with other settings"):
        tool.train_commands([tmp_path / "a"], "w")


def test_other_stores_and_places_are_refused(tmp_path, small):
    stores = ["--evidence", str(small.evidence.place), "--calibration", str(small.calibration.place)]
    with pytest.raises(ValueError, match="its folder does not exist"):
        tool.main([*stores, "--as-is", "--out", str(tmp_path / "no" / "r.json")])
    with pytest.raises(ValueError, match="who is none of the subjects"):
        tool.main([*stores, "--as-is", "--out", str(tmp_path / "r.json")])
    with pytest.raises(ValueError, match="was made with size 64, not size 240"):
        tool.main([*stores, "--out", str(tmp_path / "r.json")])
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def kept():
    if not tool.RESULT.exists():
        pytest.skip("data/results/cyclic_phantom.json has not been made")
    return json.loads(tool.RESULT.read_text())


def intervals(x):
    if isinstance(x, dict):
        if {"mean", "low", "high"} <= set(x):
            yield x
        for v in x.values():
            yield from intervals(v)


def test_kept_result_is_complete(kept):
    "All subjects less those named, six pairs, and the rows of each."
    assert tool.RESULT.stat().st_size < 400_000
    assert kept["missing"] == {}
    assert "--as-is" not in kept["command"]
    gone = [tool.kind_of(line.split(":")[0]) for line in kept["left_out"]]
    for kind, n in dict(glioma=60, ms=30, infarct=30).items():
        assert len(kept["subjects"][kind]["rows"]) == n - gone.count(kind)
        for key in kept["methods"]:
            assert len(tool.rows(kept, kind, key)) == n - gone.count(kind)
    assert len(kept["healthy"]["ids"]) == 30
    assert {len(v) for v in kept["healthy"]["shares"].values()} == {30}
    pairs = {"-".join(p) for p in directed_pairs(tool.MODALITIES)}
    assert {k for k in kept["methods"] if "networks" not in k} == {
        "everything positive",
        *(f"threshold {m}" for m in tool.MODALITIES),
        *(f"{k} {p}" for k in ("one-way", "cycle") for p in pairs),
    }
    assert set(kept["translation"]) == pairs
    assert all(set(v) == pairs for v in kept["paired"].values())
    assert kept["before"][:2] == [tool.store_command(k, "build/cyclic_phantom") for k in tool.STORES]


def test_kept_result_follows_from_its_rows(kept):
    assert kept["paired"] == json.loads(json.dumps(tool.paired(kept)))
    assert kept["by_size"] == json.loads(json.dumps(tool.by_size(kept)))
    for kind, found in kept["kinds"].items():
        for key, got in found.items():
            for c in tool.SCORES:
                assert got["summary"][c]["mean"] == pytest.approx(
                    np.mean([r[c] for r in tool.rows(kept, kind, key)]), abs=2e-5
                )
    for key, shares in kept["healthy"]["shares"].items():
        assert kept["healthy"]["summary"][key]["mean"] == pytest.approx(np.mean(shares), abs=2e-5)
        assert kept["healthy"]["summary"][key]["max"] == max(shares)


def test_kept_intervals_hold_their_mean(kept):
    found = list(intervals(kept))
    assert len(found) > 300
    assert all(x["low"] <= x["mean"] <= x["high"] for x in found if x["low"] is not None)


def test_kept_result_is_of_the_packaged_detectors(kept):
    from mmccd.detector import fingerprint

    for p in directed_pairs(tool.MODALITIES):
        assert kept["methods"]["cycle " + "-".join(p)]["fingerprint"] == fingerprint(
            load_detector("cycle-" + "-".join(p))
        )
