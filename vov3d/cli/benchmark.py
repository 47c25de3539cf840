"""`vov3d benchmark`: measures the speed of models on this machine, and compares it with the machine's roofline."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vov3d.benchmark import (
    WARMUP,
    Roofline,
    Times,
    by_operator,
    machine,
    measure,
    measure_roofline,
    peak_memory,
)
from vov3d.cli._peers import peers
from vov3d.cli.arguments import check_output, device, positive
from vov3d.deploy import optimize_for_inference
from vov3d.extras import install
from vov3d.files import replacing
from vov3d.models import create_model
from vov3d.models.budget import Budget, budget_of
from vov3d.models.names import model_name

Builders = dict[str, tuple[Callable[[], nn.Module], list[str]]]

BACKENDS = ("eager", "optimized", "compile", "openvino", "onnx")
_SUFFIXES = {"openvino": ".xml", "onnx": ".onnx"}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_COLUMNS = ("model", "backend", "dtype", "batch", "ms", "quartiles", "clips/s", "peak MB", "x roofline")
_TABLE8 = (
    "model",
    "backend",
    "dtype",
    "batch",
    "params (M)",
    "activations (M)",
    "memory (MB)",
    "s/video 10x3",
    "s/video 2x3",
)


def add_commands(commands: Any) -> None:
    """Adds `benchmark` to the parser's commands."""
    p = commands.add_parser("benchmark")
    p.add_argument("models", nargs="+", metavar="NAME", help="models of 'vov3d list'; weights do not affect speed")
    p.add_argument("--mode", choices=("infer", "train"), default="infer", help="forward pass or training step by SGD")
    p.add_argument("--frames", type=positive, default=16, help="frames of a clip (default: 16)")
    p.add_argument("--size", type=positive, default=224, help="height and width in pixels (default: 224)")
    p.add_argument("--batch", type=positive, nargs="+", default=[1], metavar="N", help="clips at once (default: 1)")
    p.add_argument(
        "--backends",
        type=_choices(BACKENDS),
        help=f"of {','.join(BACKENDS)} (default: eager; optimized with --by-layer for inference)",
    )
    p.add_argument(
        "--by-layer",
        action="store_true",
        help="time every operator of a pass or step on the CPU, beside its own least time on this machine",
    )
    p.add_argument("--dtypes", type=_choices(tuple(_DTYPES)), default=["fp32"], help=f"of {','.join(_DTYPES)}")
    p.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    p.add_argument("--repetitions", type=positive, default=10, metavar="N", help="timed calls of each (default: 10)")
    p.add_argument("--peers", action="store_true", help="measure networks of other packages too")
    p.add_argument("--table8", action="store_true", help="the columns of the paper's Table 8")
    p.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    p.add_argument("--picture", type=Path, metavar="FILE.png", help="draw the times as bars")
    p.set_defaults(run=_benchmark)


def _choices(allowed: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        if wrong := [name for name in names if name not in allowed]:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r} is not one of {', '.join(allowed)}")
        return names

    return parse


def _benchmark(args: argparse.Namespace) -> int:
    target = device(args.device)
    args.backends = args.backends or ["optimized" if args.by_layer and args.mode == "infer" else "eager"]
    _check(args, target)
    if args.by_layer:
        return _by_layer(args)
    builders = _builders(args)
    cases = sum(len(backends) for _, backends in builders.values()) * len(args.dtypes) * len(args.batch)
    with TemporaryDirectory() as folder, _bar(len(args.dtypes) + cases * (1 + WARMUP + args.repetitions + 1)) as bar:
        rooflines = {}
        for name in args.dtypes:
            bar.set_description(f"measuring the roofline in {name}")
            rooflines[name] = measure_roofline(target, _DTYPES[name])
            bar.update()
        bar.set_description("preparing")
        rows, calls = [], []
        for row, call in _cases(args, builders, target, Path(folder)):
            bar.set_description("prepared {model} {backend} {dtype}, batch {batch}".format(**row))
            bar.update()
            rows.append(row)
            calls.append(call)
        bar.set_description("measuring in turn")
        timed = {str(i): call for i, call in enumerate(calls)}
        times = measure(timed, target, args.repetitions, done=bar.update)
        bar.set_description("measuring memory")
        for i, row in enumerate(rows):
            _fill(row, times[str(i)], rooflines[row["dtype"]], args.mode == "train")
            # PyTorch's allocator does not see the memory of exported files.
            row["peak_bytes"] = None if row["backend"] in _SUFFIXES else peak_memory(calls[i], target)
            bar.update()
    report = {
        "machine": machine(target),
        "clip": {"frames": args.frames, "size": args.size},
        "mode": args.mode,
        "roofline": {name: roofline._asdict() for name, roofline in rooflines.items()},
        "rows": rows,
    }
    print(json.dumps(report, indent=2) if args.json else _text(report, args.table8), flush=True)
    if args.picture:  # last, so that an error loses no measurement
        _draw(report, args.picture)
    return 0


