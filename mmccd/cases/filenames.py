"""What the name of one file says: which image it is, whether its skull is removed, and what leaves doubt about it.

Names are parsed as BIDS writes them (`key-value` entities joined by `_`, the suffix last), and otherwise word by word
with the tables below. A word that may make another image of it (phase, ADC, contrast agent after FLAIR) is reported,
and so is a word behind the modality that no table knows; the caller decides whether to refuse it.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path

PathLikeStr = str | PathLike[str]

NIFTI = re.compile(r"\.(nii|NII)(\.(gz|GZ))?$")
NAMES = dict(
    flair=r"(?:[23]d)?(?:t2w?[-_ .]?)?flair|t2f",
    t1=r"(?:[23]d)?t1[nw]?",
    t1ce=r"(?:[23]d)?t1w?[-_ .]?(?:ce|c|gd|gad\w*|km|ks)",
    t2=r"(?:[23]d)?t2w?",
    seg=r"segm?",
)
"""What a modality, or the truth, is called in the name of a file."""

_ENTITIES = (
    "acq atlas ce chunk den desc dir echo flip hemi inv label mod mt part proc rec recording res run sample seg ses "
    "space split stain sub task trc"
)
_HARMLESS = """
    a b ax axial tra trans transversal transverse sag sagittal cor coronal obl oblique orthogonal mr mri img image
    nii nifti anat scan series head wholehead unstripped unmasked nativ native orig original raw pre plain tse fse
    se space spc cube vista blade propeller haste sense grappa caipi nav fs fatsat mag hr highres hires lowres iso
    isotropic voxel voxels res resampled resamp resliced cropped crop padded pad reoriented reorient ras lps las lpi
    rai std canonical conformed conform reg registered coreg coregistered rigid affine warped aligned deformed
    middle sat sup suppressed suppression n3 n4 n4itk bias unbiased biascorr biascorrected bc bfc corr corrected
    norm normed normalized normalised znorm zscore whitestripe nyul histmatch denoised nlm filtered preproc
    preprocessed pp proc processed final clean defaced deface anon anonymized anonymised baseline bl followup follow
    up fu preop postop intraop br acpc dc restore restored visit time timepoint tp ses session day week month
    year run mm n k
"""
# what follows is known of T1 only, where it names the pulse sequence; gre of T2 is another contrast
_T1_SEQUENCES = """
    mprage mpr memprage mp2rage uni spgr fspgr bravo flash vibe tfl tfe ffe gre ge ir irse wats
"""
_FLAIR_SEQUENCES = "ir tirm dark fluid"
_PLACES = """
    sri sri24 mni mni152 mni305 icbm icbm152 tal talairach template atlas standard std native iso middle halfway
"""
_STRIPPED = """
    brain bet stripped skullstripped skullstrip skull strip ss synthstrip hdbet hd masked brainextracted
    brainextraction extracted deskulled noskull betted robex bse optibet brainonly
"""
_OTHER_IMAGES = """
    phase ph real imag imaginary adc dwi dti swi asl trace diff difference dir psir stir dixon inphase outphase opp
    opposed inv inv1 inv2 map maps t1map t2map r1map star t2star hemo ratio subtraction subtracted sub perf pwi dsc
    dce cbf cbv mtt mra tof angio pd pdw epi bold mip minip mtr mt error residual anomaly recon reconstructed
    reconstruction synth synthetic fake predicted pred filled inpainted inpaint lesionfilled edge gradient b0 b500
    b800 b1000 b2000
