"""Old public names: every one of them leads somewhere, says where, and nothing else is accepted."""

import importlib
import warnings

import pytest
from packaging.version import Version

from mmccd import __version__, aliases

OLD = [(f"mmccd.{m}", name) for m in aliases.MOVED for name in aliases.moved_names(f"mmccd.{m}")]


@pytest.mark.parametrize("module", sorted({m for m, _ in OLD}))
def test_old_names_lead_to_new_ones(module):
    for name, (place, new) in aliases.moved_names(module).items():
        target = getattr(importlib.import_module(place), new)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert getattr(importlib.import_module(module), name) is target, f"{module}.{name}"
        found = [
            w for w in caught if issubclass(w.category, FutureWarning) and f"{module}.{name} is now" in str(w.message)
        ]
        assert found, f"{module}.{name} does not warn"
        assert f"the old name goes in mmccd {aliases.GONE_IN}" in str(found[0].message)
        assert found[0].filename == __file__, "the warning must point at the line that used the old name"


def test_no_old_name_outlives_what_was_said():
    "From that version on, the tables hold what changed since: CONTRIBUTING.md, What may change."
    assert Version(__version__) < Version(aliases.GONE_IN)


def test_a_whole_line_of_version_0_1():
    with pytest.warns(FutureWarning, match=r"mmccd.data.Case is now mmccd.cases.case.Case; .* goes in mmccd 0.3.0"):
        from mmccd.data import Case
    assert Case.__module__ == "mmccd.cases.case"
    with pytest.warns(FutureWarning, match="take_back is now mmccd.masked_diffusion.load_frozen_decoder"):
        from mmccd.masked_diffusion import take_back
    assert take_back.__name__ == "load_frozen_decoder"


def test_no_new_name_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        from mmccd.cases.case import Case
        from mmccd.training import TrainConfig, train

        assert all((Case, TrainConfig, train))


@pytest.mark.parametrize("module", sorted({m for m, _ in OLD}))
def test_what_never_was_is_refused(module):
    with pytest.raises(AttributeError, match="no attribute 'never_was'"):
        importlib.import_module(module).never_was  # noqa: B018  the access itself is what is tested
