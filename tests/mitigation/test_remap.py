"""Remapping: to the bit the same on ideal crossbars; on real ones what matters moves, and the loss does not rise."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from mitigation_cases import (
    ARCH,
    EMULATORS,
    SCHEMES,
    batch,
    converted,
    matrices,
    network,
    scattered,
)
from torch import nn

from geniex.circuit import Crossbar
from geniex.emulator import LinearEmulator
from geniex.errors import InputError
from geniex.mapping import Arrangement
from geniex.mitigation import REMAPPINGS, Remapped, RemappedLayer, Remapping, remap, sensitivity
from geniex.mitigation.remap.propagate import expand_order
from geniex.mitigation.remap.sensitivity import OF_ERRORS
from geniex.simulator import convert, find_crossbar_layers, find_crossbar_matrices, replace_by_ideal

WIDE = Crossbar(32, 14, r_wire=20.0)
COMBINED = {
    "all orders": Remapping(method="drs", measure="l1", rows="mdm", bits="lsb_near"),
    "dense": Remapping(method="srs", measure="random", bits="dense_near", seed=1),
    "twice": Remapping(sweeps=2, places=3, bits="msb_near"),
}
EVERY = {**REMAPPINGS, **COMBINED}


def places(model: nn.Module) -> list[Arrangement]:
    return [matrix.layout.arrangement for matrix in find_crossbar_matrices(model).values()]


def outputs_of(model: nn.Module) -> dict[str, list[int]]:
    """The order of each layer's only matrix; the natural one is none."""
    orders = {
        name: matrices(layer)[0].layout.arrangement.outputs for name, layer in find_crossbar_layers(model).items()
    }
    return {name: order.tolist() for name, order in orders.items() if order is not None}


# The law


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("name", ["vgg", "resnet", "grouped", "mlp"])
def test_ideal_outputs_are_the_same_to_the_bit(name: str, scheme: dict[str, str]) -> None:
    """Every method on one offset of each weight scheme; on the others random orders: methods only choose orders."""
    data = batch(name, 3)
    model = converted(name, "ideal", ARCH.replace(**scheme))
    random = REMAPPINGS["random"]
    ways = REMAPPINGS.values() if scheme["offset"] == "reference_column" else [random]
    with torch.no_grad():
        before = model(data.images)
        for way in [*ways, random.replace(fold=False)]:
            assert torch.equal(remap(model, way.replace(places=2), data).model(data.images), before), way
        assert torch.equal(model(data.images), before)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("name", ["resnet", "repeated"])
def test_ideal_outputs_are_the_same_where_every_tile_is_read(name: str, scheme: dict[str, str]) -> None:
    """Weights moved between tiles and bit lines, sums of digitised reads, scales by output, gains and offsets."""
    data, arch = batch(name, 2), ARCH.replace(**scheme, weight_scale="channel", input_bits=4, stream_bits=2)
    model = scattered(converted(name, "read", arch))
    with torch.no_grad():
        before = model(data.images)
        for way in ("random", "mdm"):
            remapped = remap(model, way, data)
            assert torch.equal(remapped.model(data.images), before), way
            assert places(remapped.model) != places(model)


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("layout", ["dense", "block_diagonal", "toeplitz"])
def test_ideal_outputs_are_the_same_in_every_layout(layout: Any, trainable: bool) -> None:
    data = batch("grouped", 3)
    options = {"layout": layout, "trainable": trainable}
    model = convert(network("grouped"), ARCH, EMULATORS["ideal"], calibration=data.images, **options)
    with torch.no_grad():
        before = model(data.images)
        for way, fold in itertools.product(EVERY.values(), (True, False)):
            remapped = remap(model, way.replace(fold=fold, places=2), data)
            assert torch.equal(remapped.model(data.images), before), way


def test_unrolled_convolutions_keep_their_outputs_and_inputs() -> None:
    data = batch("vgg", 3)
    images = data.images
    model = convert(network("vgg"), ARCH, EMULATORS["linear"], calibration=images, layout="toeplitz")
    found = remap(model, COMBINED["all orders"], data)
    for layer in found.layers[:2]:
        arrangement = matrices(find_crossbar_layers(found.model)[layer.name])[0].layout.arrangement
        assert arrangement.outputs is None
        assert arrangement.inputs is None
        assert arrangement.lines is not None
        assert (layer.moved, layer.undone) == (0, "")
    assert [layer.name for layer in found.layers if layer.moved] == ["8", "11"]


