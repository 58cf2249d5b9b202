"""What a number on a task means, and the version that identifies data and meaning together."""

from repro.runtime.files import sha256_of

# A change to this changes the version of every task.
PROTOCOL = {
    "parts": ["train", "valid", "test"],
    "number": "log p of each whole test sequence, all of its steps and the first one too",
    "units": "nats, of data normalised by the mean and standard deviation of the training part",
    "average": "sum over sequences / sum of lengths",
    "selection": "anything may be chosen on the valid part; the test part is for the last number",
}


def version_of(data: dict) -> str:
    """Return the identifier of data and protocol together: twelve hexadecimal digits.

    Args:
        data: the specification of the data, as a Result has it.
    """
    facts = {key: data[key] for key in ("name", "kind", "mean", "std")}
    return sha256_of({**facts, "data": data["sha256"], **PROTOCOL})[:12]