def _check(args: argparse.Namespace, target: torch.device) -> None:
    """Raises ValueError for combinations that cannot run, before any work."""
    if args.by_layer:
        _check_by_layer(args, target)
    if args.mode == "train" and (wrong := set(args.backends) - {"eager", "compile"}):
        raise ValueError(f"--backends {wrong.pop()} cannot train; use eager or compile")
    if args.table8 and args.mode == "train":
        raise ValueError("--table8 is about inference; leave out --mode train")
    if "fp16" in args.dtypes and target.type == "cpu":
        raise ValueError("--dtypes fp16 is for GPUs; use bf16 or fp32 on a CPU")
    exported = {"openvino", "onnx"} & set(args.backends)
    if exported and (args.dtypes != ["fp32"] or target.type != "cpu"):
        raise ValueError(f"--backends {exported.pop()} is measured in fp32 on the CPU; use --dtypes fp32")
    if args.picture:
        _check_picture(args.picture)
    args.models = [model_name(name) for name in args.models]
    for name in args.models:
        create_model(name, device="meta")


def _check_picture(path: Path) -> None:
    """Raises an error for a file that the bars cannot be drawn into."""
    _pyplot()
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in known:
        raise ValueError(f"--picture {path}: its name must end in one of {', '.join(f'.{name}' for name in known)}")
    check_output(path)


def _check_by_layer(args: argparse.Namespace, target: torch.device) -> None:
    """Raises ValueError for arguments that `--by-layer` cannot use."""
    without_effect = {
        "--peers": args.peers,
        "--table8": args.table8,
        "--picture": args.picture is not None,
        f"--device {args.device}": target.type != "cpu",
    }
    for option, given in without_effect.items():
        if given:
            raise ValueError(f"{option} has no effect with --by-layer, which times operators on the CPU")
    if wrong := set(args.backends) - {"eager", "optimized"}:
        raise ValueError(f"--by-layer cannot look into --backends {wrong.pop()}; use eager or optimized")


def _by_layer(args: argparse.Namespace) -> int:
    """Prints the operators of every combination, with their sums."""
    cpu = torch.device("cpu")
    rooflines = {name: measure_roofline(cpu, _DTYPES[name]) for name in args.dtypes}
    tables = []
    for name, backend, dtype, batch in product(args.models, args.backends, args.dtypes, args.batch):
        clip = torch.randn(batch, 3, args.frames, args.size, args.size, generator=torch.Generator().manual_seed(0))
        network, call = (_step_of if args.mode == "train" else _pass_of)(name, backend, _DTYPES[dtype], clip)
        times = measure({name: call}, cpu, args.repetitions)
        rows = [
            {**o._asdict(), "bound": o.bound(rooflines[dtype]), "limit": o.limit(rooflines[dtype])}
            for o in by_operator(network, call, args.repetitions)
        ]
        case = {"model": name, "backend": backend, "dtype": dtype, "batch": batch, "seconds": times[name].median}
        tables.append({**case, "operations": rows})
    clip_text = {"frames": args.frames, "size": args.size}
    facts = {"machine": machine(cpu), "clip": clip_text, "roofline": {k: r._asdict() for k, r in rooflines.items()}}
    if args.json:
        print(json.dumps({**facts, "tables": tables}, indent=2))
        return 0
    print(_conditions({**facts, "mode": args.mode}))
    for table in tables:
        print(f"\n{_layer_text(table)}")
    return 0


def _pass_of(name: str, backend: str, dtype: torch.dtype, clip: torch.Tensor) -> tuple[nn.Module, Callable[[], object]]:
    """Returns a network and its forward pass."""
    model: Any = create_model(name).eval()
    made = optimize_for_inference(model, dtype=dtype) if backend == "optimized" else model
    network = getattr(made, "model", made).to(dtype)
    x = clip.to(dtype).contiguous(memory_format=torch.channels_last_3d)
    return network, partial(torch.no_grad()(network), x)


