"""The training order: quotas of the multi-task epoch (caps, weights, exact sums), and the streams that draw them."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from lorajax.data.batching import Stream
from lorajax.data.mixture import MixtureConfig, apportion, quotas
from lorajax.data.prompts import Tokenized
from lorajax.errors import LorajaxError

COUNTS = {"anli": 16_000, "cb": 250, "rte": 2_490, "imdb": 25_000, "sst2": 30_000}
CLUSTERS = {"anli": "nli", "cb": "nli", "rte": "nli", "imdb": "sentiment", "sst2": "sentiment"}


def mixed(counts=COUNTS, **settings):
    return quotas(counts, CLUSTERS, MixtureConfig(**{f"mix_{key}": value for key, value in settings.items()}))


class TestQuotas:
    def test_everything_once_by_default(self):
        assert mixed() == COUNTS
        assert list(mixed()) == list(COUNTS)

    def test_rate_cap(self):
        assert mixed(rate_cap=3000) == {"anli": 3000, "cb": 250, "rte": 2490, "imdb": 3000, "sst2": 3000}

    def test_weights_multiply_after_the_rate_cap(self):
        found = mixed(rate_cap=3000, weights=("nli=2.0", "cb=3", "s*=0.5", "sst2=0.1"))
        # s* is the cluster sentiment, and the task sst2 in it: once, not twice.
        assert found == {"anli": 6000, "cb": 1500, "rte": 4980, "imdb": 1500, "sst2": 150}

    def test_a_cluster_above_its_cap_is_scaled_to_it(self):
        found = mixed(cluster_cap=50_000)
        assert {task: found[task] for task in ("anli", "cb", "rte")} == {"anli": 16_000, "cb": 250, "rte": 2_490}
        # 50,000 x 25/55 = 22,727.27 and 50,000 x 30/55 = 27,272.73
        assert (found["imdb"], found["sst2"]) == (22_727, 27_273)

    @pytest.mark.parametrize("cap", [3, 4, 10, 1001, 18_739])
    def test_the_sum_is_the_cap_and_none_is_left_out(self, cap):
        found = mixed(cluster_cap=cap, weights=("cb=0.01",))
        nli = [found[task] for task in ("anli", "cb", "rte")]
        assert sum(nli) == min(cap, 16_000 + 2 + 2_490)  # 250 x 0.01 is 2.5: the sum is rounded to the even number
        assert min(nli) >= 1

    def test_at_least_one_and_no_other_task_pays_for_it(self):
        assert mixed(weights=("cb=0.0001",)) == COUNTS | {"cb": 1}

    def test_names_with_signs_in_them(self):
        found = quotas({"a[1]": 10, "b=c": 10}, {"a[1]": "x", "b=c": "x"}, MixtureConfig(0, 0, ("a[1]=2", "b=c=3")))
        assert found == {"a[1]": 20, "b=c": 30}

    def test_a_weight_for_nothing(self):
        with pytest.raises(LorajaxError, match=r"--mix-weights wmt\*=2: .*tasks anli, cb, .*clusters nli, sentiment"):
            mixed(weights=("wmt*=2",))

    def test_a_cap_below_the_number_of_tasks(self):
        with pytest.raises(LorajaxError, match="--mix-cluster-cap 2: cluster 'nli' has 3 tasks"):
            mixed(cluster_cap=2)

    @pytest.mark.parametrize(
        "entry", ["nli", "=2", "nli=", "nli=x", "nli=0", "nli=-1", "nli=nan", "nli=inf", "nli=1e9"]
    )
    def test_bad_weights(self, entry):
        with pytest.raises(LorajaxError, match="--mix-weights .*expected NAME=WEIGHT"):
            MixtureConfig(mix_weights=(entry,))

    @pytest.mark.parametrize("flag", ["rate", "cluster"])
    def test_bad_caps(self, flag):
        with pytest.raises(LorajaxError, match=f"--mix-{flag}-cap must be 0 or more, found -1"):
            MixtureConfig(**{f"mix_{flag}_cap": -1})


class TestApportion:
    def test_nearest_to_the_exact_shares(self):
        """Largest remainder is the split with the least squared distance: compared with all splits there are."""
        rng = np.random.default_rng(0)
        for _ in range(50):
            rates = [Fraction(int(r)) for r in rng.integers(1, 20, 3)]
            total = int(rng.integers(3, 15))
            splits = [s for s in itertools.product(range(1, total + 1), repeat=3) if sum(s) == total]
            exact = [rate * total / sum(rates) for rate in rates]
            found = apportion(rates, total)
            assert tuple(found) in splits
            if min(exact) >= 1:  # else the lower bound decides, and shares are of what is left
                least = min(sum((a - b) ** 2 for a, b in zip(s, exact, strict=True)) for s in splits)
                assert sum((a - b) ** 2 for a, b in zip(found, exact, strict=True)) == least

    def test_the_lower_bound_can_pull_others_under(self):
        # 1 + 2 + 97 of 10: 0.1, 0.2, 9.7. Both small ones get 1, the rest is what is left.
        assert apportion([Fraction(1), Fraction(2), Fraction(97)], 10) == [1, 1, 8]
        # 11/5 of 3 and then 2 for 1.1 of 2.1: the second falls below 1 only after the first was raised.
        assert apportion([Fraction(1, 10), Fraction(105, 100), Fraction(2)], 3) == [1, 1, 1]

    def test_equal_remainders_go_to_the_first(self):
        assert apportion([Fraction(1)] * 3, 5) == [2, 2, 1]


def numbered(count, kind=0):
    """`count` examples of different lengths; the first token of a prompt tells the set (in thousands) and the example."""
    prompts = tuple(np.full(1 + i % 3, 1000 * kind + i, np.int32) for i in range(count))
    return Tokenized(prompts, tuple(np.zeros(1 + i % 4, np.int32) for i in range(count)))


def first_tokens(rows):
    return [int(prompt[0]) for prompt, _ in rows]


class TestStream:
    def test_an_epoch_sees_every_example_once(self):
        sets = [numbered(7), numbered(3, kind=1)]
        stream = Stream("a", sets, seed=0)
        assert stream.epoch_size == 10
        seen = [token for step in range(5) for token in first_tokens(stream.rows(step, 4))]
        for epoch in (seen[:10], seen[10:]):
            assert sorted(epoch) == [*range(7), *range(1000, 1003)]
        assert seen[:10] != seen[10:]

    def test_quotas(self):
        sets = [numbered(7), numbered(3, kind=1), numbered(4, kind=2)]
        stream = Stream("a", sets, seed=0, quotas=[3, 5, 4])
        seen = np.asarray(first_tokens(stream.rows(0, 84)))
        owner = seen // 1000
        assert stream.epoch_size == 12
        for epoch in owner.reshape(7, 12):
            np.testing.assert_array_equal(np.bincount(epoch), [3, 5, 4])
        assert len({tuple(epoch) for epoch in owner.reshape(7, 12)}) > 1  # they are shuffled together
        # 7 epochs of 3 are all 7 examples three times; within the first 6, none a third time before all came twice.
        for t, (count, quota) in enumerate([(7, 3), (3, 5), (4, 4)]):
            for epochs in range(1, 8):
                met = np.unique(seen[: 12 * epochs][owner[: 12 * epochs] == t], return_counts=True)[1]
                assert met.max() == -(-epochs * quota // count)
                assert len(met) == min(count, epochs * quota)
                if met.max() > 1:
                    assert met.min() == epochs * quota // count

    def test_every_pass_over_a_set_has_an_order_of_its_own(self):
        seen = first_tokens(Stream("a", [numbered(7), numbered(7, kind=1)], seed=0, quotas=[1, 1]).rows(0, 28))
        passes = [[token % 1000 for token in seen if token // 1000 == t] for t in range(2)]
        orders = {tuple(order[begin : begin + 7]) for order in passes for begin in (0, 7)}
        assert len(orders) == 4
        assert all(sorted(order) == list(range(7)) for order in orders)

    def test_quotas_of_everything_change_nothing(self):
        sets = [numbered(7), numbered(3, kind=1)]
        plain, quotas = Stream("a", sets, seed=3), Stream("a", sets, seed=3, quotas=[7, 3])
        assert first_tokens(plain.rows(0, 35)) == first_tokens(quotas.rows(0, 35))

    def test_any_step_at_any_time(self):
        sets = [numbered(7), numbered(30, kind=1)]

        def made():
            return Stream("a", sets, seed=1, quotas=[4, 9])

        in_order, jumping = made(), made()
        expected = [first_tokens(in_order.rows(step, 4)) for step in range(20)]
        for step in (19, 0, 7, 6, 7, 13, 2, 19):
            assert first_tokens(jumping.rows(step, 4)) == expected[step]
            assert first_tokens(made().rows(step, 4)) == expected[step]
        assert first_tokens(Stream("b", sets, seed=1, quotas=[4, 9]).rows(0, 4)) != expected[0]
        assert first_tokens(Stream("a", sets, seed=2, quotas=[4, 9]).rows(0, 4)) != expected[0]

    def test_the_order_is_the_same_everywhere(self):
        """The order that trained adapters were trained in: what it is drawn from must not change unnoticed."""
        stream = Stream("a", [Tokenized(*[tuple(np.asarray([i]) for i in range(8))] * 2)], seed=5)
        key = (5, 0xE8B7BE43)  # CRC-32 of "a"
        expected = [*np.random.default_rng((*key, 0)).permutation(8), *np.random.default_rng((*key, 1)).permutation(8)]
        assert first_tokens(stream.rows(0, 16)) == expected

    def test_lengths(self):
        stream = Stream("a", [numbered(10)], seed=0)
        for step in range(4):
            expected = [(len(p) + len(a), len(a)) for p, a in stream.rows(step, 4)]
            np.testing.assert_array_equal(stream.lengths(step, 4), expected)

    @pytest.mark.parametrize(
        ("sets", "quotas"), [([], None), ([numbered(2)], [1, 1]), ([numbered(2)], [0]), ([numbered(0)], None)]
    )
    def test_bad_quotas(self, sets, quotas):
        with pytest.raises(ValueError, match="stream 'a': quotas"):
            Stream("a", sets, seed=0, quotas=quotas)
