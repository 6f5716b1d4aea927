"Repositories for the hub: what their cards say is true, and what is pushed comes back."

import json
import re
from functools import cache

import publish_weights
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id

from mmccd.detector import fingerprint, load_detector
from mmccd.weights.hub import WEIGHTS, packaged

QUICK = ["ae", "ensemble", "mmccd", "threshold"]  # one of each kind: every result that scores come from
METHODS = sorted(p.parent.name for p in WEIGHTS.glob("*/config.json"))
EACH = [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in METHODS]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    "The folder that is prepared for a packaged method, by its name."
    out = tmp_path_factory.mktemp("out")
    return cache(lambda method: publish_weights.prepare(method, out, "me"))


@cache
def fingerprint_of(name):
    return fingerprint(load_detector(name))


@cache
def result_in(file):
    return json.loads((publish_weights.ROOT / file).read_text())


def test_each_method_has_a_repository_of_its_own():
    names = [publish_weights.repository(method) for method in METHODS]
    assert len(set(names)) == len(METHODS)
    assert {"mmccd", "mmccd-published", "mmccd-cycle"} <= set(names)
    for name in names:
        validate_repo_id(f"me/{name}")


@pytest.mark.parametrize("method", EACH)
def test_card(prepared, method):
    "The hub's library reads back what was written, and the card leads nowhere that is not there."
    folder = prepared(method)
    card = ModelCard.load(folder / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "mmccd")
    assert card.data.pipeline_tag == "image-segmentation"
    assert "mmccd" in card.data.tags
    assert card.data.get("datasets") is None  # none of the hub's was used
    assert str(card) == (folder / "README.md").read_text()
    assert card.text.count("not a medical device") == 1
    for target in re.findall(r"\]\(([^)]+)\)", card.text):
        local = target.removeprefix("https://github.com/mmccd/mmccd/blob/main/")
        root = folder if local == target else publish_weights.ROOT
        assert target == publish_weights.SOURCE or (root / local).exists(), target
    names = re.findall(rf"hf:me/{folder.name}[\w:-]*", card.text)
    assert names
    for name in set(names):
        assert fingerprint(load_detector(name.replace(f"hf:me/{folder.name}", str(folder))))


@pytest.mark.parametrize("method", EACH)
def test_scores_are_those_of_these_weights(prepared, method):
    "Found in the file that is named, in a row with the fingerprint of the detector that is named."
    scores = ModelCard.load(prepared(method) / "README.md").data.eval_results
    assert scores
    for score in scores:
        result = result_in(score.source_name)
        name = re.match(r"[\w-]+", score.metric_name)[0]
        assert name in packaged()
        known = fingerprint_of(name)
        if "methods" in result:
            rows = [r for r, about in result["methods"].items() if about["fingerprint"] == known]
            found = [result["kinds"][score.dataset_config][r]["summary"]["ap"] for r in rows]
        else:
            assert result["weights"][name] == known
            assert not result["sets"][score.dataset_config]["tuned_on"]
            found = [row["ap"] for row in result["table"][score.dataset_config].values()]
        (ap,) = {json.dumps(f) for f in found if f["mean"] == score.metric_value}
        assert f"mean of {json.loads(ap)['n']} (" in score.metric_name
        assert re.fullmatch(r"([\w-]+/)?[\w.-]+", score.dataset_type)  # the hub refuses others


def test_the_map_that_is_scored_is_the_map_that_is_packaged(prepared):
    "Not the one with another window or normalisation, which was measured with the same weights."
    scores = ModelCard.load(prepared("mmccd") / "README.md").data.eval_results
    (found,) = (s for s in scores if s.metric_name.startswith("mmccd-t2-t1:") and s.dataset_config == "glioma")
    result = result_in("data/results/comparison.json")["kinds"]["glioma"]
    assert found.metric_value == result["mmccd + expected, mean of 3 t2-t1"]["summary"]["ap"]["mean"]
    assert found.metric_value != result["mmccd t2-t1"]["summary"]["ap"]["mean"]
    assert "plain threshold 0.47; everything positive 0.16" in found.metric_name


def test_other_weights_have_no_scores(monkeypatch, tmp_path):
    monkeypatch.setattr(publish_weights, "fingerprint", lambda detector: "0" * 16)
    folder = publish_weights.prepare("threshold", tmp_path, "me")
    data = ModelCard.load(folder / "README.md").data
    assert data.eval_results is None
    assert data.metrics is None


def test_files_are_those_of_the_package(prepared):
    ours, theirs = (
        {p.name: p.read_bytes() for p in folder.iterdir() if p.name != "README.md"}
        for folder in (prepared("ae"), WEIGHTS / "ae")
    )
    assert ours == theirs


def test_pushed_weights_come_back(hub_server, tmp_path, capsys):
    for _ in range(2):  # the second time nothing is new
        assert publish_weights.main([str(tmp_path), "threshold", "cycle", "--push", "me", "--private"]) == 0
        addresses = capsys.readouterr().out.splitlines()
    found = hub_server.repositories
    assert [a.partition("/commit/")[0] for a in addresses] == [
        f"{hub_server.url}/me/{n}" for n in ("mmccd-threshold", "mmccd-cycle")
    ]
    assert all(
        r.private and len(r.messages) == 1 and r.messages[0].startswith("Weights of mmccd ") for r in found.values()
    )
    for name in ("threshold-t1", "cycle-t2-flair"):
        method, _, variant = name.partition("-")
        again = load_detector(f"hf:me/{publish_weights.repository(method)}:{variant}")
        assert fingerprint(again) == fingerprint_of(name)
        assert again.calibration == load_detector(name).calibration


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nosuch"], "no weights of nosuch are packaged; there are ae, "),
        (["threshold", "--push", "you"], "the hub lets nobody write to you/mmccd-threshold with this token"),
    ],
)
def test_refused(hub_server, tmp_path, capsys, words, sentence):
    with pytest.raises(SystemExit) as e:
        publish_weights.main([str(tmp_path / "out"), *words])
    out, err = capsys.readouterr()
    assert (e.value.code, out) == (2, "")
    assert sentence in err.splitlines()[-1]


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SystemExit) as e:
        publish_weights.main([str(tmp_path / "file"), "threshold"])
    assert e.value.code == 2
    assert "a file is where a folder should be" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_nothing_half_written_is_left(monkeypatch, tmp_path):
    def broken(*args):
        raise ValueError("no card")

    monkeypatch.setattr(publish_weights, "packaged_card", broken)
    with pytest.raises(SystemExit):
        publish_weights.main([str(tmp_path / "out"), "threshold"])
    assert not (tmp_path / "out").exists()
