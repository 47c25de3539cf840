"""Damaged files and wrong metadata: each frame equals that of a decode from the start, or counts as missing."""

import contextlib
import os
import pickle
import random
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from av.video.frame import PictureType
from helpers.numbered_videos import HEIGHT, WIDTH, frame_numbers, numbered_frame, sequential_frames, write_video

import vov3d
from vov3d.video import Predictions, VideoClassifier, VideoError, VideoReader
from vov3d.video.decoders import index as frame_index
from vov3d.video.decoders.base import printable
from vov3d.video.decoders.index import index_frames, open_video
from vov3d.video.decoders.pyav import PyAVFrames
from vov3d.video.sources import media_of

FAST_VP: dict[str, str] = {"cpu-used": "-8", "deadline": "realtime"}  # below 0: whatever else the processor does
KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264.mkv": {},
    "h264.ts": {},
    "open_gop.mp4": {"options": {"x264-params": "open-gop=1:b-adapt=0:bframes=3"}},
    "refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=12"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none"}},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg2.ts": {"codec": "mpeg2video"},
    "mpeg1.mpg": {"codec": "mpeg1video"},
    "h263p.avi": {"codec": "h263p"},
    "flv1.flv": {"codec": "flv"},
    "wmv2.avi": {"codec": "wmv2"},
    "vp8.webm": {"codec": "libvpx", "options": FAST_VP},
    "vp9.webm": {"codec": "libvpx-vp9", "options": FAST_VP},
    "av1.mkv": {"codec": "libsvtav1", "options": {"preset": "13"}},
    "ffv1.mkv": {"codec": "ffv1"},
    "mjpeg.avi": {"codec": "mjpeg"},
    "huffyuv.avi": {"codec": "huffyuv"},
    "gif.gif": {"codec": "gif"},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Writes one sound video of 40 frames for each kind that this FFmpeg can write."""
    folder = tmp_path_factory.mktemp("videos")
    found = {}
    for name, settings in KINDS.items():
        try:
            found[name] = _written(folder / name, **settings)
        except (ValueError, OSError, av.FFmpegError):  # not every FFmpeg has every encoder
            continue
    if hasattr(os, "sched_setscheduler"):  # SVT-AV1 makes a process of root's a real-time one, before all others
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return found


def _written(path: Path, codec: str = "libx264", **settings: Any) -> Path:
    if codec == "huffyuv":  # has no yuv420p
        with av.open(str(path), "w") as container:
            stream: Any = container.add_stream(codec, rate=30)
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv422p"
            for number, picture in enumerate(sequential_frames(write_video(path.with_suffix(".mov"), 40))):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 30)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path
    return write_video(path, num_frames=40, gop=10, codec=codec, **settings)


def test_enough_codecs_and_containers_are_tested(videos: dict[str, Path]) -> None:
    assert len(videos) > 12


def _mutated(data: bytes, rng: random.Random) -> bytes:
    """Applies one kind of damage: flipped bits, zeros, noise, a cut end, bytes left out."""
    found, kind = bytearray(data), rng.randrange(6)
    at, width = rng.randrange(len(data) // 10, len(data)), rng.choice([8, 100, 1000])
    if kind < 2:
        for _ in range(rng.choice([1, 2, 8])):
            found[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 2:
        found[at : at + width] = bytes(len(found[at : at + width]))
    elif kind == 3:
        found[at : at + width] = rng.randbytes(len(found[at : at + width]))
    elif kind == 4:
        del found[rng.randrange(len(data) // 4, len(data)) :]
    else:
        del found[at : at + width // 2]
    return bytes(found)


def _in_a_row_and_alone(data: bytes, rng: random.Random, alone: int) -> tuple[str, list[int]]:
    """Returns "sound", "damaged" or "refused", and the frames that a new reader silently decodes differently."""
    try:
        with VideoReader(data) as reader:
            count, row = reader.num_frames, reader.read(range(reader.num_frames))
            kind = "damaged" if reader.missing else "sound"
            assert row.shape == (count, 3, reader.height, reader.width)
            if reader.missing:
                assert reader.missing <= count
        differ = []
        for index in [rng.randrange(count) for _ in range(alone)]:
            with VideoReader(data) as reader:
                assert reader.num_frames == count
                if not torch.equal(reader.read([index])[0], row[index]) and not reader.missing:
                    differ.append(index)
    except VideoError:
        return "refused", []
    return kind, differ


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_frames_of_sound_files_are_equal_read_singly_and_in_a_row(videos: dict[str, Path]) -> None:
    for name, path in videos.items():
        assert _in_a_row_and_alone(path.read_bytes(), random.Random(name), 3) == ("sound", []), name


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_frames_of_damaged_files_are_equal_read_singly_and_in_a_row(videos: dict[str, Path]) -> None:
    _try_mutations(videos, each=4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_thousand_damaged_files(videos: dict[str, Path]) -> None:
    _try_mutations(videos, each=1000 // len(videos) + 1)


def _try_mutations(videos: dict[str, Path], each: int) -> None:
    """Checks that only `VideoError` is raised, and that frames read singly equal those read in a row.

    Decoders without checks (VP8, FFV1) carry damage from one key frame to the next without a sign: one file in a
    hundred may differ.
    """
    outcomes, differing = [], []
    for name, path in videos.items():
        data = path.read_bytes()
        for number in range(each):
            rng = random.Random(f"{name} {number}")
            outcome, differ = _in_a_row_and_alone(_mutated(data, rng), rng, 2)
            outcomes.append(outcome)
            differing += [(name, number, differ)] * bool(differ)
    assert len(differing) <= len(outcomes) // 100, differing
    assert outcomes.count("damaged") > len(outcomes) // 10


def _remuxed(path: Path, out: Path, change: Callable[[int, Any], bool]) -> Path:
    """Copies the packets of a file for which `change(number, packet)` holds to another file."""
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = (packet for packet in source.demux(video=0) if packet.size)
        for number, packet in enumerate(packets):
            if change(number, packet):
                packet.stream = stream
                target.mux(packet)
    return out


def _call_key(number: int, packet: Any) -> bool:
    packet.is_keyframe = number % 3 != 1
    return True


@pytest.mark.parametrize(
    "name", ["h264.mp4", "refresh.mp4", "hevc.mp4", "mpeg4.mp4", "mpeg2.ts", "vp8.webm", "vp9.webm", "h263p.avi"]
)
def test_key_flags_are_not_trusted(tmp_path: Path, videos: dict[str, Path], name: str) -> None:
    if name not in videos:
        pytest.skip("this FFmpeg does not write it")
    path = _remuxed(
        videos[name], tmp_path / f"a.{ {'mp4': 'mp4', 'avi': 'mov'}.get(name.split('.')[1], 'mkv') }", _call_key
    )
    truth = sequential_frames(path)
    for index in range(0, len(truth), 3):
        with VideoReader(path) as reader:
            assert reader.num_frames == len(truth)
            assert np.array_equal(reader.read([index])[0].permute(1, 2, 0).numpy(), truth[index])
            assert reader.missing == 0


def test_a_damaged_key_frame_is_reported(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=40, gop=10, muxer={"movflags": "faststart"})
    with av.open(str(path)) as container:
        key = container.streams.video[0].index_entries[20]
    data = bytearray(path.read_bytes())
    data[key.pos + key.size // 2 : key.pos + key.size * 3 // 4] = bytes(key.size * 3 // 4 - key.size // 2)
    with VideoReader(bytes(data)) as reader, pytest.warns(RuntimeWarning, match="10 of the 40 frames.*damaged"):
        row = reader.read(range(40))
    for index in range(15, 35):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", RuntimeWarning)
            with VideoReader(bytes(data)) as reader:
                assert torch.equal(reader.read([index])[0], row[index])
        assert bool(said) == (20 <= index < 30)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_damage_gives_the_same_pixels_in_every_run(tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "a.mp4", num_frames=60).read_bytes())
    rng = random.Random(0)
    for _ in range(12):
        data[rng.randrange(len(data) // 8, len(data) * 3 // 4)] ^= 1 << rng.randrange(8)
    first = None
    for _ in range(6):
        with VideoReader(bytes(data)) as reader:
            frames, missing = reader.read(range(60)), reader.missing
        first = (frames, missing) if first is None else first
        assert torch.equal(frames, first[0])
        assert missing == first[1] > 0


@pytest.mark.parametrize("name", ["h264.ts", "hevc.ts", "mpeg2.ts", "h264.mkv", "mpeg4.mkv"])
def test_a_recording_that_begins_between_key_frames(tmp_path: Path, name: str) -> None:
    codec = {"hevc": "libx265", "mpeg2": "mpeg2video", "mpeg4": "mpeg4"}.get(name.split(".")[0], "libx264")
    options = {"x265-params": "log-level=none"} if codec == "libx265" else {}
    source = write_video(tmp_path / f"source.{name.split('.')[1]}", 40, codec=codec, gop=15, options=options)
    path = _remuxed(source, tmp_path / f"a.{name.split('.')[1]}", lambda number, _: number >= 4)
    truth = sequential_frames(path)
    with VideoReader(path) as reader:
        assert reader.num_frames == len(truth)
        assert reader.timestamps[0] == 0
        frames = reader.read(range(len(truth))).permute(0, 2, 3, 1).numpy()
    sound = [np.array_equal(ours, theirs) for ours, theirs in zip(frames, truth, strict=True)]
    assert all(sound)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg4"])
@pytest.mark.parametrize("kind", ["mp4", "mov", "mkv"])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_files_with_times_of_decoding_only_are_counted(tmp_path: Path, codec: str, kind: str) -> None:
    path = _without_presentation_times(write_video(tmp_path / "a.mp4", 30, gop=10, codec=codec), kind)
    with VideoReader(path) as reader:
        assert frame_numbers(reader.read(range(reader.num_frames))) == list(range(30))
    for index in (1, 2, 17):
        with VideoReader(path) as reader:
            assert frame_numbers(reader.read([index])) == [index]


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_wrong_times_that_begin_late_are_noticed(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30, options={"x264-params": "bframes=2:b-adapt=0"})
        stream.width, stream.height = WIDTH, HEIGHT
        for number in range(40):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pict_type = PictureType.P if 0 < number < 20 else PictureType.NONE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    path = _without_presentation_times(tmp_path / "a.mp4", "mp4")
    with VideoReader(path) as reader:
        assert frame_numbers(reader.read(range(40))) == list(range(40))


def _without_presentation_times(path: Path, kind: str) -> Path:
    """Copies a video so that each frame is to be shown when it is decoded, as some tools write MP4 from AVI."""
    found = path.with_name(f"copy.{kind}")
    with av.open(str(path)) as source, av.open(str(found), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        first = None
        for packet in source.demux(video=0):
            if packet.size:
                first = packet.dts if first is None else first
                packet.dts -= first
                packet.pts, packet.stream = packet.dts, stream
                target.mux(packet)
    return found


@pytest.mark.parametrize("name", ["h264.ts", "h264.mp4", "h264.mkv"])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_packets_without_a_picture_are_no_frames(tmp_path: Path, videos: dict[str, Path], name: str) -> None:
    note = bytes([6, 5, 17, *range(16), 7, 0x80])  # user data of H.264, without a picture
    note = (bytes([0, 0, 0, 1]) if name == "h264.ts" else len(note).to_bytes(4, "big")) + note
    path = tmp_path / f"a{Path(name).suffix}"
    with (
        av.open(str(videos["h264.ts" if name == "h264.ts" else "h264.mp4"])) as source,
        av.open(str(path), "w") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                assert packet.pts is not None
                assert packet.dts is not None
                extra = av.Packet(note)
                half = round(1 / 60 / packet.time_base)
                extra.pts, extra.dts, extra.time_base = packet.pts + half, packet.dts + half, packet.time_base
                for one in (packet, extra):
                    one.stream = stream
                    target.mux(one)
    with VideoReader(path) as reader:
        assert (reader.num_frames, reader.fps) == (
            40,
            pytest.approx(30, rel=0.02),
        )  # the container may take precedence
        assert frame_numbers(reader.read(range(40))) == list(range(40))
        assert frame_numbers(reader.read([25])) == [25]


def test_pictures_that_are_never_shown_are_no_frames(tmp_path: Path, videos: dict[str, Path]) -> None:
    if "vp8.webm" not in videos:
        pytest.skip("this FFmpeg does not write it")
    path = tmp_path / "a.webm"
    with av.open(str(videos["vp8.webm"])) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            assert packet.pts is not None
            packets = [packet]
            if number % 10 == 5:
                hidden = bytearray(bytes(packet))
                hidden[0] &= ~16
                packets.insert(0, av.Packet(bytes(hidden)))
                packets[0].pts = packets[0].dts = packet.pts - 10
                packets[0].time_base = packet.time_base
            for one in packets:
                one.stream = stream
                target.mux(one)
    truth = sequential_frames(path)
    with VideoReader(path) as reader:
        assert (reader.num_frames, round(reader.fps, 3)) == (len(truth), 30) == (40, 30)
        frames = reader.read(range(40))
        assert np.array_equal(frames.permute(0, 2, 3, 1).numpy(), np.stack(truth))
        assert torch.equal(reader.read([27])[0], frames[27])


def test_an_outlying_timestamp_moves_no_frame(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.flv", 40, codec="flv", gop=10)
    data, tags = bytearray(path.read_bytes()), []
    at = 13  # behind the header
    while at + 11 < len(data):
        size = int.from_bytes(data[at + 1 : at + 4], "big")
        tags += [at] if data[at] == 9 else []
        at += size + 15
    data[tags[25] + 7] ^= 1  # the highest byte of its time
    with VideoReader(bytes(data)) as reader:
        count = reader.num_frames
        numbers = frame_numbers(reader.read(range(count)))
        assert numbers == list(range(count))
        assert frame_numbers(reader.read([35])) == [35]


@pytest.mark.parametrize("factor", [0.1, 30.0])
def test_durations_in_headers_are_not_trusted(tmp_path: Path, factor: float) -> None:
    data = bytearray(write_video(tmp_path / "a.mkv", 40).read_bytes())
    at = data.index(b"\x44\x89\x88") + 3
    struct.pack_into(">d", data, at, struct.unpack_from(">d", data, at)[0] * factor)
    with VideoReader(bytes(data)) as reader:
        assert (reader.num_frames, reader.fps) == (40, 30)
    path = write_video(tmp_path / "a.mp4", 40)
    data = bytearray(path.read_bytes())
    for box, offset in ((b"mvhd", 20), (b"tkhd", 24), (b"mdhd", 20)):  # version 0
        at = data.index(box) + offset
        struct.pack_into(">I", data, at, round(struct.unpack_from(">I", data, at)[0] * factor))
    with VideoReader(bytes(data)) as reader:
        assert reader.num_frames == 40


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("x"),
        struct.error("x"),
        ValueError("x"),
        MemoryError(),
        RuntimeError("x"),
        UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "x"),
        KeyError("x"),
        AssertionError(),
    ],
    ids=repr,
)
def test_whatever_a_decoder_raises_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=10)

    def fails(*_: object) -> Any:
        raise error

    with VideoReader(path) as reader:
        monkeypatch.setattr(PyAVFrames, "_frames_of", fails)
        with pytest.raises(VideoError, match=rf"^{path}: "):
            reader.read([3])
        with pytest.raises(ValueError, match="transform"):
            dict(VideoReader(np.zeros((2, 8, 8, 3), np.uint8)).stream([0], _failing))
    with pytest.raises(VideoError, match=rf"^{path}: "):
        VideoReader(path)
    monkeypatch.setattr(av, "open", fails)
    with pytest.raises(VideoError, match=rf"^{path}: "):
        VideoReader(path)


def _failing(frame: torch.Tensor) -> torch.Tensor:
    raise ValueError("transform")


@pytest.mark.parametrize(
    ("name", "old", "new"), [("a.mp4", b"avc1", b"zzz1"), ("a.mkv", b"V_MPEG4/ISO/AVC", b"V_NOBODY/OF/ALL")]
)
def test_an_unknown_codec_is_named_and_others_go_on(tmp_path: Path, name: str, old: bytes, new: bytes) -> None:
    good = write_video(tmp_path / name, num_frames=10)
    data = good.read_bytes()
    at = data.rindex(old)
    bad = tmp_path / f"bad_{name}"
    bad.write_bytes(data[:at] + new + data[at + len(old) :])
    with pytest.raises(VideoError, match=rf"^{bad}: its codec '{new.decode()}' is not known to FFmpeg"):
        VideoReader(bad)
    classifier = VideoClassifier(vov3d.create_model("x3d_xs", num_classes=3))
    results = [result for _, result in classifier.stream([good, bad, good], errors="return")]
    assert [type(result) for result in results] == [Predictions, VideoError, Predictions]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_beginnings_of_files(videos: dict[str, Path]) -> None:
    for path in videos.values():
        data = path.read_bytes()
        for size in (1, 4, 12, 40, 100, 300, 600, 900):
            with contextlib.suppress(VideoError), VideoReader(data[:size]) as reader:
                reader.read([0])


def test_a_file_cut_before_its_first_picture_is_said_to_have_none(tmp_path: Path) -> None:
    data = write_video(tmp_path / "a.mkv", 20).read_bytes()
    (tmp_path / "a.mkv").write_bytes(data[: data.index(b"\x1f\x43\xb6\x75") + 60])  # within the first cluster
    with pytest.raises(VideoError, match="no frame can be decoded; see whether a player shows it"):
        VideoReader(tmp_path / "a.mkv")


@pytest.mark.filterwarnings("ignore:.*missing or damaged:RuntimeWarning")
def test_whole_frames_that_share_an_incomplete_packet_are_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mpg", 50, codec="mpeg2video", gop=12)  # up to ten small frames in a packet
    whole = sequential_frames(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    with VideoReader(path) as reader:
        frames = reader.read(range(reader.num_frames)).permute(0, 2, 3, 1).numpy()
        assert reader.missing <= 2
    sound = [np.array_equal(ours, theirs) for ours, theirs in zip(frames, whole, strict=False)]
    assert sound.count(False) <= 2


def test_titles_in_any_encoding(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", 10, codec="mpeg4", b_frames=0)
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.avi"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        target.metadata["title"] = "Sommer caf__"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    data = (tmp_path / "b.avi").read_bytes()
    with VideoReader(data.replace(b"caf__", b"caf\xe9\xff")) as reader:
        assert frame_numbers(reader.read(range(10))) == list(range(10))


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")
    os.rename(write_video(tmp_path / "a.mp4", num_frames=5), path)
    with VideoReader(path) as reader:
        assert frame_numbers(reader.read([3])) == [3]
        with pytest.raises(IndexError) as caught:
            reader.read([9])
    os.truncate(path, 50)
    with pytest.raises(VideoError) as refused:
        VideoReader(path)
    for error in (caught, refused):
        assert str(error.value).encode().startswith(printable(path).encode())
        assert r"caf\udce9.mp4" in str(error.value)


LAYS = [(a, b, c, d) for a, d in ((1, 1), (-1, 1), (1, -1), (-1, -1)) for b, c in ((0, 0),)] + [
    (0, b, c, 0) for b in (1, -1) for c in (1, -1)
]


@pytest.mark.parametrize("matrix", [*LAYS, (0, 0, 0, 0)])
def test_every_display_matrix_is_followed(tmp_path: Path, matrix: tuple[int, ...]) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=4)
    plain = sequential_frames(path)[2]
    data = bytearray(path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    struct.pack_into(">9i", data, data.index(b"tkhd") + 44, a, b, 0, c, d, 0, 0, 0, 1 << 30)
    with VideoReader(bytes(data)) as reader:
        frame = reader.read([2])[0].permute(1, 2, 0).numpy()
    a, b, c, d = matrix if any(matrix) else (1, 0, 0, 1)
    height, width = plain.shape[:2]
    y, x = np.mgrid[:height, :width]
    to_x, to_y = a * x + c * y, b * x + d * y
    expected = np.empty((width, height, 3) if b else plain.shape, np.uint8)
    expected[to_y - to_y.min(), to_x - to_x.min()] = plain
    assert np.array_equal(frame, expected)


@pytest.mark.parametrize("default", [0, 1])
def test_the_default_stream_is_read(tmp_path: Path, default: int) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        streams: list[Any] = [container.add_stream("libx264", rate=30) for _ in range(2)]
        for number, stream in enumerate(streams):
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            stream.disposition = int(Disposition.default.value) if number == default else 0
        for count in range(10):
            for number, stream in enumerate(streams):
                shade = np.full((HEIGHT, WIDTH, 3), 60 + 120 * number, np.uint8)
                frame = av.VideoFrame.from_ndarray(shade, format="rgb24")
                frame.pts, frame.time_base = count, Fraction(1, 30)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    with VideoReader(path) as reader:
        assert reader.read([5]).float().mean() == pytest.approx(60 + 120 * default, abs=5)


@pytest.mark.parametrize("name", ["h264.mp4", "open_gop.mp4", "hevc.mp4", "mpeg4.mp4"])
def test_a_given_table_of_frames_equals_that_of_the_packets(
    videos: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    media = media_of(videos[name])
    container, stream = open_video(media)
    walked = frame_index._from_packets(container, stream, media)
    container.close()
    monkeypatch.setattr(frame_index, "_from_packets", None)  # which would read the whole file
    container, stream = open_video(media)
    table = index_frames(container, stream, media)
    container.close()
    assert np.array_equal(table.pts, walked.pts)
    assert (table.fps, table.variable, table.ordered, table.promised) == (walked.fps, False, True, 0)
    assert np.array_equal(table.key_dts, walked.key_dts)


def test_interleaved_streams_of_one_reader(tmp_path: Path) -> None:
    with VideoReader(write_video(tmp_path / "a.mp4", num_frames=40, gop=10)) as reader:
        one, other = reader.stream(range(0, 40, 3)), reader.stream(range(39, 0, -2))
        found = [(next(one), next(other)) for _ in range(10)]
        for (index, frame), (second, picture) in found:
            assert frame_numbers(torch.stack([frame, picture])) == [index, second]


_THREADS = """
import sys, threading, torch
from vov3d.video import VideoReader
reader, wrong = VideoReader(sys.argv[1]), []
truth = reader.read(range(40))
def work(start):
    for turn in range(15):
        index = (start + 7 * turn) % 40
        if not torch.equal(reader.read([index])[0], truth[index]): wrong.append(index)
        for index, frame in reader.stream(range(start, start + 6, 2)):
            if not torch.equal(frame, truth[index]): wrong.append(index)
