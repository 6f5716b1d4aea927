"The hub: what is fetched from it, and whose fault it is when nothing comes."

import errno
import json
import shutil
import threading

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants, errors

from mmccd.detector import Detector, Threshold, load_detector
from mmccd.weights.hub import WEIGHTS, split_variant


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A stand-in for the hub: `hub.folders` by name, copied as a download would be; `hub.error` is raised instead."

    class Hub:
        folders, calls, error = {}, [], None

        def snapshot_download(self, name, allow_patterns):
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
