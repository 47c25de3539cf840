"""The five middle convolutions against Table 1's formulas and equations 1 and 2, and the forms in which they run."""

import copy
import itertools
import pickle
import subprocess
import sys

import pytest
import torch
import torch.fx.experimental.optimization
import torch.nn.functional as F
from helpers.memory import fill_free_memory
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from vov3d.layers import MIDDLE_CONVS, ConvNormAct3d, D2plus1D
from vov3d.layers.conv import as_given, channels_last, conv3d, fast, middle_convs

odd = st.sampled_from([1, 3, 5, 7])


def table1(conv: str, c: int, t: int, k: int, s: int, frames: int, h: int, w: int) -> tuple[int, int]:
    """Returns parameters and multiply-adds by Table 1; H and W are multiples of s."""
    whole, strided = frames * h * w, frames * h * w // s**2
    return {
        "3d": (t * k**2 * c**2, t * k**2 * c**2 * strided),
        "r2plus1d": ((k**2 + t) * c**2, (k**2 + t) * c**2 * strided),
        "dw3d": (t * k**2 * c, t * k**2 * c * strided),
        "d1plus2d": ((k**2 + t) * c, t * c * whole + k**2 * c * strided),
        "d2plus1d": ((k**2 + t) * c, (k**2 + t) * c * strided),
    }[conv]


