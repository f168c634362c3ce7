"""A Transformers model with its own loss, padded batches with their masks, a schedule, save_pretrained."""

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import DistilBertConfig, DistilBertForSequenceClassification, get_linear_schedule_with_warmup

import unisono

own = torch.Generator().manual_seed(1)


def collate(rows):
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"input_ids": ids, "attention_mask": ids.gt(0).long(), "labels": torch.stack([row[0] % 2 for row in rows])}


torch.manual_seed(0)
shape = {"vocab_size": 30, "dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2, "max_position_embeddings": 16}
still = {"dropout": 0.0, "attention_dropout": 0.0, "seq_classif_dropout": 0.0}
model = unisono.parallel(DistilBertForSequenceClassification(DistilBertConfig(**shape, **still)))
rows = [torch.randint(1, 30, (int(torch.randint(3, 9, ())),)) for _ in range(64)]
loader = DataLoader(rows, batch_size=16, shuffle=True, collate_fn=collate, generator=own)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
schedule = get_linear_schedule_with_warmup(optimizer, 2, 2 * len(loader))
model.train()
for epoch in range(2):
    for batch in loader:
        outputs = model(**batch)
        outputs.loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        print(f"epoch {epoch}: loss {outputs.loss.item():.4f}", flush=True)
model.save_pretrained(f"{sys.argv[1]}.folder")
torch.save(model.state_dict(), sys.argv[1])
