"""One line where the model is made, and a library, or a loop as libraries have them, trains what it trains without."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from paths import PYTHONPATH
from script_runs import run
from waiting import limit

BEGIN = """
import torch, unisono
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
x = torch.randn(96, 8)
data = TensorDataset(x, x.sum(1, keepdim=True))
def net(): return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
own = torch.Generator().manual_seed(1)  # a call takes one draw of the default one
def batches(): return DataLoader(data, batch_size=16, shuffle=True, generator=own)
"""

LOOP = """
model = unisono.parallel(net())
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
for epoch in range(2):
    for a, b in batches():
        mix, other = torch.rand((), generator=own), torch.randperm(len(a), generator=own)
        outputs = model(mix * a + (1 - mix) * a[other])
        loss = mix * nn.functional.mse_loss(outputs, b) + (1 - mix) * nn.functional.mse_loss(outputs, b[other])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        average.update_parameters(model)
model = average.module
"""

LIGHTNING = """
import lightning
class Lines(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = unisono.parallel(net())
    def training_step(self, batch, index):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)
model = Lines()
lightning.Trainer(max_epochs=2, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
                  enable_checkpointing=False, enable_model_summary=False).fit(model, batches())
"""

FABRIC = """
import lightning
fabric = lightning.Fabric(accelerator="cpu", devices=1)
model = unisono.parallel(net())
model, optimizer = fabric.setup(model, torch.optim.AdamW(model.parameters(), lr=1e-2))
for epoch in range(2):
    for a, b in fabric.setup_dataloaders(batches()):
        optimizer.zero_grad()
        fabric.backward(nn.functional.mse_loss(model(a), b))
        optimizer.step()
"""

ACCELERATE = """
import accelerate
accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
model = unisono.parallel(net())
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
model, optimizer, loader = accelerator.prepare(model, optimizer, batches())
for epoch in range(2):
    for a, b in loader:
        with accelerator.accumulate(model):
            accelerator.backward(nn.functional.mse_loss(model(a), b))
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
"""

TRANSFORMERS = """
from transformers import DistilBertConfig, DistilBertForSequenceClassification, Trainer, TrainingArguments
shape = dict(vocab_size=50, dim=16, hidden_dim=32, n_layers=1, n_heads=2, max_position_embeddings=16)
config = DistilBertConfig(**shape, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0)
rows = torch.randint(50, (64, 9))
data = [{"input_ids": row, "labels": row[0] % 2} for row in rows]
model = unisono.parallel(DistilBertForSequenceClassification(config))
arguments = TrainingArguments("out", per_device_train_batch_size=16, gradient_accumulation_steps=2, use_cpu=True,
                              num_train_epochs=2, report_to=[], disable_tqdm=True, save_strategy="no",
                              data_seed=3)
