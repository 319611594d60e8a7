"""The canonical tables: their contract, checks, integer codes, and the attribution of feedback."""
