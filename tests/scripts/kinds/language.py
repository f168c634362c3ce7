"""A language model: tied weights, its loss within forward, warm-up, an EMA, checkpoints of its own."""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import unisono

SIZE, LENGTH = 11, 8


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens, self.places = nn.Embedding(SIZE, 16), nn.Embedding(LENGTH, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, bias=False)
        self.scores = nn.Linear(16, SIZE, bias=False)
        self.scores.weight = self.tokens.weight

    def forward(self, tokens, targets=None):
        length = tokens.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        found = self.block(self.tokens(tokens) + self.places(torch.arange(length)), src_mask=mask, is_causal=True)
        scores = self.scores(found)
        return scores, None if targets is None else F.cross_entropy(scores.flatten(0, 1), targets.flatten())


def batch():
    """Each token follows from the one before."""
    first = torch.randint(SIZE, (16, 1), generator=own)
    tokens = (first * 3 ** torch.arange(LENGTH + 1)) % SIZE
    return tokens[:, :-1], tokens[:, 1:]


file, until = sys.argv[1], int((sys.argv[2:] or ["10"])[0])
torch.manual_seed(0)
own = torch.Generator().manual_seed(1)
model = unisono.parallel(Model())
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 4))
average = {name: value.clone() for name, value in model.state_dict().items()}
start = 0
if Path(file).exists():
    kept = torch.load(file)
    model.load_state_dict(kept["model"])
    optimizer.load_state_dict(kept["optimizer"])
    schedule.load_state_dict(kept["schedule"])
    average, start = kept["average"], kept["step"]
    own.set_state(kept["own"])
    torch.set_rng_state(kept["default"])
for step in range(start, until):
    _, loss = model(*batch())
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    for name, value in model.state_dict().items():
        average[name].lerp_(value, 0.1)
    with torch.inference_mode():
        best = model(batch()[0])[0].argmax(2)
    print(f"step {step}: loss {loss.item():.4f}, the last row's {best[-1].tolist()}", flush=True)
state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
torch.save({**state, "average": average, "step": until, "own": own.get_state(), "default": torch.get_rng_state()}, file)
