"""Names of models as users give them."""

from pathlib import Path


def model_name(name: str) -> str:
    """Returns `create_model`'s name for a model or a saved folder; of equal names, a folder wins if it has a model."""
    folder = Path(name)
    if (folder / "config.json").is_file() or (folder.is_dir() and len(folder.parts) > 1):
        return f"local-dir:{name}"
    return name
