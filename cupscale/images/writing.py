"""Images out: whole or not at all, with the settings inside."""

from __future__ import annotations

import base64
import errno
import io
import json
import os
import secrets
import shutil
import zlib
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, PngImagePlugin

from cupscale.errors import CupscaleError
from cupscale.images import deep
from cupscale.images.extras import NO_EXTRAS, Extras
from cupscale.images.profiles import in_profile, space_of
from cupscale.images.settings_text import COMPRESSED, KEY, MARK

_FORMATS = {
    ".png": "PNG",
    ".webp": "WEBP",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".avif": "AVIF",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
SUFFIXES = tuple(_FORMATS)
_MAX_SIDE_PX = {"JPEG": 65500, "WEBP": 16383, "AVIF": 65535}  # libjpeg stops short of JPEG's 65535
_EXIF_LIMIT = 65000  # a JPEG segment holds 65,533 bytes; the rest is the EXIF header
_PNG_LEVEL = 4  # level 6 takes twice the time of level 4 for a file 6% smaller


def check_writable(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    alpha: bool = False,
    bits: int = 8,
    profile: bytes | None = None,
) -> None:
    """Refuse before a long run what `write` would refuse after it.

    That is an unknown suffix, alpha in a JPEG, 16 bits in a WebP, a side too long for the format, a missing folder, a
    folder as the name, no permission, or a full disk.

    `size` is the (width, height) px of the result, `alpha` whether it has transparent pixels, `bits` of a sample, `profile` the
    ICC profile it is to be in. Raises CupscaleError.
    """
    path = Path(path)
    check_format(path, size, alpha, bits, profile)
    check_place(path, size)


def check_place(path: Path, size: tuple[int, int] | None = None) -> None:
    """`check_writable` of the folder, the name and the room on the disk alone."""
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


def is_transparent(image: Image.Image) -> bool:
    """Whether an image shows what is behind it anywhere; alpha of 255 everywhere does not."""
    return image.mode == "RGBA" and image.getchannel("A").getextrema()[0] != 255


def write(
    image: Image.Image,
    path: str | Path,
    settings_json: str | None = None,
    quality: int = 95,
    extras: Extras = NO_EXTRAS,
) -> Path:
    """Write an RGB, RGBA or grey image in the format of the suffix: png, webp, jpg, jpeg, avif, tif, tiff.

    `settings_json` (a JSON object) goes inside: a PNG's iTXt "cupscale", else EXIF. Nothing
    else of the image's metadata is kept, but what `extras` names: no location, no camera, no thumbnail. `quality`, 1 to
    100, is for JPEG, WebP and AVIF; from 90 on, JPEG keeps colour at full resolution.

    The file appears whole or not at all: it is written beside its final name, synced and renamed. Returns
    the path. Raises CupscaleError as `check_writable` does, and for a `quality` out of range.
    """
    path = Path(path)
    write_bytes(encode(image, path, settings_json, quality, extras), path)
    return path


def write_bytes(data: bytes | memoryview, path: Path) -> None:
    """Write a file whole or not at all: beside its final name, synced and renamed.

    Raises:
        CupscaleError: It cannot be written there.
    """
    with _explained(path):
        temporary = _temporary(path)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if path.exists():  # a replaced file keeps its mode
                shutil.copymode(path, temporary)
            os.replace(temporary, os.path.realpath(path))
        finally:
            temporary.unlink(missing_ok=True)


def encode(
    image: Image.Image,
    name: str | Path,
    settings_json: str | None = None,
    quality: int = 95,
    extras: Extras = NO_EXTRAS,
) -> memoryview:
    """The bytes of the file that `write` would write. In memory, so that an encoder cannot lose a short write.

    Raises:
        CupscaleError: As `write`, but for what lies in the file system.
    """
    if not 1 <= quality <= 100:
        raise CupscaleError(f"quality is {quality}, the limits are 1 and 100; 95 is a good start")
    if image.mode not in ("RGB", "RGBA", "L"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    bits = 8 if extras.deep is None else 16
    kind = check_format(Path(name), image.size, is_transparent(image), bits, extras.profile)
    if extras.deep is not None:
        alpha = image.getchannel("A") if is_transparent(image) else None
        samples = deep.in_profile(deep.with_alpha(extras.deep, alpha), extras.profile)
        return (deep.png if kind == "PNG" else deep.tiff)(samples, settings_json, extras)
    if extras.profile is not None:
        image = in_profile(image, extras.profile)
    return _encode(image, kind, settings_json, quality, extras)


def _encode(
    image: Image.Image, kind: str, settings_json: str | None, quality: int, extras: Extras
) -> memoryview:
    if image.mode == "RGBA" and kind == "JPEG":
        image = image.convert("RGB")
    if image.info:  # encoders copy comments, XMP and profiles from here
        image = image.copy()
        image.info = {}
    options: dict[str, Any] = {"icc_profile": extras.profile} if extras.profile else {}
    if extras.dpi and kind in ("PNG", "JPEG", "TIFF"):
        options["dpi"] = (extras.dpi, extras.dpi)
    if kind == "PNG":
        options["compress_level"] = _PNG_LEVEL
        if settings_json is not None:
            options["pnginfo"] = PngImagePlugin.PngInfo()
            options["pnginfo"].add_itxt(KEY, settings_json)
        if len(exif := extras.exif(kind)):
            options["exif"] = exif
    else:
        if kind == "TIFF":
            options["compression"] = "tiff_adobe_deflate"
        else:
            options["quality"] = quality
        if kind == "JPEG" and quality >= 90:
            options["subsampling"] = "4:4:4"
        exif = extras.exif(kind)
        if settings_json is not None:
            put_settings(exif, settings_json, kind)
        if len(exif):
            options["exif"] = exif
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getbuffer()


def put_settings(exif: Image.Exif, settings_json: str, kind: str) -> None:
    """The settings as UserComment, compressed if they are long.

    In a TIFF, where Pillow does not write that tag, as ImageDescription. Read back by `settings_text.find`.

    Raises:
        CupscaleError: They are too long for the format, compressed too.
    """
    text = json.dumps(json.loads(settings_json), separators=(",", ":")).encode("ascii")
    exif[ExifTags.Base.Software] = KEY
    if kind == "TIFF":
        exif[ExifTags.Base.ImageDescription] = (MARK + text).decode("ascii")
        return
    if len(text) > _EXIF_LIMIT:
        text = COMPRESSED + base64.b64encode(zlib.compress(text, 9))
    if len(text) > _EXIF_LIMIT:
        raise CupscaleError(
            f"the settings take {len(text)} bytes, the limit in {kind} is {_EXIF_LIMIT}; save as PNG"
        )
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = b"ASCII\0\0\0" + MARK + text


def check_format(
    path: Path,
    size: tuple[int, int] | None = None,
    alpha: bool = False,
    bits: int = 8,
    profile: bytes | None = None,
) -> str:
    """Pillow's name of the format of a suffix.

    Raises CupscaleError where it cannot hold what is asked; see `check_writable`.
    """
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        known = ", ".join(_FORMATS)
        raise CupscaleError(f"{str(path)!r} has a suffix that cannot be written; use one of {known}")
    if alpha and kind == "JPEG":
        raise CupscaleError(f"{str(path)!r}: JPEG has no alpha and this image has; save as PNG or WebP")
    if bits == 16 and kind not in ("PNG", "TIFF"):
        raise CupscaleError(f"{str(path)!r}: {kind} cannot hold 16 bits; save as PNG or TIFF, or with 8 bits")
    space = space_of(profile)
    if space == "CMYK" and (kind not in ("JPEG", "TIFF") or alpha or bits == 16):
        what = "16 bits of CMYK" if bits == 16 else "CMYK with alpha" if alpha else f"CMYK in {kind}"
        raise CupscaleError(
            f"{str(path)!r}: the profile is of CMYK, and {what} is not written; save as JPEG or TIFF with 8 bits and without "
            "alpha, or leave the profile out"
        )
    if bits == 16 and profile is not None:
        deep.check_profile(profile)
    limit = _MAX_SIDE_PX.get(kind)
    if size is not None and limit is not None and max(size) > limit:
        raise CupscaleError(
            f"{str(path)!r} would be {size[0]} x {size[1]}, the limit of {kind} is {limit} px; save as PNG"
        )
    return kind


def _temporary(path: Path) -> Path:
    """A new name in the folder that the file will really be in."""
    return Path(os.path.realpath(path)).parent / f".{KEY}-{secrets.token_hex(6)}.part"


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
