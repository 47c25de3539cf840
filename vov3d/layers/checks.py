"""Checks of arguments that layers and the functions above them share."""

from numbers import Integral, Real
from typing import Any


def is_count(value: Any) -> bool:
    """Returns whether a value is a whole number of at least 1; comparing alone would take 1.5, and fail on text."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def is_positive(value: Any) -> bool:
    """Returns whether a value is a positive, finite number, also one of PyAV or a tensor; texts are none."""
    return hasattr(value, "__float__") and 0 < float(value) < float("inf")


def check_counts(**counts: Any) -> None:
    """Raises ValueError unless every value is a whole number of at least 1, such as channels or blocks."""
    for name, value in counts.items():
        if not is_count(value):
            raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def check_rate(name: str, value: Any) -> None:
    """Raises ValueError unless the value is a probability, from 0 to 1."""
    if not isinstance(value, Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value!r}")


def check_positive(name: str, value: Any, instead: str) -> None:
    """Raises ValueError unless the value is a positive, finite number; `instead` says what to do."""
    if not isinstance(value, Real) or not is_positive(value):
        raise ValueError(f"{name} must be a positive number, got {value!r}; {instead}")


def check_flags(**flags: Any) -> None:
    """Raises ValueError unless every value is True or False; Python takes any text for True."""
    for name, value in flags.items():
        if isinstance(value, str) or value not in (True, False):
            raise ValueError(f"{name} must be True or False, got {value!r}")


def check_layer(name: str, value: Any) -> None:
    """Raises ValueError unless the value is a class or a function, which is called to build a layer."""
    if not callable(value):
        raise ValueError(f"{name} must be a name, or a class or function that builds a layer, got {value!r}")
