/**
 * The page's program: lists of targets and train rows, what made each target's answer, and decisions on
 * train rows. `DataTable` is DataTables', which stands before it.
 *
 * Texts are data: they come to the page by `textContent` alone, or escaped.
 */

const SIDES = ["proponent", "opponent"];
const DECISIONS = { k: "keep", l: "relabel", r: "remove", u: "unsure" };
const WORDS = /[\p{L}\p{N}]+/gu;
const SVG = "http://www.w3.org/2000/svg";
const escaped = DataTable.render.text().display;

/** An element with attributes and children; texts are texts. */
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const counted = (count, what) => `${number.format(count)} ${what}${count === 1 ? "" : "s"}`;

/** A number with its sign and three digits or so. */
function signed(value) {
  if (value === null) return "?";
  const digits = Math.abs(value) >= 1 ? 2 : Math.abs(value) >= 0.001 || value === 0 ? 3 : 5;
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;
}

/** Decimals that tell scores of this size from their errors. */
const decimals = (largest) => (largest > 0 ? Math.max(3, 1 - Math.floor(Math.log10(largest))) : 3);

/** A size with so many decimals. */
const written = (value, digits) => (digits > 9 ? value.toExponential(1) : value.toFixed(digits));

/** What was packed into the page. */
async function unpacked() {
  const text = atob(byId("data").textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/** What the page knows, and how its parts are found. */
class Run {
  constructor(data) {
    Object.assign(this, data);
    this.common = new Set(data.common);
    this.places = new Map(data.rows.row.map((id, place) => [id, place]));
    this.flipped = new Set(data.rows.flipped);
    this.suspect = new Map((data.suspects?.place ?? []).map((place, rank) => [place, rank]));
    this.targets = data.sets.flatMap((set) => set.target.map((target, i) => ({ set, target, i })));
    this.addresses = new Map(this.targets.map((each) => [`${each.set.name}/${each.target}`, each]));
  }

  label(value) {
    return this.labels[value] ?? String(value);
  }

  textsOfTarget({ set, i }) {
    return set.texts.map((column) => column[i]);
  }

  textsOfRow(place) {
    return this.rows.texts.map((column) => column[place]);
  }

  /** Whether most trainings get a target right; null of numbers. */
  right({ set, i }) {
    return set.prediction && set.prediction[i] === set.label[i];
  }

  /** A target's list of a side, strongest first. */
  list({ set, i }, side) {
    const of = set.lists[side];
    const digits = decimals(Math.abs(of.score[i * of.length]));
    return Array.from({ length: of.length }, (_, rank) =>
      this.entry(of, i * of.length + rank, rank + 1, digits),
    );
  }

  entry(of, at, rank, digits) {
    return {
      digits,
      place: of.place[at],
      score: of.score[at],
      error: of.error[at],
      stable: of.sign_stable[at],
      best: of.rank_best?.[at] ?? -1,
      worst: of.rank_worst?.[at] ?? -1,
      rank,
    };
  }

  /** What argues against a row that looks mislabelled. */
  against(place) {
    const rank = this.suspect.get(place);
    if (rank === undefined) return [];
    const of = this.suspects.against;
    const start = of.length.slice(0, rank).reduce((sum, length) => sum + length, 0);
    const digits = decimals(Math.abs(of.score[start]));
    return Array.from({ length: of.length[rank] }, (_, i) => this.entry(of, start + i, i + 1, digits));
  }

  /** The targets that have a row in their lists, strongest first, by side. */
  influence(place) {
    this.index ??= this.indexed();
    const found = { proponent: [], opponent: [] };
    for (const [target, side, rank] of this.index.get(place) ?? []) {
      found[side].push({ target, ...this.list(target, side)[rank] });
    }
    for (const side of SIDES) found[side].sort((a, b) => Math.abs(b.score) - Math.abs(a.score));
    return found;
  }

  indexed() {
    const index = new Map();
    for (const target of this.targets) {
      for (const side of SIDES) {
        const of = target.set.lists[side];
        for (let rank = 0; rank < of.length; rank++) {
          const place = of.place[target.i * of.length + rank];
          if (!index.has(place)) index.set(place, []);
          index.get(place).push([target, side, rank]);
        }
      }
    }
    return index;
  }
}

/** What a person decided of train rows, kept in this browser. */
class Decisions {
  constructor(identity) {
    this.key = `trak-steps ${identity}`;
    this.kept = true;
    this.of = new Map();
    this.read();
  }

  read() {
    if (!this.kept) return;
    try {
      this.of = new Map(JSON.parse(localStorage.getItem(this.key) ?? "[]"));
    } catch {
      this.kept = false;
    }
  }

  get(row) {
    return this.of.get(row) ?? "";
  }

  /** Decide, or take it back; what another tab decided meanwhile stays. */
  set(row, decision) {
    this.read();
    if (decision) this.of.set(row, decision);
    else this.of.delete(row);
    try {
      localStorage.setItem(this.key, JSON.stringify([...this.of]));
    } catch {
      this.kept = false;
    }
  }
}

/** What a spreadsheet would take for a formula begins with an apostrophe. */
const plainly = (value) => (/^[=+\-@\t\r]/.test(String(value)) ? `'${value}` : value);

/** A cell of a CSV file. */
const cell = (value) =>
  /[",\r\n]/.test(String(value)) ? `"${String(value).replaceAll('"', '""')}"` : value;

/** The words of texts that say something, in lower case. */
function telling(run, texts) {
  const words = texts.flatMap((text) => text.toLowerCase().match(WORDS) ?? []);
  return new Set(words.filter((word) => !run.common.has(word)));
}

/** Texts, a paragraph each, with some words marked. */
function paragraphs(texts, words = new Set()) {
  return texts.map((text) => {
    const paragraph = h("span", { class: "text", dir: "auto" });
    let end = 0;
    for (const found of words.size ? text.matchAll(WORDS) : []) {
      if (!words.has(found[0].toLowerCase())) continue;
      paragraph.append(text.slice(end, found.index), h("mark", {}, found[0]));
      end = found.index + found[0].length;
    }
    paragraph.append(text.slice(end));
    return paragraph;
  });
}

/** A bar for a score, as a share of the largest beside it. */
function bar(share) {
  const drawing = document.createElementNS(SVG, "svg");
  const of = { class: "bar", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" };
  for (const [name, value] of Object.entries(of)) drawing.setAttribute(name, value);
  const rect = document.createElementNS(SVG, "rect");
  rect.setAttribute("width", 100 * Math.min(1, share));
  rect.setAttribute("height", 4);
  drawing.append(rect);
  return drawing;
}

/** A score with its uncertainty, and the rank that it may have. */
function uncertain(entry) {
  const unstable = "its standard error leaves the sign open";
  const spread = entry.error === null ? "" : ` ± ${written(entry.error, entry.digits)}`;
  const sign = entry.score < 0 ? "−" : "+";
  const score = sign + written(Math.abs(entry.score), entry.digits);
  const parts = [h("span", { class: "score number" }, score)];
  if (entry.stable === 0) parts.push(h("abbr", { title: unstable }, "?"));
  parts.push(h("span", { class: "number" }, spread));
  if (entry.best > 0) {
    const range =
      entry.best === entry.worst ? entry.best : `${entry.best} to ${number.format(entry.worst)}`;
    parts.push(h("span", { class: "number" }, `rank ${range}`));
  }
  return parts;
}

/** Of entries, those with the same text and label together. */
function folded(run, entries) {
  const groups = new Map();
  for (const entry of entries) {
    const texts = run.textsOfRow(entry.place);
    // Of texts that were cut it is not known whether they are the same.
    const own = texts.some((text) => text.endsWith("…")) ? entry.place : "";
    const key = JSON.stringify([run.rows.label[entry.place], own, ...texts]);
    if (groups.has(key)) groups.get(key).push(entry);
    else groups.set(key, [entry]);
  }
  return [...groups.values()];
}

const rowAddress = (run, place) => `#/rows/${run.rows.row[place]}`;
const targetAddress = (each) => `#/targets/${each.set.name}/${each.target}`;

/** A list of train rows that speak for a target, or against it. */
function influences(run, entries, side, words) {
  const most = Math.max(...entries.map((entry) => Math.abs(entry.score)), Number.MIN_VALUE);
  const items = folded(run, entries).map(([entry, ...copies]) => {
    const place = entry.place;
    const how = h(
      "span",
      { class: "how" },
      uncertain(entry),
      h("b", {}, run.label(run.rows.label[place])),
    );
    if (run.suspect.has(place)) how.append(h("span", { class: "badge" }, "label looks wrong"));
    if (run.flipped.has(place)) how.append(h("span", { class: "badge" }, "flipped on purpose"));
    how.append(h("a", { href: rowAddress(run, place) }, `row ${run.rows.row[place]}`));
    if (copies.length) {
      const others = copies.flatMap((copy) => [
        " ",
        h("a", { href: rowAddress(run, copy.place) }, String(run.rows.row[copy.place])),
      ]);
      how.append(h("span", {}, `and ${counted(copies.length, "more row")} with this text:`, ...others));
    }
    return h("li", {}, bar(Math.abs(entry.score) / most), paragraphs(run.textsOfRow(place), words), how);
  });
  return h("ol", { class: `influences ${side}` }, items);
}

/** What made a target's answer. */
function showTarget(run, each) {
  const { set, i } = each;
  const texts = run.textsOfTarget(each);
  const words = telling(run, texts);
  const facts = ["label ", h("b", {}, run.label(set.label[i]))];
  if (set.prediction) {
    const right = run.right(each);
    facts.push(right ? ", predicted " : ", but predicted ", h("b", {}, run.label(set.prediction[i])));
  }
  const margins = set.margins.map((of) => signed(of[i])).join(", ");
  facts.push(`, margin ${signed(set.margin[i])} (by training: ${margins}); `);
  facts.push(`all train rows' scores add up to ${signed(set.total[i])}`);
  const heading = h("h3", { tabindex: -1 }, `Target ${each.target}`);
  heading.append(h("span", { class: "count" }, ` ${set.name}, row ${set.row[i]}`));
  const sides = SIDES.map((side) => {
    const entries = run.list(each, side);
    const title = side === "proponent" ? "Proponents: towards its label" : "Opponents: away from it";
    return h("div", {}, h("h4", { class: side }, title), influences(run, entries, side, words));
  });
  const subject = h(
    "div",
    { class: "subject" },
    paragraphs(texts),
    h("span", { class: "answer" }, facts),
  );
  byId("target").replaceChildren(heading, subject, h("div", { class: "sides" }, sides));
}

/** The targets that a row speaks for, or against. */
function influenced(run, entries, side) {
  if (!entries.length) return h("p", { class: "hint" }, "None.");
  const items = entries.map((entry) => {
    const { target } = entry;
    const link = h("a", { href: targetAddress(target) }, paragraphs(run.textsOfTarget(target)));
    const label = run.label(target.set.label[target.i]);
    const how = h(
      "span",
      { class: "how" },
      uncertain(entry),
      h("b", {}, label),
      `its number ${entry.rank}`,
    );
    return h("li", {}, link, how);
  });
  return h("ol", { class: `influences ${side}` }, items);
}

/** A train row: what it does, what argues against its label, and what was decided. */
function showRow(run, decisions, place, decide) {
  const id = run.rows.row[place];
  const found = run.influence(place);
  const rank = run.suspect.get(place);
  const heading = h("h3", { tabindex: -1 }, `Train row ${id}`);
  const facts = ["label ", h("b", {}, run.label(run.rows.label[place]))];
  if (run.flipped.has(place)) facts.push(" (made wrong on purpose)");
  if (rank !== undefined) {
    facts.push(", predicted ", h("b", {}, run.label(run.suspects.predicted[rank])));
    facts.push(`, margin ${signed(run.suspects.margin[rank])}; number ${rank + 1} of the suspects`);
  }
  const buttons = Object.entries(DECISIONS).map(([key, decision]) => {
    const pressed = String(decisions.get(id) === decision);
    const of = { type: "button", "aria-pressed": pressed, "aria-keyshortcuts": key };
    const button = h("button", of, decision, " ", h("kbd", {}, key));
    button.addEventListener("click", () => decide(decision));
    return button;
  });
  const texts = run.textsOfRow(place);
  const subject = h(
    "div",
    { class: "subject" },
    paragraphs(texts),
    h("span", { class: "answer" }, facts),
  );
  const marks = h("div", { class: "decisions", role: "group", "aria-label": "Decision" }, buttons);
  const parts = [heading, subject, marks];
  if (rank !== undefined) {
    parts.push(h("h4", {}, "What argues against its label"));
    parts.push(influences(run, run.against(place), "opponent", telling(run, texts)));
  }
  const sides = SIDES.map((side) => {
    const title = side === "proponent" ? "Targets that it speaks for" : "Targets that it speaks against";
    const all = run.rows[side][place];
    const listed = found[side].length;
    const count =
      listed < all ? `${number.format(all)}, here ${number.format(listed)}` : number.format(all);
    const head = h("h4", { class: side }, `${title} (${count})`);
    return h("div", {}, head, influenced(run, found[side], side));
  });
  byId("row").replaceChildren(...parts, h("div", { class: "sides" }, sides));
}

/** A part of an address; as it is, where it is none. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** What the address says: the view, what is chosen in it, and how its list is filtered. */
function readAddress() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...chosen] = path.split("/").map(decoded);
  return {
    view: view || "overview",
    chosen,
    query: query === undefined ? null : new URLSearchParams(query),
  };
}

/** A list with filters, search and what is chosen: its table and the address follow each other. */
class View {
  constructor(name, { table, filters, options, keep, sort }) {
    this.name = name;
    this.sort = sort;
    this.form = byId(filters);
    this.table = new DataTable(`#${table}`, {
      autoWidth: false,
      deferRender: true,
      layout: { topStart: "info", topEnd: "search", bottomStart: null, bottomEnd: "paging" },
      lengthChange: false,
      order: [],
      pageLength: 25,
      ...options,
    });
    this.table.search.fixed("filters", (_, row) => keep(row, this.values));
    this.values = this.read();
    this.form.addEventListener("input", () => this.filter());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.table.on("search order", () => this.tell());
  }

  read() {
    return Object.fromEntries(new FormData(this.form));
  }

  filter() {
    const before = this.values;
    this.values = this.read();
    // What is shown may ask for an order; a person may choose another.
    if (before.show !== this.values.show) this.sorted();
    this.table.draw();
    this.tell();
  }

  sorted() {
    if (this.sort) this.table.order(this.sort(this.values));
  }

  /** Take filters and search from an address. */
  take(query) {
    for (const field of this.form.elements) {
      if (field.name) field.value = query.get(field.name) ?? "";
    }
    this.values = this.read();
    const [column, direction] = (query.get("order") ?? "").split("-");
    const known = Number(column) < this.table.columns().count() && ["asc", "desc"].includes(direction);
    if (known) this.table.order([[Number(column), direction]]);
    else this.sorted();
    this.table.search(query.get("q") ?? "").draw();
  }

  /** Put filters and search into the address, so that it names what is shown. */
  tell() {
    const { view, chosen } = readAddress();
    if (view !== this.name) return;
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries(this.values)) if (value) query.set(name, value);
    if (this.table.search()) query.set("q", this.table.search());
    const [first] = this.table.order();
    if (first?.[1]) query.set("order", `${first[0]}-${first[1]}`);
    const path = ["#", view, ...chosen.map(encodeURIComponent)].join("/");
    history.replaceState(null, "", query.size ? `${path}?${query}` : path);
  }

  /** The address of what stands some steps further in the list. */
  beside(isChosen, step) {
    const shown = this.table.rows({ search: "applied", order: "applied" }).data().toArray();
    const at = shown.findIndex(isChosen);
    return shown[at < 0 ? 0 : Math.min(shown.length - 1, Math.max(0, at + step))];
  }

  /** Mark a row of the table, and turn to its page. */
  mark(isChosen) {
    const order = this.table.rows({ search: "applied", order: "applied" });
    const at = order.data().toArray().findIndex(isChosen);
    const page = Math.floor(at / this.table.page.len());
    if (at >= 0 && page !== this.table.page()) this.table.page(page).draw("page");
    this.isChosen = isChosen;
    this.marked();
  }

  marked() {
    const rows = this.table.rows({ page: "current" });
    for (const index of rows.indexes().toArray()) {
      const row = this.table.row(index);
      const chosen = Boolean(this.isChosen?.(row.data()));
      row.node()?.classList.toggle("chosen", chosen);
      row.node()?.querySelector("a")?.toggleAttribute("aria-current", chosen);
    }
  }

  search() {
    this.table.table().container().querySelector("input[type=search]").focus();
  }
}

/** A column of texts that are links. */
function linked(title, texts, address) {
  return {
    title,
    data: null,
    type: "string",
    render: (_, type, row) => {
      const joined = texts(row);
      if (type !== "display") return escaped(joined.join(" "));
      const short = joined.map((text) => (text.length > 180 ? `${text.slice(0, 180)}…` : text));
      return h("a", { href: address(row) }, paragraphs(short));
    },
  };
}

/** A column of plain values; `shown` is how they are written. */
function plain(title, value, shown = (of) => of, type = "string") {
  const render = (_, wanted, row) =>
    wanted === "display" || wanted === "filter" ? escaped(String(shown(value(row), row))) : value(row);
  const number = type === "num";
  return {
    title,
    data: null,
    type,
    render,
    searchable: !number,
    className: number ? "number dt-right" : "",
  };
}

/** What a table says. */
const words = (what) => ({
  search: `Search ${what}`,
  info: `_TOTAL_ ${what}`,
  infoEmpty: `No ${what}`,
  infoFiltered: "of _MAX_",
  emptyTable: `There are no ${what}.`,
  zeroRecords: `No ${what} are like that.`,
});

function fill(select, values) {
  for (const [value, name] of values) select.append(h("option", { value }, name));
}

function targetsView(run) {
  const { set, label } = byId("target-filters").elements;
  fill(set, [["", "all"], ...run.sets.map((of) => [of.name, of.name])]);
  set.closest("label").hidden = run.sets.length < 2;
  fill(
    label,
    run.labels.map((name, i) => [i, name]),
  );
  label.closest("label").hidden = !run.labels.length;
  const columns = [
    linked("Target", (each) => run.textsOfTarget(each), targetAddress),
    plain("Label", (each) => run.label(each.set.label[each.i])),
    plain("Margin", (each) => each.set.margin[each.i], signed, "num"),
  ];
  if (run.labels.length) {
    columns.splice(
      2,
      0,
      plain("Predicted", (each) => run.label(each.set.prediction[each.i])),
    );
  }
  const keep = (each, values) => {
    const margin = each.set.margin[each.i];
    return (
      (!values.set || each.set.name === values.set) &&
      (!values.show || (values.show === "right") === run.right(each)) &&
      (!values.label || String(each.set.label[each.i]) === values.label) &&
      (!values.from || margin >= Number(values.from)) &&
      (!values.to || margin <= Number(values.to))
    );
  };
  const options = { data: run.targets, columns, language: words("targets") };
  return new View("targets", { table: "target-table", filters: "target-filters", options, keep });
}

function rowsView(run, decisions) {
  const { label } = byId("row-filters").elements;
  fill(
    label,
    run.labels.map((name, i) => [i, name]),
  );
  label.closest("label").hidden = !run.labels.length;
  const id = (place) => run.rows.row[place];
  const suspect = (place) =>
    run.suspect.has(place) ? run.suspect.get(place) + 1 : Number.POSITIVE_INFINITY;
  const columns = [
    linked(
      "Train row",
      (place) => run.textsOfRow(place),
      (place) => rowAddress(run, place),
    ),
    plain("Label", (place) => run.label(run.rows.label[place])),
    plain(
      "Influence",
      (place) => run.rows.influence[place],
      (value) => value.toFixed(2),
      "num",
    ),
    plain("Suspect", suspect, (rank) => (Number.isFinite(rank) ? rank : ""), "num"),
    plain("Decision", (place) => decisions.get(id(place))),
  ];
  const shown = {
    suspects: (place) => run.suspect.has(place),
    decided: (place) => Boolean(decisions.get(id(place))),
    undecided: (place) => run.suspect.has(place) && !decisions.get(id(place)),
  };
  const keep = (place, values) =>
    (!values.show || shown[values.show](place)) &&
    (!values.label || String(run.rows.label[place]) === values.label);
  const data = run.rows.row.map((_, place) => place);
  data.sort((a, b) => run.rows.influence[b] - run.rows.influence[a]);
  const options = { data, columns, language: words("train rows") };
  // Suspects stand in their own order.
  const sort = ({ show }) => (["suspects", "undecided"].includes(show) ? [[3, "asc"]] : []);
  return new View("rows", { table: "row-table", filters: "row-filters", options, keep, sort });
}

/** The page: which view is shown, what is chosen, and which keys do what. */
class Page {
  constructor(run) {
    this.run = run;
    this.decisions = new Decisions(run.identity);
    this.views = {};
    window.addEventListener("hashchange", () => {
      if (location.hash !== this.shown) this.show(true);
    });
    document.addEventListener("keydown", (event) => this.key(event));
    byId("export").addEventListener("click", () => this.export());
    this.count();
    this.show(false);
  }

  /** A view, made when it is first looked at. */
  view(name) {
    if (!this.views[name]) {
      this.views[name] = name === "targets" ? targetsView(this.run) : rowsView(this.run, this.decisions);
      this.views[name].table.on("draw", () => this.views[name].marked());
    }
    return this.views[name];
  }

  show(byLink) {
    const { view, chosen, query } = readAddress();
    const known = ["overview", "targets", "rows", "run"].includes(view) ? view : "overview";
    for (const section of document.querySelectorAll("main > section"))
      section.hidden = section.id !== known;
    for (const link of document.querySelectorAll("header nav a")) {
      if (link.dataset.view === known) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (known === "targets") this.showTargets(chosen, query, byLink);
    else if (known === "rows") this.showRows(chosen, query, byLink);
    else if (byLink) window.scrollTo(0, 0);
    this.shown = location.hash;
  }

  showTargets([set, target], query, byLink) {
    const view = this.view("targets");
    if (query) view.take(query);
    this.target = this.run.addresses.get(`${set}/${target}`);
    if (this.target) {
      showTarget(this.run, this.target);
      view.mark((each) => each === this.target);
      if (byLink) this.look("target");
    } else {
      const unknown =
        target === undefined ? "Choose a target." : `This page has no target ${set}/${target}.`;
      byId("target").replaceChildren(h("p", { class: "hint" }, unknown));
      view.mark(() => false);
    }
    view.tell();
  }

  showRows([row], query, byLink) {
    const view = this.view("rows");
    if (query) view.take(query);
    this.place = this.run.places.get(row);
    if (row !== undefined && this.place !== undefined) {
      showRow(this.run, this.decisions, this.place, (decision) => this.decide(decision));
      view.mark((place) => place === this.place);
      if (byLink) this.look("row");
    } else {
      const unknown = row === undefined ? "Choose a train row." : `This page has no train row ${row}.`;
      byId("row").replaceChildren(h("p", { class: "hint" }, unknown));
      view.mark(() => false);
    }
    view.tell();
  }

  /** Bring what was chosen into sight, and to who listens. */
  look(id) {
    byId(id).scrollTop = 0;
    const heading = byId(id).querySelector("h3");
    heading.focus({ preventScroll: true });
    if (heading.getBoundingClientRect().top > innerHeight || heading.getBoundingClientRect().top < 0) {
      byId(id).scrollIntoView();
    }
  }

  /** Decide on the row that is shown; the same once more takes it back. */
  decide(decision) {
    if (this.place === undefined) return;
    const id = this.run.rows.row[this.place];
    const again = this.decisions.get(id) === decision;
    this.decisions.set(id, again ? "" : decision);
    this.view("rows")
      .table.rows((_, place) => place === this.place)
      .invalidate()
      .draw("page");
    for (const button of byId("row").querySelectorAll("button[aria-keyshortcuts]")) {
      const of = DECISIONS[button.getAttribute("aria-keyshortcuts")];
      button.setAttribute("aria-pressed", String(of === this.decisions.get(id)));
    }
    this.count();
  }

  count() {
    const kept = this.decisions.kept ? "" : " (this browser does not keep them: export them)";
    byId("decided").textContent = `${number.format(this.decisions.of.size)} decided${kept}`;
  }

  /** Show what an address names at once: the next key may be for it. */
  go(address) {
    location.hash = address;
    this.show(true);
  }

  move(step) {
    const { view } = readAddress();
    if (view === "targets") {
      const next = this.view(view).beside((each) => each === this.target, step);
      if (next) this.go(targetAddress(next));
    } else if (view === "rows") {
      const next = this.view(view).beside((place) => place === this.place, step);
      if (next !== undefined) this.go(rowAddress(this.run, next));
    }
  }

  key(event) {
    const writes = event.target.closest("input, select, textarea");
    if (writes || event.ctrlKey || event.metaKey || event.altKey) return;
    const { view } = readAddress();
    if (!["targets", "rows"].includes(view)) return;
    if (event.key === "/") this.view(view).search();
    else if (event.key === "n") this.move(1);
    else if (event.key === "p") this.move(-1);
    else if (view === "rows" && DECISIONS[event.key]) this.decide(DECISIONS[event.key]);
    else return;
    event.preventDefault();
  }

  export() {
    const { run } = this;
    const lines = [["row", "decision", "label", "predicted", "suspect"]];
    for (const [id, decision] of this.decisions.of) {
      const place = run.places.get(id);
      const rank = run.suspect.get(place);
      const predicted = rank === undefined ? "" : run.label(run.suspects.predicted[rank]);
      const label = place === undefined ? "" : run.label(run.rows.label[place]);
      lines.push([id, decision, label, predicted, rank === undefined ? "" : rank + 1]);
    }
    const text = lines.map((line) => `${line.map(plainly).map(cell).join(",")}\r\n`).join("");
    const link = h("a", { download: `${run.run}-decisions.csv` });
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.click();
    URL.revokeObjectURL(link.href);
  }
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const followScheme = () => document.documentElement.classList.toggle("dark", dark.matches);
dark.addEventListener("change", followScheme);
followScheme();

try {
  window.page = new Page(new Run(await unpacked()));
} catch (error) {
  byId("failed").hidden = false;
  const old = typeof DecompressionStream === "undefined" ? " This browser is older than 2023." : "";
  byId("failed").textContent = `The lists cannot be shown: ${error.message}.${old}`;
  throw error;
}
