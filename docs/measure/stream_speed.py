"""Times one frame of a stream against a clip computed anew; writes the table of docs/guides/streaming.md.

    python docs/measure stream_speed --threads 2
    python docs/measure stream_speed --threads 2 --exported   # files of ONNX Runtime and OpenVINO too: takes minutes

PyTorchVideo's X3D-M, which has no streams, is timed on a clip where pytorchvideo is installed. Clip and frames are
measured in turns, and the medians of the processor's time are taken where one thread runs, those of the wall clock
elsewhere.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pages import DOCS, fill

import vov3d

PAGE = DOCS / "guides" / "streaming.md"


AT_ONCE = 4  # frames of a step, where labels may come that much later


@dataclass
class Way:
    """Calls that one runtime offers: a clip, a frame where it has streams, and several frames in one step."""

    clip: Callable[[], Any]
    frame: Callable[[], Any] | None = None
    frames: Callable[[], Any] | None = None


def ways(name: str, size: int, exported: bool) -> dict[str, Way]:
    """Returns what is measured of a model, by the name of the runtime."""
    model: Any = vov3d.create_model(name).eval()
    stream = vov3d.streaming(model)
    clip = torch.randn(1, 3, model.pretrained_cfg["num_frames"], size, size)
    pairs: dict[str, tuple[Any, Any]] = {
        "eager": (model, stream),
        "optimized": (vov3d.optimize_for_inference(model), vov3d.optimize_for_inference(stream)),
    }
    ours = set(pairs)  # exported streams take one frame a step
    if exported:
        folder = Path(tempfile.mkdtemp())
        for title, ending in (("ONNX Runtime", ".onnx"), ("OpenVINO", ".xml")):
            paths = (folder / f"{kind}{ending}" for kind in ("clip", "stream"))
            made: Any = [vov3d.export(n, path, size=size) for n, path in zip((model, stream), paths, strict=True)]
            pairs[title] = (vov3d.load_exported(made[0]), vov3d.load_exported(made[1]))

    def step(network: Any, frames: torch.Tensor) -> Callable[[], Any]:
        state = None

        def run() -> None:
            nonlocal state
            state = network(frames, state)[1]

        for _ in range(stream.delay + stream.window + 1):
            run()
        return run

    one, several = clip[:, :, 0], clip[:, :, :AT_ONCE]
    found = {
        title: Way(partial(whole, clip), step(part, one), step(part, several) if title in ours else None)
        for title, (whole, part) in pairs.items()
    }
    if name == "x3d_m" and find_spec("pytorchvideo"):
        from pytorchvideo.models.x3d import create_x3d

        found["PyTorchVideo"] = Way(partial(create_x3d(input_clip_length=16, input_crop_size=size).eval(), clip))
    return found


def times_of(way: Way, rounds: int, clock: Callable[[], float]) -> list[float]:
    """Returns medians in milliseconds: of a clip, a frame, and a frame in steps of several; measured in turns."""
    calls = [(call, repeats) for call, repeats in ((way.clip, 1), (way.frame, 8), (way.frames, 4)) if call is not None]
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for (call, repeats), taken in zip(calls, times, strict=True):
            for _ in range(repeats):
                begun = clock()
                with torch.inference_mode():
                    call()
                taken.append(clock() - begun)
    medians = [1000 * statistics.median(taken) for taken in times]
    return medians[:2] + [each / AT_ONCE for each in medians[2:]]


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["vov3d_m", "x3d_m"])
    parser.add_argument("--size", type=int, default=224, help="(default: 224)")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    parser.add_argument("--rounds", type=int, default=8, help="(default: 8)")
    parser.add_argument("--exported", action="store_true", help="files of other runtimes too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clock = time.process_time if args.threads == 1 and not args.exported else time.perf_counter
    what = "processor time" if clock is time.process_time else "time"
    columns = ["", "clip", "frame", "ratio", f"frame, {AT_ONCE} a step", "ratio"]
    lines = [
        f"{args.threads} thread{'s' * (args.threads > 1)}, clips of 16 x {args.size}², medians, {what} in ms:",
        "",
        f"| {' | '.join(columns)} |",
        "| --- " * len(columns) + "|",
    ]
    for name in args.models:
        for title, way in ways(name, args.size, args.exported).items():
            clip, *frames = times_of(way, args.rounds, clock)
            cells = [text for each in frames for text in (f"{each:.1f}", f"{clip / each:.1f}")]
            lines.append(f"| {' | '.join([f'{name}, {title}', f'{clip:.0f}', *cells, *[''] * (4 - len(cells))])} |")
            print(lines[-1], flush=True)
    fill(PAGE, speed="\n".join(lines))


if __name__ == "__main__":
    main()
