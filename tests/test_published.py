"""Published tables beside hand-made results."""

import math

import pytest
from test_results import result

from repro.errors import ConfigError
from repro.published import render_published, verdict
from repro.results import result_path, write

HEADER = (
    "paper,arxiv,table,dataset,model,model_as_printed,metric,relation,value,unit,samples,"
    "evidence,note\n"
)


@pytest.fixture
def folder(tmp_path):
    """A table with two models; results stored for three seeds of one."""
    (tmp_path / "table.yaml").write_text('title: "A table"\npreset: test\nmodels: [dmm, rnn]\n')
    (tmp_path / "published.csv").write_text(
        HEADER
        + "p,1,2,walk,rnn,RNN,nll,eq,3.100,nats/step,,recalled from memory,\n"
        + "p,1,2,walk,dmm,DMM,is_nll,approx,2.000,nats/step,2000,read in the paper,\n"
        + "p,1,2,walk,dmm,DMM,bound_nll,le,9.000,nats/step,,read in the paper,\n"
        + "p,1,2,walk,dmm,DMM,bound_nll_per_sequence,le,1.000,nats/step,,read,impossible cell\n"
    )
    for seed in range(3):
        write(result(seed), result_path(tmp_path / "results", "test", "walk", "dmm", seed))
    return tmp_path


def test_every_printed_number_stands_beside_ours_with_a_verdict(folder):
    paths = render_published(folder, folder / "results")
    assert [path.name for path in paths] == ["table.md", "table.tex", "table.html"]
    lines = (folder / "table.md").read_text().splitlines()
    header, _, *rows = [
        [entry.strip() for entry in line.strip("|").split("|")] for line in lines if "|" in line
    ]
    a, b, c, missing = (dict(zip(header, row, strict=True)) for row in rows)
    cell = [result(seed) for seed in range(3)]
    assert a["Published"] == "2.000"  # as printed, with its zeros
    mean = -sum(r.per_step("is") for r in cell) / 3
    assert float(a["Difference"]) == pytest.approx(mean - 2.0, abs=5e-4)
    assert b["Verdict"] == "better" and int(b["Seeds"]) == 3
    assert c["Verdict"] == "printed cell inconsistent" and c["Published"] == "1.000 [1]"
    assert missing["Verdict"] == "not run" and missing["Published"] == "3.100 (recalled)"
    assert missing["Ours"] == ""
    assert "[1] impossible cell." in (folder / "table.md").read_text()


@pytest.mark.parametrize(
    ("difference", "lower_is_better", "expected"),
    [
        (0.05, True, "reproduced"),
        (-0.05, False, "reproduced"),
        (0.06, True, "worse"),
        (-0.06, True, "better"),
        (0.06, False, "better"),
        (-0.06, False, "worse"),
    ],
)
def test_verdict_follows_the_stated_rule(difference, lower_is_better, expected):
    assert verdict(difference, 0.05, lower_is_better) == expected


@pytest.fixture
def sequences_table(tmp_path):
    """A table in nats per sequence: a licensed column without results, an open one with three."""
    (tmp_path / "table.yaml").write_text(
        'title: "Speech"\npreset: {timit: test, walk: test}\nmodels: [dmm]\n'
        "without_results: {timit: licensed data not supplied}\nopen: {walk: test}\n"
    )
    cell = [result(seed) for seed in range(3)]
    for seed, r in enumerate(cell):
        write(r, result_path(tmp_path / "results", "test", "walk", "dmm", seed))
    mean = sum(r.per_sequence_mean("bound") for r in cell) / 3
    (tmp_path / "published.csv").write_text(
        HEADER
        + "p,1,1,timit,dmm,DMM,bound_ll,ge,28805,nats/sequence,,recalled,\n"
        + f"p,1,1,walk,dmm,DMM,bound_ll,ge,{mean - 0.1 * abs(mean):.6f},nats/sequence,,read,\n"
    )
    return tmp_path, mean


def test_sequences_are_higher_is_better_and_missing_licences_are_visible(sequences_table):
    folder, mean = sequences_table
    render_published(folder, folder / "results")
    lines = (folder / "table.md").read_text().splitlines()
    licensed, ours, open_row = (line for line in lines if line.startswith("| DMM"))
    assert "licensed data not supplied" in licensed
    assert "better" in ours  # a tenth above the print
    columns = [entry.strip() for entry in open_row.strip("|").split("|")]
    assert float(columns[1].partition(" ")[0]) == pytest.approx(mean, abs=0.05)
    bits = -mean / (28 / 5) / (2 * math.log(2))  # of the bound; the estimate is 0.5 nats higher
    assert float(columns[4].partition(" ")[0]) == pytest.approx(
        bits - 0.5 / (28 / 5) / (2 * math.log(2)), abs=0.01
    )


@pytest.mark.parametrize(("printed", "used"), [(10, "is_10"), (5000, "is")])
def test_an_estimate_has_as_many_samples_as_the_printed_one_where_they_are_stored(
    sequences_table, printed, used
):
    folder, _ = sequences_table
    cell = [result(seed) for seed in range(3)]
    for seed, r in enumerate(cell):
        r.per_sequence["is_10"] = [value - 3.0 for value in r.per_sequence["is"]]
        write(r, result_path(folder / "results", "test", "walk", "dmm", seed))
    (folder / "published.csv").write_text(
        HEADER + f"p,1,1,walk,dmm,DMM,is_ll,approx,-100,nats/sequence,{printed},read,\n"
    )
    render_published(folder, folder / "results")
    text = (folder / "table.md").read_text()
    row, open_row = (
        [entry.strip() for entry in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| DMM")
    )
    mean = sum(r.per_sequence_mean(used) for r in cell) / 3
    assert float(row[5]) == pytest.approx(mean + 100, abs=5e-4)
    assert f"importance-sampled with {printed} samples" in text
    # The open data set has a column of that many samples only if they are stored.
    assert (f"≈ {printed}, nats/sequence" in text) == (used == "is_10")
    most = sum(r.per_sequence_mean("is") for r in cell) / 3
    assert float(open_row[-5].partition(" ")[0]) == pytest.approx(most, abs=0.05)


def test_a_data_set_that_stands_in_for_the_printed_one_is_named(sequences_table):
    folder, mean = sequences_table
    (folder / "table.yaml").write_text(
        'title: "Speech"\npreset: test\nmodels: [dmm]\n'
        "instead: {timit: {dataset: walk, note: ours walks}}\n"
    )
    render_published(folder, folder / "results")
    text = (folder / "table.md").read_text()
    row, own = (line for line in text.splitlines() if line.startswith("| DMM"))
    _, data, _, _, ours, difference, *_ = (entry.strip() for entry in row.strip("|").split("|"))
    assert data == "timit" and ours.endswith("[1]") and "[1] ours walks." in text
    assert float(ours.partition(" ")[0]) == pytest.approx(mean, abs=0.05)
    assert float(difference) == pytest.approx(mean - 28805, abs=5e-4)
    assert "[1]" not in own  # where the printed data set has Results, they stand there


def test_unknown_metric_and_missing_file_are_named(folder):
    text = (folder / "published.csv").read_text()
    (folder / "published.csv").write_text(text.replace("bound_nll,", "perplexity,"))
    with pytest.raises(ConfigError, match="no metric"):
        render_published(folder, folder / "results")
    (folder / "table.yaml").unlink()
    with pytest.raises(ConfigError, match=r"table.yaml is missing"):
        render_published(folder, folder / "results")
