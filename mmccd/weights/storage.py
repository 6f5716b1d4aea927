"""Reads and writes a detector's folder: `config.json` says what to build, `model.safetensors` holds numbers only.

Nothing here knows what a detector is: configs are dicts, and a class is a name. `config.json` holds

* `detector`: the stable name of the class, see `mmccd.registry.registered_name`;
* `config`: the fields of its config, and `calibration`: the threshold and what it rests on, or null;
* `variants`, where one network makes several detectors: by name what differs, a `config` that completes the shared one
  and a `calibration` of its own. The first is taken where nobody names one;
* `sha256` of `model.safetensors`, and `mmccd`, the version that wrote it.
"""

import hashlib
import json
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from mmccd.files import write_atomic
from mmccd.weights.renames import current_class, current_config, current_tensors

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, TENSORS = "config.json", "model.safetensors"


@dataclass(frozen=True)
class StoredWeights:
    """What a folder holds of one detector.

    Attributes:
        detector: Stable name of its class.
        config: Fields of its config.
        calibration: Its threshold and where that comes from; None where it has none.
        tensors: Its `state_dict`, on the CPU, in the precision of the file.
    """

    detector: str
    config: dict[str, Any]
    calibration: dict[str, Any] | None
    tensors: dict[str, "Tensor"]


def read_about(folder: Path) -> dict[str, Any]:
    """What `config.json` in the folder holds; raises as `read_weights` does."""
    about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(about, dict) or not isinstance(about.get("variants", {"": {}}), dict):
        raise TypeError(f"{CONFIG} holds no description of a detector")
    return about


def variant_names(about: dict[str, Any]) -> list[str]:
    """Names of the variants in what `config.json` holds, the default first; empty where it is of one detector alone."""
    return list(about.get("variants", {}))


def read_weights(folder: Path, variant: str | None = None) -> StoredWeights:
    """Read a detector's config and tensors; the checksum is compared, and names of older versions are translated.

    Args:
        folder: With `config.json` and `model.safetensors`.
        variant: Which of several that share the tensors; None: the first, or the only one.

    Raises:
        ValueError: There is no such variant, or the two files do not belong together.
        KeyError, TypeError, UnicodeDecodeError, OSError, SafetensorError: The files are damaged or missing;
            inside `naming_damage` these become one sentence.
    """
    from safetensors.torch import load

    about = read_about(folder)
    own = choose_variant(about, variant)
    content = tensor_file(folder, about).read_bytes()
    if hashlib.sha256(content).hexdigest() != about["sha256"]:
        raise ValueError("its two files do not belong together; copy the weights again")
    detector, config, tensors = current_class(about), {**about["config"], **own["config"]}, load(content)
    if ":" not in detector:  # names in a class of somebody else are theirs
        config, tensors = current_config(config), current_tensors(tensors)
    return StoredWeights(detector, config, own["calibration"], tensors)


def choose_variant(about: dict[str, Any], variant: str | None) -> dict[str, Any]:
    """Config and calibration that belong to one variant of what `config.json` holds."""
    names = variant_names(about)
    if variant is not None and variant not in names:
        known = f"choose {', '.join(names)}" if names else "it holds a single detector"
        raise ValueError(f"it has no variant {variant!r}: {known}")
    if "variants" in about:
        return about["variants"][variant or next(iter(names), "")]
    return {"config": {}, "calibration": about["calibration"]}


def tensor_file(folder: Path, about: dict[str, Any]) -> Path:
    """Where the numbers lie: beside `config.json`; in version 0.1.0 several could share a neighbouring folder."""
    return (folder.parent / Path(about["tensors"]).name if "tensors" in about else folder) / TENSORS


def write_weights(folder: str | Path, about: dict[str, Any], tensors: dict[str, "Tensor"], half: bool = False) -> Path:
    """Write the two files, each whole or not at all; files of another detector in the folder are replaced.

    Args:
        folder: Made where missing.
        about: What `config.json` shall hold: `detector`, `config` and `calibration` or `variants`.
        tensors: On the CPU, contiguous.
        half: Store float16: half the bytes, three decimal digits.

    Returns:
        The folder.

    Raises:
        ValueError: A file is where the folder should be.
    """
    from safetensors.torch import save

    import mmccd

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and a detector is kept in a folder")
    kept = {k: v.half() if half and v.is_floating_point() else v for k, v in tensors.items()}
    content = save(kept, metadata={"format": "pt"})
    about = {**about, "sha256": hashlib.sha256(content).hexdigest(), "mmccd": mmccd.__version__}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / TENSORS, content)
    write_atomic(folder / CONFIG, (json.dumps(about, indent=1) + "\n").encode())
    return folder


@contextmanager
def naming_damage(folder: Path) -> Generator[None]:
    """Turn whatever broken files raise into one sentence about the folder.

    Raises:
        ValueError: With that sentence.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as e:
        raise ValueError(f"cannot load the detector in {folder}: {CONFIG} is damaged; copy the weights again") from e
    except OSError as e:
        name = Path(e.filename or "a file").name
        raise ValueError(f"cannot load the detector in {folder}: {name} cannot be read; copy the weights again") from e
    except (ValueError, RuntimeError, SafetensorError) as e:
        words = shorten(str(e), 300, placeholder=" ...")  # of tensors that do not fit, PyTorch lists all
        raise ValueError(f"cannot load the detector in {folder}: {words}") from e
