"""Colour that a file declares without an ICC profile: right values, by published matrices and worked by hand."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms
from test_saving import ADOBE_D50, adobe_profile

from cupscale import images
from cupscale.images import avif as avif_boxes, colour as colour_module
from cupscale.images.colour import HLG, PQ, Colour, convert, to_light, tone_mapped

PICTURE = np.random.default_rng(3).integers(
    20, 236, (19, 34, 3), dtype=np.uint8
)  # neither square nor symmetric
# Published, five digits: Rec. ITU-R BT.2407 (2020 to 709); Lindbloom's tables (Adobe RGB to XYZ, XYZ to sRGB, D65).
BT2020_TO_709 = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
ADOBE_TO_XYZ = [[0.57673, 0.18555, 0.18819], [0.29738, 0.62735, 0.07527], [0.02703, 0.07069, 0.99111]]
XYZ_TO_SRGB = [[3.24045, -1.53714, -0.49853], [-0.96927, 1.87601, 0.04156], [0.05564, -0.20403, 1.05723]]


def encode_srgb(light: Any) -> np.ndarray:
    """IEC 61966-2-1, as loops over numbers would have it."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055) * 255


def decode_srgb(codes: Any) -> np.ndarray:
    v = np.asarray(codes) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def png(chunks: list[tuple[bytes, bytes]], samples: np.ndarray, depth: int = 8) -> bytes:
    height, width, channels = samples.shape
    kind = {1: 0, 3: 2}[channels]
    big = samples.astype(">u2") if depth == 16 else samples
    rows = b"".join(b"\0" + row.tobytes() for row in big)
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    return data


def gama(value: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(value * 100000))


def chrm(*values: float) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(value * 100000) for value in values))


def cicp(*codes: int) -> tuple[bytes, bytes]:
    return b"cICP", bytes(codes)


def iccp(profile: bytes) -> tuple[bytes, bytes]:
    return b"iCCP", b"p\0\0" + zlib.compress(profile)


def flat(*colour: int) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (17, 20, 3)).copy()


def array(data: bytes) -> np.ndarray:
    return np.asarray(images.read(data).rgb).astype(int)


def assert_near(found: np.ndarray, wanted: np.ndarray, off: float = 1.01) -> None:
    assert found.shape == wanted.shape and np.abs(found - wanted).max() <= off


# PNG


def test_display_p3_of_cicp() -> None:
    assert array(png([cicp(12, 13, 0, 1)], flat(200, 60, 70)))[3, 5].tolist() == [217, 42, 65]
    picture = images.read(png([cicp(12, 13, 0, 1)], flat(200, 60, 70)))
    assert picture.converted and not picture.notices


def test_bt2020_primaries_of_cicp_with_the_curve_of_srgb() -> None:
    wanted = encode_srgb(decode_srgb(PICTURE) @ np.array(BT2020_TO_709).T)
    assert_near(array(png([cicp(9, 13, 0, 1)], PICTURE)), wanted, 1.5)


@pytest.mark.parametrize(
    ("transfer", "code", "wanted"), [(8, 128, 188), (4, 100, 100), (5, 128, 106), (17, 200, 196)]
)
def test_curves_of_cicp_without_another_gamut(transfer: int, code: int, wanted: int) -> None:
    """Linear 0.502 is 188 in sRGB. Gamma 2.2: 0.392^2.2 = 0.1275 is 100. 2.8: 0.502^2.8 = 0.1451 is 106."""
    light = {
        8: code / 255,
        4: (code / 255) ** 2.2,
        5: (code / 255) ** 2.8,
        17: 52.37 / 48 * (code / 255) ** 2.6,
    }[transfer]
    exact = float(encode_srgb(light))
    found = array(png([cicp(1, transfer, 0, 1)], flat(code, code, code)))[2, 2]
    assert abs(found[0] - exact) <= 0.6 and (found == found[0]).all()
    if transfer != 17:
        assert abs(exact - wanted) < 0.8


def test_narrow_range_and_codes_that_mean_nothing() -> None:
    grey = array(png([cicp(1, 13, 0, 0)], flat(16, 235, 126)))[0, 0]
    assert grey.tolist() == [0, 255, 128]  # (126 - 16) / 219 = 0.5023
    for codes in ((2, 2, 0, 1), (1, 13, 0, 1), (12, 13, 1, 1), (200, 99, 0, 1), (1, 1, 0, 1)):
        assert (array(png([cicp(*codes)], PICTURE)) == PICTURE).all(), codes
    assert (array(png([(b"cICP", b"\x0c\x0d\0")], PICTURE)) == PICTURE).all()


