"""Prepare repositories of packaged weights for the Hugging Face hub, one a method, and upload them with --push.

`python tools/publish_weights.py OUT [METHOD ...]` writes OUT/mmccd-METHOD: config, tensors, log and curve of the
training, and the packaged card with the metadata that the hub reads. `--push OWNER` uploads them, with the token in
HF_TOKEN or that of `hf auth login`. A score is in the metadata only if a result in data/results was measured with these
very weights.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard

import mmccd
from mmccd.detector import Detector, fingerprint, load_detector
from mmccd.error_map import ErrorMapConfig
from mmccd.files import output_folder, swap_in, working_folder, writing
from mmccd.weights.cards import SOURCE, TASK, card_data, how_to_load
from mmccd.weights.hub import WEIGHTS
from mmccd.weights.sharing import make_repository, upload
from mmccd.weights.storage import read_about, variant_names

ROOT = Path(__file__).resolve().parent.parent
RESULTS, RECIPES = ROOT / "data" / "results", ROOT / "experiments" / "recipes"
PHANTOMS = ("comparison", "baselines_phantom")  # the same subjects and protocol; the first that knows the weights
KINDS = {"glioma": "a glioma", "ms": "multiple sclerosis", "infarct": "an infarct"}
METRIC = "average_precision"
FILES = f"{SOURCE}/blob/main"


def repository(method: str) -> str:
    """What a method's repository is called: "mmccd-cycle", "mmccd", "mmccd-published"."""
    return method if method.startswith("mmccd") else f"mmccd-{method}"


def detectors_in(folder: Path) -> dict[str, Detector]:
    """All detectors in a folder, by variant; "" where it holds one alone."""
    names = variant_names(read_about(folder))
    return {v: load_detector(folder, variant=v) for v in names} or {"": load_detector(folder)}


def score(what: str, source: str, ap: dict[str, float], beside: dict[str, float], **dataset: Any) -> EvalResult:
    """An average precision, with number of subjects, interval, and that of simple methods on the same slices."""
    notes = [f"95 % interval {ap['low']:.2f} to {ap['high']:.2f}", *(f"{name} {v:.2f}" for name, v in beside.items())]
    return EvalResult(
        task_type=TASK,
        task_name="anomaly segmentation",
        metric_type=METRIC,
        metric_value=ap["mean"],
        metric_name=f"{what}: average precision, one slice a subject, mean of {ap['n']} ({'; '.join(notes)})",
        source_name=f"data/results/{source}.json",
        source_url=f"{FILES}/data/results/{source}.json",
        **dataset,
    )


def row_of(found: dict[str, Any], method: str, variant: str, detector: Detector) -> str | None:
    """The row of a result that was measured with these very weights, and with the kind of map that they come with."""
    own = getattr(detector.config, "error", ErrorMapConfig())
    how = [n for n, options in found.get("settings", {}).items() if options and ErrorMapConfig(**options) == own]
    row = f"{' + '.join([method, *how])} {variant}"
    return row if found["methods"].get(row, {}).get("fingerprint") == fingerprint(detector) else None


def phantom_scores(method: str, detectors: dict[str, Detector]) -> Iterator[EvalResult]:
    """What was measured on phantoms with these weights."""
    for source in PHANTOMS:
        found = read_result(source)
        rows = {v: row for v, d in detectors.items() if (row := row_of(found, method, v, d))}
        if rows:
            break
    for kind, words in KINDS.items():
        ap = {row: about["summary"]["ap"] for row, about in found["kinds"][kind].items()}
        for variant, row in rows.items():
            yield score(
                f"{method}-{variant}",
                source,
                ap[row],
                {
                    "plain threshold": ap[f"threshold {found['methods'][row]['input']}"]["mean"],
                    "everything positive": ap["everything positive"]["mean"],
                },
                dataset_type="mmccd-phantom",
                dataset_name=f"phantoms with {words} (generated heads, no patients)",
                dataset_config=kind,
                dataset_args={"phantom": found["phantom"], "seed": found["seed"]["evidence"]},
            )


