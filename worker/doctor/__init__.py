"""`python -m worker doctor`: what only the worker can check."""
