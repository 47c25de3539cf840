"""Classifies any number of videos: a list, folder, glob, Parquet file or object store in, Parquet files out.

    python -m cluster.classify videos/ --output labels --model vov3d_m.k400_f16 --gpus 8
    python -m cluster.classify @list.txt --output labels --address auto --gpus 64      # on a running Ray cluster
    python -m cluster.classify @list.txt --output labels --no-ray --shard 3/64         # a task of a Slurm array

Decoding, the model and writing are separate stages with their own processes, so that GPUs do not wait for decoders. A
video that cannot be read is a row with its cause; one that is not decoded within --timeout is given up. What is stopped
or killed continues with the same command and does only what is missing.
"""

import argparse
import fcntl
import json
import logging
import math
import os
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa
from reference.training.stopping import run_resumable
from tqdm import tqdm

from cluster import results
from cluster.decoding import Decoding
from cluster.inputs import collect, is_whole
from cluster.stages import Decode, Model, Modelling, Write, names_table
from vov3d.cli.arguments import positive, shard, span
from vov3d.extras import install
from vov3d.files import replacing

_WAVE = 1_000_000  # videos that Ray plans at once; it keeps a record of every block
_SHARE = 0.98  # of the CPUs; the writer takes the rest
_WRITER = 0.01


@dataclass(frozen=True)
class Job:
    """All that the stages need.

    Attributes:
        videos: Those that have no row yet.
        decoding: How they are decoded.
        modelling: The model.
        folder: Where the results go.
        shard: The shard, and how many there are.
        decoders: Processes that decode; None for one a core.
        models: Processes that run the model; None for one a GPU, or one a core where there is none.
        gpus: GPUs; None for all.
        block: Videos that are handed on together, and done again when a machine is lost.
        rows: Videos of a file of results.
    """

    videos: list[str]
    decoding: Decoding
    modelling: Modelling
    folder: Path
    shard: tuple[int, int]
    decoders: int | None
    models: int | None
    gpus: int | None
    block: int
    rows: int


def main(argv: Sequence[str] | None = None) -> int:
    """Classifies videos; returns the exit status."""
    args = _parser().parse_args(argv)
    return run_resumable("classify", lambda: _classify(args))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("videos")
    data.add_argument(
        "videos",
        nargs="+",
        metavar="VIDEOS",
        help="videos, folders, globs, @LIST (one a line), .parquet files; or addresses, such as s3://bucket/folder/",
    )
    data.add_argument("--column", default="path", help="column of Parquet files (default: path)")
    data.add_argument("--shard", type=shard, default=(1, 1), metavar="I/N", help="only the I-th of N equal shares")
    out = parser.add_argument_group("results")
    out.add_argument("-o", "--output", required=True, type=Path, metavar="FOLDER", help="folder of Parquet files")
    out.add_argument("--topk", type=positive, metavar="K", help="labels of a video (default: 5)")
    out.add_argument("--threshold", type=float, metavar="P", help="least score of a label of a multilabel model")
    out.add_argument("--embedding", action="store_true", help="keep the vector before the classifier, too")
    out.add_argument(
        "--rows", type=positive, default=1000, metavar="N", help="videos of a file of results (default: 1000)"
    )
    out.add_argument("--retry-broken", action="store_true", help="do videos again whose row is an error")
    model = parser.add_argument_group("model")
    model.add_argument("--model", default="vov3d_n", metavar="NAME", help="model.tag, folder, or exported file")
    model.add_argument("--checkpoint", metavar="FILE", help="weights (default: those of the tag)")
    model.add_argument("--views", default="1x1", metavar="CLIPSxCROPS", help="such as 10x3 (default: 1x1)")
    model.add_argument("--frames", type=positive, metavar="T", help="frames of a clip (default: the model's)")
    model.add_argument("--stride", type=float, metavar="S", help="distance of frames at 30 fps (default: the model's)")
    model.add_argument("--fps", type=float, help="frames per second of folders (default: 12); files have their own")
    model.add_argument("--batch", type=positive, metavar="N", help="views at once (default: as many as fit in memory)")
    work = parser.add_argument_group("processes")
    work.add_argument("--decode-cpus", type=positive, metavar="N", help="processes that decode (default: one a core)")
    work.add_argument("--gpus", type=_count, metavar="N", help="GPUs, a process each (default: all; 0 for the CPU)")
    work.add_argument("--model-cpus", type=positive, metavar="N", help="without GPU: processes that run the model")
    work.add_argument("--timeout", type=span, default=60.0, metavar="TIME", help="for one video (default: 60s)")
    work.add_argument("--backend", choices=("pyav", "torchcodec"), help="decoder of files (default: pyav)")
    work.add_argument("--block", type=positive, default=16, metavar="N", help="videos handed on together (default: 16)")
    ray = parser.add_argument_group("Ray")
    ray.add_argument("--no-ray", action="store_true", help="one machine, no Ray: the same stages in a plain loop")
    ray.add_argument("--address", help="of a running Ray cluster, such as auto (default: one on this machine)")
    ray.add_argument("--cpus", type=positive, metavar="N", help="cores of a cluster on this machine (default: all)")
    ray.add_argument("--store-gb", type=float, metavar="GB", help="memory for what lies between the stages")
    return parser


