// What keeps requests away from servers: circuits and bans.

const protectionView = {
  id: "protection",
  title: "Circuits and bans",
  make(content) {
    const circuits = table({
      label: "Circuits that are not closed",
      key: (one) => `${one.serverId} ${one.model}`,
      empty: "All circuits are closed.",
      fine: true,
      columns: [
        {
          label: "Circuit",
          class: "first",
          make: twoLines(
            (one) => one.serverId,
            (one) => one.model ?? "the whole server",
          ),
        },
        { label: "State", width: "120px", make: badgeCell((one) => CIRCUITS[one.state] ?? [one.state, ""]) },
        { label: "Why", text: (one) => (one.forced ? "an operator holds it open" : "it failed too often") },
        { label: "Tried again", width: "130px", text: (one) => (one.nextRetryAt ? away(one.nextRetryAt) : NONE) },
        {
          label: "Orders",
          quiet: true,
          width: "180px",
          class: "act",
          make(one, cell) {
            const what = `${one.model ?? "the server"} on ${one.serverId}`;
            cell.append(
              actionButton("Close…", () => actions.closeCircuit(one.serverId, one.model), {
                "aria-label": `Close the circuit of ${what}`,
              }),
              actionButton("Reset…", () => actions.resetCircuit(one.serverId, one.model), {
                "aria-label": `Reset the circuit of ${what}`,
              }),
            );
          },
        },
      ],
    });
    const bans = table({
      label: "Bans",
      key: (one) => `${one.upstream} ${one.serverId} ${one.model}`,
      empty: "Nothing is banned.",
      fine: true,
      columns: [
        {
          label: "Banned",
          class: "first",
          make: twoLines(
            (one) => one.model ?? "every model",
            (one) => `from ${one.serverId ?? "all servers"} (${one.upstream})`,
          ),
        },
        {
          label: "Why",
          class: "wrap",
          make: twoLines(
            (one) => one.reason || NONE,
            (one) => `${one.who}, ${away(one.since)}`,
          ),
        },
        { label: "Ends", width: "150px", text: (one) => (one.until ? away(one.until) : "when it is lifted") },
        {
          label: "Orders",
          quiet: true,
          width: "110px",
          class: "act",
          make(one, cell) {
            const what = `${one.model ?? "everything"} from ${one.serverId ?? "all servers"}`;
            cell.append(actionButton("Lift…", () => actions.lift(one), { "aria-label": `Lift the ban of ${what}` }));
          },
        },
      ],
    });
    const more = el("p", { class: "empty", hidden: true });
    const names = (list, of) => list.map(of).sort();
    content.append(
      group("Circuits", circuits.node),
      group(
        "Bans",
        bans.node,
        actionButton("Ban…", () =>
          actions.banSomething(
            names(app.overview.servers, (one) => one.id),
            names(app.overview.models, (one) => one.name),
          ),
        ),
      ),
      more,
    );
    return {
      update(overview) {
        circuits.update(overview.circuits);
        bans.update(overview.bans);
        const { circuits: one, bans: other } = overview.omitted;
        setText(more, `Not shown: ${several(one, "circuit")} and ${several(other, "ban")}.`);
        setHidden(more, one + other === 0);
      },
    };
  },
  summary: ({ circuits, bans }) => `${several(circuits.length, "circuit")} not closed, ${several(bans.length, "ban")}`,
  count: ({ circuits, bans }) => [circuits.length + bans.length, circuits.length ? "warn" : ""],
};
