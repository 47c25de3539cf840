"""Backbones for other frameworks: torchvision itself, stand-ins for the others' contracts.

MMAction2 and Detectron2 do not install beside the other requirements; docs/guides/adapters.md says what they were
tried with.
"""

import sys
from dataclasses import dataclass
from types import ModuleType

import pytest
import torch
from helpers.reference_files import published_file
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

import vov3d
from vov3d.adapters import MMActionBackbone, PooledBackbone, detectron2_backbone, register_mmaction

CLIP = torch.randn(2, 3, 4, 64, 48)


def maps_of(**kwargs):
    torch.manual_seed(0)
    return vov3d.create_model("vov3d_n", features_only=True, **kwargs).eval()


def hide(monkeypatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


# --- torchvision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pool", "pooled"), [("avg", lambda x: x.mean(2)), ("max", lambda x: x.amax(2)), ("middle", lambda x: x[:, :, 2])]
)
@torch.no_grad()
def test_maps_are_pooled_over_time(pool, pooled):
    model = maps_of(out_indices=(1, 3))
    backbone = PooledBackbone(model, pool)
    assert (backbone.out_channels, backbone.strides) == ((16, 64), (4, 16))
    found = backbone(CLIP)
    assert list(found) == ["0", "1"]
    for x, expected in zip(found.values(), model(CLIP), strict=True):
        torch.testing.assert_close(x, pooled(expected))
    folded = backbone(CLIP.flatten(1, 2))
    assert all(torch.equal(folded[key], found[key]) for key in found)


@pytest.mark.parametrize("feature_cls", ["dict", "hook", "getter"])
def test_maps_may_come_by_their_names(feature_cls):
    model = maps_of(feature_cls=feature_cls).eval()
    found = PooledBackbone(model)(torch.zeros(1, 3, 2, 32, 32))
    assert [x.shape[1] for x in found.values()] == list(model.feature_info.channels())


def test_one_map_has_one_width():
    assert PooledBackbone(maps_of(out_indices=(3,))).out_channels == 64


