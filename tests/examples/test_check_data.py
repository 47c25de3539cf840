"""The check of a data set: broken videos are found, named with their cause, and counted."""

import csv
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.numbered_videos import folder_of_frames, keep_part, write_audio, write_video
from reference import check_data, prepare


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Class folders with good videos and every kind of broken one."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "run").mkdir()
    (folder / "jump").mkdir()
    write_video(folder / "run/good one.mp4", num_frames=12)
    folder_of_frames(folder / "run/frames", 3)
    keep_part(write_video(folder / "jump/cut.mp4", muxer={"movflags": "faststart"}, gop=12), 0.6)
    (folder / "jump/empty.mp4").touch()
    (folder / "jump/text.mp4").write_text("404 not found")
    write_audio(folder / "jump/sound.mp4")
    folder_of_frames(folder / "jump/torn", 3)
    (folder / "jump/torn/00003.jpg").write_bytes(b"\xff\xd8 torn")
    return folder


@pytest.mark.slow
def test_broken_videos_are_listed_with_their_cause(data: Path, tmp_path: Path) -> None:
    """As a user calls it: in a process of its own, from elsewhere."""
    examples = str(Path(check_data.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([examples, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "reference.check_data", str(data), "--workers", "2", "--csv", "found.csv"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "7 videos of 2 classes, 5 broken (three frames each; --full decodes all)"
    rows = {Path(row["path"]).name: row for row in csv.DictReader((tmp_path / "found.csv").open())}
    assert len(rows) == 7
    good = rows["good one.mp4"]
    assert [good[key] for key in ("label", "frames", "width", "height", "problem")] == ["run", "12", "96", "64", ""]
    causes = {
        "cut.mp4": "of 3 frames cannot be decoded",
        "empty.mp4": "empty",
        "text.mp4": "",
        "sound.mp4": "no video",
        "torn": "00003.jpg: this frame of the folder cannot be read",
    }
    for name, cause in causes.items():
        assert rows[name]["problem"]
        assert cause in rows[name]["problem"]
        (line,) = [line for line in lines if f"{data / 'jump' / name}" in line]
        assert cause in line
    assert list(tmp_path.iterdir()) == [tmp_path / "found.csv"]


@pytest.mark.slow
def test_names_that_are_no_text_are_written_with_escapes(tmp_path: Path, capsys) -> None:
    name = os.fsdecode(b"\xe4.mp4")
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / name).touch()
    table = tmp_path / "found.csv"
    assert check_data.main([str(tmp_path / "data"), "--workers", "1", "--csv", str(table)]) == 1
    assert f"{tmp_path}/data/a/\\udce4.mp4: is empty" in capsys.readouterr().out
    assert table.read_text().count("\\udce4.mp4,") == 2


def test_missing_videos_count_as_broken(data: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "list.csv"
    file.write_text("run/good one.mp4,0\nrun/none.mp4,1\n")
    assert check_data.main([str(file), "--root", str(data), "--workers", "1"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out == [f"{data / 'run/none.mp4'}: no such file", out[1]]
    assert out[1].startswith("2 videos of 2 classes, 1 broken")


def test_all_frames_on_request(data: Path) -> None:
    assert check_data.check(str(data / "run/good one.mp4"), full=True).problem == ""
    few, every = (check_data.check(str(data / "jump/cut.mp4"), full).problem for full in (False, True))
    assert few == "2 of 3 frames cannot be decoded"
    assert "of 60 frames cannot be decoded" in every


def test_an_item_that_crashes_its_process_is_named() -> None:
    items = ["1 + 1", "__import__('os').abort()", "2 + 2", "3 + 3"]
    assert list(check_data.in_processes(eval, items, 2)) == [2, None, 4, 6]


def test_a_broken_pool_can_end_its_processes() -> None:
    # It sends SIGTERM and waits: a process that ignored it could make the check wait for ever.
    items = [f"__import__('signal').getsignal({number:d})" for number in (signal.SIGTERM, signal.SIGINT)]
    assert list(check_data.in_processes(eval, items, 1)) == [signal.SIG_DFL, signal.SIG_IGN]


def test_items_that_wait_are_not_begun_once_the_caller_stops(tmp_path: Path) -> None:
    items = [f"__import__('time').sleep(0.05) or open({str(tmp_path / str(i))!r}, 'x').close()" for i in range(60)]
    results = check_data.in_processes(eval, items, 1)
    next(results)
    results.close()
    for process in multiprocessing.active_children():
        process.join()
    assert len(list(tmp_path.iterdir())) < len(items)


def test_a_process_of_a_pool_ends_with_a_main_process_that_is_killed() -> None:
    script = """if True:
        import multiprocessing, os, signal
        from concurrent.futures import ProcessPoolExecutor
        from reference.training.stopping import follow_main
        pool = ProcessPoolExecutor(2, multiprocessing.get_context(METHOD), initializer=follow_main)
        pool.submit(os.getpid).result()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    examples = str(Path(check_data.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join([examples, os.environ.get("PYTHONPATH", "")])}
    for method in ("forkserver", "fork"):
        command = [sys.executable, "-c", script.replace("METHOD", repr(method))]
        # its output ends when the last process has closed it
        done = subprocess.run(command, env=env, stdout=subprocess.PIPE, timeout=120, check=False)
        assert done.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("tool", "status"), [(check_data, 130), (prepare, 128 + signal.SIGTERM)])
def test_sigterm_ends_the_processes_too(tool, status: int, data: Path, monkeypatch, capsys) -> None:
    def stopped(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(tool, "_read", stopped)
    argv = ["folders", str(data), "--output", "nowhere"] if tool is prepare else [str(data)]
    assert tool.main(argv) == status
    assert "stopped" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none"], "none: no such file or folder"),
        (["{data}", "--csv", "nowhere/x.csv"], "there is no folder"),
        (["{data}", "--split", "val"], "--split val has no effect"),
        (["{data}", "--csv", "{data}/run/good one.mp4"], "lies beside the data, and is no result of this command"),
    ],
)
def test_bad_arguments(data: Path, capsys, arguments: list[str], message: str) -> None:
    assert check_data.main([argument.format(data=data) for argument in arguments]) == 1
    assert message in capsys.readouterr().err


def test_neither_lists_nor_names_of_classes_are_overwritten(tmp_path: Path, capsys) -> None:
    write_video(tmp_path / "a.mp4", num_frames=12)
    texts = {"val.csv": "a.mp4,left\n", "names.txt": "left\n", "other.csv": "b.mp4,right\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "link.csv").symlink_to(tmp_path / "val.csv")
    argv = [str(tmp_path / "val.csv"), "--classes", str(tmp_path / "names.txt"), "--workers", "1", "--csv"]
    for name in (*texts, "link.csv"):
        assert check_data.main([*argv, str(tmp_path / name)]) == 1
        assert f"{name}: " in capsys.readouterr().err
    assert check_data.main([str(tmp_path), "--csv", str(tmp_path / "val.csv")]) == 1
    assert {name: (tmp_path / name).read_text() for name in texts} == texts
    for _ in range(2):  # its own result it may replace
        assert check_data.main([*argv, str(tmp_path / "checked.csv")]) == 0
