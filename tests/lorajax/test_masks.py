"""An adapter in some layers: what the masks keep, the losses under them, and what is made of these."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from lorajax.data.prompts import Tokenized
from lorajax.lora import masks
from lorajax.lora.adapter import init_adapter, updates
from lorajax.lora.masks import KINDS, Ablation, LayerMask, costliest, layer_masks, smallest_band
from lorajax.mesh import make_mesh
from lorajax.models.safetensors_folder import SafetensorsFolder
from lorajax.models.weights import load_weights
from lorajax.training import ablation as program
from lorajax.training.ablation import MaskedLosses, masked
from lorajax.training.evaluate import Evaluator
from tests.conftest import randomize
from tests.fleets import LORA, tokenized
from tests.tiny import TINY, tiny_checkpoint

BASE, FULL = LayerMask("base", 0, 0), LayerMask("full", 1, 5)


@pytest.fixture
def adapter(config):
    return randomize(init_adapter(config, LORA, ["a"]))


def kept_of(*found):
    return ["".join("|" if kept else "." for kept in mask.keep(5)) for mask in found]


class TestLayerMasks:
    def test_all_of_a_small_model(self):
        labels = [mask.label for mask in layer_masks(KINDS, 3, [(3, 3), (1, 2), (1, 2)])]
        assert labels == [
            "base", "full", "single 1", "single 2", "single 3", "prefix 1-1", "prefix 1-2", "prefix 1-3",
            "suffix 1-3", "suffix 2-3", "suffix 3-3", "without 1", "without 2", "without 3", "without 1-2",
            "band 1-2", "band 3-3",
        ]  # fmt: skip
        assert [mask.label for mask in layer_masks(["suffix"], 2)] == ["base", "full", "suffix 1-2", "suffix 2-2"]

    def test_what_they_keep(self):
        found = {mask.label: mask for mask in layer_masks(KINDS, 5, [(2, 3)])}
        labels = ["base", "full", "single 3", "prefix 1-3", "suffix 3-5", "band 2-3", "without 3", "without 2-3"]
        want = [".....", "|||||", "..|..", "|||..", "..|||", ".||..", "||.||", "|..||"]
        assert kept_of(*(found[label] for label in labels)) == want
        assert all(picture in masks.__doc__ for picture in want[:7])

    @pytest.mark.parametrize("band", [(0, 2), (3, 2), (2, 6)])
    def test_bands_outside_the_model(self, band):
        with pytest.raises(ValueError, match=f"band {band[0]}-{band[1]}: .* 1 to 5"):
            layer_masks(["band"], 5, [band])

    def test_unknown_kind(self):
        with pytest.raises(ValueError, match="unknown kind of mask 'middle': expected some of single, prefix"):
            layer_masks(["middle"], 5)


def test_masked_updates_are_those_of_the_kept_layers(adapter, config):
    keep = np.asarray([[0, 1, 1], [1, 0, 0], [0, 0, 0]], np.float32)
    whole = updates(adapter)
    for path, found in updates(masked(adapter, jnp.asarray(keep))).items():
        np.testing.assert_allclose(found, whole[path] * keep.T[:, :, None, None], rtol=1e-6)
    with pytest.raises(ValueError, match="expected one adapter, found a set of 3"):
        masked(masked(adapter, jnp.asarray(keep)), jnp.asarray(keep))


def by_hand(model, adapter, keep, examples) -> np.ndarray:
    """`[masks, n]`: one example at a time, without neighbours in its row; B is zero in layers that are not kept."""

    @jax.jit
    def logits(kept, ids):
        chosen = {path: dataclasses.replace(x, b=x.b * kept[:, None, None, None]) for path, x in adapter.items()}
        return model.logits(model(ids[None, None], chosen).hidden)[0, 0]

    def loss(kept, prompt, answer):
        ids = np.concatenate([prompt, answer])
        scores = np.asarray(logits(kept, np.pad(ids, (0, 64 - len(ids)))), np.float64)
        chances = scores - logsumexp(scores, axis=1, keepdims=True)
        return -chances[np.arange(len(prompt) - 1, len(ids) - 1), answer].sum()

    pairs = list(zip(examples.prompts, examples.answers, strict=True))
    return np.asarray([[loss(kept, *pair) for pair in pairs] for kept in keep.astype(np.float32)])


def long_and_short() -> tuple[Tokenized, Tokenized]:
    """The second set has longer examples, longer answers and more of them."""
    rng = np.random.default_rng(5)
    draw = lambda low, high: rng.integers(3, 97, rng.integers(low, high)).astype(np.int32)
    long = Tokenized(tuple(draw(20, 50) for _ in range(21)), tuple(draw(3, 15) for _ in range(21)))
    return tokenized(0, count=6), long


KEEP = np.asarray([[0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 0], [0, 1, 0], [1, 0, 1], [0, 0, 1]], bool)


def test_losses_of_each_example_by_hand(model, adapter):
    """To 2e-5 of each; equal masks give equal numbers, and `members` and `rows` do not matter."""
    sets, told = long_and_short(), []
    losses = MaskedLosses(model, sets, members=4, rows=3, pad=0)
    for examples in sets:
        nats, tokens = losses(adapter, KEEP, examples, report=told.append)
        assert tokens.tolist() == [len(answer) for answer in examples.answers]
        np.testing.assert_allclose(nats, by_hand(model, adapter, KEEP, examples), rtol=2e-5)
        np.testing.assert_array_equal(nats[2], nats[4])
        other, _ = MaskedLosses(model, sets, members=1, rows=8, pad=7)(adapter, KEEP, examples)
        np.testing.assert_allclose(nats, other, rtol=2e-5)
    assert told == [4, 2, 4, 2]  # six different masks
    assert np.ptp(nats.sum(axis=1)[[0, 1, 2, 3, 5, 6]]) > 1


def test_base_and_full_are_the_evaluators(model, adapter):
    """To 1e-5: as lorajax.training.evaluate measures it, by another program."""
    _, examples = long_and_short()
    nats, tokens = MaskedLosses(model, [examples], members=2, rows=4, pad=0)(adapter, KEEP[:2], examples)
    evaluate = Evaluator(model, rows=8, pad=0)
    silent = jax.tree.map(jnp.zeros_like, adapter)
    for own, mine in zip((silent, adapter), nats.sum(axis=1) / tokens.sum(), strict=True):
        assert evaluate(own, examples)[0][0] == pytest.approx(mine, abs=1e-5)


def test_one_program(model, adapter, config):
    """For sets of other sizes, other adapters, and fewer masks than go in at a time."""
    sets = long_and_short()
    losses = MaskedLosses(model, sets, members=4, rows=2, pad=0)
    for examples in sets:
        for own in (adapter, randomize(adapter, seed=3)):
            for keep in (KEEP, KEEP[:1]):
                losses(own, keep, examples)
    assert losses.program._cache_size() == 1


def test_logits_in_chunks(model, adapter, monkeypatch):
    _, examples = long_and_short()
    whole, _ = MaskedLosses(model, [examples], members=3, rows=4, pad=0)(adapter, KEEP, examples)
    monkeypatch.setattr(program, "CHUNK", 3 * 4 * 7)  # 7 does not divide the places of a row
    parts, _ = MaskedLosses(model, [examples], members=3, rows=4, pad=0)(adapter, KEEP, examples)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "members"), [((2, 2, 1), 4), pytest.param((4, 1, 2), 3, marks=pytest.mark.slow)], ids=str
)
def test_on_a_mesh(tmp_path, sizes, members):
    """Masks over `data` where it divides them, else rows: the numbers of one device, to 1e-4."""
    folder = tiny_checkpoint(tmp_path / "model")
    own = randomize(init_adapter(TINY, LORA, ["a"]))
    _, examples = long_and_short()
    found = []
    for mesh in (make_mesh(), make_mesh(data=sizes[0], fsdp=sizes[1], tensor=sizes[2])):
        model = load_weights(SafetensorsFolder(folder), TINY, mesh=mesh)
        losses = MaskedLosses(model, [examples], members=members, rows=4, pad=0)
        found.append(losses(own, KEEP[:, :2], examples)[0])
        assert losses.program._cache_size() == 1
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4)


def test_rows_are_not_padding():
    """Seven sets of 3 rows and one of 64: batches of 16 would be half empty."""
    assert program._rows_at_a_time([3] * 7 + [64], 16) == 5
    assert program._rows_at_a_time([64, 32], 16) == 16
    assert program._rows_at_a_time([1], 16) == 1


def ablation(
    shift: np.ndarray, tokens: np.ndarray, *, gain: float = 1.0, noise: float = 0.1, seed: int = 0
) -> Ablation:
    """Base, full and `single` masks whose loss is `shift` nats a token above full, with noise from example to example."""
    rng = np.random.default_rng(seed)
    own = (BASE, FULL, *(LayerMask("single", k, k) for k in range(1, len(shift) + 1)))
    above = np.asarray([gain, 0, *shift])
    full = rng.gamma(4, 0.5, len(tokens)) * tokens
    nats = full + (above[:, None] + noise * rng.normal(size=(len(own), len(tokens))) * (above != 0)[:, None]) * tokens
    return Ablation(own, nats, tokens)


class TestStatistics:
    def test_of_equally_long_answers(self):
        """Then a loss is a plain mean, and its standard error the textbook's; the interval is +-1.96 of them to 10 %."""
        own = ablation(np.asarray([0.4, 0.9]), np.full(500, 3))
        values, reason = own.statistics()
        assert reason == ""
        paired = (own.nats - own.nats[1]) / 3
        np.testing.assert_allclose(values["loss"], (own.nats / 3).mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(values["difference"], paired.mean(axis=1), rtol=1e-12)
        np.testing.assert_allclose(values["error"], paired.std(axis=1, ddof=1) / 500**0.5, rtol=1e-9)
        for end, sign in (("low", -1), ("high", 1)):
            distance = sign * (values[end] - values["difference"])
            np.testing.assert_allclose(distance[[0, 2, 3]], 1.96 * values["error"][[0, 2, 3]], rtol=0.1)
        np.testing.assert_allclose(values["share"], 1 - values["difference"] / values["difference"][0], rtol=1e-12)
        for name in ("share", "share_low", "share_high"):
            assert values[name][:2].tolist() == [0, 1]
        assert (values["share_low"] < values["share"])[2:].all()
        assert (values["share"] < values["share_high"])[2:].all()

    def test_weighs_tokens_alike(self):
        own = Ablation((BASE, FULL), np.asarray([[5.0, 2.0], [1.0, 1.0]]), np.asarray([3, 1]))
        values, _ = own.statistics()
        assert values["loss"].tolist() == [7 / 4, 2 / 4]

    def test_intervals_cover(self):
        """Of 200 studies with long and short answers, 90 to 99 % of the 95 % intervals hold the true 0.3."""
        held = 0
        for seed in range(200):
            tokens = np.random.default_rng(1000 + seed).integers(1, 30, 80)
            values, _ = ablation(np.asarray([0.3]), tokens, noise=0.5, seed=seed).statistics()
            held += values["low"][2] < 0.3 < values["high"][2]
        assert 0.9 < held / 200 < 0.99

    @pytest.mark.parametrize("gain", [0.001, -1.0])
    def test_no_gain_no_share(self, gain):
        values, reason = ablation(np.asarray([0.4]), np.full(20, 3), gain=gain).statistics()
        assert "cannot be told from 0 with 20 examples: " in reason
        assert f"{values['difference'][0]:.4f} nats a token, 95 % interval {values['low'][0]:.4f} to" in reason
        assert all(np.isnan(values[name]).all() for name in ("share", "share_low", "share_high"))
        assert np.isfinite(values["loss"]).all()

    def test_joined_masks_are_in_order(self):
        own = layer_masks(["single"], 2)
        first = Ablation((own[0], own[1], own[3]), np.arange(6.0).reshape(3, 2), np.asarray([1, 2]))
        second = Ablation((own[2],), np.full((1, 2), 9.0), np.asarray([1, 2]))
        joined = first.joined(second)
        assert joined.masks == own
        assert joined.nats[:, 0].tolist() == [0, 2, 9, 4]


class TestFindings:
    def test_smallest_band(self):
        own = (BASE, FULL, LayerMask("single", 3, 3), LayerMask("prefix", 1, 4), LayerMask("suffix", 2, 5),
               LayerMask("band", 2, 3), LayerMask("without", 1, 1))  # fmt: skip
        assert smallest_band(own, np.asarray([0, 1, 0.8, 0.95, 0.97, 0.89, 1.2])).label == "suffix 2-5"
        assert smallest_band(own, np.asarray([0, 1, 0.8, 0.95, 0.97, 0.9, 1.2])).label == "band 2-3"
        assert smallest_band(own, np.asarray([0, 1, 0.2, 0.3, 0.4, 0.5, 1.2])).label == "full"
        assert smallest_band(own, np.full(7, np.nan)) is None
        assert smallest_band((BASE, FULL, LayerMask("without", 1, 1)), np.asarray([0, 1, 1])) is None

    def test_costliest(self):
        own = (BASE, FULL, LayerMask("without", 1, 1), LayerMask("without", 2, 2), LayerMask("without", 3, 3),
               LayerMask("without", 2, 3), LayerMask("single", 2, 2))  # fmt: skip
        difference = np.asarray([5, 0, 0.2, 0.4, 0.9, 3, 4])
        values = {"difference": difference, "low": difference - np.asarray([1, 0, 0.1, 0.1, 1, 1, 1])}
        assert [mask.label for mask in costliest(own, values)] == ["without 2", "without 1"]
