"""Classification: BatchNorm, dropout, a DataLoader, an evaluation after each epoch."""

import sys

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import unisono


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2))
        self.classes = nn.Sequential(nn.Dropout(0.2), nn.Linear(4 * 3 * 3, 3))

    def forward(self, images):
        return self.classes(self.features(images).flatten(1))


torch.manual_seed(0)
images = torch.randn(90, 1, 6, 6)
data = TensorDataset(images, images[:, 0, :2, :2].sum((1, 2)).gt(0).long() + images[:, 0, 5, 5].gt(0).long())
model = unisono.parallel(Net())
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
for epoch in range(3):
    model.train()
    for x, y in DataLoader(data, batch_size=32, shuffle=True):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        print(f"epoch {epoch}: loss {loss.item():.4f}", flush=True)
    model.eval()
    with torch.no_grad():
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in DataLoader(data, batch_size=64))
    print(f"epoch {epoch}: {right} of {len(data)} are right", flush=True)
torch.save(model.state_dict(), sys.argv[1])
