"""Alembic environment and versions; run with ``alembic upgrade head`` or ``python -m worker migrate``."""
