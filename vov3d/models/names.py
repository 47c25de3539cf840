"""Names of models as users give them."""

from pathlib import Path


def model_name(name: str) -> str:
    """Returns `create_model`'s name for a model or a saved folder; of equal names, a folder wins if it has a model.

    Raises:
        ValueError: For a path at which there is no folder.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir() and len(folder.parts) > 1 and (folder.is_absolute() or folder.exists()):
        found = "is a file, and no folder" if folder.exists() else "does not exist: name the folder"
        raise ValueError(f"{name}: {found} of a saved model")
    if (folder / "config.json").is_file() or (folder.is_dir() and len(folder.parts) > 1):
        return f"local-dir:{name}"
    return name
