"""The whole workflow: fetch → prepare → configure → train → evaluate → tables, figures, check."""

import atexit
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from shlex import quote
from shutil import rmtree, which

from snakemake.utils import min_version

from repro.config.recipes import (
    as_text,
    cells,
    check,
    merge,
    not_supplied,
    preset_file,
    require_own_data,
    require_own_name,
    require_own_targets,
    resolve,
    typed,
)
from repro.config.recipes import describe as described
from repro.errors import ReproError
from repro.runtime.files import require_writable
from repro.runtime.locks import clear_stale_locks

min_version("9.18")

if os.environ.get("REPRO_RUNS", "runs") != "runs":
    sys.exit(
        "REPRO_RUNS is set, but the workflow writes to runs/: unset it, or use --directory."
    )


configfile: "config/datasets.yaml"
configfile: "config/models.yaml"


def or_exit(function, *arguments):
    """The function's value; a configuration error ends snakemake with one line, no traceback."""
    try:
        return function(*arguments)
    except ReproError as error:
        sys.exit(f"{type(error).__name__}: {error}")


for path in workflow.overwrite_configfiles:
    or_exit(require_own_name, path)


configfile: str(or_exit(preset_file, config.get("preset", "starter")))


config.update(or_exit(check, merge(config, typed(workflow.config_settings.config))))
or_exit(require_own_targets, sys.argv[1:], config["preset"])
or_exit(require_own_data, config)
STARTED = or_exit(clear_stale_locks, Path(".snakemake"))

NOT_SUPPLIED = not_supplied(config)
CELLS = [cell for cell in cells(config) if cell[0] not in NOT_SUPPLIED]
PARTIAL = Path("runs") / config["preset"] / "partial"
DATASETS = sorted({dataset for dataset, _ in CELLS})
ON_GPU = config["device"] == "cuda" or (
    config["device"] == "auto" and bool(which("nvidia-smi"))
)


onstart:
    for name in NOT_SUPPLIED:
        licensed = config["datasets"][name]["licensed"]
        print(
            f"left out: {name}, licensed data not supplied ({licensed['register']})"
        )


onsuccess:
    rmtree(PARTIAL, ignore_errors=True)


# Tables and a report are still made of the Results there are; the last lines say what failed, and why.
onerror:
    command = ["repro", "salvage", *RESULTS, "--preset", config["preset"]]
    done = subprocess.run(command, capture_output=True, text=True)
    atexit.register(print, f"\n{done.stdout}{done.stderr}", file=sys.stderr)


# Jobs run in the environment that snakemake runs in (README, envs/*.yaml). The linter demands a
# container; this base image has only Python, so --sdm apptainer needs an image with the package.
container: "docker://python:3.11"


wildcard_constraints:
    preset=config["preset"],
    dataset="|".join(config["datasets"]),
    model="|".join(config["models"]),
    seed=r"\d+",


def of_cells(pattern, seeds):
    """The files of every cell and seed, in the order of the preset."""
    return [
        pattern.format(preset=config["preset"], dataset=dataset, model=model, seed=seed)
        for dataset, model in CELLS
        for seed in seeds
    ]


RESULTS = of_cells("runs/{preset}/{dataset}/{model}/seed{seed}.json", config["seeds"])
SAMPLES = of_cells(
    "runs/{preset}/{dataset}/{model}/seed{seed}/samples.npz", config["seeds"][:1]
)
# A training job is for one seed, or for all of a cell.
STACK_SEEDS = config.get("stack_seeds", False)
JOB = "stacked" if STACK_SEEDS else "seed{seed}"
SEEDS_OF_JOB = config["seeds"] if STACK_SEEDS else ["{seed}"]
FOLDERS = [Path("runs"), Path("runs/data"), Path("runs") / config["preset"]]
FOLDERS += [folder / dataset for folder in FOLDERS[1:] for dataset in DATASETS]
or_exit(require_writable, FOLDERS)
TITLES = {model: config["models"][model]["title"] for _, model in CELLS}
FIGURES = ["learning", "training", "cost", "samples-needed", "samples", "kl"]


# Jobs begin in the order of the seconds that they and what follows them take, longest first, or the
# last of a preset would run alone; what they all wait for begins before them. Timings are those of
# the stored results (repro.planning), read once and not by the processes of the jobs.
PREPARATION = 10**7


@cache
def seconds_left():
    """Seconds until a cell's trainings and evaluations are done; empty if nothing was stored."""
    from repro.planning import plan, priorities, stored_for

    timings = or_exit(stored_for, config, Path("results"))
    return priorities(plan(config, timings)) if timings else {}


