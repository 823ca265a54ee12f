// Token quotas: who used how much of what it may use.

/** Most lines that are asked for. */
const QUOTA_LINES = 200;

const LEVELS = {
  within: () => ["within", "good"],
  warned: () => ["near the limit", "warn"],
  exceeded: ({ beyond }) => (beyond === "warn" ? ["beyond the limit", "warn"] : ["used up", "bad"]),
};

const TOKENS = { total: "all tokens", prompt: "tokens of prompts", output: "tokens of answers" };

/** What was used of the limit, with a bar; in a cluster also how much of it by way of this instance. */
function usedCell(item, cell) {
  const [text, share] = [el("span", { class: "num" }), bar()];
  const here = el("span", { class: "sub" });
  cell.append(text, share.node, here);
  return ({ used, usedHere, limit, promptTokens, outputTokens }) => {
    setText(text, limit === null ? count(used) : `${count(used)} of ${count(limit)}`);
    share.set(limit === null ? null : used / Math.max(1, limit));
    setText(here, usedHere === used ? "" : `${count(usedHere)} by way of this instance`);
    setAttribute(cell, "title", `${count(promptTokens)} of prompts, ${count(outputTokens)} of answers`);
  };
}

const quotasView = {
  id: "quotas",
  title: "Quotas",
  make(content, tools) {
    let [wanted, told] = ["", null];
    const list = table({
      label: "Keys and what they used",
      key: (one) => `${one.quota} ${one.key}`,
      empty: "",
      broad: true,
      columns: [
        {
          label: "Whose",
          width: "24%",
          class: "first wrap",
          make: twoLines(
            (one) => one.keyName ?? (one.key === "all" ? "everybody together" : one.key),
            (one) => (one.keyName ? one.key : ""),
          ),
        },
        {
          label: "Quota",
          width: "19%",
          class: "wrap",
          make: twoLines(
            (one) => one.quota,
            (one) => `${TOKENS[one.tokens] ?? one.tokens}, each ${one.every}`,
          ),
        },
        { label: "Used", width: "20%", class: "whole", make: usedCell },
        { label: "State", width: "166px", make: badgeCell((one) => LEVELS[one.state]?.(one) ?? [one.state, ""]) },
        {
          label: "Beyond the limit",
          width: "136px",
          text: ({ limit, beyond }) => (limit === null ? "no limit" : beyond === "warn" ? "a warning" : "refused"),
        },
        {
          label: "Window ends",
          width: "110px",
          make: (item, cell) => (one) => {
            setText(cell, away(one.resetsAt));
            setAttribute(cell, "title", at(one.resetsAt));
          },
        },
        {
          label: "Orders",
          quiet: true,
          width: "108px",
          class: "act",
          make(one, cell) {
            const label = `Reset ${one.quota} of ${one.keyName ?? one.key}`;
            cell.append(actionButton("Reset…", () => actions.resetQuota(one), { "aria-label": label }));
          },
        },
      ],
    });
    const none = notConfigured(
      "No token quotas are configured. To limit how many tokens each API key may use, write in the file:",
      "quotas: [{ name: daily, key: api_key, limit: 1M, every: day }]",
    );
    const more = el("p", { class: "empty", hidden: true });
    const kept = el("p", {
      class: "muted small pad",
      text: "What was used is forgotten at a restart, as no server.data_dir is configured.",
      hidden: true,
    });
    const filter = filterField("Filter by key or quota", (text) => {
      wanted = text;
      fill();
    });
    const all = actionButton("Reset for all keys…", () => actions.resetQuotas(told.configured));
    setHidden(list.node, true);
    const matches = (one) => [one.key, one.keyName ?? "", one.quota].some((text) => text.toLowerCase().includes(wanted));
    function fill() {
      if (!told) return;
      const isConfigured = told.configured.length > 0;
      setHidden(none, isConfigured);
      for (const node of [list.node, filter, all]) setHidden(node, !isConfigured);
      const nothing = `Nobody has used anything of ${told.configured.join(", ")} in the window that runs.`;
      list.update(told.quotas.filter(matches), told.quotas.length ? "No key matches." : nothing);
      setText(more, `Those that used the largest share are shown; there are ${count(told.total - told.count)} more.`);
      setHidden(more, told.total === told.count);
      setHidden(kept, told.durable || !isConfigured);
    }
    const source = fetched(2000, [`/quotas?limit=${QUOTA_LINES}`], (answer) => {
      told = answer;
      fill();
    });
    for (const node of [filter, all]) setHidden(node, true);
    tools.append(filter, all);
    content.append(source.trouble, none, list.node, more, kept);
    return { update: source.look, again: source.again, leave: source.leave };
  },
  summary: () => "how many tokens each key used in the window that runs",
};
