"""Bytes of sound: WAV files and checks. Pure functions, but for the writer."""
