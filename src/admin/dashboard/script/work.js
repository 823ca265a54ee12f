// What is being done: requests that run, those that wait, and why servers were chosen.

const inFlightView = {
  id: "in-flight",
  title: "In flight",
  make(content) {
    const list = table({
      label: "Requests that run",
      key: (one) => one.key,
      empty: "Nothing runs.",
      columns: [
        { label: "Model", class: "first", text: (one) => one.model ?? NONE },
        { label: "Running for", width: "110px", class: "right", text: (one) => timeText(one.ageMs) },
        {
          label: "Phase",
          width: "126px",
          make: badgeCell((one) => [one.phase, one.phase === "answering" ? "good" : ""]),
        },
        { label: "Server", width: "24%", text: (one) => one.serverId },
        { label: "Request", width: "30%", class: "mono whole", text: (one) => one.id ?? NONE },
      ],
    });
    const more = el("p", { class: "empty", hidden: true });
    content.append(list.node, more);
    return {
      update(overview) {
        const seen = new Map();
        // An id is the client's word and may come twice.
        list.update(
          overview.inFlight.map((one) => {
            const name = `${one.serverId} ${one.id}`;
            const number = (seen.get(name) ?? 0) + 1;
            seen.set(name, number);
            return { ...one, key: `${name} ${number}` };
          }),
        );
        setText(more, `The oldest are shown; there are ${count(overview.omitted.inFlight)} more.`);
        setHidden(more, overview.omitted.inFlight === 0);
      },
    };
  },
  summary: ({ requests }) =>
    `${several(requests.inFlight, "request")}, ${count(requests.answering)} of them being answered`,
  count: ({ requests }) => [requests.inFlight, ""],
};

const queueView = {
  id: "queue",
  title: "Queue",
  make(content) {
    const box = el("div");
    content.append(box);
    return { update: (overview) => keyed(box, overview.queues, (queue) => queue.upstream, queueCard) };
  },
  summary: ({ requests }) => (requests.queued ? `${several(requests.queued, "request")} waiting` : "nobody waits"),
  count: ({ requests, queues }) => [requests.queued, queues.some((queue) => queue.paused) ? "warn" : ""],
};

function queueCard(first) {
  let now = first;
  const mark = badge();
  const about = el("span", { class: "muted" });
  const pause = actionButton("Pause…", () => actions.pause(now), { "aria-label": `Pause ${first.upstream}` });
  const resume = actionButton("Resume…", () => actions.resume(now), { "aria-label": `Resume ${first.upstream}` });
  const list = table({
    label: `Who waits at ${first.upstream}`,
    key: (one) => one.model,
    empty: "Nobody waits.",
    fine: true,
    columns: [
      { label: "Model", class: "first", text: (one) => one.model },
      { label: "Waiting", width: "110px", class: "right", text: (one) => count(one.waiting) },
      { label: "The first for", width: "130px", class: "right", text: (one) => timeText(one.oldestMs) },
    ],
  });
  const heading = el(
    "div",
    { class: "heading" },
    el("h2", { text: first.upstream }),
    mark.node,
    about,
    el("span", { class: "spring" }),
    pause,
    resume,
  );
  return {
    node: el("div", { class: "group" }, heading, list.node),
    update(queue) {
      now = queue;
      mark.set(queue.paused ? "paused" : "open", queue.paused ? "warn" : "good");
      setText(about, `at most ${count(queue.max)} for a model, each up to ${timeText(queue.timeoutMs)}`);
      setHidden(pause, queue.paused);
      setHidden(resume, !queue.paused);
      list.update(queue.models);
    },
  };
}

const decisionsView = {
  id: "decisions",
  title: "Decisions",
  make(content) {
    const nothing = el("p", { class: "empty", text: "No server has been chosen yet." });
    const list = el("div");
    content.append(el("div", { class: "card" }, list, nothing));
    return {
      update({ decisions }) {
        setHidden(nothing, decisions.length > 0);
        const seen = new Map();
        keyed(
          list,
          decisions,
          (one) => {
            const name = `${one.model} ${one.server} ${one.reason} ${JSON.stringify(one.candidates)}`;
            const number = (seen.get(name) ?? 0) + 1;
            seen.set(name, number);
            return `${name} ${number}`;
          },
          decisionLine,
        );
      },
    };
  },
  summary: () => "why requests went where they went, the latest first",
};

const TERMS = ["score", "wait", "load", "prefill", "eviction", "crowding", "penalty"];

function decisionLine(decision) {
  const when = el("span", { class: "muted num" });
  const seconds = (value) => (value === null ? NONE : value.toFixed(2));
  const rows = decision.candidates.map((one) =>
    el(
      "tr",
      {},
      el("td", { text: one.server + (one.server === decision.server ? " ✓" : "") }),
      el("td", { text: one.excluded ? `not asked: ${words(one.excluded)}` : one.modelIs }),
      ...TERMS.map((term) => el("td", { class: "right", text: seconds(one[term]) })),
    ),
  );
  const label = `Who could have had ${decision.model}`;
  const head = el(
    "tr",
    {},
    el("th", { scope: "col", text: "Server" }),
    el("th", { scope: "col", text: "Model is" }),
    ...TERMS.map((term) => el("th", { scope: "col", class: "right", text: term })),
  );
  const terms = el("table", { class: "terms", "aria-label": label }, el("thead", {}, head), el("tbody", {}, ...rows));
  terms.style.minWidth = "720px";
  const rest = decision.considered - decision.candidates.length;
  const node = el(
    "details",
    { class: "decision" },
    el(
      "summary",
      {},
      el(
        "span",
        { class: "line" },
        el("b", { text: decision.model }),
        `→ ${decision.server ?? "nobody"}`,
        el("span", { class: "muted", text: decision.reason }),
        el("span", { class: "spring" }),
        when,
      ),
    ),
    el("div", { class: "table-box", tabindex: "0", role: "region", "aria-label": label }, terms),
    el("p", {
      class: "muted small pad",
      text: `Costs are expected seconds; the lowest score goes first.${rest > 0 ? ` ${count(rest)} more were looked at.` : ""}`,
    }),
  );
  return { node, update: (now) => setText(when, away(now.at)) };
}
