"""What `cupscale.images.read` takes: files, their bytes, pictures in memory as Pillow, numpy and torch have them."""

from __future__ import annotations

import io
import os
import stat
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from cupscale.errors import CupscaleError

_TAKEN = (
    "a path, the bytes of a file, a file opened with 'rb', a Pillow image, a numpy array (h, w) or (h, w, 1 to 4), or a tensor "
    "(3, h, w) in 0 to 1"
)


def plain(source: Any) -> Any:
    """A path, bytes, an open file or a Pillow image, from all that is taken for one picture.

    Args:
        source: Besides these: `bytearray` and `memoryview`; a numpy array (h, w) or (h, w, C), uint8, uint16, bool or float
            in 0 to 1, RGB before alpha; a torch tensor (C, h, w) or (1, C, h, w) in 0 to 1, as diffusers gives with
            `output_type="pt"`; a list or tuple that holds one of these.

    Raises:
        CupscaleError: Several pictures, or something else.
    """
    if isinstance(source, (list, tuple)):
        if len(source) != 1:
            raise CupscaleError(
                f"{len(source)} pictures are given and one is taken: give one at a time, or files to upscale_many"
            )
        return plain(source[0])
    if isinstance(source, (bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, np.ndarray):
        return _of_array(source)
    if hasattr(source, "detach") and hasattr(source, "cpu"):
        return _of_tensor(source)
    if isinstance(source, (str, os.PathLike, bytes, Image.Image)) or hasattr(source, "read"):
        return source
    raise CupscaleError(f"{type(source).__name__} is no picture: give {_TAKEN}")


def _of_tensor(tensor: Any) -> Image.Image:
    try:
        values = tensor.detach().cpu()
        values = values.float().numpy() if values.is_floating_point() else values.numpy()
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:  # sparse, quantized, without data
        raise CupscaleError(
            f"a {type(tensor).__name__} whose values cannot be read ({str(error)[:80]}): give a plain tensor (3, h, w)"
        ) from None
    if values.ndim == 4 and values.shape[0] == 1:
        values = values[0]
    if values.ndim == 4:
        raise CupscaleError(f"{len(values)} pictures are given and one is taken: give one at a time")
    if values.ndim == 3 and values.shape[0] in (1, 3, 4):
        values = values.transpose(1, 2, 0)
    elif values.ndim != 2:
        raise CupscaleError(f"a tensor of the shape {tuple(tensor.shape)} is no picture: give (3, h, w)")
    return _of_array(values)


def _of_array(array: np.ndarray) -> Image.Image:
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 2, 3, 4):
        raise CupscaleError(f"an array of the shape {array.shape} is no picture: give (h, w) or (h, w, 3)")
    if 0 in array.shape:
        raise CupscaleError(f"an array of the shape {array.shape} holds no pixel: give (h, w, 3)")
    mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
    samples = _in_8_bits(array)
    return Image.frombytes(mode, array.shape[1::-1], np.ascontiguousarray(samples).tobytes())


def _in_8_bits(array: np.ndarray) -> np.ndarray:
    kind = array.dtype.kind
    if array.dtype == np.uint8:
        return array
    if kind == "b":
        return array.astype(np.uint8) * np.uint8(255)
    if kind == "u" and array.dtype.itemsize == 2:  # of either byte order
        return np.rint(array / 257.0).astype(np.uint8)
    if kind == "f":
        low, high = float(array.min()), float(array.max())
        if not (low >= -0.01 and high <= 1.01):  # NaN too
            raise CupscaleError(
                f"the samples go from {low:.4g} to {high:.4g}, and floats are in 0 to 1: scale them"
            )
        return np.rint(array.astype(np.float64) * 255).clip(0, 255).astype(np.uint8)
    raise CupscaleError(
        f"samples of {array.dtype} are no picture: give uint8, uint16, bool or floats in 0 to 1"
    )


def content(source: str | os.PathLike[str] | bytes | BinaryIO, max_bytes: int) -> tuple[str, bytes]:
    """A file's name for messages, and its content.

    Raises:
        CupscaleError: As `cupscale.images.read` for a file that is not there, too large or no file.
    """
    if isinstance(source, (str, os.PathLike)):
        name = f"{str(source)!r}"
        try:
            status = os.stat(source)
            if stat.S_ISDIR(status.st_mode):
                raise CupscaleError(f"{name} is a folder; give one image file")
            if not stat.S_ISREG(status.st_mode):
                raise CupscaleError(f"{name} is not a regular file; give one image file")
            with open(source, "rb") as file:
                data = _limited(name, file, max_bytes)
        except FileNotFoundError:
            raise CupscaleError(f"{name} does not exist; check the path") from None
        except PermissionError:
            raise CupscaleError(f"{name} may not be read; give yourself read permission") from None
        except OSError as error:
            raise CupscaleError(f"{name} cannot be read: {error.strerror or error}; check the path") from None
        except CupscaleError:
            raise
        except ValueError:  # a NUL in the path
            raise CupscaleError(f"{name} is not a valid path; check it") from None
    elif isinstance(source, bytes):
        name, data = "the image", source
        if len(data) > max_bytes:
            raise _too_many_bytes(name, len(data), max_bytes)
    else:
        name = "the image"
        data = _of_file(name, source, max_bytes)
    if not data:
        raise CupscaleError(f"{name} has 0 bytes; save or download it again")
    return name, data


def _of_file(name: str, file: BinaryIO, max_bytes: int) -> bytes:
    """Of one that the caller opened."""
    try:
        return _limited(name, file, max_bytes)
    except OSError as error:
        raise CupscaleError(f"{name} cannot be read: {error.strerror or error}; open it again") from None


def _limited(name: str, file: BinaryIO, max_bytes: int) -> bytes:
    """The rest of a file. Not by a read of `max_bytes`, for which Python would ask the system for as much memory at once."""
    try:
        known = hasattr(file, "seekable") and file.seekable()
        left = _left(file) if known else max_bytes
        data = file.read(min(left, max_bytes) + 1)
        if left < len(data) <= max_bytes:  # more than the system says, as under /proc
            data += file.read(max_bytes + 1 - len(data))
    except (AttributeError, TypeError, ValueError) as error:  # closed, opened as text, or no file of Python's
        raise CupscaleError(f"{name} cannot be read ({str(error)[:80]}): open the file with 'rb'") from None
    if not isinstance(data, bytes):
        raise CupscaleError(f"{name} gives {type(data).__name__} and not bytes: open the file with 'rb'")
    if len(data) > max_bytes:
        raise _too_many_bytes(name, file.seek(0, io.SEEK_END) if known else 0, max_bytes)
    return data


def _left(file: BinaryIO) -> int:
    at = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(at)
    return end - at


def _too_many_bytes(name: str, count: int, limit: int) -> CupscaleError:
    """count: 0 where it is not known."""
    size = _megabytes(count) if count else f"more than {_megabytes(limit)}"
    return CupscaleError(f"{name} has {size}, the limit is {_megabytes(limit)}; save it as JPEG or WebP")


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{count} bytes"
