"""A reader's own images: what is read, what is refused and in which words, what is kept."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from normviz import own_images
from normviz.own_images import (
    MAX_ARCHIVE,
    ImagesUploadError,
    check_folder,
    check_images,
    keep_images,
    keep_images_file,
    missing_images,
    read_images,
)
from normviz.uploads import UploadError

Pixels = np.ndarray


def encoded(pixels: Pixels, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def packed(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def pictures(each: int = 8, side: int = 28) -> dict[str, Pixels]:
    """Grey noise, in two folders."""
    drawn = np.random.default_rng(0)
    return {
        f"{folder}/{i}.png": drawn.integers(0, 256, (side, side), dtype=np.uint8)
        for folder in ("oak", "elm")
        for i in range(each)
    }


def files(each: int = 8) -> dict[str, bytes]:
    return {name: encoded(pixels) for name, pixels in pictures(each).items()}


def test_images_and_their_classes() -> None:
    made = pictures()
    images = check_images(packed({name: encoded(p) for name, p in made.items()}), "trees.zip")
    assert images.class_names == ("elm", "oak")
    assert images.counts == {"elm": 8, "oak": 8}
    np.testing.assert_array_equal(images.labels, [0] * 8 + [1] * 8)
    expected = np.stack([made[f"{folder}/{i}.png"] for folder in ("elm", "oak") for i in range(8)])
    np.testing.assert_array_equal(images.pixels[28], expected)
    assert {side: images.pixels[side].shape for side in (8, 14)} == {8: (16, 8, 8), 14: (16, 14, 14)}


@pytest.mark.parametrize("side", [8, 14, 28])
def test_a_pixel_is_the_mean_of_those_it_covers(side: int) -> None:
    made = pictures(side=56 * 4)
    images = check_images(packed({name: encoded(p) for name, p in made.items()}), "trees.zip")
    block = 224 // side
    for i in range(8):
        whole = made[f"elm/{i}.png"].astype(np.float64)
        means = whole.reshape(side, block, side, block).mean((1, 3))
        # Pillow rounds after the rows and again after the columns
        assert np.abs(images.pixels[side][i] - means).max() <= 1.01


def test_colours_depths_and_transparent_ground() -> None:
    red = np.zeros((20, 30, 3), dtype=np.uint8)
    red[..., 0] = 200
    clear = np.zeros((28, 28, 4), dtype=np.uint8)
    deep = np.full((28, 28), 257 * 77, dtype=np.uint16)
    one: dict[str, bytes] = {
        "0 red.png": encoded(red),
        "1 red.jpg": encoded(red, "JPEG", quality=95),
        "2 red.gif": encoded(red, "GIF"),
        "3 clear.png": encoded(clear),
        "4 deep.png": encoded(deep),
        "5 half.png": encoded(np.where(np.arange(4) == 3, 128, clear[..., :4]).astype(np.uint8)),
        "6 palette.PNG": encoded(red),
        "7 bits.png": encoded(np.ones((28, 28), dtype=bool)),
    }
    others = {f"other/{i}.png": encoded(pictures()["oak/0.png"]) for i in range(8)}
    images = check_images(packed({**{f"one/{k}": v for k, v in one.items()}, **others}), "a.zip")
    means = images.pixels[28][:8].reshape(8, -1).mean(1)
    luma = 0.299 * 200
    np.testing.assert_allclose(means[[0, 1, 2, 6]], luma, atol=2.0)
    np.testing.assert_allclose(means[3:6], [255, 77, 255 * (1 - 128 / 255)], atol=1.0)
    assert means[7] == 255


def test_folders_may_lie_in_another_and_what_systems_add_does_not_count() -> None:
    nested = {f"trees/train/{name}": content for name, content in files().items()}
    extra = {
        "__MACOSX/trees/._1.png": b"x",
        "trees/.DS_Store": b"x",
        "trees/train/oak/Thumbs.db": b"x",
        "trees/": b"",
    }
    assert (
        check_images(packed({**nested, **extra}), "a.zip").key == check_images(packed(files()), "b.zip").key
    )


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is that large, with next to no bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )


def linked() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("oak/link.png")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


def many(count: int, each: bytes = b"") -> dict[str, bytes]:
    return {f"{'ab'[i % 2]}/{i}.png": each for i in range(count)}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "a.zip is no zip that can be read"),
        (b"\x89PNG\r\n\x1a\n" * 100, "a.zip is no zip that can be read"),
        (packed(files())[:-30], "a.zip is no zip that can be read"),
        (packed(files())[:2000] + packed(files())[2010:], "a.zip is no zip that can be read"),
        (b"x" * (MAX_ARCHIVE + 1), "a.zip has 10,000,001 bytes; at most 10,000,000 are allowed."),
        (packed({}), "a.zip has 0 folders with images; 2 to 20 classes are allowed."),
        (packed({**files(), "../x.png": b""}), "a.zip: '../x.png' leads out of the archive."),
        (packed({**files(), "oak/../../x.png": b""}), "a.zip: 'oak/../../x.png' leads out of the archive."),
        (packed({**files(), "/etc/x.png": b""}), "a.zip: '/etc/x.png' leads out of the archive."),
        (packed({**files(), "oak\\..\\x.png": b""}), "leads out of the archive."),
        (packed({**files(), "C:/x.png": b""}), "a.zip: 'C:/x.png' leads out of the archive."),
        (linked(), "a.zip: 'oak/link.png' is a link, which is not followed."),
        (packed({**files(), "oak/notes.txt": b"x"}), "a.zip: 'oak/notes.txt' is no PNG, JPEG or GIF file."),
        (
            packed({**files(), "x.png": b"x"}),
            "a.zip: 'x.png' lies in no folder; every class has a folder of its own.",
        ),
        (packed({**files(), "oak/x.png": b"x" * 99}), "a.zip: 'oak/x.png' cannot be read as an image."),
        (
            packed({**files(), "oak/x.png": files()["oak/0.png"][:200]}),
            "'oak/x.png' cannot be read as an image.",
        ),
        (
            packed({**files(), "oak/x.png": encoded(np.zeros((9, 9), "u1"), "BMP")}),
            "cannot be read as an image.",
        ),
        (
            packed({**files(), "oak/x.png": png_header(513, 9)}),
            "'oak/x.png' has 513 x 9 pixels; at most 512 x 512 are",
        ),
        (
            packed({**files(), "oak/x.png": png_header(60000, 60000)}),
            "'oak/x.png' cannot be read as an image.",
        ),
        (
            packed({**files(), "oak/x.png": png_header(12000, 9000)}),
            "has 12,000 x 9,000 pixels; at most 512 x 512",
        ),
        (
            packed({**files(), "oak/x.png": b"\0" * 1_000_001}),
            "has 1,000,001 bytes; at most 1,000,000 are allowed for",
        ),
        (
            packed(many(60, b"\0" * 999_999)),
            "a.zip has 59,999,940 bytes unpacked; at most 50,000,000 are allowed.",
        ),
        (packed(many(5001)), "a.zip has 5,001 images; at most 5,000 are allowed."),
        (packed(many(10_001)), "a.zip has 10,001 entries; at most 5,000 images are allowed."),
        (
            packed({n: c for n, c in files().items() if n.startswith("oak")}),
            "has 1 folder with images; 2 to 20",
        ),
        (
            packed({f"{i}/{i}.png": b"" for i in range(21)}),
            "a.zip has 21 folders with images; 2 to 20 classes are",
        ),
        (packed({**files(), "ash/0.png": b""}), "a.zip: the class 'ash' has 1 image; at least 8 are needed."),
        (
            packed({**files(), "other/oak/0.png": b""}),
            "a.zip has two folders of the name 'oak'; every class has one",
        ),
        (
            packed({**files(), f"{'n' * 61}/0.png": b""}),
            "the name of a class must have at most 60 characters",
        ),
    ],
)
def test_refused_images(data: bytes, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ImagesUploadError, match=re.escape(sentence)) as caught:
        keep_images(data, "a.zip", tmp_path)
    assert isinstance(caught.value, UploadError)
    assert len(str(caught.value)) < 300
    assert list(tmp_path.iterdir()) == [], "nothing is kept"


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty megabytes of zeros a file, packed to a thousandth of that."""
    data = packed({f"{'ab'[i % 2]}/{i}.png": b"\0" * 30_000_000 for i in range(4)})
    assert len(data) < 200_000

    def unpacked(*args: object) -> bytes:
        raise AssertionError("an entry was unpacked")

    monkeypatch.setattr(zipfile.ZipFile, "read", unpacked)
    with pytest.raises(
        ImagesUploadError, match="30,000,000 bytes; at most 1,000,000 are allowed for an image"
    ):
        check_images(data, "a.zip")


