""""""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mmccd.baselines import BRIDGES
from mmccd.cases.phantoms import Phantoms
from mmccd.files import write_atomic, writing
from mmccd.masked_diffusion import SAMPLERS
from mmccd.phantom import MODALITIES
from mmccd.registry import METHODS
from mmccd.training.record import difference
from mmccd.training_loop import PRESETS, TrainConfig

ROWS = tuple(m.name for m in METHODS.values() if m.in_tables)  # all that the tables can show
DEFAULT_ROWS = tuple(m for m in ROWS if METHODS[m].by_default)


WAYS = (
    ("flair", "t2"),
    ("flair", "t1"),
    ("t2", "flair"),
    ("t2", "t1"),
    ("t1", "t2"),
    ("t1", "flair"),
)  # as the paper lists them


@dataclass(frozen=True)
class Recipe:
    "What a preset stands for."

    size: int  # pixels along a side of what the networks see
    scored: int  # pixels along a side of what is scored
    training: TrainConfig  # of every network
    unet: tuple  # of the methods that go to another modality: a name, and what differs from it
    learn: Phantoms  # healthy heads to learn from and to validate on
    val: int  # how many of them validate
    calibrate: Phantoms  # healthy heads that set the thresholds
    test: Phantoms  # whom the tables are about
    height: range = range(30, 126)  # axial places that are learned from
    places: range = range(70, 90)  # axial places that are tested, and that set thresholds
    judged: int = 64  # slices that set a threshold, at most
    each: int = 5  # slices of a healthy head on which false alarms are counted, at most
    fpr: float = 0.01  # share of healthy brain that may lie above a threshold


def evidence(
    seed,  # of the phantoms
    whole=True,  # whole heads
    **counts,  # by kind
) -> Phantoms:
    "Made-up subjects."
    return Phantoms(seed=seed, whole=whole, **counts)


LEVEL = TrainConfig(steps=12000, checkpoint_every=250, validate_every=250, patience=4, progress=0.01)


FOLDED = ("tiny", BRIDGES["tiny"])  # squares of 2 x 2 pixels, as the baselines have it


WHOLE = dict(
    learn=evidence(401, healthy=112),
    val=12,
    calibrate=evidence(403, healthy=20),
    test=evidence(402, healthy=30, glioma=60, ms=30, infarct=30),
)


RECIPES = {
    "smoke": Recipe(
        32,
        64,
        replace(PRESETS["smoke"], steps=40, patience=2, progress=0.02),
        FOLDED,
        evidence(501, False, healthy=4),
        1,
        evidence(503, False, healthy=2),
        evidence(502, False, healthy=1, glioma=3, ms=1),
        range(74, 82),
        range(74, 82),
        8,
        2,
    ),
    "cpu": Recipe(64, 240, LEVEL, FOLDED, **WHOLE),
    "gpu": Recipe(128, 240, PRESETS["paper"], ("paper", {}), **WHOLE),
}


def rule(
    t,  # a `TrainConfig`
) -> str:
    "When is a training done? In words."
    if not t.patience:
        return f"{t.steps:,} steps for every network, whatever the loss"
    return (
        f"done when {t.patience} validations, {t.validate_every} steps apart, have together lowered the least validation loss by less than {t.progress:.0%}, "
        f"or after {t.steps:,} steps; level learning rate {t.lr:g}, moving average of the weights"
    )


@dataclass(frozen=True)
class ScanSource:
    "Prepared scans instead of phantoms."

    store: str  # made by `mmccd prepare`: slices to learn from, at the size of the networks
    train_list: str  # file with the names to learn from, one a line
    val_list: str  # names to validate on, and to set thresholds with
    test_list: str  # names to test on
    test_store: str = ""  # the same scans at the size that is scored; "": `store`


