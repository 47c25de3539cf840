"""Batches of views from several requests."""

import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vov3d.serving._batching import Batcher, Collected
from vov3d.serving._errors import RefusedError


def sums(views):
    return torch.stack([view.double().sum().reshape(1) for view in views])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 50), st.integers(1, 4)), min_size=1, max_size=6), min_size=1, max_size=5
    ),
    st.integers(1, 5),
)
def test_every_request_gets_the_weighted_mean_of_its_own_views(requests, size):
    sizes = []
    batcher = Batcher(sums, size, 0.001, lambda: 10, lambda size, seconds: sizes.append(size))
    collected = [Collected() for _ in requests]

    def put(views, owner):
        for value, weight in views:
            batcher.put(torch.tensor([value], dtype=torch.uint8), weight, owner)
        owner.expect(len(views))

    threads = [threading.Thread(target=put, args=pair) for pair in zip(requests, collected, strict=True)]
    for thread in threads:
        thread.start()
    means = [owner.future.result(10).item() for owner in collected]
    batcher.close()
    for views, mean in zip(requests, means, strict=True):
        assert mean == pytest.approx(sum(v * w for v, w in views) / sum(w for _, w in views))
    assert sum(sizes) == sum(map(len, requests))
    assert max(sizes) <= size


def blocked():
    """Returns a batcher whose network waits, and the event that lets it go on."""
    go = threading.Event()

    def run(views):
        go.wait(10)
        return sums(views)

    return Batcher(run, 2, 0.0, lambda: 1), go


def test_a_request_that_is_given_up_no_longer_waits():
    batcher, go = blocked()
    owner, other = Collected(), Collected()
    view = torch.zeros(1, dtype=torch.uint8)
    full = threading.Thread(target=lambda: [batcher.put(view, 1, owner) for _ in range(30)])
    full.start()
    while batcher.waiting() < 8:
        time.sleep(0.01)
    batcher.drop(owner)
    full.join(5)
    assert not full.is_alive()
    batcher.put(view, 1, other)
    other.expect(1)
    go.set()
    assert other.future.result(10).item() == 0
    batcher.close()


def test_a_view_does_not_wait_for_a_request_that_has_ended():
    requests, asked = [2], threading.Event()

    def others():
        asked.set()
        return requests[0]

    batcher, owner = Batcher(sums, 2, 60.0, others), Collected()
    owner.expect(1)
    batcher.put(torch.ones(1, dtype=torch.uint8), 1, owner)
    assert asked.wait(10)
    requests[0] = 1
    batcher.fewer_others()
    assert owner.future.result(10).item() == 1
    batcher.close()


def test_closing_refuses_what_waits_and_lets_no_thread_hang():
    batcher, go = blocked()
    owners = [Collected() for _ in range(3)]
    for owner in owners:
        batcher.put(torch.zeros(1, dtype=torch.uint8), 1, owner)
    time.sleep(0.1)
    assert batcher.busy() > 0
    threading.Timer(0.2, go.set).start()
    batcher.close()
    assert not batcher.alive()
    assert any(isinstance(owner.future.exception(1), RefusedError) for owner in owners if owner.future.done())
    with pytest.raises(RefusedError, match="stopping"):
        batcher.put(torch.zeros(1, dtype=torch.uint8), 1, Collected())
