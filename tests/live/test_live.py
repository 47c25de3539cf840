"""Live video: files played in real time, fake cameras on this machine, and the output of `vov3d live`."""

import contextlib
import gc
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from helpers.numbered_videos import rotate_mp4
from helpers.task_models import task_model

import vov3d
from vov3d.cli import live, main
from vov3d.live import LiveSource, StreamClassifier, output
from vov3d.live.output import Announcer
from vov3d.synthetic.moving_shapes import make_clip, write_clip
from vov3d.video import Prediction, VideoError, VideoReader
from vov3d.video.predictions import Value
from vov3d.weights.tasks import make_task


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "left.mp4"
    write_clip(path, make_clip(0, np.random.default_rng(3), 24), fps=10)
    return path


def said(label, score):
    return [Prediction(0, label, score)]


def test_a_label_is_announced_once_it_has_led_long_enough():
    announcer = Announcer(3, 0.5)
    steps = [("a", 0.9)] * 3 + [("b", 0.9), ("a", 0.9), ("b", 0.9), ("b", 0.8), ("b", 0.7)] + [("b", 0.2)] * 3
    changes = [(i, announcer.label) for i, step in enumerate(steps) if announcer.changed(said(*step))]
    assert changes == [(2, "a"), (7, "b"), (10, None)]
    assert Announcer(1, 0).changed(said("a", 0.1))


def test_labels_are_announced_together_and_values_as_they_come():
    many = Announcer(2, 0.5, make_task("multilabel"))
    both = [Prediction(1, "b", 0.9), Prediction(0, "a", 0.6)]
    changes = [many.changed(step) and many.label for step in (both, both, both[:1], both[:1], [], [])]
    assert changes == [False, "a + b", False, "b", False, None]
    values = Announcer(1, 0, make_task("regression"))
    assert values.changed([Value(0, "speed", -1.5), Value(1, "angle", 20.0)])
    assert values.label == "speed -1.5, angle 20"


