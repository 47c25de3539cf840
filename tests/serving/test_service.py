"""The service within one process: answers by task, limits, batches, and what is counted."""

import asyncio
import json
import os
import re
import signal
import time

import httpx
import pytest
from helpers.http_calls import ask, asked, code_of, form, raw, shape_clip
from helpers.task_models import NAMES, task_model

import vov3d
from vov3d.serving.app import create_app
from vov3d.serving.limits import Limits
from vov3d.serving.service import Service
from vov3d.video import VideoClassifier
from vov3d.video.predictions import as_dict


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return [shape_clip(folder / f"{label}.mp4", label) for label in range(3)]


@pytest.fixture(scope="module")
def classifier():
    model = vov3d.optimize_for_inference(vov3d.create_model("vov3d_n", pretrained=True).eval())
    return VideoClassifier(model, views="2x1")


@pytest.fixture(scope="module")
def service(classifier):
    with Service(classifier, "vov3d_n", Limits(max_bytes=200_000, max_seconds=5, queue=4)) as made:
        yield made


@pytest.fixture(scope="module")
def app(service):
    return create_app(service)


def test_every_way_to_send_a_video_gives_the_labels_of_the_classifier(app, classifier, clips):
    for clip in clips:
        expected = [as_dict(p) for p in classifier(clip, topk=3)]
        for way in (form(clip), raw(clip), raw(clip, "application/octet-stream"), {"content": clip}):
            answer = ask(app, "POST", "/predict?topk=3", **way)
            assert answer.status_code == 200, answer.text
            found = answer.json()
            assert [p["label"] for p in found["predictions"]] == [p["label"] for p in expected]
            assert [p["score"] for p in found["predictions"]] == pytest.approx([p["score"] for p in expected], abs=1e-4)
        assert found["video"] == {"seconds": 1.6, "frames": 16, "width": 128, "height": 128}
        assert set(found["seconds"]) == {"upload", "queue", "decode", "model", "total"}
        assert found["warnings"] == []


@pytest.mark.parametrize("task", NAMES)
def test_answers_fit_the_task(task, clips):
    classifier = VideoClassifier(task_model(task))
    with Service(classifier, task, Limits(workers=1)) as service:
        app = create_app(service)
        answer = ask(app, "POST", "/predict", **form(clips[0])).json()
        labels = ask(app, "GET", "/labels").json()
    expected = [as_dict(p) for p in classifier(clips[0])]
    assert answer["task"] == labels["task"] == task
    assert labels["labels"] == NAMES[task]
    assert [p["label"] for p in answer["predictions"]] == [p["label"] for p in expected]
    for found, wanted in zip(answer["predictions"], expected, strict=True):
        assert found.keys() == wanted.keys()
        key = "value" if task == "regression" else "score"
        assert found[key] == pytest.approx(wanted[key], abs=1e-4)
    assert ["heads" in p for p in answer["predictions"]] == [task == "multihead"] * len(expected)


def test_views_of_several_requests_share_a_batch(classifier, clips):
    with Service(classifier, "n", Limits(max_batch=8, max_wait=60.0, workers=2)) as service:
        app = create_app(service)

        async def both():
            return await asyncio.gather(*(asked(app, "POST", "/predict", **form(clip)) for clip in clips[:2]))

        answers = asyncio.run(both())
        text = service.metrics_text().decode()
    assert [a.status_code for a in answers] == [200, 200]
    assert float(re.search(r"vov3d_batch_views_count (\S+)", text)[1]) < 4  # of four views
    assert max(a.json()["seconds"]["total"] for a in answers) < 60  # nobody waits for a batch that cannot be filled


def test_nobody_waits_for_a_request_that_has_ended(classifier, clips):
    with Service(classifier, "n", Limits(max_batch=8, max_wait=60.0, timeout=20.0)) as service:
        app = create_app(service)

        async def both():
            with service.admitted():
                asking = asyncio.ensure_future(asked(app, "POST", "/predict", **form(clips[0])))
                while service.batcher.waiting() < 2 and not asking.done():
                    await asyncio.sleep(0.01)
            return await asking

        assert asyncio.run(both()).status_code == 200


def test_facts(app, service, classifier):
    assert ask(app, "GET", "/labels").json()["labels"] == classifier.class_names
    model = ask(app, "GET", "/model").json()
    assert (model["model"], model["views"], model["limits"]["bytes"]) == ("vov3d_n", "2x1", 200_000)
    assert ask(app, "GET", "/health/live").status_code == 200
    for path in ("/health", "/health/ready"):
        assert ask(app, "GET", path).json() == {"ready": True, "in_work": 0}
    assert "/predict" in ask(app, "GET", "/").json()["addresses"]


