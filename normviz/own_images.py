"""A reader's own images: a zip or a folder with one folder per class, checked, made grey and small, and kept.

No PyTorch: the server checks and keeps an upload, :func:`normviz.data.load_own_images` makes tensors of it. What is
kept are grey pixels in the sizes that the pages' networks take, under a key made of the images' bytes and classes: no
file and no name of the archive is ever written. Pillow decodes.

An archive can lie about itself: the number and the sizes of its files are checked before anything is read, the width
and height of an image before it is decoded, and names that lead out of the archive are refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from normviz.uploads import UploadError, kept_key, kept_path, read_bounded, write_kept

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "FORMATS",
    "LEAST_IMAGES",
    "MAX_ARCHIVE",
    "MAX_FILE",
    "MAX_IMAGES",
    "MAX_PIXELS",
    "MAX_SIDE",
    "MAX_TOTAL",
    "MOST_CLASSES",
    "SIDES",
    "ImagesUploadError",
    "OwnImages",
    "check_folder",
    "check_images",
    "class_count",
    "image_count",
    "keep_images",
    "keep_images_file",
    "missing_images",
    "read_images",
]

MAX_ARCHIVE, MAX_TOTAL, MAX_FILE = 10_000_000, 50_000_000, 1_000_000
"""Most bytes of a zip, of all its files unpacked, and of one of them."""

MAX_IMAGES, MAX_SIDE, MAX_PIXELS = 5_000, 512, 100_000_000
"""Most images, the longest side of one in pixels, and most pixels of all: what is decoded in a few seconds."""

MOST_CLASSES, LEAST_IMAGES = 20, 8
"""There are 2 to so many classes, each with at least so many images."""

LONGEST_NAME = 60
"""Characters of a class."""

SIDES = (8, 14, 28)
"""Sides of the grey pictures that are kept, in pixels: those of the built-in data sets."""

FORMATS = ("PNG", "JPEG", "GIF")
"""What is decoded; of an animation the first picture."""

_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".gif"})
_KEY = re.compile(r"images-[0-9a-f]{12}")
_NO_IMAGES = frozenset({"thumbs.db", "desktop.ini"})
_ENTRIES = 2 * MAX_IMAGES
"""Most entries of an archive or a folder, with folders and hidden files."""


class ImagesUploadError(UploadError):
    """The file holds no images that can be trained on, or is not on this machine; the message says why."""


@dataclass(frozen=True, eq=False)
class OwnImages:
    """Checked images.

    Attributes:
        name: of the file, or its key.
        key: ``"images-"`` and 12 hexadecimal digits.
        pixels: by side: (images, side, side) uint8, 0 black, 255 white.
        labels: class number of every image, (images,) int64.
        class_names: one per class, in the order of the alphabet.
    """

    name: str
    key: str
    pixels: Mapping[int, NDArray[np.uint8]]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class."""
        return dict(zip(self.class_names, np.bincount(self.labels).tolist(), strict=True))


@dataclass(frozen=True)
class _File:
    """One image before it is decoded."""

    path: PurePosixPath
    size: int
    read: Callable[[], bytes]

    @property
    def class_name(self) -> str:
        return self.path.parent.name


def check_images(data: bytes, name: str) -> OwnImages:
    """Read a zip with one folder of PNG, JPEG or GIF files per class.

    Every picture is turned to grey (a transparent ground to white) and stretched to each of :data:`SIDES`, a pixel
    being the mean of those it covers. The folders of the classes lie side by side, at the top or in other folders.

    Args:
        data: the file's bytes.
        name: the file's name, for messages.

    Raises:
        ImagesUploadError: no zip, too large packed or unpacked, a name that leads out of it, something else than an
            image in it, or too few or too many images, pixels or classes; the message names the file and what is
            allowed.
    """
    if len(data) > MAX_ARCHIVE:
        raise ImagesUploadError(f"{name} has {len(data):,} bytes; at most {MAX_ARCHIVE:,} are allowed.")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return _checked(list(_packed(archive, name)), name)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError) as error:
        if isinstance(error, ImagesUploadError):
            raise
        raise ImagesUploadError(f"{name} is no zip that can be read: {error}.") from error


