"""Trains two adapters as one fleet: python examples/train_two_adapters.py [MODEL [OUT]]

MODEL is a Hugging Face folder, a hub id, a GGUF file, or `smollm2` (93 MB, fetched once; needs the extra `gguf`). OUT
gets a PEFT folder for each adapter, and the checkpoints: the same command again goes on where it stopped.
"""

import sys
import tempfile
from pathlib import Path

from lorajax.data import Limits, PromptConfig, Reading, Stream, open_source, tokenize
from lorajax.lora import LoraConfig, init_adapter, save_adapter, stack, take, zeros_like
from lorajax.models import load
from lorajax.training import Evaluator, Fleet, TrainConfig, train

model = sys.argv[1] if len(sys.argv) > 1 else "smollm2"
out = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp(prefix="two-adapters-"))
names = ("arithmetic", "capital_city")
lora, config = LoraConfig(rank=8), TrainConfig(steps=6, batch_size=4)

checkpoint = load(model)
tasks = open_source("builtin").read(names, Limits(train=64, test=8), Reading())
data = {name: tokenize(tasks[name].train, checkpoint.tokenizer, PromptConfig()) for name in names}
fleet = Fleet(
    names,
    adapter=init_adapter(checkpoint.model.config, lora, names),
    streams=tuple(Stream(name, [data[name]], seed=0) for name in names),
    steps=(config.steps,) * 2,
    learning_rates=(config.learning_rate, 2e-3),  # each has its own
    pad=0,
)
trained = train(checkpoint.model, fleet, config, out / "training", report=lambda now: print(now.step, now.loss))

both = stack([zeros_like(take(trained.adapter, [0])), trained.adapter])  # the base, then the two
evaluate = Evaluator(checkpoint.model, rows=8, pad=0)
for i, name in enumerate(names):
    save_adapter(take(trained.adapter, [i]), lora, out / name, base=model)
    losses, _ = evaluate(both, tokenize(tasks[name].test, checkpoint.tokenizer, PromptConfig()))
    print(f"{out / name}: nats per answer token: base {losses[0]:.3f}, the two {losses[1]:.3f} and {losses[2]:.3f}")
