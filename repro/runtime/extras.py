"""Libraries that only a part of the suite needs, and the extra that installs each of them."""

import importlib.util

from repro.errors import ConfigError

DISTRIBUTION = "repro-sequential"
EXTRAS = {
    "matplotlib": "figures",
    "mido": "music",
    "music21": "music",
    "seaborn": "figures",
    "soundfile": "audio",
}


def require(*libraries: str) -> None:
    """Refuse to continue without libraries that not every installation has.

    Raises:
        ConfigError: names the first that is missing and the command that adds it.
    """
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise ConfigError(
                f"this needs {library}, which is not installed: "
                f"pip install '{DISTRIBUTION}[{EXTRAS[library]}]' "
                f"(in a clone: pip install -e '.[{EXTRAS[library]}]')."
            )
