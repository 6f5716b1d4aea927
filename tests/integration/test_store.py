"""The store: the same from everywhere, whole or not there, and one sentence for what goes wrong."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import nibabel as nib
import numpy as np
import pytest
import torch
import zarr
from toy_cases import AFFINE, tree, volumes, write_case

import mmccd
from mmccd.cases.case import Case
from mmccd.cases.phantoms import Phantoms, write_phantom
from mmccd.cases.prepare import case_arrays, count_processes, make_recipe, normalised_slices, prepare
from mmccd.cases.records import open_files, read_records, read_store
from mmccd.cases.store import SliceDataset, SliceStore
from mmccd.cli import options as cli_options
from mmccd.cli import prepare as cli_prepare
from mmccd.cli.app import main
from mmccd.intensity import DEFAULT, METHODS
from mmccd.phantom import make_phantom
from mmccd.slices import MIN_BRAIN, resize, resize_labels

SMALL = dict(slices=None, size=16, fov=28.0, progress=False, min_brain=1.0)
TWO = Phantoms(healthy=1, glioma=1, seed=3)


@pytest.fixture
def raw(tmp_path):
    "Four toy cases with two modalities; the last is healthy."
    for i in range(4):
        write_case(tmp_path / "raw", f"c{i}", ("flair", "t2"), seed=i, lesion=i < 3)
    return tmp_path / "raw"


def sentence(f, *args, **kw):
    with pytest.raises(ValueError) as error:
        f(*args, **kw)
    text = str(error.value)
    assert text.endswith("."), text
    assert "\n" not in text, text
    return text


def wait_for_a_record(place, run):
    "Until a first case counts, or the process has ended."
    while not any('"rows"' in p.read_text() for p in Path(place).glob("phantom*/zarr.json")) and run.poll() is None:
        time.sleep(0.05)


def contents(place):
    records = read_records(place)
    arrays = {
        f"{i}/{n}": zarr.open_array(str(place), path=f"{i}/{n}", mode="r")[:].tobytes()
        for i, r in records.items()
        if r["rows"]
        for n in ("images", "masks")
    }
    return {i: r["rows"] for i, r in records.items()}, arrays


# ---- the same from everywhere
def test_through_nifti_and_from_memory(tmp_path):
    "A phantom straight into a store is the phantom written, read and prepared; by processes or without."
    slices = range(78, 82)
    for kind in ("healthy", "glioma"):
        write_phantom(make_phantom(kind, 3, 0, slices), tmp_path / "raw")
    for name, source, jobs in [
        ("files", tmp_path / "raw", 1),
        ("memory", TWO, 1),
        ("jobs", TWO, 2),
        ("files2", tmp_path / "raw", 2),
    ]:
        done = prepare(source, tmp_path / name, size=32, slices=slices, jobs=jobs, progress=False)
        assert (done["new"], done["kept"], done["failed"], done["slices"]) == (2, 0, [], 8)
    first = contents(tmp_path / "files")
    assert all(contents(tmp_path / n) == first for n in ("memory", "jobs", "files2"))
    assert read_store(tmp_path / "memory")["phantom"] == {"version": 1, "seed": 3, "whole": False}


def test_whole_heads_and_parts(tmp_path):
    "Brightness over a whole head and over two slices differ, so the recipe says which."
    heads = []
    with mock.patch(
        "mmccd.cases.prepare.make_phantom",
        side_effect=lambda kind, seed, i, slices, *more: (
            heads.append(slices) or make_phantom(kind, seed, i, slices or range(76, 84), *more)
        ),
    ):
        for whole in (False, True):
            prepare(Phantoms(healthy=1, whole=whole), tmp_path / str(whole), slices=range(80, 82), size=16)
    assert heads == [range(80, 82), None]
    a, b = (SliceStore(tmp_path / str(w)) for w in (False, True))
    assert [r.place for r in a.table] == [r.place for r in b.table] == [80, 81]
    assert a.recipe["phantom"]["whole"] is False
    assert "not of phantoms" in sentence(
        prepare, Phantoms(healthy=1, whole=True), tmp_path / "False", slices=range(80, 82), size=16
    )


def test_every_nth_place_of_whole_heads(tmp_path):
    "Beginning at another place from head to head; what is stored is what the whole head has there."
    few = Phantoms(healthy=2, every=31, seed=3)
    options = dict(size=32, slices=range(30, 126), modalities=["t1", "t2"], progress=False)
    assert prepare(few, tmp_path / "few", **options)["slices"] == 8
    store = SliceStore(tmp_path / "few")
    places = {id[-1]: [r.place for r in store.table if r.id == id] for id in store.ids}
    assert places == {"0": [31, 62, 93, 124], "1": [32, 63, 94, 125]}
    assert store.recipe["phantom"] == {"version": 1, "seed": 3, "whole": True, "every": 31}
    whole = Case.from_phantom(make_phantom("healthy", 3, 1, range(63, 64)))
    got = store.dataset().batch([5])
    assert torch.equal(got["brain"], resize_labels(whole.brain_slices(0), 32))
    x, y = (v[got["brain"]] for v in (got["t2"], resize(whole.slices("t2", 0), 32)))
    torch.testing.assert_close(torch.corrcoef(torch.stack([x, y]))[0, 1], torch.tensor(1.0), rtol=0, atol=5e-3)
    before = contents(tmp_path / "few")
    more = prepare(Phantoms(healthy=3, every=31, seed=3), tmp_path / "few", **options)
    assert (more["kept"], more["new"]) == (2, 1)
    assert {k: v for k, v in contents(tmp_path / "few")[1].items() if k in before[1]} == before[1]
    for other in (Phantoms(healthy=3, every=30, seed=3), Phantoms(healthy=3, whole=True, seed=3)):
        assert "every 31), not of phantoms" in sentence(prepare, other, tmp_path / "few", **options)
    assert "every 31st, got every 40" in sentence(prepare, Phantoms(healthy=1, every=40), tmp_path / "no", **options)


def test_heads_that_differ_more_than_usual(tmp_path):
    "Their store says so, and is not gone on with by usual ones; what is in it are those heads."
    options = dict(size=32, slices=range(78, 80), modalities=["t1"], progress=False)
    varied = Phantoms(healthy=1, every=2, seed=3, varied=("image", "anatomy"))
    done = prepare(varied, tmp_path / "s", **options)
    store = SliceStore(tmp_path / "s")
    assert store.ids == ["phantom1-healthy-s3-000-anatomy-image"]
    assert store.recipe["phantom"]["varied"] == ["anatomy", "image"]
    assert prepare(varied, tmp_path / "s", **options)["kept"] == done["new"] == 1
    usual = Phantoms(healthy=1, every=2, seed=3)
    assert "varied anatomy and image), not of phantoms (" in sentence(prepare, usual, tmp_path / "s", **options)
    prepare(usual, tmp_path / "usual", **options)
    a, b = (SliceStore(tmp_path / n).dataset().batch([0]) for n in ("s", "usual"))
    assert not torch.equal(a["t1"], b["t1"])
    wrong = Phantoms(healthy=1, varied=("colour",))
    said = "Phantoms cannot vary colour; choose from anatomy, contrast, image."
    assert said in sentence(prepare, wrong, tmp_path / "no", **options)
    assert not (tmp_path / "no").exists()


def test_values(raw, tmp_path):
    prepare(raw, tmp_path / "s", **SMALL)
    data = SliceStore(tmp_path / "s").dataset(tumour_free=False)
    for k, row in enumerate(data.rows):
        case, got = Case.load(raw / row.id), data.batch([k])
        for m in ("flair", "t2"):
            torch.testing.assert_close(got[m], resize(case.slices(m, row.index), 16), rtol=2**-10, atol=1e-4)
            assert got[m].dtype == torch.float32
        assert torch.equal(got["brain"], resize_labels(case.brain_slices(row.index), 16))
        assert torch.equal(got["lesion"], resize_labels(case.lesion_slices(row.index), 16))
        assert row.brain_cm2 == round(case.brain[:, :, row.index].sum() * 0.01, 2)
        assert row.lesion_cm2 == round(case.lesion[:, :, row.index].sum() * 0.01, 2)
    assert len(data) == 40
    assert list(data.batch([0])) == ["flair", "t2", "brain", "lesion"]


@pytest.mark.parametrize("method", [*METHODS, "published"])
def test_every_normalisation(raw, tmp_path, method):
    case = Case.load(raw / "c0")
    torch.testing.assert_close(
        normalised_slices(case, "t2", [2, 7, 3], method), case.slices("t2", [2, 7, 3], method), rtol=1e-6, atol=1e-6
    )
    assert prepare(raw, tmp_path / "s", normalisation=method, **SMALL)["recipe"]["normalisation"] == method


def test_turned_cases(tmp_path):
    "A case stored in another box gives the same slices."
    a = write_case(tmp_path / "raw", "a")
    for p in a.iterdir():
        image = nib.load(p)
        (tmp_path / "turned/a").mkdir(parents=True, exist_ok=True)
        nib.save(nib.as_closest_canonical(image), tmp_path / "turned/a" / p.name)
    for n in ("raw", "turned"):
        prepare(tmp_path / n, tmp_path / f"{n}.zarr", **SMALL)
    assert contents(tmp_path / "raw.zarr") == contents(tmp_path / "turned.zarr")


# ---- resuming
def test_a_second_call_goes_on(raw, tmp_path):
    first = prepare(raw / "c0", tmp_path / "s", **SMALL)
    before = tree(tmp_path / "s/c0")
    assert first["new"] == 1
    done = prepare(raw, tmp_path / "s", **SMALL)
    assert (done["new"], done["kept"], done["cases"]) == (3, 1, 4)
    assert tree(tmp_path / "s/c0") == before
    prepare(raw, tmp_path / "other", **SMALL)
    assert contents(tmp_path / "s") == contents(tmp_path / "other")
    with mock.patch("mmccd.cases.prepare.case_arrays", side_effect=AssertionError):
        assert prepare(raw, tmp_path / "s", **SMALL)["kept"] == 4


@pytest.mark.parametrize(
    "other",
    [
        dict(size=32),
        dict(slices=range(2, 5)),
        dict(modalities=["flair"]),
        dict(tumour_free=True),
        dict(min_brain=2.0),
        dict(healthy=True),
        dict(normalisation="median_iqr"),
    ],
)
def test_another_recipe_is_refused(raw, tmp_path, other):
    prepare(raw, tmp_path / "s", **SMALL)
    before = tree(tmp_path / "s")
    assert "was made with" in sentence(prepare, raw, tmp_path / "s", **SMALL | other)
    assert tree(tmp_path / "s") == before


def test_another_case_of_the_same_name(raw, tmp_path):
    prepare(raw, tmp_path / "s", **SMALL)
    other = write_case(tmp_path / "elsewhere", "c0", ("flair", "t2"), seed=77)
    done = prepare(other, tmp_path / "s", **SMALL)
    assert done["new"] == 0
    assert "c0 is in the store already" in done["failed"][0]["error"]
    shutil.rmtree(raw / "c1")  # raw data may be gone
    assert prepare(raw, tmp_path / "s", **SMALL)["cases"] == 4


def test_version_alone_is_no_other_recipe(raw, tmp_path):
    with mock.patch("mmccd.cases.prepare.__version__", "0.0.1"):
        prepare(raw / "c0", tmp_path / "s", **SMALL)
    assert prepare(raw, tmp_path / "s", **SMALL)["new"] == 3
    assert {r["mmccd"] for r in read_records(tmp_path / "s").values()} == {"0.0.1", mmccd.__version__}


SCRIPT = """
import sys, time
import mmccd.cases.prepare as s
from mmccd.cases.phantoms import Phantoms
slow = s.write_case
def slower(*args):
    print(args[1], flush=True)
    slow(*args)
