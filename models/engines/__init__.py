"""Engine providers: code that runs an exported network on a batch."""
