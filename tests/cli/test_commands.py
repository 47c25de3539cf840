"""The command line, from a published-format file and a video made on the spot to labels."""

import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers.numbered_videos import write_video
from helpers.reference_files import published_file

import vov3d
from vov3d.cli import main, weights
from vov3d.files import naming


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return str(published_file("vov3d_m_k400", tmp_path_factory.mktemp("weights")))


@pytest.fixture
def video(tmp_path):
    return str(write_video(tmp_path / "clip one.mp4", num_frames=40))


def run(capsys, *argv: str) -> tuple[int, str, str]:
    code = main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_list(capsys):
    code, out, err = run(capsys, "list")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 1 + 26
    assert lines[0].split()[:2] == ["model.tag", "params"]
    row = next(line for line in lines if line.startswith("vov3d_m.k400_f16 "))
    assert " ".join(row.split()) == "vov3d_m.k400_f16 3.67 16 x 5 256 6.4 10 x 3 74.7 92.1 cc-by-nc-4.0"
    assert len(run(capsys, "list", "x3d_l*")[1].splitlines()) == 1 + 4
    code, out, err = run(capsys, "list", "x4d*")
    assert (code, out) == (1, "")
    names = "vov3d_l, vov3d_m, vov3d_n, x3d_l, x3d_m, x3d_s, x3d_xs"
    assert err == f"vov3d list: no model matches 'x4d*'; the models are {names}\n"


def test_a_closed_pipe_is_no_error():
    code = "import sys; from vov3d.cli import main; sys.exit(main(['list']))"
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_info_prints_the_papers_table(capsys):
    code, out, err = run(capsys, "info", "vov3d_m", "--frames", "16", "--size", "256")
    assert (code, err) == (0, "")
    assert "parameters       3,667,360" in out
    assert "multiply-adds    6,421,528,960 (6.422 G)" in out
    assert re.search(r"activations      [\d,]+ \([\d.]+ M\)", out)
    shapes = [line.split(maxsplit=1) for line in out.splitlines() if line.startswith("st")]
    assert shapes == [
        ["stem", "20 x 16 x 128 x 128"],
        ["stages.0", "20 x 16 x 64 x 64"],
        ["stages.1", "40 x 16 x 32 x 32"],
        ["stages.2", "80 x 16 x 16 x 16"],
        ["stages.3", "160 x 16 x 8 x 8"],
    ]
    assert "top-1 74.7, top-5 92.1 with 10 x 3 views" in out


@pytest.mark.slow
def test_info_takes_the_tags_clip_another_convolution_and_a_saved_folder(capsys, tmp_path):
    assert "input            3 x 13 x 182 x 182" in run(capsys, "info", "x3d_s")[1]
    default, dw3d = (run(capsys, "info", "vov3d_m", *more)[1] for more in ((), ("--conv", "dw3d")))
    assert default != dw3d
    vov3d.save_pretrained(vov3d.create_model("x3d_xs", num_classes=3), tmp_path / "mine")
    assert "3 classes of its own labels" in run(capsys, "info", f"local-dir:{tmp_path / 'mine'}")[1]
    code, out, err = run(capsys, "info", "vov3d_s")
    assert (code, out) == (1, "")
    assert "vov3d has no model 'vov3d_s'; did you mean" in err


def test_predict_prints_labels(capsys, video, checkpoint):
    code, out, err = run(capsys, "predict", video, "--model", "vov3d_m", "--checkpoint", checkpoint, "--topk", "3")
    assert (code, err) == (0, "")
    first, *labels = out.splitlines()
    assert first == video
    assert len(labels) == 3
    expected = vov3d.VideoClassifier(vov3d.create_model("vov3d_m", checkpoint_path=checkpoint))(video, topk=3)
    assert labels == [f"  {100 * p.score:5.1f}%  {p.label}" for p in expected]
    assert all(p.label in vov3d.load_labels("k400") for p in expected)


