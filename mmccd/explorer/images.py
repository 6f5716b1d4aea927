"""The slices of a subject as the networks take them."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from mmccd.explorer.subjects import Subject
from mmccd.intensity import BACKGROUND
from mmccd.slices import FOV, MIN_BRAIN, choose_slices, field_of_view, resize, resize_labels, slice_places, to_slices


class SubjectSlices:
    """All axial slices of a subject with enough brain, at the networks' size; an image is resized when first used.

    Attributes:
        subject: The subject.
        index: Indices of the slices in the case's volumes.
        places: Their places: on the BraTS grid where the case lies on it, else the indices.
    """

    def __init__(self, subject: Subject, inputs: Sequence[str], size: int, method: str, fov: float = FOV) -> None:
        """Check that the subject can be shown.

        Args:
            subject: The subject.
            inputs: Modalities that the networks take.
            size: Pixels along a side of the networks' slices.
            method: Normalisation, as in `intensity.normalise`.
            fov: Millimetres along a side of the networks' slices.

        Raises:
            ValueError: If the case has none of the modalities, no slice with enough brain, no contrast, or does
                not fit into the networks' field of view.
        """
        case = subject.case
        if not (usable := [m for m in inputs if m in case.volumes]):
            raise ValueError(
                f"{case.id} has {', '.join(case.volumes)}, and these networks take "
                f"{', '.join(dict.fromkeys(inputs))}: choose another case or other weights"
            )
        self.index = choose_slices(case, None, tumour_free=False)
        if not self.index:
            raise ValueError(
                f"Cannot show {case.id}: none of its axial slices has {MIN_BRAIN:g} square centimetres of brain; "
                "choose another case"
            )
        case.normalised(usable[0], method)  # raises where the image has no contrast
        places = slice_places(case.brain.shape, case.affine)
        self.subject, self.size, self.method = subject, size, method
        self.region = field_of_view(case.brain, case.affine, fov, case.id)
        self.places = [int(places[k]) for k in self.index]
        self._images: dict[str, torch.Tensor] = {}
        self._twins: dict[str, torch.Tensor] = {}

    def number(self, place: int) -> int:
        """Number of the slice at `place` among all that can be shown; ValueError where it cannot."""
        if place in self.places:
            return self.places.index(place)
        raise ValueError(
            f"{self.subject.case.id} has no axial slice {place} with enough brain: "
            f"choose {self.places[0]} to {self.places[-1]}"
        )

    @cached_property
    def brain(self) -> torch.Tensor:
        """The brain in all slices, bool (n 1 h w)."""
        return resize_labels(to_slices(self.subject.case.brain, self.index), self.size, self.region)

    @cached_property
    def lesion(self) -> torch.Tensor | None:
        """The lesion in all slices, bool (n 1 h w); None where it is unknown."""
        lesion = self.subject.case.lesion
        return None if lesion is None else resize_labels(to_slices(lesion, self.index), self.size, self.region)

    def image(self, modality: str) -> torch.Tensor:
        """The normalised image of all slices, (n 1 h w); ValueError where the case lacks the modality."""
        if modality not in self._images:
            self._images[modality] = self._resized(self._normalised(modality))
        return self._images[modality]

    def twin(self, modality: str) -> torch.Tensor | None:
        """The healthy twin's image of all slices, (n 1 h w); None where there is no such image.

        It is normalised with the constants of the case, not with its own, so that the same tissue has the same grey.
        """
        case, twin = self.subject.case, self.subject.twin
        if twin is None or modality not in twin.volumes:
            return None
        if modality not in self._twins:
            line = np.polyfit(case.volumes[modality][case.brain], self._normalised(modality)[case.brain], 1)
            v = np.where(case.brain, np.polyval(line, twin.volumes[modality]), self._background)
            self._twins[modality] = self._resized(v.astype(np.float32))
        return self._twins[modality]

    @cached_property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns that hold the brain of all slices, with a pixel around it."""
        from mmccd.viz import crop_to

        return crop_to(self.brain, 1)

    @property
    def _background(self) -> float:
        return BACKGROUND.get(self.method, -1.0)

    def _normalised(self, modality: str) -> np.ndarray:
        return self.subject.case.normalised(modality, self.method)

    def _resized(self, volume: np.ndarray) -> torch.Tensor:
        return resize(to_slices(volume, self.index), self.size, self._background, self.region)
