"""A Markdown file read aloud: ``python examples/markdown_file.py [FILE]``, this folder's README if not given."""

import sys
from pathlib import Path

from audio_api import say

source = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("README.md")
response = say(source.read_text("utf-8"), f"{source.stem}.wav", markup="markdown", overwrite=True)
print(response.message)
