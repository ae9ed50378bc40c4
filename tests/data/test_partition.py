import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muster.core.errors import FieldError, UserError
from muster.core.part import dumps, known, loads
from muster.core.randomness import rng
from muster.data.partition import Dirichlet, Iid, Natural, Partition, QuantitySkew, Shards


def labels_of(num_examples, num_classes, seed=0):
    return rng(seed, "labels").integers(0, num_classes, num_examples)


def assigned(partition, labels, num_classes=10, natural=None, seed=0):
    return partition.assign(labels, num_classes, natural, rng(seed, "partition"))


@st.composite
def covering_partitions(draw):
    """A partition that covers everything, and a number of examples that is enough for it."""
    clients = draw(st.integers(1, 60))
    kind = draw(st.sampled_from(["iid", "dirichlet", "shards", "quantity_skew"]))
    each, partition = 1, Iid(clients)
    if kind == "dirichlet":
        each = draw(st.integers(1, 5))
        partition = Dirichlet(clients, alpha=draw(st.floats(1e-6, 1e6)), min_examples=each)
    elif kind == "shards":
        each = draw(st.integers(1, 4))
        partition = Shards(clients, each)
    elif kind == "quantity_skew":
        partition = QuantitySkew(clients, sigma=draw(st.floats(0, 100)))
    return partition, clients, each, draw(st.integers(clients * each, clients * each + 500))


@settings(max_examples=150, deadline=None)
@given(covering_partitions(), st.integers(1, 12), st.integers(0, 3))
def test_every_example_belongs_to_exactly_one_client(chosen, num_classes, seed):
    partition, clients, each, num_examples = chosen
    labels = labels_of(num_examples, num_classes, seed)
    found = assigned(partition, labels, num_classes, seed=seed)
    assert found.num_clients == clients
    assert found.sizes.min() >= each
    assert found.order.dtype == found.offsets.dtype == np.int64
    np.testing.assert_array_equal(np.sort(found.order), np.arange(num_examples))
    again = assigned(partition, labels, num_classes, seed=seed)
    np.testing.assert_array_equal(found.order, again.order)
    np.testing.assert_array_equal(found.offsets, again.offsets)


@pytest.mark.parametrize("partition", [Iid(10), Dirichlet(10), Shards(10), QuantitySkew(10)])
def test_another_key_gives_another_assignment(partition):
    labels = labels_of(500, 10)
    one, other = assigned(partition, labels, seed=1), assigned(partition, labels, seed=2)
    assert not np.array_equal(one.order, other.order)


def test_iid_sizes_differ_by_one_and_labels_look_alike():
    labels = labels_of(10_007, 2)
    found = assigned(Iid(10), labels, 2)
    assert sorted(found.sizes) == [1000] * 3 + [1001] * 7
    shares = [labels[found.examples(i)].mean() for i in range(10)]
    assert 0.4 < min(shares) <= max(shares) < 0.6  # a binomial share of 1,000 strays by .016


def classes_per_client(found, labels):
    return np.mean([len(np.unique(labels[found.examples(i)])) for i in range(found.num_clients)])


def largest_share(found, labels, num_classes=10):
    """Mean over clients of the share of a client's most frequent class."""
    counts = [np.bincount(labels[found.examples(i)], minlength=num_classes) for i in range(found.num_clients)]
    return np.mean([count.max() / count.sum() for count in counts])


def test_smaller_alpha_is_more_skew():
    labels = labels_of(20_000, 10)
    skews = [largest_share(assigned(Dirichlet(20, alpha), labels), labels) for alpha in (0.05, 0.5, 5, 1e6)]
    assert skews == sorted(skews, reverse=True)
    assert skews[0] > 0.6
    assert skews[-1] < 0.13  # all ten classes alike


def test_dirichlet_fills_clients_that_got_too_little():
    labels = np.zeros(100, np.int64)  # at this alpha one client gets the whole class
    found = assigned(Dirichlet(10, alpha=1e-6, min_examples=3), labels, 1)
    assert sorted(found.sizes) == [3] * 9 + [73]


def test_dirichlet_that_just_fits_is_even():
    found = assigned(Dirichlet(10, alpha=0.01, min_examples=4), labels_of(40, 10))
    assert found.sizes.tolist() == [4] * 10


