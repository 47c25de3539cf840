"""Measures the networks on a GPU in ten minutes, and writes the tables of docs/guides/gpus.md.

    python docs/measure gpu_speed                  # measures, keeps the JSON file as it goes, writes the tables
    python docs/measure gpu_speed --minutes 30     # continues: what the file has is not measured again
    python docs/measure gpu_speed --only-table     # needs no GPU

VoV3D-M, VoV3D-L and X3D-M in their published form and in those of this package, and PyTorchVideo's X3D-M where it is
installed: forward passes and training steps by precision and batch, with peak memory; the forms of each convolution;
the time from a video file to a label. Clips have 16 frames of 224 x 224 pixels; the weights are random. The most
important rows come first; those for which no time is left are named, and so are those that need too much memory.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from pages import DOCS, ROOT, STORED, fill
from published_form import published_form
from torch import nn

import vov3d
from vov3d.benchmark import machine, peak_memory
from vov3d.files import replacing
from vov3d.layers.choosing import event_clock

PAGE = DOCS / "guides" / "gpus.md"
FILE = STORED / "gpu_speed.json"
BATCHES = (1, 8, 32, 128)
TRAINED = (8, 32)
PRECISIONS = ("bf16", "fp16", "tf32", "fp32")
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "tf32": torch.float32, "fp32": torch.float32}
NETWORKS = ("vov3d_m", "x3d_m", "vov3d_l")
ROW_SECONDS, MOST, LEAST = 1.0, 20, 3
"""Seconds of timed calls of a row, and their largest and smallest number."""


class Gpu:
    """All that needs a GPU, so that a test can run the rest on a CPU."""

    device = torch.device("cuda")

    def seconds(self, call: Callable[[], object]) -> float:
        """Returns the seconds of a call, by the GPU's events."""
        return event_clock("", call)

    def now(self) -> float:
        """Returns the seconds of a clock on the wall, once the GPU has done its work."""
        torch.cuda.synchronize()
        return time.monotonic()

    def peak(self, call: Callable[[], object]) -> int:
        """Returns the largest number of bytes that a call has allocated at once."""
        return peak_memory(call, self.device)

    def free(self) -> None:
        """Gives cached memory back."""
        torch.cuda.empty_cache()

    def graphed(self, call: Callable[[], object]) -> Callable[[], object]:
        """Captures a call as a CUDA graph and returns its replay."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def compiled(self, model: nn.Module) -> Any:
        """Returns a model compiled for each shape."""
        return torch.compile(model, dynamic=False)

    def machine(self) -> dict[str, Any]:
        """Returns the GPU and the versions."""
        found = machine(self.device)
        facts = {"device": found["device"], "torch": found["torch"], "cuda": found["cuda"]}
        return facts | {"cudnn": torch.backends.cudnn.version(), "date": found["date"]}


class Row(NamedTuple):
    """One measurement.

    Attributes:
        part: `infer`, `train` or `label`.
        network: The network.
        form: The form in which it runs.
        precision: One of `PRECISIONS`.
        batch: Clips at once.
    """

    part: str
    network: str
    form: str
    precision: str
    batch: int


Build = Callable[[], Callable[[torch.Tensor], object]]
"""Builds a network in one form and returns its call on clips."""


@contextmanager
def rounding(precision: str) -> Iterator[None]:
    """Allows TF32 for float32 where the precision says so."""
    backends: list[Any] = [torch.backends.cudnn, torch.backends.cuda.matmul]
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = precision != "fp32"
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def network(name: str) -> nn.Module:
    """Returns a network with random weights.

    Raises:
        ImportError: If it is PyTorchVideo's and cannot be imported.
    """
    if name != "x3d_m (pytorchvideo)":
        return vov3d.create_model(name)
    from pytorchvideo.models.x3d import create_x3d

    return create_x3d(input_clip_length=16, input_crop_size=224)


def forward(gpu: Gpu, name: str, form: str, precision: str) -> Callable[[torch.Tensor], object]:
    """Returns the forward pass of a network in one form."""
    model, dtype = network(name).eval().requires_grad_(False), TYPES[precision]
    if form == "published form":
        model = published_form(model)
    if form in ("optimized", "CUDA graph"):
        fast: Any = vov3d.optimize_for_inference(model, device=gpu.device, dtype=dtype)
    else:
        fast = model.to(gpu.device, dtype)
    if form == "compiled":
        fast = gpu.compiled(fast)

    def call(x: torch.Tensor) -> object:
        with torch.no_grad():
            return fast(x)

    return call


def training_step(gpu: Gpu, name: str, form: str, precision: str) -> Callable[[torch.Tensor], object]:
    """Returns a step of forward, cross-entropy, backward and SGD with momentum; low precisions by autocast."""
    model = network(name).train()
    model = (published_form(model) if form == "published form" else model).to(gpu.device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    scaler = torch.amp.GradScaler(gpu.device.type, enabled=precision == "fp16")
    call: Any = gpu.compiled(model) if form == "compiled" else model

    def step(x: torch.Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(gpu.device.type, TYPES[precision], enabled=precision in ("bf16", "fp16")):
            loss = F.cross_entropy(call(x), torch.zeros(len(x), dtype=torch.long, device=x.device))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def plan() -> Iterator[list[Row]]:
    """Yields the rows, those of one network, form and precision together, the most important first."""
    peers = ["x3d_m (pytorchvideo)"] if find_spec("pytorchvideo") else []
    for precision in PRECISIONS:
        for name in (*NETWORKS, *peers):
            forms = ["published form"] if name in NETWORKS else ["eager", "optimized"]
            for form in [*forms, *(("eager", "optimized", "CUDA graph") if name in NETWORKS else ())]:
                yield [Row("infer", name, form, precision, batch) for batch in BATCHES]
        if precision == "bf16":
            yield [Row("label", name, "optimized", precision, 30) for name in NETWORKS]
        for name in (*NETWORKS[:2], *peers) if precision in ("bf16", "tf32") else NETWORKS[:1]:
            for form in ("published form", "eager") if name in NETWORKS else ("eager",):
                yield [Row("train", name, form, precision, batch) for batch in TRAINED]
    for part, name in (("infer", "vov3d_m"), ("train", "vov3d_m"), ("infer", "x3d_m"), ("infer", "vov3d_l")):
        yield [Row(part, name, "compiled", "bf16", batch) for batch in (8, 32)]


class Report:
    """The measurements, in a file that is rewritten after each.

    Args:
        file: The JSON file; one of the same machine is continued.
        facts: The machine.

    Raises:
        ValueError: If the file is of another machine or other versions.
    """

    def __init__(self, file: Path, facts: dict[str, Any]) -> None:
        self.file = file
        self.content: dict[str, Any] = {"machine": facts, "minutes": 0.0, "rows": [], "forms": []}
        if file.exists():
            self.content = json.loads(file.read_text())
            old, new = ({k: v for k, v in f.items() if k != "date"} for f in (self.content["machine"], facts))
            if old != new:
                raise ValueError(f"{file} is of {old}, this machine is {new}; name another file with --output")
        self.minutes = self.content["minutes"]
        # What lacked only time is measured now.
        self.content["rows"] = [row for row in self.content["rows"] if row.get("lacks") != "time"]

    def has(self, row: Row) -> bool:
        """Returns whether a row is there."""
        return any(all(there[k] == v for k, v in row._asdict().items()) for there in self.content["rows"])

    def add(self, row: Row, found: dict[str, Any]) -> None:
        """Adds a row."""
        self.content["rows"].append(row._asdict() | found)
        self.write()

    def write(self, minutes: float | None = None) -> None:
        """Writes the file, with the minutes that this run has taken."""
        self.content["minutes"] = self.minutes + minutes if minutes is not None else self.content["minutes"]
        with replacing(self.file) as draft:
            draft.write_text(json.dumps(self.content, indent=1) + "\n")


def timed(gpu: Gpu, call: Callable[[], object], left: Callable[[], float]) -> dict[str, float]:
    """Measures a call: seconds of the first, then median and quartiles, and the peak of memory."""
    began = gpu.now()
    call()
    first = gpu.now() - began
    peak = gpu.peak(call)
    seconds: list[float] = []
    while len(seconds) < LEAST or (len(seconds) < MOST and sum(seconds) < ROW_SECONDS and left() > 0):
        seconds.append(gpu.seconds(call))
    q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3, "calls": len(seconds), "first": first, "peak_bytes": peak}


def build(gpu: Gpu, row: Row) -> Callable[[torch.Tensor], object]:
    """Returns the call of a row on clips."""
    kind = training_step if row.part == "train" else forward
    return kind(gpu, row.network, row.form, row.precision)


def measure_group(gpu: Gpu, rows: list[Row], report: Report, left: Callable[[], float], size: int) -> None:
    """Measures rows that differ in their batch only, the smallest first."""
    rows = [row for row in rows if not report.has(row)]
    call, lacks = None, ""
    for row in rows:
        found: dict[str, Any] = {}
        try:
            if left() <= 0:
                lacks = "time"
            if not lacks:
                with rounding(row.precision):
                    if row.part == "label":
                        found = to_label(gpu, row)
                    else:
                        call = call or build(gpu, row)
                        found = one_row(gpu, row, call, left, size)
        except Exception as e:  # the run goes on without this row, which names the reason
            short = isinstance(e, torch.OutOfMemoryError) or "out of memory" in str(e)
            found = {"lacks": "memory"} if short else {"lacks": f"{type(e).__name__}: {str(e)[:300]}"}
            lacks = found["lacks"]
        report.add(row, found or {"lacks": lacks})
        gpu.free()


def one_row(
    gpu: Gpu, row: Row, call: Callable[[torch.Tensor], object], left: Callable[[], float], size: int
) -> dict[str, Any]:
    """Measures a forward pass or a training step on one batch."""
    dtype = torch.float32 if row.part == "train" else TYPES[row.precision]
    x = torch.randn(row.batch, 3, 16, size, size, device=gpu.device, dtype=dtype)
    run: Callable[[], object] = partial(call, x)
    if row.form == "CUDA graph":
        run()  # measures the forms, which a capture cannot
        run = gpu.graphed(run)
    return timed(gpu, run, left)


def to_label(gpu: Gpu, row: Row) -> dict[str, Any]:
    """Measures 30 views of a 10-second video, from the file to the label."""
    from vov3d.video import VideoClassifier

    model = vov3d.create_model(row.network).eval()
    fast = vov3d.optimize_for_inference(model, device=gpu.device, dtype=TYPES[row.precision])
    classifier = VideoClassifier(fast, views="10x3", batch_size=30)
    with TemporaryDirectory() as folder:
        file = Path(folder, "clip.mp4")
        write_clip(file)
        classifier(file)
        seconds = []
        for _ in range(LEAST):
            began = gpu.now()
            classifier(file)
            seconds.append(gpu.now() - began)
    q1, median, q3 = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": median, "q1": q1, "q3": q3, "calls": LEAST}


def measure_forms(gpu: Gpu, report: Report, size: int, batch: int) -> None:
    """Keeps what is measured at the first calls of two networks, in inference and in training, in bf16."""
    if report.content["forms"]:
        return
    with TemporaryDirectory() as folder:
        file = Path(folder, "forms.json")
        with vov3d.set_conv_forms("auto", cache=file), rounding("bf16"):
            for name in ("vov3d_m", "x3d_m"):
                for row in (Row("infer", name, "optimized", "bf16", batch), Row("train", name, "eager", "bf16", batch)):
                    dtype = torch.float32 if row.part == "train" else torch.bfloat16
                    try:
                        build(gpu, row)(torch.randn(batch, 3, 16, size, size, device=gpu.device, dtype=dtype))
                    except torch.OutOfMemoryError:
                        continue  # the row of this network names it
        if file.exists():
            report.content["forms"] = json.loads(file.read_text())["choices"]
    report.write()
    gpu.free()


def run(gpu: Gpu, file: Path, minutes: float, size: int = 224, forms_batch: int = 8) -> None:
    """Measures all rows within a time.

    Raises:
        ValueError: If the file is of another machine.
    """
    report, began = Report(file, gpu.machine()), gpu.now()

    def left() -> float:
        return 60 * minutes - (gpu.now() - began)

    measure_forms(gpu, report, size, forms_batch)
    for rows in plan():
        print(f"{left() / 60:5.1f} minutes left: {', '.join(map(str, rows[0][:4]))}", flush=True)
        measure_group(gpu, rows, report, left, size)
        report.write((gpu.now() - began) / 60)


# --- tables ----------------------------------------------------------------------------------------------------------

TITLES = {
    "infer": "Forward passes",
    "train": "Training steps: forward, backward, SGD; low precisions by autocast",
    "label": "From a 10-second video file to its label, 30 views",
}


def tables(content: dict[str, Any]) -> str:
    """Returns the measured part of the page."""
    facts = ", ".join(f"{k} {v}" for k, v in content["machine"].items())
    head = (
        f"`python docs/measure gpu_speed`; {facts}; {content['minutes']:.0f} minutes. Clips of 16 x 224 x 224, random"
        " weights. Each cell has the median in milliseconds, clips per second, and the peak of memory."
    )
    parts = [head]
    for part, title in TITLES.items():
        rows = [row for row in content["rows"] if row["part"] == part]
        if any("median" in row for row in rows):
            parts += [f"### {title}", by_batch(rows)]
    if content["forms"]:
        parts += ["### Forms of the convolutions", forms_table(content["forms"])]
    return "\n\n".join(parts)


def by_batch(rows: list[dict[str, Any]]) -> str:
    """Returns a line for each network, form and precision, with a column for each batch."""
    batches = sorted({row["batch"] for row in rows})
    lines = ["| network, form | precision | " + " | ".join(f"batch {batch}" for batch in batches) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(batches))
    for key in dict.fromkeys((row["network"], row["form"], row["precision"]) for row in rows):
        cells = {row["batch"]: cell(row) for row in rows if (row["network"], row["form"], row["precision"]) == key}
        shown = " | ".join(cells.get(batch, "") for batch in batches)
        lines.append(f"| `{key[0]}`, {key[1]} | {key[2]} | {shown} |")
    return "\n".join(lines)


def cell(row: dict[str, Any]) -> str:
    """Returns what was measured, or what it lacked."""
    if "median" not in row:
        lacks = row["lacks"]
        return {"memory": "out of memory", "time": "no time left"}.get(lacks, "failed: " + lacks.split(":")[0])
    text = f"{1e3 * row['median']:.1f}"
    if row["part"] != "label":
        text += f" ({row['batch'] / row['median']:.0f}/s, {row['peak_bytes'] / 1e9:.2f} GB)"
    return text


def forms_table(choices: list[dict[str, Any]]) -> str:
    """Returns a line for each convolution and depthwise part, with the milliseconds of its forms, fastest first."""
    lines = ["| clip | kernel | layout | pass | milliseconds |", "| --- | --- | --- | --- | --- |"]
    for choice in choices:
        case = choice["case"]
        kernels = [case["kernel"]] if "kernel" in case else case["kernels"]
        shown = " + ".join("x".join(map(str, kernel)) for kernel in kernels)
        layout = "channels-last" if case["channels_last"] else "contiguous"
        trains = "training" if any(case.get("gradients", [])) else "inference"
        times = sorted(choice["milliseconds"].items(), key=lambda item: item[1])
        cells = ", ".join(f"{name} {ms:.3f}" for name, ms in times)
        cells += "".join(f", {name} refused" for name in choice["refused"])
        lines.append(f"| {'x'.join(map(str, case['clip']))} | {shown} | {layout} | {trains} | {cells} |")
    return "\n".join(lines)


def write_clip(file: Path) -> None:
    """Writes 10 seconds of 340 x 256 pixels as h264."""
    import av
    import numpy as np

    random = np.random.default_rng(0)
    with av.open(str(file), "w") as container:
        stream: Any = container.add_stream("h264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        small = random.integers(0, 255, (300, 16, 20, 3), dtype=np.uint8)
        for picture in small:
            frame = av.VideoFrame.from_ndarray(np.kron(picture, np.ones((16, 17, 1), np.uint8)), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def main() -> int:
    """Measures and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=FILE, help="JSON file of the measurements")
    parser.add_argument("--minutes", type=float, default=10, help="time to measure in (default: 10)")
    parser.add_argument("--only-table", action="store_true", help="write the tables from the file")
    args = parser.parse_args()
    try:
        if not args.only_table:
            if not torch.cuda.is_available():
                raise ValueError("PyTorch finds no GPU here; run this where torch.cuda.is_available() is true")
            run(Gpu(), args.output, args.minutes)
        fill(PAGE, gpu_speed=tables(json.loads(args.output.read_text())))
    except (ValueError, OSError) as e:
        print(f"gpu_speed: {e}", file=sys.stderr)
        return 1
    print(f"{args.output} and {PAGE.relative_to(ROOT)} are written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
