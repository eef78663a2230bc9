"""Google's published samples, in our own words, get sound from the emulator: with curl, and with Google's own SDK."""

from __future__ import annotations

import base64
import json
import shlex
import shutil
import subprocess
from typing import Any

import pytest
from emulator_calls import KEY, V25, V31, V38, pcm_of
from google import genai
from google.genai import types

from audio_api.emulator import Emulator
from audio_api.emulator.speech import synthesize

HELLO, HI = "Have a wonderful day!", "How is it going today, Jane?"
JANE = "Not too bad, and how about you?"
BOTH = synthesize(HI, "kore", "en-US") + synthesize(JANE, "puck", "en-US")

# Written as people paste them: commas behind the last item, and line ends in a string.
SINGLE_LEGACY = """{
  "contents": [{
    "parts": [{
      "text": "Say cheerfully: Have a wonderful day!",
    }],
  }],
  "generationConfig": {
    "responseModalities": ["AUDIO"],
    "speechConfig": {
      "voiceConfig": {
        "prebuiltVoiceConfig": { "voiceName": "Kore" }
      }
    },
  },
  "model": "gemini-2.5-flash-preview-tts",
}"""
DIALOGUE_LEGACY = """{
  "contents": [{
    "parts": [{
      "text": "TTS the following conversation between Joe and Jane:
        Joe: How is it going today, Jane?
        Jane: Not too bad, and how about you?",
    }]
  }],
  "generationConfig": {
    "responseModalities": ["AUDIO"],
    "speechConfig": {
      "multiSpeakerVoiceConfig": {
        "speakerVoiceConfigs": [
          { "speaker": "Joe", "voiceConfig": { "prebuiltVoiceConfig": { "voiceName": "Kore" } } },
          { "speaker": "Jane", "voiceConfig": { "prebuiltVoiceConfig": { "voiceName": "Puck" } } },
        ],
      },
    },
  },
}"""
SINGLE_3_8 = """{
  "contents": [{
    "parts": [{
      "text": "Have a wonderful day!",
      "speechMetadata": { "style": "cheerful" },
    }],
  }],
  "generationConfig": {
    "responseModalities": ["audio"],
    "speechConfig": { "voiceConfig": { "voice": "Kore" } },
  },
  "store": false,
}"""
DIALOGUE_3_8 = """{
  "contents": [{
    "parts": [
      { "text": "How is it going today, Jane?", "speechMetadata": { "speaker": "Joe", "style": "calm" } },
      { "text": "Not too bad, and how about you?", "speechMetadata": { "speaker": "Jane" } },
    ],
  }],
  "generationConfig": {
    "responseModalities": ["AUDIO"],
    "responseFormat": { "audio": { "mimeType": "AUDIO_L16", "sampleRate": 24000 } },
    "speechConfig": {
      "multiSpeakerVoiceConfig": {
        "speakerVoiceConfigs": [
          { "speaker": "Joe", "voiceConfig": { "voice": "Kore" } },
          { "speaker": "Jane", "voiceConfig": { "voice": "Puck" } },
        ],
      },
    },
  },
}"""
SAMPLES = {
    "2.5, one voice": (V25, SINGLE_LEGACY, synthesize(HELLO, "kore", "en-US")),
    "3.1, one voice": (V31, SINGLE_LEGACY, synthesize(HELLO, "kore", "en-US")),
    "2.5, two voices": (V25, DIALOGUE_LEGACY, BOTH),
    "3.1, two voices": (V31, DIALOGUE_LEGACY, BOTH),
    "3.8, one voice": (V38, SINGLE_3_8, synthesize(HELLO, "kore", "en-US")),
    "3.8, two voices": (V38, DIALOGUE_3_8, BOTH),
}
METHODS = {
    "unary": "generateContent",
    "events": "streamGenerateContent?alt=sse",
    "list": "streamGenerateContent",
}


def documents(method: str, answer: str) -> list[dict[str, Any]]:
    """What an answer consists of."""
    if method == "events":
        return [json.loads(line.removeprefix("data: ")) for line in answer.splitlines() if line]
    read = json.loads(answer)
    return read if method == "list" else [read]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sample", SAMPLES)
