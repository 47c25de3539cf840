"""A file given as a video opens that file alone, in bounded time and memory, or is refused in one sentence."""

import io
import os
import shutil
import struct
import subprocess
import sys
from itertools import product
from pathlib import Path

import av
import numpy as np
import pytest
from helpers.numbered_videos import frame_numbers, write_pictures, write_video
from PIL import Image

from vov3d.video import VideoError, VideoReader, sources
from vov3d.video.decoders import opening

ENDLESS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n#EXTINF:1,\n{}\n"
LISTS = {
    "ffconcat": "ffconcat version 1.0\nfile 'part.mp4'\n",
    "ffconcat with a mark": "\ufeffffconcat version 1.0\nfile 'part.mp4'\n",
    "ffconcat of itself": "ffconcat version 1.0\nfile '{name}'\n",
    "ffconcat of many": "ffconcat version 1.0\n" + "file 'part.mp4'\n" * 20_000,
    "HLS": ENDLESS.format("part.ts") + "#EXT-X-ENDLIST\n",
    "HLS that never ends": ENDLESS.format("part.ts"),
    "HLS of itself": ENDLESS.format("{name}") + "#EXT-X-ENDLIST\n",
    "HLS that waits": ENDLESS.format("fifo.ts") + "#EXT-X-ENDLIST\n",
    "HLS of a file elsewhere": ENDLESS.format("file:///etc/hostname") + "#EXT-X-ENDLIST\n",
    "HLS of a master": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\npart.ts\n",
    "DASH": '<?xml version="1.0"?>\n<MPD type="static"><BaseURL>part.mp4</BaseURL></MPD>',
    "Smooth Streaming": '<SmoothStreamingMedia MajorVersion="2" Duration="1"/>',
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5000 RTP/AVP 96\n",
    "pls": "[playlist]\nFile1=part.mp4\n",
}
OPEN_ALL = """
import sys
from vov3d.video import VideoError, VideoReader
for path in sys.argv[1:]:
    for source in (path, open(path, "rb").read()):
        try:
            VideoReader(source)
        except VideoError as error:
            assert "names other files" in str(error), error
        else:
            raise AssertionError(f"{path} was opened")
print("refused")
"""


def test_lists_of_other_files_are_refused_at_once(tmp_path: Path) -> None:
    write_video(tmp_path / "part.mp4", num_frames=3)
    write_video(tmp_path / "part.ts", num_frames=3)
    os.mkfifo(tmp_path / "fifo.ts")
    paths = []
    for number, (text, ending) in enumerate(product(LISTS.values(), (".mp4", ".m3u8", ".mpd", ".sdp", ""))):
        paths.append(tmp_path / f"list{number}{ending}")
        paths[-1].write_text(text.replace("{name}", paths[-1].name))
    command = [sys.executable, "-c", OPEN_ALL, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "refused\n", done.stderr
    if int(av.__version__.split(".")[0]) >= 18:  # older ones print FFmpeg's own lines
        assert not done.stderr


def test_playlists_from_an_address_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "download", lambda _, path: path.write_text(LISTS["ffconcat"]))
    with pytest.raises(VideoError, match=r"^http://x/list\.mp4: is a list of files for FFmpeg"):
        VideoReader("http://x/list.mp4")


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "tif", "gif"])
def test_names_with_wildcards_are_plain_names(tmp_path: Path, ending: str) -> None:
    for number in range(3):
        Image.new("RGB", (96, 64)).save(tmp_path / f"{number:03d}.{ending}")
    video = write_video(tmp_path / "a.mp4", num_frames=5)
    for name in (f"%03d.{ending}", f"%d.{ending}", f"*.{ending}", f"[0-9]?{{0,1}}.{ending}"):
        path = Path(shutil.copy(video, tmp_path / name))
        with VideoReader(path) as reader:
            assert (reader.num_frames, frame_numbers(reader.read([4]))) == (5, [4])
        path.unlink()
        with pytest.raises(VideoError, match="no such file"):
            VideoReader(path)


