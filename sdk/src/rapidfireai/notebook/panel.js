// The browser's side of the notebook panel. It asks the gateway itself, so that it works while the kernel is busy; where
// the browser cannot reach the gateway, the kernel passes requests on whenever it is idle.
//
//   Link      one way to the gateway, chosen anew whenever it breaks
//   Session   what is known of one experiment, kept up to date; one for each widget model
//   view      the page's elements, filled from the session

// As on the dashboard: a run has one colour wherever it is seen.
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8f6f00", "#9467bd"];
const GOLDEN_ANGLE = 137.508;
const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\])$/;
const ANSWER_MS = 4000; // after so long without an answer nobody is there
const SILENCE_MS = 60000; // a stream that says nothing for so long is dead
const KERNEL_MS = 60000; // how long a kernel may take that has just said that it is idle
const OPERATOR_MS = 60000; // how long an operation may take to be carried out
const MOST_MESSAGES = 6;

// --- configs -----------------------------------------------------------------------------------------------------

const isMapping = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const isObject = (value) => isMapping(value) && !Object.keys(value).some((key) => key.startsWith("$"));
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

function text(value) {
  if (isMapping(value)) return value.$ref?.label ?? value.$function ?? JSON.stringify(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

function flatten(config, prefix = "") {
  return Object.entries(config ?? {}).flatMap(([key, value]) =>
    isObject(value) ? flatten(value, `${prefix}${key}.`) : [[prefix + key, text(value)]],
  );
}

/** The values in which configs differ, one text for each config. */
export function differences(configs) {
  const flat = configs.map((config) => new Map(flatten(config)));
  const keys = [...new Set(flat.flatMap((each) => [...each.keys()]))].sort();
  const differing = keys.filter((key) => new Set(flat.map((each) => each.get(key))).size > 1);
  const last = (key) => key.slice(key.lastIndexOf(".") + 1);
  const name = (key) => (differing.filter((other) => last(other) === last(key)).length > 1 ? key : last(key));
  return flat.map((each) =>
    differing.filter((key) => each.has(key)).map((key) => `${name(key)}=${each.get(key)}`).join(" "),
  );
}

/** The merge patch that makes `after` of `before`; a value that became null is written so that it does not mean "remove". */
export function patchOf(before, after) {
  const patch = {};
  for (const key of new Set([...Object.keys(before), ...Object.keys(after)])) {
    if (same(before[key], after[key])) continue;
    if (!(key in after)) patch[key] = null;
    else if (isObject(before[key]) && isObject(after[key])) patch[key] = patchOf(before[key], after[key]);
    else patch[key] = after[key] === null ? { $none: true } : after[key];
  }
  return patch;
}

// --- the way to the gateway ----------------------------------------------------------------------------------------

class Unreachable extends Error {}

class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** Whether an address of the kernel's machine may be asked from here: its 127.0.0.1 is ours only if the page is, too. */
export function reachable(url, page) {
  const local = LOOPBACK.test(new URL(url).hostname);
  return !local || LOOPBACK.test(page.hostname) || !page.protocol.startsWith("http");
}

class Link {
  constructor(model) {
    this.model = model;
    this.login = null; // {url, token}; comes in a message and is kept nowhere else
    this.way = "none"; // "browser", "kernel"
    this.waiting = new Map();
    this.number = 0;
    this.told = new Set(); // who waits for a login or a pong
    model.on("msg:custom", (message) => this.hear(message));
  }

  hear(message) {
    if (message.kind === "login") this.login = message;
    if (message.kind === "answer") {
      this.waiting.get(message.id)?.(message);
      this.waiting.delete(message.id);
    }
    for (const tell of [...this.told]) tell(message.kind);
  }

  /** Ask the kernel for something and wait for the message that answers; false if none came in time. */
  asked(kind, answer) {
    this.model.send({ kind });
    return new Promise((resolve) => {
      const done = (value) => {
        clearTimeout(timer);
        this.told.delete(tell);
        resolve(value);
      };
      const tell = (heard) => heard === answer && done(true);
      const timer = setTimeout(() => done(false), ANSWER_MS);
      this.told.add(tell);
    });
  }

  async choose() {
    this.way = "none";
    if (!this.login && !(await this.asked("login", "login"))) {
      throw new Unreachable("The kernel has not told this panel where the gateway is. It does when it is idle; if no kernel runs, run the cell again.");
    }
    const direct = reachable(this.login.url, location) && (await this.isThere());
    if (direct) this.way = "browser";
    else if (await this.asked("ping", "pong")) this.way = "kernel";
    else throw new Unreachable(`The gateway at ${this.login.url} does not answer this browser, and the kernel is busy; it passes requests on when its cell has ended.`);
  }

  async isThere() {
    try {
      return (await fetch(`${this.login.url}/healthz`, { signal: AbortSignal.timeout(ANSWER_MS), credentials: "omit" })).ok;
    } catch {
      return false;
    }
  }

  /** Send a request below /api/v1 and return the JSON of the answer. */
  async call(method, path, body) {
    let [status, answer] = await this.send(method, path, body);
    if (status === 401 && (await this.renewed())) [status, answer] = await this.send(method, path, body);
    if (status === 0) throw new Unreachable(answer);
    let data;
    try {
      data = JSON.parse(answer);
    } catch {
      throw new Refused(status, `What answers at ${this.login.url} is no gateway: ${answer.slice(0, 80)}`);
    }
    if (status >= 400) throw new Refused(status, text(data.detail ?? answer));
    return data;
  }

  /** Whether the kernel knows a newer token: the local cluster makes one with every start. */
  async renewed() {
    const used = this.login.token;
    await this.asked("login", "login");
    return this.login.token !== used;
  }

  async send(method, path, body) {
    if (this.way !== "browser") return this.relay(method, path, body); // the token goes nowhere else
    try {
      const answer = await this.fetch(path, { method, body: body && JSON.stringify(body), signal: AbortSignal.timeout(30000) });
      return [answer.status, await answer.text()];
    } catch {
      return [0, `The gateway at ${this.login.url} does not answer.`];
    }
  }

  fetch(path, more) {
    const headers = { Authorization: `Bearer ${this.login.token}`, ...(more.body && { "Content-Type": "application/json" }) };
    return fetch(`${this.login.url}/api/v1${path}`, { ...more, headers, credentials: "omit", cache: "no-store" });
  }

  async relay(method, path, body) {
    // First whether it listens: else an operation would be carried out long after its user gave it up.
    if (!(await this.asked("ping", "pong"))) return [0, "The kernel is busy; it passes requests on when its cell has ended."];
    const id = ++this.number;
    this.model.send({ kind: "request", id, method, path, body });
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.waiting.delete(id) && resolve([0, "The kernel took this on and has not answered for a minute."]), KERNEL_MS);
      this.waiting.set(id, ({ status, text: answer }) => {
        clearTimeout(timer);
        resolve([status, answer]);
      });
    });
  }
}

