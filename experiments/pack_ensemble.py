"""Set the scales of the packaged ensemble on healthy phantoms, and write its card.

    python experiments/pack_ensemble.py --jobs 2

Its members are those of `mmccd.ensemble.CHOICES`, which experiments/recipes/ensemble.yaml found; they have to be
packaged first. The healthy heads are those that set the thresholds of all other weights.
"""

from __future__ import annotations

import argparse
from datetime import date
from pathlib import Path

import torch
from command import run_script
from evidence import in_parallel
from train_weights import FPR

from mmccd.cases.case import Case
from mmccd.detection.maps import member_maps
from mmccd.detector import save_detector
from mmccd.ensemble import Ensemble, set_scales
from mmccd.files import write_atomic
from mmccd.phantom import VERSION, make_phantom
from mmccd.slices import to_slices
from mmccd.tables import markdown_table
from mmccd.weights.hub import WEIGHTS

SEED, PLACES = 403, range(30, 126, 5)  # heads that set the thresholds of the other weights, too
CARD = """# ensemble: the maps of several detectors of one head, added up

**For research and teaching, not a medical device.**

| | |
|---|---|
| detector | `ensemble`: takes the modalities that a case has, of FLAIR, T2, T1 and contrast-enhanced T1 |
| map | mean of (map of a member / its median inside the brain) to the power {power:g}, over the scale of the choice |
| members | chosen by `data/results/ensemble.json` |
| scales | {fpr:.0%} of the brain of {subjects} healthy phantoms (seed {seed}, {slices} slices) lies above 1 |
| made | {date} |

{table}

A case takes the first line whose modalities it has. Made by `python experiments/pack_ensemble.py`.

## Limits

Those of its members, see their cards. The median assumes that more than half of the brain is healthy. The scales are
those of phantoms: on real scans another share of healthy tissue lies above 1, and healthy cases of the same scanner set
it right (`mmccd detect --healthy`). Its members were chosen on phantoms and on fifteen real patients.
"""


@torch.no_grad()
def healthy_values(seed: int, index: int, places: range) -> dict[str, torch.Tensor]:
    """By choice the evidence inside the brain of one healthy phantom."""
    torch.set_num_threads(1)
    ensemble = Ensemble()
    case = Case.from_phantom(make_phantom("healthy", seed, index, places, twin=False))
    brain, found = to_slices(case.brain), {}
    for choice in ensemble.config.choices:
        maps = member_maps(case, ensemble, choice)
        found[choice] = ensemble.combine(maps, brain, choice)[brain]
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder that gets the folder of the ensemble")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--heads", type=int, default=20, help="healthy phantoms")
    args = parser.parse_args(argv)
    tasks = [(SEED, i, PLACES) for i in range(args.heads)]
    heads = list(in_parallel(healthy_values, tasks, args.jobs))
    ensemble = Ensemble()
    about = {"subjects": args.heads, "slices": args.heads * len(PLACES), "seed": SEED, "phantom": VERSION}
    about |= {"date": date.today().isoformat()}
    data = f"axial slices {PLACES.start} to {PLACES[-1]}, every {PLACES.step}th, of healthy phantom heads"
    set_scales(ensemble, {c: torch.cat([h[c] for h in heads]) for c in heads[0]}, FPR, data, **about)
    folder = save_detector(ensemble, args.out / "ensemble")
    shares = {c: [(h[c] > ensemble.config.scales[c]).double().mean().item() for h in heads] for c in heads[0]}
    rows = [
        [c.replace("+", " and "), ", ".join(names), f"{ensemble.config.scales[c]:.3g}", f"{max(shares[c]):.1%}"]
        for c, names in ensemble.config.choices.items()
    ]
    table = markdown_table(["a case with", "members", "scale", "most above in one healthy head"], rows)
    facts = about | {"power": ensemble.config.power, "fpr": FPR, "table": table}
    write_atomic(folder / "README.md", CARD.format(**facts).encode())
    print(table)
    return 0


if __name__ == "__main__":
    run_script(main)
