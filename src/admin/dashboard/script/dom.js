// Elements, and lists of them that are changed as little as possible. Texts are only ever set as texts.

/** Makes an element. `on…` are listeners, `text` is its text, everything else is an attribute. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (name === "text") node.textContent = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== undefined && child !== null && child !== false));
  return node;
}

const byId = (id) => document.getElementById(id);

/** Sets the text of an element that holds nothing else; does nothing when it is the same. */
function setText(node, text) {
  const only = node.firstChild;
  if (only && only.nodeType === Node.TEXT_NODE && !only.nextSibling) {
    if (only.data !== text) only.data = text;
  } else if (node.textContent !== text || only) {
    node.textContent = text;
  }
}

function setClass(node, value) {
  if (node.className !== value) node.className = value;
}

function setAttribute(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

function setHidden(node, hidden) {
  if (node.hidden !== hidden) node.hidden = hidden;
}

const known = new WeakMap();

/**
 * Makes the children of `parent` those of `items`, in their order. `make(item)` returns `{ node, update }`; an item whose key was
 * there before keeps its node, and with it focus and scroll.
 */
function keyed(parent, items, keyOf, make) {
  let rows = known.get(parent);
  if (!rows) known.set(parent, (rows = new Map()));
  const gone = new Set(rows.keys());
  let place = parent.firstChild;
  for (const item of items) {
    const key = keyOf(item);
    let row = rows.get(key);
    if (!row) rows.set(key, (row = make(item)));
    gone.delete(key);
    row.update(item);
    if (row.node === place) place = place.nextSibling;
    else parent.insertBefore(row.node, place);
  }
  for (const key of gone) {
    rows.get(key).node.remove();
    rows.delete(key);
  }
}

/** A badge whose word and kind can change. */
function badge() {
  const node = el("span", { class: "badge" });
  return {
    node,
    set(word, kind = "") {
      setText(node, word);
      setClass(node, `badge ${kind}`);
    },
  };
}

/** A thin bar: how much of the whole is taken. */
function bar() {
  const fill = el("i");
  const node = el("span", { class: "bar", "aria-hidden": "true" }, fill);
  let last;
  return {
    node,
    set(share) {
      setHidden(node, share === null);
      const scale = `scaleX(${Math.min(1, Math.max(0, share ?? 0)).toFixed(3)})`;
      if (scale === last) return;
      last = fill.style.transform = scale;
      setClass(node, share > 0.9 ? "bar full" : "bar");
    },
  };
}
