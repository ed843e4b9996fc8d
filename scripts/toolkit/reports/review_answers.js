// The answers of the review page: reading, editing and saving them. No DOM here, so tests run it without the page.
//
// An answer is held as review_page.py encodes it (`encoded`): null, true, false, a string, a list as an array, a number
// as {number: "12.50"} and an object as {object: [[name, value], ...]}. JavaScript would round long
// numbers and lose a field called "__proto__". A path is a list of names (of objects) and numbers (of lists).
"use strict";

const isObject = (node) => node !== null && typeof node === "object" && Array.isArray(node.object);
const isNumber = (node) => node !== null && typeof node === "object" && typeof node.number === "string";
const isPlain = (node) => !Array.isArray(node) && !isObject(node);
const isAbsent = (node) => node === null || node === undefined || node === "";

/** The value at `path`, or undefined where there is none. */
function valueAt(node, path) {
  for (const step of path) {
    if (typeof step === "number") node = Array.isArray(node) ? node[step] : undefined;
    else node = isObject(node) ? node.object.find(([name]) => name === step)?.[1] : undefined;
  }
  return node;
}

/** A copy of `node` with `value` at `path`; objects that are missing on the way are made. */
function withValue(node, path, value) {
  if (!path.length) return value;
  const [step, ...rest] = path;
  if (typeof step === "number")
    return node.map((item, index) => (index === step ? withValue(item, rest, value) : item));
  const members = isObject(node) ? node.object : [];
  if (!members.some(([name]) => name === step))
    return { object: [...members, [step, withValue(undefined, rest, value)]] };
  return { object: members.map(([name, item]) => [name, name === step ? withValue(item, rest, value) : item]) };
}

/** `node` as JSON text. */
function jsonText(node, indent = "") {
  const inner = `${indent}  `;
  const block = (open, items, close) =>
    items.length ? `${open}\n${items.map((item) => inner + item).join(",\n")}\n${indent}${close}` : open + close;
  if (Array.isArray(node))
    return block(
      "[",
      node.map((item) => jsonText(item, inner)),
      "]",
    );
  if (isObject(node))
    return block(
      "{",
      node.object.map(([name, item]) => `${JSON.stringify(name)}: ${jsonText(item, inner)}`),
      "}",
    );
  return isNumber(node) ? node.number : JSON.stringify(node ?? null);
}

const same = (a, b) => jsonText(a) === jsonText(b);
const isChoice = (choice, node) =>
  isNumber(choice) && isNumber(node) ? Number(choice.number) === Number(node.number) : same(choice, node);

/** The text that a form's box shows for a value; an object or a list has none. */
const shownText = (node) =>
  node === null || node === undefined || !isPlain(node) ? "" : isNumber(node) ? node.number : String(node);

const NUMBER = /^-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?$/;

const lines = (text) => text.replace(/\r\n?/g, "\n");

/**
 * What was typed for `field`, as its JSON type. Text that fits no type stays text. Text that shows the predicted value,
 * `before`, is that value.
 */
function typedValue(field, typed, before) {
  if (before !== undefined && lines(typed) === lines(shownText(before))) return before;
  const text = typed.trim(),
    has = (type) => field.types.includes(type);
  if (text === "") return null;
  const words = has("string") || !field.types.length;
  if ((has("number") || has("integer")) && (!words || isNumber(before))) {
    const digits = text.replace(/^(-?)0+(?=\d)/, "$1");
    if (NUMBER.test(digits) && Number.isFinite(Number(digits)))
      return { number: has("number") ? digits : digits.replace(/\.0+$/, "") };
  }
  if (has("boolean") && (!words || typeof before === "boolean") && (text === "true" || text === "false"))
    return text === "true";
  return text;
}

/** Why a value cannot be what `field` needs, or "". */
function misfit(field, node) {
  if (isAbsent(node)) return "";
  if (!isPlain(node)) return "a list or an object stands where one value is needed";
  if (field.choices.length)
    return field.choices.some((choice) => isChoice(choice, node)) ? "" : "not one of the choices";
  const type = isNumber(node) ? "number" : typeof node;
  if (!field.types.length || field.types.includes(type)) return "";
  if (type === "number" && field.types.includes("integer"))
    return Number.isInteger(Number(node.number)) ? "" : "not a whole number";
  return `not a ${field.types.filter((name) => name !== "null").join(" or ")}`;
}

