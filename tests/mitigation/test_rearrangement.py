"""R: columns lie by their conductance, whole or row of tiles by row of tiles, and nothing else changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mitigation_cases import ARCH, EMULATORS, NETWORKS, SCHEMES, WIRED, batch, converted, matrices
from torch import nn

from geniex.emulator import IdealEmulator
from geniex.errors import InputError
from geniex.mapping import Arrangement
from geniex.mitigation import REMAPPINGS, Remapping, prune, remap
from geniex.mitigation.remap.rearrange import sort_columns, sum_columns
from geniex.simulator import (
    arrange,
    convert,
    find_crossbar_layers,
    find_crossbar_matrices,
    load_converted,
    read_arrangements,
    replace_by_ideal,
    save_converted,
)

NAMES = [name for name in REMAPPINGS if name.startswith("rearrange")]


def rounded(weight: torch.Tensor, matrix: Any) -> np.ndarray:
    """Integers of a weight, by hand."""
    return np.round(weight.detach().double().numpy() * 2.0**matrix.weight_frac_bits).clip(-31, 31)


def dense(outputs: int = 17, inputs: int = 20, **options: Any) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(inputs, outputs))
    return net, convert(net, ARCH, EMULATORS["read"], calibration=torch.rand(4, inputs), **options)


def test_both_directions_are_there_by_name() -> None:
    assert {(REMAPPINGS[name].direction, REMAPPINGS[name].granularity) for name in NAMES} == {
        (direction, granularity) for direction in ("descending", "ascending") for granularity in ("layer", "row_tile")
    }


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(s.values()))
def test_content_is_the_sum_of_integers_on_each_row_of_tiles(scheme: dict) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 9))
    arch = ARCH.replace(tile=(8, 25), weight_scale="tensor", **scheme)
    matrix = convert(net, arch, IdealEmulator(), calibration=torch.rand(4, 20))[0].matrix
    gain = float(matrix.weight_gain)
    low, high = arch.weight_range
    wanted = np.abs(np.round(net[0].weight.detach().double().numpy() / gain * 2.0**matrix.weight_frac_bits))
    wanted = wanted.clip(0, max(-low, high))
    wanted = np.stack([wanted[:, k : k + 8].sum(1) for k in (0, 8, 16)])
    np.testing.assert_allclose(sum_columns(matrix).numpy(), wanted, atol=1e-2)
    # Where things lie is of no consequence.
    matrix.arrange(Arrangement.of(outputs=torch.stack([torch.randperm(9) for _ in range(3)]), lines=torch.randperm(25)))
    np.testing.assert_allclose(sum_columns(matrix).numpy(), wanted, atol=1e-2)


@pytest.mark.parametrize("direction", ["descending", "ascending"])
def test_columns_are_sorted_then_cut_into_tiles(direction: str) -> None:
    net, model = dense()
    done: Any = remap(model, Remapping(method="rearrange", direction=direction), (torch.rand(4, 20), torch.arange(4)))
    matrix = done.model[0].matrix
    content = np.abs(rounded(net[0].weight, matrix)).sum(1)
    sign = -1 if direction == "descending" else 1
    assert matrix.layout.arrangement.outputs.tolist() == np.argsort(sign * content, kind="stable").tolist()
    # What lies on the tiles: sums of levels times place values, place after place from the drivers on.
    levels = ARCH.window.to_code(matrix.conductances, 8).double()
    numbers = levels[..., 0::2] * 8 + levels[..., 1::2]
    there = numbers.sum((0, 1, 3)).flatten()[:17] * sign
    assert (there.diff() >= 0).all()


@pytest.mark.parametrize("direction", ["descending", "ascending"])
def test_each_row_of_tiles_is_sorted_by_what_it_has(direction: str) -> None:
    net, model = dense()
    told = Remapping(method="rearrange", direction=direction, granularity="row_tile")
    done: Any = remap(model, told, (torch.rand(4, 20), torch.arange(4)))
    matrix = done.model[0].matrix
    assert matrix.layout.arrangement.by_row
    numbers = np.abs(rounded(net[0].weight, matrix))
    sign = -1 if direction == "descending" else 1
    for k, order in enumerate(matrix.layout.arrangement.outputs.tolist()):
        assert order == np.argsort(sign * numbers[:, 8 * k : 8 * k + 8].sum(1), kind="stable").tolist()
    levels = ARCH.window.to_code(matrix.conductances, 8).double()
    there = (levels[..., 0::2] * 8 + levels[..., 1::2]).sum((1, 3)).flatten(1)[:, :17] * sign
    assert (there.diff(dim=1) >= 0).all()
    assert done.layers[0].undone == "outputs"
    assert done.layers[0].moved > 10


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("remapping", NAMES)
@pytest.mark.parametrize("emulator", ["ideal", "read"])
def test_ideal_crossbars_give_the_same_to_the_bit(name: str, remapping: str, emulator: str) -> None:
    images = batch(name).images
    for layout in ("block_diagonal", "compacted"):
        model = converted(name, emulator, layout=layout)
        done = remap(model, remapping, batch(name))
        assert torch.equal(done.model(images), model(images))
        moved = {layer.name for layer in done.layers if layer.moved}
        assert len(moved) >= len(done.layers) - 2


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(s.values()))
def test_all_schemes_undo_the_orders_of_rows(scheme: dict) -> None:
    net = nn.Sequential(nn.Linear(20, 9))
    images = torch.rand(4, 20) - 0.4
    for emulator in ("ideal", "read"):
        model = convert(net, ARCH.replace(tile=(8, 25), **scheme), EMULATORS[emulator], calibration=images)
        done = remap(model, "rearrange_row_tile", (images, torch.arange(4)))
        assert torch.equal(done.model(images), model(images))


def test_wires_feel_it() -> None:
    images = batch("vgg").images
    model = converted("vgg")
    outputs = [model(images)] + [remap(model, name, batch("vgg")).model(images) for name in NAMES]
    for k, one in enumerate(outputs):
        assert all((one - other).abs().max() > 1e-4 for other in outputs[:k])


def test_whole_orders_are_wired_into_the_next_layer() -> None:
    done = remap(converted("mlp"), "rearrange", batch("mlp"))
    assert [layer.undone for layer in done.layers] == ["next layer", "next layer", "outputs"]
    apart = remap(converted("mlp"), "rearrange_row_tile", batch("mlp"))
    assert [layer.undone for layer in apart.layers] == ["outputs"] * 3


def test_columns_on_compacted_tiles_are_sorted_within_their_row() -> None:
    torch.manual_seed(0)
    net = prune(nn.Sequential(nn.Linear(40, 17, bias=False)), "xcs", 0.6, tile=(8, 7)).model
    images = torch.rand(4, 40)
    model = convert(net, ARCH, EMULATORS["read"], calibration=images, layout="compacted")
    done: Any = remap(model, "rearrange_row_tile", (images, torch.arange(4)))
    assert torch.equal(done.model(images), model(images))
    layout, weight = done.model[0].matrix.layout, np.abs(rounded(net[0].weight, model[0].matrix))
    rows: dict[tuple, list[float]] = {}
    for ins, outs in zip(layout.inputs_of.tolist(), layout._outputs_there.tolist(), strict=True):
        held = [k for k in ins if k < 40]
        rows.setdefault(tuple(ins), []).extend(weight[o][held].sum() for o in outs if o < 17)
    assert len(rows) > 1
    assert all(sums == sorted(sums, reverse=True) for sums in rows.values())


def test_orders_of_rows_are_kept_told_and_put_back(tmp_path: Path) -> None:
    model = converted("vgg")
    done = remap(model, "rearrange_row_tile", batch("vgg")).model
    images = batch("vgg").images
    again = arrange(model, {n: Arrangement.of(**a.to_dict()) for n, a in read_arrangements(done).items()})
    assert torch.equal(again(images), done(images))
    from mitigation_cases import network

    save_converted(done, tmp_path / "net")
    loaded = load_converted(tmp_path / "net", network("vgg"))
    assert torch.equal(loaded(images), done(images))
    assert read_arrangements(loaded) == read_arrangements(done)
    assert torch.equal(replace_by_ideal(done)(images), replace_by_ideal(model)(images))


def test_unrolled_convolutions_stay() -> None:
    images = torch.rand(2, 1, 5, 5)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(36, 9))
    model = convert(net, ARCH, EMULATORS["read"], calibration=images, layout="toeplitz")
    done = remap(model, "rearrange", (images, torch.arange(2)))
    assert torch.equal(done.model(images), model(images))
    assert [layer.moved > 0 for layer in done.layers] == [False, True]
    with pytest.raises(InputError, match="unrolled"):
        sort_columns(matrices(find_crossbar_layers(model)["0"])[0])


def test_wrong_choices_are_told() -> None:
    matrix = next(iter(find_crossbar_matrices(converted("mlp")).values()))
    for name, wrong in (("direction", "up"), ("granularity", "tile")):
        with pytest.raises(InputError, match=name):
            sort_columns(matrix, **{name: wrong})
        with pytest.raises(InputError, match=name):
            Remapping(method="rearrange", **{name: wrong})
    with pytest.raises(InputError, match="rows"):
        Remapping(method="rearrange", granularity="row_tile", rows="mdm")
    assert WIRED.rows == 8
