"""Recipes: the paper's values, overrides, and what is refused."""

import itertools

import pytest
import torch
from helpers.tiny_training_runs import clips_file, command, trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import train
from reference.training.building import build_model, build_optimizer, build_scheduler, clip_settings
from reference.training.recipe import DEFAULTS, load_recipe, parse_overrides, recipe_names, sections
from torch import nn

import vov3d
from vov3d.labels import load_labels

PAPER = {
    "ssv1": ("cosine", 100, 64, 0.1, 16, "segment", False),
    "ssv2": ("cosine", 100, 64, 0.1, 16, "segment", False),
    "k400": ("cosine", 256, 128, 0.1, 16, "dense", True),
    "ssv1_ft_k400": ("steps", 50, 64, 0.05, 32, "segment", False),
    "ssv2_ft_k400": ("steps", 50, 64, 0.05, 32, "segment", False),
}


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_recipes(name):
    r = sections(load_recipe(name))
    found = (
        r.schedule.name,
        r.schedule.epochs,
        r.optimizer.batch,
        r.optimizer.lr,
        r.clip.frames,
        r.clip.sampling,
        r.clip.flip,
    )
    assert found == PAPER[name]
    assert r.optimizer.weight_decay == 5e-5
    assert (r.optimizer.exempt_norms, r.optimizer.decay_biases) == (True, True)
    assert r.train.precise_bn == 200
    assert r.clip.inverse_scales == name.startswith("ssv")
    assert (r.clip.size, r.clip.scales) == (224, [256, 320])
    if r.clip.sampling == "dense":
        assert r.clip.stride == 5
    if name.endswith("ft_k400"):
        assert (r.schedule.milestones, r.schedule.decay) == ([35, 45], 0.1)
        assert (r.schedule.warmup_updates, r.schedule.warmup_lr) == (2000, 1e-4)
        assert r.model.sync_batchnorm
        assert r.model.pretrained


@pytest.mark.parametrize("name", sorted(set(recipe_names()) - {"shapes_nano", "shapes_adamw", "finetune_nano"}))
def test_every_recipe_names_a_model_of_the_zoo_that_takes_its_clips(name):
    r = sections(load_recipe(name))
    model = vov3d.create_model(r.model.name, device="meta")
    fields = clip_settings(r.clip, model)
    assert fields["num_frames"] in (16, 32)
    assert (fields["frame_stride"] is None) == (fields["sampling"] == "segment")


@pytest.mark.parametrize(
    ("names", "kept"),
    [
        (load_labels("shapes"), True),
        ([name.upper().replace(" ", "_") for name in load_labels("shapes")], True),
        (sorted(load_labels("shapes")), False),
        ([f"gesture {i}" for i in range(20)], False),
    ],
)
def test_a_classifier_is_kept_for_its_own_classes_only(names, kept, caplog):
    recipe = sections(load_recipe("finetune", {"model.name": "vov3d_n"}))
    model = build_model(recipe, names, 1)
    packaged = vov3d.create_model("vov3d_n", pretrained=True)
    assert torch.equal(model.head.fc.weight, packaged.head.fc.weight) == kept
    assert torch.equal(model.head.hidden.weight, packaged.head.hidden.weight)
    assert ("classifier is for other classes" in caplog.text) != kept


def rates(recipe, at: list[int], updates: int, factor: float = 1.0) -> list[float]:
    optimizer = build_optimizer(nn.Linear(2, 2), recipe.optimizer, factor)
    scheduler = build_scheduler(optimizer, recipe.schedule, factor, updates)
    found = []
    for update in at:
        scheduler.step_update(update)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_learning_rate_falls_at_the_milestones_after_a_warm_up():
    at = [0, 1000, 2000, 35 * 3000 - 1, 35 * 3000, 45 * 3000 - 1, 45 * 3000]
    found = rates(sections(load_recipe("ssv2_ft_k400")), at, updates=3000)
    assert found == pytest.approx([1e-4, 0.02505, 0.05, 0.05, 0.005, 0.005, 0.0005])


def test_the_learning_rate_is_half_a_cosine_scaled_with_the_batch():
    recipe = sections(load_recipe("ssv2"))
    found = rates(recipe, [0, 500, 5000, 10_000], updates=100, factor=0.5)
    assert found == pytest.approx([0.005, 0.05 * 0.99384, 0.025, 0], rel=1e-4, abs=1e-9)


def whole(name: str, updates: int, **keys: object) -> list[float]:
    recipe = sections(load_recipe(name, {k.replace("_", ".", 1): str(v) for k, v in keys.items()}))
    return rates(recipe, list(range(recipe.schedule.epochs * updates)), updates)


