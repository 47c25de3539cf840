"""The script that measures on a GPU, with a stand-in on a CPU: what it measures, keeps, leaves out and writes."""

import json

import gpu_speed
import pytest
import torch
from pages import filled, part_of
from torch import nn

import vov3d
from vov3d.layers import choosing


class StandIn(gpu_speed.Gpu):
    """Runs calls on the CPU and tells the time of a clock of its own; memory ends at a batch of 4."""

    device = torch.device("cpu")

    def __init__(self, step=0.0):
        self.clock, self.step, self.graphs = 0.0, step, 0

    def seconds(self, call):
        call()
        self.clock += 0.5
        return 0.5

    def now(self):
        self.clock += self.step
        return self.clock

    def peak(self, call):
        call()
        return 2 * 10**9

    def free(self):
        pass

    def graphed(self, call):
        self.graphs += 1
        return call

    def compiled(self, model):
        raise OSError("no C compiler\nin this image")

    def machine(self):
        return {"device": "Stand-in 1", "torch": "2.14", "cuda": "13.0", "cudnn": 91500, "date": "2026-11-28"}


def tiny(name):
    """Returns a network in place of a named one."""
    stem = vov3d.ConvNormAct3d(3, 4, kernel_size=3, stride=2)
    return nn.Sequential(stem, vov3d.D2plus1D(4, 8, 4), nn.AdaptiveAvgPool3d(1), nn.Flatten())


@pytest.fixture
def small(monkeypatch):
    """Reduces the plan to one network, two precisions and three batches, the largest of which does not fit."""
    monkeypatch.setattr(gpu_speed, "NETWORKS", ("vov3d_n",))
    monkeypatch.setattr(gpu_speed, "PRECISIONS", ("bf16", "fp32"))
    monkeypatch.setattr(gpu_speed, "BATCHES", (1, 4))
    monkeypatch.setattr(gpu_speed, "TRAINED", (2,))
    monkeypatch.setattr(gpu_speed, "find_spec", lambda name: None)
    original = gpu_speed.one_row

    def one_row(gpu, row, call, left, size):
        if row.batch == 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 90 GiB")
        return original(gpu, row, call, left, size)

    monkeypatch.setattr(gpu_speed, "one_row", one_row)
    monkeypatch.setattr(gpu_speed, "network", tiny)
    monkeypatch.setattr(gpu_speed, "to_label", lambda gpu, row: {"median": 2.0, "q1": 2.0, "q3": 2.0, "calls": 3})


def run(file, minutes=10.0, gpu=None):
    gpu = gpu or StandIn()
    gpu_speed.run(gpu, file, minutes, size=8, forms_batch=1)
    return json.loads(file.read_text())


def test_every_row_of_the_plan_is_filled(small, tmp_path, capsys):
    gpu = StandIn()
    content = run(tmp_path / "a.json", gpu=gpu)
    keys = [tuple(row[k] for k in gpu_speed.Row._fields) for row in content["rows"]]
    assert keys == [tuple(row) for rows in gpu_speed.plan() for row in rows]
    assert len(set(keys)) == len(keys)
    by_key = dict(zip(keys, content["rows"], strict=True))
    row = by_key["infer", "vov3d_n", "CUDA graph", "bf16", 1]
    assert (row["median"], row["peak_bytes"], row["calls"]) == (0.5, 2 * 10**9, gpu_speed.LEAST)
    assert gpu.graphs == 2  # in two precisions
    assert by_key["infer", "vov3d_n", "eager", "fp32", 4]["lacks"] == "memory"
    assert by_key["train", "vov3d_n", "published form", "fp32", 2]["median"] == 0.5
    assert by_key["train", "vov3d_m", "compiled", "bf16", 8]["lacks"] == "OSError: no C compiler\nin this image"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_what_has_no_time_is_named_and_measured_by_the_next_run(small, tmp_path):
    first = run(tmp_path / "a.json", minutes=0.5, gpu=StandIn(step=1.0))
    late = [row for row in first["rows"] if row.get("lacks") == "time"]
    assert 0 < len(late) < len(first["rows"])
    assert "no time left" in gpu_speed.tables(first)
    gpu = StandIn()
    second = run(tmp_path / "a.json", gpu=gpu)
    assert len(second["rows"]) == len(first["rows"])
    assert not any(row.get("lacks") == "time" for row in second["rows"])
    before = gpu.clock
    assert run(tmp_path / "a.json", gpu=gpu)["rows"] == second["rows"]
    assert gpu.clock == before  # nothing was measured again