/** `answer` in the schema's shape: a missing value is null, a missing list is empty. What is there stays as it is. */
function completed(answer, form) {
  const fill = (node, path, value) => {
    for (let depth = 1; depth < path.length; depth++) {
      const above = valueAt(node, path.slice(0, depth));
      if (above !== undefined && !isObject(above)) return node;
    }
    return valueAt(node, path) === undefined ? withValue(node, path, value) : node;
  };
  for (const field of form.header) answer = fill(answer, field.path, null);
  for (const list of form.lists) {
    answer = fill(answer, list.path, []);
    const rows = valueAt(answer, list.path);
    if (!Array.isArray(rows)) continue;
    const whole = rows.map((row) =>
      isObject(row) ? list.fields.reduce((made, field) => fill(made, field.path, null), row) : row,
    );
    answer = withValue(answer, list.path, whole);
  }
  return answer;
}

/** A new row of `list`, every value absent. */
const emptyRow = (list) => list.fields.reduce((row, field) => withValue(row, field.path, null), null);

/** Values of `answer` that the form has no box for, as [path, value]; they are saved as they are. */
function notShown(answer, form) {
  const found = [];
  // Where the form looks: names lead down, a list has `rows`, a box has `box`.
  const tree = (fields) => {
    const root = { names: new Map() };
    for (const [path, end] of fields) {
      let at = root;
      for (const name of path) {
        if (!at.names.has(name)) at.names.set(name, { names: new Map() });
        at = at.names.get(name);
      }
      Object.assign(at, end);
    }
    return root;
  };
  const boxes = (fields) => fields.map((field) => [field.path, { box: true }]);
  const whole = tree([
    ...boxes(form.header),
    ...form.lists.map((list) => [list.path, { rows: tree(boxes(list.fields)) }]),
  ]);
  const walk = (node, at, path) => {
    if (node === null || node === undefined) return;
    if (at?.box && isPlain(node)) return;
    if (at?.rows && Array.isArray(node)) node.forEach((row, index) => walk(row, at.rows, [...path, index]));
    else if (at?.names.size && isObject(node))
      for (const [name, item] of node.object) walk(item, at.names.get(name), [...path, name]);
    else if (!(isObject(node) && !node.object.length)) found.push([path, node]);
  };
  walk(answer, whole, []);
  return found;
}

/** `containers[0].size` for a path. */
const pathName = (path) =>
  path.map((step, index) => (typeof step === "number" ? `[${step}]` : (index ? "." : "") + step)).join("");

// A document's state is {reviewed, answer, origins}. `origins` holds, for each list, the predicted row that each row is
// from (null: added here). So every row is compared with its own prediction when others are added or removed.

function initialState(document, form) {
  const rows = (list) => {
    const items = valueAt(document.answer, list.path);
    return Array.isArray(items) ? items : [];
  };
  return {
    reviewed: false,
    answer: document.answer,
    origins: form.lists.map((list) => rows(list).map((_, index) => index)),
  };
}

const isUntouched = (state, document) => !state.reviewed && same(state.answer, document.answer);

function withRowAdded(state, form, index) {
  const list = form.lists[index],
    rows = valueAt(state.answer, list.path);
  const answer = withValue(state.answer, list.path, [...(Array.isArray(rows) ? rows : []), emptyRow(list)]);
  return { ...state, answer, origins: state.origins.map((from, i) => (i === index ? [...from, null] : from)) };
}

function withRowRemoved(state, form, index, row) {
  const list = form.lists[index],
    without = (items) => items.filter((_, i) => i !== row);
  const answer = withValue(state.answer, list.path, without(valueAt(state.answer, list.path)));
  return { ...state, answer, origins: state.origins.map((from, i) => (i === index ? without(from) : from)) };
}

/** The predicted value of a cell: of the row that it came from, wherever that row stands now. */
function predictedCell(document, state, form, index, row, field) {
  const from = state.origins[index][row];
  return from === null || from === undefined
    ? undefined
    : valueAt(document.answer, [...form.lists[index].path, from, ...field.path]);
}

/** The document's name under `column`, its answer in the schema's shape. Added rows without a value are left out. */
function labelsOf(form, column, source, state) {
  let answer = state.answer;
  form.lists.forEach((list, index) => {
    const rows = valueAt(answer, list.path);
    if (!Array.isArray(rows)) return;
    const isEmpty = (row) => list.fields.every((field) => isAbsent(valueAt(row, field.path)));
    answer = withValue(
      answer,
      list.path,
      rows.filter((row, i) => state.origins[index][i] !== null || !isEmpty(row)),
    );
  });
  return { object: [[column, source], ...completed(answer, form).object] };
}

