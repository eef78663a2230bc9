"""What to do after each class of error."""

import asyncio

from audio_api import (
    AudioRequest,
    TTSAuthenticationError,
    TTSContentBlockedError,
    TTSError,
    TTSQuotaError,
    TTSService,
    TTSUnavailableError,
)


async def main() -> None:
    """Speak a sentence, and say what is to be done if that fails."""
    async with TTSService() as tts:
        response = await tts.generate_audio(AudioRequest(text="All is well.", overwrite=True))
    try:
        response.raise_for_error()
    except TTSAuthenticationError as error:
        print("set GEMINI_API_KEY:", error)
    except TTSQuotaError as error:
        print("come back at", error.reset_at)
    except TTSContentBlockedError as error:
        print("write it in other words:", error)
    except TTSUnavailableError as error:
        print("try again later:", error)
    except TTSError as error:
        print("again later" if error.retryable else "not like this:", error)
    else:
        print("doubtful:" if response.doubtful else "whole:", response.file_path)


asyncio.run(main())