/** Server-sent events of a response, as [event, data]; a stream that falls silent ends with an error. */
export async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      let timer;
      const silence = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Unreachable("The gateway has fallen silent.")), SILENCE_MS);
      });
      const { done, value } = await Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer));
      if (done) return;
      const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const lines = block.split("\n").map((line) => line.match(/^(event|data): ?(.*)$/)).filter(Boolean);
        const data = lines.filter((line) => line[1] === "data").map((line) => line[2]).join("\n");
        if (data) yield [lines.findLast((line) => line[1] === "event")?.[2] ?? "message", JSON.parse(data)];
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // the stream may be broken already, which is why it is left
  }
}

// --- what is known -------------------------------------------------------------------------------------------------

const condition = (body, type) => body.status?.conditions?.find((each) => each.type === type);
const isFinished = (experiment) => condition(experiment, "Finished")?.status === "True";
const clock = () => new Date().toLocaleTimeString();

class Session {
  constructor(model) {
    this.model = model;
    this.link = new Link(model);
    this.listeners = new Set();
    this.namespace = this.experiment = this.preview = null;
    this.experiments = [];
    this.runs = new Map();
    this.messages = [];
    this.trouble = "Connecting…";
    this.seen = "";
    this.closed = false;
    this.wake = () => {};
    model.on("change:interval", () => {
      this.stop?.abort();
      this.refresh();
    });
    model.on("change:experiment", () => this.turn());
    model.on("change:run", () => this.changed());
    this.live();
  }

