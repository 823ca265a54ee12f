// Lines over the last ten minutes, drawn by hand, and the view that shows them.

/** How far back charts go, in minutes: as little as holds all that is known. */
const SPANS = [1, 2, 5, 10];
const MINUTE = 60_000;
const DASHES = { a: [], b: [6, 4], c: [2, 3], g: [1, 3] };

/** A round number not below `most`, so that the scale does not jump about. */
function ceiling(most) {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= most * 1.02) ?? 10 * power;
}

/**
 * A chart of `lines`: `{ label, style, of(point) }`, where a missing value is a gap. `format(value)` writes a value, `scale(value)` one
 * of the round values at the side.
 */
function chart({ title, lines, format, scale = format }) {
  const canvas = el("canvas", { role: "img" });
  const legend = el("div", { class: "legend" });
  const entries = lines.map((line) => {
    const value = el("b");
    const node = el("span", { class: line.style }, `${line.label} `, value);
    legend.append(node);
    return { ...line, node, value };
  });
  const scaleNote = el("span", { class: "muted small num" });
  const node = el(
    "figure",
    { class: "card chart" },
    el("div", { class: "title" }, el("h2", { text: title }), el("span", { class: "spring" }), scaleNote),
    canvas,
    legend,
  );
  let pointer = null;
  canvas.addEventListener("pointermove", (event) => {
    pointer = event.offsetX / canvas.clientWidth;
    draw();
  });
  canvas.addEventListener("pointerleave", () => {
    pointer = null;
    draw();
  });

  function draw() {
    const points = app.points;
    const end = points.at(-1)?.at ?? Date.now();
    const age = end - (points[0]?.at ?? end);
    const minutes = SPANS.find((each) => age <= each * MINUTE + 3000) ?? SPANS.at(-1);
    const span = minutes * MINUTE;
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width) return;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    let most = 0;
    for (const point of points) for (const line of entries) most = Math.max(most, line.of(point) ?? 0);
    const top = ceiling(most);
    const muted = getComputedStyle(scaleNote).color;
    const [x, y] = [
      (time) => width * (1 - (end - time) / span),
      (value) => height - 16 - (height - 26) * (value / top),
    ];

    pen.lineWidth = 1;
    pen.font = "11px system-ui, sans-serif";
    pen.setLineDash([]);
    for (const share of [0, 0.5, 1]) {
      const level = Math.round(y(top * share)) + 0.5;
      pen.globalAlpha = 0.25;
      pen.strokeStyle = muted;
      pen.beginPath();
      pen.moveTo(0, level);
      pen.lineTo(width, level);
      pen.stroke();
      pen.globalAlpha = 1;
      pen.fillStyle = muted;
      if (share > 0) pen.fillText(scale(top * share), 2, level - 4 + (share === 1 ? 14 : 0));
    }
    pen.fillText(`${minutes} min ago`, 2, height - 2);
    pen.textAlign = "right";
    pen.fillText("now", width - 2, height - 2);
    pen.textAlign = "left";

    const under = pointer === null ? points.at(-1) : nearest(points, end - span * (1 - pointer));
    pen.lineWidth = 1.75;
    pen.lineJoin = "round";
    for (const line of entries) {
      pen.strokeStyle = getComputedStyle(line.node).color;
      pen.setLineDash(DASHES[line.style]);
      pen.beginPath();
      let [start, last] = [null, null];
      for (const point of points) {
        const value = line.of(point);
        if (value === null || value === undefined) {
          [start, last] = [null, null];
          continue;
        }
        // A gap where nothing was heard.
        if (last !== null && point.at - last < 5000) {
          pen.lineTo(x(point.at), y(value));
        } else {
          pen.moveTo(x(point.at), y(value));
          start = point.at;
        }
        last = point.at;
      }
      pen.stroke();
      if (line.style === "a" && start !== null) {
        pen.lineTo(x(last ?? end), y(0));
        pen.lineTo(x(start), y(0));
        pen.globalAlpha = 0.1;
        pen.fillStyle = pen.strokeStyle;
        pen.fill();
        pen.globalAlpha = 1;
      }
      const value = under && line.of(under);
      setText(line.value, value === null || value === undefined ? NONE : format(value));
    }
    if (pointer !== null && under) {
      pen.setLineDash([]);
      pen.lineWidth = 1;
      pen.strokeStyle = muted;
      pen.beginPath();
      pen.moveTo(x(under.at), 4);
      pen.lineTo(x(under.at), height - 16);
      pen.stroke();
    }
    setText(scaleNote, under && pointer !== null ? at(under.at, clock) : "");
    const told = entries.map((line) => `${line.label} ${line.value.textContent}`).join(", ");
    setAttribute(canvas, "aria-label", `${title}, last ten minutes. Now: ${told}.`);
  }
  return { node, draw };
}

