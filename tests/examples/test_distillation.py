"""Distillation: its loss, what a teacher sees, which teachers are refused, runs with one."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import distillation as measured
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from helpers.tiny_training_runs import clips_file, command, trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pages import part_of
from reference import train
from reference.evaluation.models import load_model
from reference.training import distillation
from reference.training.checkpoints import load_checkpoint
from reference.training.distillation import Distillation, adapt, divergence

import vov3d
from vov3d.deploy import ExportedModel

pytestmark = pytest.mark.usefixtures("one_thread")

TESTS = Path(__file__).parent.parent
CLASSES = ("darker", "lighter")


@pytest.fixture(autouse=True)
def own_precision():
    """Lets a test train in a precision of its own: accelerate keeps the first one of a process."""
    AcceleratorState._reset_state(True)
    yield
    AcceleratorState._reset_state(True)


SIZES = dict(depths=[1], mid_chs=[6], out_chs=[6], stem_chs=4, head_chs=8, hidden_chs=8, output_stride=4)


def network(names=CLASSES, seed=1, **cfg):
    """Returns a network of random weights, for clips of 4 x 16 x 16."""
    torch.manual_seed(seed)
    model = vov3d.create_model("x3d_xs", num_classes=len(names), **SIZES).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
    torch.nn.init.normal_(model.head.fc.weight, std=3)
    size = dict(input_size=(3, 16, 16), test_input_size=(3, 16, 16), pool_size=(4, 4))
    model.pretrained_cfg |= size | dict(num_frames=4, sampling="dense", frame_stride=2) | cfg
    return model


def folder(path, names=CLASSES, seed=1, **cfg):
    """Saves such a network; returns its folder."""
    vov3d.save_pretrained(network(names, seed, **cfg), path, label_names=list(names))
    return path


def distilled(model, student, classes=CLASSES, weight=0.5, temperature=2.0):
    chosen = SimpleNamespace(model=str(model), weight=weight, temperature=temperature)
    return Distillation(chosen, student, classes, Accelerator(cpu=True))


# --- the loss --------------------------------------------------------------------------------------------------------

LOGITS = arrays(np.float64, (3, 5), elements=st.floats(-30, 30))


@settings(deadline=None, max_examples=50)
@given(student=LOGITS, teacher=LOGITS, temperature=st.floats(0.5, 20))
def test_the_divergence_and_its_gradient_are_those_of_the_formula(student, teacher, temperature):
    p, q = (np.exp(x / temperature - (x / temperature).max(1, keepdims=True)) for x in (teacher, student))
    p, q = (x / x.sum(1, keepdims=True) for x in (p, q))
    expected = temperature**2 * (p * (np.log(p) - np.log(q))).sum()
    logits = torch.from_numpy(student).requires_grad_()
    found = divergence(logits, torch.from_numpy(teacher), temperature)
    found.backward()
    assert found.item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(logits.grad, temperature * (q - p), rtol=1e-9, atol=1e-12)


def test_the_loss_lies_between_that_of_the_labels_and_the_teachers(tmp_path):
    teacher, clips, outputs = network(), torch.randn(3, 3, 4, 16, 16), torch.randn(3, 2)
    expected = divergence(outputs, teacher(clips).detach(), 2.0).item()
    assert expected > 0.1
    for weight in (0.25, 1.0):
        loss = distilled(folder(tmp_path / "teacher"), network(), weight=weight).loss(torch.tensor(7.0), outputs, clips)
        assert loss.item() == pytest.approx((1 - weight) * 7 + weight * expected, rel=1e-4)


def test_without_a_teacher_the_loss_stays():
    found, loss = distilled("", None), torch.tensor(7.0)
    assert found.loss(loss, torch.empty(0), torch.empty(0)) is loss
    assert (found.settings, found.note) == ({}, "")


# --- what a teacher sees ---------------------------------------------------------------------------------------------


def test_a_teacher_of_other_statistics_frames_and_classes_gives_the_logits_of_its_own_clip(tmp_path):
    names = ("darker", "still", "lighter")
    cfg = dict(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0), num_frames=2, frame_stride=6)
    path = folder(tmp_path / "teacher", names, **cfg)
    pixels = torch.rand(2, 3, 6, 16, 16)
    student = network(num_frames=6)
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1, 1) for key in ("mean", "std"))
    own = vov3d.from_pretrained(path).eval()((pixels[:, :, [1, 4]] - mean) / std)[:, [2, 0]]
    found = distilled(path, student, ("lighter", "darker")).logits((pixels - 0.45) / 0.225)
    torch.testing.assert_close(found, own, rtol=1e-3, atol=1e-3)
    assert (own - own.mean()).abs().max() > 0.1


def test_segments_are_shared_out_among_those_of_the_teacher(tmp_path):
    path = folder(tmp_path / "teacher", sampling="segment", num_frames=2, frame_stride=None)
    student = network(num_frames=8, sampling="segment", frame_stride=None)
    assert adapt(load_model(str(path), None, torch.device("cpu")), student, CLASSES).step == 4


def test_a_teacher_in_a_file_takes_the_clips_that_the_file_is_for(tmp_path):
    """The file is made of metadata and a function, as the runtimes of all formats are called."""
    path = folder(tmp_path / "teacher")
    source = load_model(str(path), None, torch.device("cpu"))
    facts = dict(architecture="x3d_xs", pretrained_cfg=source.cfg, clip=[2, 32, 32])
    facts |= dict(class_names=list(CLASSES), num_classes=2, in_chans=3, outputs=["logits"])
    file = ExportedModel(SimpleNamespace(**facts), lambda clip: [source.network(clip)], Path("a.onnx"))
    with pytest.raises(ValueError, match="clip.frames=2, clip.stride=2") as error:
        adapt(replace(source, network=file), network(), CLASSES)
    assert "it takes 32x32 pixels, the run has 16x16: set clip.size=32" in str(error.value)
    assert adapt(replace(source, network=file), network(num_frames=2, **CLIPS["clip.size=32"]), CLASSES).step == 1


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".pt2", ".onnx", ".xml"])
def test_an_exported_teacher_gives_the_loss_of_its_source(tmp_path, ending):
    if ending != ".pt2":
        pytest.importorskip({".onnx": "onnxruntime", ".xml": "openvino"}[ending])
    path = folder(tmp_path / "teacher")
    file = vov3d.export(vov3d.from_pretrained(path), tmp_path / f"teacher{ending}", frames=4, size=16)
    clips, outputs = torch.randn(3, 3, 4, 16, 16), torch.randn(3, 2, requires_grad=True)
    zero = torch.tensor(0.0)
    losses = [distilled(name, network()).loss(zero, outputs, clips) for name in (path, file)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)
    losses[1].backward()
    assert outputs.grad.abs().max() > 0


CLIPS = {
    "clip.frames=3": dict(num_frames=3),
    "clip.stride=4": dict(frame_stride=4),
    "clip.sampling='segment', clip.frames=4": dict(sampling="segment", frame_stride=None),
    "clip.size=32": dict(input_size=(3, 32, 32), test_input_size=(3, 36, 36)),
}


@pytest.mark.parametrize("wanted", CLIPS)
def test_a_teacher_of_other_clips_is_refused_with_what_to_set(tmp_path, wanted):
    path = folder(tmp_path / "teacher", **CLIPS[wanted])
    with pytest.raises(ValueError, match="cannot teach this run") as error:
        distilled(path, network())
    assert wanted in str(error.value)
    student = network(**CLIPS[wanted])
    distilled(path, student)  # with what was to be set it is taken


def test_what_does_not_fit_is_told_at_once(tmp_path):
    path = folder(tmp_path / "teacher", ("still", "darker"), num_frames=8, **CLIPS["clip.size=32"])
    with pytest.raises(ValueError, match="clip.frames=8") as error:
        distilled(path, network())
    for part in ("clip.size=32", "1 are not among its 2, such as 'lighter'", "data.classes"):
        assert part in str(error.value)


def test_classes_without_names_must_be_as_many():
    teacher = SimpleNamespace(names=None, num_classes=3, network=network(), cfg=network().pretrained_cfg, name="it")
    with pytest.raises(ValueError, match="it has 3 classes without names, the data 2"):
        adapt(teacher, network(), CLASSES)
    assert adapt(SimpleNamespace(**vars(teacher) | {"num_classes": 2}), network(), CLASSES).columns is None


def test_what_gives_no_logits_of_clips_is_no_teacher(tmp_path, monkeypatch):
    path = str(folder(tmp_path / "teacher"))
    found = load_model(path, None, torch.device("cpu"))
    monkeypatch.setattr(distillation, "load_model", lambda *_, **__: replace(found, num_classes=0))
    with pytest.raises(ValueError, match="has no classifier"):
        distilled(path, network())
    next(iter(found.network.parameters())).data[:] = torch.nan
    monkeypatch.setattr(distillation, "load_model", lambda *_, **__: found)
    with pytest.raises(ValueError, match="is not finite, take another teacher"):
        distilled(path, network())
    with pytest.raises(ValueError, match="distill.weight is 0"):
        distilled(path, network(), weight=0.0)


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_with_all_options_shows_both_the_same_clips_and_trains_the_student_alone(tmp_path):
    path = folder(tmp_path / "teacher")
    keys = dict(distill_model=path, mix_mixup=0.4, mix_cutmix=1.0, train_precision="bf16", train_ema=0.5)
    run = trainer(clips_file(tmp_path, 12), tmp_path / "run", train_accumulate=2, schedule_epochs=1, **keys)
    weights = {name: value.clone() for name, value in run.distillation._network.state_dict().items()}
    seen = {"student": [], "teacher": []}
    run.network.register_forward_pre_hook(lambda _, args: seen["student"].append(args[0]))
    judge = run.distillation._network

    def noted(clips):
        assert not torch.is_grad_enabled()
        seen["teacher"].append(clips)
        return judge(clips)

    run.distillation._network = noted
    run.run()
    assert len(seen["teacher"]) == 4
    for student, teacher in zip(seen["student"][:4], seen["teacher"], strict=True):
        torch.testing.assert_close(student.float(), teacher)
    assert not judge.training
    for name, value in judge.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)
    content = load_checkpoint(tmp_path / "run/checkpoint.pt")
    assert content["recipe"]["distill.model"] == str(path)
    assert content["recipe"]["distill.teacher"] == run.distillation.settings["distill.teacher"]
    shapes = {tuple(value.shape) for part in ("model", "ema") for value in content[part].values()}
    assert not shapes & {tuple(value.shape) for value in weights.values() if value.shape[:1] == (6,)}


def test_a_teacher_changes_the_loss_and_nothing_that_is_drawn(tmp_path):
    """The first losses of both runs are of the same student on the same clips."""
    data, path, losses = clips_file(tmp_path, 8), folder(tmp_path / "teacher"), []
    for number, keys in enumerate([{}, dict(distill_model=path, distill_weight=0.25)]):
        run = trainer(data, tmp_path / str(number), model_drop_rate=0.5, schedule_epochs=1, **keys)
        kept = run.distillation.loss

        def noted(of_labels, outputs, clips, kept=kept):
            losses.append((of_labels.item(), kept(of_labels, outputs, clips).item()))
            return kept(of_labels, outputs, clips)

        run.distillation.loss = noted
        run.train_epoch()
    assert losses[0][0] == losses[0][1] == losses[1][0]
    assert losses[1][1] != losses[1][0]


@pytest.mark.slow
def test_resuming_with_another_teacher_is_refused_and_with_the_moved_one_not(tmp_path, capsys):
    data, out = clips_file(tmp_path, 8), tmp_path / "run"
    path = folder(tmp_path / "teacher")
    again = ["--resume", "auto"]
    assert train.main(command(data, out, "shapes_adamw", "--distill", str(path))) == 0
    assert f"teacher {path}: temperature 2, weight 0.5" in capsys.readouterr().out
    moved = shutil.move(path, tmp_path / "moved")
    other = folder(tmp_path / "teacher", seed=2)
    for words in (["--distill", str(other)], []):
        assert train.main(command(data, out, "shapes_adamw", *words, *again)) == 1
        error = capsys.readouterr().err
        assert "distill.teacher (was 'x3d_xs, digest " in error
        assert "is of a run with other settings" in error
    assert train.main(command(data, out, "shapes_adamw", "--distill", str(moved), *again)) == 0


def test_settings_without_a_teacher_have_no_effect(tmp_path, capsys):
    assert train.main(command(tmp_path, tmp_path / "run", distill_temperature=3)) == 1
    assert "distill.temperature=3 has no effect without a teacher: give --distill MODEL" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path):
    data, path = clips_file(tmp_path, 21), folder(tmp_path / "teacher")
    script = TESTS / "helpers/training_process.py"
    places = [str(Path(vov3d.__file__).parent.parent), str(Path(train.__file__).parents[1]), str(TESTS)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(places)}
    launch = {"1": [], "2": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]}
    for number, words in launch.items():
        line = [sys.executable, *words, str(script), str(data), str(tmp_path / number), f"distill.model={path}"]
        done = subprocess.run(line, env=environment, check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        assert f"teacher {path}" in done.stdout
    one, two = (torch.load(tmp_path / number / "gradients.pt", weights_only=True) for number in ("1", "2"))
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, rtol=1e-4, atol=1e-9, msg=name)


# --- what was measured -----------------------------------------------------------------------------------------------


def test_the_table_of_the_page_is_that_of_the_stored_runs():
    written = part_of(measured.PAGE.read_text(encoding="utf-8"), "distillation")
    assert written == measured.table(json.loads(measured.RESULTS.read_text())), "run `python docs/measure distillation`"


def test_a_run_of_many_labels_has_no_teacher(tmp_path):
    data = tmp_path / "labels.csv"
    data.write_text("path,labels\na.mp4,up;left\nb.mp4,down\n")
    for name in "ab":
        (tmp_path / f"{name}.mp4").touch()
    with pytest.raises(ValueError, match="is for runs of one label a video"):
        trainer(data, tmp_path / "run", task_name="multilabel", distill_model="vov3d_n")
