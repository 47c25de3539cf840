"""Saved folders and the Hub, with the real client against a Hub on the loopback interface."""

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub.utils._http as hub_http
import pytest
import safetensors.torch
import timm
import torch
from helpers.hub_server import COMMIT

import vov3d
from vov3d import WeightsError, create_model, save_pretrained
from vov3d.cli import main as vov3d_main

NANO = dict(stem_chs=4, mid_chs=(4, 8, 8, 8), out_chs=(4, 4, 8, 8), depths=(1, 1, 1, 1), head_chs=8, hidden_chs=8)


def nano(**kwargs) -> torch.nn.Module:
    torch.manual_seed(0)
    return create_model("vov3d_m", **{**NANO, "num_classes": 5, **kwargs})


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path):
    return save_pretrained(nano(conv="dw3d"), tmp_path / "model", label_names=list("abcde"))


# --- folders ---------------------------------------------------------------------------------------------------------


def test_saved_folder_loads_with_names_and_video_fields(folder):
    assert sorted(files(folder)) == ["config.json", "model.safetensors"]
    model = create_model(f"local-dir:{folder}", pretrained=True)
    assert same(model, nano(conv="dw3d"))
    assert vov3d.class_names(model) == list("abcde")
    cfg = model.pretrained_cfg
    assert (cfg["num_frames"], cfg["frame_stride"], cfg["sampling"]) == (16, 5, "dense")
    assert same(timm.create_model(f"local-dir:{folder}", pretrained=True), model)
    x = torch.randn(1, 3, 2, 32, 32)
    torch.testing.assert_close(model.eval().forward_dense(x), model(x).softmax(1))


def test_names_of_a_published_label_set_are_saved(tmp_path):
    save_pretrained(create_model("vov3d_m", num_classes=400, **NANO), tmp_path / "k400")
    config = json.loads((tmp_path / "k400/config.json").read_text())
    assert config["label_names"][6] == "arm wrestling"
    assert config["pretrained_cfg"]["label_set"] == "k400"
    assert "top1" not in config["pretrained_cfg"]  # these are not the published weights


def test_a_model_of_other_classes_does_not_inherit_what_was_published(folder):
    cfg = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    assert not {"tag", "label_set", "top1", "top5", "views"} & set(cfg)
    assert cfg["pool_size"] == [7, 7]


@pytest.mark.parametrize("kwargs", [dict(in_chans=1), dict(global_pool="catavgmax"), dict(num_classes=0)])
def test_saved_arguments_come_back(kwargs, tmp_path):
    model = nano(**kwargs)
    save_pretrained(model, tmp_path / "model")
    assert same(create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True), model)


def test_folder_with_other_classes_channels_and_features(folder, caplog):
    original = nano(conv="dw3d")
    with caplog.at_level(logging.WARNING):
        model = create_model(f"local-dir:{folder}", pretrained=True, num_classes=3, in_chans=1)
    assert len(caplog.records) == 1
    assert "5-class head is left out, the model has a fresh one of 3" in caplog.text
    assert vov3d.class_names(model) is None
    torch.testing.assert_close(model.stem.conv_s.weight, original.stem.conv_s.weight.sum(1, keepdim=True))
    features = create_model(f"local-dir:{folder}", pretrained=True, features_only=True, in_chans=1)
    assert torch.equal(features.stages_3.blocks[0].conv_agg.weight, original.stages[3].blocks[0].conv_agg.weight)
    headless = create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    assert "head.fc.weight" not in headless.state_dict()


def test_saved_without_a_classifier_gets_a_fresh_one(tmp_path, caplog):
    save_pretrained(nano(num_classes=0), tmp_path / "model")
    with caplog.at_level(logging.WARNING):
        model = create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True, num_classes=3)
    assert model.head.fc.out_features == 3
    assert "0-class head is left out, the model has a fresh one of 3" in caplog.text


def test_channels_last_and_changed_classifier_save(tmp_path):
    model = nano().to(memory_format=torch.channels_last_3d)
    model.reset_classifier(9)
    save_pretrained(model, tmp_path / "model")
    assert same(create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True), model)


def test_saving_leaves_the_former_model_when_it_fails(folder, monkeypatch):
    before = files(folder)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError, match="No space left on device: '.*model.safetensors'"):
        save_pretrained(nano(), folder)
    assert files(folder) == before
    assert os.listdir(folder.parent) == ["model"]


