"""Batches: rows and their packing, and the layouts of a run."""

import collections
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from lorajax.data.batching import (
    Layout,
    Stream,
    _cover,
    batch_at,
    batches,
    lay_out,
    pack,
    pad_prompts,
    plan_layouts,
    round_up,
)
from lorajax.data.prompts import PromptConfig, Tokenized, tokenize
from lorajax.data.task import Example
from lorajax.training.loss import answer_sums
from tests.tiny import tiny_tokenizer


def examples(count, seed=0, longest=20):
    """Random prompts and answers; all tokens differ, so that an example is known by any of its tokens."""
    rng = np.random.default_rng(seed)
    prompts, answers, token = [], [], 1 + 100_000 * seed
    for _ in range(count):
        p, a = rng.integers(1, longest - 5), rng.integers(1, 6)
        prompts.append(np.arange(token, token + p, dtype=np.int32))
        answers.append(np.arange(token + p, token + p + a, dtype=np.int32))
        token += p + a
    return Tokenized(tuple(prompts), tuple(answers))


def pairs(sets):
    return list(zip(sets.prompts, sets.answers, strict=True))


def predictions(batch):
    """What a causal model that is blind to other segments is asked, with weights: (its context, the label) counted."""
    found = collections.Counter()
    P = len(batch["tokens"])
    for r in range(P):
        for place, label, weight in zip(batch["predict"][r], batch["labels"][r], batch["weights"][r], strict=True):
            if weight:
                begin = 0
                if "segments" in batch:
                    begin = int(np.flatnonzero(batch["segments"][r] == batch["segments"][r, place])[0])
                found[tuple(batch["tokens"][r, begin : place + 1].tolist()), int(label)] += weight
    return found


def expected_predictions(rows):
    whole = [(np.concatenate(row).tolist(), len(row[0])) for row in rows]
    return collections.Counter((tuple(ids[:i]), ids[i]) for ids, start in whole for i in range(start, len(ids)))


class TestPack:
    def test_first_fit_decreasing(self):
        """Against the rule written down one example at a time."""
        rng = np.random.default_rng(0)
        for _ in range(50):
            lengths = rng.integers(1, 30, rng.integers(1, 25)).tolist()
            rows = []
            for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
                room = [row for row in rows if sum(lengths[j] for j in row) + lengths[i] <= 32]
                room[0].append(i) if room else rows.append([i])
            assert pack(lengths, 32) == [sorted(row) for row in rows]

    def test_edges(self):
        assert pack([], 8) == []
        assert pack([8, 8], 8) == [[0], [1]]
        with pytest.raises(ValueError, match="9 tokens does not fit into rows of 8"):
            pack([3, 9], 8)


class TestRows:
    rows = pairs(examples(9))

    @pytest.mark.parametrize("packed", [False, True])
    def test_each_answer_token_is_predicted_from_its_own_example(self, packed):
        """So a loss is the same however the examples are laid out."""
        batch = lay_out(self.rows, Layout(9, 24, 16), pad=0, packed=packed)
        assert predictions(batch) == expected_predictions(self.rows)
        assert {key: (value.shape, value.dtype) for key, value in batch.items()} == {
            "tokens": ((9, 24), np.int32),
            "predict": ((9, 16), np.int32),
            "labels": ((9, 16), np.int32),
            "weights": ((9, 16), np.float32),
        } | ({"segments": ((9, 24), np.int32)} if packed else {})

    def test_packed_rows(self):
        batch = lay_out(self.rows, Layout(9, 24, 16), pad=-1, packed=True)
        groups = pack([len(p) + len(a) for p, a in self.rows], 24)
        assert 1 < len(groups) < 9
        for r, group in enumerate(groups):
            joined = np.concatenate([part for i in group for part in self.rows[i]])
            np.testing.assert_array_equal(batch["tokens"][r, : len(joined)], joined)
            lengths = [sum(map(len, self.rows[i])) for i in group]
            np.testing.assert_array_equal(
                batch["segments"][r, : len(joined)], np.repeat(range(1, 1 + len(group)), lengths)
            )
            assert (batch["tokens"][r, len(joined) :] == -1).all()
            assert not batch["segments"][r, len(joined) :].any()
        for rest in (batch["segments"][len(groups) :], batch["weights"][len(groups) :]):
            assert not rest.any()

    def test_text(self):
        """With a tokenizer: the answer ends with the end of the sequence, which is learnt too."""
        texts = [Example("a", "nli", "word " * (i % 5 + 1), ("yes " * (i % 3 + 1),)) for i in range(10)]
        batch = lay_out(
            pairs(tokenize(texts, tiny_tokenizer(), PromptConfig())), Layout(10, 64, 16), pad=0, packed=False
        )
        for b in range(10):
            count = int(batch["weights"][b].sum())
            predict, labels = batch["predict"][b, :count], batch["labels"][b, :count]
            np.testing.assert_array_equal(batch["tokens"][b, predict + 1], labels)
            assert labels[-1] == tiny_tokenizer().eos_token_id
            assert (np.diff(predict) == 1).all()

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("layout", [Layout(1, 24, 16), Layout(9, 10, 16), Layout(9, 24, 2)])
    def test_what_does_not_fit(self, layout, packed):
        with pytest.raises(ValueError, match="fit into"):
            lay_out(self.rows, layout, pad=0, packed=packed)

    def test_an_empty_prompt(self):
        rows = [self.rows[0], (self.rows[1][0][:0], self.rows[1][1])]
        with pytest.raises(ValueError, match="empty prompt"):
            lay_out(rows, Layout(2, 64, 16), pad=0, packed=True)

    def test_prompts(self):
        prompts = examples(9).prompts
        tokens, last = pad_prompts(prompts, length=64, pad=0)
        for row, end, prompt in zip(tokens, last, prompts, strict=True):
            assert row[end] == prompt[-1]
            assert not row[end + 1 :].any()


