"""`python -m deploy.conformance`: writes the DICOM conformance statement from the tables in the code.

The document is that of PS3.2 annex N. Each module gives one part of it; what a table holds comes from the code that
does it, so that neither can say anything else than the other.
"""
