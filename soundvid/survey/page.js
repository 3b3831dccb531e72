"use strict";
// The questionnaire. A rater's answers are kept in the browser's storage, where it has one, under the survey's id.

const survey = JSON.parse(document.getElementById("survey").textContent);
const at = (id) => document.getElementById(id);
const video = at("video");
const PREFIX = `soundvid-survey ${survey.id} `;
const COLUMNS = ["rater", "item", "video", "rating", "order", "seconds"];
const SHORT = 3; // seconds: shorter videos are played again and again,
const PAUSE = 600; // with so many milliseconds between

const storage = (() => {
  try {
    const found = window.localStorage;
    found.setItem(PREFIX, "");
    found.removeItem(PREFIX);
    return found;
  } catch {
    return null; // switched off, or full
  }
})();

function load(name) {
  try {
    return JSON.parse(storage?.getItem(PREFIX + name) ?? "null");
  } catch {
    return null;
  }
}

function save(name, value) {
  try {
    storage?.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    at("forgets").hidden = false;
  }
}

// -- the order: a function of the survey and the rater's name

function randomOf(text) {
  let hash = 2166136261; // FNV-1a
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 16777619);
  return () => { // mulberry32
    hash = (hash + 0x6d2b79f5) | 0;
    let t = Math.imul(hash ^ (hash >>> 15), 1 | hash);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function orderOf(rater) {
  const random = randomOf(`${survey.id} ${rater}`);
  const order = [...survey.videos];
  for (let i = order.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [order[i], order[j]] = [order[j], order[i]];
  }
  return order;
}

// -- what a rater has done

let rater = ""; // nobody yet
let order = [];
let state = { place: 0, answers: {} }; // answers: by video {rating, seconds}
let downloaded = false;
let seen = false; // the video that is shown was played to its end
let failed = false; // it cannot be played
let shownAt = null; // when its time on the screen began to count; null: the page is hidden
const spent = {}; // seconds that each video was on the screen

function begin(name) {
  rater = name;
  order = orderOf(rater);
  const old = load(`rater ${rater}`);
  state = { place: 0, answers: {} };
  if (old !== null && typeof old === "object" && typeof old.answers === "object") {
    for (const { id } of order) {
      const answer = old.answers?.[id];
      if ([1, 2, 3, 4, 5].includes(answer?.rating)) state.answers[id] = answer;
    }
    if (Number.isInteger(old.place)) state.place = Math.min(Math.max(old.place, 0), order.length);
  }
  for (const { id } of order) spent[id] = state.answers[id]?.seconds ?? 0;
  save("now", rater);
  show(state.place);
}

function keep() {
  save(`rater ${rater}`, state);
}

function countTime() {
  if (shownAt !== null && state.place < order.length) spent[order[state.place].id] += (performance.now() - shownAt) / 1000;
  shownAt = null;
}

function done() {
  return Object.keys(state.answers).length;
}

// -- the three views

function view(name) {
  for (const id of ["start", "rating", "end"]) at(id).hidden = id !== name;
}

function show(place) {
  countTime();
  state.place = place;
  keep();
  if (place >= order.length) return showEnd();
  view("rating");
  const { id } = order[place];
  const rated = state.answers[id]?.rating;
  at("place").textContent = `Video ${place + 1} of ${order.length}`;
  at("progress").max = order.length;
  at("progress").value = done();
  for (const button of document.querySelectorAll(".rate")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.rating) === rated));
  }
  seen = rated !== undefined;
  failed = false;
  allow();
  at("back").disabled = place === 0;
  video.src = `videos/${id}.mp4`;
  play();
  shownAt = document.hidden ? null : performance.now();
  const coming = order[place + 1];
  if (coming) preloaded.src = `videos/${coming.id}.mp4`;
}

const preloaded = document.createElement("video"); // the next one, so that it is there at once
preloaded.preload = "auto";
preloaded.muted = true;

function allow() {
  for (const button of document.querySelectorAll(".rate")) button.disabled = !seen;
  at("next").disabled = !failed && state.answers[order[state.place]?.id] === undefined;
}

