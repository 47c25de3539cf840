"""A classifier that was exchanged by hand: its classes are counted, and the names of the former ones are not shown."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vov3d
from vov3d.deploy.graphs import graph_of
from vov3d.surgery.folding import fold

VIDEO = np.random.default_rng(0).integers(0, 256, (16, 64, 64, 3), dtype=np.uint8)


def packaged() -> nn.Module:
    return vov3d.create_model("vov3d_n", pretrained=True).eval()


class Wrapped(nn.Module):
    """Stands for LoRA's linear layer, which holds the former one."""

    def __init__(self, base_layer: nn.Linear, width: int | None) -> None:
        super().__init__()
        self.base_layer = base_layer
        if width is not None:
            self.out_features = width

    def forward(self, x):
        return self.base_layer(x)


EXCHANGED = {
    "linear of 9": (lambda fc: nn.Linear(256, 9), 9),
    "linear of as many": (lambda fc: nn.Linear(256, 20), 20),
    "without bias": (lambda fc: nn.Linear(256, 9, bias=False), 9),
    "dropout and linear": (lambda fc: nn.Sequential(nn.Dropout(), nn.Linear(256, 9)), 9),
    "two layers": (lambda fc: nn.Sequential(nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 9)), 9),
    "softmax behind": (lambda fc: nn.Sequential(nn.Linear(256, 9), nn.Softmax(-1)), 9),
    "nested": (lambda fc: nn.Sequential(nn.Sequential(nn.Linear(256, 9)), nn.Sequential(nn.Dropout())), 9),
    "wrapped": (lambda fc: Wrapped(nn.Linear(256, 9), 9), 9),
}


def exchanged(kind: str) -> tuple[nn.Module, int]:
    """Returns the packaged model with another classifier, and its number of classes."""
    make, classes = EXCHANGED[kind]
    model = packaged()
    model.head.fc = make(model.head.fc)
    return model, classes


def check_unnamed(model: nn.Module, classes: int) -> None:
    classifier = vov3d.VideoClassifier(model)
    assert classifier.class_names == [f"class {i}" for i in range(classes)]
    assert classifier(VIDEO, topk=1)[0].label.startswith("class ")


@pytest.mark.parametrize("kind", EXCHANGED)
def test_classes_follow_the_head_and_names_do_not(kind):
    model, classes = exchanged(kind)
    for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert same.num_classes == classes
        assert vov3d.class_names(same) is None
    check_unnamed(model, classes)
    model.pretrained_cfg["label_names"] = [f"mine {i}" for i in range(classes)]
    assert vov3d.class_names(model)[1] == "mine 1"


@pytest.mark.parametrize(
    "kind",
    ["softmax behind", *(pytest.param(k, marks=pytest.mark.slow) for k in EXCHANGED if k != "softmax behind")],
)
def test_the_optimized_form_has_the_classes_of_the_head(kind):
    model, classes = exchanged(kind)
    check_unnamed(vov3d.optimize_for_inference(model.eval()), classes)


@pytest.mark.parametrize("classes", [9, 20])
def test_a_reset_classifier_has_no_names_either(classes):
    model = packaged()
    model.reset_classifier(classes)
    assert (model.num_classes, vov3d.class_names(model)) == (classes, None)


def test_the_former_classifier_in_another_place_keeps_its_names():
    model = packaged()
    names = vov3d.class_names(model)
    model.head.fc = nn.Sequential(nn.Dropout(), model.head.fc)
    assert vov3d.class_names(model) == names
    model.head.fc = Wrapped(model.head.fc[1], 20)
    assert vov3d.class_names(vov3d.optimize_for_inference(model.eval())) == names


def test_a_classifier_of_unknown_size_needs_the_number_of_classes():
    model = packaged()
    model.head.fc = Wrapped(nn.Linear(256, 9), None)
    assert vov3d.class_names(model) is None
    for ask in (vov3d.VideoClassifier, lambda m: m.num_classes):
        with pytest.raises(ValueError, match=r"classes of the classifier, a Wrapped, .*set model\.num_classes"):
            ask(model)
    model.num_classes = 9
    assert vov3d.VideoClassifier(model).class_names[8] == "class 8"
    assert vov3d.VideoClassifier(vov3d.optimize_for_inference(model.eval())).class_names[8] == "class 8"


class Angles(nn.Linear):
    """A classifier by the angles between features and classes, of rows."""

    def forward(self, x):
        return 10 * F.linear(F.normalize(x, dim=1), F.normalize(self.weight, dim=1))


ON_ROWS = {
    "angles": lambda: Angles(256, 9, bias=False),
    "norm": lambda: nn.Sequential(nn.BatchNorm1d(256), nn.Linear(256, 9)),
    "softmax of rows": lambda: nn.Sequential(nn.Linear(256, 9), nn.LogSoftmax(1)),
}


@pytest.mark.parametrize("kind", ON_ROWS)
@pytest.mark.filterwarnings("ignore:1 batch norms are not folded")
def test_every_call_gives_the_classifier_rows(kind):
    model = vov3d.create_model("vov3d_n", causal=True, num_blocks=1).eval()
    model.head.fc = ON_ROWS[kind]().eval()
    x = torch.randn(2, model.num_features, 3, 2, 2)  # of the last map
    logits = model.forward_head(x)
    torch.testing.assert_close(model.head.forward_frames(x)[:, -1], logits)
    torch.testing.assert_close(model.head.forward_dense(x, (2, 2)), logits.softmax(1))
    parts = [model.forward_head(x[..., h : h + 1, w : w + 1]).softmax(1) for h in range(2) for w in range(2)]
    torch.testing.assert_close(model.head.forward_dense(x, (1, 1)), sum(parts) / 4)
    clip = torch.randn(2, 3, 3, 64, 64)
    found, expected = graph_of(fold(model)).eval()(clip), [model(clip), model.forward_dense(clip)]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_number_of_classes_without_effect_is_refused():
    model = packaged()
    model.num_classes = 20
    with pytest.raises(ValueError, match=r"num_classes=9 has no effect: the head has 20 classes; call reset_class"):
        model.num_classes = 9


def test_a_whole_head_of_another_class():
    model, x = packaged(), torch.randn(2, 3, 8, 64, 64)
    for head, classes in (
        (nn.Sequential(nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(64, 9)), 9),
        (nn.Identity(), 0),
    ):
        model.head = head
        assert (model.num_classes, vov3d.class_names(model)) == (classes, None)
        torch.testing.assert_close(model(x), head(model.forward_features(x)))
        assert model.get_classifier() is head
        for call in (
            lambda: model.forward_dense(x),
            lambda: model.reset_classifier(3),
            lambda: model.forward_head(model.forward_features(x), pre_logits=True),
        ):
            with pytest.raises(ValueError, match=r"needs the original head.* replace only head\.fc"):
                call()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear of 9", "linear of as many", "without bias", "dropout and linear"])
def test_exported_files_hold_no_names_of_other_classes(kind, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    make, classes = EXCHANGED[kind]
    model = vov3d.create_model("vov3d_n", num_blocks=1).eval()
    assert vov3d.class_names(model) is not None
    model.head.fc = make(model.head.fc)
    exported = vov3d.load_exported(vov3d.export(model, tmp_path / "m.onnx", frames=2, size=32))
    assert (exported.num_classes, exported.class_names) == (classes, None)
