"""Models that another runtime computes: the same calls and numbers, and plain errors."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from helpers.trained_like import without_zeros
from torch import nn

import vov3d
from vov3d.deploy import BACKENDS, ExportError, RuntimeModel, _runtimes

TINY = dict(depths=(1,), stem_chs=4, mid_chs=(8,), out_chs=(6,), head_chs=8, hidden_chs=8, output_stride=4)
CLOSE = dict(rtol=1e-4, atol=1e-5)
OTHERS = [name for name in BACKENDS if name not in ("torch", "auto")]


def tiny(**how) -> nn.Module:
    cfg = dict(label_names=["up", "down", "round"], num_frames=3, test_input_size=(3, 24, 24), pool_size=(3, 4))
    args = {"num_classes": 3, "pretrained_cfg_overlay": cfg, **TINY, **how}
    return without_zeros(vov3d.create_model("x3d_m", **args)).eval()


def features() -> nn.Module:
    return without_zeros(vov3d.create_model("x3d_m", features_only=True, out_indices=(0, 1), **TINY)).eval()


@pytest.fixture(scope="module")
def pair():
    pytest.importorskip("openvino")
    model = tiny()
    return model, vov3d.optimize_for_inference(model, backend="openvino")


def test_calls_and_settings_are_those_of_the_model(pair):
    model, fast = pair
    for shape in ((1, 3, 3, 24, 24), (4, 3, 1, 33, 20), (2, 3, 5, 20, 41), (1, 3, 3, 24, 24)):
        clip = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(fast(clip), model(clip), **CLOSE)
            torch.testing.assert_close(fast.forward_dense(clip), model.forward_dense(clip), **CLOSE)
    assert (fast.backend, fast.dtype, fast.device.type) == ("openvino", torch.float32, "cpu")
    assert (fast.num_classes, fast.in_chans, fast.training) == (3, 3, False)
    assert vov3d.class_names(fast) == ["up", "down", "round"]
    assert fast.feature_info == model.feature_info
    assert "openvino" in repr(fast)


def test_a_classifier_takes_it(pair):
    frames = torch.randint(0, 256, (5, 3, 30, 30), dtype=torch.uint8)
    ours, theirs = (vov3d.VideoClassifier(network).scores(frames) for network in pair)
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_copies_and_pickles_compute_the_same(pair):
    clip = torch.randn(1, 3, 3, 24, 24)
    for other in (copy.deepcopy(pair[1]), pickle.loads(pickle.dumps(pair[1]))):
        assert torch.equal(other(clip), pair[1](clip))
        assert vov3d.class_names(other) == ["up", "down", "round"]


SIGNAL = """
import os, pickle, signal, sys
first, second = (pickle.load(open(sys.argv[1], "rb")) for _ in range(2))
del first
del second
try:
    os.kill(os.getpid(), signal.SIGINT)
    signal.pause()
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
def test_ctrl_c_after_networks_are_gone_is_an_interrupt(pair, tmp_path):
    (tmp_path / "network").write_bytes(pickle.dumps(pair[1]))
    command = [sys.executable, "-c", SIGNAL, tmp_path / "network"]
    child = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert (child.returncode, child.stdout) == (0, "interrupted\n"), child.stderr[-2000:]


def test_what_it_cannot_do_is_refused_in_plain_words(pair):
    fast = pair[1]
    assert fast.eval() is fast.float() is fast.to("cpu") is fast
    with pytest.raises(ValueError, match="optimized for openvino cannot be trained; train the original"):
        fast.train()
    with pytest.raises(ValueError, match=r"runs on the CPU in torch\.float32, not on cpu in torch\.float64"):
        fast.double()
    with pytest.raises(AttributeError, match="has no forward_features; for it, call vov3d"):
        fast.forward_features(torch.zeros(1, 3, 3, 24, 24))
    with pytest.raises(ValueError, match="optimized already"):
        vov3d.optimize_for_inference(fast)
    with pytest.raises(ValueError, match="expected 3 channels"):
        fast(torch.zeros(1, 2, 3, 24, 24))


