"""Statistics of norms: estimated anew, or frozen."""

import copy
import pickle

import pytest
import timm
import torch
import torch.optim.swa_utils
from torch import nn

import vov3d
from vov3d import freeze_batchnorm, recalibrate

NANO = dict(stem_chs=4, mid_chs=(6, 8, 8, 8), out_chs=(4, 4, 8, 8), depths=(1, 1, 1, 1), head_chs=8, hidden_chs=8)


def test_recalibrated_statistics_are_those_of_the_clips():
    model = nn.Sequential(nn.BatchNorm3d(2), nn.Dropout(0.5)).train()
    clips = [torch.randn(4, 2, 3, 4, 4) * 3 + 1 for _ in range(5)]
    assert recalibrate(model, iter(clips)) == 5
    seen = torch.stack([clip.mean((0, 2, 3, 4)) for clip in clips]).mean(0)
    torch.testing.assert_close(model[0].running_mean, seen)
    variance = torch.stack([clip.transpose(0, 1).flatten(1).var(1) for clip in clips]).mean(0)
    torch.testing.assert_close(model[0].running_var, variance)
    assert model[0].momentum == 0.1
    assert model.training
    assert model[1].training


def test_recalibration_after_surgery_brings_outputs_back():
    torch.manual_seed(0)
    model = vov3d.create_model("x3d_m", num_classes=5, **NANO)
    clips = [torch.randn(4, 3, 4, 32, 32) for _ in range(8)]
    recalibrate(model, clips)
    target = copy.deepcopy(model).eval()(clips[0])
    for m in model.modules():
        if isinstance(m, nn.Conv3d):
            m.weight.data *= 3  # what a norm behind it undoes, once its statistics are right
    off = (model.eval()(clips[0]) - target).norm()
    recalibrate(model, clips)
    assert (model.eval()(clips[0]) - target).norm() < 0.5 * off
    assert not model.training


def test_without_clips_or_norms_nothing_changes():
    model = nn.Sequential(nn.BatchNorm3d(2))
    model[0].running_mean.fill_(7)
    with pytest.raises(ValueError, match="no clips"):
        recalibrate(model, [])
    assert model[0].running_mean.eq(7).all()
    with pytest.raises(RuntimeError):
        recalibrate(model, [torch.randn(1, 2, 2, 2, 2), torch.randn(1, 3, 2, 2, 2)])
    assert model[0].running_mean.eq(7).all()
    with pytest.raises(ValueError, match="are not finite, and those of the model are unchanged"):
        recalibrate(model, [torch.randn(1, 2, 2, 2, 2), torch.full((1, 2, 2, 2, 2), torch.nan)])
    assert model[0].running_mean.eq(7).all()
    with pytest.raises(ValueError, match="has no batch norm"):
        recalibrate(nn.Sequential(nn.Conv3d(1, 1, 1)), [])


class Auxiliary(nn.Module):
    """Has a norm that runs in training only, and one that counts no batches."""

    def __init__(self) -> None:
        super().__init__()
        self.main, self.aux, self.own = nn.BatchNorm3d(2), nn.BatchNorm3d(2), nn.BatchNorm3d(2)

    def forward(self, x):
        x = self.main(x)
        nn.functional.batch_norm(x + 2, self.own.running_mean, self.own.running_var, training=True, momentum=1)
        return (x, self.aux(x)) if self.training else x


def test_norms_that_do_not_run_keep_their_statistics():
    model = Auxiliary().train()
    for norm in model.children():
        norm.running_mean.fill_(7)
        norm.running_var.fill_(5)
        norm.num_batches_tracked.fill_(9)
    assert recalibrate(model, [torch.randn(4, 2, 3, 4, 4)] * 2) == 2
    assert model.main.num_batches_tracked == 2
    assert model.own.running_mean == pytest.approx(2, abs=1e-5)
    assert (model.aux.running_mean.eq(7).all(), model.aux.running_var.eq(5).all()) == (True, True)
    assert model.aux.num_batches_tracked == 9


def test_frozen_norms_stay_frozen():
    model = vov3d.create_model("vov3d_m", num_classes=5, **NANO)
    before = copy.deepcopy(model)
    assert freeze_batchnorm(model) is model
    model.train()
    norms = [model.get_submodule(n) for n, m in before.named_modules() if isinstance(m, nn.BatchNorm3d)]
    assert norms
    assert not any(norm.training for norm in norms)
    model(torch.randn(2, 3, 2, 32, 32)).sum().backward()
    assert all(p.grad is None for norm in norms for p in norm.parameters())
    assert model.stem.conv_s.weight.grad is not None
    after = model.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.state_dict().items())
    with pytest.raises(ValueError, match="0 keep no running statistics"):
        freeze_batchnorm(nn.Sequential(nn.BatchNorm3d(2, track_running_stats=False)))


class MyNorm(nn.BatchNorm3d):
    """Changes nothing."""


