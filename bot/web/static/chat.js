// The chat page. Texts come from the server in #boot; whatever a person or the bot wrote is only ever
// put into the page as text nodes.
"use strict";

const boot = JSON.parse(document.getElementById("boot").textContent);
const element = (id) => document.getElementById(id);
const log = element("log");
const scroll = element("scroll");
const input = element("input");
const SILENCE = 45_000; // after this long without news the talk is asked for again
const HIDDEN = 60_000; // a tab hidden for this long gives its connection back
const CLEAR = "/clear";
const EMOJI = /^\p{Extended_Pictographic}\ufe0f?\s*/u; // thumbs are drawn: not every system has the signs

let language = boot.language;
let lastId = 0; // the newest reply seen; the stream goes on after it
const rounds = new Map(); // by the id this page (or an earlier one) gave the question
const settled = new Set(); // rounds (the server's numbers) that are in the page already

// -- texts --------------------------------------------------------------------------------------

function text(key, fields = {}) {
  const template = boot.texts[language][key] ?? "";
  const words = key.startsWith("feedback_") ? template.replace(EMOJI, "") : template;
  return words.replace(/\{(\w+)\}/g, (whole, name) => fields[name] ?? whole);
}

function make(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "text") setText(node, "text", value);
    else if (name === "label") setText(node, "label", value);
    else if (name === "class") node.className = value;
    else if (name === "click") node.addEventListener("click", value);
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// A node remembers the key of its text, so that a change of language finds it.
function setText(node, place, key) {
  node.dataset[place] = key;
  if (place === "text") node.textContent = text(key);
  else if (place === "label") node.setAttribute("aria-label", text(key));
  else node.setAttribute(place, text(key));
}

function showLanguage(next) {
  language = next;
  const other = next === "zh" ? "en" : "zh";
  document.documentElement.lang = next === "zh" ? "zh-Hans" : "en";
  document.title = text("title");
  for (const place of ["text", "label", "title", "placeholder"]) {
    for (const node of document.querySelectorAll(`[data-${place}]`)) setText(node, place, node.dataset[place]);
  }
  element("language").textContent = boot.texts[other].this_language;
  element("language").lang = other === "zh" ? "zh-Hans" : "en";
}

function chooseLanguage() {
  showLanguage(language === "zh" ? "en" : "zh");
  document.cookie = `glmbot_language=${language}; Path=/; Max-Age=31536000; SameSite=Lax`;
  const address = new URL(location.href);
  if (address.searchParams.has("lang")) {
    address.searchParams.set("lang", language);
    history.replaceState(null, "", address);
  }
}

// -- talking to the server ----------------------------------------------------------------------

