"""Shared set-up: a Hub on the loopback interface in place of the real one, and one thread a worker."""

import os
import tempfile

from hub_server import HubServer, start_hub

_HUB = start_hub()
_HOME = tempfile.TemporaryDirectory(prefix="vov3d-hf-home-")
# The Hub client reads these once, when it is imported.
os.environ |= {"HF_ENDPOINT": _HUB.url, "HF_HOME": _HOME.name, "HF_HUB_DISABLE_TELEMETRY": "1"}
for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "VOV3D_HUB_ORG"):
    os.environ.pop(name, None)

import pytest  # noqa: E402
import torch  # noqa: E402

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


@pytest.fixture
def hub() -> HubServer:
    """The Hub, empty."""
    _HUB.clear()
    return _HUB
