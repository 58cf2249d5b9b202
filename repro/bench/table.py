"""The benchmark's record as tables and a figure."""

import matplotlib.pyplot as plt
import pandas as pd

from repro.bench.run import PRODUCTS_ALONE
from repro.reports.sequence_plots import use_style
from repro.reports.tables import with_list


def as_table(record: dict) -> pd.DataFrame:
    """Return one row per workload, as text: ours, then how long each peer takes."""
    limit = max(record["matrix_gflops"].values())
    rows: dict[str, dict[str, str]] = {}
    for timing in record["timings"]:
        row = rows.setdefault(timing["workload"], {"Workload": timing["workload"]})
        time = f"{timing['milliseconds']:.1f} ± {timing['spread']:.1f}"
        if timing["what"] == PRODUCTS_ALONE:
            row["Times its products"] = f"{1.0 / timing['ratio']:.2f}"
            continue
        if timing["what"] != "ours":
            row[timing["what"]] = f"{time} ({timing['ratio']:.2f}×)"
            continue
        rate = timing["gflops"]
        row |= {
            "Ours": time,
            "Steps/s": f"{timing['steps']:,.0f}",
            "Sequences/s": f"{timing['sequences']:,.1f}",
            "GFLOP/s": "" if rate is None else f"{rate:.0f}",
            "Times the limit": "" if rate is None else f"{limit / rate:.2f}",
        }
    return pd.DataFrame(rows.values()).fillna("")


def profile_table(record: dict) -> pd.DataFrame:
    """Return what our training step spends its time on, one row per workload, in percent."""
    rows = []
    for shares in record["profiles"]:
        numbers = {k: f"{100 * v:.0f} %" for k, v in shares.items() if k != "workload"}
        rows.append({"Workload": shares["workload"], **numbers})
    return pd.DataFrame(rows)


def caption(record: dict) -> str:
    """Return Markdown: what was timed on which machine, and a list of what the columns mean."""
    where, rates = record["environment"], record["matrix_gflops"]
    lead = (
        "Median milliseconds of a training step (forward, backward, clipping and Adam, or Muon for "
        "our recipe) or, for IS, of one sample of the whole batch, ± half the distance between the "
        "quartiles. In brackets: how many times as long as ours. Implementations were timed in "
        f"turn on {where['device']} with {where['threads']} thread(s), torch {where['torch']}, "
        f"commit {where['commit'][:7]}; peak memory {record['peak_memory_mb']} MB."
    )
    lines = [
        "**Plain**: the same equations, every layer called once per step, one sample at a time.",
        "**GFLOP/s**: the rate of the step's matrix products, without padding.",
        "**Times the limit**: the machine's rate of large products divided by this rate; in this "
        f"run it was {rates['repro']:.0f} GFLOP/s as this package multiplies and "
        f"{rates['torch']:.0f} as torch does by itself.",
        "**Times its products**: the step's time over that of its matrix products alone, computed "
        "again in the shapes that occur.",
    ]
    return with_list(lead, lines)


def draw(record: dict) -> plt.Figure:
    """Return a figure of how many times as long as ours every peer takes."""
    use_style()
    timings = [t for t in record["timings"] if t["what"] not in ("ours", PRODUCTS_ALONE)]
    labels = [f"{t['workload']}\n{t['what']}" for t in timings]
    figure, axes = plt.subplots(figsize=(8, 0.45 * len(timings) + 0.8))
    bars = axes.barh(labels, [t["ratio"] for t in timings], color="C0")
    axes.bar_label(bars, fmt="%.1f×", padding=3, fontsize=8)
    axes.axvline(1.0, color="black", lw=1.2)
    axes.invert_yaxis()
    axes.tick_params(axis="y", labelsize=8)
    axes.set_xlabel("times as long as ours")
    return figure
