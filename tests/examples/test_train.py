"""A run of the trainer, whole, killed, on a full disk, with broken files, in two processes."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.tiny_training_runs import clips_file, column, command, trainer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import train
from reference.training import building, checkpoints

import vov3d
from vov3d.cli import main as vov3d_main
from vov3d.synthetic.moving_shapes import CLASSES, write_videos

EXAMPLES = Path(train.__file__).parents[1]
TESTS = Path(__file__).parent.parent

pytestmark = pytest.mark.usefixtures("one_thread")


class Killed(BaseException):
    """A stand-in for the end of a process."""


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(vov3d.__file__).parent.parent), str(EXAMPLES), str(TESTS)])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}


def run_killed(data, output, at: int, **keys) -> None:
    """Runs a training that is killed after `at` updates, whatever it is doing."""
    run = trainer(data, output, (output / "checkpoint.pt").exists(), **keys)
    whole = run.one_update

    def one_update(*args):
        if run.step == at:
            raise Killed
        return whole(*args)

    run.one_update = one_update
    with pytest.raises(Killed):
        run.run()


# --- whole runs ------------------------------------------------------------------------------------------------------


def test_a_run_learns_and_leaves_model_logs_and_curves(tmp_path, capsys):
    data, val, out = clips_file(tmp_path, 48), clips_file(tmp_path, 20, seed=1), tmp_path / "run"
    keys = dict(data_val=val, schedule_epochs=6, optimizer_lr=0.02, train_batch_size=4, train_keep="best")
    assert train.main(command(data, out, **keys)) == 0
    losses = list(map(float, column(out, "loss")))
    assert len(losses) == 6 * 12
    assert np.mean(losses[-12:]) < 0.7 * np.mean(losses[:12])
    assert max(map(float, column(out, "top1", "epochs.csv"))) >= 90
    text = capsys.readouterr().out
    assert "learning rate 0.02 for 8 clips an update, scaled by 0.5: 0.01" in text
    assert "of the time waiting for data" in text
    assert (out / "curves.png").stat().st_size > 5_000
    model = vov3d.from_pretrained(out / "model")
    assert vov3d.class_names(model) == ["darker", "lighter"]
    assert model.pretrained_cfg["num_frames"] == 4
    assert tuple(model.pretrained_cfg["input_size"]) == (3, 16, 16)


def test_a_folder_of_videos_is_finetuned_pushed_and_predicted_by_the_command_line(tmp_path, capsys, hub):
    write_videos(tmp_path / "videos", 5, seed=0, num_frames=6, size=32, classes=CLASSES[:2])
    keys = dict(model_pretrained="false", clip_size=24, clip_test_size=24, schedule_epochs=1, data_workers=1)
    assert train.main(command(tmp_path / "videos", tmp_path / "first", "finetune", **keys)) == 0
    keys = dict(model_name=tmp_path / "first/model", clip_size=24, clip_test_size=24, schedule_epochs=1, data_workers=0)
    keys |= dict(clip_sampling="segment", clip_stride=0)
    assert train.main(command(tmp_path / "videos", tmp_path / "run", "finetune", **keys)) == 0
    assert column(tmp_path / "run", "top1", "epochs.csv") != [""]
    capsys.readouterr()
    files = sorted(map(str, (tmp_path / "videos").glob("*/*.mp4")))
    vov3d.push_to_hub(vov3d.from_pretrained(tmp_path / "run/model"), "me/mine")
    seen = []
    for model in (str(tmp_path / "run/model"), "hf-hub:me/mine"):
        assert vov3d_main(["predict", files[0], "--model", model, "--json"]) == 0
        (result,) = json.loads(capsys.readouterr().out)
        seen.append({p["label"]: p["score"] for p in result["predictions"]})
    assert seen[0].keys() == set(CLASSES[:2])
    assert seen[0] == seen[1]
    assert vov3d.from_pretrained(tmp_path / "run/model").pretrained_cfg["clip_seconds"] == 0.6


def test_the_options_of_a_run_work_together(tmp_path):
    data, val = clips_file(tmp_path), clips_file(tmp_path, 7, seed=1)
    keys = dict(
        data_val=val,
        mix_mixup=0.2,
        mix_cutmix=1.0,
        train_ema=0.5,
        train_precise_bn=2,
        train_accumulate=2,
        train_clip_grad=1.0,
        train_label_smoothing=0.1,
        train_val_every=2,
        model_grad_checkpointing="true",
        model_drop_path_rate=0.1,
        schedule_name="steps",
        schedule_milestones="[1]",
        optimizer_layer_decay=0.7,
        clip_flip="true",
    )
    run = trainer(data, tmp_path / "run", **keys)
    run.run()
    assert column(tmp_path / "run", "val_loss", "epochs.csv")[0] == ""
    saved = vov3d.from_pretrained(tmp_path / "run/model").state_dict()
    for name, value in run.ema.module.state_dict().items():
        torch.testing.assert_close(saved[name], value)
    assert not all(torch.equal(saved[name], value) for name, value in content_of(tmp_path / "run")["model"].items())


def content_of(output: Path) -> dict:
    return checkpoints.load_checkpoint(output / "checkpoint.pt")


def test_a_linear_probe_changes_the_classifier_alone(tmp_path):
    run = trainer(clips_file(tmp_path), tmp_path / "run", model_freeze_backbone="true")
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.run()
    changed = {name for name, value in run.network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.fc.weight", "head.fc.bias"}


def test_frozen_norms_stay(tmp_path):
    run = trainer(clips_file(tmp_path), tmp_path / "run", model_freeze_batchnorm="true")
    before = {name: value.clone() for name, value in run.network.state_dict().items()}
    run.run()
    changed = {name for name, value in run.network.state_dict().items() if not torch.equal(value, before[name])}
    assert {"stem.conv_s.weight", "head.fc.weight"} <= changed
    assert not [name for name in changed if "bn" in name]


def test_backward_passes_give_the_gradients_of_one(tmp_path):
    data, gradients = clips_file(tmp_path, 13), []
    for accumulate in (1, 3):
        keys = dict(train_accumulate=accumulate, model_freeze_batchnorm="true", optimizer_batch=13)
        run = trainer(data, tmp_path / f"run{accumulate}", **keys)
        run.optimizer.zero_grad = lambda: None
        run.optimizer.step = lambda: None
        run.train_epoch()
        gradients.append([p.grad.clone() for p in run.network.parameters() if p.grad is not None])
    for one, several in zip(*gradients, strict=True):
        torch.testing.assert_close(several, one, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_run_is_killed_resumed_and_saved_under_plain_names(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "COMPILER", "eager")  # traces, but needs no compiler
    data, keys = clips_file(tmp_path), dict(train_ema=0.5, schedule_epochs=2, train_checkpoint_every=1)
    trainer(data, tmp_path / "plain", **keys).run()
    run_killed(data, tmp_path / "run", 3, train_compile="true", **keys)
    run = trainer(data, tmp_path / "run", True, train_compile="true", **keys)
    assert isinstance(run.model, torch._dynamo.OptimizedModule)
    run.run()
    saved, plain = (vov3d.from_pretrained(tmp_path / name / "model").state_dict() for name in ("run", "plain"))
    assert saved.keys() == plain.keys() == content_of(tmp_path / "run")["model"].keys()
    for name, value in plain.items():
        torch.testing.assert_close(saved[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("keys", "said"),
    [({}, "C\\+\\+ compiler, and 'no-such-compiler'"), ({"model_grad_checkpointing": "true"}, "grad_checkpointing")],
)
def test_a_run_that_cannot_be_compiled_says_why(tmp_path, monkeypatch, keys, said):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match=said):
        trainer(clips_file(tmp_path), tmp_path / "run", train_compile="true", **keys)
    trainer(clips_file(tmp_path), tmp_path / "run", **keys)  # nothing was written that would stop a plain run


# --- killed and resumed ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ends=st.lists(st.integers(1, 8), min_size=1, max_size=2, unique=True),
    every=st.integers(0, 3),
    accumulate=st.integers(1, 2),
    ema=st.sampled_from([0, 0.7]),
)
def test_a_killed_run_resumes_with_equal_results(tmp_path_factory, ends, every, accumulate, ema):
    folder = tmp_path_factory.mktemp("killed")
    data, val = clips_file(folder), clips_file(folder, 6, seed=1)
    keys = dict(
        data_val=val,
        mix_mixup=0.3,
        model_drop_rate=0.5,
        schedule_epochs=3,
        train_accumulate=accumulate,
        train_ema=ema,
        train_precise_bn=1,
        train_checkpoint_every=every,
        train_keep="best",
    )
    trainer(data, folder / "whole", **keys).run()
    for end in sorted(ends):
        run_killed(data, folder / "run", end, **keys)
    trainer(data, folder / "run", True, **keys).run()
    for name in ("loss", "lr", "update"):
        assert column(folder / "run", name) == column(folder / "whole", name)
    for name in ("train_loss", "val_loss", "top1"):
        assert column(folder / "run", name, "epochs.csv") == column(folder / "whole", name, "epochs.csv")
    weights = "model/model.safetensors"
    assert (folder / "run" / weights).read_bytes() == (folder / "whole" / weights).read_bytes()


@pytest.mark.slow  # two processes of training
def test_a_killed_process_resumes_bit_identically(tmp_path):
    data = clips_file(tmp_path)
    keys = dict(schedule_epochs=25, train_checkpoint_every=2, model_drop_rate=0.5)
    trainer(data, tmp_path / "whole", **keys).run()
    line = [sys.executable, "-m", "reference.train", *command(data, tmp_path / "run", "shapes_adamw", **keys)]
    process = subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL)
    log, deadline = tmp_path / "run/updates.csv", time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") > 10):
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run([*line, "--resume", "auto"], env=environment(), capture_output=True, text=True, check=True)
    assert "resuming from epoch" in done.stdout
    assert column(tmp_path / "run", "loss") == column(tmp_path / "whole", "loss")
    weights = "model/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_a_kill_while_writing_leaves_the_former_checkpoint(tmp_path, monkeypatch):
    data, out = clips_file(tmp_path), tmp_path / "run"
    run_killed(data, out, 4, train_checkpoint_every=3)
    former = (out / "checkpoint.pt").read_bytes()

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "os", SimpleNamespace(fsync=os.fsync, replace=killed))
        with pytest.raises(Killed):
            trainer(data, out, True, train_checkpoint_every=3).run()
    assert (out / "checkpoint.pt").read_bytes() == former
    trainer(data, out, True, train_checkpoint_every=3).run()


def test_a_full_disk_leaves_the_former_checkpoint_and_says_so(tmp_path, monkeypatch, capsys):
    data, out = clips_file(tmp_path), tmp_path / "run"
    run_killed(data, out, 4, train_checkpoint_every=3)
    former = (out / "checkpoint.pt").read_bytes()

    def full(content, file):
        file.write(b"half of a checkpoint")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    words = command(data, out, "shapes_adamw", "--resume", "auto", train_checkpoint_every=3)
    assert train.main(words) == 1
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "the former one is still there" in error
    assert (out / "checkpoint.pt").read_bytes() == former
    assert not list(out.glob(".*.part*"))


def test_resuming_with_other_settings_names_them(tmp_path, capsys):
    data, out = clips_file(tmp_path), tmp_path / "run"
    run_killed(data, out, 2, train_checkpoint_every=1)
    keys = dict(optimizer_lr=0.5, train_checkpoint_every=5, data_max_broken=0.9)
    assert train.main(command(data, out, "shapes_adamw", "--resume", "auto", **keys)) == 1
    error = capsys.readouterr().err
    assert "optimizer.lr (was 0.004, is 0.5)" in error
    assert "checkpoint_every" not in error
    assert "max_broken" not in error  # of a run that it ended
    assert train.main(command(clips_file(tmp_path, 22), out, "shapes_adamw", "--resume", "auto")) == 1
    assert "the training data is different" in capsys.readouterr().err
    assert train.main(command(data, out)) == 1
    assert "--resume auto" in capsys.readouterr().err


@pytest.mark.parametrize(("keep", "status"), [("best", 1), ("last", 0)])
def test_the_best_epoch_is_chosen_by_one_set_of_videos(tmp_path, capsys, keep, status):
    data, out = clips_file(tmp_path), tmp_path / "run"
    keys = dict(data_val=clips_file(tmp_path, 6, seed=1), train_keep=keep, schedule_epochs=1)
    assert train.main(command(data, out, **keys)) == 0
    keys["data_val"] = clips_file(tmp_path, 8, seed=2)
    assert train.main(command(data, out, "shapes_adamw", "--resume", "auto", **keys)) == status
    assert ("the videos for validation are different" in capsys.readouterr().err) is (keep == "best")


@pytest.mark.parametrize("content", [{"model": {}}, [1]])
def test_a_checkpoint_of_something_else_is_named(tmp_path, capsys, content):
    (tmp_path / "run").mkdir()
    torch.save(content, tmp_path / "run/checkpoint.pt")
    assert train.main(command(clips_file(tmp_path), tmp_path / "run", "shapes_adamw", "--resume", "auto")) == 1
    assert "checkpoint.pt: is no checkpoint of this trainer, it lacks recipe" in capsys.readouterr().err


def test_one_class_alone_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "one.npz", clips=np.zeros((4, 4, 18, 18, 3), np.uint8), labels=np.zeros(4, int))
    assert train.main(command(tmp_path / "one.npz", tmp_path / "run")) == 1
    assert "has one class, 'class 0', and nothing to tell it from" in capsys.readouterr().err


# --- broken files ----------------------------------------------------------------------------------------------------


@pytest.fixture
def videos(tmp_path):
    """Writes six files of each of two classes, and one that is no video."""
    write_videos(tmp_path / "videos", 6, seed=0, num_frames=5, size=32, classes=CLASSES[:2])
    broken = tmp_path / "videos" / CLASSES[0] / "0_00002.mp4"
    broken.write_text("no video")
    return tmp_path / "videos"


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_files_are_replaced_counted_and_listed(videos, tmp_path, capsys, workers):
    keys = dict(data_workers=workers, data_max_broken=0.2, schedule_epochs=1)
    assert train.main(command(videos, tmp_path / "run", **keys)) == 0
    text = capsys.readouterr().out
    assert "1 broken" in text
    assert f"{videos / CLASSES[0] / '0_00002.mp4'}: " in text


def test_links_that_lead_nowhere_and_names_that_are_no_text_are_broken_files(videos, tmp_path, capsys):
    name = os.fsdecode(b"\xe4.mp4")
    (videos / CLASSES[1] / "gone.mp4").symlink_to(tmp_path / "nowhere.mp4")
    (videos / CLASSES[1] / name).write_text("no video")
    keys = dict(data_workers=0, data_max_broken=0.5, data_val_share=0.3, schedule_epochs=1)
    assert train.main(command(videos, tmp_path / "run", **keys)) == 0
    out = capsys.readouterr().out.encode("utf-8", "backslashreplace").decode()  # as the stream of a terminal does
    assert "3 files are broken" in out
    assert "\\udce4.mp4: " in out


def test_too_many_broken_files_are_an_error(videos, tmp_path, capsys):
    assert train.main(command(videos, tmp_path / "run", data_workers=0, schedule_epochs=1)) == 1
    error = capsys.readouterr().err
    assert "1 of 12 files are broken, more than data.max_broken=0.01 allows" in error
    assert "0_00002.mp4" in error


def test_a_broken_file_is_left_out_of_validation(videos, tmp_path):
    run = trainer(videos, tmp_path / "run", data_val=videos, data_workers=0, data_max_broken=0.5)
    right = run.validate()["top1"] * 11 / 100
    assert right == pytest.approx(round(right))
    assert len(run.broken) == 1


# --- two processes ---------------------------------------------------------------------------------------------------


@pytest.mark.slow  # two processes of training
def test_two_processes_give_the_gradients_of_one_and_see_each_clip_once(tmp_path):
    """With norms that add up their sums over the processes as SyncBatchNorm does on GPUs, in float64."""
    data = clips_file(tmp_path, 21)
    script = TESTS / "helpers/training_process.py"
    launch = {"1": [], "2": ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]}
    for number, words in launch.items():
        line = [sys.executable, *words, str(script), str(data), str(tmp_path / number)]
        done = subprocess.run(line, env=environment(), check=False, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / number / "gradients.pt", weights_only=True) for number in ("1", "2"))
    for name, gradient in one.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(two[name], gradient, rtol=1e-5, atol=1e-12, msg=name)
    seen = [json.loads((tmp_path / f"2/seen-{rank}.json").read_text()) for rank in (0, 1)]
    for epoch in ("0", "1"):
        assert sorted(seen[0][epoch] + seen[1][epoch]) == list(range(21))
    assert column(tmp_path / "2/run", "loss") == column(tmp_path / "2/whole", "loss")
