"""Measures `VideoClassifier` against a direct implementation, from video file to scores, and memory by file length.

    python docs/measure video_input speed
    python docs/measure video_input memory
    python docs/measure video_input decode
    python docs/measure video_input antialias [--file FILE]
    python docs/measure video_input loading

The straight way is that of published evaluation code: for each view decode the whole file, take the clip's frames,
scale, resize and crop them in float, and run the network on the one view. It is timed with the network in its
published form (plain `nn.Conv3d` on contiguous clips) and with this package's, so that the share of each is seen;
`vov3d predict` is `VideoClassifier` with the network rewritten by `optimize_for_inference`.
All files are made on the spot; the weights are random.

`loading` measures the loader of training on 10-second h264 files of 340x256 pixels: the processor time of a clip, which
other work on the machine changes less than the clock, against PyAV and torchcodec written plainly with torchvision.
"""

import argparse
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from published_form import published_form
from reference.data.clips import Clips, Key, load, open_clips, to_network
from reference.data.sources import Source
from reference.training.recipe import load_recipe, sections
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

import vov3d
from vov3d.synthetic import moving_shapes
from vov3d.video import (
    VideoClassifier,
    VideoReader,
    clip_indices,
    crop_boxes,
    eval_transform,
    parse_views,
    plan_clips,
    plan_random_clip,
    random_clip_indices,
    train_transform,
)
from vov3d.video.decoders.torchcodec import torchcodec_problem

FPS, WIDTH, HEIGHT = 30, 320, 240
SCALES = (256, 320)
BATCH, CLIPS = 8, 24


def main() -> None:
    """Runs a measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory", "decode", "antialias", "loading", "peak"))
    parser.add_argument("--model", default="vov3d_m")
    parser.add_argument("--views", default="10x3")
    parser.add_argument("--rounds", type=int, default=3, help="of each way, one after the other")
    parser.add_argument("--file", help="measure on this file (of 'peak', which 'memory' starts)")
    args = parser.parse_args()
    torch.manual_seed(0)
    ways = {"speed": speed, "memory": memory, "decode": decode, "antialias": antialias, "peak": peak}
    (ways | {"loading": loading})[args.what](args)


def speed(args: argparse.Namespace) -> None:
    """Times the ways in turn on a 10-second clip."""
    model: Any = vov3d.create_model(args.model).eval()
    fast = VideoClassifier(vov3d.optimize_for_inference(model), views=args.views)
    classifier = VideoClassifier(model, views=args.views)
    published = published_form(model)
    with tempfile.TemporaryDirectory() as folder:
        path = make_clip(Path(folder) / "clip.mp4")
        ways: dict[str, Callable[[], torch.Tensor]] = {
            "vov3d predict (optimized)": lambda: fast.scores(path),
            "VideoClassifier": lambda: classifier.scores(path),
            "straight, this package's network": lambda: straight(model, path, args.views),
            "straight, published network": lambda: straight(published, path, args.views),
        }
        straight(model, path, "1x1"), VideoClassifier(model).scores(path)  # warm up
        times, scores = interleaved(ways, args.rounds)
    first = next(iter(ways))
    print(f"{args.model}, {args.views} views of a 10-second {WIDTH}x{HEIGHT} h264 clip, medians of {args.rounds}")
    for way, seconds in times.items():
        difference = (scores[way] - scores[first]).abs().max() / scores[first].max()
        print(
            f"{way:<34} {statistics.median(seconds):6.1f} s   {median_ratio(seconds, times[first]):4.1f}x   "
            f"scores differ by {difference:.1%} of the best at most"
        )


def interleaved(ways: dict[str, Callable[[], torch.Tensor]], rounds: int) -> tuple[dict, dict]:
    """Returns the seconds of each way, round by round, and the scores of each."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    results = {}
    for _ in range(rounds):
        for way, run in ways.items():
            start = time.perf_counter()
            results[way] = run()
            times[way].append(time.perf_counter() - start)
    return times, results


def median_ratio(seconds: list[float], base: list[float]) -> float:
    """Returns the median over the rounds of the ratio of two times."""
    return statistics.median(a / b for a, b in zip(seconds, base, strict=True))


