"""Weights on the Hugging Face hub: `save_pretrained`, `push_to_hub`, `from_pretrained`, and what an upload needs.

Methods and keywords are those of `huggingface_hub.ModelHubMixin`, written here and not inherited. The mixin would make
that library a part of `import mmccd`; it takes `config.json` for the arguments of a constructor, where ours names
class, variants and calibration; and it asks the hub for every name that is no folder, where we ask for `hf:` alone.
"""

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self, TypedDict, Unpack

from mmccd.extras import require
from mmccd.files import user_path
from mmccd.weights.cards import default_card
from mmccd.weights.hub import HUB, WeightsPlace, explain_name_or_token, find_weights, in_one_line, not_reached
from mmccd.weights.storage import CONFIG

MESSAGE = "Push model using huggingface_hub."  # of a commit; the mixin's
CASE_NAMES = ("cases", "notes")  # fields of a calibration that name the healthy cases it was made on


class HubMixin:
    """Saving, sharing and loading for a class that defines `_save_pretrained` and `_from_pretrained`."""

    def _save_pretrained(self, folder: Path) -> None:
        """Write the files of a detector."""
        raise NotImplementedError

    @classmethod
    def _from_pretrained(cls, place: WeightsPlace) -> Self:
        """Build what lies in a folder."""
        raise NotImplementedError

    def save_pretrained(
        self, folder: str | Path, *, repo_id: str | None = None, push_to_hub: bool = False, **push_to_hub_kwargs
    ) -> Path | str:
        """Save into a folder, as `config.json` and `model.safetensors`.

        Args:
            folder: Made where missing; files of another detector in it are replaced.
            repo_id: Repository for `push_to_hub`; None: named like the folder.
            push_to_hub: Upload it too?
            push_to_hub_kwargs: For the method of that name.

        Returns:
            The folder, or the address of the commit on the hub.

        Raises:
            ValueError: A file is where the folder should be, or the hub cannot be reached or refuses.
        """
        if push_to_hub_kwargs and not push_to_hub:
            raise TypeError(f"save_pretrained takes {', '.join(push_to_hub_kwargs)} with push_to_hub=True only")
        folder = user_path(folder)
        self._save_pretrained(folder)
        return self.push_to_hub(repo_id or folder.absolute().name, **push_to_hub_kwargs) if push_to_hub else folder

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = MESSAGE,
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        allow_patterns: list[str] | str | None = None,
        ignore_patterns: list[str] | str | None = None,
        delete_patterns: list[str] | str | None = None,
    ) -> str:
        """Upload to the Hugging Face hub in one commit, with a card that says how to load it.

        Names of cases that a threshold was calibrated on are left out.

        Args:
            repo_id: `owner/name`, or `name` in your own account; made where missing.
            commit_message: One line.
            private: Make the repository private? None: as the hub does by default.
            token: None: HF_TOKEN or that of `hf auth login`.
            branch: One that is there; None: main.
            create_pr: Propose the commit as a pull request?
            allow_patterns: Upload only files like these.
            ignore_patterns: Upload no files like these, such as `"README.md"` to keep a card that you wrote there.
            delete_patterns: Delete files like these from the repository.

        Returns:
            The address of the commit.

        Raises:
            ValueError: The hub cannot be reached or refuses; one sentence says why.
        """
        repo_id = make_repository(repo_id.removeprefix(HUB), private, token)
        with TemporaryDirectory() as tmp:
            folder = Path(tmp)
            self._save_pretrained(folder)
            remove_case_names(folder)
            (folder / "README.md").write_text(default_card(folder, repo_id), encoding="utf-8")
            return upload(
                folder,
                repo_id,
                commit_message=commit_message,
                token=token,
                branch=branch,
                create_pr=create_pr,
                allow_patterns=allow_patterns,
                ignore_patterns=ignore_patterns,
                delete_patterns=delete_patterns,
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        variant: str | None = None,
        *,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> Self:
        """Build a stored detector again, on the CPU and in evaluation mode; no stored code is run.

        Args:
            name: A folder, a packaged name, or `hf:owner/name` on the hub; a variant may stand after a colon. The rest
                but `variant` is for the hub.
            variant: Which of several that are stored together; None: the first.
            force_download: Fetch again what is there.
            token: None: HF_TOKEN or that of `hf auth login`, where there is one; False: none.
            cache_dir: Where downloads are kept; None: see HF_HOME.
            local_files_only: Take what an earlier download left, and ask nobody.
            revision: Branch, tag or commit; None: main.

        Raises:
            ValueError: No such detector, or its files are damaged, or the hub cannot give it.
        """
        place = find_weights(
            name,
            variant,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )
        return cls._from_pretrained(place)


def remove_case_names(folder: Path) -> None:
    """Take the names of cases, which may be those of people, out of `config.json`."""
    about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    if about["calibration"]:
        about["calibration"] = {k: v for k, v in about["calibration"].items() if k not in CASE_NAMES}
        (folder / CONFIG).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def make_repository(repo_id: str, private: bool | None = None, token: str | None = None) -> str:
    """Make a repository for a detector on the hub, where there is none yet.

    Args:
        repo_id: `owner/name`, or `name` for one of the account that the token belongs to.
        private: Hide it from others? None: as the hub does by default; one that is there stays as it is.
        token: None: HF_TOKEN or that of `hf auth login`.

    Returns:
        `owner/name`.

    Raises:
        ValueError: The hub cannot be reached or refuses; one sentence says why.
    """
    require("the Hugging Face hub", "hub")
    from huggingface_hub import HfApi

    with explaining_upload(repo_id):
        return HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id


class UploadOptions(TypedDict, total=False):
    """What becomes of the files; keywords of `huggingface_hub.HfApi.upload_folder`, explained at `push_to_hub`."""

    commit_message: str
    create_pr: bool | None
    allow_patterns: list[str] | str | None
    ignore_patterns: list[str] | str | None
    delete_patterns: list[str] | str | None


def upload(
    folder: Path,
    repo_id: str,
    *,
    token: str | None = None,
    branch: str | None = None,
    **options: Unpack[UploadOptions],
) -> str:
    """Upload a folder into a repository on the hub, in one commit; unchanged files make none.

    Args:
        folder: What is in it replaces files of the same names.
        repo_id: `owner/name`, from `make_repository`.
        token: None: HF_TOKEN or that of `hf auth login`.
        branch: One that is there; None: main.
        options: For the library of the hub.

    Returns:
        The address of the commit.

    Raises:
        ValueError: The hub cannot be reached or refuses; one sentence says why.
    """
    require("the Hugging Face hub", "hub")
    from huggingface_hub import HfApi

    with explaining_upload(repo_id, branch):
        return HfApi(token=token).upload_folder(repo_id=repo_id, folder_path=folder, revision=branch, **options)


@contextmanager
def explaining_upload(repo_id: str, branch: str | None = None) -> Generator[None]:
    """Turn whatever the hub's library raises into one sentence.

    Raises:
        ValueError: With that sentence.
    """
    from huggingface_hub import constants

    try:
        yield
    except Exception as e:
        status = getattr(getattr(e, "response", None), "status_code", None)
        if sentence := explain_name_or_token(repo_id, branch, e):
            raise ValueError(sentence) from e
        if constants.HF_HUB_OFFLINE:
            raise ValueError(f"cannot upload {repo_id}: HF_HUB_OFFLINE keeps us from the hub; unset it") from e
        if status in (401, 403):
            who = "without a token" if status == 401 else "with this token"
            todo = "log in with `hf auth login`, or set HF_TOKEN to one that may write there"
            raise ValueError(f"the hub lets nobody write to {repo_id} {who}: {todo}") from e
        if not_reached(e):
            raise ValueError(f"cannot upload {repo_id}: the hub cannot be reached; check the network") from e
        raise ValueError(f"the hub did not take {repo_id}: {in_one_line(e)}") from e