@settings(deadline=None, max_examples=60)
@given(
    conv=st.sampled_from(MIDDLE_CONVS),
    c=st.integers(1, 12),
    t=odd,
    k=odd,
    s=st.integers(1, 3),
    frames=st.integers(1, 9),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
)
def test_middle_convolution_costs_what_table_1_says(conv, c, t, k, s, frames, h, w):
    h, w = h * s, w * s
    modules = nn.Sequential(*middle_convs(conv, c, (t, k), s, device="meta").values())
    with FlopCounterMode(display=False) as counter:
        out = modules(torch.empty(1, c, frames, h, w, device="meta"))
    params, macs = table1(conv, c, t, k, s, frames, h, w)
    assert sum(p.numel() for p in modules.parameters()) == params
    assert counter.get_total_flops() // 2 == macs
    assert out.shape == (1, c, frames, h // s, w // s)


def test_order_of_the_pairs():
    assert list(middle_convs("d2plus1d", 4, (3, 3))) == ["conv_s", "conv_t"]
    assert list(middle_convs("d1plus2d", 4, (3, 3))) == ["conv_t", "conv_s"]
    assert list(D2plus1D(4, 4, 4, conv="d1plus2d").state_dict())[6].startswith("conv_t")


def test_unknown_conv_names_the_five():
    with pytest.raises(ValueError, match="conv='2d' is not known; use one of 3d, r2plus1d, dw3d, d1plus2d, d2plus1d"):
        D2plus1D(4, 4, 4, conv="2d")


def test_even_kernels_are_refused():
    with pytest.raises(ValueError, match="must be odd, got 4 in time"):
        D2plus1D(4, 4, 4, temporal_kernel_size=4)


@pytest.mark.parametrize(("stride", "size"), [(1, 7), (2, 4)])
def test_conv_norm_act(stride, size):
    block = ConvNormAct3d(3, 6, kernel_size=3, temporal_kernel_size=3, stride=stride, act_layer="relu")
    out = block(torch.randn(2, 3, 4, 7, 7))
    assert out.shape == (2, 6, 4, size, size)
    assert out.min() == 0


def test_norm_and_activation_by_name():
    block = ConvNormAct3d(4, 4, norm_layer="groupnorm1", act_layer="leaky_relu")
    assert isinstance(block.bn, nn.GroupNorm)
    assert isinstance(block.act, nn.LeakyReLU)
    assert isinstance(ConvNormAct3d(4, 4, act_layer=None).act, nn.Identity)
    with pytest.raises(ValueError, match="norm_layer='batchnorm2d' is not known"):
        ConvNormAct3d(4, 4, norm_layer="batchnorm2d")
    with pytest.raises(ValueError, match="act_layer='reluu' is not an activation"):
        ConvNormAct3d(4, 4, act_layer="reluu")


# --- the same convolution by 2-D views -------------------------------------------------------------------------------

CHANNELS_LAST = torch.channels_last_3d


def plain(x: torch.Tensor, conv: nn.Conv3d) -> torch.Tensor:
    return F.conv3d(x, conv.weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)


def shapes(*largest: int) -> st.SearchStrategy:
    return st.tuples(*(st.integers(1, size) for size in largest))


some = st.tuples(st.booleans(), st.booleans()).filter(any)  # of the clip's gradient and the kernel's


@settings(deadline=None, max_examples=60)
@given(
    shape=shapes(3, 6, 5, 9, 9),
    kernel=st.sampled_from([(1, 1), (1, 3), (1, 5), (3, 1), (5, 1), (3, 3), (5, 3)]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 3),
    depthwise=st.booleans(),
    channels_last=st.booleans(),
)
# A stride was once ignored.
@example(shape=(2, 1, 3, 4, 4), kernel=(3, 1), stride=2, dilation=1, depthwise=True, channels_last=True)
def test_views_give_the_same_values_gradients_and_second_gradients(
    shape, kernel, stride, dilation, depthwise, channels_last
):
    torch.manual_seed(0)
    chs = shape[1]
    conv = conv3d(chs, chs, kernel, stride, chs if depthwise else 1, dtype=torch.float64)
    conv.dilation = (dilation,) * 3
    conv.padding = tuple(p * dilation for p in conv.padding)
    x = torch.randn(shape, dtype=torch.float64)
    x = (x.contiguous(memory_format=CHANNELS_LAST) if channels_last else x).requires_grad_()
    results = []
    for function in (conv, lambda x: plain(x, conv)):
        out = function(x)
        first = torch.autograd.grad(out.sin().sum(), (x, conv.weight), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, conv.weight))
        results.append((out, *first, *second))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), plain(x, conv), rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    shape=shapes(3, 6, 7, 7, 7),
    kernel=st.sampled_from([(3, 3), (5, 3), (3, 5), (7, 1)]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    needed=some,
)
def test_gradients_of_a_step_are_those_of_the_plain_form(shape, kernel, stride, dilation, bias, needed):
    torch.manual_seed(0)
    conv = fast(nn.Conv3d(shape[1], shape[1], (kernel[0], kernel[1], kernel[1]), groups=shape[1], bias=bias).double())
    conv.stride, conv.dilation = (1, stride, stride), (dilation,) * 3
    conv.padding = tuple(dilation * (k // 2) for k in conv.kernel_size)
    x = torch.randn(shape, dtype=torch.float64).contiguous(memory_format=CHANNELS_LAST).requires_grad_(needed[0])
    conv.weight.requires_grad_(needed[1])
    inputs = [v for v in (x, *conv.parameters()) if v.requires_grad]
    results = []
    for function in (conv, lambda x: nn.Conv3d._conv_forward(conv, x, conv.weight, conv.bias)):
        out = function(x)
        results.append((out, *torch.autograd.grad(out.sin().sum(), inputs)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


class Operations(TorchDispatchMode):
    """Records the names of operations, and the dimensions of what is convolved.

    PyTorch's profiler records more: it sees other threads' operations, too, and starts a thread of its own.
    """

    def __init__(self):
        super().__init__()
        self.names, self.dimensions = [], set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        if self.names[-1] == "convolution":
            self.dimensions.add(args[0].ndim)
        return func(*args, **(kwargs or {}))


def test_a_step_of_a_depthwise_kernel_pads_nothing_and_casts_a_clip_once_under_autocast():
    conv = conv3d(8, 8, (3, 3), groups=8)
    x = torch.randn(2, 8, 4, 6, 6).contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    with Operations() as ran, torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x)
        assert ran.names.count("convolution") == 3
        assert ran.names.count("_to_copy") == 2  # of the clip and the kernel
        out.float().sum().backward()
    assert "constant_pad_nd" not in ran.names
    assert ran.names.count("_to_copy") == 6  # the test's `.float()`, and all three in the backward pass
    assert x.grad.dtype == conv.weight.grad.dtype == torch.float32
    assert out.dtype == torch.bfloat16
    # Rounding the clip and the kernel is what was asked for: sums of 288 products alone differ by more than 0.1 for it.
    rounded = [t.detach().bfloat16().float().requires_grad_() for t in (x, conv.weight)]
    y = F.conv3d(*rounded, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    torch.testing.assert_close(out.float(), y, rtol=0.05, atol=0.05)
    for mine, exact in zip((x.grad, conv.weight.grad), torch.autograd.grad(y.sum(), rounded), strict=True):
        torch.testing.assert_close(mine, exact, rtol=0.05, atol=0.1)


class StridedGradients(Operations):
    """Records whether oneDNN is asked for gradients of a strided convolution of 16 bits.

    It is slow at them, and on narrow maps what it gives depends on what was in memory before.
    """

    asked = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.asked |= args[0].element_size() == 2 and max(args[4]) > 1
        return super().__torch_dispatch__(func, types, args, kwargs)


@settings(deadline=None, max_examples=40)
@given(
    shape=shapes(3, 6, 5, 9, 9),
    kernel=st.sampled_from([(1, 3), (1, 5), (3, 3), (5, 3)]),
    stride=st.integers(2, 3),
    dilation=st.integers(1, 2),
    autocast=st.booleans(),
    needed=some,
)
def test_strided_depthwise_gradients_in_bf16_are_right_and_not_those_of_onednn(
    shape, kernel, stride, dilation, autocast, needed
):
    torch.manual_seed(0)
    dtype = torch.float32 if autocast else torch.bfloat16
    conv = conv3d(shape[1], shape[1], kernel, stride, shape[1])
    conv.weight.data = conv.weight.data.bfloat16().to(dtype)
    conv.dilation, conv.padding = (dilation,) * 3, tuple(p * dilation for p in conv.padding)
    x = torch.randn(shape).bfloat16().to(dtype).contiguous(memory_format=CHANNELS_LAST).requires_grad_(needed[0])
    conv.weight.requires_grad_(needed[1])
    inputs = [v for v in (x, conv.weight) if v.requires_grad]
    with StridedGradients() as ran:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = conv(x)
        assert out.dtype == torch.bfloat16
        found = torch.autograd.grad(out.float().square().sum(), inputs)
    assert not ran.asked
    exact = [v.detach().double().requires_grad_(v.requires_grad) for v in (x, conv.weight)]
    y = F.conv3d(*exact, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    torch.testing.assert_close(out.double(), y, rtol=0.02, atol=0.02)
    wanted = torch.autograd.grad(y, [v for v in exact if v.requires_grad], 2 * out.double())
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.dtype == dtype
        assert (mine - theirs).norm() <= 0.02 * theirs.norm() + 1e-6


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize(("in_chs", "out_chs", "groups"), [(1, 1, 1), (3, 12, 1), (12, 24, 1), (4, 8, 4), (6, 6, 6)])
def test_outputs_one_column_wide_in_bf16_do_not_depend_on_what_was_in_memory(in_chs, out_chs, groups, frames, autocast):
    """Those of oneDNN do, for strided kernels but depthwise ones (torch 2.14)."""
    for width, stride in ((1, 2), (2, 2), (3, 3), (1, 3)):
        conv = conv3d(in_chs, out_chs, (frames, 3), stride, groups)
        conv.weight.data = conv.weight.data.bfloat16().float()
        conv = conv if autocast else conv.bfloat16()
        x = torch.randn(2, in_chs, 2, 9, width).bfloat16().to(conv.weight.dtype).contiguous(memory_format=CHANNELS_LAST)
        weight = conv.weight.detach().double().requires_grad_()
        wanted = F.conv3d(x.double(), weight, None, conv.stride, conv.padding, conv.dilation, groups)
        gradient = torch.autograd.grad(wanted.square().sum(), weight)[0]
        for _ in range(3):
            fill_free_memory()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                out = conv(x)
            assert out.dtype == torch.bfloat16
            torch.testing.assert_close(out.double(), wanted, rtol=0.02, atol=0.02)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                fill_free_memory()
                torch.testing.assert_close(conv(x.contiguous()).double(), wanted, rtol=0.02, atol=0.02)
            found = torch.autograd.grad(out.float().square().sum(), conv.weight)[0]
            assert (found.double() - gradient).norm() <= 0.03 * gradient.norm()


@pytest.mark.parametrize("layout", [torch.contiguous_format, CHANNELS_LAST])
@pytest.mark.parametrize(("in_chs", "out_chs", "groups"), [(3, 8, 1), (4, 8, 4), (6, 6, 2)])
@pytest.mark.parametrize(
    ("shape", "kernel", "stride", "padding"),
    [
        ((8, 3), (3, 3, 3), (1, 2, 2), (1, 1, 1)),
        ((5, 8), (5, 3, 3), (1, 1, 1), (2, 1, 1)),
        ((3, 8), (3, 1, 5), (1, 1, 1), (1, 0, 2)),
        ((9, 5), (1, 3, 5), (1, 2, 2), (0, 1, 0)),
        ((15, 6), (1, 3, 5), (1, 3, 3), (0, 1, 0)),
    ],
)
def test_bf16_of_one_frame_or_one_column_without_padding(
    shape, kernel, stride, padding, in_chs, out_chs, groups, layout
):
    """oneDNN reads memory that nobody wrote for whole kernels on one frame and for one column (torch 2.14)."""
    torch.manual_seed(0)
    conv = fast(nn.Conv3d(in_chs, out_chs, kernel, stride, padding, groups=groups)).bfloat16()
    for batch in (1, 3):
        x = torch.randn(batch, in_chs, 1, *shape).bfloat16().contiguous(memory_format=layout)
        exact = conv.weight.double(), conv.bias.double()
        wanted = F.conv3d(x.double(), *exact, stride, padding, groups=groups)
        for _ in range(3):
            fill_free_memory()
            torch.testing.assert_close(conv(x).double(), wanted, rtol=0.02, atol=0.02)


def test_forward_derivatives_and_checkpointing_of_a_depthwise_kernel():
    conv = conv3d(4, 4, (3, 3), groups=4, dtype=torch.float64)
    x, tangent = (torch.randn(2, 4, 3, 5, 5).double().contiguous(memory_format=CHANNELS_LAST) for _ in range(2))
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        out = torch.autograd.forward_ad.unpack_dual(conv(dual)).tangent
    torch.testing.assert_close(out, plain(tangent, conv))
    x.requires_grad_()
    grads = [
        torch.autograd.grad(run().sin().sum(), x)[0]
        for run in (lambda: checkpoint(conv, x, use_reentrant=False), lambda: plain(x, conv))
    ]
    torch.testing.assert_close(*grads, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [(3, 3), (3, 1), (1, 3)])
def test_a_kernel_that_runs_twice_has_the_second_gradients_of_its_plain_form(kernel):
    torch.manual_seed(0)
    conv = conv3d(4, 4, kernel, groups=4, dtype=torch.float64)
    x = torch.randn(2, 4, 3, 5, 5).double().contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    results = []
    for run in (conv, lambda x: plain(x, conv)):
        first = torch.autograd.grad(run(run(x)).sin().sum(), (x, conv.weight), create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), (x, conv.weight))
        results.append((*first, *second))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("kernel", [(3, 3), (3, 1), (1, 3)])
def test_many_gradients_at_once_are_those_one_by_one(kernel):
    conv = conv3d(2, 2, kernel, groups=2, dtype=torch.float64)
    x = torch.randn(1, 2, 3, 3, 4).double().contiguous(memory_format=CHANNELS_LAST)
    functional = torch.autograd.functional.jacobian
    wanted = functional(lambda x: plain(x, conv), x)
    torch.testing.assert_close(functional(conv, x, vectorize=True), wanted)
    y = conv(x.requires_grad_())
    rows = torch.eye(y.numel()).double().view(-1, *y.shape)
    (found,) = torch.vmap(lambda row: torch.autograd.grad(y, x, row, retain_graph=True))(rows)
    torch.testing.assert_close(found.view_as(wanted), wanted)


@pytest.mark.parametrize("kernel", [(3, 3), (3, 1), (1, 3)])
def test_an_activation_may_change_the_result_in_place(kernel):
    conv = conv3d(4, 4, kernel, groups=4, dtype=torch.float64)
    x = torch.randn(2, 4, 3, 5, 5).double().contiguous(memory_format=CHANNELS_LAST)
    found, wanted = (torch.autograd.grad(F.relu_(y).sum(), conv.weight) for y in (conv(x), plain(x, conv)))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kernel", [(3, 3), (3, 1), (1, 3)])
def test_complex_kernels_have_gradients(kernel):
    conv = conv3d(4, 4, kernel, groups=4, dtype=torch.complex128)
    x = torch.randn(2, 4, 3, 5, 5, dtype=torch.complex128).contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    found, wanted = (torch.autograd.grad(y.abs().sum(), (x, conv.weight)) for y in (conv(x), plain(x, conv)))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("settings", [{"padding": 1}, {"stride": 1}, {"dilation": 1}, {"padding": "same"}])
def test_settings_that_are_one_for_all_axes_work_as_in_pytorch(settings):
    conv = conv3d(4, 4, (3, 3), groups=4)
    vars(conv).update(settings)
    x = torch.randn(2, 4, 3, 5, 5).contiguous(memory_format=CHANNELS_LAST)
    torch.testing.assert_close(conv(x), F.conv3d(x, conv.weight, padding=1, groups=4))


@pytest.mark.parametrize("kernel", [(1, 3), (3, 1)])
def test_training_runs_as_conv2d_on_channels_last_memory(kernel):
    conv = conv3d(8, 8, kernel, groups=8)
    x = torch.randn(2, 8, 4, 6, 6).contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    with Operations() as ran:
        out = conv(x)
    assert out.is_contiguous(memory_format=CHANNELS_LAST)
    assert ran.dimensions == {4}
    with Operations() as ran, torch.no_grad():
        conv(x)
    assert ran.dimensions == {5}


def test_float32_and_autocast_agree_with_the_plain_form():
    conv = conv3d(16, 16, (1, 3), groups=16)
    x = torch.randn(2, 16, 4, 14, 14).contiguous(memory_format=CHANNELS_LAST)
    torch.testing.assert_close(conv(x), plain(x, conv), rtol=1e-5, atol=1e-6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = conv(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), plain(x, conv), rtol=0.05, atol=0.05)


def test_parameters_are_those_of_a_plain_convolution():
    ours, theirs = conv3d(4, 4, (3, 1), groups=4), nn.Conv3d(4, 4, (3, 1, 1), padding=(1, 0, 0), groups=4, bias=False)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    assert isinstance(ours, nn.Conv3d)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(1, 4, 3, 5, 5)
    torch.testing.assert_close(ours(x), theirs(x))


# --- strided 1 x 1 never reaches oneDNN with its stride --------------------------------------------------------------

GRID = """
import itertools, sys
import torch
from vov3d.layers.conv import conv3d, fast

torch.set_num_threads(1)
first, last = map(int, sys.argv[1:])
grid = [
    case
    for case in itertools.product((12, 1, 8, 14), (16, 8, 24), (1, 3), (1, 3), (2, 1), (46, 7), (1, 2))
    if case[2] * case[3] < 9
]
for i, o, t, k, stride, side, batch in grid[first:last]:
    for groups in {1, i if i == o else 1}:
        conv = conv3d(i, o, (t, k), stride, groups)
        x = torch.randn(batch, i, 2, side, side).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
        for _ in range(2):
            conv(x).sum().backward()
        assert conv.weight.grad.isfinite().all() and x.grad.isfinite().all()
print(len(grid))
"""


def run_grid(first: int, last: int) -> int:
    """Runs a child process, as the error under test is one of memory: it ended in a segmentation fault."""
    child = subprocess.run(
        [sys.executable, "-c", GRID, str(first), str(last)], capture_output=True, text=True, timeout=500
    )
    assert child.returncode == 0, child.stderr[-2000:]
    return int(child.stdout)


@pytest.mark.slow
def test_narrow_convolutions_train_without_memory_errors():
    run_grid(0, 36)  # 12 to 16 channels, as the first shortcut of vov3d_n


@pytest.mark.slow
def test_all_narrow_convolutions_train_without_memory_errors():
    for first in range(0, run_grid(0, 0), 200):
        run_grid(first, first + 200)


@pytest.mark.parametrize(("batch", "t", "depthwise"), list(itertools.product((1, 2), (1, 3), (False, True))))
@pytest.mark.parametrize("train", [False, True])
def test_a_strided_point_is_sliced_before_it_is_convolved(batch, t, depthwise, train, monkeypatch):
    conv = conv3d(12, 12, (t, 1), 2, 12 if depthwise else 1)
    x = torch.randn(batch, 12, 3, 7, 9).contiguous(memory_format=CHANNELS_LAST)
    want, strides = plain(x, conv), []

    def spy(function):
        def call(x, weight, bias, stride, *args):
            strides.append(stride if isinstance(stride, int) else max(stride))
            return function(x, weight, bias, stride, *args)

        return call

    for name in ("conv2d", "conv3d"):
        monkeypatch.setattr(F, name, spy(getattr(F, name)))
    with torch.set_grad_enabled(train):
        out = conv(x)
    assert strides == [1]
    torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)


# --- a convolution to everybody else ---------------------------------------------------------------------------------


def test_modules_are_pytorchs_own_and_survive_copies():
    conv = conv3d(4, 4, (3, 1), groups=4)
    assert type(conv) is nn.Conv3d
    x = torch.randn(1, 4, 3, 5, 5).contiguous(memory_format=CHANNELS_LAST)
    for other in (copy.deepcopy(conv), pickle.loads(pickle.dumps(conv)), copy.deepcopy(nn.Sequential(conv))[0]):
        other.weight.data *= 2
        torch.testing.assert_close(other(x), 2 * conv(x))
        other.stride = (1, 2, 2)
        assert conv.stride == (1, 1, 1)
        torch.testing.assert_close(other(x), plain(x, other))


class Standardized(nn.Conv3d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight - weight.mean((1, 2, 3, 4), keepdim=True), bias)


def test_a_class_that_is_assigned_later_runs_its_own_code():
    conv = conv3d(4, 6, (3, 3))
    conv.__class__ = Standardized
    x = torch.randn(1, 4, 3, 5, 5).contiguous(memory_format=CHANNELS_LAST)
    weight = conv.weight - conv.weight.mean((1, 2, 3, 4), keepdim=True)
    torch.testing.assert_close(conv(x), nn.functional.conv3d(x, weight, padding=1))


def test_a_shallow_copy_that_outlives_its_original_says_how_to_copy():
    conv = conv3d(4, 4, (3, 1), groups=4)
    other = copy.copy(conv)
    x = torch.randn(1, 4, 3, 5, 5)
    torch.testing.assert_close(other(x), conv(x))
    del conv
    with pytest.raises(RuntimeError, match=r"shallow copy .* copy\.deepcopy"):
        other(x)


@settings(deadline=None, max_examples=40)
@given(
    t=st.integers(1, 4),
    k=st.integers(1, 3),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2), st.just(1)),
    bias=st.booleans(),
    groups=st.sampled_from([1, 2, 4]),
    mode=st.sampled_from(["zeros", "replicate"]),
    batch=st.integers(1, 2),
)
def test_the_fast_form_serves_any_convolution(t, k, stride, padding, dilation, bias, groups, mode, batch):
    settings = dict(stride=stride, padding=padding, dilation=dilation, bias=bias, groups=groups, padding_mode=mode)
    conv = fast(nn.Conv3d(4, 4, (t, k, k), dtype=torch.float64, **settings))
    x = torch.randn(batch, 4, 9, 9, 8, dtype=torch.float64).contiguous(memory_format=CHANNELS_LAST)
    want = nn.Conv3d._conv_forward(conv, x, conv.weight, conv.bias)
    torch.testing.assert_close(conv(x), want, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(conv(x), want, rtol=1e-12, atol=1e-12)


def test_fusing_by_exact_type_takes_all_norms():
    block = nn.Sequential(ConvNormAct3d(3, 4), D2plus1D(4, 6, 4, zero_init_last=False)).eval()
    fused = torch.fx.experimental.optimization.fuse(copy.deepcopy(block))
    assert not any(isinstance(m, nn.BatchNorm3d) for m in fused.modules())
    x = torch.randn(2, 3, 3, 6, 6)
    torch.testing.assert_close(fused(x), block(x), rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(0, 2), st.integers(1, 3), st.integers(1, 2), st.integers(1, 3), st.integers(1, 3)),
    order=st.permutations(range(5)),
    chs=st.integers(1, 4),
)
def test_maps_come_out_in_the_format_in_which_clips_came(shape, order, chs):
    x = torch.randn([shape[i] for i in order]).permute([order.index(i) for i in range(5)])
    assert x.shape == shape
    y = channels_last(torch.randn(shape[0], chs, *shape[2:]))
    out = as_given(y, x)
    assert torch.equal(out, y)
    if x.is_contiguous():
        assert out.view(-1).shape == (out.numel(),)


@pytest.mark.parametrize(
    ("kernel", "padding"), [((3, 3, 1), (1, 1, 1)), ((3, 1, 3), (1, 3, 2)), ((1, 3, 3), (0, 4, 1))]
)
@pytest.mark.parametrize("stride", [2, 3])
def test_gradients_in_bf16_of_more_padding_than_the_kernel_reaches(kernel, padding, stride):
    torch.manual_seed(0)
    conv = fast(nn.Conv3d(4, 4, kernel, (1, stride, stride), padding, groups=4)).bfloat16()
    x = torch.randn(2, 4, 3, 8, 7).bfloat16().contiguous(memory_format=CHANNELS_LAST).requires_grad_()
    out = conv(x)
    found = torch.autograd.grad(out.float().square().sum(), (x, conv.weight))
    exact = [v.detach().double().requires_grad_() for v in (x, conv.weight)]
    y = F.conv3d(*exact, conv.bias.double(), conv.stride, conv.padding, groups=4)
    wanted = torch.autograd.grad(y, exact, 2 * out.double())
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine - theirs).norm() <= 0.02 * theirs.norm() + 1e-6
