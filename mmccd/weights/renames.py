"""What fields, values and tensors of detectors that earlier versions stored are called now."""

from collections.abc import Mapping
from typing import Any

OLD_CONFIG_NAMES = {
    "frozen_back": "frozen_decoder",
    "varied": "augment_masks",
    "also": "extra_targets",
    "divide": "normalise_by",
    "together": "n_strips",
    "looks": "n_steps",
}

OLD_CONFIG_VALUES: dict[str, dict[str | bool, str]] = {
    "normalise_by": {False: "", True: "healthy_mean"},
    "masks": {"tiles": "disjoint"},
}  # by the field's new name

OLD_TENSOR_NAMES = {
    "usual": "healthy_mean",
    "tell": "scale_shift",
    "look": "attention",
    "close": "to_latent",
    "open": "from_latent",
}  # one part of a dotted name


def current_class(about: Mapping[str, Any]) -> str:
    """Return the name of a detector's class in what `config.json` holds, as `read_weights` gives it.

    Version 0.1.0 stored the class and its module. Of the package's own classes the class is enough, as the table of
    methods knows it; the class of somebody else is called `"module:Class"` today.
    """
    name, module = about["detector"], about.get("module")
    own = module is None or f"{module}.".startswith("mmccd.")
    return name if own else f"{module}:{name}"


def current_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return a stored config with today's names and values, nested parts included; one that has them stays equal."""
    out = {}
    for name, value in config.items():
        name = OLD_CONFIG_NAMES.get(name, name)
        if isinstance(value, dict):
            value = current_config(value)
        elif isinstance(value, (str, bool)):
            value = OLD_CONFIG_VALUES.get(name, {}).get(value, value)
        out[name] = value
    return out


def current_tensor_name(name: str) -> str:
    """Return today's name of a tensor in a state dict, such as `f.net.down.0.scale_shift.weight`."""
    return ".".join(OLD_TENSOR_NAMES.get(part, part) for part in name.split("."))