# What moves, and what stays


@pytest.mark.parametrize("way", EVERY)
def test_the_original_is_untouched_and_the_copy_is_its_own(way: str) -> None:
    data = batch("vgg", 6)
    model = converted("vgg")
    state = {name: value.clone() for name, value in model.state_dict().items()}
    emulators = [matrix.emulator for matrix in find_crossbar_matrices(model).values()]
    with torch.no_grad():
        before = model(data.images)
        remapped = remap(model, way if way in REMAPPINGS else COMBINED[way], data)
        after = remapped.model(data.images)
        assert places(model) == [Arrangement()] * 4
        assert model.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert [matrix.emulator for matrix in find_crossbar_matrices(model).values()] == emulators
        assert torch.equal(model(data.images), before)
        assert torch.equal(after, before) == (way == "none")
        for p in remapped.model.parameters():
            p.zero_()
        assert torch.equal(model(data.images), before)


@pytest.mark.parametrize("emulator", ["linear", "physics"])
@pytest.mark.parametrize("way", ["random", "l1", "srs", "drs", "assignment", "mdm", "wagonn", *COMBINED])
def test_cells_are_where_the_arrangement_has_them(way: str, emulator: str) -> None:
    """All slices of a weight move together, in both arrays; which cells are where has changed."""
    data = batch("mlp", 8)
    model = converted("mlp", emulator)
    found = remap(model, EVERY[way], data).model
    changed = False
    for before, after in zip(*(find_crossbar_matrices(m).values() for m in (model, found)), strict=True):
        assert before.conductances.shape == after.conductances.shape
        changed = changed or not torch.equal(before.conductances, after.conductances)
        slices = before.architecture.slices
        for output, input in itertools.product(range(after.layout.outputs), range(after.layout.inputs)):
            here, there = (matrix.locate(output, input) for matrix in (before, after))
            # One output's bit lines, MSB first, wherever on the tile the bit order has them.
            assert len(there.cols) == slices
            cells = [
                matrix.conductances[at.row_tile, :, at.col_tile, at.row, list(at.cols)]
                for matrix, at in ((before, here), (after, there))
            ]
            assert torch.equal(*cells)
        orders = after.layout.arrangement
        if orders.lines is None:
            # Slices side by side, all row tiles in one order.
            for output in range(after.layout.outputs):
                cols = {after.locate(output, input)[1::2] for input in range(after.layout.inputs)}
                columns = {(col_tile, lines) for col_tile, lines in cols}
                assert len(columns) == 1
                lines = next(iter(columns))[1]
                assert list(lines) == list(range(lines[0], lines[0] + slices))
    assert changed
    if emulator == "linear":
        images = batch("mlp", 40).images
        assert not torch.equal(found(images), model(images)), "wires feel it"


@pytest.mark.parametrize("way", ["random", "srs", "assignment", "all orders", "dense"])
def test_the_same_again_and_the_seed_of_random(way: str) -> None:
    data = batch("vgg", 8)
    model = converted("vgg")
    one, other = (remap(model, EVERY[way], data) for _ in range(2))
    assert places(one.model) == places(other.model)
    assert one.layers == other.layers
    assert one == other
    changed = remap(model, EVERY[way].replace(seed=7), data)
    assert (places(changed.model) == places(one.model)) == (EVERY[way].measure != "random")


# Rankings


def filled(order: list[int], per_tile: int = 7) -> list[int]:
    """Outputs by their places: the nearest of all tiles, then the second ones."""
    return [order[place] for near in range(per_tile) for place in range(near, len(order), per_tile)]


@pytest.mark.parametrize("measure", ["taylor", "gradient_variance", "displacement", "leave_one_out", "l1", "random"])
def test_srs_ranks_by_the_clean_networks_scores_and_by_errors_on_crossbars(measure: str) -> None:
    data = batch("mlp", 20)
    model = converted("mlp")
    found = outputs_of(remap(model, Remapping(method="srs", measure=measure, seed=2), data).model)
    judged = model if measure in OF_ERRORS else replace_by_ideal(model)
    scores = sensitivity(judged, measure, data, arrays=model, seed=2)
    assert list(found) == ["0", "2", "4"]
    for name, order in found.items():
        ranking = [float(scores[name][k]) for k in filled(order)]
        assert ranking == sorted(ranking, reverse=True), name
        assert len(set(ranking)) > 2


