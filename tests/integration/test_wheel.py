"The wheel holds all weights, and is of use in a clean environment."

import zipfile

import check_wheel
import pytest


def test_it_holds_all_weights(tmp_path):
    inside = check_wheel.weights(zipfile.ZipFile(check_wheel.build(tmp_path)).namelist())
    ours = (p.relative_to(check_wheel.ROOT).as_posix() for p in check_wheel.ROOT.glob("mmccd/weights/**/*"))
    assert inside == check_wheel.weights(ours) != set()


@pytest.mark.slow
def test_it_installs_and_runs():
    check_wheel.main()
