"""Every command in README.md and docs/, and what a test does with it.

    RUN       runs for real, with a model of two blocks and random weights: what is run in its place
    PARSED    our commands that need what a test does not have: the real argument parser takes them
    OUTSIDE   commands of others; of `make` and `pip`, targets and extras are looked up

A command that is in none of these, or in two, fails a test. In RUN, {tiny} and {encoder} are folders of checkpoints.
"""

SMALL = "--steps 2 --batch-size 2 --test-examples 8 --max-length 256 --rank 2"
TINY = "--model {tiny} --train-examples 12 " + SMALL
TASKS = "--tasks arithmetic capital_city"

RUN = {
    # README.md
    "python -m run.study studies/mine --model smollm2 --tasks capital_city short_posts arithmetic --steps 100":
        f"python -m run.study studies/mine --tasks capital_city short_posts arithmetic {TINY}",
    # docs/tutorial.md
    "python -m run.study studies/demo --recipe demo": f"python -m run.study studies/demo --recipe demo {TASKS} {TINY}",
    "python -m run.cka_all_layers studies/demo --estimator biased":
        "python -m run.cka_all_layers studies/demo --estimator biased",
    "python -m run.score studies/demo --examples 16":
        "python -m run.score studies/demo --examples 2 --max-new-tokens 4",
    "python -m run.study studies/rank2 --recipe demo --rank 2":
        f"python -m run.study studies/rank2 --recipe demo {TASKS} {TINY} --rank 1",
    "python -m run.report studies/demo studies/rank2 --out studies/side-by-side":
        "python -m run.report studies/demo studies/rank2 --out studies/side-by-side",
    "python -m run.study studies/larger --recipe demo --rank 32 --steps 200 --dry-run":
        f"python -m run.study studies/larger --recipe demo {TINY} --dry-run",
    # docs/how-to/your-data.md
    "python -m run.study studies/words --data my-tasks --dry-run":
        f"python -m run.study studies/words --data my-tasks {TINY} --dry-run",
    "python -m run.study studies/words --data my-tasks --steps 100":
        f"python -m run.study studies/words --data my-tasks {TINY}",
    # docs/how-to/your-model.md, docs/data.md
    "python -m run.plan --model llama3.2-1b --fleet 8 --batch-size 4 --length 512 --dtype bfloat16 --accelerator h100":
        "python -m run.plan --model {tiny} --fleet 8 --batch-size 4 --length 512 --dtype bfloat16 --accelerator h100",
    "python -m run.study studies/glue --model FacebookAI/roberta-base --data my-glue --tasks rte mrpc cola sst2":
        "python -m run.study studies/glue --model {encoder} --data my-glue --tasks rte mnli sst2 --train-examples 12 "
        + SMALL.replace("256", "128 --max-answer 8"),
    "python -m run.export smollm2 exported --adapter studies/mine/adapters/E":
        "python -m run.export {tiny} exported --adapter studies/mine/adapters/E",
    # docs/how-to/adapters-from-the-hub.md
    "python -m run.compare_adapters my-adapters --out results/mine":
        "python -m run.compare_adapters my-adapters --out results/mine --draws 20",
    "python -m run.compare_adapters my-adapters/red my-adapters/green --out results/two":
        "python -m run.compare_adapters my-adapters/red my-adapters/green --out results/two --draws 20",
    "python -m run.compare_adapters my-adapters --out results/clustered --clusters clusters.csv":
        "python -m run.compare_adapters my-adapters --out results/clustered --clusters clusters.csv --draws 20",
    "python -m run.compare_adapters seed0=studies/seed0 seed1=studies/seed1 --out results/seeds":
        "python -m run.compare_adapters seed0=studies/seed0 seed1=studies/seed1 --out results/seeds --draws 20",
    "python -m run.compare_adapters my-adapters --out results/based --base my-model":
        "python -m run.compare_adapters my-adapters --out results/based --base {tiny} --draws 20",
    "python -m run.cka_all_layers my-model my-adapters/red my-adapters/green --out results/states --tasks arithmetic "
    "capital_city":
        "python -m run.cka_all_layers {tiny} my-adapters/red my-adapters/green --out results/states --tasks arithmetic "
        "capital_city --test-examples 8 --max-length 256",
    "python -m run.merge_adapters merged/average my-adapters/red my-adapters/green --method average":
        "python -m run.merge_adapters merged/average my-adapters/red my-adapters/green --method average",
    "python -m run.merge_adapters merged/ties my-adapters/red my-adapters/green --method ties --density 0.2 --rank 4":
        "python -m run.merge_adapters merged/ties my-adapters/red my-adapters/green --method ties --density 0.2 --rank 4",
    "python -m run.finetune studies/mine --eval-only --adapter merged=merged/average":
        f"python -m run.finetune studies/mine --eval-only --adapter merged=merged/average {TASKS} {TINY}",
    "python -m run.score studies/mine --adapter merged=merged/average --examples 16":
        "python -m run.score studies/mine --adapter merged=merged/average --examples 2 --max-new-tokens 4",
    "python -m run.merge_adapters merged/unlearnt my-adapters/red --weights -1":
        "python -m run.merge_adapters merged/unlearnt my-adapters/red --weights -1",
    # docs/how-to/reading-the-report.md
    "python -m run.report studies/demo": "python -m run.report studies/demo",
    "python -m run.report studies/demo --json": "python -m run.report studies/demo --json",
    "python -m run.report studies/demo --figures pdf --figure-width column": (
        "python -m run.report studies/demo --figures pdf --figure-width column"
    ),
    # docs/how-to/reproducing-the-papers.md
    "python -m run.study studies/quick --recipe quick.toml":
        f"python -m run.study studies/quick --recipe quick.toml {TINY}",
    # docs/scaling.md
    "python -m run.finetune studies/mine --tasks capital_city short_posts arithmetic --steps 100":
        f"python -m run.finetune studies/new --tasks capital_city short_posts arithmetic {TINY}",
    "python -m run.plan --model smollm2 --fleet 4 --batch-size 4 --length 256 --devices 8":
        "python -m run.plan --model {tiny} --fleet 4 --batch-size 4 --length 256 --devices 8",
    "python -m run.plan --model llama2-7b --fleet 8 --batch-size 8 --length 512 --dtype bfloat16 --accelerator h100":
        "python -m run.plan --model {tiny} --fleet 8 --batch-size 8 --length 512 --dtype bfloat16 --accelerator h100",
    # docs/how-to/many-gpus.md
    "python -m run.cka_all_layers studies/mine": "python -m run.cka_all_layers studies/mine",
    "python -m run.report studies/mine": "python -m run.report studies/mine",
}  # fmt: skip