def _count(text: str) -> int:
    return 0 if text == "0" else positive(text)


def _classify(args: argparse.Namespace) -> int:
    _check(args)
    videos = results.shard_of(collect(args.videos, args.column), args.shard)
    modelling = _modelling(args)
    # with Ray a small look at the model, here it is the one that is used
    model = Model(modelling if args.no_ray else replace(modelling, device="cpu"))
    job = _job(args, modelling, model, None if all(map(is_whole, videos)) else os.getcwd())
    finished = results.done(args.output)
    if args.retry_broken:
        print(f"classify: {results.forget_broken(args.output, videos)} broken videos are done again", file=sys.stderr)
        finished = results.done(args.output)
    todo = results.left(videos, finished)
    job = replace(job, videos=todo)
    if len(todo) < len(videos):
        print(f"classify: {len(videos) - len(todo)} of {len(videos)} videos are done", file=sys.stderr)
    begun = time.monotonic()
    counts, used = _run(args, job, model) if todo else ({}, {})
    seconds = time.monotonic() - begun
    repeated = results.remove_repeats(args.output)
    if repeated:
        print(f"classify: {repeated} rows were there twice, after a lost machine; one of each stays", file=sys.stderr)
    if todo:
        _summarize(args, counts, used, seconds)
    print(f"{len(videos)} videos have their rows in {args.output}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuses settings that would have no effect."""
    for option, given in (
        ("--address", args.address),
        ("--cpus", args.cpus),
        ("--store-gb", args.store_gb),
    ):
        if given is not None and args.no_ray:
            raise ValueError(f"{option} is for Ray and has no effect with --no-ray; leave one of them out")
        if given is not None and args.address and option != "--address":
            raise ValueError(f"{option} has no effect on a running cluster, which was started with its own")
    if args.fps is not None and not 0 < args.fps < math.inf:
        raise ValueError(f"--fps {args.fps:g}: frames per second must be positive and finite")
    if args.model_cpus and args.gpus:
        raise ValueError("--model-cpus is for a model on the CPU and has no effect with --gpus; leave one of them out")
    if args.no_ray and ((args.gpus or 1) > 1 or (args.model_cpus or 1) > 1):
        raise ValueError("--no-ray runs one model, on one GPU or core: start a process for each, with --shard I/N")
    if not args.no_ray:
        _ray()


def _ray() -> Any:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # it would report its usage
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # actors without GPU ask for the CPU themselves
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of how Ray Data itself starts actors
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ImportError(f"Ray is not installed: {install('cluster')}, or --no-ray on one machine") from error
    return ray


def _modelling(args: argparse.Namespace) -> Modelling:
    """Returns the model that is asked for; processes elsewhere start in other folders, so paths are made absolute."""
    model, checkpoint = (
        os.path.abspath(given) if given and os.path.exists(given) else given for given in (args.model, args.checkpoint)
    )
    return Modelling(
        model,
        checkpoint,
        args.views,
        args.frames,
        args.stride,
        args.batch,
        args.topk,
        args.threshold,
        args.embedding,
        device="cpu" if args.gpus == 0 else None,
    )


def _job(args: argparse.Namespace, modelling: Modelling, model: Model, start: str | None) -> Job:
    """Returns what the stages need, without videos, after a check of the folder of results; `start` as for `begin`."""
    kept = ("views", "frames", "stride", "topk", "threshold", "embedding", "checkpoint", "antialias")
    settings = {"model": model.name, "weights": model.digest, **{key: getattr(modelling, key) for key in kept}}
    settings["fps"] = args.fps
    results.begin(args.output, settings, start)
    wanted = ("num_frames", "frame_stride", "sampling", "input_size", "test_input_size", "mean", "std", "interpolation")
    cfg = {key: model.cfg[key] for key in wanted if key in model.cfg}
    views = model.clips, model.crops
    decoding = Decoding(cfg, *views, args.timeout, os.getcwd(), args.backend, modelling.antialias, args.fps)
    return Job(
        [],
        decoding,
        modelling,
        args.output.absolute(),
        args.shard,
        args.decode_cpus,
        args.model_cpus,
        args.gpus,
        args.block,
        args.rows,
    )


def _run(args: argparse.Namespace, job: Job, model: Model) -> tuple[dict[str, float], dict[str, int]]:
    """Runs the stages; returns what they counted, and how many processes each had."""
    counts: dict[str, float] = {}
    used: dict[str, int] = {}
    written = _plainly(job, model, used) if args.no_ray else _on_ray(args, job, used)
    with tqdm(total=len(job.videos), unit="video", disable=None, smoothing=0.05) as bar:
        for each in written:
            counts = results.merged([counts, each])
            bar.set_postfix(broken=int(counts["broken"]), refresh=False)
            bar.update(int(each["videos"]))
    return counts, used


# --- without Ray -----------------------------------------------------------------------------------------------------


def _plainly(job: Job, model: Model, used: dict[str, int]) -> Iterator[dict[str, float]]:
    """Runs the stages in this process, with decoders beside it; yields what was written."""
    count = job.decoders or os.cpu_count() or 1
    used |= {"decode": count, "model": 1, "write": 1, "gpus": int(model.on_gpu)}
    write = Write(job.folder, job.shard)
    waiting: list[pa.Table] = []
    try:
        for views in _decoded(job, count):
            waiting.append(model(views))
            if sum(map(len, waiting)) >= job.rows:
                yield from write(pa.concat_tables(waiting)).to_pylist()
                waiting = []
    finally:  # also when it is stopped
        if waiting:
            last = write(pa.concat_tables(waiting)).to_pylist()
    if waiting:
        yield from last


def _decoded(job: Job, count: int) -> Iterator[pa.Table]:
    """Yields the views of all videos, some blocks ahead of the caller."""
    idle: SimpleQueue[Decode] = SimpleQueue()
    decoders = [Decode(job.decoding) for _ in range(count)]
    for each in decoders:
        idle.put(each)

    def work(names: pa.Table) -> list[pa.Table]:
        decoder = idle.get()
        try:
            return list(decoder(names))
        finally:
            idle.put(decoder)

    running: deque[Future[list[pa.Table]]] = deque()
    pool = ThreadPoolExecutor(count)
    try:
        for names in _blocks(job.videos, job.block):
            running.append(pool.submit(work, names))
            if len(running) > 2 * count:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()
    finally:
        for future in running:
            future.cancel()
        for each in decoders:
            each.close()
        pool.shutdown()


def _blocks(videos: Sequence[str], size: int) -> Iterator[pa.Table]:
    for start in range(0, len(videos), size):
        yield names_table(list(videos[start : start + size]))


# --- with Ray --------------------------------------------------------------------------------------------------------


def _on_ray(args: argparse.Namespace, job: Job, used: dict[str, int]) -> Iterator[dict[str, float]]:
    """Runs the stages as actors of Ray Data; yields what was written."""
    ray = _ray()
    with ExitStack() as stack:
        temporary = None if args.address else stack.enter_context(_temporary_folder())
        stack.callback(ray.shutdown)
        _start(args, ray, temporary)
        plan = _processes(job, ray.cluster_resources())
        used |= {stage: plan[stage] for stage in ("decode", "model", "write", "gpus")}
        for start in range(0, len(job.videos), _WAVE):
            wave = list(_blocks(job.videos[start : start + _WAVE], job.block))
            for batch in _pipeline(ray, job, wave, plan).iter_batches(batch_size=None, batch_format="pyarrow"):
                yield from batch.to_pylist()


@contextmanager
def _temporary_folder() -> Iterator[str]:
    """Gives a new folder for Ray's files, and removes those of killed runs, which are not locked.

    It lies below /tmp where the user's own would make the names of sockets too long.
    """
    place = own if len(own := tempfile.gettempdir()) <= 24 else "/tmp"
    for lock in Path(place).glob("ray-*/vov3d.lock"):
        with suppress(OSError), lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix="ray-", dir=place)
    try:
        with Path(folder, "vov3d.lock").open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(args: argparse.Namespace, ray: Any, temporary: str | None) -> None:
    """Starts Ray on this machine, reachable from it alone, or joins a cluster."""
    common: dict[str, Any] = dict(logging_level="ERROR", log_to_driver=False)
    if args.address:
        examples = Path(__file__).parents[1]
        modules = [str(examples / "cluster"), str(examples / "reference")]
        ray.init(address=args.address, runtime_env={"py_modules": modules}, **common)
    else:
        store = int(args.store_gb * 1e9) if args.store_gb else None
        options: dict[str, Any] = dict(_temp_dir=temporary, _node_ip_address="127.0.0.1")
        ray.init(num_cpus=args.cpus, include_dashboard=False, object_store_memory=store, **options, **common)
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # classify has its own
    context.print_on_execution_start = False


