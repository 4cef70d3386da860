"""The read-only status page on the HTTP port of the worker."""
