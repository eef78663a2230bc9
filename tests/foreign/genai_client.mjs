// Google's own SDK for JavaScript speaks a text in a style and a stream with each model; samples are written.
import { writeFileSync } from "node:fs";
import { GoogleGenAI, Modality } from "@google/genai";

const [url, folder, text, ...models] = process.argv.slice(2);
const client = new GoogleGenAI({ apiKey: "any", httpOptions: { baseUrl: url } });
const speechConfig = { voiceConfig: { prebuiltVoiceConfig: { voiceName: "Kore" } } };
const config = { responseModalities: [Modality.AUDIO], speechConfig };
for (const model of models) {
  const part = model.includes("3.8") ? { text, speechMetadata: { style: "calm" } } : { text: `Say calmly: ${text}` };
  const stream = await client.models.generateContentStream({ model, contents: [{ role: "user", parts: [part] }], config });
  const sound = [];
  for await (const event of stream) {
    for (const { inlineData } of event.candidates?.[0]?.content?.parts ?? []) {
      if (inlineData) sound.push(Buffer.from(inlineData.data, "base64"));
    }
  }
  writeFileSync(`${folder}/${model}`, Buffer.concat(sound));
}
