"""Colour that a file declares without an ICC profile, and its way to sRGB.

Code points, primaries and transfer functions: Rec. ITU-T H.273 (07/2024), tables 2 and 3. PQ and HLG: Rec. ITU-R BT.2100-2.
Both are tone-mapped by the EETF of Report ITU-R BT.2390, section 5.4.1, to a white of 203 cd/m2, which Report ITU-R BT.2408
gives HDR reference white; what is brighter bends towards it. Another white is adapted by Bradford's matrix, as ICC does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

White = tuple[float, float]
Primaries = tuple[float, float, float, float, float, float]

D65: White = (0.3127, 0.3290)
_C: White = (0.310, 0.316)
SRGB: Primaries = (0.640, 0.330, 0.300, 0.600, 0.150, 0.060)
ADOBE: Primaries = (0.640, 0.330, 0.210, 0.710, 0.150, 0.060)  # Adobe RGB (1998), and DCF's R03
_SMPTE: Primaries = (0.630, 0.340, 0.310, 0.595, 0.155, 0.070)
_P3: Primaries = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
ADOBE_GAMMA = 563 / 256

# H.273, table 2; 2 and what is not there: as sRGB.
PRIMARIES: dict[int, tuple[Primaries, White]] = {
    1: (SRGB, D65),
    4: ((0.67, 0.33, 0.21, 0.71, 0.14, 0.08), _C),
    5: ((0.64, 0.33, 0.29, 0.60, 0.15, 0.06), D65),
    6: (_SMPTE, D65),
    7: (_SMPTE, D65),
    8: ((0.681, 0.319, 0.243, 0.692, 0.145, 0.049), _C),
    9: ((0.708, 0.292, 0.170, 0.797, 0.131, 0.046), D65),
    10: ((1.0, 0.0, 0.0, 1.0, 0.0, 0.0), (1 / 3, 1 / 3)),
    11: (_P3, (0.314, 0.351)),
    12: (_P3, D65),
    22: ((0.630, 0.340, 0.295, 0.605, 0.155, 0.077), D65),
}
PQ, HLG, LINEAR = 16, 18, 8
_GAMMAS = {4: 2.2, 5: 2.8}

WHITE_NITS = 203.0
HLG_PEAK_NITS, HLG_GAMMA = 1000.0, 1.2
_PEAK_SHARE = 0.999  # of the pixels that the peak looks at, so that one hot pixel does not darken all
_STRIP_PX = 2**19
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


@dataclass(frozen=True)
class Colour:
    """What samples mean.

    Attributes:
        primaries: (x, y) of red, green and blue.
        white: (x, y).
        transfer: Code of H.273; 0 where `gamma` says it.
        gamma: Exponent from samples to light.
        narrow: Black is 16 and white 235 of 255, in place of 0 and 255.
        origin: What declared it, for a person.
    """

    primaries: Primaries = SRGB
    white: White = D65
    transfer: int = 13
    gamma: float = 0.0
    narrow: bool = False
    origin: str = ""

    @classmethod
    def of_codes(cls, primaries: int, transfer: int, *, narrow: bool = False, origin: str = "") -> Colour:
        """From code points of H.273. 2 (unspecified) and those that are reserved count as sRGB's."""
        chosen, white = PRIMARIES.get(primaries, (SRGB, D65))
        return cls(chosen, white, transfer, narrow=narrow, origin=origin)

    @property
    def is_srgb(self) -> bool:
        """Whether nothing is to be converted."""
        same = np.allclose(self.primaries + self.white, SRGB + D65, atol=2e-3)
        return bool(same) and not self.narrow and _is_srgb_curve(self.transfer, self.gamma)

    @property
    def is_hdr(self) -> bool:
        """Whether light above white is in it, which is tone-mapped."""
        return self.transfer in (PQ, HLG)

    def matrix(self) -> np.ndarray:
        """(3, 3), linear light to that of sRGB. Raises ValueError for primaries that span no space."""
        to_xyz = _to_xyz(self.primaries, self.white)
        return np.linalg.inv(_to_xyz(SRGB, D65)) @ _adapted(self.white) @ to_xyz


def convert(samples: np.ndarray, colour: Colour) -> tuple[np.ndarray, float]:
    """Samples to sRGB.

    Args:
        samples: (h, w, 3), uint8 or uint16 of their full range.
        colour: What they mean.

    Returns:
        (h, w, 3) uint8, and the light of the brightest in cd/m2, 0 where the range is not high. Colours that sRGB does not have
        are cut channel by channel, as a relative colorimetric conversion does.

    Raises:
        ValueError: The primaries span no space.
    """
    matrix = colour.matrix().astype(np.float32).T
    light = _light_of_codes(colour, np.iinfo(samples.dtype).max)
    peak = _peak(samples, light, colour) if colour.is_hdr else 0.0
    codes = _srgb_codes()
    found = np.empty(samples.shape, np.uint8)
    for rows in _strips(samples):
        linear = light[samples[rows]]
        if colour.transfer == HLG:
            linear *= _hlg_gain(linear)
        if colour.is_hdr:
            linear *= _tone_gain(linear.max(axis=2, keepdims=True), peak)
        linear = (linear.reshape(-1, 3) @ matrix).reshape(linear.shape)
        found[rows] = codes[np.rint(linear.clip(0, 1) * 65535).astype(np.uint16)]
    return found, peak


