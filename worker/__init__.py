"""The worker: takes queued instances in batches, infers, settles, and delivers outputs."""
