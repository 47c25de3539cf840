"""What `vov3d benchmark` counts and reports; never how long something takes."""

import json
import math
import subprocess
import sys
from collections import Counter
from functools import partial

import pytest
import torch
from torch import nn

import vov3d
from vov3d.benchmark import OUTSIDE, Roofline, by_operator, measure, peak_memory
from vov3d.cli import _peers, main
from vov3d.cli.benchmark import _table8_cells, _training_step
from vov3d.models.budget import Budget, budget_of

CPU = torch.device("cpu")
TINY = ["vov3d_m", "--frames", "2", "--size", "32", "--repetitions", "2"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("vov3d.cli.benchmark.measure_roofline", lambda *args: Roofline(1e11, 1e10))


def test_cost_is_the_budget_of_the_zoo():
    model = vov3d.create_model("x3d_m").eval()
    budget = vov3d.measure_budget("x3d_m", 4, 64)
    assert budget_of(model, torch.randn(1, 3, 4, 64, 64)) == budget._replace(stages=())
    assert not any(m._forward_hooks for m in model.modules())


def test_peak_memory_counts_tensors_that_live_at_once():
    def two_then_one():
        a = torch.ones(1000, 1000)
        b = a + 1
        del a, b
        return torch.ones(500, 1000)

    assert peak_memory(two_then_one, CPU) == pytest.approx(8e6, rel=0.01)


@pytest.mark.slow
def test_peak_memory_prints_nothing():
    code = "import torch; from vov3d.benchmark import peak_memory as f; f(lambda: 0, torch.device('cpu'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_bar_shows_the_progress(capsys):
    assert main(["benchmark", *TINY]) == 0
    err = capsys.readouterr().err
    assert "measuring the roofline in fp32" in err
    assert "0/7" in err  # the machine, preparing, 2 to warm up, 2 that count, memory
    assert "measuring memory" in err


def test_calls_take_turns():
    turns: list[str] = []
    times = measure({name: lambda name=name: turns.append(name) for name in "ab"}, CPU, repetitions=3, warmup=1)
    assert "".join(turns) == "ab" + "ab" * 3
    assert all(t.q1 <= t.median <= t.q3 for t in times.values())


def test_roofline_is_the_longer_of_computing_and_moving():
    roofline = Roofline(flops=100, bandwidth=10)
    assert roofline.seconds(Budget(params=0, macs=1000, activations=1), batch=2, itemsize=4) == 40
    assert roofline.seconds(Budget(params=10, macs=1, activations=100), batch=1, itemsize=4) == 84
    assert roofline.seconds(Budget(params=10, macs=1, activations=100), batch=1, itemsize=4, train=True) == 252


@pytest.mark.slow
def test_json_has_every_combination(capsys):
    assert main(["benchmark", *TINY, "--batch", "1", "2", "--backends", "eager,optimized", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = [(r["model"], r["backend"], r["dtype"], r["batch"]) for r in report["rows"]]
    assert rows == [("vov3d_m", b, "fp32", n) for b in ("eager", "optimized") for n in (1, 2)]
    for row in report["rows"]:
        assert row["peak_bytes"] > 0
        assert math.isclose(row["clips_per_second"], row["batch"] / row["median"])
        assert math.isclose(row["times_over_roofline"], row["median"] / row["roofline_seconds"])


def test_table_8_counts_views():
    row = dict(model="m", backend="eager", dtype="fp32", batch=1, params=3_200_000, activations=55_000_000)
    cells = _table8_cells(row | dict(peak_bytes=80_000_000, clips_per_second=3.0))
    assert cells == ("m", "eager", "fp32", "1", "3.20", "55.0", "80", "10.00", "2.00")


@pytest.mark.slow
def test_text_and_picture(capsys, tmp_path):
    pytest.importorskip("matplotlib")
    assert main(["benchmark", *TINY, "--mode", "train", "--batch", "2", "--picture", str(tmp_path / "bars.png")]) == 0
    out = capsys.readouterr().out
    assert "train, 2 frames of 32 pixels" in out
    assert (tmp_path / "bars.png").read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in tmp_path.iterdir()] == ["bars.png"]


def test_a_training_step_trains():
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 3))
    before = model[1].weight.detach().clone()
    _training_step(model, "eager", torch.float32)(torch.randn(2, 3, 1, 4, 4))
    assert not torch.equal(before, model[1].weight)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--mode", "train", "--backends", "optimized"], "--backends optimized cannot train; use eager or compile"),
        (["--mode", "train", "--table8"], "--table8 is about inference"),
        (["--dtypes", "fp16"], "fp16 is for GPUs"),
        (["--backends", "onnx", "--dtypes", "bf16"], "--backends onnx is measured in fp32"),
        (["--picture", "bars.bmpp"], "--picture bars.bmpp: its name must end in one of .eps, "),
    ],
)
def test_combinations_that_cannot_run_are_refused(capsys, options, error):
    assert main(["benchmark", *TINY, *options]) == 1
    assert error in capsys.readouterr().err


def test_measurements_are_printed_before_they_are_drawn(capsys, tmp_path, monkeypatch):
    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr("vov3d.cli.benchmark._draw", full)
    assert main(["benchmark", *TINY, "--json", "--picture", str(tmp_path / "bars.PNG")]) == 1
    printed = capsys.readouterr()
    assert json.loads(printed.out)["rows"]
    assert "no space left" in printed.err


