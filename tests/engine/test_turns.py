"""Who explains with one replica at the same time waits for one turn of each other, and no more."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from camserve.engine import Explainer
from camserve.engine.execution.trials import medians_s
from camserve.engine.fair_lock import FairLock
from tests.engine.networks import ResNetLike, randomised

PROBE = torch.zeros(1, 3, 32, 32)


@contextmanager
def beside(run: Callable[[], None]) -> Iterator[None]:
    """Another thread runs it meanwhile, and has ended afterwards."""
    thread = threading.Thread(target=run)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()


def await_waiting(lock: FairLock, count: int) -> None:
    end_s = time.monotonic() + 60
    while len(lock._line) != 1 + count:  # it is held
        assert time.monotonic() < end_s
        time.sleep(0.001)


def test_a_job_waits_for_one_run_of_a_measurement_and_not_for_all_of_them() -> None:
    """The thread that measures asks for the replica again as soon as it has let it go."""
    model = randomised(ResNetLike())
    explainer = Explainer(model, PROBE)
    is_measuring, order = threading.Event(), list[str]()
    model.register_forward_pre_hook(lambda *_: order.append("job"))

    def job() -> None:
        is_measuring.wait(60)
        explainer.output(PROBE)

    def run(_: Tensor) -> tuple[Tensor, ...]:
        is_measuring.set()
        if not order:
            await_waiting(explainer._lock, 1)
        order.append("run")
        return ()

    with beside(job):
        medians_s({"": run}, PROBE, explainer.alone)
    assert order[:2] == ["run", "job"]
    assert order.count("run") > 2


def test_first_come_first_served() -> None:
    lock, order = FairLock(), list[int]()

    def one(number: int) -> None:
        with lock:
            order.append(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(5)]
    with lock:
        for number, thread in enumerate(threads, 1):
            thread.start()
            await_waiting(lock, number)
    with lock:
        order.append(5)
    for thread in threads:
        thread.join(60)
    assert order == [0, 1, 2, 3, 4, 5]


class Interrupted(Exception):
    pass


def test_whoever_is_interrupted_while_he_waits_keeps_nobody_waiting() -> None:
    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    lock, is_held, me = FairLock(), threading.Event(), threading.get_ident()

    def hold() -> None:
        with lock:
            is_held.set()
            await_waiting(lock, 1)
            signal.pthread_kill(me, signal.SIGUSR1)
            await_waiting(lock, 0)

    try:
        with beside(hold):
            is_held.wait(60)
            with pytest.raises(Interrupted), lock:
                pass
    finally:
        signal.signal(signal.SIGUSR1, before)
    with lock:
        pass
    assert not lock._line
