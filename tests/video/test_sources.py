"""A video may be a file, a folder, an address, bytes or an array; each gives the frames that are in it."""

import contextlib
import http.server
import io
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.numbered_videos import folder_of_frames, frame_numbers, sequential_frames, write_pictures, write_video
from PIL import Image

from vov3d.video import VideoError, VideoReader


class Decoder:
    """Stands for those of torchcodec."""

    def get_frames_in_range(self, start: int, stop: int) -> None:
        raise AssertionError("a refused decoder is not read")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Decoder(), r"got Decoder; give the file .* datasets.Video\(decode=False\)"),
        (io.BytesIO(b"x"), r"got BytesIO; give the name of the file, or its content as file.read\(\)"),
        (bytearray(b"x"), r"got bytearray; give bytes\(...\) of it"),
        ({"bytes": b"x"}, r"got dict; vov3d.adapters.datasets.video_source\(row\) gives its file"),
        (None, "got NoneType$"),
    ],
)
def test_other_things_that_hold_a_video(source: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VideoReader(source)  # type: ignore[arg-type]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_video(tmp_path / "a.mp4", num_frames=20, gop=8)


@pytest.mark.parametrize("name", ["{:05}.jpg", "{}.png", "frame_{}.JPEG"])
def test_a_folder_of_frames_in_natural_order(tmp_path: Path, name: str) -> None:
    folder = folder_of_frames(tmp_path / "1234", 12, name)
    (folder / "labels.txt").write_text("no frame")
    (folder / ".hidden.jpg").write_text("no frame")
    with VideoReader(folder) as reader:
        assert (reader.num_frames, reader.fps, reader.height, reader.width) == (12, 12, 64, 96)
        assert reader.backend == "pillow"
        assert frame_numbers(reader.read([11, 0, 5, 5])) == [11, 0, 5, 5]
        assert reader.duration == pytest.approx(1)
    with VideoReader(str(folder), fps=24) as reader:
        assert (reader.fps, reader.duration) == (24, pytest.approx(0.5))


def test_broken_frames_of_a_folder_are_named(tmp_path: Path) -> None:
    folder = folder_of_frames(tmp_path / "clip", 4)
    (folder / "00002.jpg").write_bytes((folder / "00002.jpg").read_bytes()[:700])
    Image.new("RGB", (8, 8)).save(folder / "00003.jpg")
    with VideoReader(folder) as reader:
        with pytest.raises(VideoError, match=r"00002\.jpg: this frame of the folder cannot be read \(.*truncated"):
            reader.read([1])
        with pytest.raises(
            VideoError, match=r"00003\.jpg: has 8x8 pixels, but the first frame of the folder has 96x64"
        ):
            reader.read([2])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(VideoError, match="is a folder without pictures"):
        VideoReader(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.webm"])
def test_bytes(tmp_path: Path, name: str) -> None:
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(name[2:], "libx264")
    path = write_video(tmp_path / name, num_frames=20, codec=codec, gop=8)
    with VideoReader(path) as plain, VideoReader(path.read_bytes()) as reader:
        assert reader.path == f"<{path.stat().st_size} bytes>"
        assert torch.equal(reader.read([19, 3]), plain.read([19, 3]))
        assert torch.equal(reader.read([0]), plain.read([0]))


@pytest.mark.parametrize(("data", "cause"), [(b"", r"<0 bytes>: is empty"), (b"hello" * 50, "<250 bytes>: cannot be")])
def test_bytes_that_are_no_video(data: bytes, cause: str) -> None:
    with pytest.raises(VideoError, match=cause):
        VideoReader(data)


def test_bytes_cannot_refer_to_other_files(path: Path) -> None:
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{path}\n#EXT-X-ENDLIST\n".encode()
    with pytest.raises(VideoError, match="is an HLS playlist, which names other files"):
        VideoReader(playlist)


def test_arrays_and_tensors(path: Path) -> None:
    truth = np.stack(sequential_frames(path))
    truth.flags.writeable = False
    forms = [truth, truth[:, ::1], torch.tensor(truth), truth.transpose(0, 3, 1, 2), torch.tensor(truth).movedim(3, 1)]
    for form in forms:
        with VideoReader(form, fps=10) as reader:
            assert (reader.num_frames, reader.height, reader.width, reader.duration) == (20, 64, 96, 2)
            assert np.array_equal(reader.read([7, 2]).permute(0, 2, 3, 1), truth[[7, 2]])
    assert VideoReader(truth[::-1]).read([0])[0, :, 0, 0].tolist() == truth[-1, 0, 0].tolist()
    assert VideoReader(truth).fps == 30
    with pytest.raises(ValueError, match=r"expected uint8 frames.*got int"):
        VideoReader(7)  # type: ignore[arg-type]


def test_settings_without_effect_are_refused(path: Path, tmp_path: Path) -> None:
    for source in (path, path.read_bytes(), "http://127.0.0.1:1/a.mp4"):
        with pytest.raises(ValueError, match="fps is for frames in an array or a folder"):
            VideoReader(source, fps=5)
    with pytest.raises(ValueError, match="backend is for video files"):
        VideoReader(folder_of_frames(tmp_path / "f", 1), backend="pyav")
    with pytest.raises(ValueError, match="backend 'opencv' is not known; use one of pyav, torchcodec"):
        VideoReader(path, backend="opencv")
    with pytest.raises(ValueError, match="fps 0 must be positive"):
        VideoReader(np.zeros((1, 8, 8, 3), np.uint8), fps=0)


class Files(http.server.BaseHTTPRequestHandler):
    """Serves `content`, or misbehaves as the path says."""

    content = b""

    def log_message(self, format: str, *args) -> None: ...

    def do_GET(self) -> None:
        kind = self.path.split("?")[0].strip("/").split(".")[0]
        if kind == "moved":
            self._head(302, Location="/video.mp4")
        elif kind == "local":
            self._head(302, Location="file:///etc/passwd")
        elif kind == "loop":
            self._head(302, Location="/loop")
        elif kind == "gone":
            self._head(404)
        elif kind == "short":
            self._head(200, **{"Content-Length": str(len(self.content) + 5)})
            self.wfile.write(self.content)
        elif kind == "page":
            self._head(200)
            self.wfile.write(b"<html>this is no video</html>")
        elif kind == "huge":
            self._head(200, **{"Content-Length": str(1 << 60)})
        else:
            self._head(200)
            self.wfile.write(self.content)

    def _head(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def address(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    handler = type("Handler", (Files,), {"content": path.read_bytes()})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("name", ["video.mp4", "moved", "video.mp4?name=x/../y"])
def test_a_download_is_deleted_after_use(
    address: str, path: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    with VideoReader(f"{address}/{name}") as reader, VideoReader(path) as plain:
        assert reader.path == f"{address}/{name}"
        assert torch.equal(reader.read([19, 0]), plain.read([19, 0]))
        assert len(os.listdir(tmp_path / "temp")) == 1
    assert os.listdir(tmp_path / "temp") == []


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("gone", "HTTP status 404 Not Found"),
        ("short", r"after [\d,]+ of [\d,]+ bytes"),
        ("page", "cannot be read as a video"),
        ("huge", "more than the [0-9,]+ expected at most"),
        ("local", "cannot be downloaded"),
        ("loop", "cannot be downloaded"),
    ],
)
def test_failed_downloads_of_videos_are_reported(
    address: str, name: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    with pytest.raises(VideoError, match=cause) as caught:
        VideoReader(f"{address}/{name}")
    assert str(caught.value).startswith(f"{address}/{name}: ")
    assert os.listdir(tmp_path / "temp") == []


def test_unreachable_and_silent_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VideoError, match=r"http://127\.0\.0\.1:1/a\.mp4: cannot be downloaded"):
        VideoReader("http://127.0.0.1:1/a.mp4")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.1)
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(VideoError, match=r"cannot be downloaded \(no answer for 0.1 s"):
            VideoReader(f"http://127.0.0.1:{port}/a.mp4")


def test_paths_are_never_addresses(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("http:").mkdir()
    path.rename("http:/a.mp4")
    with VideoReader(Path("http://a.mp4")) as reader:  # a path object drops the second slash
        assert reader.num_frames == 20
    for name in ("ftp://127.0.0.1/a.mp4", "file:///etc/passwd", "concat:a.mp4"):
        with pytest.raises(VideoError, match="no such file"):
            VideoReader(name)


def test_names_with_emoji_and_spaces(path: Path, tmp_path: Path) -> None:
    named = path.rename(tmp_path / "a \U0001f4aa film, 100%.mp4")
    with VideoReader(named) as reader:
        assert frame_numbers(reader.read([13])) == [13]


@pytest.mark.parametrize("shape", [(1, 1), (1, 8000), (8000, 1), (2, 3)])
def test_frames_of_any_shape(tmp_path: Path, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*shape, 3), np.uint8) for _ in range(3)]
    with VideoReader(write_pictures(tmp_path / "a.mov", pictures)) as reader:
        assert (reader.height, reader.width, reader.num_frames) == (*shape, 3)
        assert np.array_equal(reader.read([2, 0]).permute(0, 2, 3, 1), np.stack([pictures[2], pictures[0]]))


def test_stream_gives_each_frame_once_rising(path: Path) -> None:
    wanted = random.Random(0).choices(range(20), k=12)
    with VideoReader(path) as reader:
        streamed = dict(reader.stream(wanted, transform=lambda frame: frame[:, :8]))
        assert list(streamed) == sorted(set(wanted))
        frames = reader.read(wanted)
    assert all(torch.equal(streamed[index], frame[:, :8]) for index, frame in zip(wanted, frames, strict=True))


def test_a_reader_that_is_dropped_leaves_nothing_open(path: Path) -> None:
    fds = Path("/proc/self/fd")
    if not fds.exists():
        pytest.skip("open files cannot be counted here")
    before = len(os.listdir(fds))
    for source in (path, path.read_bytes(), np.zeros((2, 8, 8, 3), np.uint8)):
        with VideoReader(source) as reader, contextlib.closing(io.BytesIO()):
            reader.read([1])
        with pytest.raises(ValueError, match="closed"):
            reader.read([1])
    assert len(os.listdir(fds)) == before
