// The configuration: what is in force, and how it differs from the file.

const configView = {
  id: "config",
  title: "Configuration",
  make(content, tools) {
    const list = facts("State", "In force since", "Hash", "Process");
    const error = el("pre", { class: "banner bad mono", hidden: true });
    error.style.whiteSpace = "pre-wrap";
    const note = el("p", { class: "empty", text: "Looking at what differs from the file…" });
    const changes = table({
      label: "Changes that are not in the file",
      key: (change) => change.path,
      empty: "What is in force is what the file says.",
      fine: true,
      columns: [
        { label: "Key", class: "first wrap mono", text: (change) => change.path },
        {
          label: "File and now",
          width: "46%",
          class: "whole diff wrap",
          make(item, cell) {
            const [before, after] = [el("del", { class: "mono" }), el("ins", { class: "mono" })];
            cell.append(before, after);
            return (change) => {
              setText(before, value(change.file));
              setText(after, value(change.now));
            };
          },
        },
        {
          label: "By",
          width: "22%",
          make: twoLines(
            (change) => change.who || NONE,
            (change) => (change.since ? away(change.since) : ""),
          ),
        },
      ],
    });
    setHidden(changes.node, true);
    tools.append(actionButton("Reload…", actions.reload));
    content.append(
      el("div", { class: "card pad" }, list.node, error),
      el(
        "div",
        { class: "group" },
        el("div", { class: "heading" }, el("h2", { text: "Changed while running" })),
        changes.node,
        note,
      ),
    );
    list.node.parentNode.style.marginBottom = "18px";
    const stop = repeat(2000, async () => {
      try {
        changes.update((await show("/config/diff")).changes);
        setHidden(changes.node, false);
        setHidden(note, true);
      } catch (problem) {
        const none = problem.status === 404;
        setText(note, none ? "This Arriero takes its configuration from the file alone." : problem.message);
        setHidden(note, false);
        setHidden(changes.node, true);
        return !none;
      }
      return true;
    });
    return {
      update({ config, version, uptimeSeconds }) {
        list.set(
          config.inForce ? "the file is in force" : "the file was refused; what was in force before still is",
          `${at(config.loadedAt)} (${away(config.loadedAt)})`,
          config.hash,
          `version ${version}, up for ${timeText(uptimeSeconds * 1000)}`,
        );
        setText(error, config.error ?? "");
        setHidden(error, !config.error);
      },
      leave: stop,
    };
  },
  summary: ({ config }) => (config.inForce ? "" : "the file on disk is not in force"),
  count: ({ config }) => (config.inForce ? null : ["!", "bad"]),
};

/** A value of the configuration as one line; what is not there is said so. */
function value(any) {
  if (any === null || any === undefined) return "(not set)";
  return typeof any === "string" ? any : JSON.stringify(any);
}
