"""Offline training: fits networks, exports them as model versions, and never serves."""
