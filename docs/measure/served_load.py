"""Loads a service on this machine with good and broken files; writes the table of docs/guides/serving.md.

    python docs/measure served_load
    python docs/measure served_load --seconds 30 --clients 16 --queue 16 8

A server is started for each size of the queue. Its clients send one file after the other, three of four a clip of a
moving shape, the others broken: cut short, random bytes, a playlist, no video. After a 429 a client waits as long as
Retry-After says, divided by ten to keep the run short, and goes on.
"""

import argparse
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from pages import DOCS, fill

from vov3d.synthetic.moving_shapes import make_clip, write_clip

PAGE = DOCS / "guides" / "serving.md"
GOOD = 0.75


@dataclass
class Seen:
    """Answers that clients got: seconds and status of each, and the largest memory of all processes."""

    answers: list[tuple[float, int]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


def files(folder: Path) -> tuple[list[bytes], list[bytes]]:
    """Returns good and broken files."""
    good = []
    for label in range(8):
        path = folder / f"{label}.mp4"
        write_clip(path, make_clip(label, np.random.default_rng(label), 24), fps=10)
        good.append(path.read_bytes())
    broken = [
        good[0][:2000],
        good[1][: len(good[1]) // 2],
        random.Random(0).randbytes(50_000),
        b"#EXTM3U\n#EXTINF:1,\na.ts\n",
    ]
    return good, broken


def client(address: str, number: int, until: float, sent: tuple[list[bytes], list[bytes]], seen: Seen) -> None:
    """Sends one file after the other and notes the answers."""
    draw = random.Random(number)
    with httpx.Client(base_url=address, timeout=120, trust_env=False) as session:
        while time.monotonic() < until:
            good = draw.random() < GOOD
            content = draw.choice(sent[0] if good else sent[1])
            begun = time.monotonic()
            answer = session.post("/predict", files={"file": ("a.mp4", content, "video/mp4")})
            taken = time.monotonic() - begun
            with seen.lock:
                seen.answers.append((taken, answer.status_code))
                if answer.status_code not in ((200, 429) if good else (422, 429)):
                    seen.wrong.append(f"{answer.status_code} for a {'good' if good else 'broken'} file: {answer.text}")
            if answer.status_code == 429:
                time.sleep(float(answer.headers["Retry-After"]) / 10)


def start(model: str, queue: int, workers: int, log: Path) -> tuple[subprocess.Popen, str]:
    """Starts a server and returns it with its address."""
    command = [sys.executable, "-m", "vov3d", "serve", model, "--port", "0", "--queue", str(queue)]
    with log.open("w") as out:
        server = subprocess.Popen([*command, "--workers", str(workers)], stderr=out)
    while not (found := re.search(r"(http://\S+)$", log.read_text(), re.MULTILINE)):
        if server.poll() is not None:
            raise RuntimeError(f"the server did not start: {log.read_text()}")
        time.sleep(0.1)
    return server, found[1]


def measured(args: argparse.Namespace, queue: int) -> list[str]:
    """Returns the row of a queue's size."""
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder:
        sent = files(Path(folder))
        server, address = start(args.model, queue, args.workers, Path(folder, "log"))
        try:
            for content in sent[0]:  # warm
                httpx.post(f"{address}/predict", content=content, timeout=120, trust_env=False).raise_for_status()
            begun = time.monotonic()
            given = (begun + args.seconds, sent, seen)
            threads = [threading.Thread(target=client, args=(address, n, *given)) for n in range(args.clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            took = time.monotonic() - begun
        finally:
            server.terminate()
            code = server.wait(60)
    if seen.wrong or code:
        raise RuntimeError(f"the server ended with {code}; unexpected answers: {seen.wrong[:5]}")
    return [str(queue), *_figures(seen, took)]


def _figures(seen: Seen, took: float) -> list[str]:
    statuses = Counter(status for _, status in seen.answers)
    times = sorted(seconds for seconds, status in seen.answers if status == 200)
    cuts = statistics.quantiles(times, n=100)
    answered = statuses[200] + statuses[422]
    percentiles = [f"{1000 * cuts[at - 1]:.0f}" for at in (50, 95, 99)]
    return [f"{answered / took:.1f}", *percentiles, *(str(statuses[status]) for status in (200, 422, 429))]


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vov3d_n")
    parser.add_argument("--clients", type=int, default=16, help="(default: 16)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each size of the queue (default: 20)")
    parser.add_argument("--queue", type=int, nargs="+", default=[16, 8], help="(default: 16 8)")
    parser.add_argument("--workers", type=int, default=2, help="(default: 2)")
    args = parser.parse_args()
    columns = ["queue", "answers/s", "p50 ms", "p95 ms", "p99 ms", "200", "422", "429"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = os.getloadavg()[0]
    shared = f"{cores} core{'s' * (cores != 1)} shared by server and clients"
    lines = [
        f"{args.model}, {args.clients} clients for {args.seconds:g} s each, {shared}, load {load:.1f} from other"
        " programs at the start:",
        "",
        f"| {' | '.join(columns)} |",
        "| --- " * len(columns) + "|",
    ]
    for queue in args.queue:
        lines.append(f"| {' | '.join(measured(args, queue))} |")
        print(lines[-1], flush=True)
    fill(PAGE, load="\n".join(lines))


if __name__ == "__main__":
    main()
