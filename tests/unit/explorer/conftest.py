"Explorers that the tests share: with the packaged networks on a phantom, and with small ones on toys."

import pytest
from explorer_toys import WIDE, toy_subject, untrained
from toy_cases import write_case

from mmccd.explorer.explorer import Explorer
from mmccd.explorer.panel import Panel
from mmccd.explorer.subjects import file_subject, phantom_subject
from mmccd.runtime import single_thread


@pytest.fixture(autouse=True)
def single():
    "For each test anew: other folders count threads too."
    with single_thread():
        yield


@pytest.fixture(scope="package")
def subject():
    return phantom_subject(slices=range(79, 82))


@pytest.fixture(scope="package")
def explorer(subject):
    return Explorer(subject)


@pytest.fixture(scope="package")
def view(explorer):
    return explorer.first_view(steps=2, width=8)


@pytest.fixture(scope="package")
def run(tmp_path_factory):
    return untrained(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="package")
def toy(tmp_path_factory):
    "A case of two modalities, from files."
    return file_subject(write_case(tmp_path_factory.mktemp("toy"), "Ann", ("flair", "t1"), affine=WIDE))


@pytest.fixture(scope="package")
def full_toy(tmp_path_factory):
    "All modalities and a healthy twin."
    return toy_subject(tmp_path_factory.mktemp("toys"))


@pytest.fixture(scope="package")
def small(run, toy):
    return Explorer(toy, run)


@pytest.fixture
def make_panel(tmp_path):
    "A function that opens a panel; its worker ends with the test."
    panels = []

    def make(explorer, view=None):
        panels.append(Panel(explorer, view or explorer.first_view(steps=2), tmp_path / "out"))
        return panels[-1]

    yield make
    for p in panels:
        p.worker.stop()


@pytest.fixture(scope="package")
def small_networks(full_toy, run):
    "Loaded once for all panels; `as_new` takes the rest away."
    return Explorer(full_toy, run)


def as_new(explorer, subject):
    explorer.on_evaluation = lambda key: None
    explorer.set_subject(subject)
    return explorer


@pytest.fixture
def panel(full_toy, small_networks, make_panel):
    "Everything there is, on small networks."
    return make_panel(as_new(small_networks, full_toy))


@pytest.fixture
def quick(toy, small_networks, make_panel):
    "A case from files, two modalities, no twin."
    return make_panel(as_new(small_networks, toy))


@pytest.fixture
def packaged_panel(subject, view, make_panel):
    "With the networks that come with the package, which are calibrated."
    return make_panel(Explorer(subject), view)