function nearest(points, time) {
  let best = null;
  for (const point of points) if (!best || Math.abs(point.at - time) < Math.abs(best.at - time)) best = point;
  return best;
}

const percentiles = (of) => [
  { label: "p50", style: "a", of: (point) => of(point)?.p50 },
  { label: "p95", style: "b", of: (point) => of(point)?.p95 },
  { label: "p99", style: "c", of: (point) => of(point)?.p99 },
];

/** How much goes on and how long it takes, and the last requests where a history is kept. */
const trafficView = {
  id: "traffic",
  title: "Traffic",
  make(content) {
    const charts = [
      chart({ title: "Time to first byte", lines: percentiles((point) => point.ttfb), format: timeText }),
      chart({ title: "Time to the whole answer", lines: percentiles((point) => point.duration), format: timeText }),
      chart({
        title: "Requests each second",
        format: rate,
        scale: String,
        lines: [
          { label: "ended", style: "a", of: (point) => point.requests },
          { label: "failed", style: "c", of: (point) => point.errors },
        ],
      }),
      chart({
        title: "Tokens each second",
        format: rate,
        scale: String,
        lines: [{ label: "of answers", style: "a", of: (point) => point.tokens }],
      }),
      chart({
        title: "Running and waiting",
        format: count,
        scale: String,
        lines: [
          { label: "in flight", style: "a", of: (point) => point.inFlight },
          { label: "waiting", style: "b", of: (point) => point.queued },
        ],
      }),
    ];
    const past = pastRequests();
    content.append(el("div", { class: "charts" }, ...charts.map((each) => each.node)), past.node);
    return { update: () => charts.forEach((each) => each.draw()), leave: past.stop };
  },
  summary: () => "the last ten minutes; percentiles are of the minute before each moment",
};

function pastRequests() {
  const list = table({
    label: "Last requests",
    key: (one) => one.seq,
    empty: "No request has ended yet.",
    columns: [
      { label: "Ended", width: "100px", class: "first num", text: (one) => at(one.at, clock) },
      {
        label: "Request",
        make: twoLines(
          (one) => `${one.method} ${one.path}`,
          (one) => one.model ?? "",
        ),
      },
      {
        label: "Outcome",
        width: "150px",
        make(item, cell) {
          const mark = badge();
          cell.append(mark.node);
          return (one) =>
            mark.set(
              `${one.status} ${words(one.reason)}`,
              one.status >= 500 ? "bad" : one.status >= 400 ? "warn" : "good",
            );
        },
      },
      { label: "Server", width: "14%", text: (one) => one.server || NONE },
      { label: "First byte", width: "100px", class: "right", text: (one) => timeText(one.ttfbMs) },
      { label: "Duration", width: "100px", class: "right", text: (one) => timeText(one.durationMs) },
      {
        label: "Tokens",
        width: "80px",
        class: "right",
        text: (one) => (one.outputTokens === null ? NONE : count(one.outputTokens)),
      },
    ],
  });
  const node = el(
    "div",
    { class: "group", hidden: true },
    el("div", { class: "heading" }, el("h2", { text: "Last requests" })),
    list.node,
  );
  const stop = repeat(2000, async () => {
    try {
      list.update((await show("/requests?limit=30")).requests);
      setHidden(node, false);
    } catch (error) {
      // No history is kept.
      if (error.status === 404 || error.status === 409) return false;
    }
    return true;
  });
  return { node, stop };
}
