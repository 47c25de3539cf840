"""Finds pretrained weights in several sources, in order.

For a published tag: the folder `VOV3D_WEIGHTS_DIR`, the package itself, the cache `VOV3D_CACHE` of earlier downloads,
the Hub, and the address at which its authors published it. A file of the authors is converted once, and kept as
safetensors.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import safetensors.torch
from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.utils import WeakFileLock
from safetensors import SafetensorError, safe_open
from timm.models import get_arch_pretrained_cfgs

from vov3d.files import replacing
from vov3d.weights.config import VideoPretrainedCfg
from vov3d.weights.download import DownloadError, download, refuse_link
from vov3d.weights.hub_client import (
    HUB_ERRORS,
    PICKLED_WEIGHTS,
    SAFE_INDEX,
    SAFE_WEIGHTS,
    download_weights,
    hub_cause,
    hub_error,
)
from vov3d.weights.state_dict import StateDict, WeightsError, open_weights, read_state_dict

_logger = logging.getLogger(__name__)

Convert = Callable[[StateDict], StateDict]
"""Renames the tensors of a published file to those of its model; raises `WeightsError` unless all of them fit."""

_SUFFIXES = (".safetensors", ".pth", ".pyth", ".pt", ".bin")


def fetch(
    cfg: VideoPretrainedCfg, cache_dir: str | Path | None, convert: Convert, token: str | bool | None = None
) -> tuple[StateDict, str]:
    """Returns the weights of a configuration: given with it, of a file, folder or repository in it, or of a tag.

    Args:
        cfg: The configuration.
        cache_dir: Folder for downloads; the Hub client's cache and `VOV3D_CACHE` if None.
        convert: Converts the tensors of a published file to those of the tag's model.
        token: For repositories of the Hub that are not public.

    Returns:
        The tensors, those of a file without their values, and their source, for messages.

    Raises:
        FileNotFoundError: If a given file does not exist.
        WeightsError: If there are no weights, or they cannot be downloaded or read.
    """
    if cfg.state_dict is not None:
        return dict(cfg.state_dict), "the given state_dict"
    if cfg.file:
        path = _file_in(Path(cfg.file)) if cfg.source == "local-dir" else Path(cfg.file)
    elif cfg.source == "hf-hub":
        path = _from_repository(cfg, cache_dir, token)
    elif cfg.hf_hub_id or cfg.url:
        path = _of_tag(cfg, cache_dir, convert, token)
    else:
        raise WeightsError(f"{cfg.architecture} has no pretrained weights; use pretrained=False or checkpoint_path=...")
    state_dict = open_weights(path)  # its error for a file without weights is clearer than that of the digest
    if cfg.sha256 and cfg.source in ("local-dir", "hf-hub"):
        _check_digest(path, cfg.sha256)
    return state_dict, str(path)


def _check_digest(path: Path, wanted: str) -> None:
    with path.open("rb") as f:
        found = hashlib.file_digest(f, "sha256").hexdigest()
    if found != wanted:
        raise WeightsError(
            f"{path}: is not the file that was saved with its config.json (SHA-256 {found[:12]}..., not"
            f" {wanted[:12]}...): it is damaged, was replaced, or saving was interrupted. Save the model again; or,"
            " if you replaced it yourself, remove sha256 from the pretrained_cfg of config.json"
        )


def tag_name(cfg: VideoPretrainedCfg) -> str:
    """Returns `model.tag` of a configuration."""
    return f"{cfg.architecture}.{cfg.tag}" if cfg.tag else str(cfg.architecture)


def find_local(cfg: VideoPretrainedCfg, cache_dir: str | Path | None = None) -> tuple[str, Path] | None:
    """Returns the source and the file of a tag's weights on this machine: those that are loaded without a network."""
    if path := _override(cfg):
        return "VOV3D_WEIGHTS_DIR", path
    if path := _packaged(cfg):
        return "package", path
    if path := _converted(cfg, cache_dir):
        return "VOV3D_CACHE", path
    if cfg.hf_hub_id:
        repo, _, revision = cfg.hf_hub_id.partition("@")
        known = try_to_load_from_cache(repo, SAFE_WEIGHTS, cache_dir=cache_dir, revision=revision or None)
        if isinstance(known, str):
            return "Hub cache", Path(known)
    return None


