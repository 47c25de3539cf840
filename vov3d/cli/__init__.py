"""The command line, one module a group of commands.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 something failed (named on stderr), 2 the
command was not understood.
"""

import argparse
import os
import sys
from collections.abc import Sequence

import vov3d
from vov3d.cli import benchmark, demo, embed, export, predict, weights, zoo
from vov3d.models._hub import ON_THE_COMMAND_LINE


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns its exit code."""
    args = _parser().parse_args(argv)
    try:
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ImportError, OSError, RuntimeError, ValueError) as e:
        print(f"vov3d {args.command}: {_in_words_of_commands(str(e))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _in_words_of_commands(message: str) -> str:
    """An error that names arguments of Python, with the options that they are here."""
    for python, option in ON_THE_COMMAND_LINE.items():
        message = message.replace(python, option)
    return message


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vov3d", description="Efficient video 3D CNNs: VoV3D and X3D.")
    parser.add_argument("--version", action="version", version=f"vov3d {vov3d.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for group in (demo, zoo, predict, embed, weights, export, benchmark):
        group.add_commands(commands)
    return parser
