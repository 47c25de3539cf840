"""Blocks exchanged in place, all or none."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import vov3d
from vov3d import TOSA, D2plus1D, factorize, replace_blocks

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
    after = model.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.state_dict().items())
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())


class TwoPathways(nn.Module):
    """A network like SlowFast: a list of clips in, a list of maps between blocks."""

    def __init__(self):
        super().__init__()
        self.pathways = Pathways()
        self.head = nn.Conv3d(4, 2, 1)

    def forward(self, clips):
        assert isinstance(clips, list), "input needs to be a list of tensors"
        slow, fast = self.pathways(clips)
        return self.head(slow.mean(2, keepdim=True) + fast.mean(2, keepdim=True))


class Pathways(nn.Module):
    def __init__(self, chs: int = 4):
        super().__init__()
        self.slow, self.fast = nn.Conv3d(3, chs, 1), nn.Conv3d(3, chs, 1)

    def forward(self, clips):
        return [self.slow(clips[0]), self.fast(clips[1])]


TWO = [(1, 3, 2, 8, 8), (1, 3, 8, 8, 8)]


@pytest.mark.parametrize("name", ["pathways", "pathways.fast"])
def test_lists_of_clips_and_of_maps(name):
    model = TwoPathways()
    new = Pathways() if name == "pathways" else D2plus1D(3, 6, 4)
    assert replace_blocks(model, {name: lambda old: new}, clip_shape=TWO) == [name]
    assert model([torch.randn(shape) for shape in TWO]).shape == (1, 2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"gives \[\(1, 5, 2, 8, 8\), \(1, 5, 8, 8, 8\)\], not|does not run with"):
        replace_blocks(TwoPathways(), {"pathways": lambda old: Pathways(5)}, clip_shape=TWO)


def test_a_model_that_takes_another_input_says_so():
    with pytest.raises(ValueError, match=r"does not run on clip_shape=\(1, 3, 8, 64, 64\): input needs to be"):
        replace_blocks(TwoPathways(), {"pathways": lambda old: Pathways()})


class Keeps(nn.Module):
    """Keeps maps and positions, and makes and holds tensors without asking for the device of its input."""

    def __init__(self, asks: bool):
        super().__init__()
        self.stem, self.block, self.asks = nn.Conv3d(3, 8, 1), nn.Conv3d(8, 8, 1), asks
        self.positions, self.seen, self.mean = None, [], torch.ones(3, 1, 1, 1)

    def forward(self, x):
        if self.positions is None:
            self.positions = torch.linspace(-1, 1, x.shape[-1], device=x.device)
        x = self.block(self.stem(x - self.mean + self.positions))
        self.seen.append(x)
        return x.mean() if self.asks and x.mean() > 0 else x + torch.arange(x.shape[-1])


@pytest.mark.parametrize("asks", [False, True])
def test_a_model_that_keeps_values_or_asks_for_them(asks):
    model = Keeps(asks)
    assert replace_blocks(model, {"block": lambda old: D2plus1D(8, 8, 8)}, (1, 3, 2, 8, 8)) == ["block"]
    assert (model.positions, model.seen) == (None, [])
    model(torch.randn(1, 3, 2, 8, 8))
    with pytest.raises(ValueError, match=r"block gives \(1, 6, 2, 8, 8\), not \(1, 8, 2, 8, 8\)"):
        replace_blocks(model, {"block": lambda old: D2plus1D(8, 8, 6)}, (1, 3, 2, 8, 8))


def test_weights_that_hooks_compute_keep_their_values():
    model = nn.Sequential(nn.Conv3d(3, 4, 1), D2plus1D(4, 8, 4))
    prune.random_unstructured(model[0], "weight", 0.5)
    weight = model[0].weight
    replace_blocks(model, {"1": lambda old: D2plus1D(4, 6, 4)})
    assert model[0].weight is weight


def test_an_old_block_within_the_new_one_keeps_its_modes():
    model = nn.Sequential(D2plus1D(3, 6, 3))
    model[0].bn1.eval()
    replace_blocks(model, {"0": lambda old: nn.Sequential(old, nn.BatchNorm3d(3))})
    assert [m.training for m in (model[0], model[0][0], model[0][0].bn1, model[0][0].bn2, model[0][1])] == [
        True, True, False, True, True
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({"0": D2plus1D(3, 6, 3)},), r"blocks\['0'\] is a D2plus1D: give a function that makes a new block"),
        (("0",), "blocks must be a dictionary of functions by wildcards for names, got '0'"),
        (({"0": lambda old: D2plus1D(4, 6, 3)},), r"0 fails for an input of \(1, 3, 8, 64, 64\): "),
        (({"0": lambda old: None},), "the function for 0 gives None, which is no module"),
        (({"0": lambda old: old}, torch.ones(1, 3, 2, 4, 4)), r"give clip\.shape"),
    ],
)
def test_what_is_no_function_of_a_block_is_named(arguments, message):
    model = nn.Sequential(D2plus1D(3, 6, 3))
    old = model[0]
    with pytest.raises(ValueError, match=message):
        replace_blocks(model, *arguments)
    assert model[0] is old


def test_new_parameters_of_a_wrapped_model_would_not_be_synchronized(tmp_path):
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(nn.Sequential(nn.Conv3d(3, 3, 3, groups=3)))
        with pytest.raises(ValueError, match="the model is wrapped in DistributedDataParallel, .* first, then wrap it"):
            replace_blocks(wrapped, {"module.0": lambda old: D2plus1D(3, 6, 3)})
        with pytest.raises(ValueError, match="0 is wrapped in DistributedDataParallel"):
            factorize(nn.Sequential(wrapped))
    finally:
        torch.distributed.destroy_process_group()


class Shared(nn.Module):
    """Runs one block under two names."""

    def __init__(self):
        super().__init__()
        block = D2plus1D(3, 6, 3)
        self.a, self.b = block, block

    def forward(self, x):
        return self.b(self.a(x))


def test_a_block_of_two_names_stays_one():
    model, made = Shared(), []

    def make(old):
        made.append(old)
        return D2plus1D(3, 4, 3)

    assert replace_blocks(model, {"[ab]": make}) == ["a", "b"]
    assert model.a is model.b
    assert len(made) == 1
    model = Shared()
    old = model.a
    assert replace_blocks(model, {"b": make}) == ["b"]
    assert model.a is old
    assert model.b is not old
