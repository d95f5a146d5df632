"""Merged adapters against the definitions on dense updates, written out in NumPy, and against the real peft."""

import dataclasses

import numpy as np
import pytest

from lorajax.errors import LorajaxError
from lorajax.lora.adapter import Lora, LoraConfig, init_adapter, stack, zeros_like
from lorajax.lora.entries import cut, cut_dense, threshold
from lorajax.lora.merge import MergeConfig, merge_adapters
from lorajax.lora.peft import load_adapter, save_adapter
from lorajax.lora.targets import linear_shapes, module_name
from tests.conftest import randomize
from tests.tiny import TINY

#: Of different ranks, scales, modules and layers.
CONFIGS = (
    LoraConfig(rank=4, alpha=8.0, targets=("all-linear",), init="independent"),
    LoraConfig(rank=2, alpha=3.0, targets=("q_proj", "v_proj", "down_proj"), rslora=True, init="independent"),
    LoraConfig(rank=3, alpha=-5.0, targets=(r"model\.layers\.1\.(mlp\.(up|down)|self_attn\.q)_proj",)),
)
WEIGHTS = (0.7, -1.3, 0.4)
FULL = 48  # no module's smaller side is larger

Q, UP = ("self_attn.q_proj", 1), ("mlp.up_proj", 1)


@pytest.fixture(scope="module")
def adapters():
    return [randomize(init_adapter(TINY, lora, [str(i)], seed=i), seed=i) for i, lora in enumerate(CONFIGS)]


def dense(adapter) -> dict:
    """Float64 updates `[in, out]` by module and layer."""
    found = {}
    for path, lora in adapter.items():
        a, b, scale = (np.asarray(x, np.float64) for x in (lora.a, lora.b, lora.scale))
        found |= {(path, i): scale[i, 0] * a[i, 0] @ b[i, 0] for i in np.flatnonzero(scale)}
    return found


def weighted(adapters, weights=WEIGHTS) -> dict:
    """By site, the weighted updates of all adapters `[n, in, out]`, zero where there is none."""
    parts = [dense(adapter) for adapter in adapters]
    shapes = {site: x.shape for part in parts for site, x in part.items()}
    return {
        site: np.stack([w * part.get(site, np.zeros(shape)) for w, part in zip(weights, parts, strict=True)])
        for site, shape in shapes.items()
    }


def same(merged, expected: dict, atol=2e-6):
    found = dense(merged.adapter)
    assert found.keys() == expected.keys()
    for site, want in expected.items():
        np.testing.assert_allclose(found[site], want, atol=atol * max(1, np.abs(want).max()), err_msg=str(site))


