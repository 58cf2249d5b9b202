"""The options that several subcommands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Device(StrEnum):
    """A device."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Precision(StrEnum):
    """The precision of matrix products on a GPU."""

    float32 = "float32"
    tf32 = "tf32"


class Kernels(StrEnum):
    """Which implementation of a computation is used."""

    plain = "plain"
    fast = "fast"


class WandbMode(StrEnum):
    """Whether Weights & Biases is used."""

    disabled = "disabled"
    offline = "offline"
    online = "online"


Preset = Annotated[str, typer.Option(help="A preset of config/.")]
Dataset = Annotated[str, typer.Option(help="A data set of config/datasets.yaml.")]
Model = Annotated[str, typer.Option(help="A model of config/models.yaml.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of the run.")]
Mirror = Annotated[
    Path | None, typer.Option(help="Folder that may hold the raw files; tried first.")
]
Corpora = Annotated[Path | None, typer.Option(help="Folder of the licensed corpora.")]
Recipe = Annotated[
    Path | None,
    typer.Option("--config", help="A frozen recipe (`repro configure`); default: the preset's."),
]
Entry = Annotated[
    Path | None,
    typer.Option(
        "--config", help="A frozen entry; default: that of the preset or of config/datasets.yaml."
    ),
]
DeviceOption = Annotated[Device | None, typer.Option(help="Default: the preset's.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads; default: the preset's.")]
PrecisionOption = Annotated[
    Precision | None, typer.Option(help="Of matrix products on a GPU; default: the preset's.")
]
KernelsOption = Annotated[
    Kernels | None,
    typer.Option(help="fast, or plain for torch's own operations alone; default: the preset's."),
]
WandbOption = Annotated[WandbMode | None, typer.Option(help="Default: the preset's.")]
Files = Annotated[list[Path] | None, typer.Argument(help="Results; default: all of the preset.")]
Expected = Annotated[list[Path], typer.Argument(help="All Results of the run.")]
Source = Annotated[
    Path | None, typer.Option(help="Where to read Results; default: the runs folder.")
]
Out = Annotated[Path | None, typer.Option(help="Where to write; default: next to the Results.")]
Task = Annotated[str, typer.Option(help="A data set of config/datasets.yaml.")]
Folder = Annotated[
    Path | None, typer.Argument(help="Folder of files that Result.save wrote; default: none.")
]
Table = Annotated[Path | None, typer.Option(help="Write a table, *.md or *.csv.")]
