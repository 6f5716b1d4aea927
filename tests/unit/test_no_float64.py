"Apple's mps knows no float64: none may be made where a detector computes. A tensor that refuses it stands in for mps."

import pytest
import torch
from detector_laws import Tiny, toy_slices
from torch.utils._pytree import tree_map_only

from mmccd.detection.maps import map_slices
from mmccd.detector import EverythingPositive, Threshold, calibrate
from mmccd.registry import METHODS, new_detector
from mmccd.slices import resize, resize_labels

TO_THE_CPU = {torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.item}
SMALL = {"size": 32, "input": "flair", "unet": {"channels": 8, "mults": (1, 2), "blocks": 1, "attention": ()}}


class OnDevice(torch.Tensor):
    "A tensor on a device without float64; all that is computed from it lies there too."

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        found = super().__torch_function__(func, types, args, kwargs or {})
        if func in TO_THE_CPU:
            return found.as_subclass(torch.Tensor) if isinstance(found, torch.Tensor) else found

        def check(t):
            assert t.dtype != torch.float64, f"{getattr(func, '__name__', func)} makes float64 on the device"
            return t

        return tree_map_only(torch.Tensor, check, found)


def on_device(*tensors):
    return tuple(t.as_subclass(OnDevice) for t in tensors)


def test_the_stand_in_notices():
    x, brain = on_device(*toy_slices())
    for bad in (lambda: x.double(), lambda: brain.to(torch.float64), lambda: x.float().sum(dtype=torch.float64)):
        with pytest.raises(AssertionError, match="makes float64"):
            bad()
    assert type(x.cpu().double()) is torch.Tensor
    assert type(torch.where(brain, x, 0.0)) is OnDevice


@pytest.mark.parametrize("size", [16, 32, 48])
def test_resizing(size):
    x, brain = toy_slices(h=40, w=24)
    there, mask = on_device(x, brain)
    assert torch.equal(resize(there, size).cpu(), resize(x, size))
    got = resize_labels(mask, size)
    assert type(got) is OnDevice
    assert torch.equal(got.cpu(), resize_labels(brain, size))


def untrained(name):
    cls = METHODS[name].load_class()
    return new_detector(name, **SMALL) if METHODS[name].trainable else cls()


@pytest.mark.parametrize("name", [m for m in METHODS if m != "ensemble"])  # whose members are all here
def test_no_detector_keeps_or_makes_float64(name):
    d = untrained(name)
    assert not [k for k, v in (*d.named_parameters(), *d.named_buffers()) if v.dtype == torch.float64]
    x, brain = on_device(*toy_slices(b=2, h=40, w=40))
    a = map_slices(d, x, brain, torch.Generator().manual_seed(0))
    assert type(a) is OnDevice
    assert a.dtype == torch.float32


@pytest.mark.parametrize("make", [Threshold, Tiny, EverythingPositive])
def test_calibrate(make):
    "Slices in float64 are no reason to have it on the device; the rates are computed on the CPU."
    x, brain = toy_slices()
    plain = calibrate(make(), x, brain, generator=torch.Generator().manual_seed(0)).calibration
    for dtype in (torch.float32, torch.float64):
        d, seen = make(), []
        anomaly_map = d.anomaly_map
        d.anomaly_map = lambda x, *args, kept=anomaly_map, seen=seen: seen.append(x.dtype) or kept(x, *args)
        assert calibrate(d, x.to(dtype), brain, generator=torch.Generator().manual_seed(0)).calibration == plain
        assert set(seen) == {torch.float32}
    there, mask = on_device(x, brain)
    assert calibrate(make(), there, mask, generator=torch.Generator().manual_seed(0)).calibration == plain
