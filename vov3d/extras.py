"""Commands that install the optional dependencies."""


def install(extra: str) -> str:
    """Returns the command that installs an extra of this package, from the package index or in a clone."""
    return f"pip install 'vov3d[{extra}]' (in a clone: pip install -e '.[{extra}]')"
