"""Models to the Hub and from it, with the real client against a Hub on the loopback interface."""

import json
import re

import huggingface_hub.utils._http as hub_http
import pytest
import safetensors.torch
import torch
from helpers.numbered_videos import write_video
from helpers.reference_files import published_state_dict

import vov3d
from vov3d import create_model, from_pretrained, push_to_hub
from vov3d.cli import main
from vov3d.hub.card import model_card

NANO = dict(stem_chs=4, mid_chs=(4, 8, 8, 8), out_chs=(4, 4, 8, 8), depths=(1, 1, 1, 1), head_chs=8, hidden_chs=8)
TAG = "vov3d_m.k400_f16"
FILES = ["README.md", "config.json", "model.safetensors"]


def same(a, b) -> bool:
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


def posts(hub) -> list[str]:
    return [line for line in hub.requests if line.startswith(("POST", "PUT")) and "create" not in line]


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """Puts the weights of a published tag on this machine."""
    folder = tmp_path / "weights"
    folder.mkdir()
    torch.save({"model_state": published_state_dict("vov3d_m_k400")}, folder / f"{TAG}.pth")
    monkeypatch.setenv("VOV3D_WEIGHTS_DIR", str(folder))


def code_of(card: str) -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", card, re.DOTALL))


@pytest.mark.parametrize(
    ("name", "kwargs"), [("x3d_m", dict(conv="d2plus1d")), ("vov3d_m", {}), ("vov3d_l", dict(in_chans=1))]
)
def test_models_that_are_in_no_registry_come_back_from_their_configuration(hub, name, kwargs):
    model = create_model(name, num_classes=3, **NANO, **kwargs)
    assert push_to_hub(model, "me/mine", label_names=["a", "b", "c"]) == FILES
    again = from_pretrained("me/mine")
    assert same(again, model)
    assert vov3d.class_names(again) == ["a", "b", "c"]
    assert len(from_pretrained("me/mine", features_only=True)(torch.randn(1, model.in_chans, 2, 32, 32))) == 5


def test_a_repository_without_an_organisation_is_the_users(hub):
    assert push_to_hub(create_model("vov3d_m", num_classes=3, **NANO), "mine") == FILES
    assert list(hub.repos) == ["me/mine"]
    assert 'vov3d.from_pretrained("me/mine")' in hub.repos["me/mine"]["README.md"].decode()


@pytest.mark.parametrize("name", ["me/my model", "a/b/c", "me/", "", "hf-hub:me/mine", "me/mine@main", "./mine"])
def test_names_that_no_repository_has_are_refused_before_anything_is_sent(name, hub, tmp_path):
    with pytest.raises(ValueError, match=f"'{re.escape(name)}' is not the name of a repository; give 'org/name'"):
        push_to_hub(create_model("vov3d_m", num_classes=3, **NANO), name)
    with pytest.raises(ValueError, match="is not the name of a repository"):
        vov3d.publish("vov3d_n.shapes_f8", name + "/", tmp_path)
    assert not hub.requests
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_uploaded_files_are_not_uploaded_again(hub):
    model = create_model("vov3d_m", num_classes=3, **NANO)
    push_to_hub(model, "me/mine")
    hub.requests.clear()
    assert push_to_hub(model, "me/mine") == []
    assert posts(hub) == []
    assert push_to_hub(model, "me/mine", label_names=["a", "b", "c"]) == ["config.json"]
    torch.nn.init.ones_(model.head.fc.weight)
    assert push_to_hub(model, "me/mine", label_names=["a", "b", "c"]) == ["config.json", "model.safetensors"]
    assert same(from_pretrained("me/mine"), model)


def test_a_refusal_names_the_repository_and_the_cure(hub, monkeypatch):
    monkeypatch.setattr(hub_http.time, "sleep", lambda seconds: None)
    hub.statuses["me/mine"] = (403, "")
    with pytest.raises(RuntimeError, match=r"/me/mine: cannot be written: .*403.* 'hf auth login'"):
        push_to_hub(create_model("vov3d_m", num_classes=3, **NANO), "me/mine")
    with pytest.raises(ValueError, match="cannot save a VoV3D"):
        push_to_hub(vov3d.VoV3D(**NANO), "me/mine")


def test_publish_sends_a_tag_once_and_its_card_runs(hub, weights, tmp_path, monkeypatch, capsys):
    assert main(["publish", TAG, "--org", "someone"]) == 0
    assert capsys.readouterr().out == f"{TAG}: {', '.join(FILES)}\n"
    assert sorted(hub.repos[f"someone/{TAG}"]) == FILES
    card = hub.repos[f"someone/{TAG}"]["README.md"].decode()
    for part in (
        "license: cc-by-nc-4.0",
        "value: 74.7",
        "| Kinetics-400 | 10 clips x 3 crops | 256 | 74.7 | 92.1 |",
        "| 3.67 M | 6.42 G |",
        "Trained on Kinetics-400",
        "not for commercial use",
        "@article{lee2021",
    ):
        assert part in card
    assert main(["publish", TAG, "--org", "someone"]) == 0
    assert capsys.readouterr().out == f"{TAG}: unchanged\n"

    write_video(tmp_path / "clip.mp4", num_frames=20)
    monkeypatch.chdir(tmp_path)
    code = code_of(card)
    assert f'vov3d.from_pretrained("someone/{TAG}")' in code
    exec(code.replace('"10x3"', '"1x1"'), {})  # thirty views take a minute here
    assert capsys.readouterr().out.count("%") == 3
    monkeypatch.delenv("VOV3D_WEIGHTS_DIR")
    monkeypatch.setenv("VOV3D_HUB_ORG", "someone")
    assert same(create_model(TAG, pretrained=True), from_pretrained(f"someone/{TAG}"))