def to_light(values: np.ndarray, transfer: int, gamma: float = 0.0) -> np.ndarray:
    """Light of samples 0 to 1. Of PQ it is 1 at 203 cd/m2, of HLG scene light 0 to 1, of all others 1 at white.

    The codes 1, 6, 7, 11, 12, 14 and 15 are a camera's curve, whose picture is graded on a display of gamma 2.4; taken as
    sRGB's, which lies between the two (ours), so that they stay as they are.
    """
    v = np.asarray(values, np.float64)
    if transfer == 0 or transfer in _GAMMAS:
        return v ** _GAMMAS.get(transfer, gamma)
    if transfer == LINEAR:
        return v
    if transfer == 9:
        return np.where(v > 0, 10 ** ((v - 1) * 2), 0)
    if transfer == 10:
        return np.where(v > 0, 10 ** ((v - 1) * 2.5), 0)
    if transfer == PQ:
        return _pq_to_nits(v) / WHITE_NITS
    if transfer == 17:
        return v**2.6 * (52.37 / 48)
    if transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        return np.where(v <= 0.5, v**2 / 3, (np.exp((v - c) / a) + b) / 12)
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def tone_mapped(nits: np.ndarray, peak: float) -> np.ndarray:
    """Light 0 to `peak` in cd/m2 to 0 to 203, by BT.2390's EETF with a black of 0. Below the knee nothing changes."""
    if peak <= WHITE_NITS:
        return nits
    whole = _nits_to_pq(peak)
    e, most = _nits_to_pq(np.minimum(nits, peak)) / whole, _nits_to_pq(WHITE_NITS) / whole
    knee = 1.5 * most - 0.5
    t = (e - knee) / (1 - knee)
    spline = (
        (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    )
    return np.where(e < knee, nits, _pq_to_nits(spline * whole))


def _is_srgb_curve(transfer: int, gamma: float) -> bool:
    if transfer == 0:  # PNG: sRGB's own files say gAMA 45455, its nearest power
        return abs(gamma - 2.2) < 0.02
    return transfer not in (*_GAMMAS, LINEAR, 9, 10, PQ, 17, HLG)


def _to_xyz(primaries: Primaries, white: White) -> np.ndarray:
    x, y = np.array(primaries[::2], float), np.array(primaries[1::2], float)
    columns = np.stack([x, y, 1 - x - y])
    if abs(np.linalg.det(columns)) < 1e-4 or white[1] <= 0:
        raise ValueError("primaries on a line")
    return columns * np.linalg.solve(columns, _xyz(white))


def _xyz(white: White) -> np.ndarray:
    return np.array([white[0] / white[1], 1, (1 - white[0] - white[1]) / white[1]])


def _adapted(white: White) -> np.ndarray:
    if np.allclose(white, D65, atol=5e-4):
        return np.eye(3)
    ratio = (_BRADFORD @ _xyz(D65)) / (_BRADFORD @ _xyz(white))
    return np.linalg.inv(_BRADFORD) @ np.diag(ratio) @ _BRADFORD


def _light_of_codes(colour: Colour, top: int) -> np.ndarray:
    values = np.arange(top + 1) / top
    if colour.narrow:
        values = (values * top / ((top + 1) // 256) - 16) / 219
    return to_light(values.clip(0, 1), colour.transfer, colour.gamma).astype(np.float32)


def _peak(samples: np.ndarray, light: np.ndarray, colour: Colour) -> float:
    """cd/m2 that all but a thousandth of the pixels stay below, in any channel; 203 at least."""
    counts = np.zeros(4096, np.int64)
    for rows in _strips(samples):
        linear = light[samples[rows]]
        if colour.transfer == HLG:
            linear *= _hlg_gain(linear)
        codes = _nits_to_pq(linear.max(axis=2) * WHITE_NITS)
        counts += np.bincount(np.rint(codes * 4095).astype(int).ravel(), minlength=4096)
    reached = np.searchsorted(np.cumsum(counts), _PEAK_SHARE * counts.sum())
    return max(WHITE_NITS, float(_pq_to_nits(reached / 4095)))


def _hlg_gain(scene: np.ndarray) -> np.ndarray:
    """(h, w, 1): the OOTF of BT.2100 on a display of 1,000 cd/m2, in units of white."""
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], np.float32)
    gain: np.ndarray = luminance[..., None] ** np.float32(HLG_GAMMA - 1)
    return gain * np.float32(HLG_PEAK_NITS / WHITE_NITS)


def _tone_gain(brightest: np.ndarray, peak: float) -> np.ndarray:
    """What all channels of a pixel are multiplied with, so that its hue stays."""
    grid = np.linspace(0, 1, 4096)
    nits = _pq_to_nits(grid)
    nits[0] = 1.0  # any: its gain is 1
    gain = tone_mapped(nits, peak) / nits
    at = _nits_to_pq(np.minimum(brightest * WHITE_NITS, 10000))
    return np.interp(at, grid, gain).astype(np.float32)


def _pq_to_nits(values: Any) -> Any:
    root = np.maximum(values, 0) ** (32 / 2523)
    return 10000 * (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (8192 / 1305)


def _nits_to_pq(nits: Any) -> Any:
    y = (np.maximum(nits, 0) / 10000) ** (1305 / 8192)
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** (2523 / 32)


def _srgb_codes() -> np.ndarray:
    """sRGB's 8-bit code of light in 65,536 steps."""
    light = np.arange(65536) / 65535
    values = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(values * 255).astype(np.uint8)


def _strips(samples: np.ndarray) -> Iterator[slice]:
    rows = max(1, _STRIP_PX // max(1, samples.shape[1]))
    for top in range(0, samples.shape[0], rows):
        yield slice(top, top + rows)
