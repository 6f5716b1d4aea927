""""""

from PIL import Image

from mmccd.explorer.canvas import draw, png_of
from mmccd.explorer.engine import (
    LRUCache,
    check_way,
    first_view,
    fit_view,
    map_of,
    masked_detector,
    pick_explorer_device,
    scores_of,
    slice_of,
    sweep_masks,
    trace_of,
)
from mmccd.explorer.render import describe, gif_of, lines_of, tiles_of
from mmccd.explorer.subjects import phantom_subject
from mmccd.explorer.view import View
from mmccd.masked_diffusion import MMCCD
from mmccd.slices import MIN_BRAIN, choose_slices, slice_places


class Explorer:
    "Masked cycles of one subject: computed when asked for, kept, and drawn. Knows no widget."

    def __init__(
        self,
        subject=None,  # a `Subject`; None: a made-up patient with a glioma
        weights="mmccd",  # as in `masked_detector`
        device="cpu",  # where the networks run
        megabytes=128,  # how much of what was computed is kept
    ):
        self.weights, self.device, self.before = weights, pick_explorer_device(device), lambda key: None
        self.kept, self.small, self.detectors = (
            LRUCache(megabytes * 3 * 2**18),
            LRUCache(megabytes * 2**18),
            {},
        )  # traces; errors, maps and masks, which outlive them
        c = (first := masked_detector(weights, None, None)).config
        self.own, self.size, self.method = (c.input, c.target), c.size, c.normalisation
        self.ways = list(first.pairs) if c.modalities else [self.own]
        self.meet(subject or phantom_subject())

    def meet(self, subject):  # look at somebody else; what cannot be shown is refused, and the one before stays
        case = subject.case
        if not any(i in case.volumes for i, _ in self.ways):
            raise ValueError(
                f"{case.id} has {', '.join(case.volumes)}, and these networks look at {', '.join(dict.fromkeys(i for i, _ in self.ways))}: choose another case or other weights"
            )
        index = choose_slices(case, None, tumour_free=False)
        if not index:
            raise ValueError(
                f"Cannot show {case.id}: none of its axial slices has {MIN_BRAIN:g} square centimetres of brain; choose another case"
            )
        case.normalised(next(i for i, _ in self.ways if i in case.volumes), self.method)  # refuses what has no contrast
        places = slice_places(case.brain.shape, case.affine)
        self.subject, self.places, self.index, self.read = subject, [int(places[k]) for k in index], index, {}
        self.forget()

    def forget(self):
        self.kept.clear()
        self.small.clear()

    def use(self, device):
        self.device = pick_explorer_device(device)
        self.detectors.clear()
        self.forget()  # run elsewhere from now on

    def detector(self, view) -> MMCCD:  # for the way of `view`
        way = check_way(self, view)
        if way not in self.detectors:
            self.detectors[way] = masked_detector(self.weights, *way, self.device)
        return self.detectors[way]

    @property
    def thing(self) -> str:
        return (
            "artefact" if self.subject.kind == "artefact" else "lesion"
        )  # that the truth marks; a fault of the scanner is no disease

    def slice(self, what, view):
        return slice_of(
            self, what, view
        )  # (1 h w) at the networks' size: a modality, "brain", "lesion" or "twin"; None where unknown

    def masks(self, view):
        return sweep_masks(self, view)  # bool (n 1 h w): the sweep of `view`

    def trace(self, view, number=0):
        return trace_of(self, view, number)  # `MaskedCycleTrace` of one mask

    def map(self, view):
        return map_of(self, view)  # (1 h w): the map so far

    def threshold(self, view):
        return (self.detector(view).calibration or {}).get("threshold")  # the calibrated one, or None

    def scores(self, view):
        return scores_of(self, view)  # Dice, precision, recall; None without truth

    def first_view(self, **wanted) -> View:
        return first_view(self, **wanted)

    def fit(self, view) -> View:
        return fit_view(self, view)  # the nearest view that exists

    def describe(self, view) -> str:
        return describe(self, view)  # what one is looking at, in words

    def tiles(self, view) -> list:
        return tiles_of(self, view)  # the pictures of the row, as `Tile`s

    def image(self, view, width=None) -> Image.Image:
        return draw(self.tiles(view), view.rows, width)  # the row, as a picture about `width` pixels wide

    def png(self, view) -> bytes:
        return png_of(self.image(view))  # the same as a file

    def gif(self, view, over="strips", seconds=0.4) -> bytes:
        return gif_of(self, view, over, seconds)  # it moves, over "strips" or "steps"

    def lines(self, view) -> str:
        return lines_of(self, view)  # the Python lines that reproduce it
