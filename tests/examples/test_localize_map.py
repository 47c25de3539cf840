"""The mAP of segments, against a count that is slow and plain."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.localization.metrics import TIOUS, Found, Truth, measure, overlaps


def plain_tiou(a, b) -> Fraction:
    """Counted second by second: all times in these tests are whole."""
    mine, other = set(range(int(a.start), int(a.end))), set(range(int(b.start), int(b.end)))
    return Fraction(len(mine & other), len(mine | other)) if mine | other else Fraction(0)


def plain_ap(truth: list[Truth], found: list[Found], tiou: Fraction) -> Fraction:
    """For each hit the best precision at its rank or any later one, a share of the truth each."""
    waiting, hits = list(truth), []
    for guess in sorted(found, key=lambda f: f.score, reverse=True):
        near = [one for one in waiting if one.video == guess.video and plain_tiou(one, guess) >= tiou]
        if near:
            waiting.remove(max(near, key=lambda one: plain_tiou(one, guess)))
        hits.append(bool(near))
    precisions = [Fraction(sum(hits[: rank + 1]), rank + 1) for rank in range(len(hits))]
    gained = [max(precisions[rank:]) for rank, hit in enumerate(hits) if hit]
    return sum(gained, Fraction(0)) / len(truth)


def plain_map(truth: list[Truth], found: list[Found], tiou: str) -> Fraction:
    labels = {one.label for one in truth}
    each = [
        plain_ap([t for t in truth if t.label == label], [f for f in found if f.label == label], Fraction(tiou))
        for label in labels
    ]
    return sum(each, Fraction(0)) / len(each)


spans = st.tuples(st.integers(0, 12), st.integers(1, 10)).map(lambda pair: (pair[0], pair[0] + pair[1]))
truths = st.builds(
    lambda video, span, label: Truth(video, *span, label), st.sampled_from("vw"), spans, st.sampled_from("ab")
)
founds = st.builds(
    lambda video, span, label, score: Found(video, *span, label, score / 8),
    st.sampled_from("vwx"),
    spans,
    st.sampled_from("abc"),
    st.integers(0, 8),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(truths, min_size=1, max_size=8), st.lists(founds, max_size=12))
def test_it_is_what_a_plain_count_gives(truth, found):
    report = measure(truth, found)
    expected = [float(plain_map(truth, found, str(tiou))) for tiou in TIOUS]
    assert report.by_tiou == pytest.approx(expected, abs=1e-12)
    assert report.mean == pytest.approx(np.mean(expected), abs=1e-12)
    assert set(report.precision) == {one.label for one in truth}


@settings(max_examples=50, deadline=None)
@given(st.lists(truths, min_size=1, max_size=6))
def test_the_truth_itself_is_perfect_and_counts_once(truth):
    truth = list(dict.fromkeys(truth))
    found = [Found(*one, score=0.5) for one in truth]
    assert measure(truth, found).by_tiou == [1.0] * 5
    assert measure(truth, []).mean == 0
    again = [Found(*one, score=0.9) for one in truth[:1]] + found
    expected = float(np.mean([plain_map(truth, again, str(tiou)) for tiou in TIOUS]))
    assert measure(truth, again).mean == pytest.approx(expected)


def test_a_segment_found_twice_takes_the_next_free_one():
    truth = [Truth("v", 0, 10, "a"), Truth("v", 2, 12, "a")]
    twice = [Found("v", 0, 10, "a", 0.9), Found("v", 0, 10, "a", 0.8)]
    assert measure(truth, twice, (0.5, 0.7)).by_tiou == [1.0, 0.5]


@settings(max_examples=50, deadline=None)
@given(st.lists(spans, min_size=1, max_size=4), st.lists(spans, min_size=1, max_size=4))
def test_overlaps_are_shares_of_seconds(mine, others):
    shares = overlaps(np.array(mine, float), np.array(others, float))
    expected = [[float(plain_tiou(Truth("", *a, ""), Truth("", *b, ""))) for b in others] for a in mine]
    np.testing.assert_allclose(shares, expected)


def test_nothing_true_is_refused():
    with pytest.raises(ValueError, match="no true segment"):
        measure([], [Found("v", 0, 1, "a", 1)])
