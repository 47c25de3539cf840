"""The web page of `vov3d demo --web`: what a visitor sees, what is refused, and that it stays on this machine."""

import asyncio
import re
import runpy
import signal
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.browser import chromium, free_port, new_page, server_process
from helpers.task_models import task_model

import vov3d
from vov3d.cli import main
from vov3d.synthetic.moving_shapes import CLASSES, make_clip, write_clip
from vov3d.video import Prediction

pytest.importorskip("gradio")

from vov3d.serving import _labelling
from vov3d.serving._labelling import Labeller
from vov3d.serving.page import PageLimits, _Worker, build_app, default_models, launch_app, wait_for_end
from vov3d.serving.server import listen

EXAMPLES = Path(__file__).parents[2] / "examples"
PACKAGED = "vov3d_n.shapes_f8"


SETTINGS = {"models": [PACKAGED], "seconds": 600, "pixels": 4096 * 2304}


@pytest.fixture(scope="module")
def app():
    return build_app([PACKAGED])


@pytest.fixture(scope="module")
def shared_page(app):
    page = app.vov3d_page
    page.worker = Labeller(**SETTINGS)  # in this process
    return page


@pytest.fixture
def page(shared_page, monkeypatch):
    monkeypatch.setattr(shared_page, "limits", PageLimits())
    return shared_page


def clip_file(folder, label=0, seed=0, **settings):
    path = folder / f"clip_{label}_{seed}.mp4"
    write_clip(path, make_clip(label, np.random.default_rng((seed, label)), **settings))
    return path


# --- what a visitor sees ---------------------------------------------------------------------------------------------


def test_a_video_gets_labels_frames_and_times(page, tmp_path):
    said = page.classify(str(clip_file(tmp_path, 7)), PACKAGED, "1x1")
    expected = vov3d.VideoClassifier("vov3d_n")(tmp_path / "clip_7_0.mp4")
    assert re.findall(r"<span>([^<]*)</span><b>", said) == [p.label for p in expected]
    assert said.count('src="data:image/jpeg;base64,') == 8
    assert said.count('class="shown"') == 8
    assert "1.6 s</span>" in said
    assert "knows only 20 motions" in said


def test_more_views_are_used(page, tmp_path):
    said = page.classify(str(clip_file(tmp_path)), PACKAGED, "2x3")
    assert said.count("<i class=") == 16
    assert "2 clips (2x3 views)" in said


def test_a_heat_map_is_shown_on_request(page, tmp_path):
    pytest.importorskip("vov3d.interpret")
    said = page.classify(str(clip_file(tmp_path, 7)), PACKAGED, "1x1", True)
    assert said.count('src="data:image/jpeg;base64,') == 16
    assert f"What speaks for &quot;{CLASSES[7]}&quot;" in said


