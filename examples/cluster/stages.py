"""The stages: names to views, views to scores, scores to files. Each is an actor of Ray Data, or called in a loop."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster import results
from cluster.decoding import Decoded, Decoder, Decoding

NAMES = pa.schema([pa.field("file", pa.binary())])
VIEWS = pa.schema(
    [
        pa.field("file", pa.binary()),
        pa.field("shape", pa.list_(pa.int32())),
        pa.field("weights", pa.list_(pa.int32())),
        pa.field("views", pa.large_binary()),
        pa.field("seconds", pa.float64()),
        pa.field("cpu_seconds", pa.float64()),
        pa.field("note", pa.string()),
        pa.field("error", pa.string()),
    ]
)
COUNTS = ("videos", "broken", "views", "decode_seconds", "decode_cpu_seconds", "model_seconds", "model_cpu_seconds")
_TABLE = 32 << 20  # bytes of views that go to the next stage at once


def names_table(videos: list[str]) -> pa.Table:
    """Returns what the first stage takes."""
    return pa.table({"file": pa.array([os.fsencode(video) for video in videos], pa.binary())}, schema=NAMES)


class Decode:
    """Decodes videos.

    Args:
        decoding: How.
    """

    def __init__(self, decoding: Decoding) -> None:
        self._decoder = Decoder(decoding)

    def __call__(self, names: pa.Table) -> Iterator[pa.Table]:
        """Yields tables of `VIEWS`, each of a limited size, for a table of `NAMES`."""
        rows: list[Decoded] = []
        size = 0
        for name in names["file"].to_pylist():
            rows.append(self._decoder(os.fsdecode(name)))
            size += len(rows[-1].views)
            if size >= _TABLE:
                yield _views_table(rows)
                rows, size = [], 0
        if rows:
            yield _views_table(rows)

    def close(self) -> None:
        """Ends the process that decodes."""
        self._decoder.close()


def _views_table(rows: list[Decoded]) -> pa.Table:
    columns = {
        "file": [os.fsencode(row.name) for row in rows],
        "shape": [row.shape for row in rows],
        "weights": [row.weights for row in rows],
        "views": [row.views for row in rows],
        "seconds": [row.seconds for row in rows],
        "cpu_seconds": [row.cpu_seconds for row in rows],
        "note": [_text(row.note) for row in rows],
        "error": [_text(row.error) for row in rows],
    }
    return pa.table(columns, schema=VIEWS)


def _text(message: str | None) -> str | None:
    return None if message is None else results.text_of(message)


@dataclass(frozen=True)
class Modelling:
    """The model, and what is kept of its outputs.

    Attributes:
        model: A model, a folder, or a file of `vov3d export`.
        checkpoint: Weights in place of the model's own.
        views: Clips x crops.
        frames: Of a clip; None for the model's.
        stride: Of frames; None for the model's.
        batch: Views at once; None for what fits in memory.
        topk: Labels of a video; None for 5, or for all above the threshold of a multilabel model.
        threshold: Of a multilabel model.
        embedding: Whether the vector before the classifier is kept.
        device: Where it runs; None for the GPU where there is one.
        antialias: As for `vov3d.video.eval_transform`.
    """

    model: str
    checkpoint: str | None = None
    views: str = "1x1"
    frames: int | None = None
    stride: float | None = None
    batch: int | None = None
    topk: int | None = None
    threshold: float | None = None
    embedding: bool = False
    device: str | None = None
    antialias: bool = True


class Model:
    """Scores views with the network.

    Args:
        modelling: Which, and how.

    Attributes:
        cfg: What is used of the model's `pretrained_cfg`.
        clips: Clips of a video.
        crops: Crops of a clip.
        name: The model.
        digest: SHA-256 of its weights.
        on_gpu: Whether it runs on a GPU.
    """

    def __init__(self, modelling: Modelling) -> None:
        import torch
        from reference.evaluation.models import best_device, load_model

        from vov3d.video import VideoClassifier, eval_transform
        from vov3d.video.predictions import check_threshold, check_topk
        from vov3d.video.settings import checked_cfg

        device = torch.device(modelling.device) if modelling.device else best_device()
        if device.type == "cpu":
            torch.set_num_threads(1)  # a process for each core is faster than threads
        loaded = load_model(modelling.model, modelling.checkpoint, device, modelling.device is not None)
        check_topk(modelling.topk)
        self._given, self._network = modelling, loaded.network.eval()
        # checks the settings, knows the names, and how many views fit in memory
        self._classifier = VideoClassifier(
            self._network,
            modelling.views,
            modelling.batch,
            stride=modelling.stride,
            num_frames=modelling.frames,
            threshold=modelling.threshold,
        )
        self.clips, self.crops = self._classifier.views
        self.cfg = dict(checked_cfg(self._network, modelling.stride, modelling.frames))
        self.on_gpu = device.type != "cpu"
        self.name, self.digest = loaded.name, loaded.weights
        self._transform = eval_transform(self.cfg, self.crops, modelling.antialias)
        names = self._classifier.class_names
        self._threshold = check_threshold(self._classifier.task, modelling.threshold, len(names))
        self._at_once = self._classifier.views_at_once()
        self._features: list[Any] = []
        if modelling.embedding:
            self._keep_features()

    def _keep_features(self) -> None:
        """Keeps the last map of every pass, of which the vector is made, so that it is computed once."""
        network = self._network
        if not (hasattr(network, "forward_features") and hasattr(network, "forward_head")):
            raise ValueError(
                f"{self.name}: an exported file gives labels, not vectors; name the model that it was made from"
            )
        inner = getattr(network, "model", network)  # of an optimized one, which may run a batch in pieces
        compute = inner.forward_features

        def keeping(views: Any) -> Any:
            self._features.append(compute(views))
            return self._features[-1]

        inner.forward_features = keeping

    def __call__(self, table: pa.Table) -> pa.Table:
        """Returns the rows of results for a table of `VIEWS`; views of several videos share batches."""
        import numpy as np
        import torch

        begun, cpu = time.monotonic(), time.process_time()
        views, owners, weights = [], [], []
        for row, (shape, each) in enumerate(zip(table["shape"].to_pylist(), table["weights"].to_pylist(), strict=True)):
            if shape[0]:
                content = np.frombuffer(table["views"][row].as_buffer(), np.uint8).reshape(shape)
                views += list(content)
                owners += [row] * shape[0]
                weights += each
        outputs = self._outputs(views)
        means: dict[int, tuple[Any, ...]] = {}
        for row in dict.fromkeys(owners):
            own = [at for at, owner in enumerate(owners) if owner == row]
            counts = torch.tensor([weights[at] for at in own], dtype=torch.float64)
            means[row] = tuple(((counts @ part[own]) / counts.sum()).float() for part in outputs)
        share = 1 / max(len(views), 1)
        spent = (time.monotonic() - begun) * share, (time.process_time() - cpu) * share
        return self._table(table, means, owners, spent)

    def _outputs(self, views: list[Any]) -> tuple[Any, ...]:
        """Returns the scores of views, float64 `(N, classes)`, and their vectors where they are kept."""
        import torch

        parts = []
        for start in range(0, len(views), self._at_once):
            some = torch.stack([torch.from_numpy(view.copy()) for view in views[start : start + self._at_once]])
            parts.append(self._pass(some.movedim(-1, 2)))
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))

    def _pass(self, views: Any) -> tuple[Any, ...]:
        """Returns the outputs of one pass, for uint8 views `(N, T, C, S, S)`."""
        import torch

        from vov3d.video.classifier import view_scores

        network = self._network
        parameter = next(network.parameters(), torch.zeros(()))
        with torch.inference_mode():
            clips = self._transform.normalize(views.to(parameter.device)).to(parameter.dtype)
            if clips.device.type != "cpu":
                clips = clips.contiguous()
            outputs = [view_scores(network, clips).double().cpu()]
            if self._given.embedding:
                features, self._features = torch.cat(self._features), []
                outputs.append(network.forward_head(features, pre_logits=True).double().cpu())
        return tuple(outputs)

    def _table(self, table: pa.Table, means: dict, owners: list[int], spent: tuple[float, float]) -> pa.Table:
        """Returns the rows of results."""
        best = {row: self._best(mean[0]) for row, mean in means.items()}
        rows = range(len(table))
        counts = [owners.count(row) for row in rows]
        columns = {
            "path": [results.text_of(os.fsdecode(name)) for name in table["file"].to_pylist()],
            "labels": [[p.label for p in best[row]] if row in best else None for row in rows],
            "indices": [[p.index for p in best[row]] if row in best else None for row in rows],
            "scores": [[p.score for p in best[row]] if row in best else None for row in rows],
            "views": counts,
            "decode_seconds": table["seconds"],
            "decode_cpu_seconds": table["cpu_seconds"],
            "model_seconds": [count * spent[0] for count in counts],
            "model_cpu_seconds": [count * spent[1] for count in counts],
            "note": table["note"],
            "error": table["error"],
            "model": [self.name] * len(table),
            "weights": [self.digest] * len(table),
        }
        if self._given.embedding:
            columns["embedding"] = [means[row][1].tolist() if row in means else None for row in rows]
        schema = results.schema(self._given.embedding)
        return pa.table({name: columns[name] for name in schema.names}, schema=schema)

    def _best(self, scores: Any) -> Any:
        from vov3d.video.predictions import predictions_of

        names = self._classifier.class_names
        return predictions_of(self._classifier.task, scores, names, self._given.topk, self._threshold)


class Write:
    """Writes results.

    Args:
        folder: Where to.
        shard: The shard that they belong to.
    """

    def __init__(self, folder: Path, shard: tuple[int, int]) -> None:
        self._folder, self._shard = folder, shard

    def __call__(self, table: pa.Table) -> pa.Table:
        """Writes a file of results; returns one row of what it holds: the `COUNTS`, seconds and bytes of writing."""
        begun = time.monotonic()
        path = results.write(self._folder, table, self._shard)
        counts: dict[str, float] = {"videos": len(table), "broken": len(table) - table["error"].null_count}
        counts |= {key: sum(table[key].to_pylist()) for key in COUNTS if key not in counts}
        counts |= {"write_seconds": time.monotonic() - begun, "bytes": path.stat().st_size}
        return pa.table({key: [float(value)] for key, value in counts.items()})