def straight(model: Any, path: Path, views: str) -> torch.Tensor:
    """Returns the mean scores of views that are decoded and computed one by one."""
    cfg = model.pretrained_cfg
    num_clips, num_crops = parse_views(views)
    total = torch.zeros(model.num_classes)
    for clip in range(num_clips):
        for crop in range(num_crops):
            with av.open(str(path)) as container:
                container.streams.video[0].thread_type = "AUTO"
                frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
            indices = clip_indices(cfg, len(frames), FPS, num_clips)[clip]
            clip_frames = torch.from_numpy(np.stack([frames[index] for index in indices]))
            with torch.inference_mode():
                total += model.forward_dense(one_view(clip_frames, cfg, num_crops, crop))[0]
    return total / (num_clips * num_crops)


def one_view(frames: torch.Tensor, cfg: dict, num_crops: int, crop: int) -> torch.Tensor:
    """Turns frames `(T, H, W, 3)` into a view `(1, C, T, S, S)`, in float."""
    mean, std = torch.tensor(cfg["mean"]), torch.tensor(cfg["std"])
    floats = ((frames.float() / 255 - mean) / std).permute(3, 0, 1, 2)
    size = (cfg.get("test_input_size") or cfg["input_size"])[-1]
    resized, corners = crop_boxes(floats.shape[2], floats.shape[3], size, num_crops)
    floats = F.interpolate(floats, resized, mode="bilinear", align_corners=False)
    top, left = corners[crop]
    return floats[None, :, :, top : top + size, left : left + size].contiguous()


def memory(args: argparse.Namespace) -> None:
    """Prints the peak memory of processes that label a short and a long file."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, seconds in (("10 seconds", 10), ("2 hours", 7200)):
            path = make_clip(Path(folder) / f"{seconds}.mp4", repeats=seconds // 10)
            command = [sys.executable, __file__, "peak", "--file", str(path), "--model", args.model]
            runs = [
                subprocess.run([*command, "--views", args.views], capture_output=True, text=True, check=True).stdout
                for _ in range(args.rounds)
            ]
            peaks[name] = statistics.median(float(run) for run in runs)
            print(f"{name:<11} {path.stat().st_size / 1e6:6.1f} MB on disk   peak {peaks[name]:7.1f} MB")
    short, long = peaks.values()
    print(f"{args.model}, {args.views} views: {long / short - 1:+.1%} (medians of {args.rounds} processes)")


def peak(args: argparse.Namespace) -> None:
    """Labels a file and prints the peak memory of this process in MB."""
    model: Any = vov3d.create_model(args.model)
    VideoClassifier(model, views=args.views, batch_size=2)(args.file)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)


def decode(args: argparse.Namespace) -> None:
    """Times reading the frames of one clip, and of ten, with each backend that loads."""
    backends = ["pyav"] if torchcodec_problem() else ["pyav", "torchcodec"]
    model: Any = vov3d.create_model(args.model, device="meta")
    cfg = model.pretrained_cfg
    with tempfile.TemporaryDirectory() as folder:
        path = Path(args.file) if args.file else make_clip(Path(folder) / "clip.mp4")
        for num_clips in (1, 10):
            ways = {backend: reading(path, backend, cfg, num_clips) for backend in backends}
            ways["the whole file, plainly"] = lambda: whole(path)
            times, _ = interleaved(ways, max(args.rounds, 5))
            for way, seconds in times.items():
                print(f"frames of {num_clips:>2} clips  {way:<24} {1000 * statistics.median(seconds):6.0f} ms")


def reading(path: Path, backend: str, cfg: dict, num_clips: int) -> Callable[[], torch.Tensor]:
    """Opens a file and reads the distinct frames of a plan."""

    def run() -> torch.Tensor:
        with VideoReader(path, backend=backend) as reader:
            plan = clip_indices(cfg, reader.num_frames, reader.fps, num_clips)
            return reader.read(sorted({index for clip in plan for index in clip}))

    return run


def whole(path: Path) -> torch.Tensor:
    """Decodes every frame of a file."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return torch.from_numpy(np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]))


# --- the loader of training ------------------------------------------------------------------------------------------


