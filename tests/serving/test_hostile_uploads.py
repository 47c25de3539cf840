"""Uploads that are broken or made to do harm: each gets one error, opens nothing else, and the service goes on."""

import io
import struct

import numpy as np
import pytest
from helpers.file_host import FileHost
from helpers.http_calls import ask, code_of, form, raw, shape_clip
from helpers.numbered_videos import write_pictures, write_video
from helpers.task_models import task_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vov3d.serving.app import create_app
from vov3d.serving.limits import Limits
from vov3d.serving.service import Service
from vov3d.video import VideoClassifier


@pytest.fixture(scope="module")
def service():
    limits = Limits(max_bytes=3_000_000, max_seconds=30, max_pixels=1_000_000, decode_timeout=20, workers=1)
    with Service(VideoClassifier(task_model("single")), "small", limits) as made:
        yield made


@pytest.fixture(scope="module")
def app(service):
    return create_app(service)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return shape_clip(tmp_path_factory.mktemp("clips") / "good.mp4")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, clip):
    folder = tmp_path_factory.mktemp("seeds")
    found = [clip]
    for name, codec in (("a.mkv", "mpeg4"), ("a.avi", "mjpeg"), ("a.ts", "mpeg2video"), ("a.gif", "gif")):
        found.append(write_video(folder / name, num_frames=8, codec=codec, b_frames=0).read_bytes())
    return found


def animation(kind, size, frames):
    """Returns a file of few bytes whose pictures are large."""
    pictures = [Image.new("L", size, 40 * n) for n in range(frames)]
    content = io.BytesIO()
    pictures[0].save(content, kind, save_all=True, append_images=pictures[1:], duration=100, compress_level=1)
    return content.getvalue()


LISTS = {
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n",
    "HLS of HLS": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{}\n",
    "HLS with a key": '#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{}"\n#EXTINF:1,\n{}\n',
    "ffconcat": "ffconcat version 1.0\nfile '{}'\n",
    "DASH": '<?xml version="1.0"?><MPD type="static"><BaseURL>{}</BaseURL></MPD>',
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns={}\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5000 RTP/AVP 96\n",
    "pls": "[playlist]\nFile1={}\n",
    "Smooth Streaming": '<SmoothStreamingMedia MajorVersion="2" Url="{}"/>',
    "SVG": '<svg xmlns="http://www.w3.org/2000/svg"><image href="{}"/></svg>',
}


@pytest.mark.parametrize("text", LISTS.values(), ids=LISTS)
def test_no_upload_opens_another_file_or_host(text, app, tmp_path):
    host = FileHost(b"secret")
    secret = write_video(tmp_path / "secret.mp4", num_frames=8)
    targets = (
        host.url,
        str(secret),
        secret.as_uri(),
        f"concat:{secret}|{secret}",
        f"subfile,,start,0,end,0,,:{secret}",
        "/proc/self/environ",
    )
    for target in targets:
        content = text.replace("{}", target).encode()
        for way in (
            form(content, "list.m3u8"),
            raw(content, "video/mp2t"),
            form(b"\xef\xbb\xbf" + content, "list.mp4"),
        ):
            answer = ask(app, "POST", "/predict", **way)
            assert (answer.status_code, code_of(answer)) == (422, "video_unreadable")
            assert target not in answer.text
    assert host.requests == []
    host.shutdown()
    host.server_close()


@pytest.mark.parametrize("reference", ["file:///etc/passwd", "http://127.0.0.1:9/a"])
def test_references_within_an_mp4_are_not_followed(app, clip, reference):
    # the data reference of a track may name another file: 'url ' without the flag for "in this file"
    at = clip.index(b"url ")
    content = bytearray(clip)
    content[at + 4 : at + 8] = bytes(4)
    answer = ask(app, "POST", "/predict", **form(bytes(content) + reference.encode()))
    assert answer.status_code in (200, 422)


SMALL = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SMALL
@given(st.data())
def test_damaged_videos_get_labels_or_one_error(app, service, seeds, data):
    content = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    answer = ask(app, "POST", "/predict", **form(bytes(content)))
    assert answer.status_code in (200, 413, 422)
    assert answer.status_code == 200 or code_of(answer)
    assert service.uploads.bytes == service.in_work == 0


HEADS = (
    b"",
    b"\0\0\0\x18ftypmp42",
    b"RIFF\0\0\0\0AVI LIST",
    b"\x1aE\xdf\xa3",
    b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0",
    b"GIF89a",
    b"\x89PNG\r\n\x1a\n",
    b"FLV\x01\x05",
    b"\x47" + bytes(187),
    b"OggS",
    b"\0\0\x01\xba",
)


@SMALL
@given(st.sampled_from(HEADS), st.binary(min_size=1, max_size=2000))
def test_random_bytes_get_one_error(app, head, tail):
    answer = ask(app, "POST", "/predict", **raw(head + tail))
    assert answer.status_code in (413, 422)
    assert code_of(answer) in ("video_unreadable", "video_too_large")


def test_pictures_over_the_limit_of_pixels(app, clip):
    content = animation("PNG", (1001, 1000), 2)
    assert len(content) < 20_000
    answer = ask(app, "POST", "/predict", **form(content, "bomb.apng"))
    assert (answer.status_code, code_of(answer)) == (413, "video_too_large")
    assert "1001x1000 pixels" in answer.json()["error"]["message"]
    assert ask(app, "POST", "/predict", **form(clip)).status_code == 200


def test_headers_that_claim_huge_pictures(app, clip, tmp_path):
    path = write_pictures(tmp_path / "a.mov", [np.zeros((60, 80, 3), np.uint8)] * 2)
    content = bytearray(path.read_bytes())
    struct.pack_into(">HH", content, content.index(b"stsd") + 44, 65535, 65535)
    answer = ask(app, "POST", "/predict", **form(bytes(content)))
    assert answer.status_code in (200, 422)  # FFmpeg may go by the pictures, which are small
    webp = bytearray(b"RIFF\x30\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xff" * 6 + b"ANMF" + bytes(40))
    assert ask(app, "POST", "/predict", **raw(bytes(webp))).status_code == 422
    assert ask(app, "POST", "/predict", **form(clip)).status_code == 200


def test_memory_of_decoding_is_limited(clip):
    content = animation("PNG", (5700, 5700), 2)
    assert len(content) < 500_000
    limits = Limits(workers=1, decode_bytes=200_000_000)
    with Service(VideoClassifier(task_model("single")), "small", limits) as service:
        app = create_app(service)
        answer = ask(app, "POST", "/predict", **form(content))
        assert (answer.status_code, code_of(answer)) == (422, "video_unreadable")
        assert "memory" in answer.json()["error"]["message"]
        assert ask(app, "POST", "/predict", **form(clip)).status_code == 200
