"""Shared set-up: a Hub on the loopback interface in place of the real one, and one thread a worker."""

import gc
import os
import random
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

from helpers.hub_server import HubServer, start_hub

gc.disable()  # until everything is imported: there is no garbage among it
_HUB = start_hub()
_HOME = tempfile.TemporaryDirectory(prefix="vov3d-hf-home-")
# The Hub client reads these once, when it is imported.
os.environ |= {
    "HF_ENDPOINT": _HUB.url,
    "HF_HOME": _HOME.name,
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_XET": "1",
}
# Whatever else would go out, such as the telemetry of OpenVINO, ends at the Hub on the loopback interface, which is no
# proxy and does not count it: it comes from processes in the background, at any time.
os.environ |= {"https_proxy": _HUB.url, "HTTPS_PROXY": _HUB.url}
for name in (
    "HF_HUB_OFFLINE",
    "HF_TOKEN",
    "HF_HUB_CACHE",
    "VOV3D_HUB_ORG",
    "VOV3D_WEIGHTS_DIR",
    "NO_PROXY",
    "no_proxy",
):
    os.environ.pop(name, None)

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # of child processes as well: threads that wait for one another starve the rest

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a script: tests of Ctrl-C need it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Leaves what is imported out of garbage collections, which would take an eighth of the time, and has fewer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Gives each process a part of the suite in a row, so that few fixtures of a file are made in several."""
    if config.getoption("dist") != "load":  # the default of `-n`; whoever asks for another gets it
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


class TorchRandom:
    """PyTorch's random numbers, to be reset by hypothesis before each example, so that a failure can be repeated."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_TORCH_RANDOM = TorchRandom()  # hypothesis keeps no reference of its own
hypothesis.register_random(_TORCH_RANDOM)


@pytest.fixture
def hub() -> HubServer:
    """Returns the Hub, empty."""
    _HUB.clear()
    return _HUB


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    """Gives every test its own caches, and lets no test wait for a host."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("VOV3D_CACHE", str(tmp_path / "vov3d-cache"))
    monkeypatch.setattr("vov3d.weights.download._FIRST_WAIT", 0.0)


@pytest.fixture(autouse=True)
def same_numbers():
    """Starts every test from the same random numbers, whichever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Runs PyTorch on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