def urgency(job):
    """The priority of a "train" or "evaluate" job, as a function of its wildcards."""
    return lambda w: (
        seconds_left().get((w.dataset, w.model), {}).get(job, 0)
        if workflow.is_main_process
        else 0
    )


localrules:
    all,
    describe,
    fetch,
    configure,
    tables,
    figures,
    check,
    report,


rule all:
    input:
        RESULTS,
        expand("runs/{preset}/report.html", preset=config["preset"]),


rule describe:
    output:
        "runs/data/{dataset}/dataset.yaml",
    log:
        "runs/data/{dataset}/describe.log",
    priority: PREPARATION
    params:
        entry=lambda w: as_text(described(config, w.dataset)),
    shell:
        "printf '%s' {params.entry:q} > {output} 2> {log}"


# A new URL is no reason to fetch the same bytes again: Snakemake does not compare params that are
# functions of `input`. Only this job gets the whole entry, with URLs and licence.
rule fetch:
    input:
        rules.describe.output,
    output:
        manifest="runs/data/{dataset}/raw.json",
        entry="runs/data/{dataset}/entry.yaml",
    log:
        "runs/data/{dataset}/fetch.log",
    priority: PREPARATION
    retries: 2
    params:
        entry=lambda w, input: as_text(config["datasets"][w.dataset]),
        folders=lambda w, input: " ".join(
            f"--{setting} {quote(str(config[setting]))}"
            for setting in ("mirror", "corpora")
            if config.get(setting)
        ),
    shell:
        "printf '%s' {params.entry:q} > {output.entry} &&"
        " repro fetch --dataset {wildcards.dataset} --config {output.entry} {params.folders}"
        " > {log} 2>&1"


# A checkpoint, in Snakemake's sense: once the data are prepared, Snakemake decides again what is to be
# done, and if their digests are unchanged nothing is trained.
checkpoint prepare:
    input:
        description=rules.describe.output,
        raw=rules.fetch.output.manifest,
    output:
        data="runs/data/{dataset}/sequences.safetensors",
        digests="runs/data/{dataset}/digests.json",
    log:
        "runs/data/{dataset}/prepare.log",
    priority: PREPARATION
    shell:
        "repro prepare --dataset {wildcards.dataset} --config {input.description} > {log} 2>&1"


def prepared(wildcards):
    """The prepared file, whatever its time, and the digests of what is in it."""
    made = checkpoints.prepare.get(dataset=wildcards.dataset).output
    return {"data": ancient(made.data), "digests": made.digests}


rule configure:
    output:
        "runs/{preset}/{dataset}/{model}/config.yaml",
    log:
        "runs/{preset}/{dataset}/{model}/configure.log",
    priority: PREPARATION
    params:
        recipe=lambda w: as_text(resolve(config, w.dataset, w.model)),
    shell:
        "printf '%s' {params.recipe:q} > {output} 2> {log}"


rule train:
    input:
        unpack(prepared),
        config=rules.configure.output,
    output:
        expand(
            "runs/{{preset}}/{{dataset}}/{{model}}/seed{seed}/{file}",
            seed=SEEDS_OF_JOB,
            file=["checkpoint.safetensors", "history.jsonl"],
        ),
    log:
        expand("runs/{{preset}}/{{dataset}}/{{model}}/{job}/train.log", job=JOB),
    benchmark:
        expand(
            "runs/{{preset}}/{{dataset}}/{{model}}/{job}/train.benchmark.tsv", job=JOB
        )[0]
    priority: urgency("train")
    threads: config["threads"]
    resources:  # how to run: unlike params, a change is no reason to train again
        gpu=int(ON_GPU),
        device=config["device"],
        precision=config.get("precision", "float32"),
        kernels=config.get("kernels", "fast"),
        graphs="--cuda-graphs" if config.get("cuda_graphs") else "--no-cuda-graphs",
        wandb=config["wandb"],
        validation_samples=config["evaluation"].get("validation_samples", 0),
        seeds=lambda w: " ".join(f"--seed {s}".format(**w) for s in SEEDS_OF_JOB),
    shell:
        "repro train --preset {wildcards.preset} --dataset {wildcards.dataset}"
        " --model {wildcards.model} {resources.seeds} --config {input.config}"
        " --validation-samples {resources.validation_samples} --precision {resources.precision}"
        " --kernels {resources.kernels} {resources.graphs} --device {resources.device} --threads {threads} --wandb {resources.wandb} > {log} 2>&1"


