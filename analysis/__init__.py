"""Compiled measures of what models learned: arrays in, arrays out. Needs nothing from the rest of lorajax."""

__all__ = ["cka"]