  get interval() {
    return this.model.get("interval") * 1000;
  }

  get run() {
    return [...this.runs.values()].find((run) => run.spec.index === this.model.get("run"));
  }

  select(index) {
    this.model.set("run", index);
    this.model.save_changes();
    this.changed();
  }

  /** Turn to another experiment; the empty name is the newest one. */
  turn(name = this.model.get("experiment")) {
    if (name !== this.model.get("experiment")) {
      this.model.set("experiment", name);
      this.model.save_changes();
    }
    this.experiment = null;
    this.runs.clear();
    this.stop?.abort();
    this.refresh();
  }

  changed() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      for (const listener of this.listeners) listener();
    });
  }

  say(kind, words) {
    this.messages = [{ kind, words, time: clock() }, ...this.messages].slice(0, MOST_MESSAGES);
    this.changed();
  }

  refresh() {
    this.wake();
  }

  pause(milliseconds) {
    return new Promise((resolve) => {
      const timer = milliseconds === Infinity ? 0 : setTimeout(resolve, milliseconds);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }

  close() {
    this.closed = true;
    this.stop?.abort();
    this.wake();
  }

  /** Keep up to date until closed, whatever breaks. */
  async live() {
    let wait = 1000;
    while (!this.closed) {
      try {
        if (this.link.way === "none") {
          this.deaf = false;
          await this.link.choose();
        }
        await this.look();
        wait = 1000;
        if (this.interval && this.experiment && this.link.way === "browser" && !this.deaf) await this.follow();
        else await this.pause(this.experiment ? this.interval || Infinity : 2000);
      } catch (error) {
        if (!this.closed) this.explain(error);
        await this.pause(wait);
        wait = Math.min(wait * 2, 10000);
      }
    }
  }

  explain(error) {
    const since = this.seen ? ` What is shown was seen at ${this.seen}.` : "";
    if (error instanceof Refused && error.status === 401) {
      this.trouble = `The gateway does not take the token any more: it has expired, or is another cluster's. Run the cell that shows this panel again; outside of the local cluster give it a fresh one: InteractiveController(token=...).${since}`;
    } else if (error instanceof Refused || error instanceof Unreachable) {
      this.trouble = `${error.message}${since} Trying again.`;
    } else {
      console.error(error);
      this.trouble = `${error}.${since} Trying again.`;
    }
    if (!(error instanceof Refused)) this.link.way = "none";
    this.changed();
  }

  healthy() {
    this.trouble = "";
    this.seen = clock();
    this.changed();
  }

  path(...words) {
    return ["/namespaces", this.namespace, ...words].join("/");
  }

  /** Look once: which experiments there are, and the runs of the one that is shown. */
  async look() {
    this.namespace ||= this.model.get("namespace") || (await this.link.call("GET", "/whoami")).namespaces[0];
    if (!this.namespace) throw new Refused(403, "You may see no workspace; have somebody bind you to the Role rapidfire-user of one.");
    this.experiments = (await this.link.call("GET", this.path("experiments"))).items;
    const wanted = this.chosen();
    if (wanted?.metadata.name !== this.experiment?.metadata.name) this.runs.clear();
    this.experiment = wanted;
    if (wanted) {
      const { items } = await this.link.call("GET", this.path("experiments", wanted.metadata.name, "runs?view=table"));
      if (wanted === this.experiment) this.runs = new Map(items.map((run) => [run.metadata.name, run]));
    }
    this.healthy();
  }

  /** The experiment that was asked for, else the newest, one that is not finished first. */
  chosen() {
    const name = this.model.get("experiment");
    if (name) {
      const named = this.experiments.filter((each) => [each.metadata.name, each.spec.displayName].includes(name));
      if (!named.length) throw new Refused(404, `There is no experiment called ${name} in ${this.namespace}.`);
      return named.at(-1);
    }
    const rank = (each) => `${isFinished(each) ? 0 : 1} ${each.metadata.creationTimestamp}`;
    return this.experiments.reduce((best, each) => (best && rank(best) >= rank(each) ? best : each), null);
  }

  /** Take changes as they are sent, until another experiment is to be shown or the stream ends. */
  async follow() {
    const stop = (this.stop = new AbortController());
    const path = this.path("experiments", this.experiment.metadata.name, "changes");
    const outlook = setInterval(() => this.lookAround(), Math.max(this.interval, 2000));
    try {
      const response = await this.link.fetch(path, { signal: stop.signal });
      const sent = response.ok && response.headers.get("content-type")?.startsWith("text/event-stream");
      this.deaf = !sent; // a proxy in between, or too many watch already: then look from time to time
      if (!sent) return;
      for await (const [event, data] of eventsOf(response)) this.take(event, data);
      await this.pause(500); // it ended; the next look tells why
    } catch (error) {
      if (stop.signal.aborted) return;
      throw error instanceof TypeError ? new Unreachable(`The gateway at ${this.link.login.url} has gone.`) : error;
    } finally {
      clearInterval(outlook);
    }
  }

  take(event, data) {
    if (event === "error") throw new Refused(data.status ?? 503, data.detail);
    if (event === "snapshot") {
      this.experiment = data.experiment ?? this.experiment;
      this.runs = new Map(data.runs.map((run) => [run.metadata.name, run]));
    }
    if (event === "experiment") this.experiment = data;
    if (event === "run") this.runs.set(data.metadata.name, data);
    if (event === "gone") this.runs.delete(data.metadata.name);
    this.healthy();
  }

  /** Whether there is another experiment to show, while one is followed. */
  async lookAround() {
    try {
      this.experiments = (await this.link.call("GET", this.path("experiments"))).items;
      if (this.chosen()?.metadata.name !== this.experiment?.metadata.name) this.stop.abort();
    } catch (error) {
      if (!(error instanceof Refused || error instanceof Unreachable)) throw error; // the stream tells of these
    }
  }

  /** Have an operation carried out, and say what became of it; returns the name of the clone if it made one. */
  async operate(op, run, more, done) {
    try {
      const spec = { op, runs: [run.metadata.name], ...more };
      const until = Date.now() + OPERATOR_MS;
      let icop = await this.link.call("POST", this.path("experiments", run.spec.experimentRef, "icops"), spec);
      while (condition(icop, "Complete")?.status !== "True") {
        if (Date.now() > until) {
          this.say("waiting", `${op} of run ${run.spec.index} is asked for, but no operator has carried it out yet.`);
          return null;
        }
        icop = await this.link.call("GET", this.path("icops", `${icop.metadata.name}?wait=${this.link.way === "kernel" ? 1 : 10}`));
      }
      const [result] = icop.status.results;
      if (result.outcome === "Refused") this.say("bad", `${op} of run ${run.spec.index} is refused: ${result.message}`);
      else this.say("good", result.message && !result.created ? `Run ${run.spec.index}: ${result.message}` : done(result));
      this.refresh();
      return result.created ?? null;
    } catch (error) {
      if (!(error instanceof Refused || error instanceof Unreachable)) throw error;
      this.say("bad", `${op} of run ${run.spec.index}: ${error.message}`);
      return null;
    }
  }
}

// --- the page ------------------------------------------------------------------------------------------------------

function h(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

const colourOf = ({ spec: { index } }) => COLOURS[index - 1] ?? `hsl(${Math.round((index * GOLDEN_ANGLE) % 360)}, 62%, 48%)`;
const numberOf = (name) => Number(name.slice(name.lastIndexOf("-r") + 2));
const pretty = (value) => JSON.stringify(value, null, 2);

function stateOf(run) {
  const state = run.status?.state ?? "Pending";
  const wanted = run.spec.desiredState ?? "Running";
  const asked = wanted !== "Running" && wanted !== state && ["Pending", "Running", "Stopped"].includes(state);
  return asked ? `${state} → ${wanted}` : state;
}

function originOf(run) {
  const parent = run.spec.parentRef;
  if (!parent) return "";
  return `of ${parent.index}${parent.warmStart ? ", warm" : ""}`;
}

function problemOf(run) {
  const judged = condition(run, "Succeeded");
  return run.status?.state === "Failed" && judged ? `${judged.reason}: ${judged.message}` : "";
}

/** The table of runs; rows are kept, so that what has the focus keeps it. */
function runTable(session) {
  const body = h("tbody");
  const rows = new Map();
  const heads = ["run", "state", "chunks", "step", "loss", "objective", "clone", "knobs"];
  const table = h("table", {}, h("thead", {}, h("tr", {}, ...heads.map((name) => h("th", { scope: "col" }, name)))), body);

  function row(run) {
    const index = run.spec.index;
    const button = h("button", { type: "button", className: "rf-run", onclick: () => session.select(index) });
    button.append(h("span", { className: "rf-dot", style: `background: ${colourOf(run)}` }), `${index}`);
    const bar = h("progress");
    const chunks = h("span");
    const cells = heads.slice(3).map(() => h("td"));
    const state = h("td");
    const made = h("tr", { onclick: () => session.select(index) }, h("th", { scope: "row" }, button), state, h("td", {}, bar, " ", chunks), ...cells);
    made.dataset.run = index;
    return { made, state, bar, chunks, cells };
  }

  function fill({ made, state, bar, chunks, cells }, run, knobs) {
    const { progress = {}, prepared, display = {} } = run.status ?? {};
    const [done, total] = (display.chunks || "0/0").split("/").map(Number);
    state.textContent = stateOf(run);
    state.dataset.state = run.status?.state ?? "Pending";
    [bar.max, bar.value] = [total || 1, done];
    chunks.textContent = display.chunks ?? "";
    const step = prepared ? `${progress.step ?? 0}/${prepared.totalSteps}` : "";
    const texts = [step, progress.loss ?? "", display.objective ?? "", originOf(run), knobs];
    cells.forEach((cell, number) => (cell.textContent = texts[number]));
    made.ariaCurrent = String(run.spec.index === session.model.get("run"));
  }

  function update() {
    const runs = [...session.runs.values()].sort((one, other) => one.spec.index - other.spec.index);
    const knobs = differences(runs.map((run) => run.spec.config));
    for (const [name, { made }] of rows) {
      if (!session.runs.has(name)) {
        made.remove();
        rows.delete(name);
      }
    }
    runs.forEach((run, number) => {
      const name = run.metadata.name;
      if (!rows.has(name)) rows.set(name, row(run));
      const known = rows.get(name);
      fill(known, run, knobs[number]);
      if (body.children[number] !== known.made) body.insertBefore(known.made, body.children[number] ?? null);
    });
  }
  return { element: h("div", { className: "rf-scroll" }, table), update };
}

/** The editor of a clone: JSON of what changes, or of the whole config, checked by the gateway as it is written. */
function cloneEditor(session) {
  let parent = null;
  let asked = 0;
  let timer;
  const area = h("textarea", { spellcheck: false, rows: 6, ariaLabel: "JSON of the clone", oninput: () => soon() });
  const warm = h("input", { type: "checkbox", onchange: () => check() });
  const shape = h("select", { ariaLabel: "What the JSON is", onchange: () => begin() },
    h("option", { value: "patch" }, "changed fields"), h("option", { value: "whole" }, "whole config"));
  const findings = h("div", { className: "rf-findings", role: "status" });
  const submit = h("button", { type: "button", className: "rf-main", onclick: () => send() }, "Submit clone");
  const cancel = h("button", { type: "button", onclick: () => close() }, "Cancel");
  const title = h("strong");
  const element = h("div", { className: "rf-clone", hidden: true },
    h("div", { className: "rf-bar" }, title, shape, h("label", {}, warm, " Warm start")), area, findings,
    h("div", { className: "rf-bar" }, submit, cancel));

  function open(run) {
    parent = run;
    title.textContent = `Clone of run ${run.spec.index}`;
    warm.checked = false;
    element.hidden = false;
    begin();
    area.focus();
  }

  function close() {
    clearTimeout(timer);
    asked++;
    parent = null;
    element.hidden = true;
  }

  function begin() {
    const config = parent.spec.config;
    const rate = config.training_args?.learning_rate;
    const first = rate === undefined ? {} : { training_args: { learning_rate: rate } };
    area.value = pretty(shape.value === "whole" ? config : first);
    check();
  }

  function soon() {
    clearTimeout(timer);
    submit.disabled = true;
    timer = setTimeout(check, 300);
  }

  function patch() {
    const written = JSON.parse(area.value);
    if (!isMapping(written)) throw new SyntaxError("a config is a JSON object: {...}");
    return shape.value === "whole" ? patchOf(parent.spec.config, written) : written;
  }

  function find(kind, ...words) {
    findings.replaceChildren(...words.map((each) => h("div", { className: `rf-${kind}` }, each)));
  }

  async function check() {
    clearTimeout(timer);
    const number = ++asked;
    submit.disabled = true;
    try {
      const body = { patch: patch(), warmStart: warm.checked };
      const seen = await session.link.call("POST", session.path("runs", parent.metadata.name, "clone-preview"), body);
      if (number !== asked) return;
      const changes = seen.changes.map(({ path, before, after }) => `${path}: ${before === null ? "—" : text(before)} → ${after === null ? "—" : text(after)}`);
      find("info", ...(changes.length ? changes : [`Nothing is changed: the clone repeats run ${parent.spec.index}.`]));
      const blocked = warm.checked && seen.obstacle;
      if (blocked) findings.prepend(h("div", { className: "rf-bad" }, seen.obstacle));
      submit.disabled = Boolean(blocked);
    } catch (error) {
      if (number !== asked) return;
      if (error instanceof SyntaxError) find("bad", `Not JSON: ${error.message}`);
      else if (error instanceof Refused || error instanceof Unreachable) find("bad", error.message);
      else throw error;
    }
  }

  async function send() {
    const [run, clone] = [parent, { patch: patch(), warmStart: warm.checked }];
    submit.disabled = true;
    const created = await session.operate("CloneModify", run, { clone }, (result) =>
      `Run ${numberOf(result.created)} is a ${clone.warmStart ? "warm" : "cold"} clone of run ${run.spec.index}.`);
    if (created) {
      close();
      session.select(numberOf(created));
    } else if (parent === run) submit.disabled = false;
  }

  return { element, open, close, get parent() { return parent; } };
}

/** One run in full: its buttons, its config, and the clone editor. */
function runDetail(session) {
  let sure = false;
  let shown;
  let busy = false;
  const title = h("strong");
  const facts = h("span", { className: "rf-facts" });
  const when = h("select", { ariaLabel: "When Stop and Delete take effect" },
    h("option", { value: "Boundary" }, "at the next chunk boundary"), h("option", { value: "Immediate" }, "after the current step"));
  const at = () => (when.value === "Boundary" ? "at its next chunk boundary" : "after its current optimizer step");
  const editor = cloneEditor(session);
  const act = async (op, more, done) => {
    busy = true;
    update();
    const run = session.run;
    try {
      await session.operate(op, run, more, () => `Run ${run.spec.index} ${done}.`);
    } finally {
      busy = false;
      update();
    }
  };
  const stop = h("button", { type: "button", onclick: () => act("Stop", { when: when.value }, `stops ${at()}`) }, "Stop");
  const resume = h("button", { type: "button", onclick: () => act("Resume", {}, "goes on from where it stands") }, "Resume");
  const remove = h("button", { type: "button", onclick: () => {
    if (sure) act("Delete", { when: when.value }, "is deleted; its checkpoints stay");
    sure = !sure;
    update();
  } }, "Delete");
  const clone = h("button", { type: "button", className: "rf-main", onclick: () => editor.open(session.run) }, "Clone…");
  const config = h("pre");
  const details = h("details", {}, h("summary", {}, "Config"), config);
  const problem = h("div", { className: "rf-bad" });
  const element = h("section", { className: "rf-detail", hidden: true, ariaLabel: "The selected run" },
    h("div", { className: "rf-bar" }, title, facts), problem,
    h("div", { className: "rf-bar" }, stop, resume, remove, when, clone), editor.element, details);

  function update() {
    const run = session.run;
    element.hidden = !run;
    if (!run) return;
    if (shown !== run.metadata.name) {
      [shown, sure] = [run.metadata.name, false];
      editor.close();
      config.textContent = pretty(run.spec.config);
    }
    const [state, wanted] = [run.status?.state ?? "Pending", run.spec.desiredState ?? "Running"];
    title.textContent = `Run ${run.spec.index}`;
    facts.textContent = [stateOf(run), originOf(run) && `clone ${originOf(run)}`, run.spec.requestedBy && `by ${run.spec.requestedBy}`].filter(Boolean).join(" · ");
    problem.textContent = problemOf(run);
    stop.disabled = busy || wanted !== "Running" || !["Pending", "Running"].includes(state);
    resume.disabled = busy || wanted !== "Stopped";
    remove.disabled = busy || wanted === "Deleted";
    remove.textContent = sure ? `Really delete run ${run.spec.index}` : "Delete";
  }
  return { element, update };
}

function header(session) {
  const choice = h("select", { ariaLabel: "Experiment", onchange: () => session.turn(choice.value) });
  const state = h("span");
  const way = h("span", { className: "rf-way" });
  const refresh = h("button", { type: "button", onclick: () => session.link.way === "browser" && session.interval && !session.trouble ? session.lookAround() : session.refresh() }, "Refresh");
  const auto = h("input", { type: "checkbox", onchange: () => {
    session.model.set("interval", auto.checked ? 5 : 0);
    session.model.save_changes();
  } });
  const dashboard = h("button", { type: "button", onclick: () => openDashboard(session) }, "Dashboard");
  const element = h("div", { className: "rf-bar" }, choice, state, way, refresh, h("label", {}, auto, " auto refresh"), dashboard);
  let known = "";

  function update() {
    const names = session.experiments.map((each) => each.metadata.name);
    if (known !== names.join()) {
      known = names.join();
      choice.replaceChildren(h("option", { value: "" }, "newest experiment"), ...names.map((name) => h("option", { value: name }, name)));
    }
    choice.value = session.model.get("experiment");
    const current = session.experiment;
    state.textContent = current ? `${current.metadata.name}: ${current.status?.state ?? "Pending"}` : "no experiment yet; it is shown as soon as there is one";
    const ways = { browser: "straight from this browser", kernel: "through the kernel, while it is idle", none: "not connected" };
    way.textContent = ways[session.link.way];
    way.dataset.way = session.link.way;
    auto.checked = session.interval > 0;
    dashboard.hidden = session.link.way === "none";
  }
  return { element, update };
}

async function openDashboard(session) {
  const tab = window.open("about:blank"); // at the click, else the browser takes it for an advertisement
  try {
    const { url } = await session.link.call("POST", "/login-links");
    if (tab) tab.location = url;
    else session.say("waiting", `Your browser keeps the dashboard from opening; its address is ${url}`);
  } catch (error) {
    tab?.close();
    session.say("bad", `Dashboard: ${error.message}`);
  }
}

function render(session, el) {
  const trouble = h("div", { className: "rf-trouble", role: "alert" });
  const messages = h("div", { className: "rf-messages", role: "status" });
  const parts = [header(session), runTable(session), runDetail(session)];
  const [top, table, detail] = parts.map((part) => part.element);
  el.classList.add("rf-panel");
  el.append(top, trouble, table, messages, detail);
  const update = () => {
    trouble.textContent = session.trouble;
    trouble.hidden = !session.trouble;
    messages.replaceChildren(...session.messages.map(({ kind, words, time }) => h("div", { className: `rf-${kind}` }, `${time}  ${words}`)));
    for (const part of parts) part.update();
  };
  session.listeners.add(update);
  update();
  return () => session.listeners.delete(update);
}

export default () => {
  let session;
  return {
    initialize({ model }) {
      session = new Session(model);
      return () => session.close();
    },
    render({ el }) {
      return render(session, el);
    },
  };
};
