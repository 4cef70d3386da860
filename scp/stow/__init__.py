"""The STOW-RS entry of the feed (PS3.18 10.5), beside C-STORE and with the same promise."""
