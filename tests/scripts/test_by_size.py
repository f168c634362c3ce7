"""Small calls computed in the script beside workers who compute the others."""

from __future__ import annotations

from pathlib import Path

from script_runs import run

POLICY = """
import hashlib, os, sys
from pathlib import Path

import torch
import unisono
from torch import nn

workers, smallest, tmp = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])

class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.1), nn.Linear(16, 2))

    def forward(self, x):
        if tmp.exists():  # no probes any more
            (tmp / f"{os.getpid()}-{'few' if len(x) < 4 else 'many'}").touch()
        return self.net(x)

torch.manual_seed(0)
model = unisono.parallel(Policy(), microbatches=2, workers=workers, smallest=smallest)
optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
for step in range(6):
    few = torch.stack([model(torch.randn(2, 4)) for _ in range(3)])
    with torch.no_grad():
        model(torch.randn(3, 4))
    loss = model(torch.randn(16, 4)).square().mean() + few.mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step == 4:
        tmp.mkdir()
for name in sorted(entry.name for entry in tmp.iterdir()):
    process, size = name.split("-")
    print("script" if int(process) == os.getpid() else "worker", size)
values = model.state_dict().values()
print(hashlib.sha256(b"".join(value.numpy().tobytes() for value in values)).hexdigest())
"""


def test_small_calls_are_the_scripts_and_no_bit_tells(tmp_path: Path) -> None:
    alone, sized = (
        [
            line for line in run(POLICY, tmp_path, *who, tmp_path / f"{who[0]}-{who[1]}").splitlines()
            if not line.startswith("unisono: ")
        ]
        for who in ((0, 0), (1, 4))
    )  # fmt: skip
    assert sized[-1] == alone[-1]
    assert sorted(sized[:-1]) == ["script few", "worker many"]
