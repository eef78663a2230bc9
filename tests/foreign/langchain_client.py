"""langchain-google-genai speaks a text as a chat with each model; what it hears is written as a WAV file."""

import sys
from pathlib import Path

from langchain_google_genai import ChatGoogleGenerativeAI

url, folder, text, *models = sys.argv[1:]
for model in models:
    answer = ChatGoogleGenerativeAI(model=model, google_api_key="any", base_url=url).invoke(text)
    Path(folder, model).write_bytes(answer.additional_kwargs["audio"])
