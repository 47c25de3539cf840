"""Files that hold weights, and files that do not."""

import argparse
import datetime
import io
import json
import logging
import os
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.reference_files import PUBLISHED, published_state_dict
from timm.models import adapt_input_conv

import vov3d
from vov3d import WeightsError, create_model
from vov3d.weights.state_dict import load_weights, open_weights, read_state_dict

NAME = "vov3d_m_k400"


@pytest.fixture(scope="module")
def state_dict():
    return published_state_dict(NAME)


@pytest.fixture
def native(state_dict):
    """Returns the published weights under this package's names."""
    return vov3d.models.vov3d.checkpoint_filter_fn(state_dict, torch.nn.Identity())


def save(content, path):
    torch.save(content, path)
    return path


WRAPPINGS = {
    "bare": lambda sd: sd,
    "model_state, optimizer beside it": lambda sd: {
        "epoch": 3,
        "model_state": sd,
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
        "cfg": "TRAIN: {}",
    },
    "state_dict": lambda sd: {"state_dict": sd, "arch": "x"},
    "module.": lambda sd: {f"module.{k}": v for k, v in sd.items()},
    "compiled, data-parallel": lambda sd: {"state_dict": {f"_orig_mod.module.{k}": v for k, v in sd.items()}},
    "lightning": lambda sd: {"state_dict": {f"model.{k}": v for k, v in sd.items()}},
    "timm": lambda sd: {"state_dict": {"wrong": torch.ones(1)}, "state_dict_ema": sd, "args": argparse.Namespace(lr=1)},
    "double": lambda sd: {k: v.double() if v.is_floating_point() else v for k, v in sd.items()},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings_load_the_same_weights(wrapping, state_dict, native, tmp_path):
    path = save(WRAPPINGS[wrapping](state_dict), tmp_path / "weights.pth")
    loaded = create_model("vov3d_m", checkpoint_path=path).state_dict()
    assert all(torch.equal(loaded[k].double(), native[k].double()) for k in loaded)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loads(dtype, state_dict, native, tmp_path):
    # Some save the counters in half precision too.
    path = save({k: v.to(dtype) for k, v in state_dict.items()}, tmp_path / "half.pth")
    loaded = create_model("vov3d_m", checkpoint_path=path).state_dict()
    assert loaded["stem.conv_s.weight"].dtype == torch.float32
    assert all(torch.equal(loaded[k].double(), native[k].to(dtype).double()) for k in loaded)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_safetensors_load_by_content(suffix, state_dict, native, tmp_path):
    path = tmp_path / f"weights.{suffix}"
    safetensors.torch.save_file(state_dict, path)
    loaded = create_model("vov3d_m", checkpoint_path=path).state_dict()
    assert all(torch.equal(loaded[k], native[k]) for k in loaded)


def test_number_of_classes_comes_from_the_file(tmp_path, caplog):
    path = save(published_state_dict("vov3d_l_ssv1"), tmp_path / "ssv1.pth")
    with caplog.at_level(logging.WARNING):
        model = create_model("vov3d_l", checkpoint_path=path)
        assert model.num_classes == model.pretrained_cfg["num_classes"] == 174
        assert model.pretrained_cfg["sampling"] == "segment"
        assert vov3d.class_names(model) is None  # the default tag's names are those of Kinetics
        tagged = create_model("vov3d_l.ssv1_f16", checkpoint_path=path)
    assert vov3d.class_names(tagged)[0] == "Holding something"
    assert not caplog.records


def test_other_number_of_classes_gets_a_fresh_head_and_says_so_once(state_dict, native, tmp_path, caplog):
    path = save(state_dict, tmp_path / "weights.pth")
    with caplog.at_level(logging.WARNING):
        loaded = create_model("vov3d_m", checkpoint_path=path, num_classes=7).state_dict()
    assert [r.message.split(": ", 1)[1] for r in caplog.records] == [
        "its 400-class head is left out, the model has a fresh one of 7"
    ]
    assert loaded["head.fc.weight"].shape == (7, 2048)
    assert all(torch.equal(loaded[k], native[k]) for k in loaded if not k.startswith("head.fc."))


def test_no_classifier_wanted(state_dict, native, tmp_path, caplog):
    path = save(state_dict, tmp_path / "weights.pth")
    loaded = create_model("vov3d_m", checkpoint_path=path, num_classes=0).state_dict()
    assert set(native) - set(loaded) == {"head.fc.weight", "head.fc.bias"}
    assert not caplog.records


@pytest.mark.parametrize("in_chans", [1, 2, 4, 6])
def test_stem_is_adapted_exactly(in_chans, state_dict, native, tmp_path):
    path = save(state_dict, tmp_path / "weights.pth")
    model = create_model("vov3d_m", checkpoint_path=path, in_chans=in_chans)
    expected = adapt_input_conv(in_chans, native["stem.conv_s.weight"].squeeze(2)).unsqueeze(2)
    assert torch.equal(model.stem.conv_s.weight, expected)
    assert torch.equal(model.head.fc.weight, native["head.fc.weight"])


def test_gray_clip_through_an_adapted_stem_equals_its_copies_in_three_channels(state_dict, tmp_path):
    path = save(state_dict, tmp_path / "weights.pth")
    gray = create_model("vov3d_m", checkpoint_path=path, in_chans=1).eval()
    rgb = create_model("vov3d_m", checkpoint_path=path).eval()
    x = torch.randn(1, 1, 4, 32, 32)
    torch.testing.assert_close(gray(x), rgb(x.expand(1, 3, 4, 32, 32)), rtol=1e-4, atol=1e-5)


def test_features_only_composes_with_a_checkpoint_and_channels(state_dict, native, tmp_path):
    path = save(state_dict, tmp_path / "weights.pth")
    model = create_model("vov3d_m", checkpoint_path=path, features_only=True, in_chans=1, out_indices=(1, 3))
    assert torch.equal(model.stages_2.blocks[0].conv_agg.weight, native["stages.2.blocks.0.conv_agg.weight"])
    assert [f.shape[1] for f in model(torch.randn(1, 1, 4, 32, 32))] == [20, 80]


def test_pytorchvideo_shortcut_without_norm_is_the_exact_identity(tmp_path):
    path = save(published_state_dict("pytorchvideo_x3d_s"), tmp_path / "x3d_s.pyth")
    shortcut = create_model("x3d_s", checkpoint_path=path).stages[0].blocks[0].shortcut.double().eval()
    x = torch.randn(1, 24, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(shortcut(x), shortcut.conv(x), rtol=1e-7, atol=1e-9)


def test_pytorchvideo_file_brings_its_own_tag(tmp_path):
    path = save(published_state_dict("pytorchvideo_x3d_s"), tmp_path / "x3d_s.pyth")
    model = create_model("x3d_m", checkpoint_path=path)
    assert model.pretrained_cfg["tag"] == "k400_ptv"
    assert model.pretrained_cfg["license"] == "apache-2.0"
    assert create_model("x3d_m.k400_f16", checkpoint_path=path).pretrained_cfg["tag"] == "k400_f16"


# --- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        (
            "vov3d_l_ssv1",
            "vov3d_m",
            r"this file holds vov3d_l \(24-wide stem, stages of 1, 2, 5, 3 blocks\), not vov3d_m",
        ),
        (
            "vov3d_m_k400",
            "vov3d_l",
            r"this file holds vov3d_m \(20-wide stem, stages of 1, 2, 3, 2 blocks\), not vov3d_l",
        ),
        ("x3d_m_k400", "vov3d_m", r"this file holds x3d_m .*, not vov3d_m"),
        ("vov3d_m_k400", "x3d_s", r"this file holds vov3d_m .*, not x3d_s"),
        ("pytorchvideo_x3d_s", "x3d_l", r"this file holds x3d_m .*, not x3d_l"),
    ],
)
def test_wrong_architecture_is_named(name, model, message, tmp_path):
    path = save(published_state_dict(name), tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=message) as error:
        create_model(model, checkpoint_path=path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_middle_convolution_is_named(state_dict, tmp_path):
    path = save(state_dict, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"this file holds vov3d_m \(.*\), not vov3d_m\(conv='dw3d'\)"):
        create_model("vov3d_m", checkpoint_path=path, conv="dw3d")


def test_the_argument_that_a_file_does_not_fit_is_named(native, tmp_path):
    path = save(native, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=r"holds vov3d_m \(.*\), not vov3d_m\(global_pool='catavgmax'\)"):
        create_model("vov3d_m", checkpoint_path=path, global_pool="catavgmax")
    with pytest.raises(WeightsError, match=r"holds vov3d_m \(.*\), not vov3d_m\(hidden_chs=1024\)"):
        create_model("vov3d_m", checkpoint_path=path, hidden_chs=1024)


def test_a_file_without_counters_of_batch_norms_loads_as_in_pytorch(native, tmp_path):
    bare = {name: tensor for name, tensor in native.items() if not name.endswith("num_batches_tracked")}
    loaded = create_model("vov3d_m", checkpoint_path=save(bare, tmp_path / "weights.pth")).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in bare.items())
    assert not any(loaded[name].any() for name in loaded.keys() - bare.keys())


