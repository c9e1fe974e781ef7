/**
 * The page: takes what the stage sends, shows it, and asks for what a button or a key says.
 * @module
 */

import { drawChart, STALE_MS } from "./chart.js";
import { redisWords, showMasters, silence, word } from "./masters.js";

/** After so long without a word, in ms, the stage's process is gone. */
const SILENCE_MS = 3500;
/** Rates are shown over so many moments: they would flicker otherwise. */
const CALM = 4;
/** How long a reset waits for its second press, in ms. */
const ARMED_MS = 3000;
/** Samples that are kept: more than the chart shows. */
const KEPT = 600;
const KINDS = {
  burst: "check",
  stopPostgres: "break",
  startPostgres: "mend",
  kill: "break",
  cut: "break",
  promote: "break",
  killRedis: "break",
  poison: "break",
  replay: "mend",
  verify: "check",
  reset: "plain",
};

const $ = (selector) => document.querySelector(selector);
const number = (value) => Math.round(value).toLocaleString("en");
const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

let samples = [];
let happenings = [];
let actions = [];
let state;
let rates = [0];
let heard = Date.now();
let gone = false;
let dirty = false;

/* What the stage sends. */

const source = new EventSource("events");
source.onmessage = ({ data }) => {
  heard = Date.now();
  if (gone) setGone(null);
  take(JSON.parse(data));
};

function take(message) {
  switch (message.kind) {
    case "hello":
      ({ samples, happenings, actions } = message);
      rates = ratesUpTo(message.maxRate);
      $("#slider").max = rates.length - 1;
      $("#happened ol").replaceChildren();
      happenings.forEach(showHappening);
      makeButtons();
      showState(message.state);
      break;
    case "sample":
      samples.push(message.sample);
      if (samples.length > KEPT) samples.shift();
      showFigures();
      break;
    case "beat":
      showFigures();
      break;
    case "happened":
      happenings.push(message.happening);
      showHappening(message.happening);
      break;
    case "state":
      showState(message.state);
      break;
    case "bye":
      source.close();
      setGone("The stage was stopped");
      break;
  }
  redraw();
}

setInterval(() => {
  // When it was heard is shown as a time of the day.
  if (!gone && Date.now() - heard > SILENCE_MS) setGone("The stage's process is gone");
  redraw();
}, 500);

/** @param why null where it is there again */
function setGone(why) {
  gone = why !== null;
  document.body.classList.toggle("gone", gone);
  $("#banner").hidden = !gone;
  if (gone) {
    $("#banner").textContent = `${why}, last heard of at ${clock(heard)}. ` +
      "What is shown was true then. Start it again: deno task stage";
  }
  showButtons();
}

/* Figures. */

function tile(name, value, unit, small, mood = "") {
  const element = $(`#tile-${name}`);
  element.className = mood;
  element.querySelector(".value").textContent = value;
  element.querySelector(".unit").textContent = unit;
  element.querySelector(".small").textContent = small;
}

function showFigures() {
  const now = samples.at(-1);
  if (!now) return showNothing();
  // An old one is of the past: the stage cannot read the figures, or waits for a server. By when it was heard last, since
  // where it is gone, the banner says from when all of this is.
  if (state.reachable.redis && heard - now.at <= STALE_MS) showFlow(now);
  else showPast(now);
}

/** What flows now. */
function showFlow(now) {
  const then = samples.at(-1 - CALM) ?? samples[0];
  const seconds = (now.at - then.at) / 1000;
  const rate = (key) => seconds > 0 ? Math.max(0, now[key] - then[key]) / seconds : 0;
  tile("written", number(rate("written")), "/s", `${number(now.written)} in all`);
  // Where nothing is applied now, a mean over the last moments would say otherwise.
  const applied = now.freshnessP99Ms === null ? now.appliedPerSecond : rate("applied");
  tile("applied", number(applied), "/s", `${number(now.applied)} in all`);
  const oldest = now.lag === 0
    ? "nothing waits"
    : `the oldest waits ${now.lagSeconds.toFixed(1)} s`;
  tile("lag", number(now.lag), "", oldest);
  const waits = !state.reachable.target
    ? "as the target said last"
    : now.parked === 0
    ? "the dead letter is empty"
    : "in the dead letter";
  tile("parked", number(now.parked), "", waits, now.parked > 0 ? "bad" : "");
  const { freshnessP50Ms: p50, freshnessP99Ms: p99 } = now;
  if (p99 === null) return tile("freshness", "–", "", "nothing is applied now");
  const long = p99 >= 10_000;
  const value = long ? (p99 / 1000).toFixed(1) : number(p99);
  const half = p50 >= 10_000 ? `${(p50 / 1000).toFixed(1)} s` : `${number(p50)} ms`;
  tile("freshness", value, long ? "s" : "ms", `half within ${half}`);
}