def check_folder(path: str | Path) -> OwnImages:
    """:func:`check_images` for a folder of this machine that has one folder per class; links are not followed.

    Raises:
        ImagesUploadError: as :func:`check_images`.
        OSError: the folder cannot be read.
    """
    folder = Path(path)
    return _checked(list(_lying(folder)), folder.name)


def keep_images(data: bytes, name: str, folder: Path | None = None) -> str:
    """Check a zip of images and keep them; the same images in the same classes always have the same key.

    Returns:
        The key, ``"images-"`` and 12 hexadecimal digits.

    Raises:
        ImagesUploadError: see :func:`check_images`; nothing is kept then. Also when they cannot be written.
    """
    return _keep(check_images(data, name), folder)


def keep_images_file(path: str | Path, folder: Path | None = None) -> str:
    """:func:`keep_images` for a zip or a folder of this machine.

    Example::

        from normviz.experiments import evolving_layers as el
        from normviz.own_images import keep_images_file

        run = el.run(el.Knobs(data="own", own_images=keep_images_file("leaves/")))

    Raises:
        ImagesUploadError: as :func:`keep_images`.
        OSError: it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return _keep(check_folder(path), folder)
    return keep_images(read_bounded(path, MAX_ARCHIVE, ImagesUploadError), path.name, folder)


def read_images(key: str, folder: Path | None = None) -> OwnImages:
    """The kept images with that key.

    Raises:
        ImagesUploadError: the key is malformed, or the images are not (or no longer) here.
    """
    if not _KEY.fullmatch(key):
        raise ImagesUploadError(f"own_images must be the key of uploaded images, got {key[:40]!r}.")
    path = kept_path(f"{key}.npz", folder)
    try:
        return _read(path, path.stat().st_mtime_ns, key)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        raise ImagesUploadError(f"The images {key} are not on this machine: upload them again.") from None


def missing_images(
    key: str,
    *,
    most_classes: int = MOST_CLASSES,
    least: int = 0,
    least_classes: int = 2,
    each: int = 0,
    advice: str = "",
) -> str:
    """Why no run can train on those images, in a sentence; empty if one can.

    Args:
        key: of the images; "" if none are chosen.
        most_classes: most classes that the page's networks tell apart.
        least: fewest images that the page needs.
        least_classes: fewest classes that it needs.
        each: fewest images of a class that it needs.
        advice: a sentence that follows where there are too few images.
    """
    if not key:
        return "Bring a zip of images to train on, with one folder per class."
    try:
        images = read_images(key)
    except ImagesUploadError as error:
        return str(error)
    if len(images.class_names) > most_classes:
        return f"The images {key} have {len(images.class_names)} classes; here at most {most_classes} are told apart."
    if len(images.class_names) < least_classes:
        return f"The images {key} have {len(images.class_names)} classes; here at least {least_classes} are needed."
    if (fewest := min(images.counts.values())) < each:
        return f"A class of the images {key} has {fewest:,}; here every class needs at least {each:,}."
    if len(images.labels) < least:
        said = f"The images {key} are {len(images.labels):,}; at least {least:,} are needed here."
        return f"{said} {advice}".rstrip()
    return ""


def class_count(key: str, otherwise: int) -> int:
    """Number of classes of kept images; ``otherwise`` if they are not here."""
    try:
        return len(read_images(key).class_names)
    except ImagesUploadError:
        return otherwise


def image_count(key: str, otherwise: int = 1_000) -> int:
    """Number of kept images, for estimates of work; ``otherwise`` if they are not here."""
    try:
        return len(read_images(key).labels)
    except ImagesUploadError:
        return otherwise


@lru_cache(maxsize=4)
def _read(path: Path, changed: int, key: str) -> OwnImages:  # noqa: ARG001
    with np.load(path, allow_pickle=False) as kept:
        names = tuple(json.loads(kept["class_names"].tobytes()))
        pixels = {side: kept[f"pixels_{side}"] for side in SIDES}
        return OwnImages(key, key, pixels, kept["labels"], names)


def _keep(images: OwnImages, folder: Path | None) -> str:
    buffer = io.BytesIO()
    names = np.frombuffer(json.dumps(images.class_names).encode(), dtype=np.uint8)
    arrays: dict[str, NDArray[Any]] = {"labels": images.labels, "class_names": names}
    arrays |= {f"pixels_{side}": values for side, values in images.pixels.items()}
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_kept(f"{images.key}.npz", buffer.getvalue(), images.name, ImagesUploadError, folder)
    return images.key


def _ignored(path: PurePosixPath) -> bool:
    """Hidden files, and what systems put beside a reader's own."""
    return any(p.startswith(".") or p == "__MACOSX" for p in path.parts) or path.name.lower() in _NO_IMAGES


