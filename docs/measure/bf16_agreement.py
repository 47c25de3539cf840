"""Measures the agreement of a lower precision with float32: top-1 on random clips and on crops of videos.

    python docs/measure bf16_agreement --model vov3d_m --checkpoint weights.pth --dtype bf16 a.mp4 b.mp4

Without `--checkpoint` the weights are random, and their classes lie closer together than those of trained weights.
"""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

import torch

import vov3d
from vov3d.video import VideoReader, train_transform

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def random_clips(count: int, frames: int, size: int) -> Iterator[torch.Tensor]:
    """Yields noise of mean 0 and deviation 1."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        yield torch.randn(1, 3, frames, size, size, generator=generator)


def crops(cfg: Mapping[str, Any], paths: list[str], count: int, frames: int, size: int) -> Iterator[torch.Tensor]:
    """Yields random spans of one video after another, each with a random scale and crop."""
    transform = train_transform({**cfg, "input_size": (3, size, size)}, scales=(size, 2 * size), flip=False)
    for i in range(count):
        with VideoReader(paths[i % len(paths)]) as reader:
            start = int(torch.randint(max(reader.num_frames - frames, 0) + 1, ()))
            video = reader.read([min(start + t, reader.num_frames - 1) for t in range(frames)])
        yield transform(video)[None]


def main() -> None:
    """Prints the two agreements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", metavar="VIDEO")
    parser.add_argument("--model", default="vov3d_m")
    parser.add_argument("--checkpoint")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--random", type=int, default=256, metavar="N", help="random clips (default: 256)")
    parser.add_argument("--crops", type=int, default=64, metavar="N", help="crops of the videos (default: 64)")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    args = parser.parse_args()
    torch.manual_seed(0)
    model: Any = vov3d.create_model(args.model, checkpoint_path=args.checkpoint).eval()
    fast = vov3d.optimize_for_inference(model, dtype=DTYPES[args.dtype])
    sources = {
        "random clips": random_clips(args.random, args.frames, args.size),
        "crops of videos": crops(model.pretrained_cfg, args.videos, args.crops, args.frames, args.size),
    }
    for name, clips in sources.items():
        same, total, largest = 0, 0, 0.0
        for clip in clips:
            with torch.no_grad():
                before = model(clip)
            after = fast(clip).float()
            same += int((before.argmax(1) == after.argmax(1)).sum())
            total += len(clip)
            largest = max(largest, float((before - after).abs().max() / before.abs().max()))
        print(f"{name:16} top-1 agrees on {same} of {total}, largest difference {largest:.1e} of the largest logit")


if __name__ == "__main__":
    main()
