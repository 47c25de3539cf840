"""`vov3d predict` on folders, with its settings, and the picture it draws."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.numbered_videos import folder_of_frames, keep_part, write_video
from helpers.recording_model import StandIn
from PIL import Image

import vov3d
from vov3d.cli import main
from vov3d.cli.arguments import Progress
from vov3d.cli.lists import names_in
from vov3d.files import check_not_source
from vov3d.video import Prediction, Result, Section, VideoClassifier, Views
from vov3d.video.picture import draw_result, find_font, save_result, text_lines

MODEL = ("--model", "x3d_xs", "--random-weights")


def run(capsys, *argv: str) -> tuple[int, str, list[str]]:
    code = main(["predict", *argv])
    out, err = capsys.readouterr()
    return code, out, [line for line in err.splitlines() if "RANDOM WEIGHTS" not in line]


@pytest.mark.slow
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


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Writes a folder of two videos, one broken, a folder of frames, and a text."""
    folder = tmp_path / "clips"
    folder.mkdir()
    write_video(folder / "a.mp4", num_frames=9)
    (folder / "b.avi").write_text("no video")
    folder_of_frames(folder / "frames", 9)
    (folder / "notes.txt").write_text("no video")
    return folder


@pytest.mark.slow
def test_shards_share_the_videos(capsys, tmp_path: Path) -> None:
    for number in range(5):
        write_video(tmp_path / f"{number}.mp4", num_frames=9)
    seen = []
    for shard in ("1/2", "2/2"):
        code, text, _ = run(capsys, str(tmp_path), *MODEL, "--json", "--shard", shard)
        assert code == 0
        seen.append([Path(entry["file"]).stem for entry in json.loads(text)])
    assert seen == [["0", "2", "4"], ["1", "3"]]
    code, _, err = run(capsys, str(tmp_path), *MODEL, "--shard", "6/6")
    assert (code, err) == (1, ["vov3d predict: --shard 6/6: there are only 5 videos; make fewer shards"])


