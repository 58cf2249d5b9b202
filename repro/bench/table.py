"""The benchmark's record as a table and a figure."""

import pandas as pd


def as_table(record: dict) -> pd.DataFrame:
    """Return one row a workload and implementation, as text."""
    rows = []
    for timing in record["timings"]:
        floor = timing["floor"]
        rows.append(
            {
                "Workload": timing["workload"],
                "Implementation": timing["what"],
                "ms": f"{timing['milliseconds']:.1f} ± {timing['spread']:.1f}",
                "Times ours": f"{timing['ratio']:.2f}",
                "Times the matrix products": "" if floor is None else f"{floor:.2f}",
            }
        )
    return pd.DataFrame(rows)


def caption(record: dict) -> str:
    """Return what the numbers are, and of which machine."""
    where = record["environment"]
    return (
        "Median milliseconds of a training step (forward, backward, clipping, Adam; of one sample "
        "of the whole batch for IS) ± half the distance of the quartiles, implementations taken "
        f"in turn on {where['device']} with {where['threads']} thread(s), torch {where['torch']}, "
        f"commit {where['commit'][:7]}. The last column divides by the time that the matrix "
        "products of valid steps alone take at the machine's rate, "
        f"{record['matrix_gflops']:.0f} GFLOP/s in this run. Peak memory of all: "
        f"{record['peak_memory_mb']:.0f} MB."
    )
