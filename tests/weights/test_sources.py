"""Sources of pretrained weights: the order of the places, and the error of each failure."""

import hashlib
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from urllib.request import urlopen

import pytest
import torch
from helpers.file_host import FileHost, cut, disguised_web_page, redirect_loop, status, web_page
from helpers.reference_files import published_state_dict
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import save
from timm.models import _registry, get_arch_pretrained_cfgs

import vov3d

TAG = "vov3d_m.k400_f16"
FILE = "vov3d_M_k400_weight.pth"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Writes the authors' file."""
    path = tmp_path_factory.mktemp("published") / FILE
    torch.save({"model_state": published_state_dict("vov3d_m_k400")}, path)
    return path


@pytest.fixture
def authors(published, monkeypatch):
    """Starts their host, in the place of the published address."""
    server = FileHost(published.read_bytes())
    monkeypatch.setattr(_registry._model_pretrained_cfgs[TAG], "url", f"{server.url.rsplit('/', 1)[0]}/{FILE}")
    yield server
    server.shutdown()


@pytest.fixture
def expected(published):
    return vov3d.create_model("vov3d_m", checkpoint_path=published).state_dict()


def load(**kwargs):
    return vov3d.create_model(TAG, pretrained=True, **kwargs)


def same(model, expected) -> bool:
    state = model.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[k], expected[k]) for k in state)


def test_the_authors_file_is_downloaded_and_converted_once(authors, hub, expected, tmp_path, caplog, published):
    caplog.set_level(logging.INFO, "vov3d")
    assert same(load(), expected)
    assert same(vov3d.create_model("vov3d_m", pretrained=True), expected)  # the default tag
    assert authors.requests == ["whole"]
    kept = tmp_path / "vov3d-cache" / f"{TAG}.safetensors"
    assert {path.name for path in kept.parent.iterdir()} - {f"{TAG}.lock"} == {kept.name}
    with safe_open(kept, framework="pt") as f:
        notes = f.metadata()
    assert notes["source_sha256"] == hashlib.sha256(published.read_bytes()).hexdigest()
    assert notes["license"] == "cc-by-nc-4.0"

    lines = [record.getMessage() for record in caplog.records if record.name == "vov3d.weights.sources"]
    asked = f"{TAG}: asking the Hub, {hub.url}/vov3d/{TAG}", f"{TAG}: asking its authors' address, http"
    assert [line.startswith(start) for line, start in zip(lines, asked, strict=False)] == [True, True]
    assert lines[2].endswith("these weights are licensed CC-BY-NC-4.0, not for commercial use")
    assert lines[3].startswith(f"{TAG}: loading {kept}, converted earlier from http")
    assert [record.levelname for record in caplog.records if "licensed" in record.getMessage()] == ["WARNING"]


def test_no_network_is_needed_from_the_second_time_on(authors, hub, expected, monkeypatch):
    load()
    hub.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(load(), expected)
    assert not hub.requests


def test_the_hub_comes_before_the_authors(authors, hub, expected, caplog):
    hub.repos[f"vov3d/{TAG}"] = {"model.safetensors": save({k: v.contiguous() for k, v in expected.items()})}
    assert same(load(), expected)
    assert f"{TAG}: downloaded from {hub.url}/vov3d/{TAG}; these weights are licensed CC-BY-NC-4.0" in caplog.text
    caplog.clear()
    assert same(load(), expected)
    assert not caplog.text
    assert not authors.requests


@pytest.mark.parametrize("name", [f"{TAG}.safetensors", f"{TAG}.pth", FILE, f"{TAG}/model.safetensors"])
def test_a_folder_of_ones_own_comes_first(authors, hub, expected, published, tmp_path, monkeypatch, caplog, name):
    caplog.set_level(logging.INFO, "vov3d")
    path = tmp_path / "weights" / name
    path.parent.mkdir(parents=True)
    tensors = {k: v.contiguous() for k, v in expected.items()}
    path.write_bytes(save(tensors) if name.endswith(".safetensors") else published.read_bytes())
    monkeypatch.setenv("VOV3D_WEIGHTS_DIR", str(tmp_path / "weights"))
    assert same(load(), expected)
    assert f"{TAG}: loading {path}, found in VOV3D_WEIGHTS_DIR" in caplog.text
    assert not hub.requests
    assert not authors.requests


