"""What a plain `pip install mmccd`, which is made for detection, leaves out: by extra, and how a user is told."""

from importlib.util import find_spec

PACKAGES = {
    "train": ("nilearn", "lightning", "zarr", "fsspec"),
    "notebooks": (
        "ipywidgets",
        "ipykernel",
        "jupyterlab",
        "voila",
        "ipyniivue",
        "nbconvert",
        "markdown_it",
        "mdit_py_plugins",
        "latex2mathml",
    ),
    "hub": ("huggingface_hub",),
    "cluster": ("distributed",),
}
"""By extra, the packages that we import of it."""


class MissingExtraError(ModuleNotFoundError, ValueError):
    """A package of an extra is not installed; the message says how to install it."""


def is_installed(package: str) -> bool:
    """Tell whether a package could be imported, without importing it."""
    return find_spec(package) is not None


def require(what: str, *packages: str, instead: str = "") -> None:
    """Check that packages of one extra are installed.

    Args:
        what: what needs them, as "training".
        packages: a key of `PACKAGES` for all packages of that extra, or names of packages.
        instead: what else the user can do, as "save pictures with --save DIR".

    Raises:
        MissingExtraError: one is missing; it says which, and how to install it.
    """
    wanted = [p for name in packages for p in PACKAGES.get(name, (name,))]
    missing = [p for p in wanted if not is_installed(p)]
    if not missing:
        return
    extra = next((f"'mmccd[{extra}]'" for extra, names in PACKAGES.items() if missing[0] in names), missing[0])
    names = " and ".join(filter(None, (", ".join(missing[:-1]), missing[-1])))
    text = f"{what} needs {names}, which {'do' if missing[1:] else 'does'} not come with mmccd alone"
    todo = f"pip install {extra}" + f", or {instead}" * bool(instead)
    raise MissingExtraError(f"{text}: {todo}", name=missing[0])
