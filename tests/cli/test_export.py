"""`vov3d export` and `vov3d predict` on what it wrote."""

import pytest
import torch
from helpers.numbered_videos import write_video

import vov3d
from vov3d.cli import main


@pytest.fixture
def saved(tmp_path) -> str:
    """Saves a model with names of its own."""
    sizes = dict(depths=(1,), mid_chs=(12,), out_chs=(8,), head_chs=24, hidden_chs=40, output_stride=4)
    cfg = dict(num_frames=3, frame_stride=2, test_input_size=(3, 40, 40), input_size=(3, 32, 32), pool_size=(8, 8))
    torch.manual_seed(0)
    model = vov3d.create_model("x3d_xs", num_classes=3, pretrained_cfg_overlay=cfg, zero_init_last=False, **sizes)
    vov3d.save_pretrained(model, tmp_path / "mine", label_names=["up", "down", "round"])
    return f"local-dir:{tmp_path / 'mine'}"


@pytest.fixture
def video(tmp_path) -> str:
    (tmp_path / "videos").mkdir()
    return str(write_video(tmp_path / "videos" / "clip.mp4", num_frames=20))


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    return code, *capsys.readouterr()


@pytest.mark.slow  # an export
def test_an_exported_file_gives_the_labels_of_its_source(capsys, saved, video, tmp_path):
    file = str(tmp_path / "mine.xml")
    code, out, _ = run(capsys, "export", saved, "-o", file, "--video", video)
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"written   {file} and {tmp_path / 'mine.bin'}"
    assert lines[1].startswith("format    OpenVINO, fp32, 0.")
    assert [line.split(",")[0] for line in lines[2:]] == [
        "compared  random",
        "compared  made-up motion",
        "compared  given clips",
    ]
    assert lines[4].endswith("top-1 agrees on 1 of 1")
    for views in ("1x1", "2x3"):
        own = run(capsys, "predict", video, "--model", saved, "--views", views)
        assert own[0] == 0
        assert run(capsys, "predict", video, "--model", file, "--views", views)[:2] == own[:2]
    described = run(capsys, "info", file)[1].splitlines()
    assert described[0] == run(capsys, "info", saved)[1].splitlines()[0] == "model            x3d_xs"
    assert described[1].rstrip() == "weights          its own: 3 classes of its own labels"
    assert described[-3].startswith("file             OpenVINO, fp32, conv3d, written by vov3d 0.")
    assert described[-2:] == [
        "input            B x 3 x T x H x W, from 4 pixels on",
        "outputs          logits, probabilities",
    ]


@pytest.mark.slow  # an export
def test_a_stream_in_a_file_is_described_and_refused_for_whole_videos(capsys, video, tmp_path):
    file = str(vov3d.export(vov3d.streaming(vov3d.create_model("vov3d_n")), tmp_path / "stream.onnx", size=32))
    code, out, _ = run(capsys, "info", file)
    assert code == 0
    assert out.splitlines()[-3:-1] == [
        "input            B x 3 x 32 x 32, frame after frame, and the state",
        "stream           22 frames of delay, 45 seen, 8 averaged",
    ]
    code, _, err = run(capsys, "predict", video, "--model", file)
    assert code == 1
    assert "ExportedStream is a stream, which takes frame after frame, not clips" in err.splitlines()[-1]


@pytest.mark.slow  # nncf takes its time
def test_int8_takes_its_ranges_from_a_folder_of_videos(capsys, saved, video, tmp_path):
    file = tmp_path / "mine.xml"
    code, out, _ = run(capsys, "export", saved, "-o", str(file), "--int8", str(tmp_path / "videos"))
    assert code == 0
    assert "format    OpenVINO, int8" in out
    assert "compared  calibration clips, 1x3x3x40x40: " in out
    assert "no real video" not in out
    assert vov3d.load_exported(file).metadata.dtype == "int8"


@pytest.mark.slow  # an export
def test_the_report_says_that_no_real_video_was_compared(capsys, tmp_path):
    arguments = ["--random-weights", "--frames", "2", "--size", "33"]
    code, out, err = run(capsys, "export", "vov3d_n", "-o", str(tmp_path / "a.pt2"), *arguments)
    assert code == 0
    assert "no real video among them" in out
    assert "RANDOM WEIGHTS" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "a.tflite"], "a.tflite: exported files end in .onnx (ONNX)"),
        (["-o", "nowhere/a.onnx"], "nowhere: no such folder to write a.onnx into"),
        (["-o", "a.pt2", "--int8", "videos"], "use .xml"),
        (["-o", "a.xml", "--int8", "nowhere"], "nowhere: no such folder of videos"),
        (["-o", "a.xml", "--int8", "empty"], "empty: has no file with a video's extension"),
        (["-o", "a.onnx", "--dtype", "bf16"], "ONNX files support fp32, int8, not 'bf16'"),
        (["-o", "a.onnx", "--checkpoint", "none.pth"], "none.pth: no such weights file"),
        (["-o", "a.onnx", "--random-weights", "--size", "31"], "needs frames=1 and size=32 or more, got 4 and 31"),
        (["-o", "a.onnx", "--random-weights", "--video", "none.mp4"], "none.mp4: no such file"),
    ],
)
def test_export_errors_in_one_line_before_any_work(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.export, "export", None)
    (tmp_path / "empty").mkdir()
    code, out, err = run(capsys, "export", "x3d_xs", *arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert len([line for line in err.splitlines() if "RANDOM" not in line]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["empty"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "w.pth"], "--checkpoint has no effect on a.onnx"),
        (["--random-weights"], "--random-weights has no effect on a.onnx"),
        ([], "a.onnx: no such file"),
    ],
)
def test_options_without_effect_on_exported_files_are_refused(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "predict", "clip.mp4", "--model", "a.onnx", *arguments)
    assert (code, out) == (1, "")
    assert message in err


@pytest.mark.parametrize(
    ("option", "message"),
    [("--layers", "--layers has no effect on a.onnx, an exported file"), ("--time", "--time has no effect")],
)
def test_info_of_a_file_takes_no_settings_of_a_model(capsys, monkeypatch, tmp_path, option, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "info", "a.onnx", option)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert message in err
    assert "a.onnx: no such file" in run(capsys, "info", "a.onnx")[2]
