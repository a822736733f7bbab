"""Fine-tuning: it learns, it is deterministic, and it resumes bit for bit."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from hwprune.capture import capture
from hwprune.errors import ArtifactError, RepairError
from hwprune.repair import FinetuneOptions, MixedLoader, Progress, evaluate_accuracy, finetune
from hwprune.repair.checkpoint import load_checkpoint
from tests.repair.nets import Noisy, fixed, net, shuffled

SHORT = FinetuneOptions(lr=0.05, epochs=3)


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _interrupt_at(step: int, how: Callable[[], None]) -> Callable[[Progress], None]:
    def watch(progress: Progress) -> None:
        if progress.step == step:
            how()

    return watch


def _raise() -> None:
    raise KeyboardInterrupt


def _signal() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_training_learns_and_leaves_the_callers_state_alone() -> None:
    model, data = net().eval(), fixed(6)
    torch.manual_seed(5)
    random.seed(5)
    before = torch.get_rng_state(), random.getstate()
    report = finetune(model, data, options=FinetuneOptions(lr=0.1, epochs=15))
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
    assert not any(module.training for module in model.modules())
    assert evaluate_accuracy(model, data) > 0.9
    assert report.steps == 90 and len(report.epochs) == 15
    assert report.epochs[-1].loss < report.epochs[0].loss / 2
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("step", [2, 6, 9])
@pytest.mark.parametrize("own_generator", [False, True])
def test_resumed_run_is_bit_equal(tmp_path: Path, optimizer: str, step: int, own_generator: bool) -> None:
    options = FinetuneOptions(optimizer=optimizer, lr=0.02, epochs=3, clip_norm=1.0)  # type: ignore[arg-type]
    score = lambda model: float(-sum(p.abs().sum() for p in model.parameters()))  # noqa: E731
    straight = net()
    wanted = finetune(straight, shuffled(own_generator=own_generator), options=options, evaluate=score)

    path = tmp_path / "run.ckpt"
    broken = net()
    with pytest.raises(KeyboardInterrupt):
        finetune(
            broken,
            shuffled(own_generator=own_generator),
            options=options,
            evaluate=score,
            checkpoint=path,
            progress=_interrupt_at(step, _raise),
        )
    assert broken.training
    torch.manual_seed(99)  # another process has other random states and other initial weights
    fresh = net(seed=1)
    report = finetune(
        fresh, shuffled(own_generator=own_generator), options=options, evaluate=score, checkpoint=path
    )
    assert report.resumed_at_step == step
    assert _equal(_weights(straight), _weights(fresh))
    assert (report.epochs, report.best_epoch, report.best_metric, report.initial_metric) == (
        wanted.epochs,
        wanted.best_epoch,
        wanted.best_metric,
        wanted.initial_metric,
    )


def test_passes_that_do_not_end_with_epochs_resume_exactly(tmp_path: Path) -> None:
    options = FinetuneOptions(lr=0.02, steps=17, steps_per_epoch=4)
    straight, fresh, path = net(), net(), tmp_path / "run.ckpt"
    finetune(straight, shuffled(), options=options)
    with pytest.raises(KeyboardInterrupt):
        finetune(net(), shuffled(), options=options, checkpoint=path, progress=_interrupt_at(10, _raise))
    report = finetune(fresh, shuffled(), options=options, checkpoint=path)
    assert _equal(_weights(straight), _weights(fresh))
    assert [record.epoch for record in report.epochs] == [1, 2, 3, 4, 5]


def test_interrupt_while_the_loader_augments_resumes_exactly(tmp_path: Path) -> None:
    class Stopping(Noisy):
        def __init__(self, stop_at: int | None) -> None:
            super().__init__()
            self.drawn, self.stop_at = 0, stop_at

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            self.drawn += 1
            item = super().__getitem__(index)
            if self.drawn == self.stop_at:  # after some of the batch's random numbers are used up
                raise KeyboardInterrupt
            return item

    def loader(stop_at: int | None) -> DataLoader[tuple[torch.Tensor, int]]:
        return DataLoader(Stopping(stop_at), batch_size=4, shuffle=True)

    straight, fresh, path = net(), net(), tmp_path / "run.ckpt"
    finetune(straight, loader(None), options=SHORT)
    with pytest.raises(KeyboardInterrupt):
        finetune(net(), loader(35), options=SHORT, checkpoint=path)
    assert finetune(fresh, loader(None), options=SHORT, checkpoint=path).resumed_at_step == 8
    assert _equal(_weights(straight), _weights(fresh))


def test_a_mix_of_shuffled_loaders_resumes_exactly(tmp_path: Path) -> None:
    def mix() -> MixedLoader:
        return MixedLoader(
            [shuffled(own_generator=True), shuffled()], weights=(2, 1), unlabelled=(False, True)
        )

    teacher, path = net(seed=8), tmp_path / "run.ckpt"
    options = FinetuneOptions(lr=0.02, epochs=2)
    straight, fresh = net(), net()
    finetune(straight, mix(), options=options, teacher=teacher)
    with pytest.raises(KeyboardInterrupt):
        stop = _interrupt_at(13, _raise)
        finetune(net(), mix(), options=options, teacher=teacher, checkpoint=path, progress=stop)
    report = finetune(fresh, mix(), options=options, teacher=teacher, checkpoint=path)
    assert report.resumed_at_step == 13 and report.steps == 2 * len(mix())
    assert _equal(_weights(straight), _weights(fresh))


def test_ctrl_c_finishes_the_step_and_leaves_a_loadable_checkpoint(tmp_path: Path) -> None:
    path, steps = tmp_path / "run.ckpt", []
    handler = signal.getsignal(signal.SIGINT)

    def watch(progress: Progress) -> None:
        steps.append(progress.step)
        if progress.step == 4:
            _signal()

    with pytest.raises(KeyboardInterrupt):
        finetune(net(), shuffled(), options=SHORT, checkpoint=path, progress=watch)
    assert signal.getsignal(signal.SIGINT) is handler
    assert steps == [1, 2, 3, 4]
    tensors, scalars = load_checkpoint(path)
    assert scalars["step"] == 4 and "model:0.weight" in tensors
    assert list(tmp_path.iterdir()) == [path]
    straight, fresh = net(), net()
    finetune(straight, shuffled(), options=SHORT)
    finetune(fresh, shuffled(), options=SHORT, checkpoint=path)
    assert _equal(_weights(straight), _weights(fresh))


def test_interrupt_inside_a_step_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    path, calls = tmp_path / "run.ckpt", []

    def loss(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(outputs, target)

    with pytest.raises(KeyboardInterrupt):
        finetune(net(), shuffled(), options=SHORT, loss=loss, checkpoint=path)
    assert load_checkpoint(path)[1]["step"] == 6


def test_finished_checkpoint_gives_the_result_back_without_training(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    model, again = net(), net(seed=4)
    finetune(model, shuffled(), options=SHORT, checkpoint=path)
    report = finetune(
        again, shuffled(), options=SHORT, checkpoint=path, progress=lambda _: pytest.fail("a step")
    )
    assert _equal(_weights(model), _weights(again)) and report.resumed_at_step == report.steps == 18


def test_checkpoints_of_other_runs_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    finetune(net(), fixed(), options=SHORT, checkpoint=path)
    with pytest.raises(RepairError, match=r"other options: lr \(0.05 -> 0.1\)"):
        finetune(net(), fixed(), options=SHORT.model_copy(update={"lr": 0.1}), checkpoint=path)
    wider = nn.Sequential(*net()[:-1], nn.Linear(64, 3))
    with pytest.raises(RepairError, match=r"another model: 5\.(weight|bias), 5\.(weight|bias) differ"):
        finetune(wider, fixed(), options=SHORT, checkpoint=path)
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    with pytest.raises(ArtifactError, match="cannot be read"):
        finetune(net(), fixed(), options=SHORT, checkpoint=path)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="checksum"):
        finetune(net(), fixed(), options=SHORT, checkpoint=path)


def test_keep_best_ends_with_the_best_weights() -> None:
    seen: list[dict[str, torch.Tensor]] = []

    def score(model: nn.Module) -> float:
        assert not model.training and not torch.is_grad_enabled()
        seen.append(_weights(model))
        return [0.1, 0.5, 0.9, 0.3][len(seen) - 1]

    model = net()
    report = finetune(model, fixed(), options=SHORT.model_copy(update={"keep_best": True}), evaluate=score)
    assert (report.initial_metric, report.best_metric, report.best_epoch) == (0.1, 0.9, 2)
    assert [record.metric for record in report.epochs] == [0.5, 0.9, 0.3]
    assert _equal(_weights(model), seen[2]) and not _equal(seen[2], seen[3])
    with pytest.raises(RepairError, match="keep_best needs a metric"):
        finetune(model, fixed(), options=SHORT.model_copy(update={"keep_best": True}))


def test_norms_and_biases_are_not_decayed() -> None:
    model = net()
    before = _weights(model)
    options = FinetuneOptions(
        lr=0.1, steps=1, weight_decay=0.5, momentum=0.0, nesterov=False, warmup_fraction=0
    )
    # A loss without gradient leaves weight decay alone at work.
    finetune(model, fixed(), options=options, loss=lambda outputs, _: outputs.sum() * 0.0)
    for name, parameter in model.named_parameters():
        factor = 0.95 if parameter.ndim > 1 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor, msg=name)


def test_not_finite_loss_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    data = fixed()
    calls: list[int] = []

    def loss(outputs: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        value = nn.functional.cross_entropy(outputs, target)
        return value * float("nan") if len(calls) == 5 else value

    options = FinetuneOptions(lr=0.05, epochs=3, warmup_fraction=0.0)
    with pytest.raises(RepairError, match=r"the loss is nan at epoch 2, step 5 \(learning rate 0.0293\)"):
        finetune(net(), data, options=options, loss=loss, checkpoint=path)
    tensors, scalars = load_checkpoint(path)
    assert scalars["step"] == 3 and all(
        torch.isfinite(t).all() for n, t in tensors.items() if n[:5] == "model"
    )


def test_captured_graph_trains_with_batch_statistics() -> None:
    model = net().eval()
    captured = capture(model, (torch.zeros(4, 1, 6, 6),))
    graph = captured.graph
    data = fixed(6)
    mean = dict(graph.named_buffers())["1.running_mean"].clone()
    report = finetune(graph, data, options=FinetuneOptions(lr=0.1, epochs=15))
    assert report.epochs[-1].loss < report.epochs[0].loss
    assert evaluate_accuracy(graph, data) > 0.9
    assert not torch.equal(mean, dict(graph.named_buffers())["1.running_mean"])


def test_unusable_calls_are_refused() -> None:
    with pytest.raises(RepairError, match="empty"):
        finetune(net(), [], options=SHORT)
    with pytest.raises(RepairError, match="no length"):
        finetune(net(), (batch for batch in fixed()), options=SHORT)
    with pytest.raises(RepairError, match="cannot be iterated a second time"):
        finetune(net(), (batch for batch in fixed()), options=FinetuneOptions(steps=9))
    with pytest.raises(RepairError, match="no labels and there is no teacher"):
        finetune(net(), [x for x, _ in fixed()], options=SHORT)
    with pytest.raises(RepairError, match="requires a gradient"):
        finetune(net().requires_grad_(False), fixed(), options=SHORT)
    with pytest.raises(RepairError, match=r"labels \(3,\) failed"):
        finetune(net(), [(torch.zeros(4, 1, 6, 6), torch.zeros(3, dtype=torch.long))], options=SHORT)
    with pytest.raises(RepairError, match="evaluate gave NaN"):
        finetune(net(), fixed(), options=SHORT, evaluate=lambda _: float("nan"))
    model = net()
    with pytest.raises(RepairError, match="the teacher is the model"):
        finetune(model, fixed(), options=SHORT, teacher=model)
    with pytest.raises(ValueError, match="learning_rate"):
        FinetuneOptions(learning_rate=0.1)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="nesterov needs momentum"):
        FinetuneOptions(momentum=0.0)


def test_accuracy_known_answer_and_refusals() -> None:
    model = nn.Identity()
    scores = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0], [5.0, 4.0]])
    assert evaluate_accuracy(model, [(scores, torch.tensor([1, 0, 0, 0]))]) == 0.75
    assert evaluate_accuracy(model, [{"x": scores[:2], "label": torch.tensor([1, 1])}]) == 0.5
    with pytest.raises(RepairError, match="needs labels"):
        evaluate_accuracy(model, [scores])
    with pytest.raises(RepairError, match="not class numbers"):
        evaluate_accuracy(model, [(scores, scores)])
    with pytest.raises(RepairError, match="empty"):
        evaluate_accuracy(model, [])
    assert len(Noisy()) == 24
