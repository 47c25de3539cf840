"""`vov3d predict` on folders, with its settings, and the picture it draws."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stand_in import StandIn
from video_files import folder_of_frames, keep_part, write_video

from vov3d.cli import main
from vov3d.video import VideoClassifier
from vov3d.video.picture import _font, draw_look, save_look
from vov3d.video.picture import _lines as _text_lines

MODEL = ("--model", "x3d_xs", "--random-weights")


def run(capsys, *argv: str) -> tuple[int, str, list[str]]:
    code = main(["predict", *argv])
    out, err = capsys.readouterr()
    return code, out, [line for line in err.splitlines() if "RANDOM WEIGHTS" not in line]


def test_pictures_of_several_videos(capsys, tmp_path: Path) -> None:
    video = str(write_video(tmp_path / "a \U0001f4aa.mp4", num_frames=30))
    folder = str(folder_of_frames(tmp_path / "frames", 20))
    out = tmp_path / "out.png"
    code, text, err = run(capsys, video, "none.mp4", folder, *MODEL, "--picture", str(out), "--json")
    assert code == 1
    assert err == ["vov3d predict: none.mp4: no such file"]
    assert [len(result["predictions"]) for result in json.loads(text)] == [5, 0, 5]
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["out-1.png", "out-3.png"]
    with Image.open(tmp_path / "out-1.png") as picture:
        assert (picture.format, picture.width) == ("PNG", 1080)
    assert run(capsys, folder, *MODEL, "--picture", str(out), "--fps", "6")[0] == 0
    assert out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "vov3d_m.ssv2_f16", "--random-weights", "--stride", "2"], "stride=2 would have no effect"),
        ([*MODEL, "--fps", "12"], "fps is for frames in an array or a folder"),
        ([*MODEL, "--picture", "out.mp4"], "a picture's name must end in .png"),
        ([*MODEL, "--picture", "nowhere/out.png"], "there is no folder"),
    ],
)
def test_settings_without_effect_or_sense(capsys, tmp_path: Path, arguments: list[str], message: str) -> None:
    code, out, err = run(capsys, str(write_video(tmp_path / "a.mp4", num_frames=5)), *arguments)
    assert (code, out, len(err)) == (1, "", 1)
    assert message in err[0]


def test_a_cut_file_is_told_of_in_one_line(capsys, tmp_path: Path) -> None:
    path = keep_part(write_video(tmp_path / "a.mp4", muxer={"movflags": "faststart"}, gop=12), 0.6)
    code, out, err = run(capsys, str(path), *MODEL, "--frames", "6", "--stride", "10", "--batch-size", "1")
    assert code == 0
    assert out.startswith(f"{path}\n")
    assert len(err) == 1
    assert err[0].startswith(f"vov3d predict: {path}: ")
    assert "frames asked for are missing" in err[0]


@pytest.fixture
def look(tmp_path: Path):
    torch.manual_seed(0)
    model = StandIn(test_input_size=(3, 64, 64), num_frames=9)
    names = ["a label that is long enough to need a second line and then some more of it " * 2, *"bcdefg"]
    return VideoClassifier(model, views="10x3", class_names=names).look(
        write_video(tmp_path / f"{'long name ' * 9}.mp4", num_frames=60), topk=7
    )


def test_the_picture_shows_frames_bars_and_the_time_line(look) -> None:
    picture = np.asarray(draw_look(look)).astype(int)
    assert look.frames.shape == (9, 3, 64, 64)
    assert len(look.clips) == 10
    assert look.duration == pytest.approx(2, abs=0.05)
    blue = (abs(picture - (0x3D, 0x6F, 0xD9)).sum(2) == 0).sum(1)
    bars = sorted({round(width / 10) for width in blue[blue > 0]}, reverse=True)
    for prediction in look.predictions:  # the inner width is 1000 pixels
        assert any(abs(100 * prediction.score - bar) <= 1 for bar in bars)
    assert (abs(picture - (0xD9, 0x66, 0x3D)).sum(2) == 0).any()  # the clip that is shown
    assert (picture[:, :38] == 255).all()  # nothing runs into the margins
    assert (picture[:, -38:] == 255).all()


def test_one_class_and_no_view_but_one(tmp_path: Path) -> None:
    model = StandIn(num_classes=1)
    look = VideoClassifier(model, class_names=["only"]).look(np.zeros((1, 30, 30, 3), np.uint8))
    assert [p.score for p in look.predictions] == [1]
    save_look(look, tmp_path / "one.png")
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]


def test_nothing_is_drawn_of_what_was_not_seen(tmp_path: Path) -> None:
    (look,) = VideoClassifier(StandIn()).looks([tmp_path / "none.mp4"], errors="return")
    with pytest.raises(ValueError, match=r"none\.mp4: nothing was seen"):
        save_look(look, tmp_path / "one.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("width", [120, 300, 1000])
@pytest.mark.parametrize(
    "text",
    [
        "Something passing in front of something to the right (97%)",
        "a " * 400 + "end",
        "wrong, it is: Pulling something",
    ],
)
def test_text_in_pictures_is_broken_between_words(text: str, width: int) -> None:
    font = _font(36)
    lines = _text_lines(text, font, width)
    assert all(font.getlength(line) <= width for line in lines)
    kept = " ".join(lines).removesuffix(" ...")
    assert text.startswith(kept) or width == 120  # a word may be wider than that by itself
    if " ".join(lines) != text.strip():
        assert lines[-1].endswith("...") or width == 120
    assert _text_lines("", font, width) == [""]