def least_sum(needs, most):
    """The best of all ways to round `needs` up to at most `most` of their values."""
    values = sorted(set(needs))
    covers = [
        [*rest, values[-1]] for k in range(min(most, len(values))) for rest in itertools.combinations(values[:-1], k)
    ]
    return min(sum(min(c for c in cover if c >= need) for need in needs) for cover in covers)


class TestLayouts:
    sets = (examples(20), examples(11, seed=1, longest=34), examples(6, seed=2, longest=12))
    streams = tuple(Stream(name, [s], seed=0) for name, s in zip("abc", sets, strict=True))

    def need(self, step, packed, last, length, count=4):
        """What a step needs of the axis that varies, counted on the examples themselves."""
        live = [s.rows(step, count) for s, n in zip(self.streams, last, strict=True) if step < n]
        lengths = [[len(p) + len(a) for p, a in rows] for rows in live]
        return max(len(pack(row, length)) for row in lengths) if packed else max(map(max, lengths))

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("most", [1, 2, 3, 9])
    @pytest.mark.parametrize("multiples", [(1, 1), (8, 3)])
    @pytest.mark.parametrize("steps", [25, (9, 25, 17)])
    def test_fewest_padded_tokens(self, packed, most, multiples, steps):
        a, b = multiples
        last = [steps] * 3 if isinstance(steps, int) else steps
        plan = plan_layouts(
            self.streams, steps, batch_size=4, packed=packed, most=most, length_multiple=a, row_multiple=b
        )
        used = [plan.at(step) for step in range(25)]
        assert set(used) == set(plan.layouts)
        assert len(plan.layouts) <= most
        longest = round_up(max(self.need(step, False, last, 0) for step in range(25)), a)
        needs = [round_up(self.need(step, packed, last, longest), b if packed else a) for step in range(25)]
        expected = least_sum(needs, most) * (longest if packed else round_up(4, b))
        assert sum(layout.rows * layout.length for layout in used) == expected
        assert all(layout.answers % 8 == 0 and layout.rows % b == 0 and layout.length % a == 0 for layout in used)
        for step, layout in enumerate(used):  # all fits, with nothing to spare in R but the rounding
            batch_at(self.streams, step, batch_size=4, layout=layout, pad=0, packed=packed, steps=steps)
        for layout in plan.layouts:
            tight = [
                batch_at(self.streams, s, batch_size=4, layout=layout, pad=0, packed=packed, steps=steps)["weights"]
                for s in range(25)
                if used[s] == layout
            ]
            assert round_up(int(max(w.sum(axis=2).max() for w in tight)), 8) == layout.answers

    def test_random_needs(self):
        """The cover alone, on needs of any kind."""
        rng = np.random.default_rng(0)
        for _ in range(200):
            needs = rng.integers(1, 40, rng.integers(1, 12))
            most = int(rng.integers(1, 6))
            sizes = _cover(needs, most)
            assert len(sizes) <= most
            assert sizes == sorted(set(sizes))
            found = sum(min(size for size in sizes if size >= need) for need in needs)
            assert found == least_sum(needs.tolist(), most)

    def test_bad_plans(self):
        for settings in ({"steps": 0}, {"steps": 3, "most": 0}, {"steps": [1, 2]}):
            with pytest.raises(ValueError, match="expected at least 1|broadcast"):
                plan_layouts(self.streams, batch_size=4, packed=False, **settings)

    def batch(self, step, packed, **settings):
        plan = plan_layouts(self.streams, 25, batch_size=4, packed=packed)
        return batch_at(self.streams, step, batch_size=4, layout=plan.at(step), pad=0, packed=packed, **settings)

    @pytest.mark.parametrize("packed", [False, True])
    def test_packed_or_not_the_batch_holds_the_same_examples(self, packed):
        for step in (0, 3, 24, 2):
            batch = self.batch(step, packed)
            for n, stream in enumerate(self.streams):
                member = {key: value[n] for key, value in batch.items()}
                assert predictions(member) == expected_predictions(stream.rows(step, 4))

    def test_packed_or_not_the_loss_is_the_same(self, model):
        """On a model in float32: 1e-5 is some twenty times its rounding, and a mixed-up example costs 0.1 and more."""
        tokens = tuple(
            Tokenized(*[tuple(part % 97 for part in parts) for parts in (s.prompts, s.answers)]) for s in self.sets
        )
        streams = [Stream(name, [s], seed=0) for name, s in zip("abc", tokens, strict=True)]
        losses = []
        for packed in (False, True):
            layout = plan_layouts(streams, 3, batch_size=6, packed=packed, most=1).at(2)
            batch = batch_at(streams, 2, batch_size=6, layout=layout, pad=0, packed=packed)
            sums, counts = answer_sums(model, None, {key: jnp.asarray(value) for key, value in batch.items()})
            losses.append((layout.rows, np.asarray(sums / counts)))
        (plain_rows, plain), (packed_rows, dense) = losses
        assert packed_rows < plain_rows
        np.testing.assert_allclose(dense, plain, atol=1e-5)

    @pytest.mark.parametrize("packed", [False, True])
    @pytest.mark.parametrize("members", [slice(1, 3), slice(0, 1), [2, 0], (1,), [1, 1]])
    def test_a_host_reads_its_own_share(self, members, packed):
        whole = self.batch(5, packed, steps=(5, 25, 25))
        part = self.batch(5, packed, steps=(5, 25, 25), members=members)
        for key, value in whole.items():
            np.testing.assert_array_equal(part[key], value[members if isinstance(members, slice) else list(members)])

    @pytest.mark.parametrize("packed", [False, True])
    def test_a_stream_that_is_over_gets_padding(self, packed):
        whole, ended = self.batch(7, packed), self.batch(7, packed, steps=(8, 7, 25))
        assert not any(ended[key][1].any() for key in ended)
        for key in whole:
            np.testing.assert_array_equal(ended[key][[0, 2]], whole[key][[0, 2]])

    def test_a_stream_that_is_over_needs_no_room(self):
        """The longest example is in a stream of one step: later steps are shorter."""
        long = Tokenized((np.ones(90, np.int32),), (np.ones(2, np.int32),))
        streams = [Stream("long", [long], seed=0), self.streams[2]]
        plan = plan_layouts(streams, (1, 10), batch_size=2, packed=False)
        assert plan.at(0).length == 96
        assert max(plan.at(step).length for step in range(1, 10)) <= 16


class TestTestSets:
    @pytest.mark.parametrize("packed", [False, True])
    def test_every_example_once_in_one_layout(self, packed):
        rows = pairs(examples(23))
        found = list(batches(rows, rows_per_batch=4, length=24, packed=packed, pad=0))
        assert {tuple((key, value.shape) for key, value in batch.items()) for batch in found} == {
            tuple((key, value.shape) for key, value in found[0].items())
        }
        assert found[0]["tokens"].shape == (4, 24)
        assert found[0]["labels"].shape[1] % 8 == 0
        assert sum((predictions(batch) for batch in found), collections.Counter()) == expected_predictions(rows)
        needed = len(pack([len(p) + len(a) for p, a in rows], 24)) if packed else 23
        assert len(found) == -(-needed // 4)
        assert needed % 4  # there is a last batch to fill up

    @pytest.mark.parametrize("packed", [False, True])
    def test_edges(self, packed):
        assert list(batches([], rows_per_batch=4, length=24, packed=packed, pad=0)) == []
        with pytest.raises(ValueError, match="fit into"):
            list(batches(pairs(examples(23)), rows_per_batch=4, length=12, packed=packed, pad=0))
