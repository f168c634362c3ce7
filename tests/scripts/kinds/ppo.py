"""PPO: a policy that is asked in every step of the environments, then trained on what they gave, batch by batch."""

import sys

import torch
from torch import nn
from torch.distributions import Categorical

import unisono

ENVIRONMENTS, STEPS = 8, 12


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 16), nn.Tanh())
        self.actor, self.critic = nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, seen):
        inner = self.body(seen)
        return self.actor(inner), self.critic(inner).squeeze(-1)


def moved(state, action):
    """A ball on a seesaw: the action tilts it; the nearer to the middle, the better."""
    place, speed = state.unbind(1)
    speed = speed + 0.2 * (2 * action - 1) + 0.1 * place
    state = torch.stack([place + 0.2 * speed, speed], 1)
    fell = state[:, 0].abs() > 1
    return torch.where(fell[:, None], torch.zeros_like(state), state), 1 - state[:, 0].abs(), fell.float()


def played(state):
    """What happened in some steps, and the advantages of what was done."""
    seen = []
    for _ in range(STEPS):
        with torch.no_grad():
            scores, value = agent(state)
        policy = Categorical(logits=scores)
        action = torch.rand(ENVIRONMENTS, generator=own).gt(policy.probs[:, 0]).long()
        after, reward, fell = moved(state, action)
        seen.append((state, action, policy.log_prob(action), value, reward, fell))
        state = after
    states, actions, chances, values, rewards, falls = map(torch.stack, zip(*seen, strict=True))
    with torch.no_grad():
        following = torch.cat([values[1:], agent(state)[1][None]])
    advantages, later = torch.zeros_like(values), torch.zeros(ENVIRONMENTS)
    for t in reversed(range(STEPS)):
        surprise = rewards[t] + 0.95 * following[t] * (1 - falls[t]) - values[t]
        advantages[t] = later = surprise + 0.9 * (1 - falls[t]) * later
    told = (states, actions, chances, advantages, advantages + values)
    return state, [each.flatten(0, 1) for each in told], rewards.mean().item()


torch.manual_seed(0)
own = torch.Generator().manual_seed(1)
agent = unisono.parallel(Agent())
optimizer = torch.optim.Adam(agent.parameters(), lr=3e-3, eps=1e-5)
state = torch.zeros(ENVIRONMENTS, 2)
for iteration in range(3):
    state, happened, reward = played(state)
    for chosen in torch.randperm(ENVIRONMENTS * STEPS, generator=own).split(32):
        states, actions, chances, advantages, returns = (each[chosen] for each in happened)
        scores, values = agent(states)
        policy = Categorical(logits=scores)
        ratio = (policy.log_prob(actions) - chances).exp()
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        gain = torch.min(advantages * ratio, advantages * ratio.clamp(0.8, 1.2)).mean()
        loss = (values - returns).square().mean() / 2 - gain - 0.01 * policy.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()
    print(f"iteration {iteration}: reward {reward:.4f}, loss {loss.item():.4f}", flush=True)
torch.save(agent.state_dict(), sys.argv[1])
