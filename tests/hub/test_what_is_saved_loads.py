"""Whatever was done to a model: the folder loads and gives the same outputs, or saving says why not."""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections import OrderedDict

import pytest
import torch
import torch.nn.utils.prune as prune
from helpers.trained_like import as_trained
from torch import nn
from torch.nn.utils import parametrizations

import vov3d
from vov3d import WeightsError, create_model, from_pretrained, save_pretrained
from vov3d.files import replacing

NANO = dict(stem_chs=4, mid_chs=(4, 8), out_chs=(4, 8), depths=(1, 2), output_stride=8, head_chs=8, hidden_chs=8)
X = torch.randn(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def nano(name: str = "x3d_m", **kwargs) -> nn.Module:
    return as_trained(create_model(name, **{**NANO, "num_classes": 5, **kwargs})).float()


def factorized(name="x3d_m", fold=False, **kwargs):
    model = nano(name, conv=kwargs.pop("base", "dw3d"))
    vov3d.factorize(model, **kwargs)
    model = as_trained(model).float()
    return vov3d.fold_batchnorm(model) if fold else model


def with_head(fc: nn.Module) -> nn.Module:
    model = nano()
    model.head.fc = fc
    return model.eval()


RECORDED = {
    "rank 1": lambda: factorized(),
    "rank 3, time first": lambda: factorized(rank=3, order="d1plus2d"),
    "a norm between": lambda: factorized(norm="batchnorm3d"),
    "some layers": lambda: factorized(filter="stages.1.*"),
    "by a function": lambda: factorized(filter=lambda name, conv: name.endswith("0.conv_st")),
    "full kernels": lambda: factorized(base="3d", conv="r2plus1d"),
    "of VoV3D": lambda: factorized("vov3d_m", rank=2),
    "folded": lambda: vov3d.fold_batchnorm(nano("vov3d_m")),
    "factorized and folded": lambda: factorized(fold=True, norm="batchnorm3d", rank=2),
    "a linear layer by hand": lambda: with_head(nn.Linear(8, 9)),
    "frozen norms": lambda: vov3d.freeze_batchnorm(nano()),
    "synchronised norms": lambda: nn.SyncBatchNorm.convert_sync_batchnorm(nano()),
    "dropout": lambda: nano(drop_rate=0.3, drop_path_rate=0.2),
    "plain": lambda: nano(),
    "tied parameters": lambda: changed(
        lambda m: setattr(m.stages[0].blocks[0].se.fc1, "bias", m.stages[1].blocks[0].se.fc1.bias)
    ),
    "a shared layer": lambda: changed(lambda m: setattr(m.head, "act1", m.stem.act)),
    "a place for a hook": lambda: changed(lambda m: setattr(m, "tap", nn.Identity())),
    "backward hooks": lambda: changed(lambda m: m.stem.register_full_backward_hook(lambda *_: None)),
    "compiled in place": lambda: changed(lambda m: m.compile(backend="eager")),
    "a compiled method": lambda: changed(
        lambda m: setattr(m.head, "forward", torch.compile(m.head.forward, backend="eager"))
    ),
}


LONG = ("compiled in place", "of VoV3D", "folded")


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow) if kind in LONG else kind for kind in RECORDED]
)
def test_arguments_survive_saving_and_loading(kind, tmp_path):
    model = RECORDED[kind]().eval()
    for folder in ("once", "twice"):
        again = from_pretrained(save_pretrained(model, tmp_path / folder))
        assert again.training
        assert {k: v.shape for k, v in again.state_dict().items()} == {
            k: v.shape for k, v in model.state_dict().items()
        }
        torch.testing.assert_close(again.eval()(X), model(X), rtol=1e-4, atol=1e-5)
        model = again
    features = from_pretrained(tmp_path / "twice", features_only=True).eval()
    torch.testing.assert_close(features(X)[-1], model.forward_features(X), rtol=1e-4, atol=1e-5)


def changed(change) -> nn.Module:
    model = nano()
    change(model)
    return model.eval()


def lora(model):
    peft = pytest.importorskip("peft")
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["fc"]))