def test_missing_unexpected_and_misshapen_tensors_are_listed_and_nothing_is_loaded(native, tmp_path):
    for i in range(7):
        native[f"extra.{i}"] = torch.ones(1)
    for name in [k for k in native if k.startswith("stages.1.blocks.0.layers.0.bn1")]:
        del native[name]
    native["head.hidden.weight"] = torch.ones(2048, 320, 1, 1, 2)
    path = save(native, tmp_path / "weights.pth")
    with pytest.raises(WeightsError) as error:
        create_model("vov3d_m", checkpoint_path=path)
    message = str(error.value)
    assert "5 tensors missing: stages.1.blocks.0.layers.0.bn1.weight, stages.1.blocks.0.layers.0.bn1.bias" in message
    assert "7 tensors unexpected: extra.0, extra.1, extra.2, extra.3, extra.4, and 2 more" in message
    assert "head.hidden.weight (is (2048, 320, 1, 1, 2), should be (2048, 320, 1, 1, 1))" in message
    assert message.endswith("Nothing was loaded")


@pytest.mark.parametrize(
    ("reference", "model", "dropped", "name"),
    [
        (NAME, "vov3d_m", "s1.pathway0_stem.bn.weight", "stem.bn.weight"),
        ("pytorchvideo_x3d_s", "x3d_s", "blocks.0.norm.weight", "stem.bn.weight"),
    ],
)
def test_one_missing_tensor_is_named_in_every_format(reference, model, dropped, name, tmp_path):
    state = published_state_dict(reference)
    del state[dropped]
    path = save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=f"weights.pth: 1 tensor missing: {name}. Nothing was loaded"):
        create_model(model, checkpoint_path=path)


