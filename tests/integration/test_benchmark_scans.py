"The benchmark on prepared scans with lists: what does not fit is refused before anything is written."

import json
import shutil
from dataclasses import replace

import pytest
from small_benchmark import BOTH, FILES, ScanPlan, raw_arrays, sentence, written
from toy_cases import write_case

from mmccd import intensity, runtime
from mmccd.benchmark.dataset import calibration_slices, load_evaluation_set, load_training_data, store_paths
from mmccd.benchmark.plan import ScanSource
from mmccd.benchmark.run import check_scans, run_benchmark
from mmccd.cases.prepare import prepare
from mmccd.cases.store import SliceStore

pytestmark = pytest.mark.usefixtures("quick_trainings")
LISTS = {"train": ("c0", "c1"), "val": ("c2",), "test": ("c3", "c4")}


@pytest.fixture(autouse=True)
def one_thread():
    with runtime.single_thread():
        yield


@pytest.fixture(autouse=True)
def nothing_cached():
    for f in (load_evaluation_set, load_training_data):
        f.cache_clear()


def make_store(folder, name, **options):
    prepare(
        folder / "raw", folder / name, **{"size": 32, "slices": None, "min_brain": 1.0, "progress": False} | options
    )


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    "Six toy cases, two of them with a lesion, and their store."
    folder = tmp_path_factory.mktemp("toy")
    for i in range(6):
        write_case(folder / "raw", f"c{i}", ("flair", "t2"), seed=i, lesion=i in (3, 4))
    make_store(folder, "toy.zarr")
    return folder


@pytest.fixture
def scans(toy, tmp_path):
    "A copy of them, with lists: a call that gives the plan, after changes to the lists."
    for name in ("raw", "toy.zarr"):
        shutil.copytree(toy / name, tmp_path / name)

    def plan(methods=(), pairs=BOTH[:1], store="toy.zarr", test_store="", **lists):
        for name, ids in (LISTS | lists).items():
            (tmp_path / f"{name}.txt").write_text("\n".join(ids) + "\n")
        paths = [str(tmp_path / f"{n}.txt") for n in LISTS]
        source = ScanSource(str(tmp_path / store), *paths, test_store=test_store and str(tmp_path / test_store))
        return ScanPlan(tmp_path / "out", "smoke", pairs, methods, scans=source)

    return plan


def test_scans(scans, tmp_path):
    "Somebody without lesion on the list to test is named, and not scored."
    found = run_benchmark(scans(("dae",), test=("c3", "c4", "c5")), progress=False)
    assert {p.name for p in (tmp_path / "out").iterdir()} == FILES | {"runs", "scores"}
    assert [row[:2] for row in found["subjects"]["rows"]] == [["c3", "patient"], ["c4", "patient"]]
    assert found["subjects"]["left_out"] == ["c5"]
    assert not found["subjects"]["healthy"]
    assert {row[2] for row in found["subjects"]["rows"]} <= {4, 5}
    assert "4 slices (places 2 to 7) of" in found["data"]["calibrate"]
    assert "of 1 case" in found["data"]["calibrate"]
    about = json.loads((tmp_path / "out/runs/dae/train.json").read_text())["about"]
    assert (about["data"]["ids"], about["validation"]["ids"]) == (["c0", "c1"], ["c2"])
    tables = (tmp_path / "out/tables.md").read_text()
    assert "2 patients, slice protocol" in tables
    assert " - |" in tables


def test_one_patient(scans):
    "No interval for one, and no NaN."
    found = run_benchmark(scans(test=("c3",)), progress=False)
    s = found["scores"]["threshold-flair"]["kinds"]["patient"]["summary"]["ap"]
    assert (s["n"], s["low"], s["high"]) == (1, None, None)
    assert s["mean"] > 0.9
    assert written(scans()) == found


