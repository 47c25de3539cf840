"""The table of published accuracies is current, and its commands follow the published protocols."""

import shlex

import published_weights
import pytest
from pages import part_of
from reference import evaluate
from reference.evaluation.models import PROTOCOLS

from vov3d.weights.config import resolve_cfg

TEXT = published_weights.PAGE.read_text(encoding="utf-8")
TABLE = part_of(TEXT, "published")


def test_the_table_is_current() -> None:
    again = published_weights.table(published_weights.measured(TEXT))
    assert again == TABLE, "write it anew with `python docs/measure published_weights`"


def test_measured_accuracies_are_kept() -> None:
    rows = TABLE.splitlines()
    assert len(rows) == 2 + 24
    filled = TEXT.replace(rows[2], rows[2] + " 76.2, 92.9 (19,877 videos) |")
    name = published_weights.published()[0]
    assert published_weights.measured(TEXT) == {}
    assert published_weights.measured(filled) == {name: "76.2, 92.9 (19,877 videos)"}
    again = published_weights.table(published_weights.measured(filled))
    assert again.splitlines()[2] in filled
    assert published_weights.measured(again) == published_weights.measured(filled)


def test_no_cell_of_the_table_is_empty() -> None:
    assert all(cell.strip() for row in TABLE.splitlines() for cell in row.strip("|").split("|"))


def test_hours_of_measured_views_are_those_of_the_measurement() -> None:
    seconds = published_weights.VIEWS["rows"]["x3d_m.k400_ptv"]["median"]
    assert published_weights.hours("x3d_m.k400_ptv") == pytest.approx(19_906 * 30 * seconds / 3600)


def test_hours_are_in_proportion_to_frames() -> None:
    hours = published_weights.hours
    assert hours("vov3d_m.ssv1_f32") == pytest.approx(2 * hours("vov3d_m.ssv1_f16"), rel=0.01)


def test_every_command_is_the_published_protocol() -> None:
    for name in published_weights.published():
        args = evaluate._parser().parse_args(shlex.split(published_weights.command(name))[3:])
        assert args.model == [name]
        cfg = resolve_cfg(*name.split("."), None)
        protocol = "k400" if cfg.sampling == "dense" else "ssv"
        assert PROTOCOLS[protocol] == ("{}x{}".format(*cfg.views), cfg.sampling)


def test_the_commands_of_the_page_are_understood() -> None:
    lines = [line for line in TEXT.splitlines() if line.startswith("python -m reference.evaluate")]
    assert len(lines) == 6
    for line in lines:
        evaluate._checked(evaluate._parser().parse_args(shlex.split(line)[3:]))
