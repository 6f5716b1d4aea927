"The hub: what is fetched from it and pushed to it, and whose fault it is when nothing comes or goes."

import errno
import inspect
import json
import shutil
import threading

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, ModelHubMixin, constants, errors
from toy_detection import ready

from mmccd.detector import Detector, Threshold, load_detector
from mmccd.registry import new_detector
from mmccd.weights.hub import WEIGHTS, split_variant


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A stand-in for the hub: `hub.folders` by name, copied as a download would be; `hub.error` is raised instead."

    class Hub:
        folders, calls, error = {}, [], None

        def snapshot_download(self, name, allow_patterns, **options):
            self.calls.append((name, allow_patterns))
            if self.error:
                raise self.error
            cache = tmp_path / "cache" / name.replace("/", "--")
            cache.mkdir(parents=True, exist_ok=True)
            for file in allow_patterns:
                if (self.folders[name] / file).exists():
                    shutil.copy(self.folders[name] / file, cache)
            return str(cache)

    stand_in = Hub()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", stand_in.snapshot_download)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return stand_in


@pytest.mark.parametrize("method", ["threshold", "mmccd"])
def test_packaged_folders_load_from_a_hub_id(hub, method):
    "Two files are fetched, and all variants are there, tensors included."
    hub.folders["somebody/weights"] = WEIGHTS / method
    variants = json.loads((WEIGHTS / method / "config.json").read_text())["variants"]
    for name, kwargs in (
        ("hf:somebody/weights", {}),
        (f"hf:somebody/weights:{list(variants)[-1]}", {}),
        ("hf:somebody/weights", {"variant": list(variants)[-1]}),
    ):
        variant = kwargs.get("variant") or name.removeprefix("hf:").partition(":")[2] or next(iter(variants))
        found, ours = load_detector(name, **kwargs), load_detector(f"{method}-{variant}")
        assert type(found) is type(ours)
        assert (found.config, found.calibration) == (ours.config, ours.calibration)
        assert all(torch.equal(v, ours.state_dict()[k]) for k, v in found.state_dict().items())
        assert hub.calls[-1] == ("somebody/weights", ["config.json", "model.safetensors"])


def answer(cls, status=404):
    "An error as the hub's library raises it when the server answers."
    error = cls.__new__(cls)
    Exception.__init__(error, f"{status} from the server\nwith details")
    return error


def caused_by(error, cause):
    error.__cause__ = cause
    return error