def test_test_store_of_its_own(scans, tmp_path):
    "At another size, and without those to learn from."
    for i in (0, 1):
        shutil.rmtree(tmp_path / f"raw/c{i}")
    make_store(tmp_path, "large.zarr", size=40)
    plan = scans(test_store="large.zarr")
    check_scans(plan)
    assert [(s.id, s.batch["brain"].shape[-1]) for s in load_evaluation_set(plan).subjects] == [("c3", 40), ("c4", 40)]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"test": ("c3", "c0")}, "c0 is in the list for train and in that for test"),
        ({"val": ("c2", "c3")}, "c3 is in the list for val and in that for test"),
        ({"test": ("c3", "c9")}, "c9"),
        ({"test": ("c2 ", "c5")}, "in the list for val"),
        ({"test": ("c5",)}, "shows a lesion"),
        ({"pairs": (("flair", "t1"),)}, "has no t1"),
        ({"store": "none.zarr"}, "none.zarr"),
        ({"test_store": "none.zarr"}, "none.zarr"),
    ],
)
def test_scans_that_do_not_fit(scans, tmp_path, changes, words):
    "Refused before anything is written, and long before anything is trained."
    assert words in sentence(run_benchmark, scans(("dae",), **changes), progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["test", "val"])
def test_scans_without_segmentation(scans, tmp_path, part):
    id = LISTS[part][0]
    (tmp_path / f"raw/{id}/{id}_seg.nii.gz").unlink()
    make_store(tmp_path, "unknown.zarr")
    text = sentence(run_benchmark, scans(store="unknown.zarr"), progress=False)
    assert id in text
    assert "no segmentation" in text
    assert not (tmp_path / "out").exists()


def test_scans_with_other_places(scans, tmp_path):
    make_store(tmp_path, "low.zarr", slices=range(0, 2), min_brain=0.1)
    text = sentence(run_benchmark, scans(store="low.zarr"), progress=False)
    assert "c3 has no slice at places 2 to 7: prepare it with --slices 2:7 or wider" in text
    assert not (tmp_path / "out").exists()


def test_scans_with_another_normalisation(scans, tmp_path):
    other = next(m for m in intensity.METHODS if m != intensity.DEFAULT)
    make_store(tmp_path, "other.zarr", normalisation=other)
    text = sentence(run_benchmark, scans(test_store="other.zarr"), progress=False)
    assert intensity.DEFAULT in text
    assert other in text
    assert not (tmp_path / "out").exists()


class NarrowPlan(ScanPlan):
    "Scored at places where everybody on its list to validate shows a lesion."

    @property
    def recipe(self):
        return replace(super().recipe, test_places=range(4, 6))


def test_calibrated_elsewhere_if_it_must(scans, tmp_path):
    "Where none of the places is healthy, healthy slices of other places set the threshold, and the record says so."
    source = scans().scans
    source = replace(source, val_list=source.test_list, test_list=source.val_list)
    batch, words = calibration_slices(NarrowPlan(tmp_path / "out", "smoke", BOTH[:1], (), scans=source))
    assert "all places, as none of places 4 to 5 is free of lesion" in words
    assert len(batch["brain"]) == 4
    assert not batch["lesion"].any()


def test_most_lesion_and_its_pixels(scans):
    "The slice with most lesion inside the brain; its pixels are as large as the scan says."
    plan = scans()
    store = SliceStore(store_paths(plan)["test"])
    for s in load_evaluation_set(plan).subjects:
        _images, masks = raw_arrays(store_paths(plan)["test"], s.id)
        areas = (masks[:, 0] & masks[:, 1]).sum((1, 2))
        rows = [row for row in store.table if row.id == s.id and 2 <= row.place < 8]
        most = max(rows, key=lambda row: areas[row.index])
        assert s.place == most.place
        assert s.batch["lesion"].sum() == areas.max() > 0
        assert s.spacing**2 * s.batch["brain"].sum().item() == pytest.approx(100 * most.brain_cm2)