@pytest.mark.parametrize(
    "task", ["multilabel", *(pytest.param(t, marks=pytest.mark.slow) for t in ("regression", "multihead"))]
)
def test_live_tells_what_fits_the_task(task, clip, tmp_path, capsys):
    folder = str(vov3d.save_pretrained(task_model(task), tmp_path / "model"))
    assert main(["live", str(clip), "--model", folder, "--json", "-o", str(tmp_path / "out.mp4")]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    kind = "value" if task == "regression" else "score"
    assert all(kind in said for line in lines for said in line["predictions"])
    if task == "multilabel":
        assert all(said["score"] >= 0.5 for line in lines for said in line["predictions"])
    elif task == "regression":
        assert all(line["label"].startswith("speed (m/s) ") for line in lines)
        assert main(["live", str(clip), "--model", folder, "--threshold", "0.5"]) == 1
        assert "--threshold has no effect on a regression" in capsys.readouterr().err
    assert main(["live", str(clip), "--model", folder]) == 0


# --- sources ---------------------------------------------------------------------------------------------------------


def test_a_file_gives_every_frame_to_a_slow_reader(clip):
    with LiveSource(str(clip)) as source:
        seconds = []
        for frame in source:
            seconds.append(round(frame.seconds, 3))
            time.sleep(0.002)
    assert seconds == [round(i / 10, 3) for i in range(24)]
    assert source.dropped == 0
    with LiveSource(clip, fps=5) as source:  # a Path
        assert [round(frame.seconds, 3) for frame in source] == [round(i / 5, 3) for i in range(12)]


@pytest.mark.slow
def test_a_file_in_real_time_drops_what_comes_too_late(clip):
    begun = time.monotonic()
    with LiveSource(str(clip), realtime=True) as source:
        frames = []
        for frame in source:
            frames.append(frame)
            time.sleep(0.35)
    assert time.monotonic() - begun > 2.2
    assert source.dropped > 5
    assert len(frames) + source.dropped == 24
    assert [f.seconds for f in frames] == sorted(f.seconds for f in frames)


def mpegts(size, frames=12):
    """Returns the bytes of a short video."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        rng = np.random.default_rng(0)
        for _ in range(frames):
            picture = rng.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def camera(*visits):
    """Serves each visitor on this machine by a function; returns the address."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve():
        for visit in visits:
            visitor, _ = server.accept()
            threading.Thread(target=attend, args=(visit, visitor), daemon=True).start()
        server.close()

    def attend(visit, visitor):
        with visitor, contextlib.suppress(OSError):
            visit(visitor)

    threading.Thread(target=serve, daemon=True).start()
    return f"tcp://127.0.0.1:{server.getsockname()[1]}"


def test_a_stream_that_drops_stalls_changes_size_ends_and_comes_back():
    done = threading.Event()
    small, large = mpegts((64, 48)), mpegts((96, 64))

    def stalls(visitor):
        visitor.sendall(large)
        done.wait(20)

    address = camera(
        lambda v: v.sendall(small),
        lambda v: v.close(),
        lambda v: v.sendall(b"no video at all" * 50),
        lambda v: v.sendall(small[: len(small) // 2]),
        stalls,
        lambda v: v.sendall(small),
    )
    shapes, times = [], []
    with LiveSource(address, stall=1.5, retries=4, pause=0.02) as source:
        frames = iter(source)
        with pytest.raises(VideoError, match="5 attempts in a row"):  # noqa: PT012 (until it gives up)
            while True:
                frame = next(frames)
                shapes.append(frame.picture.shape)
                times.append(frame.seconds)
    done.set()
    assert times == sorted(times), "time began again with a new connection"
    assert times[-1] > 1.5  # seconds of the stall
    assert (48, 64, 3) in shapes
    assert (64, 96, 3) in shapes
    assert shapes[-1] == (48, 64, 3), "it did not come back after the stall"
    assert source.reconnects >= 6
    assert not [t for t in threading.enumerate() if t.name == "vov3d-live"]


def test_titles_of_a_stream_may_be_in_any_encoding(clip, tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(clip)) as given, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(given.streams.video[0])
        container.metadata["title"] = "Sommer caf__"
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    data = path.read_bytes()
    assert data.count(b"caf__") == 1
    with LiveSource(camera(lambda v: v.sendall(data.replace(b"caf__", b"caf\xe9\xff"))), retries=1) as source:
        assert next(iter(source)).picture.ndim == 3


def test_a_stream_that_is_closed_was_not_opened_again():
    with LiveSource(camera(lambda v: v.sendall(mpegts((64, 48)))), pause=5) as source:
        next(iter(source))
        time.sleep(0.3)  # the stream has ended, and the thread waits before the next attempt
    assert source.reconnects == 0


@pytest.mark.parametrize("gap", [0.0, 7.03])
def test_frames_are_taken_at_a_rate_also_after_a_gap(gap, clip, monkeypatch):
    source, taken = LiveSource(str(clip), fps=5), []
    times = [i / 30 + (gap if i >= 45 else 0) for i in range(90)]
    monkeypatch.setattr(source, "_pictures", lambda: ((np.zeros((4, 4, 3), np.uint8), at) for at in times))
    monkeypatch.setattr(source, "_put", lambda picture, seconds: taken.append(seconds))
    source._read()
    steps = np.diff(taken)
    assert steps.min() > 0.9 / 5
    assert len(taken) in (15, 16)


def test_closing_does_not_wait_for_a_silent_stream():
    done = threading.Event()
    source = LiveSource(camera(lambda v: done.wait(20)), stall=0.5)
    begun = time.monotonic()
    with source:
        time.sleep(0.1)
    done.set()
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("source", "kwargs", "match"),
    [
        ("nothing.mp4", {}, "nothing.mp4: no such file"),
        ("-", {}, "need their size"),
        ("0", {"realtime": True}, "is live already"),
        ("0", {"size": (4, 4)}, "other sources do not take one"),
        ("0", {"fps": 0}, "fps 0"),
        ("0", {"fps": "5"}, "fps '5'"),
        ("0", {"stall": 0}, "stall 0"),
        ("0", {"retries": -1}, "retries is -1"),
        ("-", {"size": (10**6, 10**6)}, "more than the limit"),
        (os.curdir, {}, "is a folder"),
        (0, {"realtime": True}, "0 is live already"),  # a camera, as in OpenCV
    ],
)
def test_settings_that_do_not_fit(source, kwargs, match):
    with pytest.raises((ValueError, VideoError), match=match):
        LiveSource(source, **kwargs)


def test_a_file_without_video_says_so(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with (
        LiveSource(str(tmp_path / "text.mp4")) as source,
        pytest.raises(VideoError, match=r"text\.mp4: cannot be read"),
    ):
        list(source)


def test_frames_are_upright(clip, tmp_path):
    path = tmp_path / "turned.mp4"
    path.write_bytes(clip.read_bytes())
    rotate_mp4(path, 90)
    with LiveSource(str(path)) as source:
        found = next(iter(source)).picture
    wanted = next(VideoReader(path).stream([0]))[1].permute(1, 2, 0)
    assert np.array_equal(found, wanted)
    with av.open(str(path)) as container:
        assert not np.array_equal(found, next(container.decode(video=0)).to_ndarray(format="rgb24"))


def test_the_default_stream_of_a_file_is_read(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=10) for _ in range(2)]
        for stream, default in zip(streams, (0, Disposition.default), strict=True):
            stream.width = stream.height = 64
            stream.pix_fmt, stream.disposition = "yuv420p", default
        for stream, shade in zip(streams, (20, 230), strict=True):
            for _ in range(3):
                frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), shade, np.uint8), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    with LiveSource(str(path)) as source:
        found = [frame.picture for frame in source]
    wanted = next(VideoReader(path).stream([0]))[1].permute(1, 2, 0)
    assert wanted.float().mean() > 200
    assert len(found) == 3
    assert np.array_equal(found[0], wanted)