def _step_of(name: str, backend: str, dtype: torch.dtype, clip: torch.Tensor) -> tuple[nn.Module, Callable[[], object]]:
    """Returns a network and its training step."""
    model = create_model(name)
    return model, partial(_training_step(model, backend, dtype), clip)


def _layer_text(table: dict[str, Any]) -> str:
    """Returns the operators of a network as aligned columns, in the order of their calls, with their sums."""
    rows = table["operations"]
    head = ("layer", "operator", "ms", "MFLOP", "MB", "least ms", "bound by", "x least")
    lines = [head, *(_layer_cells(row["layer"] or "(model)", row["name"], [row]) for row in rows)]
    sums: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        sums.setdefault(row["name"], []).append(row)
    longest = sorted(sums.items(), key=lambda item: -sum(row["seconds"] for row in item[1]))
    lines += [head, *(_layer_cells(f"{len(same)} calls", name, same) for name, same in longest)]
    lines.append(_layer_cells(f"{len(rows)} calls", "all", rows))
    title = "{model}  {backend} {dtype}, batch {batch}: {ms:.1f} ms as a whole".format(
        **table, ms=1e3 * table["seconds"]
    )
    aligned = _aligned(lines)
    aligned.insert(len(rows) + 1, "")
    return "\n".join([title, "", *aligned])


def _layer_cells(layer: str, name: str, rows: list[dict[str, Any]]) -> tuple[str, ...]:
    """Returns the sum of operators as a row."""
    seconds, flops, moved, bound = (sum(row[key] for row in rows) for key in ("seconds", "flops", "bytes", "bound"))
    computing = [row for row in rows if row["bound"] > 0 and row["limit"] == "FLOPs"]
    by = "FLOPs" if sum(row["bound"] for row in computing) > bound / 2 else "bytes"
    ratio = f"{seconds / bound:.1f}" if bound else "-"
    return (
        layer,
        name,
        f"{1e3 * seconds:.3f}",
        f"{flops / 1e6:.1f}",
        f"{moved / 1e6:.2f}",
        f"{1e3 * bound:.3f}",
        by,
        ratio,
    )


