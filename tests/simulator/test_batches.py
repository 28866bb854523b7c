"""Data in the forms that users have: what the model is called with, what is left out, and what is refused."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from geniex.emulator import IdealEmulator
from geniex.errors import InputError
from geniex.mapping import Architecture
from geniex.simulator import convert, dry_run
from geniex.simulator.arguments import Arguments, Examples
from geniex.simulator.batches import read_labelled_batches
from geniex.simulator.observe_inputs import run_calibration

ARCH = Architecture(tile=(16, 16), weight_bits=20, input_bits=20, adc_bits=None, accumulator_bits=None)
IMAGES, LABELS = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 3


class Spy(nn.Module):
    """Remembers what it was called with."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def remember(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append((args, kwargs))


class One(Spy):
    def forward(self, x: Tensor) -> None:
        self.remember(x)


class Two(Spy):
    def forward(self, x: Tensor, y: Tensor) -> None:
        self.remember(x, y)


class Optional(Spy):
    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> None:
        self.remember(x, mask=mask)


class Several(Spy):
    def forward(self, *xs: Tensor) -> None:
        self.remember(*xs)


class WithLabels(Spy):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> None:
        self.remember(x, labels=labels)


class Keywords(Spy):
    def forward(self, *, x: Tensor) -> None:
        self.remember(x=x)


A, B, Y = torch.rand(2, 5), torch.rand(2, 5), torch.tensor([0, 1])


def generated(*batches: Any) -> Any:
    yield from batches


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Tensor):
        return isinstance(found, Tensor) and torch.equal(found, wanted)
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[k], v) for k, v in wanted.items())
    if isinstance(wanted, (tuple, list)):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return bool(found == wanted)


@pytest.mark.parametrize(
    ("kind", "data", "calls"),
    [
        (One, A, [((A,), {})]),
        (One, (A, Y), [((A,), {})]),
        (One, (A,), [((A,), {})]),
        (One, [A, B], [((A,), {}), ((B,), {})]),
        (One, {"x": A}, [((A,), {})]),
        (One, {"x": A, "labels": Y}, [((A,), {})]),
        (One, UserDict(x=A, labels=Y), [((A,), {})]),
        (One, [(A, Y), (B, Y)], [((A,), {}), ((B,), {})]),
        (One, [[A, Y], [B, Y]], [((A,), {}), ((B,), {})]),
        (One, [(A, Y, torch.ones(2))], [((A,), {})]),
        (One, [({"x": A}, Y)], [((A,), {})]),
        (One, [({"x": A, "labels": Y},)], [((A,), {})]),
        (One, [{"x": A}, {"x": B}], [((A,), {}), ((B,), {})]),
        (One, [([A, B], Y)], [(([A, B],), {})]),
        (Two, (A, B), [((A, B), {})]),
        (Two, [(A, B, Y)], [((A, B), {})]),
        (Two, [((A, B), Y)], [((A, B), {})]),
        (Two, [[[A, B], Y]], [((A, B), {})]),
        (Optional, (A, Y), [((A,), {"mask": None})]),
        (Optional, {"x": A, "mask": B}, [((A,), {"mask": B})]),
        (Several, (A, B), [((A, B), {})]),
        (Several, [(A, B, "name")], [((A, B), {})]),
        (Several, [((A, B), Y)], [((A, B), {})]),
        (WithLabels, {"x": A, "labels": Y}, [((A,), {"labels": Y})]),
        (WithLabels, (A, Y), [((A,), {"labels": None})]),
        (Keywords, {"x": A}, [((), {"x": A})]),
        (One, lambda model: model(B), [((B,), {})]),
    ],
)
def test_what_the_model_is_called_with(kind: type[Spy], data: Any, calls: list[Any]) -> None:
    model = kind()
    run_calibration(model, data)
    assert same(model.calls, calls)