RATES = {  # at the first update of some epochs
    "k400": {0: 0.01, 17: 0.05151, 35: 0.09546, 36: 0.09521, 128: 0.05, 255: 3.765e-6},
    "ssv1": {0: 0.01, 1: 0.09998, 2: 0.0999, 50: 0.05, 99: 2.467e-5},
    "ssv2": {0: 0.01, 1: 0.09998, 2: 0.0999, 50: 0.05, 99: 2.467e-5},
    "ssv1_ft_k400": {0: 1e-4, 1: 0.02505, 2: 0.05, 34: 0.05, 35: 0.005, 45: 0.0005},
    "ssv2_ft_k400": {0: 1e-4, 1: 0.02505, 2: 0.05, 34: 0.05, 35: 0.005, 45: 0.0005},
    "finetune": {0: 2e-6, 1: 2e-3, 14: 1.5e-3, 27: 5e-4, 39: 3.24e-6},
    "finetune_nano": {0: 5e-6, 1: 5e-3, 14: 3.75e-3, 27: 1.25e-3, 39: 8.1e-6},
}


@pytest.mark.parametrize("name", RATES)
def test_the_learning_rate_over_the_epochs(name):
    updates = 1000  # 2000 of warm-up are two epochs
    found = whole(name, updates)
    print(f"{name}:", *(f"{epoch} {found[epoch * updates]:.4g}" for epoch in range(len(found) // updates)), sep="\n  ")
    assert {epoch: found[epoch * updates] for epoch in RATES[name]} == pytest.approx(RATES[name], rel=2e-3)
    small = max(found) / 500
    falls = 2 if name.endswith("ft_k400") else 0
    assert (
        sum(abs(a - b) > small for a, b in itertools.pairwise(found)) == falls
    )  # continuous, where the warm-up ends as well


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from([*RATES, "shapes_nano"]),
    epochs=st.integers(1, 6),
    updates=st.integers(1, 6),
    warmup=st.integers(0, 40),
)
def test_no_update_has_a_learning_rate_of_zero(name, epochs, updates, warmup):
    keys = dict(schedule_warmup_epochs=0, schedule_warmup_updates=warmup)
    found = whole(name, updates, schedule_epochs=epochs, **keys)
    assert min(found) > 0
    if peak := {"finetune": 2e-3, "finetune_nano": 5e-3, "shapes_nano": 1e-2}.get(name):
        assert max(found) == pytest.approx(peak)  # it is reached, as the warm-up is half of the run at most
        top = found.index(max(found))
        assert found[: top + 1] == sorted(found[: top + 1])
        assert found[top:] == sorted(found[top:], reverse=True)


def test_norms_and_biases_decay_as_the_recipe_says():
    model = vov3d.create_model("x3d_xs", depths=(1, 1, 1, 1))
    norms = {id(p) for m in model.modules() if isinstance(m, nn.BatchNorm3d) for p in m.parameters()}
    biases = {id(p) for p in model.parameters() if p.ndim == 1} - norms
    everything = {id(p) for p in model.parameters()}
    for exempt, decaying, wanted in (
        ("false", "false", everything),
        ("true", "false", everything - norms - biases),
        ("true", "true", everything - norms),
    ):
        keys = {"optimizer.exempt_norms": exempt, "optimizer.decay_biases": decaying}
        for layers in ("1", "0.5"):
            settings = sections(load_recipe("ssv2", keys | {"optimizer.layer_decay": layers})).optimizer
            optimizer = build_optimizer(model, settings, 1.0)
            decayed = {id(p) for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
            assert decayed == wanted
            assert sorted(id(p) for group in optimizer.param_groups for p in group["params"]) == sorted(everything)


def test_layer_decay_lowers_the_learning_rate_towards_the_stem():
    model = vov3d.create_model("x3d_xs", depths=(1, 1, 1, 1))
    settings = sections(load_recipe("finetune", {"optimizer.layer_decay": "0.5"})).optimizer
    scale = {
        id(p): group["lr_scale"]
        for group in build_optimizer(model, settings, 1.0).param_groups
        for p in group["params"]
    }
    assert scale[id(model.head.fc.weight)] == 1
    assert scale[id(model.stem.conv_s.weight)] < scale[id(model.stages[0].blocks[0].conv_pw.weight)] < 0.2


# --- the command line ------------------------------------------------------------------------------------------------


def test_values_of_the_command_line_have_the_type_of_their_key():
    words = ["--optimizer.lr=1", "--model.name", "7", "--schedule.milestones", "[3, 4]", "--clip.flip", "true"]
    words += ["--model.args.conv", "d2plus1d", "--model.args.depths", "[1, 2]", "--schedule.min_lr", "-1e-3"]
    recipe = load_recipe("ssv2", parse_overrides(words))
    assert recipe["optimizer.lr"] == 1.0
    assert isinstance(recipe["optimizer.lr"], float)
    assert recipe["model.name"] == "7"
    assert recipe["schedule.milestones"] == [3, 4]
    assert recipe["clip.flip"] is True
    assert recipe["schedule.min_lr"] == -1e-3
    assert sections(recipe).model.args == {"conv": "d2plus1d", "depths": [1, 2]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--optimiser.lr", "1"], "did you mean 'optimizer.lr'?"),
        (["--lr", "1"], "did you mean 'optimizer.lr'?"),
        (["--clip.frame", "8"], "did you mean 'clip.frames'?"),
        (["--optimizer.lr", "fast"], "optimizer.lr wants a number, such as 0.1, not 'fast'"),
        (["--clip.frames", "8.5"], "clip.frames wants a whole number"),
        (["--clip.flip", "1"], "clip.flip wants true or false"),
        (["--clip.flip", "False"], "clip.flip wants true or false, not 'False'"),
        (["--clip.zoom", "1.0,1.25"], "clip.zoom wants a list, such as [1.0, 1.25], not '1.0,1.25'"),
        (["--schedule.name", "steps", "--schedule.milestones", "[1, 9]"], "milestones [9] have no effect, the run"),
        (["--train.ema", "1"], "train.ema is 1, at which the averaged weights never change"),
        (["--optimizer.lr"], "--optimizer.lr wants a value"),
        (["--optimizer.lr", "--clip.flip", "true"], "--optimizer.lr wants a value"),
        (["optimizer.lr=1"], "'optimizer.lr=1' is no option"),
        (["--model.sync_batchnorm", "true", "--train.keep", "best"], "needs videos for validation"),
        (["--train.keep", "first"], "'last' and 'best' are known"),
        (["--schedule.warmup_updates", "5"], "say the same thing twice"),
        (["--schedule.milestones", "[1]"], "have no effect"),
        (["--schedule.epochs", "0"], "schedule.epochs is 0: expected a number from 1 on"),
        (["--train.val_every", "0"], "train.val_every is 0: expected a number from 1 on"),
        (["--train.val_every", "-1"], "train.val_every is -1"),
        (["--optimizer.lr", "nan"], "optimizer.lr is nan: expected a number from 0 on"),
        (["--optimizer.lr", "inf"], "optimizer.lr is inf"),
        (["--schedule.min_lr", "-1e-3"], "schedule.min_lr is -0.001"),
        (["--schedule.milestones", "[3, 2]", "--schedule.name", "steps"], "expected epochs from 1 on, in order"),
        (["--clip.scales", "[3]"], "expected two short sides"),
        (["--clip.zoom", "[0.9, 1.2]"], "expected two rising multiples of the crop"),
        (["--clip.zoom", "[1.2, 1]"], "expected two rising multiples of the crop"),
        (["--clip.zoom", "[1, 2]", "--clip.scales", "[64, 80]"], "say the same thing twice"),
        (["--data.val_share", "1.5"], "data.val_share is 1.5"),
        (["--optimizer.args.bogus", "1"], "optimizer.name='adamw' cannot be made with bogus=1"),
        (["--optimizer.args.betas", "5"], "cannot be made with betas=5"),
        (["--optimizer.name", "adamq"], "optimizer.name='adamq' cannot be made"),
        (["--model.args.bogus", "1"], "cannot be built with model.args depths=[1]"),
        (["--train.precision", "fp16"], "train.precision='fp16' needs a GPU, and there is none"),
        (["--train.precision", "half"], "train.precision is 'half': 'no' and 'bf16' and 'fp16' are known"),
        (["--train.val_views", "1x2"], "views '1x2' cannot be read"),
        (["--schedule.name", "linear"], "'cosine' and 'steps' are known"),
        (["--clip.sampling", "segment"], "clip.stride=2 has no effect on segment sampling"),
        (["--model.freeze_backbone", "true", "--optimizer.layer_decay", "0.5"], "optimizer.layer_decay has no effect"),
        (["--clip.size", "32"], "cannot be cut to clip.size=32"),
        (["--optimizer.batch", "1", "--train.accumulate", "2"], "cannot be shared by 2"),
        (["--model.name", "vov3d_k"], "did you mean"),
    ],
)
def test_invalid_settings_give_one_error(tmp_path, capsys, words, message):
    assert train.main([*command(clips_file(tmp_path), tmp_path / "run"), *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("train.py: ")
    assert message in error
    assert not (tmp_path / "run/checkpoint.pt").exists()


def test_an_unknown_recipe_and_key_of_a_file_name_the_nearest(tmp_path, capsys):
    assert train.main(["--recipe", "ssv3", "--data", "x", "--output", str(tmp_path / "run")]) == 1
    assert "did you mean 'ssv" in capsys.readouterr().err
    (tmp_path / "mine.toml").write_text("[schedule]\nepoch = 3\n")
    assert train.main(["--recipe", str(tmp_path / "mine.toml"), "--data", "x", "--output", str(tmp_path / "run")]) == 1
    assert "did you mean 'schedule.epochs'?" in capsys.readouterr().err


def test_help_lists_every_key_and_recipe(capsys):
    with pytest.raises(SystemExit):
        train.main(["--help"])
    text = capsys.readouterr().out
    assert DEFAULTS.read_text() in text
    assert all(name in text for name in recipe_names())


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, capsys):
    with torch.random.fork_rng(devices=[]):
        assert train.main(command(clips_file(tmp_path), tmp_path / "run", optimizer_lr=1e30)) == 1
    assert "lower optimizer.lr" in capsys.readouterr().err


def test_the_learning_rate_of_a_run_follows_the_batch_that_is_used(tmp_path):
    run = trainer(clips_file(tmp_path), tmp_path / "run", train_batch_size=2, train_accumulate=2, optimizer_lr=0.8)
    assert run.factor == 0.5
    assert run.scheduler.base_values[0] == 0.4
