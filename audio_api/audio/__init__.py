"""Bytes of sound: WAV files, measures, checks. Only the writers touch the disk."""
