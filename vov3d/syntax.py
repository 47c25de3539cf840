"""Python's parser, for several threads at once."""

import ast
from threading import Lock

_ONE_AT_A_TIME = Lock()
_TRIES = 20  # threads of other packages may parse meanwhile


def parse(source: str, mode: str = "exec") -> ast.AST:
    """Returns a syntax tree, as `ast.parse`.

    The parser counts how deep it is in one place for all threads (Python 3.11). If one goes on while another waits, as
    in a garbage collection, `ast.parse` raises a SystemError about a mismatch.

    Args:
        source: Python code.
        mode: `"exec"` for a module, `"eval"` for an expression.

    Raises:
        SyntaxError: If it is not Python.
    """
    with _ONE_AT_A_TIME:
        for _ in range(_TRIES - 1):
            try:
                return ast.parse(source, mode=mode)
            except SystemError:
                continue
        return ast.parse(source, mode=mode)
