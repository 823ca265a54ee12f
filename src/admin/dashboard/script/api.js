// Talking to Arriero: what it shows, each second, and what it is told to do.

const BASE = "/api/orchestrator";
const CLUSTER = "/api/multihost";
const TOKEN = "arriero-token";

/** What is known. */
const app = {
  /** The latest overview; `null` before the first. */
  overview: null,
  /** When it came, by this page's own clock. */
  came: 0,
  connected: false,
  /** A token was asked for and not given. */
  declined: false,
  /** Numbers of the last ten minutes. */
  points: [],
};

const POINTS = 600;

/** An answer that was not what was wanted. */
class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const encode = encodeURIComponent;

/** Sends a request to a path below `BASE`, or below `CLUSTER` where it begins so. */
async function send(method, path, body, signal) {
  // Who may change things here is decided by the origin, by this field and by the token.
  const headers = { "X-Arriero-Request": "dashboard" };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.Authorization = `Bearer ${token}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const content = body === undefined ? undefined : JSON.stringify(body);
  const address = path.startsWith(CLUSTER) ? path : BASE + path;
  const answer = await fetch(address, { method, headers, body: content, signal, cache: "no-store" });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Refused(answer.status, told.detail ?? told.error ?? `${answer.status} ${answer.statusText}`);
}

/** Sends a request; where a token is needed, asks for it and tries once more. */
async function call(method, path, body) {
  for (let again = false; ; again = true) {
    try {
      return await (await send(method, path, body)).json();
    } catch (error) {
      if (error.status !== 401 || !(await askForToken(again))) throw error;
    }
  }
}

const show = (path) => call("GET", path);

/** Reads Server-Sent Events; `told(event, data)` for each, until the stream ends. */
async function readEvents(answer, told) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let parts = [];
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    parts.push(value);
    if (!value.includes("\n\n")) continue;
    const events = parts.join("").split("\n\n");
    parts = [events.pop()];
    for (const event of events) {
      const fields = { event: "message", data: "" };
      for (const line of event.split("\n")) {
        const colon = line.indexOf(": ");
        if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 2);
      }
      if (fields.data) told(fields.event, fields.data);
    }
  }
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/** Silence after which a connection counts as lost. */
const SILENCE = 6000;

/** Follows the overview for as long as the page is open. `changed()` is called when something came or the connection was lost. */
async function follow(changed) {
  for (let pause = 500; ; pause = Math.min(pause * 2, 8000)) {
    const abort = new AbortController();
    let silence;
    const heard = () => {
      clearTimeout(silence);
      silence = setTimeout(() => abort.abort(), SILENCE);
    };
    heard();
    try {
      const answer = await send("GET", "/events", undefined, abort.signal);
      app.points = await pastPoints();
      await readEvents(answer, (event, data) => {
        heard();
        if (event !== "overview") return;
        pause = 500;
        took(JSON.parse(data));
        changed();
      });
    } catch (error) {
      // Who did not want to give a token is not asked again and again.
      if (error.status === 401 && !app.declined) {
        app.declined = !(await askForToken(false));
        if (!app.declined) pause = 100;
      }
      app.error = error instanceof Refused ? error.message : null;
    }
    clearTimeout(silence);
    abort.abort();
    app.connected = false;
    changed();
    await sleep(pause);
  }
}

function took(overview) {
  app.overview = overview;
  app.came = Date.now();
  app.connected = true;
  app.error = null;
  app.points.push(pointOf(overview, overview.requests));
  if (app.points.length > POINTS) app.points.splice(0, app.points.length - POINTS);
}

function pointOf(all, numbers) {
  return {
    at: new Date(all.at).getTime(),
    requests: numbers.perSecond,
    errors: numbers.errorsPerSecond,
    tokens: numbers.tokensPerSecond,
    inFlight: numbers.inFlight,
    queued: numbers.queued,
    ttfb: all.latency.ttfbMs,
    duration: all.latency.durationMs,
  };
}

async function pastPoints() {
  const { points } = await (await send("GET", "/overview/trend")).json();
  return points.map((point) => pointOf(point, point));
}

/** Calls `look` now and every so often until `stop()`. */
function repeat(milliseconds, look) {
  let stopped = false;
  (async () => {
    while (!stopped) {
      if (!document.hidden && (await look()) === false) return;
      await sleep(milliseconds);
    }
  })();
  return () => (stopped = true);
}

/** How long a view waits for an answer, and how long after a failure it asks again. */
const PATIENCE = 10_000;
const RETRY = 2000;

/**
 * What a view fetches for itself while it is shown. `look()`, at each overview, asks for `paths` if it is `every` milliseconds since
 * the last time and nothing is on its way; `told(...answers)` gets what they say, and may say for how long that will do. What went
 * wrong stands in `trouble` until it is right again. `again()` asks without waiting for the time, `leave()` gives up what is on its way.
 */
function fetched(every, paths, told) {
  const trouble = el("p", { class: "banner bad", role: "alert", hidden: true });
  const left = new AbortController();
  let [asks, due] = [false, 0];
  const ask = async (path, signal) => (await send("GET", path, undefined, signal)).json();
  const look = async () => {
    // Overviews come each second, but not to the millisecond.
    if (asks || !app.connected || left.signal.aborted || performance.now() < due - 300) return;
    [asks, due] = [true, performance.now() + every];
    try {
      const signal = AbortSignal.any([left.signal, AbortSignal.timeout(PATIENCE)]);
      const enough = told(...(await Promise.all(paths.map((path) => ask(path, signal)))));
      if (enough) due = Math.min(due, performance.now() + enough);
      setHidden(trouble, true);
    } catch (error) {
      setText(trouble, `This cannot be shown as it is now: ${error.message}. Trying again…`);
      setHidden(trouble, false);
      due = Math.min(due, performance.now() + RETRY);
    }
    asks = false;
  };
  return { trouble, look, again: () => ((due = 0), look()), leave: () => left.abort() };
}
