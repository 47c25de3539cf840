"""Plans how long many videos take on a cluster, from the rates of its stages, and names the bottleneck.

    python -m cluster.plan --videos 10e6 --gpus 64 --decode-rate 20 --model-rate 300
    python -m cluster.plan --videos 10e6 --gpus 64 --summary labels/_summary.json --model-rate 300 --price 25

A rate is videos per second: of decoding on one core, of the model on one GPU. `cluster.classify` measures both and
writes them into `_summary.json`: run it on a thousand of your videos on one machine of the cluster.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cluster:
    """Machines of one kind.

    Attributes:
        gpus: GPUs of all machines.
        gpus_each: GPUs of a machine.
        cores_each: Cores of a machine.
        price: Of a machine, for an hour, in any currency; None if not known.
    """

    gpus: int
    gpus_each: int = 8
    cores_each: int = 96
    price: float | None = None

    @property
    def machines(self) -> int:
        """Number of machines."""
        return math.ceil(self.gpus / self.gpus_each)

    @property
    def decode_cores(self) -> int:
        """Cores that decode: all but one for each GPU's own process."""
        return max(self.machines * self.cores_each - self.gpus, 1)


@dataclass(frozen=True)
class Plan:
    """Duration and cost.

    Attributes:
        videos: How many.
        decode: Videos per second that all cores decode.
        model: Videos per second that all GPUs take.
        cluster: The machines.
        cores_per_gpu: Cores that keep one GPU busy.
    """

    videos: float
    decode: float
    model: float
    cluster: Cluster
    cores_per_gpu: float

    @property
    def rate(self) -> float:
        """Videos per second: that of the slower stage."""
        return min(self.decode, self.model)

    @property
    def bottleneck(self) -> str:
        """The slower stage."""
        return "decode" if self.decode < self.model else "model"

    @property
    def hours(self) -> float:
        """Duration."""
        return self.videos / self.rate / 3600

    @property
    def machine_hours_per_million(self) -> float:
        """Machine hours for a million videos; times the price of an hour, what a million costs."""
        return self.cluster.machines * 1e6 / self.rate / 3600

    @property
    def busy(self) -> float:
        """Share of the time in which the GPUs work, from 0 to 1."""
        return self.rate / self.model

    @property
    def more_machines(self) -> int:
        """Machines of cores alone, of the same kind, that would make decoding as fast as the model."""
        lacking = max(self.model - self.decode, 0.0)
        each = self.cluster.cores_each * self.decode / self.cluster.decode_cores
        return math.ceil(round(lacking / each, 9))


def plan(videos: float, decode_rate: float, model_rate: float, cluster: Cluster) -> Plan:
    """Returns the plan.

    Args:
        videos: How many.
        decode_rate: Videos per second and core.
        model_rate: Videos per second and GPU.
        cluster: The machines.

    Raises:
        ValueError: If a number is not positive.
    """
    numbers = {
        "videos": videos,
        "decode rate": decode_rate,
        "model rate": model_rate,
        "gpus": cluster.gpus,
        "gpus of a machine": cluster.gpus_each,
        "cores of a machine": cluster.cores_each,
    }
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value:g}: it must be above 0 and finite")
    decode, model = cluster.decode_cores * decode_rate, cluster.gpus * model_rate
    return Plan(videos, decode, model, cluster, model_rate / decode_rate)


def rates_of(summary: Path) -> tuple[float, float | None]:
    """Returns videos per second of one core and of one GPU, as `cluster.classify` measured them.

    The second is None where the model ran on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no summary, or no video was decoded.
    """
    if not summary.is_file():
        raise FileNotFoundError(f"{summary}: no such file; python -m cluster.classify writes it into its output folder")
    try:
        stages = json.loads(summary.read_text(encoding="utf-8"))["stages"]
        decode, model = stages["decode"], stages["model"]
        of_gpu = model["videos"] / model["seconds"] if model["on_gpus"] else None
        return decode["videos"] / decode["cpu_seconds"], of_gpu
    except (ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{summary}: is no summary of decoded videos ({type(error).__name__}: {error})") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a plan; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=float, required=True, help="how many, such as 10e6")
    parser.add_argument("--gpus", type=int, required=True, help="GPUs of all machines")
    parser.add_argument("--gpus-per-machine", type=int, default=8, help="default: 8")
    parser.add_argument("--cores-per-machine", type=int, default=96, help="default: 96")
    parser.add_argument("--summary", type=Path, metavar="FILE", help="_summary.json of cluster.classify")
    parser.add_argument("--decode-rate", type=float, help="videos per second and core (default: of the summary)")
    parser.add_argument("--model-rate", type=float, help="videos per second and GPU (default: of the summary)")
    parser.add_argument("--price", type=float, help="of a machine for an hour")
    args = parser.parse_args(argv)
    try:
        decode, model = args.decode_rate, args.model_rate
        if args.summary and (decode is None or model is None):
            measured = rates_of(args.summary)
            decode, model = decode or measured[0], model or measured[1]
            if model is None:
                raise ValueError(
                    f"{args.summary}: the model ran on the CPU, which says nothing of GPUs: give --model-rate"
                )
        if decode is None or model is None:
            raise ValueError("rates are missing: give --summary, or --decode-rate and --model-rate")
        cluster = Cluster(args.gpus, args.gpus_per_machine, args.cores_per_machine, args.price)
        print("\n".join(lines(plan(args.videos, decode, model, cluster))))
    except (OSError, ValueError) as error:
        print(f"plan: {error}", file=sys.stderr)
        return 1
    return 0


def lines(found: Plan) -> list[str]:
    """Returns a plan as text."""
    cluster = found.cluster
    gpus = f"{cluster.gpus} GPUs; {found.cores_per_gpu:.1f} cores decode for one"
    per = found.machine_hours_per_million
    text = [
        f"machines    {cluster.machines} of {cluster.gpus_each} GPUs and {cluster.cores_each} cores",
        f"decode      {found.decode:12,.0f} videos/s on {cluster.decode_cores} cores",
        f"model       {found.model:12,.0f} videos/s on {gpus}",
        f"bottleneck  {found.bottleneck}: GPUs are busy {100 * found.busy:.0f}% of the time",
        f"duration    {found.hours:.2f} hours for {found.videos:,.0f} videos",
        f"cost        {per:.2f} machine hours a million videos = {cluster.machines} x 1e6 / ({found.rate:,.0f} x 3600)",
    ]
    if cluster.price is not None:
        text.append(f"            x {cluster.price:g} an hour = {per * cluster.price:,.2f} a million videos")
    if found.more_machines:
        text.append(f"balance     {found.more_machines} more machines of {cluster.cores_each} cores, without GPUs")
    return text


if __name__ == "__main__":
    sys.exit(main())