"""
_AGENT = r"gd|gad\w*|gbca|km|mitkm|kontrast\w*|contrast\w*|enhanced|ce|c|mdc|dotarem|\+c|c\+"
_NO_AGENT = r"(?:pre|non|no)[-_]?(?:gd|gad\w*|contrast\w*|km|ce|enhanced)"
_NEGATIONS = "pre no non not without wo ohne sans"

HARMLESS = frozenset(_HARMLESS.split())
T1_SEQUENCES = frozenset(_T1_SEQUENCES.split())
FLAIR_SEQUENCES = frozenset(_FLAIR_SEQUENCES.split())
PLACES = frozenset(_PLACES.split())
STRIPPED = frozenset(_STRIPPED.split())
OTHER_IMAGES = frozenset(_OTHER_IMAGES.split())
AGENT = re.compile(_AGENT)
POST_AGENT = re.compile(rf"post(?:{_AGENT})")
NO_AGENT = re.compile(_NO_AGENT)
NEGATIONS = frozenset(_NEGATIONS.split())
BEFORE_AGENT = frozenset({"with", "w", "mit", "nach", "after"})
BEFORE_PLACES = frozenset({"to", "in", "into", "on", "2"})
WITHOUT_C = re.compile(r"(?<=[_ ])-c(?=$|[_ ])|(?<![^\W_])c-(?=$|[_ ])", re.I)  # T1_C- is T1 before contrast
NUMBER = re.compile(
    r"[rsvmdwxp]?\d+[a-z]?|\d+(?:p\d+)?mm|\d+x\d+(?:x\d+)?(?:mm)?|(?:run|ses|tp|time|visit|week|fu)\d+|iso\d+mm?"
)

LABEL = re.compile(
    r"seg\w*|\w+seg|\w*segmentations?|\w*masks?\d*|msk|label(?:s|led|map)?|rois?|voi|dseg|gt|groundtruth|truth"
)
LESION_LABEL = re.compile(
    r"lesions?|wmh|wml|les\d*|tumou?rs?|infarct|stroke|plaques?|h(?:a)?ematoma|consensus|annot\w*|delineations?|"
    r"contours?|gtv|manual|o?edema|necrosis|necrotic|core|wt|tc|et|ncr|expert\d*|rater\d*|reader\d*"
)
LESION_BEFORE = re.compile(r"lesions?|wmh|tumou?rs?")
"""Words that name a lesion, and by themselves perhaps its outline; the second, before a modality too."""
LESION = re.compile(r"lesion|tumou?r|wmh|wml|glioma|stroke|infarct|metasta|gtv|pathology|^les$|^gt$|truth")
NOT_LESION = re.compile(
    r"brain|skull|^bet|hdbet|synthstrip|aseg|aparc|ribbon|tissue|parenchyma|parc|^head$|icv|tiv|cerebell|ventric|hippoc|"
    r"^(gm|wm|csf|air|eyes?|face|deface\w*|fov|strip\w*|ss|robex)$"
)

_ENTITY = re.compile(rf"({'|'.join(_ENTITIES.split())})-([A-Za-z0-9+.]+)")
_MENTION = re.compile(
    "(?<![^\\W_])(?:" + "|".join(f"(?P<{m}>{NAMES[m]})" for m in ("flair", "t1ce", "t1", "t2")) + ")(?![^\\W_])(?!\\*)",
    re.I,
)
_WORD = re.compile(r"\+c(?![^\W_])|(?<![^\W_])c\+|[^\W_]+", re.I)
_PARTS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")


@dataclass(frozen=True)
class FileName:
    """What a file's name says.

    Attributes:
        stem: the name without .nii or .nii.gz, in NFC.
        kind: "flair", "t1", "t1ce", "t2"; "seg", the truth; "label", which may be the truth; "mask", of brain or
            tissue; "" where the name says nothing.
        start: where the modality begins in `stem`, or the word that makes it a segmentation.
        ends: does the name end in its modality?
        stripped: does it say that the skull is removed?
        doubt: the words that leave doubt whether it is a plain image of its modality; "" where none does.
    """

    stem: str
    kind: str = ""
    start: int = 0
    ends: bool = False
    stripped: bool = False
    doubt: str = ""

    @property
    def modality(self) -> str | None:
        """Modality of a plain image, "seg" of the truth, else None."""
        return self.kind if self.kind in NAMES and not self.doubt else None

    @property
    def before(self) -> str:
        """What stands before the modality; the whole stem where there is no modality."""
        return self.stem[: self.start].rstrip("-_. ") if self.modality else self.stem

    @property
    def owner(self) -> str:
        """Whose image it is: `before` in lower case, without what tells copies of an image apart."""
        kept = [c for c in self.before.lower().split("_") if not _ENTITY.fullmatch(c) or c[:4] in ("sub-", "ses-")]
        return "_".join(c for c in kept if c not in STRIPPED)


def nfc(text: str) -> str:
    """Return a name as it is compared: composed, as everything but macOS writes it; `é` is one character."""
    return unicodedata.normalize("NFC", text)


def read_name(path: PathLikeStr) -> FileName:
    """Return what the name of a file says; a leading name of its folder is the patient's and says nothing."""
    path = Path(path)
    return _read_name(nfc(NIFTI.sub("", path.name)), nfc(path.parent.name))


