"""Every language speaks, or says why it cannot. ``python tests/test_languages.py`` runs it alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sound import RATE, assert_audible

from audio_api import AudioConfig, AudioRequest, ErrorCode, Language, TTSService, TTSValidationError

# "Good morning. The weather is fine today, and we are going to the market." and the like.
SENTENCES = {
    Language.ARABIC_EGYPTIAN: "صباح الخير. الطقس جميل اليوم وسنذهب إلى السوق.",
    Language.GERMAN_GERMANY: "Guten Morgen. Das Wetter ist heute schön, und wir gehen auf den Markt.",
    Language.ENGLISH_US: "Good morning. The weather is fine today, and we are going to the market.",
    Language.SPANISH_US: "Buenos días. Hoy hace buen tiempo y vamos al mercado.",
    Language.FRENCH_FRANCE: "Bonjour. Il fait beau aujourd'hui et nous allons au marché.",
    Language.HINDI_INDIA: "सुप्रभात। आज मौसम अच्छा है और हम बाज़ार जा रहे हैं।",
    Language.INDONESIAN_INDONESIA: "Selamat pagi. Cuaca hari ini cerah dan kami pergi ke pasar.",
    Language.ITALIAN_ITALY: "Buongiorno. Oggi il tempo è bello e andiamo al mercato.",
    Language.JAPANESE_JAPAN: "おはようございます。きょうはてんきがいいので、いちばにいきます。",
    Language.KOREAN_KOREA: "좋은 아침입니다. 오늘은 날씨가 좋아서 시장에 갑니다.",
    Language.PORTUGUESE_BRAZIL: "Bom dia. O tempo está bom hoje e vamos ao mercado.",
    Language.RUSSIAN_RUSSIA: "Доброе утро. Сегодня хорошая погода, и мы идём на рынок.",
    Language.DUTCH_NETHERLANDS: "Goedemorgen. Het is vandaag mooi weer en we gaan naar de markt.",
    Language.POLISH_POLAND: "Dzień dobry. Dziś jest ładna pogoda i idziemy na targ.",
    Language.TURKISH_TURKEY: "Günaydın. Bugün hava güzel ve pazara gidiyoruz.",
    Language.VIETNAMESE_VIETNAM: "Chào buổi sáng. Hôm nay trời đẹp và chúng tôi đi chợ.",
    Language.ROMANIAN_ROMANIA: "Bună dimineața. Astăzi vremea este frumoasă și mergem la piață.",
    Language.UKRAINIAN_UKRAINE: "Доброго ранку. Сьогодні гарна погода, і ми йдемо на ринок.",
    Language.BENGALI_BANGLADESH: "শুভ সকাল। আজ আবহাওয়া ভালো এবং আমরা বাজারে যাচ্ছি।",
    Language.ENGLISH_INDIA_HINDI_BUNDLE: "Good morning. The weather is fine today, and we are going to the market.",
    Language.MARATHI_INDIA: "सुप्रभात. आज हवामान चांगले आहे आणि आम्ही बाजारात जात आहोत.",
    Language.TAMIL_INDIA: "காலை வணக்கம். இன்று வானிலை நன்றாக உள்ளது, நாங்கள் சந்தைக்குப் போகிறோம்.",
    Language.TELUGU_INDIA: "శుభోదయం. ఈ రోజు వాతావరణం బాగుంది, మేము మార్కెట్‌కు వెళ్తున్నాము.",
    Language.CHINESE: "早上好。今天天气很好,我们去市场。",
}


@pytest.mark.parametrize("language", SENTENCES, ids=str)
async def test_a_language_speaks(language: Language, offline_config: AudioConfig) -> None:
    """Two sentences in the language's own script take two to twelve seconds; the one warning says it is a robot."""
    async with TTSService(config=offline_config) as tts:
        response = await tts.generate_audio(AudioRequest(text=SENTENCES[language], language=language))
    response.raise_for_error()
    assert 2 < len(assert_audible(response.file_path)) / RATE < 12
    assert ["robotic" in warning for warning in response.warnings] == [True]


def test_no_language_is_forgotten() -> None:
    """Every language is spoken above, but for Thai, which is refused below."""
    assert set(Language) - set(SENTENCES) == {Language.THAI_THAILAND}


async def test_a_plain_code_is_as_good_as_a_name(offline_config: AudioConfig) -> None:
    """``"de-de"`` is German."""
    request = AudioRequest(text=SENTENCES[Language.GERMAN_GERMANY], language="de-de")
    assert request.language is Language.GERMAN
    async with TTSService(config=offline_config) as tts:
        assert_audible((await tts.generate_audio(request)).file_path)


@pytest.mark.parametrize(
    ("text", "language", "named"),
    [
        ("สวัสดีครับ วันนี้อากาศดี", Language.THAI_THAILAND, "th-TH"),
        ("今日は天気がいい。", Language.JAPANESE, "kanji"),
        ("Saluton, mondo!", "xx-XX", "xx-XX"),
    ],
    ids=["Thai", "kanji", "unknown"],
)
async def test_what_offline_speech_cannot_say_is_refused(
    text: str, language: Language | str, named: str, offline_config: AudioConfig
) -> None:
    """A language or script the offline engine would turn into noise is a clear error, and no file appears."""
    async with TTSService(config=offline_config) as tts:
        response = await tts.generate_audio(AudioRequest(text=text, language=language))
    assert response.error_code is ErrorCode.INVALID_REQUEST
    with pytest.raises(TTSValidationError, match=named):
        response.raise_for_error()
    assert list(offline_config.output_dir.iterdir()) == []


if __name__ == "__main__":
    sys.exit(subprocess.call([sys.executable, "-m", "pytest", __file__, *sys.argv[1:]]))
