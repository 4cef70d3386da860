"""One known image, encoded in every compressed transfer syntax by programs other than our decoders.

RLE by pydicom, JPEG baseline by libjpeg-turbo, the other JPEG by DCMTK (dcmcjpeg), JPEG-LS by CharLS, JPEG 2000 by
OpenJPEG, HTJ2K by OpenJPH, whose progression is RPCL. The values are those of `known_image`.
"""

from __future__ import annotations

import base64
from typing import Final

import numpy as np
from numpy.typing import NDArray

SIDE: Final = 16


def known_image(bits: int) -> NDArray[np.uint16]:
    """Give the values, ``(SIDE, SIDE) uint16`` of 8 or 12 bits: a ramp from corner to corner."""
    rows, columns = np.indices((SIDE, SIDE))
    return ((rows + columns) * 8 << (bits - 8)).astype(np.uint16)


LARGEST_DIFFERENCE: Final = {
    "JPEGBaseline8Bit": 4,
    "JPEGExtended12Bit": 16,
    "JPEGLSNearLossless": 4,
    "JPEG2000": 16,
    "HTJ2K": 4,
}
"""Of the lossy ones, in values; none for the rest."""


def _frame(text: str) -> bytes:
    return base64.b64decode(text)


_HTJ2K_LOSSLESS: Final = _frame(
    "/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABBwEB/1AACAACAAAAAv9SAAwAAgABAAIEBEAB/1wACiBI"
    "UFBQSEhI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAFcAAf+TwC1Q/z+//3+vkX/th0AiSf4AvtQQBzcAwBUQBUhC"
    "CPGqcAJ1AKIQ4sAAAey2AMAq4BVgtm3b58Cnp6dCeABu27b9knv2Sey4AP/Z"
)