def _packed(archive: zipfile.ZipFile, name: str) -> Iterator[_File]:
    """The images of an archive; every entry is checked before one is read."""
    entries = archive.infolist()
    if len(entries) > _ENTRIES:
        raise ImagesUploadError(
            f"{name} has {len(entries):,} entries; at most {MAX_IMAGES:,} images are allowed."
        )
    for entry in entries:
        shown = entry.filename[:LONGEST_NAME]
        parts = entry.filename.split("/")
        if "\\" in entry.filename or ":" in parts[0] or parts[0] == "" or ".." in parts:
            raise ImagesUploadError(f"{name}: {shown!r} leads out of the archive.")
        path = PurePosixPath(entry.filename)
        if entry.is_dir() or _ignored(path):
            continue
        if stat.S_ISLNK(entry.external_attr >> 16):
            raise ImagesUploadError(f"{name}: {shown!r} is a link, which is not followed.")
        if entry.flag_bits & 1:
            raise ImagesUploadError(f"{name}: {shown!r} is encrypted.")
        yield _File(path, entry.file_size, lambda entry=entry: archive.read(entry))  # type: ignore[misc]


def _lying(folder: Path) -> Iterator[_File]:
    """The images of a folder."""
    for count, path in enumerate(folder.rglob("*"), 1):
        if count > _ENTRIES:
            raise ImagesUploadError(f"{folder.name} has more than {_ENTRIES:,} entries.")
        relative = PurePosixPath(path.relative_to(folder).as_posix())
        if _ignored(relative):
            continue
        if path.is_symlink():
            raise ImagesUploadError(f"{folder.name}: {str(relative)!r} is a link, which is not followed.")
        if path.is_file():
            yield _File(relative, path.stat().st_size, path.read_bytes)


def _checked(files: list[_File], name: str) -> OwnImages:
    classes = _classes(files, name)
    files.sort(key=lambda file: (file.class_name, str(file.path)))
    number = {folder: i for i, folder in enumerate(classes)}
    hashes: list[tuple[str, str]] = []
    pixels: dict[int, list[NDArray[np.uint8]]] = {side: [] for side in SIDES}
    left = MAX_PIXELS
    for file in files:
        content = file.read()
        hashes.append((file.class_name, hashlib.sha256(content).hexdigest()))
        picture = _opened(content, f"{name}: {str(file.path)[-LONGEST_NAME:]!r}")
        left -= picture.width * picture.height
        if left < 0:
            raise ImagesUploadError(f"{name} has more than {MAX_PIXELS // 1_000_000} million pixels in all.")
        grey = _grey(picture, f"{name}: {str(file.path)[-LONGEST_NAME:]!r}")
        for side, made in pixels.items():
            made.append(_resized(grey, side))
    return OwnImages(
        name,
        kept_key("images", json.dumps(sorted(hashes)).encode()),
        {side: np.stack(made) for side, made in pixels.items()},
        np.array([number[file.class_name] for file in files], dtype=np.int64),
        tuple(classes),
    )


