"""`mmccd check`: what is odd about a case, before anything is computed from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from mmccd.cli.app import command
from mmccd.cli.options import Cases, Options, put_json, show
from mmccd.runtime import counted, say


@dataclass(frozen=True)
class CheckOptions(Options):
    """Which cases."""

    command: ClassVar[str] = "check"
    result: ClassVar[frozenset[str]] = frozenset(("checked",))
    has_more: ClassVar[bool] = False

    cases: Cases


def check_case(id: str, path: str | Path) -> dict[str, Any]:
    """Return `id`, `modalities`, `notes` (what is odd) and `error`: why it cannot be used, or None."""
    from mmccd.cases.case import Case
    from mmccd.cases.oddities import oddities
    from mmccd.detection.maps import region_for
    from mmccd.detector import load_detector
    from mmccd.errors import format_error

    found: dict[str, Any] = {"id": id, "modalities": [], "notes": [], "error": None}
    try:
        case = Case.load(path)
        for m in case.volumes:
            case.normalised(m)  # refuses a brain without contrast
        case.notes += oddities(case)
        region_for(load_detector("dae-flair"), case)  # the field of view of all packaged networks
        found |= {"modalities": list(case.volumes), "notes": case.notes}
    except (ValueError, OSError) as error:
        found["error"] = format_error(error, id)
    return found


@command(CheckOptions, epilog="Example: mmccd check cases")
def check(options: CheckOptions) -> int:
    """What is odd about each case, and what to do."""
    from mmccd.cases.names import find_cases

    left_out: list[str] = []
    checked = [check_case(id, path) for id, path in find_cases(options.cases, left_out)]
    put_json({"checked": checked}, options.json)
    for note in left_out:
        say(note)
    for c in checked:
        if c["error"]:
            say(c["error"])
        elif options.json != "-":
            head = f"{c['id']}: {', '.join(c['modalities'])}"
            show("\n".join([head + "; nothing odd" * (not c["notes"]), *(f"  {note}" for note in c["notes"])]))
    good = [c for c in checked if not c["error"]]
    if options.json != "-":
        odd = sum(bool(c["notes"]) for c in good)
        show(f"{len(good)} of {counted(len(checked), 'case')} can be used, {odd} with something to look at")
    return 0 if len(good) == len(checked) else 2
