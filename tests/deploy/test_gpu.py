"""Models optimized for GPUs, on a CPU: measured forms with a clock that is told the times, and kernels in Triton."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

import vov3d
from vov3d.deploy import _gpu
from vov3d.deploy._gpu import ChosenConvolution, FusedMiddle
from vov3d.layers import choosing

CASES = Path(__file__).with_name("triton_cases.py")
CHANNELS_LAST = torch.channels_last_3d


@pytest.fixture
def clock(monkeypatch):
    """Treats the CPU as a GPU in all but the kernels, and returns the set times and the list of what was timed."""
    times, timed = {}, []

    def clock(name, call):
        call()
        timed.append(name)
        return times.get(name, 1.0)

    clock.times, clock.timed = times, timed
    for module in ("vov3d.layers.choosing", "vov3d.layers.conv", "vov3d.deploy._optimize"):
        monkeypatch.setattr(f"{module}.MEASURED", {"cpu"})
    monkeypatch.setattr("vov3d.deploy._optimize.has_onednn", lambda *args: False)
    monkeypatch.setattr(choosing, "_chooser", choosing.Chooser(clock))
    monkeypatch.setattr(choosing, "ROUNDS", 1)
    return clock


def model(name="vov3d_m", **more):
    torch.manual_seed(0)
    return vov3d.create_model(name, num_classes=5, **more).eval()


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("x3d_xs", "channels_last"),
        ("x3d_xs", "as_given"),
        pytest.param("vov3d_m", "as_given", marks=pytest.mark.slow),
        pytest.param("vov3d_m", "channels_last", marks=pytest.mark.slow),
    ],
)
def test_an_optimized_model_agrees_and_measures_once(clock, name, layout):
    clock.times |= {layout: 0.5, "matmul": 0.5, "shifted": 0.6, "conv2d": 0.7}
    original = model(name)
    fast = vov3d.optimize_for_inference(original)
    kinds = [type(m) for m in fast.modules()]
    assert kinds.count(FusedMiddle) > 10
    assert ChosenConvolution in kinds
    assert nn.Conv3d not in kinds
    x = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        wanted = original(x)
    for clips in (x, x, x.contiguous(memory_format=CHANNELS_LAST)):
        torch.testing.assert_close(fast(clips), wanted, rtol=1e-4, atol=1e-4)
    assert {"channels_last", "as_given"} <= set(clock.timed)
    clock.timed.clear()
    fast(x)
    assert not clock.timed
    assert fast.forward_features(x).is_contiguous()
    assert "channels_last" in clock.timed  # another function, another choice


def test_compiled_models_and_streams_have_no_measured_layout(clock):
    compiled = vov3d.optimize_for_inference(model("vov3d_n"), compile=True)
    assert ChosenConvolution not in map(type, compiled.modules())
    assert compiled._layout is None
    torch.compiler.reset()
    foreign = vov3d.optimize_for_inference(nn.Sequential(nn.Conv3d(3, 4, 3)).eval())
    assert foreign._layout is None
    foreign(torch.randn(1, 3, 4, 6, 6))
    assert not {"channels_last", "as_given"} & set(clock.timed)


def test_deterministic_mode_measures_nothing(clock):
    original = model("vov3d_n")
    fast, x = vov3d.optimize_for_inference(original), torch.randn(1, 3, 4, 32, 32)
    with torch.backends.cudnn.flags(deterministic=True):
        torch.testing.assert_close(fast(x), original(x), rtol=1e-4, atol=1e-4)
    assert not clock.timed


def test_cpus_have_no_such_modules():
    fast = vov3d.optimize_for_inference(model("vov3d_n"))
    assert not {FusedMiddle, ChosenConvolution} & {type(m) for m in fast.modules()}


def middle(act=None):
    """Returns the depthwise part of a bottleneck and what its kernel is given."""
    torch.manual_seed(0)
    block = nn.Sequential(vov3d.D2plus1D(4, 8, 4)).eval()
    from vov3d.deploy._optimize import _rewrite

    fast = _gpu.use_measured_forms(_rewrite(vov3d.fold_batchnorm(block), onednn=False, add_up=False))
    return next(m for m in fast.modules() if type(m) is FusedMiddle).requires_grad_(False)


class Kernels:
    """Stands in for the kernels: right, wrong, or without a compiler."""

    VERSION = "0"
    BLOCKS = {False: {"triton_a": (1, 1, 1)}, True: {"triton_a": (1, 1, 1)}}  # noqa: RUF012

    def __init__(self, result):
        self.result = result

    def depthwise(self, x, spatial, temporal, bias, stride, act, sums, block):
        assert (act, sums) == ("none", True)
        if isinstance(self.result, Exception):
            raise self.result
        kernel = (spatial[:, None] * temporal[:, :, None, None])[:, None]
        y = torch.nn.functional.conv3d(x, kernel, bias, (1, stride, stride), (1, 1, 1), groups=len(bias))
        return y * self.result, y.float().sum((2, 3, 4))

    def gated(self, y, gate, act):
        assert act == "silu"
        return torch.nn.functional.silu(y * gate[:, :, None, None, None])


@pytest.mark.parametrize(
    ("result", "chosen"), [(1.0, "triton_a"), (1.3, "modules"), (OSError("no C compiler"), "modules")]
)
def test_a_kernel_is_used_if_it_is_right_and_faster(clock, monkeypatch, result, chosen, tmp_path):
    clock.times |= {"triton_a": 0.5}
    monkeypatch.setattr(_gpu, "RUN_ON_CPU", True)
    monkeypatch.setattr(_gpu, "kernels", lambda: Kernels(result))
    part, x = middle(), torch.randn(2, 8, 3, 5, 5)
    wanted = part.modules_in_turn(x)
    ran = []
    monkeypatch.setattr(part, "in_one_pass", lambda *args: ran.append(1) or FusedMiddle.in_one_pass(part, *args))
    with vov3d.set_conv_forms(cache=tmp_path / "forms.json"):
        if result == 1.3:
            with pytest.warns(RuntimeWarning, match="triton_a in float32 gives wrong results"):
                part(x)
        else:
            part(x)
        ran.clear()
        torch.testing.assert_close(part(x), wanted, rtol=1e-5, atol=1e-5)
    assert bool(ran) is (chosen == "triton_a")
    assert f'"form": "{chosen}"' in (tmp_path / "forms.json").read_text()


@pytest.mark.parametrize("dtype", [torch.float64])
def test_the_kernel_is_not_asked_for_double_precision(clock, monkeypatch, dtype):
    monkeypatch.setattr(_gpu, "RUN_ON_CPU", True)
    monkeypatch.setattr(_gpu, "kernels", lambda: Kernels(AssertionError("was called")))
    middle().to(dtype)(torch.randn(2, 8, 3, 5, 5, dtype=dtype))
    assert "triton_a" not in clock.timed


def test_triton_is_not_imported_where_it_is_absent(monkeypatch):
    _gpu.kernels.cache_clear()
    monkeypatch.setattr(_gpu, "find_spec", lambda name: None)
    assert _gpu.kernels() is None
    _gpu.kernels.cache_clear()
    monkeypatch.setattr(_gpu, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "vov3d.deploy._triton", None)  # its import raises ImportError
    monkeypatch.delattr("vov3d.deploy._triton", raising=False)
    assert _gpu.kernels() is None
    _gpu.kernels.cache_clear()


@pytest.mark.slow
def test_optimizing_on_a_cpu_imports_no_triton():
    code = """
