"""`vov3d serve`: labels videos that others send over HTTP."""

import argparse
import logging
import os
import re
import signal
import sys
from dataclasses import fields
from typing import Any

import torch

from vov3d.cli.arguments import device, positive, say_what_it_knows, span
from vov3d.cli.predict import DEFAULT_MODEL, exported_model, fast_on, loaded_model
from vov3d.serving.limits import Limits

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def size(text: str) -> int:
    """Parses a number of bytes: `500000`, `500k`, `64M` or `1G`."""
    found = re.fullmatch(r"(\d{1,15}) ?([kMG]?)B?", text.strip())
    if found is None or not int(found[1]):
        raise argparse.ArgumentTypeError(f"must be a number of bytes such as 500k, 64M or 1G, got {text!r}")
    return int(found[1]) * _UNITS[found[2]]


def add_commands(commands: Any) -> None:
    """Adds `serve` to the parser's commands."""
    p = commands.add_parser("serve")
    p.add_argument(
        "model",
        nargs="?",
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help="model or model.tag of 'vov3d list', the folder of a saved model, or a file of 'vov3d export' (default: "
        f"{DEFAULT_MODEL}, which knows only the motions of 'vov3d demo')",
    )
    p.add_argument("--port", type=int, default=8000, help="port; 0 for any that is free (default: 8000)")
    p.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine only)")
    _add_model(p)
    _add_limits(p)
    _add_access(p)
    p.epilog = "SIGTERM or Ctrl-C lets requests in work finish, a second one gives them up (exit code 1)."
    p.set_defaults(run=_serve)


def _add_model(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("model")
    weights = group.add_mutually_exclusive_group()
    weights.add_argument("--checkpoint", metavar="FILE", help="weights (default: the tag's, from the Hub)")
    weights.add_argument("--random-weights", action="store_true", help="no trained weights: labels are noise")
    group.add_argument("--views", default="1x1", metavar="CLIPSxCROPS", help="such as 10x3 or 2x3 (default: 1x1)")
    group.add_argument("--frames", type=positive, metavar="T", help="frames of a clip (default: the model's)")
    group.add_argument("--stride", type=float, metavar="S", help="distance of a clip's frames, at 30 fps")
    group.add_argument("--threshold", type=float, metavar="P", help="least score of a label of a multilabel model")
    group.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    group.add_argument("--threads", type=positive, metavar="N", help="of the network on a CPU (default: PyTorch's)")
    group.add_argument("--max-batch", type=positive, metavar="N", help="views at once (default: 2 on a CPU)")
    group.add_argument("--max-wait", type=span, default=0.01, metavar="T", help="wait for a batch (default: 10ms)")


def _add_limits(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("limits")
    group.add_argument("--max-bytes", type=size, default="64M", metavar="SIZE", help="of a video (default: 64M)")
    group.add_argument("--max-seconds", type=span, default="120", metavar="T", help="of a video (default: 120)")
    group.add_argument("--max-pixels", type=positive, default=7680 * 4320, metavar="N", help="of a frame (default: 8K)")
    group.add_argument("--queue", type=positive, default=32, metavar="N", help="requests in work (default: 32)")
    group.add_argument("--timeout", type=span, default="30", metavar="T", help="from upload to answer (default: 30)")
    group.add_argument("--decode-timeout", type=span, default="15", metavar="T", help="of one video (default: 15)")
    group.add_argument("--upload-timeout", type=span, default="60", metavar="T", help="of one upload (default: 60)")
    group.add_argument("--idle-timeout", type=span, default="10", metavar="T", help="without a byte (default: 10)")
    group.add_argument("--temp-dir", metavar="FOLDER", help="for uploads (default: the system's)")
    group.add_argument("--temp-bytes", type=size, default="1G", metavar="SIZE", help="of all uploads (default: 1G)")
    group.add_argument("--workers", type=positive, default=2, metavar="N", help="decoding processes (default: 2)")
    group.add_argument("--decode-bytes", type=size, default="2G", metavar="SIZE", help="memory of each (default: 2G)")


def _add_access(p: argparse.ArgumentParser) -> None:
    group = p.add_argument_group("access")
    group.add_argument(
        "--allow-url",
        action="append",
        default=[],
        metavar="PLACE",
        help="download videos from this host (https), or from addresses that begin so; may be repeated (default: none)",
    )
    group.add_argument("--allow-private-urls", action="store_true", help="their hosts may lie in private networks")
    group.add_argument(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="answer under this name only; may be repeated (default: any, but on 127.0.0.1 its own names only)",
    )
    group.add_argument("--access-log", action="store_true", help="print a line per request on stderr")


def limits_of(args: argparse.Namespace) -> Limits:
    """Returns the service's limits from the options, which have the limits' names."""
    return Limits(**{field.name: getattr(args, field.name) for field in fields(Limits)})


def _serve(args: argparse.Namespace) -> int:
    from vov3d.serving.server import LOOPBACK, listen, run  # needs the extra `serve`
    from vov3d.serving.service import Service
    from vov3d.video import VideoClassifier, parse_views

    if args.allow_private_urls and not args.allow_url:
        raise ValueError("--allow-private-urls has no effect without --allow-url; leave it out, or name the hosts")
    if not 0 <= args.port < 65536:
        raise ValueError(f"--port is {args.port}: give one from 1 to 65535, or 0 for any that is free")
    parse_views(args.views)
    limits = limits_of(args)
    logging.basicConfig(format="vov3d serve: %(message)s", stream=sys.stderr)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # clients get its warnings as errors
    target = device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    with listen(args.host, args.port) as sock:
        model = exported_model(args) or fast_on(target, loaded_model(args))
        say_what_it_knows("serve", model, option="vov3d serve ")
        classifier = VideoClassifier(
            model,
            views=args.views,
            batch_size=args.max_batch,
            stride=args.stride,
            num_frames=args.frames,
            threshold=args.threshold,
        )
        name = os.path.basename(os.path.normpath(args.model))  # clients learn no paths
        host, port = sock.getsockname()[:2]
        loopback = host == "::1" or host.startswith("127.")
        hosts = args.allow_host or ([*LOOPBACK, args.host] if loopback else None)
        place = f"[{host}]" if ":" in host else host
        with Service(
            classifier,
            name,
            limits,
            stride=args.stride,
            num_frames=args.frames,
            allow_urls=args.allow_url,
            private_urls=args.allow_private_urls,
            temp_folder=args.temp_dir,
        ) as service:
            outputs = classifier.task.describe(len(classifier.class_names))
            said = f"vov3d serve: {name} ({outputs}) at http://{place}:{port}"
            whole = run(service, sock, hosts, args.access_log, lambda: print(said, file=sys.stderr, flush=True))
            if whole:  # nothing is left that a second signal could give up
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, signal.SIG_IGN)
    return 0 if whole else 1