@lru_cache(4096)
def _read_name(stem: str, folder: str) -> FileName:
    text = _without_folder(stem, folder)
    entities, text = _take_entities(WITHOUT_C.sub("__", text))
    words = [m for m in _WORD.finditer(text)]
    mentions = list(_MENTION.finditer(text))
    return _label_name(stem, words, entities, mentions) or _image_name(stem, words, mentions, entities)


def _without_folder(stem: str, folder: str) -> str:
    """Blank out the name of the folder at the start of a stem, unless nothing or no modality would be left."""
    if not folder or not stem.lower().startswith(folder.lower()) or _MENTION.fullmatch(folder):
        return stem
    rest = stem[len(folder) :]
    return "_" * len(folder) + rest if rest and not rest[0].isalnum() else stem


def _take_entities(text: str) -> tuple[dict[str, str], str]:
    """Return the BIDS entities of a name by key, and the name with them blanked out."""
    found = {}
    for chunk in re.finditer(r"[^_]+", text):
        if entity := _ENTITY.fullmatch(chunk[0]):
            found[entity[1].lower()] = entity[2]
            text = text[: chunk.start()] + "_" * len(chunk[0]) + text[chunk.end() :]
    return found, text


def _label_name(
    stem: str, words: list[re.Match[str]], entities: dict[str, str], mentions: list[re.Match[str]]
) -> FileName | None:
    """Return the name of a mask or segmentation; None for any other file."""
    said = [w[0].lower() for w in words]
    image = mentions[0].start() if mentions else -1  # before it, most words belong to an id, and the first always
    made_of = [entities[k].lower() for k in ("label", "desc", "atlas", "seg") if k in entities]
    at = [
        k
        for k, (word, w) in enumerate(zip(said, words))
        if LABEL.fullmatch(word)
        or (w.start() > image and LESION_LABEL.fullmatch(word))
        or (w.start() > 0 and LESION_BEFORE.fullmatch(word))
    ]
    if not at and not {"label", "atlas", "seg"} & entities.keys():
        return None
    first = at[0] if at else len(said) - 1
    while first > 0 and (LESION.search(said[first - 1]) or NOT_LESION.search(said[first - 1])):
        first -= 1
    start = words[first].start() if said else 0
    near = said[first:] + made_of
    bare = re.fullmatch(NAMES["seg"], said[-1]) if said else None
    lesion = any(LESION.search(w) for w in near) and near not in (["tumor"], ["tumour"])
    if not lesion and any(NOT_LESION.search(w) for w in near):
        kind = "mask"
    elif (lesion or bare) and not any("prob" in w for w in near):
        kind = "seg"
    else:
        kind = "label"
    return FileName(stem, kind, words[-1].start() if bare else start, ends=bool(bare))


