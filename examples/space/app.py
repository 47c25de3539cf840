"""The page of `vov3d demo --web` as a Hugging Face Space."""

from vov3d.serving.page import PageLimits, build_app, launch_app

app = build_app(limits=PageLimits(megabytes=50, seconds=120))

if __name__ == "__main__":
    launch_app(app, host="0.0.0.0")  # the container of a Space is reached from outside
