"""`python -m worker retain`: clears away what is old."""