def test_linear_gama_of_8_and_16_bits() -> None:
    wanted = encode_srgb(PICTURE / 255)
    assert_near(array(png([gama(1.0)], PICTURE)), wanted, 0.6)
    dark = np.arange(0, 4096, 13, dtype=np.uint16)[:306].reshape(17, 18, 1) + 60000
    grey = array(png([gama(1.0)], dark, 16))
    assert_near(grey, encode_srgb(np.repeat(dark, 3, axis=2) / 65535), 0.6)


def test_gama_and_chrm_of_adobe_rgb() -> None:
    points = chrm(0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
    light = (PICTURE / 255) ** 2.2 @ np.array(ADOBE_TO_XYZ).T @ np.array(XYZ_TO_SRGB).T
    assert_near(array(png([gama(1 / 2.2), points], PICTURE)), encode_srgb(light), 1.5)


def test_chrm_of_another_white_keeps_grey_grey() -> None:
    points = chrm(0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001)  # ProPhoto, D50
    found = array(png([gama(1 / 2.2), points], flat(90, 90, 90)))[1, 1]
    assert np.ptp(found) <= 1 and abs(found[0] - encode_srgb((90 / 255) ** 2.2)) <= 1.5
    red = array(png([gama(1 / 2.2), points], flat(180, 90, 90)))[1, 1]
    assert red[0] > 215 and red[1] < 80  # a wider gamut: more colourful in sRGB's numbers


def test_gama_of_srgbs_own_files_and_nonsense_change_nothing() -> None:
    usual = chrm(0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
    line = chrm(0.3, 0.3, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3)
    for chunks in ([gama(0.45455), usual], [gama(0.45455)], [usual], [gama(0.0)], [line], [gama(0.001)]):
        picture = images.read(png(chunks, PICTURE))
        assert (np.asarray(picture.rgb) == PICTURE).all() and not picture.converted


def test_the_order_of_png() -> None:
    """cICP before iCCP before sRGB before gAMA."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    p3, linear = cicp(12, 13, 0, 1), gama(1.0)
    assert array(png([p3, iccp(srgb), linear], flat(200, 60, 70)))[0, 0].tolist() == [217, 42, 65]
    assert array(png([iccp(srgb), linear], flat(200, 60, 70)))[0, 0].tolist() == [200, 60, 70]
    assert array(png([(b"sRGB", b"\0"), linear], flat(200, 60, 70)))[0, 0].tolist() == [200, 60, 70]
    assert array(png([iccp(b"broken"), linear], flat(128, 128, 128)))[0, 0].tolist() == [188] * 3


def test_alpha_and_an_image_that_the_caller_opened() -> None:
    data = png([cicp(12, 13, 0, 1)], flat(200, 60, 70))
    image = Image.open(io.BytesIO(data))
    assert np.asarray(images.read(image).rgb)[0, 0].tolist() == [217, 42, 65]
    assert np.asarray(image)[0, 0].tolist() == [200, 60, 70]


# HDR


def test_pq_by_values_of_the_standard() -> None:
    """BT.2100: 0.508078 is 100 cd/m2, 0.580689 is 203, 0.751827 is 1,000."""
    found = to_light(np.array([0.508078, 0.580689, 0.751827, 1.0]), PQ) * 203
    np.testing.assert_allclose(found, [100, 203, 1000, 10000], rtol=1e-4)


def test_hlg_by_values_of_the_standard() -> None:
    """BT.2100: half the signal is 1/12 of the light, all of it 1; 0.75 is 0.265."""
    np.testing.assert_allclose(to_light(np.array([0.5, 0.75, 1.0]), HLG), [1 / 12, 0.265, 1], atol=5e-4)


def test_the_eetf_of_bt2390() -> None:
    """At a peak of 1,000 the knee is at 0.6586 of 0.7518, that is 92 cd/m2, and 203 lies a third above it: 0.7387 of 0.7518,
    that is 160. Below the knee nothing changes; the peak is white."""
    nits = np.array([0.0, 10.0, 90.0, 203.0, 1000.0])
    np.testing.assert_allclose(tone_mapped(nits, 1000.0), [0, 10, 90, 160, 203], rtol=0.01)
    np.testing.assert_allclose(tone_mapped(nits[:4], 203.0), nits[:4])


def test_pq_white_is_white_and_says_so() -> None:
    picture = images.read(png([cicp(9, 16, 0, 1)], flat(148, 148, 148)))
    assert np.asarray(picture.rgb)[0, 0].tolist() == [255] * 3
    (notice,) = picture.notices
    assert "tone-mapped" in notice and "cICP" in notice and "203" in notice and "bent" not in notice


def test_pq_highlights_bend_and_keep_their_hue() -> None:
    """Half of the picture at 1,000 cd/m2, half at 203 in orange: both below white's top, in order, the ratio of channels kept."""
    samples = flat(192, 192, 192)
    samples[:, :7] = (148, 120, 60)
    data = png([cicp(1, 16, 0, 1)], samples)
    picture = images.read(data)
    found = np.asarray(picture.rgb).astype(int)
    assert found[0, 19].tolist() == [255] * 3
    light = decode_srgb(found[0, 0])
    before = to_light(np.array([148, 120, 60]) / 255, PQ)
    assert 0.74 < light[0] < 0.82  # 160 of 203
    np.testing.assert_allclose(light[1] / light[0], before[1] / before[0], atol=0.01)
    assert "bent" in picture.notices[0] and "1" in picture.notices[0]


def test_hlg_white_and_one_hot_pixel() -> None:
    """0.75 of HLG is 203 cd/m2 on a display of 1,000; one pixel at the top of 340 does not darken the rest."""
    white = images.read(png([cicp(9, 18, 0, 1)], flat(191, 191, 191)))
    assert np.asarray(white.rgb)[0, 0, 0] >= 253
    samples = np.full((40, 50, 3), 110, np.uint8)
    usual = array(png([cicp(9, 16, 0, 1)], samples))
    samples[7, 9] = 255
    assert (array(png([cicp(9, 16, 0, 1)], samples))[:5] == usual[:5]).all()


def test_strips_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for colour in (Colour.of_codes(9, HLG), Colour.of_codes(9, PQ), Colour.of_codes(12, 13)):
        whole, peak = convert(PICTURE, colour)
        monkeypatch.setattr("cupscale.images.colour._STRIP_PX", 70)
        strips, again = convert(PICTURE, colour)
        monkeypatch.undo()
        assert (whole == strips).all() and peak == again


# Display P3's colorants of D50, as Apple's profile has them.
P3_D50 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))