def test_the_file_is_whole_after_every_row(small, tmp_path, monkeypatch):
    def killed(gpu, row):
        raise KeyboardInterrupt

    monkeypatch.setattr(gpu_speed, "to_label", killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a.json")
    rows = json.loads((tmp_path / "a.json").read_text())["rows"]
    assert {row["form"] for row in rows} == {"published form", "eager", "optimized", "CUDA graph"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_file_of_another_machine_is_refused(small, tmp_path, monkeypatch):
    gpu_speed.Report(tmp_path / "a.json", StandIn().machine()).write()
    monkeypatch.setattr(StandIn, "machine", lambda self: {"device": "Stand-in 2", "date": "2027-01-01"})
    with pytest.raises(ValueError, match=r"a.json is of .*Stand-in 1.*, this machine is .*Stand-in 2.*--output"):
        run(tmp_path / "a.json")


def test_forms_are_kept_with_their_times(small, tmp_path, monkeypatch):
    for module in ("vov3d.layers.choosing", "vov3d.layers.conv", "vov3d.deploy._optimize"):
        monkeypatch.setattr(f"{module}.MEASURED", {"cpu"})
    monkeypatch.setattr(choosing, "_chooser", choosing.Chooser(lambda name, call: 0.002))
    monkeypatch.setattr(choosing, "ROUNDS", 1)
    gpu = StandIn()
    report = gpu_speed.Report(tmp_path / "a.json", gpu.machine())
    gpu_speed.measure_forms(gpu, report, 8, 1)
    forms = json.loads((tmp_path / "a.json").read_text())["forms"]
    assert {choice["case"]["what"] for choice in forms} == {"convolution"}
    table = gpu_speed.forms_table(forms)
    assert table.count("\n") == len(forms) + 1
    assert "conv2d 2.000" in table
    assert "| training |" in table


def test_tables_show_what_was_measured_and_nothing_else(small, tmp_path):
    text = gpu_speed.tables(run(tmp_path / "a.json"))
    assert "Stand-in 1" in text
    assert "| `vov3d_n`, optimized | bf16 | 500.0 (2/s, 2.00 GB) | out of memory |" in text
    assert "| `vov3d_n`, optimized | bf16 | 2000.0 |" in text
    assert "failed: OSError" in text
    assert all(line.startswith(("|", "#", "`")) for line in text.splitlines() if line)
    empty = {"machine": {}, "minutes": 0, "rows": [], "forms": []}
    assert "|" not in gpu_speed.tables(empty)


def test_the_page_has_a_place_for_the_tables_and_no_numbers_without_a_measurement():
    page = gpu_speed.PAGE.read_text()
    place = part_of(page, "gpu_speed")
    if not gpu_speed.FILE.exists():
        assert "|" not in place
    assert part_of(filled(page, gpu_speed="| a |"), "gpu_speed") == "| a |"


def test_without_a_gpu_there_is_one_clear_error(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu_speed", "-o", str(tmp_path / "a.json")])
    assert gpu_speed.main() == 1
    assert "PyTorch finds no GPU here" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_video_is_read_to_its_label(monkeypatch):
    pytest.importorskip("av")
    monkeypatch.setattr(gpu_speed, "LEAST", 1)
    monkeypatch.setattr(gpu_speed, "TYPES", {"fp32": torch.float32})
    monkeypatch.setattr(gpu_speed.statistics, "quantiles", lambda seconds, **more: seconds * 3)
    found = gpu_speed.to_label(StandIn(step=1.0), gpu_speed.Row("label", "vov3d_n", "optimized", "fp32", 30))
    assert found["median"] == 1.0
