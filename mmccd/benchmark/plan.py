"""What is decided before the first number: recipes (presets), scans or phantoms, pairs, methods, seed."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmccd.anatomy import MODALITIES
from mmccd.baselines import WITH_SKIPS
from mmccd.cases.phantoms import Phantoms
from mmccd.files import user_path, write_atomic, writing
from mmccd.masked_diffusion import SAMPLERS
from mmccd.registry import METHODS, table_methods
from mmccd.training.record import first_difference
from mmccd.training_loop import PRESETS, TrainConfig

ROWS = table_methods()
"""Names of all methods that the tables can show, in the order of their rows."""
DEFAULT_ROWS = table_methods(by_default=True)
SHIPPED = ("no", "also", "only")
"""What happens to the weights that come with the package: left out, measured too, or nothing else (no training)."""
PAIRS = (("flair", "t2"), ("flair", "t1"), ("t2", "flair"), ("t2", "t1"), ("t1", "t2"), ("t1", "flair"))
"""Input and target, in the order of the paper's Table 2."""


@dataclass(frozen=True)
class Recipe:
    """All that a preset stands for.

    Attributes:
        size: Pixels along a side of the slices that the networks take.
        scored: Pixels along a side of the slices that are scored.
        training: Settings of every training; the seed is the plan's.
        unet: U-Net of the methods that go to another modality: name of a preset and the fields that differ from it.
        learn: Healthy phantoms to learn from and to validate on.
        val: How many of them validate.
        calibrate: Healthy phantoms that set the thresholds.
        test: The phantoms that are scored.
        train_places: Axial places (on the BraTS grid) that the networks learn from.
        test_places: Axial places that are scored, and that set the thresholds.
        calibration_slices: At most so many slices set a threshold.
        healthy_slices: At most so many slices of a healthy head count false alarms.
        fpr: Share of healthy brain that may lie above a threshold.
    """

    size: int
    scored: int
    training: TrainConfig
    unet: tuple[str, dict[str, Any]]
    learn: Phantoms
    val: int
    calibrate: Phantoms
    test: Phantoms
    train_places: range = range(30, 126)
    test_places: range = range(70, 90)
    calibration_slices: int = 64
    healthy_slices: int = 5
    fpr: float = 0.01


FOLDED = ("tiny", WITH_SKIPS["tiny"])  # 2 x 2 pixels folded into channels, as the baselines have it
UNTIL_LEVEL = TrainConfig(steps=12000, checkpoint_every=250, validate_every=250, patience=4, progress=0.01)
HEADS = {
    "learn": Phantoms(healthy=112, seed=401, whole=True),
    "val": 12,
    "calibrate": Phantoms(healthy=20, seed=403, whole=True),
    "test": Phantoms(healthy=30, glioma=60, ms=30, infarct=30, seed=402, whole=True),
}
RECIPES = {
    "smoke": Recipe(
        size=32,
        scored=64,
        training=replace(PRESETS["smoke"], steps=40, patience=2, progress=0.02),
        unet=FOLDED,
        learn=Phantoms(healthy=4, seed=501),
        val=1,
        calibrate=Phantoms(healthy=2, seed=503),
        test=Phantoms(healthy=1, glioma=3, ms=1, seed=502),
        train_places=range(74, 82),
        test_places=range(74, 82),
        calibration_slices=8,
        healthy_slices=2,
    ),
    "cpu": Recipe(size=64, scored=240, training=UNTIL_LEVEL, unet=FOLDED, **HEADS),
    "gpu": Recipe(size=128, scored=240, training=PRESETS["paper"], unet=("paper", {}), **HEADS),
}


def stopping_rule(training: TrainConfig) -> str:
    """When a training counts as done, in words."""
    t = training
    if not t.patience:
        return f"{t.steps:,} steps for every network, whatever the loss"
    return (
        f"done when {t.patience} validations, {t.validate_every} steps apart, have together lowered the least "
        f"validation loss by less than {t.progress:.0%}, or after {t.steps:,} steps; level learning rate {t.lr:g}, "
        "moving average of the weights"
    )


