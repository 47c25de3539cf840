"""Writes docs/results/benchmarks.md and the speed table of README.md from the stored measurements.

    python docs/measure speed_tables

It measures nothing: `docs/results/benchmarks/*.json` hold what `speed.py` measured.
"""

import json
from typing import Any

from pages import DOCS, ROOT, STORED, fill

HEAD = """# Benchmarks

Written by `python docs/measure speed_tables` from the measurements in `docs/results/benchmarks/`. Times are medians
of interleaved repetitions in one process, with quartiles. The [published form](../how_it_works.md#terms) is the same
network from plain `nn.Conv3d` on contiguous clips (`docs/measure/published_form.py`), in the same run. Precision is
float32 unless bf16 is named; in training, bf16 is autocast. By default, the C library gives the memory of large
tensors back to the system, and each pass waits for new pages: most of all plain networks with large batches, as the
tables with `vov3d.keep_freed_memory` show. The commands and trainers call it, and your own code can. The tables come
from different machines, which are named. No GPU was available, so there are no GPU results. Measure yours with
`vov3d benchmark vov3d_m x3d_m --backends eager,optimized`.
"""

ORDER = ("infer", "batch", "train", "operators", "memory", "forms", "zoo")
"""Parts of the measurements in the order of the page; the last has a picture."""

PICTURE = """![Published top-1 against the measured time of a view](../figures/accuracy_latency.png)

*Drawn by `python docs/figures/accuracy_latency.py` from the measurements above; accuracies are the published ones,
of the published views.*
"""

AGREEMENT = """## How far bf16 agrees with float32

Top-1 of `optimize_for_inference(model, dtype=torch.bfloat16)` against the model's own, on a processor with bf16 units:

| | random clips | crops of videos |
| --- | --- | --- |
| `vov3d_n`, its weights, clips of moving shapes | 248 of 256 | 63 of 64 |
| `vov3d_m`, random weights, two clips of people | 256 of 256 | 61 of 64 |

Published weights were not available. Measured by

```bash
python -m vov3d.synthetic.moving_shapes --to shapes --clips 4 --seed 5
WEIGHTS=vov3d/weights/packaged/vov3d_n.shapes_f8.safetensors
python docs/measure bf16_agreement --model vov3d_n --checkpoint $WEIGHTS --frames 8 --size 64 shapes/*/*.mp4
python docs/measure bf16_agreement --model vov3d_m a.mp4 b.mp4
```
"""

RULES = """## By layer

`vov3d benchmark vov3d_m --by-layer` times every operator of the optimized form by itself. Beside the time it prints
the operator's operations (two for a multiply-add) and the bytes of the tensors that it reads and writes, the least time
that these allow by the measured matrix product and copy, and the ratio of the two times; then the sums by kind of
operator. A ratio below 1 means that the tensors were still in the cache. `--dtypes bf16`, `--batch 8` and
`--backends eager` are other cases, and `--mode train` times a training step. The operations of a forward pass are twice
the multiply-adds of `vov3d info`.

## Design decisions based on these measurements

- `vov3d/layers/conv.py`: on a CPU clips are stored channels-last. For the backward pass 1 x k x k and t x 1 x 1 kernels
  run as `conv2d` on views, and depthwise t x k x k kernels as t shifted `conv2d` that are added in place, forward and
  backward (`_shifted.py`); elsewhere `conv3d` is used.
- In bf16, both gradients of strided depthwise kernels are our own: oneDNN takes many times as long as in float32 for
  the clip's, and gives wrong ones for kernels on maps of one or two columns (torch 2.14).
- Batch norm, squeeze-and-excitation, activation and sum stay calls of their own in training. They were tried as
  autograd functions that normalise and activate in one call of oneDNN and compute the normalised map again in the
  backward pass. On AVX2 with one thread the step was no faster: the statistics and their gradients still read the
  whole map, and the exponential of SiLU takes as long in oneDNN as in PyTorch.
- Where the rest of a training step goes: the table by operator has what each would take if it computed at the speed of
  a large matrix product and read and wrote its tensors once. The sum of these least times is less than half of the
  measured time. Batch norm is farthest from it, since PyTorch reads the map up to five times; then come the
  convolutions. A quarter of the published form's time is less than that sum.
- `optimize_for_inference`: a batch on a CPU runs in pieces of two clips of 16 x 224 x 224 in float32 and four in bf16
  (`python docs/measure speed batch` compares with the whole batch): one clip keeps two threads less busy, and maps of
  more leave the cache. The bottleneck's expansion and spatial convolution run on a few frames at a time where their map
  is over 16 MiB.
"""


