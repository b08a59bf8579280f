// What a cell opens: one requirement and one implementation.
let opened;

const REPOSITORY = "https://github.com/open-telemetry/opamp-spec/blob";

function show(id, column) {
  const row = rows.find((row) => row.requirement.id === id);
  const result = row?.results[column];
  if (!result) return;
  opened = { row, column };
  const report = data.reports[column];
  byId("detail-title").textContent = `${id}: ${title(report.subject)} (${report.subject.side})`;
  // The cases that made the verdict what it is come first.
  const made = (run) => run.findings.some((found) =>
    found.row === id && found.verdict === result.verdict) ? 0 : 1;
  const cases = result.cases.map((index) => report.cases[index]).filter(Boolean)
    .sort((a, b) => made(a) - made(b));
  byId("detail-body").replaceChildren(...heading(row.requirement, result, report),
    ...cases.map((run) => caseOf(run, row.requirement.id)));
  byId("previous").disabled = !neighbour(-1);
  byId("next").disabled = !neighbour(1);
  const dialog = byId("detail");
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  byId("detail-title").focus();
  history.replaceState(null, "", `#${id}/${column}`);
}

function heading(requirement, result, report) {
  const { text, level, maturity, section, anchor, since, readings } = requirement;
  const parts = [];
  const note = remark(report, result);
  parts.push(el("p", null, verdict(result.verdict ?? "not-judged"), note ? ` ${note}` : null));
  parts.push(el("p", null, text));
  const release = since === "main" || report.spec === "main" ? "main" : report.spec;
  const facts = el("p", { class: "soft" }, `${level}, ${maturity}`);
  if (section) {
    // Anchors of the guidelines begin with the name of their file.
    const place = anchor.startsWith("#") ? `specification.md${anchor}` : anchor;
    facts.append("; ", el("a", { href: `${REPOSITORY}/${release}/${place}`, target: "_blank",
      rel: "noopener noreferrer" }, section));
    if (since === "main") facts.append("; newer than the last release");
  }
  parts.push(facts);
  if (result.reason) parts.push(el("p", null, `Reason: ${result.reason}`));
  for (const id of readings) {
    const reading = data.readings.find((reading) => reading.id === id);
    if (!reading) continue;
    parts.push(el("details", null, el("summary", null, `Reading ${id}: ${reading.title}`),
      el("p", null, reading.text)));
  }
  const { subject, seed, started, tester } = report;
  parts.push(el("p", { class: "soft" }, `Run of ${started}, seed ${seed}, by opamp-conformance ` +
    `${tester}, reached by `, el("code", null, subject.reached_by)));
  if (result.cases.length === 0) parts.push(el("p", { class: "soft" }, "No case judged it."));
  return parts;
}

function caseOf(run, id) {
  const own = run.findings.filter((found) => found.row === id);
  const rest = run.findings.filter((found) => found.row !== id);
  const over = run.transport ? ` over ${run.transport === "http" ? "plain HTTP" : "WebSocket"}` : "";
  const made = el("section", { class: "case" }, el("header", null, el("h3", null, run.case + over),
    verdict(run.verdict), el("span", { class: "soft" }, seconds(run.duration_ms))));
  const facts = el("dl");
  const fact = (list, name, ...value) => list.append(el("dt", null, name), el("dd", null, ...value));
  fact(facts, "Does", run.does);
  fact(facts, "Expects", run.expects);
  if (run.stopped) fact(facts, "Stopped", run.stopped);
  made.append(facts);
  for (const found of own) {
    const list = el("dl", { class: `finding ${found.verdict}` });
    fact(list, found.row, verdict(found.verdict), found.noted ? " with a note" : "");
    if (found.expected) fact(list, "Expected", found.expected);
    if (found.actual) fact(list, found.expected ? "Actual" : "Reason", found.actual);
    const known = run.known && Object.hasOwn(run.known, id) ? run.known[id] : null;
    if (known !== null) fact(list, "Known", known);
    made.append(list);
  }
  if (rest.length > 0) {
    const list = el("dl");
    for (const found of rest) fact(list, found.row, verdict(found.verdict), ` ${found.actual}`);
    const summary = el("summary", null, `Also judged here: ${plural(rest.length, "requirement")}`);
    made.append(el("details", null, summary, list));
  }
  made.append(transcript(run, own));
  return made;
}

