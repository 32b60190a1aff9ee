# SPDX-License-Identifier: Apache-2.0
"""Images: decoded, brought to one size, normalised. Pillow decodes and resizes; nothing else of it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from edgepress.models.errors import UsageError
from edgepress.models.files.reading import open_regular

#: Part of every cache key: raise it when the same definition gives other numbers.
IMAGES_VERSION = 3
SUFFIXES = (".png", ".jpg", ".jpeg")
#: More pixels are not decoded: a file of a few kB can claim to hold any number of them.
LARGEST_PIXELS = 2**26
_FITS = ("crop", "stretch", "pad")
#: EXIF's tag of how a camera was held, and its values for a quarter of a turn.
_ORIENTATION, _LYING = 0x0112, (5, 6, 7, 8)


@dataclass(frozen=True)
class Images:
    """The front end of images: [channels, height, width], (value / 255 - mean) / std.

    The defaults of mean and std are powers of two, so that the integers of an int8 input are the pixels less 128.

    Attributes:
        height, width: of the network's input, in pixels.
        channels: 3 (red, green, blue) or 1 (grey, ITU-R 601 luma).
        fit: "crop" scales until the image covers the size and cuts the middle out; "stretch" ignores its proportions;
            "pad" scales until it fits and adds black.
        mean, std: of every channel, as parts of full scale.
    """

    height: int = 96
    width: int = 96
    channels: int = 3
    fit: Literal["crop", "stretch", "pad"] = "crop"
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.25,)

    kind = "images"

    def __post_init__(self) -> None:
        for name, low, high in (("height", 1, 4096), ("width", 1, 4096)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UsageError(f"front_end.{name} = {value!r} must be an integer from {low} to {high}")
        if self.channels not in (1, 3):
            raise UsageError(f"front_end.channels = {self.channels!r}: allowed are 3 (colour) and 1 (grey)")
        if self.fit not in _FITS:
            raise UsageError(f"front_end.fit = {self.fit!r} is unknown: allowed are {', '.join(_FITS)}")
        for name in ("mean", "std"):
            given = getattr(self, name)
            values = (given,) if isinstance(given, (int, float)) else given
            numbers = isinstance(values, (list, tuple)) and all(
                isinstance(v, (int, float)) and not isinstance(v, bool) and np.isfinite(v) for v in values
            )
            if not numbers or len(values) not in (1, self.channels):
                raise UsageError(
                    f"front_end.{name} = {given!r} must be one number, or one for each of {self.channels} channels"
                )
            object.__setattr__(self, name, tuple(map(float, values)))
        if min(self.std) <= 0:
            raise UsageError(f"front_end.std = {self.std} must be above 0")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return (self.channels, self.height, self.width)

    def to_json(self) -> dict[str, Any]:
        """The fields and the kind."""
        return {"kind": self.kind, **asdict(self), "mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Images:
        """Read the fields, without the kind.

        Raises:
            UsageError: an unknown field, or a value out of range.
        """
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(map(str, value)) - set(known))
        if unknown:
            raise UsageError(f"front_end.{unknown[0]} is unknown for images: known are {', '.join(known)}")
        return cls(**value)

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [..., height, width, channels] to float32 [..., channels, height, width]."""
        scaled = pixels.astype(np.float32) / np.float32(255)
        scaled = (scaled - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))

    def read(self, path: Path | IO[bytes]) -> np.ndarray:
        """float32 [channels, height, width] of a PNG or JPEG file, or of an open one with a name.

        Raises:
            UsageError: it is damaged, or no image of these kinds, or has too many pixels.
        """
        return self.normalised(self.pixels(path))

    def pixels(self, path: Path | IO[bytes], nearest: bool = False) -> np.ndarray:
        """uint8 [height, width, channels]; `nearest` for masks, whose values are names."""
        from PIL import Image, ImageOps

        size = (self.width, self.height)
        method = Image.Resampling.NEAREST if nearest else Image.Resampling.BILINEAR
        with open_image(path) as image:
            image = image if nearest else _eight_bits(image, self.channels)
            if image.size != size:
                if self.fit == "stretch":
                    image = image.resize(size, method)
                elif self.fit == "crop":
                    image = ImageOps.fit(image, size, method)
                else:
                    image = ImageOps.pad(image, size, method)
            return np.asarray(image).reshape(self.height, self.width, -1)


def _eight_bits(image: Any, channels: int) -> Any:
    """Grey or colour of 8 bits; transparency is left out, of 16-bit greys the high byte is taken."""
    from PIL import Image

    if image.mode.startswith("I"):  # Pillow would clip these at 255
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
    elif image.mode == "P" and "transparency" in image.info:  # Pillow would warn of each
        image = image.convert("RGBA")
    return image.convert("L" if channels == 1 else "RGB")


def image_size(path: Path | IO[bytes]) -> tuple[int, int]:
    """(height, width) by the file's header.

    Raises:
        UsageError: no PNG or JPEG, or a damaged one.
    """
    with open_image(path, decode=False) as image:
        sizes = image.height, image.width
        with _refused(path):  # a PNG may have its EXIF behind the pixels
            lying = image.getexif().get(_ORIENTATION) in _LYING
        return sizes[::-1] if lying else sizes


@contextmanager
def open_image(path: Path | IO[bytes], decode: bool = True) -> Iterator[Any]:
    """Pillow's image of a PNG or JPEG, within a `with` block; decoded, it stands upright as its EXIF says.

    Raises:
        UsageError: Pillow is missing, the file is damaged or of another kind, or it has too many pixels.
    """
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise UsageError("images need Pillow: install edgepress[images]") from None
    with open_regular(path) if isinstance(path, Path) else nullcontext(path) as file:
        with _refused(path):
            image = Image.open(file, formats=("PNG", "JPEG"))
            if decode and image.width * image.height <= LARGEST_PIXELS:
                image.load()
                ImageOps.exif_transpose(image, in_place=True)
        if image.width * image.height > LARGEST_PIXELS:
            raise UsageError(
                f"{_name(path)} has {image.width} x {image.height} pixels; at most {LARGEST_PIXELS} are read"
            )
        yield image


@contextmanager
def _refused(path: Path | IO[bytes]) -> Iterator[None]:
    """What Pillow says of a file within the block, as a sentence."""
    from PIL import UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError as error:
        raise UsageError(f"{_name(path)} is no PNG or JPEG image, whatever its name says: take it out") from error
    except Exception as error:  # Pillow raises many kinds for a damaged file
        raise UsageError(f"{_name(path)} is no PNG or JPEG image that can be read: {error}") from error


def _name(path: Path | IO[bytes]) -> str:
    return str(path if isinstance(path, Path) else path.name)
