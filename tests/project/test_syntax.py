"""Python's parser, whose depth all threads share in Python 3.11."""

import ast
import contextlib
import gc
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from vov3d.syntax import parse

FORMULA = "Mul(" * 20 + "Integer(1)" + ", Integer(2))" * 20


@pytest.fixture
def busy_collector():
    """Collects garbage at every turn, and lets other threads go on meanwhile."""

    def give_way(*_):
        time.sleep(0)

    before = gc.get_threshold()
    gc.callbacks.append(give_way)
    gc.set_threshold(50, 2, 2)
    yield
    gc.set_threshold(*before)
    gc.callbacks.remove(give_way)


def deeper(call, by):
    return call() if by == 0 else deeper(call, by - 1)


def test_threads_parse_at_once(busy_collector):
    expected = ast.dump(ast.parse(FORMULA, mode="eval"))

    def ours(depth):
        return [deeper(lambda: parse(FORMULA, mode="eval"), depth) for _ in range(150)]

    def others(depth):
        for _ in range(150):
            with contextlib.suppress(SystemError):
                deeper(lambda: ast.parse(FORMULA, mode="eval"), depth)

    with ThreadPoolExecutor(4) as pool:
        ends = [pool.submit(ours, 0), pool.submit(ours, 30), pool.submit(others, 10), pool.submit(others, 60)]
        for end in ends[2:]:
            end.result()
        for end in ends[:2]:
            assert {ast.dump(tree) for tree in end.result()} == {expected}


def test_what_is_no_python_is_refused():
    with pytest.raises(SyntaxError):
        parse("a b", mode="eval")


def test_another_error_of_the_interpreter_is_raised(monkeypatch):
    def broken(*args, **kwargs):
        raise SystemError("broken")

    monkeypatch.setattr(ast, "parse", broken)
    with pytest.raises(SystemError, match="broken"):
        parse("a")
