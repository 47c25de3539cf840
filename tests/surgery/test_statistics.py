"""Statistics of norms: estimated anew, or frozen."""

import copy

import pytest
import torch
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
    with pytest.raises(ValueError, match="has no batch norm"):
        recalibrate(nn.Sequential(nn.Conv3d(1, 1, 1)), [])


def test_frozen_norms_stay_frozen():
    model = vov3d.create_model("vov3d_m", num_classes=5, **NANO)
    before = copy.deepcopy(model)
    assert freeze_batchnorm(model) is model
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
    assert not any(norm.training for norm in norms)
    model(torch.randn(2, 3, 2, 32, 32)).sum().backward()
    assert all(p.grad is None for norm in norms for p in norm.parameters())
    assert model.stem.conv_s.weight.grad is not None
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.state_dict().items())
    with pytest.raises(ValueError, match="0 keep no running statistics"):
        freeze_batchnorm(nn.Sequential(nn.BatchNorm3d(2, track_running_stats=False)))
