"""Layers behind a cut, fitted in place: exact answers on networks in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hwprune.capture import Captured, capture
from hwprune.dependency import Dependencies, analyse
from hwprune.dependency.blocks import find_blocks
from hwprune.errors import RepairError
from hwprune.importance.batches import Batch
from hwprune.importance.modes import in_mode
from hwprune.repair.after_cut import Origin, RepairReport, repair_cut
from hwprune.repair.cut_repair import CutRepair
from hwprune.repair.options import RepairOptions
from hwprune.repair.walk import Walk
from hwprune.surgery import cut_graph, cut_module
from hwprune.surgery.shortened import cut
from tests.nets import NETS, settle

EXACT = RepairOptions(ridge=0.0, recalibrate=False)
Keep = dict[str, list[int]]


def _data(count: int = 3, size: int = 16, channels: int = 3, side: int = 8) -> list[Tensor]:
    g = torch.Generator().manual_seed(5)
    return [torch.randn(size, channels, side, side, generator=g, dtype=torch.float64) for _ in range(count)]


def _opened(model: nn.Module, x: Tensor) -> tuple[Captured, Dependencies]:
    captured = capture(model.double().eval(), x[:2])
    return captured, analyse(captured)


def _repaired(
    model: nn.Module, keep: Keep, data: list[Tensor], options: RepairOptions, *, graph: bool = False
) -> tuple[nn.Module, RepairReport]:
    captured, deps = _opened(model, data[0])
    cut = cut_graph(captured, deps, keep) if graph else cut_module(model, deps, keep)
    report = repair_cut(cut, Origin(model, captured, deps, keep), data, options)
    return cut, report


def _error(model: nn.Module, cut: nn.Module, data: list[Tensor]) -> float:
    with torch.no_grad(), in_mode(model, training=False), in_mode(cut, training=False):
        return max(float((model(x) - cut(x)).abs().max() / model(x).abs().max()) for x in data)


class Twins(nn.Module):
    """conv-bn-relu whose channels 2 and 5 are the same; then a layer of some kind."""

    def __init__(self, reader: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.reader = reader
        settle(self)
        with torch.no_grad():
            for name, tensor in [*self.first.named_parameters(), *self.norm.named_parameters()]:
                assert name
                tensor[5] = tensor[2]
            for tensor in (self.norm.running_mean, self.norm.running_var):
                assert tensor is not None
                tensor[5] = tensor[2]

    def forward(self, x: Tensor) -> Tensor:
        return self.reader(torch.relu(self.norm(self.first(x))))


class Tokens(nn.Module):
    """Positions as tokens, and a linear layer on them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(2).transpose(1, 2))


READERS: dict[str, Any] = {
    "convolution": lambda: nn.Conv2d(6, 4, 3, padding=1),
    "strided": lambda: nn.Conv2d(6, 4, 3, stride=2),
    "without bias": lambda: nn.Conv2d(6, 4, 1, bias=False),
    "normed": lambda: nn.Sequential(nn.Conv2d(6, 4, 3, bias=False), settle(nn.BatchNorm2d(4))),
    "flattened": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4)),
    "tokens": Tokens,
}


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", READERS)
def test_a_channel_that_had_a_twin_is_not_missed(name: str, graph: bool) -> None:
    torch.manual_seed(0)
    model = Twins(READERS[name]()).double()
    data = _data()
    keep = {"first": [0, 1, 2, 3, 4]}
    before, _ = _repaired(model, keep, data, RepairOptions(method="none", recalibrate=False))
    assert _error(model, before, data) > 1e-2
    cut, report = _repaired(model, keep, data, EXACT, graph=graph)
    assert _error(model, cut, _data(2)) < 1e-8
    (layer,) = report.layers
    assert layer.after < 1e-12 < layer.before


