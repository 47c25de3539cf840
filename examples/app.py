"""Starts the web page: drop a video, choose a model, see its labels. The same as `vov3d demo --web`.

    python examples/app.py                                   # all models with published weights
    python examples/app.py --model runs/mine --port 8000     # one that you fine-tuned

Needs the extra `demo`. The page is on this machine only; `examples/space/` is the same page for a Hugging Face Space.
"""

import argparse

from vov3d.serving.page import PageLimits, build_app, launch_app, wait_for_end


def main() -> None:
    """Starts the page, until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", metavar="NAME", help="model.tag or folder; repeat it for more")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--megabytes", type=float, default=100, help="largest file (default: 100)")
    parser.add_argument("--seconds", type=float, default=600, help="longest video (default: 600)")
    args = parser.parse_args()
    app = build_app(args.model, PageLimits(megabytes=args.megabytes, seconds=args.seconds))
    address = launch_app(app, port=args.port, block=False)
    print(f"{address} (Ctrl-C to stop)", flush=True)
    wait_for_end(app)


if __name__ == "__main__":
    try:
        main()
    except (ImportError, OSError, ValueError) as error:
        raise SystemExit(f"app: {error}") from None
