"""The DICOM objects that radstream makes, one IOD per module, and how it knows them again."""
