"""Attention whose projections can go onto crossbars: q, k, v and out are Linear layers of their own."""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ATTENDING = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)
"""torch's modules that read the weights of attention without calling its layers."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "out_proj")


class ProjectedAttention(nn.Module):
    """A module with the function of an ``nn.MultiheadAttention`` whose projections are ``nn.Linear`` children.

    Scores, softmax and the weighted sum of values are digital. torch's own module reads the projection weights itself,
    and in some cases runs one fused kernel, so that it has no layers to replace.
    """

    # TransformerEncoderLayer checks these before its fast path, which reads the weights without calling the modules.
    _qkv_same_embed_dim = False
    in_proj_weight = None
    in_proj_bias = None

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.embed_dim, self.num_heads, self.head_dim = attention.embed_dim, attention.num_heads, attention.head_dim
        self.batch_first, self.dropout = attention.batch_first, attention.dropout
        self.add_zero_attn = attention.add_zero_attn
        self.bias_k, self.bias_v = attention.bias_k, attention.bias_v
        if attention.in_proj_weight is not None:
            weights = attention.in_proj_weight.chunk(3)
        else:
            weights = (attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight)
        bias = attention.in_proj_bias
        biases = (None, None, None) if bias is None else bias.chunk(3)
        self.q_proj, self.k_proj, self.v_proj = map(_linear, weights, biases)
        self.out_proj = _linear(attention.out_proj.weight, attention.out_proj.bias)
        self.train(attention.training)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The output and the attention weights or None; arguments and shapes are those of ``nn.MultiheadAttention``."""
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")  # torch's own message
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x[None] for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        q, k, v = self._heads(self.q_proj(query)), self.k_proj(key), self.v_proj(value)
        if self.bias_k is not None and self.bias_v is not None:
            k, v = (torch.cat([x, b.expand(len(x), 1, -1)], 1) for x, b in ((k, self.bias_k), (v, self.bias_v)))
        k, v = self._heads(k), self._heads(v)
        if self.add_zero_attn:
            k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
        mask = self._mask(attn_mask, key_padding_mask, k.shape[-2], q)
        mixed, weights = self._attend(q, k, v, mask, need_weights)
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if weights is not None and average_attn_weights:
            weights = weights.mean(1)
        if not batched:
            return out[0], None if weights is None else weights[0]
        return out if self.batch_first else out.transpose(0, 1), weights

    def joined(self, q: nn.Linear, k: nn.Linear, v: nn.Linear, out: nn.Linear) -> nn.MultiheadAttention:
        """The ``nn.MultiheadAttention`` with these projections."""
        with torch.device("meta"):
            attention = nn.MultiheadAttention(
                self.embed_dim,
                self.num_heads,
                dropout=self.dropout,
                bias=q.bias is not None,
                add_zero_attn=self.add_zero_attn,
                kdim=k.in_features,
                vdim=v.in_features,
                batch_first=self.batch_first,
            )
        weights = [linear.weight.detach() for linear in (q, k, v)]
        if attention.in_proj_weight is not None:
            attention.in_proj_weight = nn.Parameter(torch.cat(weights))
        else:
            parts = map(nn.Parameter, weights)
            attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight = parts
        if q.bias is not None:
            attention.in_proj_bias = nn.Parameter(torch.cat([linear.bias.detach() for linear in (q, k, v)]))
        attention.out_proj.weight, attention.out_proj.bias = out.weight, out.bias
        attention.bias_k, attention.bias_v = copy.deepcopy((self.bias_k, self.bias_v))
        return attention.train(self.training)

    def _heads(self, x: Tensor) -> Tensor:
        """The heads (batch, heads, length, head_dim) of ``x`` (batch, length, embed_dim)."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, need_weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        dropout = self.dropout if self.training else 0.0
        if not need_weights:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout), None
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_dim)
        weights = torch.softmax(scores if mask is None else scores + mask, -1)
        weights = F.dropout(weights, dropout)
        return weights @ v, weights

    def _mask(self, attn: Tensor | None, padding: Tensor | None, keys: int, like: Tensor) -> Tensor | None:
        """The mask that is added to the scores, broadcasting with (batch, heads, queries, keys)."""
        mask = None
        if attn is not None:
            attn = _additive(attn, like)
            mask = attn if attn.dim() == 2 else attn.unflatten(0, (-1, self.num_heads))
        if padding is not None:
            padding = _additive(padding, like)[:, None, None, :]
            mask = padding if mask is None else mask + padding
        if mask is None:
            return None
        return F.pad(mask, (0, keys - mask.shape[-1]))  # all queries see bias_k and zero attention


def project_attention(attention: nn.MultiheadAttention) -> ProjectedAttention | None:
    """``attention`` with its projections as layers; None where its ``forward`` is not torch's."""
    if type(attention).forward is not nn.MultiheadAttention.forward or "forward" in vars(attention):
        return None
    return ProjectedAttention(attention)


def leave_fast_path(model: nn.Module) -> None:
    """Keep torch's transformer encoders in ``model`` off the fast path, which reads weights without calling layers."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(like.dtype)
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, float("-inf"))


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    with torch.device("meta"):  # draws no initial weights
        linear = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    linear.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
    return linear
