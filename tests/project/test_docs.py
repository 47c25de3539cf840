"""The pages: their Python runs as printed, their commands exist, their pictures have scripts."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from helpers.numbered_videos import write_video
from helpers.reference_files import published_file

from vov3d.cli import command_parser

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.md") if page.parent.name != "reference")


@pytest.fixture
def page_files(tmp_path, monkeypatch):
    """Writes the files that the pages name: a clip, a checkpoint, and a folder of published weights."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", num_frames=20)
    (tmp_path / "downloads").mkdir()
    file = published_file("vov3d_m_k400", tmp_path)
    file.rename(tmp_path / "weights.pth")
    (tmp_path / "downloads/vov3d_m.k400_f16.pth").symlink_to(tmp_path / "weights.pth")
    monkeypatch.setenv("VOV3D_WEIGHTS_DIR", str(tmp_path / "downloads"))
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.slow) if p.stem in ("export", "huggingface", "streaming") else p for p in PAGES],
    ids=lambda page: page.stem,
)
def test_python_blocks_run_one_after_the_other(page, page_files):
    namespace: dict = {}
    for kind, block in re.findall(r"^```python( no-run)?\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        code = compile(block, page.name, "exec")
        if not kind:
            exec(code, namespace)


def commands(text):
    """Returns lines for the shell that call `vov3d`, without those of blocks that are marked `no-run`."""
    text = re.sub(r"^```bash no-run\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"^(?:.*&& )?vov3d ([^#\n|`]*)$", text, re.MULTILINE)


COMMANDS = [line for page in PAGES for line in commands(page.read_text())]


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_understood(line):
    assert command_parser().parse_args(shlex.split(line)).command


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.md")), ids=lambda page: page.stem)
def test_links_and_pictures_are_there(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} points to {target}"
