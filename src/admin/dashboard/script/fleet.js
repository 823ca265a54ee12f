// Servers and models: what there is, how it is, and what can be ordered about it.

/** How a server is, in a word and a colour. */
function standing(server) {
  if (server.operation === "maintenance") return ["maintenance", "warn"];
  if (server.operation === "draining") return [server.inFlight ? "draining" : "drained", "warn"];
  if (!server.healthy) return ["down", "bad"];
  return server.health === "unknown" ? ["not checked", ""] : ["up", "good"];
}

const CIRCUITS = { closed: ["closed", "calm"], open: ["open", "bad"], half_open: ["half open", "warn"] };

const GPUS = {
  healthy: ["healthy", "calm"],
  degraded: ["degraded", "warn"],
  draining: ["draining", "warn"],
  failed: ["failed", "bad"],
};

/** How the cards of a server are, in a few words. */
function gpuText(server) {
  const numbers = [
    server.gpuTemperature === null ? null : `${Math.round(server.gpuTemperature)} °C`,
    server.gpuUtilisation === null ? null : `${Math.round(server.gpuUtilisation)} % busy`,
  ];
  const words = [server.gpu, ...numbers.filter(Boolean)].join(", ");
  return server.gpuReason ? `${words}: ${server.gpuReason}` : words;
}

function badgeCell(of, title) {
  return (item, cell) => {
    const mark = badge();
    cell.append(mark.node);
    return (now) => {
      mark.set(...of(now));
      if (title) setAttribute(cell, "title", title(now));
    };
  };
}

/** The models in memory: the names of two, and how many more. */
function loadedCell(item, cell) {
  const chips = el("span", { class: "chips" });
  cell.append(chips);
  let last;
  return (server) => {
    const names = server.loaded.map((model) => model.name);
    const all = `${server.models}|${names.join("|")}`;
    if (all === last) return;
    last = all;
    const shown = names.slice(0, 2).map((name) => el("span", { class: "chip", text: name }));
    const rest = names.length > 2 ? `+${names.length - 2} ` : "";
    const whole = `${rest}${names.length ? "" : "none "}of ${server.models}`;
    chips.replaceChildren(...shown, el("span", { class: "chip more", text: whole }));
    setAttribute(cell, "title", names.join("\n") || null);
  };
}

const ORDERS = {
  file: ["as in the file", null],
  trouble: [
    "trouble first",
    (server) =>
      (server.healthy ? 0 : -4) -
      (server.circuit === "closed" ? 0 : 2) -
      (server.gpu === "healthy" ? 0 : 1) -
      (server.operation === "active" ? 0 : 1),
  ],
  busy: ["busiest first", (server) => -server.inFlight],
  vram: ["most video memory first", (server) => -server.vramUsed],
};

const fleetView = {
  id: "fleet",
  title: "Fleet",
  make(content, tools) {
    let wanted = "";
    const list = table({
      label: "Servers",
      key: (server) => server.id,
      empty: "No server matches.",
      columns: [
        {
          label: "Server",
          width: "18%",
          class: "first",
          make: twoLines(
            (server) => server.id,
            (server) => server.url,
          ),
        },
        { label: "State", width: "146px", make: badgeCell(standing) },
        {
          label: "Circuit",
          width: "104px",
          make: badgeCell((server) => CIRCUITS[server.circuit] ?? [server.circuit, ""]),
        },
        { label: "GPU", width: "98px", make: badgeCell((server) => GPUS[server.gpu] ?? [server.gpu, ""], gpuText) },
        {
          label: "In flight",
          width: "94px",
          make: amount(
            (server) =>
              server.maxInFlight === null ? count(server.inFlight) : `${server.inFlight} / ${server.maxInFlight}`,
            (server) => (server.maxInFlight === null ? null : server.inFlight / Math.max(1, server.maxInFlight)),
          ),
        },
        { label: "In memory", class: "whole", make: loadedCell },
        {
          label: "Video memory",
          width: "138px",
          make: amount(
            (server) => sizeOf(server.vramUsed, server.vramTotal),
            (server) => (server.vramTotal === null ? null : server.vramUsed / Math.max(1, server.vramTotal)),
          ),
        },
        { label: "Check", width: "82px", class: "right", text: (server) => timeText(server.lastResponseMs) },
        {
          label: "Orders",
          quiet: true,
          width: "104px",
          class: "act beside",
          make(item, cell) {
            const open = () => openServer(item.id);
            cell.append(
              el("button", {
                type: "button",
                class: "small",
                "aria-label": `Manage ${item.id}`,
                text: "Manage",
                onclick: open,
              }),
            );
          },
        },
      ],
    });
    const filter = filterField("Filter by server, model or state", (text) => {
      wanted = text;
      update(app.overview);
    });
    const sorting = el(
      "select",
      { "aria-label": "Order of servers", onchange: () => update(app.overview) },
      ...Object.entries(ORDERS).map(([value, [text]]) => el("option", { value, text })),
    );
    sorting.style.width = "auto";
    tools.append(filter, sorting);
    content.append(list.node);
    const matches = (server) =>
      !wanted ||
      [server.id, server.url, server.upstream, standing(server)[0], server.circuit, server.gpu].some((text) =>
        text.toLowerCase().includes(wanted),
      ) ||
      server.loaded.some((model) => model.name.toLowerCase().includes(wanted));
    function update(overview) {
      if (!overview) return;
      const servers = overview.servers.filter(matches);
      const by = ORDERS[sorting.value][1];
      list.update(by ? servers.sort((one, other) => by(one) - by(other)) : servers);
    }
    return { update };
  },
  summary({ servers }) {
    const up = servers.filter(
      (server) => server.healthy && server.operation === "active" && server.circuit !== "open",
    ).length;
    return servers.length ? `${up} of ${several(servers.length, "server")} take requests` : "no servers are configured";
  },
  count: ({ servers }) => [servers.length, servers.some((server) => !server.healthy) ? "bad" : ""],
};

