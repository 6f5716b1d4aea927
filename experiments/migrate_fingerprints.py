"""Give the results in data/results the fingerprints of today: `python experiments/migrate_fingerprints.py`.

Run once when `fingerprint` stopped hashing module paths, defaults and thresholds, and kept as the record of that. The
first fingerprints, of version 0.1.0, stand in fingerprints.json by the detector they belong to, beside those of today.
Networks that were trained for one result and not kept cannot be loaded again: their key becomes `fingerprint_v1`.
Nothing else in a result changes. Where a config's fields or a network's tensors get new names, run it again."""

import argparse
import json
import re
import sys
from pathlib import Path

from mmccd.cycle import CyclicUNet
from mmccd.detector import Detector, EverythingPositive, fingerprint, load_detector
from mmccd.masked_diffusion import Sampler, with_config
from mmccd.weights import packaged

HOME = Path(__file__).resolve().parent
RECORD, RESULTS = HOME / "fingerprints.json", HOME.parent / "data" / "results"


def detector_of(name: str) -> Detector:
    """The detector of a name in the record: `"everything"`, or a packaged one, perhaps `(default sampler)`."""
    if name == "everything":
        return EverythingPositive()
    packaged, _, how = name.partition(" ")
    found = load_detector(packaged)
    return with_config(found, sampler=Sampler()) if how and not isinstance(found, CyclicUNet) else found


def migrate(text: str, now: dict[str, str], lost: set[str]) -> str:
    """A result's text with other fingerprints, and not another character changed.

    Args:
        text: JSON.
        now: Fingerprint of today by any earlier one.
        lost: Fingerprints of version 0.1.0 whose networks are not kept.
    """
    text = re.sub(r'"([0-9a-f]{16})"', lambda m: f'"{now.get(m[1], m[1])}"', text)
    return re.sub(
        r'"fingerprint": "([0-9a-f]{16})"', lambda m: m[0].replace("print", "print_v1") if m[1] in lost else m[0], text
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of JSON files")
    args = parser.parse_args(argv)
    record = json.loads(RECORD.read_text())
    record["detectors"] |= {n: {"v1": [], "now": ""} for n in packaged() if n not in record["detectors"]}
    now = {}
    for name, known in record["detectors"].items():
        today = fingerprint(detector_of(name))
        now |= dict.fromkeys(filter(None, [*known["v1"], known["now"]]), today)
        known["now"] = today
    changed = []
    for path in sorted(args.results.glob("*.json")):
        before = path.read_text()
        after = migrate(before, now, set(record["lost"]))
        if after != before:
            path.write_text(after)
            changed.append(path.name)
    RECORD.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{len(changed)} results changed: {', '.join(changed) or 'none'}", file=sys.stderr)


if __name__ == "__main__":
    main()