def _processes(job: Job, resources: dict[str, float]) -> dict[str, Any]:
    """Returns how many actors each stage has, and the CPUs and GPUs of one.

    Raises:
        ValueError: If the cluster has fewer GPUs than were asked for.
    """
    cpus, there = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    gpus = there if job.gpus is None else job.gpus
    if gpus > there:
        raise ValueError(f"--gpus {gpus}: the cluster has {there}")
    decoders = job.decoders or cpus
    models = gpus or job.models or cpus
    # More processes than cores share them: the system gives each stage what it needs.
    share = min(1.0, int(1e4 * _SHARE * cpus / (decoders + models)) / 1e4)
    return {"decode": decoders, "model": models, "write": 1, "cpus": share, "gpus": gpus}


def _pipeline(ray: Any, job: Job, blocks: list[pa.Table], plan: dict[str, Any]) -> Any:
    """Returns the data set of what the write stage counts; nothing runs before it is read."""

    def pool(size: int) -> Any:
        # two blocks at an actor: one in work, one that waits
        return ray.data.ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=2)

    # Ray Data starts lost actors again and repeats their blocks without being asked.
    common: dict[str, Any] = dict(batch_format="pyarrow")
    return (
        ray.data.from_arrow(blocks)
        .map_batches(
            Decode,
            batch_size=None,
            compute=pool(plan["decode"]),
            fn_constructor_args=(job.decoding,),
            num_cpus=plan["cpus"],
            **common,
        )
        .map_batches(
            Model,
            batch_size=None,
            compute=pool(plan["model"]),
            fn_constructor_args=(job.modelling,),
            num_cpus=plan["cpus"],
            num_gpus=1 if plan["gpus"] else None,
            **common,
        )
        .map_batches(
            Write,
            batch_size=job.rows,
            compute=pool(plan["write"]),
            fn_constructor_args=(job.folder, job.shard),
            num_cpus=_WRITER,
            **common,
        )
    )