def test_a_file_that_is_cut_short_says_so(tmp_path):
    path = tmp_path / "cut.mkv"
    write_clip(path, make_clip(0, np.random.default_rng(3), 60), fps=10)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    told = []
    with LiveSource(str(path), tell=told.append) as source:
        assert 0 < len(list(source)) < 50
    assert len(told) == 1
    assert "but it states 6.0 s: it is cut short" in told[0]


@pytest.mark.parametrize(("rate", "fewer"), [(2, True), (5, False), (12, False)])
def test_a_source_of_fewer_frames_than_wanted_says_so(rate, fewer, tmp_path):
    write_clip(tmp_path / "a.mp4", make_clip(0, np.random.default_rng(3), 16), fps=rate)
    told = []
    with LiveSource(str(tmp_path / "a.mp4"), fps=5, tell=told.append) as source:
        assert len(list(source)) > 5
    assert [text.partition(": ")[2][:45] for text in told] == ["has 2 frames a second, fewer than the 5 to be"] * fewer


def test_damage_within_a_file_costs_only_its_frames(tmp_path):
    path, rng = tmp_path / "hole.mp4", np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"g": "10"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(40):
            picture = rng.integers(0, 255, (64, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    for at in (len(data) // 3, len(data) // 3 + 6000):
        data[at : at + 3000] = bytes(3000)
    path.write_bytes(data)
    with LiveSource(str(path)) as source:
        seconds = [frame.seconds for frame in source]
    assert len(seconds) >= 30
    assert seconds[-1] == pytest.approx(3.9)


def test_a_recording_at_an_address_is_read_once(tmp_path):
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    write_clip(tmp_path / "left.mkv", make_clip(0, np.random.default_rng(3), 24), fps=10)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with LiveSource(f"http://127.0.0.1:{server.server_port}/left.mkv", fps=5) as source:
            frames = iter(source)
            assert [round(next(frames).seconds, 3) for _ in range(12)] == [round(i / 5, 3) for i in range(12)]
            assert next(frames, None) is None
        server.shutdown()


def test_failed_attempts_are_told_without_the_password():
    told = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    address = f"http://me:sec@ret@127.0.0.1:{port}/cam"
    with (
        LiveSource(address, retries=1, pause=0.01, tell=told.append) as source,
        pytest.raises(VideoError, match="2 attempts in a row") as error,
    ):
        list(source)
    assert len(told) == 1
    assert "refused; opening it again in 0.01 s (attempt 2 of 2)" in told[0]
    assert not [text for text in (*told, str(error.value)) if "ret@" in text]


@pytest.mark.slow
def test_a_silent_pipe_does_not_keep_the_process_from_ending():
    code = "from vov3d.live import LiveSource\nwith LiveSource('-', size=(4, 4)): print('open')"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.read() == b"open\n"  # until it has ended; nothing is written to it
        assert process.wait() == 0


@pytest.mark.parametrize(("length", "match"), [(0, "ended before a frame"), (100, "28 of 72 bytes; is the size right")])
def test_a_pipe_that_does_not_fit_says_so(length, match, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(bytes(length))))
    with LiveSource("-", size=(4, 6)) as source, pytest.raises(VideoError, match=match):
        list(source)


def test_raw_frames_from_a_pipe(monkeypatch):
    raw = np.arange(3 * 4 * 6 * 3, dtype=np.uint8).reshape(3, 4, 6, 3)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw.tobytes())))
    with LiveSource("-", size=(4, 6)) as source:
        last = [frame.picture for frame in source][-1]
    assert np.array_equal(last, raw[-1])


