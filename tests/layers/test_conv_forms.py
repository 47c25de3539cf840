"""The forms of a convolution: all equal, with their gradients, and checked by a reference that finds faults."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vov3d.layers.conv_forms import FORMS, KINDS, Conv, fitting, is_channels_last, run
from vov3d.layers.conv_reference import Reference, differs

CHANNELS_LAST = torch.channels_last_3d


@st.composite
def convolutions(draw):
    t, k = draw(st.sampled_from([(1, 1), (1, 3), (3, 1), (5, 1), (3, 3), (2, 1), (1, 2), (2, 2)]))
    groups, out = draw(st.sampled_from([(1, 3), (2, 4), (4, 4), (4, 8)]))
    conv = Conv(
        kernel=(out, 4 // groups, t, k, k),
        stride=(1, draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        padding=(draw(st.integers(0, t - 1)), draw(st.integers(0, 1)), draw(st.integers(0, 1))),
        dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2)), 1),
        groups=groups,
    )
    sizes = draw(st.tuples(st.integers(1, 5), st.integers(2, 6), st.integers(2, 6)))
    lengths = conv.lengths(sizes)
    if min(lengths) < 1:
        sizes = (9, 6, 6)
    return conv, (draw(st.integers(1, 2)), 4, *sizes)


def tensors(conv: Conv, shape, last, bias, dtype=torch.float64):
    random = torch.Generator().manual_seed(0)
    x, weight, added = (torch.randn(s, dtype=dtype, generator=random) for s in (shape, conv.kernel, conv.kernel[:1]))
    x = x.contiguous(memory_format=CHANNELS_LAST) if last else x
    return x.requires_grad_(), weight.requires_grad_(), added.requires_grad_() if bias else None


def derivatives(function, inputs):
    out = function()
    first = torch.autograd.grad(out.sin().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs)
    return (out, *first, *second)


def depthwise(t, k, stride=1):
    return Conv((4, 1, t, k, k), (1, stride, stride), (t // 2, k // 2, k // 2), (1, 1, 1), 4)


@settings(deadline=None, max_examples=80)
@given(case=convolutions(), last=st.booleans(), bias=st.booleans())
@example(case=(depthwise(5, 1, 2), (2, 4, 1, 5, 4)), last=True, bias=True)
# A gradient was once wrong.
@example(case=(Conv((4, 2, 3, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 2), (1, 4, 3, 2, 2)), last=False, bias=False)
@example(case=(Conv((3, 4, 1, 1, 1), (1, 2, 2), (0, 0, 0), (1, 1, 1), 1), (2, 4, 2, 5, 4)), last=False, bias=True)
def test_forms_give_the_same_values_gradients_and_second_gradients(case, last, bias):
    conv, shape = case
    x, weight, added = tensors(conv, shape, last, bias)
    inputs = [t for t in (x, weight, added) if t is not None]
    settings = (conv.stride, conv.padding, conv.dilation, conv.groups)
    wanted = derivatives(lambda: F.conv3d(x, weight, added, *settings), inputs)
    for name in fitting(conv, is_channels_last(x)):
        found = derivatives(lambda name=name: run(name, x, weight, added, conv), inputs)
        assert found[0].shape[2:] == conv.lengths(shape[2:])
        if x.is_contiguous() or is_channels_last(x):
            kept = torch.contiguous_format if x.is_contiguous() else CHANNELS_LAST
            assert found[0].is_contiguous(memory_format=kept), name
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", FORMS)
def test_gradients_of_gradients_are_right(name, last):
    shape, tried = (1, 2, 3, 3, 2), 0
    for conv in (
        Conv((2, 2, 1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1),
        Conv((2, 1, 3, 1, 1), (1, 1, 1), (1, 0, 0), (1, 1, 1), 2),
        Conv((2, 1, 1, 3, 3), (1, 2, 2), (0, 1, 1), (1, 1, 1), 2),
    ):
        x, weight, _ = tensors(conv, shape, last, False)
        if FORMS[name].fits(conv, is_channels_last(x)):
            tried += 1
            assert torch.autograd.gradgradcheck(lambda x, w, conv=conv: run(name, x, w, None, conv), (x, weight))
    assert tried or name.endswith("channels_first" if not last else "channels_last") or name == "conv2d_channels"


@pytest.mark.parametrize(
    ("conv", "last", "wanted"),
    [
        (depthwise(1, 3), False, "conv3d conv2d conv2d_channels shifted conv3d_channels_last conv2d_channels_last"),
        (depthwise(1, 3), True, "conv3d conv2d shifted conv3d_channels_first conv2d_channels_first"),
        (depthwise(3, 1), True, "conv3d conv2d shifted conv3d_channels_first conv2d_channels_first"),
        (depthwise(3, 3), True, "conv3d conv2d conv3d_channels_first conv2d_channels_first"),
        (
            Conv((8, 4, 1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1),
            True,
            "conv3d conv2d matmul conv3d_channels_first conv2d_channels_first",
        ),
    ],
)
def test_each_kernel_has_its_forms(conv, last, wanted):
    assert fitting(conv, last) == wanted.split()


def test_kinds():
    kinds = [depthwise(t, k).kind for t, k in ((1, 1), (1, 3), (3, 1), (3, 3))]
    assert kinds == list(KINDS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_sums_of_shifted_clips_are_rounded_once(dtype):
    conv = depthwise(3, 1)
    x, weight, bias = tensors(conv, (2, 4, 6, 5, 5), False, True, dtype)
    y = run("shifted", x, weight, bias, conv)
    exact = F.conv3d(x.double(), weight.double(), bias.double(), padding=conv.padding, groups=4)
    assert y.dtype == dtype
    # half a unit in the last place, and the sum's own rounding
    bound = 0.51 * torch.finfo(dtype).eps * exact.abs() + 4 * torch.finfo(torch.float32).eps
    assert ((y.double() - exact).abs() <= bound).all()


# --- the reference ---------------------------------------------------------------------------------------------------


def reference(conv, shape, last=False, bias=False, dtype=torch.float32, grads=(True, True)):
    x, weight, added = tensors(conv, shape, last, bias, dtype)
    return Reference(x.detach(), weight.detach(), added, conv, grads, False)


@settings(deadline=None, max_examples=40)
@given(
    case=convolutions(),
    last=st.booleans(),
    bias=st.booleans(),
    grads=st.tuples(st.booleans(), st.booleans()),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
@example(
    case=(Conv((3, 4, 1, 3, 3), (1, 1, 2), (0, 0, 0), (1, 1, 1), 1), (1, 4, 2, 5, 3)),
    last=False,
    bias=False,
    grads=(False, False),
    dtype=torch.bfloat16,
)
def test_right_forms_agree_with_the_reference(case, last, bias, grads, dtype):
    conv, shape = case
    checked = reference(conv, shape, last, bias, dtype, grads)
    low = dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=not low):  # on maps of one column, oneDNN's bf16 is wrong (torch 2.14)
        for name in ("conv3d", *([] if low else fitting(conv, last and shape[2:] != (1, 1, 1)))):
            assert checked.wrong(checked.call(name)()) is None, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (depthwise(3, 1), (2, 4, 8, 9, 9)),
        (depthwise(1, 3, 2), (2, 4, 8, 9, 9)),
        (depthwise(3, 3), (2, 4, 8, 9, 9)),
        (Conv((64, 432, 1, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1), 1), (2, 432, 4, 7, 7)),
    ],
)
def test_rounding_of_low_precisions_is_allowed(conv, shape, dtype):
    for last in (False, True):
        checked = reference(conv, shape, last, dtype=dtype)
        for name in fitting(conv, last):
            assert checked.wrong(checked.call(name)()) is None, name


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("fault", [lambda t: t * 1.1, lambda t: t * float("nan"), lambda t: t.roll(1, -1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wrong_values_and_gradients_are_found(which, fault, dtype):
    checked = reference(Conv((6, 6, 3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1), (1, 6, 4, 8, 8), dtype=dtype)
    results = list(checked.call("conv3d")())
    assert checked.wrong(results) is None
    results[which] = fault(results[which])
    assert checked.wrong(results).startswith("differs by up to ")
    assert checked.wrong(results).endswith(("results", "in the clip's gradient", "in the weight's gradient")[which])


def test_large_kernels_are_checked_at_fewer_positions():
    checked = reference(Conv((8, 2048, 3, 5, 5), (1, 1, 1), (1, 2, 2), (1, 1, 1), 1), (1, 2048, 3, 6, 6))
    assert checked.wrong(checked.call("conv3d")()) is None
    assert 16 <= len(checked.at[0]) <= 40


def test_10_bits_are_enough_where_they_are_allowed():
    exact = torch.linspace(-2, 2, 1000, dtype=torch.float64)
    rounded = exact * (1 + 2**-10)
    assert differs(rounded, exact, torch.float32, 9, tf32=True) is None
    assert differs(rounded, exact, torch.float32, 9, tf32=False)


def test_the_reference_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    checked = reference(depthwise(3, 1), (1, 4, 3, 3, 3))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    checked.call("conv3d")()
    assert torch.equal(torch.get_rng_state(), before)