def test_load_balancers_may_ask_for_the_head_only(app):
    assert ask(app, "HEAD", "/health/ready").status_code == 200
    assert ask(app, "HEAD", "/predict").status_code == 405


def test_the_description_names_every_address_and_no_page_loads_scripts(app):
    description = ask(app, "GET", "/openapi.json").json()
    assert {"/predict", "/model", "/labels", "/metrics", "/health/ready"} <= set(description["paths"])
    predict = description["paths"]["/predict"]["post"]
    assert set(predict["requestBody"]["content"]) >= {"multipart/form-data", "application/json", "video/mp4"}
    assert {"200", "413", "422", "429", "504"} <= set(predict["responses"])
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
        assert ask(app, "GET", path).status_code == 404


def test_requests_are_counted(app, clips):
    def counts():
        text = ask(app, "GET", "/metrics").text
        found = re.findall(r'^vov3d_requests_total\{code="(\w+)",status="(\d+)"\} (\S+)', text, re.MULTILINE)
        return {(code, int(status)): float(count) for code, status, count in found}, text

    before, _ = counts()
    ask(app, "POST", "/predict", **form(clips[0]))
    ask(app, "POST", "/predict", **raw(b"nothing"))
    after, text = counts()
    for key in (("ok", 200), ("video_unreadable", 422)):
        assert after[key] == before.get(key, 0) + 1
    assert "vov3d_ready 1.0" in text
    assert "vov3d_temp_bytes 0.0" in text
    assert 'vov3d_seconds_count{stage="decode"}' in text


@pytest.mark.parametrize(
    ("path", "way", "status", "code"),
    [
        ("/predict", raw(b""), 400, "empty"),
        ("/predict", form(b""), 400, "empty"),
        ("/predict", raw(b"x", "text/html"), 415, "media_type"),
        ("/predict", raw(b"x", "image/png"), 415, "media_type"),
        ("/predict", raw(b"a=b", "application/x-www-form-urlencoded"), 415, "media_type"),
        ("/predict", raw(b"x" * 200_001), 413, "too_large"),
        ("/predict", form(b"x" * 200_001), 413, "too_large"),
        ("/predict", raw(b"", "multipart/form-data"), 400, "bad_form"),
        ("/predict", raw(b"--x\r\n", "multipart/form-data; boundary=x"), 400, "bad_form"),
        ("/predict", {"files": {"video": b"x"}}, 400, "bad_form"),
        ("/predict", {"files": [("file", b"x"), ("file", b"y")]}, 400, "bad_form"),
        ("/predict", {"data": {"a": "b"}, "files": {"file": b"x"}}, 400, "bad_form"),
        ("/predict?topk=0", raw(b"x"), 400, "bad_option"),
        ("/predict?topk=many", raw(b"x"), 400, "bad_option"),
        ("/predict?topk=-1", raw(b"x"), 400, "bad_option"),
        ("/predict?top=1", raw(b"x"), 400, "bad_option"),
        ("/predict?topk=1&topk=2", raw(b"x"), 400, "bad_option"),
        ("/predict/", raw(b"x"), 404, "address"),
        ("/predict", {"json": {"url": "https://example.org/a.mp4"}}, 403, "url_not_permitted"),
        ("/predict", {"json": ["https://example.org/a.mp4"]}, 400, "bad_json"),
        ("/predict", {"json": {"url": 1}}, 400, "bad_json"),
        ("/predict", {"json": {"url": "a", "path": "b"}}, 400, "bad_json"),
        ("/predict", raw(b'{"url": "https://a/", "url": "https://b/"}', "application/json"), 400, "bad_json"),
        ("/predict", raw(b"{" * 9000, "application/json"), 400, "bad_json"),
        ("/predict", raw(b"[" * 20_000, "application/json"), 413, "too_large"),
        ("/predict", raw(b"\xff", "application/json"), 400, "bad_json"),
        ("/nothing", raw(b"x"), 404, "address"),
        ("/labels", raw(b"x"), 405, "address"),
    ],
)
def test_wrong_requests(app, path, way, status, code):
    answer = ask(app, "POST", path, **way)
    assert (answer.status_code, code_of(answer)) == (status, code)


