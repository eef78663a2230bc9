// The page of audio_api's server. Text of people goes in by textContent only; the browser plays and seeks by itself.

const $ = (id) => document.getElementById(id);

/** An element with text, attributes and children. */
function make(tag, { text, ...attributes } = {}, ...children) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

class ServerError extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.param = error.param;
  }
}

/** Ask the server; an answer that is no success is raised with the server's own sentence. */
async function ask(method, path, body) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new ServerError(0, { message: "The server does not answer." });
  }
  const reply = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (answer.status === 401) show("sign-in");
  if (!answer.ok) throw new ServerError(answer.status, reply.error ?? { message: `The server answered ${answer.status}.` });
  return reply;
}

// Views

const VIEWS = ["studio", "dashboard", "sign-in"];

function show(view) {
  for (const name of VIEWS) $(name).hidden = name !== view;
  for (const name of ["studio", "dashboard"]) {
    if (name === view) $(`to-${name}`).setAttribute("aria-current", "page");
    else $(`to-${name}`).removeAttribute("aria-current");
  }
  if (view === "dashboard") listen();
  else stopListening();
}

const route = () => show(location.hash === "#dashboard" ? "dashboard" : "studio");

async function signIn(event) {
  event.preventDefault();
  $("key-error").textContent = "";
  try {
    await ask("POST", "/page/session", { key: $("key").value });
    $("key").value = "";
    await begin();
  } catch (error) {
    $("key-error").textContent = error.message;
    $("key").focus();
  }
}

// Studio

let voices = [];
let formats = [];

function fill(select, entries) {
  for (const { value, text } of entries) select.append(make("option", { value, text }));
}

const voiceOptions = () => voices.map(({ id, name }) => ({ value: id, text: name }));

function addSpeaker(name = "", voice = "") {
  const number = $("cast").children.length + 1;
  const who = make("input", { id: `speaker-${number}`, autocomplete: "off" });
  who.value = name;
  const select = make("select", { id: `speaker-voice-${number}` });
  fill(select, voiceOptions());
  select.value = voice || voiceOptions()[number % voices.length]?.value;
  $("cast").append(make("li", {},
    make("div", {}, make("label", { for: who.id, text: `Speaker ${number}` }), who),
    make("div", {}, make("label", { for: select.id, text: `Voice of speaker ${number}` }), select)));
}