def test_a_grouped_convolution_is_fitted_group_by_group() -> None:
    torch.manual_seed(0)
    model = Twins(nn.Conv2d(6, 4, 3, padding=1, groups=2)).double()
    with torch.no_grad():  # the unit at position 2 of both groups has a twin at position 1
        for tensor in (*model.first.parameters(), *model.norm.parameters()):
            tensor[2], tensor[5] = tensor[1], tensor[4]
        for tensor in (model.norm.running_mean, model.norm.running_var):
            assert tensor is not None
            tensor[2], tensor[5] = tensor[1], tensor[4]
    data = _data()
    cut, _ = _repaired(model, {"first": [0, 1]}, data, EXACT)
    weight, original = cut.get_parameter("reader.weight"), model.get_parameter("reader.weight")
    assert weight.shape == (4, 2, 3, 3)
    assert torch.allclose(weight[:, 1], original[:, 1] + original[:, 2], atol=1e-8)
    assert torch.allclose(weight[:, 0], original[:, 0], atol=1e-8)


class Sum(nn.Module):
    """A projection that is computed first, and a branch whose features hold all that it needs."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 8, 1)
        self.shortcut = nn.Conv2d(6, 4, 1)
        self.branch = nn.Conv2d(8, 4, 1, bias=not norm)
        self.norm = settle(nn.BatchNorm2d(4)) if norm else nn.Identity()
        self.head = nn.Conv2d(4, 3, 1)
        with torch.no_grad():
            self.right.weight[:6] = self.left.weight
            assert self.right.bias is not None and self.left.bias is not None
            self.right.bias[:6] = self.left.bias

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(torch.relu(self.left(x)))
        branch = self.norm(self.branch(torch.relu(self.right(x))))
        return self.head(torch.relu(shortcut + branch))


@pytest.mark.parametrize("norm", [False, True])
def test_a_branch_makes_up_for_its_shortcut(norm: bool) -> None:
    """The shortcut's error lies in the span of what the branch reads: the sum comes out exactly."""
    torch.manual_seed(1)
    model = Sum(norm).double()
    data = _data()
    keep: Keep = {"left": [0, 1, 2], "right": list(range(7))}
    with torch.no_grad():  # what goes from the branch has no effect; it only makes it a layer to fit
        model.branch.weight[:, 7] = 0
    cut, report = _repaired(model, keep, data, EXACT)
    assert [layer.corrected for layer in report.layers] == [False, True]
    assert report.layers[0].after > 1e-3
    assert _error(model, cut, data) < 1e-8
    plain, _ = _repaired(model, keep, data, EXACT.model_copy(update={"residual": False}))
    assert _error(model, plain, data) > 1e-3


@pytest.mark.parametrize("name", ["plain", "residual", "depthwise", "grouped", "concat", "gate"])
def test_fits_bring_layers_nearer_and_scales_less_so(name: str) -> None:
    torch.manual_seed(1)
    model = settle(NETS[name]()).double()
    data = _data(4, 32)
    _, deps = _opened(model, data[0])
    keep = {g.name: list(range(0, g.size, 2)) for g in deps.groups}
    options = RepairOptions(ridge=1e-6, recalibrate=False, residual=False)
    cut, full = _repaired(model, keep, data, options)
    _, scaled = _repaired(model, keep, data, options.model_copy(update={"method": "scales"}))
    assert full.layers and len(full.layers) == len(scaled.layers)
    # Behind the first fitted layer the two networks differ, and so do what their layers read.
    assert full.layers[0].after < scaled.layers[0].after < scaled.layers[0].before
    assert all(layer.after <= layer.before for layer in (*full.layers, *scaled.layers))
    raw = cut_module(model, deps, keep)
    assert _squares(model, cut, data) < 0.7 * _squares(model, raw, data)


def _squares(model: nn.Module, cut: nn.Module, data: list[Tensor]) -> float:
    with torch.no_grad():
        return sum(float((model.eval()(x) - cut.eval()(x)).square().sum()) for x in data)


def test_module_and_graph_are_repaired_alike() -> None:
    torch.manual_seed(1)
    model = settle(NETS["residual"]()).double()
    data = _data()
    _, deps = _opened(model, data[0])
    keep = {g.name: list(range(0, g.size, 2)) for g in deps.groups}
    cuts = [_repaired(model, keep, data, RepairOptions(), graph=graph)[0] for graph in (False, True)]
    assert _error(cuts[0], cuts[1], data) < 1e-10


