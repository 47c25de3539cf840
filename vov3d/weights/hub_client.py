"""Downloads files from the Hugging Face Hub, with one kind of error for all causes."""

from pathlib import Path

from huggingface_hub import constants, errors, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.utils import get_session

from vov3d.weights.state_dict import WeightsError, brief, shards
from vov3d.weights.tensors import FileError

CONFIG = "config.json"
SAFE_WEIGHTS = "model.safetensors"
SAFE_INDEX = "model.safetensors.index.json"
PICKLED_WEIGHTS = "pytorch_model.bin"

_FIRST_ANSWER = 3.0  # seconds
_BUSY = (408, 425, 429, 500, 502, 503, 504)

# Advice in errors for Python, and the same for the command line.
ON_THE_COMMAND_LINE = {
    "checkpoint_path=...": "--checkpoint FILE",
    "vov3d.list_pretrained(...)": "vov3d list",
}

# Errors of a download: those of the client, and those of its connection.
HUB_ERRORS = (OSError, errors.EntryNotFoundError, errors.HFValidationError, getattr(errors, "HTTPError", OSError))


def download_weights(
    repo_id: str, filename: str | None, cache_dir: str | Path | None, token: str | bool | None = None
) -> Path:
    """Downloads the weights of a repository, or finds them in the Hub client's cache.

    Args:
        repo_id: `org/name`, or `org/name@revision`.
        filename: Their file; if None, safetensors first, in one file or several, then PyTorch's.
        cache_dir: Folder for downloads; the Hub client's cache if None.
        token: For repositories that are not public; that of the Hub client's log-in if None.

    Raises:
        Exception: One of `HUB_ERRORS`.
    """
    names = [filename] if filename else [SAFE_WEIGHTS, SAFE_INDEX, PICKLED_WEIGHTS]
    for name in names[:-1]:
        try:
            path = download_file(repo_id, name, cache_dir, token)
            return _with_shards(path, repo_id, cache_dir, token) if name == SAFE_INDEX else path
        except errors.LocalEntryNotFoundError:
            raise
        except errors.EntryNotFoundError:
            continue
    return download_file(repo_id, names[-1], cache_dir, token)


def _with_shards(index: Path, repo_id: str, cache_dir: str | Path | None, token: str | bool | None) -> Path:
    """Downloads the files that an index names, and returns the index."""
    try:
        for path in shards(index):
            download_file(repo_id, path.name, cache_dir, token)
    except FileError as e:
        raise WeightsError(f"{index}: {e}") from e
    return index


def download_file(repo_id: str, filename: str, cache_dir: str | Path | None, token: str | bool | None) -> Path:
    """Downloads one file of a repository; arguments and errors are those of `download_weights`."""
    repo, _, revision = repo_id.partition("@")
    require_answer(repo, filename, revision or None, cache_dir)
    return Path(hf_hub_download(repo, filename, revision=revision or None, cache_dir=cache_dir, token=token))


def require_answer(repo: str, filename: str, revision: str | None, cache_dir: str | Path | None) -> None:
    """Checks with one request that the Hub answers, for a file that is not in the client's cache.

    Without a network, the client itself retries six times, logs each time, and takes half a minute.

    Raises:
        huggingface_hub.errors.LocalEntryNotFoundError: If the Hub does not answer within seconds, or is busy.
    """
    if constants.HF_HUB_OFFLINE or isinstance(
        try_to_load_from_cache(repo, filename, cache_dir=cache_dir, revision=revision), str
    ):
        return
    problem: Exception | None = None
    try:
        response = get_session().head(hf_hub_url(repo, filename, revision=revision), timeout=_FIRST_ANSWER)
        status, reason = response.status_code, response.reason_phrase
    except getattr(errors, "HTTPError", OSError) as e:
        name, status, reason, problem = type(e).__name__, 0, "", e
        if name.endswith("Timeout"):
            problem = OSError(f"no answer for {_FIRST_ANSWER:g} s")
    if problem or status in _BUSY:
        cause = problem or OSError(f"{status} {reason}")
        raise errors.LocalEntryNotFoundError(f"no answer for {filename}") from cause


def hub_error(repo: str, error: Exception) -> WeightsError:
    """Returns an error that says what was tried, why it failed, and what to do.

    Args:
        repo: The repository, with its revision if any.
        error: The client's error, one of `HUB_ERRORS`.
    """
    return WeightsError(
        f"no weights from {constants.ENDPOINT}/{repo}: {hub_cause(error)}. Instead: give a local file with"
        " checkpoint_path=..., or check the name, or set a mirror (HF_ENDPOINT)"
    )


def hub_cause(error: Exception) -> str:
    """Returns the reason why the Hub did not serve a file, in one line."""
    if isinstance(error, errors.GatedRepoError):
        return "access to this repository is restricted; log in with 'hf auth login'"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "no such repository, or it needs a log-in ('hf auth login')"
    if isinstance(error, errors.RevisionNotFoundError):
        return "no such revision"
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        answer = f"the Hub did not answer with it ({brief(error.__cause__ or error)})"
        offline = "offline mode is on (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else answer
        return f"{offline}, and the file is not in the cache"
    if isinstance(error, errors.EntryNotFoundError):
        return "the repository does not have the file"
    return brief(error)
