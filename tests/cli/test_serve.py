"""Options of `vov3d serve`: what is not given has the service's own default, and what cannot work is refused first."""

import pytest

from vov3d.cli import command_parser, main
from vov3d.cli.serve import limits_of
from vov3d.serving.limits import Limits


def limits(*words: str) -> Limits:
    return limits_of(command_parser("serve").parse_args(["serve", *words]))


def test_defaults_are_those_of_the_service():
    assert limits() == Limits()


def test_sizes_and_times_have_units():
    found = limits("--max-bytes", "500k", "--decode-bytes", "1G", "--timeout", "2s", "--max-wait", "5ms")
    assert (found.max_bytes, found.decode_bytes, found.timeout, found.max_wait) == (500_000, 10**9, 2, 0.005)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--port", "70000"], "--port is 70000: give one from 1 to 65535"),
        (["--allow-private-urls"], "--allow-private-urls has no effect without --allow-url"),
        (["--views", "2"], "2"),
        (["--temp-bytes", "1M"], "temp_bytes is 1000000, less than the largest video"),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_is_made(words, message, capsys, monkeypatch):
    monkeypatch.setattr("vov3d.cli.serve.loaded_model", lambda *_: pytest.fail("a model was made"))
    assert main(["serve", *words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "explain", "info"])
def test_a_path_that_is_no_model_is_named(command, tmp_path, capsys):
    (tmp_path / "clip.mp4").touch()
    for path, said in (("clip.mp4", "is a file, and no folder of a saved model"), ("none", "does not exist")):
        model = str(tmp_path / path)
        words = ["clip.mp4", "--model", model] if command == "explain" else [model]
        assert main([command, *words, *(["--port", "0"] if command == "serve" else [])]) == 1
        assert f"{model}: {said}" in capsys.readouterr().err
