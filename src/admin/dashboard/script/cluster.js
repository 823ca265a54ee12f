// The instances that act as one: who is there, how they are linked, and what differs among them.

/** How often everything is compared with Redis while the view is shown, and while something is not as it should be. */
const COMPARISON = 30_000;
const SOON = 5000;

/** Milliseconds after which a sign of life is late; they come each 5 seconds. */
const LATE = 7000;

const SEVERITIES = { critical: "bad", high: "bad", medium: "warn", low: "" };

/** How an instance is linked to Redis, as far as this one can know: signs of life come by way of it. */
function linkOf({ current, lastSeenMs }, linked) {
  if (current) return linked ? ["linked", "good"] : ["not linked", "bad"];
  if (!linked) return ["not known", ""];
  return lastSeenMs <= LATE ? ["linked", "good"] : ["late", "warn"];
}

function instancesTable(isLinked) {
  return table({
    label: "Instances",
    key: (one) => one.id,
    empty: "No instance is known yet.",
    broad: true,
    columns: [
      {
        label: "Instance",
        width: "20%",
        class: "first wrap",
        make: twoLines(
          (one) => one.id,
          (one) => (one.current ? "the one that shows this" : ""),
        ),
      },
      {
        label: "State",
        width: "116px",
        make: badgeCell((one) => [one.status, one.status === "active" ? "good" : "warn"]),
      },
      { label: "Leads", width: "70px", text: (one) => (one.leader ? "yes" : NONE) },
      { label: "Redis", width: "124px", make: badgeCell((one) => linkOf(one, isLinked())) },
      { label: "Version", width: "92px", text: (one) => one.version },
      {
        label: "Configuration",
        width: "19%",
        make(item, cell) {
          const [hash, mark] = [el("span", { class: "mono" }), badge()];
          cell.append(hash, " ", mark.node);
          return (one) => {
            setText(hash, one.configHash.slice(0, 12));
            setAttribute(cell, "title", one.configHash);
            mark.set(...(one.sameConfig ? ["the same", "calm"] : ["another one", "bad"]));
          };
        },
      },
      { label: "Last sign", width: "104px", text: (one) => (one.current ? "now" : `${timeText(one.lastSeenMs)} ago`) },
      {
        label: "Started",
        width: "116px",
        make: (item, cell) => (one) => {
          setText(cell, away(one.startedAt));
          setAttribute(cell, "title", at(one.startedAt));
        },
      },
    ],
  });
}

function differencesTable() {
  return table({
    label: "What differs",
    key: (one) => `${one.kind} ${one.subject} ${one.message}`,
    empty: "Everything is the same everywhere.",
    fine: true,
    columns: [
      {
        label: "About",
        width: "28%",
        class: "first wrap",
        make: twoLines(
          (one) => one.subject,
          (one) => one.kind,
        ),
      },
      {
        label: "Severity",
        width: "116px",
        make: badgeCell((one) => (one.repaired ? ["mended", "good"] : [one.severity, SEVERITIES[one.severity] ?? ""])),
      },
      { label: "What differs, and what mends it", class: "wrap whole", text: (one) => one.message },
    ],
  });
}

const clusterView = {
  id: "cluster",
  title: "Cluster",
  make(content) {
    let linked = false;
    const none = notConfigured(
      "No cluster is configured: this instance goes by itself. To let several act as one over Redis or Valkey, write in each one's file:",
      'cluster: { redis: "redis://valkey:6379", instance: front-1 }',
    );
    const instances = instancesTable(() => linked);
    const differences = differencesTable();
    const link = facts("Redis", "This instance", "Leader", "Decisions", "Compared");
    const mark = badge();
    const compared = el("span", { class: "muted small" });
    const state = fetched(2000, [`${CLUSTER}/coordination/health`, `${CLUSTER}/instances`], ({ data }, list) => {
      linked = data.linked;
      mark.set(...(linked ? ["linked", "good"] : ["not linked", "bad"]));
      const { decisions } = data;
      const untold = decisions.untold ? `, ${count(decisions.untold)} not told to the others yet` : "";
      link.set(
        data.redis ?? data.fault ?? "not linked yet",
        data.instance,
        data.leads ? "this one" : (data.leader ?? "nobody"),
        `${count(decisions.inForce)} in force, version ${decisions.version}${untold}`,
        decisions.comparedAt ? `${count(decisions.comparisons)} times, last ${away(decisions.comparedAt)}` : "not yet",
      );
      instances.update(list.data);
    });
    const drift = fetched(COMPARISON, [`${CLUSTER}/monitoring/consistency`], ({ data }) => {
      differences.update(data.issues);
      const took = data.tookMs === null ? "" : `, Redis took ${timeText(data.tookMs)}`;
      setText(compared, `compared at ${at(data.checkedAt, clock)}${took}`);
      return data.consistent ? COMPARISON : SOON;
    });
    const again = el("button", { type: "button", class: "small", text: "Compare now", onclick: drift.again });
    const parts = el(
      "div",
      { hidden: true },
      state.trouble,
      drift.trouble,
      group("Instances", instances.node),
      group(
        "Link",
        el("div", { class: "card pad" }, link.node),
        mark.node,
        actionButton("Connect again…", actions.reconnect),
      ),
      group("What differs", differences.node, compared, again),
    );
    content.append(none, parts);
    return {
      update({ cluster }) {
        setHidden(none, Boolean(cluster));
        setHidden(parts, !cluster);
        if (!cluster) return;
        state.look();
        drift.look();
      },
      again() {
        state.again();
        drift.again();
      },
      leave() {
        state.leave();
        drift.leave();
      },
    };
  },
  summary: ({ cluster }) =>
    cluster ? `${several(cluster.instances.length, "instance")} in ${cluster.name}` : "this instance goes by itself",
  count({ cluster }) {
    if (!cluster) return [0, ""];
    const { instances, linked, configurations } = cluster;
    return [instances.length, linked ? (configurations > 1 ? "warn" : "") : "bad"];
  },
};
