"""The plain loop: it learns, holds out, saves, and refuses folders that it cannot use."""

import inspect
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import finetune
import numpy as np
import pytest
import torch
from reference.training.recipe import load_recipe, sections
from reference.training.seen import HELD_OUT, TRAIN, parts_of
from timm.optim import create_optimizer_v2

import vov3d
from vov3d.synthetic.moving_shapes import CLASSES, make_clip, write_clip

NAMES = ("Moving something left", "Moving something right")
SECONDS = 2.0  # of a clip of 16 frames; the clips of vov3d_n last 1.6


def write_folder(folder: Path, each: int) -> None:
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        for i in range(each):
            rng = np.random.default_rng((CLASSES.index(name), i))
            write_clip(folder / name / f"{i}.mp4", make_clip(CLASSES.index(name), rng), fps=8)


def test_the_script_is_short_and_stands_alone():
    source = Path(finetune.__file__).read_text()
    assert len(source.splitlines()) <= 150
    imported = {line.split()[1].split(".")[0] for line in source.splitlines() if line.startswith(("import", "from"))}
    assert imported - set(sys.stdlib_module_names) == {"vov3d", "torch", "torchvision", "timm", "tqdm"}


def test_two_motions_are_classified_after_two_epochs(tmp_path):
    write_folder(tmp_path / "videos", 10)
    (tmp_path / "videos" / NAMES[0] / "notes.txt").write_text("no video")
    command = [sys.executable, finetune.__file__, str(tmp_path / "videos"), "--output", str(tmp_path / "model")]
    done = subprocess.run(
        [*command, "--epochs", "2", "--batch", "4", "--workers", "0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "epoch 2: 100.0% of 4 held-out videos are right" in done.stdout
    model = vov3d.from_pretrained(tmp_path / "model")
    assert vov3d.class_names(model) == list(NAMES)
    assert model.pretrained_cfg["clip_seconds"] == SECONDS
    assert vov3d.VideoClassifier(model)(tmp_path / "videos" / NAMES[1] / "0.mp4", topk=1)[0].label == NAMES[1]
    _, train, held_out = finetune.find_videos(tmp_path / "videos")
    parts = parts_of(tmp_path / "model", [path for path, _ in held_out + train])
    assert parts == [HELD_OUT] * len(held_out) + [TRAIN] * len(train)


def test_as_many_classes_as_the_model_has_get_a_fresh_classifier(tmp_path, monkeypatch):
    # The twenty classes of vov3d_n in another order: its own classifier would be wrong for all of them.
    for i, name in enumerate(CLASSES):
        for take in range(2):
            path = tmp_path / "videos" / name / f"{take}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_clip(path, make_clip(i, np.random.default_rng(take), num_frames=8, size=16))
    fresh, reset = list[int](), vov3d.VoV3D.reset_classifier
    monkeypatch.setattr(vov3d.VoV3D, "reset_classifier", lambda self, n: fresh.append(n) or reset(self, n))
    options = ["--output", str(tmp_path / "model"), "--epochs", "1", "--batch", "20", "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", str(tmp_path / "videos"), *options])
    finetune.main(finetune.arguments())
    assert fresh == [20]
    assert vov3d.class_names(vov3d.from_pretrained(tmp_path / "model")) == sorted(CLASSES)


def test_a_network_that_pools_by_the_maximum_is_validated():
    model = vov3d.create_model("vov3d_n", num_classes=2, global_pool="max")
    clips = torch.randn(2, 3, 4, 32, 32)
    best = model.eval()(clips).argmax(1)
    assert finetune.accuracy(model, [(clips, best)], torch.device("cpu")) == 1


def test_it_trains_by_finetune_nano(tmp_path, monkeypatch):
    class MadeError(Exception):
        """Ends the script before the training."""

    def make(*args, **how):
        found.update(inspect.signature(create_optimizer_v2).bind(*args, **how).arguments)
        raise MadeError

    found, mixing, share = dict[str, Any](), list[Any](), finetune.v2.RandomApply
    write_folder(tmp_path / "videos", 2)
    monkeypatch.setattr(finetune, "create_optimizer_v2", make)
    monkeypatch.setattr(finetune.v2, "RandomApply", lambda transforms: mixing.extend(transforms))
    monkeypatch.setattr(sys, "argv", ["finetune.py", str(tmp_path / "videos"), "--output", str(tmp_path / "model")])
    with pytest.raises(MadeError):
        finetune.main(finetune.arguments())
    recipe = sections(load_recipe("finetune_nano", {}))
    own = {"opt": recipe.optimizer.name, "lr": recipe.optimizer.lr, "weight_decay": recipe.optimizer.weight_decay}
    del found["model_or_params"]
    assert found.pop("kwargs") | found == own | dict(recipe.optimizer.args)
    assert inspect.signature(share).parameters["p"].default == recipe.mix.share
    torch.manual_seed(0)
    clips = torch.stack([torch.full((3, 4, 8, 8), float(i)) for i in range(2)])
    mixed, shares = mixing[0](clips.flatten(1, 2), torch.arange(2))
    mixed = mixed.view_as(clips)
    assert torch.equal(mixed, mixed[:, :1, :1].expand_as(mixed))  # one box in all channels and frames
    assert 0 < shares[0, 1] < 1
    assert shares[0, 1] == mixed[0].mean()


def test_every_video_is_trained_on_or_held_out_and_never_both(tmp_path):
    write_folder(tmp_path, 6)
    classes, train, held_out = finetune.find_videos(tmp_path)
    assert classes == sorted(NAMES)
    assert len(train) == 10
    assert sorted(label for _, label in held_out) == [0, 1]
    assert len({path for path, _ in train + held_out}) == 12
    (tmp_path / NAMES[0] / "._0.mp4").write_bytes(b"what macOS leaves beside a file")
    (tmp_path / NAMES[0] / "@eaDir" / "0.mp4").mkdir(parents=True)
    (tmp_path / "__MACOSX").mkdir()
    assert finetune.find_videos(tmp_path) == (classes, train, held_out)
    (tmp_path / NAMES[0]).rename(tmp_path / "_other_")
    assert finetune.find_videos(tmp_path)[0] == sorted(["_other_", NAMES[1]])


def test_a_broken_video_and_an_output_that_is_a_file_are_one_line_each(tmp_path, monkeypatch):
    def said(output: str, workers: str) -> str:
        options = ["--output", str(tmp_path / output), "--epochs", "1", "--workers", workers]
        monkeypatch.setattr(sys, "argv", ["finetune.py", str(tmp_path / "videos"), *options])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(finetune.__file__, run_name="__main__")
        return str(end.value)

    write_folder(tmp_path / "videos", 2)
    (tmp_path / "file").write_text("notes")
    assert said("file", "0") == f"{tmp_path / 'file'}: cannot be made (File exists); name another folder"
    for video in (tmp_path / "videos").rglob("*.mp4"):
        video.write_bytes(b"no video")
    for workers in ("0", "1"):
        line = said("model", workers)
        assert f"{tmp_path / 'videos'}" in line
        assert "\n" not in line


@pytest.mark.parametrize(("error", "line"), [(KeyboardInterrupt(), "stopped"), (ValueError("a\nb"), "b")])
def test_ctrl_c_and_errors_end_in_one_line(tmp_path, monkeypatch, error, line):
    def fail() -> None:
        raise error

    monkeypatch.setattr(vov3d, "keep_freed_memory", fail)
    monkeypatch.setattr(sys, "argv", ["finetune.py", str(tmp_path), "--output", str(tmp_path / "model")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(finetune.__file__, run_name="__main__")
    assert end.value.code == line


@pytest.mark.parametrize(("option", "value"), [("--epochs", "0"), ("--epochs", "-1"), ("--batch", "0")])
def test_no_epochs_and_no_clips_are_refused_in_one_line(tmp_path, monkeypatch, capsys, option, value):
    write_folder(tmp_path / "videos", 2)
    options = ["--output", str(tmp_path / "model"), option, value, "--workers", "0"]
    monkeypatch.setattr(sys, "argv", ["finetune.py", str(tmp_path / "videos"), *options])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(finetune.__file__, run_name="__main__")
    said = capsys.readouterr().err.splitlines()[-1] if end.value.code == 2 else str(end.value)
    assert option[2:5] in said
    assert value in said


@pytest.mark.parametrize(("each", "message"), [(1, "holds 1 videos; a class needs two"), (0, "holds 0 videos")])
def test_a_class_without_enough_videos_is_named(tmp_path, each, message):
    write_folder(tmp_path, each)
    with pytest.raises(SystemExit, match=message):
        finetune.find_videos(tmp_path)


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="holds 0 folders"):
        finetune.find_videos(tmp_path)


def test_parts_of_a_data_set_are_no_classes_and_a_folder_that_is_not_there_is_named(tmp_path):
    write_folder(tmp_path / "train", 2)
    write_folder(tmp_path / "Val", 2)
    with pytest.raises(SystemExit, match="Val and train are parts of a data set"):
        finetune.find_videos(tmp_path)
    with pytest.raises(SystemExit, match="there is no such folder"):
        finetune.find_videos(tmp_path / "none")


@pytest.mark.slow
def test_a_data_set_in_the_layout_of_the_hub_is_streamed(tmp_path, monkeypatch, capsys):
    pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_folder(tmp_path / "videos" / "train", 4)
    write_folder(tmp_path / "videos" / "validation", 1)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "videos.csv").write_text("part,class,bytes,folder,file\ntrain,a,3,a,1.mp4\n")
    command = ["finetune.py", "--data", f"hf:{tmp_path / 'videos'}", "--output", str(tmp_path / "model")]
    monkeypatch.setattr("sys.argv", [*command, "--epochs", "1", "--batch", "4", "--workers", "0"])
    finetune.main(finetune.arguments())
    said = capsys.readouterr().out
    assert "% of 2 held-out videos are right" in said
    assert "the first held-out video shows" in said
    model = vov3d.from_pretrained(tmp_path / "model")
    assert vov3d.class_names(model) == sorted(NAMES)
    assert model.pretrained_cfg["clip_seconds"] == SECONDS
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.mp4").write_bytes(b"abc")
    assert parts_of(tmp_path / "model", [tmp_path / "a" / "1.mp4"]) == [None]


@pytest.mark.slow
def test_the_rate_falls_to_the_end_of_more_batches_than_were_planned(tmp_path, monkeypatch):
    class Recorded(finetune.LambdaLR):
        def step(self, *args):
            super().step(*args)
            rates.append(self.get_last_lr()[0])

    rates, whole = list[float](), finetune.DataLoader
    write_folder(tmp_path / "videos", 4)
    monkeypatch.setattr(finetune, "LambdaLR", Recorded)
    monkeypatch.setattr(finetune, "DataLoader", lambda data, size, **how: whole(data, 1, **how))  # as many workers do
    command = ["finetune.py", str(tmp_path / "videos"), "--output", str(tmp_path / "model"), "--workers", "0"]
    monkeypatch.setattr(sys, "argv", [*command, "--epochs", "1", "--batch", "4"])
    finetune.main(finetune.arguments())
    rates = rates[1:]  # the first is that of the first update
    assert len(rates) == 6
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_length_is_that_of_videos_of_all_classes(streamed, tmp_path, monkeypatch):
    class MeasuredError(Exception):
        """Ends the script before the training."""

    def measure(videos):
        found.update(Path(video).parent.name for video in videos)
        raise MeasuredError

    found = set[str]()
    if streamed:
        pytest.importorskip("datasets")
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for part in ("train", "validation") if streamed else ("",):
        for name in NAMES:
            (tmp_path / "videos" / part / name).mkdir(parents=True)
            for i in range(60):
                (tmp_path / "videos" / part / name / f"{i}.mp4").touch()
    data = ["--data", f"hf:{tmp_path / 'videos'}"] if streamed else [str(tmp_path / "videos")]
    monkeypatch.setattr("vov3d.video.median_duration", measure)
    monkeypatch.setattr(sys, "argv", ["finetune.py", *data, "--output", str(tmp_path / "model")])
    with pytest.raises(MeasuredError):
        finetune.main(finetune.arguments())
    assert found == set(NAMES)
