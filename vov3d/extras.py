"""How what is missing is installed."""


def install(extra: str) -> str:
    """The command that installs an extra of this package, for people with a clone of it too."""
    return f"pip install 'vov3d[{extra}]' (in a clone: pip install -e '.[{extra}]')"