/** Nothing was read since the start, or a reset. */
function showNothing() {
  for (const name of ["written", "applied", "lag", "freshness", "parked"]) tile(name, "–", "", "");
}

/** What flows, and what is parked, is not known while the servers do not tell. */
function showPast({ at, written, applied, lag, parked }) {
  for (const [name, sum] of Object.entries({ written, applied, lag, parked })) {
    tile(name, "–", "", `${number(sum)} at ${clock(at)}`);
  }
  tile("freshness", "–", "", "not known now");
}

function showLost({ running, progress, lost, documents, behind, at }) {
  const value = lost === null ? "?" : number(lost);
  const small = running
    ? `verifying, ${Math.round(progress * 100)} %`
    : at === null
    ? "not verified yet: press V"
    : `${clock(at)}, of ${number(documents)}${behind > 0 ? `, ${number(behind)} behind` : ""}`;
  tile("lost", value, "", small, lost === null ? "" : lost === 0 ? "good" : "bad");
}

/* What happened. */

function showHappening({ at, text, tone }) {
  const item = document.createElement("li");
  const time = document.createElement("time");
  const words = document.createElement("span");
  item.className = tone;
  time.textContent = clock(at);
  words.textContent = text;
  item.append(time, words);
  $("#happened ol").prepend(item);
}

/* The pipeline. */

function node(name, text, mood = "") {
  const element = $(`#node-${name}`);
  element.className = mood;
  element.querySelector("span").replaceChildren(...text);
}

function showState(next) {
  state = next;
  const { rate, reachable, sinks, own, postgresRuns, cutUntil } = state;
  const { allowed, masters } = state;
  const canWrite = allowed.includes("rate");
  const fastest = state.asFastAsPossible;
  const asked = fastest === null
    ? `${number(rate)} /s asked for`
    : `${number(fastest)} of ${number(rate)} /s`;
  node("writers", [canWrite ? asked : "others'"], canWrite && rate === 0 ? "idle" : "");
  $("#fastest").hidden = fastest === null;
  $("#keys").hidden = fastest !== null;
  if (fastest !== null) $("#fastest").textContent = `as fast as possible: ${number(fastest)} /s`;
  node(
    "redis",
    !reachable.redis ? [word("s", silence(state.masters))] : [
      ...redisWords(state),
      ...state.cache ? [` · ${cacheWords(state.cache)}`] : [],
    ],
    reachable.redis ? "" : "down",
  );
  const words = sinks.flatMap(({ name, state, partitions }, index) => {
    const kind = state === "owner" ? "em" : state === "ended" ? "s" : "span";
    const many = masters !== null && state === "owner" ? ` ${partitions}` : "";
    return [index > 0 ? " · " : "", word(kind, `${name} ${SINK_WORDS[state]}${many}`)];
  });
  const works = !own || sinks.some((sink) => sink.state === "owner");
  node("sinks", own ? words : ["others'"], `${works ? "" : "down"} ${cutUntil ? "cut" : ""}`);
  const up = postgresRuns && reachable.target;
  $("#node-target b").textContent = state.targets.length > 0 ? "Targets" : state.target;
  const target = !postgresRuns
    ? word("s", "stopped")
    : reachable.target
    ? own ? "runs" : "given"
    : word("s", "no answer");
  const several = state.targets.flatMap(({ name, state, lag }, index) => [
    index > 0 ? " · " : "",
    word(state === "active" ? "span" : "s", name),
    ` ${state === "active" ? behindWords(lag) : TARGET_WORDS[state] ?? "has not begun"}`,
  ]);
  node("target", several.length > 0 ? several : [target], up ? "" : "down");
  showMasters($("#masters"), state);
  showFigures();
  $("#rate").hidden = !canWrite;
  const slider = $("#slider");
  if (document.activeElement !== slider) slider.value = nearest(rate);
  $("#rate output").textContent = `${number(rate)} /s`;
  showLost(state.verify);
  showButtons();
}

function cacheWords({ state, pending, hits, gone }) {
  return `cache ${state ?? "off"}: hits ${hits}, ${number(pending)} pending, ` +
    `${number(gone)} keys evicted or expired`;
}

const behindWords = (lag) => lag === null ? "not known" : `${number(lag)} behind`;

