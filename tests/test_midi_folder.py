"""A folder of MIDI files as own data, against the rolls from which the tests write the files."""

import math

import numpy as np
import pytest
from conftest import count_input
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mido import Message, MetaMessage, MidiFile, MidiTrack
from test_fuzz import damaged, survives

from repro.data.parts import PARTS
from repro.data.readers.pianoroll import read_midi_folder
from repro.errors import ConfigError, DataError
from repro.evaluation.midi import write_midi

GENERATED = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
DRAWN = {"step_beats": 1.0, "valid_fraction": 0.2, "test_fraction": 0.3, "split_seed": 0}


def midi(path, notes, tempos=((0, 500_000),), ticks=480, channel=0, release="note_off"):
    """A file of notes (begin and end in ticks, pitch), in two tracks."""
    events = [(tick, MetaMessage("set_tempo", tempo=tempo)) for tick, tempo in tempos]
    for begin, end, pitch in notes:
        events.append((begin, Message("note_on", note=pitch, velocity=70, channel=channel)))
        events.append((end, Message(release, note=pitch, velocity=0, channel=channel)))
    tracks = []
    for meta in (True, False):
        last, track = 0, MidiTrack()
        for tick, message in sorted(
            (e for e in events if e[1].is_meta == meta), key=lambda e: e[0]
        ):
            track.append(message.copy(time=tick - last))
            last = tick
        tracks.append(track)
    path.parent.mkdir(parents=True, exist_ok=True)
    MidiFile(type=1, tracks=tracks, ticks_per_beat=ticks).save(path)


def read(folder, **options):
    count_input()
    return read_midi_folder({"mine": folder}, options)


def rolls_of(parts):
    return {
        name: roll for part in parts.values() for name, roll in zip(part.names, part, strict=True)
    }


@GENERATED
@given(seed=st.integers(0, 2**32 - 1))
def test_rolls_written_as_midi_are_read_back(seed, tmp_path):
    rng, rolls = np.random.default_rng(seed), {}
    for i in range(10):
        roll = (rng.random((rng.integers(1, 30), 88)) < 0.05).astype(np.uint8)
        roll[-1, rng.integers(88)] = 1  # where a file ends with a rest, MIDI does not say so
        rolls[f"{i}.mid"] = roll
        write_midi(roll, tmp_path / f"{i}.mid", steps_per_minute=120.0)
    for step in ({"step_beats": 1.0}, {"step_seconds": 0.5}):
        parts = read(tmp_path, **{k: v for k, v in DRAWN.items() if k != "step_beats"}, **step)
        assert [len(parts[part]) for part in PARTS] == [5, 2, 3]
        found = rolls_of(parts)
        assert found.keys() == rolls.keys()
        for name, roll in rolls.items():
            np.testing.assert_array_equal(found[name], roll)


@GENERATED
@given(
    notes=st.lists(
        st.tuples(st.integers(0, 4000), st.integers(1, 1500), st.integers(21, 108)),
        min_size=1,
        max_size=8,
        unique_by=lambda note: note[2],
    ),
    release=st.sampled_from(["note_off", "note_on"]),
    change=st.integers(0, 3000),
    tempo=st.integers(100_000, 2_000_000),
)
def test_notes_take_the_nearest_steps(notes, release, change, tempo, tmp_path):  # fmt: skip
    written = [(begin, begin + length, pitch) for begin, length, pitch in notes]
    for part in PARTS:
        midi(tmp_path / part / "a.mid", written, ((0, 500_000), (change, tempo)), release=release)

    def seconds(tick):
        return (min(tick, change) * 500_000 + max(0, tick - change) * tempo) / 480e6

    for options, clock in (
        ({"step_beats": 0.25}, lambda tick: tick / 120),
        ({"step_seconds": 0.1}, lambda tick: seconds(tick) / 0.1),
    ):
        times = [clock(tick) for note in written for tick in note[:2]]
        if any(abs(time % 1 - 0.5) < 1e-6 for time in times):
            continue  # between two steps: rounding decides
        expected = {}
        for begin, end, pitch in written:
            first = math.floor(clock(begin) + 0.5)
            last = max(first + 1, math.floor(clock(end) + 0.5))
            expected |= {(t, pitch - 21): 1 for t in range(first, last)}
        roll = read(tmp_path, **options)["valid"][0]
        assert {tuple(position) for position in np.argwhere(roll).tolist()} == set(expected)
        assert len(roll) == 1 + max(t for t, _ in expected)


@pytest.mark.fault
@GENERATED
@given(pitches=st.lists(st.integers(0, 127), min_size=1, max_size=12, unique=True))
def test_pitches_beyond_the_piano_are_counted(pitches, tmp_path, capsys):
    capsys.readouterr()
    for part in PARTS:
        midi(tmp_path / part / "a.mid", [(0, 480, pitch) for pitch in {60, *pitches}])
    roll = read(tmp_path, step_beats=1)["train"][0]
    kept = {pitch for pitch in {60, *pitches} if 21 <= pitch <= 108}
    assert {(np.flatnonzero(step) + 21).tolist()[0] for step in [roll[0]]} == {min(kept)}
    assert set((np.flatnonzero(roll[0]) + 21).tolist()) == kept
    lost = 3 * (len({60, *pitches}) - len(kept))
    words = f"{lost} notes beyond a piano's 88 keys are left out"
    assert (words in capsys.readouterr().err) == bool(lost)


SILENT = {"nothing": {"notes": []}, "drums": {"notes": [(0, 9, 36)], "channel": 9},
          "too low": {"notes": [(0, 9, 3)]}, "too high": {"notes": [(0, 9, 120)]}}  # fmt: skip


@pytest.mark.fault
@pytest.mark.parametrize("what", SILENT)
def test_files_without_notes_are_named_and_can_be_left_out(what, tmp_path):
    for i in range(6):
        midi(tmp_path / f"{i}.mid", [(0, 480, 60)])
    midi(tmp_path / "sub" / "silent.MID", **SILENT[what])
    with pytest.raises(DataError, match=r"1 files have no notes .*: sub/silent\.MID\."):
        read(tmp_path, **DRAWN)
    parts = read(tmp_path, **DRAWN, left_out=["sub/silent.MID"])
    assert sorted(rolls_of(parts)) == [f"{i}.mid" for i in range(6)]


@pytest.mark.fault
def test_missing_options_are_named(tmp_path):
    for i in range(6):
        midi(tmp_path / f"{i}.mid", [(0, 480, 60)])
    for wrong in ({}, {"step_beats": 1, "step_seconds": 1}):
        with pytest.raises(ConfigError, match="step_seconds or step_beats"):
            read(tmp_path, **wrong)
    with pytest.raises(ConfigError, match="valid_fraction, test_fraction and split_seed"):
        read(tmp_path, step_beats=1)
    with pytest.raises(DataError, match="6 MIDI files, too few"):
        read(tmp_path, **{**DRAWN, "test_fraction": 0.9})


@pytest.mark.fault
@GENERATED
@given(data=st.data())
def test_damaged_files_are_named(data, tmp_path):
    for part in PARTS:
        midi(tmp_path / part / "a.mid", [(0, 480, 60), (480, 960, 64)])
        midi(tmp_path / part / "._a.mid", [(0, 480, 60)])
    path = tmp_path / "valid" / "a.mid"
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    parts = survives(read_midi_folder, {"mine": tmp_path}, {"step_beats": 0.5})
    if parts:
        assert [len(part) for part in parts.values()] == [1, 1, 1]
    path.write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"valid/a\.mid cannot be read as MIDI"):
        read(tmp_path, step_beats=0.5)
