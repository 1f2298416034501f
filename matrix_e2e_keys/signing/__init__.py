"""Signing JSON: the signed value, who signs, who verifies."""
