"Slices of phantoms for the chapters: what they hold, and which slice is picked."

import pytest
import torch

from mmccd.cases.examples import largest_lesion, lesion_slice, phantom_slices
from mmccd.phantom import make_phantom


@pytest.fixture(scope="module")
def patient():
    return phantom_slices(make_phantom("glioma", 404, 0, range(78, 81)), 32, ("flair", "t1"))


def test_all_have_one_shape_and_the_lesion_lies_in_the_brain(patient):
    assert {v.shape for v in patient.values()} == {(3, 1, 32, 32)}
    assert patient["lesion"].any()
    assert (patient["lesion"] & patient["brain"]).sum() > 0.98 * patient["lesion"].sum()


def test_the_twin_is_on_the_patients_scale(patient):
    "Where the lesion neither is nor presses, both look alike."
    away = patient["brain"] & ~patient["lesion"]
    difference = (patient["flair"] - patient["twin flair"]).abs()
    assert difference[away].median() < 0.02 < difference[patient["lesion"]].mean()


def test_tissues_fill_no_more_than_the_pixel(patient):
    total = sum(v for k, v in patient.items() if k.startswith("tissue"))
    assert total.max() < 1.001
    assert total[patient["brain"]].median() > 0.99


def test_a_healthy_head_is_its_own_twin():
    s = phantom_slices(make_phantom("healthy", 404, 4, range(78, 81)), 32, ("t1",))
    torch.testing.assert_close(s["twin t1"], s["t1"], rtol=0, atol=1e-5)
    assert largest_lesion(s) == 1


def test_the_slice_with_most_lesion(patient):
    k, one = largest_lesion(patient), lesion_slice(patient)
    assert one["lesion"].sum() == patient["lesion"].flatten(1).sum(1).max()
    assert torch.equal(one["flair"], patient["flair"][k : k + 1])