def test_an_archive_that_lies_about_a_size_is_refused() -> None:
    """The sizes of the list say 10 bytes where 900 kB are packed."""
    data = bytearray(packed({**files(), "oak/x.png": b"\0" * 900_000}))
    true, false = struct.pack("<I", 900_000), struct.pack("<I", 10)
    assert data.count(true) == 2, "in front of the file and in the list"
    with pytest.raises(ImagesUploadError, match="is no zip that can be read"):
        check_images(bytes(data.replace(true, false)), "a.zip")


def test_all_pixels_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_images, "MAX_PIXELS", 16 * 28 * 28 - 1)
    with pytest.raises(ImagesUploadError, match="million pixels in all"):
        check_images(packed(files()), "a.zip")
    monkeypatch.setattr(own_images, "MAX_PIXELS", 16 * 28 * 28)
    check_images(packed(files()), "a.zip")


def test_encrypted_archives_are_refused() -> None:
    data = bytearray(packed(files()))
    listed = data.index(b"PK\x01\x02")
    data[listed + 8] |= 1
    with pytest.raises(ImagesUploadError, match="is encrypted"):
        check_images(bytes(data), "a.zip")


def test_images_are_found_again_by_their_key(tmp_path: Path) -> None:
    data = tmp_path / "data"
    key = keep_images(packed(files()), "../trees.zip", data)
    assert re.fullmatch(r"images-[0-9a-f]{12}", key)
    assert [p.relative_to(data).as_posix() for p in data.rglob("*.*")] == [f"uploads/{key}.npz"]
    again, first = read_images(key, data), check_images(packed(files()), "a.zip")
    assert (again.class_names, again.counts) == (first.class_names, first.counts)
    for side in (8, 14, 28):
        np.testing.assert_array_equal(again.pixels[side], first.pixels[side])
    assert keep_images(packed(dict(reversed(files().items())), zipfile.ZIP_STORED), "b.zip", data) == key
    moved = {name.replace("oak/0", "elm/x"): content for name, content in files(9).items()}
    assert keep_images(packed(moved), "trees.zip", data) != key, "the same images in other classes"


