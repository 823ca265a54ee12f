// The frame: which view is shown, the figures above it, theme and keyboard.

const VIEWS = [
  fleetView,
  modelsView,
  trafficView,
  inFlightView,
  queueView,
  protectionView,
  decisionsView,
  quotasView,
  cachesView,
  clusterView,
  configView,
];

/** The key of each view. */
const KEYS = [..."1234567890c"];

let current = null;

const links = VIEWS.map((view) => {
  const mark = el("span", { class: "count", hidden: true });
  const link = el("a", { href: `#/${view.id}` }, el("span", { text: view.title }), mark);
  byId("nav").append(link);
  return { view, link, mark };
});

/** Shows the view that the address names. */
function route(moved) {
  const wanted = location.hash.slice(2);
  const view = VIEWS.find((one) => one.id === wanted) ?? VIEWS[0];
  // Going back closes what stands above the page.
  if (moved) document.querySelectorAll("dialog[open]").forEach((dialog) => dialog.close());
  if (current?.view === view) return;
  current?.shown.leave?.();
  const [content, tools] = [byId("content"), byId("tools")];
  content.replaceChildren();
  tools.replaceChildren();
  setText(byId("heading"), view.title);
  document.title = `${view.title} · Arriero`;
  for (const each of links) setAttribute(each.link, "aria-current", each.view === view ? "page" : null);
  links.find((each) => each.view === view).link.scrollIntoView({ block: "nearest", inline: "nearest" });
  const waiting = el("p", { class: "empty", text: "Waiting for the first numbers…" });
  const inside = el("div");
  content.append(waiting, inside);
  current = { view, waiting, inside, shown: view.make(inside, tools) };
  if (moved) byId("view").focus({ preventScroll: true });
  render();
}

const FIGURES = [
  [
    "Servers",
    ({ servers }) => {
      const up = servers.filter((server) => server.healthy).length;
      return [`${up} / ${servers.length}`, "up", up < servers.length];
    },
  ],
  ["In flight", ({ requests }) => [count(requests.inFlight), ""]],
  ["Waiting", ({ requests }) => [count(requests.queued), ""]],
  ["Requests", ({ requests }) => [rate(requests.perSecond), "/s"]],
  ["Failed", ({ requests }) => [rate(requests.errorsPerSecond), "/s", requests.errorsPerSecond > 0]],
  ["Tokens", ({ requests }) => [rate(requests.tokensPerSecond), "/s"]],
  ["TTFB p95", ({ latency }) => time(latency.ttfbMs?.p95)],
  ["Answer p95", ({ latency }) => time(latency.durationMs?.p95)],
  [
    "Instances",
    ({ cluster }) => {
      if (!cluster) return null;
      const { instances, linked, leads, configurations } = cluster;
      const what = linked ? (leads ? "this one leads" : "") : "not linked";
      return [count(instances.length), what, !linked || configurations > 1, instances.join("\n")];
    },
  ],
];

const figures = FIGURES.map(([label, of]) => {
  const [number, unit] = [el("span", { text: NONE }), el("span", { class: "unit" })];
  const box = el("div", {}, el("dt", { text: label }), el("dd", {}, number, unit));
  byId("figures").append(box);
  return {
    box,
    update(overview) {
      const found = of(overview);
      setHidden(box, !found);
      if (!found) return;
      const [text, what, bad, title] = found;
      setAttribute(box, "title", title ?? null);
      setText(number, text);
      setText(unit, what);
      setClass(box, bad ? "bad" : "");
    },
  };
});

const STATUS = { healthy: "good", degraded: "warn", unhealthy: "bad", stopping: "warn" };

function render() {
  const { overview, connected } = app;
  const lost = byId("lost");
  document.body.classList.toggle("stale", !connected && Boolean(overview));
  setHidden(lost, connected || (!overview && !app.error));
  if (!connected) {
    const since = overview ? ` What is shown is from ${at(app.came, clock)}.` : "";
    setText(lost, `${app.error ?? "The connection is lost."} Trying again…${since}`);
  }
  if (!overview) return;
  const mark = byId("status");
  setText(mark, connected ? overview.status : "no connection");
  setClass(mark, `badge ${connected ? (STATUS[overview.status] ?? "") : "bad"}`);
  setText(byId("version"), [overview.version, overview.revision].filter(Boolean).join(" "));
  setText(byId("clock"), at(overview.at, clock));
  const trouble = byId("trouble");
  const { config, cluster } = overview;
  const troubles = [
    [!config.inForce, "The configuration on disk was refused; what was in force before still is."],
    [cluster && !cluster.linked, "The Redis of the cluster cannot be used; this instance goes on by itself."],
    [cluster?.configurations > 1, "The instances of the cluster have different configurations."],
  ].filter(([is]) => is);
  setHidden(trouble, !troubles.length);
  setText(trouble, troubles.map(([, text]) => text).join(" "));
  figures.forEach((figure) => figure.update(overview));
  for (const { view, mark } of links) {
    const [number, kind] = view.count?.(overview) ?? [0, ""];
    setText(mark, typeof number === "number" ? count(number) : number);
    setClass(mark, `count ${kind}`);
    setHidden(mark, !number);
  }
  if (current) {
    current.waiting.remove();
    setText(byId("summary"), current.view.summary?.(overview) ?? "");
    current.shown.update(overview);
  }
  panel?.(overview);
}

/** Nobody looks at a hidden page. */
function changed() {
  if (!document.hidden) render();
}

const THEMES = { "": "Auto", light: "Light", dark: "Dark" };

function useTheme(name) {
  const theme = name in THEMES ? name : "";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("arriero-theme", theme);
  setText(byId("theme"), THEMES[theme]);
  setAttribute(byId("theme"), "aria-label", `Theme: ${THEMES[theme]}`);
  if (app.overview) render();
}

function nextTheme() {
  const names = Object.keys(THEMES);
  useTheme(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input, select, textarea, dialog");
  if (!shortcutsOn() || typing || event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "/") document.querySelector("#tools input")?.focus();
  else if (event.key === "t") nextTheme();
  else if (event.key === "?") openHelp();
  else if (KEYS.includes(event.key)) {
    location.hash = `#/${VIEWS[KEYS.indexOf(event.key)].id}`;
    // The event of the new address comes later than a quick next key, which is meant for the new view.
    route(true);
  } else return;
  event.preventDefault();
});

byId("theme").addEventListener("click", nextTheme);
byId("help").addEventListener("click", openHelp);
byId("token-button").addEventListener("click", async () => (app.declined = !(await askForToken(false))));
setHidden(byId("token-button"), !sessionStorage.getItem(TOKEN));
window.addEventListener("hashchange", () => route(true));
window.addEventListener("resize", changed);
document.addEventListener("visibilitychange", changed);
useTheme(localStorage.getItem("arriero-theme") ?? "");
route(false);
follow(changed);
