// The AI SDK with @ai-sdk/google speaks a text in a style with each model; what it hears is written as a WAV file.
import { writeFileSync } from "node:fs";
import { createGoogleGenerativeAI } from "@ai-sdk/google";
import { experimental_generateSpeech as generateSpeech } from "ai";

const [url, folder, text, ...models] = process.argv.slice(2);
const google = createGoogleGenerativeAI({ apiKey: "any", baseURL: `${url}/v1beta` });
for (const id of models) {
  const model = google.speech(id);
  const { audio } = await generateSpeech({ model, text, voice: "Kore", instructions: "Say calmly", outputFormat: "wav" });
  writeFileSync(`${folder}/${id}`, audio.uint8Array);
}
