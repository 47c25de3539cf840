"""PyAV and torchcodec give the same frames to the bit; a torchcodec that does not load gives a clear error."""

import random
import sys
import warnings
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from helpers.numbered_videos import cut_start, keep_part, rotate_mp4, sequential_frames, write_video

from vov3d.video import VideoClassifier, VideoReader
from vov3d.video.decoders import torchcodec
from vov3d.video.decoders.torchcodec import TorchCodecFrames, torchcodec_problem

needs_torchcodec = pytest.mark.skipif(torchcodec_problem() is not None, reason=f"torchcodec: {torchcodec_problem()}")
TIMES = [i * 33 + 400 * (i // 7) for i in range(40)]


def _edited(path: Path) -> Path:
    return cut_start(path, frames=15, media_time_per_frame=512)


def _rotated(path: Path) -> Path:
    return rotate_mp4(path, 90)


def _cut(path: Path) -> Path:
    return keep_part(path, 0.7)


@needs_torchcodec
@pytest.mark.parametrize(
    ("name", "settings", "change", "decoder"),
    [
        ("b_frames.mp4", {"gop": 12}, None, "torchcodec"),
        ("open_gop.mp4", {"gop": 12, "options": {"x264-params": "open-gop=1:b-adapt=0:bframes=3"}}, None, "torchcodec"),
        ("fragmented.mp4", {"gop": 12, "muxer": {"movflags": "frag_keyframe+empty_moov"}}, None, "torchcodec"),
        ("mpeg4.mkv", {"codec": "mpeg4", "gop": 12}, None, "torchcodec"),
        ("vp9.webm", {"codec": "libvpx-vp9", "options": {"cpu-used": "8", "deadline": "realtime"}}, None, "torchcodec"),
        ("mjpeg.avi", {"codec": "mjpeg"}, None, "torchcodec"),
        ("variable.mkv", {"times_ms": TIMES}, None, "torchcodec"),
        ("edited.mp4", {"gop": 10}, _edited, "torchcodec"),
        ("rotated.mp4", {}, _rotated, "torchcodec"),
        ("gif.gif", {"codec": "gif", "fps": 25}, None, "torchcodec"),
        ("b_frames.avi", {"codec": "mpeg4", "gop": 12}, None, "pyav"),  # no times
        ("raw.h264", {"gop": 12}, None, "pyav"),
        ("cut.mp4", {"gop": 12, "muxer": {"movflags": "faststart"}}, _cut, "pyav"),
    ],
)
def test_the_same_frames_to_the_bit(tmp_path: Path, name: str, settings: dict, change, decoder: str) -> None:
    path = write_video(tmp_path / name, **{"num_frames": 40, **settings})
    path = change(path) if change else path
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing frames
        with VideoReader(path) as one, VideoReader(path, backend="torchcodec") as other:
            assert other.backend == decoder
            count = one.num_frames
            wanted = random.Random(0).choices(range(count), k=5)
            assert torch.equal(one.read(range(count)), other.read(range(count)))
            assert torch.equal(one.read(wanted), other.read(wanted))


@needs_torchcodec
@pytest.mark.parametrize(
    ("width", "height", "pix_fmt", "options", "decoder"),
    [
        (96, 64, "yuv420p", {}, "torchcodec"),
        (96, 64, "yuv420p10le", {}, "pyav"),
        (96, 64, "yuv420p", {"x264-params": "tff=1"}, "pyav"),
        (97, 63, "yuv444p", {}, "pyav"),
    ],
)
def test_pictures_that_torchcodec_shows_otherwise_are_left_to_pyav(
    tmp_path: Path, width: int, height: int, pix_fmt: str, options: dict[str, str], decoder: str
) -> None:
    path, rng = tmp_path / "a.mp4", np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        for number in range(12):
            blocks = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
            picture = np.kron(blocks, np.ones((8, 8, 1), np.uint8))[:height, :width]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with VideoReader(path) as one, VideoReader(path, backend="torchcodec") as other:
        assert other.backend == decoder
        assert torch.equal(one.read(range(12)), other.read(range(12)))


@needs_torchcodec
def test_key_frame_flags_are_verified(tmp_path: Path) -> None:
    path = write_video(tmp_path / "source.mp4", codec="mpeg4", num_frames=30, gop=10, b_frames=0)
    with av.open(str(path)) as source, av.open(str(tmp_path / "a.mp4"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            packet.stream, packet.is_keyframe = stream, number % 3 == 0
            target.mux(packet)
    truth = sequential_frames(tmp_path / "a.mp4")
    for index in (5, 17, 28):
        with VideoReader(tmp_path / "a.mp4", backend="torchcodec") as reader:
            assert np.array_equal(reader.read([index])[0].permute(1, 2, 0).numpy(), truth[index])
            assert reader.backend == "pyav"


@needs_torchcodec
def test_frames_at_other_times_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=20)
    with VideoReader(path) as reader:
        truth = reader.read([3, 9])
    monkeypatch.setattr(TorchCodecFrames, "_half_tick", lambda self: 0.0301)  # asks for the frame behind
    monkeypatch.setattr(torch, "allclose", lambda a, b, **_: bool((abs(a - b) < 1e-3).all()))
    with VideoReader(path, backend="torchcodec") as reader:
        assert torch.equal(reader.read([3, 9]), truth)


@needs_torchcodec
def test_bytes_and_classifier(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=20)
    with VideoReader(path) as one, VideoReader(path.read_bytes(), backend="torchcodec") as other:
        assert torch.equal(one.read([3, 9]), other.read([3, 9]))


@pytest.mark.parametrize("how", ["absent", "broken"])
def test_a_torchcodec_that_does_not_load_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "torchcodec"]:
        monkeypatch.delitem(sys.modules, name)
    body = "raise ModuleNotFoundError('no', name='torchcodec')"
    if how == "broken":
        body = "raise RuntimeError('Could not load libtorchcodec.\\n\\n  many\\n  lines')"
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    torchcodec.torchcodec_problem.cache_clear()
    path = write_video(tmp_path / "a.mp4", num_frames=5)
    cause = "torchcodec is not installed" if how == "absent" else "Could not load libtorchcodec"
    try:
        for use in (VideoReader, lambda path, backend: VideoClassifier(torch.nn.Identity(), backend=backend)):
            with pytest.raises(ImportError, match=rf"torchcodec' cannot be used here \({cause}.*pip install") as caught:
                use(path, backend="torchcodec")
            assert "\n" not in str(caught.value)
        assert VideoReader(path).backend == "pyav"
    finally:
        torchcodec.torchcodec_problem.cache_clear()
