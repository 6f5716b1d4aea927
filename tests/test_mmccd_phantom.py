"""The evidence about masked cycles on phantoms: what it measures is what stands in the words beside it."""

import inspect
import json
import shlex
from types import SimpleNamespace

import cyclic_phantom as base
import mmccd_phantom as tool
import numpy as np
import pytest
import torch

from mmccd import cli
from mmccd.cases.phantoms import Phantoms
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore
from mmccd.cli import app, train
from mmccd.cycle import CyclicUNet
from mmccd.detector import Threshold, fingerprint, load_detector, save_variants
from mmccd.masked_diffusion import MMCCD, SAMPLERS, MaskedUNet, Sampler
from mmccd.runtime import single_thread
from mmccd.translate import directed_pairs
from mmccd.weights.hub import WEIGHTS, packaged_places

SMALL = dict(size=32, modalities=tool.MODALITIES, unet=dict(channels=8, mults=(1, 2), blocks=1, attention=()))
PAIRS = ["-".join(p) for p in directed_pairs(tool.MODALITIES)]
FEW = Sampler("disjoint", width=16)  # 4 masks of 32x32


@pytest.fixture(scope="module", autouse=True)
def single():
    with single_thread():
        yield


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    "Stores and detectors in small, nothing trained."
    folder = tmp_path_factory.mktemp("small")
    for name, who in (
        ("evidence", Phantoms(healthy=1, glioma=1, ms=1, seed=5)),
        ("calibration", Phantoms(healthy=1, seed=6)),
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
    weights = folder / "weights"
    for name, d in (
        ("cycle", CyclicUNet(**SMALL)),
        ("masked", MaskedUNet(**SMALL, sampler=FEW)),
        ("mmccd", MMCCD(**SMALL, sampler=FEW)),
    ):
        for p in d.parameters():
            torch.nn.init.normal_(p, std=0.2)  # an untrained U-Net of ours ends in zeros
        save_variants({f"{x}-{y}": d.for_pair(x, y) for x, y in directed_pairs(tool.MODALITIES)}, weights / name)
    save_variants({m: Threshold(input=m) for m in tool.MODALITIES}, weights / "threshold")
    evidence, calibration = SliceStore(folder / "evidence.zarr"), SliceStore(folder / "calibration.zarr")
    methods, said = [tool.make(k, weights=weights) for k in tool], []
    result = base.evaluate(methods, evidence, calibration, said.append, tool.EVERY)
    return SimpleNamespace(
        evidence=evidence, calibration=calibration, weights=weights, methods=methods, result=result, said=said
    )


def test_every_method_has_its_row(small):
    names = list(small.result["methods"])
    assert names == list(tool.keys())
    assert len(small.said) == 22
    assert names[0] == "everything positive"
    assert set(names[1:]) == {f"threshold {m}" for m in tool.MODALITIES} | {
        f"{n} {p}" for n in ("cycle", "masked", "mmccd") for p in PAIRS
    }
    for key, m in small.result["methods"].items():
        if "-" in key:
            assert f"{m['input']}-{m['target']}" == key.split()[1]
            assert m["needs"] == [m["input"]]
            assert "trained" in m
        assert (m.get("sampler", {}).get("masks") == "tiles") == key.startswith(("masked", "mmccd"))
    kind = [small.result["kinds"]["glioma"][f"{n} t1-t2"]["rows"] for n in ("cycle", "masked", "mmccd")]
    assert kind[0] != kind[1] != kind[2] != kind[0]
    assert names == list(small.result["healthy"]["shares"])


def test_thresholds_rest_on_every_tenth_slice(small):
    "By hand: pixels of the places 70 and 80 only, and the share of another healthy head above."
    import zarr

    def arrays(s, id):
        group = zarr.open_group(str(s.place), path=id, mode="r")
        return group["images"][::10].astype(np.float32), group["masks"][::10, 0].astype(bool)

    (images, brain), (others, inside) = (
        arrays(small.calibration, small.calibration.ids[0]),
        arrays(small.evidence, next(i for i in small.evidence.ids if "healthy" in i)),
    )
    for channel, m in enumerate(tool.MODALITIES):

        def mapped(x):
            return np.log1p(np.exp((-3 if m == "t1" else 3) * x[:, channel]))

        values = np.sort(mapped(images)[brain])
        made = small.result["methods"][f"threshold {m}"]["threshold"]
        assert made == pytest.approx(values[len(values) - 1 - int(0.01 * len(values))], rel=1e-4)
        assert small.result["healthy"]["shares"][f"threshold {m}"] == [
            pytest.approx((mapped(others)[inside] > made).mean(), abs=2e-3)
        ]
    batch = small.calibration.dataset(small.calibration.ids, in_memory=False).batch([0, 10])
    for key in ("masked t2-flair", "mmccd flair-t1"):
        values, said = tool.make(key, weights=small.weights).maps(batch)[batch["brain"]], small.result["methods"][key]
        assert said["fpr_reached"] <= 0.01
        assert (
            (values > said["threshold"] * (1 + 1e-4)).double().mean()
            <= 0.01
            <= (values >= said["threshold"] * (1 - 1e-4)).double().mean()
        )


def test_the_slice_is_still_sought_among_all(small):
    some = [tool.make(k, weights=small.weights) for k in ("threshold flair", "cycle t1-t2")]
    whole = base.evaluate(some, small.evidence, small.calibration, lambda _: None)
    for kind in ("glioma", "ms"):
        for m in some:
            a, b = base.rows(small.result, kind, m.key), base.rows(whole, kind, m.key)
            assert [{k: r[k] for k in ("id", "place", "ap", "dice_oracle", "auroc")} for r in a] == [
                {k: r[k] for k in ("id", "place", "ap", "dice_oracle", "auroc")} for r in b
            ]
    assert whole["methods"]["threshold flair"]["threshold"] != small.result["methods"]["threshold flair"]["threshold"]


def test_two_processes_measure_the_same(small):
    some = [tool.make(k, weights=small.weights) for k in ("everything positive", "masked t1-t2", "mmccd t2-t1")]
    got = base.evaluate(
        some, small.evidence, small.calibration, lambda _: None, tool.EVERY, tool.in_processes(2, weights=small.weights)
    )
    for m in some:
        assert got["methods"][m.key] == small.result["methods"][m.key]
        assert got["healthy"]["shares"][m.key] == small.result["healthy"]["shares"][m.key]
        for kind in ("glioma", "ms"):
            assert got["kinds"][kind][m.key] == small.result["kinds"][kind][m.key]
    assert tool.in_processes(1) is base.in_groups


def test_evaluations_are_counted(small):
    "What the plan says is what the networks are called for."
    said = tool.mean_evaluations(small.result, small.evidence, small.weights)
    assert set(said) == {"everything positive", *tool.NAMES}
    assert said["threshold"] == said["everything positive"] == 0
    assert said["cycle"] == 2
    subjects = [s for id in small.evidence.ids if (s := base.protocol_slice(small.evidence, id))]
    for name in ("masked", "mmccd"):
        d, calls = load_detector(packaged_places(small.weights)[f"{name}-flair-t2"]), []
        for net in (d.f.net, d.g):
            net.register_forward_hook(lambda _, x, __: calls.append(len(x[0])))
        m = base.method("k", "n", d)
        for s in subjects:
            m.maps(s.batch)
        assert said[name] == pytest.approx(sum(calls) / len(subjects), rel=1e-4)
        assert 2 < said[name] <= 8


def test_pairs_are_compared_subject_by_subject(small):
    got = tool.paired(small.result)
    assert set(got) == {"glioma", "ms"}
    assert set(got["ms"]) == set(PAIRS)
    for pair in PAIRS:
        assert list(got["glioma"][pair]) == [
            "MMCCD - cycle",
            "MMCCD - masked U-Net",
            "MMCCD - threshold",
            "masked U-Net - cycle",
            "cycle - threshold",
        ]

        def ap(key):
            return base.rows(small.result, "glioma", key)[0]["ap"]

        for title, a, b in (
            ("MMCCD - threshold", f"mmccd {pair}", f"threshold {pair.split('-')[0]}"),
            ("masked U-Net - cycle", f"masked {pair}", f"cycle {pair}"),
        ):
            assert got["glioma"][pair][title]["ap"]["mean"] == pytest.approx(ap(a) - ap(b), abs=2e-5)
            assert set(got["glioma"][pair][title]) == {"ap", "dice_oracle", "dice"}


def test_the_table_and_the_sizes_hold_every_method(small):
    lines = tool.table(small.result).splitlines()
    assert len(lines) == 2 + 22
    assert sum("| MMCCD |" in line for line in lines) == sum("| masked U-Net |" in line for line in lines) == 6
    assert all(set(tool.keys()) < set(v) for v in tool.by_size(small.result).values())
    assert json.loads(tool.dump(small.result)) == json.loads(json.dumps(small.result))


def test_the_commands_come_from_the_cards(tmp_path):
    (tmp_path / "mmccd").mkdir()
    with pytest.raises(ValueError, match="the packaged mmccd has no card"):
        tool.made_by("mmccd", tmp_path)
    (tmp_path / "mmccd" / "README.md").write_text(
        "# t\n\n```sh\nmmccd prepare phantom train.zarr --healthy 3\nmmccd train mmccd train.zarr --back cycle --out run-mmccd\npython tools/ship_masked.py run-mmccd calibration.zarr\n```\n\nrun train.zarr\n"
    )
    assert tool.made_by("mmccd", tmp_path, "w") == [
        "mmccd prepare phantom w/train.zarr --healthy 3",
        "mmccd train mmccd w/train.zarr --back cycle --out w/run-mmccd",
        "python tools/ship_masked.py w/run-mmccd w/calibration.zarr",
    ]
    made = tool.made_by("cycle", WEIGHTS, "w")
    assert [line.split()[:3] for line in made] == [
        ["mmccd", "prepare", "phantom"],
        ["mmccd", "train", "cycle"],
        ["python", "tools/ship_cycle.py", "w/run"],
    ]
    assert made[1].endswith("--out w/run")


def test_other_stores_and_places_are_refused(tmp_path, small):
    stores = ["--evidence", str(small.evidence.place), "--calibration", str(small.calibration.place), "--as-is"]
    with pytest.raises(ValueError, match="its folder does not exist"):
        tool.main([*stores, "--out", str(tmp_path / "no" / "r.json")])
    with pytest.raises(ValueError, match="who is none of the subjects"):
        tool.main([*stores, "--out", str(tmp_path / "r.json")])
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def kept():
    if not tool.RESULT.exists():
        pytest.skip("data/results/mmccd_phantom.json has not been made")
    return json.loads(tool.RESULT.read_text())


def test_kept_result_is_complete_and_about_the_same_subjects(kept):
    cyclic = json.loads(base.RESULT.read_text())
    assert tool.RESULT.stat().st_size < 400_000
    assert kept["missing"] == {}
    assert "--as-is" not in kept["command"]
    assert kept["every"] == tool.EVERY
    assert list(kept["methods"]) == list(tool.keys())
    assert kept["subjects"] == cyclic["subjects"]
    assert kept["healthy"]["ids"] == cyclic["healthy"]["ids"]
    assert kept["left_out"] == cyclic["left_out"]
    for kind in base.KINDS:
        assert set(kept["paired"][kind]) == set(PAIRS)
        for key in kept["methods"]:  # where both looked with the same detector they saw the same, but for the threshold
            if (
                key in cyclic["methods"]
                and kept["methods"][key]["fingerprint"] == cyclic["methods"][key]["fingerprint"]
            ):
                for a, b in zip(base.rows(kept, kind, key), base.rows(cyclic, kind, key), strict=True):
                    assert a["ap"] == pytest.approx(b["ap"], abs=1e-4), (key, a["id"])


def test_kept_result_follows_from_its_rows(kept):
    assert kept["paired"] == json.loads(json.dumps(tool.paired(kept)))
    assert kept["by_size"] == json.loads(json.dumps(tool.by_size(kept)))
    for kind, found in kept["kinds"].items():
        for key, got in found.items():
            for c in base.SCORES:
                assert got["summary"][c]["mean"] == pytest.approx(
                    np.mean([r[c] for r in base.rows(kept, kind, key)]), abs=2e-5
                )
    for key, shares in kept["healthy"]["shares"].items():
        assert kept["healthy"]["summary"][key]["mean"] == pytest.approx(np.mean(shares), abs=2e-5)


def test_kept_result_is_of_the_packaged_detectors(kept):
    from dataclasses import asdict

    for key, m in kept["methods"].items():
        if key == "everything positive":
            continue
        d = load_detector(key.replace(" ", "-"))
        assert m["fingerprint"] == fingerprint(d)
        assert m["threshold"] > 0
        if key.startswith(("masked", "mmccd")):
            assert m["sampler"] == asdict(SAMPLERS["fast"]) and m["threshold"] == pytest.approx(
                d.threshold, rel=1e-3
            ), "the same healthy slices as the packaged threshold"
    trained = [kept["methods"][f"{n} flair-t2"]["trained"] for n in ("cycle", "masked", "mmccd")]
    assert trained[0]["samples"] == trained[1]["samples"] == trained[2]["samples"], "the same budget"


def test_the_commands_before_are_those_that_made_it(kept, monkeypatch):
    assert kept["before"][:2] == [base.store_command(k, tool.HOME) for k in base.STORES]
    trains = [c for c in kept["before"] if c.startswith("mmccd train")]
    assert [c.split()[2] for c in trains] == ["cycle", "masked", "mmccd"]
    assert sum("ship_" in c for c in kept["before"]) == 3
    if not {"back", "validate_every"} <= inspect.signature(train.train).parameters.keys():
        pytest.skip("mmccd train does not know --back and --validate-every yet")
    asked = []
    monkeypatch.setattr(cli, "run_training", lambda a: asked.append(a) or 0)
    for c in trains:
        assert app.main(shlex.split(c)[1:]) == 0
    assert [a["steps"] for a in asked] == [
        kept["methods"][f"{n} flair-t2"]["trained"]["steps"] for n in ("cycle", "masked", "mmccd")
    ]