class Refusal extends Error {
  constructor(status, retryAfter) {
    super(`HTTP ${status}`);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

async function call(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  const response = await fetch(`${boot.base}/${path}`, { ...options, credentials: "same-origin" });
  if (!response.ok) throw new Refusal(response.status, Number(response.headers.get("Retry-After")) || 5);
  return response.json();
}

// A visitor whose cookie is gone or no longer valid gets a new one with the (empty) talk.
async function post(path, body) {
  try {
    return await call(path, body);
  } catch (error) {
    if (error.status !== 401) throw error;
    await call("talk");
    try {
      const answer = await call(path, body);
      reconnect();
      return answer;
    } catch (again) {
      if (again.status === 401) element("cookies").hidden = false;
      throw again;
    }
  }
}

// -- the stream of replies ----------------------------------------------------------------------

let stream = null;
let retryTimer = 0;
let retryDelay = 1000;
let hiddenTimer = 0;

function connect() {
  clearTimeout(retryTimer);
  stream = new EventSource(`${boot.base}/events?after=${lastId}`);
  stream.addEventListener("open", () => {
    retryDelay = 1000;
    showState("online");
  });
  stream.addEventListener("error", () => {
    showState("offline");
    if (stream.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    retryTimer = setTimeout(connect, retryDelay * (0.75 + Math.random() / 2));
    retryDelay = Math.min(retryDelay * 2, 30_000);
  });
  const on = (name, handle) =>
    stream.addEventListener(name, (event) => handle(JSON.parse(event.data), Number(event.lastEventId) || 0));
  on("question", (asked) => {
    if (!rounds.has(asked.id)) followed(() => addRound(asked.id, asked.text).wait());
  });
  on("delta", (delta) => followed(() => rounds.get(delta.to)?.grow(delta)));
  on("reply", (reply, id) => {
    if (id <= lastId) return;
    lastId = id;
    if (!settled.has(reply.round)) followed(() => showReply(reply));
  });
  on("reset", loadTalk);
}

function disconnect() {
  clearTimeout(retryTimer);
  stream?.close();
  stream = null;
}

function reconnect() {
  disconnect();
  connect();
}

function onVisibility() {
  clearTimeout(hiddenTimer);
  if (document.hidden) hiddenTimer = setTimeout(disconnect, HIDDEN);
  else if (!stream) connect();
}

function showState(state) {
  element("state").dataset.state = state;
  setText(element("state-text"), "text", state);
}

// -- rounds: a question and what was answered ---------------------------------------------------

class Round {
  constructor(id, question) {
    this.id = id;
    this.question = question;
    this.node = make("li", { class: "round" });
    this.live = null; // the bubble of an answer that is still growing
    this.text = "";
    this.dots = null;
    this.silence = 0;
    if (question) {
      this.asked = make("div", { class: "bubble asked" }, make("span", { class: "hidden", text: "you" }));
      this.asked.append(document.createTextNode(question));
      this.node.append(this.asked);
    }
    log.append(this.node);
  }

  get clears() {
    return this.question.trim() === CLEAR;
  }

  wait() {
    this.asked?.classList.remove("unsent");
    clearTimeout(this.silence);
    this.silence = setTimeout(loadTalk, SILENCE);
    if (this.dots || this.live) return;
    this.dots = make("div", { class: "bubble answered typing" }, make("span", { class: "hidden", text: "typing" }));
    this.dots.append(make("i"), make("i"), make("i"));
    this.node.append(this.dots);
  }

  rest() {
    clearTimeout(this.silence);
    this.dots?.remove();
    this.dots = null;
  }

  grow(delta) {
    this.text = delta.more ? this.text + delta.text : delta.text;
    this.rest();
    this.silence = setTimeout(loadTalk, SILENCE);
    this.live ??= this.bubble("growing");
    this.live.body.replaceChildren(make("p", {}, ...linked(this.text)));
  }

  bubble(state = "") {
    const node = make("div", { class: `bubble answered ${state}` }, make("span", { class: "hidden", text: "bot" }));
    node.body = make("div", { class: "body" });
    node.append(node.body);
    this.node.append(node);
    return node;
  }

  answer(reply) {
    this.rest();
    this.asked?.classList.remove("unsent"); // its answer may be here before the word that it arrived
    const bubble = this.live ?? this.bubble();
    this.live = null;
    this.text = "";
    bubble.classList.remove("growing");
    bubble.body.replaceChildren(...(reply.markdown ? formatted(reply.text) : [make("p", {}, ...linked(reply.text))]));
    if (!reply.final) {
      if (!reply.settled) this.wait();
      return;
    }
    if (reply.sources.length) bubble.append(sourcesOf(reply.sources));
    if (reply.choices.length) this.node.append(choicesOf(reply.choices));
    if (reply.feedback) this.votes(reply.round, reply.vote);
  }

  votes(number, vote) {
    const said = make("span", { class: "said", role: "status" });
    const buttons = ["feedback_up", "feedback_down"].map((key, index) => {
      const thumb = element("thumb").content.cloneNode(true);
      const state = { type: "button", class: key, "aria-pressed": String(vote === (index ? -1 : 1)) };
      return make("button", state, thumb, make("span", { text: key }));
    });
    buttons.forEach((button, index) =>
      button.addEventListener("click", async () => {
        const before = buttons.map((other) => other.getAttribute("aria-pressed"));
        buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
        try {
          await post("feedback", { round: number, vote: index ? -1 : 1 });
          setText(said, "text", index ? "feedback_down_reply" : "feedback_thanks");
        } catch (error) {
          buttons.forEach((other, at) => other.setAttribute("aria-pressed", before[at]));
          delete said.dataset.text;
          said.textContent = refusalText(error);
        }
      }),
    );
    this.said = said;
    this.node.append(make("div", { class: "votes" }, ...buttons, said));
    byNumber.set(number, this);
  }

  fail(error, again) {
    this.rest();
    this.asked.classList.add("unsent");
    const retry = make("button", { type: "button", text: "retry" });
    const line = make("div", { class: "failed", role: "alert" }, document.createTextNode(refusalText(error)), retry);
    retry.addEventListener("click", () => {
      line.remove();
      input.focus();
      again();
    });
    this.node.append(line);
  }

  remove() {
    clearTimeout(this.silence);
    this.node.remove();
    rounds.delete(this.id);
  }
}

const byNumber = new Map(); // rated rounds by the server's number

function addRound(id, question) {
  element("empty").hidden = true;
  const round = new Round(id, question);
  rounds.set(id, round);
  return round;
}

function showReply(reply) {
  const rated = /^vote-(\d+)$/.exec(reply.to);
  if (rated) {
    const round = byNumber.get(Number(rated[1]));
    if (round) {
      delete round.said.dataset.text;
      round.said.textContent = reply.text;
    }
    return;
  }
  const round = rounds.get(reply.to) ?? addRound(reply.to || `reply-${reply.round}`, "");
  dropChoices();
  if (round.clears && reply.final) {
    for (const old of [...rounds.values()]) old.remove();
    log.replaceChildren(make("li", { class: "note" }, document.createTextNode(reply.text)));
  } else {
    round.answer(reply);
  }
  announce(reply.text);
}

// Only the newest answer's choices can be taken.
function dropChoices() {
  for (const old of log.querySelectorAll(".choices")) old.remove();
}

function sourcesOf(sources) {
  const list = make("ul", {}, ...sources.map((source) => make("li", {}, document.createTextNode(source))));
  return make("div", { class: "sources" }, make("span", { text: "sources" }), list);
}

function choicesOf(choices) {
  const buttons = choices.map((choice) => {
    const button = make("button", { type: "button", click: () => ask(choice) });
    button.textContent = choice;
    return button;
  });
  return make("div", { class: "choices" }, ...buttons);
}

function refusalText(error) {
  if (error.status === 429) return text("rate_limited", { seconds: error.retryAfter });
  if (error.status === 503) return text("busy", { seconds: error.retryAfter });
  if (error.status === 413) return text("too_long", { limit: boot.maxText });
  return text("failed");
}

function announce(words) {
  element("announcer").textContent = words;
}

// -- asking -------------------------------------------------------------------------------------

function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

function ask(question) {
  dropChoices();
  const round = addRound(newId(), question);
  if (round.clears) round.node.hidden = true;
  send(round);
  toEnd();
}

// A retry carries the same id: the server takes a question once, however often it arrives.
async function send(round) {
  round.asked.classList.add("unsent");
  try {
    await post("messages", { id: round.id, text: round.question, language });
    round.asked.classList.remove("unsent");
    if (rounds.get(round.id) === round && !round.node.querySelector(".answered")) followed(() => round.wait());
  } catch (error) {
    round.node.hidden = false;
    followed(() => round.fail(error, () => send(round)));
  }
}

function submit() {
  const question = input.value.trim();
  if (!question || checkLength()) return;
  input.value = "";
  resize();
  ask(question);
}

function checkLength() {
  const tooLong = [...input.value].length > boot.maxText;
  element("problem").textContent = tooLong ? text("too_long", { limit: boot.maxText }) : "";
  input.setAttribute("aria-invalid", String(tooLong));
  element("send").disabled = tooLong || !input.value.trim();
  return tooLong;
}

function resize() {
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight, 160)}px`;
  checkLength();
}

// -- the talk so far ----------------------------------------------------------------------------

async function loadTalk() {
  let talk;
  try {
    talk = await call("talk");
  } catch {
    for (const round of rounds.values()) if (round.dots) round.wait(); // asks again later
    return;
  }
  followed(() => showTalk(talk));
}

function showTalk(talk) {
  const unsent = [...rounds.values()].filter((round) => round.node.querySelector(".failed"));
  const growing = new Map([...rounds].filter(([, round]) => round.live));
  for (const round of [...rounds.values()]) if (!unsent.includes(round)) round.remove();
  log.replaceChildren();
  byNumber.clear();
  settled.clear();
  lastId = Math.max(lastId, talk.last);
  for (const item of talk.rounds) {
    settled.add(item.round);
    if (item.question.trim() === CLEAR) continue;
    dropChoices();
    const round = addRound(item.id || `round-${item.round}`, item.question);
    round.answer({ ...item, to: item.id, text: item.answer, final: true, settled: true });
  }
  for (const item of talk.waiting) {
    const round = addRound(item.id, item.text);
    for (const reply of item.said) round.answer({ ...reply, final: false });
    const old = growing.get(item.id);
    if (old) round.grow({ text: old.text });
    else round.wait();
  }
  for (const round of unsent) {
    rounds.set(round.id, round);
    log.append(round.node);
  }
  element("empty").hidden = rounds.size > 0;
}

// -- text into nodes ----------------------------------------------------------------------------

const LINK = /https?:\/\/[^\s<>"'，。；！？、）》」』]+[^\s<>"'，。；！？、）》」』.,;:!?)\]}]/g;

function linked(words) {
  const nodes = [];
  let from = 0;
  for (const found of words.matchAll(LINK)) {
    nodes.push(document.createTextNode(words.slice(from, found.index)), link(found[0], found[0]));
    from = found.index + found[0].length;
  }
  nodes.push(document.createTextNode(words.slice(from)));
  return nodes;
}

function link(address, words) {
  const node = make("a", { href: address, target: "_blank", rel: "noopener noreferrer nofollow" });
  node.textContent = words;
  return node;
}

// The part of Markdown that answers use: code, lists, emphasis and links.
function formatted(words) {
  const nodes = [];
  const pieces = words.split(/^ {0,3}```[^\n]*\n([\s\S]*?)(?:^ {0,3}```[ \t]*$|(?![\s\S]))/m);
  pieces.forEach((piece, index) => {
    if (index % 2) {
      const code = make("code");
      code.textContent = piece.replace(/\n$/, "");
      nodes.push(make("pre", { tabindex: "0" }, code));
    } else {
      for (const block of piece.split(/\n\s*\n/)) if (block.trim()) nodes.push(...blocksOf(block));
    }
  });
  return nodes;
}

function blocksOf(block) {
  const nodes = [];
  let list = null;
  let lines = [];
  const flush = () => {
    if (lines.length) nodes.push(make("p", {}, ...inline(lines.join("\n"))));
    lines = [];
  };
  for (const line of block.replace(/^\n+|\n+$/g, "").split("\n")) {
    const item = /^\s*(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/.exec(line);
    if (!item) {
      list = null;
      const heading = /^#{1,6}\s+(.*)$/.exec(line);
      if (heading) {
        flush();
        nodes.push(make("p", {}, make("strong", {}, ...inline(heading[1]))));
      } else lines.push(line);
      continue;
    }
    flush();
    const tag = item[1] ? "ul" : "ol";
    if (list?.localName !== tag) {
      list = make(tag, tag === "ol" ? { start: item[2] } : {});
      nodes.push(list);
    }
    list.append(make("li", {}, ...inline(item[3])));
  }
  flush();
  return nodes;
}

const INLINE = /`([^`\n]+)`|\*\*(\S(?:[^*]*[^*\s])?)\*\*|\[([^\]\n]+)\]\((https?:\/\/[^\s)]+)\)/g;

function inline(words) {
  const nodes = [];
  let from = 0;
  for (const found of words.matchAll(INLINE)) {
    nodes.push(...linked(words.slice(from, found.index)));
    const [whole, code, strong, label, address] = found;
    if (address) nodes.push(link(address, label));
    else {
      const node = make(code ? "code" : "strong");
      node.textContent = code ?? strong;
      nodes.push(node);
    }
    from = found.index + whole.length;
  }
  nodes.push(...linked(words.slice(from)));
  return nodes;
}

// -- scrolling ----------------------------------------------------------------------------------

const atEnd = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 80;

function toEnd() {
  scroll.scrollTop = scroll.scrollHeight;
}

// Changes the log; a reader who is at its end stays there, one who scrolled up is left alone.
function followed(change) {
  const follows = atEnd();
  change();
  if (follows) toEnd();
  else element("latest").hidden = false;
}

// -- start --------------------------------------------------------------------------------------

element("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
  input.focus();
});
input.addEventListener("input", resize);
input.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault(); // Enter that ends the composing of a Chinese word was let through above
  submit();
});
element("language").addEventListener("click", chooseLanguage);
element("clear").addEventListener("click", () => {
  if (rounds.size && confirm(text("clear_confirm"))) ask(CLEAR);
  input.focus();
});
element("latest").addEventListener("click", toEnd);
scroll.addEventListener("scroll", () => {
  if (atEnd()) element("latest").hidden = true;
});
document.addEventListener("visibilitychange", onVisibility);
window.addEventListener("online", reconnect);
window.addEventListener("offline", () => showState("offline"));

(async () => {
  showLanguage(language);
  await loadTalk();
  connect();
  if (matchMedia("(pointer: fine)").matches) input.focus({ preventScroll: true });
  toEnd();
})();
