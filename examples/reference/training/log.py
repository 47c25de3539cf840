"""Logs of a run: two CSV files, TensorBoard where it is installed, and a picture of the curves."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vov3d.files import replacing

UPDATES, EPOCHS = "updates.csv", "epochs.csv"
_MEASURES = ("top1", "top5")  # of one label
_COLUMNS = {
    UPDATES: ("update", "epoch", "loss", "lr"),
    EPOCHS: ("update", "epoch", "train_loss", "val_loss", *_MEASURES, "clips_per_s", "waiting"),
}


class Log:
    """Writer of a run's logs; on resuming, rows after the checkpoint are dropped first.

    Args:
        folder: The folder of the run.
        update: Updates that are done.
        measures: Columns of what a validation measures.
    """

    def __init__(self, folder: Path, update: int, measures: Sequence[str] = _MEASURES) -> None:
        epochs = [name for name in _COLUMNS[EPOCHS] if name not in _MEASURES]
        epochs[4:4] = measures
        self._columns = {**_COLUMNS, EPOCHS: tuple(epochs)}
        self._files = {name: _opened(folder / name, columns, update) for name, columns in self._columns.items()}
        self._board = _tensorboard(folder, update)

    def write(self, file: str, **row: Any) -> None:
        """Adds a row to `UPDATES` or `EPOCHS`; floats are written with all their digits."""
        try:
            csv.writer(self._files[file]).writerow([row[column] for column in self._columns[file]])
            self._files[file].flush()
        except OSError as error:
            raise OSError(f"{self._files[file].name}: cannot be written ({error})") from error
        if self._board is not None:
            for name, value in row.items():
                if isinstance(value, float):
                    self._board.add_scalar(name, value, row["update"])

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()


def read_log(path: Path) -> dict[str, list[float]]:
    """Reads the columns of a log by name, and under `name@` the updates at which they were measured."""
    columns: dict[str, list[float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if text:
                    columns.setdefault(name, []).append(float(text))
                    columns.setdefault(f"{name}@", []).append(float(row["update"]))
    return columns


def draw_curves(folder: Path, measures: Sequence[str] = _MEASURES) -> Path:
    """Draws losses, what validations measured, and the learning rate over the updates into `curves.png`.

    Args:
        folder: Of the logs.
        measures: Columns of what a validation measures.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    updates, epochs = read_log(folder / UPDATES), read_log(folder / EPOCHS)
    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    left.plot(updates["loss@"], updates["loss"], color="0.8", lw=0.8, label="training, each update")
    for name, label in (("train_loss", "training, each epoch"), ("val_loss", "validation")):
        if name in epochs:
            left.plot(epochs[f"{name}@"], epochs[name], marker=".", label=label)
    left.set(title="loss", xlabel="update")
    left.legend()
    shown = [name for name in measures if name in epochs and name != "mae"]  # which has units of its own
    for name in shown:
        label = {"top1": "top-1", "top5": "top-5", "map": "mAP"}.get(name, name)
        middle.plot(epochs[f"{name}@"], epochs[name], marker=".", label=label)
    if "r2" in measures:
        middle.set(title="validation R2", xlabel="update")
    else:
        middle.set(title="validation accuracy, %", xlabel="update", ylim=(0, 100))
    if shown:
        middle.legend()
    right.plot(updates["lr@"], updates["lr"])
    right.set(title="learning rate", xlabel="update")
    with replacing(folder / "curves.png") as draft:
        figure.savefig(draft, dpi=100)
    pyplot.close(figure)
    return folder / "curves.png"


def _opened(path: Path, columns: tuple[str, ...], update: int) -> Any:
    """Opens a CSV file to add rows to, and keeps those up to an update."""
    kept: list[list[str]] = []
    if update and path.exists():
        with path.open(newline="") as file:
            kept = [row for row in list(csv.reader(file))[1:] if len(row) == len(columns) and int(row[0]) <= update]
    with replacing(path) as draft, draft.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *kept])
    return path.open("a", newline="")


def _tensorboard(folder: Path, update: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=update + 1)
