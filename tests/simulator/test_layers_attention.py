"""Attention and transformers against torch's own, whose fused kernels would read the weights past the modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniex.emulator import IdealEmulator
from geniex.mapping import Architecture
from geniex.simulator import convert, find_crossbar_layers
from geniex.simulator.layers.attention import ProjectedAttention, project_attention

ARCH = Architecture(tile=(32, 32), weight_bits=20, input_bits=20, adc_bits=None, accumulator_bits=None)

BOOL_MASK = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
PADDING = torch.tensor([[False] * 5, [False, False, True, True, False]])

MODULES: dict[str, dict[str, Any]] = {
    "batch first": {"batch_first": True},
    "no bias": {"batch_first": False, "bias": False},
    "other keys": {"batch_first": True, "kdim": 6, "vdim": 10},
    "bias_k": {"batch_first": True, "add_bias_kv": True},
    "bias_k and zero": {"batch_first": False, "add_zero_attn": True, "add_bias_kv": True},
}
CALLS: dict[str, dict[str, Any]] = {
    "plain": {},
    "no weights": {"need_weights": False},
    "weights of each head": {"average_attn_weights": False},
    "mask": {"attn_mask": BOOL_MASK},
    "causal": {"attn_mask": BOOL_MASK, "need_weights": False, "is_causal": True},
    "float mask of each head": {"attn_mask": torch.randn(8, 5, 5, generator=torch.Generator().manual_seed(1))},
    "padding": {"key_padding_mask": PADDING},
    "padding and mask": {"key_padding_mask": PADDING, "attn_mask": BOOL_MASK, "need_weights": False},
    "float padding": {"key_padding_mask": torch.where(PADDING, -2.0, 0.5), "need_weights": False},
}


def inputs(attention: nn.MultiheadAttention) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(2, 5, n, generator=generator) for n in (8, attention.kdim, attention.vdim)]
    return drawn if attention.batch_first else [x.transpose(0, 1) for x in drawn]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("options", MODULES)
def test_projected_attention_is_torchs(options: str, call: str) -> None:
    if call == "causal" and "bias_k" in options:
        pytest.skip("torch forgets the mask for the hint, which then hides bias_k and bias_v from all")
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 4, **MODULES[options]).eval()
    for parameter in attention.parameters():  # torch starts biases at 0
        nn.init.normal_(parameter, std=0.5)
    projected = project_attention(attention)
    assert projected is not None
    args = inputs(attention)
    for got, expected in zip(projected(*args, **CALLS[call]), attention(*args, **CALLS[call]), strict=True):
        if expected is None:
            assert got is None
        else:
            torch.testing.assert_close(got, expected)


def test_unbatched_attention_is_torchs() -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 4).eval()
    x = torch.randn(5, 8)
    call = {"attn_mask": BOOL_MASK, "key_padding_mask": PADDING[1]}
    for got, expected in zip(ProjectedAttention(attention)(x, x, x, **call), attention(x, x, x, **call), strict=True):
        torch.testing.assert_close(got, expected)
    with pytest.raises(RuntimeError, match="is_causal"):
        ProjectedAttention(attention)(x, x, x, is_causal=True)


def test_all_four_projections_go_onto_crossbars() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 4, batch_first=True, kdim=6)}).eval()
    q, k, v = inputs(model["attention"])

    def run(m: nn.Module) -> Tensor:
        return m["attention"](q, k, v)[0]  # type: ignore[index]

    converted = convert(model, ARCH, IdealEmulator(), calibration=run)
    names = [f"attention.{name}" for name in ("q_proj", "k_proj", "v_proj", "out_proj")]
    assert list(find_crossbar_layers(converted)) == names
    assert torch.allclose(run(converted), run(model), atol=1e-4)
    coarse = ARCH.replace(weight_bits=4)
    some = convert(model, ARCH, IdealEmulator(), calibration=run, per_layer={"*": None, "*.v_proj": coarse})
    assert list(find_crossbar_layers(some)) == ["attention.v_proj"]
    assert not torch.allclose(run(some), run(model), atol=1e-4)
    kept = convert(model, ARCH, IdealEmulator(), calibration=run, per_layer={"attention": None}, allow_empty=True)
    assert type(kept["attention"]) is nn.MultiheadAttention  # type: ignore[index]
    assert [layer.reason for layer in kept.conversion.layers] == ["by rule"]  # type: ignore[union-attr]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True:UserWarning")
@pytest.mark.parametrize("per_layer", [{}, {"*.self_attn": None}, {"*.linear?": None}], ids=str)
def test_transformer_encoders_do_not_bypass_their_layers(per_layer: dict[str, None]) -> None:
    """In evaluation mode torch would run all of a layer in one kernel, on weights that are on crossbars."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, dim_feedforward=12, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 5, 8)

    def run(m: nn.Module) -> Tensor:
        return m(x, src_key_padding_mask=PADDING)

    with torch.no_grad():
        converted = convert(model, ARCH, IdealEmulator(), calibration=run, per_layer=per_layer)
        assert len(find_crossbar_layers(converted)) == 2 * (
            6 if not per_layer else 2 if "*.self_attn" in per_layer else 4
        )
        assert torch.allclose(run(converted)[~PADDING], run(model)[~PADDING], atol=1e-3)
        coarse = convert(model, ARCH.replace(weight_bits=3), IdealEmulator(), calibration=run, per_layer=per_layer)
        assert not torch.allclose(run(coarse)[~PADDING], run(model)[~PADDING], atol=1e-3)


def test_a_decoder_attends_to_memory() -> None:
    torch.manual_seed(0)
    model = nn.TransformerDecoderLayer(8, 2, dim_feedforward=12, batch_first=True).eval()
    x, memory = torch.randn(2, 5, 8), torch.randn(2, 3, 8)

    def run(m: nn.Module) -> Tensor:
        return m(x, memory, tgt_mask=BOOL_MASK, tgt_is_causal=True)

    converted = convert(model, ARCH, IdealEmulator(), calibration=run)
    assert len(find_crossbar_layers(converted)) == 10
    assert torch.allclose(run(converted), run(model), atol=1e-3)
