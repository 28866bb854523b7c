"""Networks of other widths, and with masks, on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from geniex.errors import CheckpointError, InputError
from geniex.files import write_sealed_json
from geniex.networks import NETWORKS, load_network, network_info, network_masks, network_name, save_network
from geniex.networks.checkpoint import shipped_networks
from geniex.networks.widths import layer_widths, select_channels, set_widths


def narrow() -> Any:
    """A fashion-vgg whose second convolution has 5 channels."""
    torch.manual_seed(0)
    net: Any = NETWORKS["fashion-vgg"].stored().eval()
    chosen = torch.tensor([3, 9, 10, 40, 63])
    select_channels(net.features[3], chosen)
    select_channels(net.features[4], chosen)
    select_channels(net.features[7], inputs=chosen)
    return net


def test_channels_are_chosen_in_their_order() -> None:
    layers: list[Any] = [nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 3), nn.Linear(4, 6, bias=False)]
    for layer in layers:
        weight, bias = layer.weight.detach().clone(), None if layer.bias is None else layer.bias.detach().clone()
        if isinstance(layer, nn.ConvTranspose2d):
            weight = weight.transpose(0, 1)
        select_channels(layer, torch.tensor([5, 0]), torch.tensor([2, 1, 3]))
        found = layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight
        assert torch.equal(found, weight[[5, 0]][:, [2, 1, 3]])
        assert layer.weight.requires_grad
        assert bias is None or torch.equal(layer.bias, bias[[5, 0]])
        assert layer_widths(layer) == {"": [2, 3]}
        layer(torch.rand(1, 3, 5, 5) if bias is not None else torch.rand(1, 3))


def test_norms_and_depthwise_convolutions_lose_channels() -> None:
    norm = nn.BatchNorm2d(4)
    for k, kept in enumerate((norm.weight, norm.bias, norm.running_mean, norm.running_var)):
        kept.data = torch.arange(4.0) + 10 * k
    select_channels(norm, torch.tensor([1, 3]))
    assert [x.tolist() for x in (norm.weight, norm.bias, norm.running_mean, norm.running_var)] == [
        [1.0 + 10 * k, 3.0 + 10 * k] for k in range(4)
    ]
    conv = nn.Conv2d(4, 4, 3, groups=4)
    weight = conv.weight.detach().clone()
    select_channels(conv, torch.tensor([1, 3]), torch.tensor([0]))
    assert torch.equal(conv.weight, weight[[1, 3]])
    assert conv(torch.rand(1, 2, 3, 3)).shape == (1, 2, 1, 1)
    with pytest.raises(InputError, match="2 groups"):
        select_channels(nn.Conv2d(4, 4, 3, groups=2), torch.tensor([1]))


def test_a_narrow_network_comes_back_to_the_bit(tmp_path: Path) -> None:
    net, images = narrow(), torch.rand(2, 1, 28, 28)
    save_network("fashion-vgg", net, tmp_path / "net", {"accuracy": 0.5})
    state = torch.get_rng_state()
    again = load_network(tmp_path / "net")
    assert torch.equal(torch.get_rng_state(), state)
    assert str(again) == str(net)
    assert torch.equal(again(images), net(images))
    told = json.loads((tmp_path / "net.json").read_text())
    assert told["widths"] == {"features.3": [5, 32], "features.4": [5], "features.7": [64, 5]}
    assert network_name(tmp_path / "net") == "fashion-vgg"
    assert network_masks(tmp_path / "net") == {}


def test_files_of_usual_networks_say_nothing_of_widths(tmp_path: Path) -> None:
    save_network("fashion-vgg", NETWORKS["fashion-vgg"].stored(), tmp_path / "net", {})
    assert set(json.loads((tmp_path / "net.json").read_text())) == {
        *("format", "schema_version", "network", "sha256", "info", "content_sha256")
    }


def test_masks_come_back(tmp_path: Path) -> None:
    net = narrow()
    masks = {"features.7.weight": torch.rand(64, 5, 3, 3) < 0.5}
    save_network("fashion-vgg", net, tmp_path / "net", {"k": 1}, masks=masks)
    found = network_masks(tmp_path / "net.json")
    assert found.keys() == masks.keys()
    assert torch.equal(found["features.7.weight"], masks["features.7.weight"])
    assert torch.equal(load_network(tmp_path / "net")(torch.ones(1, 1, 28, 28)), net(torch.ones(1, 1, 28, 28)))
    assert network_info(tmp_path / "net") == {"k": 1}


def test_masks_of_nothing_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="masks"):
        save_network("fashion-vgg", narrow(), tmp_path / "net", {}, masks={"classifier.weight": torch.ones(2) > 0})
    with pytest.raises(InputError, match="constraint"):
        save_network("fashion-vgg", narrow(), tmp_path / "net", {}, masks={"head.weight": torch.ones(2) > 0})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "widths",
    [
        {"features.30": [5, 5]},
        {"features.3": [5]},
        {"features.4": [5, 5]},
        {"features.3": [0, 32]},
        {"features.3": ["5", 32]},
        {"features.3": 5},
        {"features.3": [6, 32]},
        [],
        None,
    ],
)
def test_wrong_widths_are_told_by_path(tmp_path: Path, widths: object) -> None:
    save_network("fashion-vgg", narrow(), tmp_path / "net", {})
    path = tmp_path / "net.json"
    write_sealed_json(path, json.loads(path.read_text()) | {"widths": widths})
    with pytest.raises(CheckpointError, match="net"):
        load_network(tmp_path / "net")


def test_grouped_convolutions_keep_as_many_inputs_as_outputs() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4))
    with pytest.raises(InputError, match="grouped"):
        set_widths(net, {"0": [3, 2]})
    set_widths(net, {"0": [3, 3]})
    assert net(torch.rand(1, 3, 2, 2)).shape == (1, 3, 2, 2)


def test_pruned_networks_that_ship_are_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["fashion-vgg-0", "fashion-vgg-0-cf", "fashion-vgg-1-xcs-wct", "fashion-vgg-2-wct", "fashion-cnn"]
    others = ["physics", "fashion-vgg-0-abc", "fashion-vgg-report"]
    monkeypatch.setattr(
        "geniex.networks.checkpoint.shipped_names", lambda suffix: [f"{n}.json" for n in names + others]
    )
    assert shipped_networks() == sorted(names)
