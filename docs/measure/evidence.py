"""Tests the paper's statements with nano networks of equal cost, three seeds each, on moving shapes.

    python docs/measure evidence list                 # finished and missing runs
    python docs/measure evidence run table3           # trains what is missing; also table4, table5, longer, ...
    python docs/measure evidence report        # writes docs/results/evidence.md and its pictures from what is there

Table 3 of the paper adds T-OSA and D(2+1)D one by one, Table 4 compares five bottlenecks within T-OSA, Table 5 takes
more frames; `longer` trains three times as long, `longest` six times, `rates` tries higher learning rates, `why` undoes
choices of T-OSA. A run takes two to five minutes on one core, one of `longer` three times that, one of `longest` six.
Each leaves one JSON file in docs/results/evidence when it ends; a killed run continues after its last epoch, a finished
one is not repeated.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

from comparison.page import parts
from comparison.plans import PLANS, planned, read, top1
from comparison.runs import Sizes, execute
from pages import DOCS, fill

RESULTS, PAGE = DOCS / "results" / "evidence", DOCS / "results" / "evidence.md"


def run(plan: str, results: Path, work: Path, sizes: Sizes, most: int | None = None) -> None:
    """Does the missing runs of a plan one after the other, at most so many."""
    for _ in itertools.count() if most is None else range(most):
        found = read(results)
        missing = [run for run in planned(plan, found) if run.name not in found]
        if not missing:
            return
        print(f"--- {missing[0].name} ({len(missing)} to do, as far as known)", flush=True)
        print(f"--- top-1 {top1(execute(missing[0], sizes, results, work)):.1f}%", flush=True)


def show(results: Path) -> None:
    """Prints the runs of each plan, with the accuracy of those that are done."""
    found = read(results)
    for plan in PLANS:
        print(plan)
        for one in planned(plan, found):
            print(f"  {one.name:36} {f'{top1(found[one.name]):.1f}%' if one.name in found else 'to do'}")


def report(results: Path, page: Path) -> None:
    """Writes the measured parts of the page and the pictures beside the JSON files."""
    fill(page, **parts(read(results), results))
    print(f"written: {page}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FOLDER", help="JSON files (docs/results/evidence)"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list finished and missing runs")
    commands.add_parser("report", help="writes the page and its pictures from what is there")
    running = commands.add_parser("run", help="trains what is missing")
    running.add_argument("plan", choices=PLANS)
    running.add_argument(
        "--work", type=Path, default=Path("runs/evidence"), metavar="FOLDER", help="checkpoints (runs/evidence)"
    )
    running.add_argument("--most", type=int, metavar="N", help="stop after so many runs (all that are missing)")
    args = parser.parse_args(arguments)
    try:
        if args.command == "list":
            show(args.results)
        elif args.command == "report":
            report(args.results, PAGE)
        else:
            run(args.plan, args.results, args.work, Sizes(), args.most)
    except (OSError, ValueError) as error:
        print(f"evidence.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
