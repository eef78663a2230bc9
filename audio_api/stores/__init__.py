"""Where finished sound is kept: a folder, or an object store."""
