"""Networks of the comparison have equal cost; runs are named, done once and reported."""

import json

import evidence
import numpy as np
import pytest
import torch
from comparison import plans
from comparison.kernels import aggregated_shares, odd_in_time
from comparison.networks import NETWORKS, TABLE3, WHY, cost
from comparison.page import filled
from comparison.runs import CHECKS, Run, Sizes, execute
from reference.training.recipe import load_recipe, sections

import vov3d

SMALL = Sizes(train=40, val=20, test=20, tempo=20, frames=32)


def stub(run: Run, accuracy: int) -> dict:
    last = {"passes": 16000, "train_top1": 60.0, "val_top1": 50 + 100 * run.rate}
    return {
        "rate": run.rate,
        "title": NETWORKS[run.network].title,
        "passes": 4000 * run.epochs,
        "sizes": {"train": 4000, "val": 1000, "test": 2000, "tempo": 1000, "frames": 56},
        "curve": [last | {"passes": 8000, "val_top1": 30}, last],
        "test_right": [accuracy] * 20,
        "test_pair_right": [2 * accuracy] * 20,
        "tempo_right": {str(stride): [accuracy // 2] * 20 for stride in (2, 3, 4, 5, 6, 7)},
        "odd_in_time": [0.4, 0.5, 0.6],
        "aggregated_shares": {"1": 0.4, "3": 0.6} if NETWORKS[run.network].has_tosa else {},
    }


@pytest.fixture
def stubs(monkeypatch):
    """Replaces runs by ones that take no time; returns the names of those that were done."""
    names: list[str] = []

    def write(run, sizes, results, work):
        names.append(run.name)
        found = stub(run, 50 + 3 * run.seed)
        results.mkdir(exist_ok=True)
        (results / f"{run.name}.json").write_text(json.dumps(found))
        return found

    monkeypatch.setattr(evidence, "execute", write)
    return names


@pytest.mark.slow
def test_networks_cost_the_same_to_5_percent():
    for figure in ("params", "macs"):
        for frames in (8, 16):
            values = [getattr(cost(name, frames), figure) for name in NETWORKS]
            assert max(values) <= 1.05 * min(values), (figure, values)


def test_the_network_both_is_the_packaged_model():
    assert cost("both").params == vov3d.measure_budget("vov3d_n", 8, 32).params
    for name in TABLE3:
        assert (NETWORKS[name].model, NETWORKS[name].conv) == {
            "baseline": ("x3d_m", "dw3d"),
            "tosa": ("vov3d_m", "dw3d"),
            "d2plus1d": ("x3d_m", "d2plus1d"),
            "both": ("vov3d_m", "d2plus1d"),
        }[name]


def test_table_3_is_twenty_runs_each_done_once(stubs, tmp_path, capsys):
    evidence.run("table3", tmp_path, tmp_path / "work", Sizes(), most=3)
    assert len(stubs) == 3
    evidence.run("table3", tmp_path, tmp_path / "work", Sizes())
    assert len(stubs) == len(set(stubs)) == 20
    assert sum("lr0.016" in name for name in stubs) == 12  # the best rate of every network, by validation
    (tmp_path / f"{stubs[3]}.json").unlink()
    evidence.run("table3", tmp_path, tmp_path / "work", Sizes())
    assert stubs[20:] == [stubs[3]]
    evidence.show(tmp_path)
    assert "both-16f-lr0.016-seed2               to do" in capsys.readouterr().out


def test_the_page_shows_finished_runs_and_names_missing_ones(stubs, tmp_path):
    text = evidence.PAGE.read_text()
    assert "`table3`, X3D: depthwise 3D: 3 of 3 runs" in filled(text, {}, tmp_path)
    evidence.run("table3", tmp_path, tmp_path / "work", Sizes())
    page = filled(text, plans.read(tmp_path), tmp_path / "pictures")
    assert "| X3D: depthwise 3D | 53.0 ± 3.0 |  | 0.016 |" in page
    assert "| T-OSA alone | 53.0 ± 3.0 | +0.0 ± 2.4 | 0.016 |" in page
    assert "`table3`" not in page.split("<!-- missing -->")[1].split("<!-- /missing -->")[0]
    assert "`table4`, T-OSA with 3D: 3 of 3 runs" in page
    assert (tmp_path / "pictures" / "tempo.png").stat().st_size > 1000
    (tmp_path / "both-lr0.016-seed2.json").unlink()
    assert "51.5 ± 2.1 (2 of 3 seeds)" in filled(text, plans.read(tmp_path), tmp_path / "pictures")


def test_higher_rates_are_tried_once_and_choose_nothing(stubs, tmp_path):
    evidence.run("table3", tmp_path, tmp_path / "work", Sizes())
    stubs.clear()
    evidence.run("rates", tmp_path, tmp_path / "work", Sizes())
    once = [f"{name}-lr{rate}-seed0" for name in TABLE3 for rate in (0.032, 0.064)]
    assert sorted(stubs) == sorted(once + [run.name for run in CHECKS])
    assert plans.best_rate("both", plans.read(tmp_path)) == 0.016  # though stubs are better the higher the rate
    page = filled(evidence.PAGE.read_text(), plans.read(tmp_path), tmp_path / "pictures")
    assert "| T-OSA alone | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 |" in page
    (tmp_path / "both-lr0.064-seed0.json").unlink()
    page = filled(page, plans.read(tmp_path), tmp_path / "pictures")
    assert "- `rates`, T-OSA and D(2+1)D: VoV3D: 1 of 2 runs" in page


def test_choices_of_tosa_are_undone_at_the_rate_of_the_whole(stubs, tmp_path):
    evidence.run("why", tmp_path, tmp_path / "work", Sizes())
    rates = {name.split("-lr")[1].split("-")[0] for name in stubs if not name.startswith("both-")}
    assert rates == {"0.016"}
    assert len(stubs) == len(set(stubs)) == 3 * len(WHY) + 2  # and two more rates of the whole
    page = filled(evidence.PAGE.read_text(), plans.read(tmp_path), tmp_path / "pictures")
    assert "| no norm starts at zero | 53.0 ± 3.0 | +0.0 ± 2.4 | 0.016 |" in page


@pytest.mark.parametrize("name", NETWORKS)
def test_a_recipe_builds_the_network_of_the_comparison(name):
    recipe = sections(load_recipe("shapes_nano", NETWORKS[name].keys))
    with NETWORKS[name].building():
        model = vov3d.create_model(recipe.model.name, num_classes=20, device="meta", **recipe.model.args)
    assert sum(parameter.numel() for parameter in model.parameters()) == cost(name).params


def test_a_network_of_the_comparison_has_its_own_blocks():
    blocks = {}
    for name in ("both", "last", "full", "inner"):
        with NETWORKS[name].building():
            model = vov3d.create_model(NETWORKS[name].model, num_classes=20, **NETWORKS[name].args)
        blocks[name] = model.stages[1].blocks[0]
    whole, last, full, inner = blocks.values()
    assert last.conv_agg.in_channels == last.layers[0].conv_pwl.out_channels  # of one bottleneck
    assert full.layers[1].conv_pwl.in_channels == full.layers[1].conv_pwl.out_channels
    assert [bool(layer.bn3.weight.any()) for layer in inner.layers] == [True, False, False, False, False]
    assert all(layer.bn3.weight.any() for layer in whole.layers)
    x = torch.randn(1, 16, 8, 8, 8)
    for block in blocks.values():
        assert block.eval()(x).shape == whole.eval()(x).shape


def test_long_training_is_shown_at_other_strides(stubs, tmp_path):
    evidence.run("longer", tmp_path, tmp_path / "work", Sizes())
    page = filled(evidence.PAGE.read_text(), plans.read(tmp_path), tmp_path / "pictures")
    part = page.split("<!-- tempo_longer -->")[1].split("<!-- /tempo_longer -->")[0]
    assert "(evidence/tempo_longer.png)" in part
    assert part.count("| T-OSA alone | ") == 1
    assert (tmp_path / "pictures" / "tempo_longer.png").stat().st_size > 1000
    evidence.run("longest", tmp_path, tmp_path / "work", Sizes(), most=2)
    page = filled(evidence.PAGE.read_text(), plans.read(tmp_path), tmp_path / "pictures")
    part = page.split("<!-- longest -->")[1].split("<!-- /longest -->")[0]
    assert part.count("| X3D: depthwise 3D | ") == part.count("| T-OSA and D(2+1)D: VoV3D | ") == 2
    assert "| T-OSA alone |" not in part


def test_a_page_without_a_place_for_a_table_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no place for 'networks': it wants <!-- networks -->"):
        filled("# Nothing", {}, tmp_path)


def test_a_foreign_file_among_the_results_is_named(tmp_path, capsys):
    (tmp_path / "both-lr0.008-seed0.json").write_text("{}")
    assert evidence.main(["--results", str(tmp_path), "list"]) == 1
    assert "both-lr0.008-seed0.json: is not what a run of evidence.py wrote; delete it" in capsys.readouterr().err


def test_the_page_is_what_was_measured(tmp_path):
    text = evidence.PAGE.read_text()
    assert filled(text, plans.read(evidence.RESULTS), tmp_path) == text


@pytest.mark.slow
@pytest.mark.parametrize(
    "run", [Run("both", 8e-3, 1, epochs=1), Run("last", 8e-3, 0), Run("baseline", 8e-3, 0, frames=16, epochs=2)]
)
def test_a_small_run_is_stored_with_all_measurements(tmp_path, run):
    found = execute(run, SMALL, tmp_path / "results", tmp_path / "work")
    stored = plans.read(tmp_path / "results")[run.name]
    assert stored == json.loads(json.dumps(found))
    assert [point["passes"] for point in stored["curve"]] == [40 * (i + 1) for i in range(run.epochs)]
    assert all(pair >= right for pair, right in zip(stored["test_pair_right"], stored["test_right"], strict=True))
    assert list(stored["tempo_right"]) == (["2", "3", "4", "5", "6", "7"] if run.frames == 8 else ["2", "4", "6"])
    at_training = "4"
    assert stored["tempo_right"][at_training] == stored["test_right"]  # here the same clips
    assert 0 <= plans.tempo_top1(stored, 4) <= 100


def test_kernels_odd_and_even_in_time():
    model = vov3d.create_model("vov3d_n")
    for module in model.modules():
        if isinstance(module, torch.nn.Conv3d) and module.kernel_size[0] == 3:
            module.weight.data = module.weight.data + module.weight.data.flip(2)
    assert odd_in_time(model) == [0, 0, 0]
    for module in model.stages[1].modules():
        if isinstance(module, torch.nn.Conv3d) and module.kernel_size[0] == 3:
            module.weight.data[:, :, 1:] = 0
    assert odd_in_time(model) == [0, 0.5, 0]


def test_shares_of_aggregated_features():
    torch.manual_seed(0)
    model, clips = vov3d.create_model("vov3d_n"), torch.randn(2, 3, 8, 32, 32)
    shares = aggregated_shares(model, clips)
    assert list(shares) == [1, 3, 5, 7, 9, 11]
    for module in model.modules():
        if isinstance(module, vov3d.TOSA):
            width = module.layers[0].conv_pwl.out_channels
            module.conv_agg.weight.data[:, : -5 * width] = 0
            module.conv_agg.weight.data[:, -width:] = 0
    changed = aggregated_shares(model, clips)
    assert changed[1] == changed[11] == 0
    assert np.sum(list(changed.values())) == pytest.approx(1, abs=1e-3)
    assert aggregated_shares(vov3d.create_model("x3d_xs", depths=(1, 1, 1, 1)), clips) == {}
