"""The scripts of experiments/ and benchmarks/ are imported as they lie, like those of tools/."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
for folder in ("experiments", "benchmarks"):
    if str(ROOT / folder) not in sys.path:
        sys.path.insert(0, str(ROOT / folder))


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    "Stores that several recipes share."
    return tmp_path_factory.mktemp("experiments")