def main() -> None:
    """Writes the two."""
    speed = json.loads((STORED / "speed.json").read_text())
    (DOCS / "results" / "benchmarks.md").write_text(page(speed))
    fill(ROOT / "README.md", speed=readme_table(speed))


def page(speed: dict[str, Any]) -> str:
    """Returns docs/results/benchmarks.md."""
    parts = [speed[key] for part in ORDER for key in (part, f"{part}_kept") if key in speed]
    return "\n".join([HEAD, *map(section, parts), PICTURE if "zoo" in speed else "", AGREEMENT, RULES])


def section(part: dict[str, Any]) -> str:
    """Returns a title, the machine and command of a measurement, and its table."""
    title = part["title"][0].upper() + part["title"][1:]
    facts = ", ".join(f"{k} {v}" for k, v in part["machine"].items())
    return f"## {title}\n\n`{part['command']}`; {facts}.\n\n{table(part['rows'])}\n"


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Returns rows with the ratio to the first form of the same network, of operators with that to the least time."""
    if all("least" in row for row in rows.values()):
        return operators(rows)
    if not any("," in name for name in rows):  # models, not forms of one
        cells = [(n, *(f"{1e3 * row[k]:.0f}" for k in ("median", "q1", "q3"))) for n, row in rows.items()]
        lines = ["| model.tag | ms (quartiles) |", "| --- | --- |"]
        return "\n".join([*lines, *("| `{}` | {} ({} to {}) |".format(*row) for row in cells)])
    timed = "median" in next(iter(rows.values()))
    lines = [
        "| network, form | " + ("ms (quartiles) | speed-up |" if timed else "MB | of the first |"),
        "| --- | --- | --- |",
    ]
    first: dict[str, float] = {}
    for name, row in rows.items():
        value = row["median"] if timed else row["peak_bytes"]
        base = first.setdefault(name.split(",")[0], value)
        if timed:
            shown = f"{1e3 * value:.0f} ({1e3 * row['q1']:.0f} to {1e3 * row['q3']:.0f}) | {base / value:.2f}"
        else:
            shown = f"{value / 1e6:.0f} | {value / base:.2f}"
        lines.append(f"| {name} | {shown} |")
    return "\n".join(lines)


def operators(rows: dict[str, dict[str, float]]) -> str:
    """Returns the times of kinds of operators beside their least times, with the sums."""
    total = {key: sum(row[key] for row in rows.values()) for key in ("seconds", "least")}
    lines = ["| operators | ms | least ms | ratio |", "| --- | --- | --- | --- |"]
    for name, row in {**rows, "all": total}.items():
        ratio = row["seconds"] / row["least"]
        lines.append(f"| {name} | {1e3 * row['seconds']:.0f} | {1e3 * row['least']:.0f} | {ratio:.1f} |")
    return "\n".join(lines)


def readme_table(speed: dict[str, Any]) -> str:
    """Returns the table of README: the published form against the forms that a user gets."""
    lines = ["| | published form | as it is | optimized | in bf16 |", "| --- | --- | --- | --- | --- |"]
    for key in ("infer", "batch", "batch_kept", "train", "train_kept"):
        rows = speed.get(key, {}).get("rows", {})
        for model in ("vov3d_m", "x3d_m"):
            forms = [rows.get(f"{model}, {form}") for form in ("published form", "as it is", "optimized")]
            forms.append(rows.get(f"{model}, optimized, bf16", rows.get(f"{model}, as it is, bf16")))
            if forms[0]:
                cells = [
                    f"{1e3 * f['median']:.0f} ms ({forms[0]['median'] / f['median']:.1f}x)" if f else "" for f in forms
                ]
                lines.append(f"| `{model}`, {speed[key]['title']} | " + " | ".join(cells).replace(" (1.0x)", "") + " |")
    machine = speed["infer"]["machine"]
    facts = f"{machine['device']}, {machine['threads']} threads, {machine['instructions']}, PyTorch {machine['torch']}"
    return "\n".join([*lines, "", f"{facts}, {machine['date']}."])


if __name__ == "__main__":
    main()
