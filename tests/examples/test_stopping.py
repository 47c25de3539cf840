"""Runs that get a signal, a gradient of NaN or a killed reader: the files that they leave and the messages."""

import math
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.tiny_training_runs import clips_file, column, command, trainer
from reference import train
from reference.data.clips import VideoClips
from reference.data.sources import Source
from reference.training import checkpoints, log

import vov3d
from vov3d.synthetic.moving_shapes import CLASSES, write_videos
from vov3d.video import VideoClassifier

EXAMPLES = Path(train.__file__).parents[1]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def videos(tmp_path):
    write_videos(tmp_path / "videos", 6, seed=0, num_frames=5, size=32, classes=CLASSES[:2])
    return tmp_path / "videos"


def weights(output: Path) -> bytes:
    return (output / "model/model.safetensors").read_bytes()


def before_call(number: int, function, deed):
    """Returns the function, with a deed done before its `number`-th call."""
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(1)
        if len(calls) == number:
            deed()
        return function(*args, **kwargs)

    return wrapped


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "place"),
    [
        (signal.SIGINT, "forward"),
        pytest.param(signal.SIGTERM, "data", marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, "validation", marks=pytest.mark.slow),
        (signal.SIGTERM, "recalibration"),
        pytest.param(signal.SIGTERM, "saving", marks=pytest.mark.slow),
    ],
)
def test_a_run_stopped_by_a_signal_resumes_bit_identically(tmp_path, monkeypatch, capsys, number, place):
    data, val = clips_file(tmp_path), clips_file(tmp_path, 6, seed=1)
    keys = dict(data_val=val, model_drop_rate=0.5, train_precise_bn=2, train_keep="best", train_accumulate=2)
    assert train.main(command(data, tmp_path / "whole", "shapes_adamw", **keys)) == 0
    where = {
        "forward": (train.Trainer, "loss"),
        "data": (train.Trainer, "_next"),
        "validation": (train, "row_of"),
        "recalibration": (train.Trainer, "_to_network"),
        "saving": (train, "save_atomically"),
    }
    owner, name = where[place]
    with monkeypatch.context() as patch:
        calls = {"recalibration": 7, "saving": 1}
        deed = before_call(calls.get(place, 3), getattr(owner, name), lambda: os.kill(os.getpid(), number))
        patch.setattr(owner, name, deed)
        capsys.readouterr()
        status = train.main(command(data, tmp_path / "run", "shapes_adamw", **keys))
    assert status == 128 + number
    error = capsys.readouterr().err
    (said,) = [line for line in error.splitlines() if line.startswith("train.py: ")]
    assert f"stopped by {number.name}; {tmp_path / 'run/checkpoint.pt'} holds update " in said
    assert "the same command with --resume auto resumes there" in said
    assert signal.getsignal(number) not in (signal.SIG_IGN, None)
    assert train.main(command(data, tmp_path / "run", "shapes_adamw", "--resume", "auto", **keys)) == 0
    assert column(tmp_path / "run", "loss") == column(tmp_path / "whole", "loss")
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")


def test_a_signal_before_the_first_update_is_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(train, "read_sources", before_call(1, train.read_sources, lambda: os.kill(os.getpid(), 15)))
    assert train.main(command(clips_file(tmp_path), tmp_path / "run")) == 143
    assert capsys.readouterr().err == "train.py: stopped by SIGTERM; nothing was trained yet\n"


def test_the_second_signal_ends_a_run_at_once(tmp_path, monkeypatch, capsys):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(train.Trainer, "loss", before_call(2, train.Trainer.loss, twice))
    words = command(clips_file(tmp_path), tmp_path / "run", train_checkpoint_every=1)
    assert train.main(words) == 130
    assert "holds update 1: the same command" in capsys.readouterr().err


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(vov3d.__file__).parent.parent), str(EXAMPLES)])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "number"),
    [
        ([], signal.SIGINT),
        (["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"], signal.SIGTERM),
    ],
)
def test_a_signal_to_all_processes_and_their_readers(videos, tmp_path, launch, number):
    """As Ctrl-C in a terminal and a scheduler send it."""
    keys = dict(data_val_share=0.3, data_workers=2, schedule_epochs=500, optimizer_batch=4)
    words = command(videos, tmp_path / "run", "shapes_adamw", **keys)
    line = [sys.executable, *launch, "-m", "reference.train", *words]
    with (tmp_path / "err").open("w") as err:
        process = subprocess.Popen(
            line, env=environment(), stdout=subprocess.DEVNULL, stderr=err, start_new_session=True
        )
        log, deadline = tmp_path / "run/updates.csv", time.monotonic() + 240
        while not (log.exists() and log.read_bytes().count(b"\n") > 3):
            assert process.poll() is None, (tmp_path / "err").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, number)
        process.wait(timeout=240)
    error = (tmp_path / "err").read_text()
    assert f"train.py: stopped by {number.name}; {tmp_path / 'run/checkpoint.pt'} holds update" in error
    own = error if not launch else error.partition("torch/distributed")[0]  # the launcher tells of its own signal
    assert "Traceback" not in own
    done = len(column(tmp_path / "run", "loss"))
    assert checkpoints.load_checkpoint(tmp_path / "run/checkpoint.pt")["position"][2] == done


