"""Vertebrae: which landmarks a network gives, and what is measured on them."""