def test_shards_of_mcmahan_hold_two_runs_of_sorted_labels():
    labels = np.repeat(np.arange(10), 600)  # 200 shards of 30: none crosses a class
    found = assigned(Shards(100, 2), rng(0, "mix").permutation(labels))
    assert found.sizes.tolist() == [60] * 100
    mixed = rng(0, "mix").permutation(labels)
    for i in range(100):
        assert set(np.bincount(mixed[found.examples(i)], minlength=10)) <= {0, 30, 60}
    assert 1.5 < classes_per_client(found, mixed) <= 2


def test_quantity_skew_is_log_normal_with_labels_alike():
    labels = labels_of(200_000, 2)
    sizes = assigned(QuantitySkew(1000, sigma=1.0), labels, 2).sizes
    assert 0.9 < np.log(sizes).std() < 1.1
    assert assigned(QuantitySkew(1000, sigma=0), labels, 2).sizes.tolist() == [200] * 1000


def test_natural_keeps_the_order_and_drops_small_clients():
    natural = np.array([2, 0, 2, 4, 2, 0, 4], np.int32)  # client 1 and 3 have none
    found = assigned(Natural(), np.zeros(7, np.int64), natural=natural)
    assert [found.examples(i).tolist() for i in range(3)] == [[1, 5], [0, 2, 4], [3, 6]]
    found = assigned(Natural(min_examples=3), np.zeros(7, np.int64), natural=natural)
    assert [found.examples(i).tolist() for i in range(found.num_clients)] == [[0, 2, 4]]


def test_natural_draws_max_clients_by_key():
    natural = np.repeat(np.arange(50, dtype=np.int32), 3)
    labels = np.zeros(150, np.int64)
    found = assigned(Natural(max_clients=7), labels, natural=natural)
    assert found.sizes.tolist() == [3] * 7
    assert len(np.unique(natural[found.order])) == 7
    np.testing.assert_array_equal(
        found.order, assigned(Natural(max_clients=7), labels, natural=natural).order
    )
    assert not np.array_equal(
        found.order, assigned(Natural(max_clients=7), labels, natural=natural, seed=1).order
    )


@pytest.mark.parametrize(
    ("partition", "limit"),
    [
        (Iid(101), 100),
        (Dirichlet(51, min_examples=2), 50),
        (Shards(40, 3), 33),
        (QuantitySkew(200), 100),
    ],
)
def test_more_clients_than_examples_is_refused_with_the_limit(partition, limit):
    with pytest.raises(UserError, match=f"only 100 examples; use at most {limit} clients"):
        assigned(partition, labels_of(100, 10))


def test_natural_without_natural_clients_names_the_others():
    with pytest.raises(UserError, match="use iid, dirichlet, shards or quantity_skew"):
        assigned(Natural(), labels_of(10, 2))


def test_natural_with_no_client_left_says_how_large_they_are():
    with pytest.raises(UserError, match="min_examples is 9, but the largest client has 4"):
        assigned(Natural(min_examples=9), np.zeros(4, np.int64), natural=np.zeros(4, np.int32))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Iid(0),
        lambda: Iid(2.5),
        lambda: Dirichlet(alpha=0),
        lambda: Dirichlet(alpha=float("nan")),
        lambda: Dirichlet(min_examples=0),
        lambda: Shards(shards_per_client=0),
        lambda: QuantitySkew(sigma=-1),
        lambda: Natural(min_examples=0),
        lambda: Natural(max_clients=0),
    ],
)
def test_fields_are_checked(make):
    with pytest.raises(FieldError, match="must be"):
        make()


def test_partitions_are_found_by_name_and_go_through_json():
    found = known("muster.data", Partition)
    assert list(found) == ["dirichlet", "iid", "natural", "quantity_skew", "shards"]
    for cls in found.values():
        assert loads(dumps(cls())) == cls()


def test_ten_thousand_clients_of_a_million_examples_take_seconds():
    labels = labels_of(1_000_000, 10)
    found = assigned(Dirichlet(10_000, 0.1, min_examples=5), labels)  # the timeout of the suite is the limit
    assert found.sizes.min() == 5
    assert found.sizes.sum() == 1_000_000