def loading(args: argparse.Namespace) -> None:
    """Prints the processor time of a clip, by length of a group of pictures, number of workers and loader."""
    torch.set_num_threads(1)
    cfg: Any = vov3d.create_model(args.model, device="meta").pretrained_cfg
    decoders = {"PyAV, written plainly": pyav_frames}
    if not torchcodec_problem():
        decoders["torchcodec, written plainly"] = torchcodec_frames
    with tempfile.TemporaryDirectory() as folder:
        for gop in (250, 12):
            files = [make_clip(Path(folder) / f"{gop}-{i}.mp4", width=340, height=256, gop=gop) for i in range(2)]
            source = Source("made", np.zeros(len(files), np.int64), ("one",), files=files)
            clips = open_clips(source, cfg, sections(load_recipe("finetune", {})), train=True)
            for workers in (1, 2):
                ways: dict[str, Callable[[], Any]] = {"the trainer's loader": partial(trained_on, clips, workers)}
                for name, frames in decoders.items():
                    ways[name] = partial(plainly, PlainClips(files, cfg, frames), workers)
                found = processor_times(ways, args.rounds)
                for name, times in found.items():
                    low, middle, high = quartiles(times)
                    ratio = median_ratio(times, found["the trainer's loader"])
                    print(
                        f"a key frame every {gop:>3}, {workers} workers  {name:<28} {middle:5.1f} ms a clip "
                        f"({low:.1f} to {high:.1f}), {1000 / middle:4.1f} clips per second of a core, {ratio:.2f}x"
                    )
            print_parts(files, cfg, args.rounds)


def trained_on(clips: Clips, workers: int) -> None:
    """Loads the clips by the trainer's loader, to what the network takes."""
    for batch in load(clips, keys_of(2), workers):
        to_network(batch.clips, clips.cfg, torch.zeros(()))


def plainly(clips: "PlainClips", workers: int) -> None:
    """Loads the clips by a loader of torch alone."""
    loader: DataLoader = DataLoader(clips, batch_sampler=keys_of(2), num_workers=workers)
    for _ in loader:
        pass


def keys_of(files: int) -> list[list[Key]]:
    """Returns batches of clips."""
    return [[(at + i, i % files) for i in range(BATCH)] for at in range(0, CLIPS, BATCH)]


