"""A GAN: two models, the critic's call on a detached picture and on one with a graph, clamped weights, an EMA."""

import copy
import sys

import torch
import torch.nn.functional as F
from torch import nn

import unisono

torch.manual_seed(0)
own = torch.Generator().manual_seed(1)
real = torch.randn(160, 12).cumsum(1)
generator = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 12))
critic = nn.Sequential(nn.Linear(12, 24), nn.LeakyReLU(0.2), nn.Linear(24, 1))
generator, critic = unisono.parallel([generator, critic])
average = copy.deepcopy(generator)
makes = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
judges = torch.optim.Adam(critic.parameters(), lr=1e-3, betas=(0.5, 0.999))
for step in range(10):
    batch = real[torch.randint(len(real), (32,), generator=own)]
    made = generator(torch.randn(32, 4, generator=own))
    loss = F.softplus(-critic(batch)).mean() + F.softplus(critic(made.detach())).mean()
    judges.zero_grad()
    loss.backward()
    judges.step()
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.clamp_(-0.3, 0.3)
    if step % 2:
        makes.zero_grad()
        F.softplus(-critic(made)).mean().backward()  # through both models
        makes.step()
        with torch.no_grad():
            for kept, parameter in zip(average.parameters(), generator.parameters(), strict=True):
                kept.lerp_(parameter, 0.2)
    print(f"step {step}: the critic's loss {loss.item():.4f}", flush=True)
models = {"generator": generator, "critic": critic, "average": average}
torch.save({f"{name}.{key}": value for name, each in models.items() for key, value in each.state_dict().items()},
           sys.argv[1])  # fmt: skip