def best(x: np.ndarray, rank: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return u[:, :rank] * s[:rank] @ vt[:rank]


def trimmed(x: np.ndarray, share: float) -> np.ndarray:
    """The largest entries of each of x `[n, ...]`."""
    flat = x.reshape(len(x), -1)
    order = np.argsort(-np.abs(flat), axis=1)[:, : max(1, round(share * flat.shape[1]))]
    out = np.zeros_like(flat)
    np.put_along_axis(out, order, np.take_along_axis(flat, order, 1), 1)
    return out.reshape(x.shape)


def elected(x: np.ndarray) -> np.ndarray:
    """Entry by entry: the sign of the sum, and the mean of those that have it."""
    out = np.zeros(x.shape[1:])
    for place in np.ndindex(out.shape):
        values = x[(slice(None), *place)]
        agreeing = values[values * values.sum() > 0]
        out[place] = agreeing.mean() if len(agreeing) else 0
    return out


class TestLinear:
    def test_is_the_weighted_sum(self, adapters):
        merged = merge_adapters(adapters, MergeConfig("linear", WEIGHTS))
        same(merged, {site: x.sum(0) for site, x in weighted(adapters).items()})
        assert merged.discarded() == 0
        assert merged.lora.rank == 9  # 4 + 2 + 3, where all adapt
        assert merged.adapter[UP[0]].a.shape[-1] == 7
        assert merged.lora.scale == 1

    def test_is_not_that_of_the_factors(self, adapters):
        """What merging a and b apart would give: the cross terms are as large as the sum itself."""
        pair = [adapters[0], randomize(init_adapter(TINY, CONFIGS[0], ["x"], seed=9), seed=9)]
        a, b, scale = (np.mean([np.asarray(getattr(x[Q[0]], f)[1, 0]) for x in pair], 0) for f in ("a", "b", "scale"))
        true = dense(merge_adapters(pair, MergeConfig("average")).adapter)[Q]
        assert np.linalg.norm(scale * a @ b - true) > 0.5 * np.linalg.norm(true)

    def test_average(self, adapters):
        merged = merge_adapters(adapters, MergeConfig("average"))
        same(merged, {site: x.mean(0) for site, x in weighted(adapters, (1, 1, 1)).items()})
        merged = merge_adapters(adapters, MergeConfig("average", (3, 1, -2)))
        same(merged, {site: x.sum(0) for site, x in weighted(adapters, (1.5, 0.5, -1)).items()})

    @pytest.mark.parametrize("rank", [1, 3, 6])
    def test_cut_is_the_best_of_its_rank(self, adapters, rank):
        merged = merge_adapters(adapters, MergeConfig("linear", WEIGHTS, rank=rank))
        whole = {site: x.sum(0) for site, x in weighted(adapters).items()}
        same(merged, {site: best(x, rank) for site, x in whole.items()})
        lost = {site: np.sum((x - best(x, rank)) ** 2) for site, x in whole.items()}
        assert merged.discarded() == pytest.approx(sum(lost.values()) / sum(np.sum(x**2) for x in whole.values()))
        own = [np.sum(whole[UP[0], i] ** 2) for i in (0, 1)]
        np.testing.assert_allclose(merged.norms[UP[0]], own, rtol=1e-6)
        expected = sum(lost[UP[0], i] for i in (0, 1)) / sum(own)
        assert merged.discarded(UP[0]) == pytest.approx(expected, rel=1e-6, abs=1e-12)

    def test_never_more_than_full_rank(self, adapters):
        """Ten adapters of rank 4 over a module with 16 outputs."""
        merged = merge_adapters([adapters[0]] * 10, MergeConfig("average"))
        assert merged.adapter["self_attn.k_proj"].a.shape[-1] == 16
        assert merged.discarded() < 1e-12
        same(merged, dense(adapters[0]))

    def test_negation_and_unlearning(self, adapters):
        same(merge_adapters(adapters[:1], MergeConfig("linear", (-1,))), {s: -x for s, x in dense(adapters[0]).items()})
        gone = merge_adapters([adapters[0]] * 2, MergeConfig("linear", (1, -1)))
        same(gone, {s: 0 * x for s, x in dense(adapters[0]).items()})


class TestTies:
    def test_by_its_definition(self, adapters):
        merged = merge_adapters(adapters, MergeConfig("ties", WEIGHTS, rank=FULL, density=0.3))
        same(merged, {site: elected(trimmed(x, 0.3)) for site, x in weighted(adapters).items()})
        assert merged.discarded() < 1e-10

    def test_cut(self, adapters):
        """By default to the sum of ranks; what it loses is told."""
        for rank in (None, 5):
            merged = merge_adapters(adapters, MergeConfig("ties", rank=rank))
            whole = {site: elected(trimmed(x, 0.2)) for site, x in weighted(adapters, (1, 1, 1)).items()}
            ranks = {site: rank or sum(np.linalg.matrix_rank(x)) for site, x in weighted(adapters, (1, 1, 1)).items()}
            kept = {site: best(x, ranks[site]) for site, x in whole.items()}
            same(merged, kept, atol=1e-5)
            lost = sum(np.sum((whole[site] - kept[site]) ** 2) for site in whole)
            assert merged.discarded() == pytest.approx(lost / sum(np.sum(x**2) for x in whole.values()), rel=1e-5)
            assert 0.05 < merged.discarded() < 0.9

    def test_trimmed_over_the_whole_model(self, adapters):
        merged = merge_adapters(adapters, MergeConfig("ties", WEIGHTS, rank=FULL, density=0.3, trim="model"))
        parts = weighted(adapters)
        for i in range(3):
            own = [site for site in parts if parts[site][i].any()]  # of its own modules and layers
            flat = trimmed(np.concatenate([parts[site][i].ravel() for site in own])[None], 0.3)[0]
            at = 0
            for site in own:
                n = parts[site][i].size
                parts[site][i] = flat[at : at + n].reshape(parts[site][i].shape)
                at += n
        same(merged, {site: elected(x) for site, x in parts.items()})

    def test_a_draw_elects_no_sign(self, adapters):
        for method in ("ties", "knots"):
            merged = merge_adapters([adapters[0]] * 2, MergeConfig(method, (1, -1), density=1.0))
            same(merged, {site: 0 * x for site, x in dense(adapters[0]).items()})


class TestDare:
    def test_entries_are_dropped_or_rescaled(self, adapters):
        ratios = []
        for seed in (0, 1):
            merged = merge_adapters(adapters[:1], MergeConfig("dare_linear", density=0.25, rank=FULL, seed=seed))
            found, whole = dense(merged.adapter), dense(adapters[0])
            ratios.append(np.concatenate([(found[site] / whole[site]).ravel() for site in whole]))
            kept = ratios[-1] > 2
            np.testing.assert_allclose(ratios[-1][kept], 4, atol=1e-2)
            np.testing.assert_allclose(ratios[-1][~kept], 0, atol=1e-2)
            assert abs(kept.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / kept.size)
        both = (ratios[0] > 2) & (ratios[1] > 2)
        assert abs(both.mean() - 0.25**2) < 4 * np.sqrt(0.25**2 / both.size)

    def test_adapters_and_modules_drop_other_entries(self, adapters):
        two = merge_adapters([adapters[0]] * 2, MergeConfig("dare_linear", density=0.5, rank=FULL))
        ratio = np.rint(dense(two.adapter)[Q] / dense(adapters[0])[Q])
        assert set(ratio.ravel()) == {0, 2, 4}
        assert abs((ratio == 2).mean() - 0.5) < 4 * np.sqrt(0.25 / ratio.size)
        one = merge_adapters(adapters[:1], MergeConfig("dare_linear", density=0.5, rank=FULL))
        found, whole = dense(one.adapter), dense(adapters[0])
        kept = [np.abs(found[site]) > np.abs(whole[site]) for site in (Q, (Q[0], 0), ("self_attn.o_proj", 1))]
        for i, j in ((0, 1), (0, 2)):
            assert abs((kept[i] & kept[j]).mean() - 0.25) < 4 * np.sqrt(0.25 / 1024)

    def test_seeded(self, adapters):
        config = MergeConfig("dare_ties", WEIGHTS, density=0.5, seed=3)
        same(merge_adapters(adapters, config), dense(merge_adapters(adapters, config).adapter), atol=1e-7)

    def test_mean_over_seeds_is_the_sum(self, adapters):
        """Without a cut, dropping leaves the expectation as it was."""
        query = [{Q[0]: adapter[Q[0]]} for adapter in adapters]
        draws = [
            dense(merge_adapters(query, MergeConfig("dare_linear", WEIGHTS, density=0.5, seed=s, rank=FULL)).adapter)[Q]
            for s in range(200)
        ]
        parts = weighted(query)[Q]
        deviation = np.sqrt((parts**2).sum(0) / len(draws))  # variance x² (1 - p) / p = x² at p = 1/2
        assert np.abs(np.mean(draws, 0) - parts.sum(0)).max() < 5.5 * deviation.max()
        assert np.mean(((np.mean(draws, 0) - parts.sum(0)) / deviation) ** 2) == pytest.approx(1, abs=0.2)

    def test_elects_signs(self, adapters):
        merged = merge_adapters(adapters, MergeConfig("dare_ties", WEIGHTS, density=1.0, rank=FULL))
        same(merged, {site: elected(x) for site, x in weighted(adapters).items()})


class TestKnots:
    @pytest.mark.parametrize("trim", ["module", "model"])
    def test_by_its_definition(self, adapters, trim):
        """From dense updates: the SVD of all side by side, and ties on the entries of S V."""
        merged = merge_adapters(adapters, MergeConfig("knots", WEIGHTS, density=0.3, trim=trim))
        bases, parts = {}, {}
        for site, x in weighted(adapters).items():
            u, s, vt = np.linalg.svd(np.concatenate([y.T for y in x], 1), full_matrices=False)
            keep = s > 1e-6 * s[0]
            bases[site] = u[:, keep]
            parts[site] = np.stack(np.split((s[:, None] * vt)[keep], len(x), 1))  # [n, k, in]
            parts[site][~x.any((1, 2))] = 0  # rounding has a sign, too
        if trim == "module":
            small = {site: trimmed(x, 0.3) for site, x in parts.items()}
        else:
            small = {site: np.zeros_like(x) for site, x in parts.items()}
            for i in range(3):
                own = [site for site in parts if parts[site][i].any()]
                least = np.sort(np.concatenate([np.abs(parts[s][i]).ravel() for s in own]))[::-1]
                least = least[round(0.3 * least.size) - 1] * (1 - 1e-6)
                for site in own:
                    small[site][i] = np.where(np.abs(parts[site][i]) >= least, parts[site][i], 0)
        same(merged, {site: (bases[site] @ elected(small[site])).T for site in parts}, atol=1e-5)
        assert merged.lora.rank <= 9
        assert merged.discarded() == 0

    def test_cut(self, adapters):
        whole = dense(merge_adapters(adapters, MergeConfig("knots")).adapter)
        merged = merge_adapters(adapters, MergeConfig("knots", rank=2))
        same(merged, {site: best(x, 2) for site, x in whole.items()})
        assert merged.discarded() > 0


METHODS = ("average", "linear", "ties", "dare_linear", "dare_ties", "knots")


def settings(method, **more):
    return MergeConfig(method, rank=FULL if method not in ("linear", "knots") else None, **more)


@pytest.mark.parametrize("method", METHODS)
class TestAnyMethod:
    def test_is_a_function_of_updates(self, adapters, method):
        """(a G, G⁻¹ b) and other scales give the same; so do zero columns."""
        rng = np.random.default_rng(0)

        def disguised(lora: Lora) -> Lora:
            r = lora.a.shape[-1]
            G = np.linalg.qr(rng.normal(size=(r, r)))[0] * np.geomspace(0.5, 2, r)
            a, b = np.asarray(lora.a) @ G, np.linalg.inv(G) @ np.asarray(lora.b) / 3
            a = np.pad(a, ((0, 0), (0, 0), (0, 0), (0, 1)))
            b = np.pad(b, ((0, 0), (0, 0), (0, 1), (0, 0)), constant_values=1.0)
            return Lora(a.astype(np.float32), b.astype(np.float32), 3 * np.asarray(lora.scale))

        others = [{path: disguised(lora) for path, lora in adapter.items()} for adapter in adapters]
        found = dense(merge_adapters(others, settings(method)).adapter)
        want = dense(merge_adapters(adapters, settings(method)).adapter)
        for site, x in want.items():
            # Rounding moves an entry over a threshold now and then.
            far = np.abs(found[site] - x) > 1e-4 * np.abs(x).max()
            assert far.mean() < 0.01 or method == "knots", site
            if method == "knots":
                assert np.linalg.norm(found[site] - x) < 0.02 * np.linalg.norm(x), site

    def test_weights_belong_to_updates(self, adapters, method):
        """A weight is the same as a scale, sign included."""
        if method == "average":
            pytest.skip("divides by the sum of weights")
        scaled = [
            {path: dataclasses.replace(lora, scale=lora.scale * w) for path, lora in adapter.items()}
            for adapter, w in zip(adapters, WEIGHTS, strict=True)
        ]
        found = merge_adapters(scaled, settings(method))
        same(found, dense(merge_adapters(adapters, settings(method, weights=WEIGHTS)).adapter))

    def test_copies_of_one_merge_to_it(self, adapters, method):
        one = dense(adapters[0])
        density = None if method in ("average", "linear") else 1.0
        merged = merge_adapters([adapters[0]] * 3, settings(method, density=density))
        factor = 3 if method in ("linear", "dare_linear") else 1
        same(merged, {site: factor * x for site, x in one.items()}, atol=1e-5)

    def test_zero_updates(self, adapters, method):
        """New adapters: B is zero, and so is the merge; layers stay adapted."""
        new = init_adapter(TINY, CONFIGS[1], ["new"])
        merged = merge_adapters([new, new], settings(method))
        assert not any(np.asarray(lora.b).any() for lora in merged.adapter.values())
        assert np.isnan(merged.discarded())
        with_new = merge_adapters([adapters[2], new], settings(method))
        assert dense(with_new.adapter).keys() == dense(adapters[2]).keys() | dense(new).keys()

    def test_saved_and_loaded(self, adapters, method, tmp_path):
        merged = merge_adapters(adapters, MergeConfig(method, rank=4))
        save_adapter(merged.adapter, merged.lora, tmp_path / "merged", base="tiny")
        found, lora = load_adapter(tmp_path / "merged", TINY)
        assert (lora.rank, lora.scale) == (merged.lora.rank, 1.0)
        same(dataclasses.replace(merged, adapter=found), dense(merged.adapter), atol=1e-7)


@pytest.mark.parametrize("share", [1e-9, 0.01, 0.5, 0.999, 1.0])
def test_threshold_is_the_kth_largest(share):
    rng = np.random.default_rng(0)
    blocks = [
        rng.normal(size=n).astype(np.float32) * scale for n, scale in ((50, 1), (999, 1e-30), (301, 1e-41), (2, 0))
    ]
    blocks = [x.astype(np.float32).reshape(1, -1) for x in blocks]
    ordered = np.sort(np.abs(np.concatenate(blocks, 1))[0])[::-1]
    found = threshold([lambda x=x: x for x in blocks], share)
    assert found == ordered[max(1, round(share * ordered.size)) - 1]
    assert threshold([], share) == 0


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (5, 5)])
def test_cuts_agree(shape):
    """From factors and from the product, against NumPy's SVD; also where singular values are equal or zero."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(shape[0], 6)), rng.normal(size=(6, shape[1]))
    a[:, 5] = a[:, 4]
    for rank in (1, 3, 5, 20):
        want, whole = best(a @ b, rank), np.sum((a @ b) ** 2)
        for found in (cut(a, b, rank), cut_dense((a @ b), rank)):
            assert found.a.shape[1] == len(found.b) <= min(rank, *shape)
            np.testing.assert_allclose(found.a @ found.b, want, atol=1e-12)
            np.testing.assert_allclose([found.norm, found.lost], [whole, whole - np.sum(want**2)], atol=1e-10 * whole)


@pytest.mark.parametrize(
    "values", [np.arange(300, 0, -1), np.repeat([9, 9, 5, 1], 75), np.r_[np.ones(7), np.zeros(293)]]
)
def test_cut_of_a_large_module(values):
    """Where a few directions are found by iteration; also of equal singular values, where others are as good."""
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(n, 300)))[0] for n in (300, 330))
    for x in (u * values @ v.T, (u * values @ v.T).T):
        for rank in (1, 5, 60):
            found = cut_dense(x, rank)
            assert found.a.shape[1] == rank
            lost = np.sum(values[rank:] ** 2.0)
            np.testing.assert_allclose(found.lost, lost, rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(np.sum((x - found.a @ found.b) ** 2), lost, rtol=1e-9, atol=1e-9)


class TestBadInput:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (dict(rank=0), "--rank must be at least 1, found 0"),
            (dict(weights=(1.0, float("nan"))), "--weights must be finite numbers, found 1 nan"),
            (dict(method="ties", density=0.0), "--density must be above 0 and at most 1, found 0.0"),
            (dict(method="ties", density=1.1), "--density must be above 0 and at most 1, found 1.1"),
            (dict(density=0.5), "--density goes with ties, dare and knots; --method linear keeps all entries"),
            (dict(method="dare_ties", trim="model"), "--trim model goes with ties and knots; --method dare_ties trims"),
            (dict(method="dare_ties", seed=-1), "--seed must be 0 or more, found -1"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(LorajaxError, match=message):
            MergeConfig(**settings)

    def fails(self, message, adapters, **config):
        with pytest.raises(LorajaxError, match=message):
            merge_adapters(adapters, MergeConfig(**config))

    def test_adapters(self, adapters, config):
        self.fails("name at least one adapter", [])
        self.fails("--weights: 2 numbers for 3 adapters; expected one for each", adapters, weights=(1, 2))
        self.fails("--weights 1 -1 sum to 0, and --method average", adapters[:2], method="average", weights=(1, -1))
        self.fails("adapter 2 is a set of 2; expected one", [adapters[0], stack(adapters[:2])])
        other = init_adapter(config, CONFIGS[1], ["other"])
        self.fails(
            r"adapter 2: self_attn.q_proj has \(layers, in, out\) = \(3, 32, 32\), and \(2, 32, 32\) in the",
            [adapters[0], other],
        )
        broken = {p: dataclasses.replace(x, b=np.full(x.b.shape, np.nan)) for p, x in adapters[1].items()}
        self.fails("adapter 2: self_attn.q_proj holds values that are not finite", [adapters[0], broken])
        assert not merge_adapters([zeros_like(adapters[0])]).adapter


class TestPeft:
    """`add_weighted_adapter` where it works on updates: its kinds ending in svd, and cat."""

    @pytest.fixture(scope="class")
    @classmethod
    def saved(cls, tmp_path_factory):
        pytest.importorskip("peft", reason="needs peft: pip install 'lorajax[test]'")
        from lorajax.models.config import ModelConfig
        from tests.parity.models import torch_model

        folder = tmp_path_factory.mktemp("peft")
        torch_model("llama3").save_pretrained(folder / "base")
        config = ModelConfig.read(folder / "base" / "config.json")
        members = []
        for i, rank in enumerate((4, 6)):
            lora = LoraConfig(rank=rank, alpha=8.0 + i, targets=("all-linear",), rslora=i == 1, init="independent")
            members.append(randomize(init_adapter(config, lora, [str(i)], seed=i), seed=i))
            save_adapter(members[-1], lora, folder / str(i), base="tiny")
        return folder, members

    @pytest.fixture(scope="class")
    @classmethod
    def model(cls, saved):
        """The real model with both adapters."""
        import peft
        import transformers

        folder, _ = saved
        base = transformers.AutoModelForCausalLM.from_pretrained(folder / "base").float()
        model = peft.PeftModel.from_pretrained(base, folder / "0", adapter_name="0")
        model.load_adapter(folder / "1", "1")
        return model

    def deltas(self, model, name) -> dict:
        modules = dict(model.get_base_model().named_modules())
        sites = [(path, i) for path in linear_shapes(TINY) for i in range(3)]
        return {site: modules[module_name(*site)].get_delta_weight(name).detach().numpy().T for site in sites}

    @pytest.mark.parametrize(
        ("kind", "theirs", "ours"),
        [
            ("cat", dict(), dict(method="linear")),
            ("svd", dict(svd_rank=3), dict(method="linear", rank=3)),
            ("ties_svd", dict(svd_rank=16, density=0.25), dict(method="ties", rank=16, density=0.25)),
            ("dare_ties_svd", dict(svd_rank=16, density=1.0), dict(method="dare_ties", rank=16, density=1.0)),
        ],
    )
    @pytest.mark.filterwarnings("ignore:The density")
    def test_same_update(self, saved, model, kind, theirs, ours):
        # The same weight for both: with others, peft elects signs before it weights.
        weights = [0.7, -0.4] if kind in ("cat", "svd") else [0.7, 0.7]
        model.add_weighted_adapter(["0", "1"], weights, kind, combination_type=kind, **theirs)
        merged = merge_adapters(saved[1], MergeConfig(weights=tuple(weights), **ours))
        same(merged, self.deltas(model, kind), atol=1e-5)

    def test_ours_loads_there(self, saved, model):
        folder, members = saved
        merged = merge_adapters(members, MergeConfig("ties", (0.5, 2.0), rank=5))
        save_adapter(merged.adapter, merged.lora, folder / "ours", base="tiny")
        model.load_adapter(folder / "ours", "ours")
        same(merged, self.deltas(model, "ours"), atol=1e-6)
