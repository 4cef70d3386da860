"""The audit trail: messages in the form of DICOM PS3.15 A.5, kept on disk and sent by syslog."""
