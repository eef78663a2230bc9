"""LiteLLM speaks a text with each model through OpenAI's speech call; what it hears is written as a file."""

import os
import sys
from pathlib import Path

url, folder, text, *models = sys.argv[1:]
# The call's own api_base does not reach this provider; and the price list is not to come from the network.
os.environ |= {"GEMINI_API_BASE": f"{url}/v1beta", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}

import litellm  # noqa: E402 - it reads the variables as it is imported

for model in models:
    answer = litellm.speech(model=f"gemini/{model}", input=text, voice="Kore", api_key="any")
    Path(folder, model).write_bytes(answer.content)
