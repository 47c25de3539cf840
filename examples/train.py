"""Trains a model: recipes, any data, one process or many, killed and gone on with.

    python examples/train.py --recipe ssv2 --data FOLDER --output runs/ssv2
    python examples/train.py --recipe finetune --data FOLDER --model vov3d_m.k400_f16 --output runs/mine
    python examples/train.py --recipe ssv2 --data FOLDER --output runs/ssv2 --resume auto --train.batch_size 8
    torchrun --nproc_per_node 8 examples/train.py --recipe k400 --data FOLDER --output runs/k400

OUTPUT then holds `checkpoint.pt`, the logs, `curves.png`, and `model`: `vov3d predict FILE --model OUTPUT/model`.
Needs the extra `train`: `pip install 'vov3d[train]'`.
"""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vov3d.models._extras import install

try:
    from accelerate import Accelerator
    from accelerate.utils import gather_object
    from tqdm import tqdm
    from training.building import build_model, build_optimizer, build_scheduler
    from training.checkpoints import load_checkpoint, random_state, save_atomically, set_random_state
    from training.clips import Batch, load, open_clips, plan_epoch, to_network
    from training.log import EPOCHS, UPDATES, Log, draw_curves
    from training.mixing import mix
    from training.recipe import Recipe, differences, load_recipe, parse_overrides, parser, sections
    from training.sources import read_sources
except ImportError as error:
    raise ImportError(f"the trainer needs more ({error}): {install('train')}") from error
from timm.utils import ModelEmaV3
from torch import nn

import vov3d
from vov3d.video import VideoError

# Keys that change neither what is computed nor its order. The data is compared by its content.
WITHOUT_EFFECT = ("data.path", "data.val", "data.root", "data.workers", "train.checkpoint_every")


