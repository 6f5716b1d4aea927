"The tests find the same signals however they are started, and try the same examples each time."

import os
import signal
import sys

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True)  # new ones: pytest --hypothesis-profile=default
settings.load_profile("same")


# The files that take longest start first, so that no processor waits at the end for another.
LONGEST = (
    *("test_wheel", "test_class_pack", "test_explorer_page", "test_cluster", "test_benchmark"),
    *("test_cli_train", "test_training_command", "test_recipe", "test_gpu_run", "test_recipes", "test_store"),
    *("test_masked_diffusion", "test_exercises", "test_explore_command", "test_itermask", "test_style", "test_site"),
)


def pytest_collection_modifyitems(items):
    "The longest files first, and otherwise as they were."
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_configure(config):
    """Let xdist keep the order of files, and let what the tests start be stopped by signals.

    A script's background jobs ignore Ctrl-C, and those under `nohup` the end of their terminal; so would they.
    """
    config.option.loadscopereorder = False  # else files with many tests come first
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
        if hasattr(signal, name) and signal.getsignal(number := getattr(signal, name)) == signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def no_status_lines(monkeypatch):
    "What takes seconds takes half a minute on a busy machine, and would then say how far it is."
    monkeypatch.setattr("mmccd.progress.FIRST", 300.0)


@pytest.fixture
def run(capsys):
    "Run a command line in this process: exit code, standard output, standard error."
    from mmccd.cli import main

    def go(*words):
        capsys.readouterr()
        code = main([str(w) for w in words])
        return code, *capsys.readouterr()

    return go


@pytest.fixture
def cases(tmp_path):
    "A folder of three toy cases: c0 and c1 have a lesion, c2 is healthy."
    from toy_cases import write_case

    for i, lesion in enumerate((True, True, False)):
        write_case(tmp_path / "cases", f"c{i}", seed=i, lesion=lesion)
    return tmp_path / "cases"


@pytest.fixture
def case(tmp_path):
    "A toy case with FLAIR and T2, of which FLAIR is loaded."
    from toy_cases import write_case

    from mmccd.cases.case import Case

    return Case.from_folder(write_case(tmp_path, "a", ("flair", "t2")), ["flair"])


@pytest.fixture(scope="module")
def quick_trainings():
    "Trainings without pictures of samples, for modules about other things: they take most of a short training's time."
    with pytest.MonkeyPatch.context() as patch:
        for name in ("sample_figure", "save_sample"):
            patch.setattr(f"mmccd.training.callback.{name}", lambda *_: None)
        yield


@pytest.fixture
def quick_reports(monkeypatch):
    "Reports without anything on them, for tests about other things: drawing one takes longer than all the rest."
    from mmccd.detection import report
    from mmccd.viz import Sheet

    monkeypatch.setattr(report, "report_figure", lambda found: Sheet(1, 1))


@pytest.fixture
def hub_server(tmp_path, monkeypatch):
    "A little hub on this computer, which the hub's library takes for the hub; you are logged in as `me`."
    from huggingface_hub import constants
    from toy_hub import ToyHub

    with ToyHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        )
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setenv("HF_TOKEN", "me")
        yield hub


@pytest.fixture(autouse=bool(os.environ.get("LIKE_WINDOWS")))
def like_windows():
    "The test runs by rules of Windows; with LIKE_WINDOWS=1 all tests do."
    from like_windows import rules_of_windows

    if sys.platform != "linux":
        pytest.skip("needs Linux's list of open files")
    with rules_of_windows():
        yield