threads = [threading.Thread(target=work, args=(8 * k,)) for k in range(4)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
print("wrong", wrong)
"""
_FORK = """
import os, pickle, sys, torch
from vov3d.video import VideoReader
reader = VideoReader(sys.argv[1])
truth = reader.read(range(40))
steps = reader.stream(range(0, 40, 5))
next(steps)
child = os.fork()
good = torch.equal(reader.read([25])[0], truth[25]) and all(torch.equal(frame, truth[i]) for i, frame in steps)
if child == 0:
    reader.close()
    del reader, steps
    sys.exit(0 if good else 1)
print("wrong", [] if good and os.waitpid(child, 0)[1] == 0 else "child")
"""
_LOGS = """
import random, sys, warnings
import av
from vov3d.video import VideoReader, VideoError
warnings.simplefilter("ignore")
av.logging.set_level(av.logging.ERROR)
import logging; logging.getLogger("libav").setLevel(logging.CRITICAL + 1)
data, rng = open(sys.argv[1], "rb").read(), random.Random(0)
for _ in range(40):
    bad = bytearray(data)
    for _ in range(20): bad[rng.randrange(len(bad) // 8, len(bad) * 3 // 4)] ^= 255
    try:
        with VideoReader(bytes(bad)) as reader: reader.read(range(0, reader.num_frames, 7))
    except VideoError: pass
print("wrong", [])
"""


@pytest.mark.slow
@pytest.mark.parametrize("program", [_THREADS, _FORK, _LOGS], ids=["threads", "fork", "logs"])
def test_in_a_process_of_its_own(tmp_path: Path, program: str) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=40, gop=10)
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "wrong []\n"), done.stderr


def test_readers_are_pickled(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=20)
    for source in (path, path.read_bytes(), np.stack(sequential_frames(path))):
        with VideoReader(source) as reader:
            again = pickle.loads(pickle.dumps(reader))
            assert torch.equal(again.read([7, 3]), reader.read([7, 3]))
        with pytest.raises(ValueError, match="closed"):
            pickle.loads(pickle.dumps(reader)).read([0])
