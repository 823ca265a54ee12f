// Tables whose rows are kept and changed in place.

/**
 * A table. A column is `{ label, width, class, text(item) }` or has `make(item, cell)`, which fills the cell once and returns what
 * updates it. On narrow screens rows become cards, unless `cards` is false; one that is `broad` scrolls sideways before that.
 */
function table({ label, columns, key, empty, fine, broad, cards = true }) {
  const labelled = columns.map((column) =>
    el(
      "th",
      { role: "columnheader", scope: "col", class: column.class?.includes("right") ? "right" : "" },
      column.quiet ? el("span", { class: "out-of-sight", text: column.label }) : column.label,
    ),
  );
  const body = el("tbody", { role: "rowgroup" });
  const inside = el(
    "table",
    { role: "table", class: broad ? "broad" : null, "aria-label": label },
    el(
      "colgroup",
      {},
      ...columns.map((column) => {
        const one = el("col");
        if (column.width) one.style.width = column.width;
        return one;
      }),
    ),
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...labelled)),
    body,
  );
  // What scrolls sideways must be reachable by keyboard.
  const box = el(
    "div",
    { class: cards ? "table-box cards" : "table-box", role: "region", "aria-label": label, tabindex: "0" },
    inside,
  );
  const nothing = el("p", { class: fine ? "empty fine" : "empty", text: empty });
  const make = (item) => {
    const updates = [];
    const cells = columns.map((column) => {
      const cell = el("td", { role: "cell", class: column.class, "data-label": column.quiet ? null : column.label });
      updates.push(column.make ? column.make(item, cell) : (now) => setText(cell, column.text(now)));
      return cell;
    });
    return { node: el("tr", { role: "row" }, ...cells), update: (now) => updates.forEach((update) => update?.(now)) };
  };
  return {
    node: el("div", { class: "card" }, box, nothing),
    /** Shows these; where there are none, says `none`, or what it said before. */
    update(items, none) {
      if (none) setText(nothing, none);
      setHidden(box, items.length === 0);
      setHidden(nothing, items.length > 0);
      keyed(body, items, key, make);
    },
  };
}

/** A cell with a main line and one below. */
function twoLines(main, below) {
  return (item, cell) => {
    const first = el("span", { class: "main" });
    const second = el("span", { class: "sub" });
    cell.append(first, second);
    return (now) => {
      setText(first, main(now));
      setText(second, below(now));
      setAttribute(cell, "title", `${main(now)}\n${below(now)}`);
    };
  };
}

/** A cell with a number of a whole and a bar. */
function amount(numberOf, shareOf) {
  return (item, cell) => {
    const text = el("span", { class: "num" });
    const share = bar();
    cell.append(text, share.node);
    return (now) => {
      setText(text, numberOf(now));
      share.set(shareOf(now));
    };
  };
}

/** A field that filters; `changed(text)` gets what is wanted, in small letters. */
function filterField(label, changed) {
  const input = el("input", {
    class: "filter",
    type: "search",
    "aria-label": label,
    placeholder: label,
    spellcheck: "false",
  });
  input.addEventListener("input", () => changed(input.value.trim().toLowerCase()));
  return input;
}

/** Part of a view: a heading with buttons, and a list. */
function group(title, list, ...buttons) {
  const heading = el("div", { class: "heading" }, el("h2", { text: title }), el("span", { class: "spring" }), ...buttons);
  return el("div", { class: "group" }, heading, list);
}

/** What a view says for which nothing is configured: a sentence, and what to write in the file for it. */
function notConfigured(sentence, yaml, ...more) {
  const text = el("p", { class: "empty" }, `${sentence} `, el("code", { text: yaml }), ...more);
  return el("div", { hidden: true }, el("div", { class: "card" }, text));
}