import sys, torch, vov3d
fast = vov3d.optimize_for_inference(vov3d.create_model("vov3d_n").eval())
fast(torch.randn(1, 3, 2, 32, 32))
assert "vov3d.deploy._triton" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


# --- the kernels themselves ------------------------------------------------------------------------------------------


def run_cases(*which):
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed; there is none for macOS and Windows")
    done = subprocess.run(
        [sys.executable, str(CASES), *which],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.stdout == "right\n", done.stderr[-3000:]


def test_kernels_agree_with_conv3d_in_the_interpreter():
    run_cases("odd")


@pytest.mark.slow
def test_all_kernels_agree_with_conv3d_in_the_interpreter():
    run_cases("all", "modules")


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_gpus(capability):
    """Needs Triton and its assembler, not a GPU."""
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from vov3d.deploy import _triton

    pointers = {"x", "spatial", "temporal", "bias", "y", "gate"}
    tile = {"tile_positions": 16, "tile_channels": 32, "x_c": 1, "y_c": 1}
    sizes = {"k": 3, "t": 3, "with_sums": True}
    for kernel, constants in (
        (_triton._depthwise_kernel, {**sizes, **tile, "factored": True, "act": "none"}),
        (_triton._depthwise_kernel, {**sizes, **tile, "factored": False, "act": "silu", "t": 5}),
        (_triton._gated_kernel, {"last": True, "act": "silu", "block": 1024}),
    ):
        names = kernel.arg_names
        kinds = {name: "constexpr" if name in constants else "*bf16" if name in pointers else "i32" for name in names}
        kinds |= {"sums": "*fp32"} if "sums" in names else {}
        source = ASTSource(kernel, kinds, {(names.index(name),): value for name, value in constants.items()})
        assert "cubin" in compile(source, target=GPUTarget("cuda", capability, 32)).asm