def test_saving_keeps_other_files_and_replaces_its_own(folder):
    (folder / "README.md").write_text("mine")
    save_pretrained(nano(), folder)
    assert sorted(files(folder)) == ["README.md", "config.json", "model.safetensors"]
    assert same(create_model(f"local-dir:{folder}", pretrained=True), nano())


def test_models_that_cannot_be_saved(tmp_path):
    target = tmp_path / "model"
    with pytest.raises(ValueError, match="got 2 label_names for a model of 5 classes"):
        save_pretrained(nano(), target, label_names=["a", "b"])
    for names in ("abcde", dict(enumerate("abcde")), set("abcde")):  # all would be iterated, a set in any order
        with pytest.raises(ValueError, match=r"label_names is a (str|dict|set): give a list of names in index order"):
            save_pretrained(nano(), target, label_names=names)
    with pytest.raises(ValueError, match="cannot save a VoV3D: only whole models .* again; pass your widths"):
        save_pretrained(vov3d.VoV3D(**NANO), target)
    with pytest.raises(ValueError, match="cannot save a FeatureListNet"):
        save_pretrained(nano(features_only=True), target)
    with pytest.raises(ValueError, match=r"cannot save norm_layer=<class.*name layers by strings"):
        save_pretrained(nano(norm_layer=torch.nn.BatchNorm3d), target)
    assert os.listdir(tmp_path) == []
    target.write_text("mine")
    with pytest.raises(NotADirectoryError, match="model: is a file; a model is saved in a folder"):
        save_pretrained(nano(), target)
    assert target.read_text() == "mine"


def test_networks_wrapped_for_several_processes_say_how_to_unwrap_them(tmp_path):
    from torch.distributed import checkpoint, fsdp  # slow to import

    def tiny():
        return create_model("vov3d_m", stem_chs=4, mid_chs=(4,), out_chs=(4,), depths=(1,), output_stride=4).eval()

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        part, whole = tiny(), fsdp.fully_shard(tiny())
        fsdp.fully_shard(part.stages[0].blocks[0])
        wrapped = {
            r"DistributedDataParallel; give .*\.module": torch.nn.parallel.DistributedDataParallel(tiny()).eval(),
            "the model is wrapped in FSDPModule; .*: gather them with .*get_model_state_dict": whole,
            r"stages\.0\.blocks\.0 is wrapped in FSDPModule": part,
        }
        for message, model in wrapped.items():
            for call in (vov3d.fold_batchnorm, vov3d.optimize_for_inference, lambda m: save_pretrained(m, tmp_path)):
                with pytest.raises(ValueError, match=message):
                    call(model)
        torch.save(part.state_dict(), tmp_path / "spread.pth")
        with pytest.raises(WeightsError, match="tensors that are spread over processes .*; save them gathered"):
            create_model("vov3d_m", checkpoint_path=tmp_path / "spread.pth")
        checkpoint.save(part.state_dict(), checkpoint_id=tmp_path / "parts")
        with pytest.raises(WeightsError, match=r"parts: is a checkpoint of torch\.distributed; .* dcp_to_torch_save"):
            create_model("vov3d_m", checkpoint_path=tmp_path / "parts")
    finally:
        torch.distributed.destroy_process_group()