def processor_times(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Returns milliseconds of processor time a clip of each way, its processes included, round by round."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for counted in range(-1, rounds):  # the first one warms up
        for way, run in ways.items():
            start = processor_seconds()
            run()
            if counted >= 0:
                times[way].append(1000 * (processor_seconds() - start) / CLIPS)
    return times


def processor_seconds() -> float:
    """Returns the time that processors spent on this process and on those that it has waited for."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def quartiles(times: list[float]) -> tuple[float, float, float]:
    """Returns the lower quartile, the median and the upper quartile."""
    low, middle, high = np.quantile(times, (0.25, 0.5, 0.75))
    return float(low), float(middle), float(high)


def print_parts(files: list[Path], cfg: dict, rounds: int) -> None:
    """Prints where the time of a clip goes, without what passing it between processes takes."""
    times: dict[str, list[float]] = {}
    transform = train_transform(cfg, SCALES)
    for number in range(CLIPS * rounds):
        marks = [processor_seconds()]
        with VideoReader(files[number % len(files)]) as reader:
            marks.append(processor_seconds())
            frames = reader.read(plan_random_clip(cfg, reader, random.Random(number)))
            marks.append(processor_seconds())
            clip = transform.cut(frames).movedim(1, 3)
            marks.append(processor_seconds())
        torch.stack([clip])
        marks.append(processor_seconds())
        names = ("open", "seek, decode, colours", "resize, crop", "batch")
        for name, start, end in zip(names, marks[:-1], marks[1:], strict=True):
            times.setdefault(name, []).append(1000 * (end - start))
    for name, taken in times.items():
        print(f"{'':<5}{name:<24} {statistics.mean(taken):5.1f} ms")


class PlainClips(Dataset):
    """Clips by a decoder and torchvision, as a loader is written that is not optimised."""

    def __init__(self, files: list[Path], cfg: dict, frames: Callable[[Path, list[int]], torch.Tensor]) -> None:
        self._files, self._cfg, self._frames = files, cfg, frames

    def __getitem__(self, key: Key) -> torch.Tensor:
        """Returns float32 `(C, T, S, S)`."""
        indices = random_clip_indices(self._cfg, 10 * FPS, FPS, random.Random(repr(key)))
        frames = self._frames(self._files[key[1]], indices)
        size = self._cfg["input_size"][-1]
        frames = v2.functional.resize(frames, [int(torch.randint(SCALES[0], SCALES[1] + 1, ()))], antialias=True)
        frames = v2.RandomHorizontalFlip()(v2.RandomCrop(size)(frames))
        floats = v2.functional.to_dtype(frames, torch.float32, scale=True)
        return v2.functional.normalize(floats, list(self._cfg["mean"]), list(self._cfg["std"])).transpose(0, 1)


def pyav_frames(path: Path, indices: list[int]) -> torch.Tensor:
    """Returns frames `(T, C, H, W)` by a seek and a decode up to the last."""
    wanted, found = set(indices), {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.time_base is not None
        container.seek(int(indices[0] / FPS / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            number = round(float((frame.pts or 0) * stream.time_base) * FPS)
            if number in wanted:
                found[number] = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
            if number >= indices[-1]:
                break
    return torch.stack([found[index] for index in indices])


def torchcodec_frames(path: Path, indices: list[int]) -> torch.Tensor:
    """Returns frames `(T, C, H, W)`."""
    from torchcodec.decoders import VideoDecoder

    return VideoDecoder(str(path), num_ffmpeg_threads=1).get_frames_at(indices).data


def antialias(args: argparse.Namespace) -> None:
    """Prints the difference of the two ways of resizing from the published loaders' way in float."""
    model: Any = vov3d.create_model(args.model, device="meta")
    cfg = model.pretrained_cfg
    if args.file:
        with VideoReader(args.file) as reader:
            frames = reader.read(plan_clips(cfg, reader)[0])
    else:
        clip = moving_shapes.make_clip(0, np.random.default_rng(0), cfg["num_frames"], 640)[:, 140:500]
        frames = torch.from_numpy(clip).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    ours, plain = (
        (eval_transform(cfg, antialias=filtered).resize(frames) / 255 - mean) / std for filtered in (True, False)
    )
    published = F.interpolate((frames / 255 - mean) / std, ours.shape[-2:], mode=cfg["interpolation"])
    print(f"{frames.shape[-1]}x{frames.shape[-2]} to {ours.shape[-1]}x{ours.shape[-2]}, in standard deviations:")
    for name, pictures in (("antialiased", ours), ("antialias=False", plain)):
        off = (pictures - published).abs()
        print(f"{name:<16} from the published loaders': {off.mean():.4f} on average, {off.max():.2f} at most")


def make_clip(path: Path, repeats: int = 1, width: int = WIDTH, height: int = HEIGHT, gop: int = 250) -> Path:
    """Writes ten seconds of moving discs, encoded once, their packets written `repeats` times."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "28", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = width, height, "yuv420p", gop
        packets = [packet for frame in shapes(width, height) for packet in stream.encode(frame)] + stream.encode()
        base = packets[0].time_base
        length = round(10 / base)
        times = [(packet.pts or 0, packet.dts or 0) for packet in packets]
        for repeat in range(repeats):
            for packet, (pts, dts) in zip(packets, times, strict=True):
                packet.stream, packet.time_base = stream, base
                packet.pts, packet.dts = pts + repeat * length, dts + repeat * length
                container.mux(packet)
    return path


def shapes(width: int, height: int) -> list[av.VideoFrame]:
    """Yields 300 frames of discs that move over noise."""
    y, x = np.mgrid[0:height, 0:width]
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 120, (-(-height // 8), -(-width // 8), 3), np.uint8)
    ground = ground.repeat(8, 0).repeat(8, 1)[:height, :width]
    frames = []
    for number in range(10 * FPS):
        picture = np.roll(ground, number, axis=1)
        for speed, colour in ((2.1, (230, 60, 60)), (3.7, (60, 230, 60)), (5.3, (60, 60, 230))):
            angle = speed * number / FPS
            centre = width / 2 + 100 * np.cos(angle), height / 2 + 80 * np.sin(1.3 * angle)
            picture[(x - centre[0]) ** 2 + (y - centre[1]) ** 2 < 30**2] = colour
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        frame.pts, frame.time_base = number, Fraction(1, FPS)
        frames.append(frame)
    return frames


if __name__ == "__main__":
    main()
