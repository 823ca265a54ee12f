// What an operator can order. Each action says before what will happen, and afterwards what has.

const WHO = "dashboard";
const REASON = { name: "reason", label: "Reason", hint: "(others see it)" };
const FOR = { name: "for", label: "For how long", hint: "(such as 30m or 2h; empty: until it is ended)" };

const serverPath = (server) => `/servers/${encode(server)}`;
const running = (server) => app.overview?.servers.find((one) => one.id === server)?.inFlight ?? 0;
const finish = (server) => {
  const number = running(server);
  if (number === 0) return "Nothing runs there now.";
  return number === 1
    ? "The request that runs there will finish."
    : `The ${count(number)} requests that run there will finish.`;
};
const order =
  (path, more = {}) =>
  (values) =>
    call("POST", path, { ...more, ...values, who: WHO });
const lift = (path) => () => call("DELETE", path);
const message = (answer) => answer.message;

const actions = {
  drain: (server) => ({
    title: `Drain ${server}?`,
    text: `No new requests go to it until you call it back. ${finish(server)}`,
    verb: "Drain",
    danger: true,
    fields: [REASON],
    run: order(`${serverPath(server)}/drain`),
    done: message,
  }),
  undrain: (server) => ({
    title: `Call ${server} back?`,
    text: "It takes new requests again, at once.",
    verb: "Call back",
    run: order(`${serverPath(server)}/undrain`),
    done: message,
  }),
  maintenance: (server) => ({
    title: `Put ${server} into maintenance?`,
    text: `No new requests go to it until the time is over or you call it back. ${finish(server)}`,
    verb: "Begin maintenance",
    danger: true,
    fields: [FOR, REASON],
    run: order(`${serverPath(server)}/maintenance`),
    done: message,
  }),

  openCircuit: (server) => ({
    title: `Hold the circuit of ${server} open?`,
    text:
      "Requests are kept away from it as if it had failed too often, until the time is over or you close it. " +
      finish(server),
    verb: "Open circuit",
    danger: true,
    fields: [FOR, REASON],
    run: order(`/circuit-breakers/${encode(server)}/open`),
    done: (answer) => `The circuit of ${server} is ${words(answer.currentState)}`,
  }),
  closeCircuit: (server, model) => ({
    title: model ? `Close the circuit of ${model} on ${server}?` : `Close the circuit of ${server}?`,
    text: "Requests go there again at once. If it still fails, the circuit opens again.",
    verb: "Close circuit",
    run: order(circuitPath(server, model, "close")),
    done: (answer) => `The circuit of ${model ?? "the server"} on ${server} is ${words(answer.currentState)}`,
  }),
  resetCircuit: (server, model) => ({
    title: model ? `Reset the circuit of ${model} on ${server}?` : `Reset the circuit of ${server}?`,
    text: "It is closed, and the failures that were counted are forgotten.",
    verb: "Reset circuit",
    run: order(circuitPath(server, model, "reset")),
    done: (answer) =>
      `The circuit of ${model ?? "the server"} on ${server} is ${words(answer.currentState)} and its failures are forgotten`,
  }),

  ban: (server, model) => ({
    title: `Ban ${model ?? "everything"} from ${server ?? "all servers"}?`,
    text:
      `No request${model ? ` for ${model}` : ""} goes to ${server ?? "any server"} until the ban is lifted or its time is over.` +
      (server ? "" : " Clients that ask for the model are refused."),
    verb: "Ban",
    danger: true,
    fields: [FOR, REASON],
    run: order("/bans", { ...(server && { server }), ...(model && { model }) }),
    done: () => `${model ?? "Everything"} is banned from ${server ?? "all servers"}`,
  }),
  banSomething: (servers, models) => ({
    title: "Ban a server, a model, or a model on a server?",
    text:
      "No such request is sent until the ban is lifted or its time is over. A server alone gets nothing; a model alone is " +
      "refused everywhere.",
    verb: "Ban",
    danger: true,
    fields: [
      { name: "server", label: "Server", options: ["", ...servers] },
      { name: "model", label: "Model", options: ["", ...models] },
      FOR,
      REASON,
    ],
    run: order("/bans"),
    done: (_, values) => `${values.model ?? "Everything"} is banned from ${values.server ?? "all servers"}`,
  }),
  lift: (ban) => {
    const { serverId: server, model } = ban;
    const id = server && encode(`${ban.upstream}/${server}`);
    const path = !model
      ? `/bans/server/${id}`
      : server
        ? `/bans/${id}/${encode(model)}`
        : `/bans/model/${encode(model)}`;
    const also =
      server && model
        ? ""
        : server
          ? " Bans of single models on it end, too."
          : " Its bans from single servers end, too.";
    return {
      title: `Lift the ban of ${model ?? "everything"} from ${server ?? "all servers"}?`,
      text: `Such requests are sent again at once.${also}`,
      verb: "Lift the ban",
      run: lift(path),
      done: (answer) => `${several(answer.removed, "ban")} lifted`,
    };
  },

  pause: (queue) => ({
    title: `Pause ${queue.upstream}?`,
    text:
      "No request begins until you resume; those that run go on. At most " +
      `${several(queue.max, "request")} for a model wait, each up to ` +
      `${timeText(queue.timeoutMs)}; then clients are refused.`,
    verb: "Pause",
    danger: true,
    fields: [REASON],
    run: order("/queue/pause", { upstream: queue.upstream }),
    done: () => `${queue.upstream} is paused`,
  }),
  resume: (queue) => ({
    title: `Resume ${queue.upstream}?`,
    text: `Requests begin again; ${several(queue.waiting, "request")} ${queue.waiting === 1 ? "waits" : "wait"} now.`,
    verb: "Resume",
    run: order("/queue/resume", { upstream: queue.upstream }),
    done: () => `${queue.upstream} takes requests again`,
  }),

  warm: (model, servers) => ({
    title: `Load ${model}?`,
    text: "It is brought into memory before anybody asks for it. Another model may have to make room.",
    verb: "Load",
    fields: [{ name: "server", label: "Server", options: servers, required: true }],
    run: ({ server }) => job("warmup", model, { servers: [server] }),
    done: (state, { server }) => `${model} ${state === "done" ? "is in memory" : "is being loaded"} on ${server}`,
  }),
  unload: (model, server) => ({
    title: `Take ${model} out of the memory of ${server}?`,
    text: "The next request for it there has to load it again.",
    verb: "Unload",
    danger: true,
    fields: [{ name: "force", label: "Also if it is pinned or in use", type: "checkbox" }],
    run: ({ force }) => job("unload", model, { serverId: server, force: Boolean(force) }),
    done: (state) => `${model} ${state === "done" ? "is not in memory any more" : "is being unloaded"} on ${server}`,
  }),

  resetQuota: ({ quota, key, keyName }) => ({
    title: `Begin the quota ${quota} of ${keyName ?? key} anew?`,
    text: `What was used in the window that runs is forgotten${everywhere()}. It ends when it would have ended.`,
    verb: "Reset",
    danger: true,
    fields: [REASON],
    run: order("/quotas/reset", { quota, key }),
    done: () => `The quota ${quota} of ${keyName ?? key} began anew`,
  }),
  resetQuotas: (names) => ({
    title: "Begin a quota of all keys anew?",
    text: `What everybody used in the window that runs is forgotten${everywhere()}. It ends when it would have ended.`,
    verb: "Reset",
    danger: true,
    fields: [{ name: "quota", label: "Quota", options: names, required: true }, REASON],
    run: order("/quotas/reset", { all: true }),
    done: (answer, { quota }) => `The quota ${quota} of ${several(answer.reset, "key")} began anew`,
  }),

  purge: ({ route, kind, entries }) => ({
    title: `Purge the ${kind} of ${route}?`,
    text: `${several(entries, KEPT[kind].one)} ${entries === 1 ? "is" : "are"} kept. ${thrownAway(kind)}`,
    verb: "Purge",
    danger: true,
    fields: KEPT[kind].fields,
    run: order("/caches/purge", { route, kind }),
    done: (answer) => `${several(answer.purged, KEPT[kind].one)} thrown away`,
  }),
  purgeAll: () => ({
    title: "Purge what all routes keep?",
    text: `All answers and embeddings are thrown away. ${thrownAway("answers")}`,
    verb: "Purge all",
    danger: true,
    run: order("/caches/purge"),
    done: () => "All that routes kept is thrown away",
  }),

  reconnect: () => ({
    title: "Open another connection to Redis?",
    text: "The one that there is gets closed. Requests go on meanwhile; nothing that was decided is lost.",
    verb: "Connect again",
    async run() {
      const answer = await call("POST", `${CLUSTER}/monitoring/restart/coordination`);
      if (!answer.linked) throw new Error(answer.message);
      return answer;
    },
    done: message,
  }),

  reload: () => ({
    title: "Reload the configuration?",
    text: "The file is read again and put in force as a whole. If anything in it is wrong, nothing changes and you are told why.",
    verb: "Reload",
    run: () => call("POST", "/config/reload"),
    done: (answer) =>
      answer.result === "unchanged" ? "The file is the one in force already" : "The new configuration is in force",
  }),
};