def test_little_memory_costs_time_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(1)
    model = settle(NETS["residual"]()).double()
    data = _data()
    _, deps = _opened(model, data[0])
    keep = {g.name: list(range(0, g.size, 2)) for g in deps.groups}
    cuts = [_repaired(model, keep, data, RepairOptions(memory_gb=1.0))[0]]
    assert "run again for every layer" not in caplog.text
    cuts += [_repaired(model, keep, data, RepairOptions(memory_gb=1e-9))[0]]
    assert _error(cuts[0], cuts[1], data) == 0.0
    # Said once, with what would do.
    assert caplog.text.count("run again for every layer") == 1 and "memory_gb=1 " in caplog.text
    runs: list[int] = []
    for budget in (1e9, 2 * 1e5, 1.0):
        captured, _ = _opened(model, data[0])
        walk = Walk(captured.graph, [Batch((x,), {}, None) for x in data], budget)
        for node in captured.graph.graph.nodes:
            if "conv" in node.name:
                assert len(list(walk.until(node.name, after=True))) == 3
        runs.append(walk.nodes_run)
    assert runs[0] < runs[1] < runs[2]
    nodes = list(captured.graph.graph.nodes)
    last = max(number for number, node in enumerate(nodes) if "conv" in node.name)
    assert runs[0] == 3 * sum(node.op == "call_function" for node in nodes[: last + 1])


def test_a_walk_sees_what_a_forward_pass_sees() -> None:
    torch.manual_seed(1)
    model = settle(NETS["concat"]()).double()
    data = _data(2)
    captured, _ = _opened(model, data[0])
    walk = Walk(captured.graph, [Batch((x,), {}, None) for x in data], 1e9)
    with torch.no_grad():
        firsts = [model.a(x) for x in data]  # pyright: ignore[reportCallIssue]
    for expected, values in zip(firsts, walk.until("conv2d", after=True), strict=True):
        assert torch.equal(values["conv2d"], expected)
    for x, values in zip(data, walk.until("linear", after=True), strict=True):
        assert torch.allclose(values["linear"], model(x), atol=1e-12)
    with pytest.raises(RepairError, match="past"):
        list(walk.until("conv2d"))


