"""Where jobs wait: one file per place."""