@dataclass(frozen=True)
class ScanSource:
    """Prepared scans, to be used instead of phantoms.

    Attributes:
        store: Store made by `prepare`: slices to learn from, at the size of the networks.
        train_list: Text file with the names of the subjects to learn from, one a line.
        val_list: The same for those that validate and set the thresholds.
        test_list: The same for those that are scored.
        test_store: Store of the same scans at the size that is scored; `""`: `store`.
        subjects: File that says who is who; None: the stores and the names do.
    """

    store: str
    train_list: str
    val_list: str
    test_list: str
    test_store: str = ""
    subjects: str | None = None


@dataclass(frozen=True)
class Plan:
    """All that decides what a benchmark ends in; it checks itself when it is made.

    The rows of the tables come in the order of the registry, and always include the methods that learn nothing.

    Attributes:
        out: Folder of the benchmark.
        preset: Name in `RECIPES`.
        pairs: Input and target; Table 1 is about the first.
        methods: Names in `ROWS`.
        shipped: One of `SHIPPED`.
        scans: Where the scans are; None: phantoms are made.
        sampler: How masked methods sample: a name in `mmccd.masked_diffusion.SAMPLERS`.
        seed: Of split, first weights, order and noise; the phantoms are the recipe's.
        device: auto, cpu, cuda or mps.

    Raises:
        ValueError: A name is unknown, or a pair is none or is there twice.
    """

    out: str | Path
    preset: str = "cpu"
    pairs: tuple[tuple[str, str], ...] = PAIRS
    methods: tuple[str, ...] = DEFAULT_ROWS
    shipped: str = "no"
    scans: ScanSource | None = None
    sampler: str = "fast"
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # frozen, from here on
        set_field(self, "out", str(user_path(self.out)))
        set_field(self, "pairs", tuple(tuple(p) for p in self.pairs))
        for what, names, known in (
            ("preset", (self.preset,), RECIPES),
            ("method", self.methods, ROWS),
            ("word after --shipped", (self.shipped,), SHIPPED),
            ("sampler", (self.sampler,), SAMPLERS),
        ):
            if unknown := [n for n in names if n not in known]:
                raise ValueError(f"unknown {what} {unknown[0]!r}: choose {', '.join(known)}")
        check_pairs(self.pairs)
        set_field(self, "methods", tuple(m for m in ROWS if m in self.methods or not METHODS[m].trainable))

    @property
    def recipe(self) -> Recipe:
        """What the preset stands for."""
        return RECIPES[self.preset]

    @property
    def training(self) -> TrainConfig:
        """Settings of every training, with the plan's seed."""
        return replace(self.recipe.training, seed=self.seed)

    @property
    def modalities(self) -> tuple[str, ...]:
        """All modalities of the pairs, sorted."""
        return tuple(sorted({m for p in self.pairs for m in p}))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs of the pairs, each once."""
        return tuple(dict.fromkeys(x for x, _ in self.pairs))

    @property
    def trained(self) -> tuple[str, ...]:
        """Methods to train, in the order of the rows; with those whose decoder another one takes over."""
        if self.shipped == "only":
            return ()
        wanted = {*self.methods, *(METHODS[m].decoder_from for m in self.methods)}
        return tuple(m for m in ROWS if m in wanted and METHODS[m].trainable)

    @property
    def training_order(self) -> tuple[str, ...]:
        """The same, those that others wait for first."""
        decoders = {METHODS[m].decoder_from for m in self.trained}
        return tuple(sorted(self.trained, key=lambda m: m not in decoders))


def paths_of(plan: Plan) -> list[str]:
    """The folders and files that a plan names, its own folder first."""
    return [str(plan.out), *(v for v in asdict(plan.scans).values() if v)] if plan.scans else [str(plan.out)]


def with_absolute_paths(plan: Plan) -> Plan:
    """The same plan as it is understood from any working directory."""
    s = plan.scans
    scans = replace(s, **{k: os.path.abspath(v) for k, v in asdict(s).items() if v}) if s else None
    return replace(plan, out=os.path.abspath(plan.out), scans=scans)


def check_pairs(pairs: tuple[tuple[str, ...], ...]) -> None:
    """Refuse what is no pair of two modalities, a pair that is there twice, and no pair at all.

    Raises:
        ValueError: Names the first pair that is wrong.
    """
    wrong = [p for p in pairs if len(p) != 2 or p[0] == p[1] or set(p) - set(MODALITIES)]
    if wrong or not pairs or len(set(pairs)) < len(pairs):
        got = "-".join(wrong[0]) if wrong else ", ".join("-".join(p) for p in pairs) or "none"
        raise ValueError(f"a pair is two modalities, such as flair-t2, and each pair counts once, got {got}")


RENAMED = {
    "height": "train_places",
    "places": "test_places",
    "judged": "calibration_slices",
    "each": "healthy_slices",
}  # fields of `Recipe` in the plan.json of mmccd 0.1


def describe_decided(plan: Plan) -> dict[str, Any]:
    """All that decides what a benchmark ends in, ready for JSON.

    Folder and device are no part of it: a benchmark may move, and go on elsewhere.
    """
    decided = {k: v for k, v in asdict(plan).items() if k not in ("out", "device")} | {"recipe": asdict(plan.recipe)}
    return json.loads(json.dumps(decided, default=str))


def write_or_check_plan(plan: Plan, out: Path) -> None:
    """Write `plan.json` into a new folder; of a folder that has one, make sure that it is the same plan.

    Raises:
        ValueError: The folder holds something else, another plan, or one that cannot be read.
    """
    check_plan(plan, out)
    if not (out / "plan.json").exists():
        with writing(out):
            write_atomic(out / "plan.json", (json.dumps(describe_decided(plan), indent=1) + "\n").encode())


def check_plan(plan: Plan, out: Path) -> None:
    """Make sure that a folder is empty or holds a benchmark of the same plan; nothing is written.

    Raises:
        ValueError: The folder holds something else, another plan, or one that cannot be read.
    """
    record, decided = out / "plan.json", describe_decided(plan)
    if not record.exists():
        if any(p.name[0] != "." for p in out.iterdir()):
            raise ValueError(f"{out} is not empty and holds no benchmark: choose another folder")
        return
    try:
        old = dict(json.loads(record.read_bytes()))
        old["recipe"] = {RENAMED.get(k, k): v for k, v in old["recipe"].items()}
        for heads in ("learn", "calibrate", "test"):
            old["recipe"][heads] = {"every": 1, "varied": []} | old["recipe"][heads]  # of older plans
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError) as e:
        raise ValueError(f"cannot go on in {out}: its plan.json is damaged; choose another folder") from e
    if change := first_difference(old, decided):
        raise ValueError(
            f"cannot go on with the benchmark in {out}: {change}; ask for the same, or choose another folder"
        )


SPLITS = Path(__file__).parent.parent / "splits"
"""Lists of names that come with the package."""


def split_lists(name: str | Path) -> dict[str, str]:
    """Paths of the lists that say who trains, validates and is tested.

    Args:
        name: A folder with `train.txt`, `val.txt` and `test.txt`, or the name of lists that come with the package, such
            as `brats2021`.

    Returns:
        `train_list`, `val_list` and `test_list`, as `ScanSource` takes them.

    Raises:
        ValueError: There is no such folder, or one of its lists is missing.
    """
    known = sorted(p.name for p in SPLITS.iterdir())
    folder = user_path(name)
    if name in known and not (folder / "train.txt").is_file():
        folder = SPLITS / name
    if not folder.is_dir():
        raise ValueError(
            f"there is no folder {folder} with lists: name one that holds train.txt, val.txt and test.txt, "
            f"or {' or '.join(known)}"
        )
    missing = [p for p in ("train.txt", "val.txt", "test.txt") if not (folder / p).is_file()]
    if missing:
        raise ValueError(f"{folder} has no {missing[0]}: write the names of its subjects into it, one a line")
    return {f"{k}_list": str(folder / f"{k}.txt") for k in ("train", "val", "test")}
