"""Threads that each drive worker processes of their own, for work that may run side by side."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TypeVar

from hwprune.measure.process import WorkerProcess

Job = TypeVar("Job")
Result = TypeVar("Result")


class Crew:
    """Workers that stay alive between batches: what they import is slow to import.

    Parameters
    ----------
    size
        Threads, and so jobs at once.
    name
        Of the threads.
    """

    def __init__(self, size: int, name: str) -> None:
        self._local = threading.local()
        self._workers: list[WorkerProcess] = []
        # A worker dies with the thread that started it, so the threads live as long as the crew.
        self._threads = ThreadPoolExecutor(size, thread_name_prefix=name)

    def run(self, work: Callable[[Job], Result], jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
        """Do all jobs, yielding each with its result as it is done."""
        futures: dict[Future[Result], Job] = {self._threads.submit(work, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def worker(self, kind: str, make: Callable[[], WorkerProcess]) -> WorkerProcess:
        """This thread's worker of a kind; made at the first call."""
        worker: WorkerProcess | None = getattr(self._local, kind, None)
        if worker is None:
            worker = make()
            setattr(self._local, kind, worker)
            self._workers.append(worker)
        return worker

    def close(self) -> None:
        """End all workers, also in the middle of a job."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.close()
        self._threads.shutdown(wait=True)
