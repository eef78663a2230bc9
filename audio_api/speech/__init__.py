"""An utterance becomes verified sound: planned, spoken, joined, streamed, and kept."""
