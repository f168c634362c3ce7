"""Optimizers as people write them: what they keep from step to step is of every kind."""

from __future__ import annotations

import random
from collections import deque
from typing import Any, NamedTuple

import numpy as np
import torch


class Own(torch.optim.Optimizer):
    """A step by parameter, over `update`."""

    def __init__(self, params: Any, lr: float = 0.05) -> None:
        super().__init__(params, {"lr": lr})
        self.steps = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self.update(p, p.grad, self.state[p], group)

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        raise NotImplementedError


class Moments(NamedTuple):
    """Two averages."""

    first: Any
    second: Any


class Lists(Own):
    """The mean of the last gradients, in a list; their norms in a deque."""

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        gradients, norms = state.setdefault("gradients", []), state.setdefault("norms", deque(maxlen=4))
        gradients.append(grad.clone())
        del gradients[:-3]
        norms.append(float(grad.norm()))
        p.sub_(sum(gradients), alpha=group["lr"] / len(gradients) / (1 + max(norms)))


class Nests(Own):
    """Dicts, named tuples, text, None, a set, complex numbers and NumPy's."""

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        if not state:
            state.update(moments={"m": Moments(torch.zeros_like(p), None)}, phase="warm", seen=set(), turn=1j)
        m = state["moments"]["m"]
        state["moments"]["m"] = Moments(m.first.mul(0.9).add_(grad), np.float32(self.steps) / 3)
        state["seen"].add(self.steps % 3)
        state["turn"] *= 1j
        state["phase"] = "warm" if len(state["seen"]) < 3 else "hot"
        rate = group["lr"] * (0.5 if state["phase"] == "warm" else 1.0) * (1.5 + state["turn"].real)
        p.sub_(state["moments"]["m"].first, alpha=rate * float(m.second or 1.0))


class Numbers(Own):
    """Integers beyond 2**53, one that decides by its last digit, infinities, and a bool; a key that comes late."""

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        state["large"] = state.get("large", 2**60) + 1
        state["least"] = min(state.get("least", float("inf")), float(grad.abs().max()))
        state["first"] = "first" not in state
        if self.steps > 3:
            state["late"] = state.get("late", 0) + 1
        rate = (
            group["lr"] * (2 if state["large"] % 2 else 1) * (3 if state["first"] else 1) / (1 + state.get("late", 0))
        )
        p.sub_(grad, alpha=rate / (1 + state["least"]))


class InItself(Own):
    """A count in the object, generators of three libraries, a list and a tensor in the group."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.draw, self.noise = random.Random(1), np.random.default_rng(2)
        self.torch_noise = torch.Generator().manual_seed(3)
        for group in self.param_groups:
            group["scale"] = torch.ones(())

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        group.setdefault("sizes", []).append(float(grad.abs().mean()))
        group["scale"].mul_(0.97)
        rate = group["lr"] * float(group["scale"]) * min(1.0, self.steps / 5) / (1 + max(group["sizes"]))
        p.sub_(grad, alpha=rate * (1 + 0.1 * self.draw.random() + 0.1 * float(self.noise.random())))
        p.add_(torch.randn(p.shape, generator=self.torch_noise), alpha=1e-3)


class Langevin(Own):
    """Noise from the default generator."""

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        p.sub_(grad + 0.01 * torch.randn_like(p), alpha=group["lr"])


class Aliases(Own):
    """Keeps the last gradient itself, what shares memory with it, and views of one flat buffer."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        sizes = [p.numel() for group in self.param_groups for p in group["params"]]
        self.flat = torch.zeros(sum(sizes))
        self.parts = list(self.flat.split(sizes))
        self.views: dict[int, Any] = {}
        self.values = [p.data for group in self.param_groups for p in group["params"]]

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        index = [q is p for q in group["params"]].index(True)
        before = state.get("before", grad)
        state["before"], self.views[index] = grad, grad.view(-1)
        self.parts[index].mul_(0.9).add_(self.views[index])
        self.values[index].sub_(before, alpha=group["lr"])
        p.sub_(self.flat[sum(part.numel() for part in self.parts[:index]) :][: p.numel()].view_as(p), alpha=0.01)


class Replacing(Own):
    """Puts new tensors into the parameters, and keeps the last one of each."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.latest: dict[int, Any] = {}

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        index = [q is p for q in group["params"]].index(True)
        before = self.latest.get(index, p.data).clone()
        p.data = p.data - group["lr"] * grad
        self.latest[index] = p.data
        p.add_(p - before, alpha=0.5)


class Soaplike(Own):
    """Preconditions matrices by the eigenvectors of averages of G·Gᵀ, made anew every second step."""

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        if p.dim() != 2:
            p.sub_(grad, alpha=group["lr"])
            return
        if "step" not in state:
            state.update(step=0, gg=torch.zeros(len(p), len(p)), q=None, v=torch.zeros_like(p))
        state["step"] += 1
        state["gg"].lerp_(grad @ grad.T, 0.1)
        if state["q"] is None or state["step"] % 2 == 0:
            state["q"] = torch.linalg.eigh(state["gg"] + 1e-6 * torch.eye(len(p)))[1]
        turned = state["q"].T @ grad
        state["v"].mul_(0.9).addcmul_(turned, turned, value=0.1)
        p.sub_(state["q"] @ (turned / (state["v"].sqrt() + 1e-3)), alpha=group["lr"] * 0.1)


class Lookahead(torch.optim.Optimizer):
    """Slow weights that follow those of an inner optimizer every third step."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.count = inner, 0
        self.param_groups, self.defaults, self.state = inner.param_groups, inner.defaults, inner.state
        self._optimizer_step_pre_hooks = inner._optimizer_step_pre_hooks
        self._optimizer_step_post_hooks = inner._optimizer_step_post_hooks
        self.slow = {p: p.detach().clone() for group in inner.param_groups for p in group["params"]}

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()
        self.count += 1
        if self.count % 3 == 0:
            with torch.no_grad():
                for p, slow in self.slow.items():
                    slow.lerp_(p, 0.5)
                    p.copy_(slow)


class Wrapper:
    """No `torch.optim.Optimizer`, around one; it gathers the gradients of two steps."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.sums = inner, {}  # type: ignore[var-annotated]

    @property
    def param_groups(self) -> Any:
        return self.inner.param_groups

    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p in self.sums:
                    p.grad.add_(self.sums.pop(p))
                else:
                    self.sums[p] = p.grad.clone()
        if not self.sums:
            self.inner.step()


class Prodigylike(Own):
    """A rate of its own in the group, that grows, while a schedule sets `lr`."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, lr=1.0)
        for group in self.param_groups:
            group.update(d=1e-2, k=0)

    def update(self, p: Any, grad: Any, state: Any, group: Any) -> None:
        group["k"] += 1
        group["d"] = max(group["d"], float(grad.norm()) * 0.02)
        p.sub_(grad, alpha=group["lr"] * group["d"])


KINDS = (Lists, Nests, Numbers, InItself, Langevin, Aliases, Replacing, Soaplike, Prodigylike)