Trainer(model, arguments, train_dataset=data).train()
"""

TIMM = """
import numpy, timm, timm.data, timm.loss, timm.optim, timm.scheduler, timm.utils
numpy.random.seed(0)
shape = dict(img_size=8, patch_size=4, in_chans=1, embed_dim=16, depth=1, num_heads=2, num_classes=3)
model = unisono.parallel(timm.models.VisionTransformer(**shape))
mixup = timm.data.Mixup(mixup_alpha=0.2, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=3)
optimizer = timm.optim.create_optimizer_v2(model, opt="momentum", lr=0.05, weight_decay=0.01)
scheduler, _ = timm.scheduler.create_scheduler_v2(optimizer, num_epochs=4, warmup_epochs=1, warmup_lr=0.01)
average = timm.utils.ModelEmaV3(model, decay=0.9)
images, classes = torch.randn(48, 1, 8, 8, generator=own), torch.randint(3, (48,), generator=own)
for epoch in range(4):
    for a, b in DataLoader(TensorDataset(images, classes), batch_size=16, shuffle=True, generator=own):
        a, b = mixup(a, b)
        loss = timm.loss.SoftTargetCrossEntropy()(model(a), b)
        optimizer.zero_grad()
        loss.backward()
        timm.utils.dispatch_clip_grad(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
    scheduler.step(epoch + 1)
model = average.module
"""

SCRIPTS = {
    "loop": LOOP,
    "lightning": LIGHTNING,
    "fabric": FABRIC,
    "accelerate": ACCELERATE,
    "timm": TIMM,
    "transformers": TRANSFORMERS,
}
NEEDS = {"loop": "torch", "fabric": "lightning"}

END = """
import hashlib
found = hashlib.sha256(b"".join(value.numpy().tobytes() for value in model.state_dict().values()))
print("hash", found.hexdigest(), flush=True)
"""

NO_LINE = {
    "lightning": LIGHTNING.replace("devices=1", 'devices=2, strategy="ddp"'),
    "fabric": FABRIC.replace("devices=1)", 'devices=2, strategy="ddp")\nfabric.launch()'),
    "accelerate": ACCELERATE,
}
"""Libraries that wrap models in DDP by themselves: what their scripts for two ranks say."""


def need(name: str) -> None:
    package = NEEDS.get(name, name)
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would live as long as the models of this process."""
    monkeypatch.setenv("UNISONO_WORKERS", "0")


def trained(script: str) -> dict[str, torch.Tensor]:
    found: dict[str, Any] = {"__name__": "script"}
    exec(BEGIN + script, found)
    return dict(found["model"].state_dict())


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.filterwarnings("default")  # the libraries'
def test_one_line_changes_no_result(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need(name)
    monkeypatch.chdir(tmp_path)
    script = SCRIPTS[name]
    ours, plain = trained(script), trained(script.replace("unisono.parallel(", "("))
    assert ours.keys() == plain.keys()
    for key, value in plain.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-4, atol=1e-5)


def hashes_of(script: str, folder: Path, *command: str) -> set[str]:
    """What a script that is started anew leaves: computed by itself, and by two workers."""
    (folder / "script.py").write_text(BEGIN + script + END)
    return {_hash(folder, workers, *command) for workers in ("0", "2")}


def _hash(folder: Path, workers: str, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command, "script.py"], cwd=folder, capture_output=True, text=True, timeout=limit(),
        env={**os.environ, "PYTHONPATH": PYTHONPATH, "UNISONO_WORKERS": workers},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("hash")]
    return line


@pytest.mark.few(*sorted(SCRIPTS.keys() - {"loop"}))
@pytest.mark.parametrize("name", SCRIPTS)
def test_workers_change_no_bit(name: str, tmp_path: Path) -> None:
    need(name)
    assert len(hashes_of(SCRIPTS[name], tmp_path)) == 1


@pytest.mark.parametrize("name", NO_LINE)
def test_libraries_that_wrap_in_ddp_need_no_line(name: str, tmp_path: Path) -> None:
    need(name)
    plain = NO_LINE[name].replace("unisono.parallel(", "(")
    assert len(hashes_of(plain, tmp_path, "-m", "unisono", "run")) == 1


LIKE_TRANSFORMERS = """
from torch import nn
from torch.utils.checkpoint import checkpoint
_CAN_RECORD_REGISTRY = {}
class Model(nn.Linear):
    _can_record_outputs = {"hidden_states": nn.Linear}
    def __init__(self):
        super().__init__(2, 2)
        _CAN_RECORD_REGISTRY[str(type(self))] = self._can_record_outputs
    def forward(self, x):
        return {"logits": super().forward(x), **{key: x for key in _CAN_RECORD_REGISTRY.get(str(type(self))) or {}}}
class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(2, 2).requires_grad_(False), nn.Linear(2, 2)
        def make_inputs_require_grads(module, input, output):
            output.requires_grad_(True)
        self.first.register_forward_hook(make_inputs_require_grads)
    def forward(self, x):
        return checkpoint(self.last, self.first(x), use_reentrant=True)
"""


def test_workers_know_what_transformers_has_noted_of_a_model_and_have_its_hooks(tmp_path: Path) -> None:
    library = tmp_path / "site-packages" / "transformers"
    library.mkdir(parents=True)
    (library / "__init__.py").touch()
    (library / "modeling_utils.py").write_text(LIKE_TRANSFORMERS)
    script = f"""
import sys; sys.path.insert(0, {str(library.parent)!r})
import torch, unisono, transformers.modeling_utils
model = unisono.parallel(transformers.modeling_utils.Model(), microbatches=2, workers=1)
print(list(model(torch.ones(4, 2))))
model = unisono.parallel(transformers.modeling_utils.Checkpointed(), microbatches=2, workers=1)
model(torch.ones(4, 2)).sum().backward()
print(model.last.weight.grad is not None)
"""
    assert run(script, tmp_path).startswith("['logits', 'hidden_states']\nTrue\n")