const TARGET_WORDS = {
  paused: "is paused",
  filling: "is being added",
  detached: "has lost its place",
  removed: "was removed",
};

const SINK_WORDS = {
  starting: "starts",
  owner: "owns",
  standby: "stands by",
  retrying: "tries again",
  ended: "is dead",
};

/* Buttons and keys. */

function makeButtons() {
  $("#buttons").replaceChildren(
    ...actions.filter(({ name }) => name !== "rate").map(({ name, label, key, hint }) => {
      const button = document.createElement("button");
      button.dataset.action = name;
      button.title = hint;
      button.append(word("kbd", key.toUpperCase()), word("span", label));
      button.onclick = () => {
        // Else the next space bar would press it again.
        button.blur();
        press(name);
      };
      return button;
    }),
  );
}

let armedUntil = 0;

function showButtons() {
  for (const button of document.querySelectorAll("#buttons button")) {
    const { action } = button.dataset;
    const isOther = action === "startPostgres" && state.postgresRuns ||
      action === "stopPostgres" && !state.postgresRuns;
    button.hidden = isOther || !state.allowed.includes(action);
    const busy = state.busy.includes(action);
    const armed = action === "reset" && performance.now() < armedUntil;
    button.disabled = gone || busy;
    button.className = `${KINDS[action]} ${busy ? "busy" : ""} ${armed ? "armed" : ""}`;
    if (action === "reset") {
      button.querySelector("span").textContent = armed ? "Press again" : "Reset";
    }
  }
  $("#slider").disabled = gone;
}

function press(name) {
  if (gone || !state.allowed.includes(name) || state.busy.includes(name)) return;
  if (name === "reset" && performance.now() >= armedUntil) {
    armedUntil = performance.now() + ARMED_MS;
    setTimeout(showButtons, ARMED_MS + 10);
    return showButtons();
  }
  armedUntil = 0;
  ask(name);
}

function ask(name, value) {
  // Where nobody listens, the banner says so.
  fetch(`act/${name}`, { method: "POST", body: JSON.stringify({ value }) }).catch(() => {});
}

/* The rate: steps of about a third, over four decades. */

function ratesUpTo(most) {
  const steps = [0];
  for (let decade = 10; decade < most; decade *= 10) {
    steps.push(...[1, 2, 3, 5, 7].map((step) => step * decade));
  }
  return [...steps, most];
}

function nearest(rate) {
  return rates.findLastIndex((step) => step <= rate);
}

let wanted = null;
let asking = false;
let lastRate = 1000;

/** While the slider is dragged, only its newest place counts. */
function setRate(rate) {
  if (gone || !state.allowed.includes("rate")) return;
  if (rate > 0) lastRate = rate;
  wanted = rate;
  $("#rate output").textContent = `${number(rate)} /s`;
  if (asking) return;
  asking = true;
  setTimeout(() => {
    asking = false;
    ask("rate", wanted);
  }, 120);
}

$("#slider").oninput = ({ target }) => setRate(rates[Number(target.value)]);
$("#slider").onchange = ({ target }) => target.blur();

function step(by) {
  const slider = $("#slider");
  slider.value = Number(slider.value) + by;
  setRate(rates[Number(slider.value)]);
}

const TOOLS = {
  t: () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"),
  f: () =>
    document.fullscreenElement
      ? document.exitFullscreen()
      : document.documentElement.requestFullscreen(),
  0: () => setRate(0),
  " ": () => setRate(state.rate > 0 ? 0 : lastRate),
  ArrowLeft: () => step(-1),
  ArrowRight: () => step(1),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !state) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.target === $("#slider") && key.startsWith("Arrow")) return;
  const action = actions.find((one) =>
    one.key === key && !document.querySelector(`[data-action=${one.name}]`)?.hidden
  );
  if (!action && !(key in TOOLS)) return;
  event.preventDefault();
  if (event.repeat && action) return;
  if (action) press(action.name);
  else TOOLS[key]();
});

$("#theme").onclick = () => TOOLS.t();
$("#full").onclick = () => TOOLS.f();

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

const asked = new URLSearchParams(location.search).get("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
setTheme(asked ?? (system.matches ? "dark" : "light"));
if (!asked) system.onchange = ({ matches }) => setTheme(matches ? "dark" : "light");

/* The chart: at most once a frame. */

function redraw() {
  if (dirty) return;
  dirty = true;
  requestAnimationFrame(() => {
    dirty = false;
    const now = gone ? heard : Date.now();
    drawChart(samples, happenings.filter(({ mark }) => mark !== null), now);
  });
}
addEventListener("resize", redraw);