def test_a_detector_of_torchvision_learns_from_clips():
    torch.manual_seed(0)
    backbone = PooledBackbone(maps_of(out_indices=(1, 2, 3)).train(), fpn_chs=16)
    assert backbone.out_channels == 16
    detector = FasterRCNN(
        backbone,
        num_classes=3,
        min_size=64,
        max_size=64,
        image_mean=[0.45] * 12,
        image_std=[0.225] * 12,
        rpn_anchor_generator=AnchorGenerator(((16,), (32,), (64,)), ((1.0,),) * 3),
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2"], 5, 2),
    )
    clips = [torch.rand(3, 4, 64, 48).flatten(0, 1), torch.rand(3, 4, 40, 64).flatten(0, 1)]
    truth = [{"boxes": torch.tensor([[4.0, 4.0, 30.0, 30.0]]), "labels": torch.tensor([1])}] * 2
    loss = sum(detector(clips, truth).values())
    loss.backward()
    assert backbone.model.stem.conv_s.weight.grad.abs().sum() > 0
    assert set(detector.eval()(clips)[1]) == {"boxes", "labels", "scores"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PooledBackbone(maps_of(), "last"), "pool='last' is not known; use one of 'avg', 'max', 'middle'"),
        (lambda: PooledBackbone(vov3d.create_model("vov3d_n")), "VoV3D does not return a list of feature maps"),
        (lambda: PooledBackbone(nn.Conv3d(3, 3, 1)), "Conv3d does not return a list of feature maps"),
        (lambda: PooledBackbone(maps_of())(torch.zeros(1, 4, 64, 64)), r"got \(1, 4, 64, 64\)"),
        (lambda: PooledBackbone(maps_of())(torch.zeros(3, 64, 64)), r"or \(B, 3 \* T, H, W\)"),
    ],
)
def test_what_cannot_be_pooled(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_pyramid_needs_torchvision(monkeypatch):
    hide(monkeypatch, "torchvision.ops")
    PooledBackbone(maps_of())
    with pytest.raises(ImportError, match="fpn_chs needs torchvision"):
        PooledBackbone(maps_of(), fpn_chs=8)


# --- Detectron2 ------------------------------------------------------------------------------------------------------


@dataclass
class ShapeSpec:
    """As in `detectron2.layers`."""

    channels: int | None = None
    height: int | None = None
    width: int | None = None
    stride: int | None = None


class Backbone(nn.Module):
    """The parts of `detectron2.modeling.Backbone` that an adapter inherits or must override."""

    size_divisibility = property(lambda self: 0)
    padding_constraints = property(lambda self: {})

    def output_shape(self):
        raise AssertionError("the adapter did not override output_shape, which is abstract in detectron2")


@pytest.fixture
def detectron2(monkeypatch):
    from vov3d.adapters import detectron

    detectron._backbone_class.cache_clear()
    for name, members in (("", {}), (".layers", {"ShapeSpec": ShapeSpec}), (".modeling", {"Backbone": Backbone})):
        module = ModuleType(f"detectron2{name}")
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield
    detectron._backbone_class.cache_clear()


@torch.no_grad()
def test_detectron2s_contract(detectron2):
    backbone = detectron2_backbone(maps_of(out_indices=(1, 3)), pool="max").eval()
    assert isinstance(backbone, Backbone)
    assert backbone.output_shape() == {"0": ShapeSpec(16, stride=4), "1": ShapeSpec(64, stride=16)}
    assert (backbone.size_divisibility, backbone.padding_constraints) == (16, {})
    found = backbone(CLIP.flatten(1, 2))
    for key, spec in backbone.output_shape().items():
        assert found[key].shape == (2, spec.channels, 64 // spec.stride, 48 // spec.stride)
    again = detectron2_backbone(maps_of())
    assert type(again) is type(backbone)


def test_detectron2_is_named_where_it_is_missing(monkeypatch):
    hide(monkeypatch, "detectron2", "detectron2.layers")
    with pytest.raises(ImportError, match="needs Detectron2, which is not on PyPI: pip install"):
        detectron2_backbone(maps_of())


# --- MMAction2 -------------------------------------------------------------------------------------------------------


class Registry:
    """As MMEngine's, in what the adapter uses."""

    def __init__(self) -> None:
        self.modules: dict[str, type] = {}

    def get(self, name):
        return self.modules.get(name)

    def register_module(self, module):
        if module.__name__ in self.modules:
            raise KeyError(f"{module.__name__} is already registered")
        self.modules[module.__name__] = module

    def build(self, cfg):
        return self.modules[cfg["type"]](**{key: value for key, value in cfg.items() if key != "type"})


@pytest.fixture
def registry(monkeypatch):
    package, module = ModuleType("mmengine"), ModuleType("mmengine.registry")
    module.MODELS = Registry()
    monkeypatch.setitem(sys.modules, "mmengine", package)
    monkeypatch.setitem(sys.modules, "mmengine.registry", module)
    return module.MODELS


def test_mmengine_builds_it(registry):
    register_mmaction()
    register_mmaction()
    backbone = registry.build({"type": "MMActionBackbone", "name": "vov3d_n", "pretrained": True})
    trained = vov3d.create_model("vov3d_n", pretrained=True)
    assert not torch.equal(backbone.model.stem.conv_s.weight, trained.stem.conv_s.weight)
    backbone.init_weights()
    backbone.eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone(CLIP), trained.eval().forward_features(CLIP))
    assert backbone.out_channels == (64,)


def test_mmengine_is_named_where_it_is_missing(monkeypatch):
    hide(monkeypatch, "mmengine", "mmengine.registry")
    with pytest.raises(ImportError, match="register_mmaction needs MMEngine: pip install mmengine"):
        register_mmaction()


@pytest.mark.parametrize(
    "named",
    [
        lambda file: dict(pretrained=file),
        lambda file: dict(checkpoint_path=file),
        lambda file: dict(init_cfg={"type": "Pretrained", "checkpoint": file}),
    ],
)
def test_a_file_that_is_not_there(named, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.pth.*there is no such file"):
        MMActionBackbone("vov3d_n", **named(str(tmp_path / "none.pth")))


@pytest.mark.parametrize("named", ["pretrained", "checkpoint_path", "init_cfg"])
def test_weights_of_a_file(named, tmp_path):
    file = published_file("vov3d_m_k400", tmp_path)
    value = {"type": "Pretrained", "checkpoint": str(file)} if named == "init_cfg" else str(file)
    backbone = MMActionBackbone("vov3d_m", **{named: value}, out_indices=(0, 2))
    backbone.init_weights()
    source = vov3d.create_model("vov3d_m", checkpoint_path=str(file)).state_dict()
    for name, tensor in backbone.model.state_dict().items():
        assert torch.equal(tensor, source[name.replace("stages_", "stages.")])
    assert [x.shape[1] for x in backbone(CLIP[:, :, :1])] == list(backbone.out_channels) == [20, 40]


def test_without_weights_the_first_ones_stay():
    backbone = MMActionBackbone("vov3d_n", in_chans=1)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone.init_weights()
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


@pytest.mark.parametrize("norm_eval", [False, True])
@pytest.mark.parametrize("stages", [-1, 0, 2])
def test_frozen_stages_and_norms(stages, norm_eval):
    backbone = MMActionBackbone("vov3d_n", frozen_stages=stages, norm_eval=norm_eval)
    backbone.eval().train()
    frozen = ("stem.", "stages_0.", "stages_1.")[: stages + 1]
    for name, parameter in backbone.model.named_parameters():
        assert parameter.requires_grad != name.startswith(frozen)
    for name, module in backbone.model.named_modules():
        norm = isinstance(module, nn.BatchNorm3d)
        assert module.training != (f"{name}.".startswith(frozen) or (norm and norm_eval)) or not name
    backbone.eval()
    assert not any(module.training for module in backbone.modules())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            dict(pretrained=True, checkpoint_path="w.pth"),
            r"pretrained=True and checkpoint_path='w\.pth' all name weights; give one",
        ),
        (dict(pretrained="w.pth", init_cfg={"type": "Pretrained", "checkpoint": "w.pth"}), "all name weights"),
        (dict(init_cfg={"type": "Kaiming", "layer": "Conv3d"}), "is not supported; give dict"),
        (dict(init_cfg={"type": "Pretrained", "checkpoint": "w.pth", "prefix": "backbone."}), "is not supported"),
        (dict(init_cfg={"type": "Pretrained", "checkpoint": None}), "'checkpoint': None} is not supported"),
        (dict(init_cfg=[{"type": "Pretrained", "checkpoint": "w.pth"}]), r"init_cfg=\[.*\] is not supported"),
        (dict(out_indices=-1), "out_indices=-1 does not choose among 4 feature maps"),
        (dict(frozen_stages=4), "frozen_stages is 4, but vov3d_n has 3 stages up to the last map"),
        (dict(frozen_stages=2, out_indices=(1,)), "has 1 stages"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        MMActionBackbone("vov3d_n", **arguments)
