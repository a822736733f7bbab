from pathlib import Path

import numpy as np
import pytest
import torch

from hwprune.errors import MeasureError, MissingExtraError, UsageError
from hwprune.measure.compare import compare, max_relative_error
from hwprune.measure.contenders import (
    Contender,
    load_arrays,
    onnx_contender,
    openvino_contender,
    save_arrays,
    torch_contender,
)
from hwprune.measure.export import onnx_export, save_exported
from hwprune.measure.network import LOADS, one_load
from tests.measure.fakes import FAST

X = [np.linspace(-2, 4, 12, dtype=np.float32).reshape(3, 4)]


def fake(seconds: float, **arguments: object) -> Contender:
    return Contender("tests.measure.fakes:FakeContender", {"seconds": seconds, **arguments})


@pytest.fixture(scope="module")
def fakes():
    contenders = {
        "base": fake(2e-4),
        "twice": fake(4e-4, offset=0.4),
        "broken": fake(1e-4, fail="load"),
        "missing": Contender("hwprune.no_such_module:Engine"),
        "dying": fake(1e-4, fail="later"),
    }
    calls: list[tuple[int, int, str]] = []
    return compare(contenders, X, profile=FAST, seed=3, progress=lambda *a: calls.append(a)), calls


def test_ratios_and_errors_against_the_reference(fakes):  # type: ignore[no-untyped-def]
    result, _ = fakes
    assert result.reference == "base"
    assert [s.name for s in result.standings] == ["base", "twice"]
    assert result["base"].ratio.ratio == 1.0
    assert result["twice"].ratio.ratio == pytest.approx(2.0)
    assert result["twice"].ratio.low == pytest.approx(2.0)
    assert result["twice"].summary.median == pytest.approx(4e5)
    assert result["base"].max_rel_error == 0.0
    assert result["twice"].max_rel_error == pytest.approx(0.1, rel=1e-5)  # 0.4 of a largest value of 4
    # loads x rounds x samples; the first of every turn is thrown away
    rounds = LOADS * one_load(FAST).rounds
    assert FAST.rounds <= rounds < FAST.rounds + LOADS
    assert len(result["base"].samples_ns) == rounds * FAST.samples_per_round


def test_those_that_fail_are_reported_and_the_others_go_on(fakes):  # type: ignore[no-untyped-def]
    result, calls = fakes
    assert set(result.failed) == {"broken", "missing", "dying"}
    assert "cannot load this" in result.failed["broken"]
    assert "no_such_module" in result.failed["missing"]
    assert "SIGKILL" in result.failed["dying"]
    assert {c[2] for c in calls} == {"base", "twice", "dying"}


def test_turns_are_interleaved(fakes):  # type: ignore[no-untyped-def]
    names = [name for _, _, name in fakes[1] if name != "dying"]
    for start in range(0, len(names), 2):
        assert sorted(names[start : start + 2]) == ["base", "twice"]


@pytest.mark.usefixtures("loaded_once")
def test_reference_can_be_named_and_must_run():
    result = compare({"a": fake(1e-4), "b": fake(3e-4)}, X, profile=FAST, reference="b")
    assert result["a"].ratio.ratio == pytest.approx(1 / 3)
    with pytest.raises(MeasureError, match=r"reference 'a'.*cannot load"):
        compare({"a": fake(1e-4, fail="load"), "b": fake(1e-4)}, X, profile=FAST, reference="a")
    with pytest.raises(MeasureError, match="no contender"):
        compare({"a": fake(1e-4, fail="load")}, X, profile=FAST)
    with pytest.raises(UsageError, match="'c' is no contender"):
        compare({"a": fake(1e-4)}, X, profile=FAST, reference="c")
    with pytest.raises(UsageError):
        compare({}, X)


def test_max_relative_error():
    one, other = np.array([1.0, 2.0]), np.array([1.0, 4.0])
    assert max_relative_error([one], [other]) == 0.5
    assert max_relative_error([one], [one]) == 0.0
    assert max_relative_error([one, one], [one]) == float("inf")
    assert max_relative_error([one], [np.zeros(3)]) == float("inf")
    assert max_relative_error([np.array([np.nan])], [np.array([1.0])]) == float("inf")
    assert max_relative_error([one, one], [one, other]) == 0.5


def test_arrays_keep_their_order(tmp_path: Path):
    arrays = [np.full((2,), i, dtype=np.float32) for i in range(12)]
    save_arrays(tmp_path / "a.npz", arrays)
    assert [int(a[0]) for a in load_arrays(tmp_path / "a.npz")] == list(range(12))


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(8)
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.norm(self.conv(x)))
        return self.head(y.mean((2, 3))), y


@pytest.mark.usefixtures("loaded_once")
def test_peers_agree_with_torch(tmp_path: Path):
    torch.manual_seed(0)
    model = Net().train()
    model.norm.running_mean.uniform_(-1, 1)
    x = torch.randn(1, 3, 16, 16)
    contenders = {
        "PyTorch": torch_contender(save_exported(model, [x], tmp_path / "net.pt2")),
        "ONNX Runtime": onnx_contender(onnx_export(model, [x], tmp_path / "net.onnx")),
        "OpenVINO": openvino_contender(tmp_path / "net.onnx"),
    }
    assert model.training
    assert model.norm.training
    result = compare(contenders, [x.numpy()], profile=FAST)
    assert not result.failed
    assert result["ONNX Runtime"].max_rel_error < 1e-5
    assert result["OpenVINO"].max_rel_error < 1e-5  # bfloat16 would be off by 1e-3
    assert all(s.summary.median > 0 for s in result.standings)


def test_models_that_cannot_be_exported(tmp_path: Path):
    class Stubborn(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("not today")

    with pytest.raises(MeasureError, match="ONNX: ValueError: not today"):
        onnx_export(Stubborn(), [torch.zeros(1)], tmp_path / "a.onnx")
    with pytest.raises(MeasureError, match="not today"):
        save_exported(Stubborn(), [torch.zeros(1)], tmp_path / "a.pt2")


def test_missing_extras_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"onnxruntime is not installed\n.*hwprune\[onnx\]"):
        onnx_contender(tmp_path / "a.onnx")
    with pytest.raises(MissingExtraError, match=r"openvino is not installed\n.*hwprune\[bench\]"):
        openvino_contender(tmp_path / "a.onnx")
    with pytest.raises(MissingExtraError, match=r"onnx is not installed"):
        onnx_export(Net(), [torch.zeros(1)], tmp_path / "a.onnx")
