"""Runs a script of this folder by its name: `python docs/measure NAME ...`; without a name it lists them.

The scripts measure what the pages state, or write the tables of pages from what was measured. They need a clone and
`pip install -e ".[test]"`.
"""

import ast
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
NOT_SCRIPTS = ("__main__", "pages", "published_form")


def scripts() -> dict[str, Path]:
    """Returns the scripts by name."""
    return {path.stem: path for path in sorted(HERE.glob("*.py")) if path.stem not in NOT_SCRIPTS}


def main() -> int:
    """Runs the script that the command line names; returns 2 where it names none."""
    found, name = scripts(), sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in found:
        if name and name not in ("-h", "--help"):
            print(f"docs/measure: no script {name!r}", file=sys.stderr)
        for stem, path in found.items():
            print(f"  {stem:18} {(ast.get_docstring(ast.parse(path.read_text())) or '').splitlines()[0]}")
        return 0 if name in ("", "-h", "--help") else 2
    sys.path.insert(0, str(HERE.parents[1] / "examples"))  # the trainer and the evaluator that some of them use
    sys.argv = sys.argv[1:]
    runpy.run_path(str(found[name]), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
