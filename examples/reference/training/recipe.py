"""Recipes: TOML files of the keys in `recipes/defaults.toml`, with overrides from the command line."""

import argparse
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vov3d.weights.tasks import TASKS

FOLDER = Path(__file__).parent.parent / "recipes"
DEFAULTS = FOLDER / "defaults.toml"

_FREE = ("model.args.", "optimizer.args.")  # tables of arguments that are passed on
_INFINITE = float("inf")
# Smallest and largest value of each number; those that are not named begin at 0.
_RANGES: dict[str, tuple[float, float]] = {
    "model.drop_rate": (-1, 1),
    "model.drop_path_rate": (0, 1),
    "data.labels_from": (-1, 1),
    "data.balance": (0, 1),
    "data.val_share": (0, 1),
    "data.max_broken": (0, 1),
    "shapes.clips": (1, _INFINITE),
    "shapes.val_clips": (1, _INFINITE),
    "shapes.frames": (1, _INFINITE),
    "shapes.size": (1, _INFINITE),
    "clip.color": (0, 1),
    "mix.share": (0, 1),
    "distill.temperature": (0.01, _INFINITE),
    "distill.weight": (0, 1),
    "optimizer.batch": (1, _INFINITE),
    "optimizer.layer_decay": (0, 1),
    "schedule.epochs": (1, _INFINITE),
    "schedule.decay": (0, 1),
    "train.accumulate": (1, _INFINITE),
    "train.label_smoothing": (0, 1),
    "train.ema": (0, 1),
    "train.val_every": (1, _INFINITE),
}
_WORDS = {
    "train.precision": ("no", "bf16", "fp16"),
    "train.keep": ("last", "best"),
    "schedule.name": ("cosine", "steps"),
    "clip.sampling": ("", "dense", "segment"),
    "task.name": TASKS,
    "loss.name": ("", "focal", "logit_adjusted", "l1", "huber"),
    "loss.class_weights": ("none", "sqrt", "inverse"),
}

_WANTED = {
    bool: "true or false",
    int: "a whole number, such as {}",
    float: "a number, such as {}",
    str: "a text",
    list: "a list, such as [1.0, 1.25]",
}

Recipe = dict[str, Any]
"""Values by full key, as `optimizer.lr`."""


def recipe_names() -> list[str]:
    """Returns the names of the recipes that are here."""
    return sorted(path.stem for path in FOLDER.glob("*.toml") if path != DEFAULTS)


