"""Training steps against torch + peft: one adapter, and a fleet against as many runs in turn.

    python benchmarks/train.py            SmolLM2-135M, r = 16 on all linear modules, T = 128: CPU, a few minutes
    python benchmarks/train.py --quick    the same with six of the thirty blocks
    python benchmarks/train.py --scaling  time, memory and compile time by tokens, adapters and depth (ours)
    python benchmarks/train.py --model llama3-8b --dtype bfloat16 --length 4096 --cases 1x2 --alone      for a GPU

A case NxB is N adapters with B rows each. Both sides have the same shapes, weights are random (no step depends on
them), and steps are taken in turn in one process. Every token is trained on, or with `--answers R` the last R of every
row, as where instructions are learnt to be followed; peft users mark the others with label -100. Prints medians, the
ratio of each pair, and the roofline: matrix work of a step over the peak rate of plain matrix products, measured on the
spot.
Needs the extra [test]; --alone and --scaling do not.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from lorajax.data.batching import Layout
from lorajax.lora.adapter import LoraConfig, init_adapter
from lorajax.machines import matrix_rate
from lorajax.mesh import make_mesh, replicate
from lorajax.models.config import ModelConfig
from lorajax.models.llama import Llama
from lorajax.models.named import config_of
from lorajax.training.config import TrainConfig
from lorajax.training.flops import count_flops
from lorajax.training.step import init_state, layouts, make_step

LORA = LoraConfig(rank=16, targets=("all-linear",))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a name that lorajax.models.named knows")
    parser.add_argument("--cases", nargs="+", default=["1x8", "8x1"], help="NxB: adapters x rows of each")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--answers", type=int, help="tokens of a row that are trained on; all unless given")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--peer-dtype", choices=["float32", "bfloat16"], help="of torch; ours unless given")
    parser.add_argument("--remat", default="products", choices=["none", "products", "block"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="six blocks and three runs")
    parser.add_argument("--alone", action="store_true", help="without torch")
    parser.add_argument("--scaling", action="store_true")
    options = parser.parse_args()
    options.answers = options.answers or options.length - 1
    if not 0 < options.answers < options.length:
        parser.error(f"--answers must be in 1..{options.length - 1} for rows of {options.length}: {options.answers}")
    config = config_of(options.model)
    if options.quick:
        options.runs, config = 3, dataclasses.replace(config, num_layers=6)
    if options.dtype == "float32":
        jax.config.update("jax_default_matmul_precision", "highest")
    if options.scaling:
        return scaling(config, options)
    peak = matrix_rate(1024, config.hidden_size, config.intermediate_size, options.dtype)
    print(f"plain matrix products: {peak / 1e9:,.0f} GFLOP/s {options.dtype} on {jax.devices()[0].device_kind}")
    for case in options.cases:
        N, B = map(int, case.split("x"))
        compare(config, N, B, peak, options)


def compare(config: ModelConfig, N: int, B: int, peak: float, options: argparse.Namespace) -> None:
    """Steps of both sides in turn: two that count, after one that does not.

    A step right after the other side's gets its memory anew from the system, which a training does not.
    """
    ours, memory = fleet(config, N, B, options)
    sides: dict[str, Callable[[], object]] = {"lorajax": ours}
    if not options.alone:
        sides["torch + peft"] = one_by_one(config, N, B, options)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.runs):
        for name, side in sides.items():
            side()
            start = time.perf_counter()
            for _ in range(2):
                side()
            seconds[name].append((time.perf_counter() - start) / 2)
    tokens, trained = N * B * options.length, f"{options.answers} of them trained on"
    print(f"\n{N} adapters x {B} rows x {options.length} tokens, {trained}, {config.num_layers} blocks")
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"  {name:13} {middle:7.2f} s a step (best {min(values):.2f})  {tokens / middle:9,.0f} tokens/s")
    settings, layout = TrainConfig(remat=options.remat), Layout(B, options.length, options.answers)
    counted = count_flops(config, LORA, settings, layout, N)
    work = counted.total - counted.recompute
    share = work / statistics.median(seconds["lorajax"]) / peak
    print(f"  matrix work {work / 1e12:.2f} TFLOP a step (+ {counted.recompute / work:.0%} recomputed)")
    print(f"  lorajax at {share:.0%} of the rate above; {memory}")
    if not options.alone:
        pairs = [b / a for a, b in zip(*seconds.values(), strict=True)]
        told = ", ".join(f"{pair:.2f}" for pair in pairs)
        print(f"  torch + peft takes {statistics.median(pairs):.2f} times as long (pairs {told})")


def fleet(config: ModelConfig, N: int, B: int, options: argparse.Namespace) -> tuple[Callable[[], float], str]:
    """A function that takes one step of N adapters, and a word on its memory."""
    T, R, mesh = options.length, options.answers, make_mesh()
    model = jax.jit(lambda: nnx.state(Llama(config, dtype=jnp.dtype(options.dtype), rngs=nnx.Rngs(0))))
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))
    base = replicate(model(), mesh)
    names = [str(i) for i in range(N)]
    settings = TrainConfig(schedule="constant", warmup=0.0, remat=options.remat)
    start = init_state(init_adapter(config, LORA, names), settings, names)
    placed = layouts(mesh, *start)
    state, fixed = jax.device_put(start, placed)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (N, B, T)).astype(np.int32)
    batch = jax.device_put(
        {
            "tokens": tokens,
            "predict": np.broadcast_to(np.arange(T - 1 - R, T - 1, dtype=np.int32), (N, B, R)),
            "labels": tokens[:, :, T - R :],
            "weights": np.ones((N, B, R), np.float32),
        }
    )
    began = time.perf_counter()
    compiled = make_step(graphdef, settings, mesh, placed[0]).lower(state, base, fixed, batch).compile()
    seconds, memory = time.perf_counter() - began, compiled.memory_analysis()
    held = [state]

    def run() -> float:
        held[0], metrics = compiled(held[0], base, fixed, batch)
        return float(metrics["loss"].mean())

    arguments, temporary = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    return run, f"{arguments / 1e9:.2f} GB arguments + {temporary / 1e9:.2f} GB temporary; compiled in {seconds:.0f} s"


def one_by_one(config: ModelConfig, N: int, B: int, options: argparse.Namespace) -> Callable[[], float]:
    """A function that takes one step of each of N peft adapters over one torch model."""
    import peft
    import torch
    import transformers

    dtype = getattr(torch, options.peer_dtype or options.dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            tie_word_embeddings=config.tie_embeddings,
        )
    ).to(device, dtype)
    settings = peft.LoraConfig(r=LORA.rank, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    names = [str(i) for i in range(N)]
    adapted = peft.get_peft_model(base, settings, adapter_name=names[0])
    for name in names[1:]:
        adapted.add_adapter(name, settings)
    own = {name: [p for n, p in adapted.named_parameters() if f".{name}." in n] for name in names}
    optimizers = {name: torch.optim.AdamW(own[name], lr=1e-3, weight_decay=0.0) for name in names}
    data = torch.randint(0, config.vocab_size, (N, B, options.length), device=device)
    labels = data.clone()
    labels[..., : options.length - options.answers] = -100  # no label, as transformers has it

    def run() -> float:
        total = 0.0
        for i, name in enumerate(names):
            adapted.set_adapter(name)
            loss = adapted(data[i], labels=labels[i]).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(own[name], 1.0)
            optimizers[name].step()
            optimizers[name].zero_grad()
            total += loss.item()
        return total / N

    return run


def scaling(config: ModelConfig, options: argparse.Namespace) -> None:
    """Step time, memory and compile time for more rows, more adapters and more blocks, one at a time."""
    base = dataclasses.replace(config, num_layers=6)
    print("blocks  N  B  seconds a step  arguments, temporary and compile time")
    for blocks, N, B in ((6, 1, 2), (6, 1, 4), (6, 1, 8), (6, 2, 2), (6, 4, 2), (12, 1, 2), (24, 1, 2)):
        run, memory = fleet(dataclasses.replace(base, num_layers=blocks), N, B, options)
        run()
        seconds = []
        for _ in range(options.runs):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        print(f"{blocks:6} {N:2} {B:2}  {statistics.median(seconds):13.2f}   {memory}")


if __name__ == "__main__":
    main()
