"""Reports with realistic numbers: a small network, a large one, and the least that is allowed."""

from __future__ import annotations

from datetime import UTC, datetime

from hwprune.report.data import (
    Accuracy,
    Contender,
    GroupRow,
    KernelRow,
    LedgerRow,
    Measurement,
    ReportData,
    SolverInfo,
    Staircase,
    TargetInfo,
)

CREATED = datetime(2026, 5, 4, 12, 30, tzinfo=UTC)


def measured(value: float, spread: float = 0.01) -> Measurement:
    return Measurement(
        value_ms=value, low_ms=value * (1 - spread), high_ms=value * (1 + spread), kind="measured"
    )


def least() -> ReportData:
    """Only what is required."""
    return ReportData(
        title="Minimal",
        created=CREATED,
        model="Net",
        target=TargetInfo(name="host", isa="avx2", threads=1),
        budget_ms=2.0,
        budget_asked="2 ms",
        dense=measured(4.0),
        predicted=Measurement.exact(1.87),
    )


def stairs(label: str, group: str, dense: int, chosen: int, multiple: int) -> Staircase:
    widths = tuple(range(multiple // 2, dense + 1, max(multiple // 2, 1)))
    blocks = [-(-w // multiple) for w in widths]
    latency = tuple(9.0 + 11.5 * b + 0.3 * (w % 5) for b, w in zip(blocks, widths, strict=True))
    return Staircase(
        label=label,
        group=group,
        widths=widths,
        latency_us=latency,
        low=tuple(0.97 * v for v in latency),
        high=tuple(1.04 * v for v in latency),
        chosen=chosen,
        dense=dense,
    )


def network(layers: int, kernels: int, *, multiple: int = 16) -> ReportData:
    """A network of so many groups and kernels; the numbers vary but are fixed."""
    groups: list[GroupRow] = []
    for i in range(layers):
        dense = 64 * 2 ** min(3, 4 * i // layers)
        kept = max(multiple, multiple * round(dense * (0.35 + 0.6 * ((i * 7) % 11) / 11) / multiple))
        groups.append(
            GroupRow(
                name=f"features.{i}.conv{1 + i % 2}",
                dense=dense,
                kept=min(kept, dense) if i != 3 else 21,
                multiple=multiple,
                exempt="feeds a pixel shuffle, 21 units" if i == 3 else None,
                importance_kept=min(1.0, 0.62 + 0.38 * kept / dense),
            )
        )
    rows: list[KernelRow] = []
    weights = [30 + 170 * ((i * 37) % 23) / 23 + (400 if i % 17 == 2 else 0) for i in range(kernels)]
    for i, weight in enumerate(weights):
        cost = 4000 * weight / sum(weights)
        rows.append(
            KernelRow(
                name=f"step_{i:03d}_conv2d",
                label=f"conv2d 3x3/1 {64 + i % 3 * 64}->128 @{56 // (1 + i % 4)}x{56 // (1 + i % 4)} +relu",
                dense_us=cost,
                pruned_us=None if i == 5 else cost * (0.3 + 0.4 * ((i * 5) % 7) / 7),
                share=weight / sum(weights),
            )
        )
    picked = [g for g in groups if g.kept < g.dense][:: max(1, layers // 4)][:4]
    return ReportData(
        title="ResNet for digits, pruned for this machine",
        created=CREATED,
        model="ResidualNet",
        target=TargetInfo(name="host", description="the machine this runs on", isa="avx512", threads=1),
        budget_ms=2.0,
        budget_asked="50%",
        dense=measured(4.0),
        dense_predicted=Measurement.exact(3.91),
        predicted=Measurement.exact(1.87),
        measured=measured(1.9, 0.012),
        accuracy=Accuracy(
            dataset="digits test",
            dense=0.981,
            after_pruning=0.913,
            after_recalibration=0.942,
            after_finetuning=0.978,
        ),
        max_rel_error=2.4e-6,
        groups=tuple(groups),
        kernels=tuple(rows),
        staircases=tuple(stairs(f"{g.name} 3x3", g.name, g.dense, g.kept, multiple) for g in picked),
        contenders=(
            Contender(name="pruned (this bundle)", median_ms=1.9, low_ms=1.88, high_ms=1.92, ratio=1.0),
            Contender(name="dense (TVM)", median_ms=4.0, low_ms=3.96, high_ms=4.05, ratio=2.105),
            Contender(name="PyTorch eager dense", median_ms=6.31, low_ms=6.1, high_ms=6.72, ratio=3.321),
            Contender(name="ONNX Runtime dense", median_ms=3.52, low_ms=3.47, high_ms=3.6, ratio=1.853),
            Contender(name="ONNX Runtime pruned", median_ms=2.02, low_ms=1.99, high_ms=2.06, ratio=1.063),
        ),
        ledger=(
            LedgerRow(name="head.weight", channels=10, reason="output of the network"),
            LedgerRow(name="attention.qkv", channels=192, reason="no rule for aten.scaled_dot_product"),
        ),
        solver=SolverInfo(name="milp (HiGHS)", gap=0.0008, bound=14.7321, seconds=0.42, variables=1312),
        provenance={
            "device": "Intel Xeon Platinum 8481C",
            "cpu": "Intel Xeon Platinum 8481C, 2 cores, 2.7 GHz",
            "os": "Linux 6.1.0 x86_64",
            "tvm version": "0.27.0.post1",
            "pipeline hash": "9f2c41d07be3a586",
            "table directory digest": "sha256:4b1f0e86a5c1d2f7a90c33b8d1e4f60a7d2c9b18e5f3a604",
            "table rows": "1,482",
            "seed": "0",
            "command line": "hwprune quickstart --target host --latency 50%",
            "git": "a1b2c3d",
        },
        stage_seconds={"capture": 1.9, "profile": 184.0, "solve": 0.42, "fine-tune": 41.3, "bench": 12.0},
    )