# --- the classifier --------------------------------------------------------------------------------------------------


def test_a_classifier_equals_its_stream():
    model = vov3d.create_model("vov3d_n", pretrained=True, causal=True).eval()
    classifier = StreamClassifier(model, topk=2)
    assert classifier.fps == 5
    clip = make_clip(2, np.random.default_rng(1), 16)[1::2]
    stream, state = vov3d.streaming(model), None
    for picture in clip:
        found = classifier(picture)
        frame = (torch.from_numpy(picture).permute(2, 0, 1)[None] / 255 - 0.45) / 0.225
        logits, state = stream(frame, state)
        best = (logits[0] / model.temperature).softmax(0)
        assert [p.label for p in found] == [classifier.class_names[i] for i in best.topk(2).indices]
        assert found[0].score == pytest.approx(float(best.max()), abs=1e-4)
    assert classifier.frames == 8
    classifier.reset()
    one, several = StreamClassifier(stream), StreamClassifier(vov3d.create_model("vov3d_n", pretrained=True))
    assert torch.allclose(classifier.scores(clip[0]), one.scores(clip[0]), atol=1e-5)
    assert torch.allclose(one.scores_of(clip[1:4])[-1], [classifier.scores(f) for f in clip[1:4]][-1], atol=1e-5)
    assert len(several.scores_of([clip[0]] * 20)) == 0
    assert len(several.scores_of([clip[0]] * 5)) == 3


def test_a_classifier_waits_for_the_delay_and_takes_frames_of_any_size():
    classifier = StreamClassifier(vov3d.create_model("vov3d_n", pretrained=True))
    assert classifier.delay == 22
    given = [bool(classifier(np.zeros((64 + 2 * i, 80, 3), np.uint8))) for i in range(24)]
    assert given == [False] * 22 + [True] * 2
    with pytest.raises(ValueError, match="topk is 0"):
        StreamClassifier(classifier.stream, topk=0)
    with pytest.raises(ValueError, match="a stream already"):
        StreamClassifier(classifier.stream, window=4)
    with pytest.raises(ValueError, match="expected uint8"):
        classifier(np.zeros((64, 64, 3)))
    for frames in ([], [np.zeros((64, 64, 3), np.uint8), np.zeros((32, 64, 3), np.uint8)]):
        with pytest.raises(ValueError, match=f"of one size, got {len(frames)} of sizes"):
            classifier.scores_of(frames)


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_rate_of_clips_of_unknown_length_is_said_to_be_assumed(tmp_path, capsys):
    folder = tmp_path / "mine"
    vov3d.save_pretrained(vov3d.create_model("vov3d_n", num_classes=2), folder, label_names=["up", "down"])
    write_clip(tmp_path / "a.mp4", make_clip(0, np.random.default_rng(3), 8), fps=10)
    for options, said in (
        (["--model", str(folder)], True),
        (["--model", str(folder), "--fps", "5"], False),
        ([], False),
    ):
        assert main(["live", str(tmp_path / "a.mp4"), *options]) == 0
        err = capsys.readouterr().err
        assert ("2 frames/s, as for clips of 4 seconds: if the model learned from others, give --fps" in err) is said


