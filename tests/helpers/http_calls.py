"""Calls of an ASGI application within the process, and clips to send."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from vov3d.synthetic.moving_shapes import make_clip, write_clip


async def asked(app: Any, method: str, path: str, **kwargs: Any) -> httpx.Response:
    """Sends a request to an application."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client:
        return await client.request(method, path, **kwargs)


def ask(app: Any, method: str, path: str, **kwargs: Any) -> httpx.Response:
    """Sends one request to an application, in an event loop of its own."""
    return asyncio.run(asked(app, method, path, **kwargs))


def form(content: bytes, name: str = "clip.mp4") -> dict[str, Any]:
    """Returns the arguments for a video in a form."""
    return {"files": {"file": (name, content, "video/mp4")}}


def raw(content: bytes, kind: str = "video/mp4") -> dict[str, Any]:
    """Returns the arguments for a video as the body."""
    return {"content": content, "headers": {"Content-Type": kind}}


def shape_clip(path: Path, label: int = 0, frames: int = 16, seed: int = 3) -> bytes:
    """Writes a clip of a moving shape and returns it."""
    write_clip(path, make_clip(label, np.random.default_rng(seed), frames), fps=10)
    return path.read_bytes()


def code_of(answer: httpx.Response) -> str:
    """Returns the name of an answer's error; the answer must be an error as clients may rely on."""
    error = answer.json()["error"]
    assert set(error) == {"code", "message"}
    assert "Traceback" not in answer.text
    assert not re.search(r"(?<![\w.:/])/\w", error["message"]), "a path of the server"
    return error["code"]
