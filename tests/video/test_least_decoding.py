"""Opening and reading decode no more than needed, and the frames are those of a decode of the whole file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.numbered_videos import sequential_frames, write_video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vov3d.video import VideoReader
from vov3d.video.decoders.index import has_frames_only
from vov3d.video.decoders.pyav import PyAVFrames

FRAMES = 60
FIELDS = {"x264-params": "interlaced=1:bframes=2"}
KINDS = {
    "long.mp4": {},
    "short.mp4": {"gop": 12},
    "pyramid.mp4": {"gop": 20, "b_frames": 5, "options": {"x264-params": "b-pyramid=normal:b-adapt=0:bframes=5"}},
    "open.mp4": {"gop": 12, "options": {"x264-params": "open-gop=1:b-adapt=0:bframes=3"}},
    "plain.mp4": {"gop": 12, "b_frames": 0, "options": {"profile": "baseline"}},
    "fields.mp4": {"gop": 12, "options": FIELDS},
    "fields.ts": {"gop": 12, "options": FIELDS},
    "mpeg4.mp4": {"codec": "mpeg4", "gop": 12},
    "short.mkv": {"gop": 12},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, np.ndarray]]:
    folder = tmp_path_factory.mktemp("videos")
    paths = {name: write_video(folder / name, FRAMES, **keys) for name, keys in KINDS.items()}
    return {name: (path, np.stack(sequential_frames(path))) for name, path in paths.items()}


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(torch, "get_num_threads", lambda: request.param)
    return request.param


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.sets(st.integers(0, FRAMES - 1), min_size=1, max_size=9), then=st.integers(0, FRAMES - 1))
def test_frames_are_those_of_a_whole_decode(videos, threads: int, name: str, first: set[int], then: int) -> None:
    path, truth = videos[name]
    with VideoReader(path) as reader:
        for wanted in (sorted(first), [then]):
            assert np.array_equal(reader.read(wanted).permute(0, 2, 3, 1).numpy(), truth[wanted])


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns the times of the packets that the decoder takes from now on."""
    times, plain = [], PyAVFrames._frames_of

    def noted(self, packet):
        times.append(packet.pts) if packet is not None else None
        return plain(self, packet)

    monkeypatch.setattr(PyAVFrames, "_frames_of", noted)
    return times


def test_opening_decodes_one_picture_where_packets_leave_no_doubt(videos, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = counted(monkeypatch)
    for name, most in (("long.mp4", 1), ("pyramid.mp4", 1), ("fields.mp4", FRAMES), ("short.mkv", FRAMES)):
        taken.clear()
        with VideoReader(videos[name][0]):
            assert len(taken) == 1 if most == 1 else 9 <= len(taken) <= most


def test_nothing_behind_the_last_wanted_frame_is_decoded(videos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with VideoReader(videos["plain.mp4"][0]) as reader:
        taken = counted(monkeypatch)
        reader.read([14, 26, 38])  # the third of the second, third and fourth group
        assert len(taken) == 9


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"profile": "baseline"}, True),
        ({"profile": "main"}, True),
        ({"profile": "high"}, True),
        ({"x264-params": "interlaced=1"}, False),
        ({"x264-params": "fake-interlaced=1"}, False),
    ],
)
def test_parameters_tell_whether_there_are_fields(tmp_path: Path, options: dict[str, str], expected: bool) -> None:
    with VideoReader(write_video(tmp_path / "a.mp4", 5, b_frames=0, options=options)) as reader:
        frames = reader._frames
        assert isinstance(frames, PyAVFrames)
        assert has_frames_only(frames._stream.codec_context.extradata) is expected


@given(st.one_of(st.none(), st.binary(max_size=40), st.binary(max_size=40).map(lambda b: b"\1dd\0\xff\xe1" + b)))
def test_parameters_of_any_bytes_raise_nothing(extradata: bytes | None) -> None:
    assert has_frames_only(extradata) in (True, False)
