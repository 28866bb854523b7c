"""``geniex fit`` from files to files, on a data set of a few images."""

import json
from pathlib import Path

import pytest
import torch

from geniex.cli.main import main
from geniex.mitigation import prune, weight_full_scales
from geniex.networks import NETWORKS, ImageSet, load_network, network_masks, save_network


@pytest.fixture
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(0, 256, (256, 1, 28, 28), dtype=torch.uint8)
    few = ImageSet(pixels, torch.arange(256) % 10)
    monkeypatch.setattr("geniex.networks.load_images", lambda name, train, root: few)


@pytest.mark.slow
@pytest.mark.usefixtures("few_images")
def test_fit_writes_a_network_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "net"
    assert main(["fit", "--epochs", "1", "--seed", "5", "--out", str(out)]) == 0
    assert load_network(out)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    info = json.loads(out.with_suffix(".json").read_text())["info"]
    assert info["settings"]["epochs"] == 1
    assert info["settings"]["seed"] == 5
    assert f"{100 * info['accuracy']:.2f} % of 256 test images" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("few_images")
def test_files_have_the_networks_name_and_are_told_by_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--network", "fashion-resnet20", "--epochs", "1"]) == 0
    assert main(["fit", "--epochs", "1", "--out", "net.json"]) == 0
    said = capsys.readouterr().out
    stems = ["fashion-resnet20", "net"]
    assert all(f"saved {stem}.safetensors and {stem}.json\n" in said for stem in stems)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{s}.{e}" for s in stems for e in ("json", "safetensors")]


@pytest.mark.parametrize("options", [["--network", "resnet"], ["--data", "imagenet"], ["--epochs", "0"]])
def test_wrong_options_are_told_in_one_line(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *options, "--out", str(tmp_path / "new" / "net")]) == 2
    assert not (tmp_path / "new").exists()
    said = capsys.readouterr().err
    assert options[1] in said
    assert said.count("\n") == 1


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """An untrained fashion-vgg, saved."""
    torch.manual_seed(0)
    save_network("fashion-vgg", NETWORKS["fashion-vgg"].stored(), tmp_path / "vgg", {"accuracy": 0.125})
    return tmp_path / "vgg"


def told(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())["info"]


FEW = ["--epochs", "1", "--images", "128", "--device", "cpu"]


@pytest.mark.slow
@pytest.mark.usefixtures("few_images")
def test_a_network_is_pruned_then_cut_and_stays_what_it_is(trained: Path, tmp_path: Path) -> None:
    start = load_network(trained)
    words = ["--start", str(trained), "--prune", "xcs", "--sparsity", "0.75", "--tile", "32", "--tile_outputs", "8"]
    words += ["--skip", "features.0", "--skip", "classifier", "--out", str(tmp_path / "sparse"), *FEW]
    assert main(["fit", *words]) == 0
    masks, sparse = network_masks(tmp_path / "sparse"), load_network(tmp_path / "sparse")
    wanted = prune(start, "xcs", 0.75, tile=(32, 8), skip=["features.0", "classifier"])
    assert masks.keys() == wanted.masks.keys()
    assert all(torch.equal(masks[name], wanted.masks[name]) for name in masks)
    assert all(not sparse.get_parameter(name)[~mask].any() for name, mask in masks.items())
    info = told(tmp_path / "sparse")
    assert (info["start"], info["start_accuracy"], info["training_images"]) == ("vgg", 0.125, 128)
    assert info["pruning"]["sparsity"] == wanted.sparsity
    assert info["pruning"]["asked"]["skip"] == ["features.0", "classifier"]
    assert info["settings"]["learning_rate"] == 0.002
    assert "w_cut" not in info

    cut = ["--start", str(tmp_path / "sparse"), "--w_cut", "0.25", "--out", str(tmp_path / "cut"), *FEW]
    assert main(["fit", *cut]) == 0
    scales = weight_full_scales(sparse)
    info = told(tmp_path / "cut")
    assert info["pruning"] == told(tmp_path / "sparse")["pruning"]
    assert (info["w_cut"], info["weight_full_scale"]) == (0.25, scales)
    on = ["--start", str(tmp_path / "cut"), "--out", str(tmp_path / "on"), "--learning_rate", "0.004", *FEW]
    assert main(["fit", *on]) == 0
    assert told(tmp_path / "on")["weight_full_scale"] == scales
    for stem in ("cut", "on"):  # trained on without a word of it, limits and zeros are kept
        network = load_network(tmp_path / stem)
        assert all(not network.get_parameter(name)[~mask].any() for name, mask in masks.items())
        largest = weight_full_scales(network)
        assert all(largest[name] <= 0.25 * scale * (1 + 1e-6) for name, scale in scales.items())
        assert network_masks(tmp_path / stem).keys() == masks.keys()
    first, second = (load_network(tmp_path / stem).get_parameter("classifier.weight") for stem in ("cut", "on"))
    assert not torch.equal(first, second)


@pytest.mark.slow
@pytest.mark.usefixtures("few_images")
def test_channels_are_pruned_and_the_file_has_the_smaller_network(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--start", str(trained), "--prune", "cf", "--sparsity", "0.5", "--batch", "64", *FEW]) == 0
    small = load_network(tmp_path / "vgg-cf")
    wanted = prune(load_network(trained), "cf", 0.5)
    assert str(small) == str(wanted.model)
    assert told(tmp_path / "vgg-cf")["pruning"]["layers"] == wanted.to_dict()["layers"]
    assert told(tmp_path / "vgg-cf")["settings"]["batch"] == 64


@pytest.mark.usefixtures("few_images")
@pytest.mark.parametrize(
    ("named", "options"),
    [
        ("prune", ["--prune", "xcs"]),
        ("w_cut", ["--w_cut", "0.5"]),
        ("network", ["--network", "fashion-cnn", "--start", "vgg"]),
        ("network", ["--start", "nothing"]),
        ("sparsity", ["--start", "vgg", "--prune", "xcs", "--sparsity", "1.5"]),
        ("tile", ["--start", "vgg", "--prune", "xcs", "--tile", "0"]),
        ("skip", ["--start", "vgg", "--prune", "xcs", "--skip", "head"]),
        ("w_cut", ["--start", "vgg", "--w_cut", "1.5"]),
        ("images", ["--images", "0"]),
        ("images", ["--images", "1000"]),
        ("device", ["--device", "abacus"]),
        ("learning_rate", ["--learning_rate", "0"]),
    ],
)
def test_wrong_prunings_are_told_in_one_line(
    named: str, options: list[str], trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(trained.parent)
    assert main(["fit", *options, "--out", "new/net"]) == 2
    assert not Path("new").exists()
    said = capsys.readouterr().err
    assert named in said
    assert said.count("\n") == 1


@pytest.mark.usefixtures("few_images")
def test_a_pruned_network_is_not_pruned_again(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sparse"
    assert main(["fit", "--start", str(trained), "--prune", "xrs", "--out", str(out), *FEW]) == 0
    assert main(["fit", "--start", str(out), "--prune", "xcs", "--out", str(out), *FEW]) == 2
    assert "pruned already" in capsys.readouterr().err