def test_loaders_and_generators_are_several_batches() -> None:
    model, loader = One(), DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4)
    assert run_calibration(model, loader) == 6
    assert same(model.calls, [((IMAGES[:4],), {}), ((IMAGES[4:],), {})])
    for data in generated(A, B), generated((A, Y), (B, Y)), generated({"x": A}, {"x": B}):
        model.calls.clear()
        assert run_calibration(model, data) == 4
        assert same(model.calls, [((A,), {}), ((B,), {})])


def test_nothing_is_run_without_data() -> None:
    model = One()
    assert run_calibration(model, None) == 0
    assert not model.calls


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        (One, [], "calibration: got a list without a batch; it must be a tensor, a tuple or a mapping"),
        (One, generated(), "calibration: got a generator without a batch"),
        (One, DataLoader(TensorDataset(IMAGES[:0])), "calibration: got a DataLoader without a batch"),
        (One, "images", "calibration: got a str; it must be"),
        (One, 3, "calibration: got a int; it must be"),
        (One, nn.Linear(2, 2), "calibration: got a Linear; it must be"),
        (One, [3.0], "calibration: got a batch that is a float; it must be"),
        (One, [()], "calibration: got a batch that is empty; it must be"),
        (One, IMAGES.numpy(), "calibration: got a batch that is a ndarray"),
        (
            One,
            [A, Y],
            r"a list of float32 \(2, 5\) and int64 \(2,\); .*one batch, such as \(inputs, labels\), as a tuple",
        ),
        (One, [{"x": A}, Y], r"a list of a dict of x and int64 \(2,\); a list must hold batches of one kind"),
        (One, [({"x": A}, Y, Y)], "only labels may follow a mapping"),
        (One, {"x": A, "mask": B}, r"mask=float32 \(2, 5\); One.forward\(x: .* cannot take it \(.*'mask'\)"),
        (Two, A, r"a batch of float32 \(2, 5\); Two.forward.*missing.*'y'"),
        (Keywords, A, r"Keywords.forward.*cannot take it"),
        (Optional, [(A, B, Y)], "forward requires 1 and takes up to 3 arguments, so the meaning of these is unclear"),
        (One, TensorDataset(IMAGES, LABELS), "calibration: got TensorDataset; .*wrap it in a DataLoader"),
    ],
)
def test_what_cannot_be_understood_is_refused(kind: type[Spy], data: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        run_calibration(kind(), data)


@pytest.mark.parametrize(
    ("kind", "data", "args"),
    [
        (One, (A, Y), (A,)),
        (One, [A, Y], (A,)),
        (One, [(A, Y)], (A,)),
        (One, [(A, [0, 1])], (A,)),
        (One, [[[A, B], Y]], ([A, B],)),
        (Two, [(A, B, Y)], (A, B)),
        (Two, [((A, B), Y)], (A, B)),
        (Two, [[A, B], Y], (A, B)),
        (Several, (A, B, Y), (A, B)),
        (nn.DataParallel, (A, Y), (A,)),
    ],
)
def test_labels_are_what_follows_the_arguments(kind: Callable[..., Any], data: Any, args: tuple[Any, ...]) -> None:
    model = kind(One()) if kind is nn.DataParallel else kind()
    ((inputs, labels),) = read_labelled_batches(data, model)
    assert same(inputs.args, args)
    assert torch.equal(labels, Y)


def test_labels_in_mappings_and_beside_them() -> None:
    for data in {"x": A, "labels": Y}, ({"x": A}, Y), [({"x": A}, Y)], [{"x": A}, Y], [UserDict(x=A, labels=Y)]:
        ((inputs, labels),) = read_labelled_batches(data, One())
        assert same(inputs.kwargs, {"x": A})
        assert torch.equal(labels, Y)


@pytest.mark.parametrize("data", [A, [(A,)], {"x": A}, [{"x": A}], lambda model: model(A), generated(A)])
def test_data_without_labels_are_refused_where_labels_are_needed(data: Any) -> None:
    with pytest.raises(InputError, match=r"loader: got .*; it must be one batch with labels"):
        list(read_labelled_batches(data, One()))


def test_examples_are_joined_where_they_have_one_shape() -> None:
    pieces = [
        Arguments((IMAGES[:4],), {"mask": LABELS[:4], "flag": True}),
        Arguments((IMAGES[4:],), {"mask": LABELS[4:], "flag": True}),
    ]
    both = Examples(pieces)
    assert len(both) == 6
    assert [len(group) for group in both] == [6]
    for part, wanted in zip(both.split(5), (slice(0, 5), slice(5, 6)), strict=True):
        assert torch.equal(part.args[0], IMAGES[wanted])
        assert torch.equal(part.kwargs["mask"], LABELS[wanted])
        assert part.kwargs["flag"] is True
    for other in Arguments((torch.rand(2, 7),)), Arguments((IMAGES.double(),)), Arguments((IMAGES,), {"flag": False}):
        assert [len(group) for group in Examples([pieces[0], other])] == [4, len(other)]
    assert [len(part) for part in both[1:5].split(3)] == [3, 1]
    assert torch.equal(next(iter(both[1:5])).args[0], IMAGES[1:5])


def test_tensors_that_disagree_about_the_examples_are_named() -> None:
    with pytest.raises(InputError, match=r"0: 6, mask: 5; the first dimension of every tensor must be the examples"):
        len(Arguments((IMAGES,), {"mask": torch.ones(5, 5)}))


class Transformer(nn.Module):
    """Attention over tokens, called by keyword as language models are."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.head = nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.embedding(input_ids)
        mask = None if attention_mask is None else attention_mask == 0
        x = x + self.attention(x, x, x, key_padding_mask=mask, need_weights=False)[0]
        return self.head(self.up(input=x.mean(1)).relu())


def tokens(seed: int, length: int = 7) -> UserDict[str, Tensor]:
    ids = torch.randint(0, 11, (4, length), generator=torch.Generator().manual_seed(seed))
    return UserDict(input_ids=ids, attention_mask=(torch.arange(length) < length - 2).long().expand(4, length))


def test_a_transformer_is_calibrated_by_what_a_tokeniser_gives() -> None:
    torch.manual_seed(0)
    model, one, other = Transformer().eval(), tokens(0), tokens(1, length=5)
    labelled = [UserDict(batch, labels=torch.zeros(4)) for batch in (one, other)]
    for data in one, [one, other], labelled, generated(*labelled), [(batch, torch.zeros(4)) for batch in (one, other)]:
        converted = convert(model, ARCH, IdealEmulator(), calibration=data)
        assert [r.where for r in converted.conversion.layers].count("crossbar") == 6
        assert torch.allclose(converted(**one), model(**one), atol=1e-3)
    assert [r.vectors for r in dry_run(model, ARCH, IdealEmulator(), example=labelled).layers if r.vectors] == [
        6,
        6,
        6,
        6,
        1,
        1,
    ]


def test_a_dry_run_counts_the_examples_of_all_batches() -> None:
    model, loader = nn.Linear(5, 3), DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4)
    for data in IMAGES, loader, [IMAGES], {"input": IMAGES}:
        assert dry_run(model, ARCH, IdealEmulator(), example=data).layer("").vectors == 1
    with pytest.raises(InputError, match=r"example: got a function; it must be batches"):
        dry_run(model, ARCH, IdealEmulator(), example=lambda m: m(IMAGES))


def test_ranges_are_those_of_all_batches_of_a_loader() -> None:
    model, loader = (
        nn.Linear(5, 3),
        DataLoader(TensorDataset(torch.cat([IMAGES, 100 * IMAGES]), torch.arange(12)), batch_size=4),
    )
    by_loader, by_tensor = (convert(model, ARCH, IdealEmulator(), calibration=data) for data in (loader, 100 * IMAGES))
    assert by_loader.matrix.input_frac_bits == by_tensor.matrix.input_frac_bits