def _classes(files: list[_File], name: str) -> list[str]:
    """The classes in order; whatever can be known before a file is read is checked here."""
    for file in files:
        shown = repr(str(file.path)[-LONGEST_NAME:])
        if file.path.suffix.lower() not in _ENDINGS:
            raise ImagesUploadError(f"{name}: {shown} is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file.")
        if len(file.path.parts) < 2:
            raise ImagesUploadError(
                f"{name}: {shown} lies in no folder; every class has a folder of its own."
            )
        if file.size > MAX_FILE:
            raise ImagesUploadError(
                f"{name}: {shown} has {file.size:,} bytes; at most {MAX_FILE:,} are allowed for an image."
            )
    if len(files) > MAX_IMAGES:
        raise ImagesUploadError(f"{name} has {len(files):,} images; at most {MAX_IMAGES:,} are allowed.")
    if (total := sum(file.size for file in files)) > MAX_TOTAL:
        raise ImagesUploadError(f"{name} has {total:,} bytes unpacked; at most {MAX_TOTAL:,} are allowed.")
    folders: dict[str, PurePosixPath] = {}
    counts: dict[str, int] = {}
    for file in files:
        other = folders.setdefault(file.class_name, file.path.parent)
        if other != file.path.parent:
            raise ImagesUploadError(
                f"{name} has two folders of the name {file.class_name!r}; every class has one folder."
            )
        counts[file.class_name] = counts.get(file.class_name, 0) + 1
    if not 2 <= len(counts) <= MOST_CLASSES:
        raise ImagesUploadError(
            f"{name} has {len(counts)} folder{'s' if len(counts) != 1 else ''} with images; "
            f"2 to {MOST_CLASSES} classes are allowed."
        )
    for folder, count in counts.items():
        if len(folder) > LONGEST_NAME or not folder.isprintable():
            raise ImagesUploadError(
                f"{name}: the name of a class must have at most {LONGEST_NAME} characters that can be printed, got "
                f"{folder[:20]!r}…"
            )
        if count < LEAST_IMAGES:
            raise ImagesUploadError(
                f"{name}: the class {folder!r} has {count} image{'s' if count > 1 else ''}; "
                f"at least {LEAST_IMAGES} are needed."
            )
    return sorted(counts)


def _opened(content: bytes, shown: str) -> Image:
    """The image with its size known and its pixels not yet decoded."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is far lower
            picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except Exception as error:  # a decoder of foreign bytes may raise anything
        raise ImagesUploadError(f"{shown} cannot be read as an image.") from error
    if max(picture.size) > MAX_SIDE:
        raise ImagesUploadError(
            f"{shown} has {picture.width:,} x {picture.height:,} pixels; at most {MAX_SIDE} x {MAX_SIDE} are allowed."
        )
    return picture


def _grey(picture: Image, shown: str) -> Image:
    """The picture as it is seen, in grey values from 0 to 255."""
    from PIL import Image, ImageOps

    try:
        picture.load()
        picture = ImageOps.exif_transpose(picture)
        if picture.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip
            deep = np.asarray(picture).astype(np.float64) / 257
            return Image.fromarray(deep.round().clip(0, 255).astype(np.uint8))
        if picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
        return picture.convert("L")
    except Exception as error:  # a decoder of foreign bytes may raise anything
        raise ImagesUploadError(f"{shown} cannot be read as an image.") from error


def _resized(grey: Image, side: int) -> NDArray[np.uint8]:
    from PIL.Image import Resampling

    return np.asarray(grey.resize((side, side), Resampling.BOX), dtype=np.uint8)
