"""Whether this installation decodes every transfer syntax that the SCP takes, and draws the text of overlays.

One small image, whose values are known, was encoded once in every syntax by another program (see `doctor_images`).
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from models.diagnosis.checks import Finding, failure, ok
from models.errors import Unprocessable
from models.pixels.syntaxes import DECODABLE_TRANSFER_SYNTAXES, NATIVE_TRANSFER_SYNTAXES
from worker.doctor.images import FRAMES, LARGEST_DIFFERENCE, SIDE, known_image

LIBRARIES: Final = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "jpeg_ls": "pyjpegls",
    "libjpeg.utils": "pylibjpeg-libjpeg",
    "rle.utils": "pylibjpeg-rle",
}
"""What the decoder imports, and the package that has it."""
OVERLAY_SIGNS: Final = "AI 0.87 12.3° (T4-T12)"
"""Letters, digits and the one sign beyond ASCII that overlays write."""


def check_codecs() -> Iterator[Finding]:
    """Decode the known image in every transfer syntax and compare."""
    missing = [package for module, package in LIBRARIES.items() if not _importable(module)]
    if missing:
        yield failure(
            f"codecs are missing or broken: {', '.join(missing)}", f"pip install --force-reinstall {' '.join(missing)}"
        )
        return
    wrong = {}
    for syntax in DECODABLE_TRANSFER_SYNTAXES:
        said = _difference(syntax)
        if said:
            wrong[syntax.name] = said
    for name, said in wrong.items():
        yield failure(f"{name}: {said}", "pip install --force-reinstall " + " ".join(LIBRARIES.values()))
    count = len(DECODABLE_TRANSFER_SYNTAXES)
    if not wrong:
        yield ok(f"all {count} transfer syntaxes of the SCP are decoded to the right values")


def _importable(module: str) -> bool:
    try:
        importlib.import_module(module)
    except (ImportError, OSError):  # OSError: a library that the system lacks
        return False
    return True


def _difference(syntax: uid.UID) -> str:
    """Say how decoding fails, empty when it does not."""
    from models.pixels.radiograph import Radiograph

    name = syntax.keyword
    bits = FRAMES[name][0] if name in FRAMES else 12
    expected = known_image(bits)
    try:
        decoded = Radiograph.read(_encoded(syntax, bits, expected)).stored
    except Unprocessable as error:
        return f"is not decoded ({error.reason.value})"
    if decoded.shape != (SIDE, SIDE):
        return "is decoded to another size"
    apart = int(np.abs(decoded.astype(np.int64) - expected).max())
    return f"is decoded wrongly, by up to {apart}" if apart > LARGEST_DIFFERENCE.get(name, 0) else ""


def _encoded(syntax: uid.UID, bits: int, values: NDArray[np.uint16]) -> io.BytesIO:
    dataset = Dataset()
    dataset.SOPClassUID = uid.ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = "2.25.1"
    dataset.Rows = dataset.Columns = SIDE
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = 8 if bits == 8 else 16
    dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = bits, bits - 1, 0
    if syntax in NATIVE_TRANSFER_SYNTAXES:
        order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
        dataset.add_new("PixelData", "OW", values.astype(f"{order}u2").tobytes())
    else:
        dataset.add_new("PixelData", "OB", encapsulate([FRAMES[syntax.keyword][1]]))
        dataset["PixelData"].is_undefined_length = True
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    file.seek(0)
    return file


def check_fonts() -> Iterator[Finding]:
    """Draw the text of an overlay, and see that each sign is drawn, and not as a box."""
    from PIL import Image, ImageDraw, ImageFont, features

    from worker import caption

    remedy = "pip install --force-reinstall pillow (a build with FreeType)"
    if not features.check("freetype2"):
        yield failure("Pillow is built without FreeType: overlays would have no readable text", remedy)
        return
    try:
        face = caption.font(24)
    except (OSError, ImportError):
        yield failure("the type of overlays cannot be loaded", remedy)
        return

    if not isinstance(face, ImageFont.FreeTypeFont):
        yield failure("the type of overlays is a bitmap, which has few signs in one size", remedy)
        return

    def drawn(sign: str) -> bytes:
        image = Image.new("L", (48, 48))
        ImageDraw.Draw(image).text((8, 8), sign, fill=255, font=face)
        return image.tobytes()

    # U+FFFF is no character, so it is drawn as whatever stands for those that a font lacks.
    nothing = {drawn(" "), drawn("\uffff")}
    lacking = sorted({sign for sign in OVERLAY_SIGNS if sign != " " and drawn(sign) in nothing})
    if lacking:
        yield failure(f"the type of overlays lacks the signs {' '.join(lacking)}", remedy)
        return
    name = " ".join(str(part) for part in face.getname())
    yield ok(f"overlays are written in {name}, with every sign that they need")