rule evaluate:
    input:
        unpack(prepared),
        checkpoint="runs/{preset}/{dataset}/{model}/seed{seed}/checkpoint.safetensors",
    output:
        "runs/{preset}/{dataset}/{model}/seed{seed}.json",
    log:
        "runs/{preset}/{dataset}/{model}/seed{seed}/evaluate.log",
    benchmark:
        "runs/{preset}/{dataset}/{model}/seed{seed}/evaluate.benchmark.tsv"
    priority: urgency("evaluate")
    threads: config["threads"]
    resources:
        gpu=int(ON_GPU),
        device=config["device"],
        precision=config.get("precision", "float32"),
        kernels=config.get("kernels", "fast"),
        wandb=config["wandb"],
    params:
        # In one parameter: a new one would be a reason to evaluate everything again.
        num_samples=(
            f"{config['evaluation']['num_samples']} --until-error {config['evaluation']['until']['error']}"
            if "until" in config["evaluation"]
            else config["evaluation"]["num_samples"]
        ),
        curve=" ".join(f"--curve {n}" for n in config["evaluation"]["curve"]),
        particles=config["evaluation"].get("particles", 0),
    shell:
        "repro evaluate --preset {wildcards.preset} --dataset {wildcards.dataset}"
        " --model {wildcards.model} --seed {wildcards.seed}"
        " --num-samples {params.num_samples} {params.curve} --particles {params.particles}"
        " --precision {resources.precision} --kernels {resources.kernels}"
        " --device {resources.device} --threads {threads} --wandb {resources.wandb} > {log} 2>&1"


rule sample:
    input:
        unpack(prepared),
        checkpoint="runs/{preset}/{dataset}/{model}/seed{seed}/checkpoint.safetensors",
    output:
        "runs/{preset}/{dataset}/{model}/seed{seed}/samples.npz",
    log:
        "runs/{preset}/{dataset}/{model}/seed{seed}/sample.log",
    shell:
        "repro sample --preset {wildcards.preset} --dataset {wildcards.dataset}"
        " --model {wildcards.model} --seed {wildcards.seed} > {log} 2>&1"


rule tables:
    input:
        RESULTS,
    output:
        report(
            expand("runs/{{preset}}/tables/{dataset}.csv", dataset=DATASETS),
            category="Tables",
            caption="repro/reports/templates/captions/tables.rst",
        ),
        expand(
            "runs/{{preset}}/tables/{dataset}.{suffix}",
            dataset=DATASETS,
            suffix=["md", "tex"],
        ),
    log:
        "runs/{preset}/tables.log",
    params:
        titles=TITLES,
    shell:
        "repro tables {input} --preset {wildcards.preset} > {log} 2>&1"


rule figures:
    input:
        results=RESULTS,
        samples=SAMPLES,
    output:
        report(
            expand(
                "runs/{{preset}}/figures/{dataset}-{figure}.svg",
                dataset=DATASETS,
                figure=FIGURES,
            )
            + (["runs/{preset}/figures/cost.svg"] if len(DATASETS) > 1 else []),
            category="Figures",
            caption="repro/reports/templates/captions/figures.rst",
        ),
    log:
        "runs/{preset}/figures.log",
    params:
        titles=TITLES,
    shell:
        "repro figures {input.results} --preset {wildcards.preset} > {log} 2>&1"


rule check:
    input:
        RESULTS,
    output:
        report(
            "runs/{preset}/check.md",
            category="Check",
            caption="repro/reports/templates/captions/check.rst",
        ),
    log:
        "runs/{preset}/check.log",
    shell:
        "repro check {input} --preset {wildcards.preset} --report {output} --always-succeed"
        " > {log} 2>&1"


rule trust:
    output:
        "runs/trust/trust.md",
        "runs/trust/estimates.svg",
        "runs/trust/check.svg",
    log:
        "runs/trust/trust.log",
    shell:
        "repro trust > {log} 2>&1"


rule bench:
    output:
        "runs/bench/threads1.json",
        "runs/bench/threads1.svg",
    log:
        "runs/bench/threads1.log",
    shell:
        "repro bench --quick --threads 1 > {log} 2>&1"


rule report:
    input:
        rules.trust.output,
        rules.tables.output,
        rules.figures.output,
        rules.check.output,
        results=RESULTS,
    output:
        report(
            "runs/{preset}/report.html",
            category="Report",
            caption="repro/reports/templates/captions/report.rst",
        ),
    log:
        "runs/{preset}/report.log",
    shell:
        "repro report {input.results} --preset {wildcards.preset} > {log} 2>&1"
