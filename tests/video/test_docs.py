"""The page on video: its Python runs as printed."""

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "docs" / "video.md").read_text()


def test_python_blocks_run_one_after_the_other(capsys) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    namespace: dict = {}
    for block in blocks:
        exec(block, namespace)
    assert namespace["frames"].shape == (3, 3, 240, 320)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("class ")
    assert "uint8" in lines[1]
    assert [line.split()[0] for line in lines[2:]] == ["47", "62", "77"]
