"""No definitions."""
