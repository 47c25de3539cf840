"""Scripts that write measured parts of pages: how parts are filled, and how scripts are run."""

import json
import subprocess
import sys

import pytest
import speed_tables
from pages import DOCS, ROOT, STORED, fill, filled, part_of

PAGE = "# Title\n\n<!-- a -->\nold\n<!-- /a -->\n\n<!-- b -->\n1 | 2\n<!-- /b -->\n"


def test_only_the_named_part_is_replaced():
    page = filled(PAGE, a="new\n\n| lines |")
    assert part_of(page, "a") == "new\n\n| lines |"
    assert part_of(page, "b") == "1 | 2"
    assert filled(page, a="old") == PAGE


@pytest.mark.parametrize("page", ["", "<!-- a -->\n", "\n<!-- /a -->", PAGE.replace("/a", "/c")])
def test_a_page_without_the_place_is_refused_and_left_as_it_is(page, tmp_path):
    file = tmp_path / "page.md"
    file.write_text(page)
    with pytest.raises(ValueError, match="no place for 'a': it wants <!-- a --> and <!-- /a -->"):
        fill(file, b="x", a="new") if "b" in page else fill(file, a="new")
    assert file.read_text() == page
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]


def run(*words):
    command = [sys.executable, "docs/measure", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_page_of_benchmarks_is_what_is_stored():
    speed = json.loads((STORED / "speed.json").read_text())
    assert (DOCS / "results" / "benchmarks.md").read_text() == speed_tables.page(speed)
    assert part_of((ROOT / "README.md").read_text(), "speed") == speed_tables.readme_table(speed)


def test_operators_are_shown_beside_their_least_times_with_the_sums():
    rows = {"a": {"seconds": 0.2, "least": 0.1}, "b": {"seconds": 0.1, "least": 0.1}}
    lines = speed_tables.table(rows).splitlines()
    assert lines[2:] == ["| a | 200 | 100 | 2.0 |", "| b | 100 | 100 | 1.0 |", "| all | 300 | 200 | 1.5 |"]


@pytest.mark.slow
def test_scripts_are_listed_and_run_by_name():
    listed = run()
    assert listed.returncode == 0
    assert "evidence " in listed.stdout
    assert "pages" not in listed.stdout
    unknown = run("no_such")
    assert unknown.returncode == 2
    assert "no script 'no_such'" in unknown.stderr
    assert "usage: evidence" in run("evidence", "--help").stdout