def real_scores(method: str, detectors: dict[str, Detector]) -> Iterator[EvalResult]:
    """What was measured with these weights on real scans that experts labelled and that had no say in the packaging."""
    found = read_result("real")
    recipe = yaml.safe_load((RECIPES / "real.yaml").read_text(encoding="utf-8"))["options"]
    names = {"-".join(filter(None, (method, v))): d for v, d in detectors.items()}
    known = {n for n, d in names.items() if found["weights"].get(n) == fingerprint(d)}
    for title, about in found["sets"].items():
        table = found["table"][title] if about["labels"] == "expert" and not about["tuned_on"] else {}
        for row in table:
            input, _, shown = row.partition(" ")
            name = recipe["rows"][input][shown]
            if name not in known:
                continue
            simple = table.get(f"{input} threshold")
            yield score(
                name if name != method else f"{name} on {'all modalities' if input == 'all' else input}",
                "real",
                table[row]["ap"],
                {"plain threshold": simple["ap"]["mean"]} if simple else {},
                dataset_type="real-mri",
                dataset_name=f"{about['title']}: {about['source']}",
                dataset_config=title,
            )


@cache
def read_result(name: str) -> dict[str, Any]:
    """A file of data/results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def packaged_card(method: str, repo_id: str, detectors: dict[str, Detector]) -> ModelCard:
    """The packaged card under the metadata of the hub; what it says of neighbouring folders leads to our sources."""
    scores = [*phantom_scores(method, detectors), *real_scores(method, detectors)]
    more = {"eval_results": scores, "model_name": repository(method), "metrics": [METRIC]} if scores else {}
    text = (WEIGHTS / method / "README.md").read_text(encoding="utf-8")
    title, warning, rest = text.replace("](../", f"]({FILES}/mmccd/weights/").split("\n\n", 2)
    use = how_to_load(repo_id, read_about(WEIGHTS / method))
    data = card_data(license="apache-2.0", **more)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{title}\n\n{warning}\n\n{use}\n\n{rest}")


def prepare(method: str, out: Path, owner: str) -> Path:
    """Write what a method's repository holds, whole or not at all.

    Args:
        method: With packaged weights.
        out: A folder.
        owner: User or organisation on the hub, for the lines that load the weights from there.

    Returns:
        The folder, OUT/mmccd-METHOD.
    """
    name = repository(method)
    with writing(out), working_folder(out) as part:
        shutil.copytree(WEIGHTS / method, part / name, copy_function=shutil.copyfile)
        card = packaged_card(method, f"{owner}/{name}", detectors_in(part / name))
        (part / name / "README.md").write_text(str(card), encoding="utf-8")
        swap_in(part / name, out / name, part)
    return out / name


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder that gets a folder for each method")
    parser.add_argument("methods", nargs="*", metavar="METHOD", help="packaged methods; none: all")
    parser.add_argument("--push", metavar="OWNER", help="upload to repositories of this user or organisation")
    parser.add_argument("--private", action="store_true", default=None, help="new repositories are private")
    args = parser.parse_args(argv)
    packaged = sorted(p.parent.name for p in WEIGHTS.glob("*/config.json"))
    if unknown := set(args.methods) - set(packaged):
        parser.error(f"no weights of {', '.join(sorted(unknown))} are packaged; there are {', '.join(packaged)}")
    try:
        with output_folder(args.out) as out:
            folders = [prepare(method, out, args.push or "OWNER") for method in args.methods or packaged]
        for folder in folders:
            if args.push:
                repo_id = make_repository(f"{args.push}/{folder.name}", args.private)
                print(upload(folder, repo_id, commit_message=f"Weights of mmccd {mmccd.__version__}"))
            else:
                print(folder)
    except ValueError as e:
        parser.exit(2, f"{parser.prog}: {e}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