@pytest.mark.parametrize(
    ("name", "fps"),
    [
        ("vov3d_n.shapes_f8", 5),
        pytest.param("vov3d_m.ssv2_f16", 4, marks=pytest.mark.slow),
        pytest.param("x3d_m.k400_f16", 6, marks=pytest.mark.slow),
    ],
)
def test_the_rate_of_published_clips_is_known(name, fps):
    classifier = vov3d.StreamClassifier(vov3d.create_model(name))
    assert (classifier.fps, classifier.assumed_seconds) == (fps, None)


@pytest.mark.slow
def test_a_file_too_short_for_a_label_is_said_to_be(tmp_path, capsys):
    folder = tmp_path / "model"
    vov3d.save_pretrained(vov3d.create_model("vov3d_n", pretrained=True), folder)
    write_clip(tmp_path / "short.mp4", make_clip(0, np.random.default_rng(3), 4), fps=10)
    assert main(["live", str(tmp_path / "short.mp4"), "--model", str(folder), "--fps", "10"]) == 0
    out, err = capsys.readouterr()
    assert not out
    delay = vov3d.streaming(vov3d.from_pretrained(folder)).delay
    assert f"4 frames, too few for a label, which needs {delay + 1}, in " in err


def test_the_command_on_a_file(clip, tmp_path, capsys):
    folder = tmp_path / "model"
    vov3d.save_pretrained(vov3d.create_model("vov3d_n", pretrained=True, causal=True), folder)
    video = tmp_path / "out.mp4"
    settings = ["--model", str(folder), "--topk", "2"]
    assert main(["live", str(clip), *settings, "--json", "--hop", "2", "-o", str(video)]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert len(lines) == 6
    assert lines[-1].keys() >= {"time", "label", "predictions", "fps", "delay", "delay_frames", "dropped"}
    assert len(lines[-1]["predictions"]) == 2
    assert lines[-1]["delay_frames"] == 0
    assert "12 frames in" in err
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 12
    assert main(["live", str(clip), *settings, "--smooth", "1", "--threshold", "0"]) == 0
    assert "ms behind" in capsys.readouterr().out


@pytest.mark.slow
def test_the_page_shows_the_newest_frame(clip, monkeypatch, capsys):
    seen = {}
    show = output.Page.show

    def look(self, image, now):
        show(self, image, now)
        if not seen:
            read = lambda path: urllib.request.urlopen(self.address + path, timeout=10)  # noqa: E731
            with read("live.mjpg") as stream:
                seen["picture"] = stream.read(200)
            seen["labels"] = json.load(read("labels.json"))
            seen["page"] = read("").read()

    monkeypatch.setattr(output.Page, "show", look)
    assert main(["live", str(clip), "--serve", "0"]) == 0
    assert b"--frame\r\nContent-Type: image/jpeg\r\n\r\n\xff\xd8" in seen["picture"]
    assert seen["labels"]["delay_frames"] == 0
    assert b"live.mjpg" in seen["page"]
    assert "http://127.0.0.1:" in capsys.readouterr().err


def test_a_browser_that_goes_away_leaves_no_traceback(capsys):
    page = output.Page(0)
    with contextlib.closing(page):
        with pytest.raises(OSError, match=f"port {urllib.parse.urlsplit(page.address).port} .*any that is free"):
            output.Page(urllib.parse.urlsplit(page.address).port)
        page._answer = lambda _: (_ for _ in ()).throw(ConnectionResetError())
        with pytest.raises(ConnectionError):
            urllib.request.urlopen(page.address, timeout=10)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_the_video_keeps_the_times_of_its_frames(clip, tmp_path):
    assert main(["live", str(clip), "--fps", "30", "-o", str(tmp_path / "out.mp4")]) == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [round(frame.time, 3) for frame in container.decode(video=0)] == [round(i / 10, 3) for i in range(24)]


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system cannot send the signals to itself")
@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGHUP", marks=pytest.mark.slow)])
def test_a_session_that_is_stopped_finishes_its_video(name, clip, tmp_path, monkeypatch):
    number = getattr(signal, name)
    take, seen = live._Session.take, []

    def stop(self, frame):
        take(self, frame)
        seen.append(frame)
        if len(seen) == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(live._Session, "take", stop)
    before = signal.signal(number, signal.SIG_DFL)  # under nohup it would be ignored
    try:
        assert main(["live", str(clip), "-o", str(tmp_path / "out.mp4")]) == 0
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3
    assert len(list(tmp_path.iterdir())) == 1


TWENTY_THOUSAND = """
import ctypes, os, resource, sys, threading
import torch, vov3d
from vov3d.live import LiveSource, StreamClassifier

torch.set_num_threads(1)

def held():
    getattr(ctypes.CDLL(None), "malloc_trim", int)(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

classifier = StreamClassifier(vov3d.create_model("vov3d_n", causal=True, num_blocks=1))
seen, memory, descriptors = 0, [], []
for number in range(200):
    with LiveSource(sys.argv[1]) as source:
        for frame in source:
            classifier(frame.picture)
            seen += 1
    if number % 5 == 0:
        memory.append(held())
    descriptors.append(len(os.listdir("/proc/self/fd")))
assert seen == classifier.frames == 20000
assert max(memory[20:]) < 1.01 * max(memory[4:20]), memory
assert descriptors[-1] == descriptors[1]
assert not [t for t in threading.enumerate() if t.name == "vov3d-live"]
"""


@pytest.mark.parametrize("turned", [False, True])
def test_pictures_are_freed_without_the_garbage_collector(turned, clip, tmp_path):
    video = Path(shutil.copy(clip, tmp_path / "clip.mp4"))
    if turned:
        rotate_mp4(video, 90)

    def read():
        with LiveSource(str(video)) as source:
            return sum(1 for _ in source)

    read()
    gc.collect()
    gc.disable()
    try:
        assert read() > 1
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kept = Counter(type(thing).__name__ for thing in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not kept.keys() & {"VideoFrame", "VideoStream", "InputContainer", "ndarray"}


@pytest.mark.slow
def test_twenty_thousand_frames_leave_nothing_behind(tmp_path):
    write_clip(tmp_path / "long.mp4", make_clip(0, np.random.default_rng(3), 100), fps=10)
    # Of several arenas of the C library, more and more are in use, whatever is freed.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", TWENTY_THOUSAND, str(tmp_path / "long.mp4")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--threshold", "2"], "scores are from 0 to 1"),
        (["-o", "labels.txt"], "must end in .mp4"),
        pytest.param(["--size", "4"], "--size is '4'", marks=pytest.mark.slow),
        pytest.param(["--fps", "0"], "fps 0.0 must be positive", marks=pytest.mark.slow),
        (["--serve", "70000"], "--serve is 70000: give a port"),
    ],
)
def test_the_command_names_what_does_not_fit(options, match, clip, capsys):
    assert main(["live", str(clip), *options]) == 1
    assert match in capsys.readouterr().err


def test_the_video_is_not_overwritten(clip, tmp_path, capsys):
    video = shutil.copy(clip, tmp_path / "clip.mp4")
    assert main(["live", str(video), "-o", str(video)]) == 1
    assert "is the file that is read, which would be lost" in capsys.readouterr().err
    assert video.read_bytes() == clip.read_bytes()
