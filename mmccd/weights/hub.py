""""""

import json
from pathlib import Path


def tensor_file(
    folder: Path,  # with config.json
    stored: dict,  # what config.json holds
) -> Path:
    "Where the numbers lie: beside config.json, or in a neighbouring folder that several detectors share."
    return (folder.parent / Path(stored["tensors"]).name if "tensors" in stored else folder) / "model.safetensors"


WEIGHTS = Path(__file__).parent


def packaged() -> list[str]:
    "Names of the detectors that come with the package."
    return sorted(p.parent.name for p in WEIGHTS.glob("*/config.json"))


def find_weights(
    name: str | Path,  # a folder, a packaged name, or a hub id such as owner/name
) -> Path:  # the folder with config.json and model.safetensors
    "Where does this detector lie? Only a hub id uses the network."
    name = str(name)
    if (Path(name) / "config.json").is_file():
        return Path(name)
    if name in packaged():
        return WEIGHTS / name
    if Path(name).is_dir():
        raise ValueError(f"the folder {name} holds no detector: config.json is missing")
    if Path(name).exists():
        raise ValueError(f"{name} is a file, and a detector is kept in a folder")
    if name.count("/") != 1 or name[0] in "/.~" or name.endswith("/"):
        raise ValueError(
            f"unknown weights {name!r}: give a folder, a hub id (owner/name), or one of {', '.join(packaged()) or 'none'}"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["config.json", "model.safetensors"]))
    except Exception as e:
        raise ValueError(
            f"no folder {name!r} here, and the hub could not give it: check the name and the network"
        ) from e


def damage(
    error: Exception,  # met while loading
) -> str:  # words for a message
    "What is wrong with a stored detector?"
    if isinstance(error, (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError)):
        return "config.json is damaged; copy the weights again"
    if isinstance(error, OSError):
        return f"{Path(error.filename or 'a file').name} cannot be read; copy the weights again"
    return " ".join(str(error).split())
