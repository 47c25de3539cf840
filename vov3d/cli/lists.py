"""Reads lists of videos: text with one name a line, whatever program saved it."""

import codecs
import os

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def names_in(content: bytes, name: str) -> list[str]:
    """Returns the names in a list.

    Args:
        content: The list, in UTF-8 with or without a byte-order mark, or in UTF-16 with one; of lists without that of
            UTF-16, bytes that are not UTF-8 are kept, as in file names.
        name: What errors call the list.

    Raises:
        ValueError: If it is no text, or names nothing.
    """
    if content.startswith(_UTF16):  # as the `>` of PowerShell writes
        try:
            content = content.decode("utf-16").encode()
        except UnicodeError:
            raise _no_text(name) from None
    if b"\0" in content:
        raise _no_text(name)
    lines = (line.strip() for line in content.removeprefix(codecs.BOM_UTF8).splitlines())
    names = [os.fsdecode(line) for line in lines if line]
    if not names:
        raise ValueError(f"{name}: names no videos; a list has one per line")
    return names


def _no_text(name: str) -> ValueError:
    return ValueError(
        f"{name}: is not text; expected a list with one video per line, in UTF-8, or in UTF-16 with a byte-order mark"
    )