def _aligned(cells: Sequence[tuple[str, ...]]) -> list[str]:
    """Returns lines of aligned columns."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]


def _bar(steps: int) -> Any:
    """Returns a progress bar on stderr; without a terminal, it prints a line every 10 seconds."""
    from tqdm import tqdm

    quiet = 0.1 if sys.stderr.isatty() else 10.0
    return tqdm(total=steps, unit="step", leave=False, file=sys.stderr, mininterval=quiet, dynamic_ncols=True)


def _builders(args: argparse.Namespace) -> Builders:
    """Returns the builder of each network, and the backends to measure it with; ours first."""
    builders: Builders = {name: (partial(create_model, name), args.backends) for name in args.models}
    if args.peers:
        found, absent = peers(args.frames, args.size)
        for name, reason in absent.items():
            print(f"without {name}: {reason}", file=sys.stderr)
        builders |= {name: (build, ["eager"]) for name, build in found.items()}
    return builders


def _cases(
    args: argparse.Namespace, builders: Builders, target: torch.device, folder: Path
) -> Iterator[tuple[dict[str, Any], Callable[[], object]]]:
    """Yields a row and a call for each combination."""
    clip = torch.randn(1, 3, args.frames, args.size, args.size, generator=torch.Generator().manual_seed(0))
    for name, (build, backends) in builders.items():
        counts = budget_of(build().eval(), clip)._asdict()
        del counts["stages"]
        for backend, dtype in product(backends, args.dtypes):
            model = build().to(target)
            if args.mode == "train":
                call = _training_step(model, backend, _DTYPES[dtype])
            else:
                call = _inference(model, backend, _DTYPES[dtype], folder / name, clip)
            for batch in args.batch:
                row = {"model": name, "backend": backend, "dtype": dtype, "batch": batch, **counts}
                x = clip.expand(batch, -1, -1, -1, -1).to(target, copy=True)
                yield row, partial(call, x)


def _inference(
    model: nn.Module, backend: str, dtype: torch.dtype, path: Path, clip: torch.Tensor
) -> Callable[[torch.Tensor], object]:
    model.eval().requires_grad_(False)
    if backend == "optimized":
        return optimize_for_inference(model, dtype=dtype)
    if backend in _SUFFIXES:
        from vov3d.deploy import export, load_exported

        frames, size = clip.shape[2], clip.shape[3]
        return load_exported(export(model, path.with_suffix(_SUFFIXES[backend]), frames=frames, size=size))
    network: Any = model.to(dtype)
    if backend == "compile":
        network = torch.compile(network)

    def run(x: torch.Tensor) -> object:
        with torch.no_grad():
            return network(x.to(dtype))

    return run


def _training_step(model: nn.Module, backend: str, dtype: torch.dtype) -> Callable[[torch.Tensor], object]:
    """Returns a training step: forward, cross-entropy, backward and SGD with momentum; autocast in low precision."""
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    network: Any = torch.compile(model) if backend == "compile" else model

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(x.device.type, dtype) if dtype != torch.float32 else nullcontext():
            loss = F.cross_entropy(network(x), torch.zeros(len(x), dtype=torch.long, device=x.device))
        loss.backward()
        optimizer.step()

    return step


def _fill(row: dict[str, Any], times: Times, roofline: Roofline, train: bool) -> None:
    """Adds the measurements to a row."""
    cost = Budget(row["params"], row["macs"], row["activations"])
    row |= times._asdict()
    row["clips_per_second"] = row["batch"] / times.median
    least = roofline.seconds(cost, row["batch"], _DTYPES[row["dtype"]].itemsize, train)
    row["roofline_seconds"], row["times_over_roofline"] = least, times.median / least


def _text(report: dict[str, Any], table8: bool) -> str:
    """Returns the report as aligned columns, below the conditions of the measurement."""
    cells = [_TABLE8 if table8 else _COLUMNS, *map(_table8_cells if table8 else _cells, report["rows"])]
    return "\n".join([_conditions(report), "", *_aligned(cells)])


def _conditions(report: dict[str, Any]) -> str:
    """Returns machine, rooflines and clip of a measurement."""
    rooflines = (
        f"{name}: matrix product {r['flops'] / 1e9:.0f} GFLOP/s, copy {r['bandwidth'] / 1e9:.1f} GB/s"
        for name, r in report["roofline"].items()
    )
    facts = ", ".join(f"{k} {v}" for k, v in report["machine"].items())
    clip = "{mode}, {clip[frames]} frames of {clip[size]} pixels".format(**report)
    return "\n".join([facts, *rooflines, clip])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    joules = f" {row['joules']:.1f} J" if row["joules"] is not None else ""
    return (
        row["model"],
        row["backend"],
        row["dtype"],
        str(row["batch"]),
        f"{1e3 * row['median']:.1f}{joules}",
        f"{1e3 * row['q1']:.1f}-{1e3 * row['q3']:.1f}",
        f"{row['clips_per_second']:.2f}",
        _megabytes(row),
        f"{row['times_over_roofline']:.1f}",
    )


def _table8_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Returns a row with parameters and activations in millions, and the time of a video by its number of views."""
    figures = (f"{row['params'] / 1e6:.2f}", f"{row['activations'] / 1e6:.1f}", _megabytes(row))
    seconds = (f"{views / row['clips_per_second']:.2f}" for views in (30, 6))
    return (row["model"], row["backend"], row["dtype"], str(row["batch"]), *figures, *seconds)


def _megabytes(row: dict[str, Any]) -> str:
    return "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:.0f}"


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as e:
        raise ImportError(f"--picture needs matplotlib: {install('docs')}") from e
    matplotlib.use("agg")
    from matplotlib import pyplot

    return pyplot


def _draw(report: dict[str, Any], path: Path) -> None:
    """Draws bars of milliseconds per clip, with quartiles and a mark at the roofline."""
    plt, rows = _pyplot(), report["rows"]
    figure, axes = plt.subplots(figsize=(8, 1.2 + 0.4 * len(rows)), layout="constrained")
    names = ["{model}  {backend} {dtype}  batch {batch}".format(**row) for row in rows]
    per_clip = {k: [1e3 * row[k] / row["batch"] for row in rows] for k in ("median", "q1", "q3", "roofline_seconds")}
    spread = [
        [m - low for m, low in zip(per_clip["median"], per_clip["q1"], strict=True)],
        [high - m for m, high in zip(per_clip["median"], per_clip["q3"], strict=True)],
    ]
    axes.barh(range(len(rows)), per_clip["median"], xerr=spread, color="tab:blue", capsize=3)
    axes.plot(per_clip["roofline_seconds"], range(len(rows)), "k|", markersize=14, label="roofline")
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds per clip (median, quartiles)")
    axes.set_title("{mode}, {clip[frames]} x {clip[size]}², {machine[device]}".format(**report), fontsize=10)
    axes.legend(loc="lower right")
    with replacing(path) as draft:
        figure.savefig(draft, format=path.suffix[1:].lower() or "png", dpi=150)
