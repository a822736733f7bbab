"""Distillation, schedule and loader mixes: closed forms."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwprune.errors import RepairError
from hwprune.importance.batches import Batch, split_batch
from hwprune.repair import FinetuneOptions, MixedLoader, distillation_loss, finetune
from hwprune.repair.objective import Objective
from hwprune.repair.schedule import learning_rate
from tests.repair.nets import fixed, net


def test_distillation_loss_closed_form_and_gradient() -> None:
    student = torch.tensor([[math.log(4.0), 0.0]], requires_grad=True)  # T=1: (0.8, 0.2)
    teacher = torch.tensor([[0.0, 0.0]], requires_grad=True)  # (0.5, 0.5)
    loss = distillation_loss(student, teacher, 1.0)
    assert loss.item() == pytest.approx(0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2), rel=1e-6)
    loss.backward()
    torch.testing.assert_close(student.grad, torch.tensor([[0.3, -0.3]]))
    assert teacher.grad is None
    # T=2 halves the logits: (2/3, 1/3), and multiplies by four.
    expected = 4 * (0.5 * math.log(0.5 * 3 / 2) + 0.5 * math.log(0.5 * 3))
    assert distillation_loss(student, teacher, 2.0).item() == pytest.approx(expected, rel=1e-6)


def test_distillation_loss_averages_over_pixels_as_over_examples() -> None:
    student, teacher = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    rows = distillation_loss(
        student.permute(0, 2, 3, 1).reshape(-1, 3), teacher.permute(0, 2, 3, 1).reshape(-1, 3), 3.0
    )
    torch.testing.assert_close(distillation_loss(student, teacher, 3.0), rows)
    with pytest.raises(RepairError, match="teacher's output"):
        distillation_loss(student, teacher[:, :2], 1.0)


def test_objective_mixes_task_and_teacher() -> None:
    student, teacher = net().eval(), net(seed=1).eval()
    x, y = fixed(1)[0]
    options = FinetuneOptions(distill_alpha=0.25, temperature=2.0, label_smoothing=0.1)
    objective = Objective(options, None, teacher)
    task = F.cross_entropy(student(x), y, label_smoothing=0.1)
    taught = distillation_loss(student(x), teacher(x), 2.0)
    torch.testing.assert_close(objective(student, Batch((x,), {}, y)), 0.75 * task + 0.25 * taught)
    torch.testing.assert_close(objective(student, Batch((x,), {}, None)), taught)


def test_unlabelled_distillation_approaches_the_teacher_and_leaves_it_alone() -> None:
    student, teacher = net(), net(seed=1).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    data = MixedLoader([fixed(6), [x for x, _ in fixed(4)]], weights=(2, 1))
    start = distillation_loss(student.eval()(data.loaders[0][0][0]), teacher.eval()(fixed(1)[0][0]), 4.0)
    teacher.train()
    finetune(student, data, options=FinetuneOptions(lr=0.1, epochs=20, distill_alpha=1.0), teacher=teacher)
    assert teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    x = fixed(1)[0][0]
    assert distillation_loss(student.eval()(x), teacher.eval()(x), 4.0) < start / 5


def test_learning_rate_known_points() -> None:
    rates = [learning_rate(s, 14, peak=1.0, warmup=4, final_ratio=0.1) for s in range(14)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[9] == pytest.approx(0.55)  # half way down the cosine
    assert all(a > b for a, b in itertools.pairwise(rates[4:])) and rates[-1] > 0.1
    assert learning_rate(0, 1, peak=0.3) == 0.3


def test_mix_keeps_the_proportion_and_ends_with_the_first_loader() -> None:
    labelled = [(torch.tensor([i]), torch.tensor([0])) for i in range(4)]
    other = [(torch.tensor([100 + i]), torch.tensor([1])) for i in range(3)]
    mix = MixedLoader([labelled, other], weights=(1, 2), unlabelled=(False, True))
    batches = [split_batch(batch) for batch in mix]
    first = [int(b.inputs[0]) for b in batches if b.target is not None]
    second = [int(b.inputs[0]) for b in batches if b.target is None]
    assert first == [0, 1, 2, 3]
    assert second == [(100 + i % 3) for i in range(len(second))] and len(second) in (8, 9)
    assert len(mix) == len(batches) == len(list(mix))


def test_mix_refusals() -> None:
    with pytest.raises(RepairError, match="2 loaders, 1 weights"):
        MixedLoader([[1], [2]], weights=(1,))
    with pytest.raises(RepairError, match="above 0"):
        MixedLoader([[1], [2]], weights=(1, 0))
    with pytest.raises(RepairError, match="loader 1 of the mix is empty"):
        list(MixedLoader([fixed(), []]))


def test_tied_weights_survive_a_checkpoint(tmp_path: object) -> None:
    from pathlib import Path

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x))

    path = Path(str(tmp_path)) / "run.ckpt"
    data = [(torch.randn(3, 4), torch.tensor([0, 1, 2]))]
    options = FinetuneOptions(epochs=2)
    model, again = Tied(), Tied()
    finetune(model, data, options=options, checkpoint=path)
    finetune(again, data, options=options, checkpoint=path)
    assert torch.equal(model.a.weight, again.b.weight) and again.a.weight is again.b.weight
