"""Results in a bucket: every case exactly once, a record never before its files, and an interrupted run goes on."""

import hashlib
import json
import shutil

import fsspec
import pytest
from toy_detection import Noisy, ready

from mmccd.detection.detect import detect_many
from mmccd.detection.evaluation import evaluate
from mmccd.detection.records import OtherResultsError, read_state

pytestmark = pytest.mark.usefixtures("quick_reports")
CHANGES = ("pipe_file", "put_file", "rm_file")


@pytest.fixture
def url(tmp_path):
    yield f"memory://{tmp_path.name}/results"
    files = fsspec.filesystem("memory")
    if files.exists(f"/{tmp_path.name}"):
        files.rm(f"/{tmp_path.name}", recursive=True)


def run(cases, out, seed=0, **options):
    return detect_many(cases, ready(Noisy(), 1.0), out, "flair", seed=seed, **options)


def content(url):
    "Name and bytes of each file; the records without what differs from run to run."
    files, root = fsspec.core.url_to_fs(str(url))
    found = {name.removeprefix(root + "/"): files.cat_file(name) for name in files.find(root)}
    return {name: len(c) if name.endswith("json") else hashlib.md5(c).hexdigest() for name, c in found.items()}, found


def status(result):
    return [c["status"] for c in result["cases"]]


def without_seconds(result):
    return result | {"cases": [{k: v for k, v in c.items() if k != "seconds"} for c in result["cases"]]}


def test_a_bucket_holds_what_a_folder_holds(cases, tmp_path, url):
    here, there = run(cases, tmp_path / "out"), run(cases, url)
    assert without_seconds(here) == without_seconds(there)
    a, b = content(tmp_path / "out")[0], content(url)[0]
    assert a.keys() == b.keys()
    assert all(a[name] == b[name] for name in a if not name.endswith("json"))
    _, found = content(url)
    assert json.loads(found["detect.json"]) == there
    scores = [evaluate(out, cases) for out in (tmp_path / "out", url)]
    assert scores[0] == scores[1]
    assert scores[0]["scores"]["subjects"]


def test_a_second_run_goes_on(cases, tmp_path, url):
    run(cases / "c1", url)
    before = content(url)[1]
    assert status(run(cases, url, skip_existing=True)) == ["done", "skipped", "done"]
    assert status(run(cases, url, skip_existing=True)) == ["skipped"] * 3
    assert {n: c for n, c in content(url)[1].items() if n.startswith("c1/")} == {
        n: c for n, c in before.items() if n.startswith("c1/")
    }
    files, root = fsspec.core.url_to_fs(url)
    files.rm_file(f"{root}/c0/c0_anomaly.nii.gz")
    assert status(run(cases, url, skip_existing=True)) == ["done", "skipped", "skipped"]
    with pytest.raises(OtherResultsError, match=r"memory://.*already holds results of another detector"):
        run(cases, url, seed=1)
    assert status(run(cases / "c2", url, seed=1, overwrite=True)) == ["done"]
    assert {n.split("/")[0] for n in content(url)[0]} == {"c2", "detect.json"}


def test_a_case_that_fails_now_is_no_longer_done(cases, tmp_path, url):
    run(cases, url)
    shutil.copytree(cases, tmp_path / "truth")
    (cases / "c1/c1_flair.nii.gz").write_bytes(b"half")
    assert status(run(cases, url)) == ["done", "failed", "done"]
    assert read_state(url).records["c1"]["case"]["status"] == "failed"
    scores = evaluate(url, tmp_path / "truth")
    assert [r["id"] for r in scores["scores"]["subjects"] + scores["healthy"]] == ["c0", "c2"]


@pytest.mark.parametrize("old", [False, True])
def test_stopped_at_any_change(cases, url, monkeypatch, old):
    "What counts is whole, wherever a run is stopped; the next one does the rest."
    files, root = fsspec.core.url_to_fs(url)
    one, n = cases / "c0", 0
    while True:
        if files.exists(root):
            files.rm(root, recursive=True)
        if old:
            run(one, url, seed=1)
        n, left = n + 1, n + 1
        with monkeypatch.context() as m:
            for name in CHANGES:
                real = getattr(files, name)

                def change(self, *args, real=real, **kwargs):
                    nonlocal left
                    left -= 1
                    if not left:
                        raise KeyboardInterrupt
                    return real(*args, **kwargs)

                m.setattr(type(files), name, change)
            try:
                run(one, url, overwrite=old)
            except KeyboardInterrupt:
                pass
            else:
                break
        _, found = content(url)
        for id, record in read_state(url).records.items():
            for kind, name in record["case"]["files"].items():
                assert hashlib.sha256(found[name]).hexdigest() == record["sha256"][kind], (n, name, id)
        assert status(run(one, url, skip_existing=True, overwrite=old)) in (["done"], ["skipped"])
        assert content(url)[0].keys() == {"detect.json", *(f"c0/c0_{x}" for x in FILES)}
    assert n > 7


FILES = ("anomaly.nii.gz", "segmentation.nii.gz", "report.png", "report.html", "detect.json")


def test_places_that_are_none(cases):
    with pytest.raises(ValueError, match=r"Cannot use nothing://x: .*; choose another place\."):
        run(cases, "nothing://x")
    with pytest.raises(ValueError, match=r"Cannot read memory://nobody: there is no such folder"):
        evaluate("memory://nobody", cases)
