"""The site: its pages and pictures agree with the code."""

import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import zoo
from helpers.numbered_videos import write_video
from helpers.reference_files import published_file
from pages import filled
from project.test_docstrings import public_modules, public_names

import vov3d
from vov3d.cli import command_parser

DOCS = Path(__file__).parents[2] / "docs"
FIGURES = sorted(path for path in DOCS.glob("figures/*.py") if path.stem != "theme")
MIGRATE = (DOCS / "migrate.md").read_text()


def loaded(script):
    """Loads a script of docs/ as a module, without running it."""
    spec = importlib.util.spec_from_file_location(f"docs_{script.stem}", script)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- pictures --------------------------------------------------------------------------------------------------------


def test_every_picture_has_its_script():
    pictures = [path for ending in ("png", "svg", "webp") for path in DOCS.glob(f"figures/*.{ending}")]
    assert {p.stem.removesuffix("_dark") for p in pictures} == {p.stem for p in FIGURES}


@pytest.mark.slow
@pytest.mark.parametrize("script", FIGURES, ids=lambda script: script.stem)
def test_scripts_draw(script, tmp_path):
    module = loaded(script)
    module.TARGET = tmp_path / "picture.png"
    module.main()
    assert module.TARGET.stat().st_size > 10_000
    dark = script.with_name(f"{script.stem}_dark.png").exists()
    assert module.TARGET.with_stem("picture_dark").exists() == dark


@pytest.mark.parametrize("script", FIGURES, ids=lambda script: script.stem)
def test_pictures_are_shown_with_their_script(script):
    pages = [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
    names = [f"figures/{script.stem}.{ending})" for ending in ("png", "webp")]
    shown = [page for page in pages if any(name in page.read_text() for name in names)]
    assert shown
    assert all(f"python docs/figures/{script.name}" in page.read_text() for page in shown)


# --- generated and listed --------------------------------------------------------------------------------------------


def test_zoo_tables_are_current():
    page = DOCS / "zoo.md"
    assert filled(page.read_text(), **zoo.tables()) == page.read_text(), "run python docs/measure zoo"


def test_reference_has_every_public_name():
    text = "".join(page.read_text() for page in DOCS.glob("reference/*.md"))
    listed = re.findall(r"^::: (vov3d\.[\w.]+)$", text, re.MULTILINE)
    assert len(listed) == len(set(listed))
    objects = [eval(name, {"vov3d": vov3d, **{m.__name__: m for m in public_modules()}}) for name in listed]
    assert not [path for path, thing in public_names().items() if not any(thing is o for o in objects)]
    assert not [name for name in listed if name.startswith("vov3d.") and "._" in name]


# --- coming from elsewhere -------------------------------------------------------------------------------------------

ROWS = [line.strip("| \n").split(" | ") for line in MIGRATE.splitlines() if line.startswith("| ")]
ROWS = [row for row in ROWS if row[0] not in ("you wrote", "---")]


@pytest.fixture
def page_files(tmp_path, monkeypatch, hub):
    """Writes a clip and checkpoints; returns the names that the page begins with."""
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", num_frames=20)
    published_file("vov3d_m_k400", tmp_path).rename(tmp_path / "weights.pth")
    published_file("pytorchvideo_x3d_s", tmp_path).rename(tmp_path / "X3D_S.pyth")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "x3d_s.k400_ptv.pth").symlink_to(tmp_path / "X3D_S.pyth")
    monkeypatch.setenv("VOV3D_WEIGHTS_DIR", str(tmp_path / "weights"))
    names: dict = {}
    exec(re.search(r"^```python\n(.*?)^```", MIGRATE, re.MULTILINE | re.DOTALL)[1], names)
    vov3d.save_pretrained(names["model"], "my_model")
    vov3d.push_to_hub(names["model"], "org/name")
    return names


def test_every_row_names_its_replacement():
    assert len(ROWS) > 40
    assert all(len(row) == 2 for row in ROWS)
    assert all(re.search("`[^`]+`", now) for _, now in ROWS)


