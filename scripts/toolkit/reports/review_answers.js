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
  const filledLists = (node, lists) => {
    for (const list of lists) {
      node = fill(node, list.path, []);
      const rows = valueAt(node, list.path);
      if (!Array.isArray(rows)) continue;
      const whole = rows.map((row) => {
        if (isObject(row)) row = list.fields.reduce((made, field) => fill(made, field.path, null), row);
        return isObject(row) || Array.isArray(row) ? filledLists(row, innerLists(list)) : row;
      });
      node = withValue(node, list.path, whole);
    }
    return node;
  };
  return filledLists(answer, form.lists);
}

/** The lists inside a list's rows. */
const innerLists = (list) => list.lists ?? [];

/** A new row of `list`, every value absent. */
const emptyRow = (list) =>
  innerLists(list).reduce(
    (row, inner) => withValue(row, inner.path, []),
    list.fields.reduce((row, field) => withValue(row, field.path, null), null),
  );

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
  const tables = (lists) =>
    lists.map((list) => [list.path, { rows: tree([...boxes(list.fields), ...tables(innerLists(list))]) }]);
  const whole = tree([...boxes(form.header), ...tables(form.lists)]);
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
// from (null: added here). So every row is compared with its own prediction when others are added or removed. Where
// rows hold lists, a row's origin is {from, lists}, with the origins of the rows of each list inside it.
//
// A table is addressed by the index of its list in the form, or, inside rows, by [list, row, list, row, ..., list].

const rowsAt = (node, list) => {
  const items = valueAt(node, list.path);
  return Array.isArray(items) ? items : [];
};
const fromOf = (origin) => (origin !== null && typeof origin === "object" ? origin.from : origin);
const originsOf = (lists, node) =>
  lists.map((list) =>
    rowsAt(node, list).map((row, index) =>
      innerLists(list).length ? { from: index, lists: originsOf(innerLists(list), row) } : index,
    ),
  );
const addressOf = (table) => (Array.isArray(table) ? table : [table]);

/** The list of a table, and the path of its rows. */
function tableAt(form, table) {
  let lists = form.lists,
    path = [],
    list = null;
  addressOf(table).forEach((step, place) => {
    if (place % 2) path = [...path, step];
    else {
      list = lists[step];
      path = [...path, ...list.path];
      lists = innerLists(list);
    }
  });
  return { list, path };
}

/** The origins with those of one table changed. */
function withOrigins(origins, [index, row, ...rest], change) {
  return origins.map((rows, i) => {
    if (i !== index) return rows;
    if (row === undefined) return change(rows);
    return rows.map((origin, r) => (r === row ? { ...origin, lists: withOrigins(origin.lists, rest, change) } : origin));
  });
}

function initialState(document, form) {
  return { reviewed: false, answer: document.answer, origins: originsOf(form.lists, document.answer) };
}

const isUntouched = (state, document) => !state.reviewed && same(state.answer, document.answer);

function withRowAdded(state, form, table) {
  const { list, path } = tableAt(form, table),
    rows = valueAt(state.answer, path);
  const answer = withValue(state.answer, path, [...(Array.isArray(rows) ? rows : []), emptyRow(list)]);
  const origin = innerLists(list).length ? { from: null, lists: innerLists(list).map(() => []) } : null;
  return { ...state, answer, origins: withOrigins(state.origins, addressOf(table), (rows) => [...rows, origin]) };
}

function withRowRemoved(state, form, table, row) {
  const { path } = tableAt(form, table),
    without = (items) => items.filter((_, i) => i !== row);
  const answer = withValue(state.answer, path, without(valueAt(state.answer, path)));
  return { ...state, answer, origins: withOrigins(state.origins, addressOf(table), without) };
}

/** The predicted value of a cell: of the row that it came from, wherever that row stands now. */
function predictedCell(document, state, form, table, row, field) {
  let origins = state.origins,
    lists = form.lists,
    path = [];
  const steps = [...addressOf(table), row];
  for (let place = 0; place < steps.length; place += 2) {
    const list = lists[steps[place]],
      origin = origins[steps[place]][steps[place + 1]],
      from = fromOf(origin);
    if (from === null || from === undefined) return undefined;
    path = [...path, ...list.path, from];
    lists = innerLists(list);
    origins = origin?.lists;
  }
  return valueAt(document.answer, [...path, ...field.path]);
}

/** The document's name under `column`, its answer in the schema's shape. Added rows without a value are left out. */
function labelsOf(form, column, source, state) {
  const isEmpty = (row, list) =>
    list.fields.every((field) => isAbsent(valueAt(row, field.path))) &&
    innerLists(list).every((inner) => rowsAt(row, inner).every((item) => isEmpty(item, inner)));
  const kept = (node, lists, origins) => {
    lists.forEach((list, index) => {
      const rows = valueAt(node, list.path);
      if (!Array.isArray(rows)) return;
      const left = rows.flatMap((row, i) => {
        const origin = origins[index][i];
        if (fromOf(origin) === null && isEmpty(row, list)) return [];
        return [innerLists(list).length ? kept(row, innerLists(list), origin.lists) : row];
      });
      node = withValue(node, list.path, left);
    });
    return node;
  };
  const answer = kept(state.answer, form.lists, state.origins);
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
  const lookInside = (lists, before) => {
    for (const list of lists) {
      const rows = valueAt(state.answer, [...before, ...list.path]);
      for (const row of Array.isArray(rows) ? rows.keys() : []) {
        const path = [...before, ...list.path, row];
        list.fields.forEach((field) => look(field, [...path, ...field.path]));
        lookInside(innerLists(list), path);
      }
    }
  };
  lookInside(form.lists, []);
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
const loadedState = (kept) => {
  const inOrder = (origins) =>
    origins.map((rows) =>
      rows.map((origin, row) => {
        const from = fromOf(origin) === null ? null : row;
        return origin?.lists ? { from, lists: inOrder(origin.lists) } : from;
      }),
    );
  return { reviewed: kept.reviewed, answer: kept.answer, origins: inOrder(kept.origins) };
};

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