def test_predict_json_is_one_list_with_the_broken_files_in_it(capsys, video, checkpoint, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_text("no video")
    command = ["predict", str(broken), video, str(tmp_path / "none.mp4"), "--model", "vov3d_m"]
    code, out, err = run(capsys, *command, "--checkpoint", checkpoint, "--views", "2x3", "--json")
    assert code == 1
    results = json.loads(out)
    assert [r["file"] for r in results] == [str(broken), video, str(tmp_path / "none.mp4")]
    assert [len(r["predictions"]) for r in results] == [0, 5, 0]
    assert set(results[1]["predictions"][0]) == {"label", "index", "score"}
    assert "error" not in results[1]
    lines = err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"vov3d predict: {broken}: cannot be read as a video")
    assert lines[1] == f"vov3d predict: {tmp_path / 'none.mp4'}: no such file"
    assert "Traceback" not in err


def test_predict_never_labels_from_random_weights_unasked(capsys, video, hub):
    code, out, err = run(capsys, "predict", video, "--model", "vov3d_m")
    assert (code, out) == (1, "")
    assert err.startswith(f"vov3d predict: vov3d_m.k400_f16: no weights; tried {hub.url}/vov3d/vov3d_m.k400_f16: ")
    code, out, err = run(capsys, "predict", video, "--model", "x3d_xs", "--random-weights", "--json")
    assert code == 0
    assert "RANDOM WEIGHTS" in err
    assert json.loads(out)[0]["random_weights"] is True


def test_predict_from_a_saved_folder_with_its_own_names(capsys, video, tmp_path):
    model = vov3d.create_model("x3d_xs", num_classes=2)
    vov3d.save_pretrained(model, tmp_path / "mine", label_names=["rising", "falling"])
    code, out, _ = run(capsys, "predict", video, "--model", f"local-dir:{tmp_path / 'mine'}")
    assert code == 0
    assert {line.split("%  ")[1] for line in out.splitlines()[1:]} == {"rising", "falling"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--views", "3"], "views '3' cannot be read: give CLIPSxCROPS"),
        (["--device", "nowhere"], "--device nowhere cannot be used here"),
        (["--device", "meta"], "--device meta cannot be used here: Cannot copy out of meta tensor"),
        (["--checkpoint", "none.pth"], "none.pth: no such weights file"),
    ],
)
def test_predict_errors_in_one_line(arguments, message, capsys, video):
    weights = [] if "--checkpoint" in arguments else ["--random-weights"]
    code, out, err = run(capsys, "predict", video, "--model", "x3d_xs", *weights, *arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert len([line for line in err.splitlines() if "RANDOM" not in line]) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there(capsys, video):
    code, _, err = run(capsys, "predict", video, "--model", "x3d_xs", "--random-weights", "--device", "cuda")
    assert code == 1
    assert "--device cuda cannot be used here: " in err


@pytest.mark.parametrize("arguments", [["predict"], ["info"], ["predict", "x", "--model", "m", "--topk", "0"], []])
def test_usage_errors_exit_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: vov3d" in capsys.readouterr().err


# --- weights ---------------------------------------------------------------------------------------------------------


def test_list_weights_shows_local_weights(capsys, tmp_path, monkeypatch):
    file = published_file("vov3d_m_k400", tmp_path)
    folder = tmp_path / "weights"
    folder.mkdir()
    file.rename(folder / "vov3d_m.k400_f16.pth")
    monkeypatch.setenv("VOV3D_WEIGHTS_DIR", str(folder))
    code, out, err = run(capsys, "list", "--weights", "vov3d_m*")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines()}
    assert len(rows) == 8
    assert "14.8  74.7   cc-by-nc-4.0  VOV3D_WEIGHTS_DIR" in rows["vov3d_m.k400_f16"]
    assert " no " in rows["vov3d_m.ssv1_f16"]
    assert "https://dl.dropbox.com/s/usbcudmhpknqvtd/vov3d_M_f16_ssv1.pth" in rows["vov3d_m.ssv1_f16"]


@pytest.mark.slow
def test_convert_prints_what_it_found(capsys, tmp_path):
    file = published_file("pytorchvideo_x3d_s", tmp_path)
    code, out, err = run(capsys, "convert", str(file), "-o", str(tmp_path / "out"))
    assert (code, err) == (0, "")
    for line in (
        "format    pytorchvideo",
        "network   x3d_m (24-wide stem, stages of 3, 5, 11, 7 blocks)",
        "          x3d_xs, x3d_s, x3d_m are one network: taken for x3d_m; --model selects another",
        "classes   400, named as in k400",
        "weights   of no published tag, licence not stated",
    ):
        assert line in out.splitlines()
    code, out, err = run(capsys, "convert", str(file), "-o", str(tmp_path / "s"), "--model", "x3d_s.k400_ptv")
    assert "weights   x3d_s.k400_ptv, licence apache-2.0" in out
    code, out, err = run(capsys, "convert", str(tmp_path / "s"), "--to", "pytorchvideo", "-o", str(tmp_path / "b.pyth"))
    assert (code, err) == (0, "")
    back, source = torch.load(tmp_path / "b.pyth")["model_state"], torch.load(file)["model_state"]
    assert back.keys() == source.keys()
    assert all(torch.equal(v, source[k]) for k, v in back.items())