@dataclass(frozen=True)
class Plan:
    "All that a benchmark is asked for."

    out: str  # folder of the benchmark
    preset: str = "cpu"  # a name in `RECIPES`
    pairs: tuple = WAYS  # (input, target), the first is that of Table 1
    methods: tuple = DEFAULT_ROWS  # names in `ROWS`
    shipped: str = "no"  # the weights that come with mmccd: "no", "also", or "only" (nothing is trained)
    scans: ScanSource = None  # None: phantoms
    sampler: str = "fast"  # how masked methods look at a slice: "fast", or "paper"
    seed: int = 0  # of split, first weights, order and noise
    device: str = "cpu"  # cpu, cuda or mps

    def __post_init__(self):
        def put(name, value):
            return object.__setattr__(self, name, value)

        put("out", str(self.out))
        put("pairs", tuple(map(tuple, self.pairs)))
        for what, asked, known in (
            ("preset", (self.preset,), RECIPES),
            ("method", self.methods, ROWS),
            ("word after --shipped", (self.shipped,), ("no", "also", "only")),
            ("sampler", (self.sampler,), SAMPLERS),
        ):
            if wrong := [a for a in asked if a not in known]:
                raise ValueError(f"unknown {what} {wrong[0]!r}: choose {', '.join(known)}")
        wrong = [p for p in self.pairs if len(p) != 2 or p[0] == p[1] or set(p) - set(MODALITIES)]
        if wrong or not self.pairs or len(set(self.pairs)) < len(self.pairs):
            raise ValueError(
                f"a pair is two modalities, such as flair-t2, and each pair counts once, got {'-'.join(wrong[0]) if wrong else ', '.join('-'.join(p) for p in self.pairs) or 'none'}"
            )
        put("methods", tuple(m for m in ROWS if m in self.methods or not METHODS[m].trainable))

    @property
    def recipe(self):
        return RECIPES[self.preset]

    @property
    def training(self):
        return replace(self.recipe.training, seed=self.seed)

    @property
    def modalities(self):
        return tuple(sorted({m for p in self.pairs for m in p}))

    @property
    def inputs(self):
        return tuple(dict.fromkeys(x for x, _ in self.pairs))

    @property
    def trained(self):
        if self.shipped == "only":
            return ()
        wanted = {*self.methods, *(METHODS[m].decoder_from for m in self.methods)}
        return tuple(m for m in ROWS if m in wanted and METHODS[m].trainable)


def write_or_check_plan(
    plan,  # a `Plan`
    out,  # its folder
):
    "Write down what is asked for, or refuse a folder that holds something else."
    record = out / "plan.json"
    asked = json.loads(
        json.dumps(
            {k: v for k, v in asdict(plan).items() if k not in ("out", "device")} | {"recipe": asdict(plan.recipe)},
            default=str,
        )
    )
    if not record.exists():
        if any(p.name[0] != "." for p in out.iterdir()):
            raise ValueError(f"{out} is not empty and holds no benchmark: choose another folder")
        with writing(out):
            write_atomic(record, (json.dumps(asked, indent=1) + "\n").encode())
        return
    try:
        old = dict(json.loads(record.read_bytes()))
    except (ValueError, TypeError, OSError) as e:
        raise ValueError(f"cannot go on in {out}: its plan.json is damaged; choose another folder") from e
    if words := difference(old, asked):
        raise ValueError(
            f"cannot go on with the benchmark in {out}: {words}; ask for the same, or choose another folder"
        )


SPLITS = Path(__file__).parent.parent / "splits"  # lists that come with the package


def split_lists(
    name,  # a folder with train.txt, val.txt and test.txt, or the name of lists that come with the package, such as brats2021
) -> dict:  # train_list, val_list, test_list: paths
    "Who learns, who validates, who is tested?"
    known = sorted(p.name for p in SPLITS.iterdir())
    folder = SPLITS / name if name in known and not (Path(name) / "train.txt").is_file() else Path(name)
    if not folder.is_dir():
        raise ValueError(
            f"there is no folder {folder} with lists: name one that holds train.txt, val.txt and test.txt, or {' or '.join(known)}"
        )
    missing = [p for p in ("train.txt", "val.txt", "test.txt") if not (folder / p).is_file()]
    if missing:
        raise ValueError(f"{folder} has no {missing[0]}: write the names of its subjects into it, one a line")
    return {f"{k}_list": str(folder / f"{k}.txt") for k in ("train", "val", "test")}