def test_home_folders_and_marks_of_editors(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save_pretrained(nano(), "~/mine")
    config = tmp_path / "mine" / "config.json"
    config.write_text(config.read_text(), encoding="utf-8-sig")
    assert same(vov3d.from_pretrained("~/mine"), nano())
    assert same(create_model("local-dir:~/mine", pretrained=True), nano())
    assert vov3d.VideoClassifier("~/mine").model.num_classes == 5


def test_a_path_is_a_folder_also_with_the_name_of_a_model(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved = create_model("vov3d_n", num_classes=3)
    save_pretrained(saved, "vov3d_n", label_names=["a", "b", "c"])
    for name in (Path("vov3d_n"), "./vov3d_n", "local-dir:vov3d_n"):
        assert torch.equal(vov3d.from_pretrained(name).head.fc.weight, saved.head.fc.weight)
    assert vov3d_main(["convert", "vov3d_n", "--to", "slowfast", "-o", "back.pyth"]) == 0
    tensors = torch.load("back.pyth", weights_only=True)["model_state"]
    assert any(torch.equal(tensor, saved.head.fc.weight) for tensor in tensors.values())


def test_what_is_none_stays_none(tmp_path):
    """Fields without a value are not written; when they are read, they must not become those of the published nets."""
    model = nano(pretrained_cfg_overlay=dict(sampling="segment", pool_size=None, test_input_size=None))
    cfg = vov3d.from_pretrained(save_pretrained(model, tmp_path / "model")).pretrained_cfg
    assert cfg["sampling"] == "segment"
    assert cfg.get("frame_stride") is None  # the command info and the card would state one
    assert cfg.get("pool_size") is None
    assert cfg["test_input_size"] == cfg["input_size"]


@pytest.mark.parametrize(
    ("make", "seconds"),
    [
        (lambda: create_model("vov3d_n", pretrained=True), 1.6),
        (lambda: create_model("vov3d_n", num_classes=5), None),
        (lambda: create_model("vov3d_n", num_classes=0), 1.6),
        (lambda: create_model("vov3d_n", num_classes=5, pretrained_cfg_overlay={"clip_seconds": 3}), 3),
        (lambda: reset_and_trained(2.5), 2.5),
        (lambda: reset_and_trained(None), None),
        (lambda: create_model("vov3d_n", pretrained_cfg_overlay={"sampling": "dense", "frame_stride": 2}), None),
    ],
)
def test_the_length_of_clips_goes_with_the_classifier_that_learned_from_them(make, seconds, tmp_path):
    model = make()
    assert model.pretrained_cfg.get("clip_seconds") == seconds
    folder = save_pretrained(model, tmp_path / "model")
    assert vov3d.from_pretrained(folder).pretrained_cfg.get("clip_seconds") == seconds
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"].get("clip_seconds") == seconds


def reset_and_trained(seconds):
    model = create_model("vov3d_n", pretrained=True)
    model.reset_classifier(20)
    if seconds:
        model.pretrained_cfg["clip_seconds"] = seconds
    return model


def test_files_of_earlier_versions_do_not_state_the_length_of_their_clips(tmp_path):
    folder = save_pretrained(create_model("vov3d_n", pretrained=True), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["pretrained_cfg"]["clip_seconds"]
    (folder / "config.json").write_text(json.dumps(config))
    assert vov3d.from_pretrained(folder).pretrained_cfg["clip_seconds"] == 1.6
    del config["label_names"], config["pretrained_cfg"]["label_set"]
    (folder / "config.json").write_text(json.dumps(config))
    assert "clip_seconds" not in vov3d.from_pretrained(folder).pretrained_cfg


def test_an_argument_is_not_taken_for_one_of_the_file(folder):
    with pytest.raises(TypeError, match="has no argument map_location"):
        vov3d.from_pretrained(folder, map_location="cpu")


def test_folders_that_do_not_load(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere/config\.json"):
        create_model(f"local-dir:{tmp_path}/nowhere", pretrained=True)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architecture": "resnet50"}))
    with pytest.raises(ValueError, match=r"vov3d has no model 'resnet50' \(in local-dir:"):
        create_model(f"local-dir:{folder}", pretrained=True)
    config["pretrained_cfg"]["sample_rate"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no field 'sample_rate'.*newer vov3d"):
        create_model(f"local-dir:{folder}", pretrained=True)
    (folder / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="names no architecture: neither this package nor timm saved it"):
        create_model(f"local-dir:{folder}", pretrained=True)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json does not describe a model"):
        create_model(f"local-dir:{folder}", pretrained=True)
    (folder / "model.safetensors").unlink()
    config["pretrained_cfg"].pop("sample_rate")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match=r"holds neither model\.safetensors nor pytorch_model\.bin"):
        create_model(f"local-dir:{folder}", pretrained=True)


# --- Hub -------------------------------------------------------------------------------------------------------------


def test_repository_and_tag_load_from_the_hub(hub, folder, tmp_path):
    hub.repos["me/mine"] = files(folder)
    for name in ("hf-hub:me/mine", f"hf-hub:me/mine@{COMMIT}"):
        model = create_model(name, pretrained=True, cache_dir=tmp_path / "cache")
        assert same(model, nano(conv="dw3d"))
        assert vov3d.class_names(model) == list("abcde")
    features = create_model("hf-hub:me/mine", pretrained=True, cache_dir=tmp_path / "cache", features_only=True)
    assert [f.shape[1] for f in features(torch.randn(1, 3, 2, 32, 32))] == [4, 4, 4, 8, 8]


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
def test_published_tag_loads_from_its_organisation(kind, hub, tmp_path, monkeypatch):
    monkeypatch.setenv("VOV3D_HUB_ORG", "someone")
    original = create_model("x3d_xs")
    if kind == "safetensors":
        content = {"model.safetensors": safetensors.torch.save(original.state_dict())}
    else:
        torch.save(original.state_dict(), tmp_path / "weights.bin")
        content = {"pytorch_model.bin": (tmp_path / "weights.bin").read_bytes()}
    hub.repos["someone/x3d_xs.k400_ptv"] = content
    assert same(create_model("x3d_xs", pretrained=True, cache_dir=tmp_path / "cache"), original)


def test_warm_cache_needs_no_hub(hub, folder, tmp_path, monkeypatch):
    hub.repos["me/mine"] = files(folder)
    create_model("hf-hub:me/mine", pretrained=True, cache_dir=tmp_path / "cache")
    hub.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert same(create_model("hf-hub:me/mine", pretrained=True, cache_dir=tmp_path / "cache"), nano(conv="dw3d"))
    assert hub.requests == []


ANSWERS = {
    "401": ((401, "RepoNotFound"), "no such repository, or it needs a log-in"),
    "404": (None, "no such repository, or it needs a log-in"),
    "gated": ((403, "GatedRepo"), "access to this repository is restricted"),
    "503": ((503, ""), "503 Service Unavailable"),
}


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", ["vov3d_m.ssv2_f32", "hf-hub:me/mine"])
def test_one_error_names_the_repository_and_the_ways_out(answer, name, hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_http.time, "sleep", lambda seconds: None)
    repo = "vov3d/vov3d_m.ssv2_f32" if name.startswith("vov3d") else "me/mine"
    status, cause = ANSWERS[answer]
    if status:
        hub.statuses[repo] = status
    with pytest.raises(WeightsError) as error:
        create_model(name, pretrained=True, cache_dir=tmp_path)
    message = str(error.value)
    assert f"{hub.url}/{repo}: " in message
    assert cause in message
    assert "checkpoint_path" in message
    assert "HF_ENDPOINT" in message
    assert ("vov3d_M_f32_ssv2.pth" in message and "list_pretrained" in message) == name.startswith("vov3d")


def test_repository_without_weights_or_with_a_web_page(hub, folder, tmp_path):
    config = {"config.json": (folder / "config.json").read_bytes()}
    hub.repos |= {"me/empty": config, "me/page": {**config, "model.safetensors": b"<html>sorry</html>"}}
    with pytest.raises(WeightsError, match="the repository does not have the file"):
        create_model("hf-hub:me/empty", pretrained=True, cache_dir=tmp_path / "cache")
    with pytest.raises(WeightsError, match="is a web page, not weights"):
        create_model("hf-hub:me/page", pretrained=True, cache_dir=tmp_path / "cache")
    hub.repos["me/other"] = {"config.json": b"{}"}
    with pytest.raises(ValueError, match="hf-hub:me/other: its config.json does not describe a model"):
        create_model("hf-hub:me/other", pretrained=True, cache_dir=tmp_path / "cache")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


SCRIPT = """
import sys, vov3d
vov3d.create_model("x3d_xs", device="meta")
for name in sys.argv[1:]:
    try:
        vov3d.create_model(name, pretrained=True)
    except vov3d.WeightsError as e:
        print("refused", e)
    else:
        print("loaded", name)
"""


def run(names, **env) -> list[str]:
    """Resolves the names in a new process, with the client's environment variables set."""
    command = [sys.executable, "-c", SCRIPT, *names]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.splitlines()


@pytest.mark.slow  # four processes
def test_environment_in_a_new_process(hub, folder, tmp_path):
    hub.repos["me/mine"] = files(folder)
    home = {"HF_HOME": str(tmp_path / "home")}
    assert run([], **home) == []
    assert hub.requests == []  # neither the import nor an untrained model touches the network
    assert run(["hf-hub:me/mine"], **home) == ["loaded hf-hub:me/mine"]
    hub.clear()
    warm, cold = run(["hf-hub:me/mine", "hf-hub:me/cold"], HF_HUB_OFFLINE="1", **home)
    assert warm == "loaded hf-hub:me/mine"
    assert "me/cold: offline mode is on (HF_HUB_OFFLINE), and the file is not in the cache" in cold
    assert hub.requests == []


@pytest.mark.slow  # the client tries six times
def test_connection_refused(tmp_path):
    endpoint = f"http://127.0.0.1:{free_port()}"
    (line,) = run(["vov3d_m"], HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path))
    assert line.startswith(
        f"refused vov3d_m.k400_f16: no weights; tried {endpoint}/vov3d/vov3d_m.k400_f16: the Hub did not"
    )
    assert "Connection refused" in line
