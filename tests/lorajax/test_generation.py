"""Generated text against the definition: every token recomputed from scratch, without a cache, one sequence at a time."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from lorajax import generation
from lorajax.errors import LorajaxError
from lorajax.generation import GenerateConfig, cut, generate, padded_length, stop_tokens
from lorajax.lora.adapter import LoraConfig, init_adapter, take
from lorajax.mesh import make_mesh
from lorajax.models.config import ModelConfig
from lorajax.models.llama import Llama
from lorajax.models.safetensors_folder import SafetensorsFolder
from lorajax.models.weights import load_weights
from tests.conftest import randomize
from tests.tiny import TINY, tiny_checkpoint, tiny_tokenizer

NEW = 12
LENGTHS = (5, 33, 1, 18, 40)
WHOLE = 64  # tokens of a sequence that is computed at once


def prompts_of(lengths=LENGTHS, vocab=97, seed=0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, length).astype(np.int32) for length in lengths]


def two_adapters(config):
    """Two that differ in all their factors."""
    lora = LoraConfig(rank=4, targets=("all-linear",), init="independent")
    return randomize(init_adapter(config, lora, ["a", "b"]), scale=0.3)


@pytest.fixture(scope="module")
def varied(model) -> Llama:
    """A model with larger weights and a head of its own: a small tied head says the last token again and again."""
    return varied_model(model.config)


def varied_model(config) -> Llama:
    graphdef, state = nnx.split(Llama(dataclasses.replace(config, tie_embeddings=False), rngs=nnx.Rngs(5)))
    return nnx.merge(graphdef, jax.tree.map(lambda x: 2 * x if x.ndim == 3 else x, state))


def with_window(model, window) -> Llama:
    """The same weights, each token seeing `window` tokens."""
    config = dataclasses.replace(model.config, architecture="MistralForCausalLM", sliding_window=window)
    other = Llama(config, rngs=nnx.Rngs(0))
    nnx.update(other, nnx.state(model))
    return other


def greedy(model, adapter, prompt) -> tuple[list[int], float]:
    """NEW tokens by definition, and the least lead of a chosen logit over the next one."""

    @jax.jit
    def logits(tokens, last):  # what follows a token does not change its hidden state: one shape for all steps
        return model.logits(model(tokens[None, None], adapter).hidden[0, 0, last])

    ids, least = prompt.tolist(), np.inf
    while len(ids) < len(prompt) + NEW:
        scores = np.asarray(logits(np.pad(ids, (0, WHOLE - len(ids))), len(ids) - 1))
        second, first = np.sort(scores)[-2:]
        least = min(least, first - second)
        ids.append(int(scores.argmax()))
    return ids[len(prompt) :], least


class TestGreedy:
    @pytest.mark.parametrize("window", [7, pytest.param(None, marks=pytest.mark.slow)])
    @pytest.mark.everyday_cases(1)
    def test_is_the_argmax_recomputed_from_scratch(self, varied, window):
        model = varied if window is None else with_window(varied, window)
        adapter = two_adapters(model.config)
        prompts = [prompts_of(seed=1), prompts_of(seed=2)]
        answers = generate(model, adapter, prompts, config=GenerateConfig(NEW), batch_size=2)
        texts = [tuple(answer.tokens) for row in answers for answer in row]
        # Texts that differ from each other, and are not one token again and again, show something.
        assert len(set(texts)) == len(texts)
        assert min(len(set(text)) for text in texts) > 3
        for n in range(2):
            for prompt, answer in zip(prompts[n], answers[n], strict=True):
                want, lead = greedy(model, take(adapter, [n]), prompt)
                assert lead > 1e-4  # far from a tie
                assert (answer.tokens.tolist(), answer.stopped) == (want, False)

    def test_of_the_base_alone(self, varied):
        prompts = prompts_of(LENGTHS[:2])
        answers = generate(varied, None, [prompts], config=GenerateConfig(NEW))
        assert [a.tokens.tolist() for a in answers[0]] == [greedy(varied, None, prompt)[0] for prompt in prompts]

    @pytest.mark.slow
    def test_of_a_quantised_base(self, varied):
        pytest.importorskip("qwix", reason="needs qwix: pip install 'lorajax[quant]'")
        from lorajax.models.quantize import quantize

        model, adapter = quantize(varied, "nf4"), two_adapters(varied.config)
        prompts = prompts_of(LENGTHS[:2])
        answers = generate(model, adapter, [prompts, prompts], config=GenerateConfig(NEW))
        for n in range(2):
            want = [greedy(model, take(adapter, [n]), prompt)[0] for prompt in prompts]
            assert [a.tokens.tolist() for a in answers[n]] == want

    @pytest.mark.slow
    @pytest.mark.parametrize("sizes", [dict(fsdp=2, tensor=2), dict(data=2, fsdp=2)])
    def test_of_a_sharded_base_is_that_of_a_whole_one(self, tmp_path, sizes):
        folder = tiny_checkpoint(tmp_path / "model")
        config, source = ModelConfig.read(folder / "config.json"), SafetensorsFolder(folder)
        adapter, prompts = two_adapters(TINY), prompts_of((5, 17, 9), TINY.vocab_size)
        found = []
        for mesh in (make_mesh(), make_mesh(**sizes)):
            model = load_weights(source, config, mesh=mesh)
            answers = generate(model, adapter, [prompts, prompts[::-1]], config=GenerateConfig(NEW))
            found.append([answer.tokens.tolist() for row in answers for answer in row])
        assert found[0] == found[1]


class TestCache:
    @pytest.mark.parametrize("window", [None, 7])
    @pytest.mark.everyday_cases(1)
    def test_hidden_states_are_those_without_one(self, varied, window):
        """Prompts of different lengths, read and gone on with: the same states as of the joined sequences."""
        model = varied if window is None else with_window(varied, window)
        adapter, lengths, more = two_adapters(model.config), np.array([[3, 20, 11], [20, 1, 7]]), 5
        tokens = np.random.default_rng(0).integers(0, 97, (2, 3, 20 + more))
        whole = model(tokens, adapter).hidden
        prompts = np.where(np.arange(20) < lengths[..., None], tokens[:, :, :20], 0)
        _, cache = model.read(prompts, lengths, adapter, room=more)
        read_next = jax.jit(lambda token, cache: model.read_next(token, cache, adapter))
        for step in range(more):
            token = np.take_along_axis(tokens, (lengths + step)[..., None], axis=2)[..., 0]
            hidden, cache = read_next(token, cache)
            want = np.take_along_axis(np.asarray(whole), (lengths + step)[..., None, None], axis=2)[:, :, 0]
            np.testing.assert_allclose(hidden, want, atol=2e-5)

    def test_holds_key_heads_in_the_dtype_of_the_model(self, model, config):
        graphdef, state = nnx.split(model)
        half = nnx.merge(graphdef, jax.tree.map(lambda x: x.astype(jnp.bfloat16), state))

        def read(tokens):
            cache = half.read(tokens, jnp.full((2, 3), 10), room=6)[1]
            return half.read_next(tokens[..., 0], cache)[1]

        for part in jax.eval_shape(read, jax.ShapeDtypeStruct((2, 3, 10), jnp.int32)).past:
            assert part.shape == (config.num_layers, 2 * 3, config.num_kv_heads, 16, config.head_dim)
            assert part.dtype == jnp.bfloat16


class TestStop:
    def test_ends_each_answer_at_its_first_stop_token(self, varied):
        prompts = [prompts_of(seed=1)]
        plain = generate(varied, None, prompts, config=GenerateConfig(NEW))[0]
        ends = (int(plain[0].tokens[4]), int(plain[3].tokens[0]))
        stopped = generate(varied, None, prompts, config=GenerateConfig(NEW), stop_tokens=ends)[0]
        for before, after in zip(plain, stopped, strict=True):
            places = np.flatnonzero(np.isin(before.tokens, ends))
            assert after.stopped == (len(places) > 0)
            assert after.tokens.tolist() == before.tokens[: places[0] if len(places) else NEW].tolist()
        assert {after.stopped for after in stopped} == {True, False}
        assert (len(stopped[3].tokens), stopped[3].stopped) == (0, True)

    def test_ends_the_program_when_all_have_stopped(self, varied, monkeypatch):
        made, program = [], generation._generate

        def watched(*arguments, **keywords):
            made.append(program(*arguments, **keywords))
            return made[-1]

        monkeypatch.setattr(generation, "_generate", watched)
        prompts = [prompts_of(LENGTHS[:2], seed=1)]
        plain = generate(varied, None, prompts, config=GenerateConfig(NEW))[0]
        ends = [int(answer.tokens[i]) for answer, i in zip(plain, (2, 5), strict=True)]
        last = max(np.flatnonzero(np.isin(answer.tokens, ends))[0] for answer in plain)
        assert 0 < last < NEW - 1
        generate(varied, None, prompts, config=GenerateConfig(NEW), stop_tokens=ends)
        whole, ended = (np.asarray(tokens[0]) for tokens, _ in made)
        np.testing.assert_array_equal(ended[:, : last + 1], whole[:, : last + 1])
        assert (whole[:, last + 1 :] != 0).any()
        assert (ended[:, last + 1 :] == 0).all()  # never written to

    def test_tokens_of_tokenizer_and_config(self):
        tokenizer = tiny_tokenizer()
        assert stop_tokens(TINY, tokenizer) == (2,)
        assert stop_tokens(dataclasses.replace(TINY, eos_token_id=(7, 2, 5)), tokenizer) == (2, 5, 7)
        tokenizer.eos_token = None
        assert stop_tokens(dataclasses.replace(TINY, eos_token_id=None), tokenizer) == ()
        assert stop_tokens(dataclasses.replace(TINY, eos_token_id=-1), tokenizer) == ()


@pytest.fixture(scope="module")
def eleven(config):
    """A model of eleven tokens, a prompt, and the logits after it."""
    model = varied_model(dataclasses.replace(config, vocab_size=11))
    prompt = prompts_of((9,), 11)[0]
    logits = np.asarray(model.logits(model(prompt[None, None]).hidden)[0, 0, -1], np.float64)
    return model, prompt, logits


class TestSampling:
    DRAWS = 2000

    def drawn(self, model, prompt, **settings) -> np.ndarray:
        """How often each token was drawn after `prompt`, over DRAWS numbers."""
        config = GenerateConfig(1, seed=3, **settings)
        answers = generate(model, None, [[prompt] * self.DRAWS], config=config, batch_size=self.DRAWS)
        return np.bincount([int(answer.tokens[0]) for answer in answers[0]], minlength=model.config.vocab_size)

    def test_frequencies_follow_the_softmax(self, eleven):
        model, prompt, logits = eleven
        counts = self.drawn(model, prompt, temperature=0.7)

        def p_value(temperature):
            expected = np.exp(logits / temperature)
            return scipy.stats.chisquare(counts, self.DRAWS * expected / expected.sum()).pvalue

        assert p_value(0.7) > 0.01
        assert p_value(1.0) < 1e-6  # what is tested would show a wrong temperature

    @pytest.mark.everyday_cases(1)
    @pytest.mark.parametrize(("top_k", "top_p"), [(3, 1.0), (0, 0.6), (5, 0.7)])
    def test_frequencies_of_what_is_left(self, eleven, top_k, top_p):
        model, prompt, logits = eleven
        counts = self.drawn(model, prompt, temperature=2.0, top_k=top_k, top_p=top_p)
        kept = kept_by_definition(logits / 2, top_k, top_p)
        expected = np.where(kept, np.exp(logits / 2), 0)
        assert (counts[~kept] == 0).all()
        assert 1 < kept.sum() < 11
        assert scipy.stats.chisquare(counts[kept], self.DRAWS * (expected / expected.sum())[kept]).pvalue > 0.01

    @pytest.mark.parametrize("top_k", [0, 1, 4, 30, 50])
    @pytest.mark.parametrize("top_p", [0.01, 0.3, 0.9, 1.0])
    def test_cut_is_the_definition(self, top_k, top_p):
        logits = 2 * np.random.default_rng(0).normal(size=(2, 5, 30)).astype(np.float32)
        found = np.asarray(cut(jnp.asarray(logits), top_k=top_k, top_p=top_p))
        want = np.stack([[kept_by_definition(row, top_k, top_p) for row in rows] for rows in logits])
        np.testing.assert_array_equal(np.isfinite(found), want)
        np.testing.assert_array_equal(found[want], logits[want])

    def test_ties_stay_together(self):
        found = cut(jnp.asarray([1.0, 3.0, 1.0, 0.0, 1.0]), top_k=2)
        np.testing.assert_array_equal(found, [1, 3, 1, -np.inf, 1])

    def test_text_does_not_depend_on_the_batch(self, varied):
        config = GenerateConfig(NEW, temperature=1.0, seed=1)
        adapter, prompts = two_adapters(varied.config), [prompts_of((5, 1, 30), seed=seed) for seed in (1, 2)]
        all_at_once = generate(varied, adapter, prompts, config=config)
        in_pairs = generate(varied, adapter, prompts, config=config, batch_size=2)
        for p in range(3):
            alone = generate(varied, take(adapter, [1]), [[prompts[1][p]]], config=config, numbers=[p])[0][0]
            assert alone.tokens.tolist() == all_at_once[1][p].tokens.tolist() == in_pairs[1][p].tokens.tolist()

    def test_draws_depend_on_seed_and_number(self, varied):
        prompt = prompts_of((9,))[0]

        def texts(seed, numbers):
            config = GenerateConfig(NEW, temperature=1.0, seed=seed)
            answers = generate(varied, None, [[prompt] * len(numbers)], config=config, numbers=numbers)
            return [tuple(answer.tokens.tolist()) for answer in answers[0]]

        first = texts(0, [0, 1, 0, 2**32 - 1])
        assert first[0] == first[2]
        assert len(set(first)) == 3
        assert not set(first) & set(texts(1, [0, 1, 2, 3]))

    def test_same_adapters_give_the_same_text(self, varied):
        adapter, prompts = take(two_adapters(varied.config), [0, 0]), prompts_of()
        answers = generate(varied, adapter, [prompts, prompts], config=GenerateConfig(NEW, temperature=1.0))
        assert [a.tokens.tolist() for a in answers[0]] == [a.tokens.tolist() for a in answers[1]]


def kept_by_definition(logits, top_k, top_p) -> np.ndarray:
    """Which tokens are drawn from; no ties."""
    order = np.argsort(-logits)[: top_k or None]
    shares = np.exp(logits[order].astype(np.float64))
    shares /= shares.sum()
    count = next(n for n in range(1, len(order) + 1) if n == len(order) or shares[:n].sum() >= top_p)
    kept = np.zeros(len(logits), bool)
    kept[order[:count]] = True
    return kept


def test_compiled_once_for_prompts_of_a_shape(varied):
    adapter = two_adapters(varied.config)
    before, done = generation._generate._cache_size(), []
    for seed, lengths in enumerate([(5, 20, 9, 30), (32, 1, 7, 8), (2, 2, 31)]):
        prompts = prompts_of(lengths, seed=seed)
        settings = GenerateConfig(3, temperature=1.0, seed=seed)
        generate(varied, adapter, [prompts] * 2, config=settings, stop_tokens=[seed], batch_size=2, report=done.append)
    assert generation._generate._cache_size() == before + 1
    assert done == [2, 4, 2, 4, 2, 3]


def test_padded_lengths():
    lengths = np.arange(1, 5000)
    padded = np.array([padded_length(int(n)) for n in lengths])
    assert (padded >= lengths).all()
    assert sorted(set(padded[:1024])) == [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024]
    assert sorted(set(padded[1024:])) == [2048, 3072, 4096, 5120]


class TestBadInput:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (dict(max_new_tokens=0), "--max-new-tokens must be at least 1, found 0"),
            (dict(temperature=-1.0), "--temperature must be a number of at least 0, found -1.0"),
            (dict(temperature=float("nan")), "--temperature must be a number of at least 0, found nan"),
            (dict(temperature=1.0, top_k=-1), "--top-k must be at least 0, found -1"),
            (dict(temperature=1.0, top_p=0.0), "--top-p must be above 0 and at most 1, found 0.0"),
            (dict(seed=-1), "--seed must be a whole number from 0"),
            (dict(top_k=5), "change nothing at --temperature 0"),
        ],
    )
    def test_settings(self, settings, message):
        with pytest.raises(LorajaxError, match=message):
            GenerateConfig(**settings)

    @pytest.mark.parametrize(
        ("prompts", "message"),
        [
            ([[[1, 2]]], r"expected 2 lists, one per adapter, of the same number of prompts; found \[1\]"),
            ([[[1]], [[1], [2]]], r"found \[1, 2\]"),
            ([[], []], r"found \[0, 0\]"),
            ([[[1]], [[]]], "prompt 0 of adapter 1: is empty"),
            ([[[1], [5, 97]], [[1], [2]]], "prompt 1 of adapter 0: tokens from 5 to 97; expected 0 to 96"),
            ([[[-1]], [[2]]], "tokens from -1 to -1"),
            ([[[1] * 500], [[1]]], r"500 tokens and 64 new ones \(--max-new-tokens\) are more than the 512 positions"),
        ],
    )
    def test_prompts(self, model, config, prompts, message):
        with pytest.raises(LorajaxError, match=message):
            generate(model, two_adapters(config), [[np.asarray(p, np.int32) for p in row] for row in prompts])
