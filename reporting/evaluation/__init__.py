"""The evaluation page, section by section."""