def test_drs_ranks_on_the_crossbars_with_the_layers_before_mapped() -> None:
    data = batch("mlp", 20)
    model = converted("mlp", arch=ARCH.replace(adc_bits=None))
    found = outputs_of(remap(model, Remapping(method="drs", measure="leave_one_out"), data).model)
    differs = False
    for done, name in enumerate(["0", "2", "4"]):
        # The layers before it are in their places; by hand, from the natural ones.
        so_far: Any = converted("mlp", arch=ARCH.replace(adc_bits=None))
        for k, before in enumerate(["0", "2", "4"][: done + 1]):
            inputs = None if k == 0 else expand_order(torch.tensor(found[["0", "2", "4"][k - 1]]), [9, 17, 8][k])
            outputs = None if before == name else torch.tensor(found[before])
            matrices(find_crossbar_layers(so_far)[before])[0].arrange(Arrangement(outputs, inputs))
        # The layer itself is not wired in the new order yet when it is ranked.
        matrices(find_crossbar_layers(so_far)[name])[0].arrange(Arrangement())
        scores = sensitivity(so_far, "leave_one_out", data, layers=(name,))[name]
        ranking = [float(scores[k]) for k in filled(found[name])]
        assert ranking == sorted(ranking, reverse=True), name
        clean = sensitivity(replace_by_ideal(model), "leave_one_out", data, layers=(name,))[name]
        differs = differs or not torch.equal(clean.argsort(), scores.argsort())
    assert differs, "the crossbars must matter to the ranking"


def test_each_group_is_ranked_on_its_own_tiles() -> None:
    data = batch("grouped", 10)
    model = converted("grouped", layout="dense")
    scores = sensitivity(replace_by_ideal(model), "l1", data)
    found = remap(model, "l1", data)
    first = 0
    for matrix in matrices(found.model[0]):
        order = matrix.layout.arrangement.outputs
        assert order is not None
        part = scores["0"][first : first + len(order)]
        assert bool((part[order].diff() <= 0).all())
        first += len(order)
    assert first == 6
    assert next((x.name, x.undone) for x in found.layers if x.moved) == ("0", "outputs"), "two matrices are not folded"


@pytest.mark.parametrize("way", ["dense", "wagonn"])
def test_bit_lines_lie_by_the_conductance_that_they_have_in_the_end(way: str) -> None:
    """Whichever outputs have come onto them."""
    found = remap(converted("vgg"), EVERY[way], batch("vgg", 6)).model
    for matrix in find_crossbar_matrices(found).values():
        sums = matrix.conductances.double().sum((0, 1, 2, 3))
        assert bool((sums.diff() <= 1e-12).all())
        assert sums[0] > 1.01 * sums[-1]


# Folding


def test_outputs_of_several_matrices_have_no_one_order_to_fold() -> None:
    data = batch("vgg", 6)
    plain = nn.Sequential(nn.Conv2d(2, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 4, 4), nn.Flatten())
    options: Any = {"calibration": data.images, "layout": "dense"}, {"calibration": data.images}
    arrays = ARCH.replace(tile=(32, 14)), LinearEmulator(WIDE)
    dense, packed = (remap(convert(plain, *arrays, **told), "random", data) for told in options)
    assert [layer.undone for layer in dense.layers] == ["outputs", "outputs"]
    assert [layer.undone for layer in packed.layers] == ["next layer", "outputs"]
    assert places(dense.model)[-1].inputs is None
    assert places(packed.model)[-1].inputs is not None


def test_consumers_are_wired_in_their_producers_order() -> None:
    data = batch("vgg", 8)
    found = remap(converted("vgg"), "random", data)
    layers = {name: matrices(layer)[0].layout.arrangement for name, layer in find_crossbar_layers(found.model).items()}
    sizes = {"4": 20, "8": 36, "11": 8}
    for producer, consumer in (("0", "4"), ("4", "8"), ("8", "11")):
        order = layers[producer].outputs
        assert order is not None
        wired = layers[consumer].inputs
        assert wired is not None
        spread = sizes[consumer] // len(order)
        assert wired.tolist() == [int(k) * spread + j for k in order for j in range(spread)]
    assert layers["0"].inputs is None
    assert [(x.name, x.outputs, x.undone, x.consumers) for x in found.layers] == [
        ("0", 5, "next layer", ("4",)),
        ("4", 9, "next layer", ("8",)),
        ("8", 8, "next layer", ("11",)),
        ("11", 4, "outputs", ()),
    ]
    for layer in found.layers:
        order = layers[layer.name].outputs
        assert order is not None
        assert layer.moved == sum(place != int(k) for place, k in enumerate(order)) > 0


