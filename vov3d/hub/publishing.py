"""Loads models from the Hub and uploads them."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import validate_repo_id
from torch import nn

from vov3d.hub.card import model_card
from vov3d.hub.saving import CARD, CONFIG, WEIGHTS, write_folder
from vov3d.models import WeightsError, create_model, is_model, list_models, list_pretrained
from vov3d.weights.config import resolve_cfg
from vov3d.weights.hub_client import HUB_ERRORS, hub_cause
from vov3d.weights.sources import find_local, source_file_name, source_sha256
from vov3d.weights.state_dict import brief


def from_pretrained(name: str | Path, **kwargs: Any) -> nn.Module:
    """Loads a model with its weights: a saved one, built from its `config.json` alone, or a published one.

    Args:
        name: A folder; a repository of the Hub, `"org/name"` or `"org/name@revision"`; either with its source in
            front, `"local-dir:..."` or `"hf-hub:..."`; or a model or tag of `vov3d.list_pretrained`. For a folder
            with the name of a model give a `Path`, `"./x3d_s"` or `"local-dir:x3d_s"`.
        **kwargs: Arguments of `create_model`, such as `num_classes` or `features_only`, and `revision`, `token` and
            `cache_dir` for the Hub.

    Raises:
        FileNotFoundError: If it can only be a folder, which does not exist or does not hold a saved model.
        ValueError: If it is a file, or its configuration does not describe a model of this package.
        vov3d.WeightsError: If weights cannot be found, read or fitted.
    """
    source = _with_source(name)
    name = str(name)
    try:
        return create_model(source, pretrained=True, **kwargs)
    except WeightsError as e:
        if source != f"hf-hub:{name}":
            raise
        raise WeightsError(f"{e}; and there is no folder {name} on this machine") from e


def _with_source(name: str | Path) -> str:
    """Returns a name with its source in front, if it needs one."""
    path = Path(name).expanduser()
    folder = isinstance(name, Path) and path.is_dir()  # also one with the name of a model
    name = str(name)
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")) or (is_model(name) and not folder):
        return name
    if path.is_dir():
        _check_folder(path)
        return f"local-dir:{path}"
    if path.exists():
        raise ValueError(f"{name} is a file, but from_pretrained takes folders and repositories; {_advice(path)}")
    repository = re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@[^@\s]+)?", name)
    if repository and not path.parent.is_dir():
        return f"hf-hub:{name}"
    hint = f", or 'hf-hub:{name}' if it is a repository of the Hub" if repository else ""
    if page := re.match(r"https?://[^/]+/([\w.-]+/[\w.-]+)", name):
        hint = f"; of a repository give its name alone, {page[1]!r}"
    near = _near(path)
    raise FileNotFoundError(f"{name}: no such folder{f'; did you mean {near}' if near else ''}{hint}")


def _check_folder(path: Path) -> None:
    if (path / CONFIG).is_file():
        return
    inside = sorted(str(found.parent) for found in path.glob(f"*/{CONFIG}"))[:3]
    hint = f"; {', '.join(inside)} is" if inside else ""
    raise FileNotFoundError(f"{path}: holds no {CONFIG}, so it is not the folder of a saved model{hint}")


def _advice(path: Path) -> str:
    if path.name in (CONFIG, WEIGHTS, CARD):
        return f"give its folder, {path.parent}"
    if path.suffix in (".onnx", ".xml", ".pt2", ".pte"):
        return f"vov3d.load_exported({str(path)!r}) loads exported files"
    return (
        f"for weights, use create_model('vov3d_m', checkpoint_path={str(path)!r}), or convert them to a folder with"
        " vov3d.convert"
    )


def _near(path: Path) -> str | None:
    """Returns the most similar name of a neighbouring folder or a model."""
    beside = [str(p) for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    near = get_close_matches(str(path), [*beside, *list_models(), *list_pretrained()], 1)
    return near[0] if near else None


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    label_names: Sequence[str] | None = None,
    private: bool = False,
    *,
    token: str | bool | None = None,
    transformers: bool = False,
) -> list[str]:
    """Uploads a model with its configuration and a card; files that are there already are not sent again.

    Args:
        model: A model made by `create_model`.
        repo_id: `"org/name"`, or `"name"` for a repository of the user; created if it does not exist.
        label_names: Class names in index order; those of the model if None.
        private: Makes a new repository private.
        token: A token with write access; that of `hf auth login` if None.
        transformers: Adds the files that transformers needs, as `save_pretrained` does.

    Returns:
        The files that were sent.

    Raises:
        ValueError: If the model cannot be saved, as in `save_pretrained`, or no repository can have the name.
        RuntimeError: If the Hub refuses; one error names the repository, the cause and the remedy.
    """
    _check_repository(repo_id)
    with TemporaryDirectory() as tmp:
        card = model_card(model, repo_id, label_names, transformers=transformers)
        folder = write_folder(model, Path(tmp) / "model", label_names, card=card, transformers=transformers)
        whole = _created(repo_id, private, token)
        if whole != repo_id:  # without an organisation, the Hub adds the user's name, which the card needs
            card = model_card(model, whole, label_names, transformers=transformers)
            (folder / CARD).write_text(card, encoding="utf-8")
        return _upload(folder, whole, token)


def publish(name: str, org: str, folder: str | Path | None = None) -> list[str]:
    """Converts a published tag and uploads it with its card, as `org/model.tag`.

    Args:
        name: `model.tag` of `list_pretrained`.
        org: Organisation or user on the Hub.
        folder: Writes `folder/model.tag` and sends nothing.

    Returns:
        The files that were sent, or written.

    Raises:
        ValueError: If there is no such tag, or no organisation can have the name.
        vov3d.WeightsError: If its weights cannot be found.
        RuntimeError: If the Hub refuses.
    """
    _check_repository(f"{org}/{name}")
    model_name, _, tag = name.partition(".")
    model: Any = create_model(name, pretrained=True)
    cfg = resolve_cfg(model_name, tag or None, None)
    local = find_local(cfg)
    sha256 = source_sha256(local[1]) if local else None
    source = {"file": source_file_name(cfg.url), "sha256": sha256, "format": "published"} if sha256 else None
    repo_id = f"{org}/{cfg.architecture}.{cfg.tag}"
    card = model_card(model, repo_id, source=source)
    if folder is not None:
        written = write_folder(model, Path(folder) / repo_id.split("/")[1], None, source, card)
        return [str(written / file) for file in (WEIGHTS, CONFIG, CARD)]
    with TemporaryDirectory() as tmp:
        written = write_folder(model, Path(tmp) / "model", None, source, card)
        return _upload(written, _created(repo_id, private=False))


def _check_repository(repo_id: str) -> None:
    """Raises ValueError for a name that no repository can have, before anything is computed."""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as e:
        raise ValueError(f"{repo_id!r} is not the name of a repository; give 'org/name' ({brief(e)})") from e


@contextmanager
def _errors_of(repo_id: str) -> Iterator[None]:
    """Turns the errors of the Hub's client into one that names the repository, the cause and the remedy."""
    try:
        yield
    except HUB_ERRORS as e:
        raise RuntimeError(
            f"{constants.ENDPOINT}/{repo_id}: cannot be written: {hub_cause(e)}. Log in with 'hf auth login' to an"
            " account with write access, and run it again: files that were sent are not sent twice"
        ) from e


def _created(repo_id: str, private: bool, token: str | bool | None = None) -> str:
    """Creates a repository if it does not exist, and returns its whole name."""
    with _errors_of(repo_id):
        return HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id


def _upload(folder: Path, repo_id: str, token: str | bool | None = None) -> list[str]:
    """Uploads the files that the repository does not have yet, in one commit."""
    api = HfApi(token=token)
    with _errors_of(repo_id):
        there = {file.rfilename: file for file in api.model_info(repo_id, files_metadata=True).siblings or []}
        new = [path.name for path in sorted(folder.iterdir()) if not _is_there(path, there.get(path.name))]
        if new:
            api.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=new, commit_message="Upload by vov3d")
    return new


def _is_there(path: Path, file: RepoSibling | None) -> bool:
    """Returns whether the repository has the same bytes, by SHA-256 of large files and git's hash of small ones."""
    if file is None:
        return False
    content = path.read_bytes()
    if file.lfs:
        return file.lfs.sha256 == hashlib.sha256(content).hexdigest()
    return file.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
