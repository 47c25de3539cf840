"""Tasks of more than one label, from lists to predictions: what is read, learned, measured, saved and said."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_training_runs import clips_file, column, command, trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import check_data, evaluate, train
from reference.data.clips import plan_epoch
from reference.data.sources import Source
from reference.data.splitting import held_out
from reference.data.targets import check_labels, label_text, read_targets, strata_of
from reference.evaluation.measures import (
    average_precision,
    epoch_measures,
    f1,
    losses_of,
    mean_average_precision,
    measure,
    per_class,
    r2,
)
from reference.evaluation.metrics import confusion
from reference.evaluation.scores import Row
from reference.evaluation.tables import class_table, rarest
from reference.training.losses import build_loss, check_loss, class_counts, draw_weights, one_hot, scale_of
from reference.training.recipe import with_defaults

import vov3d
from vov3d.cli import main as vov3d_main
from vov3d.synthetic import moving_tasks
from vov3d.weights.tasks import SINGLE, make_task, task_of

MANY, VALUES = make_task("multilabel"), make_task("regression")
TWO = make_task("multihead", {"verb": 2, "noun": 3})
CPU = torch.device("cpu")
LOSS = dict(name="", class_weights="none", gamma=2.0, tau=1.0)


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# --- lists -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def videos(tmp_path: Path):
    """Writes a list beside three files that nobody opens, and reads it."""
    for name in ("a.mp4", "b.mp4", "c, d.mp4"):
        (tmp_path / name).write_bytes(name.encode())

    def read(text: str, task: str, **options):
        (tmp_path / "list.csv").write_bytes(text.encode())
        return read_targets(tmp_path / "list.csv", task, **options)

    return read


@pytest.mark.parametrize(
    "text",
    [
        'a.mp4,up;left\nb.mp4,\n"c, d.mp4",up\n',
        "a.mp4\tup|left\nb.mp4\t\nc, d.mp4\tup\n",
        '\ufeffpath,labels\r\na.mp4, up ; left\r\nb.mp4,\r\n"c, d.mp4",up\r\n',
        'path,left,up\na.mp4,1,1\nb.mp4,0,0\n"c, d.mp4",0,1\n',
        'path,left,up\na.mp4,1.0,1.0\nb.mp4,0.0,0.0\n"c, d.mp4",0.0,1.0\n',
        'path,left,up\na.mp4,True,True\nb.mp4,False,False\n"c, d.mp4",False,True\n',
        'path,left,up\na.mp4,yes,Yes\nb.mp4,no,no\n"c, d.mp4",no,yes\n',
        'path,left,up\na.mp4,1,1\nb.mp4,0,0\n"c, d.mp4",0,1\na.mp4,1,1\n',
        'path,left,up\na.mp4,1,0\nb.mp4,0,0\n"c, d.mp4",0,1\n./a.mp4,0,1\n',
        'a.mp4,left,up\nb.mp4,\n"c, d.mp4",up,\n',
        './a.mp4,left\nb.mp4,\na.mp4,up\n"c, d.mp4",up\n',
        'a.mp4,left\nb.mp4,\na.mp4,up\n"c, d.mp4",up\na.mp4,up\n',
    ],
)
def test_all_forms_of_many_labels_say_the_same(videos, text):
    found = videos(text, "multilabel")
    assert found.classes == ("left", "up")
    assert found.labels.tolist() == [[1, 1], [0, 0], [0, 1]]
    assert found.labels.dtype == np.float32
    assert [path.name for path in found.paths] == ["a.mp4", "b.mp4", "c, d.mp4"]


def test_numbers_names_and_heads_are_read_as_they_are_meant(videos):
    assert videos("a.mp4,0;2\nb.mp4,1\n", "multilabel").labels.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert videos("a.mp4,0,1\nb.mp4,1\n", "multilabel").labels.tolist() == [[1, 1], [0, 1]]
    assert videos("a.mp4,1\na.mp4,1\nb.mp4,0\n", "multilabel").labels.tolist() == [[0, 1], [1, 0]]
    assert videos("a.mp4,1;2\nb.mp4,1\n", "multilabel", labels_from=1).labels.tolist() == [[1, 1], [1, 0]]
    assert videos("a.mp4,2\nb.mp4,0\n", "multilabel", classes=("x", "y", "z")).labels.tolist() == [[0, 0, 1], [1, 0, 0]]
    one = videos("path,smiles\na.mp4,1\nb.mp4,0\n", "multilabel")
    assert (one.classes, one.labels.tolist()) == (("smiles",), [[1], [0]])
    assert videos("path,label\na.mp4,1\nb.mp4,0\n", "multilabel").labels.tolist() == [[0, 1], [1, 0]]
    values = videos("path,speed (m/s),angle\na.mp4,1.5,-2\nb.mp4,1e3,0\n", "regression")
    assert (values.classes, values.labels.tolist()) == (("speed (m/s)", "angle"), [[1.5, -2], [1000, 0]])
    assert videos("a.mp4,3\n", "regression").classes == ("value",)
    both = videos("video,noun,verb\na.mp4,door,open\nb.mp4,cup,take\n", "multihead")
    assert (both.heads, both.classes) == (("noun", "verb"), (("cup", "door"), ("open", "take")))
    assert both.labels.tolist() == [[1, 0], [0, 1]]
    known = dict(heads=("verb", "noun"), classes=(("open", "take"), ("cup", "door", "box")))
    assert videos("video,noun,verb\na.mp4,door,open\nb.mp4,cup,take\n", "multihead", **known).labels.tolist() == [
        [0, 1],
        [1, 0],
    ]
    assert videos("a.mp4,0,4\nb.mp4,1,0\n", "multihead").heads == ("verb", "noun")


@pytest.mark.parametrize(
    ("text", "task", "options", "message"),
    [
        ("a.mp4,0;7\nb.mp4,1\n", "multilabel", {"classes": ("x", "y")}, r"list.csv:1: found label 7, .* from 0 to 1"),
        ("a.mp4,0\nb.mp4,-1\n", "multilabel", {}, r"list.csv:2: found label -1"),
        ("a.mp4,0\nb.mp4,99999999999\n", "multilabel", {}, r"list.csv:2: found label 99999999999"),
        ("a.mp4,1\nb.mp4,2\n", "multilabel", {}, "do they count from 1"),
        ("a.mp4,x\nb.mp4,2\n", "multilabel", {}, "expected all names or all numbers"),
        ("a.mp4,x;y\nb.mp4,q\n", "multilabel", {"classes": ("x", "y")}, r"list.csv:2: found label 'q'"),
        ("a.mp4,x;y\nb.mp4,y|z\n", "multilabel", {}, "apart by ';' and by '|'"),
        ("a.mp4,x\nb.mp4,[]\n", "multilabel", {}, r"list.csv:2: found '\[\]', a list as Python or JSON writes it"),
        ("a.mp4,\"['x', 'y']\"\n", "multilabel", {}, r"list.csv:1: .* apart by ';'"),
        ('a.mp4,"[""x"", ""y""]"\n', "multilabel", {}, r"list.csv:1: .* apart by ';'"),
        ("a.mp4,['x', 'y']\n", "multilabel", {}, r"list.csv:1: .* apart by ';'"),
        ("a.mp4,[0 1 1]\nb.mp4,[1 0 0]\n", "multilabel", {}, r"list.csv:1: .* apart by ';'"),
        ("a.mp4,[0, 1]\nb.mp4,[1]\n", "multilabel", {}, r"list.csv:1: .* apart by ';'"),
        ("a.mp4,0,1,1\nb.mp4,1,0,0\n", "multilabel", {}, r"list.csv:1: found '0,1,1' in a list of 0 and 1: a column"),
        ("path,labels\na.mp4,0,1,1\nb.mp4,1,0,0\n", "multilabel", {}, r"list.csv:2: found '0,1,1' in a list of 0"),
        ("path,x,y,z\na.mp4,0,1,1\nb.mp4,1,,0\n", "multilabel", {}, r"list.csv:3: found '1,,0' in a list of 0 and 1"),
        ("path,x,y\na.mp4,1,0\nb.mp4,,1\n", "multilabel", {}, r"list.csv:3: found ',1' in a list of 0 and 1"),
        ("path,smiles\na.mp4,1\nb.mp4,\n", "multilabel", {}, r"list.csv:3: found '' in a list of 0 and 1"),
        ("a.mp4,1,0\nb.mp4,0,1\n", "multilabel", {}, r"list.csv:1: found '1,0' in a list of 0 and 1"),
        ("a.mp4,\nb.mp4,\n", "multilabel", {}, "no video of this list has a label"),
        ("a.mp4\nb.mp4\n", "multilabel", {}, "expected a path, and behind a comma"),
        ("path,labels\n", "multilabel", {}, "names no video"),
        ("a.mp4,1\nb.mp4,nan\n", "regression", {}, r"list.csv:2: found 'nan' as value, expected a finite number"),
        ("a.mp4,1\nb.mp4,inf\n", "regression", {}, "finite"),
        ("a.mp4,1\nb.mp4,fast\n", "regression", {}, r"list.csv:2: found 'fast'"),
        ("a.mp4,1\nb.mp4,1,2\n", "regression", {}, r"list.csv:2: found 2 values, expected 1"),
        ("a.mp4,1\na.mp4,2\n", "regression", {}, "in the list already"),
        ("a.mp4,1\n./a.mp4,2\n", "regression", {}, "in the list already"),
        ("path,speed\na.mp4,1\n", "regression", {"classes": ("angle",)}, "names the values speed, expected angle"),
        ("a.mp4,1,2\n", "regression", {"classes": ("angle",)}, "found 2 values, expected 1"),
        ("a.mp4,open\n", "multihead", {}, "a class of each head"),
        ("a.mp4,open,\n", "multihead", {}, "a class of each head"),
        ("path,verb,noun\na.mp4,x,y\n", "multihead", {"heads": ("verb", "object")}, "has the heads verb, noun"),
        ("path,verb,noun\na.mp4,x,y\n", "multihead", {"classes": (("x",), ("z",))}, "found label 'y'"),
        ("a.mp4,x\ne.mp4,y\n", "multilabel", {}, "1 of 2 videos are not there"),
    ],
)
def test_wrong_lists_are_told_with_file_and_line(videos, text, task, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        videos(text, task, **options)


def test_names_in_brackets_are_names(videos):
    found = videos("a.mp4,[something] falling [fast];(slow)\nb.mp4,(2 hands)\n", "multilabel")
    assert found.classes == ("(2 hands)", "(slow)", "[something] falling [fast]")


def test_a_partial_set_is_counted(videos):
    found = videos("a.mp4,x\ne.mp4,y\n", "multilabel", partial=True)
    assert (found.labels.tolist(), len(found.missing)) == ([[1, 0]], 1)
    assert "1 of 2 videos are not there" in found.notes[-1]


ONE, HOT = np.array([0, 1]), np.array([[0, 1], [1, 1]], np.float32)
REAL, PAIR = np.array([[0.5, 1.0], [2.0, 3.0]], np.float32), np.array([[0, 1], [1, 2]])
NESTED = (("a", "b"), ("x", "y", "z"))


@pytest.mark.parametrize(
    ("labels", "classes", "task"),
    [
        (ONE, ("a", "b"), "single"),
        (HOT, ("a", "b"), "multilabel"),
        (REAL, ("a", "b"), "regression"),
        (PAIR, NESTED, "multihead"),
        (HOT, ("a", "b"), "regression"),
    ],
)
def test_labels_fit_their_task(labels, classes, task):
    check_labels("data", labels, classes, task)


@pytest.mark.parametrize(
    ("labels", "classes", "task", "message"),
    [
        (HOT, ("a", "b"), "single", "give task.name='multilabel'"),
        (REAL, ("a", "b"), "single", "give task.name='regression'"),
        (PAIR, NESTED, "single", "give task.name='multihead'"),
        (ONE, ("a", "b"), "multilabel", "give task.name='single'"),
        (REAL, ("a", "b"), "multilabel", "give task.name='regression'"),
        (HOT[:, :1], ("a", "b"), "multilabel", "for 2 classes"),
        (ONE, ("a", "b"), "regression", "values"),
        (np.array([[np.nan, 1]], np.float32), ("a", "b"), "regression", "video 0"),
        (np.zeros((2, 2), np.float32), ("a", "b"), "multilabel", "no video has a label"),
        (np.array([0, 2]), ("a", "b"), "single", "labels from 0 to 2, but there are 2 classes"),
        (np.array([0, -1]), ("a", "b"), "single", "labels from -1"),
        (np.array([[0, 3]]), NESTED, "multihead", "labels from 3 to 3, but there are 3"),
    ],
)
def test_labels_of_another_task_are_refused(labels, classes, task, message):
    with pytest.raises(ValueError, match=message):
        check_labels("data", labels, classes, task)


def test_labels_in_words_and_in_shares_that_are_held_out():
    assert label_text(1, ("a", "b")) == "b"
    assert label_text(HOT[1], ("a", "b")) == "a;b"
    assert label_text(REAL[0], ("a", "b")) == "a=0.5;b=1"
    assert label_text(PAIR[1], NESTED) == "b z"
    assert strata_of(PAIR, NESTED).tolist() == [0, 1]
    assert strata_of(np.array([[1, 1], [1, 0], [0, 0]], np.float32), ("a", "b")).tolist() == [1, 0, 2]
    many = np.zeros((40, 2), np.float32)
    many[:, 0], many[:4, 1] = 1, 1
    source = Source("made", many, ("often", "rare"), clips=np.arange(120, dtype=np.uint8).reshape(40, 1, 1, 1, 3))
    kept, out = held_out(source, 0.25)
    assert (out.labels[:, 1].sum(), len(out), len(kept)) == (1, 10, 30)


# --- figures ---------------------------------------------------------------------------------------------------------


SCORES = st.integers(1, 12).flatmap(
    lambda n: st.tuples(
        st.lists(st.lists(st.integers(0, 5), min_size=3, max_size=3), min_size=n, max_size=n),
        st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=n, max_size=n),
    )
)


@settings(max_examples=60, deadline=None)
@given(SCORES)
def test_average_precision_is_that_of_an_independent_count(made):
    """The mean over the videos of a label of the share of its videos among all that score as high or higher."""
    scores, there = np.array(made[0]) / 5, np.array(made[1])
    for i in range(3):
        s, t = scores[:, i], there[:, i]
        expected = [sum(t[j] for j in range(len(s)) if s[j] >= s[k]) / sum(s >= s[k]) for k in np.flatnonzero(t)]
        found = average_precision(s, t)
        assert (np.isnan(found) and not expected) or found == pytest.approx(np.mean(expected))


def test_figures_are_those_of_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional")
    rng = np.random.default_rng(0)
    labels = (rng.random((60, 5)) < [0.5, 0.2, 0.1, 0.4, 0.0]).astype(np.float32)
    scores = (rng.random((60, 5)) * 0.7 + 0.3 * labels).round(2)
    p, t = torch.tensor(scores), torch.tensor(labels).long()
    each = functional.classification.multilabel_average_precision(p[:, :4], t[:, :4], 4, average="none")
    assert mean_average_precision(scores, labels) == pytest.approx(each.mean().item(), abs=1e-6)  # the last has none
    micro = functional.classification.multilabel_f1_score(p, t, 5, average="micro")
    assert f1(scores > 0.5, labels) == pytest.approx(micro.item(), abs=1e-6)
    truth, values = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    assert r2(values[:, 1], truth[:, 1]) == pytest.approx(
        functional.r2_score(torch.tensor(values[:, 1]), torch.tensor(truth[:, 1])).item(), abs=1e-6
    )
    mae = functional.mean_absolute_error(torch.tensor(values), torch.tensor(truth)).item()
    assert epoch_measures(VALUES, values, truth)["mae"] == pytest.approx(mae)
    rows = {one.name: one for one in measure(MANY, scores, labels, list("abcde"), 0.5)}
    assert rows["mAP"].figure.low < rows["mAP"].figure.value < rows["mAP"].figure.high


def test_r2_is_the_mean_over_the_values_that_change():
    truth = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    scores = truth + np.array([[0.1, 0.5], [0.1, 0.0], [0.1, 0.0]])
    assert epoch_measures(make_task("regression"), scores, truth)["r2"] == pytest.approx(1 - 0.25 / 2)
    assert np.isnan(epoch_measures(make_task("regression"), scores[:, :1], truth[:, :1])["r2"])


def test_heads_are_counted_apart_and_together():
    labels = np.array([[0, 2], [1, 0], [1, 1]])
    scores = np.array([[0.9, 0.1, 0.1, 0.2, 0.7], [0.6, 0.4, 0.8, 0.1, 0.1], [0.2, 0.8, 0.5, 0.5, 0.0]])
    found = epoch_measures(TWO, scores, labels)
    assert found == pytest.approx({"verb_top1": 200 / 3, "noun_top1": 200 / 3, "all_top1": 100 / 3})
    table = {row.name: (row.support, row.figures["top1"]) for row in per_class(TWO, scores, labels, "abxyz", 0.5)}
    assert table["verb: b"] == (2, 0.5)
    expected = -np.log([0.9 * 0.7, 0.4 * 0.8, 0.8 * 0.5])
    assert losses_of(TWO, scores, labels) == pytest.approx(expected)


def test_tables_begin_with_the_rarest_and_name_classes_without_videos():
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0]], np.float32)
    rows = per_class(MANY, np.full((3, 3), 0.6), labels, ["often", "rare", "never"], 0.5)
    assert [(row.name, row.support) for row in rows] == [("never", 0), ("rare", 1), ("often", 3)]
    assert np.isnan(rows[0].figures["average_precision"])
    assert rows[1].figures["precision"] == pytest.approx(1 / 3)
    shown = [Row(i, "", label, said, int(label != said)) for i, (label, said) in enumerate([(0, 0), (0, 2), (2, 2)])]
    table = class_table(confusion(shown, 3), np.array([2, 0, 1]), ["a", "b", "c"])
    assert table[1:] == [["b", 0, 0, "", "", ""], ["c", 1, 1, "100.00", "", ""], ["a", 2, 1, "50.00", "c", 1]]
    assert rarest(table)[-1] == "  without videos: b"


# --- losses and draws ------------------------------------------------------------------------------------------------


def made_loss(task, labels, classes, smoothing=0.0, **keys):
    return build_loss(task, SimpleNamespace(**LOSS | keys), smoothing, labels, classes, CPU)


def test_the_loss_of_one_label_is_the_cross_entropy_to_the_bit():
    labels = np.array([0, 0, 0, 1, 2])
    logits, targets = torch.randn(5, 3), torch.from_numpy(labels)
    expected = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=0.1)
    assert torch.equal(made_loss(SINGLE, labels, tuple("abc"), 0.1)(logits, targets), expected)


@pytest.mark.parametrize("task", [SINGLE, TWO, MANY])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_focal_loss_of_gamma_0_and_an_adjusted_one_of_tau_0_are_the_plain_ones(task, smoothing):
    rng = np.random.default_rng(0)
    labels = {
        "single": rng.integers(0, 5, 8),
        "multihead": np.stack([rng.integers(0, 2, 8), rng.integers(0, 3, 8)], 1),
        "multilabel": (rng.random((8, 5)) < 0.4).astype(np.float32),
    }[task.name]
    classes = NESTED if task.heads else tuple("abcde")
    logits, targets = torch.randn(8, 5, dtype=torch.float64).float(), torch.from_numpy(labels)
    for keys in ({}, {"class_weights": "inverse"}):
        plain = made_loss(task, labels, classes, smoothing, **keys)(logits, targets)
        focal = made_loss(task, labels, classes, smoothing, name="focal", gamma=0.0, **keys)(logits, targets)
        if not (keys and smoothing):  # where torch weighs a smoothed label otherwise
            torch.testing.assert_close(focal, plain)
        shares = one_hot(task, targets, 5).float()
        torch.testing.assert_close(made_loss(task, labels, classes, smoothing, **keys)(logits, shares), plain)
    if task is not MANY:
        adjusted = made_loss(task, labels, classes, smoothing, name="logit_adjusted", tau=0.0)(logits, targets)
        torch.testing.assert_close(adjusted, made_loss(task, labels, classes, smoothing)(logits, targets))


def test_rare_classes_weigh_more_and_the_mean_weight_is_1():
    labels = np.array([0] * 90 + [1] * 10)
    targets = torch.from_numpy(labels)
    loss = made_loss(SINGLE, labels, ("often", "rare", "never"), class_weights="inverse")
    zero = torch.zeros(1, 3)
    often, rare = (loss(zero, torch.tensor([label])) for label in (0, 1))
    assert rare / often == pytest.approx(9)
    plain = made_loss(SINGLE, labels, ("often", "rare", "never"))
    assert loss(zero.expand(100, 3), targets) == pytest.approx(plain(zero.expand(100, 3), targets).item(), rel=1e-5)
    many = (np.arange(100)[:, None] < [50, 10]).astype(np.float32)
    weighted = made_loss(MANY, many, ("a", "b"), class_weights="inverse")
    there = [float(weighted(torch.zeros(1, 2), F.one_hot(torch.tensor([i]), 2).float())) for i in (0, 1)]
    assert (there[1] - there[0]) / np.log(2) == pytest.approx((9 - 1) / 2)


def test_the_adjusted_loss_asks_for_a_margin_by_frequency():
    """At logits of log(prior) * -tau the classes are even."""
    labels = np.array([0] * 90 + [1] * 10)
    loss = made_loss(SINGLE, labels, ("often", "rare"), name="logit_adjusted")
    logits = -torch.tensor([[0.9, 0.1]]).log()
    assert loss(logits, torch.tensor([1])) == pytest.approx(np.log(2), rel=1e-5)
    assert loss(torch.zeros(1, 2), torch.tensor([1])) == pytest.approx(-np.log(0.1), rel=1e-5)


@pytest.mark.parametrize(
    ("task", "loss", "mix", "smoothing", "message"),
    [
        (MANY, {"name": "logit_adjusted"}, {}, 0, "not for task 'multilabel'"),
        (VALUES, {"name": "focal"}, {}, 0, "not for task 'regression'"),
        (SINGLE, {"name": "l1"}, {}, 0, "not for task 'single'"),
        (VALUES, {"class_weights": "inverse"}, {}, 0, "no effect on a regression"),
        (SINGLE, {"name": "logit_adjusted", "class_weights": "sqrt"}, {}, 0, "no effect on loss.name"),
        (VALUES, {}, {"cutmix": 1.0}, 0, "mix.cutmix is for classes"),
        (VALUES, {}, {}, 0.1, "label_smoothing is for classes"),
    ],
)
def test_losses_without_meaning_are_refused(task, loss, mix, smoothing, message):
    with pytest.raises(ValueError, match=message):
        check_loss(
            task,
            SimpleNamespace(**LOSS | loss),
            SimpleNamespace(mixup=0, cutmix=0) if not mix else SimpleNamespace(mixup=0, **mix),
            smoothing,
        )


def test_classes_are_drawn_alike():
    labels = np.array([0] * 900 + [1] * 100)
    for balance, share in ((1.0, 0.5), (0.5, 0.25)):
        weights = draw_weights(SINGLE, labels, ("a", "b"), balance)
        order = np.concatenate([part for update in plan_epoch(1000, 10, 1, 0, 0, weights) for part in update])
        assert len(order) == 1000
        assert labels[order].mean() == pytest.approx(share, abs=0.06)
    assert draw_weights(SINGLE, labels, ("a", "b"), 0.0) is None
    many = (np.arange(100)[:, None] < [50, 10]).astype(np.float32)
    weights = draw_weights(MANY, many, ("a", "b"), 1.0)
    assert [weights[i] * 100 for i in (0, 20, 80)] == pytest.approx(
        [weights[0] * 100, weights[0] * 20, weights[0] * 20]
    )
    pairs = np.array([[0, 0]] * 3 + [[0, 1]])
    assert class_counts(TWO, pairs, NESTED)[1].tolist() == [3, 1, 0]
    weights = draw_weights(TWO, pairs, NESTED, 1.0)
    assert weights[3] == pytest.approx(3 * weights[0])
    with pytest.raises(ValueError, match="no effect on a regression"):
        draw_weights(VALUES, REAL, ("a", "b"), 1.0)


def test_a_scale_goes_into_a_layer_and_out_again():
    scale = scale_of(np.array([[1.0, 5.0], [3.0, 5.0]], np.float32))
    assert (scale.mean.tolist(), scale.deviation.tolist()) == ([2, 5], [1, 1])
    scale = scale_of(np.random.default_rng(0).normal(7, 30, (20, 2)).astype(np.float32))
    layer, x = torch.nn.Linear(3, 2), torch.randn(4, 3)
    scaled = layer(x)
    scale.put_into(layer)
    torch.testing.assert_close(layer(x), scale.real(scaled))
    scale.put_into(layer, back=True)
    torch.testing.assert_close(layer(x), scaled)


# --- runs ------------------------------------------------------------------------------------------------------------


def task_clips(folder: Path, task: str, number: int, seed: int = 0) -> Path:
    """An `.npz` of clips that grow lighter in red or green or both, or at two speeds."""
    rng = np.random.default_rng(seed)
    ramp, extra = np.linspace(-1, 1, 4)[None, :, None], {"classes": np.array(["red", "green"])}
    if task == "regression":
        labels = rng.uniform(-1, 1, (number, 2)).astype(np.float32)
        rise, labels = 50 * labels, labels * [10, 1] + [100, 0]
    else:
        labels = rng.integers(0, 2, (number, 2))
        rise = 50 * (2 * labels - 1)
    if task == "multihead":
        extra = {"heads": np.array(["verb", "noun"])}
        extra |= {"classes_verb": np.array(["dim", "lift"]), "classes_noun": np.array(["dark", "light"])}
    colours = np.concatenate([ramp * rise[:, None], np.zeros((number, 4, 1))], 2)
    clips = 128 + colours[:, :, None, None] + rng.normal(0, 4, (number, 4, 18, 18, 3))
    path = folder / f"{task}-{number}-{seed}.npz"
    kind = np.int64 if task == "multihead" else np.float32
    np.savez(path, clips=clips.clip(0, 255).astype(np.uint8), labels=labels.astype(kind), **extra)
    return path


@pytest.mark.parametrize(
    ("task", "name", "least"),
    [
        ("multilabel", "map", 90),
        pytest.param("multihead", "all_top1", 60, marks=pytest.mark.slow),
        pytest.param("regression", "r2", 0.5, marks=pytest.mark.slow),
    ],
)
def test_a_run_learns_is_measured_saved_and_predicts(task, name, least, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, val, out = task_clips(tmp_path, task, 64), task_clips(tmp_path, task, 24, 1), tmp_path / "run"
    keys = dict(data_val=val, schedule_epochs=10, optimizer_lr=0.03, train_keep="best", task_name=task)
    assert train.main(command(data, out, **keys)) == 0
    best = max(map(float, column(out, name, "epochs.csv")))
    assert best >= least
    assert (out / "curves.png").stat().st_size > 5_000
    model = vov3d.from_pretrained(out / "model").eval()
    assert task_of(model).name == task
    assert vov3d.class_names(model) == (["dim", "lift", "dark", "light"] if task == "multihead" else ["red", "green"])
    capsys.readouterr()
    assert evaluate.main(["--data", str(val), "--model", str(out / "model"), "--views", "10x3", "--all"]) == 0
    text = capsys.readouterr().out
    summary = json.loads(next(Path("evaluation").rglob("summary.json")).read_text())
    figures = {key: value for key, (value, *_) in summary["figures"].items()}
    shown = {"multilabel": 100 * figures.get("mAP", 0), "multihead": 100 * figures.get("verb + noun top-1", 0)}
    shown["regression"] = np.mean([value for key, value in figures.items() if key.startswith("R2")] or 0)
    assert shown[task] == pytest.approx(best, abs=0.5 if task != "regression" else 0.01)
    assert summary["task"] == task
    with next(Path("evaluation").rglob("classes.csv")).open(newline="") as file:
        supports = [int(row["videos"]) for row in csv.DictReader(file)]
    assert supports == sorted(supports)
    assert {"multilabel": "mAP", "regression": "MAE red", "multihead": "verb top-1"}[task] in text


def test_predict_prints_what_fits_the_task(tmp_path, capsys):
    from helpers.task_models import task_model

    moving_tasks.write_task_videos("regression", tmp_path / "data", 1, 0)
    video = str(tmp_path / "data" / "videos" / "train_00000.mp4")
    for task, shown in (("multilabel", "%  "), ("regression", "speed (m/s)"), ("multihead", "(verb ")):
        folder = vov3d.save_pretrained(task_model(task), tmp_path / task)
        assert vov3d_main(["predict", video, "--model", str(folder)]) == 0
        assert shown in capsys.readouterr().out
        assert vov3d_main(["predict", video, "--model", str(folder), "--json"]) == 0
        (entry,) = json.loads(capsys.readouterr().out)
        keys = {"label", "index", "value" if task == "regression" else "score"}
        assert set(entry["predictions"][0]) == keys | ({"heads"} if task == "multihead" else set())
        assert vov3d_main(["predict", video, "--model", str(folder), "--csv"]) == 0
        heading, row, *_ = csv.reader(capsys.readouterr().out.splitlines())
        assert len(heading) == len(row) == (12 if task == "multihead" else 6)
        assert heading[4] == ("value" if task == "regression" else "score")
    folder = str(tmp_path / "multilabel")
    assert vov3d_main(["predict", video, "--model", folder, "--threshold", "1"]) == 0
    assert "no label reaches its threshold; the best is" in capsys.readouterr().out
    assert vov3d_main(["predict", video, "--model", str(tmp_path / "regression"), "--threshold", "0.5"]) == 1
    assert "no effect on task 'regression'" in capsys.readouterr().err


def test_mixed_smoothed_balanced_and_weighted_runs_go_on(tmp_path):
    for task in ("multilabel", "multihead"):
        keys = dict(task_name=task, mix_mixup=0.4, mix_cutmix=1.0, train_label_smoothing=0.1, data_balance=1.0)
        keys |= dict(loss_name="focal", loss_class_weights="sqrt", schedule_epochs=1)
        run = trainer(task_clips(tmp_path, task, 16), tmp_path / task, **keys)
        assert np.isfinite(run.train_epoch()["train_loss"])


def test_a_run_of_one_label_refuses_other_data_and_the_other_way_round(tmp_path, capsys):
    for name in "abc":
        (tmp_path / f"{name}.mp4").write_bytes(name.encode())
    (tmp_path / "list.csv").write_text("a.mp4,left;up\nb.mp4,left\nc.mp4,up\n")
    for data, keys, message in (
        (tmp_path / "list.csv", {}, "give task.name='multilabel'"),
        (task_clips(tmp_path, "multilabel", 8), {}, "give task.name='multilabel'"),
        (clips_file(tmp_path, 8), {"task_name": "multilabel"}, "give task.name='single'"),
        (clips_file(tmp_path, 8), {"task_name": "many"}, "'multilabel'"),
        (task_clips(tmp_path, "regression", 8), {"task_name": "multilabel"}, "give task.name='regression'"),
        ("shapes", {"task_name": "multilabel"}, "moving_tasks writes clips"),
    ):
        assert train.main(command(data, tmp_path / "run", **keys)) == 1
        assert message in capsys.readouterr().err


def test_going_on_from_a_regression_begins_where_it_ended(tmp_path):
    data = task_clips(tmp_path, "regression", 16)
    keys = dict(task_name="regression", schedule_epochs=1)
    first = trainer(data, tmp_path / "first", **keys)
    folder = first.run()
    clip = torch.randn(2, 3, 4, 16, 16)
    saved = vov3d.from_pretrained(folder).eval()
    again = trainer(data, tmp_path / "second", model_name=str(folder), model_pretrained="true", **keys)
    torch.testing.assert_close(again.scale.real(again.network.eval()(clip)), saved(clip), rtol=1e-4, atol=1e-3)


def test_checkpoints_of_a_regression_give_real_values_and_are_resumed_to_the_bit(tmp_path):
    data = task_clips(tmp_path, "regression", 8)
    keys = dict(task_name="regression", data_val=data, train_ema=0.5, train_keep="best", train_val_views="1x1")
    run = trainer(data, tmp_path / "run", **keys)
    run.train_epoch()
    run.validate()
    run.save()
    again = trainer(data, tmp_path / "run", True, **keys)
    for one, other in ((run.network, again.network), (run.ema, again.ema)):
        assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
    folder = run.finish()
    wanted = vov3d.from_pretrained(folder).get_classifier().bias
    assert wanted[0] > 80  # values lie about 100
    for name in ("best.pt", "checkpoint.pt"):  # both give the averaged weights
        loaded = vov3d.create_model(f"local-dir:{folder}", checkpoint_path=tmp_path / "run" / name)
        assert torch.equal(loaded.get_classifier().bias, wanted)


def test_an_earlier_checkpoint_goes_on():
    recipe = with_defaults({"optimizer.lr": 1.0})
    assert (recipe["optimizer.lr"], recipe["task.name"], recipe["data.balance"]) == (1.0, "single", 0.0)


def test_evaluation_refuses_what_has_no_meaning(tmp_path, capsys):
    from helpers.task_models import task_model

    folder = str(vov3d.save_pretrained(task_model("multilabel"), tmp_path / "many"))
    for words, message in (
        (["--confusion"], "--confusion, of"),
        (["--tempo", "1,2"], "is for task 'single', and this one is 'multilabel'"),
        (["--threshold", "2"], "scores are from 0 to 1"),
    ):
        assert evaluate.main(["--data", str(tmp_path), "--model", folder, *words]) == 1
        assert message in capsys.readouterr().err
    one = str(vov3d.save_pretrained(task_model("single"), tmp_path / "one"))
    assert evaluate.main(["--data", str(tmp_path), "--model", one, "--threshold", "0.5"]) == 1
    assert "this one is 'single'" in capsys.readouterr().err


def test_check_data_reads_lists_of_every_task(tmp_path, capsys):
    for task, shown in (("multilabel", "labels"), ("regression", "2 values"), ("multihead", "verb and")):
        moving_tasks.write_task_videos(task, tmp_path / task, 3, 1)
        words = [str(tmp_path / task), "--split", "train", "--task", task, "--workers", "1"]
        assert check_data.main([*words, "--csv", str(tmp_path / "checked.csv")]) == 0
        assert shown in capsys.readouterr().out
        with (tmp_path / "checked.csv").open(newline="", encoding="utf-8") as file:
            assert all(row["label"] and row["frames"] == "16" for row in csv.DictReader(file))
    assert check_data.main([*words[:-3], "single"]) == 1  # three columns are no list of one label
    assert check_data.main([str(tmp_path / "multilabel" / "videos"), "--task", "multilabel"]) == 1
