"""The notebooks: committed without outputs, and they run from the first cell to the last."""

import random
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import vov3d
from vov3d.synthetic.moving_shapes import make_clip, write_clip

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

FOLDER = Path(__file__).parents[2] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_there_are_two():
    assert [path.stem for path in NOTEBOOKS] == ["finetune", "quickstart"]


def test_outputs_are_not_committed(notebook):
    nbformat.validate(notebook)
    assert not [cell for cell in code(notebook) if cell.outputs or cell.execution_count]


def test_every_piece_of_code_is_explained(notebook):
    assert notebook.cells[0].source.startswith("# ")
    kinds = [cell.cell_type for cell in notebook.cells]
    assert "code code" not in " ".join(kinds)


def run(name, folder, monkeypatch):
    """Runs a notebook in a folder; returns the text that each of its cells shows."""
    monkeypatch.setenv("PYTHONPATH", ":".join(sys.path))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    settings = {"timeout": 600, "kernel_name": "python3", "resources": {"metadata": {"path": str(folder)}}}
    nbclient.NotebookClient(notebook, **settings).execute()
    return ["\n".join(map(text_of, cell.outputs)) for cell in code(notebook)]


def text_of(output):
    data = output.get("data", {})
    return output.get("text") or data.get("text/html") or str(data)


@pytest.mark.slow
def test_the_quick_start_runs(tmp_path, monkeypatch):
    shown = run("quickstart", tmp_path, monkeypatch)
    assert "<td>Moving something left</td>" in shown[1]
    assert "data:image/jpeg;base64," in shown[2]
    assert "broken.mp4 -> cannot be read" in shown[4]
    assert re.search("Something appearing.*Something disappearing", shown[5], re.DOTALL)


def test_as_many_other_classes_get_a_new_classifier():
    notebook = nbformat.read(FOLDER / "finetune.ipynb", as_version=4)
    (cell,) = (cell for cell in code(notebook) if "create_model(" in cell.source)
    names = {"classes": [f"motion {i}" for i in range(20)]}
    exec(cell.source, names)
    assert vov3d.class_names(names["model"]) is None
    assert names["model"].temperature == 1


def test_workers_and_epochs_of_fine_tuning_draw_other_clips(tmp_path):
    notebook = nbformat.read(FOLDER / "finetune.ipynb", as_version=4)
    (cell,) = (cell for cell in code(notebook) if "class Clips" in cell.source)
    write_clip(tmp_path / "a.mp4", make_clip(0, np.random.default_rng(0), 40))
    cfg = vov3d.create_model("vov3d_n").pretrained_cfg
    files = [(tmp_path / "a.mp4", 0)]
    names = {"cfg": cfg, "train": files, "held_out": files, "random": random, "torch": torch}
    exec(cell.source, names)
    drawn = []
    for seed in (1, 2, 1):  # a loader seeds torch in each worker; any other generator is a copy there
        torch.manual_seed(seed)
        drawn.append(next(iter(names["batches"]))[0])
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.slow
def test_fine_tuning_runs_and_learns(tmp_path, monkeypatch):
    shown = run("finetune", tmp_path, monkeypatch)
    epochs = re.findall(r"loss ([\d.]+), (\d+)% of the held-out", "\n".join(shown))
    assert len(epochs) == 12
    assert float(epochs[-1][0]) < float(epochs[0][0])
    assert int(epochs[-1][1]) >= 50, epochs  # chance is 25
    assert (tmp_path / "my_model" / "config.json").is_file()