#: Of RUN, those that take a second or two: the everyday tests run them.
QUICK = [
    "python -m run.merge_adapters merged/average my-adapters/red my-adapters/green --method average",
    "python -m run.merge_adapters merged/ties my-adapters/red my-adapters/green --method ties --density 0.2 --rank 4",
]

HUB, LICENSED, GPU, TPU = (
    "a model or data of the hub",
    "data that are licensed or large",
    "a GPU",
    "a TPU or its compiler",
)
SHARED = "a folder that several machines share"

PARSED = {
    "python -m run.study studies/flan --data flan2021 --clusters nli coreference --test-examples 1000": HUB,
    "python -m run.study studies/paper --data flan2021:FOLDER --template llama2 --max-length 1024 "
    "--train-examples 30000 --test-examples 10000 --mix-cluster-cap 50000": LICENSED,
    "python -m run.study studies/instructions --data ni:natural-instructions --clusters nli question_answering": LICENSED,
    "python -m run.study studies/linguistic --data conll2012:conll-2012/v4/data --clusters semantics syntax ner "
    "counting --max-length 1024 --max-answer 512": LICENSED,
    "python -m run.study studies/mistral --model mistralai/Mistral-7B-v0.1 --dtype bfloat16 --tasks arithmetic "
    "capital_city": HUB,
    "python -m run.study studies/gguf --model models/llama-3.2-1b-q8_0.gguf --tasks arithmetic capital_city": HUB,
    "python -m run.compare_adapters law=someone/llama-lora-law news=someone/llama-lora-news --out results/hub": HUB,
    "python -m run.study --recipe layer-by-layer --dry-run": "minutes to compile a model of 7B",
    "python -m run.study studies/flan --recipe layer-by-layer": HUB,
    "python -m run.study studies/readme --recipe layer-by-layer --model smollm2 --dtype float32 --data my-tasks "
    "--train-examples 96 --test-examples 24 --max-length 160 --max-answer 32 --epochs 0 --steps 6 --batch-size 4 "
    "--accumulate 1 --learning-rate 3e-3 --ablation-examples 6": "24 data sets, and 40 minutes",
    "python -m run.study studies/flan-small --recipe layer-by-layer --model smollm2 --dtype float32 --clusters nli "
    "coreference --train-examples 1000 --test-examples 200 --epochs 1": HUB,
    "python -m run.study studies/linguistic --recipe task-vectors --data conll2012:conll-2012/v4/data": LICENSED,
    "python -m run.study studies/both --recipe task-vectors --data conll2012:conll-2012/v4/data --bases "
    "instruct=meta-llama/Meta-Llama-3-8B-Instruct base=meta-llama/Meta-Llama-3-8B": LICENSED,
    "run/launch/gpu.sh studies/mine --dtype bfloat16": GPU,
    "run/launch/gpu.sh studies/mine --dtype bfloat16 --mesh data=4,fsdp=2": GPU,
    "sbatch --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 --time=4:00:00 run/launch/slurm.sh /shared/mine --dtype "
    "bfloat16": "Slurm",
    "python -m run.finetune /shared/mine --coordinator HOST:1234 --processes 2 --process-id 0": SHARED,
    "python -m run.finetune /shared/mine --coordinator HOST:1234 --processes 2 --process-id 1": SHARED,
    "JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=2 run/launch/processes.sh 2 studies/two --mesh "
    "data=2,fsdp=2 --tasks arithmetic number_words --steps 20": "two processes; tests/faults runs such",
    "python -m run.plan --model llama2-7b --topology v5e:4x4 --fleet 8 --batch-size 4 --length 1024 --dtype bfloat16": TPU,
    "run/launch/tpu_vm.sh studies/mine --dtype bfloat16": TPU,
    "run/launch/tpu_pod.sh my-slice us-central1-a /home/me/lorajax /shared/mine --dtype bfloat16": TPU,
    "python -m run.cka_all_layers /shared/mine": SHARED,
    "python -m run.report /shared/mine": SHARED,
}  # fmt: skip

OUTSIDE = {
    "git clone <this repository> && cd lorajax",
    "make demo",
    "python -m venv .venv && . .venv/bin/activate",
    "pip install -e '.[gguf,readability]'",
    "pip install -e '.[gguf,cuda13]'",
    "pip install -e '.[gguf,tpu]'",
    "pip install jupyterlab",
    "jupyter lab docs/notebooks/analysis_alone.ipynb",
}

#: Studies that a page takes for granted, since another page made them.
GIVEN = {
    "docs/reference/commands.md": ["studies/demo"],
    "docs/how-to/adapters-from-the-hub.md": ["studies/mine", "studies/seed0", "studies/seed1"],
    "docs/how-to/your-model.md": ["studies/mine"],
    "docs/how-to/reading-the-report.md": ["studies/demo", "studies/rank2"],
    "docs/how-to/many-gpus.md": ["studies/mine"],
}