def source_sha256(path: Path) -> str | None:
    """Returns the SHA-256 of the published file that a converted one was made from."""
    try:
        with safe_open(path, framework="pt") as f:
            return (f.metadata() or {}).get("source_sha256")
    except (SafetensorError, OSError):
        return None


def _file_in(folder: Path) -> Path:
    for name in (SAFE_WEIGHTS, SAFE_INDEX, PICKLED_WEIGHTS):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder}: holds neither {SAFE_WEIGHTS} nor {PICKLED_WEIGHTS}")


def _from_repository(cfg: VideoPretrainedCfg, cache_dir: str | Path | None, token: str | bool | None) -> Path:
    assert cfg.hf_hub_id
    try:
        return download_weights(cfg.hf_hub_id, cfg.hf_hub_filename, cache_dir, token)
    except HUB_ERRORS as e:
        raise hub_error(cfg.hf_hub_id, e) from e


# --- the sources of a tag ------------------------------------------------------------------------------------------


def _of_tag(cfg: VideoPretrainedCfg, cache_dir: str | Path | None, convert: Convert, token: str | bool | None) -> Path:
    """Tries one source after the other; logs each, and raises one error with all causes."""
    name, tried = tag_name(cfg), []
    if path := _override(cfg):
        _logger.info("%s: loading %s, found in VOV3D_WEIGHTS_DIR", name, path)
        return path
    if path := _packaged(cfg):
        _logger.info("%s: loading the weights that come with the package", name)
        return path
    if path := _converted(cfg, cache_dir):
        _logger.info("%s: loading %s, converted earlier from %s", name, path, cfg.url)
        return path
    if cfg.hf_hub_id:
        place = f"{constants.ENDPOINT}/{cfg.hf_hub_id}"
        _logger.info("%s: asking the Hub, %s", name, place)
        new = find_local(cfg, cache_dir) is None
        try:
            path = download_weights(cfg.hf_hub_id, cfg.hf_hub_filename, cache_dir, token)
            return _announced(cfg, place, path) if new else path
        except HUB_ERRORS as e:
            tried.append(f"{place}: {hub_cause(e)}")
    if cfg.url:
        _logger.info("%s: asking its authors' address, %s", name, cfg.url)
        try:
            return _from_authors(cfg, cache_dir, convert)
        except (DownloadError, OSError) as e:
            tried.append(f"{cfg.url}: {e}")
    raise WeightsError(f"{name}: no weights; tried {'; '.join(tried)}. {_ways_out(cfg)}")


def _ways_out(cfg: VideoPretrainedCfg) -> str:
    names = " or ".join([f"{tag_name(cfg)}.safetensors", *([source_file_name(cfg.url)] if cfg.url else [])])
    return (
        "Instead: give a local file, with checkpoint_path=... or as "
        f"{names} in a folder named by VOV3D_WEIGHTS_DIR; or choose another tag"
        " (vov3d.list_pretrained(...)); or set a mirror of the Hub (HF_ENDPOINT) or another"
        " organisation (VOV3D_HUB_ORG)"
    )


def _announced(cfg: VideoPretrainedCfg, place: str, path: Path) -> Path:
    """Warns once, after the first download, of the licence of the weights."""
    terms = f"licensed {cfg.license.upper()}" if cfg.license else "under an unknown licence"
    if cfg.license and "-nc" in cfg.license:
        terms += ", not for commercial use"
    _logger.warning("%s: downloaded from %s; these weights are %s", tag_name(cfg), place, terms)
    return path


