"""The kernels foretold for any widths are the kernels of the network that is really cut."""

from __future__ import annotations

import random

import pytest
import torch

from hwprune.capture import capture
from hwprune.dependency import analyse
from hwprune.dependency.groups import Dependencies
from hwprune.latency.fusion import fuse
from hwprune.surgery import cut_graph
from tests.zoo import small_torchvision

MODELS = (
    "resnet18", "resnet50", "vgg16", "mobilenet_v2", "mobilenet_v3_large", "efficientnet_b0",
    "shufflenet_v2_x1_0", "densenet121", "regnet_y_400mf", "convnext_tiny",
)  # fmt: skip


def random_keep(deps: Dependencies, seed: int) -> dict[str, list[int]]:
    """Aligned and odd widths; at least two units: of one, a convolution is another operator."""
    choose = random.Random(seed)
    keep: dict[str, list[int]] = {}
    for group in deps.groups:
        step = 8 if group.size > 8 and choose.random() < 0.5 else 1
        count = max(2, step * choose.randint(1, group.size // step))
        keep[group.name] = sorted(choose.sample(range(group.size), min(group.size, count)))
    return keep


@pytest.mark.parametrize("name", MODELS)
def test_families_follow_the_groups(name: str) -> None:
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # no time for random weights
        model = small_torchvision(name)
    model = model.to_empty(device="cpu").eval()
    captured = capture(model, (torch.randn(1, 3, 64, 64),))
    deps = analyse(captured)
    fused = fuse(captured.graph)
    assert fused.graph is captured.graph, "a network of feature maps is taken as it is"
    assert not any(op.kind == "fallback" for step in fused.steps for op in step.ops)
    families = fused.families(deps.extents)
    assert [f.at(deps.dense_widths) for f in families] == [f.at({}) for f in fused.families()]
    keep = random_keep(deps, seed=len(name))
    widths = {group: len(kept) for group, kept in keep.items()}
    really = fuse(cut_graph(captured, deps, keep)).families()
    assert [f.name for f in families] == [f.name for f in really]
    for family, other in zip(families, really, strict=True):
        assert family.at(widths) == other.at({}), family.name
