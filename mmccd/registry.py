"""The one table of methods: names, classes, packaged weights, rows, colours. Importing it loads no PyTorch."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmccd.runtime import derive_seed
from mmccd.schemas import checked

if TYPE_CHECKING:
    from mmccd.detector import Detector


@dataclass(frozen=True)
class Method:
    """A method of anomaly detection, as the command line, the benchmark, the explorer and the chapters know it.

    Attributes:
        name: Short name, as on the command line: `mmccd train NAME`, `mmccd detect --weights NAME`.
        title: Name in tables and figures.
        cls: Its detector as `"module:Class"`. Several methods may share a class and differ in `config`.
        colour: Name of a colour in `mmccd.viz.OKABE_ITO`, or a grey level such as `"0.7"` for what has learned nothing.
        summary: What it does, in a few words, for help texts.
        config: Fields of the detector's config that make it this method.
        trainable: Does it learn? If not, it is ready once it is built and calibrated.
        blind: Does it give the same map whatever the slice shows? Then it has one row, not one for each input.
        paired: Does it translate to another modality? If not, it takes one modality alone.
        masked: Does it predict hidden parts of the slice (what the explorer shows)?
        decoder_from: The method whose decoder (from target to input) it can take over and freeze; `""`: none.
        packaged: The inputs that packaged weights exist for, and the target that the short name stands for (`""` where
            the method is not `paired`). One detector that takes all modalities is packaged for the input `""`.
        in_tables: Is it a row of the paper's tables?
        by_default: Is that row there if nobody asks for it?
        compared_with: The methods that it is compared with, subject by subject.
    """

    name: str
    title: str
    cls: str
    colour: str
    summary: str = ""
    config: Mapping[str, Any] = field(default_factory=dict, hash=False)
    trainable: bool = True
    blind: bool = False
    paired: bool = False
    masked: bool = False
    decoder_from: str = ""
    packaged: Mapping[str, str] = field(default_factory=dict, hash=False)
    in_tables: bool = False
    by_default: bool = True
    compared_with: tuple[str, ...] = ()

    def load_class(self) -> type[Detector]:
        """The class of its detector; imports the module that defines it."""
        module, name = self.cls.split(":")
        return getattr(importlib.import_module(module), name)


ALONE = dict.fromkeys(("flair", "t2", "t1"), "")
VIA = {"flair": "t1", "t2": "t1", "t1": "flair"}  # the targets through which less of a lesion is copied
BASELINES, MASKED = "mmccd.baselines:", "mmccd.masked_diffusion:"
MENDED = {"imagination": "detailed", "f_unet": "wide"}
METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        Method(
            "everything",
            "everything positive",
            "mmccd.detector:EverythingPositive",
            "0.7",
            "the floor: every pixel of the brain is positive",
            trainable=False,
            blind=True,
            in_tables=True,
        ),
        Method(
            "threshold",
            "threshold",
            "mmccd.detector:Threshold",
            "0.2",
            "brightness alone",
            trainable=False,
            packaged=ALONE | {"t1ce": ""},
            in_tables=True,
        ),
        Method(
            "equalised",
            "threshold, equalised",
            BASELINES + "Equalised",
            "0.45",
            "brightness after histogram equalisation",
            trainable=False,
            packaged=ALONE,
        ),
        Method(
            "ae",
            "AE",
            BASELINES + "AE",
            "sky",
            "autoencoder",
            packaged=ALONE,
            in_tables=True,
            compared_with=("threshold",),
        ),
        Method(
            "ae-dense",
            "AE, dense",
            BASELINES + "AE",
            "black",
            "autoencoder with a dense bottleneck",
            config={"dense": True, "latent": 128},
            packaged=ALONE,
            compared_with=("threshold",),
        ),
        Method(
            "vae",
            "VAE",
            BASELINES + "AE",
            "purple",
            "variational autoencoder",
            config={"dense": True, "latent": 128, "sigma": 0.2},
            packaged=ALONE,
            in_tables=True,
            compared_with=("threshold",),
        ),
        Method(
            "dae",
            "DAE",
            BASELINES + "DAE",
            "green",
            "denoising autoencoder",
            packaged=ALONE,
            in_tables=True,
            compared_with=("threshold",),
        ),
        Method(
            "ddpm",
            "DDPM",
            "mmccd.partial_diffusion:DDPM",
            "orange",
            "diffusion part of the way",
            packaged=ALONE,
            in_tables=True,
            compared_with=("threshold",),
        ),
        Method(
            "ddpm-simplex",
            "DDPM, simplex",
            "mmccd.partial_diffusion:DDPM",
            "black",
            "diffusion part of the way, with simplex noise",
            config={"noise": "simplex"},
            packaged=ALONE,
            compared_with=("threshold",),
        ),
        Method(
            "itermask",
            "IterMask",
            "mmccd.itermask:IterMask",
            "black",
            "hides all, and uncovers what it reconstructs well",
            packaged=ALONE,
            in_tables=True,
            by_default=False,
            compared_with=("threshold", "dae"),
        ),
        Method(
            "cycle",
            "Cyclic U-Net",
            "mmccd.cycle:CyclicUNet",
            "blue",
            "to another modality and back, with U-Nets",
            paired=True,
            packaged=VIA,
            in_tables=True,
            compared_with=("threshold",),
        ),
        Method(
            "masked",
            "masked U-Net",
            MASKED + "MaskedUNet",
            "yellow",
            "mmccd without diffusion",
            config=MENDED,
            paired=True,
            masked=True,
            decoder_from="cycle",
            packaged=VIA,
            in_tables=True,
            by_default=False,
            compared_with=("threshold",),
        ),
        Method(
            "masked-published",
            "masked U-Net as published",
            MASKED + "MaskedUNet",
            "0.55",
            "masked that is given noise, and learns from all pixels alike",
            paired=True,
            masked=True,
            decoder_from="cycle",
            packaged=VIA,
            compared_with=("masked",),
        ),
        Method(
            "mmccd",
            "MMCCD",
            MASKED + "MMCCD",
            "vermillion",
            "cycle with a part of the slice hidden, which diffusion fills in",
            config=MENDED,
            paired=True,
            masked=True,
            decoder_from="cycle",
            packaged=VIA,
            in_tables=True,
            compared_with=("threshold", "dae", "cycle", "masked"),
        ),
        Method(
            "mmccd-published",
            "MMCCD as published",
            MASKED + "MMCCD",
            "0.5",
            "mmccd that is given noise, and learns from all pixels alike",
            paired=True,
            masked=True,
            decoder_from="cycle",
            packaged=VIA,
            in_tables=True,
            compared_with=("threshold", "dae", "cycle", "masked-published"),
        ),
        Method(
            "guided",
            "MMCCD, guided",
            "mmccd.itermask:GuidedMMCCD",
            "black",
            "mmccd that hides what its cycle suspects",
            paired=True,
            decoder_from="cycle",
            compared_with=("threshold", "cycle", "mmccd"),
        ),
        Method(
            "ensemble",
            "ensemble",
            "mmccd.ensemble:Ensemble",
            "black",
            "sum of the best for the modalities that are there",
            trainable=False,
            packaged={"": ""},
        ),
        Method("toy", "toy cycle", "mmccd.training_loop:ToyCycle", "black", "cycle with small networks", paired=True),
    )
}
"""All methods by name, in the order of the tables' rows: what has learned nothing, one modality, two."""


