"""`mmccd evaluate`: scores of a folder of results."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from mmccd.cli.app import command
from mmccd.cli.options import Options, put_json, show
from mmccd.runtime import say


@dataclass(frozen=True)
class EvaluateOptions(Options):
    """Which results to score against which truth, and how."""

    command: ClassVar[str] = "evaluate"
    result: ClassVar[frozenset[str]] = frozenset(("protocol", "without_map"))

    results: Annotated[str, typer.Argument(metavar="DIR", help="Folder of results, as detect leaves it, or its URL.")]
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="Folder of the cases with their segmentations.")]
    protocol: Annotated[
        str, typer.Option(metavar="slice|volume", help="Score the slice with most lesion, or the whole volume.")
    ] = "slice"
    only: Annotated[
        str, typer.Option(metavar="PATTERN", help="Only cases whose name fits, such as '*glioma*' (in quotes).")
    ] = "*"
    seed: Annotated[
        int, typer.Option(min=0, help="No effect, scores draw nothing; taken so that every command has it.")
    ] = 0


@command(EvaluateOptions, epilog="Example: mmccd evaluate results cases --only '*glioma*' --json scores.json")
def evaluate(options: EvaluateOptions) -> int:
    """Score a folder of results against the truth."""
    from mmccd.detection import evaluate as score
    from mmccd.detection.score_text import score_text

    result = score(options.results, options.truth, options.protocol, only=options.only)
    put_json(result, options.json)
    if options.json != "-" and (result["scores"] or result["healthy"]):
        show(score_text(result))
    for note in result["notes"]:
        say(note)
    for e in result["errors"]:
        say(e["error"])
    return 2 if result["errors"] else 0