/** The names that begin lines of the text: those of the script's speakers, most likely. */
function namesInText() {
  const names = $("text").value.matchAll(/^\s*([\p{L}][\p{L}\p{N} .'-]{0,30}):/gmu);
  return [...new Set([...names].map(([, name]) => name.trim()))].slice(0, 12);
}

function chooseMode() {
  const isScript = document.querySelector("input[name=mode]:checked").value === "script";
  $("single-voice").hidden = isScript;
  $("cast").hidden = $("add-speaker").hidden = !isScript;
  if (isScript && !$("cast").children.length) {
    const names = namesInText();
    for (const name of names.length ? names : ["", ""]) addSpeaker(name);
  }
}

function wanted() {
  const body = { input: $("text").value };
  if ($("style").value.trim()) body.instructions = $("style").value;
  if ($("language").value) body.language = $("language").value;
  if ($("model").value) body.model = $("model").value;
  if ($("markdown").checked) body.markup = "markdown";
  if ($("subtitles").checked) body.subtitles = ["srt", "vtt"];
  if (document.querySelector("input[name=mode]:checked").value === "single") return { ...body, voice: $("voice").value };
  const cast = {};
  for (const row of $("cast").children) {
    const name = row.querySelector("input").value.trim();
    if (name) cast[name] = row.querySelector("select").value;
  }
  return { ...body, cast };
}

function count() {
  const characters = [...$("text").value].length;
  $("text-count").textContent = `${characters.toLocaleString("en")} character${characters === 1 ? "" : "s"}`;
}

function complain(text) {
  $("text-error").textContent = text;
  $("text").setAttribute("aria-invalid", String(Boolean(text)));
}

async function speak(event) {
  event.preventDefault();
  complain("");
  if (!$("text").value.trim()) {
    refuse("There is no text to speak yet.");
    return;
  }
  $("speak").disabled = true;
  $("result").hidden = false;
  $("status").textContent = "Speaking…";
  $("notes").replaceChildren();
  $("downloads").replaceChildren();
  try {
    if ($("subtitles").checked) await speakAsJob();
    else await speakAtOnce();
  } catch (error) {
    refuse(error.message);
  } finally {
    $("speak").disabled = false;
  }
}

/** Say why there is no sound, where it can be mended. */
function refuse(text) {
  $("player").removeAttribute("src");
  $("result").hidden = true;
  complain(text);
  $("text").focus();
}

/** The sound is played while it is made. */
async function speakAtOnce() {
  const { url } = await ask("POST", "/page/speech", wanted());
  play($("player"), `${url}?response_format=${formats[0]}`);
  offer(formats.map((format) => [format, `${url}?download=true&response_format=${format}`]));
  $("speak").disabled = false;
  const playing = $("player").src;
  let made = await ask("GET", `${url}/report`);
  while (!made.done) {
    await new Promise((resume) => { setTimeout(resume, 500); });
    if ($("player").src !== playing) return;
    made = await ask("GET", `${url}/report`);
  }
  report(made.success, made.error, made);
}

/** The sound is made by a worker, subtitles beside it, and played when it is complete. */
async function speakAsJob() {
  let job = await ask("POST", "/v1/audio/jobs", wanted());
  while (!["succeeded", "failed", "cancelled", "dead"].includes(job.status)) {
    await new Promise((resume) => { setTimeout(resume, 300); });
    job = await ask("GET", `/v1/audio/jobs/${job.id}`);
    if (job.progress) $("status").textContent = `Speaking… ${job.progress.pieces_done} of ${job.progress.pieces_total}`;
  }
  report(job.status === "succeeded", job.error?.message, job);
  if (job.status !== "succeeded") return;
  play($("player"), job.audio);
  offer([[job.response_format, job.audio], ...job.subtitles.map((url) => [url.split(".").pop(), url])]);
}

function play(player, url) {
  player.src = url;
  // A browser may want a click first; its own button is there.
  player.play().catch(() => {});
}

function offer(links) {
  $("downloads").replaceChildren(...links.map(([format, url]) =>
    make("a", { href: url, download: `speech.${format}`, text: format })));
}

function report(success, error, { duration, cost_usd: cost, doubtful, warnings }) {
  if (!success) {
    refuse(error ?? "The speech was not made.");
    return;
  }
  const price = typeof cost === "number" ? `for ${cost.toFixed(4)} USD` : "at an unknown price";
  $("status").textContent = `${duration.toFixed(1)} seconds ${price}.`;
  if (doubtful.length) $("notes").append(make("li", { text: `Doubtful: ${doubtful.join(", ")}` }));
  for (const warning of warnings) $("notes").append(make("li", { text: warning }));
}

async function hearSample() {
  try {
    const text = `This is the voice ${$("voice").selectedOptions[0].textContent.replace(/ \(.*/, "")}.`;
    const { url } = await ask("POST", "/page/speech", { input: text, voice: $("voice").value });
    play($("sample-player"), `${url}?response_format=${formats[0]}`);
  } catch (error) {
    complain(error.message);
  }
}

// Dashboard

let events = null;
let finishedBefore = null;

function listen() {
  if (events) return;
  events = new EventSource("/v1/audio/queue/events");
  events.onopen = () => { $("connection").textContent = "The numbers are those of this moment."; };
  events.onmessage = ({ data }) => draw(JSON.parse(data)).catch((error) => { $("connection").textContent = error.message; });
  events.onerror = () => { $("connection").textContent = "No news: the server does not answer. Trying again…"; };
}

function stopListening() {
  events?.close();
  events = null;
}

function rows(id, entries) {
  const focused = document.activeElement?.dataset?.key;
  $(id).tBodies[0].replaceChildren(...entries.map((cells) => make("tr", {}, ...cells.map((cell) =>
    cell instanceof Node ? make("td", {}, cell) : make("td", { text: cell })))));
  if (focused) document.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

function act(text, task, method, path, done) {
  const button = make("button", { type: "button", class: "quiet", text, "aria-label": `${text} ${task}`, "data-key": `${text} ${task}` });
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await ask(method, path);
      $("action").textContent = done;
    } catch (error) {
      $("action").textContent = error.message;
    }
  });
  return button;
}

/** How many tasks ended in the last minute, as seen from here. */
function throughput({ succeeded, failed }) {
  const now = performance.now();
  finishedBefore = (finishedBefore ?? []).filter(({ at }) => now - at < 60_000);
  finishedBefore.push({ at: now, count: succeeded + failed });
  return succeeded + failed - finishedBefore[0].count;
}

const jobs = async (state, limit = 20) => (await ask("GET", `/v1/audio/jobs?state=${state}&limit=${limit}`)).data;

function outcome({ id, status, error, duration, cost_usd: cost }) {
  const told = error ? `${status}: ${error.message}` : status;
  const shown = make("span", { class: status === "succeeded" ? "good" : "bad", text: told });
  return [id, shown, duration?.toFixed(1) ?? "", cost?.toFixed(4) ?? ""];
}

async function draw(queue) {
  const waiting = Object.values(queue.waiting).reduce((sum, count) => sum + count, 0);
  const numbers = {
    Waiting: waiting, Delayed: queue.delayed, "In hand": queue.leased, Succeeded: queue.succeeded, Failed: queue.failed,
    Dead: queue.dead, "Ended in a minute": throughput(queue), "Heard right now": queue.speaking,
    "Cost today": `${queue.cost_today_usd.toFixed(4)} USD`,
  };
  $("numbers").replaceChildren(...Object.entries(numbers).map(([name, value]) =>
    make("div", {}, make("dt", { text: name }), make("dd", { text: value }))));
  const [leased, queued, dead, succeeded, failed, overview] = await Promise.all([
    jobs("leased"), jobs("queued"), jobs("dead", 100), jobs("succeeded", 10), jobs("failed", 10), ask("GET", "/page/overview"),
  ]);
  const cancel = ({ id }) => act("Cancel", id, "DELETE", `/v1/audio/jobs/${id}`, `${id} was cancelled.`);
  rows("priorities", Object.entries(queue.waiting));
  rows("leased", leased.map((job) =>
    [job.id, job.progress ? `${job.progress.pieces_done} of ${job.progress.pieces_total}` : "", cancel(job)]));
  rows("waiting", queued.map((job) => [job.id, job.priority, cancel(job)]));
  rows("dead", dead.map(({ id, error }) =>
    [id, error?.message ?? "", act("Retry", id, "POST", `/v1/audio/jobs/${id}/retry`, `${id} waits again.`)]));
  $("retry-all").hidden = !dead.length;
  rows("finished", [...failed, ...succeeded].sort((one, other) => other.finished_at - one.finished_at).map(outcome));
  rows("workers", overview.workers.map(({ name, tasks }) => [
    name || "one without a name",
    make("span", { class: overview.problem ? "bad" : "good", text: overview.problem ?? (tasks.length ? "working" : "idle") }),
    tasks.map(({ id }) => id).join(", "),
    tasks.length ? new Date(1000 * Math.min(...tasks.map(({ since }) => since))).toLocaleTimeString() : "",
  ]));
  rows("models", overview.models.map(({ model, circuit, quota }) =>
    [model, make("span", { class: circuit === "open" ? "bad" : "good", text: circuit }), quota ?? "as Gemini says"]));
}

async function retryAll() {
  try {
    const { retried } = await ask("POST", "/v1/audio/jobs/retry-dead");
    $("action").textContent = `${retried} dead letter${retried === 1 ? "" : "s"} wait again.`;
  } catch (error) {
    $("action").textContent = error.message;
  }
}

// Begin

async function begin() {
  try {
    const session = await ask("GET", "/page/session");
    if (session.needs_key && !session.has_key) {
      show("sign-in");
      return;
    }
    const catalogue = await ask("GET", "/page/catalogue");
    voices = catalogue.voices;
    formats = catalogue.formats;
    fill($("voice"), voiceOptions());
    $("voice").value = catalogue.voice;
    fill($("language"), Object.entries(catalogue.languages).map(([value, text]) => ({ value, text })));
    fill($("model"), catalogue.models.map((model) => ({ value: model, text: model })));
    route();
  } catch (error) {
    complain(error.message);
  }
}

addEventListener("hashchange", route);
$("key-form").addEventListener("submit", signIn);
$("speech-form").addEventListener("submit", speak);
$("text").addEventListener("input", count);
$("sample").addEventListener("click", hearSample);
$("add-speaker").addEventListener("click", () => addSpeaker());
$("retry-all").addEventListener("click", retryAll);
for (const choice of document.querySelectorAll("input[name=mode]")) choice.addEventListener("change", chooseMode);
count();
await begin();
