"""transformers and this package open each other's folders, with equal outputs; pipeline, Trainer and LoRA work."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

import vov3d
from vov3d.synthetic.moving_shapes import CLASSES, make_clip, write_clip
from vov3d.weights.tasks import make_task, task_of

transformers = pytest.importorskip("transformers")

from vov3d.adapters.transformers import (  # noqa: E402
    VoV3DConfig,
    VoV3DForVideoClassification,
    VoV3DModel,
    VoV3DVideoProcessor,
)

# Small networks of both papers, and arguments that change them.
_TWO = {"depths": (1, 1), "mid_chs": (8, 16), "out_chs": (8, 8), "output_stride": 8}
NETWORKS = {
    "VoV3D": ("vov3d_n", _TWO),
    "X3D": ("x3d_xs", _TWO | {"depths": (1, 2)}),
    "another middle convolution": ("vov3d_n", _TWO | {"conv": "dw3d", "causal": True}),
    "other channels and strides": ("x3d_xs", _TWO | {"in_chans": 2, "output_stride": 4}),
}


@pytest.fixture(autouse=True)
def quiet_progress():
    transformers.utils.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    """The packaged model in a folder for both libraries."""
    folder = tmp_path_factory.mktemp("packaged")
    vov3d.save_pretrained(vov3d.create_model("vov3d_n", pretrained=True), folder, transformers=True)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small network of five classes in a folder for both libraries."""
    folder = tmp_path_factory.mktemp("small")
    vov3d.save_pretrained(networks("VoV3D"), folder, list("abcde"), transformers=True)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("video") / "shapes.mp4"
    label = CLASSES.index("Turning something clockwise")
    write_clip(path, make_clip(label, np.random.default_rng(3)))
    return path


