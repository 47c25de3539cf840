"""Blocks exchanged in place, all or none."""

import copy

import pytest
import torch
from torch import nn

import vov3d
from vov3d import TOSA, D2plus1D, replace_blocks

NANO = dict(stem_chs=4, mid_chs=(6, 8, 8, 8), out_chs=(4, 4, 8, 8), depths=(2, 1, 1, 1), head_chs=8, hidden_chs=8)


@pytest.fixture
def model():
    return vov3d.create_model("x3d_m", num_classes=3, **NANO).train()


def test_bottlenecks_and_chains(model):
    done = replace_blocks(
        model,
        {
            "stages.0.blocks.*": lambda old: D2plus1D(4, 6, 4, stride=2 if old.conv_st.stride[1] == 2 else 1),
            "stages.3": lambda old: TOSA(8, 8, 8, stride=2),
        },
    )
    assert done == ["stages.0.blocks.0", "stages.0.blocks.1", "stages.3"]
    assert isinstance(model.stages[3], TOSA)
    assert model.stages[3].training
    assert model(torch.randn(2, 3, 2, 32, 32)).shape == (2, 3)


def test_new_blocks_take_precision_and_mode(model):
    model.double().eval()
    replace_blocks(model, {"stages.3": lambda old: TOSA(8, 8, 8, stride=2)})
    assert model.stages[3].conv_agg.weight.dtype == torch.float64
    assert not model.stages[3].training


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"stages.3": lambda old: TOSA(8, 8, 8)}, r"stages\.3 gives \(1, 8, 8, 4, 4\), not \(1, 8, 8, 2, 2\)"),
        ({"stages.2": lambda old: TOSA(9, 8, 8, stride=2)}, "does not run with the new blocks"),
        ({"stages.2": lambda old: 1 / 0}, "does not run with the new blocks"),
        ({"stages.7": nn.Identity}, r"no module is named 'stages\.7'"),
    ],
)
def test_what_does_not_fit_leaves_the_model_as_it_was(model, blocks, message):
    before = copy.deepcopy(model)
    blocks = {"stages.0": lambda old: TOSA(4, 6, 4, stride=2), **blocks}
    with pytest.raises(ValueError, match=message):
        replace_blocks(model, blocks)
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.state_dict().items())
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())