def test_a_file_of_it_is_refused(pair, tmp_path):
    with pytest.raises(ValueError, match="an optimized model cannot be exported"):
        vov3d.export(pair[1], tmp_path / "a.pt2")


@pytest.mark.slow  # exports
@pytest.mark.parametrize("backend", OTHERS)
def test_feature_maps_of_every_runtime(backend):
    pytest.importorskip(backend)
    model = features()
    fast = vov3d.optimize_for_inference(model, backend=backend)
    for shape in ((1, 3, 3, 24, 24), (2, 3, 2, 33, 20)):
        clip = torch.randn(shape)
        for found, expected in zip(fast(clip), model(clip), strict=True):
            torch.testing.assert_close(found, expected, **CLOSE)
    assert not hasattr(fast, "forward_dense")


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize(
    ("make", "how", "message"),
    [
        (lambda: tiny().train(), {}, "is in train mode; call eval"),
        (tiny, {"device": "meta"}, "runs on the CPU, not on meta; give device='cpu', or backend='torch'"),
        (tiny, {"dtype": torch.float16}, "computes in .*, not in torch.float16"),
        (tiny, {"compile": True}, "compile is for backend='torch'"),
        (lambda: nn.Sequential(nn.Conv3d(3, 4, 1)).eval(), {}, "cannot export a Sequential: give a model made by"),
        (lambda: vov3d.streaming(tiny()), {}, "a stream runs with backend='torch'"),
    ],
)
def test_what_no_other_runtime_takes_is_refused_before_any_work(backend, make, how, message, monkeypatch):
    monkeypatch.setattr(torch.export, "export", None)
    with pytest.raises(ValueError, match=message):
        vov3d.optimize_for_inference(make(), backend=backend, **how)


def test_an_unknown_runtime_is_refused():
    with pytest.raises(ValueError, match="backend must be one of 'torch', 'openvino', .*, got 'tpu'"):
        vov3d.optimize_for_inference(tiny(), backend="tpu")


def test_a_missing_runtime_names_its_extra(monkeypatch):
    monkeypatch.setattr("vov3d.deploy.formats.base.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"openvino: pip install 'vov3d\[deploy\]'"):
        vov3d.optimize_for_inference(tiny(), backend="openvino")


class _Made(RuntimeModel):
    def __init__(self, model, backend, dtype):
        nn.Module.__init__(self)
        self.backend = backend


def test_auto_takes_openvino_where_it_can(monkeypatch):
    monkeypatch.setattr(_runtimes, "RuntimeModel", _Made)
    monkeypatch.setattr(_runtimes, "find_spec", lambda name: name)
    assert vov3d.optimize_for_inference(tiny(), backend="auto").backend == "openvino"
    assert vov3d.optimize_for_inference(tiny().double(), backend="auto").backend == "torch"
    assert vov3d.optimize_for_inference(nn.Conv3d(3, 4, 1).eval(), backend="auto").backend == "torch"
    assert vov3d.optimize_for_inference(vov3d.streaming(tiny()), backend="auto").backend == "torch"
    monkeypatch.setattr(_runtimes, "find_spec", lambda name: None)
    assert vov3d.optimize_for_inference(tiny(), backend="auto").backend == "torch"


def test_auto_says_so_if_the_conversion_fails(monkeypatch):
    class Fails(RuntimeModel):
        def __init__(self, *_):
            raise ExportError("model.xml is off by more than 0.0001")

    monkeypatch.setattr(_runtimes, "RuntimeModel", Fails)
    monkeypatch.setattr(_runtimes, "find_spec", lambda name: name)
    with pytest.warns(RuntimeWarning, match=r"openvino is not used, since the conversion failed: model\.xml is off"):
        assert vov3d.optimize_for_inference(tiny(), backend="auto").backend == "torch"
