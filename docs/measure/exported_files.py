"""Times exported files against the network in its published form.

    python docs/measure exported_files --folder files

writes VoV3D-M into every format, unless the folder holds it already, and times one clip at a time: interleaved
repetitions, medians and quartiles. The published form is plain `nn.Conv3d` on contiguous tensors. The weights
are made up: the speed does not depend on them, but the error of int8 does.
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from published_form import published_form
from torch import nn

import vov3d
from vov3d.benchmark import machine, measure
from vov3d.synthetic.noise import moving_clips

FILES: dict[str, dict[str, Any]] = {
    "openvino.xml": {},
    "openvino_bf16.xml": {"dtype": "bf16"},
    "openvino_int8.xml": {"calibration": 24},
    "onnxruntime.onnx": {},
    "torch_export.pt2": {},
    "executorch.pte": {},
}


def made_up_model(name: str) -> Any:
    """Builds the same weights every time, none of them zero: a new model's blocks start as their shortcuts."""
    torch.manual_seed(0)
    model: Any = vov3d.create_model(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 1.5)
    return model.eval()


def write_files(model: Any, folder: Path, frames: int, size: int, names: list[str]) -> None:
    """Exports what the folder does not hold yet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if (folder / name).is_file():
            continue
        given = dict(FILES[name])
        if "calibration" in given:
            given["calibration"] = list(moving_clips(model.pretrained_cfg, frames, size, given["calibration"]))
        vov3d.export(model, folder / name, frames=frames, size=size, **given)
        print(f"written  {name}", flush=True)


def agreement(model: nn.Module, file: nn.Module, clips: list[torch.Tensor]) -> str:
    """Returns the largest difference and the agreement in top-1, on clips that calibration did not use."""
    with torch.inference_mode():
        pairs = [(model(clip)[0], file(clip)[0]) for clip in clips]
    off = max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
    same = sum(int(a.argmax() == b.argmax()) for a, b in pairs)
    return f"{off:.2g} of the largest logit, top-1 {same} of {len(pairs)}"


def main() -> None:
    """Writes, times, prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model", default="vov3d_m")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--files", nargs="*", choices=FILES, default=list(FILES))
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--write-only", action="store_true", help="time nothing")
    args = parser.parse_args()
    model = made_up_model(args.model)
    write_files(model, args.folder, args.frames, args.size, args.files)
    if args.write_only:
        return
    files = {name: vov3d.load_exported(args.folder / name) for name in args.files}
    calls = {"published form": published_form(model), "vov3d, eager": model, **files}
    clip = torch.randn(1, 3, args.frames, args.size, args.size)
    runs = {name: partial(torch.inference_mode()(call), clip) for name, call in calls.items()}
    times = measure(runs, torch.device("cpu"), args.repetitions)
    base = times["published form"].median
    print(", ".join(f"{k} {v}" for k, v in machine(torch.device("cpu")).items()))
    print("\n| | ms | quartiles | times as fast |\n| --- | --- | --- | --- |")
    for name, t in times.items():
        print(f"| {name} | {1e3 * t.median:.0f} | {1e3 * t.q1:.0f} to {1e3 * t.q3:.0f} | {base / t.median:.1f} |")
    unseen = list(moving_clips(model.pretrained_cfg, args.frames, args.size, 30))[24:]
    for name, file in files.items():
        print(json.dumps({"file": name, "from the source": agreement(model, file, unseen)}))


if __name__ == "__main__":
    main()