@pytest.mark.parametrize(
    ("chunks", "colorants", "gamma"),
    [
        ([gama(1 / 1.8), chrm(0.3127, 0.329, 0.68, 0.32, 0.265, 0.69, 0.15, 0.06)], P3_D50, 1.8),
        ([cicp(12, 8, 0, 1)], P3_D50, 1.0),
        ([gama(0.5), chrm(0.3127, 0.329, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)], ADOBE_D50, 2.0),
        ([cicp(12, 4, 0, 1)], P3_D50, 2.2),
    ],
)
def test_littlecms_gives_the_same_by_a_profile_of_the_same_space(
    chunks: list[tuple[bytes, bytes]], colorants: Any, gamma: float
) -> None:
    """A second way: the space as an ICC profile, built by hand, and LittleCMS."""
    profile = ImageCms.ImageCmsProfile(io.BytesIO(adobe_profile(True, colorants, gamma)))
    picture, intent = Image.fromarray(PICTURE), ImageCms.Intent.RELATIVE_COLORIMETRIC
    wanted = ImageCms.profileToProfile(picture, profile, ImageCms.createProfile("sRGB"), intent)
    assert_near(array(png(chunks, PICTURE)), np.asarray(wanted).astype(int), 2)
    assert np.abs(PICTURE.astype(int) - np.asarray(wanted)).mean() > 4  # far from what it declares nothing


# Each code by itself