const everywhere = () => (app.overview?.cluster ? ", at all instances" : "");

/** What a cache keeps, and what of it alone can be thrown away. */
const KEPT = {
  answers: {
    one: "answer",
    fields: [{ name: "prefix", label: "Only URIs that begin with", hint: "(such as /assets/; empty: all)" }],
  },
  embeddings: { one: "embedding", fields: [{ name: "model", label: "Only of the model", hint: "(empty: all)" }] },
};

/** What it means that something is not kept any more. */
function thrownAway(kind) {
  const shared = kind === "answers" && app.overview?.cluster;
  return `The next requests ask servers.${shared ? " Answers that the cluster keeps together are thrown away everywhere." : ""}`;
}

/** Orders a job about a model; how far it is when the answer comes. What is left out or fails at once is an error. */
async function job(kind, model, body) {
  const answer = await call("POST", `/models/${encode(model)}/${kind}`, { ...body, who: WHO });
  const { state, servers } = answer.job;
  if (state !== "failed" && state !== "skipped") return state;
  throw new Error(servers.map((one) => `${one.serverId}: ${one.error ?? one.state}`).join("; "));
}

function circuitPath(server, model, verb) {
  return `/circuit-breakers/${encode(server)}/${model ? `${encode(model)}/` : ""}${verb}`;
}

/** A button that asks and then does; `action()` is asked when it is pressed, so that it tells of now. */
function actionButton(text, action, more = {}) {
  const onclick = async () => {
    await confirmed(action());
    // What a view fetches for itself is looked at anew.
    current?.shown.again?.();
  };
  return el("button", { type: "button", class: "small", text, onclick, ...more });
}
