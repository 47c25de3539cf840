"""Trains a model: by a recipe, on any data, with one process or many, resumed after a kill.

    python -m reference.train --recipe ssv2 --data FOLDER --output runs/ssv2
    python -m reference.train --recipe finetune --data FOLDER --model vov3d_m.k400_f16 --output runs/mine
    python -m reference.train --recipe ssv2 --data FOLDER --output runs/ssv2 --resume auto --train.batch_size 8
    python -m reference.train --recipe finetune --data FOLDER --distill runs/large/model --output runs/small
    torchrun --nproc_per_node 8 -m reference.train --recipe k400 --data FOLDER --output runs/k400

OUTPUT then holds `checkpoint.pt`, the logs, `curves.png`, and `model`: `vov3d predict FILE --model OUTPUT/model`.
Needs the extra `train`: `pip install 'vov3d[train]'`.
"""

import math
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vov3d.extras import install

try:
    from accelerate import Accelerator
    from accelerate.utils import gather_object
    from tqdm import tqdm

    from reference.data.clips import Batch, load, open_clips, plan_epoch, to_network
    from reference.data.sources import check_outside
    from reference.data.splitting import read_sources
    from reference.data.targets import task_of_data
    from reference.evaluation.measures import LEADING, columns_of, epoch_measures, losses_of
    from reference.evaluation.metrics import summarize
    from reference.evaluation.models import default_views
    from reference.evaluation.running import Plan, classifier_of, noted, row_of
    from reference.evaluation.scores import Row
    from reference.training import building
    from reference.training.building import (
        asked_warmup,
        build_model,
        build_optimizer,
        build_scheduler,
        rate_of,
        warmup_updates,
    )
    from reference.training.checkpoints import (
        load_checkpoint,
        not_finite,
        random_state,
        save_atomically,
        set_random_state,
    )
    from reference.training.distillation import Distillation
    from reference.training.log import EPOCHS, UPDATES, Log, draw_curves
    from reference.training.losses import build_loss, check_loss, draw_weights, one_hot, scale_of
    from reference.training.mixing import mix
    from reference.training.recipe import (
        Recipe,
        check_values,
        differences,
        load_recipe,
        parse_overrides,
        parser,
        sections,
        with_defaults,
    )
    from reference.training.seen import VIDEOS, write_seen
    from reference.training.stopping import Stop, Stopped, say_stopped
    from reference.training.workers import WorkerError
except ImportError as error:
    raise ImportError(f"the trainer needs more ({error}): {install('train')}") from error
from timm.utils import ModelEmaV3
from torch import nn

import vov3d
from vov3d.cli import print_any_name
from vov3d.files import make_folder
from vov3d.video import VideoError, parse_views
from vov3d.weights.state_dict import CLASSIFIER

# Keys that change neither what is computed nor its order. Data and teacher are compared by their content.
WITHOUT_EFFECT = (
    "data.path",
    "data.val",
    "data.root",
    "data.layout",
    "data.classes",
    "data.labels_from",
    "data.partial",
    "data.group",
    "data.overlap",
    "data.max_broken",
    "data.workers",
    "distill.model",
    "train.checkpoint_every",
    "train.compile",
)

# What `restore` needs of a checkpoint.
_KEPT = ("recipe", "data", "position", "model", "ema", "optimizer", "scheduler", "scaler", "random", "broken", "best")


