"""From a DICOM instance or an image file to the array a network reads: one definition for training and serving.

Import the modules by name; this package file stays empty because the SCP imports `models.pixels.syntaxes` and must
not load image libraries.
"""