def test_names_with_protocols_are_plain_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "a.mp4", num_frames=3)
    for name in (
        "concat:a.mp4|a.mp4",
        "subfile,,start,0,end,0,,:a.mp4",
        "pipe:0",
        "crypto:a.mp4",
        "data:,x",
        "a.mp4\n",
    ):
        with pytest.raises(VideoError, match="no such file"):
            VideoReader(name)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/stdin"])
def test_devices_are_refused(device: str) -> None:
    if not Path(device).is_char_device():
        pytest.skip("no such device here")
    with pytest.raises(VideoError, match="is a pipe, socket or device"):
        VideoReader(device)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tif", "a.ppm", "a.webp"])
def test_one_picture_is_no_video(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / name)
    with pytest.raises(VideoError, match=r"is one picture \(.*give a video, or a folder of frames"):
        VideoReader(tmp_path / name)


# --- sizes -----------------------------------------------------------------------------------------------------------


def _patched(path: Path, tag: bytes, numbers: dict[int, int]) -> Path:
    """Writes 32-bit numbers at distances from the first `tag` of a file."""
    data = bytearray(path.read_bytes())
    at = data.index(tag)
    for distance, number in numbers.items():
        struct.pack_into(">I", data, at + distance, number)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("count", [60_000, 50_000_000, 2**31 - 1, 2**32 - 1])
def test_an_index_of_more_frames_than_bytes(tmp_path: Path, count: int) -> None:
    plain = write_video(tmp_path / "plain.mp4", num_frames=9)
    path = _patched(plain, b"stsz", {8: 1, 12: count})
    with pytest.raises(VideoError, match=rf"plain\.mp4: its index lists {count} frames, but it has only \d+ bytes"):
        VideoReader(path)
    with pytest.raises(VideoError, match=rf"its index lists {count} frames"):
        VideoReader(path.read_bytes())
    parts = write_video(tmp_path / "parts.mp4", num_frames=9, muxer={"movflags": "frag_keyframe+empty_moov"})
    with pytest.raises(VideoError, match=rf"parts\.mp4: its index lists {count} frames"):
        VideoReader(_patched(parts, b"trun", {8: count}))


def test_an_index_of_countless_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_MOST_BOXES", 100)
    path = write_video(tmp_path / "a.mp4", num_frames=9)
    path.write_bytes(path.read_bytes() + struct.pack(">I4s", 8, b"free") * 200)
    with pytest.raises(VideoError, match="has over 100 boxes"):
        VideoReader(path)


def test_pictures_over_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_pictures(tmp_path / "a.mov", [np.zeros((60, 80, 3), np.uint8)] * 2)
    with VideoReader(path) as reader:
        assert (reader.height, reader.width) == (60, 80)
    monkeypatch.setattr(opening, "MAX_PIXELS", 60 * 80 - 1)
    data = bytearray(path.read_bytes())
    struct.pack_into(">HH", data, data.index(b"stsd") + 44, 8, 8)  # a header that lies
    for source in (path, path.read_bytes(), bytes(data)):
        with pytest.raises(VideoError, match=r"has pictures of 80x60 pixels, more than"):
            VideoReader(source)


def test_pictures_over_the_limit_behind_small_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mjpeg"
    for side in [8] * 30 + [100] * 3:
        picture = io.BytesIO()
        Image.new("RGB", (side, side)).save(picture, "JPEG")
        path.write_bytes((path.read_bytes() if path.exists() else b"") + picture.getvalue())
    with VideoReader(path) as reader:
        assert reader.num_frames == 33
    monkeypatch.setattr(opening, "MAX_PIXELS", 100 * 100 - 1)
    with VideoReader(path) as reader, pytest.warns(RuntimeWarning, match="3 of the 33 frames"):
        assert reader.read(range(33)).shape == (33, 3, 8, 8)


def test_opening_has_a_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_video(tmp_path / "a.ts", num_frames=9)
    monkeypatch.setattr(opening, "_SECONDS", 0.0)
    with pytest.raises(VideoError, match="opening it took over 0 seconds"):
        VideoReader(path)
