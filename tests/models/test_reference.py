"""Every number that the published code gives, from checkpoints in the published formats."""

import pytest
import torch
from helpers.reference_files import PUBLISHED, load_reference, published_file, reference_clip

import vov3d

LONG = (("vov3d_l_ssv1", 0), ("vov3d_m_k400", 1))
CASES = [(name, i) for name in PUBLISHED for i in range(len(load_reference(name)["cases"]))]


def statistics(x: torch.Tensor) -> dict:
    flat = x.flatten()
    middle = flat.numel() // 2
    return {
        "shape": list(x.shape),
        "mean": flat.double().mean().item(),
        "std": flat.double().std().item(),
        "first8": flat[:8].tolist(),
        "mid8": flat[middle : middle + 8].tolist(),
    }


def check_stage(x: torch.Tensor, expected: dict) -> None:
    found = statistics(x)
    assert found["shape"] == expected["shape"]
    for key in ("mean", "std"):
        assert found[key] == pytest.approx(expected[key], rel=1e-5)
    for key in ("first8", "mid8"):
        assert found[key] == pytest.approx(expected[key], rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("name", "index"), [pytest.param(*case, marks=pytest.mark.slow) if case in LONG else case for case in CASES]
)
def test_published_outputs(name: str, index: int, tmp_path):
    case = load_reference(name)["cases"][index]
    model = vov3d.create_model(PUBLISHED[name], checkpoint_path=published_file(name, tmp_path)).eval()
    x = reference_clip(case)
    with torch.inference_mode():
        features, stages = model.forward_intermediates(x)
        for i, stage in enumerate(stages):
            check_stage(stage, case["stages"][f"s{i + 1}"])
        if "logits" in case:
            expected = torch.tensor(case["logits"]).view(x.shape[0], -1)
            torch.testing.assert_close(model.forward_head(features), expected, rtol=0, atol=1e-4)
        if "probs_mean_over_positions" in case:
            expected = torch.tensor(case["probs_mean_over_positions"]).view(x.shape[0], -1)
            torch.testing.assert_close(model.forward_dense(x), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name", [n if n == "vov3d_m_k400" else pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED]
)
def test_float64_agrees(name: str, tmp_path):
    case = load_reference(name)["cases"][0]
    model = vov3d.create_model(PUBLISHED[name], checkpoint_path=published_file(name, tmp_path)).double().eval()
    x = reference_clip(case).double()
    with torch.inference_mode():
        dense = "logits" not in case
        found = model.forward_dense(x) if dense else model(x)
    expected = torch.tensor(case["probs_mean_over_positions" if dense else "logits"]).view(x.shape[0], -1).double()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if dense else 1e-4)