def trainable_methods() -> tuple[str, ...]:
    """Names of the methods that learn, in the order of the table."""
    return tuple(m.name for m in METHODS.values() if m.trainable)


def packaged_methods() -> tuple[str, ...]:
    """Short names that stand for packaged weights, in the order of the table."""
    return tuple(m.name for m in METHODS.values() if m.packaged)


def masked_methods() -> tuple[str, ...]:
    """Names of the methods that predict hidden parts of a slice, which the explorer shows."""
    return tuple(m.name for m in METHODS.values() if m.masked)


def table_methods(by_default: bool = False) -> tuple[str, ...]:
    """Names of the methods that the paper's tables can show, or of those that they show by default, in their order."""
    return tuple(m.name for m in METHODS.values() if m.in_tables and (m.by_default or not by_default))


def registered_name(cls: type) -> str | None:
    """The stable name of a detector's class, such as `"cycle"` for `CyclicUNet`; None where it is not in the table.

    Unlike the path of the module it survives moves, so it is what stored weights and fingerprints hold. Classes that
    several methods share go by the first of them: `"ae"`, `"ddpm"`.
    """
    path = f"{cls.__module__}:{cls.__qualname__}"
    return next((m.name for m in METHODS.values() if m.cls == path), None)


def registered_class(name: str) -> type[Detector] | None:
    """The detector's class of a name in the table, or of a class name such as `"CyclicUNet"` in older files.

    Args:
        name: As `registered_name` gives it; or the bare name of one of the package's classes, which older files hold.

    Returns:
        The class, imported now; None where the table does not know the name.
    """
    found = METHODS.get(name) or next((m for m in METHODS.values() if m.cls.split(":")[1] == name), None)
    return found.load_class() if found else None


def packaged_name(weights: str, input: str) -> str:
    """The full name of the weights that a short name stands for.

    Args:
        weights: As given: a short name in `METHODS`, or anything else that `load_detector` takes, which is left alone,
            as is a folder that holds weights.
        input: Modality to segment.

    Raises:
        ValueError: No weights of that method come with the package for that input.
    """
    if weights and (Path(weights) / "config.json").is_file():
        return weights
    method = METHODS.get(weights)
    if method is None or not method.packaged or "" in method.packaged:
        return weights
    if input not in method.packaged:
        raise ValueError(
            f"no {weights} for {input} comes with mmccd: choose --input {', '.join(method.packaged)}, "
            "or --weights threshold"
        )
    return f"{method.name}-{input}-{method.packaged[input]}".rstrip("-")


def find_method(name: str) -> Method:
    """The trainable method of that name.

    Raises:
        ValueError: There is no such method, or it has nothing to learn.
    """
    if name not in trainable_methods():
        raise ValueError(f"unknown method {name!r}: choose {', '.join(trainable_methods())}")
    return METHODS[name]


def new_detector(method: str, seed: int = 0, **config: Any) -> Detector:
    """A detector that has learned nothing yet; the global random state is left as it was.

    Args:
        method: Name of a method.
        seed: Of its first weights.
        **config: Fields of its config; those that it does not know are left out.

    Raises:
        ValueError: The method is unknown, or its config refuses a value.
    """
    if method not in METHODS:
        find_method(method)  # refuses
    import torch

    cls: Any = METHODS[method].load_class()
    known = {f.name for f in fields(cls.Config)}
    own = {**METHODS[method].config}
    if config.get("unet", "tiny") != "tiny":
        own.pop("f_unet", None)  # the size that is asked for is meant for all networks
    made = cls.Config(**{k: v for k, v in (own | config).items() if k in known})
    checked(asdict(made), cls.Config, f"the settings of {method}", "choose others")  # as when it will be loaded
    with torch.random.fork_rng([]):
        torch.manual_seed(derive_seed(seed, "weights"))
        return cls(made)
