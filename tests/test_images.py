"""Images from a wheel that the test packs itself."""

import gzip
import zipfile

import numpy as np
import pytest

from repro.data.readers.images import (
    MNIST_5K,
    MNIST_50K,
    PARTS,
    PIXELS,
    read_binarized_mnist,
    read_mnist_5k,
    read_mnist_50k,
)
from repro.errors import DataError

OPTIONS = {"split_seed": 0, "valid_sequences": 30, "test_sequences": 50}
COUNT = 400


def wheel(path, table):
    text = "\n".join(",".join(f"{v:g}" for v in row) for row in table)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MNIST_5K, gzip.compress(text.encode()))
    return {"wheel": path}


@pytest.fixture
def grey():
    """Images that carry their number in eight black or white pixels; the rest at 51 of 255."""
    table = np.full((COUNT, PIXELS + 1), 51.0)
    bits = (np.arange(COUNT)[:, None] >> np.arange(9)) & 1
    table[:, :9] = 255.0 * bits
    return table


def number(image):
    return int((image[0, :9].astype(int) << np.arange(9)).sum())


def test_every_image_is_in_one_part_and_certain_pixels_keep_their_value(tmp_path, grey):
    parts = read_mnist_5k(wheel(tmp_path / "w.whl", grey), OPTIONS)
    assert {part: len(images) for part, images in parts.items()} == {
        "train": 320, "valid": 30, "test": 50}  # fmt: skip
    assert sorted(number(i) for images in parts.values() for i in images) == list(range(COUNT))
    assert {i.shape for images in parts.values() for i in images} == {(1, PIXELS)}


def test_grey_is_the_probability_of_a_one(tmp_path, grey):
    parts = read_mnist_5k(wheel(tmp_path / "w.whl", grey), OPTIONS)
    drawn = np.concatenate([i[0, 9:] for images in parts.values() for i in images])
    error = (0.2 * 0.8 / len(drawn)) ** 0.5
    assert abs(drawn.mean() - 0.2) < 6 * error


def test_same_seed_same_images(tmp_path, grey):
    files = wheel(tmp_path / "w.whl", grey)
    first, second = (read_mnist_5k(files, OPTIONS) for _ in range(2))
    other = read_mnist_5k(files, OPTIONS | {"split_seed": 1})
    for part, images in first.items():
        assert all(np.array_equal(a, b) for a, b in zip(images, second[part], strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(images, other[part], strict=True))


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["no zip", "no images", "too bright", "too small"])
def test_damage_is_named(damage, tmp_path, grey):
    changed = {"too bright": grey + 1, "too small": grey[:, 9:]}
    files = wheel(tmp_path / "w.whl", changed.get(damage, grey))
    if damage == "no zip":
        files["wheel"].write_bytes(b"PK and nothing")
    if damage == "no images":
        with zipfile.ZipFile(files["wheel"], "w") as archive:
            archive.writestr("other", b"")
    with pytest.raises(DataError, match=r"w\.whl"):
        read_mnist_5k(files, OPTIONS)


def full_wheel(path, grey):
    """A wheel of both files, which begin with names and have the digit before the pixels."""
    with zipfile.ZipFile(path, "w") as archive:
        for part, table in (("train", grey[:300]), ("test", grey[300:])):
            rows = [["label", *(f"{i}x{j}" for i in range(28) for j in range(28))]]
            rows += [["9", *(f"{v:g}" for v in row[:PIXELS])] for row in table]
            archive.writestr(MNIST_50K.format(part), "\n".join(",".join(row) for row in rows))
    return {"wheel": path}


def test_full_mnist_keeps_its_order_and_its_last_training_images_validate(tmp_path, grey):
    options = {"draw_seed": 0, "valid_sequences": 30}
    files = full_wheel(tmp_path / "w.whl", grey)
    parts = read_mnist_50k(files, options)
    numbers = {part: [number(image) for image in images] for part, images in parts.items()}
    assert numbers == {
        "train": list(range(270)), "valid": list(range(270, 300)), "test": list(range(300, COUNT))
    }  # fmt: skip
    drawn = np.concatenate([i[0, 9:] for images in parts.values() for i in images])
    assert abs(drawn.mean() - 0.2) < 6 * (0.2 * 0.8 / len(drawn)) ** 0.5
    again, other = (read_mnist_50k(files, options | {"draw_seed": seed}) for seed in (0, 1))
    assert np.array_equal(again["valid"], parts["valid"])
    assert not np.array_equal(other["valid"], parts["valid"])


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["no images", "too bright", "no numbers"])
def test_damage_of_full_mnist_is_named(damage, tmp_path, grey):
    files = full_wheel(tmp_path / "w.whl", grey + 1 if damage == "too bright" else grey)
    if damage != "too bright":
        with zipfile.ZipFile(files["wheel"], "w") as archive:
            for part in ("train", "test") if damage == "no numbers" else ():
                archive.writestr(MNIST_50K.format(part), "a,b\nc,d\n")
    with pytest.raises(DataError, match=r"w\.whl"):
        read_mnist_50k(files, {"draw_seed": 0, "valid_sequences": 30})


def amat(folder, parts):
    """Files like Larochelle's: one image per line, its pixels 0 and 1 separated by spaces."""
    paths = {}
    for part, images in parts.items():
        path = folder / f"binarized_mnist_{part}.amat"
        np.savetxt(path, images, fmt="%d")
        paths[f"binarized_mnist/{path.name}"] = path
    return paths


@pytest.fixture
def parts():
    rng = np.random.default_rng(0)
    return {part: rng.integers(0, 2, (n, PIXELS)) for part, n in zip(PARTS, (7, 3, 5), strict=True)}


def test_binarised_mnist_is_read_as_it_was_written(tmp_path, parts):
    found = read_binarized_mnist(amat(tmp_path, parts), {})
    for part, images in parts.items():
        assert np.array_equal(np.stack(found[part]), images[:, None])


@pytest.mark.fault
@pytest.mark.parametrize("damage", ["cut short", "no pixels", "shifted by one"])
def test_damage_of_binarised_mnist_is_named(damage, tmp_path, parts):
    files = amat(tmp_path, parts)
    path = files["binarized_mnist/binarized_mnist_valid.amat"]
    text = path.read_bytes()
    changed = {
        "cut short": text[:-5],
        "no pixels": text.replace(b"1", b"7"),
        "shifted by one": b" " + text[:-1],
    }
    path.write_bytes(changed[damage])
    with pytest.raises(DataError, match=r"binarized_mnist_valid\.amat"):
        read_binarized_mnist(files, {})
