"""Code under test that must not warn."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_warnings() -> Iterator[None]:
    """Makes an error of each warning, except of resources that were not closed.

    Those are found whenever Python collects garbage, so they are of whichever test ran before: Gradio, for one, leaves
    its event loops open.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("default", ResourceWarning)
        yield