@pytest.mark.parametrize("shards", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_each_video_has_its_own_picture_in_all_shards(shards: int, capsys, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for number in range(3):
        write_video(tmp_path / "videos" / f"{number}.mp4", num_frames=9)
    argv = [str(tmp_path / "videos"), *MODEL, "--picture", str(tmp_path / "p.png")]
    seen = set()
    for shard in range(1, shards + 1):
        assert run(capsys, *argv, "--shard", f"{shard}/{shards}")[0] == 0
        pictures = {path.name for path in tmp_path.glob("*.png")}
        assert len(pictures - seen) == len(range(shard - 1, 3, shards))
        seen |= pictures
    assert seen == {"p-1.png", "p-2.png", "p-3.png"}


def test_folders_are_walked(capsys, clips: Path) -> None:
    code, text, err = run(capsys, str(clips), *MODEL, "--topk", "1")
    assert code == 1
    assert [line for line in text.splitlines() if line[0] != " "] == [str(clips / "a.mp4"), str(clips / "frames")]
    assert err[0] == f"vov3d predict: {clips}: left out 1 without a video's extension (notes.txt)"
    assert err[1].startswith(f"vov3d predict: {clips / 'b.avi'}: cannot be read as a video")
    assert len(err) == 2


def test_csv(capsys, clips: Path) -> None:
    code, text, _ = run(capsys, str(clips), *MODEL, "--topk", "2", "--csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert code == 1
    assert [Path(row["file"]).name for row in rows] == ["a.mp4", "a.mp4", "b.avi", "frames", "frames"]
    assert [row["rank"] for row in rows] == ["1", "2", "", "1", "2"]
    assert "cannot be read" in rows[2]["error"]
    assert rows[0]["label"] == vov3d.load_labels("k400")[int(rows[0]["index"])]
    assert 0 < float(rows[1]["score"]) <= float(rows[0]["score"])


def test_lists_of_videos(capsys, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = tmp_path / "list.txt"
    listed.write_bytes(b"\xef\xbb\xbf" + f"{clips}/a.mp4\r\n\n{clips}/frames\n".encode())
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{clips}/frames".encode())))
    _, text, err = run(capsys, f"@{listed}", "-", *MODEL, "--json")
    assert [Path(result["file"]).name for result in json.loads(text)] == ["a.mp4", "frames", "frames"]
    assert err == []
    for wrong, message in (
        (["@none.txt"], "none.txt: no such list of videos"),
        ([f"@{tmp_path}/binary.txt"], f"{tmp_path}/binary.txt: is not text; expected a list with one video per line"),
        (["-", "-"], "- is given twice, but the standard input can be read only once"),
        (["-"], "the standard input: names no videos; a list has one per line"),
        ([""], "a video's name is empty; was a variable of the shell not set?"),
    ):
        code, text, (line,) = run(capsys, *wrong, *MODEL)
        assert (code, text) == (1, "")
        assert line.startswith(f"vov3d predict: {message}")
    monkeypatch.setattr("sys.stdin", None)
    assert run(capsys, "-", *MODEL)[2] == ["vov3d predict: - names the standard input, which is closed"]


NAMES = ["a.mp4", "Überblick/日本 1.mp4", "ⴍ.mp4"]  # U+2D0D: half of it is a line end


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_lists_may_be_utf_8_or_utf_16(encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    content = (mark + "\r\n".join([NAMES[0], "", *NAMES[1:], ""])).encode(encoding)
    assert names_in(content, "list.txt") == NAMES


@pytest.mark.parametrize(
    "content", ["a.mp4\n".encode("utf-16-le"), "a.mp4\n".encode("utf-32"), b"\xff\xfea.mp4", b"\xfe\xff\xd8\x00\0a"]
)
def test_a_list_that_is_no_text_is_one_error(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"list\.txt: is not text; expected .* in UTF-8, or in UTF-16 with"):
        names_in(content, "list.txt")


def test_names_in_lists_keep_bytes_that_are_not_utf_8() -> None:
    assert [os.fsencode(name) for name in names_in(b"caf\xe9.mp4\n", "list.txt")] == [b"caf\xe9.mp4"]


def test_results_are_written_as_they_come(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for form, ending in (("--json", ","), ("--csv", ""), ("--topk=1", "")):
        written = io.StringIO()
        monkeypatch.setattr("sys.stdout", written)
        seen: list[str] = []

        def results(self, sources, *_: object, seen=seen, written=written, **__: object):
            for source in sources:
                seen.append(written.getvalue())
                yield Result(source, [Prediction(0, "x", 1.0)], None, None, Views(1, 1), [], 0.0, None)

        monkeypatch.setattr(VideoClassifier, "results", results)
        assert main(["predict", "first.mp4", "second.mp4", *MODEL, form]) == 0
        assert "first.mp4" in seen[1]
        assert "second.mp4" not in seen[1]
        if ending:
            assert [result["file"] for result in json.loads(written.getvalue())] == ["first.mp4", "second.mp4"]


def test_a_list_of_json_is_whole_when_the_command_ends_early(
    clips: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    plain = VideoClassifier.results

    def interrupted(self, sources, *args: object, **kwargs: object):
        yield next(plain(self, sources, *args, **kwargs))
        raise OSError("gone")

    monkeypatch.setattr(VideoClassifier, "results", interrupted)
    code, text, err = run(capsys, str(clips / "a.mp4"), "b.mp4", *MODEL, "--json")
    assert (code, err) == (1, ["vov3d predict: gone"])
    assert [result["file"] for result in json.loads(text)] == [str(clips / "a.mp4")]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("form", ["--json", pytest.param("--csv", marks=pytest.mark.slow), "--topk=1"])
def test_file_names_that_the_output_encoding_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str, form: str, capfd
) -> None:
    names = [
        os.fsencode(tmp_path) + name for name in (b"/caf\xe9.mp4", "/\u00e9 \U0001f4aa.mp4".encode(), b"/\xff.txt")
    ]
    for name in names[:2]:
        write_video(tmp_path / "a.mp4", num_frames=3).rename(os.fsdecode(name))
    Path(os.fsdecode(names[2])).write_text("no video")
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    monkeypatch.setattr("sys.stdout", out)
    files = [os.fsdecode(name) for name in names]
    assert main(["predict", *files, *MODEL, form, "--picture", str(tmp_path / "out.png")]) == 1
    out.flush()
    text = out.buffer.getvalue().decode(encoding)
    if form == "--json":
        assert [result["file"] for result in json.loads(text)] == files
        assert len(text.splitlines()) > 6
    elif encoding == "utf-8":
        assert str(names[1], "utf-8") in text
    assert "\\udce9" in text
    assert "\\udcff.txt: cannot be read as a video" in capfd.readouterr().err


def test_progress_of_many_files(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 20))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    progress = Progress("predict", 4)
    for _ in range(4):
        progress.step()
    assert capsys.readouterr().err.splitlines() == [
        "vov3d predict: 2/4, 40 s left",
        "vov3d predict: 4/4",
    ]
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress("predict", 2)
    progress.step()
    progress.clear()
    progress.step()
    assert capsys.readouterr().err == "\r\x1b[Kvov3d predict: 1/2, 20 s left\r\x1b[K\r\x1b[Kvov3d predict: 2/2\r\x1b[K"
    one = Progress("predict", 1)
    one.step()
    one.clear()
    assert capsys.readouterr().err == ""


def test_a_folder_is_a_model_in_every_command(capsys, clips: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = vov3d.create_model("vov3d_n", num_classes=2)
    vov3d.save_pretrained(model, tmp_path / "mine", label_names=["rising", "falling"])
    (tmp_path / "vov3d_n").mkdir()  # no saved model, and no reason to take it for one
    video = str(clips / "a.mp4")
    exported: list[str] = []

    def noted(name: str, **_: object) -> None:
        exported.append(name)
        raise ValueError("enough")

    monkeypatch.setattr("vov3d.cli.export.create_model", noted)
    for name in ("mine", "./mine", str(tmp_path / "mine"), "local-dir:mine"):
        _, text, _ = run(capsys, video, "--model", name)
        assert {line.split("%  ")[1] for line in text.splitlines()[1:]} == {"rising", "falling"}
        assert main(["embed", video, "-o", "v.npz", "--model", name]) == 0
        assert main(["export", name, "-o", "m.pt2"]) == 1
        assert len(vov3d.VideoClassifier(name)(video)) == 2
        capsys.readouterr()
    assert exported == ["local-dir:mine", "local-dir:./mine", f"local-dir:{tmp_path / 'mine'}", "local-dir:mine"]
    assert main(["predict", video, "--model", "vov3d_n"]) == 0


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
def result(tmp_path: Path):
    torch.manual_seed(0)
    model = StandIn(test_input_size=(3, 64, 64), num_frames=9)
    names = ["a label that is long enough to need a second line and then some more of it " * 2, *"bcdefg"]
    return VideoClassifier(model, views="10x3", class_names=names).result(
        write_video(tmp_path / f"{'long name ' * 9}.mp4", num_frames=60), topk=7
    )


def test_the_picture_shows_frames_bars_and_the_time_line(result) -> None:
    picture = np.asarray(draw_result(result)).astype(int)
    assert result.frames.shape == (9, 3, 64, 64)
    assert len(result.clips) == 10
    assert result.duration == pytest.approx(2, abs=0.05)
    blue = (abs(picture - (0x3D, 0x6F, 0xD9)).sum(2) == 0).sum(1)
    bars = sorted({round(width / 10) for width in blue[blue > 0]}, reverse=True)
    for prediction in result.predictions:  # the inner width is 1000 pixels
        assert any(abs(100 * prediction.score - bar) <= 1 for bar in bars)
    assert (abs(picture - (0xD9, 0x66, 0x3D)).sum(2) == 0).any()  # the clip that is shown
    assert (picture[:, :38] == 255).all()  # nothing runs into the margins
    assert (picture[:, -38:] == 255).all()


def test_a_picture_of_one_class_and_one_frame(tmp_path: Path) -> None:
    model = StandIn(num_classes=1)
    result = VideoClassifier(model, class_names=["only"]).result(np.zeros((1, 30, 30, 3), np.uint8))
    assert [p.score for p in result.predictions] == [1]
    save_result(result, tmp_path / "one.png")
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]


def test_no_picture_is_drawn_of_an_unread_video(tmp_path: Path) -> None:
    (result,) = VideoClassifier(StandIn()).results([tmp_path / "none.mp4"], errors="return")
    with pytest.raises(ValueError, match=r"none\.mp4: the result holds no frames"):
        save_result(result, tmp_path / "one.png")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [1, 2])
def test_a_picture_does_not_replace_what_is_read(count: int, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = tmp_path / ("a.gif" if count == 1 else "a-2.gif")
    frames = [Image.new("RGB", (48, 48), (40 * i, 0, 0)) for i in range(4)]
    frames[0].save(source, save_all=True, append_images=frames[1:])
    before = source.read_bytes()
    assert main(["predict", *[str(source)] * count, "--picture", str(tmp_path / "a.gif")]) == 1
    assert "is the file that is read, which would be lost" in capsys.readouterr().err
    assert source.read_bytes() == before


@pytest.mark.parametrize("linked", [False, True])
def test_a_picture_does_not_replace_a_frame_of_a_folder(linked: bool, tmp_path: Path, capsys) -> None:
    folder = folder_of_frames(tmp_path / "frames", 9)
    frame = sorted(folder.iterdir())[2]
    before, picture = frame.read_bytes(), frame
    if linked:
        picture = tmp_path / "link.jpg"
        picture.symlink_to(frame)
    code, _, err = run(capsys, str(folder), *MODEL, "--picture", str(picture))
    assert code == 1
    assert err == [
        f"vov3d predict: {picture}: is a frame of {folder}, the folder that is read, which would be lost; name another"
    ]
    assert frame.read_bytes() == before


def test_what_is_no_frame_may_be_replaced_in_a_folder_that_is_read(tmp_path: Path) -> None:
    folder = folder_of_frames(tmp_path / "frames", 3)
    (folder / "out.json").write_text("{}")
    check_not_source(folder / "out.json", folder)
    check_not_source(folder / "new.jpg", folder)
    for source in (folder, Section(folder, 0, 2, in_frames=True)):
        with pytest.raises(ValueError, match="is a frame of"):
            check_not_source(sorted(folder.glob("*.jpg"))[0], source)


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
    font = find_font(36)
    lines = text_lines(text, font, width)
    assert all(font.getlength(line) <= width for line in lines)
    kept = " ".join(lines).removesuffix(" ...")
    assert text.startswith(kept) or width == 120  # a word may be wider than that by itself
    if " ".join(lines) != text.strip():
        assert lines[-1].endswith("...") or width == 120
    assert text_lines("", font, width) == [""]


# --- what computes the model -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_few_views_are_not_worth_a_conversion(capsys, tmp_path: Path, monkeypatch) -> None:
    video = str(write_video(tmp_path / "a.mp4", num_frames=9))
    monkeypatch.setattr("vov3d.deploy._runtimes.runtime_model", None)  # would convert
    code, plain, err = run(capsys, video)
    assert (code, len(err)) == (0, 1)  # what the model knows
    code, _, err = run(capsys, video, "-v", "--views", "2x3")
    assert code == 0
    assert err[0].startswith("vov3d predict: computed by torch: OpenVINO pays off from 24500 views on, not for 6")
    assert run(capsys, video, "-v", "--runtime", "torch")[1] == plain


def test_many_views_or_a_wish_take_another_runtime(capsys, tmp_path: Path, monkeypatch) -> None:
    video = str(write_video(tmp_path / "a.mp4", num_frames=9))
    asked: list[str] = []

    def made(model, backend, *_):
        asked.append(backend)
        model.backend = backend
        return model

    monkeypatch.setattr("vov3d.deploy._runtimes.runtime_model", made)
    monkeypatch.setattr("vov3d.deploy._runtimes.find_spec", lambda name: name)
    monkeypatch.setattr("vov3d.cli.predict.CONVERTED_FROM", 6 * 8 * 64 * 64)
    code, _, err = run(capsys, video, "-v", "--views", "2x3")
    assert code == 0
    assert err[0] == "vov3d predict: computed by openvino: 6 views make up for the conversion, from 6 on"
    code, _, err = run(capsys, video, "-v", "--runtime", "onnxruntime")
    assert (code, asked) == (0, ["openvino", "onnxruntime"])
    assert err[0].endswith("as --runtime says")


def test_a_file_has_its_own_runtime(capsys) -> None:
    code, _, err = run(capsys, "a.mp4", "--model", "a.onnx", "--runtime", "torch")
    assert (code, len(err)) == (1, 1)
    assert "--runtime torch has no effect on a.onnx" in err[0]
