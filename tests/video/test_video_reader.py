"""Random access gives the frame asked for, to the bit, whatever the file."""

import contextlib
import importlib
import os
import random
import re
import socket
import struct
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.error
import numpy as np
import pytest
import torch
from helpers.numbered_videos import (
    HEIGHT,
    WIDTH,
    cut_start,
    frame_numbers,
    keep_part,
    rotate_mp4,
    sequential_frames,
    write_audio,
    write_video,
)
from helpers.warnings_as_errors import no_warnings

from vov3d.video import VideoError, VideoReader, median_duration
from vov3d.video.decoders.base import is_variable
from vov3d.video.decoders.pyav import PyAVFrames

OPEN_GOP = {"x264-params": "open-gop=1:b-adapt=0:bframes=3"}
FASTSTART = {"movflags": "faststart"}
FRAGMENTED = {"movflags": "frag_keyframe+empty_moov"}


@pytest.fixture(autouse=True)
def _no_warnings_unless_expected():
    with no_warnings():
        yield


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("long_gop.mp4", {}),
        ("short_gop.mp4", {"gop": 10}),
        ("gop_of_two.mp4", {"gop": 2}),
        ("open_gop.mp4", {"gop": 12, "options": OPEN_GOP}),
        ("open_gop.ts", {"gop": 12, "options": OPEN_GOP}),
        ("fragmented.mp4", {"gop": 12, "muxer": FRAGMENTED}),
        ("h264.mkv", {"gop": 12}),
        ("h264.flv", {"gop": 12}),
        ("h264.avi", {"gop": 12}),
        ("raw.h264", {"gop": 12}),
        ("mpeg4.mp4", {"codec": "mpeg4", "gop": 12}),
        ("mpeg4.mkv", {"codec": "mpeg4", "gop": 12}),
        ("b_frames.avi", {"codec": "mpeg4", "gop": 12}),
        ("no_b_frames.avi", {"codec": "mpeg4", "gop": 12, "b_frames": 0}),
        ("mjpeg.avi", {"codec": "mjpeg"}),
        ("mjpeg.mkv", {"codec": "mjpeg"}),
        ("loop.gif", {"codec": "gif", "fps": 25}),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}}),
        ("variable.mkv", {"times_ms": [i * 33 + 400 * (i // 7) for i in range(60)]}),
        ("variable.mp4", {"codec": "mpeg4", "gop": 12, "times_ms": [i * 33 + 400 * (i // 7) for i in range(60)]}),
        ("one.mp4", {"num_frames": 1}),
        ("two.mkv", {"num_frames": 2}),
    ],
)
def test_every_frame_is_the_one_asked_for(tmp_path: Path, name: str, settings: dict) -> None:
    path = write_video(tmp_path / name, **settings)
    truth = sequential_frames(path)
    rng = random.Random(0)
    with VideoReader(path) as reader:
        n = reader.num_frames
        assert n == len(truth) == len(reader) == len(reader.timestamps)
        assert (reader.height, reader.width) == (HEIGHT, WIDTH)
        assert frame_numbers(reader.read(range(n))) == list(range(n))
    for size in (1, 1, 1, 1, 1, 2, 3, 4):
        wanted = [rng.randrange(n) for _ in range(size)]
        with VideoReader(path) as reader:  # a fresh one, which has learned nothing about the file
            frames = reader.read(wanted)
        assert frames.shape == (size, 3, HEIGHT, WIDTH)
        assert frames.dtype == torch.uint8
        for index, frame in zip(wanted, frames, strict=True):
            assert np.array_equal(frame.permute(1, 2, 0).numpy(), truth[index])


@pytest.mark.parametrize("error", [-2.0, -0.1, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_seeks_that_land_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, error: float) -> None:
    class Careless:
        def __init__(self, container) -> None:
            self.container = container

        def seek(self, time: int, stream) -> None:
            self.container.seek(time + round(error / stream.time_base), stream=stream, any_frame=error < 0)

        def __getattr__(self, name: str):
            return getattr(self.container, name)

    monkeypatch.delattr(PyAVFrames, "_with_care")  # no damage, so it is not needed
    path = write_video(tmp_path / "a.mp4", codec=codec, gop=10)
    for index in (25, 31, 59):
        with VideoReader(path) as reader:
            frames: Any = reader._frames
            frames._container = Careless(frames._container)
            assert frame_numbers(reader.read([index])) == [index]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.h264", "a.ts"])
def test_rate_and_times(tmp_path: Path, name: str) -> None:
    with VideoReader(write_video(tmp_path / name, num_frames=50, fps=30)) as reader:
        assert reader.fps == 30
        assert reader.timestamps == pytest.approx([i / 30 for i in range(50)], abs=6e-4)
        assert reader.duration == pytest.approx(50 / 30, abs=1e-3)
        assert reader.at_constant_rate([0, 7, 49]) == [0, 7, 49]


def test_repeats_are_decoded_once_and_transformed(tmp_path: Path) -> None:
    calls = []

    def half(frame: torch.Tensor) -> torch.Tensor:
        calls.append(frame.shape)
        return frame[:, ::2, ::2]

    with VideoReader(write_video(tmp_path / "a.mp4")) as reader:
        frames = reader.read([40, 3, 40, 3, 3], transform=half)
        assert torch.equal(frames, reader.read(np.array([40, 3, 40, 3, 3]))[:, :, ::2, ::2])
    assert calls == [(3, HEIGHT, WIDTH)] * 2


def test_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    plain = PyAVFrames._decoded

    def counted(self, key, only=()):
        for frame in plain(self, key, only):
            decoded.append(frame.pts)
            yield frame

    with VideoReader(write_video(tmp_path / "a.mp4", num_frames=200, gop=20)) as reader:
        monkeypatch.setattr(PyAVFrames, "_decoded", counted)
        assert frame_numbers(reader.read([5, 185])) == [5, 185]
    assert len(decoded) < 6 + 6  # what no wanted frame refers to is left out


def test_edit_list_hides_the_first_frames(tmp_path: Path) -> None:
    path = cut_start(write_video(tmp_path / "a.mp4", gop=10), frames=15, media_time_per_frame=512)
    with VideoReader(path) as reader:
        assert reader.num_frames == 45
        assert frame_numbers(reader.read([0, 44, 7])) == [15, 59, 22]
        assert reader.timestamps[0] == 0


@pytest.mark.parametrize("name", ["a.avi", "a.mov", "changes.avi"])
def test_palettes_that_the_file_gives_once(tmp_path: Path, name: str) -> None:
    path, grey, red = tmp_path / name, [(i, i, i, 255) for i in range(256)], [(i, 0, 255 - i, 255) for i in range(256)]
    with av.open(path, "w") as container:
        stream = container.add_stream("rawvideo", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "pal8"
        for number in range(12):
            frame = av.VideoFrame(WIDTH, HEIGHT, "pal8")
            frame.planes[0].update(bytes([number * 20] * (WIDTH * HEIGHT)))
            palette = red if number < 6 or "changes" not in name else grey
            frame.planes[1].update(bytes(np.array(palette, dtype=np.uint8)))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    expected = sequential_frames(path)
    assert len({picture.tobytes() for picture in expected}) == 12
    with VideoReader(path) as reader:
        for indices in (range(12), [3], [11], [0], [7, 8]):
            pictures = reader.read(indices).permute(0, 2, 3, 1).numpy()
            np.testing.assert_array_equal(pictures, np.stack([expected[index] for index in indices]))


@pytest.mark.parametrize("count", [7, 1000])
def test_wrong_frame_count_in_the_container(tmp_path: Path, count: int) -> None:
    path = write_video(tmp_path / "a.avi", codec="mpeg4", b_frames=0)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 24, count)
    struct.pack_into("<I", data, data.index(b"strh") + 40, count)
    path.write_bytes(data)
    with VideoReader(path) as reader:
        assert reader.num_frames == 60
        assert frame_numbers(reader.read([59, 0])) == [59, 0]


@pytest.mark.parametrize(("degrees", "quarters"), [(90, -1), (180, 2), (270, 1)])
def test_rotation(tmp_path: Path, degrees: int, quarters: int) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=6)
    truth = np.rot90(sequential_frames(path)[4], quarters)
    with VideoReader(rotate_mp4(path, degrees)) as reader:
        assert (reader.height, reader.width) == truth.shape[:2]
        assert np.array_equal(reader.read([4])[0].permute(1, 2, 0).numpy(), truth)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_variable_rate(tmp_path: Path, name: str) -> None:
    times = [0, 33, 66, 400, 500, 533, 1000, 1033]
    with VideoReader(write_video(tmp_path / name, times_ms=times)) as reader:
        assert reader.fps == pytest.approx(7 / 1.033)
        assert reader.timestamps == pytest.approx([t / 1000 for t in times], abs=1e-3)
        nearest = [min(range(8), key=lambda k, i=i: abs(times[k] / 1000 - i / reader.fps)) for i in range(8)]
        assert reader.at_constant_rate(range(8)) == nearest
        assert nearest != list(range(8))
        assert frame_numbers(reader.read(nearest)) == nearest


def test_the_median_length_leaves_out_what_does_not_open(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    lengths = {"a.mp4": 30, "b.mp4": 60, "c.mp4": 300}
    videos = [write_video(tmp_path / name, num_frames=count) for name, count in lengths.items()]
    assert median_duration([tmp_path / "broken.mp4", *videos, tmp_path / "none.mp4"]) == 2
    assert median_duration(iter(videos[:2])) == 1.5
    assert median_duration([tmp_path / "broken.mp4"]) is None
    with pytest.raises(ValueError, match=r"expected several videos, got one, .*a\.mp4; give a list"):
        median_duration(str(videos[0]))  # its letters would be names that do not open, but "." is a folder


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_rate_that_changes_is_variable(tmp_path: Path, name: str) -> None:
    times = [round(1000 * second) for second in [*np.arange(60) / 30, *(2 + np.arange(48) / 24)]]
    with VideoReader(write_video(tmp_path / name, times_ms=times)) as reader:
        assert reader.variable
        assert reader.at_constant_rate([54]) == [60]  # of 107 frames in 3.958 s
    for rate in (23.976, 25, 29.97, 30, 59.94):  # rounded to milliseconds
        rounded = [round(1000 * number / rate) for number in range(60)]
        with VideoReader(write_video(tmp_path / name, times_ms=rounded)) as reader:
            assert not reader.variable


@pytest.mark.parametrize(
    ("gaps", "variable"),
    [
        ([1] * 20 + [2] * 20, True),  # the time base is one frame, and every other frame of the second half is lost
        ([1] * 20 + [2] + [1] * 20, False),
        ([33] * 30 + [42] * 30, True),
        ([33, 50] * 30, False),  # 24 frames a second as repeated fields
        (np.diff(np.floor(np.arange(900) / 0.7)).astype(int), False),
        ([], False),
    ],
)
def test_frames_that_drift_from_the_average_rate(gaps: Any, variable: bool) -> None:
    assert is_variable(np.array(gaps, dtype=np.int64)) is variable


@pytest.mark.parametrize("name", ["a.ts", "a.mpg"])
def test_a_clock_that_jumps_is_no_pause_in_mpeg_streams(tmp_path: Path, name: str) -> None:
    path, late = tmp_path / name, [0] * 20 + [3_600] * 10 + [50_000] * 10  # seconds
    plain = write_video(tmp_path / f"plain-{name}", 40, fps=25, codec="mpeg2video", gop=10)
    with av.open(plain) as source, av.open(path, "w") as joined:
        stream = joined.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.pts = packet.dts = round((number / 25 + late[number]) / packet.time_base)
            packet.stream = stream
            joined.mux(packet)
    with VideoReader(path) as reader:
        assert (reader.fps, reader.variable, reader.duration) == (pytest.approx(25), False, pytest.approx(1.6))
        assert reader.timestamps == pytest.approx(np.arange(40) / 25)
        assert frame_numbers(reader.read([35, 2, 20, 19, 29, 30])) == [35, 2, 20, 19, 29, 30]


@pytest.mark.parametrize(("name", "seconds"), [("a.ts", 9), ("a.mkv", 60)])
def test_a_pause_lasts(tmp_path: Path, name: str, seconds: int) -> None:
    times = [40 * number + 1000 * seconds * (number >= 20) for number in range(40)]
    with VideoReader(write_video(tmp_path / name, times_ms=times, gop=10)) as reader:
        assert reader.variable
        assert reader.timestamps == pytest.approx(np.array(times) / 1000)


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_pause_that_only_the_times_of_presentation_show(tmp_path: Path, codec: str) -> None:
    plain, path = write_video(tmp_path / "plain.mp4", 60, gop=12, codec=codec), tmp_path / "a.mp4"
    with av.open(plain) as source, av.open(path, "w") as paused:
        stream = paused.add_stream_from_template(source.streams.video[0])
        for packet in (packet for packet in source.demux(video=0) if packet.size):
            frame = round(1 / 30 / packet.time_base)
            packet.pts += frame * (packet.pts >= 30 * frame)  # the times of decoding stay equally far apart
            packet.stream = stream
            paused.mux(packet)
    for number in (31, 36, 48, 54):
        with VideoReader(path) as reader:
            assert frame_numbers(reader.read([number])) == [number]
    assert reader.timestamps == pytest.approx([(number + (number >= 30)) / 30 for number in range(60)], abs=1e-3)


@pytest.mark.parametrize("name", ["a.mkv", "a.flv"])
def test_frames_at_one_time_are_counted_and_the_others_keep_their_times(tmp_path: Path, name: str) -> None:
    times = [33 * number + 3000 * (number >= 20) for number in range(40)]
    times[30] = times[29]
    with VideoReader(write_video(tmp_path / name, times_ms=times, gop=10)) as reader:
        assert reader.variable
        assert reader.timestamps == pytest.approx(np.array(times) / 1000)
        assert frame_numbers(reader.read([30, 19, 29, 20])) == [30, 19, 29, 20]


@pytest.mark.parametrize(
    ("name", "settings", "total"),
    [
        ("a.mp4", {"muxer": FASTSTART, "gop": 12}, 60),
        ("a.mkv", {"gop": 12}, 60),
        ("a.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}}, 60),
        ("a.avi", {"codec": "mpeg4", "b_frames": 0, "gop": 12}, 60),
        ("b.avi", {"codec": "mpeg4", "b_frames": 2, "gop": 12}, 60),
        ("b.mp4", {"muxer": FRAGMENTED, "gop": 12}, None),
    ],
)
def test_a_cut_file_gives_its_remaining_frames(tmp_path: Path, name: str, settings: dict, total: int | None) -> None:
    path = keep_part(write_video(tmp_path / name, **settings), 0.75)
    with VideoReader(path) as reader:
        n = reader.num_frames
        assert total is None or n == total
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            numbers = frame_numbers(reader.read(range(n)))
            reader.read([n - 1])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert numbers[:18] == list(range(18))
    assert numbers == sorted(numbers)
    text = str(caught[0].message)
    if name == "b.avi":  # no times: a frame whose predecessors are cut off takes their place
        assert re.match(rf"{path}: \d+ of the {n} frames", text)
        assert len(set(numbers)) > 20
    else:
        missing = sum(number != index for index, number in enumerate(numbers))
        assert text.startswith(f"{path}: {missing} of the {n} frames asked for are missing")
        assert all(after in (before, index) for index, (before, after) in enumerate(pairwise(numbers), 1))


def test_frames_before_the_cut_come_without_a_warning(tmp_path: Path) -> None:
    with VideoReader(keep_part(write_video(tmp_path / "a.mp4", muxer=FASTSTART, gop=12), 0.72)) as reader:
        assert frame_numbers(reader.read([3, 11, 17])) == [3, 11, 17]


def _damaged(path: Path, tag: bytes) -> Path:
    """Writes zeros over some frames in the middle of what follows `tag`."""
    data = bytearray(path.read_bytes())
    middle = (data.index(tag) + len(data)) // 2
    data[middle : middle + 150] = bytes(150)
    path.write_bytes(data)
    return path


def test_damage_leaves_counted_frames_as_they_come(tmp_path: Path) -> None:
    path = _damaged(write_video(tmp_path / "a.avi", gop=12), b"movi")
    truth = list(_decoded_by_one_thread(path).values())
    assert 40 < len(truth) < 60
    with VideoReader(path) as reader:
        assert reader.num_frames == len(truth)
        with pytest.warns(RuntimeWarning, match=r"of the \d+ frames asked for are missing or damaged"):
            frames = reader.read(range(len(truth)))
        assert np.array_equal(frames.permute(0, 2, 3, 1).numpy(), np.stack(truth))


def test_damage_in_the_middle_leaves_the_rest_exact(tmp_path: Path) -> None:
    path = _damaged(write_video(tmp_path / "a.mp4", muxer=FASTSTART, gop=12), b"mdat")
    with VideoReader(path) as reader, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frames = reader.read(range(60)).permute(0, 2, 3, 1).numpy()
    truth = _decoded_by_one_thread(path)
    assert 50 < len(truth) < 60  # some packets give nothing
    for index in range(60):
        shown = max(known for known in truth if known <= index)
        assert np.array_equal(frames[index], truth[shown])


def _decoded_by_one_thread(path: Path) -> dict[int, np.ndarray]:
    """Decodes all frames of a damaged file at 30 frames per second, by frame number, in the order they come."""
    found: dict[int, np.ndarray] = {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        for packet in container.demux(stream):
            with contextlib.suppress(av.error.FFmpegError):
                for frame in packet.decode():
                    assert frame.time is not None
                    found[round(frame.time * 30)] = frame.to_ndarray(format="rgb24")
    return found


def _folder(tmp_path: Path) -> Path:
    return tmp_path


def _missing(tmp_path: Path) -> Path:
    return tmp_path / "absent.mp4"


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "a.mp4").touch()
    return tmp_path / "a.mp4"


def _text(tmp_path: Path) -> Path:
    (tmp_path / "a.mp4").write_text("hello world\n" * 50)
    return tmp_path / "a.mp4"


def _sound(tmp_path: Path) -> Path:
    return write_audio(tmp_path / "a.m4a")


def _no_index(tmp_path: Path) -> Path:
    return keep_part(write_video(tmp_path / "a.mp4"), 0.5)


def _no_frame(tmp_path: Path) -> Path:
    path = write_video(tmp_path / "a.mp4", muxer=FASTSTART)
    data = path.read_bytes()
    at = data.index(b"mdat") + 4
    path.write_bytes(data[:at] + bytes(len(data) - at))
    return path


def _pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.mp4")
    return tmp_path / "pipe.mp4"


def _socket(tmp_path: Path) -> Path:
    path = Path(os.path.relpath(tmp_path / "s"))  # addresses of sockets must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    return path


@pytest.mark.parametrize(
    ("make", "cause"),
    [
        (_folder, "is a folder"),
        (_missing, "no such file"),
        (_empty, r"is empty \(0 bytes\)"),
        (_text, "cannot be read as a video"),
        (_sound, "no video stream, only audio"),
        (_no_index, "cut short"),
        (_no_frame, "no frame can be decoded"),
        (_pipe, "is a pipe"),
        (_socket, "is a pipe, socket"),
    ],
)
def test_what_is_no_video_is_refused_by_name(tmp_path: Path, make, cause: str) -> None:
    path = make(tmp_path)
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    with pytest.raises(VideoError, match=cause) as caught:
        VideoReader(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert not before or len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("backend", [None, "pyav"])
def test_an_empty_name_is_no_folder(backend) -> None:
    with pytest.raises(VideoError, match="the name of a video is empty"):
        VideoReader("", backend=backend)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=1)
    path.chmod(0)
    root = os.geteuid() == 0
    if root:  # root may read everything: be nobody for a moment
        os.seteuid(65534)
    try:
        with pytest.raises(VideoError, match="permission denied"):
            VideoReader(path)
    finally:
        if root:
            os.seteuid(0)


def test_bad_requests_are_refused(tmp_path: Path) -> None:
    with VideoReader(write_video(tmp_path / "a.mp4", num_frames=5)) as reader:
        with pytest.raises(IndexError, match=r"a.mp4: frame 5 is not in 0..4"):
            reader.read([0, 5])
        with pytest.raises(IndexError, match="frame -1"):
            reader.read([-1])
        with pytest.raises(ValueError, match="no frames were asked for"):
            reader.read([])
        with pytest.raises(TypeError):
            reader.read([1.5])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="closed"):
        reader.read([0])


@pytest.mark.parametrize(
    ("library", "module", "name"), [("av", "decoders.index", "PyAV"), ("torchvision", "transforms", "")]
)
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, library: str, module: str, name: str) -> None:
    for loaded in [key for key in sys.modules if key.split(".")[0] == library]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.delitem(sys.modules, f"vov3d.video.{module}")
    with pytest.raises(ImportError, match=rf"needs {name or library}: pip install 'vov3d\[video\]'"):
        importlib.import_module(f"vov3d.video.{module}")
