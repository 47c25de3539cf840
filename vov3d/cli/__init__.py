"""The command line, one module a group of commands.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 something failed (named on stderr), 2 the
command was not understood, 130 ended by Ctrl-C.

Only the module of the command that was given is imported: `--version`, `--help` and `list` need no network and do not
wait for PyTorch.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import vov3d

# The module of each command, and what `vov3d --help` says of it.
COMMANDS = {
    "demo": ("demo", "make clips, label them and show which labels are correct, without any network"),
    "list": ("zoo", "the models and their published weights"),
    "info": ("info", "parameters, multiply-adds, activations and shapes of a model"),
    "predict": ("predict", "labels for video files"),
    "live": ("live", "labels for what a camera, an address or a file shows, frame by frame"),
    "embed": ("embed", "videos as vectors to compare them by"),
    "convert": ("weights", "checkpoints of PySlowFast and PyTorchVideo into folders, and back"),
    "publish": ("weights", "published weights to the Hub, converted, with their cards"),
    "export": ("export", "a model into a file of ONNX, OpenVINO, torch.export or ExecuTorch"),
    "benchmark": ("benchmark", "time and memory of models on this machine, against its roofline"),
}


def main(argv: Sequence[str] | None = None, begin: Callable[[], object] = lambda: None) -> int:
    """Runs a command.

    Args:
        argv: The command and its arguments, those of the process if None.
        begin: Called when all is imported and the arguments are understood, before the command runs.

    Returns:
        The exit code.
    """
    argv = sys.argv[1:] if argv is None else argv
    command = next((word for word in argv if not word.startswith("-")), "")
    _print_any_name()
    try:
        args = command_parser(command).parse_args(argv)
        begin()
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as e:
        if _interrupted(e):
            print(f"vov3d {command}: interrupted", file=sys.stderr)
            return 130
        if isinstance(e, ImportError | OSError | RuntimeError | ValueError):
            print(f"vov3d {command}: {_in_words_of_commands(str(e))}", file=sys.stderr)
            return 1
        raise


def _print_any_name() -> None:
    """From now on names that the terminal's encoding lacks are printed with escapes, where Python would stop."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _in_words_of_commands(message: str) -> str:
    """An error that names arguments of Python, with the options that they are here."""
    from vov3d.weights.hub_client import ON_THE_COMMAND_LINE  # not before: it waits for timm

    for python, option in ON_THE_COMMAND_LINE.items():
        message = message.replace(python, option)
    return message


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is what an error comes from; modules in C turn it into errors of their own while they load."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def command_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser: of one command, of all if None, or for a word that is none, only the list of them."""
    parser = argparse.ArgumentParser(prog="vov3d", description="Efficient video 3D CNNs: VoV3D and X3D.")
    parser.add_argument("--version", action="version", version=f"vov3d {vov3d.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = COMMANDS if command is None else {command} & COMMANDS.keys()
    for module in dict.fromkeys(COMMANDS[name][0] for name in wanted):
        import_module(f"vov3d.cli.{module}").add_commands(commands)
    for name, (_, summary) in COMMANDS.items() if not wanted else ():
        commands.add_parser(name, help=summary)
    return parser