@pytest.mark.parametrize(
    "content",
    ["a\nb\nc\n", '{"a": 0, "c": 2, "b": 1}']
    + [pytest.param(text, marks=pytest.mark.slow) for text in ('["a", "b", "c"]', '{"0": "a", "1": "b", "2": "c"}')],
)
def test_convert_with_names_of_ones_own(capsys, tmp_path, content):
    model = vov3d.create_model("vov3d_m", num_classes=3, depths=(1, 1, 1, 1), out_chs=(8, 8, 8, 8))
    torch.save(model.state_dict(), tmp_path / "w.pth")
    (tmp_path / "names").write_text(content)
    code, _, err = run(
        capsys, "convert", f"{tmp_path}/w.pth", "-o", f"{tmp_path}/out", "--labels", str(tmp_path / "names")
    )
    assert (code, err) == (0, "")
    assert vov3d.class_names(vov3d.from_pretrained(tmp_path / "out")) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("", "holds empty names"),
        ("a\na", "names 'a' twice"),
        ('{"a": 1}', "every index from 0"),
        ("[1", "expected JSON"),
    ],
)
def test_invalid_class_names_are_refused(capsys, tmp_path, content, cause):
    (tmp_path / "names").write_text(content)
    code, _, err = run(capsys, "convert", "x.pth", "-o", f"{tmp_path}/out", "--labels", str(tmp_path / "names"))
    assert code == 1
    assert err.startswith(f"vov3d convert: {tmp_path / 'names'}: ")
    assert cause in err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--to", "slowfast", "--labels", "l"], "--labels has no effect with --to"),
        (["--to", "slowfast"], "no such weights file"),
        ([], "no such weights file"),
    ],
)
def test_convert_refuses(capsys, tmp_path, more, message):
    code, out, err = run(capsys, "convert", str(tmp_path / "none.pth"), "-o", str(tmp_path / "out"), *more)
    assert (code, out) == (1, "")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_convert_does_not_overwrite_what_it_reads(capsys, tmp_path):
    source = tmp_path / "own.pth"
    torch.save({"model": vov3d.create_model("vov3d_n").state_dict(), "optimizer": [1]}, source)
    before = source.read_bytes()
    code, _, err = run(capsys, "convert", str(source), "--to", "slowfast", "-o", str(source))
    assert code == 1
    assert "is the file that is read, which would be lost" in err
    assert source.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="of Linux")
def test_convert_names_a_full_disk(capsys, tmp_path, checkpoint, monkeypatch):
    @contextmanager
    def full(path):
        with naming(path):
            yield Path("/dev/full")

    monkeypatch.setattr(weights, "replacing", full)
    code, _, err = run(capsys, "convert", str(checkpoint), "--to", "slowfast", "-o", str(tmp_path / "x.pyth"))
    assert code == 1
    assert f"No space left on device: '{tmp_path / 'x.pyth'}'" in err


@pytest.mark.parametrize("command", [["demo", "-o"], ["convert", "{source}", "--to", "slowfast", "-o"]])
@pytest.mark.parametrize("below", [False, True])
def test_a_folder_that_cannot_be_made_is_named(capsys, tmp_path, checkpoint, command, below):
    file = tmp_path / "notes.txt"
    file.write_text("kept")
    output = file / "more" / "x" if below else file
    if command[0] == "convert":  # it writes a file into the folder
        output = output / "model.pyth"
    code, _, err = run(capsys, *[word.format(source=checkpoint) for word in command], str(output))
    assert (code, err.count("\n")) == (1, 1)
    named = output.parent if command[0] == "convert" else output
    assert f"{named}: cannot be made (" in err
    assert "; name another folder" in err
    assert file.read_text() == "kept"