def clips(in_chans: int = 3, size: int = 64) -> torch.Tensor:
    return torch.randn(2, 4, in_chans, size, size, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def outputs(model, pixel_values):
    """Of a model of either library."""
    model.eval()
    if isinstance(model, transformers.PreTrainedModel):
        return model(pixel_values).logits
    return model(pixel_values.transpose(1, 2))


def networks(name: str, **kwargs):
    architecture, args = NETWORKS[name]
    torch.manual_seed(0)
    model = vov3d.create_model(architecture, num_classes=5, **args, **kwargs)
    for module in model.modules():  # blocks of a fresh network put out nothing
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folder_of_ours_opens_there_and_what_is_saved_there_opens_here(name, tmp_path):
    model = networks(name)
    vov3d.save_pretrained(model, tmp_path / "ours", ["a", "b", "c", "d", "e"], transformers=True)
    theirs = transformers.AutoModelForVideoClassification.from_pretrained(tmp_path / "ours")
    assert type(theirs) is VoV3DForVideoClassification
    assert theirs.config.id2label == dict(enumerate("abcde"))
    assert theirs.config.label2id["c"] == 2
    x = clips(model.in_chans)
    wanted = outputs(model, x)
    assert wanted.std() > 1e-3
    torch.testing.assert_close(outputs(theirs, x), wanted, rtol=1e-5, atol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    back = vov3d.from_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(outputs(back, x), wanted, rtol=1e-5, atol=1e-5)
    assert vov3d.class_names(back) == list("abcde")
    again = transformers.AutoModelForVideoClassification.from_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(outputs(again, x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("step", ["factorize", "fold_batchnorm"])
def test_surgery_goes_both_ways(step, tmp_path):
    def operate(model):
        changed = getattr(vov3d, step)(model)
        return model if step == "factorize" else changed  # in place

    model = operate(networks("another middle convolution").eval())
    vov3d.save_pretrained(model, tmp_path / "ours", transformers=True)
    theirs = VoV3DForVideoClassification.from_pretrained(tmp_path / "ours")
    torch.testing.assert_close(outputs(theirs, clips()), outputs(model, clips()), rtol=1e-5, atol=1e-5)
    plain = VoV3DForVideoClassification(VoV3DConfig(architecture="vov3d_n", num_labels=5, conv="dw3d", **_TWO)).eval()
    plain.model = operate(plain.model)
    plain.save_pretrained(tmp_path / "theirs")
    again = VoV3DForVideoClassification.from_pretrained(tmp_path / "theirs")
    torch.testing.assert_close(outputs(again, clips()), outputs(plain, clips()), rtol=1e-5, atol=1e-5)


def test_what_a_folder_says_of_its_weights_goes_when_they_are_trained(packaged, tmp_path):
    model = VoV3DForVideoClassification.from_pretrained(packaged)
    model.save_pretrained(tmp_path / "same")
    kept = json.loads((tmp_path / "same" / "config.json").read_text())["pretrained_cfg"]
    assert (kept["tag"], kept["top1"], kept["license"]) == ("shapes_f8", 99.1, "apache-2.0")
    with torch.no_grad():
        model.model.head.fc.bias[0] += 1
    model.save_pretrained(tmp_path / "trained")
    kept = json.loads((tmp_path / "trained" / "config.json").read_text())["pretrained_cfg"]
    assert "tag" not in kept
    assert "top1" not in kept
    assert kept["license"] == "apache-2.0"


def test_other_classes_get_a_fresh_classifier_and_lose_the_names(small, tmp_path, caplog):
    model = transformers.AutoModelForVideoClassification.from_pretrained(
        small, num_labels=3, ignore_mismatched_sizes=True
    )
    assert model.model.head.fc.weight.shape[0] == 3
    assert 0.005 < model.model.head.fc.weight.std() < 0.015
    assert not model.model.head.fc.bias.any()
    model.save_pretrained(tmp_path)
    back = vov3d.from_pretrained(tmp_path)
    assert back.num_classes == 3
    assert vov3d.class_names(back) is None
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        transformers.AutoModelForVideoClassification.from_pretrained(small, num_labels=3)
    named = transformers.AutoModelForVideoClassification.from_pretrained(
        small, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}, ignore_mismatched_sizes=True
    )
    assert named.config.label_names == ["no", "yes"]


@pytest.mark.parametrize("other", [{"num_labels": 2}, {"id2label": {0: "no", 1: "yes"}}, {}])
def test_a_fresh_classifier_has_no_temperature_and_no_length_of_clips(packaged, other, tmp_path):
    config = VoV3DConfig.from_pretrained(packaged)
    config.num_labels = 2
    other = other or {"config": config}
    model = VoV3DForVideoClassification.from_pretrained(packaged, ignore_mismatched_sizes=True, **other)
    model.save_pretrained(tmp_path)
    for network in (model.model, vov3d.from_pretrained(tmp_path)):
        assert network.temperature == 1
        assert network.pretrained_cfg.get("clip_seconds") is None


def test_shards_open_here(small, tmp_path):
    model = VoV3DForVideoClassification.from_pretrained(small)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert not (tmp_path / "model.safetensors").exists()
    back = vov3d.from_pretrained(tmp_path).state_dict()
    for name, tensor in model.model.state_dict().items():
        assert torch.equal(tensor, back[name])
    next(tmp_path.glob("model-00001*")).unlink()
    with pytest.raises(vov3d.WeightsError, match="names model-00001-of-.*, which is not there"):
        vov3d.from_pretrained(tmp_path)


def test_half_precision_is_loaded_saved_and_loaded(small, tmp_path):
    model = VoV3DForVideoClassification.from_pretrained(small, dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    assert model(clips()).logits.dtype == torch.bfloat16
    model.save_pretrained(tmp_path)
    assert VoV3DForVideoClassification.from_pretrained(tmp_path).dtype == torch.bfloat16
    back = vov3d.from_pretrained(tmp_path)
    assert next(back.parameters()).dtype == torch.float32
    assert torch.equal(back.head.fc.weight, model.model.head.fc.weight.float())


def test_a_folder_without_the_keys_of_transformers_opens_by_the_class(tmp_path):
    model = networks("VoV3D")
    vov3d.save_pretrained(model, tmp_path, list("abcde"))
    config = json.loads((tmp_path / "config.json").read_text())
    assert "model_type" not in config
    assert "num_classes" not in config["model_args"]
    theirs = VoV3DForVideoClassification.from_pretrained(tmp_path)
    assert theirs.config.label_names == list("abcde")
    torch.testing.assert_close(outputs(theirs, clips()), outputs(model, clips()), rtol=1e-5, atol=1e-5)
    config["model_args"]["num_classes"] = 5  # as older versions wrote it
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert vov3d.from_pretrained(tmp_path).num_classes == 5
    assert VoV3DForVideoClassification.from_pretrained(tmp_path).num_labels == 5


def test_the_backbone_gives_what_the_network_gives(small, tmp_path):
    model = vov3d.from_pretrained(small).eval()
    backbone = transformers.AutoModel.from_pretrained(small)
    assert type(backbone) is VoV3DModel
    x = clips().transpose(1, 2)
    with torch.no_grad():
        last, maps = model.forward_intermediates(x)
        pooled = model.forward_head(last, pre_logits=True)
        found = backbone(clips(), output_hidden_states=True)
    torch.testing.assert_close(found.last_hidden_state, last, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.pooler_output, pooled, rtol=1e-5, atol=1e-5)
    for own, other in zip(maps, found.hidden_states, strict=True):
        torch.testing.assert_close(other, own, rtol=1e-5, atol=1e-5)
    assert len(backbone(clips(), return_dict=False)) == 2
    backbone.save_pretrained(tmp_path)
    assert vov3d.from_pretrained(tmp_path).num_classes == 0
    again = VoV3DForVideoClassification.from_pretrained(tmp_path, num_labels=4)
    assert torch.equal(again.model.stem.conv_s.weight, model.stem.conv_s.weight)
    assert again.model.num_classes == 4


def test_a_hostile_configuration_is_held_to_the_bounds_of_ours(small, tmp_path):
    config = json.loads((small / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((small / "model.safetensors").read_bytes())
    for change, message in (
        ({"mid_chs": [60_000, 60_000]}, "config.json"),
        ({"checkpoint_path": "/etc/passwd"}, "model_args have checkpoint_path, which no"),
        ({"surgery": [{"exec": {}}]}, "surgery has no step"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_args": change}))
        with pytest.raises(ValueError, match=message):
            VoV3DForVideoClassification.from_pretrained(tmp_path)


# --- configuration ---------------------------------------------------------------------------------------------------


def test_arguments_of_the_network_may_be_given_to_the_configuration():
    config = VoV3DConfig(architecture="vov3d_n", conv="dw3d", num_labels=3, **_TWO)
    assert config.model_args["conv"] == "dw3d"
    model = VoV3DForVideoClassification(config)
    assert len(model.model.stages) == 2
    assert model.num_labels == 3
    config = VoV3DConfig(architecture="vov3d_n", pretrained_cfg={"mean": [0.5, 0.5, 0.5]})
    assert (config.pretrained_cfg["mean"], config.pretrained_cfg["sampling"]) == ([0.5, 0.5, 0.5], "segment")
    assert config.num_frames == 8
    zeros = [m for m in model.modules() if isinstance(m, torch.nn.BatchNorm3d) and not m.weight.any()]
    assert zeros  # the network's own start, not that of transformers


@pytest.mark.parametrize("load", ["VoV3DForVideoClassification", "AutoModelForVideoClassification"])
def test_arguments_of_the_network_may_be_given_on_loading(load, small):
    """Dropout and stochastic depth are chosen with each training."""
    loader = {**vars(transformers), **globals()}[load]
    model = loader.from_pretrained(small, drop_path_rate=0.25, drop_rate=0.1)
    assert (model.model.stages[-1].blocks[-1].drop_path.drop_prob, model.model.head.drop.p) == (0.25, 0.1)
    assert torch.equal(outputs(model, clips()), outputs(loader.from_pretrained(small), clips()))
    with pytest.raises(TypeError, match="drop_paths"):
        loader.from_pretrained(small, drop_paths=0.25)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VoV3DConfig(architecture="resnet50"), "architecture='resnet50' is not known; use one of"),
        (lambda: VoV3DForVideoClassification(VoV3DConfig(architecture="vov3d_n", num_labels=0)), "has no classes"),
        (lambda: VoV3DModel(VoV3DConfig(architecture="vov3d_n", num_frames=0)), "num_frames=0"),
        (
            lambda: VoV3DForVideoClassification(VoV3DConfig(architecture="vov3d_n", id2label={1: "a", 2: "b"})),
            "id2label must number its 2 classes from 0, and lacks 0",
        ),
        (
            lambda: vov3d.save_pretrained(VoV3DModel(VoV3DConfig(architecture="vov3d_n", **_TWO)), "x"),
            r"cannot save a VoV3DModel: .* save its \.model",
        ),
        (
            lambda: VoV3DForVideoClassification(
                VoV3DConfig(architecture="vov3d_n", dense_logits=True, problem_type="multi_label_classification")
            ),
            "dense_logits=True averages a softmax",
        ),
        (
            lambda: VoV3DModel(VoV3DConfig(architecture="vov3d_n"))(clips().transpose(1, 2)),
            r"expected pixel_values \(B, T, 3, H, W",
        ),
    ],
)
def test_what_cannot_be_is_said(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("problem", "labels", "loss"),
    [
        ("single_label_classification", torch.tensor([1, 2]), torch.nn.functional.cross_entropy),
        (
            "multi_label_classification",
            torch.tensor([[1.0, 0, 1], [0, 0, 1]]),
            torch.nn.functional.binary_cross_entropy_with_logits,
        ),
        ("regression", torch.randn(2, 3), torch.nn.functional.mse_loss),
    ],
)
def test_losses_are_those_of_the_problem(problem, labels, loss):
    model = VoV3DForVideoClassification(
        VoV3DConfig(architecture="vov3d_n", num_labels=3, problem_type=problem, **_TWO)
    ).eval()
    found = model(clips(), labels=labels)
    torch.testing.assert_close(found.loss, loss(found.logits, labels))
    guessed = VoV3DForVideoClassification(VoV3DConfig(architecture="vov3d_n", num_labels=3, **_TWO))
    guessed(clips(), labels=labels)
    assert guessed.config.problem_type == (problem if problem != "regression" else "multi_label_classification")


TASKS = {
    "single": (None, None),
    "multilabel": (None, "multi_label_classification"),
    "regression": (None, "regression"),
    "multihead": ({"verb": 3, "noun": 2}, None),  # not in alphabetical order
}


@pytest.mark.parametrize("task", TASKS)
def test_tasks_are_kept_both_ways(task, tmp_path):
    heads, problem = TASKS[task]
    model = vov3d.create_model("vov3d_n", num_classes=5, task=task, heads=heads, **_TWO).eval()
    vov3d.save_pretrained(model, tmp_path / "ours", list("abcde"), transformers=True)
    assert json.loads((tmp_path / "ours" / "config.json").read_text()).get("problem_type") == problem
    theirs = VoV3DForVideoClassification.from_pretrained(tmp_path / "ours")
    assert theirs.config.problem_type == problem
    theirs.save_pretrained(tmp_path / "theirs")
    back = vov3d.from_pretrained(tmp_path / "theirs")
    assert task_of(back) == make_task(task, heads)
    x = torch.rand(2, 3, 4, 32, 32)
    torch.testing.assert_close(back.eval().forward_dense(x), model.forward_dense(x), rtol=1e-5, atol=1e-5)
    assert transformers.AutoModel.from_pretrained(tmp_path / "theirs").model.num_classes == 0
    other = VoV3DForVideoClassification.from_pretrained(tmp_path / "ours", num_labels=4, ignore_mismatched_sizes=True)
    assert task_of(other.model) == make_task(None if heads else task)


@pytest.mark.parametrize("given", ["regression", None])
def test_the_task_follows_the_problem_that_was_trained(given, tmp_path):
    model = VoV3DForVideoClassification(VoV3DConfig(architecture="vov3d_n", num_labels=3, problem_type=given, **_TWO))
    model(torch.rand(2, 4, 3, 32, 32), labels=torch.rand(2, 3)).loss.backward()
    model.save_pretrained(tmp_path)
    assert task_of(vov3d.from_pretrained(tmp_path)).name == (given or "multilabel")


def test_several_heads_have_no_loss_and_no_dense_logits():
    heads = {"verb": 3, "noun": 2}
    settings = dict(
        architecture="vov3d_n",
        num_labels=5,
        pretrained_cfg={**VoV3DConfig(architecture="vov3d_n").pretrained_cfg, "task": "multihead", "heads": heads},
        **_TWO,
    )
    model = VoV3DForVideoClassification(VoV3DConfig(**settings))
    with pytest.raises(ValueError, match="no loss for several heads"):
        model(torch.rand(2, 4, 3, 32, 32), labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="dense_logits=True.*multihead"):
        VoV3DForVideoClassification(VoV3DConfig(dense_logits=True, **settings))


def test_checkpointing_recomputes_and_changes_nothing():
    model = VoV3DForVideoClassification(
        VoV3DConfig(architecture="vov3d_n", num_labels=3, drop_rate=0.0, **_TWO)
    ).train()
    x, labels = clips(), torch.tensor([0, 2])
    model(x, labels=labels).loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable()
    assert model.is_gradient_checkpointing
    model(x, labels=labels).loss.backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-3, atol=1e-4)
    model.activation_checkpointing_disable()
    assert not model.is_gradient_checkpointing
    for settings in (
        {"offload": True},
        {"every_n_layers": 2},
        {"activation_checkpointing_kwargs": {"use_reentrant": True}},
    ):
        with pytest.raises(ValueError, match="recomputes every block, with use_reentrant=False"):
            model.activation_checkpointing_enable(**settings)


# --- the processor and the pipeline ----------------------------------------------------------------------------------


def test_the_processor_does_to_frames_what_the_classifier_does(packaged, video):
    processor = transformers.AutoVideoProcessor.from_pretrained(packaged)
    assert type(processor) is VoV3DVideoProcessor
    cfg = vov3d.from_pretrained(packaged).pretrained_cfg
    with vov3d.video.VideoReader(video) as reader:
        every = reader.read(range(reader.num_frames))
        frames = reader.read(vov3d.video.plan_clips(cfg, reader)[0])
    wanted = vov3d.video.eval_transform(cfg)(frames)[0].transpose(0, 1)
    pictures = [frame.permute(1, 2, 0).numpy() for frame in frames]
    for given in (str(video), video.read_bytes(), {"path": None, "bytes": video.read_bytes()}, frames, pictures, every):
        found = processor(given, return_tensors="pt").pixel_values
        assert found.dtype == torch.float32
        assert torch.equal(found, wanted[None])
    assert torch.equal(
        processor([str(video), str(video)], return_tensors="pt").pixel_values, wanted.expand(2, -1, -1, -1, -1)
    )
    assert torch.equal(processor(torch.stack([frames, frames]), return_tensors="pt").pixel_values[1], wanted)


def test_the_settings_of_the_processor_have_an_effect_or_raise(packaged, tmp_path, video):
    processor = transformers.AutoVideoProcessor.from_pretrained(packaged)
    frames = torch.randint(0, 256, (40, 3, 90, 70), dtype=torch.uint8)
    assert processor(frames, num_frames=5, return_tensors="pt").pixel_values.shape == (1, 5, 3, 64, 64)
    assert processor(frames, do_sample_frames=False, return_tensors="pt").pixel_values.shape[1] == 40
    plain = processor(frames[:8], do_normalize=False, do_rescale=False, return_tensors="pt").pixel_values
    assert plain.max() > 200
    bare = processor(frames[:8], do_resize=False, size={"shortest_edge": 90}, return_tensors="pt").pixel_values
    assert bare.shape[-2:] == (64, 64)
    with pytest.raises(ValueError, match="fps=15 would have no effect"):
        processor(frames, fps=15)
    with pytest.raises(ValueError, match="frame_stride=2 would have no effect"):
        processor(frames, frame_stride=2)
    with pytest.raises(ValueError, match="there are no videos: the list is empty"):
        processor([])
    with pytest.raises(ValueError, match="video_metadata has 2 entries for 1 videos"):
        processor(frames, video_metadata=[{"fps": 30}, {"fps": 30}])
    dense = VoV3DVideoProcessor(num_frames=4, frame_stride=2, size={"shortest_edge": 32}, crop_size=32)
    numbered = torch.arange(40, dtype=torch.uint8).reshape(40, 1, 1, 1).expand(40, 3, 32, 32)
    same = {"do_normalize": False, "do_rescale": False, "return_tensors": "pt"}
    assert dense(numbered, **same).pixel_values[0, :, 0, 0, 0].tolist() == [16, 18, 20, 23]
    (known,) = dense(numbered, return_metadata=True, **same).video_metadata
    assert (known.frames_indices, known.total_num_frames, known.fps) == ([16, 18, 20, 23], 40, 30)
    with pytest.raises(ValueError, match="fps is 0: give the frames per second to take, above 0"):
        dense(numbered, fps=0)
    assert dense(numbered, fps=30, **same).pixel_values[0, :, 0, 0, 0].tolist() == [18, 19, 20, 21]
    half = dense(numbered, video_metadata={"fps": 15}, **same).pixel_values[0, :, 0, 0, 0].tolist()
    assert half == [18, 19, 20, 21]
    dense.save_pretrained(tmp_path)
    again = VoV3DVideoProcessor.from_pretrained(tmp_path)
    assert (again.frame_stride, again.num_frames, again.sampling) == (2, 4, "dense")


def test_the_pipeline_names_what_the_classifier_names(packaged, video, caplog):
    wanted = vov3d.VideoClassifier(str(packaged)).result(video, topk=20)
    pipe = transformers.pipeline("video-classification", model=str(packaged))
    found = pipe(str(video), top_k=20)
    assert found[0]["label"] == wanted.predictions[0].label == "Turning something clockwise"
    assert pipe.model.config.num_frames == 8
    dense = transformers.pipeline("video-classification", model=str(packaged), model_kwargs={"dense_logits": True})
    scores = {one["label"]: one["score"] for one in dense(str(video), top_k=20)}
    for prediction in wanted.predictions:
        assert scores[prediction.label] == pytest.approx(prediction.score, abs=1e-5)
    assert not [record for record in caplog.records if "not supported" in record.message]


@pytest.mark.parametrize("pool", ["max", "catavgmax"])
def test_dense_logits_of_networks_that_pool_by_the_maximum(tmp_path, pool):
    vov3d.save_pretrained(vov3d.create_model("vov3d_n", num_classes=3, global_pool=pool), tmp_path, transformers=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config["pretrained_cfg"]["temperature"] = 0.01
    (tmp_path / "config.json").write_text(json.dumps(config))
    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    wanted = vov3d.VideoClassifier(str(tmp_path)).scores(frames)
    pixels = VoV3DVideoProcessor.from_pretrained(tmp_path)(frames, return_tensors="pt")
    model = VoV3DForVideoClassification.from_pretrained(tmp_path, dense_logits=True)
    torch.testing.assert_close(model(**pixels).logits[0].softmax(0), wanted)


FRESH = """
import sys
from transformers import AutoModelForVideoClassification, pipeline
pipe = pipeline("video-classification", model=sys.argv[1], trust_remote_code=True)
print(pipe(sys.argv[2], top_k=1)[0]["label"])
pipe.model.save_pretrained(sys.argv[3])
"""


@pytest.mark.slow  # another interpreter
def test_a_folder_opens_without_importing_this_package(packaged, video, tmp_path):
    command = [sys.executable, "-c", FRESH, str(packaged), str(video), str(tmp_path / "saved")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Turning something clockwise"
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert names == {"config.json", "model.safetensors", "modeling_vov3d.py"}
    saved, given = tmp_path / "saved" / "modeling_vov3d.py", packaged / "modeling_vov3d.py"
    assert saved.read_text() == given.read_text()
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["auto_map"] == json.loads((packaged / "config.json").read_text())["auto_map"]


# --- training --------------------------------------------------------------------------------------------------------


class Rows(torch.utils.data.Dataset):
    """Clips whose class is their brightness."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {"pixel_values": torch.full((4, 3, 32, 32), float(index % 2)), "labels": index % 2}


def test_trainer_trains_saves_and_goes_on(tmp_path):
    config = VoV3DConfig(architecture="x3d_xs", id2label={0: "dark", 1: "bright"}, num_frames=4, **_TWO)
    model = VoV3DForVideoClassification(config)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "runs"),
        num_train_epochs=2,
        per_device_train_batch_size=3,
        learning_rate=0.01,
        use_cpu=True,
        report_to=[],
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        gradient_checkpointing=True,
        disable_tqdm=True,
    )
    processor = VoV3DVideoProcessor(num_frames=4, size={"shortest_edge": 32}, crop_size=32)
    trainer = transformers.Trainer(
        model, arguments, train_dataset=Rows(), eval_dataset=Rows(), processing_class=processor
    )
    trainer.train()
    assert np.isfinite(trainer.evaluate()["eval_loss"])
    trainer.save_model(str(tmp_path / "model"))
    x = torch.stack([row["pixel_values"] for row in (Rows()[0], Rows()[1])])
    back = vov3d.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(outputs(back, x), outputs(trainer.model, x), rtol=1e-5, atol=1e-5)
    assert vov3d.class_names(back) == ["dark", "bright"]
    assert back.pretrained_cfg["num_frames"] == 4
    assert transformers.AutoVideoProcessor.from_pretrained(tmp_path / "model").num_frames == 4
    arguments.num_train_epochs = 3
    again = transformers.Trainer(model, arguments, train_dataset=Rows(), eval_dataset=Rows())
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 6


@pytest.mark.parametrize("target", ["conv_pw", "hidden", "fc"])
def test_lora_acts_in_training_and_in_evaluation(target, tmp_path):
    peft = pytest.importorskip("peft")
    base = VoV3DForVideoClassification(VoV3DConfig(architecture="vov3d_n", num_labels=3, drop_rate=0.0, **_TWO))
    for module in base.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    vov3d.freeze_batchnorm(base)
    base.save_pretrained(tmp_path / "base")
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=[target], init_lora_weights=False))
    for mode in (True, False):
        model.train(mode)
        with torch.no_grad():
            adapted = model(pixel_values=clips(size=32)).logits
            with model.disable_adapter():
                plain = model(pixel_values=clips(size=32)).logits
        assert (adapted - plain).abs().max() > 1e-3
    # What the adapter adds to the kernels, done by hand, gives the same.
    by_hand = VoV3DForVideoClassification.from_pretrained(tmp_path / "base")
    for name, layer in model.base_model.model.named_modules():
        if hasattr(layer, "lora_A") and name.endswith(target):
            down, up = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            change = up.flatten(1) @ down.flatten(1) * layer.scaling["default"]
            kernel = by_hand.get_submodule(name).weight
            kernel.data += change.reshape(kernel.shape)
    torch.testing.assert_close(outputs(by_hand, clips(size=32)), adapted, rtol=1e-4, atol=1e-5)
    model.train()(pixel_values=clips(size=32), labels=torch.tensor([0, 1])).loss.backward()
    grads = [p.grad for name, p in model.named_parameters() if "lora" in name]
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads)
    model.save_pretrained(tmp_path / "lora")
    fresh = VoV3DForVideoClassification.from_pretrained(tmp_path / "base")
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "lora").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixel_values=clips(size=32)).logits, adapted, rtol=1e-4, atol=1e-5)


def test_the_wrapper_of_timm_runs_clips_and_says_what_it_wants_of_images(tmp_path):
    model = networks("VoV3D")
    vov3d.save_pretrained(model, tmp_path, list("abcde"))
    wrapped = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(wrapped).__name__ == "TimmWrapperForImageClassification"
    clip = clips().transpose(1, 2)
    torch.testing.assert_close(wrapped(clip).logits, outputs(model, clips()), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"expected a clip \(B, C, T, H, W\), got 4 dimensions"):
        wrapped(clip[:, :, 0])
