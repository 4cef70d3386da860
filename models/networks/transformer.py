"""Transformer blocks with normalisation first: attention, and what is made of it and a small perceptron.

Written out rather than torch's `nn.MultiheadAttention`, whose fast path of eval mode cannot be exported.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Attention(nn.Module):
    """Multi-head attention of tokens ``(N, Q, width)`` to others ``(N, T, width)``.

    Args:
        width: of every token.
        heads: divides it.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Give ``(N, Q, width)``; `keys` may have positions added that `values` have not."""
        mixed = functional.scaled_dot_product_attention(
            self._split(self.query(tokens)), self._split(self.key(keys)), self._split(self.value(values))
        )
        answer: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return answer

    def _split(self, tokens: Tensor) -> Tensor:
        return torch.unflatten(tokens, 2, (self.heads, -1)).transpose(1, 2)  # (N, heads, T, width / heads)


class FeedForward(nn.Sequential):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, width))


class EncoderBlock(nn.Module):
    """Self-attention and a perceptron, each behind a layer-norm and added to the tokens."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform ``(N, T, width)``."""
        normed = self.norm1(tokens)
        tokens = tokens + self.dropout(self.attention(normed, normed, normed))
        transformed: Tensor = tokens + self.dropout(self.feed_forward(self.norm2(tokens)))
        return transformed


class DecoderBlock(nn.Module):
    """Queries look at the image, then at each other, then each thinks by itself."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.cross_attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, identity: Tensor, image: Tensor, position: Tensor) -> Tensor:
        """Transform queries ``(N, K, width)``.

        Args:
            queries: what is known of each landmark so far.
            identity: ``(K, width)``, which landmark each is; added wherever queries are compared.
            image: tokens ``(N, T, width)``.
            position: of the tokens, ``(T, width)``.
        """
        asked = self.norm1(queries) + identity
        queries = queries + self.dropout(self.cross_attention(asked, image + position, image))
        normed = self.norm2(queries)
        queries = queries + self.dropout(self.self_attention(normed + identity, normed + identity, normed))
        transformed: Tensor = queries + self.dropout(self.feed_forward(self.norm3(queries)))
        return transformed