def test_what_may_not_be_folded_is_undone_at_the_outputs() -> None:
    data = batch("resnet", 8)
    found = remap(converted("resnet"), "random", data)
    layers = {name: matrices(layer)[0].layout.arrangement for name, layer in find_crossbar_layers(found.model).items()}
    assert {name for name, arrangement in layers.items() if arrangement.inputs is not None} == {
        "first.conv2",
        "second.conv2",
    }
    undone = {x.name: x.undone for x in found.layers}
    assert {name for name, how in undone.items() if how == "next layer"} == {"first.conv1", "second.conv1"}
    assert set(undone.values()) == {"next layer", "outputs"}
    assert all(x.moved for x in found.layers)


@pytest.mark.parametrize("options", [{"fold": False}, {"rows": "mdm"}])
def test_word_lines_with_an_order_of_their_own_take_no_other(options: dict[str, Any]) -> None:
    data = batch("vgg", 8)
    found = remap(converted("vgg"), Remapping(method="srs", **options), data)
    assert {layer.undone for layer in found.layers if layer.moved} == {"outputs"}
    assert all(layer.consumers == () for layer in found.layers)
    inputs = [arrangement.inputs is None for arrangement in places(found.model)]
    assert inputs == [not options.get("rows")] * 4


def test_the_first_output_order_is_passed_on_and_taken_back() -> None:
    """Remapped again to the natural orders, nothing of the first remapping is left in the next layer."""
    data = batch("vgg", 8)
    model = converted("vgg")
    once = remap(model, "random", data).model
    again = remap(once, "none", data)
    assert places(again.model) == places(once), "no method, no change"
    assert [layer.moved > 0 for layer in again.layers] == [True] * 4
    fresh, over = (remap(m, "l1", data).model for m in (model, once))
    for one, other in zip(places(fresh), places(over), strict=True):
        assert one == other, "from wherever it was"


# What is told, and what cannot be


def test_what_was_made_is_told() -> None:
    data = batch("mlp", 8)
    found = remap(converted("mlp"), "random", (data.images, data.labels))
    assert isinstance(found, Remapped)
    assert found.remapping == REMAPPINGS["random"]
    told = found.to_dict()
    assert set(told) == {"remapping", "layers"}
    assert Remapping.from_dict(told["remapping"]) == found.remapping
    assert tuple(RemappedLayer(**{**x, "consumers": tuple(x["consumers"])}) for x in told["layers"]) == found.layers
    assert "model" not in repr(found)


@pytest.mark.parametrize("way", EVERY)
def test_remappings_survive_json(way: str) -> None:
    assert Remapping.from_dict(EVERY[way].to_dict()) == EVERY[way]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "best"}, r"method: got 'best'; it must be one of none, srs, drs, assignment, rearrange$"),
        ({"rows": "msb_near"}, r"rows: got 'msb_near'; it must be one of natural, mdm$"),
        ({"bits": "mdm"}, r"bits: got 'mdm'; it must be one of natural, reversed, msb_near, lsb_near, dense_near$"),
        ({"measure": "l2"}, r"measure: got 'l2'; it must be one of taylor, .*, l1, random$"),
        ({"sweeps": 0}, r"sweeps: got 0; "),
        ({"places": 2.5}, r"places: got 2.5; "),
        ({"seed": -1}, r"seed: got -1; "),
    ],
)
def test_a_remapping_is_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=rf"^{said}"):
        Remapping(**options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"remapping": "best"}, r"remapping: got 'best'; it must be a Remapping or one of none, random, .*, wagonn$"),
        ({"remapping": None}, r"remapping: got NoneType; it must be a Remapping or one of none, random"),
        (
            {"model": nn.Linear(9, 4)},
            r"model: got Linear; it has no layer on crossbars: give a model that convert returned",
        ),
        (
            {"calibration": torch.rand(3, 9)},
            r"calibration: got a batch without labels .*; it must be one batch with labels",
        ),
        (
            {"calibration": (torch.rand(3, 9), torch.zeros(2).long())},
            r"calibration: got images and labels \(3, 9\) and \(2,\)",
        ),
    ],
)
def test_says_what_it_cannot_do(options: dict[str, Any], said: str) -> None:
    told = {"model": converted("mlp"), "remapping": "srs", "calibration": batch("mlp"), **options}
    with pytest.raises(InputError, match=rf"^{said}"):
        remap(**told)
