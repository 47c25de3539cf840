"""The README: its Python runs as printed, its table is current, its commands exist."""

import re
import shlex
from pathlib import Path

import pytest
import zoo
from pages import part_of

from vov3d.cli import command_parser

TEXT = (Path(__file__).parents[2] / "README.md").read_text()


def test_python_blocks_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    namespace: dict = {}
    for block in blocks:
        exec(block, namespace)
    assert namespace["logits"].shape == (1, 10)
    assert len(namespace["features"]) == 5
    assert namespace["y"].shape == (2, 24, 8, 28, 28)
    assert namespace["z"].shape == (2, 40, 8, 14, 14)
    assert namespace["again"].num_classes == 10


def test_blocks_that_need_files_are_valid_python():
    blocks = re.findall(r"^```python no-run\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        compile(block, "README.md", "exec")


def test_zoo_table_is_the_registrys():
    assert part_of(TEXT, "zoo") == zoo.short_table(), "write it anew with `python docs/measure zoo`"


@pytest.mark.parametrize("line", re.findall(r"^(?:.*&& )?vov3d ([^#\n]*)", TEXT, re.MULTILINE))
def test_commands_are_understood(line):
    assert command_parser().parse_args(shlex.split(line)).command


def test_pictures_are_there():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", TEXT)
    assert pictures
    for picture in pictures:
        path = Path(__file__).parents[2] / picture
        assert path.stat().st_size > 10_000
        assert path.with_suffix(".py").is_file()
