// What stands above the page: questions before an action, the token, and what came of it.

/** Tells an outcome, on the screen and to screen readers. */
function tell(text, bad = false) {
  const line = el("p", { class: bad ? "bad" : "", text });
  byId("outcomes").append(line);
  setTimeout(() => line.remove(), bad ? 12_000 : 6000);
}

/** Opens a dialog with these children; resolves when it is closed. */
function open(dialog, ...children) {
  dialog.replaceChildren(...children);
  dialog.showModal();
  return new Promise((closed) => dialog.addEventListener("close", closed, { once: true }));
}

/** A field of a dialog: `{ name, label, hint, options, required, type }`. */
function field({ name, label, hint, options, required, type }) {
  if (type === "checkbox") return el("label", { class: "check" }, el("input", { name, type }), label);
  const input = options
    ? el("select", { name, required }, ...options.map((each) => el("option", { value: each, text: each })))
    : el("input", { name, required, type: type ?? "text", autocomplete: "off", spellcheck: "false", maxlength: "200" });
  return el("label", {}, label, hint && el("span", { class: "muted", text: ` ${hint}` }), input);
}

/**
 * Asks before something is done, and does it. `action` is `{ title, text, verb, danger, fields, run, done }`; `run(values)` does it
 * and `done(answer)` says what came of it. What goes wrong is told in the dialog, which stays open.
 */
function confirmed(action) {
  const dialog = byId("confirm");
  const wrong = el("p", { class: "wrong", role: "alert", hidden: true });
  const cancel = el("button", { type: "button", text: "Cancel", onclick: () => dialog.close() });
  const go = el("button", { type: "submit", class: action.danger ? "danger" : "primary", text: action.verb });
  const submit = async (event) => {
    event.preventDefault();
    go.disabled = true;
    setHidden(wrong, true);
    try {
      const values = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
      const answer = await action.run(values);
      dialog.close();
      tell(action.done(answer, values));
    } catch (error) {
      setText(wrong, error.message);
      setHidden(wrong, false);
      go.disabled = false;
    }
  };
  const form = el(
    "form",
    { onsubmit: submit },
    el(
      "div",
      { class: "body" },
      el("h2", { id: "confirm-heading", text: action.title }),
      el("p", { id: "confirm-text", text: action.text }),
      ...(action.fields ?? []).map(field),
      wrong,
    ),
    el("div", { class: "buttons" }, cancel, go),
  );
  const closed = open(dialog, form);
  // Whoever presses Enter without reading changes nothing that hurts.
  (form.querySelector("input, select") ?? (action.danger ? cancel : go)).focus();
  return closed;
}

let asking = null;

/** Asks for the token; whether one was given. `wrong` says that the one before was not taken. */
function askForToken(wrong) {
  asking ??= (async () => {
    const dialog = byId("ask");
    let given = false;
    const submit = (event) => {
      event.preventDefault();
      const token = new FormData(form).get("token").trim();
      if (!token) return;
      sessionStorage.setItem(TOKEN, token);
      given = true;
      dialog.close();
    };
    const form = el(
      "form",
      { onsubmit: submit },
      el(
        "div",
        { class: "body" },
        el("h2", { id: "ask-heading", text: "A token is needed" }),
        el("p", {
          text:
            wrong || sessionStorage.getItem(TOKEN)
              ? "The token that was given is not valid for this."
              : "This Arriero asks for the token that its configuration names in admin.token_file.",
        }),
        field({ name: "token", label: "Token", type: "password", required: true }),
        el("p", {
          class: "muted small",
          text: "It is kept by this tab until it is closed, and sent to this server only.",
        }),
      ),
      el(
        "div",
        { class: "buttons" },
        el("button", { type: "button", text: "Cancel", onclick: () => dialog.close() }),
        el("button", { type: "submit", class: "primary", text: "Use it" }),
      ),
    );
    await open(dialog, form);
    setHidden(byId("token-button"), false);
    return given;
  })().finally(() => (asking = null));
  return asking;
}

const SHORTCUTS = "arriero-shortcuts";
const shortcutsOn = () => localStorage.getItem(SHORTCUTS) !== "off";

function openHelp() {
  const dialog = byId("panel");
  const close = el("button", { type: "button", text: "Close", onclick: () => dialog.close() });
  const keys = [
    ...VIEWS.map((view, index) => [KEYS[index], view.title]),
    ["/", "Filter what is shown"],
    ["t", "Other theme"],
    ["?", "This help"],
    ["Esc", "Close a dialog"],
  ];
  const onoff = el("input", {
    type: "checkbox",
    onchange: (event) => localStorage.setItem(SHORTCUTS, event.target.checked ? "on" : "off"),
  });
  onoff.checked = shortcutsOn();
  open(
    dialog,
    el(
      "div",
      { class: "body" },
      el("h2", { id: "panel-heading", text: "Keyboard" }),
      el(
        "dl",
        { class: "facts" },
        ...keys.flatMap(([key, what]) => [el("dt", {}, el("kbd", { text: key })), el("dd", { text: what })]),
      ),
      el("label", { class: "check" }, onoff, "Single keys are on"),
      el("p", {
        class: "muted",
        text:
          "Numbers are of the last ten seconds, percentiles of the last minute. Nothing of what requests say " +
          "is shown here or known to this page.",
      }),
    ),
    el("div", { class: "buttons" }, close),
  );
  close.focus();
}