def test_dry_run_writes_folders_and_sends_nothing(hub, weights, tmp_path, capsys):
    assert main(["publish", TAG, "--org", "someone", "--dry-run", "-o", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out" / TAG).iterdir()) == FILES
    assert not hub.repos
    assert posts(hub) == []
    config = json.loads((tmp_path / "out" / TAG / "config.json").read_text())
    assert config["pretrained_cfg"]["top1"] == 74.7


@pytest.mark.slow
def test_publish_all_goes_on_after_a_failure_and_says_which(hub, weights, monkeypatch, capsys):
    names = [TAG, "x3d_m.k400_f16"]
    monkeypatch.setattr("vov3d.cli.weights.list_pretrained", lambda *_: names)
    assert main(["publish", "--all", "--org", "someone"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(f"{TAG}: README.md")
    assert "vov3d publish: x3d_m.k400_f16: no weights; tried" in err
    assert err.endswith("1 of 2 tags failed; run it again for those\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "name the tags to publish, or give --all"),
        ([TAG, "--all"], "name the tags to publish, or give --all"),
        ([TAG, "-o", "x"], "-o has no effect without --dry-run"),
        (["vov3d_x.k400"], "no published tag vov3d_x.k400"),
        (["vov3d_m"], "the tags of vov3d_m are vov3d_m.k400_f16"),
    ],
)
def test_commands_that_make_no_sense(args, message, capsys):
    assert main(["publish", *args, "--org", "someone"]) == 1
    assert message in capsys.readouterr().err


def test_only_unchanged_weights_state_the_published_accuracy(weights, tmp_path):
    def config(model):
        return json.loads((vov3d.save_pretrained(model, tmp_path / "m") / "config.json").read_text())["pretrained_cfg"]

    model = create_model(TAG, pretrained=True)
    assert config(model)["top1"] == 74.7
    torch.nn.init.ones_(model.head.fc.bias)
    trained = config(model)
    assert not {"tag", "top1", "views"} & set(trained)
    assert (trained["license"], trained["label_set"]) == ("cc-by-nc-4.0", "k400")
    assert not {"tag", "top1", "license"} & set(config(create_model("vov3d_m")))


def test_files_for_transformers_are_sent_and_the_card_says_so(hub):
    model = create_model("vov3d_m", num_classes=3, **NANO)
    sent = push_to_hub(model, "me/mine", label_names=["a", "b", "c"], transformers=True)
    assert sorted(sent) == sorted([*FILES, "modeling_vov3d.py", "video_preprocessor_config.json"])
    assert same(from_pretrained("me/mine"), model)
    card = hub.repos["me/mine"]["README.md"].decode()
    assert "- transformers\n" in card
    assert 'AutoModelForVideoClassification.from_pretrained("me/mine")' in code_of(card)
    push_to_hub(model, "me/plain")
    assert "transformers" not in hub.repos["me/plain"]["README.md"].decode()


@pytest.mark.parametrize("task", ["single", "multilabel", "regression", "multihead"])
def test_the_card_has_a_pipeline_for_the_tasks_that_it_scores(task):
    heads = {"verb": 2, "noun": 2} if task == "multihead" else None
    model = create_model("vov3d_m", num_classes=4, task=task, heads=heads, **NANO)
    code = model_card(model, "me/mine", list("abcd"), transformers=True)
    assert "AutoModelForVideoClassification" in code
    assert ("pipeline(" in code) == (", pipeline\n" in code) == (task != "multihead")


@pytest.mark.slow
def test_the_code_of_the_card_runs_in_transformers(hub, tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    model = create_model("vov3d_m", num_classes=3, pretrained_cfg_overlay={"test_input_size": (3, 32, 32)}, **NANO)
    push_to_hub(model, "me/mine", label_names=["a", "b", "c"], transformers=True)
    write_video(tmp_path / "clip.mp4", num_frames=4)
    monkeypatch.chdir(tmp_path)
    namespace: dict = {}
    code = code_of(hub.repos["me/mine"]["README.md"].decode())
    exec("import vov3d" + code.split("import vov3d", 2)[2], namespace)
    assert same(namespace["model"].model, model)
    assert namespace["outputs"].logits.shape == (1, 3)


def test_shards_of_a_repository_are_downloaded(hub, tmp_path):
    model = create_model("vov3d_m", num_classes=3, **NANO)
    push_to_hub(model, "me/mine")
    files, state = hub.repos["me/mine"], model.state_dict()
    del files["model.safetensors"]
    names = sorted(state)
    index = {}
    for part, chosen in (("a.safetensors", names[::2]), ("b.safetensors", names[1::2])):
        files[part] = safetensors.torch.save({name: state[name] for name in chosen})
        index |= dict.fromkeys(chosen, part)
    config = json.loads(files["config.json"])
    del config["pretrained_cfg"]["sha256"]
    files["config.json"] = json.dumps(config).encode()
    files["model.safetensors.index.json"] = json.dumps({"weight_map": index}).encode()
    assert same(from_pretrained("me/mine"), model)
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"x": "../a.safetensors"}}).encode()
    with pytest.raises(vov3d.WeightsError, match="is no index of 1 to 1000 safetensors files beside it"):
        from_pretrained("me/mine", cache_dir=tmp_path / "new")
