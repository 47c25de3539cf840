"""What a user calls a model."""

from pathlib import Path


def model_name(name: str) -> str:
    """What `create_model` takes for a name or the folder of a saved model; a folder wins only if a model is in it."""
    folder = Path(name)
    if (folder / "config.json").is_file() or (folder.is_dir() and len(folder.parts) > 1):
        return f"local-dir:{name}"
    return name
