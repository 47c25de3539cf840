"""How the command starts and ends: what it imports, that timm knows the models, and Ctrl-C at any moment."""

import os
import signal
import subprocess
import sys
import time

import pytest

import vov3d
from vov3d import cli
from vov3d.cli.zoo import registered_rows, zoo_rows
from vov3d.models import list_models, list_pretrained

HEAVY = ("torch", "timm", "numpy", "huggingface_hub", "safetensors", "einops", "av", "PIL", "torchvision")


def python(*argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    run = subprocess.run([sys.executable, *argv], env=os.environ | env, capture_output=True, text=True, check=False)
    return run


@pytest.fixture
def without_heavy(tmp_path):
    """Returns an import path that blocks every package that is slow to import."""
    for name in HEAVY:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} was imported')")
    return os.pathsep.join([str(tmp_path), os.path.dirname(os.path.dirname(vov3d.__file__))])


@pytest.mark.parametrize("argv", [["--version"], ["--help"], ["list"], ["list", "x3d_l*", "--markdown"], ["nothing"]])
def test_commands_without_a_model_import_nothing_slow(argv, without_heavy):
    done = python("-m", "vov3d", *argv, PYTHONPATH=without_heavy)
    assert done.returncode == (2 if argv == ["nothing"] else 0), done.stderr
    assert "was imported" not in done.stderr
    assert done.stdout or argv == ["nothing"]


def test_garbage_is_collected_while_a_command_runs_but_not_during_imports(without_heavy):
    script = """
import gc, vov3d.cli
from vov3d.__main__ import run
def main(begin):
    print(gc.isenabled())
    begin()
    print(gc.isenabled())
vov3d.cli.main = main
run()
"""
    assert python("-c", script, PYTHONPATH=without_heavy).stdout.split() == ["False", "True"]


@pytest.mark.skipif(os.name == "nt", reason="closes outputs by a shell")
@pytest.mark.parametrize(("closed", "argv", "code"), [(">&-", "list", 0), ("2>&-", "list none", 1)])
def test_closed_outputs(closed, argv, code, without_heavy):
    """Without a standard error, Python prints errors among the results."""
    environment = {**os.environ, "PYTHONPATH": without_heavy}
    command = f"{sys.executable} -m vov3d {argv} {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "timm", "torchvision"])
def test_a_package_that_fails_on_import_is_one_line(name, tmp_path):
    (tmp_path / f"{name}.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    path = os.pathsep.join([str(tmp_path), os.path.dirname(os.path.dirname(vov3d.__file__))])
    done = python("-m", "vov3d", "demo", PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (1, "vov3d demo: operator torchvision::nms does not exist\n")


def test_the_package_itself_imports_nothing_slow(without_heavy):
    done = python("-c", "import vov3d; print(dir(vov3d))", PYTHONPATH=without_heavy)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(vov3d.__all__) <= set(eval(done.stdout))


def test_every_public_name_can_be_imported():
    assert set(vov3d.__all__) == {"__version__", *vov3d._ROOM_OF}
    assert all(getattr(vov3d, name) is not None for name in vov3d.__all__)
    assert vov3d.models.__name__ == "vov3d.models"
    with pytest.raises(AttributeError, match="has no attribute 'create_modell'"):
        vov3d.create_modell  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import vov3d, timm",
        "import timm, vov3d",
        "from vov3d.layers import TOSA; import timm",  # a room below the models imports timm while it is half imported
        "import vov3d; from importlib.util import find_spec; find_spec('timm'); import timm",
    ],
)
def test_timm_knows_the_models_whichever_is_imported_first(imports):
    done = python("-c", f"{imports}\nprint(type(timm.create_model('vov3d_n', num_classes=3)).__name__)")
    assert (done.stdout, done.stderr) == ("VoV3D\n", "")


def test_the_table_of_the_zoo_is_the_registrys():
    assert zoo_rows() == registered_rows(), "write it anew with `python -m vov3d.cli.zoo`"
    assert sorted({row[0].split(".")[0] for row in zoo_rows()}) == list_models()
    for filter in ("", "vov3d_m", "vov3d*", "*.ssv2*", "x3d_?.k400_ptv", "vov3d_m.", "*f32", "none"):
        assert [row[0] for row in zoo_rows(filter)] == list_pretrained(filter), filter


def test_the_help_lists_every_command():
    (commands,) = [action for action in cli.command_parser()._actions if action.dest == "command"]
    assert list(commands.choices) == list(cli.COMMANDS)


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow  # many processes
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process there")
def test_ctrl_c_is_one_line_at_any_moment(tmp_path):
    """While modules are imported, while the command runs, and while the process ends."""
    command = [sys.executable, "-m", "vov3d", "demo", "--clips", "2000", "-o", str(tmp_path)]
    running = [(delay, subprocess.Popen(command, stderr=subprocess.PIPE, text=True)) for delay in (1, 2.5, 4, 6, 9)]
    start = time.monotonic()
    for delay, process in running:
        time.sleep(max(0, start + delay - time.monotonic()))
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert err.splitlines()[-1].endswith(": interrupted")
        assert "Traceback" not in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("disguise", [ImportError, SystemError, TypeError])
def test_ctrl_c_that_a_module_turned_into_another_error(disguise, monkeypatch, capsys):
    def interrupted(*_):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as e:
            raise disguise("initialization failed") from e

    monkeypatch.setattr(cli, "import_module", interrupted)
    assert cli.main(["info", "vov3d_m"]) == 130
    assert capsys.readouterr().err == "vov3d info: interrupted\n"


def test_errors_that_nobody_expects_are_not_hidden(monkeypatch):
    monkeypatch.setattr(cli, "import_module", lambda name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["info", "vov3d_m"])
