// Owns what a writer saw: counts by phase, the errors that reached the application, the answers that were wrong. Out:
// lines of JSON on standard output, as ../README.md says.

// Single errors that are printed; all are counted.
const LINES_MAX = 2000;
// Different error texts that are kept apart.
const TEXTS_MAX = 50;

export class Record {
  errors = 0;
  unknown = 0;
  lost = 0;
  doubled = 0;
  verified = 0;
  unverified = 0;
  texts = {};
  lines = 0;
  phases = [];
  second = newSecond();

  constructor(writer) {
    this.writer = writer;
    this.print({ kind: "started" });
    this.phase("all");
  }

  print(content) {
    process.stdout.write(`${JSON.stringify({ ...content, writer: this.writer, t: Date.now() })}\n`);
  }

  // Begins a phase; what is counted from now on is counted there.
  phase(name) {
    const began = performance.now();
    if (this.phases.length > 0) this.current().ended = began;
    this.phases.push({ name, began, writes: 0, reads: 0, errors: 0, latencies: [], gapMs: 0 });
  }

  current() {
    return this.phases[this.phases.length - 1];
  }

  done(isWrite, tookMs) {
    const what = isWrite ? "writes" : "reads";
    this.current()[what] += 1;
    this.second[what] += 1;
    this.took(tookMs);
  }

  took(tookMs) {
    this.current().latencies.push(tookMs);
    this.second.max_ms = Math.max(this.second.max_ms, tookMs);
  }

  gap(gapMs) {
    this.current().gapMs = Math.max(this.current().gapMs, gapMs);
  }

  failed(op, key, unknown, tookMs, error) {
    const text = `${error.name}: ${error.message}`;
    this.errors += 1;
    if (unknown) this.unknown += 1;
    this.current().errors += 1;
    this.second.errors += 1;
    this.took(tookMs);
    const kept = text in this.texts || Object.keys(this.texts).length < TEXTS_MAX ? text : "others";
    this.texts[kept] = (this.texts[kept] ?? 0) + 1;
    this.lines += 1;
    if (this.lines <= LINES_MAX) this.print({ kind: "error", op, key, unknown, ms: round(tookMs), text });
  }

  // Notes an answer that no kept promise explains: what is "lost" or "doubled".
  wrong(what, op, key, expected, found) {
    if (what === "doubled") this.doubled += 1;
    else this.lost += 1;
    this.second.wrong += 1;
    this.lines += 1;
    if (this.lines <= LINES_MAX) this.print({ kind: "wrong", what, op, key, expected, found });
  }

  verifiedOne(wasRead) {
    if (wasRead) this.verified += 1;
    else this.unverified += 1;
  }

  tick() {
    const second = this.second;
    this.second = newSecond();
    this.print({ kind: "second", phase: this.current().name, ...second, max_ms: round(second.max_ms) });
  }

  // Ends the last phase: what follows is verification, not load.
  stop() {
    this.phase("verification");
  }

  summary() {
    const loaded = this.phases.slice(0, -1);
    const { errors, unknown, lost, doubled, verified, unverified } = this;
    this.print({
      kind: "summary",
      acknowledged: loaded.reduce((sum, phase) => sum + phase.writes, 0),
      errors,
      unknown,
      lost,
      doubled,
      verified,
      unverified,
      error_texts: this.texts,
      phases: loaded.map(figures),
    });
  }
}

function newSecond() {
  return { writes: 0, reads: 0, errors: 0, wrong: 0, max_ms: 0 };
}

function figures({ name, began, ended, writes, reads, errors, latencies, gapMs }) {
  const sorted = Float64Array.from(latencies).sort();
  const percentile = (share) => (sorted.length > 0 ? round(sorted[Math.floor(share * (sorted.length - 1))]) : 0);
  return {
    name,
    seconds: round((ended - began) / 1000),
    writes,
    reads,
    errors,
    p50_ms: percentile(0.5),
    p99_ms: percentile(0.99),
    p999_ms: percentile(0.999),
    max_ms: percentile(1),
    gap_ms: round(gapMs),
  };
}

function round(value) {
  return Math.round(value * 100) / 100;
}
