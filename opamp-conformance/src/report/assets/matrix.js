"use strict";

// The verdicts in the order they are counted, each with the mark and word that stand for it.
const VERDICTS = {
  "pass": { mark: "✓", word: "pass" },
  "non-strict": { mark: "!", word: "non-strict" },
  "fail": { mark: "✗", word: "fail" },
  "harness-error": { mark: "‼", word: "error" },
  "untestable": { mark: "?", word: "untestable" },
  "not-applicable": { mark: "–", word: "n/a" },
  "not-judged": { mark: "·", word: "not judged" },
};

const MEANINGS = {
  "pass": "seen as required",
  "non-strict": "a recommendation missed",
  "fail": "a mandatory requirement missed",
  "harness-error": "the tester itself could not go on",
  "untestable": "could not be seen in this run",
  "not-applicable": "does not concern it",
  "not-judged": "no case judges it",
};

const TOPICS = {
  NET: "endpoint and handshake", WS: "framing", SIZE: "limits", HTTP: "transport",
  ID: "instance_uid", SEQ: "sequence numbers", CAP: "capabilities", STATUS: "reporting",
  DELTA: "status compression", DESC: "description", HEALTH: "health of components", ERR: "errors",
  HB: "heartbeat", CFG: "remote config", CONN: "connection settings", CERT: "certificates",
  TLS: "TLS settings", PROXY: "proxy settings", TOFU: "first use", CSR: "certificate requests",
  OTHER: "other connections", TEL: "own telemetry", PKG: "packages", CMD: "command",
  CUST: "custom messages", COMP: "available components", EST: "connecting", CLOSE: "closing",
  DUP: "duplicates", AUTH: "authentication", RETRY: "retrying", THR: "throttling",
  SEC: "security advice", INTEROP: "interoperability", OTEL: "guidelines",
};

const OUTCOMES = [
  "conformant: nothing that counts was missed",
  "not conformant",
  "only recommendations were missed",
  "the tester could not do its work",
];

const byId = (id) => document.getElementById(id);