# --- readers that are killed -----------------------------------------------------------------------------------------


def test_a_killed_reader_is_reported_with_its_file(videos, tmp_path, monkeypatch, capsys):
    read = VideoClips._read

    def killed(self, index, rng):
        if index == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, index, rng)

    monkeypatch.setattr(VideoClips, "_read", killed)
    assert train.main(command(videos, tmp_path / "run", data_workers=2)) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("train.py: ")]
    assert len(error) == 1
    assert "a process that reads videos " in error[0]  # "is killed by signal: Killed" or "exited unexpectedly"
    assert "0_00004.mp4: give fewer workers if memory ran out; else check the files" in error[0]
    assert "no checkpoint was written yet" in error[0]


# --- what is no number -----------------------------------------------------------------------------------------------


def poisoned(loss, at: int):
    """Returns a loss that is finite, and whose gradient is not, at an update."""

    def changed(self, *args):
        value = loss(self, *args)
        if self.step != at:
            return value
        zero = next(p for p in self.network.parameters() if p.requires_grad).sum() * 0
        return value + (zero * zero).sqrt()

    return changed


def test_a_gradient_of_nan_reaches_neither_weights_nor_checkpoint(tmp_path, monkeypatch, capsys):
    data, out = clips_file(tmp_path), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "loss", poisoned(train.Trainer.loss, 4))
        assert train.main(command(data, out, train_checkpoint_every=2)) == 1
    error = capsys.readouterr().err
    assert "the gradient is nan, of a loss of 0." in error
    assert "at update 5: lower optimizer.lr, or set train.clip_grad" in error
    assert "holds update 4: the same command with --resume auto resumes there" in error
    content = checkpoints.load_checkpoint(out / "checkpoint.pt")
    assert all(v.isfinite().all() for v in content["model"].values())
    assert train.main(command(data, out, "shapes_adamw", "--resume", "auto", train_checkpoint_every=2)) == 0
    assert train.main(command(data, tmp_path / "whole")) == 0
    assert weights(out) == weights(tmp_path / "whole")


def test_a_network_that_is_not_finite_is_not_saved(tmp_path):
    run = trainer(clips_file(tmp_path), tmp_path / "run")
    run.save()
    former = run.checkpoint.read_bytes()
    next(b for n, b in run.network.named_buffers() if n.endswith("running_var"))[0] = math.inf
    with pytest.raises(ValueError, match=r"running_var is not finite after update 0, and is not saved.*--resume auto"):
        run.save()
    assert run.checkpoint.read_bytes() == former


