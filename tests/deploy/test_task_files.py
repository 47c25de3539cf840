"""Exported files of every task hold its scores and say it."""

import numpy as np
import pytest
import torch
from helpers.task_models import NAMES, task_model

import vov3d
from vov3d.deploy._compare import compare
from vov3d.deploy._conv2d import conv2d_graph_of
from vov3d.deploy.graphs import graph_of
from vov3d.live import StreamClassifier
from vov3d.video import VideoClassifier
from vov3d.weights.tasks import TASKS, task_of

CLOSE = dict(rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("graph_of_model", [graph_of, lambda model: conv2d_graph_of(model, (4, 32, 32))])
def test_graphs_hold_the_scores_of_the_task(task, graph_of_model):
    model = task_model(task)
    graph, clip = graph_of_model(model).eval(), torch.randn(1, 3, 4, 32, 32)
    assert graph.output_names == ("logits", "values" if task == "regression" else "probabilities")
    logits, scores = graph(clip)
    torch.testing.assert_close(logits, model(clip), **CLOSE)
    torch.testing.assert_close(scores, task_of(model).scores(model(clip)), **CLOSE)


@pytest.mark.parametrize(
    ("task", "ending"),
    [
        ("multihead", ".pt2"),
        *(  # a task is in the graph, a format around it: not every pair
            pytest.param(task, ending, marks=pytest.mark.slow)
            for task, ending in (
                ("single", ".xml"),
                ("multilabel", ".onnx"),
                ("multilabel", ".xml"),
                ("regression", ".pt2"),
                ("multihead", ".onnx"),
            )
        ),
    ],
)
def test_files_predict_what_the_model_predicts(task, ending, tmp_path):
    for package in {".onnx": ["onnx", "onnxruntime"], ".xml": ["openvino"]}.get(ending, []):
        pytest.importorskip(package)
    model = task_model(task)
    file = vov3d.load_exported(vov3d.export(model, tmp_path / f"model{ending}"))
    assert task_of(file) == task_of(model)
    assert file.metadata.outputs[1] == task_of(model).scored
    clip = torch.randn(2, 3, 4, 32, 32)
    torch.testing.assert_close(file.forward_dense(clip), model.forward_dense(clip), **CLOSE)
    frames = np.random.default_rng(0).integers(0, 255, (9, 40, 40, 3), np.uint8)
    ours, theirs = (VideoClassifier(network, "2x1")(frames) for network in (model, file))
    assert [p.label for p in ours] == [p.label for p in theirs]
    assert [p.score for p in ours] == pytest.approx([p.score for p in theirs], rel=1e-3, abs=1e-4)


class Changed:
    """Stands for a file whose logits are moved, so that what they decide is another."""

    def __init__(self, model, shift):
        self.model, self.shift = model, shift
        self.metadata = type("Metadata", (), {"outputs": ["logits", task_of(model).scored], "dtype": "fp32"})

    def outputs(self, clip):
        return {"logits": self.model(clip) + self.shift, self.metadata.outputs[1]: self.model.forward_dense(clip)}


@pytest.mark.parametrize("task", TASKS)
def test_a_comparison_counts_what_is_decided_alike(task):
    model, clips = task_model(task), [torch.randn(2, 3, 4, 32, 32)]
    with torch.no_grad():
        other = -1e3 * model(clips[0])  # turns around what is best, and what is likelier than not
        same, changed = (compare(task, model, Changed(model, shift), clips) for shift in (0.0, other))
    assert same.agreement == (None if task == "regression" else 2)
    assert changed.agreement == (None if task == "regression" else 0)


@pytest.mark.parametrize("task", ["multilabel", "multihead", "regression"])
def test_streams_give_the_scores_of_the_task(task):
    model = task_model(task)
    frames = np.random.default_rng(1).integers(0, 255, (9, 32, 32, 3), np.uint8)
    classifier = StreamClassifier(vov3d.streaming(model, 4))
    scores = classifier.scores_of(list(frames))
    if task == "multilabel":
        assert ((scores > 0) & (scores < 1)).all()
        assert (scores.sum(1) - 1).abs().max() > 0.01
        chosen = StreamClassifier(classifier.stream, threshold=[0.0, 1.0, 1.0])
        assert [p.label for p in [chosen(frame) for frame in frames][-1]] == NAMES[task][:1]
    elif task == "multihead":
        for part in task_of(model).split(scores):
            torch.testing.assert_close(part.sum(1), torch.ones(len(scores)))
    else:
        classifier.reset()
        assert [p.score for p in [classifier(frame) for frame in frames][-1]] == pytest.approx(scores[-1].tolist())


@pytest.mark.slow
def test_a_file_of_a_stream_gives_the_scores_of_the_task(tmp_path):
    stream = vov3d.streaming(task_model("multilabel"), 4)
    file = vov3d.load_exported(vov3d.export(stream, tmp_path / "stream.pt2"))
    frames = np.random.default_rng(1).integers(0, 255, (9, 32, 32, 3), np.uint8)
    ours, theirs = (StreamClassifier(network).scores_of(list(frames)) for network in (stream, file))
    torch.testing.assert_close(ours, theirs, **CLOSE)
