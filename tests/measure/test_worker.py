import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwprune.errors import MeasureError
from hwprune.measure.build import BuildJob, BuildPool
from hwprune.measure.device import measuring_cores
from hwprune.measure.process import WorkerLostError, WorkerProcess
from hwprune.measure.runners.local import LocalRunner
from tests.measure import fakes
from tests.measure.fakes import FAST, IMPATIENT, TARGET, conv

ENGINE = "tests.measure.fakes:FakeEngine"
BUILD = "tests.measure.fakes:fake_build"


@pytest.fixture(scope="module")
def runner():
    runner = LocalRunner(1, engine=ENGINE)
    yield runner
    runner.close()


def library(tmp_path: Path, width: int) -> Path:
    path = tmp_path / f"{width}.so"
    fakes.fake_build(conv(width), TARGET, path, 4)
    return path


def test_measures_and_is_pinned_light_and_told_its_threads(runner: LocalRunner, tmp_path: Path):
    sampled = runner.measure(library(tmp_path, 20), FAST)
    # 20 channels are three blocks of eight
    assert sampled.samples_ns == pytest.approx([3e4] * len(sampled.samples_ns))
    assert len(sampled.samples_ns) >= 4
    about = runner.about()
    assert about["cores"] == measuring_cores(1)
    assert about["threads"] == "1"
    assert about["pid"] != os.getpid()
    # numpy came with the engine; a framework's thread pools and memory must not
    assert not {"torch", "tvm", "scipy", "onnxruntime"} & set(about["modules"])


@pytest.mark.parametrize(
    ("width", "reason"),
    [
        (fakes.CRASHING_RUN, "timing worker died with SIGSEGV"),
        (fakes.HANGING_RUN, "timing worker did not answer within 1.5 s"),
        (fakes.BROKEN_RUN, "ValueError: bad library"),
    ],
)
def test_a_bad_kernel_is_an_error_and_the_runner_goes_on(
    runner: LocalRunner, tmp_path: Path, width: int, reason: str
):
    with pytest.raises(MeasureError, match=reason):
        runner.measure(library(tmp_path, width), IMPATIENT)
    assert runner.measure(library(tmp_path, 8), FAST).samples_ns[0] == pytest.approx(1e4)


def test_last_words_of_a_dying_worker_are_told():
    with WorkerProcess([], 1) as worker:
        message = {"do": "call", "function": "tests.measure.fakes:give_up", "arguments": {}}
        with pytest.raises(WorkerLostError, match="died with exit code 1: out of luck"):
            worker.request(message, 20)
        assert worker.request({"do": "about"}, 20)["pid"] == worker.pid


def test_an_interrupted_request_does_not_answer_the_next_one(monkeypatch: pytest.MonkeyPatch):
    def interrupt(descriptor: int, size: int) -> bytes:
        raise KeyboardInterrupt

    with WorkerProcess([], 1) as worker:
        first = worker.request({"do": "about"}, 20)["pid"]
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "read", interrupt)
            worker.request({"do": "load", "engine": "builtins:dict", "arguments": {}}, 20)
        assert worker.request({"do": "about"}, 20)["pid"] not in (None, first)


def test_exit_code_is_told():
    with WorkerProcess([], 1) as worker, pytest.raises(WorkerLostError, match="exit code 3"):
        worker.request({"do": "load", "engine": "os:_exit", "arguments": {"status": 3}}, 20)


def test_build_pool_reports_failures_and_survives_crashes(tmp_path: Path):
    widths = [8, 16, fakes.BROKEN_BUILD, 24, fakes.CRASHING_BUILD, 32, 40]
    jobs = [BuildJob(conv(w), tmp_path / f"{w}.so", 5) for w in widths]
    pool = BuildPool(TARGET, function=BUILD, processes=2)
    try:
        results = {fakes.width(job.spec): failure for job, failure in pool.build(jobs)}
    finally:
        pool.close()
    assert {w for w, failure in results.items() if failure is None} == {8, 16, 24, 32, 40}
    assert results[fakes.BROKEN_BUILD] == "ValueError: no such schedule"
    assert "build worker died with SIGSEGV" in str(results[fakes.CRASHING_BUILD])
    built = json.loads((tmp_path / "24.so").read_text())
    assert built == {"spec": conv(24).canonical(), "copies": 5, "target": "test"}


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
def test_a_worker_dies_with_its_killed_parent():
    script = (
        "import time; from hwprune.measure.process import WorkerProcess\n"
        "w = WorkerProcess([], 1); print(w.request({'do': 'about'}, 20)['pid'], flush=True)\n"
        "w.request({'do': 'call', 'function': 'time:sleep', 'arguments': {}}, 1) if 0 else time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return
        time.sleep(0.02)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")