def load_recipe(name: str, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Reads a recipe, with its defaults and overrides.

    Args:
        name: One of `recipe_names()`, or a TOML file.
        overrides: Full keys with values as they stand on a command line.

    Raises:
        ValueError: For a recipe or a key that does not exist, or a value of another type; names the nearest.
    """
    defaults = _flat(_read(DEFAULTS))
    recipe = dict(defaults)
    for key, value in _flat(_read(_file_of(name))).items():
        recipe[key] = _checked(key, value, defaults, f"recipe {name}")
    for key, text in (overrides or {}).items():
        _known(key, defaults, f"--{key}")
        recipe[key] = _checked(key, _parsed(text, defaults.get(key)), defaults, f"--{key}")
    return recipe


def check_values(recipe: Recipe) -> None:
    """Refuses numbers and words that make no sense.

    Raises:
        ValueError: Names the key, its value, and what was expected.
    """
    for key, value in recipe.items():
        if key in _WORDS and value not in _WORDS[key]:
            raise ValueError(f"{key} is {value!r}: {' and '.join(map(repr, _WORDS[key]))} are known")
        if type(value) in (int, float) and not key.startswith(_FREE):
            low, high = _RANGES.get(key, (0, _INFINITE))
            if not low <= value <= high or value == _INFINITE:
                upper = f"to {high:g}" if high < _INFINITE else "on"
                raise ValueError(f"{key} is {value!r}: expected a number from {low:g} {upper}")
    defaults = _flat(_read(DEFAULTS))
    for key in ("distill.temperature", "distill.weight"):
        if not recipe["distill.model"] and recipe[key] != defaults[key]:
            raise ValueError(f"{key}={recipe[key]:g} has no effect without a teacher: give --distill MODEL as well")
    stones = recipe["schedule.milestones"]
    if not all(type(v) is int and v >= 1 for v in stones) or stones != sorted(stones):
        raise ValueError(f"schedule.milestones is {stones!r}: expected epochs from 1 on, in order, such as [35, 45]")
    epochs = recipe["schedule.epochs"]
    if recipe["schedule.name"] == "steps" and (late := [stone for stone in stones if stone >= epochs]):
        raise ValueError(f"schedule.milestones {late} have no effect, the run has {epochs} epochs: give earlier ones")
    if recipe["train.ema"] == 1:
        raise ValueError("train.ema is 1, at which the averaged weights never change: give less, such as 0.999")
    _check_sizes(recipe["clip.scales"], recipe["clip.zoom"])


def _check_sizes(scales: list[Any], zoom: list[Any]) -> None:
    """Refuses short sides that make no sense."""
    if scales and not (len(scales) == 2 and all(type(v) is int and v > 0 for v in scales)):
        raise ValueError(f"clip.scales is {scales!r}: expected two short sides in pixels, such as [256, 320]")
    numbers = len(zoom) == 2 and all(type(v) in (int, float) for v in zoom)
    if zoom and not (numbers and 1 <= zoom[0] <= zoom[1] < _INFINITE):
        raise ValueError(
            f"clip.zoom is {zoom!r}: expected two rising multiples of the crop, from 1 on, such as [1.0, 1.2]"
        )
    if scales and zoom:
        raise ValueError(f"clip.scales={scales} and clip.zoom={zoom} say the same thing twice: set one to []")


def sections(recipe: Recipe) -> SimpleNamespace:
    """Returns a recipe as `recipe.optimizer.lr`; the free tables are dictionaries, as `recipe.model.args`."""
    out = SimpleNamespace()
    for section in dict.fromkeys(key.split(".")[0] for key in recipe):
        setattr(out, section, SimpleNamespace())
    for prefix in _FREE:
        section, name = prefix.split(".")[:2]
        setattr(
            getattr(out, section), name, {k.removeprefix(prefix): v for k, v in recipe.items() if k.startswith(prefix)}
        )
    for key, value in recipe.items():
        if not key.startswith(_FREE):
            section, name = key.split(".")
            setattr(getattr(out, section), name, value)
    return out


def parse_overrides(rest: Sequence[str]) -> dict[str, str]:
    """Reads `--section.key value` and `--section.key=value`.

    Raises:
        ValueError: For anything else.
    """
    overrides, words = {}, list(rest)
    while words:
        word = words.pop(0)
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise ValueError(f"{word!r} is no option: a key of a recipe is given as --optimizer.lr 0.1; see --help")
        if not equals:
            if not words or words[0].startswith("--"):
                raise ValueError(f"--{key} wants a value: --{key} VALUE or --{key}=VALUE")
            value = words.pop(0)
        overrides[key] = value
    return overrides


def parser(description: str) -> argparse.ArgumentParser:
    """Returns the command line of the trainer, without the keys of the recipe."""
    p = argparse.ArgumentParser(
        prog="train.py",
        description=description,
        epilog=f"Keys of a recipe, each to be overridden as --optimizer.lr 0.05:\n\n{DEFAULTS.read_text()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage="train.py --recipe NAME --output FOLDER [--data DATA] [--model NAME] [--distill MODEL] [--resume auto]"
        " [--section.key V]",
    )
    p.add_argument("--recipe", required=True, metavar="NAME", help=f"{', '.join(recipe_names())}, or a TOML file")
    p.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="checkpoints, logs, model")
    p.add_argument("--data", metavar="DATA", help="in place of --data.path")
    p.add_argument("--model", metavar="NAME", help="in place of --model.name")
    p.add_argument("--distill", metavar="MODEL", help="a teacher, in place of --distill.model")
    p.add_argument(
        "--resume", choices=("never", "auto"), default="never", help="auto: continue from the last checkpoint, if any"
    )
    return p


def with_defaults(recipe: Recipe) -> Recipe:
    """Returns a recipe of an earlier version with the keys that came later; their defaults do what was done before."""
    return _flat(_read(DEFAULTS)) | recipe


def differences(recipe: Recipe, former: Recipe, without_effect: Sequence[str]) -> list[str]:
    """Returns the keys that differ between two recipes, with both values; some do not change the results."""
    keys = [key for key in former | recipe if key not in without_effect]
    return [f"{k} (was {former.get(k)!r}, is {recipe.get(k)!r})" for k in keys if former.get(k) != recipe.get(k)]


def _file_of(name: str) -> Path:
    if name in recipe_names():
        return FOLDER / f"{name}.toml"
    if Path(name).is_file():
        return Path(name)
    raise ValueError(f"there is no recipe {name!r}{_near(name, recipe_names())}; or give a TOML file")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path}: is not valid TOML ({error})") from error


def _flat(table: Mapping[str, Any], prefix: str = "") -> Recipe:
    out: Recipe = {}
    for name, value in table.items():
        key = prefix + name
        if isinstance(value, Mapping) and not key.startswith(_FREE):
            out |= _flat(value, f"{key}.")
        else:
            out[key] = value
    return out


def _known(key: str, defaults: Recipe, where: str) -> None:
    if key not in defaults and not key.startswith(_FREE):
        raise ValueError(f"{where}: there is no key {key!r}{_near(key, list(defaults))}")


def _checked(key: str, value: Any, defaults: Recipe, where: str) -> Any:
    """Returns a value of the type that its key has."""
    _known(key, defaults, where)
    default = defaults.get(key)
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if default is not None and type(value) is not type(default):
        raise ValueError(f"{where}: {key} wants {_WANTED[type(default)].format(default)}, not {value!r}")
    return value


def _parsed(text: str, default: Any) -> Any:
    """Parses a value of the command line: text where text is wanted, TOML else."""
    if isinstance(default, str):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _near(name: str, names: Sequence[str]) -> str:
    """Returns the nearest name, by the whole or by the part after the last dot."""
    last = {n.split(".")[-1]: n for n in names}
    near = get_close_matches(name, names, 1, 0.7) or get_close_matches(name.split(".")[-1], last, 1, 0.5)
    near = near or get_close_matches(name, names, 1, 0.0)
    return f"; did you mean {last.get(near[0], near[0])!r}?"
