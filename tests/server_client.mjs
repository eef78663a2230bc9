// The AI SDK's OpenAI voice: node server_client.mjs URL TEXT FILE writes the mp3 that it hears into the file.
import { writeFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { experimental_generateSpeech as generateSpeech } from "ai-6";

const [url, text, file] = process.argv.slice(2);
const openai = createOpenAI({ baseURL: url, apiKey: "any" });
const { audio } = await generateSpeech({ model: openai.speech("tts-1"), text, voice: "nova" });
writeFileSync(file, audio.uint8Array);
