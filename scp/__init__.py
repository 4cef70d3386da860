"""The receiving end of the feed: a DICOM Storage SCP that spools, registers and queues what it accepts."""
