"""Tables by stage and block: their sums are the known counts, receptive fields are those of the gradients."""

from typing import Any

import pytest
import torch
from helpers.task_models import task_model
from torch import nn
from torch.nn.utils import prune

import vov3d
from vov3d.cli import main
from vov3d.models.budget import budget_of


@pytest.mark.parametrize(
    ("name", "conv"),
    [
        *(("vov3d_n", None), ("x3d_s", "d2plus1d"), ("vov3d_n", "3d")),
        *(pytest.param(n, None, marks=pytest.mark.slow) for n in vov3d.list_models() if n != "vov3d_n"),
    ],
)
def test_parts_add_up_to_the_known_counts(name, conv):
    model: Any = vov3d.create_model(name, device="meta", conv=conv, num_classes=7)
    budget = vov3d.measure_budget(name, 8, 96, conv=conv, num_classes=7)
    summary = model.summary(8, 96)
    assert (summary.params, summary.macs) == (budget.params, budget.macs)
    outer = [row for row in summary.rows if not row.inner]
    assert sum(row.params for row in outer) == budget.params
    assert sum(row.macs for row in outer) == budget.macs
    assert [(row.name, row.shape) for row in outer[:-1]] == list(budget.stages)
    assert outer[-1].shape == (7,)
    for stage in outer[1:-1]:
        blocks = [row for row in summary.rows if row.name.startswith(f"{stage.name}.blocks.")]
        assert sum(row.params for row in blocks) == stage.params
        assert sum(row.macs for row in blocks) == stage.macs
        assert (blocks[-1].shape, blocks[-1].trf) == (stage.shape, stage.trf)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["vov3d_m", "x3d_m"])
def test_frames_seen_are_those_that_change_an_output(name, causal):
    small = dict(mid_chs=(4, 4), out_chs=(4, 4), stem_chs=4, output_stride=8, se_ratio=0, causal=causal)
    model: Any = vov3d.create_model(name, depths=(1, 2), num_classes=2, **small).double().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv3d):
            nn.init.constant_(module.weight, 0.1)
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)
    rows = {row.name: row for row in model.summary(91, 8).rows}
    assert rows["head"].trf is None
    clip = torch.rand(1, 3, 91, 8, 8, dtype=torch.float64, requires_grad=True)
    maps = model.forward_intermediates(clip, intermediates_only=True)
    for info, found in zip(model.feature_info, maps, strict=True):
        at = 90 if causal else 45
        (gradient,) = torch.autograd.grad(found[:, :, at].sum(), clip, retain_graph=True)
        assert int((gradient.abs().sum((0, 1, 3, 4)) > 0).sum()) == rows[info["module"]].trf


def test_a_model_that_was_loaded_changed_or_hooked_is_counted_and_left_alone(tmp_path):
    model = task_model("multihead")
    vov3d.save_pretrained(model, tmp_path / "mine")
    loaded: Any = vov3d.from_pretrained(tmp_path / "mine").train()
    calls: list[Any] = []
    loaded.stem.register_forward_hook(lambda module, args, output: calls.append(output))
    before = {key: value.clone() for key, value in loaded.state_dict().items()}
    summary = loaded.summary()
    assert summary.clip == (3, 4, 32, 32)
    assert not calls
    assert loaded.training
    clip = torch.empty(1, 3, 4, 32, 32)
    loaded.reset_classifier(9)
    assert loaded.summary().macs == budget_of(loaded.eval(), clip).macs
    timed = loaded.train().summary(time=True)
    assert loaded.training
    assert timed.seconds > 0
    assert 0.5 < sum(row.share for row in timed.rows if not row.inner) <= 1.1
    after = loaded.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items() if "head.fc" not in key)


@pytest.mark.parametrize("norm", [torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm, None])
def test_weights_that_are_computed_from_others_are_counted(norm):
    model: Any = vov3d.create_model("vov3d_n", num_classes=3).eval()
    wanted = model.summary(2, 32).macs
    for layer in (model.head.fc, model.stages[0].blocks[0].layers[0].conv_t):
        norm(layer) if norm else prune.random_unstructured(layer, "weight", 0.5)
    model(torch.randn(1, 3, 2, 32, 32))  # keeps the weights with their gradients
    assert model.summary(2, 32).macs == wanted
    assert model.head.fc.weight.device.type == "cpu"


def test_a_clip_that_does_not_fit_is_refused():
    model: Any = vov3d.create_model("vov3d_n", device="meta")
    with pytest.raises(ValueError, match="at least 16x16 pixels"):
        model.summary(8, 8)
    with pytest.raises(ValueError, match="on the meta device cannot be timed"):
        model.summary(time=True)
    model.pretrained_cfg.clear()
    with pytest.raises(ValueError, match="give num_frames and size"):
        model.summary()


def test_the_command_prints_the_table(capsys):
    assert main(["info", "vov3d_n", "--layers"]) == 0
    out = capsys.readouterr().out
    lines = out.partition("\n\n")[2].splitlines()
    assert lines[0].split() == ["part", "class", "output", "parameters", "multiply-adds", "TRF"]
    assert lines[-1].split()[-2:] == ["231,884", "46,974,336"]
    assert "multiply-adds    46,974,336" in out
    assert len({len(line.rstrip()) for line in lines[1:-1]}) == 1  # aligned at the right
    assert main(["info", "vov3d_n", "--time", "--frames", "2", "--size", "16"]) == 0
    printed = capsys.readouterr()
    assert "%" in printed.out
    assert printed.out.rstrip().endswith(" ms")
    assert printed.err == ""
