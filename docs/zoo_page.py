"""Writes the tables of docs/zoo.md from the registry.

Run `python docs/zoo_page.py`. It measures nothing: accuracies are the published ones, costs are counted.
"""

from pathlib import Path

from vov3d.cli.zoo import zoo_table
from vov3d.models import measure_budget

PAGE = Path(__file__).with_name("zoo.md")
NETWORKS = (
    ("x3d_m", "dw3d"),
    ("x3d_m", "d2plus1d"),
    ("vov3d_m", "dw3d"),
    ("vov3d_m", "d2plus1d"),
    ("vov3d_m", "d1plus2d"),
    ("vov3d_m", "r2plus1d"),
    ("vov3d_m", "3d"),
)


def architecture_table() -> str:
    """What networks cost for a clip of 16 x 224 x 224, in Markdown."""
    lines = ["| network | `conv=` | params (M) | GMACs | activations (M) |", "| --- | --- | --- | --- | --- |"]
    for name, conv in NETWORKS:
        cost = measure_budget(name, conv=conv)
        figures = f"{cost.params / 1e6:.2f} | {cost.macs / 1e9:.2f} | {cost.activations / 1e6:.1f}"
        lines.append(f'| `{name}` | `"{conv}"` | {figures} |')
    return "\n".join(lines)


def with_tables(text: str) -> str:
    """The page with its tables written anew, between their marks."""
    for mark, table in (("zoo", zoo_table()), ("architectures", architecture_table())):
        begin, end = f"<!-- {mark} -->\n\n", f"\n\n<!-- /{mark} -->"
        before, rest = text.split(begin)
        text = before + begin + table + end + rest.split(end)[1]
    return text


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