/** `[document id, field, sentence]` of every value of a state that does not fit the schema. */
function misfits(form, id, state) {
  const found = notShown(state.answer, form).map(([path]) => [
    id,
    pathName(path),
    "not in the schema's place or shape",
  ]);
  const look = (field, path) => {
    const value = valueAt(state.answer, path),
      sentence = misfit(field, value);
    if (sentence && isPlain(value)) found.push([id, pathName(path), sentence]);
  };
  for (const field of form.header) look(field, field.path);
  for (const list of form.lists) {
    const rows = valueAt(state.answer, list.path);
    if (Array.isArray(rows))
      rows.forEach((_, row) => list.fields.forEach((field) => look(field, [...list.path, row, ...field.path])));
  }
  return found;
}

// What the browser keeps. A run is one set of predictions; its key holds their hash, so the edits of one run never show
// over the predictions of another. Every key of ours starts alike, so that edits of earlier runs are found.
const KEPT = "review of predictions ";
const keyOf = (run) => KEPT + run;

function keptText(data, page, when, work) {
  const documents = data.documents
    .filter((d) => work.has(d.id) && !isUntouched(work.get(d.id), d))
    .map((d) => ({ id: d.id, source: d.source, ...work.get(d.id) }));
  return documents.length
    ? JSON.stringify({ version: 1, form: data.form_hash, column: data.column, page, when, documents })
    : null;
}

/** The run that a kept text holds, or null where this page cannot read it. */
function keptRun(text) {
  try {
    const run = JSON.parse(text);
    return run?.version === 1 &&
      Array.isArray(run.documents) &&
      run.documents.every((d) => isObject(d.answer) && Array.isArray(d.origins))
      ? run
      : null;
  } catch {
    return null;
  }
}

/**
 * Kept runs, other than this page's, that concern it: from the page's own place, or of its documents and fields.
 * `entries` are the browser's [key, text]; `here` are the documents that are on this page too.
 */
function earlierRuns(data, page, entries) {
  const ids = new Set(data.documents.map((d) => d.id)),
    found = [];
  for (const [key, text] of entries) {
    if (key === keyOf(data.run)) continue;
    // Before the hash, a page kept its work under its place, number of documents and first document.
    if (key.startsWith(`review ${page} `)) found.push({ key, text, run: null, here: [] });
    if (!key.startsWith(KEPT)) continue;
    const run = keptRun(text),
      here = run?.form === data.form_hash ? run.documents.filter((d) => ids.has(d.id)) : [];
    if (!run || run.page === page || here.length) found.push({ key, text, run, here });
  }
  return found;
}

/** The kept documents of an earlier run that may be loaded: those of this page that have no edits yet. */
const loadable = (data, work, earlier) =>
  earlier.here.filter((kept) => {
    const state = work.get(kept.id);
    return (
      !state ||
      isUntouched(
        state,
        data.documents.find((d) => d.id === kept.id),
      )
    );
  });

/** A kept document as a state of this run. Its rows are compared with the new prediction's rows in order. */
const loadedState = (kept) => ({
  reviewed: kept.reviewed,
  answer: kept.answer,
  origins: kept.origins.map((rows) => rows.map((from, row) => (from === null ? null : row))),
});

/** What is left of an earlier run when `taken` were loaded: a text to keep, or null. */
function remainder(earlier, taken) {
  const ids = new Set(taken.map((d) => d.id)),
    documents = earlier.run.documents.filter((d) => !ids.has(d.id));
  return documents.length ? JSON.stringify({ ...earlier.run, documents }) : null;
}

/** An earlier run as a file: the labels of its reviewed documents, and of those that were edited and not reviewed. */
function earlierFile(data, earlier) {
  if (!earlier.run) return earlier.text;
  const form = earlier.run.form === data.form_hash ? data.form : { header: [], lists: [] };
  const labels = (reviewed) =>
    earlier.run.documents
      .filter((d) => d.reviewed === reviewed)
      .map((d) => labelsOf(form, earlier.run.column, d.source, d));
  return `${jsonText({
    object: [
      ["reviewed", labels(true)],
      ["unfinished", labels(false)],
    ],
  })}\n`;
}
