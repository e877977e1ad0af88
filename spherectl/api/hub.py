"""Folders and hub repositories of one model: what they hold, and the methods that huggingface_hub's users expect."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any, Self

import torch

from spherectl.api.files import WeightSet, read_found
from spherectl.errors import FileError, UsageError
from spherectl.files import is_there, write_text
from spherectl.model.devices import Dtype
from spherectl.model.formats.weights import Package, write_package
from spherectl.places import check_writable, place
from spherectl.settings import load_settings
from spherectl.shown import quoted
from spherectl.zoo import MODEL_FILE, find_model, index
from spherectl.zoo.publish import CARD, card, push
from spherectl.zoo.repositories import PREFIX

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Pretrained:
    """The three methods by which huggingface_hub's users load, save and push a model, for our one-file format.

    Not huggingface_hub's own mixin: it keeps a second description of the model beside the file's header, prints, and
    is imported with the class.
    """

    name: str

    def package(self) -> Package:
        """The model as a file holds it."""
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        device: str | torch.device = "auto",
        dtype: Dtype | torch.dtype = "auto",
        weights: WeightSet = "ema",
        compile: bool = False,
    ) -> Self:
        """Load a model: of a path that exists, else of that name in the zoo, else of the hub's repository user/repo.

        Args:
            pretrained_model_name_or_path: a folder that `save_pretrained` wrote, a model file, a run, a published
                checkpoint, a zoo name, or user/repo, which is fetched the first time.
            revision: of the repository: a branch, a tag or a commit.
            device, dtype, weights, compile: as for `spherectl.load`.

        Raises:
            UsageError, FileError: as for `spherectl.load`.

        >>> import spherectl
        >>> spherectl.Model.from_pretrained("fashion-mnist", device="cpu").name
        'fashion-mnist'
        """
        name = named(pretrained_model_name_or_path, revision)
        found = find_model(name, load_settings())
        return cls(**read_found(found, device=device, dtype=dtype, weights=weights, compile=compile))

    def save_pretrained(
        self, save_directory: str | Path, *, repo_id: str | None = None, push_to_hub: bool = False, **push: Any
    ) -> str | None:
        """Write a folder that `from_pretrained` and `spherectl.load` read: model.safetensors and a card, README.md.

        The weights are written as they are in memory: load with dtype="float32" to keep all their digits.

        Args:
            save_directory: made if need be.
            repo_id: user/repo to push to, by default the folder's name; with `push_to_hub`.
            push_to_hub: push the folder too.
            push: further arguments of `Model.push_to_hub`.

        Returns:
            The commit's address if it was pushed.

        Raises:
            FileError: the folder cannot be written.
            SpherectlError: it cannot be pushed.

        >>> import spherectl, tempfile
        >>> model = spherectl.load("fashion-mnist", device="cpu")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save_pretrained(folder)
        ...     spherectl.load(folder, device="cpu").num_classes
        10
        """
        folder = folder_of(save_directory)
        package = self.package()
        write_package(folder / MODEL_FILE, package)
        write_text(folder / CARD, card(package.header, self.name, "hf:user/repo"))
        return self.push_to_hub(repo_id or folder.resolve().name, **push) if push_to_hub else None

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push a Sphere Encoder",
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
    ) -> str:
        """Push what `save_pretrained` writes to a repository of the Hugging Face hub, which is made if need be.

        Args:
            repo_id: user/repo.
            commit_message: of the commit.
            private: whether a new repository is private; None: as the account's default is.
            token: of the account; None: HF_TOKEN, or that of `hf auth login`.
            branch: to push to; None: main.
            create_pr: open a pull request in place of pushing to the branch.

        Returns:
            The commit's address.

        Raises:
            UsageError: the hub refuses, or `offline` is set.
            SpherectlError: no answer.

        >>> import spherectl
        >>> model = spherectl.load("fashion-mnist", device="cpu")
        >>> model.push_to_hub("user/repo")  # doctest: +SKIP
        'https://huggingface.co/user/repo/commit/...'
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / MODEL_FILE
            write_package(file, self.package())
            repo = f"{PREFIX}{repo_id}@{branch}" if branch else repo_id
            return push(file, repo, private=private, message=commit_message, token=token, create_pr=create_pr)


def named(name: object, revision: str | None) -> str:
    """What `zoo.find_model` calls a model that `from_pretrained` is asked for.

    Args:
        name: a path that exists, a name of the zoo, or user/repo.
        revision: of user/repo.

    Raises:
        UsageError: it is no name, or a revision of what is no repository.
    """
    if not isinstance(name, str | Path):
        raise UsageError(f"Expected a name, a path or user/repo, got {quoted(name)}.")
    text = str(name)
    local = text in index(load_settings()) or is_there(text)
    if isinstance(name, str) and not local and _REPO.fullmatch(text):
        text = PREFIX + text
    if revision is None:
        return text
    if not text.startswith(PREFIX) or not isinstance(revision, str):
        raise UsageError(f"revision: expected one of a repository, got {quoted(revision)} of {quoted(str(name))}.")
    return f"{text}@{revision}"


def folder_of(name: object) -> Path:
    """A folder to write to, made if need be.

    Raises:
        UsageError: it is no path, or a file.
        FileError: it cannot be made.
    """
    if not isinstance(name, str | Path):
        raise UsageError(f"Expected a folder, got {quoted(name)}.")
    folder = place(str(name), "The folder")
    check_writable(folder, folder=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FileError(f"Cannot write {folder}: {error.strerror}.") from None
    return folder
