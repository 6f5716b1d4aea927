""""""

from pathlib import Path
from typing import Annotated

import typer

from mmccd.cli.app import app
from mmccd.cli.options import Json, check_json, put_json
from mmccd.runtime import say


@app.command(epilog="Example: mmccd evaluate results cases --only '*glioma*' --json scores.json")
def evaluate(
    results: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of results, as detect leaves it.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="Folder of the cases with their segmentations.")],
    protocol: Annotated[
        str, typer.Option(metavar="slice|volume", help="Score the slice with most lesion, or the whole volume.")
    ] = "slice",
    only: Annotated[
        str, typer.Option(metavar="PATTERN", help="Only cases whose name fits, such as '*glioma*' (in quotes).")
    ] = "*",
    seed: Annotated[
        int, typer.Option(min=0, help="No effect, scores draw nothing; taken so that every command has it.")
    ] = 0,
    json: Json = "",  # file, or - for standard output
):
    "Score a folder of results against the truth."
    check_json(json)
    from mmccd.detection.evaluate import evaluate as score
    from mmccd.detection.score_text import score_text

    result = score(results, truth, protocol, only=only)
    put_json(result, json)
    if json != "-" and (result["scores"] or result["healthy"]):
        print(score_text(result))
    for e in result["errors"]:
        say(e["error"])
    return 2 if result["errors"] else 0