class Trainer:
    """A run: everything is built on construction, `run` trains to the end.

    Args:
        recipe: Values of all keys.
        output: Folder of checkpoints, logs and the model.
        resume: Continues from the last checkpoint there, if there is one.
        stop: The handler of signals; none are handled if None.

    Attributes:
        epoch: The epoch to train next, or being trained.
        update: Updates of this epoch that are done.
        step: Updates of the run that are done.
        total: Loss of this epoch so far, summed over the clips.
    """

    def __init__(self, recipe: Recipe, output: Path, resume: bool, stop: Stop | None = None) -> None:
        check_values(recipe)
        self.keys, self.recipe, self.output, self.stop = recipe, sections(recipe), output, stop or Stop()
        train = self.recipe.train
        if train.precision == "fp16" and not torch.accelerator.is_available():
            raise ValueError("train.precision='fp16' needs a GPU, and there is none: give 'bf16' or 'no'")
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # else processes on CPUs would train separately
            mixed_precision=train.precision,
            gradient_accumulation_steps=train.accumulate,
        )
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self._check_folder(resume)
        with self.accelerator.main_process_first():  # moving shapes are made once
            self.source, self.val_source = read_sources(self.recipe.data, self.recipe.shapes, self.recipe.task.name)
        labels, classes = self.source.labels, self.source.classes
        self.task = task_of_data(self.recipe.task.name, classes, self.source.heads)
        self.names: tuple[str, ...] = sum(classes, ()) if self.task.heads else classes
        self.scale = scale_of(labels) if self.task.name == "regression" else None
        self._check_settings()
        self.draws = draw_weights(self.task, labels, classes, self.recipe.data.balance)
        torch.manual_seed(train.seed)
        network = build_model(self.recipe, self.names, self.world, self.task, self.scale)
        self.network: Any = network.to(self.accelerator.device)
        self.loss_of = build_loss(
            self.task, self.recipe.loss, train.label_smoothing, labels, classes, self.accelerator.device
        )
        self.distillation = Distillation(self.recipe.distill, self.network, self.names, self.accelerator)
        self.keys = self.keys | self.distillation.settings
        self.digest = self.source.digest()
        self.val_digest = self.val_source.digest() if self.val_source else ""
        if self.network.pretrained_cfg["sampling"] == "segment":
            self.network.pretrained_cfg["clip_seconds"] = self.source.clip_seconds()
        self.clips = open_clips(self.source, self.network.pretrained_cfg, self.recipe, train=True)
        self.views = train.val_views or default_views(self.network.pretrained_cfg["sampling"])
        parse_views(self.views)

        self.parts = self.world * train.accumulate
        self.batch = train.batch_size * self.parts or self.recipe.optimizer.batch
        self.updates = len(self._plan(0))
        self.factor = self.batch / self.recipe.optimizer.batch
        optimizer = build_optimizer(self.network, self.recipe.optimizer, self.factor)
        self.scheduler = build_scheduler(optimizer, self.recipe.schedule, self.factor, self.updates)
        self.ema = ModelEmaV3(self.network, train.ema) if train.ema else None
        self.model, self.optimizer = self.accelerator.prepare(self.network, optimizer)
        if train.compile:  # `network`, which is validated, averaged and saved, stays as it is
            self.model = torch.compile(self.model, backend=building.COMPILER)

        self.epoch = self.update = self.step = 0
        self.total = 0.0
        self.broken: dict[str, str] = {}
        self.best: dict[str, float] = {}
        self.told, self.saved = False, 0  # whether to stop; the update of the last checkpoint
        self.damaged = ""  # the checkpoint that could not be read
        torch.manual_seed(train.seed + 1 + self.rank)  # dropout differs between processes
        if resume and self._checkpoints():
            self.restore()
        self.log = None
        if self.accelerator.is_main_process:
            self.log = Log(output, self.step, columns_of(self.task))
            write_seen(output / VIDEOS, self.source, self.val_source)
        self._say_what_runs()

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.output / "checkpoint.pt"

    @property
    def former_checkpoint(self) -> Path:
        """The checkpoint before the last."""
        return self.output / "checkpoint-before.pt"

    def _checkpoints(self) -> list[Path]:
        """Returns the checkpoints that are there, the last one first."""
        return [path for path in (self.checkpoint, self.former_checkpoint) if path.exists()]

    # --- building ----------------------------------------------------------------------------------------------------

    def _check_folder(self, resume: bool) -> None:
        """Refuses to write over a run."""
        if self._checkpoints() and not resume:
            raise ValueError(f"{self.output} holds a run: continue it with --resume auto, or give another --output")
        check_outside(self.output, self.recipe.data.path, self.recipe.data.val)
        make_folder(self.output)

    def _check_settings(self) -> None:
        """Refuses settings that cannot work or would have no effect."""
        train, model = self.recipe.train, self.recipe.model
        check_loss(self.task, self.recipe.loss, self.recipe.mix, train.label_smoothing)
        if self.recipe.distill.model and not self.task.single:
            raise ValueError(
                f"distill.model={self.recipe.distill.model!r} is for runs of one label a video, and task.name is"
                f" {self.task.name!r}: leave it out"
            )
        if self.task.single and len(self.names) < 2:
            raise ValueError(
                f"{self.source.name}: has one class, {self.names[0]!r}, and nothing to tell it from; give videos of two"
                " classes or more"
            )
        if train.keep == "best" and self.val_source is None:
            raise ValueError(
                "train.keep='best' needs videos for validation: a val folder, --data.val, or --data.val_share 0.2"
            )
        if model.sync_batchnorm and self.world > 1 and self.accelerator.device.type != "cuda":
            raise ValueError("model.sync_batchnorm needs GPUs, as PyTorch has it: --model.sync_batchnorm false")
        if train.compile and model.grad_checkpointing:
            raise ValueError(
                "train.compile does not go with model.grad_checkpointing: the compiler chooses itself what it computes"
                " again; leave one of them out"
            )
        if train.compile:
            building.check_compiler(self.accelerator.device)
        if model.freeze_backbone and self.recipe.optimizer.layer_decay != 1:
            raise ValueError("optimizer.layer_decay has no effect where only the classifier learns: set it to 1")

    def _plan(self, epoch: int) -> list[list[np.ndarray]]:
        return plan_epoch(len(self.clips), self.batch, self.parts, self.recipe.train.seed, epoch, self.draws)

    def _say_what_runs(self) -> None:
        """Prints the model, the data, the size of an update and the learning rate."""
        optimizer, train = self.recipe.optimizer, self.recipe.train
        parameters = sum(p.numel() for p in self.network.parameters() if p.requires_grad)
        validation = f"{len(self.val_source)} for validation" if self.val_source else "none for validation"
        notes = [
            f"  {note}\n" for source in (self.source, self.val_source) for note in (source.notes if source else ())
        ]
        warmup = warmup_updates(self.recipe.schedule, self.updates)
        asked = asked_warmup(self.recipe.schedule, self.updates)
        each = f"{train.batch_size} clips" if train.batch_size else f"{self.batch / self.parts:g} clips on average"
        self.accelerator.print(
            f"{self.recipe.model.name}: {parameters / 1e6:.2f} M parameters to train, on {self.accelerator.device}\n"
            f"{self.source.name}: {len(self.source)} videos of {self.task.describe(len(self.names))}, {validation}\n"
            f"{''.join(notes)}{self.distillation.note}"
            f"{self.world} processes x {train.accumulate} backward passes x {each} = {self.batch} clips an update, "
            f"{self.updates} updates an epoch\n"
            f"learning rate {optimizer.lr:g} for {optimizer.batch} clips an update, scaled by {self.factor:g}: "
            f"{optimizer.lr * self.factor:g}"
            + (f", after {warmup} updates of warm-up" if warmup else "")
            + (f" ({asked} were asked for, too many for this run)" if asked > warmup else "")
        )
        if self.damaged:
            self.accelerator.print(f"{self.damaged}: using the checkpoint before it")
        if self.step:
            path = self._checkpoints()[-1 if self.damaged else 0]
            self.accelerator.print(f"resuming from epoch {self.epoch}, update {self.step} ({path})")

    # --- training ----------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Trains to the end and saves the model; returns its folder."""
        epochs, every = self.recipe.schedule.epochs, self.recipe.train.val_every
        self.stop.armed = True
        while self.epoch < epochs:
            row = self.train_epoch()
            if self.val_source and ((self.epoch + 1) % every == 0 or self.epoch + 1 == epochs):
                row |= self.validate()
            self._tell(row)
            self.epoch, self.update, self.total = self.epoch + 1, 0, 0.0
            self.save()
        self.stop.armed = False  # all is saved
        return self.finish()

    def train_epoch(self) -> dict[str, float]:
        """Trains what is left of an epoch; returns what it measured."""
        plan = self._plan(self.epoch)[self.update :]
        mine = [[(self.epoch, int(i)) for i in part] for update in plan for part in update[self.rank :: self.world]]
        batches = iter(load(self.clips, mine, self.recipe.data.workers))
        every, self.waited, start = self.recipe.train.checkpoint_every, 0.0, time.perf_counter()
        self.model.train()
        bar = tqdm(plan, f"epoch {self.epoch}", disable=None if self.accelerator.is_main_process else True, leave=False)
        for update in bar:
            clips = sum(map(len, update))
            lr = rate_of(self.optimizer)
            loss = self.one_update(batches, clips)
            self.total += loss * clips
            bar.set_postfix(loss=f"{loss:.3f}", lr=f"{lr:.2g}", waiting=f"{self.waited:.0f}s")
            if self.log:
                self.log.write(UPDATES, update=self.step, epoch=self.epoch, loss=loss, lr=lr)
            if self.told:
                self._stop_here()
            if every and self.step % every == 0 and self.update < self.updates:
                self.save()
        seconds, clips = time.perf_counter() - start, sum(len(part) for update in plan for part in update)
        loss = self.total / len(self.clips)
        return {"train_loss": loss, "clips_per_s": clips / seconds, "waiting": self.waited / seconds}

    def one_update(self, batches: Iterator[Batch], clips: int) -> float:
        """Does all backward passes of an update and the step; returns the mean loss over the clips of all processes."""
        total = torch.zeros((), device=self.accelerator.device, dtype=torch.float64)
        mean = math.nan
        for number in range(self.recipe.train.accumulate):
            batch = self._next(batches)
            with self.accelerator.accumulate(self.model):
                loss = self.loss(batch, number)
                total += loss.detach()
                # every clip counts alike, however they are shared out: gradients are averaged over the parts
                self.accelerator.backward(loss * (self.parts / clips))
                if self.accelerator.sync_gradients:
                    mean = self._agreed(total) / clips
                    self._check_step(mean)
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.step, self.update = self.step + 1, self.update + 1
        self.scheduler.step_update(self.step)
        if self.ema:
            self.ema.update(self.network, self.step)
        return mean

    def _agreed(self, total: torch.Tensor) -> float:
        """Returns the sum over all processes; a stop asked of one of them stops all."""
        signals = total.new_tensor(float(self.stop.number > 0))
        total, signals = self.accelerator.reduce(torch.stack([total, signals]), "sum").unbind()
        self.told = signals.item() > 0
        return total.item()

    def _check_step(self, loss: float) -> None:
        """Clips the gradient where the recipe says so, and refuses a step that would end the run.

        Raises:
            ValueError: If the loss or the gradient is not finite; nothing of this update has been kept then.
        """
        largest = self.recipe.train.clip_grad or math.inf
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), largest)
        what = f"the loss is {loss}"
        if math.isfinite(loss):
            # in fp16 the scaler leaves out such a step and tries a smaller scale, down to none
            scaler = self.accelerator.scaler
            if norm is None or math.isfinite(norm) or (scaler and scaler.get_scale() > 1):
                return
            what = f"the gradient is {float(norm)}, of a loss of {loss:.3g},"
        raise ValueError(
            f"{what} at update {self.step + 1}: lower optimizer.lr, or set train.clip_grad; {self.what_is_kept()}"
        )

    def what_is_kept(self) -> str:
        """Describes what a run that ends here has saved, and how to resume it."""
        if not self._checkpoints():
            return "no checkpoint was written yet"
        return f"{self._checkpoints()[0]} holds update {self.saved}: the same command with --resume auto resumes there"

    def _stop_here(self) -> None:
        """Writes a checkpoint and ends the run."""
        self.save()
        raise Stopped(self.stop.number or signal.SIGTERM)

    def loss(self, batch: Batch, number: int) -> torch.Tensor:
        """Returns the loss summed over the clips of a batch, the `number`-th of this update.

        It is the loss of the labels, and the distance from a teacher where there is one.
        """
        mixing = self.recipe.mix
        clips, labels = self._to_network(batch)
        if mixing.mixup or mixing.cutmix:
            rng = np.random.default_rng((self.recipe.train.seed, self.step, number, self.rank))
            if rng.random() < mixing.share:
                shares = one_hot(self.task, labels, len(self.names))
                clips, labels = mix(clips, shares, len(self.names), mixing.mixup, mixing.cutmix, rng)
        outputs = self.model(clips)
        return self.distillation.loss(self.loss_of(outputs, labels), outputs, clips)

    def _to_network(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        clips = to_network(batch.clips, self.network.pretrained_cfg, next(self.network.parameters()))
        return clips, batch.labels.to(clips.device)

    def _next(self, batches: Iterator[Batch]) -> Batch:
        """Returns the next batch; notes the time that it took and the broken files."""
        start = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - start
        self.broken |= batch.broken
        self._check_broken()
        return batch

    def _check_broken(self) -> None:
        share, files = self.recipe.data.max_broken, len(self.source) + len(self.val_source or ())
        if len(self.broken) > share * files:
            raise ValueError(
                f"{len(self.broken)} of {files} files are broken, more than data.max_broken={share:g} allows; "
                f"check them all with examples/reference/check_data.py. {'; '.join(list(self.broken.values())[:5])}"
            )

    # --- validation --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Measures loss and accuracy, of the averaged weights where there are any, by the scores of evaluate.py."""
        assert self.val_source is not None
        model = self.ema.module if self.ema else self.network
        if self.recipe.train.precise_bn:
            self.recalibrate(model)
        self._agree(model)
        if not self.task.single:
            row = self._measured(model)
            self._keep_best(model, row)
            return row
        rows, losses = self._score(model, list(range(self.rank, len(self.val_source), self.world)))
        counted = summarize(rows, "leave-out") if losses else None
        count = len(losses)
        hits = [round(count * share.value) for share in (counted.top1, counted.top5)] if counted else [0, 0]
        sums = torch.tensor([sum(losses), *hits, count], device=self.accelerator.device, dtype=torch.float64)
        sums = torch.stack([sums, torch.full_like(sums, self.stop.number > 0)])
        sums, signals = self.accelerator.reduce(sums, "sum").tolist()
        if signals[0]:
            self._stop_here()
        self._check_broken()
        loss, top1, top5, count = sums
        if not count:
            raise ValueError(f"all videos for validation are broken, as {next(iter(self.broken.values()), '')}")
        row = {"val_loss": loss / count, "top1": 100 * top1 / count, "top5": 100 * top5 / count}
        self._keep_best(model, row)
        return row

    def _score(self, model: nn.Module, indices: list[int]) -> tuple[list[Row], list[float]]:
        """Returns the results of some videos for validation, and the losses of those that are not broken."""
        assert self.val_source is not None
        rows, losses = list[Row](), list[float]()
        for row, scores in self._scored(model, indices):
            if scores is not None:
                assert row.label is not None
                losses.append(-math.log(max(float(scores[row.label]), 1e-12)))
            rows.append(row)
        return rows, losses

    def _scored(self, model: nn.Module, indices: list[int]) -> Iterator[tuple[Row, np.ndarray | None]]:
        """Yields some videos for validation with their scores, None for a broken one, until told to stop."""
        assert self.val_source is not None
        source = self.val_source
        batch = -(-self.batch // self.parts) if self.accelerator.device.type == "cpu" else None
        classifier = classifier_of(model, self.names, Plan(self.views, batch_size=batch))
        results: Any = classifier.results((source.content(i) for i in indices), topk=1, errors="return")
        with noted(), closing(results), self.accelerator.autocast():
            for index, result in zip(indices, results, strict=True):
                name = str(source.file(index))
                label = int(source.labels[index]) if self.task.single else None
                row, scores = row_of(Row(index, name, label), result)
                if scores is None:
                    self.broken[name] = row.error
                yield row, scores
                if self.stop.number:
                    break

    def _measured(self, model: nn.Module) -> dict[str, float]:
        """Measures a validation of a task beyond one label, over the videos of all processes together."""
        assert self.val_source is not None
        mine = list(range(self.rank, len(self.val_source), self.world))
        found = [(row.index, scores) for row, scores in self._scored(model, mine) if scores is not None]
        gathered = gather_object([(found, self.stop.number)])
        if any(signals for _, signals in gathered):
            self._stop_here()
        self._check_broken()
        pairs = sorted((pair for part, _ in gathered for pair in part), key=lambda pair: pair[0])
        if not pairs:
            raise ValueError(f"all videos for validation are broken, as {next(iter(self.broken.values()), '')}")
        labels = self.val_source.labels[[index for index, _ in pairs]]
        scores = np.stack([own for _, own in pairs])
        deviation = None
        if self.scale:
            scores = self.scale.real(torch.from_numpy(scores)).numpy()
            deviation = self.scale.deviation.numpy()
        loss = float(losses_of(self.task, scores, labels, deviation).mean())
        return {"val_loss": loss, **epoch_measures(self.task, scores, labels)}

    def _keep_best(self, model: nn.Module, row: dict[str, float]) -> None:
        """Keeps the weights if they are the best; of equal ones those with the lower loss."""
        name = LEADING[self.task.name]
        value = row[name] if math.isfinite(row[name]) else -math.inf  # R2 is undefined where the values never change
        rank, best = (value, -row["val_loss"]), (self.best.get(name, -math.inf), -self.best.get("loss", math.inf))
        if self.recipe.train.keep == "best" and (rank > best or not self.best):
            self.best = {name: value, "loss": row["val_loss"], "epoch": self.epoch}
            if self.accelerator.is_main_process:
                save_atomically(self._stored(model=model.state_dict()), self.output / "best.pt")

    def recalibrate(self, model: nn.Module) -> None:
        """Estimates the statistics of norms anew from training clips (precise BN), by all processes together."""
        plan = self._plan(self.epoch)[: self.recipe.train.precise_bn]
        keys = [[(self.epoch, int(i)) for i in update[self.rank]] for update in plan]
        batches = load(self.clips, keys, self.recipe.data.workers)
        with self.accelerator.autocast():
            vov3d.recalibrate(model, self._until_told(self._to_network(batch)[0] for batch in batches))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(self.accelerator.reduce(buffer.clone(), "mean"))

    def _until_told(self, clips: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        for clip in clips:
            yield clip
            if self.stop.number:  # the estimate would not be used
                return

    def _agree(self, model: nn.Module) -> None:
        """Copies the statistics of the first process to all; each has seen other clips."""
        if self.world > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _tell(self, row: dict[str, float]) -> None:
        for name in {name: 0 for part in gather_object([self.broken]) for name in part}:
            self.broken.setdefault(name, "found broken by another process")
        self._check_broken()
        if self.log:
            empty = dict.fromkeys(("val_loss", *columns_of(self.task)), "")
            self.log.write(EPOCHS, update=self.step, epoch=self.epoch, **{**empty, **row})
        views = f"{self.views.replace('x', ' x ')} views"
        measured = f"{row['val_loss']:.3f}, {self._told(row)}" if "val_loss" in row else ""
        validation = f", validation ({views}) {measured}" if measured else ""
        self.accelerator.print(
            f"epoch {self.epoch}: loss {row['train_loss']:.3f}{validation}, {row['clips_per_s']:.1f} clips/s, "
            f"{row['waiting']:.0%} of the time waiting for data"
            + (f", {len(self.broken)} broken" if self.broken else "")
        )

    def _told(self, row: Mapping[str, float]) -> str:
        """Returns the figures of a validation in words."""
        told = {
            "single": ("top-1 {top1:.1f}%",),
            "multilabel": ("mAP {map:.1f}%", "F1 {f1:.1f}%"),
            "regression": ("MAE {mae:.3g}", "R2 {r2:.3f}"),
            "multihead": (*(f"{head} {{{head}_top1:.1f}}%" for head, _ in self.task.heads), "all {all_top1:.1f}%"),
        }
        return ", ".join(text.format_map(row) for text in told[self.task.name])

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes the checkpoint of the position reached; the one before is kept.

        Raises:
            ValueError: If the network is not finite any more; the checkpoints stay.
            OSError: If it cannot be written; the checkpoints stay.
        """
        states = gather_object([(random_state(), not_finite(self.network))])
        if problems := [name for _, name in states if name]:
            raise ValueError(
                f"{problems[0]} is not finite after update {self.step}, and is not saved: lower optimizer.lr, or set "
                f"train.clip_grad; {self.what_is_kept()}"
            )
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        content = {
            "recipe": self.keys,
            "data": self.digest,
            "val": self.val_digest,
            "position": [self.epoch, self.update, self.step, self.total],
            **self._stored(model=self.network.state_dict(), ema=self.ema.state_dict() if self.ema else None),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "random": [state for state, _ in states],
            "broken": self.broken,
            "best": self.best,
        }
        save_atomically(content, self.checkpoint, self.former_checkpoint)
        self.saved = self.step

    def _stored(self, **states: dict[str, torch.Tensor] | None) -> dict[str, Any]:
        """Returns states of the network as a file has them, from which others load it: values in their own units.

        Of a regression `scaled` holds the classifiers of the run, which goes on with them to the bit.
        """
        if not self.scale:
            return states
        scaled: dict[str, dict[str, torch.Tensor]] = {}
        stored: dict[str, Any] = dict(states)
        for name, state in states.items():
            if state is not None:
                names = [key for ending in CLASSIFIER for key in state if key.endswith(ending)]
                scaled[name] = {key: state[key] for key in names}
                real = self.scale.real_layer(*scaled[name].values())
                stored[name] = {**state, **dict(zip(names, real, strict=True))}
        return {**stored, "scaled": scaled}

    def restore(self) -> None:
        """Goes back to where the checkpoint was written."""
        content = self._last_readable()
        problems = differences(self.keys, with_defaults(content["recipe"]), WITHOUT_EFFECT)
        if content["data"] != self.digest:
            problems.append("the training data is different")
        # checkpoints of earlier versions do not say it
        if self.recipe.train.keep == "best" and content.get("val", self.val_digest) != self.val_digest:
            problems.append("the videos for validation are different, by which train.keep='best' compares epochs")
        if len(content["random"]) != self.world:
            problems.append(f"the number of processes (was {len(content['random'])}, is {self.world})")
        if problems:
            raise ValueError(
                f"{self.checkpoint} is of a run with other settings: {'; '.join(problems)}. Give its own settings, or "
                "another --output"
            )
        self.network.load_state_dict(_own(content, "model"))
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        if self.ema:
            self.ema.load_state_dict(_own(content, "ema"))
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        self.broken, self.best = content["broken"], content["best"]
        self.epoch, self.update, self.step, self.total = content["position"]
        self.saved = self.step
        set_random_state(content["random"][self.rank])

    def _last_readable(self) -> dict[str, Any]:
        """Reads the last checkpoint, or the one before if that is damaged."""
        last, *former = self._checkpoints()
        try:
            return load_checkpoint(last, _KEPT)
        except OSError as error:
            if not former:
                raise
            self.damaged = str(error)
            return load_checkpoint(former[0], _KEPT)

    def finish(self) -> Path:
        """Saves the model with its class names, draws the curves, reports broken files."""
        folder = self.output / "model"
        if not self.accelerator.is_main_process:
            return folder
        assert self.log is not None
        self.log.close()
        if self.best:
            best = load_checkpoint(self.output / "best.pt")
            self.network.load_state_dict(_own(best, "model") if "model" in best else best)  # of an earlier version
        elif self.ema:
            self.network.load_state_dict(self.ema.module.state_dict())
        write_seen(folder / VIDEOS, self.source, self.val_source)
        if self.scale:
            self.scale.put_into(self.network.get_classifier())
        vov3d.save_pretrained(self.network, folder, label_names=self.names)
        curves = draw_curves(self.output, columns_of(self.task))
        print(f"model ({self._which()}) in {folder}: vov3d predict FILE --model {folder}\ncurves in {curves}")
        if self.broken:
            print(f"{len(self.broken)} files are broken; training replaced them, validation left them out:")
            print(
                "\n".join(
                    f"  {name}: {reason.removeprefix(f'{name}: ')}" for name, reason in sorted(self.broken.items())
                )
            )
        return folder

    def _which(self) -> str:
        """Returns a sentence that names the saved weights."""
        if not self.best:
            return "last"
        name = LEADING[self.task.name]
        told = {"top1": "top-1", "map": "mAP", "r2": "R2", "all_top1": "all heads"}[name]
        if not math.isfinite(self.best[name]):
            return f"best of epoch {self.best['epoch']}, loss {self.best['loss']:.3f}, {told} undefined"
        value = f"{self.best[name]:.3f}" if name == "r2" else f"{self.best[name]:.1f}%"
        return f"best of epoch {self.best['epoch']}, {told} {value}"


def _own(content: Mapping[str, Any], name: str) -> dict[str, torch.Tensor]:
    """Returns a state of a file that `Trainer._stored` made, as the run had it."""
    return {**content[name], **content.get("scaled", {}).get(name, {})}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the trainer; returns the exit status."""
    args, rest = parser(str(__doc__)).parse_known_args(arguments)
    print_any_name()
    trainer, stop = None, Stop()
    with stop.watching():
        try:
            overrides = parse_overrides(rest)
            overrides |= {"data.path": args.data} if args.data else {}
            overrides |= {"model.name": args.model} if args.model else {}
            overrides |= {"distill.model": args.distill} if args.distill else {}
            trainer = Trainer(load_recipe(args.recipe, overrides), args.output, args.resume == "auto", stop)
            trainer.run()
            trainer.accelerator.end_training()
        except Stopped as stopped:
            return say_stopped("train.py", stopped, trainer.what_is_kept() if trainer else "nothing was trained yet")
        except torch.OutOfMemoryError as error:
            cause = str(error).split(". ")[0]
            print(f"train.py: {cause}: lower train.batch_size; train.accumulate keeps the batch", file=sys.stderr)
            return 1
        except WorkerError as error:
            print(f"train.py: {error}; {trainer.what_is_kept() if trainer else ''}", file=sys.stderr)
            return 1
        except (ImportError, OSError, ValueError, VideoError, vov3d.WeightsError) as error:
            print(f"train.py: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    vov3d.keep_freed_memory()
    sys.exit(main())