def test_a_head_that_is_missing_is_not_excused_by_num_classes(native, tmp_path):
    del native["head.fc.weight"], native["head.fc.bias"]
    path = save(native, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="2 tensors missing: head.fc.weight, head.fc.bias"):
        create_model("vov3d_m", checkpoint_path=path, num_classes=400)


# --- what is no weights file -----------------------------------------------------------------------------------------


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_malicious_pickle_runs_nothing(state_dict, tmp_path):
    bomb = str(tmp_path / "exploded")
    for i, content in enumerate([{"model_state": state_dict, "x": Bomb(bomb)}, Bomb(bomb)]):
        path = save(content, tmp_path / f"{i}.pth")
        with pytest.raises(WeightsError, match="refused without running any of it"):
            create_model("vov3d_m", checkpoint_path=path)
        legacy = tmp_path / f"{i}_legacy.pth"
        torch.save(content, legacy, _use_new_zipfile_serialization=False)
        with pytest.raises(WeightsError, match="refused without running any of it"):
            create_model("vov3d_m", checkpoint_path=legacy)
    assert not os.path.exists(bomb)


def test_whole_modules_are_refused(tmp_path):
    path = save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    with pytest.raises(WeightsError, match=r"holds more than tensors \(torch.nn.modules.linear.Linear\)"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page, not weights"),
        (b"<html><body>404</body></html>", "is a web page, not weights"),
        (b'{"error": "not found"}', "is JSON text, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a Git LFS pointer"),
        (b"just some words", "truncated, damaged or not a PyTorch file"),
        (b"\x00" * 4096, "truncated, damaged or not a PyTorch file"),
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_other_content_is_refused_by_name(content, message, suffix, tmp_path):
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message) as error:
        read_state_dict(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.999])
@pytest.mark.parametrize("suffix", ["pth", "legacy.pth", "safetensors"])
def test_truncated_files_are_refused(suffix, kept, tmp_path):
    content = {f"layer.{i}.weight": torch.randn(300) for i in range(60)}
    path = tmp_path / f"weights.{suffix}"
    if suffix == "safetensors":
        safetensors.torch.save_file(content, path)
    else:
        torch.save(content, path, _use_new_zipfile_serialization=suffix == "pth")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(WeightsError, match="truncated"):
        read_state_dict(path)


