"""Measures the accuracy of the packaged model in files of fp32 and int8, on moving shapes that it was not trained on.

    python docs/measure int8_files --folder files --clips 2000

The ranges of int8 come from clips of a third seed. Files that the folder already holds are measured as they are.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

import vov3d
from vov3d.synthetic.moving_shapes import make_set

FILES: dict[str, dict[str, Any]] = {
    "conv2d.onnx": {"form": "conv2d"},
    "conv2d_int8.onnx": {"form": "conv2d", "calibration": True},
    "openvino_int8.xml": {"calibration": True},
}
SEED, CALIBRATED_ON = 777, 2  # the recipe trains on 0 and validates on 1


def clips_of(cfg: dict[str, Any], number: int, seed: int) -> tuple[list[torch.Tensor], np.ndarray]:
    """Returns normalised clips `(1, 3, 8, 64, 64)`, of every second frame, and their labels."""
    made, labels = make_set(number, seed)
    every = torch.from_numpy(np.ascontiguousarray(made[:, 1::2])).permute(0, 4, 1, 2, 3) / 255
    return list(((every - cfg["mean"][0]) / cfg["std"][0]).split(1)), labels


def main() -> None:
    """Writes the files, and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--clips", type=int, default=2000)
    parser.add_argument("--calibration", type=int, default=200, help="clips for the ranges (default: 200)")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    model: Any = vov3d.create_model("vov3d_n", pretrained=True).eval()
    networks: dict[str, Any] = {"model": model}
    for name, how in FILES.items():
        path = args.folder / name
        if not path.is_file():
            calibration = clips_of(model.pretrained_cfg, args.calibration, CALIBRATED_ON)[0]
            vov3d.export(model, path, **how | ({"calibration": calibration} if "calibration" in how else {}))
        networks[name] = vov3d.load_exported(path)
    clips, labels = clips_of(model.pretrained_cfg, args.clips, SEED)
    print(f"{args.clips} clips of seed {SEED}\n\n| | top-1 | as the model | size (MB) |\n| --- | --- | --- | --- |")
    own: list[int] = []
    for name, network in networks.items():
        with torch.inference_mode():
            said = [int(network(clip).argmax()) for clip in clips]
        own = own or said
        right, same = (100 * np.mean(np.array(said) == other) for other in (labels, np.array(own)))
        stem = args.folder / name
        size = sum(path.stat().st_size for path in args.folder.glob(f"{stem.stem}.*") if path.suffix != ".xml") / 1e6
        print(f"| {name} | {right:.2f} | {same:.2f} | {f'{size:.2f}' if size else ''} |", flush=True)


if __name__ == "__main__":
    main()
