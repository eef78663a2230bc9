"""Plain data and its rules: requests, responses, voices, languages, models."""
