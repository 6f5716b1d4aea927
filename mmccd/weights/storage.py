"""Reads and writes a detector's folder: `config.json` says what to build, `model.safetensors` holds numbers only.

Nothing here knows what a detector is: configs are dicts, and a class is a name. `config.json` holds

* `detector`: the stable name of the class, see `mmccd.registry.registered_name`;
* `config`: the fields of its config, and `calibration`: the threshold and what it rests on, or null;
* `variants`, where one network makes several detectors: by name what differs, a `config` that completes the shared one
  and a `calibration` of its own. The first is taken where nobody names one;
* `sha256` of `model.safetensors`, and `mmccd`, the version that wrote it.
"""

import hashlib
import json
import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from threading import get_ident
from typing import TYPE_CHECKING, Annotated, Any, Required

from annotated_types import Ge, Gt, Le, MinLen
from typing_extensions import TypedDict

from mmccd.errors import display_name
from mmccd.files import user_path, write_atomic
from mmccd.schemas import Natural, Share, checked, closed, read_checked
from mmccd.weights.renames import current_class, current_config, current_tensor_name

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, TENSORS = "config.json", "model.safetensors"
FLOATS = {"F64", "F32", "F16", "BF16"}  # as safetensors calls them


TODO = "copy the weights again"


class Calibration(TypedDict, total=False):
    """A threshold and what it rests on; other fields are kept as they are."""

    threshold: Required[Annotated[float, Ge(0), Le(1e6)]]  # a map is a squared error, or of a like size
    fpr: Annotated[float, Gt(0), Le(1)]
    fpr_reached: Share
    fpr_of_subjects: list[Share]
    pixels: Natural
    slices: Natural
    subjects: Natural
    cases: list[str]
    data: str
    post: dict[str, Any]


@closed
class Variant(TypedDict):
    """What one of several detectors in a folder has for itself."""

    config: dict[str, Any]
    calibration: Calibration | None


class About(TypedDict, total=False):
    """What `config.json` holds."""

    detector: Required[str]
    config: Required[dict[str, Any]]
    calibration: Calibration | None
    variants: Annotated[dict[str, Variant], MinLen(1)]
    sha256: Required[str]
    mmccd: str
    module: str | None  # these two in version 0.1.0
    tensors: str