s.write_case = slower
s.prepare(sys.argv[1], sys.argv[2], slices=None, size=64, fov=28., min_brain=1., progress=False)
"""


def test_sigkill(tmp_path):
    "Killed at random moments again and again: what is there is whole, and in the end it is as if nothing had happened."
    for i in range(8):
        write_case(tmp_path / "raw", f"c{i}", ("flair", "t2"), seed=i)
    options = SMALL | dict(size=64)
    prepare(tmp_path / "raw", tmp_path / "calm", **options)
    whole, rng, kills = contents(tmp_path / "calm"), random.Random(0), 0
    for _ in range(2):
        run = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, tmp_path / "raw", tmp_path / "s"], stdout=subprocess.PIPE, text=True
        )
        run.stdout.readline()  # the first write begins
        time.sleep(rng.uniform(0, 0.15))
        run.kill()
        run.wait()
        kills += run.returncode == -signal.SIGKILL
        if not (tmp_path / "s/zarr.json").exists():
            continue
        rows, arrays = contents(tmp_path / "s")
        assert rows.items() <= whole[0].items()
        assert arrays.items() <= whole[1].items()
    assert kills
    prepare(tmp_path / "raw", tmp_path / "s", **options)
    assert contents(tmp_path / "s") == whole


def test_workers_die_with_their_parent(tmp_path):
    options = "slices=range(80, 81), size=16, jobs=2, progress=False"
    call = f"prepare(Phantoms(healthy=40), {str(tmp_path / 's')!r}, {options})"
    script = f"from mmccd.cases.prepare import Phantoms, prepare\nif __name__ == '__main__': {call}"
    (tmp_path / "run.py").write_text(script)
    run = subprocess.Popen([sys.executable, tmp_path / "run.py"], start_new_session=True, stderr=subprocess.PIPE)
    wait_for_a_record(tmp_path / "s", run)
    run.kill()
    run.wait()
    for _ in range(100):
        try:
            os.killpg(run.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.killpg(run.pid, signal.SIGKILL)
        pytest.fail("workers outlived their parent")
    assert 0 < len(read_records(tmp_path / "s")) < 40


def test_half_a_case_does_not_count(raw, tmp_path):
    prepare(raw, tmp_path / "s", **SMALL)
    whole = contents(tmp_path / "s")
    meta = json.loads((tmp_path / "s/c1/zarr.json").read_text())
    (tmp_path / "s/c1/zarr.json").write_text(json.dumps(meta | {"attributes": {}}))
    (tmp_path / "s/c1/images/c/0/0/0/0").write_bytes(b"half")
    shutil.rmtree(tmp_path / "s/c2")
    (tmp_path / "s/c2").mkdir()
    assert list(read_records(tmp_path / "s")) == ["c0", "c3"] == SliceStore(tmp_path / "s").ids
    assert prepare(raw, tmp_path / "s", **SMALL)["new"] == 2
    assert contents(tmp_path / "s") == whole


# ---- bad cases, bad places
def test_the_smallest_lesion_is_a_lesion(tmp_path):
    "One voxel of a fine grid is far less than a hundredth of a square centimetre."
    write_case(tmp_path / "raw", "a", ("flair", "t2"), lesion=False, affine=np.diag([-0.8, -0.8, 1, 1]))
    path = tmp_path / "raw/a/a_seg.nii.gz"
    labels = np.zeros((24, 28, 10), np.uint8)
    labels[12, 14, 5] = 1
    nib.save(nib.Nifti1Image(labels, np.diag([-0.8, -0.8, 1, 1])), path)
    prepare(tmp_path / "raw", tmp_path / "s", **SMALL | dict(size=28, fov=22.4, min_brain=0.0))
    store = SliceStore(tmp_path / "s")
    assert [r.lesion_cm2 > 0 for r in store.table].count(True) == 1
    free, everything = store.dataset(tumour_free=True), store.dataset(tumour_free=False)
    assert len(everything) == len(free) + 1
    assert not free.batch(range(len(free)))["lesion"].any()
    assert everything.batch(range(len(everything)))["lesion"].any()


def test_a_record_that_a_power_cut_left_empty(raw, tmp_path):
    prepare(raw, tmp_path / "s", **SMALL)
    whole = contents(tmp_path / "s")
    for text in ("", '{"zarr_form'):
        (tmp_path / "s/c1/zarr.json").write_text(text)
        assert list(read_records(tmp_path / "s")) == ["c0", "c2", "c3"]
        done = prepare(raw, tmp_path / "s", **SMALL)
        assert (done["new"], done["kept"], done["failed"]) == (1, 3, [])
        assert contents(tmp_path / "s") == whole


def test_a_finished_case_that_lost_a_file(raw, tmp_path):
    prepare(raw, tmp_path / "s", **SMALL)
    (raw / "c1/c1_t2.nii.gz").unlink()
    write_case(raw, "c4", ("flair", "t2"), seed=9)
    done = prepare(raw, tmp_path / "s", **SMALL)
    assert [f["id"] for f in done["failed"]] == ["c1"]
    assert "t2" in done["failed"][0]["error"]
    assert done["new"] == 1


def test_names_that_no_store_can_hold(tmp_path):
    for id in ("zarr.json", ".a", "a\\b"):
        write_case(tmp_path / "raw", id, ("flair",))
    write_case(tmp_path / "raw", "fine", ("flair",))
    done = prepare(tmp_path / "raw", tmp_path / "s", **SMALL)
    assert done["new"] == 1
    assert all("rename it" in f["error"] for f in done["failed"]), done["failed"]


def test_a_damaged_case_is_named_and_mended(raw, tmp_path):
    import shutil

    prepare(raw, tmp_path / "s", **SMALL)
    whole = contents(tmp_path / "s")
    chunk = next(p for p in (tmp_path / "s/c1/images").rglob("*") if p.is_file() and p.name != "zarr.json")
    chunk.write_bytes(chunk.read_bytes()[:40])
    text = sentence(SliceStore(tmp_path / "s").dataset, tumour_free=False)
    assert "c1" in text
    assert "damaged" in text
    assert "prepare it again" in text
    shutil.rmtree(tmp_path / "s/c1")
    assert prepare(raw, tmp_path / "s", **SMALL)["new"] == 1
    assert contents(tmp_path / "s") == whole
    shutil.rmtree(tmp_path / "s/c2/images")  # such a case does not count
    assert prepare(raw, tmp_path / "s", **SMALL)["new"] == 1
    assert contents(tmp_path / "s") == whole


def test_a_store_without_a_slice_is_none(raw, tmp_path):
    for options in (dict(min_brain=1e5), dict(tumour_free=True, slices=range(4, 6))):
        wanted = raw if "min_brain" in options else raw / "c0"
        assert "No slice of" in sentence(prepare, wanted, tmp_path / "s", **SMALL | options)
        assert not (tmp_path / "s").exists()


def test_a_store_begins_with_its_recipe(raw, tmp_path):
    "Nothing on disk may ever be a group without a recipe: it would be refused from then on."
    seen = []

    def spy(*args, **kw):
        seen.append(kw.get("attributes"))
        raise OSError(28, "No space left on device")

    with mock.patch("zarr.create_group", spy), pytest.raises(ValueError):
        prepare(raw, tmp_path / "s", **SMALL)
    assert seen[0]["recipe"]["size"] == 16


@pytest.mark.parametrize("method", ["published", DEFAULT])
def test_padding_is_background(tmp_path, method):
    "A case that is not square is padded with what lies around its brain."
    write_case(tmp_path / "raw", "a", ("flair",))
    prepare(tmp_path / "raw", tmp_path / "s", **SMALL | dict(size=28, normalisation=method))
    x = SliceStore(tmp_path / "s").dataset(tumour_free=False).batch([0])["flair"][0, 0]
    assert (x[:, 0] == (-3 if method == "published" else -1)).all()
    assert (x[:, 3] == x[0, 0]).all()


def test_bad_cases_do_not_stop_the_others(raw, tmp_path):
    whole = (raw / "c0/c0_t2.nii.gz").read_bytes()
    (raw / "c0/c0_t2.nii.gz").write_bytes(whole[:-20])
    (raw / "c1/c1_flair.nii.gz").unlink()
    nib.save(nib.Nifti1Image(np.ones((24, 28, 10), np.int16), AFFINE), raw / "c2/c2_t2.nii.gz")
    done = prepare(raw, tmp_path / "s", modalities=["flair", "t2"], jobs=2, **SMALL)
    assert [f["id"] for f in done["failed"]] == ["c0", "c1", "c2"]
    assert done["new"] == 1
    for f, words in zip(done["failed"], ("cut off or damaged", "it has no flair", "background is not 0")):
        assert words in f["error"]
        assert "\n" not in f["error"]
        assert f["id"] in f["error"]
    (raw / "c0/c0_t2.nii.gz").write_bytes(whole)
    assert prepare(raw, tmp_path / "s", **SMALL)["new"] == 1


def test_all_bad_leaves_nothing(raw, tmp_path):
    for p in raw.rglob("*flair*"):
        p.write_bytes(b"x" * 400)
    assert len(prepare(raw, tmp_path / "s", **SMALL)["failed"]) == 4
    assert not (tmp_path / "s").exists()
    with mock.patch("mmccd.cases.prepare.load_source", side_effect=KeyError("boom")):
        done = prepare(raw, tmp_path / "s", **SMALL)
    assert done["failed"][0]["error"] == "c0: Unexpected KeyError: 'boom'"


def test_places_that_are_no_store(raw, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x.txt").touch()
    zarr.create_group(str(tmp_path / "foreign"), attributes={"a": 1})
    zarr.create_array(str(tmp_path / "array"), shape=(3,), dtype="f4")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/zarr.json").write_text("{half")
    before = tree(tmp_path)
    for name, words in dict(
        file="it is a file",
        full="not a store of slices",
        foreign="not a store of slices",
        array="not a store of slices",
        broken="not a store of slices",
    ).items():
        for f in (SliceStore, lambda p: prepare(raw, p, **SMALL)):
            assert words in sentence(f, tmp_path / name)
            assert str(tmp_path / name) in sentence(f, tmp_path / name)
    assert "there is nothing" in sentence(SliceStore, tmp_path / "gone")
    assert "there is nothing" in sentence(SliceStore, "memory://gone")
    assert "nosuch" in sentence(SliceStore, "nosuch://x")
    assert "file/s" in sentence(prepare, raw, tmp_path / "file/s", **SMALL)
    assert tree(tmp_path) == before
    (tmp_path / "empty").mkdir()
    assert prepare(raw, tmp_path / "empty", **SMALL)["new"] == 4


def test_a_newer_format(raw, tmp_path):
    prepare(raw / "c0", tmp_path / "s", **SMALL)
    zarr.open_group(str(tmp_path / "s")).attrs["recipe"] = read_store(tmp_path / "s") | {"format": 99}
    assert "format 99" in sentence(SliceStore, tmp_path / "s")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission(raw, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    assert "Permission denied" in sentence(prepare, raw, tmp_path / "locked/s", **SMALL)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "No space left on device; free some space"),
        (PermissionError(13, "Permission denied"), "Permission denied; choose another place"),
    ],
)
def test_what_the_system_says(raw, tmp_path, error, words):
    "A store that cannot be written ends the run: the next case would fail in the same way."
    real, calls = zarr.create_array, []

    def failing(*args, **kw):
        calls.append(args)
        if len(calls) > 2:
            raise error
        return real(*args, **kw)

    with mock.patch("zarr.create_array", failing):
        assert words in sentence(prepare, raw, tmp_path / "s", **SMALL)
    assert len(calls) == 3
    assert list(read_records(tmp_path / "s")) == ["c0"]
    assert prepare(raw, tmp_path / "s", **SMALL)["new"] == 3


@pytest.mark.parametrize(
    "options",
    [
        dict(size=7),
        dict(size=64.0),
        dict(slices=range(5, 5)),
        dict(slices=range(0, 9, 2)),
        dict(slices=[1]),
        dict(modalities=["pd"]),
        dict(modalities=["t1", "t1"]),
        dict(modalities=[]),
        dict(min_brain=-1),
        dict(min_brain=float("nan")),
        dict(normalisation="zscore"),
    ],
)
def test_bad_recipes(raw, tmp_path, options):
    sentence(prepare, raw, tmp_path / "s", **SMALL | options)
    assert not (tmp_path / "s").exists()


def test_nothing_to_prepare(tmp_path):
    (tmp_path / "raw").mkdir()
    for bad in (tmp_path / "raw", tmp_path / "gone", [], Phantoms()):
        sentence(prepare, bad, tmp_path / "s")
    assert not (tmp_path / "s").exists()


# ---- data sets
def test_batches_from_memory_and_from_the_store(raw, tmp_path):
    prepare(raw, tmp_path / "s", **SMALL)
    store = SliceStore(tmp_path / "s")
    a, b = (store.dataset(tumour_free=False, in_memory=m) for m in (True, False))
    assert a.kept is not None
    assert b.kept is None
    assert store.dataset().kept is not None
    with mock.patch("mmccd.cases.store.free_memory", return_value=2 * a.nbytes - 1):
        assert store.dataset(tumour_free=False).kept is None
    rng = random.Random(0)
    for _ in range(10):
        indices = [rng.randrange(len(a)) for _ in range(rng.randint(1, 12))]
        x, y = a.batch(indices), b.batch(torch.tensor(indices))
        assert list(x) == list(y)
        assert all(torch.equal(x[n], y[n]) and x[n].dtype == y[n].dtype for n in x)
        assert all(torch.equal(x[n], torch.cat([a.batch([i])[n] for i in indices])) for n in x)


def test_slices_are_those_that_zarr_reads(raw, tmp_path):
    prepare(raw, tmp_path / "s", **SMALL)
    data = SliceStore(tmp_path / "s").dataset("c1", "t2", tumour_free=False, in_memory=False)
    images, masks = data.read([7, 0, 7])
    for found, name, channels in ((images, "images", [1]), (masks, "masks", [0, 1])):
        array = zarr.open_array(str(tmp_path / "s"), path=f"c1/{name}", mode="r")
        np.testing.assert_array_equal(found, array[:][[7, 0, 7]][:, channels])


def test_a_batch_from_a_distant_store_is_fetched_at_once(raw, tmp_path):
    url = f"memory://{tmp_path.name}/s.zarr"
    prepare(raw, url, **SMALL)
    data = SliceStore(url).dataset(tumour_free=False, in_memory=False)
    wanted = data.batch([0, 15, 35])  # of three cases, which are looked up the first time
    files, _ = open_files(url)
    counted = mock.patch.object(type(files), "cat_ranges", wraps=files.cat_ranges)
    with counted as fetched, mock.patch.object(type(files), "info", side_effect=AssertionError):
        assert all(torch.equal(x, wanted[n]) for n, x in data.batch([0, 15, 35]).items())
    assert [len(call.args[0]) for call in fetched.call_args_list] == [2 * 3]


def test_choosing(raw, tmp_path):
    prepare(raw, tmp_path / "s", **SMALL)
    store = SliceStore(tmp_path / "s")
    assert store.ids == ["c0", "c1", "c2", "c3"]
    assert len(store.table) == 40
    free = store.dataset(modalities="t2")
    assert list(free.batch([0])) == ["t2", "brain", "lesion"]
    assert all(r.lesion_cm2 == 0 for r in free.rows)
    assert free.recipe["chosen"]["tumour_free"]
    assert store.dataset(["c1", "c3"]).ids == ["c1", "c3"]
    assert "40 slices" in store.describe()
    assert "all tumour-free" in free.describe()
    assert all(r.brain_cm2 >= 3.2 for r in store.dataset(min_brain=3.2).rows)
    assert len(store.dataset(min_brain=3.2)) < len(store.dataset())
    assert "no case x (and 1 more)" in sentence(store.dataset, ["c0", "x", "y"])
    assert "no modality t1" in sentence(store.dataset, None, "t1")
    assert "No slice is left" in sentence(store.dataset, min_brain=1e6)
    assert "No slice is left" in sentence(store.dataset, [])
    assert store.dataset("c3").ids == ["c3"]
    json.dumps(free.recipe)


def test_all_slices_with_lesion(tmp_path):
    write_case(tmp_path / "raw", "a")
    mask = nib.load(tmp_path / "raw/a/a_seg.nii.gz")
    nib.save(nib.Nifti1Image(np.ones(mask.shape, np.uint8), mask.affine), tmp_path / "raw/a/a_seg.nii.gz")
    write_case(tmp_path / "raw", "b", seed=1, lesion=False)
    done = prepare(tmp_path / "raw", tmp_path / "s", tumour_free=True, **SMALL)
    assert not done["failed"]
    assert done["cases"] == 2
    assert done["slices"] == 10
    assert SliceStore(tmp_path / "s").dataset().ids == ["b"]
    assert prepare(tmp_path / "raw", tmp_path / "s", tumour_free=True, **SMALL)["kept"] == 2
    prepare(tmp_path / "raw/a", tmp_path / "t", **SMALL)
    assert "all 10 show lesion" in sentence(SliceStore(tmp_path / "t").dataset)


def test_without_a_segmentation(raw, tmp_path):
    (raw / "c3/c3_seg.nii.gz").unlink()
    done = prepare(raw, tmp_path / "free", tumour_free=True, **SMALL)
    assert [f["id"] for f in done["failed"]] == ["c3"]
    assert "it has no segmentation" in done["failed"][0]["error"]
    prepare(raw, tmp_path / "s", **SMALL)
    store = SliceStore(tmp_path / "s")
    assert "c3" in sentence(store.dataset)
    assert "lesion" not in store.dataset(tumour_free=False).batch([0])
    assert "lesion" in store.dataset(["c0"]).batch([0])
    assert prepare(raw, tmp_path / "h", healthy=True, **SMALL)["cases"] == 4
    data = SliceStore(tmp_path / "h").dataset(["c3"])
    assert len(data) == 10
    assert not data.batch(range(10))["lesion"].any()


def test_loader_and_getitem(raw, tmp_path):
    prepare(raw, tmp_path / "s", **SMALL)
    data = SliceStore(tmp_path / "s").dataset(tumour_free=False, in_memory=False)
    assert isinstance(data, SliceDataset)
    assert data[3]["flair"].shape == (1, 16, 16)
    for workers in (0, 1):
        got = list(torch.utils.data.DataLoader(data, batch_size=7, num_workers=workers))
        assert torch.equal(torch.cat([b["t2"] for b in got]), data.batch(range(40))["t2"])


def test_another_place(raw, tmp_path):
    url = f"memory://{tmp_path.name}/s.zarr"
    done = prepare(raw, url, jobs=4, **SMALL)
    assert done["new"] == 4
    assert prepare(raw, url, **SMALL)["kept"] == 4
    prepare(raw, tmp_path / "s", **SMALL)
    for kept in (True, False):
        a, b = (SliceStore(p).dataset(in_memory=kept).batch(range(9)) for p in (url, tmp_path / "s"))
        assert all(torch.equal(a[n], b[n]) for n in a)
    assert "was made with size 16" in sentence(prepare, raw, url, **SMALL | dict(size=32))
    assert SliceStore(f"file://{tmp_path}/s").ids == ["c0", "c1", "c2", "c3"]


def test_extreme_values_stay_finite():
    "float16 ends at 65504; a voxel beyond it must not become infinite."
    image, _ = volumes()
    brain, image[12, 14, 5] = image > 0, 1e9
    images, _, _ = case_arrays(
        Case("a", {"flair": image}, AFFINE, brain, None, None),
        make_recipe(28, None, ["flair"], False, 1.0, False, DEFAULT),
    )
    assert np.isfinite(images).all()
    assert images.max() == 60000


def test_few_files(raw, tmp_path):
    prepare(raw, tmp_path / "s", **SMALL)
    assert len([p for p in (tmp_path / "s").rglob("*") if p.is_file()]) == 1 + 4 * 5
    a = zarr.open_array(str(tmp_path / "s"), path="c0/images", mode="r")
    assert a.dtype == np.float16
    assert a.chunks == (1, 2, 16, 16)
    assert a.shards == a.shape == (10, 2, 16, 16)


# ---- the command
@pytest.fixture
def run(capsys):
    def go(*words):
        capsys.readouterr()
        code = main([str(w) for w in words])
        return code, *capsys.readouterr()

    return go


def test_command(run, raw, tmp_path):
    options = ("--slices", "all", "--size", 16, "--fov", 28, "--min-brain", 1, "--jobs", 1)
    code, out, err = run("prepare", raw, tmp_path / "s", *options)
    assert code == 0
    assert not err
    assert out.startswith("4 cases with 40 slices (6 with lesion), ")
    assert str(tmp_path / "s") in out
    assert "(4 new)" in out
    code, out, err = run("prepare", raw, tmp_path / "s", *options, "--json")
    assert code == 0
    assert json.loads(out)["kept"] == 4
    assert json.loads(out)["recipe"]["min_brain"] == 1.0
    prepare(raw, tmp_path / "api", **SMALL)
    assert contents(tmp_path / "s") == contents(tmp_path / "api")
    write_case(tmp_path / "raw", "c9", ("t2",))
    code, out, err = run("prepare", raw, tmp_path / "s", *options, "--modalities", "flair, t2")
    assert code == 2
    assert "4 cases" in out
    assert "1 failed" in out
    assert err.count("\n") == 1
    assert "c9" in err


def test_command_phantoms(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ("--healthy", 1, "--glioma", 1, "--seed", 3, "--slices", "80:80", "--size", 16, "--jobs", 1)
    code, out, err = run("prepare", "phantom", "s", *words)
    assert code == 0
    assert SliceStore("s").ids == ["phantom1-glioma-s3-000", "phantom1-healthy-s3-000"]
    code, out, err = run("prepare", "phantom", "s", *words[:5], 4, *words[6:])
    assert code == 2
    assert "not of phantoms (version 1, seed 4" in err
    for line in (
        ("phantom", "t"),
        ("raw", "t", "--glioma", 1),
        ("phantom", "t", "--glioma", 1, "--slices", "9:5"),
        ("phantom", "t", "--ms", -1),
        ("phantom", "t", "--ms", 1, "--json", "x.txt"),
    ):
        code, out, err = run("prepare", *line)
        assert code == 2
        assert not out
        assert err.count("\n") == 1
        assert "Traceback" not in err
        assert not Path("t").exists()
    write_case("phantom", "a")  # a folder of that name is data
    assert run("prepare", "phantom", "t", "--slices", "all", "--size", 16, "--min-brain", 0, "--jobs", 1)[0] == 0
    assert SliceStore("t").ids == ["a"]


def test_defaults_agree():
    import inspect
    from dataclasses import fields

    python = {name: p.default for name, p in inspect.signature(prepare).parameters.items()}
    line = {f.name: f.default for f in fields(cli_prepare.PrepareOptions)}
    assert {name: line[name] for name in ("size", "tumour_free", "min_brain")} == {
        name: python[name] for name in ("size", "tumour_free", "min_brain")
    }
    assert line["min_brain"] == MIN_BRAIN
    assert cli_options.slice_range(line["slices"]) is python["slices"] is None


def test_how_many_workers(tmp_path):
    assert (
        count_processes(1, 99, tmp_path)
        == count_processes(4, 1, tmp_path)
        == count_processes(0, 3, tmp_path)
        == count_processes(8, 99, "memory://x")
        == count_processes(2, 0, tmp_path)
        == 1
    )
    assert count_processes(3, 99, tmp_path) == 3
    assert count_processes(8, 5, tmp_path) == 5
    assert count_processes(0, 99, tmp_path) >= 1


def test_ctrl_c(tmp_path):
    run = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from mmccd.cli import main; sys.exit(main())",
            "prepare",
            "phantom",
            tmp_path / "s",
            "--healthy",
            "30",
            "--slices",
            "80:80",
            "--size",
            "16",
            "--jobs",
            "1",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_a_record(tmp_path / "s", run)
    run.send_signal(signal.SIGINT)
    _out, err = run.communicate(timeout=120)
    last = err.splitlines()[-1]  # after others on a slow machine: how many cases are done
    assert last == "mmccd: stopped; finished cases are kept, the same command goes on"
    assert run.returncode == 130
    assert 0 < len(read_records(tmp_path / "s")) < 30
