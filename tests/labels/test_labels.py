"""Files of class names: every encoding, any length, and files without names."""

import codecs

import pytest

from vov3d.labels import read_label_names

NAMES = ["naïve", "turning left", "走る"]


@pytest.mark.parametrize(
    "content",
    [
        "\n".join(NAMES).encode(),
        codecs.BOM_UTF8 + "\r\n".join(NAMES).encode(),
        "\n".join(NAMES).encode("utf-16"),
        codecs.BOM_UTF8 + b'["na\\u00efve", "turning left", "\\u8d70\\u308b"]',
    ],
    ids=["utf-8", "mark", "utf-16", "json with mark"],
)
def test_every_encoding_that_says_what_it_is(content, tmp_path):
    (tmp_path / "names.txt").write_bytes(content)
    assert read_label_names(tmp_path / "names.txt") == NAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("naïve".encode("latin-1"), "is not text in UTF-8"),
        (b"a\n" + b" " * 200_000 + b"\nb", "holds empty names"),
        (b"a\n" + b"b" * 20_000, "line 2, .* is not a name"),
        (b"a\nb\x1b[2J", "line 2, .* is not a name"),
        (b"a\nb\na", "names 'a' twice"),
        (b"[" * 100_000, "expected JSON"),
        (b'[["a"], "b"]', "holds empty names"),
    ],
)
def test_files_that_are_no_list_of_names_are_refused(content, message, tmp_path):
    (tmp_path / "names.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"names\.txt: .*{message}|names\.txt: {message}"):
        read_label_names(tmp_path / "names.txt")


def test_many_names(tmp_path):
    names = [f"class {i}" for i in range(100_000)]
    (tmp_path / "names.txt").write_text("\n".join(names))
    assert read_label_names(tmp_path / "names.txt") == names