def test_a_folder_is_read_as_a_zip_is(tmp_path: Path) -> None:
    folder = tmp_path / "trees"
    for name, content in files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / ".hidden").write_text("x")
    key = keep_images_file(folder, tmp_path)
    (tmp_path / "a.zip").write_bytes(packed(files()))
    assert keep_images_file(tmp_path / "a.zip", tmp_path) == key == check_folder(folder).key
    (folder / "oak" / "x.png").symlink_to("/etc/passwd")
    with pytest.raises(ImagesUploadError, match=r"trees: 'oak/x\.png' is a link, which is not followed"):
        check_folder(folder)
    (tmp_path / "a.zip").write_bytes(b"x" * (MAX_ARCHIVE + 1))
    with pytest.raises(ImagesUploadError, match=r"a\.zip has 10,000,001 bytes"):
        keep_images_file(tmp_path / "a.zip", tmp_path)


def test_images_that_are_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NORMVIZ_DATA", str(tmp_path))
    for key in ("../x", "table-0123456789ab"):
        with pytest.raises(ImagesUploadError, match="own_images must be the key of uploaded images"):
            read_images(key)
    gone = "images-0123456789ab"
    assert missing_images(gone) == f"The images {gone} are not on this machine: upload them again."
    assert missing_images("") == "Bring a zip of images to train on, with one folder per class."
    key = keep_images(packed(files()), "a.zip")
    assert missing_images(key) == ""
    assert (
        missing_images(key, most_classes=1)
        == f"The images {key} have 2 classes; here at most 1 are told apart."
    )
    assert missing_images(key, least=17) == f"The images {key} are 16; at least 17 are needed here."
    (tmp_path / "uploads" / f"{key}.npz").write_bytes(b"damaged")
    assert "are not on this machine" in missing_images(key)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "uploads").write_text("a file where the folder should be")
    with pytest.raises(ImagesUploadError, match=r"a\.zip could not be kept"):
        keep_images(packed(files()), "a.zip", tmp_path)