# Rec. ITU-T H.273, table 2, as printed there: red, green, blue, white.
TABLE = {
    1: "0.640 0.330  0.300 0.600  0.150 0.060  0.3127 0.3290",
    4: "0.67 0.33  0.21 0.71  0.14 0.08  0.310 0.316",
    5: "0.64 0.33  0.29 0.60  0.15 0.06  0.3127 0.3290",
    6: "0.630 0.340  0.310 0.595  0.155 0.070  0.3127 0.3290",
    7: "0.630 0.340  0.310 0.595  0.155 0.070  0.3127 0.3290",
    8: "0.681 0.319  0.243 0.692  0.145 0.049  0.310 0.316",
    9: "0.708 0.292  0.170 0.797  0.131 0.046  0.3127 0.3290",
    10: "1 0  0 1  0 0  0.33333333 0.33333333",
    11: "0.680 0.320  0.265 0.690  0.150 0.060  0.314 0.351",
    12: "0.680 0.320  0.265 0.690  0.150 0.060  0.3127 0.3290",
    22: "0.630 0.340  0.295 0.605  0.155 0.077  0.3127 0.3290",
}
# Lindbloom's table of Bradford's adaptation, from C and from D50 to D65.
C_TO_D65 = [
    [0.9904476, -0.0071683, -0.0116156],
    [-0.0123712, 1.0155950, -0.0029282],
    [-0.0035635, 0.0067697, 0.9181569],
]
D50_TO_D65 = [
    [0.9555766, -0.0230393, 0.0631636],
    [-0.0282895, 1.0099416, 0.0210077],
    [0.0122982, -0.0204830, 1.3299098],
]


@pytest.mark.parametrize("code", TABLE)
def test_each_primary_has_its_place_in_the_table(code: int) -> None:
    """Light of one channel, taken to sRGB and on to XYZ by the published matrix, has that channel's x and y. All three are
    white. Of another white than D65 the way back is the published adaptation."""
    *points, white_x, white_y = (float(part) for part in TABLE[code].split())
    matrix = Colour.of_codes(code, 13).matrix()
    np.testing.assert_allclose(matrix @ np.ones(3), np.ones(3), atol=2e-4)
    to_xyz = np.linalg.inv(np.array(XYZ_TO_SRGB)) @ matrix
    if (white_x, white_y) == (0.310, 0.316):
        to_xyz = np.linalg.inv(C_TO_D65) @ to_xyz
    elif white_x != 0.3127:  # no published one: white alone
        assert Colour.of_codes(code, 13).white == pytest.approx((white_x, white_y), abs=1e-6)
        assert Colour.of_codes(code, 13).primaries == pytest.approx(points, abs=1e-6)
        return
    found = (to_xyz[:2] / to_xyz.sum(axis=0)).T.ravel()
    np.testing.assert_allclose(found, points, atol=6e-4)


def test_another_white_is_adapted_by_the_published_matrix() -> None:
    """ProPhoto, D50: its own matrix to XYZ (Lindbloom), adapted and taken to sRGB, as chrm says it."""
    to_xyz = [[0.7976749, 0.1351917, 0.0313534], [0.2880402, 0.7118741, 0.0000857], [0.0, 0.0, 0.82521]]
    wanted = np.array(XYZ_TO_SRGB) @ D50_TO_D65 @ to_xyz
    own = Colour((0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001), (0.3457, 0.3585), 0, 1.8)
    np.testing.assert_allclose(own.matrix(), wanted, atol=2e-3)


@pytest.mark.parametrize(
    ("transfer", "gamma", "values", "light"),
    [
        (13, 0.0, [0.02, 0.5], [0.02 / 12.92, 0.2140411]),
        (4, 0.0, [0.5], [0.2176376]),
        (5, 0.0, [0.5], [0.1435873]),
        (0, 1.8, [0.5], [0.2871746]),
        (8, 0.0, [0.3], [0.3]),
        (9, 0.0, [0.0, 0.5, 1.0], [0.0, 0.1, 1.0]),  # two decades
        (10, 0.0, [0.0, 0.5, 1.0], [0.0, 0.05623413, 1.0]),  # two and a half
        (17, 0.0, [0.5], [0.1799548]),
    ],
)
def test_each_curve_by_hand(transfer: int, gamma: float, values: list[float], light: list[float]) -> None:
    np.testing.assert_allclose(to_light(np.array(values), transfer, gamma), light, rtol=2e-5)


def test_pq_and_its_inverse() -> None:
    """100 cd/m2 is 0.5080784 of the signal."""
    nits = np.array([0.05, 3.0, 100.0, 203.0, 4000.0])
    np.testing.assert_allclose(colour_module._pq_to_nits(colour_module._nits_to_pq(nits)), nits, rtol=1e-9)
    assert colour_module._nits_to_pq(100.0) == pytest.approx(0.5080784, abs=1e-7)


def test_hlgs_display_weighs_the_channels() -> None:
    """BT.2100: Y^0.2 with Y = 0.2627 R + 0.6780 G + 0.0593 B, on 1,000 of 203 cd/m2."""
    scene = np.eye(3, dtype=np.float32)[None]
    found = colour_module._hlg_gain(scene)[0, :, 0]
    np.testing.assert_allclose(
        found, [0.2627**0.2 * 4.9261084, 0.678**0.2 * 4.9261084, 0.0593**0.2 * 4.9261084], rtol=1e-5
    )


