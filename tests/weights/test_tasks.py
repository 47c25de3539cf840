"""What the outputs of a network mean: said in one place, saved with the weights, dropped with their classifier."""

import json

import pytest
import torch
from helpers.task_models import HEADS, NAMES, task_model
from hypothesis import given, settings
from hypothesis import strategies as st

import vov3d
from vov3d.hub.card import model_card
from vov3d.weights.tasks import SINGLE, TASKS, head_names, make_task, set_task, task_of


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.floats(0.5, 3), st.integers(0, 2**31))
def test_scores_are_what_each_task_wants(heads, temperature, seed):
    logits = torch.randn(3, sum(heads), generator=torch.Generator().manual_seed(seed))
    named = {f"head {i}": classes for i, classes in enumerate(heads)}
    parts = [part.div(temperature).softmax(1) for part in logits.split(heads, 1)]
    torch.testing.assert_close(make_task("multihead", named).scores(logits, temperature), torch.cat(parts, 1))
    torch.testing.assert_close(SINGLE.scores(logits, temperature), (logits / temperature).softmax(1))
    torch.testing.assert_close(make_task("multilabel").scores(logits, temperature), (logits / temperature).sigmoid())
    assert make_task("regression").scores(logits, temperature) is logits
    rows = make_task("multihead", named).scores(logits[:, :, None, None], temperature)
    torch.testing.assert_close(rows[..., 0, 0], torch.cat(parts, 1))


def test_what_outputs_decide():
    logits = torch.tensor([[2.0, -1.0, 0.5, 3.0, -2.0]])
    assert SINGLE.decided(logits).tolist() == [[3]]
    assert make_task("multilabel").decided(logits).tolist() == [[1, 0, 1, 1, 0]]
    assert make_task("multihead", {"a": 2, "b": 3}).decided(logits).tolist() == [[0, 1]]
    assert make_task("regression").decided(logits).shape == (1, 0)
    assert head_names(make_task("multihead", {"a": 2, "b": 1}), ["x", "y", "z"]) == [["x", "y"], ["z"]]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(task="many"), "'multilabel'"),
        (dict(task="multihead"), "needs heads"),
        (dict(task="multilabel", heads={"a": 3}), "no effect"),
        (dict(heads={"a": 0}), "expected classes by name"),
        (dict(heads={"a": 2, "b": 2}, num_classes=5), "have 4 classes together, but the network has 5"),
    ],
)
def test_tasks_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        vov3d.create_model("x3d_xs", device="meta", **({"num_classes": 3} | fields if "task" in fields else fields))


@pytest.mark.parametrize("task", TASKS)
def test_a_saved_model_knows_its_task(task, tmp_path):
    model = task_model(task)
    assert task_of(model).name == task
    vov3d.save_pretrained(model, tmp_path / "saved")
    cfg = json.loads((tmp_path / "saved" / "config.json").read_text())["pretrained_cfg"]
    assert {key: cfg[key] for key in ("task", "heads") if key in cfg} == task_of(model).fields()
    again = vov3d.from_pretrained(tmp_path / "saved").eval()
    assert task_of(again) == task_of(model)
    assert vov3d.class_names(again) == NAMES[task]
    clip = torch.randn(2, 3, 4, 32, 32)
    torch.testing.assert_close(again.forward_dense(clip), task_of(model).scores(model(clip)))
    card = model_card(model, "mine")
    assert {"single": "3 classes", "multilabel": "3 labels", "regression": "speed", "multihead": "3 noun classes"}[
        task
    ] in card
    assert ("gives logits." in card) == (task == "single")


def test_a_model_of_one_label_has_no_new_key(tmp_path):
    vov3d.save_pretrained(task_model("single"), tmp_path / "saved")
    text = (tmp_path / "saved" / "config.json").read_text()
    assert '"task"' not in text
    assert '"heads"' not in text


def test_a_new_classifier_is_of_one_label_unless_the_caller_says_more(tmp_path):
    vov3d.save_pretrained(task_model("multihead"), tmp_path / "saved")
    name = f"local-dir:{tmp_path / 'saved'}"
    assert task_of(vov3d.create_model(name, True, num_classes=7)) == SINGLE
    assert task_of(vov3d.create_model(name, True, num_classes=7, task="multilabel")).name == "multilabel"
    assert task_of(vov3d.create_model(name, True, task="single")) == SINGLE
    model = vov3d.create_model(name, True)
    for classes in (model.num_classes, 4):
        model.reset_classifier(classes)
        assert task_of(model) == SINGLE
    set_task(model, make_task("regression"))
    assert task_of(model).name == "regression"
    vov3d.save_pretrained(model, tmp_path / "again", ["a", "b", "c", "d"])
    assert task_of(vov3d.from_pretrained(tmp_path / "again")).name == "regression"


@pytest.mark.parametrize("change", [{"task": "all"}, {"heads": {"verb": -1}}, {"heads": {"verb": 1, "noun": 2}}])
def test_a_configuration_that_was_tampered_with_is_refused(tmp_path, change):
    folder = vov3d.save_pretrained(task_model("multihead"), tmp_path / "saved")
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"task|heads"):
        vov3d.from_pretrained(folder)


def test_the_task_goes_along_with_a_model_that_is_rewritten():
    for task in TASKS:
        model = task_model(task)
        assert task_of(vov3d.optimize_for_inference(model)) == task_of(model)
        assert task_of(vov3d.streaming(model)) == task_of(model)
    assert sum(HEADS.values()) == len(NAMES["multihead"])
