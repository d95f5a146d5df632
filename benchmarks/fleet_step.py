"""One training step of a fleet of N adapters against torch + peft, which trains them one after another.

    python benchmarks/fleet_step.py --adapters 9 --batch 4 --length 56

Same model (SmolLM2-135M, float32), shapes, adapters (q and v, r = 8) and AdamW on both sides, in one run, the two
in turn. Needs the extra [test]. Prints seconds, tokens per second and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
import peft
import torch
import transformers
from flax import nnx

from lorajax.lora.adapter import LoraConfig, init_adapter
from lorajax.mesh import on_mesh, replicate
from lorajax.models.checkpoint import load
from lorajax.models.weights import save_hf
from lorajax.training.step import TrainConfig, adapter_keys, init_state, make_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--adapters", type=int, default=9)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=56)
    parser.add_argument("--answer", type=int, default=6, help="answer tokens at the end of each row")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    N, B, T, R = options.adapters, options.batch, options.length, options.answer

    checkpoint = load("smollm2")
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, checkpoint.model.config.vocab_size, (N, B, T)).astype(np.int32)

    ours = fleet(checkpoint.model, tokens, R)
    theirs = one_by_one(checkpoint.model, tokens, R)
    ours(), theirs()  # compile, allocate
    seconds: dict[str, list[float]] = {"lorajax": [], "torch + peft": []}
    for _ in range(options.runs):
        for name, step in (("lorajax", ours), ("torch + peft", theirs)):
            start = time.perf_counter()
            loss = step()
            seconds[name].append(time.perf_counter() - start)
            print(f"{name:13} {seconds[name][-1]:6.2f} s  mean loss {loss:.4f}")
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"{name:13} median {middle:.2f} s  {N * B * T / middle:,.0f} tokens/s  (best {min(values):.2f} s)")
    ratio = statistics.median(seconds["torch + peft"]) / statistics.median(seconds["lorajax"])
    print(f"torch + peft takes {ratio:.2f} times as long ({N} adapters, {B} x {T} tokens each)")


def fleet(model, tokens: np.ndarray, answer: int):
    """A function that runs one fleet step and returns the mean loss."""
    N, B, T = tokens.shape
    names = [str(i) for i in range(N)]
    graphdef, base = nnx.split(model)
    base, mesh = on_mesh(base)
    config = TrainConfig(learning_rate=1e-3, schedule="constant", warmup=0.0)
    state, scales = replicate(init_state(init_adapter(model.config, LoraConfig(), names), config), mesh)
    keys = adapter_keys(init_adapter(model.config, LoraConfig(), names), names, seed=0)
    step = make_step(graphdef, config)
    positions = np.broadcast_to(np.arange(T - answer - 1, T - 1, dtype=np.int32), (N, B, answer))
    batch = {
        "tokens": tokens,
        "positions": positions,
        "labels": tokens[:, :, T - answer :],
        "weights": np.ones((N, B, answer), np.float32),
    }
    batch = jax.device_put(batch)
    held = [state]

    def run() -> float:
        held[0], metrics = step(held[0], base, scales, batch, keys)
        return float(metrics["loss"].mean())

    return run


def one_by_one(model, tokens: np.ndarray, answer: int):
    """A function that runs one step of each of N peft adapters over one torch model, and returns the mean loss."""
    with tempfile.TemporaryDirectory() as folder:
        save_hf(model, Path(folder) / "base")
        base = transformers.AutoModelForCausalLM.from_pretrained(Path(folder) / "base", dtype=torch.float32)
    names = [str(i) for i in range(len(tokens))]
    keys = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    adapted = peft.get_peft_model(base, peft.LoraConfig(**keys), adapter_name=names[0])
    for name in names[1:]:
        adapted.add_adapter(name, peft.LoraConfig(**keys))
    optimizers = {}
    for name in names:
        own = [p for n, p in adapted.named_parameters() if f".{name}." in n]
        optimizers[name] = torch.optim.AdamW(own, lr=1e-3, weight_decay=0.0)
    data = torch.tensor(tokens, dtype=torch.long)
    labels = data.clone()
    labels[:, :, :-answer] = -100

    def run() -> float:
        losses = []
        for i, name in enumerate(names):
            adapted.set_adapter(name)
            loss = adapted(data[i], labels=labels[i]).loss
            loss.backward()
            own = [p for group in optimizers[name].param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(own, 1.0)
            optimizers[name].step()
            optimizers[name].zero_grad()
            losses.append(loss.item())
        return float(np.mean(losses))

    return run


if __name__ == "__main__":
    main()