@pytest.mark.slow
def test_replacements_run(page_files):
    torch.manual_seed(0)
    lines = [code for _, now in ROWS for code in re.findall(r"`([^`]+)`", now)]
    for code in lines:
        if code.startswith("vov3d "):
            assert command_parser().parse_args(shlex.split(code)[1:]).command
        elif re.search(r"\w[.(]", code):  # neither a word nor a shape
            with torch.no_grad():
                eval(code, page_files)


# --- a model in one file ---------------------------------------------------------------------------------------------

USE = """
import runpy, sys, types
import torch, vov3d, vov3d.models
from importlib.util import module_from_spec, spec_from_file_location

# as if the file stood in vov3d/models
spec = spec_from_file_location("vov3d.models.plain3d", sys.argv[1])
sys.modules[spec.name] = module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])

torch.set_num_threads(1)
model = vov3d.create_model("plain3d_s", num_classes=3).eval()
clip = torch.randn(2, 3, 4, 64, 64)
logits = model(clip)
assert logits.shape == (2, 3)
assert len(vov3d.create_model("plain3d_l", features_only=True)(clip)) == 5
assert len(vov3d.create_model("plain3d_s", features_only=True, chs=(16, 32))(clip)) == 3
vov3d.save_pretrained(model, sys.argv[2])
torch.testing.assert_close(vov3d.from_pretrained(sys.argv[2]).eval()(clip), logits)
fast = vov3d.optimize_for_inference(model)
torch.testing.assert_close(fast(clip), logits, rtol=1e-3, atol=1e-4)
print(vov3d.list_models("plain*"))
"""


def test_a_model_in_one_file(tmp_path):
    block = re.search(r"^```python plain3d.py\n(.*?)^```", (DOCS / "contribute.md").read_text(), re.M | re.S)[1]
    file = tmp_path / "plain3d.py"
    file.write_text(block)
    done = subprocess.run(
        [sys.executable, "-c", USE, str(file), str(tmp_path / "saved")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['plain3d_l', 'plain3d_s']"


# --- search ----------------------------------------------------------------------------------------------------------


def test_search_needs_no_other_host():
    # the plugin `offline` adds a script of unpkg.com, unless one of this name is there
    scripts = re.findall(r"^ +- (\S*iframe-worker\S*)", (DOCS.parent / "mkdocs.yml").read_text(), re.MULTILINE)
    assert len(scripts) == 1
    assert "file:" in (DOCS / scripts[0]).read_text()


# --- the hook --------------------------------------------------------------------------------------------------------


def test_readme_links_become_the_sites():
    hook = loaded(DOCS / "readme_page.py")
    readme = type("Page", (), {"file": type("File", (), {"src_uri": "index.md"})})
    other = type("Page", (), {"file": type("File", (), {"src_uri": "video.md"})})
    text = "[a](docs/guides/video.md#sources) ![b](docs/figures/detections.png) [c](LICENSE) [d](#use) [e](https://x.org/docs/y)"
    expected = (
        "[a](guides/video.md#sources) ![b](figures/detections.png) [c](LICENSE) [d](#use) [e](https://x.org/docs/y)"
    )
    assert hook.on_page_markdown(text, page=readme) == expected
    assert hook.on_page_markdown("[a](../README.md#use)", page=other) == "[a](index.md#use)"
    assert hook.on_page_markdown("[a](../../README.md#use)", page=other) == "[a](../index.md#use)"
    drawing = hook.on_page_markdown("![a](figures/network.png)", page=other)
    assert drawing == "![a](figures/network.png#only-light) ![a](figures/network_dark.png#only-dark)"
    assert hook.on_page_markdown("![a](figures/detections.png)", page=other) == "![a](figures/detections.png)"
    assert hook.on_page_markdown("```python no-run\nx\n```\n", page=other) == "```python\nx\n```\n"
