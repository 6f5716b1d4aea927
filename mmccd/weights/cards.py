"""Cards of weights on the Hugging Face hub: the metadata that it reads, and how to load what lies there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmccd.weights.hub import HUB
from mmccd.weights.storage import About, read_about, variant_names

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

SOURCE = "https://github.com/mmccd/mmccd"
TASK = "image-segmentation"  # of those that the hub knows
TAGS = ["mmccd", "medical", "mri", "brain", "anomaly-detection", "anomaly-segmentation"]
WARNING = "**For research and teaching, not a medical device.**"


def card_data(**more: Any) -> ModelCardData:
    """What is true of every detector.

    Args:
        more: Other fields of `ModelCardData`, such as `license`.
    """
    from huggingface_hub import ModelCardData

    return ModelCardData(library_name="mmccd", pipeline_tag=TASK, tags=TAGS, **more)


def how_to_load(repo_id: str, about: About) -> str:
    """Markdown: the lines of Python and of a shell that load a detector from the hub.

    Args:
        repo_id: `owner/name`.
        about: What its `config.json` holds.
    """
    variants = variant_names(about)
    name = ":".join([f"{HUB}{repo_id}", *variants[:1]])
    lines = [
        f"Weights for [mmccd]({SOURCE}), `pip install mmccd`:",
        f'```python\nfrom mmccd.detector import Detector\n\ndetector = Detector.from_pretrained("{name}")\n```',
        f"```sh\nmmccd detect CASE --weights {name}\n```",
    ]
    if variants:
        lines.append(f"After the colon stands one of {', '.join(f'`{v}`' for v in variants)}; without it the first.")
    if ":" in about["detector"]:
        module, kind = about["detector"].split(":")
        lines.append(
            f"Its class `{kind}` is not in that package: import the module that defines it (`{module}`) first."
        )
    return "\n\n".join(lines)


def default_card(folder: Path, repo_id: str) -> str:
    """The card of a detector that somebody pushes: what its files say, and that nothing more is known.

    Args:
        folder: With `config.json`.
        repo_id: `owner/name`.
    """
    about = read_about(folder)
    found = about.get("calibration")
    threshold = f"{found['threshold']:.4g}" if found else "none yet: calibrate it on healthy cases"
    if found and found.get("data"):
        threshold += f", chosen on: {found['data']}"
    return (
        f"---\n{card_data().to_yaml()}\n---\n\n# {repo_id.rpartition('/')[2]}\n\n{WARNING}\n\n"
        f"A detector of anomalies in MRI of the brain.\n\n{how_to_load(repo_id, about)}\n\n"
        f"Method: `{about['detector']}`, settings in [config.json](config.json). Threshold: {threshold}.\n\n"
        "Whoever pushed this: say here what it learned from, how well it does and where not, and add a `license`.\n"
    )
