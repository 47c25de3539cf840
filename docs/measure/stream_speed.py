"""Times one frame of a stream against a clip computed anew; writes the table of docs/guides/streaming.md.

    python docs/measure stream_speed --threads 2
    python docs/measure stream_speed --threads 2 --exported   # files of ONNX Runtime and OpenVINO too: takes minutes

Clip and frames are measured in turns, and the medians of the processor's time are taken where one thread runs, those of
the wall clock elsewhere.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pages import DOCS, fill

import vov3d

PAGE = DOCS / "guides" / "streaming.md"


def ways(name: str, size: int, exported: bool) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Returns for each runtime a call that computes a clip, and one that computes a frame."""
    model: Any = vov3d.create_model(name).eval()
    stream = vov3d.streaming(model)
    clip = torch.randn(1, 3, model.pretrained_cfg["num_frames"], size, size)
    pairs: dict[str, tuple[Any, Any]] = {
        "eager": (model, stream),
        "optimized": (vov3d.optimize_for_inference(model), vov3d.optimize_for_inference(stream)),
    }
    if exported:
        folder = Path(tempfile.mkdtemp())
        for title, ending in (("ONNX Runtime", ".onnx"), ("OpenVINO", ".xml")):
            paths = (folder / f"{kind}{ending}" for kind in ("clip", "stream"))
            made: Any = [vov3d.export(n, path, size=size) for n, path in zip((model, stream), paths, strict=True)]
            pairs[title] = (vov3d.load_exported(made[0]), vov3d.load_exported(made[1]))

    def step(network: Any) -> Callable[[], Any]:
        state = None

        def run() -> None:
            nonlocal state
            state = network(clip[:, :, 0], state)[1]

        for _ in range(stream.delay + stream.window + 1):
            run()
        return run

    return {title: (partial(whole, clip), step(part)) for title, (whole, part) in pairs.items()}


def median(times: list[float]) -> float:
    """Returns a median in milliseconds."""
    return 1000 * statistics.median(times)


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
    head = f"{args.threads} thread{'s' * (args.threads > 1)}, clips of 16 x {args.size}², medians, {what} in ms:"
    lines = [head, "", "| | clip | frame of a stream | ratio |", "| --- | --- | --- | --- |"]
    for name in args.models:
        for title, calls in ways(name, args.size, args.exported).items():
            times: tuple[list[float], list[float]] = ([], [])
            for _ in range(args.rounds):
                for call, taken, repeats in zip(calls, times, (1, 8), strict=True):
                    for _ in range(repeats):
                        begun = clock()
                        with torch.inference_mode():
                            call()
                        taken.append(clock() - begun)
            whole, part = map(median, times)
            lines.append(f"| {name}, {title} | {whole:.0f} | {part:.1f} | {whole / part:.1f} |")
            print(lines[-1], flush=True)
    fill(PAGE, speed="\n".join(lines))


if __name__ == "__main__":
    main()
