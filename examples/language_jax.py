"""The language model of `language.py` in flax.nnx and optax: a small GPT on the characters of a text.

unisono train examples/language_jax.py                              "tiny Shakespeare"; 4 layers, 128 wide
unisono train examples/language_jax.py data=PATH layers=6           any UTF-8 text
unisono predict examples/language_jax.py RUN_DIR "ROMEO:"           goes on with it
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from corpora.characters import Windows, characters
from corpora.files import folder
from flax import nnx

from unisono import Job, UsageError


class Block(nnx.Module):
    """Attention to what came before, then a two-layer network, each on a normed residual stream."""

    def __init__(self, width: int, heads: int, dropout: float, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.norm_attention, self.norm_network = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.attention, self.project = nnx.Linear(width, 3 * width, rngs=rngs), nnx.Linear(width, width, rngs=rngs)
        self.widen, self.narrow = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs)

    def __call__(self, stream: jax.Array) -> jax.Array:
        """(batch, time, width) → the same."""
        batch, time, width = stream.shape
        parts = self.attention(self.norm_attention(stream)).reshape(batch, time, 3, self.heads, width // self.heads)
        mixed = jax.nn.dot_product_attention(*jnp.unstack(parts, axis=2), is_causal=True)
        stream = stream + self.dropout(self.project(mixed.reshape(batch, time, width)))
        return stream + self.dropout(self.narrow(nnx.gelu(self.widen(self.norm_network(stream)))))


class Gpt(nnx.Module):
    """Characters in, logits of the next character out; the output layer shares the embedding's weights."""

    def __init__(self, vocabulary: int, context: int, layers: int, width: int, heads: int, dropout: float) -> None:
        rngs = nnx.Rngs(0)
        embedding = partial(nnx.Embed, features=width, embedding_init=nnx.initializers.normal(0.02), rngs=rngs)
        self.tokens, self.positions = embedding(vocabulary), embedding(context)
        self.blocks = nnx.Sequential(*(Block(width, heads, dropout, rngs) for _ in range(layers)))
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, codes: jax.Array) -> jax.Array:
        """(batch, time) → (batch, time, vocabulary)."""
        stream = self.blocks(self.tokens(codes) + self.positions(jnp.arange(codes.shape[1])))
        return self.tokens.attend(self.norm(stream))


def optimizer(lr: float, warmup: int, steps: int) -> optax.GradientTransformation:
    """AdamW that lets matrices decay, but not biases and norms; linear warm-up, then a cosine down to a tenth."""
    rate = optax.warmup_cosine_decay_schedule(lr / warmup, lr, warmup, max(steps, warmup + 1), lr / 10)
    return optax.adamw(rate, b2=0.99, weight_decay=0.1, mask=partial(jax.tree.map, lambda leaf: leaf.ndim >= 2))


@nnx.jit
def drawn(model: nnx.Module, window: jax.Array, last: int, key: jax.Array) -> jax.Array:
    """A character to follow the one at `last`; what stands after that is not looked at."""
    return jax.random.categorical(key, model(window[None])[0, last])


def written(alphabet: str, context: int, model: nnx.Module, prompt: str, length: int = 300) -> str:
    """The prompt and what the model writes after it, drawn with a fixed seed."""
    if not prompt or set(prompt) - set(alphabet):
        raise UsageError(f"a prompt is made of the training text's characters, {alphabet!r}; received {prompt!r}.")
    codes = [alphabet.index(character) for character in prompt]
    for key in jax.random.split(jax.random.key(0), length):
        window = np.resize(codes[-context:], context)  # always of one length, for which JAX compiles once
        codes.append(int(drawn(model, window, min(len(codes), context) - 1, key)))
    return "".join(alphabet[code] for code in codes)


def job(
    data: str = "", layers: int = 4, width: int = 128, heads: int = 4, context: int = 64, dropout: float = 0.0,
    batch_size: int = 32, steps: int = 3000, warmup: int = 100, lr: float = 2e-3,
) -> Job:  # fmt: skip
    """The language model."""
    path = Path(data) if data else folder("tinyshakespeare") / "input.txt"
    alphabet, codes = characters(path, context)
    cut = int(0.9 * len(codes))
    return Job(
        model=partial(Gpt, len(alphabet), context, layers, width, heads, dropout),
        loss=lambda logits, targets: optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean(1),
        optimizer=partial(optimizer, lr, warmup),
        clip_norm=1.0,
        data=Windows(codes[:cut], context, 1),
        evaluation=Windows(codes[cut:], context, context),
        evaluate_every=1000,
        batch_size=batch_size,
        microbatches=8,
        steps=steps,
        infer=partial(written, alphabet, context),
    )