class Trainer:
    """A run: everything is built on construction, `run` trains to the end.

    Args:
        recipe: Values of all keys.
        output: Folder of checkpoints, logs and the model.
        resume: Goes on from the last checkpoint there, if there is one.

    Attributes:
        epoch: The epoch to train next, or being trained.
        update: Updates of this epoch that are done.
        step: Updates of the run that are done.
        total: Loss of this epoch so far, summed over the clips.
    """

    def __init__(self, recipe: Recipe, output: Path, resume: bool) -> None:
        self.keys, self.recipe, self.output = recipe, sections(recipe), output
        train = self.recipe.train
        self.accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # unless told so, processes on CPUs would train apart
            mixed_precision=train.precision,
            gradient_accumulation_steps=train.accumulate,
        )
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self._check_folder(resume)
        with self.accelerator.main_process_first():  # moving shapes are made once
            self.source, self.val_source = read_sources(self.recipe.data, self.recipe.shapes)
        self._check_settings()
        torch.manual_seed(train.seed)
        self.bare: Any = build_model(self.recipe, len(self.source.classes), self.world).to(self.accelerator.device)
        self.clips = open_clips(self.source, self.bare.pretrained_cfg, self.recipe, train=True)
        self.val_clips = self.val_source and open_clips(self.val_source, self.bare.pretrained_cfg, self.recipe, False)

        self.parts = self.world * train.accumulate
        self.batch = train.batch_size * self.parts or self.recipe.optimizer.batch
        self.updates = len(self._plan(0))
        self.factor = self.batch / self.recipe.optimizer.batch
        optimizer = build_optimizer(self.bare, self.recipe.optimizer, self.factor)
        self.scheduler = build_scheduler(optimizer, self.recipe.schedule, self.factor, self.updates)
        self.ema = ModelEmaV3(self.bare, train.ema) if train.ema else None
        self.model, self.optimizer = self.accelerator.prepare(self.bare, optimizer)

        self.epoch = self.update = self.step = 0
        self.total = 0.0
        self.broken: dict[str, str] = {}
        self.best: dict[str, float] = {}
        torch.manual_seed(train.seed + 1 + self.rank)  # dropout differs between processes
        if resume and self.checkpoint.exists():
            self.restore()
        self.log = Log(output, self.step) if self.accelerator.is_main_process else None
        self._say_what_runs()

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.output / "checkpoint.pt"

    # --- building ----------------------------------------------------------------------------------------------------

    def _check_folder(self, resume: bool) -> None:
        """Refuses to write over a run."""
        if self.checkpoint.exists() and not resume:
            raise ValueError(f"{self.output} holds a run: go on with --resume auto, or give another --output")
        self.output.mkdir(parents=True, exist_ok=True)

    def _check_settings(self) -> None:
        """Refuses settings that cannot work or would have no effect."""
        train, model = self.recipe.train, self.recipe.model
        if train.keep not in ("last", "best"):
            raise ValueError(f"train.keep is {train.keep!r}: 'last' and 'best' are known")
        if train.keep == "best" and self.val_source is None:
            raise ValueError(
                "train.keep='best' needs videos for validation: a val folder, --data.val, or --data.val_share 0.2"
            )
        if model.sync_batchnorm and self.world > 1 and self.accelerator.device.type != "cuda":
            raise ValueError("model.sync_batchnorm needs GPUs, as PyTorch has it: --model.sync_batchnorm false")
        if model.freeze_backbone and self.recipe.optimizer.layer_decay != 1:
            raise ValueError("optimizer.layer_decay has no effect where only the classifier learns: set it to 1")

    def _plan(self, epoch: int) -> list[list[np.ndarray]]:
        return plan_epoch(len(self.clips), self.batch, self.parts, self.recipe.train.seed, epoch)

    def _say_what_runs(self) -> None:
        """What is trained on what, and how the learning rate came about."""
        optimizer, train = self.recipe.optimizer, self.recipe.train
        parameters = sum(p.numel() for p in self.bare.parameters() if p.requires_grad)
        validation = f"{len(self.val_source)} for validation" if self.val_source else "none for validation"
        each = f"{train.batch_size} clips" if train.batch_size else f"{self.batch / self.parts:g} clips on average"
        self.accelerator.print(
            f"{self.recipe.model.name}: {parameters / 1e6:.2f} M parameters to train, on {self.accelerator.device}\n"
            f"{self.source.name}: {len(self.source)} videos of {len(self.source.classes)} classes, {validation}\n"
            f"{self.world} processes x {train.accumulate} backward passes x {each} = {self.batch} clips an update, "
            f"{self.updates} updates an epoch\n"
            f"learning rate {optimizer.lr:g} for {optimizer.batch} clips an update, scaled by {self.factor:g}: "
            f"{optimizer.lr * self.factor:g}"
        )
        if self.step:
            self.accelerator.print(f"going on from epoch {self.epoch}, update {self.step} ({self.checkpoint})")

    # --- training ----------------------------------------------------------------------------------------------------

    def run(self) -> Path:
        """Trains to the end and saves the model; returns its folder."""
        epochs, every = self.recipe.schedule.epochs, self.recipe.train.val_every
        while self.epoch < epochs:
            row = self.train_epoch()
            if self.val_clips and ((self.epoch + 1) % every == 0 or self.epoch + 1 == epochs):
                row |= self.validate()
            self._tell(row)
            self.epoch, self.update, self.total = self.epoch + 1, 0, 0.0
            self.save()
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
            lr = self.optimizer.param_groups[-1]["lr"]
            loss = self.one_update(batches, clips)
            self.total += loss * clips
            bar.set_postfix(loss=f"{loss:.3f}", lr=f"{lr:.2g}", waiting=f"{self.waited:.0f}s")
            if self.log:
                self.log.write(UPDATES, update=self.step, epoch=self.epoch, loss=loss, lr=lr)
            if every and self.step % every == 0 and self.update < self.updates:
                self.save()
        seconds, clips = time.perf_counter() - start, sum(len(part) for update in plan for part in update)
        loss = self.total / len(self.clips)
        return {"train_loss": loss, "clips_per_s": clips / seconds, "waiting": self.waited / seconds}

    def one_update(self, batches: Iterator[Batch], clips: int) -> float:
        """All backward passes of an update and the step; returns the mean loss over the clips of all processes."""
        total = torch.zeros((), device=self.accelerator.device, dtype=torch.float64)
        for number in range(self.recipe.train.accumulate):
            batch = self._next(batches)
            with self.accelerator.accumulate(self.model):
                loss = self.loss(batch, number)
                total += loss.detach()
                # every clip counts alike, however they are shared out: gradients are averaged over the parts
                self.accelerator.backward(loss * (self.parts / clips))
                if self.accelerator.sync_gradients and self.recipe.train.clip_grad:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.train.clip_grad)
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.step, self.update = self.step + 1, self.update + 1
        self.scheduler.step_update(self.step)
        if self.ema:
            self.ema.update(self.bare, self.step)
        mean = self.accelerator.reduce(total, "sum").item() / clips
        if not math.isfinite(mean):
            raise ValueError(f"the loss is {mean} at update {self.step}: lower optimizer.lr, or set train.clip_grad")
        return mean

    def loss(self, batch: Batch, number: int) -> torch.Tensor:
        """The cross-entropy, summed over the clips of a batch, the `number`-th of this update."""
        mixing, smoothing = self.recipe.mix, self.recipe.train.label_smoothing
        clips, labels = self._to_network(batch)
        if mixing.mixup or mixing.cutmix:
            rng = np.random.default_rng((self.recipe.train.seed, self.step, number, self.rank))
            if rng.random() < mixing.share:
                clips, labels = mix(clips, labels, len(self.source.classes), mixing.mixup, mixing.cutmix, rng)
        return F.cross_entropy(self.model(clips), labels, reduction="sum", label_smoothing=smoothing)

    def _to_network(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        clips = to_network(batch.clips, self.bare.pretrained_cfg, next(self.bare.parameters()))
        return clips, batch.labels.to(clips.device)

    def _next(self, batches: Iterator[Batch]) -> Batch:
        """The next batch; notes the time that it took and what is broken."""
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
                f"check them all with examples/check_data.py. {'; '.join(list(self.broken.values())[:5])}"
            )

    # --- validation --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss and accuracy of the clip in the middle of each video, of the averaged weights where there are any."""
        assert self.val_clips is not None
        model = self.ema.module if self.ema else self.bare
        if self.recipe.train.precise_bn:
            self.recalibrate(model)
        self._agree(model)
        model.eval()
        mine = [(0, i) for i in range(self.rank, len(self.val_clips), self.world)]
        size = -(-self.batch // self.parts)
        keys = [mine[i : i + size] for i in range(0, len(mine), size)]
        sums = torch.zeros(4, device=self.accelerator.device, dtype=torch.float64)
        for batch in load(self.val_clips, keys, self.recipe.data.workers):
            self.broken |= batch.broken
            if len(batch.labels):
                clips, labels = self._to_network(batch)
                with self.accelerator.autocast():
                    logits = model(clips).float()
                hits = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
                loss = F.cross_entropy(logits, labels, reduction="sum")
                sums += torch.stack([loss, hits[:, 0].sum(), hits.sum(), torch.tensor(len(labels), device=loss.device)])
        self._check_broken()
        loss, top1, top5, count = self.accelerator.reduce(sums, "sum").tolist()
        row = {"val_loss": loss / count, "top1": 100 * top1 / count, "top5": 100 * top5 / count}
        if self.recipe.train.keep == "best" and row["top1"] > self.best.get("top1", -1):
            self.best = {"top1": row["top1"], "epoch": self.epoch}
            if self.accelerator.is_main_process:
                save_atomically(model.state_dict(), self.output / "best.pt")
        return row

    def recalibrate(self, model: nn.Module) -> None:
        """Precise BN: norms are estimated anew from training clips, by all processes together."""
        plan = self._plan(self.epoch)[: self.recipe.train.precise_bn]
        keys = [[(self.epoch, int(i)) for i in update[self.rank]] for update in plan]
        batches = load(self.clips, keys, self.recipe.data.workers)
        with self.accelerator.autocast():
            vov3d.recalibrate(model, (self._to_network(batch)[0] for batch in batches))
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.copy_(self.accelerator.reduce(buffer.clone(), "mean"))

    def _agree(self, model: nn.Module) -> None:
        """Gives the statistics of the first process to all; each has seen other clips."""
        if self.world > 1:
            for buffer in model.buffers():
                torch.distributed.broadcast(buffer, 0)

    def _tell(self, row: dict[str, float]) -> None:
        for name in {name: 0 for part in gather_object([self.broken]) for name in part}:
            self.broken.setdefault(name, "found broken by another process")
        self._check_broken()
        if self.log:
            empty = dict.fromkeys(("val_loss", "top1", "top5"), "")
            self.log.write(EPOCHS, update=self.step, epoch=self.epoch, **{**empty, **row})
        validation = f", validation {row['val_loss']:.3f}, top-1 {row['top1']:.1f}%" if "top1" in row else ""
        self.accelerator.print(
            f"epoch {self.epoch}: loss {row['train_loss']:.3f}{validation}, {row['clips_per_s']:.1f} clips/s, "
            f"{row['waiting']:.0%} of the time waiting for data"
            + (f", {len(self.broken)} broken" if self.broken else "")
        )

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Writes the checkpoint of the position reached."""
        states = gather_object([random_state()])
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        content = {
            "recipe": self.keys,
            "data": self.source.digest(),
            "position": [self.epoch, self.update, self.step, self.total],
            "model": self.bare.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "random": states,
            "broken": self.broken,
            "best": self.best,
        }
        save_atomically(content, self.checkpoint)

    def restore(self) -> None:
        """Goes back to where the checkpoint was written."""
        content = load_checkpoint(self.checkpoint)
        problems = differences(self.keys, content["recipe"], WITHOUT_EFFECT)
        if content["data"] != self.source.digest():
            problems.append("the training data is another")
        if len(content["random"]) != self.world:
            problems.append(f"the number of processes (was {len(content['random'])}, is {self.world})")
        if problems:
            raise ValueError(
                f"{self.checkpoint} is of a run with other settings: {'; '.join(problems)}. Give those it began with, "
                "or another --output"
            )
        self.bare.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scheduler.load_state_dict(content["scheduler"])
        if self.ema:
            self.ema.load_state_dict(content["ema"])
        if self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        self.broken, self.best = content["broken"], content["best"]
        self.epoch, self.update, self.step, self.total = content["position"]
        set_random_state(content["random"][self.rank])

    def finish(self) -> Path:
        """Saves the model with its class names, draws the curves, reports broken files."""
        folder = self.output / "model"
        if not self.accelerator.is_main_process:
            return folder
        assert self.log is not None
        self.log.close()
        if self.best:
            self.bare.load_state_dict(load_checkpoint(self.output / "best.pt"))
        elif self.ema:
            self.bare.load_state_dict(self.ema.module.state_dict())
        vov3d.save_pretrained(self.bare, folder, label_names=self.source.classes)
        which = f"best of epoch {self.best['epoch']}, top-1 {self.best['top1']:.1f}%" if self.best else "last"
        print(f"model ({which}) in {folder}: vov3d predict FILE --model {folder}\ncurves in {draw_curves(self.output)}")
        if self.broken:
            print(f"{len(self.broken)} files are broken; others stood for them in training, validation left them out:")
            print(
                "\n".join(
                    f"  {name}: {reason.removeprefix(f'{name}: ')}" for name, reason in sorted(self.broken.items())
                )
            )
        return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains as the command line says."""
    args, rest = parser(str(__doc__)).parse_known_args(arguments)
    try:
        overrides = parse_overrides(rest)
        overrides |= {"data.path": args.data} if args.data else {}
        overrides |= {"model.name": args.model} if args.model else {}
        trainer = Trainer(load_recipe(args.recipe, overrides), args.output, args.resume == "auto")
        trainer.run()
        trainer.accelerator.end_training()
    except (OSError, ValueError, VideoError, vov3d.WeightsError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
