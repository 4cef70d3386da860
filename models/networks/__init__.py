"""Network definitions and the table of their builders. Imports torch; only training and its tests load it."""
