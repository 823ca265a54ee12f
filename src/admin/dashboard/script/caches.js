// What routes keep of answers and embeddings, how often it helps, and how to throw it away.

const cachesView = {
  id: "caches",
  title: "Caches",
  make(content, tools) {
    const list = table({
      label: "Caches of routes",
      key: (one) => `${one.route} ${one.kind}`,
      empty: "",
      broad: true,
      columns: [
        {
          label: "Route",
          width: "24%",
          class: "first wrap",
          make: twoLines(
            (one) => one.route,
            (one) => `${one.kind}, ${one.scope === "shared" ? "shared by all clients" : "apart for each API key"}`,
          ),
        },
        { label: "Entries", width: "92px", class: "right", text: (one) => count(one.entries) },
        {
          label: "Memory",
          width: "19%",
          make: amount(
            (one) => `${size(one.bytes)} of ${size(one.maxBytes)}`,
            (one) => one.bytes / Math.max(1, one.maxBytes),
          ),
        },
        { label: "Hits", width: "92px", class: "right", text: (one) => count(one.hits) },
        { label: "Misses", width: "92px", class: "right", text: (one) => count(one.misses) },
        {
          label: "Hit rate",
          width: "92px",
          class: "right",
          text: ({ hitRate }) => (hitRate === null ? NONE : `${(100 * hitRate).toFixed(1)} %`),
        },
        { label: "Passed by", width: "96px", class: "right", text: (one) => count(one.bypassed) },
        {
          label: "Orders",
          quiet: true,
          width: "112px",
          class: "act",
          make(item, cell) {
            let now = item;
            const label = `Purge the ${item.kind} of ${item.route}`;
            cell.append(actionButton("Purge…", () => actions.purge(now), { "aria-label": label }));
            return (one) => (now = one);
          },
        },
      ],
    });
    const none = notConfigured(
      "No route keeps answers. To ask servers only once for what is asked for often, write at a route in the file:",
      "cache: {}",
      " (pages, files, lists), or ",
      el("code", { text: "embeddings_cache: {}" }),
    );
    const about = el("p", {
      class: "muted small pad",
      text:
        "Numbers are those of this instance since its start. Hits and misses of embeddings are texts, those of answers are requests. " +
        "Requests that passed by were not looked up, such as those of clients that want no cache.",
      hidden: true,
    });
    const all = actionButton("Purge all…", actions.purgeAll);
    for (const node of [list.node, all]) setHidden(node, true);
    const source = fetched(2000, ["/caches"], ({ caches }) => {
      setHidden(none, caches.length > 0);
      for (const node of [list.node, about, all]) setHidden(node, caches.length === 0);
      list.update(caches);
    });
    tools.append(all);
    content.append(source.trouble, none, list.node, about);
    return { update: source.look, again: source.again, leave: source.leave };
  },
  summary: () => "answers and embeddings that routes keep, and how often they help",
};
