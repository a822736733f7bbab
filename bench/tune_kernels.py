"""What tuning gains on single kernels: ``python -m bench.tune_kernels --minutes 0.5``.

Each kernel is first searched, where it has several forms, then tuned for the given minutes. Results go
to ``bench/results/tune_kernels.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from bench.common import environment
from hwprune.artifact import atomic_write_text
from hwprune.compile.shapes import kernel_flops
from hwprune.latency.choice import ChoiceTable
from hwprune.latency.kernel import KernelInput, KernelOp, KernelSpec
from hwprune.measure.search import search
from hwprune.measure.tune import tune
from hwprune.target import load_target


def data(*shape: int) -> KernelInput:
    return KernelInput(shape, "data")


def weight(*shape: int) -> KernelInput:
    return KernelInput(shape, "weight")


def op(kind: str, *args: int, **attributes: int | str | tuple[int, ...]) -> KernelOp:
    return KernelOp(kind, args, tuple(sorted(attributes.items())))


def conv(source: KernelInput, o: int, k: int, stride: int) -> KernelSpec:
    more = {"dilation": (1, 1), "groups": 1, "padding": (k // 2,) * 4, "stride": (stride, stride)}
    weights = (weight(o, source.shape[1], k, k), weight(o))
    return KernelSpec((source, *weights), (op("conv2d", 0, 1, 2, **more), op("relu", 3)))


KERNELS: dict[str, KernelSpec] = {
    "depthwise 7x7 (convnext)": KernelSpec(
        (data(1, 192, 28, 28), weight(192, 1, 7, 7), weight(192)),
        (op("depthwise_conv2d", 0, 1, 2, dilation=(1, 1), padding=(3, 3, 3, 3), stride=(1, 1)),),
    ),
    "linear 2048 to 1000": KernelSpec(
        (data(1, 2048), weight(1000, 2048), weight(1000)), (op("linear", 0, 1, 2),)
    ),
    "max pool 3x3 /2 (resnet)": KernelSpec(
        (data(1, 64, 112, 112),),
        (
            op(
                "max_pool2d",
                0,
                ceil_mode=0,
                dilation=(1, 1),
                kernel=(3, 3),
                padding=(1, 1, 1, 1),
                stride=(2, 2),
            ),
        ),
    ),
    "batched matmul (TVM's importer)": KernelSpec(
        (data(12, 49, 64), data(12, 64, 49)),
        (
            op(
                "fallback",
                0,
                1,
                arguments=json.dumps([[{"tensor": 0}, {"tensor": 1}], {}]),
                item=-1,
                shape=(12, 49, 49),
                target="aten.bmm.default",
            ),
        ),
    ),
    "conv 3x3 64 to 64": conv(data(1, 64, 28, 28), 64, 3, 1),
    "first layer 7x7 /2 (resnet)": conv(KernelInput((1, 3, 224, 224), "input"), 64, 7, 2),
}

#: Beside this one, said to take a fiftieth of their time, all of the kernels stay behind.
STANDARD = conv(data(1, 512, 56, 56), 512, 3, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=0.5, help="for each kernel")
    parser.add_argument("--kernels", default="", help="only those whose name contains this")
    parser.add_argument("--tables", type=Path, help="keep trials here, to go on later")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "tune_kernels.json")
    options = parser.parse_args()
    target = load_target("host", threads=1)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as temporary:
        tables = options.tables or Path(temporary)
        for number, (name, spec) in enumerate(KERNELS.items()):
            if options.kernels not in name:
                continue
            folder = tables / str(number)
            search([spec], target, folder)
            times = {spec.digest(): 1e9, STANDARD.digest(): 2e7}
            report = tune(
                [spec, STANDARD], target, folder, minutes=options.minutes, timer=lambda _, t=times: t
            )
            entry = ChoiceTable.load(folder).entry(spec)
            row = report.kernels[0].to_dict() | {
                "kernel": name,
                "medians_ns": dict(entry.medians_ns) if entry else {},
                "flops": 2 * 12 * 49 * 49 * 64 if spec.anchor == "fallback" else kernel_flops(spec),
                "seconds": report.seconds,
            }
            del row["why"], row["share"]
            rows.append(row)
            print(
                f"{name}: {row['trials']} schedules, {row['failed']} failed, {row['gain']:.2f}x {row['note']}"
            )
            found = {"minutes": options.minutes, "target": target.name, **environment(), "rows": rows}
            options.out.parent.mkdir(exist_ok=True)
            atomic_write_text(options.out, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