def test_a_safetensors_header_that_begins_like_json(tmp_path):
    for padding in range(200):
        path = tmp_path / "weights.safetensors"
        safetensors.torch.save_file({"a": torch.ones(1)}, path, metadata={"x": "y" * padding})
        if path.read_bytes()[:1] == b"{":  # the header's length is 123 + 256 n
            break
    assert read_state_dict(path)["a"] == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor([1.0, float("nan")]), r"NaN or infinite values in b\.weight"),
        (torch.tensor([1.0, float("-inf")]), r"NaN or infinite values in b\.weight"),
        (torch.ones(2, dtype=torch.int8), r"floating-point tensors, got b\.weight \(int8\)"),
        (torch.ones(2, dtype=torch.complex64), r"got b\.weight \(complex64\)"),
        (torch.ones(2).to_sparse(), r"expected dense"),
        ([1.0, 2.0], r"not tensors: b\.weight"),
    ],
)
def test_wrong_values_are_refused_by_name(value, message, tmp_path):
    path = save({"a.weight": torch.ones(2), "b.weight": value}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=message):
        read_state_dict(path)


@pytest.mark.parametrize("content", [[torch.ones(1)], torch.ones(1), {}, {"model_state": {}}, "text"])
def test_values_without_names_are_refused(content, tmp_path):
    path = save(content, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="tensors"):
        read_state_dict(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.pth: no such weights file"):
        create_model("vov3d_m", checkpoint_path=tmp_path / "nowhere.pth")
    with pytest.raises(WeightsError, match=r"is a folder; load a saved model's folder with create_model\('local-dir:"):
        create_model("vov3d_m", checkpoint_path=tmp_path)
    with pytest.raises(ValueError, match="checkpoint_path is a dict: give the name of a file; tensors are loaded by"):
        create_model("vov3d_m", checkpoint_path={"stem": torch.zeros(1)})
    with pytest.raises(ValueError, match="checkpoint_path='https://host/w.pth' is an address: download it"):
        create_model("vov3d_m", checkpoint_path="https://host/w.pth")


@pytest.mark.parametrize("name", PUBLISHED)
def test_own_names_pass_the_filter_unchanged(name, tmp_path):
    model = create_model(PUBLISHED[name], checkpoint_path=save(published_state_dict(name), tmp_path / "a.pth"))
    own = model.state_dict()
    again = create_model(PUBLISHED[name], checkpoint_path=save(own, tmp_path / "b.pth")).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in own.items())


# --- training checkpoints --------------------------------------------------------------------------------------------

SMALL = dict(depths=(1,), mid_chs=(4,), out_chs=(4,), stem_chs=4, head_chs=4, hidden_chs=4, num_blocks=2)
SMALL |= dict(num_classes=3, output_stride=4)


def small(**change) -> torch.nn.Module:
    return create_model("vov3d_n", **{**SMALL, **change})


@pytest.fixture(scope="module")
def tensors():
    return small().state_dict()


def under(prefix: str, tensors) -> dict:
    return {f"{prefix}{name}": value for name, value in tensors.items()}


def averaged(tensors) -> dict:
    model = small()
    model.load_state_dict(tensors)
    return torch.optim.swa_utils.AveragedModel(model).state_dict()


def others() -> dict:
    """Tensors that differ from all networks made here, whose seeds are alike."""
    return {name: value + 1 for name, value in small().state_dict().items()}


def trained_beside(tensors, prefix: str) -> dict:
    """The network that is trained, and its averages under a prefix."""
    return under("net.", others()) | under(prefix, tensors)


def lightning(tensors, prefix: str) -> dict:
    others = under("teacher.", small(stem_chs=8).state_dict()) | {"loss.weight": torch.ones(5)}
    hyper = argparse.Namespace(lr=0.1, root=Path("/data"), since=datetime.datetime(2026, 1, 1), sizes={1, 2})
    return {"state_dict": under(prefix, tensors) | others, "hyper_parameters": hyper, "epoch": 3}


