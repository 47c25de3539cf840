"""The choice of forms by measuring, with a clock that is told the times: GPUs are not needed."""

import json
import threading
from collections import Counter

import pytest
import torch
from helpers.warnings_as_errors import no_warnings
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import vov3d
from vov3d.layers import choosing
from vov3d.layers.choosing import Chooser, measured, set_conv_forms
from vov3d.layers.conv import conv3d
from vov3d.layers.conv_forms import FORMS, Form, is_channels_last

CHANNELS_LAST = torch.channels_last_3d


class FakeClock:
    """Tells times that a test sets; calls the candidate as a real clock does."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.timed = seconds, Counter()

    def __call__(self, name, call):
        call()
        self.timed[name] += 1
        return self.seconds.get(name, 1.0)


@pytest.fixture
def clock(monkeypatch):
    """Treats contiguous clips on the CPU as those on a GPU, with a chooser of its own, and returns its clock."""
    clock = FakeClock()
    monkeypatch.setattr(choosing, "MEASURED", choosing.MEASURED | {"cpu"})
    monkeypatch.setattr("vov3d.layers.conv.MEASURED", {"cpu"})
    monkeypatch.setattr(choosing, "_chooser", Chooser(clock))
    monkeypatch.setattr(choosing, "_policy_now", choosing._Policy())
    return clock


@pytest.fixture
def used(monkeypatch):
    """Returns the list of forms that run outside of measurements."""
    names: list[str] = []

    def spy(name, *args):
        if threading.current_thread() is threading.main_thread():
            names.append(name)
        return original(name, *args)

    original = choosing.run
    monkeypatch.setattr(choosing, "run", spy)
    return names


def depthwise(**more):
    return conv3d(4, 4, (3, 1), groups=4, **more)


def clip(*shape, **more):
    return torch.randn(*(shape or (2, 4, 5, 6, 6)), **more)


def test_each_form_is_measured_once_and_the_fastest_stays(clock, used):
    clock.seconds = {"shifted": 0.5}
    conv, x = depthwise(), clip()
    wanted = nn.Conv3d._conv_forward(conv, x, conv.weight, None)
    for _ in range(3):
        torch.testing.assert_close(conv(x), wanted)
    assert used == ["shifted"] * 3
    assert set(clock.timed) == {"conv3d", "conv2d", "shifted", "conv3d_channels_last", "conv2d_channels_last"}
    assert set(clock.timed.values()) == {choosing.ROUNDS}


@pytest.mark.parametrize(
    "change",
    [
        lambda conv, x: (conv, clip(1, 4, 5, 6, 6)),
        lambda conv, x: (conv.double(), x.double()),
        lambda conv, x: (conv, x.contiguous(memory_format=CHANNELS_LAST)),
        lambda conv, x: (conv.requires_grad_(False), x),
        lambda conv, x: (conv, x.requires_grad_()),
        lambda conv, x: (depthwise(stride=2), x),
    ],
    ids=["size", "precision", "layout", "inference", "gradient", "stride"],
)
def test_another_case_is_measured_anew(clock, change, monkeypatch):
    monkeypatch.setattr("vov3d.layers.conv._gains", lambda x: False)  # a GPU keeps channels-last clips
    conv, x = depthwise(), clip()
    conv(x)
    clock.timed.clear()
    conv(x)
    assert not clock.timed
    conv, x = change(conv, x)
    conv(x)
    assert clock.timed


@pytest.mark.parametrize(("seconds", "form"), [(0.98, "conv3d"), (0.9, "conv2d")])
def test_noise_does_not_replace_the_plain_form(clock, used, seconds, form):
    clock.seconds = {"conv2d": seconds}
    depthwise()(clip())
    assert used == [form]


def test_the_median_decides():
    times = iter([1, 9, 1, 0, 1, 0, 1, 0, 1, 0])
    choice = measured({"a": list, "b": list}, lambda outputs: None, lambda name, call: next(times))
    assert choice == ("b", {"a": 1, "b": 0}, {})


PLAIN_RUN = FORMS["conv3d"].run


def fault(which):
    """Returns a form that is wrong in one way and always fastest."""

    def run(x, weight, bias, conv):
        if which == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        y = PLAIN_RUN(x, weight, bias, conv)
        return y * 1.5 if which == "value" else y.detach() + 0 * (x.sum() + weight.sum())

    return Form(run, lambda conv, last: True)


@pytest.mark.parametrize("which", ["value", "gradient"])
def test_a_form_with_wrong_results_is_never_chosen_and_named_once(clock, used, monkeypatch, which):
    monkeypatch.setitem(FORMS, "conv2d", fault(which))
    clock.seconds = {"conv2d": 0.1, "shifted": 0.5}
    conv = depthwise()
    with pytest.warns(RuntimeWarning, match="conv2d in float32 gives wrong results on cpu .*shifted is used"):
        conv(clip())
    with no_warnings():
        conv(clip(1, 4, 5, 6, 6))
    assert used == ["shifted"] * 2
    assert "conv2d" not in clock.timed


def test_the_plain_form_is_replaced_if_it_is_wrong(clock, used, monkeypatch):
    monkeypatch.setitem(FORMS, "conv3d", fault("value"))
    with pytest.warns(RuntimeWarning, match="conv3d in float32 gives wrong results"):
        depthwise()(clip())
    assert used == ["conv2d"]


def test_forms_without_enough_memory_are_left_out_silently(clock, used, monkeypatch):
    for name in FORMS:
        if name != "shifted":
            monkeypatch.setitem(FORMS, name, fault("memory"))
    with no_warnings():
        depthwise()(clip())
        monkeypatch.setitem(FORMS, "shifted", fault("memory"))
        with pytest.raises(torch.OutOfMemoryError):
            depthwise()(clip(1, 4, 5, 6, 6))
    assert used == ["shifted", "conv3d"]


def test_many_sizes_are_not_all_measured(clock, used, monkeypatch):
    monkeypatch.setattr(choosing, "MAX_SIZES", 3)
    clock.seconds = {"shifted": 0.5}
    conv = depthwise()
    for frames in range(3, 9):
        conv(clip(1, 4, frames, 4, 4))
    assert clock.timed["shifted"] == 3 * choosing.ROUNDS
    assert used == ["shifted"] * 6


# --- where nothing is measured ---------------------------------------------------------------------------------------


def test_cpus_keep_their_rules(monkeypatch):
    monkeypatch.setattr(choosing, "convolve", lambda *args: pytest.fail("a form was chosen"))
    monkeypatch.setattr("vov3d.layers.conv.chosen", lambda *args: pytest.fail("a form was chosen"))
    model = vov3d.D2plus1D(8, 16, 8)
    with set_conv_forms("conv2d"):
        model(clip(1, 8, 3, 6, 6))
        conv3d(4, 4, (3, 1), groups=4)(clip())


def test_deterministic_modes_take_the_plain_form(clock, used):
    clock.seconds = {"shifted": 0.5}
    conv, x = depthwise(), clip()
    conv(x)
    with torch.backends.cudnn.flags(deterministic=True):
        conv(x)
    torch.use_deterministic_algorithms(True)
    try:
        conv(x)
        conv(clip(1, 4, 5, 6, 6))
    finally:
        torch.use_deterministic_algorithms(False)
    conv(x)
    assert used == ["shifted", "conv3d", "conv3d", "conv3d", "shifted"]


def test_a_captured_graph_gets_what_was_measured_before(clock, used, monkeypatch):
    clock.seconds = {"shifted": 0.5}
    conv, x = depthwise(), clip()
    conv(x)
    clock.timed.clear()
    monkeypatch.setattr(choosing, "is_captured", lambda: True)
    conv(x)
    conv(clip(1, 4, 5, 6, 6))
    assert not clock.timed
    monkeypatch.setattr(choosing, "is_captured", lambda: False)
    conv(clip(1, 4, 5, 6, 6))
    assert used == ["shifted", "shifted", "conv3d", "shifted"]


def test_tracers_exporters_and_transforms_see_conv3d(clock, used):
    conv, x = depthwise(), clip()
    graph = torch.export.export(conv, (x,)).graph
    assert {str(n.target) for n in graph.nodes if n.op == "call_function"} == {"aten.conv3d.default"}
    torch.jit.trace(conv, x, check_trace=False)
    torch.func.vmap(conv)(clip(2, 1, 4, 3, 4, 4))
    assert not used
    assert not clock.timed


@pytest.mark.parametrize(
    ("forms", "op"), [("auto", "conv3d"), ("conv2d", "conv2d" if hasattr(torch.compiler, "is_exporting") else "conv3d")]
)
def test_compiled_modules_take_the_form_that_is_set_without_measuring(clock, forms, op):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    conv, x = depthwise(), clip()
    with set_conv_forms(forms):
        torch.compile(conv, backend=backend, fullgraph=True)(x)
    called = {n.target.__name__ for n in graphs[0].graph.nodes if n.op == "call_function"}
    assert called & {"conv2d", "conv3d"} == {op}
    assert not clock.timed
    torch.compiler.reset()


def test_contexts_of_the_caller_do_not_reach_measurements(clock):
    """A checkpoint would count the tensors that a measurement saves, and a counter its operations."""
    conv = depthwise()
    x = clip(requires_grad=True)
    counted = []
    for forms in ("conv3d", "auto"):
        x.grad = None
        with set_conv_forms(forms), FlopCounterMode(display=False) as counter:
            checkpoint(conv, x, use_reentrant=False).sum().backward()
        counted.append(counter.get_total_flops())
    assert clock.timed
    assert counted[0] == counted[1] > 0
    wanted = torch.autograd.grad(nn.Conv3d._conv_forward(conv, x, conv.weight, None).sum(), x)[0]
    torch.testing.assert_close(x.grad, wanted)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_only_outputs_are_measured(clock, mode, monkeypatch):
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: pytest.fail("a gradient was computed"))
    with mode():
        depthwise()(clip())
    assert clock.timed


def test_autocast_is_measured_in_its_precision(clock, used, tmp_path):
    conv, x = depthwise(), clip()
    with set_conv_forms(cache=tmp_path / "forms.json"), torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
        assert conv.double()(x.double()).dtype == torch.float64
    cases = [row["case"]["dtype"] for row in json.loads((tmp_path / "forms.json").read_text())["choices"]]
    assert cases == ["bfloat16", "float64"]


def test_errors_are_pytorchs_own(clock):
    for conv, x in ((depthwise(), clip().double()), (nn.Conv3d(4, 4, 3), clip(1, 4, 2, 2, 2))):
        conv = vov3d.layers.conv.fast(conv)
        with pytest.raises(RuntimeError) as ours:
            conv(x)
        with pytest.raises(RuntimeError) as theirs:
            nn.Conv3d._conv_forward(conv, x, conv.weight, conv.bias)
        assert str(ours.value) == str(theirs.value)


def test_a_network_trains_as_before(clock, used):
    torch.manual_seed(0)
    block, x = vov3d.D2plus1D(4, 8, 4).double(), clip(2, 4, 3, 6, 6, dtype=torch.float64)
    results = []
    clock.seconds = {"conv2d": 0.5, "matmul": 0.4, "shifted": 0.6}
    for forms in ("conv3d", "auto", "conv2d", "shifted"):
        with set_conv_forms(forms):
            block.zero_grad()
            out = block(x)
            out.square().sum().backward()
            results.append([out, *(p.grad.clone() for p in block.parameters())])
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


# --- settings --------------------------------------------------------------------------------------------------------


def test_a_form_can_be_set_and_is_restored(clock, used):
    conv, x = depthwise(), clip()
    set_conv_forms("conv3d")
    conv(x)
    with set_conv_forms({"temporal": "shifted", "point": "matmul"}):
        conv(x)
        conv3d(4, 4, (1, 1))(x)
        conv3d(4, 4, (3, 3), groups=4)(x)
    conv(x)
    assert used == ["conv3d", "shifted", "matmul", "conv3d", "conv3d"]
    assert set(clock.timed) == set(choosing.fitting(choosing.Conv((4, 1, 3, 3, 3), (1,) * 3, (1,) * 3, (1,) * 3, 4), 0))


def test_a_form_that_does_not_fit_is_conv3d(clock, used):
    with set_conv_forms("matmul"):
        depthwise()(clip())
        conv3d(4, 4, (1, 1))(clip())
    assert used == ["conv3d", "matmul"]


@pytest.mark.parametrize(
    ("forms", "error"),
    [
        ("conv4d", "'conv4d' is no form of a convolution; use auto, conv3d, conv2d"),
        ({"temporal": "fft"}, "'fft' is no form"),
        ({"time": "conv2d"}, "'time' is no kind of convolution; use point, spatial, temporal, whole"),
        (None, "None is no form of a convolution; use auto, conv3d, conv2d"),
    ],
)
def test_unknown_words_are_named(forms, error):
    with pytest.raises(ValueError, match=error):
        set_conv_forms(forms)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("auto", ("auto",) * 4),
        ("conv2d", ("conv2d",) * 4),
        ("spatial=conv2d, temporal=shifted", ("auto", "conv2d", "shifted", "auto")),
    ],
)
def test_the_environment_sets_forms(monkeypatch, text, policy):
    monkeypatch.setenv("VOV3D_CONV_FORMS", text)
    assert choosing._from_environment() == policy


def test_errors_of_the_environment_are_raised_by_the_first_use(clock, monkeypatch, tmp_path):
    for name, value in (("VOV3D_CONV_FORMS", "fast"), ("VOV3D_CONV_FORMS_CACHE", str(tmp_path / "a.json"))):
        (tmp_path / "a.json").write_text("{}")
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            patch.setattr(choosing, "_policy_now", choosing._from_environment())
            with pytest.raises(ValueError, match=f"environment variable {name}="):
                depthwise()(clip())


# --- the file --------------------------------------------------------------------------------------------------------


def test_choices_are_kept_for_the_next_process(clock, used, monkeypatch, tmp_path):
    file = tmp_path / "new" / "forms.json"
    clock.seconds = {"shifted": 0.5}
    conv, x = depthwise(), clip()
    with set_conv_forms(cache=file):
        conv(x)
    assert [p.name for p in file.parent.iterdir()] == ["forms.json"]
    row = json.loads(file.read_text())["choices"][0]
    assert row["form"] == "shifted"
    assert row["milliseconds"]["shifted"] == 500
    assert row["case"]["clip"] == [2, 4, 5, 6, 6]

    other = FakeClock()
    monkeypatch.setattr(choosing, "_chooser", Chooser(other))
    with set_conv_forms(cache=file):
        conv(x)
        assert not other.timed
        conv(clip(1, 4, 5, 6, 6))
    assert other.timed
    assert used == ["shifted", "shifted", "conv3d"]
    assert len(json.loads(file.read_text())["choices"]) == 2


def test_choices_of_another_gpu_or_version_are_kept_and_not_used(clock, monkeypatch, tmp_path):
    file = tmp_path / "forms.json"
    with set_conv_forms(cache=file):
        depthwise()(clip())
    monkeypatch.setattr(choosing, "_chooser", Chooser(clock))
    monkeypatch.setattr(choosing, "conditions", lambda device: {"device": "other", "torch": "9.9", "cudnn": 1})
    clock.timed.clear()
    with set_conv_forms(cache=file):
        depthwise()(clip())
    assert clock.timed
    assert len(json.loads(file.read_text())["choices"]) == 2


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1]",
        "{}",
        '{"format": "vov3d conv forms", "version": 2, "choices": []}',
        '{"format": "other", "version": 1, "choices": []}',
        '{"format": "vov3d conv forms", "version": 1, "choices": [{"form": 3, "case": {}}]}',
        '{"format": "vov3d conv forms", "version": 1, "choices": 3}',
        "\ud800",
    ],
)
def test_a_broken_or_foreign_file_is_one_clear_error(tmp_path, content):
    file = tmp_path / "forms.json"
    file.write_bytes(content.encode("utf-8", "surrogatepass"))
    before = choosing._policy_now
    with pytest.raises(ValueError, match=r"forms.json is no file of choices, 'vov3d conv forms' of version 1: .*name"):
        set_conv_forms("conv2d", cache=file)
    assert choosing._policy_now is before
    assert file.read_bytes() == content.encode("utf-8", "surrogatepass")


def test_a_file_can_be_of_several_processes(tmp_path):
    file = tmp_path / "forms.json"
    for device in ("a", "b", "a"):
        choosing._add(file, {"device": device}, choosing.Choice("conv3d", {"conv3d": 1.0}, {}))
    assert [row["case"]["device"] for row in choosing._read(file)] == ["b", "a"]


def test_channels_last_clips_stay_so(clock, monkeypatch):
    monkeypatch.setattr("vov3d.layers.conv._gains", lambda x: False)
    x = clip().contiguous(memory_format=CHANNELS_LAST)
    clock.seconds = {"conv2d_channels_first": 0.5}
    assert is_channels_last(depthwise()(x))
