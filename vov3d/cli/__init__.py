"""The command line, one module per group of commands.

Results go to stdout, everything else to stderr. Exit codes: 0 success, 1 an error (named on stderr), 2 wrong
arguments, 130 ended by Ctrl-C.

Only the module of the given command is imported: `--version`, `--help` and `list` need no network and do not import
PyTorch.
"""

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

import vov3d

# The module of each command, and its summary in `vov3d --help`.
COMMANDS = {
    "demo": ("demo", "label generated clips and show which labels are correct, or start a web page (--web)"),
    "list": ("zoo", "list the models and their published weights"),
    "info": ("info", "show parameters, multiply-adds, activations and shapes of a model"),
    "predict": ("predict", "label video files"),
    "live": ("live", "label a camera, an address or a file frame by frame"),
    "serve": ("serve", "label videos that others send over HTTP"),
    "explain": ("explain", "show where and when a video speaks for a label"),
    "embed": ("embed", "turn videos into vectors for comparison"),
    "convert": ("weights", "convert checkpoints of PySlowFast and PyTorchVideo to folders, and back"),
    "publish": ("weights", "convert published weights and upload them to the Hub with their cards"),
    "export": ("export", "export a model to ONNX, OpenVINO, torch.export or ExecuTorch"),
    "benchmark": ("benchmark", "measure time and memory of models on this machine, against its roofline"),
}


def main(argv: Sequence[str] | None = None, begin: Callable[[], object] = lambda: None) -> int:
    """Runs a command.

    Args:
        argv: The command and its arguments; those of the process if None.
        begin: Called after imports and parsing, before the command runs.

    Returns:
        The exit code.
    """
    argv = sys.argv[1:] if argv is None else argv
    command = next((word for word in argv if not word.startswith("-")), "")
    print_any_name()
    try:
        args = command_parser(command).parse_args(argv)
        begin()
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as e:
        if _interrupted(e):
            print(f"vov3d {command}: interrupted", file=sys.stderr)
            return 130
        if isinstance(e, ImportError | OSError | RuntimeError | ValueError):
            print(f"vov3d {command}: {_with_options(str(e))}", file=sys.stderr)
            return 1
        raise


def print_any_name() -> None:
    """Sets stdout and stderr to print characters outside their encoding as escapes instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _with_options(message: str) -> str:
    """Replaces Python arguments in an error by the options of the command line."""
    # Only messages of this module name arguments. It is not imported here: importing timm may be what has failed.
    hub_client = sys.modules.get("vov3d.weights.hub_client")
    for python, option in getattr(hub_client, "ON_THE_COMMAND_LINE", {}).items():
        message = message.replace(python, option)
    return message


def _interrupted(error: BaseException | None) -> bool:
    """Returns whether Ctrl-C caused an error; C extensions turn it into other errors while they load."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, KeyboardInterrupt):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def command_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Builds the parser of one command, of all if None, or for an unknown word of the list of commands only."""
    parser = argparse.ArgumentParser(prog="vov3d", description="Efficient video 3D CNNs: VoV3D and X3D.")
    parser.add_argument("--version", action="version", version=f"vov3d {vov3d.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    wanted = COMMANDS if command is None else {command} & COMMANDS.keys()
    for module in dict.fromkeys(COMMANDS[name][0] for name in wanted):
        import_module(f"vov3d.cli.{module}").add_commands(commands)
    for name, (_, summary) in COMMANDS.items() if not wanted else ():
        commands.add_parser(name, help=summary)
    return parser
