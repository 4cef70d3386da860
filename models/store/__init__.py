"""Model store: versions on disk, the active one, and the check of their hashes."""