@dataclass(frozen=True)
class StoredWeights:
    """What a folder holds of one detector, checked; the tensors are not read yet.

    Attributes:
        detector: Stable name of its class.
        config: Fields of its config.
        calibration: Its threshold and where that comes from; None where it has none.
        folder: Where `config.json` lies.
        file: Where the tensors are.
        sha256: Of that file.
    """

    detector: str
    config: dict[str, Any]
    calibration: Calibration | None
    folder: Path
    file: Path
    sha256: str

    @property
    def is_ours(self) -> bool:
        """Is the class one of the package? Names and types in a class of somebody else are theirs."""
        return ":" not in self.detector

    def check_config(self, kind: type) -> None:
        """Refuse fields that are unknown, of another type or out of range, before anything is built of them.

        Args:
            kind: The `Config` of the detector's class.
        """
        if self.is_ours:
            checked(self.config, kind, self.folder / CONFIG, f"{TODO}, or update mmccd")

    def heads(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and type of each tensor; nothing but the header of the file is read.

        Raises:
            OSError, SafetensorError: The file is missing or damaged.
        """
        from safetensors import safe_open

        if not self.file.is_file():
            raise FileNotFoundError(None, None, self.file)
        with safe_open(self.file, "pt") as file:
            heads = {self.current(name): file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {name: (tuple(head.get_shape()), head.get_dtype()) for name, head in heads.items()}

    @contextmanager
    def as_large_as_the_file(self) -> Generator[None]:
        """Refuse a network that is built inside as soon as it has more parameters than the file has numbers.

        Raises:
            ValueError: With the first parameter too many, before its memory is used.
        """
        from torch.nn.modules.module import register_module_parameter_registration_hook

        left, here = sum(math.prod(shape) for shape, _ in self.heads().values()), get_ident()

        def count(module: Any, name: str, parameter: Any) -> None:
            nonlocal left
            if get_ident() == here and parameter is not None:  # other threads build what they like
                left -= parameter.numel()
                if left < 0:
                    raise ValueError(f"{CONFIG} asks for a larger network than {TENSORS} holds; {TODO}")

        handle = register_module_parameter_registration_hook(count) if self.is_ours else None
        try:
            yield
        finally:
            if handle:
                handle.remove()

    def check_tensors(self, wanted: Mapping[str, "Tensor"]) -> None:
        """Refuse tensors of other names, shapes or types than the network has; nothing but the header is read.

        Args:
            wanted: The `state_dict` of the network.

        Raises:
            ValueError: They do not fit, in words that `naming_damage` completes.
        """
        found = self.heads()
        for name, tensor in wanted.items():
            shape, dtype = found.pop(name, (None, ""))
            if shape is None:
                raise ValueError(f"{TENSORS} lacks the tensor {name}; {TODO}")
            if shape != tuple(tensor.shape) or tensor.is_floating_point() != (dtype in FLOATS):
                raise ValueError(f"{CONFIG} asks for a tensor {name} of another shape or type than {TENSORS}; {TODO}")
        if found:
            raise ValueError(
                f"{TENSORS} has a tensor {display_name(min(found))!r} that {CONFIG} does not ask for; {TODO}"
            )

    def current(self, name: str) -> str:
        """Today's name of a tensor in the file."""
        return current_tensor_name(name) if self.is_ours else name

    def read_tensors(self) -> dict[str, "Tensor"]:
        """The `state_dict`, on the CPU, in the precision of the file.

        Raises:
            ValueError: The file is not the one that belongs to the config, or holds no proper numbers.
        """
        from safetensors.torch import load

        content = self.file.read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise ValueError(f"its two files do not belong together; {TODO}")
        tensors = {self.current(name): tensor for name, tensor in load(content).items()}
        if broken := [n for n, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()]:
            raise ValueError(f"the tensor {broken[0]} holds NaN or infinite numbers; {TODO}, or train again")
        return tensors


def read_about(folder: Path) -> About:
    """What `config.json` in the folder holds.

    Raises:
        ValueError: It is missing, damaged, or a field has a wrong value; one sentence that names file and field.
    """
    return read_checked(folder / CONFIG, About, TODO)


def variant_names(about: About) -> list[str]:
    """Names of the variants in what `config.json` holds, the default first; empty where it is of one detector alone."""
    return list(about.get("variants", {}))


def read_weights(folder: Path, variant: str | None = None) -> StoredWeights:
    """Read what a detector is; names of older versions are translated.

    Args:
        folder: With `config.json` and `model.safetensors`.
        variant: Which of several that share the tensors; None: the first, or the only one.

    Raises:
        ValueError: There is no such variant, or `config.json` is missing or damaged.
    """
    about = read_about(folder)
    with naming_damage(folder):
        own = choose_variant(about, variant)
    detector, config = current_class(about), {**about["config"], **own["config"]}
    if ":" not in detector:
        config = current_config(config)
    return StoredWeights(detector, config, own["calibration"], folder, tensor_file(folder, about), about["sha256"])


def choose_variant(about: About, variant: str | None) -> Variant:
    """Config and calibration that belong to one variant of what `config.json` holds."""
    names = variant_names(about)
    if variant is not None and variant not in names:
        known = f"choose {', '.join(names)}" if names else "it holds a single detector"
        raise ValueError(f"it has no variant {variant!r}: {known}")
    if "variants" in about:
        return about["variants"][variant or next(iter(names), "")]
    return {"config": {}, "calibration": about.get("calibration")}


def tensor_file(folder: Path, about: About) -> Path:
    """Where the numbers lie: beside `config.json`; in version 0.1.0 several could share a neighbouring folder."""
    return (folder.parent / Path(about["tensors"]).name if "tensors" in about else folder) / TENSORS


def write_weights(folder: str | Path, about: dict[str, Any], tensors: dict[str, "Tensor"], half: bool = False) -> Path:
    """Write the two files, each whole or not at all; files of another detector in the folder are replaced.

    Args:
        folder: Made where missing.
        about: What `config.json` shall hold: `detector`, `config` and `calibration` or `variants`.
        tensors: On the CPU, contiguous.
        half: Store float16: half the bytes, three decimal digits.

    Returns:
        The folder.

    Raises:
        ValueError: A file is where the folder should be.
    """
    from safetensors.torch import save

    import mmccd

    folder = user_path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, and a detector is kept in a folder")
    kept = {k: v.half() if half and v.is_floating_point() else v for k, v in tensors.items()}
    content = save(kept, metadata={"format": "pt"})
    about = {**about, "sha256": hashlib.sha256(content).hexdigest(), "mmccd": mmccd.__version__}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / TENSORS, content)
    write_atomic(folder / CONFIG, (json.dumps(about, indent=1, allow_nan=False) + "\n").encode())
    return folder


@contextmanager
def naming_damage(folder: Path) -> Generator[None]:
    """Turn whatever broken files raise into one sentence about the folder.

    Raises:
        ValueError: With that sentence.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (LookupError, TypeError, ArithmeticError, AttributeError) as e:
        raise ValueError(f"cannot load the detector in {folder}: {CONFIG} is damaged; {TODO}") from e
    except OSError as e:
        name = Path(e.filename or "a file").name
        raise ValueError(f"cannot load the detector in {folder}: {name} cannot be read; {TODO}") from e
    except SafetensorError as e:
        raise ValueError(f"cannot load the detector in {folder}: {TENSORS} is damaged; {TODO}") from e
    except (ValueError, RuntimeError) as e:
        words = shorten(str(e), 300, placeholder=" ...")  # of tensors that do not fit, PyTorch lists all
        raise ValueError(f"cannot load the detector in {folder}: {words}") from e
