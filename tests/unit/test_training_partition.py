"""Partitions: every example in exactly one part, the same for the same seed, as skewed as asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainfl.errors import DatasetError, UsageError
from chainfl.training.datasets import Dataset, DatasetSplits, load_digits
from chainfl.training.partition import (
    Partition,
    Shard,
    demo_split,
    federated_split,
    label_counts,
    load_shard,
    partition_classes,
    partition_dirichlet,
    partition_iid,
    partition_shards,
    partition_skewed,
)

LABELS = np.arange(1000) % 10


def covers(parts: list[np.ndarray], num_examples: int) -> bool:
    return sorted(np.concatenate(parts).tolist()) == list(range(num_examples))


@given(num=st.integers(1, 300), parts=st.integers(1, 20), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_partition_iid__any_sizes__covers_evenly_or_refuses(num, parts, seed):
    if num < parts:
        with pytest.raises(DatasetError):
            partition_iid(num, parts, np.random.default_rng(seed))
        return
    cut = partition_iid(num, parts, np.random.default_rng(seed))
    assert covers(cut, num)
    assert max(map(len, cut)) - min(map(len, cut)) <= 1


@given(parts=st.integers(1, 8), alpha=st.floats(0.1, 100), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_partition_dirichlet__any_alpha__covers_with_the_minimum(parts, alpha, seed):
    cut = partition_dirichlet(LABELS, parts, np.random.default_rng(seed), alpha=alpha, min_per_part=5)
    assert covers(cut, len(LABELS))
    assert min(map(len, cut)) >= 5


def test_partition_dirichlet__small_alpha__is_more_skewed_than_large():
    def largest_share(alpha: float) -> float:
        parts = partition_dirichlet(LABELS, 5, np.random.default_rng(0), alpha=alpha)
        return float(np.mean([np.bincount(LABELS[part], minlength=10).max() / len(part) for part in parts]))

    assert largest_share(0.1) > largest_share(0.5) > largest_share(1000)
    assert largest_share(1000) < 0.15


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan")])
def test_partition_dirichlet__alpha_not_positive__is_a_usage_error(alpha):
    with pytest.raises(UsageError):
        partition_dirichlet(LABELS, 2, np.random.default_rng(0), alpha=alpha)


def test_partition_dirichlet__minimum_that_no_draw_reaches__gives_up(monkeypatch):
    monkeypatch.setattr("chainfl.training.partition.MAX_DRAWS", 3)
    told = r"none of 3 Dirichlet\(0\.1\) draws .* such as dirichlet:0\.2, or fewer parts"
    with pytest.raises(DatasetError, match=told):
        partition_dirichlet(LABELS, 5, np.random.default_rng(0), alpha=0.1, min_per_part=200)


def test_partition_dirichlet__draws_that_leave_too_little__are_gone_through_in_the_order_of_the_generator():
    rng = np.random.default_rng(3)
    expected = drawn_until(LABELS, 5, rng, alpha=0.3, least=80)
    cut = partition_dirichlet(LABELS, 5, np.random.default_rng(3), alpha=0.3, min_per_part=80)
    assert [part.tolist() for part in cut] == [rng.permutation(part).tolist() for part in expected]


def drawn_until(labels, num_parts, rng, *, alpha, least):
    """Written out: each draw in full, one class after another."""
    while True:
        pieces = [[] for _ in range(num_parts)]
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            cuts = np.round(np.cumsum(rng.dirichlet(np.full(num_parts, alpha)))[:-1] * len(members)).astype(int)
            for piece, part in zip(pieces, np.split(members, cuts), strict=True):
                piece.append(part)
        parts = [np.concatenate(piece) for piece in pieces]
        if min(map(len, parts)) >= least:
            return parts


def test_partition_shards__two_shards__gives_few_classes():
    parts = partition_shards(LABELS, 10, np.random.default_rng(0), shards_per_part=2)
    assert covers(parts, len(LABELS))
    assert all(len(set(LABELS[part])) <= 4 for part in parts)


def test_partition_shards__none_or_too_many__is_refused():
    with pytest.raises(UsageError):
        partition_shards(LABELS, 2, np.random.default_rng(0), shards_per_part=0)
    with pytest.raises(DatasetError):
        partition_shards(LABELS[:3], 2, np.random.default_rng(0), shards_per_part=2)
    with pytest.raises(UsageError):
        partition_iid(3, 0, np.random.default_rng(0))


def classes_of(part: np.ndarray) -> set[int]:
    return set(LABELS[part].tolist())


@given(parts=st.integers(1, 30), each=st.integers(1, 10), seed=st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_partition_classes__any_numbers__gives_each_part_exactly_so_many(parts, each, seed):
    cut = partition_classes(LABELS, parts, np.random.default_rng(seed), classes_per_part=each)
    assert [len(classes_of(part)) for part in cut] == [each] * parts
    used = np.concatenate(cut).tolist()
    assert len(set(used)) == len(used)
    assert parts * each < 10 or len(used) == len(LABELS)


def test_partition_classes__one_each__gives_every_class_to_one_part():
    cut = partition_classes(LABELS, 10, np.random.default_rng(0), classes_per_part=1)
    assert sorted(min(classes_of(part)) for part in cut) == list(range(10))


@pytest.mark.parametrize("each", [0, 11])
def test_partition_classes__impossible_number__is_a_usage_error(each):
    with pytest.raises(UsageError):
        partition_classes(LABELS, 2, np.random.default_rng(0), classes_per_part=each)


def test_partition_classes__class_with_fewer_examples_than_parts__is_refused():
    with pytest.raises(DatasetError, match="class"):
        partition_classes(np.array([0, 0, 0, 1]), 4, np.random.default_rng(0), classes_per_part=1)


@pytest.mark.parametrize("parts", [5, 10, 15, 20])
def test_partition_skewed__any_number_of_parts__is_four_fifths_one_class_and_a_fifth_of_all(parts):
    cut = partition_skewed(LABELS, parts, np.random.default_rng(0), share=0.8)
    used = np.concatenate(cut).tolist()
    assert len(set(used)) == len(used)
    for part in cut:
        counts = np.bincount(LABELS[part], minlength=10)
        # A tenth of the fifth that comes from all classes is of the main one as well.
        assert 0.79 <= counts.max() / len(part) <= 0.86
    mains = [int(np.bincount(LABELS[part], minlength=10).argmax()) for part in cut]
    assert len(set(mains)) == min(parts, 10)


def test_partition_skewed__as_many_parts_as_classes__uses_every_example():
    assert covers(partition_skewed(LABELS, 10, np.random.default_rng(3), share=0.8), len(LABELS))


def test_partition_skewed__share_of_one__is_one_class_alone():
    assert all(len(classes_of(part)) == 1 for part in partition_skewed(LABELS, 10, np.random.default_rng(0), share=1.0))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan")])
def test_partition_skewed__impossible_share__is_a_usage_error(share):
    with pytest.raises(UsageError):
        partition_skewed(LABELS, 2, np.random.default_rng(0), share=share)


@pytest.mark.parametrize(
    ("text", "partition"),
    [
        ("iid", Partition("iid")),
        ("dirichlet", Partition("dirichlet", 0.5)),
        ("dirichlet:0.1", Partition("dirichlet", 0.1)),
        ("classes:1", Partition("classes", 1)),
        ("shards", Partition("shards", 2)),
        ("skewed", Partition("skewed", 0.8)),
    ],
)
def test_partition__parsed__fills_the_default_in_and_says_it_again(text, partition):
    assert Partition.parse(text) == partition
    assert Partition.parse(str(partition)) == partition


@pytest.mark.parametrize("text", ["", "random", "iid:2", "dirichlet:", "dirichlet:x", "classes:1.5", "skewed:nan"])
def test_partition__nonsense__is_a_usage_error_that_names_what_there_is(text):
    with pytest.raises(UsageError, match="partition"):
        Partition.parse(text)


@pytest.mark.parametrize("text", ["iid", "dirichlet", "shards", "classes", "skewed"])
def test_partition__cut__is_the_same_for_the_same_seed(text):
    def cut(seed: int) -> list[list[int]]:
        return [part.tolist() for part in Partition.parse(text).cut(LABELS, 5, np.random.default_rng(seed))]

    assert cut(1) == cut(1)
    assert cut(1) != cut(2)


# --- one run's sets ------------------------------------------------------------------------------


def numbered(count: int) -> Dataset:
    """Each example is its own number, so a test sees where it went."""
    return Dataset("numbered", np.arange(count, dtype=np.float32)[:, None], np.arange(count) % 10, 10)


def numbers(*parts: Dataset) -> list[int]:
    return [int(value) for part in parts for value in part.features[:, 0]]


def test_demo_split__digits__is_a_fifth_fifty_each_and_the_rest():
    split = demo_split(load_digits(), seed=0, num_workers=5, num_validators=3)
    assert len(split.test) == 359
    assert [len(part) for part in split.validators] == [50, 50, 50]
    assert sum(map(len, split.workers)) == 1797 - 359 - 150
    assert min(map(len, split.workers)) >= 32
    assert split.test_origin == "359 of 1797 examples of digits, held out by seed 0"


def test_demo_split__every_example__is_in_exactly_one_set():
    split = demo_split(numbered(1000), seed=3, num_workers=4, num_validators=2)
    assert sorted(numbers(split.test, *split.validators, *split.workers)) == list(range(1000))


def test_demo_split__same_seed__is_the_same_and_another_is_not():
    first, same, other = (demo_split(numbered(1000), seed=s, num_workers=4, num_validators=2) for s in (1, 1, 2))
    assert numbers(*first.workers) == numbers(*same.workers)
    assert numbers(first.test) != numbers(other.test)


def test_demo_split__set_with_its_own_test__keeps_it_and_says_so():
    splits = DatasetSplits(numbered(500), numbered(77))
    split = demo_split(splits, seed=0, num_workers=2, num_validators=1)
    assert split.test is splits.test
    assert sorted(numbers(*split.validators, *split.workers)) == list(range(500))
    assert split.test_origin == "the test set of numbered itself, 77 examples"


def test_demo_split__too_few_examples__is_refused():
    with pytest.raises(DatasetError):
        demo_split(numbered(200), seed=0, num_workers=5, num_validators=3)


def test_federated_split__validators_that_take_too_much__are_told_what_is_left():
    told = r"99 validators with 50 examples each take 4,950 of 1,438, which leaves 0 to the workers, who need 4"
    with pytest.raises(DatasetError, match=told):
        federated_split(load_digits(), seed=0, num_workers=4, num_validators=99, partition=Partition("iid"))


def test_federated_split__dirichlet__is_the_demos():
    whole = numbered(1000)
    demo = demo_split(whole, seed=3, num_workers=4, num_validators=2)
    split = federated_split(whole, seed=3, num_workers=4, num_validators=2, partition=Partition.parse("dirichlet"))
    assert numbers(*split.workers) == numbers(*demo.workers)
    assert numbers(*split.validators, split.test) == numbers(*demo.validators, demo.test)


def test_federated_split__without_validators__leaves_all_to_the_workers():
    splits = DatasetSplits(numbered(500), numbered(77))
    split = federated_split(splits, seed=0, num_workers=5, num_validators=0, partition=Partition("iid"))
    assert split.validators == ()
    assert [len(part) for part in split.workers] == [100] * 5


# --- shards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0/5", "6/5", "1", "a/b", "1/0", "-1/5", "1/5/2", "", "9999999/9999999", "١/٢"])
def test_shard_parse__not_i_of_n__is_a_usage_error(text):
    with pytest.raises(UsageError):
        Shard.parse(text)


def test_shard_parse__i_of_n__reads_as_written():
    assert str(Shard.parse("2/5")) == "2/5"


@pytest.mark.parametrize("alpha", [None, 1.0])
def test_load_shard__all_shares_of_one_seed__make_up_the_set(alpha):
    shares = [load_shard("digits", Shard(i, 3), seed=7, alpha=alpha) for i in (1, 2, 3)]
    total = sum(label_counts(share) for share in shares)
    np.testing.assert_array_equal(total, label_counts(load_digits()))