/** The panel that is open, told of each overview. */
let panel = null;

function openPanel(title, parts, update) {
  const dialog = byId("panel");
  const close = el("button", {
    type: "button",
    class: "quiet",
    "aria-label": "Close",
    text: "✕",
    onclick: () => dialog.close(),
  });
  const head = el(
    "div",
    { class: "head" },
    el("h2", { id: "panel-heading", text: title }),
    el("span", { class: "spring" }),
    close,
  );
  panel = update;
  const closed = open(dialog, el("div", { class: "body" }, head, ...parts), el("div", { class: "buttons" }));
  closed.then(() => (panel = null));
  update(app.overview);
  close.focus();
  return closed;
}

/** A list of facts whose values change. */
function facts(...labels) {
  const values = labels.map(() => el("dd", { class: "num" }));
  const node = el(
    "dl",
    { class: "facts" },
    ...labels.flatMap((label, index) => [el("dt", { text: label }), values[index]]),
  );
  return { node, set: (...texts) => texts.forEach((text, index) => setText(values[index], text)) };
}

function openServer(id) {
  const list = facts(
    "State",
    "Upstream",
    "Address",
    "Version",
    "Circuit",
    "GPU",
    "In flight",
    "Last check",
    "Video memory",
    "Models",
  );
  const button = {
    drain: actionButton("Drain…", () => actions.drain(id)),
    undrain: actionButton("Call back…", () => actions.undrain(id)),
    maintenance: actionButton("Maintenance…", () => actions.maintenance(id)),
    open: actionButton("Open circuit…", () => actions.openCircuit(id)),
    close: actionButton("Close circuit…", () => actions.closeCircuit(id)),
    reset: actionButton("Reset circuit…", () => actions.resetCircuit(id)),
    ban: actionButton("Ban server…", () => actions.ban(id)),
  };
  const loaded = table({
    label: "Models in memory",
    key: (model) => model.name,
    empty: "Nothing is in its memory.",
    columns: [
      { label: "In memory", class: "first whole wrap", text: (model) => model.name },
      { label: "Video memory", width: "112px", class: "right", text: (model) => size(model.sizeVram) },
      {
        label: "Unloaded",
        width: "104px",
        class: "right",
        text: (model) => (model.expiresAt ? away(model.expiresAt) : NONE),
      },
      {
        label: "Orders",
        quiet: true,
        width: "190px",
        class: "act",
        make(model, cell) {
          cell.append(
            actionButton("Unload…", () => actions.unload(model.name, id), { "aria-label": `Unload ${model.name}` }),
            actionButton("Ban…", () => actions.ban(id, model.name), { "aria-label": `Ban ${model.name} from ${id}` }),
          );
        },
      },
    ],
  });
  const gone = el("p", { class: "wrong", text: "This server is not in the configuration any more.", hidden: true });
  openPanel(
    id,
    [gone, list.node, el("div", { class: "buttons left" }, ...Object.values(button)), loaded.node],
    (overview) => {
      const server = overview.servers.find((one) => one.id === id);
      setHidden(gone, Boolean(server));
      if (!server) return;
      const active = server.operation === "active";
      setHidden(button.drain, !active);
      setHidden(button.undrain, active);
      setHidden(button.maintenance, server.operation === "maintenance");
      setHidden(button.open, server.circuit === "open");
      setHidden(button.close, server.circuit === "closed");
      const until = server.until ? `, until ${at(server.until)}` : "";
      list.set(
        `${standing(server)[0]}${server.reason ? `: ${server.reason}` : ""}${until}`,
        `${server.upstream} (${server.kind})`,
        server.url,
        server.version ?? NONE,
        words(server.circuit),
        gpuText(server),
        `${server.inFlight}${server.maxInFlight === null ? "" : ` of at most ${server.maxInFlight}`}`,
        timeText(server.lastResponseMs),
        sizeOf(server.vramUsed, server.vramTotal),
        `${server.loaded.length} in memory, ${server.models} in all`,
      );
      loaded.update(server.loaded);
    },
  );
}