def test_in_fp16_the_scaler_may_leave_out_a_step(tmp_path, monkeypatch):
    run = trainer(clips_file(tmp_path), tmp_path / "run")
    monkeypatch.setattr(run.accelerator, "clip_grad_norm_", lambda *_: torch.tensor(math.inf))
    run.accelerator.scaler = SimpleNamespace(get_scale=lambda: 1024.0)
    run._check_step(0.7)
    run.accelerator.scaler = SimpleNamespace(get_scale=lambda: 0.5)
    with pytest.raises(ValueError, match=r"the gradient is inf, of a loss of 0\.7"):
        run._check_step(0.7)


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone"])
def test_the_checkpoint_before_the_last_is_kept(tmp_path, capsys, damage):
    data, out = clips_file(tmp_path), tmp_path / "run"
    keys = dict(schedule_epochs=3, model_drop_rate=0.5)
    assert train.main(command(data, out, **keys)) == 0
    last, content = out / "checkpoint.pt", (out / "checkpoint.pt").read_bytes()
    whole, losses = weights(out), column(out, "loss")
    positions = [checkpoints.load_checkpoint(out / n)["position"][0] for n in ("checkpoint-before.pt", "checkpoint.pt")]
    assert positions == [2, 3]
    if damage == "gone":  # killed between the two renames
        last.unlink()
    elif damage == "cut":
        last.write_bytes(content[: len(content) // 2])
    else:
        with zipfile.ZipFile(last) as archive:
            name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            place = content.find(archive.read(name)) + 100
        last.write_bytes(content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :])
    capsys.readouterr()
    assert train.main(command(data, out, "shapes_adamw", "--resume", "auto", **keys)) == 0
    text = capsys.readouterr().out
    assert "resuming from epoch 2" in text
    assert ("checkpoint.pt: " in text and "using the checkpoint before it" in text) == (damage != "gone")
    assert (weights(out), column(out, "loss")) == (whole, losses)
    for name in ("checkpoint.pt", "checkpoint-before.pt"):
        (out / name).write_bytes(b"damaged")
    assert train.main(command(data, out, "shapes_adamw", "--resume", "auto", **keys)) == 1
    assert "checkpoint-before.pt: cannot be read as a checkpoint" in capsys.readouterr().err


def test_names_are_hashed_once_however_often_a_checkpoint_is_written(tmp_path, monkeypatch):
    calls, digest = [], Source.digest
    monkeypatch.setattr(Source, "digest", lambda self: calls.append(1) or digest(self))
    trainer(clips_file(tmp_path), tmp_path / "run", train_checkpoint_every=1).run()
    assert len(calls) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
def test_a_full_disk_error_names_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(log, "_opened", lambda *_: Path("/dev/full").open("a", newline=""))  # noqa: SIM115
    assert train.main(command(clips_file(tmp_path), tmp_path / "run")) == 1
    assert "train.py: /dev/full: cannot be written ([Errno 28] No space left on device)" in capsys.readouterr().err


# --- validation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["dense", "segment"])
def test_validation_and_evaluation_agree(videos, tmp_path, monkeypatch, sampling):
    """On larger maps than in training, which are seen through a window; broken files are left out."""
    import csv
    import json

    from reference import evaluate

    monkeypatch.chdir(tmp_path)
    stride = {"dense": 2, "segment": 0}[sampling]
    keys = dict(data_val_share=0.4, clip_sampling=sampling, clip_stride=stride, clip_test_size=24, train_val_views="")
    assert train.main(command(videos, Path("run"), **keys, data_workers=0, train_keep="last")) == 0
    assert evaluate.main(["--data", str(videos), "--model", "run/model", "--device", "cpu"]) == 0
    views = {"dense": "10x3", "segment": "2x3"}[sampling]
    summary = json.loads(Path(f"evaluation/run-model-{views}/summary.json").read_text())
    assert summary["accuracy"]["videos"] == 4
    assert 100 * summary["accuracy"]["top1"][0] == pytest.approx(float(column(Path("run"), "top1", "epochs.csv")[-1]))
    with Path(f"evaluation/run-model-{views}/videos.csv").open() as file:
        rows = list(csv.DictReader(file))
    loss = -sum(math.log(float(row[f"score_{row['label']}"])) for row in rows) / len(rows)
    assert loss == pytest.approx(float(column(Path("run"), "val_loss", "epochs.csv")[-1]), rel=1e-3)
    one = VideoClassifier(vov3d.from_pretrained("run/model"), views).scores(rows[0]["path"])
    assert float(rows[0]["score_0"]) == pytest.approx(float(one[0]), rel=1e-3)


def test_of_epochs_with_one_accuracy_the_one_with_the_lower_loss_is_kept(tmp_path):
    run = trainer(clips_file(tmp_path), tmp_path / "run", data_val_share=0.2, train_keep="best")
    kept = []
    for run.epoch, (top1, loss) in enumerate([(50.0, 0.9), (100.0, 0.7), (100.0, 0.4), (100.0, 0.5), (75.0, 0.1)]):
        run._keep_best(run.network, {"top1": top1, "val_loss": loss})
        kept.append(run.best["epoch"])
    assert kept == [0, 1, 2, 2, 2]