def test_narrow_range_of_16_bits() -> None:
    """256 times the codes of 8: 16, 126 and 235 are black, (126 - 16) / 219 and white."""
    samples = np.array([[[16, 126, 235]]], np.uint16) * np.uint16(256)
    assert convert(samples, Colour.of_codes(1, 13, narrow=True))[0][0, 0].tolist() == [0, 128, 255]


def test_the_limits_of_what_a_png_may_say() -> None:
    grey = flat(128, 128, 128)
    assert array(png([cicp(2, 8, 0, 1)], grey))[0, 0].tolist() == [188] * 3  # primaries left open
    assert (array(png([cicp(12, 13, 0, 2)], PICTURE)) == PICTURE).all()  # a range that is none
    for value, taken in ((0.05, True), (0.049, False), (20.0, True), (20.1, False)):
        assert images.read(png([gama(value)], PICTURE)).converted is taken, value
    xyz = chrm(1 / 3, 1 / 3, 1, 0, 0, 1, 0, 0)
    assert images.read(png([xyz], PICTURE)).converted  # 0 and 1 are in reach
    for bad in (
        chrm(0.3127, 0.329, 1.5, 0.33, 0.21, 0.71, 0.15, 0.06),
        chrm(0.3127, 0, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06),
    ):
        assert (array(png([bad], PICTURE)) == PICTURE).all()


# HEIC, AVIF, EXIF


def test_nclx_of_heic() -> None:
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    heif.from_pillow(Image.new("RGB", (64, 64), (200, 60, 70))).save(
        buffer,
        quality=-1,
        color_primaries=12,
        transfer_characteristics=13,
        matrix_coefficients=0,
        full_range_flag=1,
    )
    assert array(buffer.getvalue())[30, 30].tolist() == [217, 42, 65]


def avif(primaries: int, transfer: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 60, 70)).save(
        buffer, "AVIF", quality=100, subsampling="4:4:4", **options
    )
    data = buffer.getvalue()
    if options:
        return data
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def test_nclx_of_avif() -> None:
    assert np.abs(array(avif(12, 13))[9, 11] - (217, 42, 65)).max() <= 3
    assert np.abs(array(avif(1, 13))[9, 11] - (200, 60, 70)).max() <= 2
    assert np.abs(array(avif(1, 8))[9, 11] - encode_srgb(np.array([200, 60, 70]) / 255)).max() <= 3


@pytest.mark.parametrize("cut", [0, 9, 40, 41, 100, 150, 200, 260])
def test_boxes_that_lie_are_ignored(cut: int) -> None:
    data = avif(12, 13)
    for damaged in (data[:cut], data[:cut] + b"\0\0\0\1" * 20, data[:cut] + b"\xff" * 40 + data[cut + 40 :]):
        avif_boxes.colour(damaged)


def interoperability(mark: bytes) -> bytes:
    """EXIF as a camera writes it: the first folder names the second at 26, which names the third at 44."""

    def folder(tag: int, kind: int, count: int, value: bytes) -> bytes:
        return struct.pack("<HHHI", 1, tag, kind, count) + value + bytes(4)

    exif, interop = struct.pack("<I", 26), struct.pack("<I", 44)
    folders = folder(0x8769, 4, 1, exif), folder(0xA005, 4, 1, interop), folder(1, 2, 4, mark + b"\0")
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + b"".join(folders)


def test_exif_r03_is_adobe_rgb() -> None:
    """(200, 60, 70) of Adobe RGB, by the published matrices."""
    exif = interoperability(b"R03")
    for kind, options in (("JPEG", {"quality": 100, "subsampling": 0}), ("WEBP", {"lossless": True})):
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), (200, 60, 70)).save(buffer, kind, exif=exif, **options)
        light = (
            (np.array([200, 60, 70]) / 255) ** (563 / 256)
            @ np.array(ADOBE_TO_XYZ).T
            @ np.array(XYZ_TO_SRGB).T
        )
        assert np.abs(array(buffer.getvalue())[9, 9] - encode_srgb(light)).max() <= 2
    buffer = io.BytesIO()
    usual = interoperability(b"R98")
    Image.new("RGB", (32, 32), (200, 60, 70)).save(buffer, "JPEG", exif=usual, quality=100)
    assert np.abs(array(buffer.getvalue())[9, 9] - (200, 60, 70)).max() <= 2
