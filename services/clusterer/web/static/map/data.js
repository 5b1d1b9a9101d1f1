/** What the map page reads: places and values of all points, and what a few of them are. */
import { get, request, withQuery } from '../api.js';
import { base, isNoise, wordOf } from '../groups.js';
import { readArrays } from './arrays.js';
import { css, groupColours, isDark, noneColour, rampColours } from './palette.js';

const ROWS_AT_ONCE = 256;
const MOST_SINGLY = 4096;

async function arrays(path, signal) {
  const answer = await request('GET', path, { raw: true, signal, headers: { Accept: 'application/octet-stream' } });
  return readArrays(await answer.arrayBuffer());
}

/** @returns {Promise<{points: Uint16Array, rows: ?Uint32Array, spans: [number, number], count: number, embeddings: string}>} */
export async function readPoints(clustering, embeddings, signal) {
  const { header, arrays: found } = await arrays(withQuery(`${base(clustering)}/map/points`, { embeddings }), signal);
  const spans = [header.x[1] - header.x[0], header.y[1] - header.y[0]];
  return { ...header, points: found.points, rows: found.rows ?? null, spans };
}

/** One value a point, with its `legend` (groups) or `range` (steps). */
export async function readValues(clustering, embeddings, by, signal) {
  const { header, arrays: found } = await arrays(withQuery(`${base(clustering)}/map/values`, { embeddings, by }), signal);
  return { ...header, embeddings, values: found.values };
}

/** How a group is called: `name` for people, `key` for its number. */
export function groupName(by, entry) {
  if (by !== 'cluster') return entry.name;
  return entry.name || (!isNoise(entry.cluster) && entry.majority) || wordOf(entry.cluster);
}

/**
 * Colours of values: RGBA bytes, and the colour of each group for a legend. Hidden values get alpha 0.
 * @param {{by: string, legend?: Object[], range?: number[]}} values
 * @param {(value: number) => boolean} hidden
 */
export function coloursOf(values, hidden) {
  const dark = isDark();
  const none = noneColour(dark);
  const numbers = values.legend?.map((entry, place) => entry.cluster ?? place);
  const ramp = rampColours(dark).slice(0, 255);
  // What people look for stands out: far images, and small margins.
  const groups = values.legend && groupColours(numbers, dark).map((colour, place) => (values.by === 'cluster' && isNoise(numbers[place]) ? none : colour));
  const found = values.legend ? groups : values.by === 'margin' ? ramp.reverse() : ramp;
  const bytes = new Uint8Array(4 * (found.length + 1));
  [...found, none].forEach((colour, value) => bytes.set([...colour, hidden(value) ? 0 : 255], 4 * value));
  return { bytes, swatches: [...found, none].map(css) };
}

/** What points are: path, label, cluster, in the order of their rows. */
export async function readRows(clustering, embeddings, rows, signal) {
  const found = [];
  for (let at = 0; at < rows.length; at += ROWS_AT_ONCE) {
    const part = [...rows.slice(at, at + ROWS_AT_ONCE)].join(',');
    found.push(...(await get(`${base(clustering)}/map/rows`, { embeddings, rows: part }, { signal })).rows);
  }
  return found;
}

/** The same of any number of rows: many are picked from the stream of all, a line each. */
export async function eachRow(clustering, embeddings, rows, use) {
  if (rows.length <= MOST_SINGLY) {
    (await readRows(clustering, embeddings, rows)).forEach(use);
    return;
  }
  const wanted = new Uint8Array(rows.at(-1) + 1);
  for (const row of rows) wanted[row] = 1;
  const path = withQuery(`${base(clustering)}/export`, { format: 'jsonl', embeddings });
  const answer = await request('GET', path, { raw: true, headers: { Accept: 'application/x-ndjson' } });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
    const lines = (rest + piece.value).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      const found = /"row":\s*(\d+)/.exec(line);
      if (found && wanted[Number(found[1])]) use(JSON.parse(line));
    }
  }
}

const COLUMNS = ['row', 'image_path', 'label', 'cluster', 'merged_cluster', 'name', 'flag', 'distance', 'margin'];

/** A cell of CSV. A `'` stands before what a spreadsheet would compute. */
function cell(value) {
  if (value === null || value === undefined) return '';
  const text = typeof value === 'string' && /^[=+\-@\t\r\n]/.test(value) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** Save rows as a file of this machine: `csv` or `jsonl`. */
export async function saveRows(clustering, embeddings, rows, format) {
  const parts = format === 'csv' ? [`${COLUMNS.join(',')}\r\n`] : [];
  await eachRow(clustering, embeddings, rows, (row) => {
    const kept = Object.fromEntries(COLUMNS.map((name) => [name, row[name] ?? null]));
    parts.push(format === 'csv' ? `${COLUMNS.map((name) => cell(kept[name])).join(',')}\r\n` : `${JSON.stringify(kept)}\n`);
  });
  const type = format === 'csv' ? 'text/csv' : 'application/x-ndjson';
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob(parts, { type }));
  link.download = `${clustering}-selection.${format}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