class MyNorm2d(nn.BatchNorm2d):
    """Changes nothing."""


class OwnForward(nn.BatchNorm2d):
    """Has a forward pass of its own."""

    def forward(self, x):
        return super().forward(x) + 1


NORMS = {
    "PyTorch's": lambda: nn.BatchNorm2d(4),
    "without parameters": lambda: nn.BatchNorm2d(4, affine=False),
    "a subclass": lambda: MyNorm2d(4),
    "synchronised": lambda: nn.SyncBatchNorm(4),
    "timm's, with an activation": lambda: timm.layers.BatchNormAct2d(4),
    "timm's, synchronised": lambda: timm.layers.convert_sync_batchnorm(timm.layers.BatchNormAct2d(4)),
    "with a forward pass of its own": lambda: OwnForward(4),
    "parametrized": lambda: torch.nn.utils.parametrizations.weight_norm(nn.BatchNorm2d(4), dim=None),
}


def moved(model: nn.Module) -> nn.Module:
    for name, b in model.named_buffers():
        if "running" in name:
            nn.init.uniform_(b, 0.5, 1.5)
    return model


@pytest.mark.parametrize("kind", NORMS)
def test_every_kind_of_norm_is_frozen_with_its_numbers(kind):
    model, x = moved(nn.Sequential(nn.Conv2d(3, 4, 1), NORMS[kind]())), torch.randn(2, 3, 5, 5)
    want, names = copy.deepcopy(model).eval()(x), list(model.state_dict())
    freeze_batchnorm(freeze_batchnorm(model))
    others = [model, copy.deepcopy(model)] + ([] if kind == "parametrized" else [pickle.loads(pickle.dumps(model))])
    for other in others:
        torch.testing.assert_close(other.train()(x), want)
        assert list(other.state_dict()) == names
        assert not any(p.requires_grad for p in other[1].parameters())
        assert other[0].training
        before = {k: v.clone() for k, v in other.state_dict().items()}
        with pytest.warns(UserWarning, match="all batch norms are frozen"):
            assert recalibrate(other, [x]) == 0
        if not isinstance(other[1], nn.modules.batchnorm._BatchNorm):
            torch.optim.swa_utils.update_bn([x], other)
        assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize(
    "convert", [nn.SyncBatchNorm.convert_sync_batchnorm, timm.layers.convert_sync_batchnorm], ids=["torch", "timm"]
)
@pytest.mark.parametrize("kind", list(NORMS)[:6])
def test_a_conversion_keeps_frozen_norms_frozen(kind, convert):
    model, x = moved(nn.Sequential(nn.Conv2d(3, 4, 1), NORMS[kind]())), torch.randn(2, 3, 5, 5)
    want = freeze_batchnorm(model)(x)
    model = convert(model).train()
    torch.testing.assert_close(model(x), want)
    assert not isinstance(model[1], nn.modules.batchnorm._BatchNorm)


def test_frozen_and_other_norms_in_one_model():
    model = moved(nn.Sequential(freeze_batchnorm(nn.Sequential(MyNorm(2))), nn.BatchNorm3d(2)))
    before = model[0][0].running_mean.clone()
    assert recalibrate(model, [torch.randn(2, 2, 3, 3, 3) + 5]) == 1
    assert torch.equal(model[0][0].running_mean, before)
    assert model[1].running_mean.abs().max() > 2


def test_norms_without_statistics_yet():
    model = nn.Sequential(nn.BatchNorm3d(2), nn.LazyBatchNorm3d())
    with pytest.raises(ValueError, match="1 have no statistics yet; run the model once"):
        freeze_batchnorm(model)
    assert type(model[0]) is nn.BatchNorm3d
    with pytest.raises(ValueError, match="have no statistics yet; run the model once"):
        recalibrate(model, [torch.randn(2, 2, 3, 3, 3)])


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            [torch.randn(2, 2, 3, 3, 3), torch.tensor([0, 1])],
            r"got a list of \(2, 2, 3, 3, 3\), \(2,\); if a loader",
        ),
        ((torch.randn(2, 2, 3, 3, 3), ["a", "b"]), r"got a tuple of \(2, 2, 3, 3, 3\), list"),
        ({"video": torch.randn(2, 2, 3, 3, 3), "label": 1}, "got a dictionary of video, label"),
    ],
)
def test_a_loader_that_gives_labels(batch, message):
    model = nn.Sequential(nn.BatchNorm3d(2))
    with pytest.raises(ValueError, match=message):
        recalibrate(model, [batch])
    assert model[0].running_mean.eq(0).all()


def test_several_clips_are_no_labels():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm3d(2)

        def forward(self, clips):
            return [self.norm(clip) for clip in clips]

    assert recalibrate(Two(), [[torch.randn(1, 2, 1, 3, 3), torch.randn(1, 2, 4, 3, 3)]]) == 1
