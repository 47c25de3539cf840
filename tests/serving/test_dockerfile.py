"""The Dockerfile: pinned, without rights, checked for health, and with a command that exists."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vov3d.cli import command_parser

FILE = Path(__file__).parents[2] / "examples" / "serving" / "Dockerfile"


def problems(text: str) -> list[str]:
    """Lists what is wrong in a Dockerfile."""
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip()]
    images = [rest.split()[0] for word, rest in steps if word == "FROM"]
    found = [
        image for image in images if not re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", image)
    ]
    last = max(number for number, (word, _) in enumerate(steps) if word == "FROM")
    users = [rest for word, rest in steps[last:] if word == "USER"]
    if not users or users[-1] in ("root", "0"):
        found.append("runs as root")
    if not any(word == "HEALTHCHECK" for word, _ in steps[last:]):
        found.append("has no health check")
    found += [rest for word, rest in steps if word == "ADD" or "curl" in rest or "sudo" in rest]
    return found


def test_it_is_pinned_has_no_rights_and_is_checked():
    assert problems(FILE.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (":3.11.13-slim-bookworm", ":latest"),
        (":3.11.13-slim-bookworm", ""),
        ("USER 10001", "USER root"),
        ("USER 10001", "ENV A=b"),
        ("HEALTHCHECK", "LABEL"),
        ("COPY vov3d", "ADD https://example.org/vov3d"),
    ],
)
def test_each_rule_is_checked(old, new):
    text = FILE.read_text()
    assert old in text
    assert problems(text.replace(old, new))


def test_its_command_exists():
    words = [
        json.loads(re.search(rf"^{word} (\[.*\])$", FILE.read_text(), re.MULTILINE)[1])
        for word in ("ENTRYPOINT", "CMD")
    ]
    program, *given = words[0] + words[1]
    args = command_parser("serve").parse_args(given)
    assert (program, args.host, args.port, args.model) == ("vov3d", "0.0.0.0", 8000, "vov3d_n")
    assert "COPY pyproject.toml README.md LICENSE" in FILE.read_text()  # what the build of a wheel reads


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing():
    done = subprocess.run(["hadolint", str(FILE)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("", 0)
