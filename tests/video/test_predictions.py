"""What is said of a video: labels over a threshold, values, combinations of heads; as text and in pictures."""

from itertools import product

import numpy as np
import pytest
import torch
from helpers.task_models import NAMES, task_model
from hypothesis import given, settings
from hypothesis import strategies as st

from vov3d.video import VideoClassifier
from vov3d.video.picture import draw_result
from vov3d.video.predictions import Combination, Value, check_threshold, line, predictions_of
from vov3d.weights.tasks import SINGLE, make_task

MANY = make_task("multilabel")
TWO = make_task("multihead", {"verb": 3, "noun": 4})
FRAMES = np.random.default_rng(0).integers(0, 255, (9, 40, 40, 3), np.uint8)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=8), st.floats(0, 1), st.integers(1, 9) | st.none())
def test_labels_are_those_that_reach_the_threshold(scores, threshold, topk):
    names = [f"label {i}" for i in range(len(scores))]
    row = torch.tensor(scores)
    bound = check_threshold(MANY, threshold, len(scores))
    said = predictions_of(MANY, row, names, topk, bound)
    reached = sorted((s for s, b in zip(row.tolist(), bound.tolist(), strict=True) if s >= b), reverse=True)
    assert [p.score for p in said] == reached[: topk or len(reached)]
    assert all(p.label == names[p.index] and p.score == row[p.index] for p in said)


@pytest.mark.parametrize("topk", [1, 2, 5])
def test_equal_scores_come_in_the_order_of_the_classes_however_many_are_named(topk):
    for task, labels in ((SINGLE, 20), (make_task("multihead", {"verb": 5, "noun": 4}), 9)):
        names = [f"label {i}" for i in range(labels)]
        said = predictions_of(task, torch.full((labels,), 0.25), names, topk)
        assert [p.index for p in said] == list(range(topk))


def test_each_label_may_have_a_threshold():
    bound = check_threshold(MANY, [0.9, 0.1, 0.5], 3)
    for array in (np.array([0.9, 0.1, 0.5]), torch.tensor([0.9, 0.1, 0.5])):  # as a search over scores gives them
        assert check_threshold(MANY, array, 3).equal(bound)
    said = predictions_of(MANY, torch.tensor([0.8, 0.2, 0.6]), ["a", "b", "c"], None, bound)
    assert [p.label for p in said] == ["c", "b"]
    for wrong in (1.5, -0.1, [0.5, 0.5], float("nan"), "0.5", np.array([0.5, 2.0, 0.5])):
        with pytest.raises(ValueError, match="from 0 to 1, or one for each of the 3 labels"):
            check_threshold(MANY, wrong, 3)
    with pytest.raises(ValueError, match="no effect on task 'single'"):
        check_threshold(SINGLE, 0.5, 3)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12))
def test_combinations_are_the_best_of_all(seed, topk):
    scores = TWO.scores(torch.randn(1, 7, generator=torch.Generator().manual_seed(seed)))[0]
    names = [f"{name}{i}" for name, classes in TWO.heads for i in range(classes)]
    said = predictions_of(TWO, scores, names, topk)
    verbs, nouns = scores[:3].tolist(), scores[3:].tolist()
    every = sorted((v * n for v, n in product(verbs, nouns)), reverse=True)
    assert [p.score for p in said] == pytest.approx(every[:topk])
    for p in said:
        assert isinstance(p, Combination)
        (head, verb), (other, noun) = p.parts
        assert (head, other, p.index) == ("verb", "noun", 4 * verb.index + noun.index)
        assert p.label == f"{names[verb.index]} {names[3 + noun.index]}"
        assert p.score == pytest.approx(verbs[verb.index] * nouns[noun.index])


def test_values_are_given_all_in_their_order():
    said = predictions_of(make_task("regression"), torch.tensor([-1234.5678, 3.0]), ["a", "b"], 1)
    assert [(p.label, p.text) for p in said] == [("a", "-1235"), ("b", "3")]
    assert all(isinstance(p, Value) for p in said)
    assert "<th>value</th>" in said._repr_html_()


@pytest.mark.parametrize("task", list(NAMES))
def test_a_classifier_says_what_fits_its_task(task):
    classifier = VideoClassifier(task_model(task), "2x1")
    result = classifier.result(FRAMES)
    if task == "multilabel":
        assert [p.score >= 0.5 for p in result.predictions] == [True] * int((result.scores >= 0.5).sum())
    elif task == "multihead":
        assert result.scores[:2].sum() == pytest.approx(1)
        assert len(result.predictions) == 5  # of six
    elif task == "regression":
        views = [VideoClassifier(task_model(task)).scores(FRAMES)]
        assert [p.score for p in result.predictions] == pytest.approx(result.scores.tolist())
        assert len(views[0]) == 2
    assert str(result.predictions).splitlines() == [line(p) for p in result.predictions]
    assert draw_result(result).size[0] == 1080
    assert {"single": "3 classes", "multilabel": "3 labels", "regression": "2 values"}.get(task, "2 verb") in repr(
        classifier
    )


def test_a_picture_says_that_no_label_reaches_the_threshold():
    few = VideoClassifier(task_model("multilabel"), threshold=1.0).result(FRAMES)
    assert few.predictions == []
    many = VideoClassifier(task_model("multilabel"), threshold=0.0).result(FRAMES)
    assert len(many.predictions) == 3
    assert draw_result(many).size[1] > draw_result(few).size[1]


def test_the_mean_over_views_is_of_scores_and_not_of_logits():
    """Of values it is the plain mean."""
    frames = np.random.default_rng(1).integers(0, 255, (40, 40, 40, 3), np.uint8)
    for task in NAMES:
        model = task_model(task)
        seen: list[torch.Tensor] = []
        dense = model.forward_dense
        model.forward_dense = lambda x, dense=dense, seen=seen: seen.append(dense(x)) or seen[-1]
        scores = VideoClassifier(model, "3x1", batch_size=1).scores(frames)
        assert len(seen) == 3
        torch.testing.assert_close(scores, torch.cat(seen).mean(0))
