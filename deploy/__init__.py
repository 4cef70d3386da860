"""Ways to start the feed: the demo, the standalone launcher, and (later) containers and services."""