def test_announced_sizes_are_refused_before_a_byte_is_read(app):
    async def unread():
        raise AssertionError("the body was read")
        yield b""

    async def announced(length):
        headers = {"Content-Type": "video/mp4", "Content-Length": length}
        transport = httpx.ASGITransport(app)
        sent = []

        async def send(message):
            sent.append(message)

        async def receive():
            assert sent, "the body was read before the answer"
            return {"type": "http.disconnect"}

        scope = {
            "type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b"",
            "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()], "http_version": "1.1",
            "scheme": "http", "server": ("localhost", 80), "client": ("localhost", 1), "root_path": "",
        }  # fmt: skip
        await transport.app(scope, receive, send)
        return sent[0]["status"], json.loads(sent[1]["body"])["error"]["code"]

    for length in ("200001", "9" * 18, "9" * 500):
        assert asyncio.run(announced(length)) == (413, "too_large")


def test_bodies_without_a_length_are_cut_off_at_the_limit(app):
    read = 0

    async def endless():
        nonlocal read
        for _ in range(1000):
            read += 10_000
            yield bytes(10_000)

    answer = ask(app, "POST", "/predict", content=endless(), headers={"Content-Type": "video/mp4"})
    assert (answer.status_code, code_of(answer)) == (413, "too_large")


def test_slow_uploads_end(classifier, clips):
    async def slow():
        yield clips[0][:100]
        await asyncio.sleep(3)
        yield clips[0][100:]

    with Service(classifier, "n", Limits(idle_timeout=0.1, workers=1)) as service:
        answer = ask(create_app(service), "POST", "/predict", content=slow(), headers={"Content-Type": "video/mp4"})
        assert service.uploads.bytes == service.in_work == 0
    assert (answer.status_code, code_of(answer)) == (408, "upload_timeout")


def test_a_full_queue_and_a_full_disk_ask_to_come_back(app, service, clips, monkeypatch):
    monkeypatch.setattr(service, "_in_work", 4)
    answer = ask(app, "POST", "/predict", **form(clips[0]))
    assert (answer.status_code, code_of(answer)) == (429, "busy")
    assert int(answer.headers["Retry-After"]) >= 1
    monkeypatch.setattr(service, "_in_work", 0)
    monkeypatch.setattr(service.uploads, "bytes", service.limits.temp_bytes - 10)
    answer = ask(app, "POST", "/predict", **form(clips[0]))
    assert (answer.status_code, code_of(answer)) == (429, "busy")
    assert "Retry-After" in answer.headers


def test_a_stopping_service_is_not_ready_and_takes_nothing(app, service, clips, monkeypatch):
    monkeypatch.setattr(service, "stopping", True)
    assert ask(app, "GET", "/health/ready").status_code == 503
    assert ask(app, "GET", "/health/live").status_code == 200
    answer = ask(app, "POST", "/predict", **form(clips[0]))
    assert (answer.status_code, code_of(answer)) == (503, "stopping")


def test_long_videos_and_large_pictures(app, service, tmp_path):
    long = shape_clip(tmp_path / "long.mp4", frames=60)
    answer = ask(app, "POST", "/predict", **form(long))
    assert (answer.status_code, code_of(answer)) == (413, "video_too_large")
    assert "6 seconds long, and at most 5" in answer.json()["error"]["message"]


# --- decoders --------------------------------------------------------------------------------------------------------


async def _while_stopped(service, app, clip, then):
    """Sends a clip to a service whose processes stand still, and does something to them."""
    stopped = service.decoder_processes()
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    asking = asyncio.ensure_future(asked(app, "POST", "/predict", **form(clip)))
    while not service.in_work:
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)
    then(stopped, asking)
    return await asking


def test_a_killed_decoder_costs_its_own_request_only(classifier, clips):
    def kill(processes, _):
        for process in processes:
            os.kill(process, signal.SIGKILL)

    with Service(classifier, "n", Limits(workers=1)) as service:
        app = create_app(service)
        first = service.decoder_processes()
        answer = asyncio.run(_while_stopped(service, app, clips[0], kill))
        assert (answer.status_code, code_of(answer)) == (422, "decoder_crashed")
        assert "SIGKILL" in answer.json()["error"]["message"]
        assert ask(app, "POST", "/predict", **form(clips[0])).status_code == 200
        second = service.decoder_processes()
        assert first != second
        os.kill(second[0], signal.SIGKILL)  # while it has nothing to do
        time.sleep(0.2)
        assert ask(app, "POST", "/predict", **form(clips[0])).status_code == 200
        assert 'vov3d_decoders_replaced_total{cause="crash"} 1.0' in service.metrics_text().decode()