def reordered(blocks):
    """Returns blocks under their own names in the other order; they have equal widths but for the first."""
    return nn.Sequential(OrderedDict(reversed(list(blocks.named_children()))))


REFUSED = {
    "replaced blocks": (
        lambda m: vov3d.replace_blocks(m, {"stages.1.blocks.1": lambda old: vov3d.TOSA(8, 8, 8)}, (1, 3, 2, 16, 16)),
        r"stages\.1\.blocks\.1 is a TOSA, not a D2plus1D",
    ),
    "pruned": (lambda m: prune.l1_unstructured(m.head.fc, "weight", 0.5), r"prune\.remove"),
    "a pruned convolution": (
        lambda m: prune.l1_unstructured(m.stem.conv_s, "weight", 0.5),
        r"stem\.conv_s is a Conv3d with tensors or code of its own, not a Conv3d.*prune\.remove",
    ),
    "parametrized": (lambda m: parametrizations.weight_norm(m.head.fc), "remove_parametrizations"),
    "spectral norm": (lambda m: nn.utils.spectral_norm(m.head.fc), "remove_spectral_norm"),
    "own head": (lambda m: setattr(m.head, "fc", nn.Sequential(nn.Linear(8, 5))), r"head\.fc is a Sequential, not a"),
    "no bias": (lambda m: setattr(m.head, "fc", nn.Linear(8, 5, bias=False)), r"head\.fc\.bias is missing"),
    "whole head": (lambda m: setattr(m, "head", nn.Identity()), "head is a Identity, not a ClassifierHead3d"),
    "own stem": (lambda m: setattr(m.stem, "conv_s", nn.Conv3d(3, 4, (1, 5, 5), (1, 2, 2), (0, 2, 2))), "stem.conv_s"),
    "another stride": (lambda m: setattr(m.stem.conv_s, "stride", (1, 1, 1)), r"stem\.conv_s has other settings"),
    "another epsilon": (lambda m: setattr(m.head.bn, "eps", 0.1), r"head\.bn has other settings"),
    "another activation": (lambda m: setattr(m.head, "act1", nn.GELU()), r"head\.act1 is a GELU, not a ReLU"),
    "an added layer": (lambda m: m.stages[0].blocks.append(nn.Conv3d(4, 4, 1)), r"stages\.0\.blocks\.1 was added"),
    "a missing block": (lambda m: m.stages[1].blocks.pop(1), r"stages\.1\.blocks\.1 was removed"),
    "half precision": (lambda m: m.half(), r"is torch\.float16, not torch\.float32; call model\.float\(\)"),
    "a part in bfloat16": (lambda m: m.head.bfloat16(), r"is torch\.bfloat16, not torch\.float32"),
    "LoRA": (lora, "merge_and_unload"),
    "no shortcut": (
        lambda m: setattr(m.stages[1].blocks[1], "shortcut", None),
        r"stages\.1\.blocks\.1\.shortcut was removed",
    ),
    "another order": (
        lambda m: setattr(m.stages[1], "blocks", reordered(m.stages[1].blocks)),
        r"stages\.1\.blocks runs its layers in the order 1, 0",
    ),
    "its own forward": (
        lambda m: setattr(m.stages[1], "forward", lambda x: 2 * x),
        r"stages\.1 has a forward that was set on the instance.*del module",
    ),
    "another method": (
        lambda m: setattr(m, "forward_features", lambda x: 2 * m.stages(m.stem(x))),
        "the model has a forward_features that was set on the instance",
    ),
    "a compiled function": (
        lambda m: setattr(m, "forward", torch.compile(lambda x: 2 * x, backend="eager")),
        "the model has a forward that was set on the instance",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_arguments_that_the_configuration_cannot_hold_are_refused(kind, tmp_path, hub):
    change, reason = REFUSED[kind]
    model = changed(change)
    for save in (lambda: save_pretrained(model, tmp_path / "m"), lambda: vov3d.push_to_hub(model, "me/mine")):
        with pytest.raises(ValueError, match="cannot save this X3D: .*" + reason):
            save()
    assert os.listdir(tmp_path) == []
    assert not hub.repos


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_forward_hooks_are_named_when_a_model_is_saved_without_them(tmp_path, kind):
    model = nano().eval()
    plain = model(X)
    handle = getattr(model.stages[1], kind)(lambda *_: None)
    with pytest.warns(UserWarning, match=r"saved without the forward hooks of stages\.1: if they change values"):
        save_pretrained(model, tmp_path / "hooked")
    torch.testing.assert_close(from_pretrained(tmp_path / "hooked").eval()(X), plain)
    handle.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        save_pretrained(model, tmp_path / "plain")


def test_what_accelerate_leaves_on_a_model_is_no_obstacle(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    state = accelerate.state
    state.AcceleratorState._reset_state(reset_partial_state=True)
    try:
        trainer = accelerate.Accelerator(mixed_precision="bf16", cpu=True)
        for keep in (True, False):
            model = trainer.unwrap_model(trainer.prepare(nano()), keep_fp32_wrapper=keep)
            assert "forward" in vars(model)
            again = from_pretrained(save_pretrained(model, tmp_path / str(keep))).eval()
            torch.testing.assert_close(again(X), nn.Module.eval(model)(X), rtol=0.05, atol=0.05)
        model = nano()
        accelerate.hooks.add_hook_to_module(model.head, accelerate.hooks.AlignDevicesHook())
        save_pretrained(model, tmp_path / "hooked")
        model = nano()
        model.forward = lambda x: 2 * x
        with pytest.raises(ValueError, match="has a forward that was set on the instance"):
            save_pretrained(trainer.unwrap_model(trainer.prepare(model)), tmp_path / "own")
    finally:
        state.AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
def test_the_temperature_of_the_model_in_memory_is_saved(tmp_path):
    model = vov3d.create_model("vov3d_n", pretrained=True).eval()
    with torch.no_grad():
        model.head.fc.bias += 1e-3
    clip = torch.randn(1, 3, 8, 64, 64)
    again = from_pretrained(save_pretrained(model, tmp_path / "trained")).eval()
    assert again.temperature == model.temperature != 1
    torch.testing.assert_close(again.forward_dense(clip), model.forward_dense(clip))
    for classes in (20, 7):
        model.reset_classifier(classes)
        assert from_pretrained(save_pretrained(model, tmp_path / "new")).temperature == model.temperature == 1
    own = nano()
    own.pretrained_cfg |= {"num_classes": 5, "temperature": 2.5}
    for folder in ("once", "twice"):
        own = from_pretrained(save_pretrained(own, tmp_path / folder))
        assert own.temperature == 2.5


def test_wrapped_models_say_what_to_save(tmp_path):
    with pytest.raises(ValueError, match=r"cannot save a AveragedModel: .*save its \.module"):
        save_pretrained(torch.optim.swa_utils.AveragedModel(nano()), tmp_path)
    with pytest.raises(ValueError, match=r"cannot save a OptimizedModule: .*save its \._orig_mod"):
        save_pretrained(torch.compile(nano()), tmp_path)


def test_split_kernels_load_into_the_network_that_is_built_of_such_pairs(tmp_path):
    model = factorized()
    torch.save(model.state_dict(), tmp_path / "split.pth")
    native = create_model("x3d_m", conv="d2plus1d", checkpoint_path=tmp_path / "split.pth", **NANO).eval()
    torch.testing.assert_close(native(X), model(X))


@pytest.mark.parametrize("names", [["a\nb"], ["\x1b[31mred"], ["x" * 20_000], ["\u202eturned"], [3], ["\x00"]])
def test_names_that_cannot_be_shown_are_not_saved(names, tmp_path):
    with pytest.raises(ValueError, match="the name of class 0, "):
        save_pretrained(nano(num_classes=1), tmp_path / "m", label_names=names)


# --- configurations of others ----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    return save_pretrained(nano(), tmp_path / "model")


def change_config(folder, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


PLACES = {"file": "secret.pth", "url": "http://127.0.0.1:9/x.pth", "hf_hub_id": "me/other", "custom_load": True}


@pytest.mark.parametrize("load", [from_pretrained, lambda f: __import__("timm").create_model(f"local-dir:{f}", True)])
@pytest.mark.parametrize("key", [*PLACES, "state_dict", "hf_hub_filename"])
def test_a_configuration_does_not_choose_the_weights(key, load, folder, caplog):
    wanted = from_pretrained(folder).state_dict()
    change_config(folder, lambda c: c["pretrained_cfg"].update({key: PLACES.get(key, {"x": [1]})}))
    caplog.clear()
    given = load(folder).state_dict()
    assert all(torch.equal(v, given[k]) for k, v in wanted.items())
    if load is from_pretrained:
        assert [key in record.message for record in caplog.records] == [True]


def test_a_repository_does_not_choose_a_file_of_the_disk(hub, folder, tmp_path):
    torch.save(nano(num_classes=5).state_dict(), tmp_path / "secret.pth")
    change_config(folder, lambda c: c["pretrained_cfg"].update(file=str(tmp_path / "secret.pth"), sha256=None))
    hub.repos["me/mine"] = {"config.json": (folder / "config.json").read_bytes()}  # no weights of its own
    timm = pytest.importorskip("timm")
    for load in (from_pretrained, lambda n: timm.create_model(f"hf-hub:{n}", pretrained=True)):
        with pytest.raises(WeightsError, match="does not have the file"):
            load("me/mine")


OUT_OF_BOUNDS = {
    "depths": lambda c: c["model_args"].update(depths=[3000, 3000]),
    "channels": lambda c: c["model_args"].update(mid_chs=[10**9, 10**9]),
    "a huge network": lambda c: c["model_args"].update(mid_chs=[60_000, 60_000]),
    "kernel": lambda c: c["model_args"].update(kernel_size=10**12 + 1),
    "rank": lambda c: c["model_args"].update(
        surgery=[{"factorize": {"layers": ["stages.0.blocks.0.conv_st"], "rank": 10**9}}]
    ),
    "unknown surgery": lambda c: c["model_args"].update(surgery=[{"exec": {}}]),
    "an argument that is none": lambda c: c["model_args"].update(checkpoint_path="/etc/passwd"),
    "a device": lambda c: c["model_args"].update(device="cuda"),
    "frames": lambda c: c["pretrained_cfg"].update(num_frames=10**9),
    "pixels": lambda c: c["pretrained_cfg"].update(input_size=[3, 10**9, 10**9]),
    "text for a number": lambda c: c["pretrained_cfg"].update(num_frames="16"),
    "classes": lambda c: c.update(num_classes=10**12),
    "a long name": lambda c: c.update(label_names=["x" * 20_000] * 5),
    "escapes": lambda c: c.update(label_names=["\x1b[2J"] * 5),
    "HTML in the licence": lambda c: c["pretrained_cfg"].update(license="<script>alert(1)</script>"),
    "a line break in the licence": lambda c: c["pretrained_cfg"].update(license="mit\n---\nx: y"),
    "an address that is code": lambda c: c["pretrained_cfg"].update(origin_url="javascript:alert(1)"),
    "no list": lambda c: c.update(model_args=[1]),
    "an architecture that is none": lambda c: c.update(architecture={"a": 1}),
}


@pytest.mark.parametrize("kind", OUT_OF_BOUNDS)
def test_values_out_of_bounds_are_refused_and_the_folder_is_named(kind, folder):
    change_config(folder, OUT_OF_BOUNDS[kind])
    for pretrained in (True, False):
        with pytest.raises(ValueError, match=str(folder)):
            create_model(f"local-dir:{folder}", pretrained=pretrained)


# --- the digest, and interruptions -----------------------------------------------------------------------------------


def test_weights_that_the_configuration_was_not_written_with_are_refused(folder, tmp_path):
    other = save_pretrained(nano(), tmp_path / "b")
    changed_model = nano()
    nn.init.ones_(changed_model.head.fc.weight)
    save_pretrained(changed_model, other)
    os.replace(other / "model.safetensors", folder / "model.safetensors")
    with pytest.raises(WeightsError, match="not the file that was saved with its config.json.*interrupted"):
        from_pretrained(folder)


def test_one_flipped_bit_is_seen(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=r"model\.safetensors: "):
        from_pretrained(folder)


def test_a_folder_in_one_that_cannot_be_written_and_one_behind_a_link(folder, tmp_path, monkeypatch):
    link = tmp_path / "link"
    link.symlink_to(folder)
    real, parent = os.open, str(tmp_path)

    def guarded(path, flags, *args, **kwargs):
        if flags & os.O_CREAT and os.path.dirname(os.path.abspath(path)) == parent:
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", guarded)
    for target in (folder, link):
        from_pretrained(save_pretrained(nano(), target))
        assert sorted(os.listdir(target)) == ["config.json", "model.safetensors"]


def test_a_place_that_cannot_be_renamed_over_is_written_to(tmp_path, monkeypatch):
    path = tmp_path / "mounted.json"
    path.write_text("old")

    def busy(*args):
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "replace", busy)
    with replacing(path) as draft:
        draft.write_text("new")
    assert (path.read_text(), os.listdir(tmp_path)) == ("new", ["mounted.json"])


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "a.json"
    code = "import os, sys; from vov3d.files import replacing\nwith replacing(sys.argv[1]): os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("second")
        assert first.exists()
    assert (os.listdir(tmp_path), path.read_text()) == (["a.json"], "first")


def test_an_exception_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(TypeError), replacing(path) as draft:
        draft.write_text(3)
    assert (path.read_text(), os.listdir(tmp_path)) == ("old", ["a.txt"])
    with pytest.raises(OSError, match="not a regular file"), replacing(tmp_path):
        pass


# --- doors -----------------------------------------------------------------------------------------------------------


def test_from_pretrained_says_what_it_was_given(folder, tmp_path):
    (tmp_path / "w.pth").write_bytes(b"x")
    for name, error, message in (
        (tmp_path / "modle", FileNotFoundError, "modle: no such folder; did you mean .*model"),
        (tmp_path / "w.pth", ValueError, r"is a file.*checkpoint_path="),
        (folder / "config.json", ValueError, "give its folder"),
        (tmp_path, FileNotFoundError, r"holds no config\.json.*model is"),
        ("vov3d_nn", FileNotFoundError, "did you mean vov3d_n"),
        ("https://huggingface.co/me/mine", FileNotFoundError, "of a repository give its name alone, 'me/mine'"),
    ):
        with pytest.raises(error, match=message):
            from_pretrained(name)
    with pytest.raises(FileNotFoundError, match=r"directory: '.*nowhere'"), replacing(tmp_path / "nowhere" / "a.png"):
        pass
    assert from_pretrained("vov3d_n").num_classes == 20
    assert from_pretrained(f"local-dir:{folder}").num_classes == 5


def test_revision_token_and_cache_reach_every_file(hub, folder, tmp_path, monkeypatch):
    seen = []
    real = vov3d.weights.hub_client.hf_hub_download
    monkeypatch.setattr(
        "vov3d.weights.hub_client.hf_hub_download",
        lambda *a, **k: seen.append((a[1], k["revision"], k["token"])) or real(*a, **k),
    )
    hub.repos["me/mine"] = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = from_pretrained("hf-hub:me/mine", revision="main", token="hf_secret", cache_dir=tmp_path / "cache")
    assert seen == [("config.json", "main", "hf_secret"), ("model.safetensors", "main", "hf_secret")]
    assert (tmp_path / "cache").is_dir()
    assert "hf_secret" not in repr(vars(model))
    with pytest.raises(ValueError, match="revision='x' has no effect on local files"):
        from_pretrained(folder, revision="x")
    with pytest.raises(ValueError, match="the meta device holds no weights"):
        from_pretrained(folder, device="meta")
    with pytest.raises(ValueError, match="the meta device holds no weights"), torch.device("meta"):
        from_pretrained(folder)
