"""Images in and out: reading what people have, writing what they can keep.

Everything is 8-bit sRGB between `read` and `write`. The decoding is Pillow's; this file adds the limits,
the colour management, the alpha channel and the atomic write.

Transparency. Colour under alpha 0 is arbitrary (often black) and would bleed into the edges, both in a
resize and in a network that never sees alpha. `read` replaces it by a smooth continuation of the visible
colours ("bleed fill", push-pull: Gortler et al., The Lumigraph, 1996, section 3.4). RGB and alpha can then
be resized apart from each other.
"""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import secrets
import shutil
import stat
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, overload

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageOps, PngImagePlugin

from cupscale.errors import CupscaleError

try:
    import pillow_heif
except ImportError:  # HEIC is then refused with a line that says what to install
    pillow_heif = None  # type: ignore[assignment]
else:
    pillow_heif.register_heif_opener()

MAX_PIXELS = 2**26  # 64 megapixels: 8192 x 8192
MAX_BYTES = 64 * 2**20
MIN_SIDE_PX = 16

Method = Literal["lanczos", "bicubic"]
METHODS: dict[str, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
}

# What `read` opens. Formats that run other programs (EPS) or only hint at a picture (WMF) stay out.
_READABLE = ("PNG", "JPEG", "MPO", "WEBP", "AVIF", "HEIF", "TIFF", "GIF", "BMP", "PPM", "JPEG2000")
_READABLE_TEXT = "PNG, JPEG, WebP, AVIF, HEIC, TIFF, GIF or BMP"
_FORMATS = {
    ".png": "PNG",
    ".webp": "WEBP",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
_MAX_SIDE_PX = {"JPEG": 65500, "WEBP": 16383, "AVIF": 65535}  # libjpeg stops short of JPEG's 65535
_KEY = "cupscale"
_MARK = b"cupscale:"  # begins our text in EXIF
_COMPRESSED = b"zlib:"
_SETTINGS_LIMIT = 2**24  # bytes, unpacked
_EXIF_LIMIT = 65000  # a JPEG segment holds 65,533 bytes; the rest is the EXIF header
_PNG_LEVEL = 4  # level 6 takes twice the time of level 4 for a file 6% smaller
_STRIP_PX = 2**20  # pixels converted at once between uint8 and float


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded picture: `rgb` (mode RGB, sRGB), `alpha` (mode L, the same size) or None, and the cupscale
    settings found in the file (else {}). Colour under alpha 0 has been replaced: see the head of this file.
    """

    rgb: Image.Image
    alpha: Image.Image | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.rgb.size


Source = str | Path | bytes | BinaryIO | Image.Image


# Reading


def read(source: Source, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Picture:
    """Decode a path, the bytes of a file, an open binary file or a Pillow image.

    EXIF orientation is applied, ICC profiles are converted to sRGB (a broken profile is ignored), 16-bit
    and float samples are scaled to 8 bits, alpha is kept from wherever the format has it, and the first
    frame of an animation is taken.

    Raises CupscaleError for a missing file, a folder, no permission, 0 bytes, more than `max_bytes`,
    something that is not an image, a truncated one, more than `max_pixels` pixels, or a side below 16 px.
    """
    if isinstance(source, Image.Image):
        name = "the image"
        _check_size(name, source.size, max_pixels)
        return _decode(name, source)
    name, data = _bytes(source, max_bytes)
    with _open(name, data, max_pixels) as image:
        _check_size(name, image.size, max_pixels)
        return _decode(name, image)


def read_settings(source: str | Path | bytes) -> dict[str, Any] | None:
    """The cupscale settings inside a file written by `write`, or None. The pixels are not decoded.

    Raises CupscaleError as `read` does for a file that cannot be opened.
    """
    name, data = _bytes(source, MAX_BYTES * 16)
    with _open(name, data, MAX_PIXELS * 16) as image:
        return _settings(image)


def _bytes(source: str | Path | bytes | BinaryIO, max_bytes: int) -> tuple[str, bytes]:
    """The name for messages, and the content."""
    if isinstance(source, (str, Path)):
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
        data = _limited(name, source, max_bytes)
    if not data:
        raise CupscaleError(f"{name} has 0 bytes; save or download it again")
    return name, data


def _limited(name: str, file: BinaryIO, max_bytes: int) -> bytes:
    data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        count = len(data) + len(file.read()) if not file.seekable() else file.seek(0, io.SEEK_END)
        raise _too_many_bytes(name, count, max_bytes)
    return data


def _too_many_bytes(name: str, count: int, limit: int) -> CupscaleError:
    return CupscaleError(
        f"{name} has {_megabytes(count)}, the limit is {_megabytes(limit)}; save it as JPEG or WebP"
    )


def _megabytes(count: int) -> str:
    return f"{count / 2**20:.1f} MB" if count >= 2**20 else f"{count} bytes"


def _open(name: str, data: bytes, max_pixels: int) -> Image.Image:
    """Read the header only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images; `_check_size` refuses them
            return Image.open(io.BytesIO(data), formats=[f for f in _READABLE if f in _registered()])
    except Image.DecompressionBombError:
        raise CupscaleError(
            f"{name} has too many pixels, the limit is {max_pixels / 2**20:.4g} megapixels; "
            "make it smaller first"
        ) from None
    except Exception:  # hostile headers raise nearly anything
        if pillow_heif is None and data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypmsf1"):
            raise CupscaleError(f"{name} is HEIC, which needs pillow-heif; pip install pillow-heif") from None
        raise CupscaleError(
            f"{name} is not an image that can be read, or its head is damaged; give {_READABLE_TEXT}"
        ) from None


def _registered() -> Mapping[str, object]:
    Image.init()
    return Image.OPEN


def _check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise CupscaleError(
            f"{name} is {width} x {height} = {width * height / 2**20:.1f} megapixels, "
            f"the limit is {max_pixels / 2**20:.4g}; make it smaller first"
        )
    if min(size) < MIN_SIDE_PX:
        raise CupscaleError(
            f"{name} is {width} x {height}, the limit is {MIN_SIDE_PX} px a side; give a larger image or crop"
        )


def _decode(name: str, image: Image.Image) -> Picture:
    """Pixels, from a checked header. Leaves the caller's image as it is."""
    depth_16 = bool(getattr(image, "tile", None)) and "16" in str(image.tile[0][3])  # type: ignore[attr-defined]
    try:
        image.load()
    except Exception:  # decoders raise OSError, SyntaxError, RuntimeError, EOFError, struct.error ...
        raise CupscaleError(f"{name} is truncated or damaged; save or download it again") from None
    metadata = _settings(image) or {}
    profile = image.info.get("icc_profile")
    transparency = image.info.get("transparency")
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF: the pixels are still good
        image = image.copy()

    alpha = None
    if image.mode.startswith("I;16"):
        samples = np.asarray(image)
        if isinstance(transparency, int):
            alpha = Image.fromarray(np.where(samples == transparency, 0, 255).astype(np.uint8))
        to_8_bits = np.round(np.arange(65536) / 257).astype(np.uint8)
        image = Image.fromarray(to_8_bits[samples])
    elif image.mode in ("I", "F"):
        image = Image.fromarray(_scaled(np.asarray(image)))
    elif image.has_transparency_data:
        if isinstance(transparency, tuple) and depth_16:  # the pixels keep 8 of 16 bits, the key must too
            image.info["transparency"] = tuple(v >> 8 for v in transparency)
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    rgb = _to_srgb(image, profile)
    if alpha is not None:
        rgb = _bleed(rgb, alpha)
    rgb.info = {}
    return Picture(rgb, alpha, metadata)


def _scaled(samples: np.ndarray) -> np.ndarray:
    """Integer ("I") or float ("F") samples of unknown range to uint8.

    Integers in 0..65535 count as 16-bit. Floats in 0..1, 0..255 or 0..65535 count as that range. Anything
    else is stretched from its own minimum to its maximum. NaN is black.
    """
    floats = np.nan_to_num(samples.astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(floats.min()), float(floats.max())
    ranges = (65535.0,) if samples.dtype.kind == "i" else (1.0, 255.0, 65535.0)
    top = next((r for r in ranges if low >= 0 and high <= r), None)
    if top is None:
        floats -= low
        top = high - low
    return np.round(floats * (255.0 / top)).astype(np.uint8)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Any 8-bit mode without alpha to RGB in sRGB."""
    if image.mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None
        return converted
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            description = (source.profile.profile_description or "").strip()
            space = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[source.profile.xcolor_space.strip()]
            same_kind = (image.mode == "CMYK") == (space == "CMYK")
            if same_kind and description not in ("sRGB IEC61966-2.1", "sRGB built-in", "sRGB"):
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image.convert(space), source, srgb, outputMode="RGB")
                if converted is not None:
                    return converted
        except (ImageCms.PyCMSError, OSError, ValueError, KeyError, TypeError):
            pass  # a broken profile: the plain conversion below
    return image.convert("RGB")


def _bleed(rgb: Image.Image, alpha: Image.Image) -> Image.Image:
    """Replace the colour under alpha 0 by a smooth continuation of the visible colours; keep other pixels.

    Push: halve (alpha-weighted) until every pixel has a colour. Pull: fill each level from the coarser one.
    """
    low, high = alpha.getextrema()
    if low != 0 or high == 0:
        return rgb
    levels = [(rgb, alpha)]
    while levels[-1][1].getextrema()[0] == 0:
        coarse = Image.merge("RGBA", (*levels[-1][0].split(), levels[-1][1])).reduce(2)
        seen = coarse.getchannel("A").point([0] + [255] * 255)
        levels.append((coarse.convert("RGB"), seen))
    filled = levels.pop()[0]
    while levels:
        colour, seen = levels.pop()
        mask = seen.point([0] + [255] * 255)
        filled = Image.composite(colour, filled.resize(colour.size, Image.Resampling.BILINEAR), mask)
    return filled


def _settings(image: Image.Image) -> dict[str, Any] | None:
    text: str | bytes | None = image.info.get(_KEY)  # a PNG's iTXt
    try:
        if text is None:
            exif = image.getexif()
            comment: bytes = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment, b"")
            if image.format == "TIFF":
                comment = str(exif.get(ExifTags.Base.ImageDescription, "")).encode("ascii")
            _, mark, body = comment.rstrip(b"\0").partition(_MARK)
            if not mark:
                return None
            if body.startswith(_COMPRESSED):
                packed = base64.b64decode(body.removeprefix(_COMPRESSED))
                body = zlib.decompressobj().decompress(packed, _SETTINGS_LIMIT)
            text = body
        settings = json.loads(text)
    except Exception:  # damaged EXIF and foreign JSON raise nearly anything
        return None
    return settings if isinstance(settings, dict) else None


# Tensors


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB image to (1, 3, H, W) float32 in [-1, 1]."""
    width, height = image.size
    tensor = torch.empty(1, 3, height, width)
    for top, bottom in _strips(width, height):
        strip = np.array(image.crop((0, top, width, bottom)).convert("RGB"))
        tensor[0, :, top:bottom] = torch.from_numpy(strip).permute(2, 0, 1).float().div_(127.5).sub_(1)
    return tensor


def to_image(tensor: torch.Tensor) -> Image.Image:
    """(1, 3, H, W) or (3, H, W), any float dtype and device, to an RGB image. Values outside [-1, 1] are
    clipped; halves round to even. Needs 3 bytes a pixel besides the result, whatever the size.

    Raises CupscaleError if a value is not finite.
    """
    if tensor.ndim == 4:
        (tensor,) = tensor
    _, height, width = tensor.shape
    pixels = np.empty((height, width, 3), np.uint8)
    for top, bottom in _strips(width, height):
        strip = tensor[:, top:bottom].detach().to("cpu", torch.float32)
        if not torch.isfinite(strip).all():
            raise CupscaleError(
                "the decoded image holds NaN or infinity, a sign of half precision in the VAE; "
                "use float32 or madebyollin/sdxl-vae-fp16-fix"
            )
        pixels[top:bottom] = strip.add(1).mul_(127.5).round_().clamp_(0, 255).byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels)


def _strips(width: int, height: int) -> list[tuple[int, int]]:
    """(top, bottom) rows of strips of about `_STRIP_PX` pixels."""
    rows = max(1, _STRIP_PX // width)
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


@overload
def resize(picture: Picture, size: tuple[int, int], method: Method = "lanczos") -> Picture: ...


@overload
def resize(picture: Image.Image, size: tuple[int, int], method: Method = "lanczos") -> Image.Image: ...


def resize(
    picture: Picture | Image.Image, size: tuple[int, int], method: Method = "lanczos"
) -> Picture | Image.Image:
    """Resize a picture (colour and alpha) or an image to exactly `size` = (width, height) px."""
    if isinstance(picture, Picture):
        rgb = resize(picture.rgb, size, method)
        alpha = None if picture.alpha is None else resize(picture.alpha, size, method)
        return Picture(rgb, alpha, picture.metadata)
    if method not in METHODS:
        raise CupscaleError(f"unknown resize {method!r}; choose {' or '.join(METHODS)}")
    return picture.resize(size, METHODS[method])  # Pillow premultiplies RGBA by itself


def finish(image: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """Put alpha, resized (Lanczos) to the image's size, back on an RGB image. Without alpha: the image
    itself."""
    if alpha is None:
        return image
    if alpha.size != image.size:
        alpha = resize(alpha, image.size, "lanczos")
    return Image.merge("RGBA", (*image.convert("RGB").split(), alpha))


# Writing


def check_writable(path: str | Path, *, size: tuple[int, int] | None = None, alpha: bool = False) -> None:
    """Refuse before a long run what `write` would refuse after it: an unknown suffix, alpha in a JPEG, a
    side too long for the format, a missing folder, a folder as the name, no permission, a full disk.

    `size` is the (width, height) px of the result, `alpha` whether it has transparent pixels. Raises
    CupscaleError.
    """
    path = Path(path)
    _check_format(path, size, alpha)
    with _explained(path):
        probe = _temporary(path)
        try:
            with open(probe, "xb") as file:
                file.write(b"\0")
        finally:
            probe.unlink(missing_ok=True)
        if size is not None:
            needed, free = size[0] * size[1] // 2, shutil.disk_usage(probe.parent).free
            if free < needed:
                raise OSError(errno.ENOSPC, "")


def write(image: Image.Image, path: str | Path, settings_json: str | None = None, quality: int = 95) -> Path:
    """Write an RGB, RGBA or grey image in the format of the suffix: png, webp, jpg, jpeg, avif, tif, tiff.

    `settings_json` (a JSON object) goes inside: a PNG's iTXt "cupscale", else EXIF. Nothing
    else of the image's metadata is kept: no location, no camera, no thumbnail. `quality`, 1 to 100, is for
    JPEG, WebP and AVIF; from 90 on, JPEG keeps colour at full resolution.

    The file appears whole or not at all: it is written beside its final name, synced and renamed. Returns
    the path. Raises CupscaleError as `check_writable` does, and for a `quality` out of range.
    """
    path = Path(path)
    if not 1 <= quality <= 100:
        raise CupscaleError(f"quality is {quality}, the limits are 1 and 100; 95 is a good start")
    if image.mode not in ("RGB", "RGBA", "L"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    transparent = image.mode == "RGBA" and image.getchannel("A").getextrema()[0] != 255
    kind = _check_format(path, image.size, transparent)
    data = _encode(image, kind, settings_json, quality)
    with _explained(path):
        temporary = _temporary(path)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, os.path.realpath(path))
        finally:
            temporary.unlink(missing_ok=True)
    return path


def _encode(image: Image.Image, kind: str, settings_json: str | None, quality: int) -> memoryview:
    """The bytes of the file. In memory, so that an encoder cannot lose a short write."""
    if image.mode == "RGBA" and kind == "JPEG":
        image = image.convert("RGB")
    if image.info:  # encoders copy comments, XMP and profiles from here
        image = image.copy()
        image.info = {}
    options: dict[str, Any] = {}
    if kind == "PNG":
        options["compress_level"] = _PNG_LEVEL
        if settings_json is not None:
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_itxt(_KEY, settings_json)
    else:
        if kind == "TIFF":
            options["compression"] = "tiff_adobe_deflate"
        else:
            options["quality"] = quality
        if kind == "JPEG" and quality >= 90:
            options["subsampling"] = "4:4:4"
        if settings_json is not None:
            options["exif"] = _exif(settings_json, kind)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getbuffer()


def _exif(settings_json: str, kind: str) -> Image.Exif:
    """The settings as UserComment, compressed if they are long; in a TIFF, where Pillow does not write that
    tag, as ImageDescription. Read back by `_settings`."""
    text = json.dumps(json.loads(settings_json), separators=(",", ":")).encode("ascii")
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = _KEY
    if kind == "TIFF":
        exif[ExifTags.Base.ImageDescription] = (_MARK + text).decode("ascii")
        return exif
    if len(text) > _EXIF_LIMIT:
        text = _COMPRESSED + base64.b64encode(zlib.compress(text, 9))
    if len(text) > _EXIF_LIMIT:
        raise CupscaleError(
            f"the settings take {len(text)} bytes, the limit in {kind} is {_EXIF_LIMIT}; save as PNG"
        )
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + _MARK + text
    return exif


def _check_format(path: Path, size: tuple[int, int] | None, alpha: bool) -> str:
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(_FORMATS)
        raise CupscaleError(f"{str(path)!r} has a suffix that cannot be written; use one of {known}")
    if alpha and kind == "JPEG":
        raise CupscaleError(f"{str(path)!r}: JPEG has no alpha and this image has; save as PNG or WebP")
    limit = _MAX_SIDE_PX.get(kind)
    if size is not None and limit is not None and max(size) > limit:
        raise CupscaleError(
            f"{str(path)!r} would be {size[0]} x {size[1]}, the limit of {kind} is {limit} px; save as PNG"
        )
    return kind


def _temporary(path: Path) -> Path:
    """A new name in the folder that the file will really be in."""
    return Path(os.path.realpath(path)).parent / f".{_KEY}-{secrets.token_hex(6)}.part"


class _explained:
    """Turn the OSErrors of writing `path` into one line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        name, folder = f"{str(self.path)!r}", Path(os.path.realpath(self.path)).parent
        if self.path.is_dir():
            raise CupscaleError(f"{name} is a folder; give the name of a file in it")
        if not folder.is_dir():
            raise CupscaleError(f"{name}: the folder {str(folder)!r} does not exist; make it first")
        if self.path.exists() and not os.access(self.path, os.W_OK):
            raise CupscaleError(f"{name} is write-protected; choose another name")

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, OSError):
            return
        name = f"{str(self.path)!r}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            line = f"{name} does not fit, the disk is full; free some space or choose another folder"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            line = f"{name} may not be written, no permission in its folder; choose another folder"
        elif error.errno == errno.ENAMETOOLONG:
            line = f"{name} is too long a name; choose a shorter one"
        else:
            line = f"{name} cannot be written: {error.strerror or error}; choose another folder"
        raise CupscaleError(line) from None