function play() {
  at("problem").hidden = true;
  if (failed) { // perhaps it comes now
    failed = false;
    allow();
    video.load();
  }
  video.currentTime = 0;
  video.play().catch((error) => {
    if (error.name === "NotAllowedError") say("Press “Play again” to see the video.");
  });
}

function say(text) {
  at("problem").textContent = text;
  at("problem").hidden = false;
}

function rate(rating) {
  if (!seen || failed || state.place >= order.length) return;
  const { id } = order[state.place];
  countTime();
  state.answers[id] = { rating, seconds: Math.round(spent[id] * 10) / 10 };
  downloaded = false;
  show(state.place + 1);
}

function showEnd() {
  view("end");
  video.pause();
  const missing = order.length - done();
  at("summary").textContent = missing
    ? `You have rated ${done()} of ${order.length} videos; ${missing === 1 ? "one is" : `${missing} are`} not rated yet.`
    : `You have rated all ${order.length} videos.`;
  at("missing").hidden = !missing;
  at("file").textContent = fileName();
}

function showStart() {
  countTime();
  rater = "";
  order = [];
  video.pause();
  view("start");
  at("rater").value = "";
  at("rater").focus();
}

// -- the file

function csv() {
  const cell = (value) => (/[",\r\n;]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value));
  const rows = order.map(({ id, item }, i) => [rater, item, id, state.answers[id]?.rating, i + 1, state.answers[id]?.seconds]);
  return [COLUMNS, ...rows.filter((row) => row[3] !== undefined)].map((row) => row.map(cell).join(",") + "\n").join("");
}

function fileName() {
  return `ratings-${rater.normalize("NFC").replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "rater"}.csv`;
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = fileName();
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  downloaded = true;
}

// -- events

video.addEventListener("ended", () => {
  seen = true;
  allow();
  const shown = state.place;
  if (video.duration < SHORT) {
    setTimeout(() => {
      if (video.ended && state.place === shown && !at("rating").hidden) play();
    }, PAUSE);
  }
});
video.addEventListener("error", () => {
  failed = true;
  allow();
  say("This video cannot be played. Press “Play again” to try once more, or “Next”.");
});
video.addEventListener("click", play);
at("again").addEventListener("click", play);
at("back").addEventListener("click", () => show(state.place - 1));
at("next").addEventListener("click", () => show(state.place + 1));
at("review").addEventListener("click", () => show(order.length - 1));
at("missing").addEventListener("click", () => show(order.findIndex(({ id }) => state.answers[id] === undefined)));
at("download").addEventListener("click", download);
at("other").addEventListener("click", () => {
  save("now", null);
  showStart();
});
for (const button of document.querySelectorAll(".rate")) {
  button.addEventListener("click", () => {
    button.blur(); // so that a key does not press it again
    rate(Number(button.dataset.rating));
  });
}
at("start").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = at("rater").value.replace(/[\p{C}\s]+/gu, " ").trim();
  if (name) begin(name);
  else at("rater").value = "";
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || at("rating").hidden) return;
  if (/^[1-5]$/.test(event.key)) rate(Number(event.key));
  else if (event.key === "r" || event.key === "R") play();
  else if (event.key === "ArrowLeft" && !at("back").disabled) show(state.place - 1);
  else if (event.key === "ArrowRight" && !at("next").disabled) show(state.place + 1);
  else return;
  event.preventDefault();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) countTime();
  else if (!at("rating").hidden) shownAt = performance.now();
});
window.addEventListener("beforeunload", (event) => {
  if (storage === null && done() && !downloaded) event.preventDefault();
});

for (const each of document.querySelectorAll(".low")) each.textContent = survey.low;
for (const each of document.querySelectorAll(".high")) each.textContent = survey.high;
at("count").textContent = String(survey.videos.length);
at("sound").hidden = !survey.sound;
at("forgets").hidden = storage !== null;
const now = load("now");
if (typeof now === "string" && now) begin(now);
else showStart();