class Busy(nn.Module):
    """Attention and a hidden layer on tokens, each beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.down(nn.functional.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


def test_heads_and_hidden_units_of_a_transformer() -> None:
    torch.manual_seed(0)
    model = Busy().double().eval()
    g = torch.Generator().manual_seed(1)
    data = [torch.randn(32, 5, 6, generator=g, dtype=torch.float64) for _ in range(4)]
    captured, deps = _opened(model, data[0])
    keep = {name: list(range(size)) for name, size in deps.dense_widths.items()}
    hidden = next(name for name in keep if name.startswith("up"))
    heads = next(name for name in keep if "attention" in name)
    keep[hidden], keep[heads] = list(range(10)), [0, 2]
    cut = cut_graph(captured, deps, keep)
    raw = _squares(model, cut, data)
    report = repair_cut(cut, Origin(model, captured, deps, keep), data, RepairOptions(ridge=1e-6))
    assert [layer.weight for layer in report.layers] == ["attention.out_proj.weight", "down.weight"]
    # What attention lost, the layer behind the hidden units makes up for in part.
    assert report.layers[1].corrected
    assert _squares(model, cut, data) < 0.5 * raw


def test_ctrl_c_and_failures_leave_the_model_as_it_was() -> None:
    torch.manual_seed(1)
    model = settle(NETS["residual"]()).double()
    data = _data()
    captured, deps = _opened(model, data[0])
    keep = {g.name: list(range(0, g.size, 2)) for g in deps.groups}
    cut = cut_module(model, deps, keep)
    before = {name: value.clone() for name, value in cut.state_dict().items()}

    asked: list[object] = []

    def interrupt(what: str, done: int, total: int) -> None:
        if what in asked or done in asked:
            raise KeyboardInterrupt

    for moment in (2, "recalibrate"):
        asked[:] = [moment]
        with pytest.raises(KeyboardInterrupt):
            repair_cut(cut, Origin(model, captured, deps, keep), data, progress=interrupt)
        assert all(torch.equal(value, before[name]) for name, value in cut.state_dict().items())
    bad = [data[0], torch.full_like(data[0], torch.inf)]
    for batches, message in ((bad, "not finite"), ([], "empty"), ([data[0][:, :2]], "captured for")):
        with pytest.raises(RepairError, match=message):
            repair_cut(cut, Origin(model, captured, deps, keep), batches)
        assert all(torch.equal(value, before[name]) for name, value in cut.state_dict().items())
    again = _opened(model, data[0])[0].graph.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in captured.graph.state_dict().items())


def test_few_examples_are_no_reason_to_fail(caplog: pytest.LogCaptureFixture) -> None:
    """One batch of one example: fewer rows than weights, and a warning that says so."""
    torch.manual_seed(1)
    model = settle(NETS["plain"]()).double()
    data = [_data()[0][:1]]
    _, deps = _opened(model, _data()[0])
    keep = {g.name: list(range(0, g.size, 2)) for g in deps.groups}
    cut, report = _repaired(model, keep, data, RepairOptions())
    assert any(layer.rows < layer.columns for layer in report.layers)
    assert "fewer sampled positions" in caplog.text and "1 examples only" in caplog.text
    assert all(bool(torch.isfinite(p).all()) for p in cut.parameters())
    assert _squares(model, cut, data) < _squares(model, cut_module(model, deps, keep), data)


def test_another_model_than_the_one_that_was_cut_is_refused() -> None:
    torch.manual_seed(1)
    model = settle(NETS["plain"]()).double()
    data = _data()
    captured, deps = _opened(model, data[0])
    keep = {g.name: list(range(0, g.size, 2)) for g in deps.groups}
    with pytest.raises(RepairError, match="shape"):
        repair_cut(model, Origin(model, captured, deps, keep), data)


def test_repair_of_whatever_is_cut() -> None:
    torch.manual_seed(1)
    model = settle(NETS["residual"]()).double()
    data = _data()
    captured, deps = _opened(model, data[0])
    repair = CutRepair(iter(data), EXACT)
    for step in (2, 3):
        keep = {g.name: list(range(0, g.size, step)) for g in deps.groups}
        ours, theirs = cut_graph(captured, deps, keep), cut_graph(captured, deps, keep)
        repair.of(captured, deps, keep)(ours)
        repair_cut(theirs, Origin(model, captured, deps, keep), data, EXACT)
        assert _error(theirs, ours, data) == 0.0


@pytest.mark.parametrize("name", ["strided", "flattened", "tokens", "without bias", "normed"])
def test_a_constant_that_was_cut_goes_into_the_bias(name: str) -> None:
    """A BatchNorm scale of zero leaves a channel its shift, everywhere; no padding blurs it here."""
    torch.manual_seed(0)
    model = Twins(READERS[name]()).double()
    with torch.no_grad():
        model.norm.weight[3], model.norm.bias[3] = 0.0, 0.7
    data = _data()
    cut, report = _repaired(model, {"first": [0, 1, 2, 4, 5]}, data, RepairOptions(recalibrate=False))
    (layer,) = report.layers
    if name == "without bias":  # there is nowhere for it to go but the weights, which can only come near
        assert 1e-9 < layer.after < layer.before
        return
    assert layer.after < 1e-9 < 1e-4 < layer.before
    assert _error(model, cut, _data(2)) < 1e-6
    fixed = _repaired(model, {"first": [0, 1, 2, 4, 5]}, data, RepairOptions(intercept=False))[1]
    assert fixed.layers[0].after > layer.after


def test_a_branch_makes_up_for_a_block_that_is_gone() -> None:
    """The target is the sum of the original, whose shortcut went through the block."""
    torch.manual_seed(1)
    model = settle(NETS["residual"]()).double()
    data = _data(4, 32)
    captured, deps = _opened(model, data[0])
    blocks = [b for b in find_blocks(captured, deps) if b.reason is None and "a1.0.weight" in b.parameters]
    assert len(blocks) == 1
    keep = {"b1.0": [0, 1, 3]}
    errors: list[float] = []
    for residual in (False, True):
        smaller = cut(captured, deps, keep, blocks).model
        origin = Origin(model, captured, deps, keep, tuple(blocks))
        options = RepairOptions(residual=residual, recalibrate=False, ridge=1e-6)
        report = repair_cut(smaller, origin, data, options)
        (layer,) = report.layers
        assert (layer.weight, layer.corrected) == ("b2.0.weight", residual)
        errors.append(_squares(model, smaller, data))
    assert errors[1] < 0.9 * errors[0]
