// Numbers, sizes and times as people read them.

const plain = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

const NONE = "–";

const count = (number) => plain.format(number);

/** A rate: two digits that mean something. */
function rate(number) {
  if (number === 0) return "0";
  if (number >= 100) return plain.format(number);
  return number >= 10 ? number.toFixed(1) : number.toFixed(2);
}

/** Milliseconds as a number and its unit. */
function time(ms) {
  if (ms === null || ms === undefined) return [NONE, ""];
  if (ms < 10) return [ms.toFixed(1), "ms"];
  if (ms < 1000) return [plain.format(ms), "ms"];
  if (ms < 60_000) return [(ms / 1000).toFixed(ms < 10_000 ? 2 : 1), "s"];
  if (ms < 3_600_000) return twoUnits(Math.floor(ms / 1000), "min", "s");
  return twoUnits(Math.floor(ms / 60_000), "h", "min");
}

/** `2 min 5 s`; without the smaller one when it is nothing. */
function twoUnits(number, larger, smaller) {
  const [whole, rest] = [Math.floor(number / 60), number % 60];
  return rest ? [`${whole} ${larger} ${rest}`, smaller] : [String(whole), larger];
}

const timeText = (ms) => time(ms).join(" ").trim();

/** Bytes as a number and its unit. */
function size(bytes) {
  if (bytes >= 1e9) return `${(bytes / 1e9).toFixed(bytes >= 1e11 ? 0 : 1)} GB`;
  if (bytes >= 1e6) return `${Math.round(bytes / 1e6)} MB`;
  if (bytes >= 1e4) return `${Math.round(bytes / 1e3)} kB`;
  return `${plain.format(bytes)} B`;
}

/** Bytes of a whole, where that is known. */
function sizeOf(part, whole) {
  if (whole === null) return size(part);
  const short = (bytes) => String(Number((bytes / 1e9).toPrecision(bytes < 1e11 ? 2 : 3)));
  return `${short(part)} / ${short(whole)} GB`;
}

/** A moment of RFC 3339; what cannot be read is shown as it is. */
function at(text, format = moment) {
  const date = new Date(text);
  return Number.isNaN(date.getTime()) ? String(text) : format.format(date);
}

/** How far a moment is from now, in whole units. */
function away(text, now = Date.now()) {
  const ms = new Date(text).getTime() - now;
  if (Number.isNaN(ms)) return "";
  // Ollama's word for "never" is a date centuries from now.
  if (ms > 50 * 365 * 86_400_000) return "never";
  const seconds = Math.round(Math.abs(ms) / 1000);
  if (seconds === 0) return "now";
  const [number, unit] =
    seconds < 90
      ? [seconds, "s"]
      : seconds < 5400
        ? [Math.round(seconds / 60), "min"]
        : seconds < 129_600
          ? [Math.round(seconds / 3600), "h"]
          : [Math.round(seconds / 86_400), "days"];
  return ms >= 0 ? `in ${number} ${unit}` : `${number} ${unit} ago`;
}

/** `3 requests`, `1 request`. */
const several = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

/** The words of the API without their underscores. */
const words = (text) => String(text).replaceAll("_", " ");
