"""Measures how often the map of an explanation lies on the moving shape, and whether its frames are those that count.

    pip install 'vov3d[explain]'
    python docs/measure explained_shapes                # writes the tables of docs/guides/interpretation.md

Clips of moving shapes are of a seed that training never saw; only those that vov3d_n names correctly are counted, and
the correct class is explained. The generator knows in which pixels the moving shapes are seen.
"""

import argparse
import json
from typing import Any

import numpy as np
import torch
from pages import DOCS, STORED, fill
from torch import nn

import vov3d
from vov3d.interpret import METHODS, explain, occlusion
from vov3d.synthetic.masks import make_masked_set

RESULTS, PAGE = STORED / "explained_shapes.json", DOCS / "guides" / "interpretation.md"
SEED, FRAMES = 778, 8
LAYERS = ("stem", "stages.0", "stages.1", "stages.2", "head.act1")
DEFAULT = ("hirescam", "stages.1")


def clips_of(count: int) -> tuple[torch.Tensor, list[int], torch.Tensor]:
    """Returns normalised clips `(N, 3, T, S, S)` as vov3d_n samples them, labels, and masks `(N, T, S, S)`."""
    clips, labels, masks = make_masked_set(count, SEED)
    step = clips.shape[1] // FRAMES
    chosen = slice(step // 2, None, step)
    values = torch.from_numpy(clips[:, chosen]).permute(0, 4, 1, 2, 3) / 255
    return (values - 0.45) / 0.225, labels.tolist(), torch.from_numpy(masks[:, chosen])


def around(masks: torch.Tensor) -> torch.Tensor:
    """Returns the surroundings of the shapes: pixels outside, at most the radius of a disc of their area away."""
    found = torch.zeros_like(masks)
    size = masks.shape[-1]
    grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), -1).view(-1, 2).float()
    for mask, ring in zip(masks.flatten(0, -3), found.flatten(0, -3), strict=True):
        if mask.any():
            distance = torch.cdist(grid, mask.nonzero().float()).amin(1).view(size, size)
            ring[:] = (distance > 0) & (distance <= (mask.sum() / torch.pi).sqrt())
    return found


def mean_in(map: torch.Tensor, where: torch.Tensor) -> float:
    """Returns the mean of a map in some pixels of all frames; 0 if there are none."""
    return float(map[where].mean()) if where.any() else 0.0


def untrained() -> Any:
    """Returns the same network with random weights, whose blocks do not start at zero."""
    torch.manual_seed(0)
    model = vov3d.create_model("vov3d_n")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.ones_(module.weight)
    return model.eval()


def measure_maps(model: Any, clips: Any, method: str, layer: str) -> dict[str, float]:
    """Returns the percentage of clips whose map is higher on the moving shapes than elsewhere."""
    rows = []
    for values, label, mask, ring, other in clips:
        map = explain(model, values, label, method=method, layer=layer).map
        on = mean_in(map, mask)
        rows.append((on > mean_in(map, ring), on > mean_in(map, ~mask), mean_in(map, other) > mean_in(map, ~other)))
    around_, rest, wrong = (round(100 * float(np.mean(column)), 2) for column in zip(*rows, strict=True))
    return {"around": around_, "rest": rest, "masks of other clips": wrong}


def measure_time(model: Any, clips: Any) -> dict[str, Any]:
    """Returns the correlation over the frames of a clip between its share of the map and the fall without it."""
    found: dict[str, list[float]] = {"neighbours": [], "mean": []}
    first = []
    for values, label, *_ in clips:
        share = explain(model, values, label).per_frame
        for fill_with, kept in found.items():
            drops = occlusion(model, values, label, fill=fill_with)
            kept.append(float(torch.corrcoef(torch.stack([share, drops]))[0, 1]))
            if fill_with == "neighbours":
                first.append(bool(share.argmax() == drops.argmax()))
    table = {
        name: {
            "mean": round(float(np.nanmean(r)), 3),
            "median": round(float(np.nanmedian(r)), 3),
            "above 0": round(100 * float(np.mean(np.array(r) > 0)), 1),
        }
        for name, r in found.items()
    }
    return table | {"same frame first": round(100 * float(np.mean(first)), 1)}


def measure(count: int, few: int) -> dict[str, Any]:
    """Measures the default on `count` clips, and other methods and layers on `few`."""
    values, labels, masks = clips_of(count)
    rings = around(masks)
    model: Any = vov3d.create_model("vov3d_n", pretrained=True).eval()
    with torch.no_grad():
        named = torch.cat([model(part) for part in values.split(50)]).argmax(1)
    correct = [i for i in range(count) if int(named[i]) == labels[i]]
    clips = [(values[i], labels[i], masks[i], rings[i], masks[(i + 7) % count]) for i in correct]
    report: dict[str, Any] = {"clips": count, "correct": len(correct), "few": min(few, len(clips))}
    report["default"] = measure_maps(model, clips, *DEFAULT)
    print(report, flush=True)
    report["untrained"] = measure_maps(untrained(), clips[:few], *DEFAULT)
    report["time"] = measure_time(model, clips[:few])
    print(report, flush=True)
    report["rows"] = {}
    for method in METHODS:
        for layer in LAYERS:
            report["rows"][f"{method} {layer}"] = row = measure_maps(model, clips[:few], method, layer)
            print(method, layer, row, flush=True)
    return report


def main_table(report: dict[str, Any]) -> str:
    """Returns the result for the default, in Markdown."""
    default, random = report["default"], report["untrained"]
    return "\n".join(
        [
            f"{report['clips']} test clips, of which vov3d_n names {report['correct']} correctly.",
            "",
            "| map of | clips | higher than around the shape | higher than in the rest of the clip |",
            "| --- | --- | --- | --- |",
            f"| vov3d_n | {report['correct']} | {default['around']:.1f}% | {default['rest']:.1f}% |",
            f"| vov3d_n, on the places of another clip's shapes | {report['correct']} | |"
            f" {default['masks of other clips']:.1f}% |",
            f"| the same network with random weights | {report['few']} | {random['around']:.1f}% |"
            f" {random['rest']:.1f}% |",
        ]
    )


def method_table(report: dict[str, Any]) -> str:
    """Returns the share of clips by method and layer, in Markdown."""
    lines = [f"| method | {' | '.join(f'`{layer}`' for layer in LAYERS)} |", f"| --- |{' --- |' * len(LAYERS)}"]
    for method in METHODS:
        shares = [report["rows"][f"{method} {layer}"]["around"] for layer in LAYERS]
        lines.append(f"| `{method}` | {' | '.join(f'{share:.1f}' for share in shares)} |")
    return "\n".join(lines)


def time_table(report: dict[str, Any]) -> str:
    """Returns the agreement with occlusion, in Markdown."""
    names = {"neighbours": "the mean of the frames beside it", "mean": "the clip's mean colour"}
    lines = ["| frame replaced by | mean correlation | median | clips above 0 |", "| --- | --- | --- | --- |"]
    for name, text in names.items():
        row = report["time"][name]
        lines.append(f"| {text} | {row['mean']:.2f} | {row['median']:.2f} | {row['above 0']:.0f}% |")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=1000, help="clips for the default (default: 1000)")
    parser.add_argument("--few", type=int, default=200, help="of these for all other rows (default: 200)")
    args = parser.parse_args()
    report = measure(args.clips, args.few)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    fill(PAGE, explained=main_table(report), methods=method_table(report), occluded=time_table(report))


if __name__ == "__main__":
    main()