def test_unknown_words_are_named(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "vov3d_m", "--backends", "eager,tensorrt"])
    assert "'tensorrt' is not one of eager, optimized, compile, openvino, onnx" in capsys.readouterr().err
    assert main(["benchmark", "vov3d_z"]) == 1


def test_peers_take_clips(monkeypatch):
    monkeypatch.setattr(_peers, "find_spec", lambda name: None)
    found, absent = _peers.peers(frames=4, size=64)
    assert absent["mvit_v2_s (torchvision)"] == "takes 16 frames of 224 pixels only"
    assert absent["x3d_m (pytorchvideo)"] == "pytorchvideo is not installed"
    assert set(found) == {"resnet50 (timm)", "r2plus1d_18 (torchvision)"}
    assert found["resnet50 (timm)"]().eval()(torch.randn(1, 3, 2, 32, 32)).shape == (1, 1000)


# --- by layer --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_operators_add_up_to_the_budget_of_the_model():
    model = vov3d.create_model("vov3d_n", pretrained=True).eval()
    clip = torch.randn(2, 3, 4, 32, 32)
    budget = vov3d.measure_budget("vov3d_n", 4, 32)
    for network in (model, vov3d.optimize_for_inference(model)):
        found = by_operator(network, partial(torch.no_grad()(network), clip), repetitions=2, warmup=0)
        assert sum(o.flops for o in found) == pytest.approx(2 * 2 * budget.macs, rel=0.01)
        assert all(o.seconds > 0 and o.bytes > 0 for o in found if "convolution" in o.name)
    assert {"cat", "silu", "addmm"} <= {o.name for o in found}
    assert any(o.layer.endswith("stages.0.blocks.0.layers.0.branch.1") for o in found)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_cost_of_an_operator_is_what_it_computes_and_moves():
    x, linear = torch.randn(4, 10), nn.Linear(10, 5)
    network = nn.Sequential(linear, nn.ReLU())
    (product, relu) = by_operator(network, partial(torch.no_grad()(network), x), repetitions=1, warmup=0)
    assert (product.layer, product.name, product.flops) == ("0", "addmm", 2 * 4 * 10 * 5)
    assert product.bytes == 4 * (4 * 10 + 10 * 5 + 5 + 4 * 5)
    assert (relu.layer, relu.name, relu.flops, relu.bytes) == ("1", "relu", 0, 4 * 2 * 4 * 5)
    assert product.bound(Roofline(flops=100, bandwidth=1e9)) == 4.0
    assert relu.bound(Roofline(flops=100, bandwidth=10)) == 16.0


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("kind", "positions"), [(nn.Conv3d, 2 * 3 * 4), (nn.ConvTranspose3d, 4 * 5 * 6)])
def test_each_gradient_of_a_convolution_costs_a_forward_pass(kind, positions, groups):
    conv, x = kind(4, 8, 3, groups=groups), torch.randn(2, 4, 4, 5, 6, requires_grad=True)
    forward, *others = by_operator(conv, lambda: conv(x).sum().backward(), repetitions=1, warmup=0)
    assert forward.flops == 2 * 2 * positions * 27 * 4 * 8 // groups
    assert sum(o.flops for o in others) == 2 * forward.flops


def test_memory_that_was_there_before_is_not_counted():
    x = torch.ones(1000, 1000)
    assert peak_memory(lambda: x.add_(1).view(-1).relu_(), CPU) == 0


def test_the_table_by_layer_has_every_operator_and_their_sums(capsys):
    assert main(["benchmark", *TINY, "--by-layer"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "vov3d_m  optimized fp32, batch 1" in out
    assert out.count("x least") == 2
    last = out.splitlines()[-1].split()
    assert last[1:3] == ["calls", "all"]
    assert main(["benchmark", *TINY, "--by-layer", "--json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)["tables"]
    assert len(table["operations"]) == int(last[0])


def test_the_operators_of_a_training_step(capsys):
    assert main(["benchmark", "vov3d_n", *TINY[1:], "--by-layer", "--mode", "train", "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    (table,) = json.loads(out)["tables"]
    sums = Counter()
    for row in table["operations"]:
        sums[row["name"], row["layer"] == OUTSIDE] += row["flops"]
    assert table["backend"] == "eager"
    # the gradients of clip and weight cost a forward pass each, but the video needs none
    forward, backward = sums["convolution", False], sums["convolution_backward", True]
    assert 1.9 * forward < backward < 2 * forward
    assert {("nll_loss_forward", True), ("native_batch_norm_backward", True), ("addmm", False)} <= sums.keys()
    assert not any("record_function" in name for name, _ in sums)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--mode", "train", "--backends", "optimized"], "--backends optimized cannot train"),
        (["--mode", "train", "--backends", "compile"], "cannot look into --backends compile"),
        (["--table8"], "--table8 has no effect with --by-layer"),
        (["--backends", "openvino"], "cannot look into --backends openvino"),
    ],
)
def test_what_has_no_effect_by_layer_is_refused(more, message, capsys):
    assert main(["benchmark", *TINY, "--by-layer", *more]) == 1
    assert message in capsys.readouterr().err
