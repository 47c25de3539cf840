"""Measures what Ray costs: processor time a video of `cluster.classify` and of a plain loop, and memory over time.

    python docs/measure cluster_rates            # writes the tables of docs/guides/scale.md; needs the extra cluster
    python docs/measure cluster_rates --files    # only the time for larger videos

Both classify the same small videos, a few and many: the difference is free of start-up. Processor time, of all
processes of a run, is what stays comparable on a machine that others use as well; the rates are those of the clock.
Larger videos are ten seconds of 340 x 256, as Kinetics is often stored, for vov3d_m with random weights. Linux only.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from cluster.decoding import Decoding, decode
from new_motions import write_new_motions
from pages import DOCS, ROOT, STORED, fill
from video_input import make_clip

import vov3d

RESULTS, PAGE = STORED / "cluster_rates.json", DOCS / "guides" / "scale.md"
TICK = os.sysconf("SC_CLK_TCK")
LOOP = """
import sys, pathlib, torch, vov3d
from vov3d.video import VideoClassifier
torch.set_num_threads(1)
network = vov3d.optimize_for_inference(vov3d.create_model("vov3d_n", pretrained=True).eval())
files = sorted(pathlib.Path(sys.argv[1]).rglob("*.mp4"))
for result in VideoClassifier(network).results(files):
    pass
"""


class Watched:
    """Processor time and memory of a process and all that descend from it."""

    def __init__(self) -> None:
        self._ticks: dict[int, int] = {}
        self.memory: list[int] = []

    @property
    def seconds(self) -> float:
        """Processor time of all processes that were seen, those that have ended among them."""
        return sum(self._ticks.values()) / TICK

    def look(self, ancestor: int) -> None:
        """Reads the state of all processes."""
        parents: dict[int, int] = {}
        ticks: dict[int, int] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                parents[int(entry.name)] = int(fields[1])
                ticks[int(entry.name)] = int(fields[11]) + int(fields[12])
        found, before = {ancestor}, 0
        while len(found) > before:
            before = len(found)
            found |= {process for process, parent in parents.items() if parent in found}
        self._ticks |= {process: ticks[process] for process in found & ticks.keys()}
        self.memory.append(sum(map(_proportional, found)))


def _proportional(process: int) -> int:
    """Returns the memory of a process in bytes, what it shares with others in equal parts."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def watch(command: list[str]) -> tuple[float, float, list[int]]:
    """Runs a command; returns its processor time, its duration, and its memory at regular times."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "examples")])}
    begun = time.monotonic()
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env={**environment, "OMP_NUM_THREADS": "1"}, stdout=quiet)
    watched = Watched()
    while process.poll() is None:
        watched.look(process.pid)
        time.sleep(1)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit status {process.returncode}")
    return watched.seconds, time.monotonic() - begun, watched.memory


def measure(few: int, many: int, folder: Path) -> dict:
    """Returns the measurements of one round, the two ways one after the other at each number of videos."""
    found: dict = {"few": few, "many": many, "loop": [], "ray": []}
    for count in (few, many):
        videos, out = folder / f"videos{count}", folder / "out"
        write_new_motions(videos, count // 20, 0)
        loop = watch([sys.executable, "-c", LOOP, str(videos)])
        cpus = ["--cpus", "2", "--store-gb", "0.3", "--rows", "50"]
        ray = watch([sys.executable, "-m", "cluster.classify", str(videos), "--output", str(out), *cpus])
        summary = json.loads((out / "_summary.json").read_text())
        shutil.rmtree(out)
        found["loop"].append({"cpu_seconds": loop[0], "seconds": loop[1]})
        tenths = [ray[2][len(ray[2]) * part // 10] for part in range(10)]
        found["ray"].append({"cpu_seconds": ray[0], "seconds": ray[1], "memory": tenths, "summary": summary})
    return found


def files(repeats: int = 15) -> dict[str, dict[str, float]]:
    """Returns the median processor time of a larger video in each stage, in seconds, by its views."""
    torch.set_num_threads(1)
    model: Any = vov3d.create_model("vov3d_m").eval()
    fast: Any = vov3d.optimize_for_inference(model)
    cfg = dict(model.pretrained_cfg)
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        make_clip(Path(folder, "a.mp4"))
        for clips, crops in ((1, 1), (10, 3)):
            decoding = Decoding(cfg, clips, crops, 60.0, folder)
            times = []
            for _ in range(repeats):
                decoded = decode("a.mp4", decoding)
                times.append(decoded.cpu_seconds)
            views, frames, size = decoded.shape[:3]
            clip = torch.rand(1, 3, frames, size, size)
            passes = []
            for _ in range(repeats):
                begun = time.process_time()
                fast.forward_dense(clip)
                passes.append(views * (time.process_time() - begun))
            found[f"{clips}x{crops}"] = {"decode": statistics.median(times), "model": statistics.median(passes)}
    return found


def file_table(found: dict[str, dict[str, float]]) -> str:
    """Returns the times of larger videos as a table."""
    rows = ["| views | decode | decode, videos/s a core | model |", "| --- | --- | --- | --- |"]
    for views, row in found.items():
        rows.append(
            f"| {views} | {1000 * row['decode']:.0f} ms | {1 / row['decode']:.1f} | {1000 * row['model']:.0f} ms |"
        )
    return "\n".join(rows)


def table(rounds: list[dict]) -> str:
    """Returns the measurements as a table."""
    heading = "round | plain loop | Ray | loop / Ray | of it decode | of it model | loop, videos/s | Ray, videos/s"
    rows = [f"| {heading} |", "|" + " --- |" * len(heading.split("|"))]
    for number, found in enumerate(rounds, 1):
        more = found["many"] - found["few"]
        loop, ray = ((found[way][1]["cpu_seconds"] - found[way][0]["cpu_seconds"]) / more for way in ("loop", "ray"))
        rates = [more / (found[way][1]["seconds"] - found[way][0]["seconds"]) for way in ("loop", "ray")]
        stages = found["ray"][1]["summary"]["stages"]
        own = [1000 * stages[stage]["cpu_seconds"] / found["many"] for stage in ("decode", "model")]
        rows.append(
            f"| {number} | {1000 * loop:.1f} ms | {1000 * ray:.1f} ms | {100 * loop / ray:.0f}% | {own[0]:.1f} ms | "
            f"{own[1]:.1f} ms | {rates[0]:.0f} | {rates[1]:.0f} |"
        )
    memory = rounds[-1]["ray"][1]["memory"]
    shown = ", ".join(f"{bytes_ / 1e9:.2f}" for bytes_ in memory)
    rows += ["", f"Memory of all processes of the last run at tenths of its time, in GB: {shown}."]
    return "\n".join(rows)


def main() -> None:
    """Measures, stores the results and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="default: 2")
    parser.add_argument("--few", type=int, default=200, help="videos of the first run, a multiple of 20 (default: 200)")
    parser.add_argument("--many", type=int, default=2000, help="videos of the second run (default: 2000)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--files", action="store_true", help="only the time for larger videos")
    which.add_argument("--table", action="store_true", help="only write the tables of what is stored")
    args = parser.parse_args()
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if not args.table:
        stored["files"] = files()
    if not args.table and not args.files:
        stored["rounds"] = []
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory() as folder:
                stored["rounds"].append(measure(args.few, args.many, Path(folder)))
    RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    parts = {"cluster_files": file_table(stored["files"])}
    if "rounds" in stored:
        parts["cluster"] = table(stored["rounds"])
    fill(PAGE, **parts)


if __name__ == "__main__":
    main()
