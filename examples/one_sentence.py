"""The shortest program: one sentence, one file."""

from audio_api import say

response = say("Hello, world!", "hello.wav", overwrite=True)
print(f"{response.duration:.1f} s in {response.file_path}")