def test_requests_of_others_through_the_proxy_do_not_count_as_the_hubs(hub):
    """The telemetry of OpenVINO posts in the background, for seconds after a test that exported."""
    with pytest.raises(OSError, match="501"):
        urlopen(f"https://{hub.server_address[0]}.invalid/collect", timeout=5)
    assert not hub.requests


def test_a_missing_folder_of_weights_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("VOV3D_WEIGHTS_DIR", str(tmp_path / "weihgts"))
    with pytest.raises(vov3d.WeightsError, match=r"VOV3D_WEIGHTS_DIR=.*weihgts: no such folder"):
        load()


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (web_page, "the host answers with a web page"),
        (disguised_web_page, "the file is a web page"),
        (redirect_loop, "redirects without end"),
        (status(403), "HTTP status 403 Forbidden"),
        (status(404), "HTTP status 404 Not Found"),
        (status(429, Retry_After="9000"), "come back in 150 minutes"),
        (cut(99, 1000, ranges=False), "after 1,000 of"),
    ],
    ids=["html", "html as file", "redirects", "403", "404", "429", "short"],
)
def test_one_error_names_the_tag_the_places_and_the_ways_out(authors, hub, tmp_path, answer, cause):
    authors.answer = answer
    with pytest.raises(vov3d.WeightsError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{TAG}: no weights; tried {hub.url}/vov3d/{TAG}: no such repository")
    for part in (authors.url.rsplit("/", 1)[0], cause, "checkpoint_path=", FILE, "VOV3D_WEIGHTS_DIR", "another tag"):
        assert part in message
    assert not list(tmp_path.glob("vov3d-cache/*.safetensors"))


def test_a_download_of_another_network_is_not_kept(authors, hub, tmp_path):
    class Code:
        def __reduce__(self):
            return print, ("ran",)

    other = published_state_dict("x3d_m_k400")
    wrong = published_state_dict("vov3d_m_k400")
    wrong["head.projection.weight"] = wrong["head.projection.weight"][:10]
    for content, cause in (
        (pickle.dumps({"model_state": Code()}, protocol=2), "holds more than tensors"),
        (_torch_bytes(other, tmp_path), "does not hold this tag's network"),
        (_torch_bytes(wrong, tmp_path), "1 tensor of another shape: head.fc.weight"),
        (_torch_bytes(wrong, tmp_path)[:-1000], "truncated"),
    ):
        authors.content = content
        with pytest.raises(vov3d.WeightsError, match=cause):
            load()
        assert not [path for path in (tmp_path / "vov3d-cache").iterdir() if path.suffix != ".lock"]


def _torch_bytes(state_dict, folder) -> bytes:
    torch.save({"model_state": state_dict}, folder / "made.pth")
    return (folder / "made.pth").read_bytes()


def test_cut_five_times_and_loaded(authors, hub, expected):
    authors.answer = cut(5, len(authors.content) // 7)
    assert same(load(), expected)
    assert len(authors.requests) == 6


@pytest.mark.slow
def test_two_at_once_download_once(authors, hub, expected):
    models = []
    threads = [threading.Thread(target=lambda: models.append(load())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [same(model, expected) for model in models] == [True, True]
    assert authors.requests == ["whole"]


def test_the_lock_of_a_killed_process_blocks_no_other(authors, hub, expected, tmp_path):
    lock = tmp_path / "vov3d-cache" / f"{TAG}.lock"
    lock.parent.mkdir()
    code = (
        f"import filelock, os, signal; filelock.FileLock({str(lock)!r}).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert lock.exists()
    assert same(load(), expected)


def test_a_download_that_a_killed_process_did_not_convert_is_used(authors, hub, expected, tmp_path):
    (tmp_path / "vov3d-cache").mkdir()
    (tmp_path / "vov3d-cache" / f"{TAG}.{FILE}").write_bytes(authors.content)
    assert same(load(), expected)
    assert not authors.requests


def test_a_cache_that_cannot_be_written_is_named(authors, hub, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VOV3D_CACHE", str(tmp_path / "file"))
    with pytest.raises(vov3d.WeightsError, match="VOV3D_CACHE"):
        load()


def test_a_damaged_copy_says_what_to_delete(authors, hub, tmp_path):
    load()
    kept = tmp_path / "vov3d-cache" / f"{TAG}.safetensors"
    kept.write_bytes(kept.read_bytes()[:-5])
    with pytest.raises(vov3d.WeightsError, match=rf"{kept}: is truncated"):
        load()


@pytest.mark.slow
def test_an_address_given_for_one_call_is_the_only_one_and_is_cached_separately(authors, hub, expected):
    other = FileHost(authors.content)
    assert same(load(pretrained_cfg_overlay={"url": other.url}), expected)
    assert not hub.requests
    assert other.requests == ["whole"]
    assert not authors.requests
    load()
    assert authors.requests == ["whole"]
    other.shutdown()


def test_a_repository_given_for_one_call_is_the_only_one(authors, hub):
    with pytest.raises(vov3d.WeightsError, match="someone/else"):
        load(pretrained_cfg_overlay={"hf_hub_id": "someone/else"})
    assert not authors.requests


def test_cache_dir_holds_all(authors, hub, tmp_path):
    load(cache_dir=tmp_path / "mine")
    assert (tmp_path / "mine" / "vov3d" / f"{TAG}.safetensors").is_file()
    assert not (tmp_path / "vov3d-cache").exists()


def test_offline_says_so(authors, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(vov3d.WeightsError, match=r"HF_HUB_OFFLINE.*HF_HUB_OFFLINE"):
        load()
    assert not authors.requests


def test_every_published_tag_has_the_address_of_its_source():
    from helpers.reference_files import REFERENCE

    published = json.loads((REFERENCE / "published_checkpoints.json").read_text())["checkpoints"]
    for row in published:
        assert get_arch_pretrained_cfgs(row["name"].split(".")[0])[row["name"]].url == row["url"]


@pytest.mark.parametrize("suffix", [".safetensors", ".lock", f".{FILE}"])
def test_links_that_others_planted_in_the_cache_are_not_followed(authors, hub, tmp_path, suffix):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / "vov3d-cache").mkdir()
    (tmp_path / "vov3d-cache" / f"{TAG}{suffix}").symlink_to(victim)
    with pytest.raises(vov3d.WeightsError, match="is a symbolic link, which is not followed"):
        load()
    assert victim.read_bytes() == b"mine"


@pytest.fixture
def silent():
    """Starts a host that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
def test_a_silent_network_gives_one_error_of_the_command_soon(silent, tmp_path):
    """Neither the Hub's client, which asks six times over half a minute, nor ours goes on asking."""
    env = os.environ | {"HF_ENDPOINT": silent, "HF_HOME": str(tmp_path), "VOV3D_CACHE": str(tmp_path)}
    env |= {"https_proxy": silent, "HTTPS_PROXY": silent}
    code = "import sys, vov3d.cli; sys.exit(vov3d.cli.main(sys.argv[1:]))"
    (tmp_path / "clip.mp4").touch()
    start = time.monotonic()
    command = [sys.executable, "-c", code, "predict", "clip.mp4", "--model", "vov3d_m"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert "--checkpoint FILE" in lines[0]
    assert "checkpoint_path" not in lines[0]
    assert "no answer for 3 s" in lines[0]
    assert time.monotonic() - start < 60  # 9 on a quiet machine
