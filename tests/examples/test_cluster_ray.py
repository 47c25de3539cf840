"""Classifying on a Ray cluster of two cores while processes are killed: every video has one row."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.numbered_videos import write_video

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).parents[2]
COUNT = 300
BROKEN = range(7, COUNT, 43)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """Writes 300 videos under names of their own, some of them broken."""
    folder = tmp_path / "videos"
    folder.mkdir()
    content = [write_video(tmp_path / f"{n}.mp4", num_frames=10 + n).read_bytes() for n in range(5)]
    for number in range(COUNT):
        data = content[number % 5]
        (folder / f"{number:03d}.mp4").write_bytes(data[: len(data) // 9] if number in BROKEN else data)
    return folder


@pytest.fixture
def start(videos: Path, tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen]]:
    """Gives a function that starts the command in a process of its own."""
    pytest.importorskip("ray.data", reason="needs the extra cluster")
    argv = "--rows 20 --block 8 --cpus 2 --decode-cpus 1 --model-cpus 1 --store-gb 0.2".split()  # noqa: SIM905
    command = [sys.executable, "-m", "cluster.classify", str(videos), "--output", str(tmp_path / "out"), *argv]
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'examples'}", "OMP_NUM_THREADS": "1"}
    running: list[subprocess.Popen] = []

    def begin() -> subprocess.Popen:
        with (tmp_path / f"{len(running)}.log").open("w") as log:
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        return running[-1]

    yield begin
    for process in running:
        process.kill()


def family(ancestor: int) -> dict[int, str]:
    """Returns the processes that descend from one, with what they call themselves."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                stat = (entry / "stat").read_text()
                names[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
    found, before = {ancestor}, 0
    while len(found) > before:
        before = len(found)
        found |= {process for process, parent in parents.items() if parent in found}
    return {process: names[process] for process in found - {ancestor} if process in names}


def wait_for(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "ended too early"
        assert time.monotonic() < end, "took too long"
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_every_video_has_one_row_whatever_is_killed(videos: Path, start, tmp_path: Path) -> None:
    def parts() -> int:
        return len(list((tmp_path / "out").glob("part-*.parquet")))

    first = start()
    for number, stage in enumerate(("Decode", "Model"), 1):
        wait_for(lambda number=number: parts() >= number, first)
        workers = [process for process, name in family(first.pid).items() if f"({stage})" in name]
        assert workers, family(first.pid)
        os.kill(workers[0], signal.SIGKILL)
    wait_for(lambda: parts() >= 6, first)
    of_first = family(first.pid)
    first.kill()
    first.wait()
    kept = parts()
    assert kept < COUNT // 20

    # Ray's two agents look for the rest once a minute
    of_first = {process: name for process, name in of_first.items() if "Agent" not in name}
    end = time.monotonic() + 60
    while any(map(alive, of_first)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not [name for process, name in of_first.items() if alive(process)]

    second = start()
    assert second.wait(300) == 0, (tmp_path / "1.log").read_text()
    table = pq.read_table(tmp_path / "out")
    assert sorted(table["path"].to_pylist()) == sorted(map(str, videos.iterdir()))
    errors = {Path(row["path"]).name: row["error"] for row in table.to_pylist() if row["error"]}
    assert sorted(errors) == [f"{number:03d}.mp4" for number in BROKEN]
    assert all(name in error for name, error in errors.items())
    assert parts() > kept
