"""The page docs/try.md, in a real Chromium: it sees what Python sees, and says what is wrong."""

import http.server
import re
import shutil
import threading
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.browser import chromium, new_page

import vov3d
from vov3d.synthetic.moving_shapes import CLASSES, make_clip, write_clip
from vov3d.video import clip_indices, eval_transform

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "try.md").read_text()
BUILT = DOCS / "try" / "built"
WEBGPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and the page without the rest of the site."""

    def do_GET(self):
        if self.path != "/try.html":
            return super().do_GET()
        html = PAGE[PAGE.index("<link") :]
        content = f"<!doctype html><html lang=en><meta charset=utf-8><link rel=icon href='data:,'>{html}".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextmanager
def served(folder):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/try.html"
        server.shutdown()


@contextmanager
def opened(folder=DOCS, *flags):
    """Opens the page in a browser."""
    with chromium(*flags) as browser, served(folder) as address:
        page = new_page(browser, viewport={"width": 390, "height": 844})
        page.goto(address)
        yield page
        assert page.problems == []
        assert page.hosts <= {"127.0.0.1", None, ""}


def needs_runtime():
    if not (BUILT / "ort-wasm-simd-threaded.wasm").is_file():
        pytest.skip("run python docs/try/build.py first")


def status(page):
    return page.locator("[data-part=status]").inner_text()


def send(page, path):
    """Drops a file on the page, and returns what the page says of it."""
    page.set_input_files("[data-part=file]", str(path))
    page.wait_for_function(
        "name => [name + ':', name + ' '].some(start => "
        "document.querySelector('[data-part=status]').textContent.startsWith(start))",
        arg=path.name,
    )
    return status(page)


# --- without a browser -----------------------------------------------------------------------------------------------


def test_the_page_loads_nothing_from_elsewhere():
    texts = [PAGE, *(path.read_text() for ending in ("js", "css") for path in DOCS.glob(f"try/*.{ending}"))]
    assert len(texts) == 7
    assert not [text for text in texts if re.search(r"(?<!from )https?://(?!localhost)[\w.]+\w", text)]


def test_the_locked_runtime_has_a_digest():
    import json

    lock = json.loads((DOCS / "try" / "package-lock.json").read_text())["packages"]
    wanted = json.loads((DOCS / "try" / "package.json").read_text())["dependencies"]
    assert {name: lock[f"node_modules/{name}"]["version"] for name in wanted} == wanted
    assert all("integrity" in package and "resolved" not in package for name, package in lock.items() if name)


# --- in a browser ----------------------------------------------------------------------------------------------------

AGREES = """async ([frames, width, height, count]) => {
    const { cropped, clipOf, segmentIndices } = await import("/try/pictures.js");
    const data = Uint8ClampedArray.from(frames);
    const crop = cropped({ data, width, height }, 64);
    const chosen = [];
    for (let number = 1; number < 200; number++) chosen.push(segmentIndices(number, count));
    return [Array.from(clipOf([crop], 64, [0.45, 0.45, 0.45], [0.225, 0.225, 0.225])), chosen];
}"""


@pytest.mark.slow
def test_frames_and_pixels_are_those_of_python():
    model = vov3d.create_model("vov3d_n", pretrained=True)
    cfg = model.pretrained_cfg
    with chromium() as browser, served(DOCS) as address:
        page = new_page(browser)
        page.goto(address)
        for height, width in ((64, 64), (128, 96), (97, 211), (40, 50), (240, 65)):
            frame = np.random.default_rng(height).integers(0, 256, (height, width, 4), np.uint8)
            clip, chosen = page.evaluate(AGREES, [frame.ravel().tolist(), width, height, cfg["num_frames"]])
            rgb = torch.from_numpy(frame[..., :3].copy()).permute(2, 0, 1)[None]
            expected = eval_transform(cfg)(rgb)[0]
            difference = (torch.tensor(clip).view_as(expected) - expected).abs() * 0.225 * 255
            assert difference.max() < 1.01, "more than one level of 255 apart"
            assert difference.mean() < 0.02
        assert chosen == [clip_indices(cfg, number, 10, 1)[0] for number in range(1, 200)]


@pytest.mark.slow
def test_ten_clips_get_the_labels_of_python(tmp_path):
    needs_runtime()
    classifier = vov3d.VideoClassifier("vov3d_n")
    with opened() as page:
        page.wait_for_selector("[data-label]", timeout=60_000)  # of the first drawn clip
        page.click("[data-input=file]")
        for number in range(10):
            path = tmp_path / f"clip_{number}.mp4"
            frames = (16, 23, 40)[number % 3]
            clip = make_clip(2 * number + number % 2, np.random.default_rng(number + 50), frames)
            write_clip(path, clip, fps=(10, 25, 30)[number % 3])
            assert send(page, path).startswith(f"{path.name}: {frames} frames")
            best = classifier(path)[0]
            assert page.get_attribute("#vov3d-try", "data-label") == best.label
            score = float(page.locator(".try-bar b").first.inner_text().rstrip("%"))
            assert score == pytest.approx(100 * best.score, abs=2)

        (tmp_path / "broken.mp4").write_bytes(b"nonsense" * 1000)
        assert "broken.mp4 cannot be used" in send(page, tmp_path / "broken.mp4")
        (tmp_path / "empty.mp4").touch()
        assert send(page, tmp_path / "empty.mp4") == "empty.mp4 is empty."
        assert page.locator(".try-error").is_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def write_timed(path, clip, times):
    """Writes a clip whose frames begin at given milliseconds."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1000, options={"crf": "10"})
        stream.width = stream.height = clip.shape[1]
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", Fraction(1, 1000)
        for time, pixels in zip(times, clip, strict=True):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = int(time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.slow
def test_files_of_odd_times_are_read_as_in_python(tmp_path):
    needs_runtime()
    classifier = vov3d.VideoClassifier("vov3d_n")
    clip = make_clip(2, np.random.default_rng(41), 40)
    even = np.arange(40) * 40
    write_timed(tmp_path / "late.mp4", clip, even + 2500)  # the browser takes it to last 1.6 s at first
    write_timed(tmp_path / "paused.mp4", clip, even + 1500 * (np.arange(40) > 20))
    with opened() as page:
        page.wait_for_selector("[data-label]", timeout=60_000)
        page.click("[data-input=file]")
        for name in ("late.mp4", "paused.mp4"):
            assert send(page, tmp_path / name).startswith(f"{name}: ")
            best = classifier(tmp_path / name)[0]
            assert page.get_attribute("#vov3d-try", "data-label") == best.label
            score = float(page.locator(".try-bar b").first.inner_text().rstrip("%"))
            assert score == pytest.approx(100 * best.score, abs=5)  # the browser does not show their last frame


DRAWN = """async (count) => {
    const root = document.getElementById("vov3d-try");
    const model = root.tryModel();
    const { motionScene, Random } = root.tryModules;
    let right = 0;
    for (let number = 0; number < count; number++) {
        const scene = motionScene(number % 20, new Random(number));
        const crops = Array.from({ length: 16 }, (_, frame) => model.see(scene.draw(frame)));
        const { scores } = await model.classify(model.pick(crops));
        right += model.best(scores, 1)[0].index === number % 20;
    }
    return right;
}"""


@pytest.mark.slow
def test_drawn_shapes_and_the_camera_are_labelled():
    needs_runtime()
    with opened() as page:
        page.wait_for_selector("[data-label]", timeout=60_000)
        assert re.fullmatch(r'(Right|Wrong): it was drawn as "(.+)"\.', status(page))[2] in CLASSES
        assert page.evaluate(DRAWN, 40) >= 36
        page.click("[data-input=camera]")
        page.wait_for_selector("[data-label]", timeout=30_000)
        assert page.locator(".try-frames canvas").count() == 8
        assert page.locator("[data-part=camera-video]").is_visible()
        page.click("[data-input=shapes]")
        assert not page.locator("[data-part=camera-video]").is_visible()


@pytest.mark.slow
def test_without_model_and_runtime_the_page_says_what_to_run(tmp_path):
    shutil.copytree(DOCS / "try", tmp_path / "try", ignore=shutil.ignore_patterns("built"))
    with opened(tmp_path) as page:
        page.get_by_text("python docs/try/build.py").wait_for()
        assert "no model" in status(page)
        assert not page.locator(".try-columns").is_visible()


@pytest.mark.slow
def test_a_runtime_that_fails_leaves_the_other():
    needs_runtime()
    with chromium() as browser, served(DOCS) as address:
        for adapter, titles in (("throw new Error('broken')", 1), ("return {}", 2)):
            page = new_page(browser)
            page.add_init_script(
                f"Object.defineProperty(navigator, 'gpu', {{value: {{async requestAdapter() {{ {adapter} }}}}}})"
            )
            page.goto(address)
            page.wait_for_selector("[data-label]", timeout=60_000)
            assert page.locator("[data-part=runtime] option").count() == titles
        page.click("[data-input=file]")
        page.select_option("[data-part=runtime]", "webgpu")
        page.wait_for_selector(".try-error")
        assert status(page).startswith("WebGPU cannot be used: ")
        assert page.input_value("[data-part=runtime]") == "wasm"


ONCE = """async () => {
    const model = document.getElementById("vov3d-try").tryModel();
    const { frames, size } = model.configuration;
    const crop = (frame) => Uint8ClampedArray.from({ length: 3 * size * size }, (_, i) => (7 * i + 31 * frame) % 256);
    return (await model.classify(Array.from({ length: frames }, (_, frame) => crop(frame)))).scores;
}"""


@pytest.mark.slow
def test_webgpu_gives_the_scores_of_webassembly():
    needs_runtime()
    with opened(DOCS, *WEBGPU) as page:
        page.wait_for_selector("[data-label]", timeout=60_000)
        if page.locator("[data-part=runtime] option").count() < 2:
            pytest.skip("this browser has no WebGPU")
        expected = page.evaluate(ONCE)
        page.click("[data-input=file]")
        page.select_option("[data-part=runtime]", "webgpu")
        page.wait_for_function("document.getElementById('vov3d-try').tryModel().runtime === 'webgpu'", timeout=120_000)
        assert page.evaluate(ONCE) == pytest.approx(expected, abs=1e-4)