TRAINED = {
    "lightning net.": lambda sd: lightning(sd, "net."),
    "lightning model.": lambda sd: lightning(sd, "model."),
    "lightning self.net.": lambda sd: lightning(sd, "self.net."),
    "averaged": averaged,
    "averaged beside": lambda sd: {"model": others(), "ema": {"module": sd, "updates": 9}},
    "averaged beside, under a key of the user's": lambda sd: {
        "model": others(),
        "swa_state_dict": averaged(sd),
        "ema_optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    },
    "averaged, wrapped under a key of the user's": lambda sd: {
        "model_state_dict": others(),
        "avg_model": {"state_dict": sd, "updates": 9},
        "ema_teacher": others(),
    },
    "averaged alone, under a key of the user's": lambda sd: {"ema_model_state_dict": averaged(sd), "epoch": 3},
    "averaged at two rates": lambda sd: {"model": sd, "ema_fast": others(), "ema_slow": others()},
    "averaged under a prefix": lambda sd: {"state_dict": trained_beside(sd, "ema_model.module.")},
    "averaged by a callback": lambda sd: {"state_dict": trained_beside(sd, "net_ema.") | under("teacher.", others())},
    "averaged by MMEngine": lambda sd: {
        "message_hub": {},
        "state_dict": under("net.", sd),  # which the hook swaps
        "ema_state_dict": {"steps": torch.tensor(9), **under("module.net.", others())},
    },
    "a name with ema in it": lambda sd: {
        "state_dict": under("semantic.", sd) | under("teacher.", small().state_dict())
    },
    "numpy": lambda sd: {"model_state": sd, "epoch": np.int64(3), "best": np.float64(0.5), "curve": np.zeros(3)},
    "numpy float32": lambda sd: {"model_state": sd, "best": np.float32(0.5), "type": np.dtype("float32")},
    "parts compiled": lambda sd: {k.replace("stages.0.", "stages.0._orig_mod."): v for k, v in sd.items()},
    "sharded": lambda sd: under("_fsdp_wrapped_module.", sd),
    "views of one storage": lambda sd: views(sd),
    "channels-last": lambda sd: {
        k: v.to(memory_format=torch.channels_last_3d) if v.ndim == 5 else v for k, v in sd.items()
    },
    "optimizer": lambda sd: {"state_dict": sd, "optimizer": trained_optimizer().state_dict()},
}


def views(tensors) -> dict:
    flat = torch.cat([v.double().flatten() for v in tensors.values()])
    parts = flat.split([v.numel() for v in tensors.values()])
    return {k: part.view(v.shape) for (k, v), part in zip(tensors.items(), parts, strict=True)}


def trained_optimizer() -> torch.optim.Optimizer:
    model = small()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 3, 2, 8, 8)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", TRAINED)
def test_training_checkpoints_load_the_trained_network(kind, zipped, tensors, tmp_path):
    torch.save(TRAINED[kind](tensors), tmp_path / "last.ckpt", _use_new_zipfile_serialization=zipped)
    loaded = small(checkpoint_path=tmp_path / "last.ckpt").state_dict()
    assert all(torch.equal(loaded[k], tensors[k]) for k in tensors)


REFUSED = {
    "two networks": (lambda sd: under("left.", sd) | under("right.", sd), r"2 networks, under 'left\.', 'right\.'"),
    "two networks, ema in a name": (
        lambda sd: under("semantic.", sd) | under("motion.", sd),
        r"2 networks, under 'motion\.', 'semantic\.'",
    ),
    "averages without names": (
        lambda sd: {"model": sd, "ema": {"decay": 0.9, "shadow_params": list(sd.values())}},
        r"its 'ema' \(others: model\) holds values that are not tensors: decay, shadow_params; save the part with",
    ),
    "averages of parameters": (
        lambda sd: {"model": sd, "ema": {k: v for k, v in sd.items() if "running" not in k}},
        r"its 'ema' \(others: model\): \d+ tensors missing: stem\.bn\.running_mean",
    ),
    "features": (lambda sd: small(features_only=True).state_dict(), r"made with features_only=True, which has no head"),
    "recognizer of ours": (
        lambda sd: (
            {k: v for k, v in under("backbone.", sd).items() if "head" not in k} | {"cls_head.fc": torch.ones(1)}
        ),
        r"under 'backbone\.' \(others: cls_head\): \d+ tensors missing: head\.conv\.weight",
    ),
    "recognizer of theirs": (
        lambda sd: {"backbone.conv1_s.conv.weight": torch.ones(1), "cls_head.fc_cls.bias": torch.ones(1)},
        r"a recognizer of MMAction2 \('backbone\.', 'cls_head\.'\)",
    ),
    "a whole module": (lambda sd: {"model": torch.nn.Linear(2, 2)}, r"more than tensors \(torch\.nn\.modules"),
    "two formats": (lambda sd: sd | {"s1.pathway0_stem.conv.weight": torch.ones(1)}, "two names of one tensor"),
    "two wrappers": (lambda sd: sd | {"_orig_mod.stem.bn.bias": sd["stem.bn.bias"]}, r"stem\.bn\.bias twice"),
    "too large": (lambda sd: {k: v.double() + 1e300 for k, v in sd.items()}, "that float32 cannot hold"),
    "counters": (lambda sd: {k: v + 1e30 if "tracked" in k else v for k, v in sd.items()}, "that int64 cannot hold"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_ambiguous_or_unsupported_files_are_refused_by_name(kind, tensors, tmp_path):
    make, message = REFUSED[kind]
    path = save(make(tensors), tmp_path / "last.ckpt")
    with pytest.raises(WeightsError, match=message) as error:
        small(checkpoint_path=path)
    assert str(error.value).startswith(str(path))


@pytest.mark.slow
def test_threads_load_while_others_change_the_safe_globals(tensors, tmp_path):
    path = save({"state_dict": tensors, "args": argparse.Namespace(lr=1)}, tmp_path / "last.ckpt")
    stop = threading.Event()

    def disturb():
        while not stop.is_set():
            with torch.serialization.safe_globals([argparse.Namespace]):
                torch.serialization.clear_safe_globals()

    other = threading.Thread(target=disturb)
    other.start()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: read_state_dict(path).keys() == tensors.keys(), range(12)))
    stop.set()
    other.join()
    assert found == [True] * 12


