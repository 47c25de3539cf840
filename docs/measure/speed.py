"""Measures speed and memory against the published form, each part in one process, in interleaved repetitions.

    python docs/measure speed infer -o docs/results/benchmarks/speed.json     # batch 1, 16 x 224 x 224
    python docs/measure speed batch -o docs/results/benchmarks/speed.json     # batch 8
    python docs/measure speed train -o docs/results/benchmarks/speed.json     # 4 clips of 16 x 112 x 112, SGD
    python docs/measure speed operators -o docs/results/benchmarks/speed.json # that step of VoV3D-M by operator
    python docs/measure speed memory -o docs/results/benchmarks/speed.json    # peak, 2 clips of 8 x 224 x 224
    python docs/measure speed zoo -o docs/results/benchmarks/speed.json       # one view of each network
    python docs/measure speed forms -o docs/results/benchmarks/speed.json     # the basis of layers/conv.py

Float32 where nothing else is said; bf16 is timed on processors that have it, PyTorchVideo's X3D-M where
pytorchvideo is installed. `--keep-freed-memory` measures a part as the trainers and commands run, and stores it beside
the part as it is by default. A part replaces its former result in the file.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from published_form import published_form
from torch import nn

import vov3d
from vov3d.benchmark import by_operator, machine, measure, measure_roofline, peak_memory
from vov3d.files import replacing

CPU = torch.device("cpu")
HAS_BF16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # as instructions of the processor
KINDS = {
    "convolutions, forward": ("convolution",),
    "convolutions, backward": ("convolution_backward",),
    "batch norm, forward": ("native_batch_norm",),
    "batch norm, backward": ("native_batch_norm_backward",),
    "activations, both ways": ("relu", "threshold_backward", "silu", "silu_backward", "sigmoid", "sigmoid_backward"),
}
"""Names of the operators of each kind in a training step; those of no kind are `OTHERS`."""
OTHERS = "sums, products, copies"
Calls = dict[str, Callable[[], object]]


def infer_calls(batch: int) -> Calls:
    """Returns forward passes of the forms of VoV3D-M and X3D-M, on clips of 16 x 224 x 224."""
    x = torch.randn(batch, 3, 16, 224, 224)
    networks: dict[str, nn.Module] = {}
    for name in ("vov3d_m", "x3d_m") if batch == 1 else ("vov3d_m",):
        model: Any = vov3d.create_model(name).eval()
        networks[f"{name}, published form"] = published_form(model)
        networks[f"{name}, as it is"] = model
        networks[f"{name}, optimized"] = fast = vov3d.optimize_for_inference(model)
        if HAS_BF16:
            networks[f"{name}, optimized, bf16"] = vov3d.optimize_for_inference(model, dtype=torch.bfloat16)
        if batch > 1:
            networks[f"{name}, optimized, not in pieces"] = fast.get_submodule("model")
    if batch == 1 and find_spec("pytorchvideo"):
        from pytorchvideo.models.x3d import create_x3d

        peer = create_x3d(input_clip_length=16, input_crop_size=224).eval()
        networks["x3d_m, PyTorchVideo"] = peer
        networks["x3d_m, PyTorchVideo, optimized"] = vov3d.optimize_for_inference(peer)
    return {name: partial(torch.no_grad()(network), x) for name, network in networks.items()}


def zoo_calls() -> Calls:
    """Returns one view of the published evaluation for each model of Kinetics and of Something-Something V2."""
    calls: Calls = {}
    for name in [*vov3d.list_pretrained("*.k400*"), *vov3d.list_pretrained("*.ssv2_f16")]:
        model: Any = vov3d.create_model(name).eval()
        cfg = model.pretrained_cfg
        x = torch.randn(1, 3, cfg["num_frames"], *cfg["test_input_size"][1:])
        calls[name] = partial(torch.no_grad()(vov3d.optimize_for_inference(model)), x)
    return calls


def training_step(model: nn.Module, x: torch.Tensor, bf16: bool = False) -> Callable[[], None]:
    """Returns a step of forward, cross-entropy, backward and SGD with momentum; `bf16` by autocast."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    target = torch.zeros(len(x), dtype=torch.long)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()

    return step


def train_calls() -> Calls:
    """Returns training steps of VoV3D-M and X3D-M on 4 clips of 16 x 112 x 112."""
    x = torch.randn(4, 3, 16, 112, 112)
    calls: Calls = {}
    for name in ("vov3d_m", "x3d_m"):
        model: Any = vov3d.create_model(name)
        calls[f"{name}, published form"] = training_step(published_form(model), x)
        calls[f"{name}, as it is"] = training_step(model, x)
        if HAS_BF16:
            calls[f"{name}, as it is, bf16"] = training_step(model, x, bf16=True)
    return calls