def test_without_the_extra_the_page_says_what_a_heat_map_needs(page, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vov3d.interpret", None)
    said = page.classify(str(clip_file(tmp_path, 7)), PACKAGED, "1x1", True)
    assert "No heat map: " in said
    assert said.count('src="data:image/jpeg;base64,') == 8


@pytest.mark.parametrize(("task", "strips"), [("multihead", 2), ("regression", 2), ("multilabel", 1)])
def test_every_task_is_shown(task, strips, tmp_path):
    model = task_model(task)
    if task == "multihead":  # the best combination has a number that no output has
        model.head.fc.bias.data = torch.tensor([0.0, 99.0, 0.0, 0.0, 99.0])
    if task == "multilabel":  # nothing reaches the threshold
        model.head.fc.bias.data.fill_(-99)
    folder = str(vov3d.save_pretrained(model, tmp_path / "model"))
    labeller = Labeller([folder], seconds=600, pixels=10**7)
    html = labeller.label(str(clip_file(tmp_path)), folder, "1x1", explained=True)
    assert html.count('class="vov3d-strip"') == strips
    assert ("No label reaches 50%" in html) == (task == "multilabel")


def test_examples_are_labelled_correctly(page):
    for name, path in page.examples.items():
        assert re.search(r"<span>([^<]*)</span><b>", page.classify(str(path), PACKAGED, "1x1"))[1] == name


def test_names_of_classes_are_text():
    said = _labelling._bar(Prediction(0, "<script>alert(1)</script>", 0.5))
    assert "<script>" not in said
    assert "&lt;script&gt;" in said


def test_models_offered_are_those_with_weights():
    names = default_models()
    assert names[0] == PACKAGED
    assert {"vov3d_m.k400_f16", "vov3d_l.ssv2_f32"} <= set(names)
    assert not [name for name in names if "stream" in name]


def test_only_the_models_used_last_are_kept(monkeypatch):
    made = []
    monkeypatch.setattr(_labelling, "create_model", lambda name, pretrained: made.append(name) or torch.nn.Identity())
    monkeypatch.setattr(_labelling, "optimize_for_inference", lambda model: model)
    names = ["vov3d_n", "vov3d_m", "vov3d_l"]
    models = _labelling.Models(names)
    for number in (0, 0, 1, 0, 2, 0, 1):
        models.get(names[number])
    assert made == ["vov3d_n", "vov3d_m", "vov3d_l", "vov3d_m"]


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(said):
    assert said.startswith('<div class="vov3d-error" role="alert">'), said
    return said


def test_without_a_video_it_says_what_to_do(page):
    assert "drop a file" in refused(page.classify(None, PACKAGED, "1x1"))


@pytest.mark.parametrize("content", [b"", b"nonsense" * 500, b"#EXTM3U\nhttp://127.0.0.1/a.ts\n"])
def test_a_broken_file_is_named_without_its_folder(page, tmp_path, content):
    path = tmp_path / "<b>holiday.mp4"
    path.write_bytes(content)
    said = refused(page.classify(str(path), PACKAGED, "1x1"))
    assert "&lt;b&gt;holiday.mp4" in said
    assert str(tmp_path) not in said


def test_folders_and_addresses_are_not_opened(page, tmp_path):
    for source in (tmp_path, tmp_path / "missing.mp4", "http://127.0.0.1:1/clip.mp4"):
        assert "no longer on the server" in refused(page.classify(str(source), PACKAGED, "1x1"))


@pytest.mark.parametrize(("limit", "expected"), [({"seconds": 1}, "lasts 2 s"), ({"pixels": 1000}, "128x128 pixels")])
def test_videos_beyond_the_limits_are_refused(tmp_path, limit, expected):
    said = Labeller(**{**SETTINGS, **limit}).label(str(clip_file(tmp_path)), PACKAGED, "1x1")
    assert expected in refused(said)


def test_addresses_are_not_downloaded_by_the_server_of_the_page(app):
    import gradio
    from gradio.processing_utils import async_move_files_to_cache

    video = next(block for block in app.blocks.values() if isinstance(block, gradio.Video))
    sent = {"path": "http://127.0.0.1:9/a.mp4", "meta": {"_type": "gradio.FileData"}}
    with pytest.raises(gradio.Error, match="downloads nothing: send the video itself"):
        asyncio.run(async_move_files_to_cache(sent, video, check_in_upload_folder=True))


def test_uploads_are_deleted_after_an_hour_at_most(app):
    assert sum(app.delete_cache) <= 3600


@pytest.mark.slow
def test_a_page_of_half_a_megabyte_and_a_model_that_is_not_there(tmp_path, capsys):
    missing = str(tmp_path / "none <b>")
    small = build_app([missing], PageLimits(megabytes=0.5))
    small.vov3d_page.worker = Labeller([missing], seconds=1, pixels=1)
    with listen("127.0.0.1", 0) as taken, pytest.raises(OSError, match="is another program listening there"):
        launch_app(small, port=taken.getsockname()[1], block=False)
    with pytest.raises(ValueError, match="the port is 70000: give one from 1 to 65535"):
        launch_app(small, port=70000)
    launch_app(small, port=free_port(), block=False)
    try:
        said = ""
        end = time.monotonic() + 30
        while f"the page cannot offer {missing}: " not in said and time.monotonic() < end:
            time.sleep(0.05)
            said += capsys.readouterr().err
        assert f"the page cannot offer {missing}: " in said
        assert small.max_file_size == 500_000
    finally:
        small.close(verbose=False)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_stops_the_page_as_ctrl_c_does(name):
    number = getattr(signal, name, signal.SIGTERM)  # Windows has no SIGHUP

    class App:
        ended = False

        def block_thread(self):
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
            self.ended = True

    app, before = App(), signal.signal(number, signal.SIG_DFL)  # under nohup it would be ignored
    try:
        wait_for_end(app)
        assert app.ended
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_large_files_are_refused(page, tmp_path):
    page.limits = PageLimits(megabytes=0.001)
    assert "send at most 0.001 MB" in refused(page.classify(str(clip_file(tmp_path)), PACKAGED, "1x1"))


@pytest.mark.parametrize(("model", "views"), [("vov3d_m", "1x1"), ("/etc", "1x1"), (PACKAGED, "999x3")])
def test_only_what_the_page_offers_can_be_chosen(page, tmp_path, model, views):
    refused(page.classify(str(clip_file(tmp_path)), model, views))


def test_weights_that_cannot_be_fetched_are_an_error_on_the_page(hub):
    name = "x3d_xs.k400_ptv"
    assert name in refused(Labeller([name], 600, 10**7).load(name))


@pytest.mark.parametrize("limit", [{"megabytes": 0}, {"seconds": float("nan")}, {"waiting": -1}])
def test_limits_are_positive(limit):
    with pytest.raises(ValueError, match=f"{next(iter(limit))} is .* positive"):
        PageLimits(**limit)


def test_a_page_without_models_is_refused():
    with pytest.raises(ValueError, match="name at least one"):
        build_app([])


@pytest.mark.parametrize("options", [["--port", "1"], ["--model", "vov3d_n"], ["--web", "--seed", "1"]])
def test_options_without_effect_are_refused(capsys, options):
    assert main(["demo", *options]) == 1
    assert f"{options[-2]} has no effect" in capsys.readouterr().err


@pytest.mark.slow
def test_a_decoder_that_ends_or_hangs_is_replaced(tmp_path):
    worker, video = _Worker(SETTINGS, 60), str(clip_file(tmp_path, 7))
    assert CLASSES[7] in worker.label(video, PACKAGED, "1x1")
    worker._timeout = 1e-4
    with pytest.raises(RuntimeError, match=r"took over 0\.0001 s and was ended"):
        worker.label(video, PACKAGED, "10x3")
    worker._timeout = 60
    assert CLASSES[7] in worker.label(video, PACKAGED, "1x1")
    worker._process.kill()
    worker._process.wait()
    assert CLASSES[7] in worker.label(video, PACKAGED, "1x1")
    worker.close()


# --- the page in a browser -------------------------------------------------------------------------------------------


def label(page):
    """Waits for the labels, and returns the first."""
    page.wait_for_selector(".vov3d-bar", timeout=60_000)
    return page.locator(".vov3d-bar span").first.inner_text()


def send(page, path):
    """Replaces the video."""
    if page.get_by_label("Clear").count():
        page.get_by_label("Clear").first.dispatch_event("click")  # under a broken video its icon lies over the button
    page.set_input_files("input[type=file]", str(path))


def press(page):
    page.get_by_role("button", name="Label the video").click()


@pytest.mark.slow
def test_visitors_use_the_page_and_nothing_leaves_the_machine(tmp_path):
    port = free_port()
    command = [str(EXAMPLES / "app.py"), "--port", str(port), "--model", PACKAGED, "--megabytes", "1"]
    with chromium() as browser, server_process(command, port, tmp_path) as address:
        pages = [new_page(browser, viewport={"width": width, "height": 900}) for width in (1280, 390)]
        for page in pages:
            page.goto(address)
            page.wait_for_selector("input[type=file]", state="attached")

        # two at once, each with a video of its own
        for page, at in zip(pages, (1, 15), strict=True):
            send(page, clip_file(tmp_path, at))
            page.wait_for_selector("video")
        for page in pages:
            press(page)
        assert [label(page) for page in pages] == [CLASSES[1], CLASSES[15]]
        for page in pages:
            assert page.locator(".vov3d-strip img").count() == 16  # and the same frames with what speaks for the label
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

        desktop = pages[0]
        (tmp_path / "broken.mp4").write_bytes(b"nonsense" * 1000)
        send(desktop, tmp_path / "broken.mp4")
        press(desktop)
        desktop.wait_for_selector(".vov3d-error")
        assert "broken.mp4" in desktop.locator(".vov3d-error").inner_text()

        (tmp_path / "huge.mp4").write_bytes(bytes(3_000_000))
        send(desktop, tmp_path / "huge.mp4")
        desktop.get_by_text(re.compile("exceeds|too large|maximum", re.IGNORECASE)).first.wait_for()

        example = next(iter(build_app([PACKAGED]).vov3d_page.examples))
        desktop.get_by_text(example, exact=True).click()
        assert label(desktop) == example
        assert {host for page in pages for host in page.hosts} <= {"127.0.0.1", None}
    assert (tmp_path / "calls").read_text() == ""


@pytest.mark.slow
def test_the_space_starts(tmp_path, monkeypatch):
    port = free_port()
    app = str(EXAMPLES / "space" / "app.py")
    code = (
        f"import os, runpy; os.environ['GRADIO_SERVER_PORT'] = '{port}'; runpy.run_path({app!r}, run_name='__main__')"
    )
    with server_process(["-c", code], port, tmp_path) as address:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert "vov3d" in opener.open(address, timeout=30).read().decode()
    assert (tmp_path / "calls").read_text() == ""


def test_the_space_is_described_as_the_hub_expects():
    import yaml

    header = yaml.safe_load((EXAMPLES / "space" / "README.md").read_text().split("---\n")[1])
    assert header["sdk"] == "gradio"
    assert (EXAMPLES / "space" / header["app_file"]).is_file()
    assert len(header["short_description"]) <= 60
    assert "vov3d[demo,explain]" in (EXAMPLES / "space" / "requirements.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--port", "99999"], "app: the port is 99999: give one from 1 to 65535"),
        (["--seconds", "0"], r"app: seconds is 0\.0: a limit must be positive"),
    ],
)
def test_the_script_says_in_one_line_what_it_cannot_do(options, says, monkeypatch):
    script = Path(vov3d.__file__).parents[1] / "examples/app.py"
    monkeypatch.setattr(sys, "argv", [script.name, *options])
    with pytest.raises(SystemExit, match=says):
        runpy.run_path(str(script), run_name="__main__")
