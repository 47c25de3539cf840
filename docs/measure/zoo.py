"""Writes the tables of docs/zoo.md from the registry.

python docs/measure zoo

It measures nothing: accuracies are the published ones, costs are counted.
"""

from pages import DOCS, fill

from vov3d.cli.zoo import zoo_table
from vov3d.models import measure_budget

PAGE = DOCS / "zoo.md"
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


def tables() -> dict[str, str]:
    """Both tables by the name of their place in the page."""
    return {"zoo": zoo_table(), "architectures": architecture_table()}


if __name__ == "__main__":
    fill(PAGE, **tables())