def test_globals_that_others_declared_safe_are_not_run(tensors, tmp_path):
    with torch.serialization.safe_globals([os.mkdir, getattr]):
        for i, code in enumerate((Bomb(str(tmp_path / "ran")), [getattr, "x"])):
            path = save({"model_state": tensors, "x": code}, tmp_path / f"{i}.pth")
            with pytest.raises(WeightsError, match="refused without running any of it"):
                read_state_dict(path)
    assert not (tmp_path / "ran").exists()


# --- hostile and damaged files ---------------------------------------------------------------------------------------


def pickled(body: bytes, path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", body)


def safe(header: object, path) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))


def bomb(path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 26))


def many_blocks(tensors) -> dict:
    return tensors | {f"stages.0.blocks.{i}.conv_agg.weight": torch.ones(1) for i in range(1, 3000)}


ENDLESS = {
    "index": lambda sd, p: torch.save(sd | {"stages.999999999999.blocks.0.bn.weight": torch.ones(1)}, p),
    "indices": lambda sd, p: torch.save({k.replace("stages.0", "stages.99999999999"): v for k, v in sd.items()}, p),
    "blocks": lambda sd, p: torch.save(many_blocks(sd), p),
    "digits": lambda sd, p: torch.save(sd | {f"stages.{'9' * 5000}.x": torch.ones(1)}, p),
    "prefixes": lambda sd, p: torch.save({"module." * 50_000 + "stem.bn.bias": torch.ones(1)}, p),
    "expanded": lambda sd, p: torch.save(sd | {"head.fc.weight": torch.ones(1, 1).expand(1 << 20, 1 << 12)}, p),
    "entries": lambda sd, p: torch.save({str(i): i for i in range(200_000)}, p),
    "dimensions": lambda sd, p: safe({"a": {"dtype": "F32", "shape": [1] * 100_000, "data_offsets": [0, 4]}}, p),
    "meta": lambda sd, p: torch.save({k: v.to("meta") for k, v in sd.items()}, p),
    "no rows": lambda sd, p: torch.save(sd | {"stages.0.blocks.0.layers.0.conv_pw.weight": torch.empty(0, 4)}, p),
    "no dimensions": lambda sd, p: torch.save(sd | {"head.fc.weight": torch.tensor(1.0)}, p),
    "nothing to pool": lambda sd, p: torch.save(sd | {"head.hidden.weight": torch.empty(0)}, p),
    "escape": lambda sd, p: torch.save(sd | {"\x1b[2J": torch.ones(1)}, p),
    "nested": lambda sd, p: pickled(b"\x80\x02" + b"]" * 90_000 + b"a" * 89_999 + b".", p),
    "itself": lambda sd, p: pickled(b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.", p),
    "shared key": lambda sd, p: pickled(b"\x80\x02}()" + b"2\x86" * 60 + b"K\x01u.", p),
    "shared items": lambda sd, p: pickled(b"\x80\x04\x8f()" + b"2\x86" * 60 + b"\x90.", p),
    "steps": lambda sd, p: pickled(b"\x80\x02" + b"N0" * 600_000 + b"N.", p),
    "length": lambda sd, p: pickled(b"\x80\x04\x8d" + b"\xff" * 7 + b"\x3fx.", p),
    "unpacks": lambda sd, p: bomb(p),
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_small_files_that_ask_for_much_are_refused(kind, tensors, tmp_path):
    path = tmp_path / "small.pth"
    ENDLESS[kind](tensors, path)
    assert path.stat().st_size < 10_000_000
    for load in (lambda: small(checkpoint_path=path), lambda: vov3d.convert(path, tmp_path / "out")):
        with pytest.raises(WeightsError, match=r"small\.pth") as error:
            load()
        assert len(str(error.value)) < 3000
        assert str(error.value).isprintable()


def test_values_are_read_after_names_and_shapes_were_compared(tensors, tmp_path, monkeypatch):
    path = save({**tensors, "head.fc.bias": torch.full((4,), float("nan"))}, tmp_path / "weights.pth")
    monkeypatch.setattr("vov3d.weights.state_dict.read_tensors", None)
    with pytest.raises(WeightsError, match=r"head\.fc\.bias \(is \(4,\), should be \(3,\)\)"):
        small(checkpoint_path=path)


def test_every_flipped_bit_of_an_archive_is_detected_or_harmless(tensors, tmp_path):
    path = save(tensors, tmp_path / "weights.pth")
    content, random = path.read_bytes(), Random(0)
    refused = 0
    for _ in range(100):
        flipped = bytearray(content)
        flipped[random.randrange(len(content))] ^= 1 << random.randrange(8)
        path.write_bytes(flipped)
        try:
            found = read_state_dict(path)
            assert all(torch.equal(found[k], tensors[k]) for k in tensors)
        except WeightsError:
            refused += 1
    assert refused > 40  # more than half of so small a file is padding between tensors


def test_archives_without_checksums_load(tensors, tmp_path):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    path = save(tensors, tmp_path / "weights.pth")
    torch.serialization.set_crc32_options(before)
    assert all(torch.equal(v, tensors[k]) for k, v in read_state_dict(path).items())


def damaged(content: bytes, random: Random) -> bytes:
    """Damages a file: cut, flipped, grown, blanked; or changes members of an archive, with checksums that fit."""
    at, how = random.randrange(len(content)), random.randrange(7)
    if how > 3 and content.startswith(b"PK"):
        return repacked(content, random, how)
    flipped = bytearray(content)
    for _ in range(random.choice((1, 1, 30))):
        flipped[random.randrange(len(content) if how else min(9000, len(content)))] ^= 1 << random.randrange(8)
    return {
        1: content[:at],
        2: content[:at] + random.randbytes(9) + content[at:],
        3: content[:at] + bytes(100) + content[at + 100 :],
    }.get(how, bytes(flipped))


def repacked(content: bytes, random: Random, how: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            data = bytearray(source.read(name))
            if name.endswith("data.pkl"):
                for _ in range(random.choice((1, 3)) if how == 4 else 0):
                    data[random.randrange(len(data))] ^= 1 << random.randrange(8)
            elif how > 4 and random.random() < 0.02:
                name = f"{name}x" if how == 5 else name.rpartition("/")[0] + "/0"
            target.writestr(name, bytes(data))
    return out.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("cases", [200, pytest.param(1500, marks=pytest.mark.slow)])
def test_a_damaged_file_loads_whole_or_is_refused_by_name(cases, tensors, tmp_path):
    files = [io.BytesIO(), io.BytesIO()]
    for i, file in enumerate(files):
        torch.save({"model_state": tensors, "epoch": 3}, file, _use_new_zipfile_serialization=bool(i))
    contents = [*(file.getvalue() for file in files), safetensors.torch.save(tensors)]
    random, model = Random(cases), small()
    path = tmp_path / "weights.pth"
    for _ in range(cases):
        path.write_bytes(damaged(random.choice(contents), random))
        message = ""
        try:
            load_weights(model, open_weights(path), str(path), vov3d.models.vov3d.checkpoint_filter_fn)
        except WeightsError as error:
            message = str(error)
        assert not message or (message.startswith(str(path)) and "\n" not in message)
