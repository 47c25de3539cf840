"""Training runs small enough for a test: clips in memory, or video files, and a network of some hundred parameters."""

from pathlib import Path

import numpy as np
from reference import train

TINY = {
    "model.name": "x3d_xs",
    "model.args.depths": "[1]",
    "model.args.mid_chs": "[4]",
    "model.args.out_chs": "[4]",
    "model.args.stem_chs": "4",
    "model.args.head_chs": "8",
    "model.args.hidden_chs": "8",
    "model.args.output_stride": "4",
    "clip.frames": "4",
    "clip.sampling": "dense",
    "clip.stride": "2",
    "clip.size": "16",
    "clip.test_size": "16",
    "optimizer.batch": "8",
    "schedule.epochs": "2",
}


def clips_file(folder: Path, number: int = 20, seed: int = 0) -> Path:
    """Writes an `.npz` of clips of two classes, which grow lighter or darker."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % 2
    ramp = np.linspace(-60, 60, 4)[None, :] * (1 - 2 * labels)[:, None]
    clips = 128 + ramp[..., None, None, None] + rng.normal(0, 8, (number, 4, 18, 18, 3))
    path = folder / f"clips-{number}-{seed}.npz"
    np.savez(path, clips=clips.clip(0, 255).astype(np.uint8), labels=labels, classes=np.array(["darker", "lighter"]))
    return path


def command(data: Path, output: Path, recipe: str = "shapes_adamw", *words: str, **keys: object) -> list[str]:
    """Returns the arguments of `train.py`; `_` in a key's name stands for the first dot."""
    given = TINY | {name.replace("_", ".", 1): str(value) for name, value in keys.items()}
    overrides = [word for key, value in given.items() for word in (f"--{key}", value)]
    return ["--recipe", recipe, "--data", str(data), "--output", str(output), *words, *overrides]


def trainer(data: Path, output: Path, resume: bool = False, **keys: object) -> train.Trainer:
    """Returns a trainer of `shapes_adamw` on a tiny network."""
    args, rest = train.parser("").parse_known_args(command(data, output, **keys))
    overrides = train.parse_overrides(rest) | {"data.path": args.data}
    return train.Trainer(train.load_recipe(args.recipe, overrides), output, resume)


def column(output: Path, name: str, file: str = "updates.csv") -> list[str]:
    """Returns a column of a log, as text."""
    heading, *rows = [line.split(",") for line in (output / file).read_text().splitlines()]
    return [row[heading.index(name)] for row in rows]
