"""Forms that public scripts have and no other test: methods beside forward, outputs that mix samples with time."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Categorical

import unisono


class Agent(nn.Module):
    """A policy that is asked by methods, and has no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.actor, self.critic = nn.Linear(4, 2), nn.Linear(4, 1)

    def get_value(self, seen: torch.Tensor) -> torch.Tensor:
        return self.critic(seen)

    def get_action(self, seen: torch.Tensor, action: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        policy = Categorical(logits=self.actor(seen))
        action = policy.sample() if action is None else action
        return action, policy.log_prob(action), self.critic(seen)


def test_a_method_is_given_like_a_function() -> None:
    torch.manual_seed(0)
    agent, seen = Agent(), torch.randn(20, 4)
    plain = agent.get_action
    agent.get_action = unisono.parallel(agent.get_action, microbatches=4, workers=0)  # type: ignore[method-assign]
    with torch.no_grad():
        action = agent.get_action(seen)[0]
    found = agent.get_action(seen, action)
    torch.testing.assert_close(found, plain(seen, action))
    (found[1].mean() + found[2].square().mean()).backward()
    ours = [parameter.grad for parameter in agent.parameters()]
    agent.zero_grad()
    again = plain(seen, action)
    (again[1].mean() + again[2].square().mean()).backward()
    torch.testing.assert_close(ours, [parameter.grad for parameter in agent.parameters()])
    assert agent.get_value(seen).shape == (20, 1), "computed by the script"


class Words(nn.LSTM):
    """Time first, samples along dimension 1."""

    def forward(self, words: torch.Tensor, hidden: tuple[torch.Tensor, torch.Tensor], flat: bool = False) -> object:
        outputs, hidden = super().forward(words, hidden)
        return outputs.reshape(-1, outputs.shape[2]) if flat else outputs, hidden


def test_outputs_that_mix_samples_with_time_are_refused() -> None:
    torch.manual_seed(0)
    model = unisono.parallel(Words(3, 5), microbatches=4, workers=0, dim=1)
    words, hidden = torch.randn(6, 8, 3), (torch.zeros(1, 8, 5), torch.zeros(1, 8, 5))
    outputs, (last, _) = model(words, hidden)
    assert outputs.shape == (6, 8, 5)
    assert last.shape == (1, 8, 5)
    with pytest.raises(unisono.UsageError, match=r"a tensor of shape \(48, 5\) of the whole batch"):
        model(words, hidden, flat=True)