const modelsView = {
  id: "models",
  title: "Models",
  make(content, tools) {
    let wanted = "";
    const list = table({
      label: "Models",
      key: (model) => model.name,
      empty: "No server has told a model.",
      columns: [
        {
          label: "Model",
          class: "first wrap",
          make(item, cell) {
            const name = el("span", { class: "main" });
            cell.append(name);
            return (model) => setText(name, model.name);
          },
        },
        {
          label: "Servers",
          width: "130px",
          class: "right",
          text: (model) =>
            model.available === model.servers ? count(model.servers) : `${model.available} of ${model.servers} usable`,
        },
        { label: "In memory on", width: "130px", class: "right", text: (model) => count(model.loaded) },
        { label: "In flight", width: "100px", class: "right", text: (model) => count(model.inFlight) },
        { label: "Waiting", width: "100px", class: "right", text: (model) => count(model.waiting) },
        { label: "Video memory", width: "130px", class: "right", text: (model) => size(model.vram) },
        {
          label: "Orders",
          quiet: true,
          width: "104px",
          class: "act beside",
          make(item, cell) {
            const open = () => openModel(item.name);
            cell.append(
              el("button", {
                type: "button",
                class: "small",
                "aria-label": `Manage ${item.name}`,
                text: "Manage",
                onclick: open,
              }),
            );
          },
        },
      ],
    });
    tools.append(
      filterField("Filter by model", (text) => {
        wanted = text;
        if (app.overview) update(app.overview);
      }),
    );
    content.append(list.node);
    const update = (overview) =>
      list.update(overview.models.filter((model) => model.name.toLowerCase().includes(wanted)));
    return { update };
  },
  summary: ({ models }) =>
    `${models.filter((model) => model.loaded).length} of ${several(models.length, "model")} in memory somewhere`,
  count: ({ models }) => [models.length, ""],
};

const PLACES = {
  loaded: ["in memory", "good"],
  loading: ["loading", "warn"],
  available: ["on disk", "calm"],
  failed: ["not usable", "bad"],
};

function openModel(name) {
  const list = facts("In flight", "Waiting", "Video memory");
  const places = table({
    label: `Where ${name} is`,
    key: (place) => place.id,
    empty: "No server has it any more.",
    columns: [
      { label: "Server", class: "first", text: (place) => place.id },
      { label: "There it is", width: "120px", make: badgeCell((place) => PLACES[place.state] ?? [place.state, ""]) },
      { label: "In flight", width: "80px", class: "right", text: (place) => count(place.inFlight) },
      {
        label: "Orders",
        quiet: true,
        width: "190px",
        class: "act",
        make(item, cell) {
          const unload = actionButton("Unload…", () => actions.unload(name, item.id), {
            "aria-label": `Unload from ${item.id}`,
          });
          cell.append(
            unload,
            actionButton("Ban…", () => actions.ban(item.id, name), { "aria-label": `Ban from ${item.id}` }),
          );
          return (place) => setHidden(unload, place.state !== "loaded");
        },
      },
    ],
  });
  const wrong = el("p", { class: "wrong", hidden: true });
  const scroll = el("div", { class: "scroll" }, places.node);
  let holders = [];
  const buttons = el(
    "div",
    { class: "buttons left" },
    actionButton("Load on a server…", () => actions.warm(name, holders)),
    actionButton("Ban everywhere…", () => actions.ban(null, name)),
  );
  const stop = repeat(1000, async () => {
    try {
      const { servers } = await show(`/models/${encode(name)}/status`);
      holders = Object.keys(servers);
      places.update(Object.entries(servers).map(([id, place]) => ({ id, ...place })));
      setHidden(wrong, true);
    } catch (error) {
      setText(wrong, error.message);
      setHidden(wrong, false);
    }
  });
  openPanel(name, [list.node, buttons, wrong, scroll], (overview) => {
    const model = overview.models.find((one) => one.name === name);
    if (model) list.set(count(model.inFlight), count(model.waiting), size(model.vram));
  }).then(stop);
}
