"""Writes a small folder of videos to fine-tune on: motions that turn back half-way, which vov3d_n does not know.

    python examples/new_motions.py --to new_motions                     # 20 videos of each of 10 classes
    python -m reference.train --recipe finetune --model vov3d_n --data new_motions --output runs/new_motions
    vov3d predict new_motions/val/*/*.mp4 --model runs/new_motions/model

"Moving something left and back" and "Moving something right and back" show the same places equally often.
Needs the extra `video`.
"""

import argparse
from pathlib import Path

import numpy as np

from vov3d.synthetic.drawing import check_set
from vov3d.synthetic.moving_shapes import CLASSES, PAIRS, make_clip, write_clip

TURNING_BACK = (0, 1, 2, 3, 5)
"""The pairs of moving shapes that are taken: left and right, up and down, towards and away, turning, appearing."""

NEW_CLASSES = tuple(f"{name} and back" for pair in TURNING_BACK for name in PAIRS[pair])


def make_new_motion(name: str, rng: np.random.Generator, num_frames: int = 16, size: int = 64) -> np.ndarray:
    """Draws a clip, uint8 `(num_frames, size, size, 3)`, of one of `NEW_CLASSES`: a motion forwards, then backwards."""
    there = make_clip(CLASSES.index(name.removesuffix(" and back")), rng, num_frames // 2, size)
    return np.concatenate([there, there[::-1]])


def write_new_motions(folder: Path, clips_per_class: int, seed: int) -> None:
    """Writes `train` and `val` as class folders, with the same number of videos of each class in both.

    Raises:
        ValueError: If there is no video, or the seed is below 0.
    """
    check_set(seed, clips=clips_per_class)
    for part, part_seed in (("train", seed), ("val", seed + 1)):
        for number, name in enumerate(NEW_CLASSES):
            target = folder / part / name
            target.mkdir(parents=True, exist_ok=True)
            for i in range(clips_per_class):
                rng = np.random.default_rng((part_seed, number, i))
                write_clip(target / f"{part_seed}_{i:03d}.mp4", make_new_motion(name, rng))


def main() -> None:
    """Writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER", help="where train and val are made")
    parser.add_argument(
        "--clips", type=int, default=20, metavar="N", help="videos of a class in each part (default: 20)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other videos (default: 0)")
    args = parser.parse_args()
    write_new_motions(args.to, args.clips, args.seed)
    print(f"{len(NEW_CLASSES)} classes, {args.clips} videos each, in {args.to}/train and {args.to}/val")


if __name__ == "__main__":
    try:
        main()
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f"new_motions: {error}") from None