def _override(cfg: VideoPretrainedCfg) -> Path | None:
    """Returns the tag's file in `VOV3D_WEIGHTS_DIR`, which is read here so that it can be set after the import."""
    folder = os.environ.get("VOV3D_WEIGHTS_DIR")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise WeightsError(f"VOV3D_WEIGHTS_DIR={folder}: no such folder; unset it, or set it to a folder of weights")
    return next((path for path in _candidates(Path(folder), cfg) if path.is_file()), None)


def _packaged(cfg: VideoPretrainedCfg) -> Path | None:
    return Path(__file__).with_name("packaged") / f"{tag_name(cfg)}.safetensors" if cfg.packaged else None


def _candidates(folder: Path, cfg: VideoPretrainedCfg) -> Iterator[Path]:
    name = tag_name(cfg)
    yield from (folder / f"{name}{suffix}" for suffix in _SUFFIXES)
    yield folder / name / SAFE_WEIGHTS
    if cfg.url:
        yield folder / source_file_name(cfg.url)


def source_file_name(url: object) -> str:
    """Returns the name of the file at an address."""
    return PurePosixPath(unquote(urlsplit(str(url)).path)).name


# --- the authors' files ----------------------------------------------------------------------------------------------


def _cache_file(cfg: VideoPretrainedCfg, cache_dir: str | Path | None) -> Path:
    """Returns the cache file of a tag's converted weights, with another name for an address that is not published."""
    root = Path(cache_dir) / "vov3d" if cache_dir else None
    root = root or Path(os.environ.get("VOV3D_CACHE") or Path(constants.HF_HOME) / "vov3d").expanduser()
    name = tag_name(cfg)
    published = get_arch_pretrained_cfgs(str(cfg.architecture)).get(name)
    if published is None or published.url != cfg.url:
        name += f"-{hashlib.sha256(str(cfg.url).encode()).hexdigest()[:8]}"
    return root / f"{name}.safetensors"


def _converted(cfg: VideoPretrainedCfg, cache_dir: str | Path | None) -> Path | None:
    path = _cache_file(cfg, cache_dir)
    return path if cfg.url and path.is_file() and not path.is_symlink() else None


def _from_authors(cfg: VideoPretrainedCfg, cache_dir: str | Path | None, convert: Convert) -> Path:
    """Downloads and converts, once for all processes that need the same file."""
    path = _cache_file(cfg, cache_dir)
    url = str(cfg.url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for planted in (path, path.with_suffix(".lock")):
            refuse_link(planted)
        # The operating system releases the lock of a process that was killed.
        with WeakFileLock(path.with_suffix(".lock")):
            if path.is_file():
                return path
            source = path.with_name(f"{path.stem}.{source_file_name(url)}")
            refuse_link(source)
            if not source.is_file():  # else complete, but not converted before a process was killed
                download(url, source)
            _convert(cfg, source, path, convert)
    except OSError as e:
        raise WeightsError(
            f"{tag_name(cfg)}: {path.parent} cannot be written ({e.strerror or e}); make room, or name another folder"
            " with VOV3D_CACHE"
        ) from e
    return _announced(cfg, url, path)


def _convert(cfg: VideoPretrainedCfg, source: Path, path: Path, convert: Convert) -> None:
    """Writes the tensors of a published file as safetensors, and deletes the file, whether it was valid or not."""
    try:
        with source.open("rb") as f:
            sha256 = hashlib.file_digest(f, "sha256").hexdigest()
        try:
            state = convert(read_state_dict(source))
        except WeightsError as e:
            raise DownloadError(f"the file {str(e).removeprefix(f'{source}: ')}") from e
        notes = {"source_url": str(cfg.url), "source_sha256": sha256, "license": cfg.license or "", "format": "pt"}
        with replacing(path) as draft:
            # save_file would create a file that only its owner can read
            draft.write_bytes(safetensors.torch.save({k: v.clone() for k, v in state.items()}, metadata=notes))
    finally:
        source.unlink(missing_ok=True)
