"""Who radstream is on the wire and in its objects: version, UIDs, manufacturer names.

UIDs are made from UUIDs under the root 2.25 (PS3.5 annex B.2), so no registered root is needed.
"""

from __future__ import annotations

from typing import Final

from pydicom.uid import UID

VERSION: Final = "0.1.0"
IMPLEMENTATION_CLASS_UID: Final = UID("2.25.136957637543699987765722321112746510034")
IMPLEMENTATION_VERSION_NAME: Final = "RADSTREAM_0.1"
"""At most 16 characters (PS3.7 D.3.3.2)."""

SPOOL_PRIVATE_INFORMATION_UID: Final = UID("2.25.184894573400403245550952491934273829592")
"""Private Information Creator UID (0002,0100) of files in the spool."""

MANUFACTURER: Final = "radstream"
MANUFACTURER_MODEL_NAME: Final = "radstream"
DISCLAIMER: Final = "Research use only - not a medical device"