// Built when it is looked at first, as a run can have many thousands of entries.
function transcript(run, own) {
  const lines = run.transcript ?? [];
  if (lines.length === 0) return el("p", { class: "soft" }, "Nothing went over the wire.");
  const deciding = new Set(own.map((found) => found.entry));
  const bytes = el("input", { type: "checkbox" });
  const list = el("ol", { class: "transcript" });
  const made = el("details", null, el("summary", null, `Transcript: ${lines.length} entries`),
    el("label", { class: "soft" }, bytes, " with bytes"), list);
  const fill = () => list.replaceChildren(...lines.map((line, index) =>
    entry(line, deciding.has(index), bytes.checked)));
  bytes.addEventListener("change", fill);
  made.addEventListener("toggle", () => { if (made.open && !list.firstChild) fill(); });
  made.open = own.some((found) => isMiss(found.verdict));
  return made;
}

const DIRECTIONS = {
  tester: "tester → subject",
  subject: "subject → tester",
  remark: "remark",
};

function entry(line, decides, bytes) {
  const head = el("div", { class: "head" }, el("span", { class: "time" }, `${line.at_ms} ms`),
    el("span", { class: "by" }, DIRECTIONS[line.by] ?? line.by),
    line.connection > 0 ? el("span", { class: "soft" }, `#${line.connection}`) : null,
    el("span", null, line.what),
    decides ? el("strong", null, "◀ decided it") : null);
  const made = el("li", null, head);
  made.classList.toggle("remark", line.by === "remark");
  made.classList.toggle("decides", decides);
  if (line.text) made.append(el("pre", { tabindex: "0" }, line.text));
  if (bytes && line.hex) made.append(el("pre", { tabindex: "0" }, dump(line.hex)));
  return made;
}

// Sixteen bytes to a line: where they are, in hexadecimal, and as ASCII.
function dump(hex) {
  const lines = [];
  for (let at = 0; at < hex.length; at += 32) {
    const pairs = hex.slice(at, at + 32).match(/../g) ?? [];
    const ascii = pairs.map((pair) => {
      const code = parseInt(pair, 16);
      return code >= 32 && code < 127 ? String.fromCharCode(code) : ".";
    });
    const place = (at / 2).toString(16).padStart(6, "0");
    lines.push(`${place}  ${pairs.join(" ").padEnd(47)}  ${ascii.join("")}`);
  }
  return lines.join("\n");
}

// The next requirement, in the table as filtered, that has a cell for the same implementation.
function neighbour(step) {
  const seen = rows.filter((row) => !row.made.hidden && row.results[opened.column]);
  const at = seen.indexOf(opened.row);
  return at < 0 ? undefined : seen[at + step];
}

function go(step) {
  const row = neighbour(step);
  if (row) show(row.requirement.id, opened.column);
}

function showFromAddress() {
  const [id, column] = location.hash.slice(1).split("/");
  if (column !== undefined) show(id, Number(column));
}

byId("previous").addEventListener("click", () => go(-1));
byId("next").addEventListener("click", () => go(1));
byId("close").addEventListener("click", () => byId("detail").close());
byId("detail").addEventListener("click", (event) => {
  // A click beside the dialog arrives as a click on the dialog itself, at a place outside it.
  if (event.target === byId("detail") && event.clientX < byId("detail").offsetLeft) {
    byId("detail").close();
  }
});
byId("detail").addEventListener("close", () => {
  history.replaceState(null, "", location.pathname + location.search);
  const button = opened?.row.cells[opened.column].querySelector("button");
  if (button && !opened.row.made.hidden) focusOn(button);
});