@pytest.mark.parametrize(("limit", "code"), [("timeout", "timeout"), ("decode_timeout", "decode_timeout")])
def test_a_hanging_decoder_is_killed_in_time(classifier, clips, limit, code):
    with Service(classifier, "n", Limits(workers=1, **{limit: 0.8})) as service:
        app = create_app(service)
        answer = asyncio.run(_while_stopped(service, app, clips[0], lambda *_: None))
        assert (answer.status_code, code_of(answer)) == (504, code)
        assert ask(app, "POST", "/predict", **form(clips[0])).status_code == 200
        cause = {"timeout": "cancelled", "decode_timeout": "timeout"}[code]
        assert f'vov3d_decoders_replaced_total{{cause="{cause}"}} 1.0' in service.metrics_text().decode()
        assert service.uploads.bytes == service.in_work == 0


def test_a_client_that_goes_frees_its_decoder(classifier, clips):
    def leave(_, asking):
        asking.cancel()

    async def gone(service, app):
        with pytest.raises(asyncio.CancelledError):
            await _while_stopped(service, app, clips[0], leave)
        return await asked(app, "POST", "/predict", **form(clips[1]))

    with Service(classifier, "n", Limits(workers=1)) as service:
        assert asyncio.run(gone(service, create_app(service))).status_code == 200
        assert service.uploads.bytes == service.in_work == 0
        counted = service.metrics_text().decode()
        assert 'vov3d_requests_total{code="gone",status="499"} 1.0' in counted
        assert 'vov3d_decoders_replaced_total{cause="cancelled"} 1.0' in counted
        assert 'cause="timeout"' not in counted


def test_a_fault_of_the_service_itself_is_counted(classifier, clips, monkeypatch):
    with Service(classifier, "n", Limits(workers=1)) as service:
        monkeypatch.setattr(service, "answer", lambda *_: 1 / 0)
        assert ask(create_app(service), "POST", "/predict", **form(clips[0])).status_code == 500
        assert 'vov3d_requests_total{code="internal",status="500"} 1.0' in service.metrics_text().decode()


def test_processes_end_with_the_service(classifier):
    with Service(classifier, "n", Limits(workers=2)) as service:
        processes = service.decoder_processes()
        assert len(processes) == 2
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_a_model_that_fails_is_named_as_the_cause(clips, caplog):
    classifier = VideoClassifier(task_model("single"))
    with Service(classifier, "n", Limits(workers=1)) as service:
        classifier.model.forward_dense = lambda views: 1 / 0
        answer = ask(create_app(service), "POST", "/predict", **form(clips[0]))
        assert (answer.status_code, code_of(answer)) == (500, "model_failed")
        classifier.model.forward_dense = lambda views: views.new_full((len(views), 3), float("nan"))
        answer = ask(create_app(service), "POST", "/predict", **form(clips[0]))
        assert (answer.status_code, code_of(answer)) == (500, "model_failed")


def test_hosts(service):
    app = create_app(service, ["localhost", "[::1]"])
    for host, status in (
        ("localhost", 200), ("LOCALHOST:80", 200), ("[::1]:80", 200), ("evil.example", 421), ("", 421), ("[::1", 421)
    ):  # fmt: skip
        assert ask(app, "GET", "/health/live", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost:80/health/live", "evil.example", 200),
        ("HTTPS://[::1]/health/live", "evil.example", 200),
        ("http://evil.example/health/live", "localhost", 421),
        ("http://localhost/none", "localhost", 404),
        ("http://localhost", "localhost", None),
        ("ftp://localhost/health/live", "localhost", 404),
    ],
)
def test_whole_addresses_as_clients_send_them_to_a_proxy(service, target, host, status):
    app = create_app(service, ["localhost", "[::1]"])

    async def addressed(scope, receive, send):
        await app({**scope, "path": target}, receive, send)

    status = status or ask(app, "GET", "/", headers={"Host": "localhost"}).status_code
    assert ask(addressed, "GET", "/", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    "given", [{"queue": 0}, {"timeout": float("nan")}, {"max_bytes": 10, "temp_bytes": 9}, {"max_batch": 0}]
)
def test_limits_are_checked(given):
    with pytest.raises(ValueError, match="give a number above 0|raise it"):
        Limits(**given)
