"""A small GPT on the text of Python's standard library: AdamW with QK-norm, a global clip, or Clippy.

The loop is plain PyTorch. M. Wortsman et al., "Small-scale proxies for large-scale Transformer training instabilities",
ICLR 2024 (arXiv 2309.14322), show that QK-norm moves the learning rate at which such a network stops learning.
"""

import functools
import math
import sysconfig
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from study import Arm, Loop, Study, log_grid

CHARACTERS = 128
CONTEXT = 64
BATCH = 16
WIDTH = 64
HEADS = 4
LAYERS = 2
STEPS = 150
TEXT_BYTES = 2_000_000


class Attention(nn.Module):
    """Causal self-attention; QK-norm normalizes each head's queries and keys."""

    def __init__(self, qk_norm: bool) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        size = WIDTH // HEADS
        self.q_norm, self.k_norm = (nn.LayerNorm(size) if qk_norm else nn.Identity() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.project(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a network of one hidden layer, each after a layer norm and with a residual."""

    def __init__(self, qk_norm: bool) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)])
        self.attention = Attention(qk_norm)
        self.hidden = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.hidden(self.norms[1](x))


class GPT(nn.Module):
    """From characters (B, CONTEXT) to logits of the next one (B, CONTEXT, CHARACTERS)."""

    def __init__(self, qk_norm: bool) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(CHARACTERS, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block(qk_norm) for _ in range(LAYERS)))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CHARACTERS, bias=False))
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.characters(x) + self.positions.weight))


@functools.cache
def text() -> Tensor:
    """Return the characters of the standard library's modules, in the order of their names; others than ASCII are 0."""
    content = bytearray()
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        content += path.read_bytes()
        if len(content) >= TEXT_BYTES:
            break
    codes = torch.frombuffer(content, dtype=torch.uint8).long()
    return torch.where(codes < CHARACTERS, codes, 0)


def batch(part: Tensor, generator: torch.Generator, size: int = BATCH) -> tuple[Tensor, Tensor]:
    """Return random excerpts and the characters that follow, each (size, CONTEXT)."""
    start = torch.randint(len(part) - CONTEXT - 1, (size, 1), generator=generator)
    excerpt = part[start + torch.arange(CONTEXT + 1)]
    return excerpt[:, :-1], excerpt[:, 1:]


def train(run, watch, *, qk_norm=False, optimizer="none", base="adamw"):
    characters = text()
    held_out = len(characters) // 10
    network = GPT(qk_norm).to(run.device)
    steps = run.optimizer(network.parameters())
    draws = torch.Generator().manual_seed(run.seed)
    for _ in range(STEPS):
        x, y = (t.to(run.device) for t in batch(characters[:-held_out], draws))
        loss = F.cross_entropy(network(x).flatten(0, 1), y.flatten())
        watch(loss, targets=y)
        steps.zero_grad()
        loss.backward()
        steps.step()
    with torch.no_grad():
        x, y = (t.to(run.device) for t in batch(characters[-held_out:], torch.Generator().manual_seed(0), 256))
        held = F.cross_entropy(network(x).flatten(0, 1), y.flatten()).item()
    return {"val_loss": held if math.isfinite(held) else math.inf}


study = Study(
    name="char_gpt",
    trainer=Loop(train, quality="-val_loss"),
    arms=(
        Arm("plain"),
        Arm("qk_norm", qk_norm=True),
        Arm("global_clip", optimizer="global_clip", max_norm=1.0),
        Arm("clippy", optimizer="clippy"),
    ),
    lrs=log_grid(1e-3, 3, 8),
    seeds=range(8),
)
