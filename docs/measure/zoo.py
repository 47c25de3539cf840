"""Writes the tables of docs/zoo.md and the short one of README.md from the registry.

python docs/measure zoo

It measures nothing: accuracies are the published ones, costs are counted.
"""

from pages import DOCS, ROOT, fill

from vov3d.cli.zoo import zoo_table
from vov3d.models import measure_budget

PAGE = DOCS / "zoo.md"
SHOWN = (
    "x3d_m.k400_ptv",
    "x3d_l.k400_ptv",
    "vov3d_l.k400_f16",
    "vov3d_m.ssv2_f16",
    "vov3d_l.ssv2_f32_ft_k400",
    "vov3d_n.shapes_f8",
)
"""The rows that README shows."""
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
    """Returns the cost of each network for a clip of 16 x 224 x 224, in Markdown."""
    lines = ["| network | `conv=` | params (M) | GMACs | activations (M) |", "| --- | --- | --- | --- | --- |"]
    for name, conv in NETWORKS:
        cost = measure_budget(name, conv=conv)
        figures = f"{cost.params / 1e6:.2f} | {cost.macs / 1e9:.2f} | {cost.activations / 1e6:.1f}"
        lines.append(f'| `{name}` | `"{conv}"` | {figures} |')
    return "\n".join(lines)


def tables() -> dict[str, str]:
    """Returns both tables by the name of their place in the page."""
    return {"zoo": zoo_table(), "architectures": architecture_table()}


def short_table() -> str:
    """Returns the table of README: a few rows of the zoo's."""
    head, rule, *rows = zoo_table().splitlines()
    chosen = {row.split("`")[1]: row for row in rows}
    return "\n".join([head, rule, *(chosen[name] for name in SHOWN)])


if __name__ == "__main__":
    fill(PAGE, **tables())
    fill(ROOT / "README.md", zoo=short_table())
