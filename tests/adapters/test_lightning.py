"""The LightningModule of the guide trains, measures and saves."""

import re
from pathlib import Path

import pytest
import torch

import vov3d

lightning = pytest.importorskip("lightning")

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "huggingface.md"


CONNECTOR = "lightning.pytorch.trainer.connectors.signal_connector._SignalConnector"


@pytest.mark.slow
def test_the_module_of_the_guide_trains_and_its_checkpoint_loads(tmp_path, monkeypatch):
    # It sets the handlers of all signals back to Python's, so that later faults would end pytest without a word.
    monkeypatch.setattr(f"{CONNECTOR}.register_signal_handlers", lambda self: None)
    blocks = re.findall(r"^```python no-run\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (block,) = (block for block in blocks if "LightningModule" in block)
    assert len(block.split("class ")[1].splitlines()) <= 25
    namespace: dict = {}
    exec(block, namespace)
    torch.manual_seed(0)
    task = namespace["VideoTask"]("vov3d_n", 2)
    rows = [(torch.full((3, 8, 32, 32), float(i % 2)), i % 2) for i in range(4)]
    batches = torch.utils.data.DataLoader(rows, batch_size=2)
    before = task.model.head.fc.weight.clone()
    trainer = lightning.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, default_root_dir=tmp_path
    )
    trainer.fit(task, batches, batches)
    assert 0 <= trainer.callback_metrics["accuracy"] <= 1
    assert not torch.equal(task.model.head.fc.weight, before)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    vov3d.save_pretrained(task.model, tmp_path / "model", ["dark", "bright"])
    for back in (
        vov3d.from_pretrained(tmp_path / "model"),
        vov3d.create_model("vov3d_n", checkpoint_path=tmp_path / "last.ckpt"),
    ):
        assert torch.equal(back.head.fc.weight, task.model.head.fc.weight)