def operators() -> dict[str, dict[str, float]]:
    """Measures a training step of VoV3D-M by kind of operator, beside the least time of each."""
    model: Any = vov3d.create_model("vov3d_m")
    step = training_step(model, torch.randn(4, 3, 16, 112, 112))
    found, roofline = by_operator(model, step, repetitions=7), measure_roofline(CPU, torch.float32)
    rows = {kind: {"seconds": 0.0, "least": 0.0} for kind in (*KINDS, OTHERS)}
    for one in found:
        kind = next((kind for kind, names in KINDS.items() if one.name in names), OTHERS)
        rows[kind]["seconds"] += one.seconds
        rows[kind]["least"] += one.bound(roofline)
    return rows


def memory() -> dict[str, dict[str, float]]:
    """Measures peak bytes of a training step of VoV3D-M on 2 clips of 8 x 224 x 224."""
    x = torch.randn(2, 3, 8, 224, 224)
    model: Any = vov3d.create_model("vov3d_m")
    checkpointed: Any = vov3d.create_model("vov3d_m")
    checkpointed.set_grad_checkpointing()
    networks = {"published form": published_form(model), "as it is": model, "with checkpointing": checkpointed}
    forms = {name: training_step(network, x) for name, network in networks.items()}
    if HAS_BF16:
        forms["as it is, bf16"] = training_step(model, x, bf16=True)
        forms["with checkpointing, bf16"] = training_step(checkpointed, x, bf16=True)
    rows: dict[str, dict[str, float]] = {}
    for name, step in forms.items():
        step()  # the optimizer's state is made in the first
        rows[f"vov3d_m, {name}"] = {"peak_bytes": peak_memory(step, CPU)}
    return rows


def forms_calls() -> Calls:
    """Returns forward and backward passes of depthwise convolutions, by conv3d and by the zoo's form."""
    calls: Calls = {}
    x = torch.randn(4, 40, 16, 56, 56).contiguous(memory_format=torch.channels_last_3d).requires_grad_()
    for label, kernel in (("1x3x3", (1, 3)), ("3x1x1", (3, 1)), ("3x3x3", (3, 3))):
        ours = vov3d.layers.conv.conv3d(40, 40, kernel, groups=40)
        plain = published_form(nn.Sequential(ours))
        for form, conv, clip in (
            ("conv3d, contiguous", plain, x.detach().contiguous().requires_grad_()),
            ("conv3d, channels-last", plain, x),
            ("the zoo's", ours, x),
        ):
            calls[f"{label} depthwise, {form}"] = partial(_forward_backward, conv, clip)
    return calls


def _forward_backward(conv: nn.Module, x: torch.Tensor) -> None:
    out = conv(x)
    torch.autograd.grad(out, (x, *conv.parameters()), torch.ones_like(out))


def times(calls: Calls, repetitions: int) -> dict[str, dict[str, float]]:
    """Measures median and quartiles in seconds."""
    return {name: t._asdict() for name, t in measure(calls, CPU, repetitions, warmup=1).items()}


PARTS: dict[str, tuple[str, Callable[[], dict[str, dict[str, float]]]]] = {
    "infer": ("forward pass, 1 clip of 16 x 224 x 224", lambda: times(infer_calls(1), 11)),
    "batch": ("forward pass, 8 clips of 16 x 224 x 224", lambda: times(infer_calls(8), 5)),
    "zoo": ("one view of the published evaluation, optimized, float32", lambda: times(zoo_calls(), 7)),
    "train": ("training step, 4 clips of 16 x 112 x 112", lambda: times(train_calls(), 7)),
    "operators": ("training step of vov3d_m by operator, 4 clips of 16 x 112 x 112", operators),
    "memory": ("peak memory of a training step, 2 clips of 8 x 224 x 224", memory),
    "forms": ("depthwise convolutions, forward and backward, 4 x 40 x 16 x 56 x 56", lambda: times(forms_calls(), 7)),
}


def main() -> None:
    """Measures one part and stores it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("-o", "--output", type=Path, required=True, help="JSON file to write or to add to")
    parser.add_argument("--keep-freed-memory", action="store_true", help="calls vov3d.keep_freed_memory before")
    args = parser.parse_args()
    title, run = PARTS[args.part]
    name, command = args.part, f"python docs/measure speed {args.part} -o {args.output}"
    if args.keep_freed_memory:
        vov3d.keep_freed_memory()
        title, name, command = f"{title}, freed memory kept", f"{name}_kept", f"{command} --keep-freed-memory"
    report = json.loads(args.output.read_text()) if args.output.exists() else {}
    report[name] = {"title": title, "command": command, "machine": machine(CPU), "rows": run()}
    with replacing(args.output) as draft:
        draft.write_text(json.dumps(report, indent=2) + "\n")
    for form, row in report[name]["rows"].items():
        seconds = row.get("median", row.get("seconds"))
        print(f"{form:36}", f"{row['peak_bytes'] / 1e6:6.0f} MB" if seconds is None else f"{1e3 * seconds:8.1f} ms")


if __name__ == "__main__":
    main()