# --- summary ---------------------------------------------------------------------------------------------------------


def _summarize(args: argparse.Namespace, counts: dict[str, float], used: dict[str, int], seconds: float) -> None:
    """Prints the rates of the stages, and writes them for `python -m cluster.plan`."""
    videos, views = counts["videos"], counts["views"]
    print(f"{videos:.0f} videos, {counts['broken']:.0f} broken, in {seconds:.1f} s: {videos / seconds:.2f} videos/s")
    done = {"decode": videos, "model": videos - counts["broken"], "write": videos}
    stages: dict[str, Any] = {}
    for stage, count in list(used.items())[:3]:
        busy, cpu = counts[f"{stage}_seconds"], counts.get(f"{stage}_cpu_seconds", 0.0)
        rate = done[stage] / busy if busy else 0.0
        part = 100 * busy / (count * seconds)
        print(f"  {stage:7} {count:3} processes, {part:5.1f}% busy, {rate:10.2f} videos/s each while busy")
        stages[stage] = {"processes": count, "videos": done[stage], "seconds": busy, "cpu_seconds": cpu}
    stages["model"]["on_gpus"] = used["gpus"]
    summary: dict[str, Any] = {"videos": videos, "broken": counts["broken"], "views": views, "seconds": seconds}
    summary |= {"bytes": counts["bytes"], "stages": stages}
    name = "_summary.json" if args.shard == (1, 1) else f"_summary-{args.shard[0]}-of-{args.shard[1]}.json"
    with replacing(args.output / name) as draft:
        draft.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