// Makes an element. Text goes in as text nodes only: none of it is ever parsed as markup.
function el(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function verdict(name, tag = "span") {
  const { mark, word } = VERDICTS[name] ?? { mark: "", word: String(name) };
  const shown = el("span", { class: "mark", "aria-hidden": "true" }, mark);
  return el(tag, { class: `verdict ${name}` }, shown, " ", word);
}

const label = (name) => `${VERDICTS[name].mark} ${VERDICTS[name].word}`;
const title = (subject) => subject.version ? `${subject.name} ${subject.version}` : subject.name;
const topic = (id) => id.slice(0, id.lastIndexOf("-"));
const plural = (count, what) => `${count} ${what}${count === 1 ? "" : "s"}`;
const isMiss = (name) => name === "fail" || name === "non-strict";

// What a cell says beside its verdict: that a miss is known, does not count, or is only noted.
function remark(report, row) {
  const judged = row.cases.map((index) => report.cases[index]).filter(Boolean);
  const found = (run, what) => run.findings.some((found) => found.row === row.row && what(found));
  if (!isMiss(row.verdict)) {
    return judged.some((run) => found(run, ({ noted }) => noted)) ? "with a note" : "";
  }
  const missed = judged.filter((run) => found(run, ({ verdict }) => isMiss(verdict)));
  if (missed.length > 0 && missed.every((run) => run.known && Object.hasOwn(run.known, row.row))) {
    return "known";
  }
  return row.counts ? "" : "does not count";
}

async function read() {
  const bytes = Uint8Array.from(atob(byId("data").textContent.trim()), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

// One entry for each requirement: its part of the table, and what the filters look at.
let rows = [];
let data;

function about() {
  const { reports } = data;
  if (reports.length === 0) {
    byId("about").textContent = "There are no reports in this page.";
    return;
  }
  const count = (side) => reports.filter((report) => report.subject.side === side).length;
  const list = (values) => [...new Set(values)].sort().join(", ");
  const days = [...new Set(reports.map((report) => report.started.slice(0, 10)))].sort();
  const when = days.length > 1 ? `${days[0]} to ${days.at(-1)}` : days[0] ?? "";
  byId("about").textContent =
    `${plural(count("server"), "server")} and ${plural(count("client"), "client")}, ` +
    `held to the OpAMP specification ${list(reports.map((report) => report.spec))} ` +
    `by opamp-conformance ${list(reports.map((report) => report.tester))}, ${when}`;
}

function implementations() {
  const names = Object.keys(VERDICTS);
  const head = el("tr", null, el("th", { scope: "col" }, "Implementation"),
    el("th", { scope: "col" }, "Outcome"),
    ...names.map((name) => el("th", { scope: "col", class: "count" }, verdict(name))));
  const lines = data.reports.map((report) => {
    const { subject } = report;
    const counts = names.map((name) =>
      report.rows.filter((row) => (row.verdict ?? "not-judged") === name).length);
    const shares = el("div", { class: "shares", "aria-hidden": "true" });
    names.forEach((name, i) => {
      if (counts[i] === 0) return;
      const share = el("i", { class: name });
      share.style.flexGrow = counts[i];
      shares.append(share);
    });
    const stale = report.stale ?? [];
    const run = `${plural(report.cases.length, "case")} in ${seconds(report.duration_ms)}, ` +
      `${report.started.slice(0, 10)}, held to ${report.spec}`;
    return el("tr", null,
      el("th", { scope: "row", class: "name" }, el("strong", null, title(subject)),
        ` (${subject.side})`, el("br"), el("code", { class: "soft" }, subject.reached_by)),
      el("td", { class: "outcome" }, OUTCOMES[report.exit_status] ?? OUTCOMES[3],
        stale.length > 0 ? `; stale in the baseline: ${stale.join(", ")}` : null,
        el("br"), el("span", { class: "soft" }, run), shares),
      ...counts.map((count, i) =>
        el("td", { class: "count", "data-label": label(names[i]) }, String(count))));
  });
  byId("implementations").append(el("thead", null, head), el("tbody", null, ...lines));
  byId("legend").append(...names.map((name) =>
    el("span", { class: "meaning" }, verdict(name), ` ${MEANINGS[name]}`)));
}

const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

function matrix() {
  const columns = data.reports.map((report) => el("th", { scope: "col" },
    el("strong", null, report.subject.name), report.subject.version
      ? el("span", null, ` ${report.subject.version}`) : null,
    el("br"), el("span", { class: "soft" }, report.subject.side)));
  const table = el("table", { role: "grid", "aria-labelledby": "matrix-title" },
    el("thead", null, el("tr", null, el("th", { scope: "col" }, "Requirement"), ...columns)));
  const results = data.reports.map((report) =>
    new Map(report.rows.map((row) => [row.row, row])));
  let body;
  for (const requirement of data.requirements) {
    const name = topic(requirement.id);
    if (body?.dataset.topic !== name) {
      body = el("tbody", { "data-topic": name }, el("tr", { class: "topic" },
        el("th", { scope: "rowgroup" }, name, el("span", null, ` ${TOPICS[name] ?? ""}`)),
        ...data.reports.map((report) => el("td", null, ...tally(report, name)))));
      table.append(body);
    }
    rows.push(line(requirement, results.map((rows) => rows.get(requirement.id)), body));
  }
  const nothing = el("p", { class: "nothing", hidden: "" }, "No requirement matches.");
  byId("matrix").append(table, nothing);
  byId("matrix").addEventListener("keydown", move);
}

// What the requirements of a topic come to for one implementation, for example `✓ 7 ✗ 1`.
function tally(report, name) {
  const counts = {};
  for (const row of report.rows.filter((row) => topic(row.row) === name)) {
    const name = row.verdict ?? "not-judged";
    counts[name] = (counts[name] ?? 0) + 1;
  }
  return Object.keys(VERDICTS).filter((name) => counts[name]).map((name) =>
    el("span", { class: `tally ${name}`, title: VERDICTS[name].word },
      `${VERDICTS[name].mark} ${counts[name]}`));
}

function line(requirement, results, body) {
  const { id, level, maturity, text } = requirement;
  const cases = new Set();
  const cells = results.map((row, column) => {
    const report = data.reports[column];
    if (!row) {
      const why = `concerns the ${report.subject.side === "server" ? "client" : "server"}`;
      return el("td", { class: "other", role: "gridcell", "aria-label": why, title: why });
    }
    for (const index of row.cases) cases.add(report.cases[index]?.case);
    const button = verdict(row.verdict ?? "not-judged", "button");
    button.setAttribute("type", "button");
    button.tabIndex = -1;
    const note = remark(report, row);
    if (note) button.append(el("small", null, note));
    button.addEventListener("click", () => show(id, column));
    return el("td", { role: "gridcell" }, button);
  });
  const head = el("th", { scope: "row" },
    el("span", { class: "id" }, id), " ",
    el("span", { class: "class" }, maturity === "stable" ? level : `${level}, ${maturity}`),
    el("p", null, text));
  const made = el("tr", { class: "row" }, head, ...cells);
  body.append(made);
  const found = [id, text, level, maturity, ...cases].join("\n").toLowerCase();
  return { requirement, results, cells, made, body, found };
}

// Keyboard: the table is one stop of the Tab key, the arrow keys move in it.
function move(event) {
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const step = steps[event.key];
  const at = place(event.target);
  if (!step || !at) return;
  event.preventDefault();
  const [down, right] = step;
  const seen = rows.filter((row) => !row.made.hidden);
  let y = seen.indexOf(at.row);
  let x = at.column;
  for (;;) {
    y += down;
    x += right;
    const cell = seen[y]?.cells[x];
    if (!cell) return;
    const button = cell.hidden ? null : cell.querySelector("button");
    if (button) return focusOn(button);
  }
}

function place(button) {
  const row = rows.find((row) => row.made.contains(button));
  return row && { row, column: row.cells.findIndex((cell) => cell.contains(button)) };
}

function focusOn(button) {
  for (const old of byId("matrix").querySelectorAll("button[tabindex='0']")) old.tabIndex = -1;
  button.tabIndex = 0;
  button.focus();
}

// The filters.
function choices(id, values) {
  byId(id).append(el("option", { value: "" }, "all"),
    ...values.map(([value, text]) => el("option", { value }, text)));
}

function filters() {
  const used = (key) => [...new Set(data.requirements.map((row) => row[key]))];
  choices("side", [["server", "servers"], ["client", "clients"]]);
  choices("level", used("level").sort().map((level) => [level, level]));
  choices("maturity", used("maturity").sort().map((name) => [name, name]));
  choices("verdict", Object.keys(VERDICTS).map((name) => [name, label(name)]));
  const form = byId("filters");
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  filter();
}

function filter() {
  const value = (id) => byId(id).value;
  const words = value("search").toLowerCase().split(/\s+/).filter(Boolean);
  const columns = data.reports.map(({ subject }) => !value("side") || subject.side === value("side"));
  for (const line of byId("matrix").querySelectorAll("tr")) {
    columns.forEach((shown, column) => { line.children[column + 1].hidden = !shown; });
  }
  let shown = 0;
  for (const { requirement, results, made, found } of rows) {
    const verdicts = results.filter((row, column) => row && columns[column])
      .map((row) => row.verdict ?? "not-judged");
    made.hidden = verdicts.length === 0
      || !words.every((word) => found.includes(word))
      || (value("level") && requirement.level !== value("level"))
      || (value("maturity") && requirement.maturity !== value("maturity"))
      || (value("verdict") && !verdicts.includes(value("verdict")))
      || (byId("differ").checked && new Set(verdicts).size < 2);
    if (!made.hidden) shown += 1;
  }
  for (const body of byId("matrix").querySelectorAll("tbody")) {
    body.hidden = !body.querySelector("tr.row:not([hidden])");
  }
  byId("matrix").querySelector(".nothing").hidden = shown > 0;
  byId("shown").textContent = `${shown} of ${plural(rows.length, "requirement")}`;
  for (const old of byId("matrix").querySelectorAll("button[tabindex='0']")) old.tabIndex = -1;
  const first = byId("matrix").querySelector("tr.row:not([hidden]) td:not([hidden]) button");
  if (first) first.tabIndex = 0;
}

async function main() {
  try {
    data = await read();
  } catch (error) {
    byId("about").textContent = typeof DecompressionStream === "undefined"
      ? "This page needs a browser with DecompressionStream (2023 or newer)."
      : `The results in this page cannot be read: ${error}`;
    return;
  }
  about();
  implementations();
  matrix();
  filters();
  document.querySelector("main").hidden = false;
  showFromAddress();
}

document.addEventListener("DOMContentLoaded", main);
