"""First lines of docstrings: no questions, and functions begin with a verb in the third person."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vov3d

PACKAGE = Path(vov3d.__file__).parent
QUESTION = re.compile(r"(What|Whether|How|Which|Where|Why|When|Who|Whose)\b")
VERB = re.compile(r"[A-Z][a-z]+s,? (?!of )|Warns of ")  # not "Frames of ..."
# A property is a noun, and so is a model of the registry.
NOUNS = re.compile(r"property|\w+\.setter|register_model")


def docstrings(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yields each docstring with the node that it explains, and those of constants with their own node."""
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else ():
            value = getattr(statement, "value", None)
            if isinstance(statement, ast.Expr) and isinstance(value, ast.Constant) and isinstance(value.value, str):
                yield (node if statement is body[0] else statement), value.value.strip()


def problems(source: str) -> list[str]:
    """Lists the first lines that break the rules."""
    found = []
    for node, text in docstrings(ast.parse(source)):
        line = text.splitlines()[0]
        if QUESTION.match(line):
            found.append(line)
        elif isinstance(node, ast.FunctionDef) and not any(NOUNS.search(ast.unparse(d)) for d in node.decorator_list):
            found += [] if VERB.match(f"{line} ") else [line]
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_say_what_things_do(path):
    assert problems(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("folder", ["examples", "docs"])
def test_docstrings_of_scripts_ask_no_questions(folder):
    for path in (Path(__file__).parents[2] / folder).rglob("*.py"):
        for _, text in docstrings(ast.parse(path.read_text(encoding="utf-8"))):
            assert not QUESTION.match(text), f"{path}: {text.splitlines()[0]}"


@pytest.mark.parametrize(
    ("source", "bad"),
    [
        ('"""What a file holds."""', True),
        ('class A:\n    """How a shape looks."""', True),
        ('LIMIT = 3\n"""Where it ends."""', True),
        ('def f():\n    """Whether it is."""', True),
        ('def f():\n    """The best classes."""', True),
        ('def f():\n    """Frames of a clip."""', True),
        ('def f():\n    """Returns the frames of a clip."""', False),
        ('class A:\n    @property\n    def f(self):\n        """Frames of a clip."""', False),
        ('"""Weights of a tag and the clips that they expect."""', False),
    ],
)
def test_each_rule_is_checked(source, bad):
    assert bool(problems(source)) is bad
