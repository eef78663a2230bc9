"""Sources of speech, one file each. Engines translate; they decide nothing."""
