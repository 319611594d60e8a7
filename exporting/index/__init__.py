"""The quantized index: built, measured, tuned."""
