"""CONTRIBUTING.md keeps its word: its recipes do what they say, and its rooms are those of the import contract."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from geniex import Crossbar, CrossbarMatrix, IdealEmulator, LinearCell, convert, presets
from geniex import config as configs
from geniex.cells import Cell
from geniex.mapping.layout import grouped
from geniex.mitigation import REMAPPINGS, remap
from geniex.mitigation.remap.sensitivity import MEASURES
from geniex.simulator import find_crossbar_layers
from geniex.simulator.layers import crossbar
from geniex.study.grid import PointSettings, StudySpec
from geniex.study.grid.fields import GROUPS, STEPS
from geniex.variation import Variations, vary_tiles

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
RECIPES = {
    title: re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    for title, text in re.findall(r"^### (.*?)\n(.*?)(?=^##|\Z)", TEXT, flags=re.MULTILINE | re.DOTALL)
}


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """Leave the process as it was: recipes register things."""
    registries: list[dict[Any, Any]] = [
        configs._registered,
        REMAPPINGS,
        MEASURES,
        grouped._layouts,
        crossbar._kinds,
        STEPS,
        GROUPS,
    ]
    before = [dict(registry) for registry in registries]
    configs._registered.clear()  # a doctest may have registered a class of the same name
    yield
    for registry, entries in zip(registries, before, strict=True):
        registry.clear()
        registry.update(entries)


def run(title: str) -> dict[str, Any]:
    """The names that the recipe defines."""
    (source,) = RECIPES[title]
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(source, "CONTRIBUTING.md", "exec", dont_inherit=True), names)
    return names


def test_every_recipe_has_one_short_block() -> None:
    assert {"A cell", "An emulator", "A remapping", "A layer kind", "A layout", "A study setting"} <= set(RECIPES)
    for title, blocks in RECIPES.items():
        assert len(blocks) == 1, title
        work = [x for x in blocks[0].splitlines() if x.strip() and not x.startswith(("import", "from", "@"))]
        assert len(work) <= 9, title


def test_a_cell_solves_and_loads_from_a_file() -> None:
    cell = run("A cell")["CubicCell"](vs=0.3)
    g = torch.tensor([[1e-5, 3e-5], [2e-5, 0.0]], dtype=torch.float64)
    v = torch.tensor([0.2, 0.1], dtype=torch.float64)
    ideal = Crossbar(2, 2, r_source=0.0, r_sink=0.0, r_wire=0.0, cell=cell)
    wanted = (v * (1 + (v / 0.3) ** 2)) @ g
    torch.testing.assert_close(ideal.solve(v, g, tol=1e-12), wanted, rtol=1e-10, atol=0)
    assert (Crossbar(2, 2, cell=cell).solve(v, g) < wanted).all(), "wires take current"
    assert Cell.from_dict(cell.to_dict()) == cell


def test_an_emulator_serves_a_matrix() -> None:
    """Only drivers have a resistance, so that each word line is a divider: the circuit's solution has a closed form."""
    emulator = run("An emulator")["DriverEmulator"]()
    crossbar = Crossbar(3, 4, r_source=500.0, r_sink=0.0, r_wire=0.0, cell=LinearCell())
    g = 1e-4 * torch.rand(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    v = torch.tensor([0.25, 0.1, 0.0], dtype=torch.float64)
    torch.testing.assert_close(emulator.read(emulator.program(g), v), crossbar.solve(v, g), rtol=1e-9, atol=0)

    weight, x = torch.full((4, 16), 0.5), torch.ones(1, 16)
    architecture = presets["geniex-16"].architecture()
    (ideal,) = CrossbarMatrix(weight, architecture, IdealEmulator(), inputs=1.0)(x)
    (lossy,) = CrossbarMatrix(weight, architecture, emulator, inputs=1.0)(x)
    assert (lossy < ideal).all()
    assert (lossy > 0.5 * ideal).all()


def test_a_remapping_moves_outputs_and_keeps_the_function() -> None:
    run("A remapping")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    peaks = torch.tensor([0.3, 0.1, 0.6, 0.2, 0.5, 0.4])
    net[0].weight.data = peaks[:, None] * net[0].weight.detach().sign()
    images, labels = torch.rand(16, 8), torch.arange(16) % 3
    converted = convert(net, presets["geniex-16"].architecture(), IdealEmulator(), calibration=images)
    remapped = remap(converted, "largest_weight", (images, labels)).model
    assert torch.equal(remapped(images), converted(images))
    order = find_crossbar_layers(remapped)["0"].matrices[0].layout.arrangement.outputs
    # A tile takes four outputs. The two largest are nearest the drivers of the two tiles, and so on.
    assert order.tolist() == [2, 5, 3, 1, 4, 0]


def test_a_layer_kind_goes_on_crossbars() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(run("A layer kind")["Transposed"](6, 6)), torch.rand(5, 6)
    converted = convert(net, presets["geniex-16"].architecture(), IdealEmulator(), calibration=x, trainable=True)
    assert list(find_crossbar_layers(converted)) == ["0"]
    torch.testing.assert_close(converted(x), net(x), rtol=0, atol=1e-3)
    torch.testing.assert_close(find_crossbar_layers(converted)["0"].digital()(x), net(x))


def test_a_layout_places_outputs() -> None:
    run("A layout")
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(8, 3)), torch.rand(5, 8)
    architecture = presets["geniex-16"].architecture()
    usual, mirrored = (
        convert(net, architecture, IdealEmulator(), calibration=x, layout=layout) for layout in ("dense", "mirrored")
    )
    assert torch.equal(usual(x), mirrored(x))
    first, last = (find_crossbar_layers(mirrored)["0"].matrices[0].locate(k, 0) for k in (0, 2))
    assert max(last.cols) < min(first.cols), "the last output is nearest the drivers"


def test_a_study_varies_a_setting_of_ones_own() -> None:
    made = run("A study setting")["ColumnGain"]
    points = StudySpec.of({"grid": {"variation.column_gain.sigma": [0.1, 0.2]}}).points()
    first, second = (PointSettings.of(point.settings).variations for point in points)
    assert (first, second) == (Variations((made(0.1),)), Variations((made(0.2),)))
    g = torch.full((4, 3), 1e-5, dtype=torch.float64)
    varied = vary_tiles(g, presets["geniex-16"].window, second, seed=1)
    assert (varied == varied[:1]).all(), "cells of a column have one gain"
    assert len(varied[0].unique()) == 3


def test_make_has_the_targets_that_are_named() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert set(re.findall(r"`make (\w+)`", TEXT)) <= set(targets)


def test_the_rooms_are_those_of_the_import_contract() -> None:
    (contract,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    wanted = [re.sub(r"[()\s]", "", layer).split("|") for layer in contract["layers"]]
    table = TEXT.partition("| room |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)
    assert [re.findall(r"`(\w+)`", row) for row in rows] == wanted


def test_files_that_are_named_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", TEXT)
    paths = re.findall(r"`((?:tests|geniex|models|spice_data|docs)/[\w./-]*)`", TEXT)
    assert links
    assert paths
    assert [name for name in links + paths if not (ROOT / name).exists()] == []
