""""""

import importlib
from dataclasses import fields
from pathlib import Path

from mmccd.runtime import derive_seed

DEFAULT_TARGETS = {
    "cycle": {"flair": "t1", "t2": "t1", "t1": "flair"},  # by method and input: over which modality
    "masked": {"flair": "t1", "t2": "t1", "t1": "flair"},
    "mmccd": {"flair": "t1", "t2": "t1", "t1": "flair"},  # what follows looks at one alone
    **{
        k: dict.fromkeys(("flair", "t2", "t1"), "")
        for k in ("equalised", "ae", "ae-dense", "vae", "dae", "ddpm", "ddpm-simplex")
    },
}


def packaged_name(
    weights: str,  # as given; threshold and the keys of `OVER` are short
    input: str,  # modality to look at
) -> str:  # for `load_detector`
    "Short names mean the packaged detector of the input."
    if weights and (Path(weights) / "config.json").is_file():
        return weights
    if weights in ("", "threshold"):
        return f"threshold-{input}"
    if weights not in DEFAULT_TARGETS:
        return weights
    if input not in DEFAULT_TARGETS[weights]:
        raise ValueError(
            f"no {weights} for {input} comes with mmccd: choose --input {', '.join(DEFAULT_TARGETS[weights])}, or --weights threshold"
        )
    return f"{weights}-{input}-{DEFAULT_TARGETS[weights][input]}".rstrip("-")


METHODS = {
    "cycle": "mmccd.cycle:CyclicUNet",
    "mmccd": "mmccd.masked_diffusion:MMCCD",
    "masked": "mmccd.masked_diffusion:MaskedUNet",
    "toy": "mmccd.training_loop:ToyCycle",
    **dict.fromkeys(("ae", "ae-dense", "vae"), "mmccd.baselines:AE"),
    "dae": "mmccd.baselines:DAE",
    **dict.fromkeys(("ddpm", "ddpm-simplex"), "mmccd.baselines:DDPM"),
}


VARIANTS = {
    "ae-dense": dict(dense=True, latent=128),
    "vae": dict(dense=True, latent=128, sigma=0.2),
    "ddpm-simplex": dict(noise="simplex"),
}  # what their configs say besides


def new_detector(
    method: str,  # a name in `METHODS`
    seed: int = 0,  # of its first weights
    **config,  # fields of its config; those that it does not know are left out
):  # a `Detector`
    "A detector that has learned nothing yet."
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose {', '.join(METHODS)}")
    import torch

    module, name = METHODS[method].split(":")
    cls = getattr(importlib.import_module(module), name)
    known = {f.name for f in fields(cls.Config)}
    with torch.random.fork_rng([]):
        torch.manual_seed(derive_seed(seed, "weights"))
        return cls(**{k: v for k, v in (VARIANTS.get(method, {}) | config).items() if k in known})
