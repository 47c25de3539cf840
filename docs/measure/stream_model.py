"""Fine-tunes vov3d_n for streams, measures it after each frame, and writes its weights and its page.

    python docs/measure stream_model --train runs/stream   # continues an interrupted run
    python docs/measure stream_model                       # measures the weights of the package

Training begins at the packaged weights of clips. The loss is taken on every frame from the third on.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pages import DOCS, ROOT, fill
from reference.evaluation.metrics import wilson
from safetensors.torch import save
from timm.optim import create_optimizer_v2

import vov3d
from vov3d.files import replacing
from vov3d.synthetic.moving_shapes import CLASSES, make_set

WEIGHTS = ROOT / "vov3d" / "weights" / "packaged" / "vov3d_n.shapes_stream.safetensors"
PAGE = DOCS / "results" / "packaged_model.md"
SEED = 777  # training takes 0
FRAMES, FIRST, BATCH, SHIFT = 8, 2, 32, 4
_BY_ADAMW = ["*.conv_s.weight", "*.conv_t.weight", "head.fc.weight"]  # Muon takes matrices


def train(folder: Path, num_clips: int, epochs: int, lr: float) -> Any:
    """Fine-tunes, and keeps the state in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    kept, data = folder / "state.pt", folder / "clips.npy"
    if not data.exists():
        with replacing(data) as draft:
            np.save(draft, make_set(num_clips, 0)[0])
    clips: Any = np.load(data, mmap_mode="r")
    labels = torch.arange(num_clips) % len(CLASSES)
    torch.manual_seed(0)
    model: Any = vov3d.create_model("vov3d_n.shapes_f8", pretrained=True, causal=True).train()
    muon: dict[str, Any] = dict(momentum=0.95, nesterov=True, fallback_list=_BY_ADAMW)
    optimizer = create_optimizer_v2(model, "muon", lr=lr, weight_decay=0.02, **muon)
    steps = num_clips // BATCH * epochs
    warmup = steps // 20
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * s / steps))
    )
    start = 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        start = state["step"]
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
    for step in range(start, steps):
        epoch, at = divmod(step, num_clips // BATCH)
        rng = np.random.default_rng((1, step))
        which = np.random.default_rng((0, epoch)).permutation(num_clips)[at * BATCH : (at + 1) * BATCH]
        logits = model.forward_frames(batch(clips[np.sort(which)], rng))[:, FIRST:]
        target = labels[np.sort(which)][:, None].expand(-1, FRAMES - FIRST)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten(), label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 49 or step + 1 == steps:
            right = (logits.argmax(2) == target).float().mean(0)
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}, right {right.numpy().round(2)}", flush=True)
            parts = dict(model=model, optimizer=optimizer, schedule=schedule)
            with replacing(kept) as draft:
                torch.save({"step": step + 1} | {k: v.state_dict() for k, v in parts.items()}, draft)
    return model


def batch(clips: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    """Returns every second frame, from the first or the second on, each clip moved by a few pixels."""
    views = []
    for clip in clips:
        across, down, first = *rng.integers(0, 2 * SHIFT + 1, 2), rng.integers(0, clips.shape[1] // FRAMES)
        padded = np.pad(clip[first :: clips.shape[1] // FRAMES], ((0, 0), (SHIFT,) * 2, (SHIFT,) * 2, (0, 0)), "edge")
        views.append(padded[:, down : down + clip.shape[1], across : across + clip.shape[2]])
    return normalised(np.stack(views))


def normalised(clips: np.ndarray) -> torch.Tensor:
    """Returns uint8 clips `(N, T, S, S, 3)` as the model wants them."""
    return (torch.from_numpy(clips).permute(0, 4, 1, 2, 3) / 255 - 0.45) / 0.225


@torch.inference_mode()
def measure(model: Any, clips: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Returns the accuracy in percent after each frame, and of the stream with a window of as many."""
    step = clips.shape[1] // FRAMES
    every = clips[:, step // 2 :: step]
    stream = vov3d.streaming(model)
    right, streamed, top5 = np.zeros(FRAMES), 0, 0
    for at in range(0, len(every), 50):
        x, target = normalised(every[at : at + 50].copy()), torch.from_numpy(labels[at : at + 50])
        logits = model.forward_frames(x)
        right += (logits.argmax(2) == target[:, None]).sum(0).numpy()
        top5 += int((logits[:, -1].topk(5).indices == target[:, None]).sum())
        out, _ = stream(x)
        streamed += int((out[:, -1].argmax(1) == target).sum())
    curve = [round(100 * float(n) / len(every), 2) for n in right]
    return {
        "clips": len(every),
        "seed": SEED,
        "top1": curve[-1],
        "top5": round(100 * top5 / len(every), 2),
        "after_frames": curve,
        "stream_top1": round(100 * streamed / len(every), 2),
    }


def page(report: dict[str, Any]) -> str:
    """Returns the measured part of the page."""
    low, high = (100 * value for value in wilson(round(report["top1"] * report["clips"] / 100), report["clips"])[1:])
    frames = range(1, FRAMES + 1)
    return "\n".join(
        [
            f"After the last frame {report['top1']:.1f}% (95% interval {low:.1f} to {high:.1f}) of the"
            f" {report['clips']} clips are right. After each frame:",
            "",
            f"| frames seen | {' | '.join(map(str, frames))} |",
            f"| --- |{' --- |' * FRAMES}",
            f"| top-1, % | {' | '.join(f'{value:.1f}' for value in report['after_frames'])} |",
        ]
    )


def main() -> None:
    """Trains if asked to, measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, metavar="FOLDER", help="fine-tune first, and keep what is done there")
    parser.add_argument("--train-clips", type=int, default=10000, help="(default: 10000)")
    parser.add_argument("--epochs", type=int, default=3, help="(default: 3)")
    parser.add_argument("--lr", type=float, default=4e-3, help="(default: 0.004)")
    parser.add_argument("--clips", type=int, default=4000, help="to measure on (default: 4000)")
    args = parser.parse_args()
    if args.train:
        trained = train(args.train, args.train_clips, args.epochs, args.lr).eval()
        tensors = {name: value.contiguous() for name, value in trained.state_dict().items()}
        with replacing(WEIGHTS) as draft:
            draft.write_bytes(save(tensors, metadata={"format": "pt"}))
    model: Any = vov3d.create_model("vov3d_n.shapes_stream", pretrained=True).eval()
    report = measure(model, *make_set(args.clips, SEED))
    WEIGHTS.with_suffix(".json").write_text(json.dumps(report) + "\n")
    fill(PAGE, streamed=page(report))
    print(page(report))


if __name__ == "__main__":
    main()
