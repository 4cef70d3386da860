"""Patient names in character sets, of PS3.5 annexes H to K and as senders write them."""

from __future__ import annotations

from typing import Final

KOREAN: Final = b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf"
JAPANESE: Final = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B"
KATAKANA: Final = (
    b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J"
)
CHINESE: Final = b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab="
LATIN: Final = b"Buc^J\xe9r\xf4me"

NAMES: Final[tuple[tuple[bytes | None, bytes, str | list[str] | None], ...]] = (
    (b"\\ISO 2022 IR 87", JAPANESE, ["", "ISO 2022 IR 87"]),
    (b"ISO 2022 IR 13\\ISO 2022 IR 87", KATAKANA, ["ISO 2022 IR 13", "ISO 2022 IR 87"]),
    (b"\\ISO 2022 IR 149", KOREAN, ["", "ISO 2022 IR 149"]),
    (b"ISO_IR 126", b"\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2", "ISO_IR 126"),
    (b"GB18030", CHINESE, "GB18030"),
    (b"GBK", CHINESE, "GBK"),
    (b"ISO_IR 192", "Wang^XiaoDong=王^小東".encode(), "ISO_IR 192"),
    (b"ISO_IR 100", LATIN, "ISO_IR 100"),
    (b"ISO-IR 100", LATIN, "ISO_IR 100"),  # misspelt
    (b"ISO_IR 192", LATIN, "ISO_IR 100"),  # declared wrongly
    (None, LATIN, "ISO_IR 100"),  # not declared
    (None, "Wang^XiaoDong=王^小東".encode(), "ISO_IR 192"),
    (b"KLINGON", LATIN, "ISO_IR 100"),  # unknown
    (b"KLINGON", b"Doe^Jane", None),
    (None, b"Doe^Jane", None),
)
"""What the source declares, the name, and what an output must declare."""
