"""Compares the kernels in Triton with conv3d on a CPU: a process of its own, in which Triton interprets them.

Usage: TRITON_INTERPRET=1 python triton_cases.py some|all|odd|modules
"""

import itertools
import sys

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vov3d.deploy import _gpu
from vov3d.deploy._triton import ACTS, BLOCKS, depthwise, gated

PLAIN = {"none": lambda y: y, "relu": F.relu, "silu": F.silu}
# One unit in the last place: the interpreter truncates, where a GPU rounds.
ROUNDING = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def check(t, k, stride, last, factored, act="none", sums=True, dtype=torch.float32, shape=(1, 3, 3, 5, 4), large=False):
    """Compares one case with conv3d in float64."""
    x = torch.randn(shape).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last_3d) if last else x
    chs = shape[1]
    spatial, temporal, bias = (torch.randn(s).to(dtype) for s in ((chs, 1, 1, k, k), (chs, 1, t, 1, 1), (chs,)))
    whole = torch.randn(chs, 1, t, k, k).to(dtype)
    kernel = (spatial.double() * temporal.double()) if factored else whole.double()
    settings = ((1, stride, stride), (t // 2, k // 2, k // 2))
    linear = F.conv3d(x.double(), kernel, bias.double(), *settings, groups=chs)
    is_last = last and not x.is_contiguous()
    block = list(BLOCKS[is_last].values())[large]
    parts = (spatial[:, 0, 0], temporal[:, 0, :, 0, 0]) if factored else (whole[:, 0], None)
    y, total = depthwise(x, *parts, bias, stride, act, sums, block)
    wanted, size = PLAIN[act](linear), 1 + linear.abs().max()
    case = (t, k, stride, last, factored, act, sums, dtype, shape)
    assert y.dtype == dtype, case
    assert y.shape == wanted.shape, case
    assert y.is_contiguous(memory_format=torch.channels_last_3d if is_last else torch.contiguous_format), case
    assert ((y.double() - wanted).abs() <= ROUNDING[dtype] * (wanted.abs() + size * 1e-1)).all(), case
    assert (total is not None) == sums
    if sums:
        torch.testing.assert_close(total.double(), linear.sum((2, 3, 4)), rtol=1e-4, atol=1e-4 * float(size))
    gate = torch.rand(shape[:2]).to(dtype)
    scaled = PLAIN[act](y.double() * gate.double()[:, :, None, None, None])
    out = gated(y, gate, act)
    assert ((out.double() - scaled).abs() <= ROUNDING[dtype] * (scaled.abs() + 0.1)).all(), case


def some():
    """Checks some kernel sizes, with the other settings in turn."""
    for i, (t, k) in enumerate([(1, 1), (3, 1), (1, 3), (3, 3), (3, 3), (5, 3), (1, 5)]):
        dtype = list(ROUNDING)[i % 3]
        check(t, k, 1 + i % 2, bool(i // 2 % 2), i % 4 > 0, ACTS[i % 3], i % 3 < 2, dtype, (1, 2, 3, 4, 3))


def everything():
    """Checks all kernel sizes, strides, layouts and forms."""
    for case in itertools.product((1, 3, 5), (1, 3, 5), (1, 2), (False, True), (False, True)):
        check(*case)
    for act, dtype in itertools.product(ACTS, ROUNDING):
        check(3, 3, 1, True, True, act, dtype=dtype, shape=(2, 33, 2, 3, 5), large=True)
        check(3, 3, 2, False, False, act, dtype=dtype, shape=(2, 2, 2, 19, 17))


@settings(deadline=None, max_examples=5, database=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    t=st.sampled_from([1, 3, 5]),
    k=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    last=st.booleans(),
    factored=st.booleans(),
)
def odd(shape, t, k, stride, last, factored):
    """Checks odd sizes: single frames, lines and points, smaller than the kernels."""
    check(t, k, stride, last, factored, shape=shape)


def modules():
    """Runs an optimized model whose depthwise parts are set to run by the kernels."""
    import vov3d
    from vov3d.layers import choosing
    from vov3d.surgery.folding import fold_batchnorm

    used = []

    def clock(name, call):
        call()
        used.append(name)
        return 0.1 if name.startswith("triton") else 1.0

    choosing._chooser = choosing.Chooser(clock)
    choosing.ROUNDS = 1
    vov3d.layers.conv._gains = lambda x: False  # as for clips on a GPU, which keep their layout
    _gpu.RUN_ON_CPU = True
    from vov3d.deploy._optimize import _rewrite

    # Few programs of few numbers: each operation of the interpreter takes tens of microseconds.
    BLOCKS[False], BLOCKS[True] = {"triton_a": (16, 4, 4)}, {"triton_a": (16, 4, 4)}
    for block in (
        vov3d.D2plus1D(2, 4, 2),
        vov3d.D2plus1D(2, 4, 3, stride=2, se_ratio=0),
        vov3d.D2plus1D(2, 4, 2, conv="dw3d"),
    ):
        for module in block.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                torch.nn.init.uniform_(module.running_mean)
                torch.nn.init.uniform_(module.bias)
        block.eval().requires_grad_(False)
        fast = _gpu.use_measured_forms(_rewrite(fold_batchnorm(torch.nn.Sequential(block)), onednn=False, add_up=False))
        middles = [m for m in fast.modules() if type(m) is _gpu.FusedMiddle]
        assert len(middles) == 1
        for layout in (torch.contiguous_format, torch.channels_last_3d):
            x = torch.randn(1, 2, 2, 4, 3).contiguous(memory_format=layout)
            used.clear()
            for _ in range(2):
                torch.testing.assert_close(fast(x), block(x), rtol=1e-4, atol=1e-4)
            assert any(name.startswith("triton") for name in used), used
            middles[0].modules_in_turn = None  # the kernel runs instead
            torch.testing.assert_close(fast(x), block(x), rtol=1e-4, atol=1e-4)
            del middles[0].modules_in_turn


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for which in sys.argv[1:]:
        {"some": some, "all": everything, "odd": odd, "modules": modules}[which]()
    print("right")