def test_curl_gets_the_whole_sound(gemini_emulator: Emulator, sample: str, method: str) -> None:
    """A sample as a shell runs it, with its key in a header or in the address, gets every word."""
    model, body, sound = SAMPLES[sample]
    url = f"{gemini_emulator.url}/v1beta/models/{model}:{METHODS[method]}"
    key = f'-H "x-goog-api-key: {KEY}"' if method == "unary" else ""
    url += "" if key else f"{'&' if '?' in url else '?'}key={KEY}"
    command = f'curl -sS --fail-with-body --noproxy "*" "{url}" {key} -H "Content-Type: application/json" -X POST -d '
    done = subprocess.run(["sh", "-c", command + shlex.quote(body)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = documents(method, done.stdout)
    parts = [part for each in found for part in each["candidates"][0]["content"].get("parts", [])]
    assert b"".join(map(pcm_of, parts)) == sound
    assert found[-1]["candidates"][0]["finishReason"] == "STOP"


def test_the_pipe_of_the_samples_makes_raw_sound(gemini_emulator: Emulator) -> None:
    """What the samples pass on to base64 is the data alone."""
    url = f"{gemini_emulator.url}/v1beta/models/{V25}:generateContent"
    command = f'curl -sS --noproxy "*" {url} -H "x-goog-api-key: k" -d @- | sed "s/.*\\"data\\": \\"//; s/\\".*//"'
    done = subprocess.run(["sh", "-c", command], input=SINGLE_LEGACY, capture_output=True, text=True, check=True)
    assert base64.b64decode(done.stdout) == synthesize(HELLO, "kore", "en-US")


def voice(name: str, model: str) -> types.VoiceConfig:
    """A voice as the guide of the model's time spells it."""
    if model == V38:
        return types.VoiceConfig(voice=name)
    return types.VoiceConfig(prebuilt_voice_config=types.PrebuiltVoiceConfig(voice_name=name))


def one_voice(model: str) -> tuple[Any, types.SpeechConfig]:
    """Contents and speech of a call with one voice."""
    speech = types.SpeechConfig(voice_config=voice("Kore", model))
    if model != V38:
        return f"Say cheerfully: {HELLO}", speech
    return types.Part(text=HELLO, speech_metadata=types.SpeechMetadata(style="cheerful")), speech


def two_voices(model: str) -> tuple[Any, types.SpeechConfig]:
    """Contents and speech of a dialogue."""
    speakers = [
        types.SpeakerVoiceConfig(speaker=name, voice_config=voice(spoken, model))
        for name, spoken in (("Joe", "Kore"), ("Jane", "Puck"))
    ]
    both = types.MultiSpeakerVoiceConfig(speaker_voice_configs=speakers)
    speech = types.SpeechConfig(multi_speaker_voice_config=both)
    if model != V38:
        return f"TTS the following conversation between Joe and Jane:\nJoe: {HI}\nJane: {JANE}", speech
    turns = [("Joe", HI), ("Jane", JANE)]
    return [types.Part(text=text, speech_metadata=types.SpeechMetadata(speaker=name)) for name, text in turns], speech


@pytest.fixture
def client(gemini_emulator: Emulator) -> Any:
    """The SDK as the samples make it: the address apart, all is its default, the version of the API too."""
    with genai.Client(api_key=KEY, http_options=types.HttpOptions(base_url=gemini_emulator.url)) as made:
        yield made


@pytest.mark.parametrize("speakers", [one_voice, two_voices])
@pytest.mark.parametrize("model", [V25, V31, V38])
def test_the_sdk_gets_the_whole_sound(gemini_emulator: Emulator, client: Any, model: str, speakers: Any) -> None:
    """One call and one stream bring every word in the right voice."""
    contents, speech = speakers(model)
    config = types.GenerateContentConfig(response_modalities=["AUDIO"], speech_config=speech)
    sound = BOTH if speakers is two_voices else synthesize(HELLO, "kore", "en-US")
    reply = client.models.generate_content(model=model, contents=contents, config=config)
    assert reply.candidates[0].content.parts[0].inline_data.data.endswith(sound)
    stream = client.models.generate_content_stream(model=model, contents=contents, config=config)
    assert b"".join(part.inline_data.data for event in stream for part in event.parts or []) == sound
    assert [call.status for call in gemini_emulator.calls] == [200, 200]


def test_the_sdk_sends_what_it_has_no_field_for(client: Any) -> None:
    """Extra fields of the body, such as the format, are merged in by the SDK and honoured."""
    extra = {"generationConfig": {"responseFormat": {"audio": {"mimeType": "AUDIO_L16"}}}}
    contents, speech = one_voice(V38)
    config = types.GenerateContentConfig(
        response_modalities=["AUDIO"],
        speech_config=speech,
        service_tier="flex",
        http_options=types.HttpOptions(extra_body=extra),
    )
    reply = client.models.generate_content(model=V38, contents=contents, config=config)
    assert reply.parts[0].inline_data.data == synthesize(HELLO, "kore", "en-US")
    assert reply.sdk_http_response.headers["x-gemini-service-tier"] == "flex"
