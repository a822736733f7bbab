"""From scheduled PrimFuncs to one shared object with a Relax ``main`` that calls them in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwprune.compile.fallback import Inlined, fallback_functions, fallback_module, fallback_of
from hwprune.compile.layout import output_shape
from hwprune.compile.link import link_shared, target_architecture
from hwprune.compile.pipeline import PACKED, require_pipeline
from hwprune.compile.primfunc import build_primfunc, kernel_symbol
from hwprune.compile.shapes import Shape
from hwprune.compile.tuned import is_tuned, tuned_functions
from hwprune.compile.tvm_api import IRModule, TvmTarget, relax, transform, version
from hwprune.errors import CompileError, UnsupportedOperatorError
from hwprune.latency.choice import Choice
from hwprune.latency.kernel import KernelSpec
from hwprune.latency.program import Source
from hwprune.target import Target


@dataclass(frozen=True)
class Call:
    """One kernel call of ``main``; sources of kind ``weight`` number ``main``'s weights."""

    name: str
    spec: KernelSpec
    sources: tuple[Source, ...]
    choice: Choice | None = None


def check_calls(calls: Sequence[Call], target: Target) -> None:
    """Refuse what cannot be lowered before any code is generated.

    Raises
    ------
    UnsupportedOperatorError
        Naming the operator and the step.
    CompileError
        The target asks for another pipeline than this one.
    """
    from hwprune.compile.emit import emit

    require_pipeline(target, PACKED)
    seen: set[KernelSpec] = set()
    for call in calls:
        if call.spec in seen:
            continue
        seen.add(call.spec)
        anchors = [op.kind for op in call.spec.ops if op.kind in _REDUCING]
        try:
            if len(anchors) > 1:
                raise UnsupportedOperatorError(f"several anchors in one kernel: {', '.join(anchors)}")
            bad = [i.dtype for i in call.spec.inputs if i.dtype != "float32"]
            if bad:
                raise UnsupportedOperatorError(f"dtype {bad[0]} has no lowering; only float32 has")
            if fallback_of(call.spec) is None:
                emit(call.spec, target, call.choice)
            else:
                fallback_module(call.spec)
        except UnsupportedOperatorError as error:
            raise UnsupportedOperatorError(
                f"step '{call.name}': {error.message}",
                hint="keep this operator out of the compiled part, or replace it",
            ) from error


_REDUCING = frozenset(
    ("conv2d", "depthwise_conv2d", "linear", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "mean_hw")
)


def relax_module(
    inputs: Sequence[Shape],
    weights: Sequence[Shape],
    calls: Sequence[Call],
    outputs: Sequence[Source],
    target: Target,
) -> IRModule:
    """Module of all PrimFuncs and ``main(*inputs, *weights) -> tuple of outputs``."""
    builder = relax.BlockBuilder()
    functions = {}
    foreign: dict[KernelSpec, Inlined] = {}
    for spec, choice in dict.fromkeys((call.spec, call.choice) for call in calls):
        symbol = kernel_symbol(spec)
        if fallback_of(spec) is None:
            functions[spec, choice] = builder.add_func(build_primfunc(spec, target, choice), symbol)
        else:
            parts = tuned_functions(spec, target, choice) if is_tuned(choice) else fallback_functions(spec)
            foreign[spec] = Inlined(builder, spec, symbol, parts)
    given = [relax.Var(f"input{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(inputs)]
    packed = [relax.Var(f"weight{i}", relax.TensorType(shape, "float32")) for i, shape in enumerate(weights)]
    with builder.function("main", [*given, *packed]):
        results: list[Any] = []

        def find(source: Source) -> Any:
            return {"input": given, "step": results, "weight": packed}[source.kind][source.index]

        with builder.dataflow():
            for call in calls:
                arguments = [find(source) for source in call.sources]
                if call.spec in foreign:
                    results.append(foreign[call.spec].call(arguments))
                    continue
                result = relax.call_tir(
                    functions[call.spec, call.choice],
                    arguments,
                    relax.TensorType(output_shape(call.spec, target), "float32"),
                )
                results.append(builder.emit(result))
            final = builder.emit_output(relax.Tuple([find(source) for source in outputs]))
        builder.emit_func_output(final)
    return builder.get()


def tvm_target(target: Target) -> Any:
    """TVM's target object.

    Raises
    ------
    CompileError
        For a kind of target without a code generator, or a dictionary TVM refuses.
    """
    if target.kind != "cpu":
        raise CompileError(
            f"no code generator for kind '{target.kind}' yet (target '{target.name}')",
            hint="use a target of kind 'cpu'",
        )
    try:
        return TvmTarget(dict(target.tvm))
    except Exception as error:
        raise CompileError(f"TVM refuses the [tvm] table of target '{target.name}': {error}") from error


def build_shared(module: IRModule, target: Target, output: Path) -> None:
    """Compile and link a module of :func:`relax_module` into the shared object ``output``.

    Raises
    ------
    CompileError
        TVM or the linker failed.
    """
    llvm = tvm_target(target)
    passes = transform.Sequential(
        [
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )
    try:
        # ``main`` checks its arguments; checks in every kernel would double the library's size.
        with transform.PassContext(opt_level=3, config={"tirx.disable_assert": True}):
            executable = relax.build(module, target=llvm, relax_pipeline=passes)
    except Exception as error:
        raise CompileError(
            f"TVM {version} could not compile for target '{target.name}': {str(error)[:2000]}"
        ) from error
    link_executable(executable, target, output)


def link_executable(executable: Any, target: Target, output: Path) -> None:
    """Generate machine code for a built module and link it into the shared object ``output``.

    Raises
    ------
    CompileError
        TVM or the linker failed.
    """
    architecture = target_architecture(target.tvm.get("mtriple"))

    def link(path: str, objects: Sequence[str], **_: object) -> None:
        link_shared(objects, Path(path), architecture)

    link.output_format = "so"  # type: ignore[attr-defined]
    link.object_format = "o"  # type: ignore[attr-defined]
    try:
        executable.export_library(str(output), fcompile=link)
    except CompileError:
        raise
    except Exception as error:
        raise CompileError(
            f"TVM {version} could not export for target '{target.name}': {str(error)[:2000]}"
        ) from error
