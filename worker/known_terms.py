"""Terms that code strings of a header are expected to have; where identity is protected, no other text is stored.

They are the defined terms of the standard as far as radiographs have them, and spellings that the shipped routing rules
know. A code string is compared without regard to case and spaces at its ends; it is stored as the term stands here.
"""

from __future__ import annotations

from typing import Final

# PS3.3 C.7.3.1.1.1, those of images.
_MODALITIES: Final = (
    "CR CT DG DX ECG ES GM IO IVUS KO LP MG MR NM OCT OP OT PR PT PX RF RG RTDOSE RTIMAGE RTPLAN SC SEG SM SR TG US"
    " XA XC"
)

# PS3.16 Annex L, and what senders write instead.
_BODY_PARTS: Final = (
    "ABDOMEN ABDOMENPELVIS ANKLE ARM BREAST CALCANEUS CALF CHEST CHESTABDOMEN CHESTABDPELVIS CHEST_TO_ABDOMEN CLAVICLE"
    " COCCYX CSPINE CTSPINE DSPINE ELBOW EXTREMITY FACE FACIALBONES FEMUR FINGER FOOT FOREARM FULLSPINE FULL_SPINE HAND"
    " HEAD HEADNECK HEART HIP HUMERUS JAW KNEE LEG LSPINE LSSPINE LUNG MANDIBLE MAXILLA NASALBONE NECK ORBIT PATELLA"
    " PELVIS RADIUS RADIUSULNA RIB RIBS SACRUM SCAPULA SCJOINT SHOULDER SIJOINT SINUS SKULL SPINE SSPINE STERNUM THIGH"
    " THORAX THUMB TIBIAFIBULA TLSPINE TMJ TOE TSPINE ULNA WHOLEBODY WHOLESPINE WHOLE_SPINE WRIST WSPINE ZYGOMA"
)
_BODY_PARTS_OF_TWO_WORDS: Final = ("WHOLE SPINE", "FULL SPINE", "WHOLE BODY", "TIBIA FIBULA")

# PS3.3 C.8.1.2 (CR), C.8.11.4 by PS3.16 CID 4010 (DX), CID 4014 (MG).
_VIEW_POSITIONS: Final = (
    "AP PA LL RL RLD LLD RLO LLO LAO RAO LPO RPO LAT LATERAL OBL OBLIQUE AXIAL CC MLO ML LM XCCL XCCM TAN SIO FB"
)

MODALITIES: Final = frozenset(_MODALITIES.split())
BODY_PARTS: Final = frozenset(_BODY_PARTS.split()).union(_BODY_PARTS_OF_TWO_WORDS)
VIEW_POSITIONS: Final = frozenset(_VIEW_POSITIONS.split())
LATERALITIES: Final = frozenset("LRUB")  # PS3.3 C.7.3.1 and C.8.11.1
SEXES: Final = frozenset("MFO")  # PS3.3 C.7.1.1

KNOWN_TERMS: Final = {
    "modality": MODALITIES,
    "body_part_examined": BODY_PARTS,
    "view_position": VIEW_POSITIONS,
    "laterality": LATERALITIES,
    "patient_sex": SEXES,
}
"""By column of the records."""


def known_term(column: str, text: str) -> str | None:
    """Give the term that a text is, None where it is none."""
    term = text.strip().upper()
    return term if term in KNOWN_TERMS[column] else None