TRANSPORT = next((b for b in errors.HfHubHTTPError.__bases__ if b is not OSError), OSError)  # of its HTTP library
ERRORS = {
    "unknown": (answer(errors.RepositoryNotFoundError), "the hub has no such repository or keeps it private"),
    "gated": (answer(errors.GatedRepoError, 403), "keeps it private: check the name, or log in"),
    "misspelt": (errors.HFValidationError("no such thing"), "can be no repository on the hub"),
    "no such file": (errors.EntryNotFoundError("none"), r"holds no detector: config\.json or model\.safetensors"),
    "not reached": (TRANSPORT("no route"), "the hub cannot be reached: check the network"),
    "no connection": (ConnectionError("refused"), "the hub cannot be reached: check the network"),
    "too slow": (TimeoutError("slow"), "the hub cannot be reached: check the network"),
    "not in the cache": (
        caused_by(errors.LocalEntryNotFoundError("nothing"), TRANSPORT("no route")),
        "the hub cannot be reached: check the network",
    ),
    "full": (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; put that right"),
    "no right": (PermissionError(errno.EACCES, "Permission denied", "/cache"), "Permission denied; put that right"),
    "full, wrapped": (
        caused_by(errors.LocalEntryNotFoundError("nothing"), OSError(errno.EDQUOT, "Disk quota exceeded")),
        "Disk quota exceeded",
    ),
    "server": (answer(errors.HfHubHTTPError, 500), "could not give me/it: HfHubHTTPError: 500 from the server with"),
    "a defect": (RuntimeError("what\nnow"), "could not give me/it: RuntimeError: what now"),
}


@pytest.mark.parametrize(("error", "words"), ERRORS.values(), ids=ERRORS)
def test_whose_fault_it_is(hub, error, words):
    hub.error = error
    with pytest.raises(ValueError, match=words) as e:
        Detector.from_pretrained("hf:me/it")
    assert "\n" not in str(e.value)
    assert ("network" in str(e.value)) == ("cannot be reached" in words)


def test_switched_off(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.error = errors.LocalEntryNotFoundError("nothing")
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE keeps us from asking the hub: unset it, or give a folder"):
        Detector.from_pretrained("hf:me/it")


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_repository_without_a_detector(hub, tmp_path, missing):
    shutil.copytree(WEIGHTS / "threshold", tmp_path / "other")
    (tmp_path / "other" / missing).unlink()
    hub.folders["me/it"] = tmp_path / "other"
    with pytest.raises(ValueError, match=f"me/it on the hub holds no detector: {missing} is missing"):
        Detector.from_pretrained("hf:me/it")


def test_only_what_begins_with_hf_reaches_a_network(hub, tmp_path, monkeypatch):
    "A mistyped folder is no question to somebody else's computer: it may hold a patient's name."
    monkeypatch.chdir(tmp_path)
    hub.folders["me/it"] = WEIGHTS / "threshold"
    for name in ("me/it", "me/it:t1", "patients/Name", "me", "me/it/", "a/b/c", "~/me/it", "./me/it", "HF:me/it"):
        with pytest.raises(ValueError, match=r"hf:|unknown weights"):
            load_detector(name)
    with pytest.raises(
        ValueError, match="no folder patients/Name; if it is on the Hugging Face hub, write hf:patients/Name"
    ):
        Threshold.from_pretrained("patients/Name")
    assert hub.calls == []
    assert load_detector("hf:me/it:t1").config.input == "t1"


def test_a_folder_that_is_there_comes_first(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("me/it", "hf:me/it"):
        Threshold(input="t2").save_pretrained(folder)
        assert load_detector(folder).config.input == "t2"
    assert hub.calls == []


def test_a_drive_is_no_place_with_a_variant():
    for name in ("C:\\weights", "c:/weights", "threshold-t1", "a/b"):
        assert split_variant(name) == (name, "")
    for place in ("C:\\weights", "run", "./a"):
        assert split_variant(f"{place}:t1") == (place, "t1")


def test_a_hub_that_never_answers_is_given_up(monkeypatch):
    asked = threading.Event()
    monkeypatch.setattr("mmccd.weights.hub.PATIENCE", 0.01)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **kwargs: asked.wait(60))
    with pytest.raises(ValueError, match="me/it is not here yet, and the hub cannot be reached: check the network"):
        load_detector("hf:me/it")
    asked.set()


# ---- pushed to a hub_server, and loaded from it


def network():
    return ready(new_detector("ae", input="t1", size=32))


def test_pushed_and_loaded_again(hub_server):
    d = network()
    address = d.push_to_hub("me/it")
    found = hub_server.repositories["me/it"]
    assert address == f"{hub_server.url}/me/it/commit/{found.branches['main']}"
    assert sorted(found.files) == ["README.md", "config.json", "model.safetensors"]
    assert ("PUT", f"/lfs/{json.loads(found.files['config.json'])['sha256']}") in hub_server.calls
    again = type(d).from_pretrained("hf:me/it")
    assert (again.config, again.calibration, again.training) == (d.config, d.calibration, False)
    assert all(torch.equal(v, d.state_dict()[k]) for k, v in again.state_dict().items())
    assert d.push_to_hub("hf:me/it") == address  # nothing is new
    assert len(found.messages) == 1


def test_the_card_of_what_is_pushed(hub_server):
    network().push_to_hub("it")  # in one's own account
    card = ModelCard(hub_server.repositories["me/it"].files["README.md"].decode())
    assert card.data.to_dict().keys() == {"library_name", "pipeline_tag", "tags"}  # nobody said under which licence
    assert (card.data.library_name, card.data.pipeline_tag) == ("mmccd", "image-segmentation")
    assert '.from_pretrained("hf:me/it")' in card.text
    assert "Threshold: 2, chosen on: toy." in card.text


class Own(Threshold):
    pass


def test_the_card_says_what_to_import(hub_server):
    Own(input="t1").push_to_hub("me/own")
    card = hub_server.repositories["me/own"].files["README.md"].decode()
    assert f"Its class `Own` is not in that package: import the module that defines it (`{__name__}`) first." in card
    assert "Threshold: none yet" in card
    assert type(Own.from_pretrained("hf:me/own")) is Own


def test_names_of_cases_stay_at_home(hub_server):
    d = ready()
    d.calibration |= {"cases": ["Miller_Jane"], "notes": ["Miller_Jane: cut off"]}
    d.push_to_hub("me/it")
    assert not any(b"Miller" in content for content in hub_server.repositories["me/it"].files.values())
    assert Detector.from_pretrained("hf:me/it").calibration == ready().calibration
    assert "cases" in d.calibration


def test_what_a_push_is_told(hub_server):
    "Branch, pull request, patterns, message, privacy."
    ready(threshold=1).push_to_hub("me/it", private=True, commit_message="The first")
    found, first = hub_server.repositories["me/it"], hub_server.repositories["me/it"].branches["main"]
    found.branches["next"] = first
    found.files["README.md"] = b"Mine"
    ready(threshold=2).push_to_hub("me/it", branch="next", ignore_patterns="README.md")
    ready(threshold=3).push_to_hub("me/it", create_pr=True, allow_patterns="*.json", delete_patterns="README.md")
    assert found.private
    assert found.messages[0] == "The first"
    assert found.files["README.md"] == found.commits[found.branches["next"]]["README.md"] == b"Mine"
    assert sorted(found.commits[found.branches["refs/pr/1"]]) == ["config.json", "model.safetensors"]
    for revision, threshold in ((None, 1), ("next", 2), ("refs/pr/1", 3), (first, 1)):
        assert Detector.from_pretrained("hf:me/it", revision=revision).threshold == threshold


def test_what_a_download_is_told(hub_server, tmp_path):
    "Token, cache, a fresh copy, no network."
    ready(threshold=1).push_to_hub("me/it", private=True)
    with pytest.raises(ValueError, match="no such repository or keeps it private"):
        Detector.from_pretrained("hf:me/it", token=False)
    assert Detector.from_pretrained("hf:me/it", token="me").threshold == 1
    cache = tmp_path / "other"
    with pytest.raises(ValueError, match="me/it is not here yet, and local_files_only keeps us from asking the hub"):
        Detector.from_pretrained("hf:me/it", local_files_only=True, cache_dir=cache)
    Detector.from_pretrained("hf:me/it", cache_dir=cache)
    assert (cache / "models--me--it").is_dir()
    ready(threshold=2).push_to_hub("me/it")
    count = len(hub_server.calls)
    assert Detector.from_pretrained("hf:me/it", local_files_only=True).threshold == 1
    assert len(hub_server.calls) == count
    assert Detector.from_pretrained("hf:me/it").threshold == 2
    Detector.from_pretrained("hf:me/it", force_download=True)
    assert [c for c, path in hub_server.calls if path.endswith("config.json")].count("GET") == 4


def test_saved_and_pushed_at_once(hub_server, tmp_path):
    assert ready().save_pretrained(tmp_path / "name") == tmp_path / "name"
    assert hub_server.calls == []
    address = ready().save_pretrained(tmp_path / "name", push_to_hub=True, private=True)
    assert address.startswith(f"{hub_server.url}/me/name/commit/")
    assert hub_server.repositories["me/name"].private
    ready().save_pretrained(tmp_path / "name", push_to_hub=True, repo_id="me/other")
    assert hub_server.repositories.keys() == {"me/name", "me/other"}
    with pytest.raises(TypeError, match="takes private with push_to_hub=True only"):
        ready().save_pretrained(tmp_path / "third", private=True)
    assert not (tmp_path / "third").exists()


@pytest.mark.parametrize(
    ("repo_id", "options", "words"),
    [
        ("you/it", {}, "the hub lets nobody write to you/it with this token: log in"),
        ("me/it", {"token": "you"}, "the hub lets nobody write to me/it with this token: log in"),
        ("me/it", {"token": False}, "the hub lets nobody write to me/it without a token: log in with `hf auth login`"),
        ("a/b/c", {}, "'a/b/c' can be no repository on the hub: check the spelling"),
        ("me/it", {"branch": "nosuch"}, "me/it on the hub has no branch, tag or commit 'nosuch'"),
    ],
)
def test_why_nothing_was_pushed(hub_server, repo_id, options, words):
    ready().push_to_hub("me/it")
    before = dict(hub_server.repositories["me/it"].files)
    with pytest.raises(ValueError, match=words) as e:
        ready(threshold=3).push_to_hub(repo_id, **options)
    assert "\n" not in str(e.value)
    assert hub_server.repositories.keys() == {"me/it"}
    assert hub_server.repositories["me/it"].files == before


def test_nothing_is_pushed_without_the_hub(hub_server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="cannot upload me/it: HF_HUB_OFFLINE keeps us from the hub; unset it"):
        ready().push_to_hub("me/it")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match="cannot upload me/it: the hub cannot be reached; check the network"):
        ready().push_to_hub("me/it")


@pytest.mark.parametrize(
    ("method", "without"),
    [
        ("from_pretrained", set()),
        ("save_pretrained", {"config", "model_card_kwargs"}),  # a detector has its config, and the card no template
        ("push_to_hub", {"config", "model_card_kwargs"}),
    ],
)
def test_keywords_are_those_of_the_hubs_mixin(method, without):
    ours, theirs = (inspect.signature(getattr(c, method)).parameters for c in (Detector, ModelHubMixin))
    for name, wanted in theirs.items():
        if wanted.kind is inspect.Parameter.KEYWORD_ONLY and name not in without:
            assert (ours[name].kind, ours[name].default) == (wanted.kind, wanted.default), name