def _image_name(
    stem: str, words: list[re.Match[str]], mentions: list[re.Match[str]], entities: dict[str, str]
) -> FileName:
    """Return the name of an image; of kind "" where it mentions no modality."""
    if not mentions:
        return FileName(stem)
    ends = mentions[-1].end() == len(stem)
    main = mentions[-1] if ends else mentions[0]
    kind = str(main.lastgroup)
    free = [w for w in words if not any(m.start() <= w.start() < m.end() for m in mentions)]
    before, after = ([w[0].lower() for w in free if (w.start() > main.start()) == behind] for behind in (False, True))
    starts = bool(free) and free[0].start() == 0
    before = before[1:] if starts and len(before) > 1 else before  # a first word with others behind it is an id's
    values = [v for key in ("acq", "desc", "rec") for v in _value_words(entities.get(key, ""))]
    agents = _contrast_agents([*before, *after, *values], entities)
    doubt = [m[0] for m in mentions if m.lastgroup != kind]
    doubt += _doubtful_words(kind, before, after, values, bool(agents)) + _doubtful_entities(kind, entities)
    initials = starts and free[0][0].lower() in agents[:1] == before  # "KM_t1": an agent, or somebody's initials
    if agents and kind == "t1" and not initials:
        kind = "t1ce"
    elif agents and kind != "t1ce":
        doubt += agents
    stripped = bool(STRIPPED & {*before, *after, *values})
    return FileName(stem, kind, main.start(), ends, stripped, ", ".join(dict.fromkeys(doubt)))


def _value_words(value: str) -> list[str]:
    """Return the words of a BIDS value in lower case, and the value itself: `postGd` has post and gd."""
    return [w.lower() for w in (value, *_PARTS.findall(value)) if w]


def _contrast_agents(words: list[str], entities: dict[str, str]) -> list[str]:
    """Return the words that speak of a contrast agent, but not those that say there was none."""
    found = [
        word
        for last, word in zip(["", *words], words)
        if (AGENT.fullmatch(word) or POST_AGENT.fullmatch(word)) and last not in NEGATIONS
    ]
    without = entities.get("ce", "none").lower() in ("none", "no", "pre", "off", "0")
    return found if without else [*found, f"ce-{entities['ce']}"]


def _doubtful_words(kind: str, before: list[str], after: list[str], values: list[str], agent: bool) -> list[str]:
    """Return the words that leave doubt: of other images anywhere, and behind the modality those of no table."""
    doubt = [w for w in (*before, *values) if w in OTHER_IMAGES or (w == "post" and kind == "t1" and not agent)]
    doubt += before[-1:] if before[-1:] in (["to"], ["in"]) else []
    sequences = T1_SEQUENCES if kind in ("t1", "t1ce") else FLAIR_SEQUENCES if kind == "flair" else frozenset()
    known = HARMLESS | STRIPPED | PLACES | sequences | ({"post"} if agent else set())
    for word, following in zip(after, [*after[1:], ""]):
        if word in BEFORE_PLACES and following in PLACES:
            continue
        if word in NEGATIONS | BEFORE_AGENT and AGENT.fullmatch(following):
            continue
        if word == "fat" and following.startswith(("sat", "sup")):
            continue
        spoken_for = NUMBER, AGENT, POST_AGENT, NO_AGENT
        if word not in known and not any(pattern.fullmatch(word) for pattern in spoken_for):
            doubt.append(word)
    return doubt


def _doubtful_entities(kind: str, entities: dict[str, str]) -> list[str]:
    """Return the BIDS entities that may make another image of one of this modality."""
    others = {"chunk", "echo", "flip", "hemi", "inv", "mod", "mt", "part", "recording"} & entities.keys()
    doubt = [f"{k}-{entities[k]}" for k in sorted(others) if (k, entities[k]) not in (("part", "mag"), ("mt", "off"))]
    for key in ("acq", "desc", "rec"):
        said = {m.lastgroup for w in _value_words(entities.get(key, "")) if (m := _MENTION.fullmatch(w))}
        if said - {kind} - ({"t2"} if kind == "flair" else {"t1"} if kind == "t1ce" else set()):
            doubt.append(f"{key}-{entities[key]}")
    return doubt