FRAMES: Final[dict[str, tuple[int, bytes]]] = {
    "RLELossless": (
        12,
        _frame(
            "AgAAAEAAAABQAQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8A/wH/Av8D/wT/"
            "Bf8G/wcAAP8B/wL/A/8E/wX/Bv8HAAj/Af8C/wP/BP8F/wb/B/8IAAH/Av8D/wT/Bf8G/wf/CAAJ/wL/A/8E/wX/Bv8H/wj/CQAC"
            "/wP/BP8F/wb/B/8I/wkACv8D/wT/Bf8G/wf/CP8J/woAA/8E/wX/Bv8H/wj/Cf8KAAv/BP8F/wb/B/8I/wn/Cv8LAAT/Bf8G/wf/"
            "CP8J/wr/CwAM/wX/Bv8H/wj/Cf8K/wv/DAAF/wb/B/8I/wn/Cv8L/wwADf8G/wf/CP8J/wr/C/8M/w0ABv8H/wj/Cf8K/wv/DP8N"
            "AA7/B/8I/wn/Cv8L/wz/Df8OAAf/CP8J/wr/C/8M/w3/DgAPDwCAAIAAgACAAIAAgACAAIAPgACAAIAAgACAAIAAgACAAA8AgACA"
            "AIAAgACAAIAAgACAD4AAgACAAIAAgACAAIAAgAAPAIAAgACAAIAAgACAAIAAgA+AAIAAgACAAIAAgACAAIAADwCAAIAAgACAAIAA"
            "gACAAIAPgACAAIAAgACAAIAAgACAAA8AgACAAIAAgACAAIAAgACAD4AAgACAAIAAgACAAIAAgAAPAIAAgACAAIAAgACAAIAAgA+A"
            "AIAAgACAAIAAgACAAIAADwCAAIAAgACAAIAAgACAAIAPgACAAIAAgACAAIAAgACAAA8AgACAAIAAgACAAIAAgACAD4AAgACAAIAA"
            "gACAAIAAgAA="
        ),
    ),
    "JPEGBaseline8Bit": (
        8,
        _frame(
            "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAIBAQEBAQIBAQECAgICAgQDAgICAgUEBAMEBgUGBgYFBgYGBwkIBgcJBwYGCAsICQoK"
            "CgoKBggLDAsKDAkKCgr/wAALCAAQABABAREA/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUF"
            "BAQAAAF9AQIDAAQRBRIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVW"
            "V1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi"
            "4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEBAAA/APzf/Zt/Zt/49/8AQPT+Gv0A/Zt/Zt/49/8AQPT+Gj9m39m3/j3/ANA9P4a/QD9m"
            "39m3/j3/ANA9P4a//9k="
        ),
    ),
    "JPEGExtended12Bit": (
        12,
        _frame(
            "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMU"
            "FRUVDA8XGBYUGBIUFRT/wQALDAAQABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAADAD/xAAbEAABBAMAAAAAAAAAAAAAAAALACc3"
            "RFRhcv/aAAgBAQAAPwAf+NxG4xc12NQ50lVY3EbjFzXY1DnShuI3GLmuxqHOkqqG4jcYua7Goc6X///Z"
        ),
    ),
    "JPEGLossless": (
        12,
        _frame(
            "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALEAAQABABAREA/8QAFgABAQEAAAAAAAAAAAAAAAAABwgQ/9oACAEBAAYAANQFAUBQFAUB"
            "QFAUBQFAUBQFAUBQCAgICAgICAgICAgICAgIFAICAgICAgICAgICAgICAgUAgICAgICAgICAgICAgICBQCAgICAgICAgICAgICAg"
            "IFAICAgICAgICAgICAgICAgUAgICAgICAgICAgICAgICBQCAgICAgICAgICAgICAgIFAICAgICAgICAgICAgICAgUAgICAgICAgI"
            "CAgICAgICBQCAgICAgICAgICAgICAgIFAICAgICAgICAgICAgICAgUAgICAgICAgICAgICAgICBQCAgICAgICAgICAgICAgIFAIC"
            "AgICAgICAgICAgICAgUAgICAgICAgICAgICAgICB/9k="
        ),
    ),
    "JPEGLosslessSV1": (
        12,
        _frame(
            "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALEAAQABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAACBD/2gAIAQEAAQAAkAgEAgEAgEAg"
            "EAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgE"
            "AgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEA"
            "gEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAg"
            "EAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEAgEB//9k="
        ),
    ),
    "JPEGLSLossless": (
        12,
        _frame(
            "/9j/9wALDAAQABABAREA/9oACAEBAAAAAIfx/fo/v19vl7vV5vF3u11ukIAQH8/H0+Hs9Hk8Hc7HU6HMEByOJwN5uNpsNZqNJoM5"
            "mMpkP5jMRhMBfLxdLhbLRZLBXKxVPxUKZSKJQJ5OJpMJZKJJII5GPpFIhDIRBID+/Pr49vTy8O58dnV0c3JxcG9ubWxramppPbQz"
            "s7MysrIyMbEwsC+vLp6evHbt05cuHDdu2bNmp5atGjRmzZsmTJixYMF54Xr1y5ctWrVixYsVq1Z3Vq1SpUqVMssssssMHZhhdddd"
            "ddZZZZZZY6qqqqqqqqqqqKKKKHRRRRRi1rWta1rWc1rWpSlKUpSlKUcg/9k="
        ),
    ),
    "JPEGLSNearLossless": (
        12,
        _frame(
            "/9j/9wALDAAQABABAREA/9oACAEBAAMAAImVJkyZMmjQo0KFChQlCxQoURJESJEiRIESAoiQIEHyD77777z7zwo444040040ww0w"
            "w0UYYWYWYWWUWWUUWUJKJKJKJJIJJIIJIeKeQ8h73ue5z3OaSc1zWta1rWMYxhFjGMYta1u7u7kXd3Z3dnZ2diLszMzMrKyqxFVV"
            "VVVZVVSZEm22TbbaZBNptJJJNkGk2m0SlSJSpUqpSAD/2Q=="
        ),
    ),
    "JPEG2000Lossless": (
        12,
        _frame(
            "/0//UQApAAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABCwEB/1IADAAAAAEAAQQEAAH/XAAHQGBoaHD/ZAAlAAFD"
            "cmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAABLAAH/k9/gqBIrZtcPYOVS50caTTXEVAr4h8HKTkL66L3R"
            "YpFzW3D+XEE0LBXTYD//f8D8ASB+AKA2oZnSPaY0YM//2Q=="
        ),
    ),
    "JPEG2000": (
        12,
        _frame(
            "/0//UQApAAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABCwEB/1IADgECAAEAAQQEAACIiP9cAAtCaCR303fTd2L/"
            "ZAAlAAFDcmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAAB5AAH/k8/JBBFPA7wLjE17P+/fp1rJF4iYIrP5"
            "74cb/VexHkcOfusKVfuQxFDjT4y19FzZMklU+jWtTISPGEAGN8hTd/OBdtYywD5iEA+YgDahfnSXGCM8vuB7qeokvGk9pi1lYRmD"
            "bcDtwoAHp+IP/9k="
        ),
    ),
    "HTJ2KLossless": (8, _HTJ2K_LOSSLESS),
    "HTJ2KLosslessRPCL": (8, _HTJ2K_LOSSLESS),
    "HTJ2K": (
        8,
        _frame(
            "/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABBwEB/1AACAACAAAAI/9SAAwAAgABAAIEBEAA/1wAESJn"
            "5lg1WDVYeFAaUBpfv/9kABcAAU9wZW5KUEggVmVyIDAuMjYuMy7/kAAKAAAAAACFAAH/k8AFtiEPLLDwO/fv66Hzvvrz4AIBBRTh"
            "BS0IYAc3AMAK+AFogJSmSS5TOk2y/DJLypt2AJSIJvlEPsmT/AAIQKbtajgAwBa0AWuAZAYRziDCGUQ4g/hclfyV/JX+K4t7AAQA"
            "Bg88OHhw8ODgfk5KdPkpu1rVajwA/9k="
        ),
    ),
}
"""Bits and codestream, by keyword of the transfer syntax."""
