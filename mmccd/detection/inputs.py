"""Which modalities of a case a detector is given: its own, or, of an ensemble, the best choice that the case allows."""

from collections.abc import Iterable
from pathlib import Path

from mmccd.cases.names import choose_files
from mmccd.detector import Detector
from mmccd.ensemble import Ensemble
from mmccd.errors import file_error


def choose_input(detector: Detector, available: Iterable[str], allowed: str | None = None) -> str:
    """Return what a detector is given of a case: a modality, or several joined by +.

    Args:
        detector: any detector; only an ensemble takes several modalities, and what it takes depends on the case.
        available: modalities that the case has.
        allowed: those that may be used, joined by +; None is all that the detector is made for.

    Raises:
        ValueError: if an ensemble can use none of them.
    """
    allowed = allowed or detector.config.input
    if not isinstance(detector, Ensemble):
        return allowed
    may = set(allowed.split("+"))
    if usable := may.intersection(available):
        return detector.choose([m for m in available if m in usable])
    needs = " or ".join(c for c in detector.config.choices if may.issuperset(c.split("+")))
    raise ValueError(f"it has {', '.join(available) or 'no modality'}, and the ensemble needs {needs}")


def input_of(path: str | Path, detector: Detector, allowed: str, known: bool = True) -> str:
    """Return what a detector is given of a case that is not read yet; see `choose_input`.

    Args:
        path: the case's folder or file.
        detector: any detector.
        allowed: modalities that may be used, joined by +.
        known: did the caller say that a single file is that modality? If not, its name must.

    Raises:
        ValueError: if an ensemble can use none of its modalities, or a name does not tell which it is.
    """
    single = Path(path).is_file()
    if known and single and "+" not in allowed:
        return choose_input(detector, [allowed], allowed)
    available = choose_files(path)[0] if single or isinstance(detector, Ensemble) else ()
    try:
        return choose_input(detector, available, allowed)
    except ValueError as error:
        raise file_error(path, str(error), "add what is missing, or choose --weights") from error
