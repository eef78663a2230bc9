"""``audio-api serve``: speech over HTTP for programs that speak OpenAI's protocol, and a page for people."""
