/**
 * Requests to the APIs. The clusterer's are at their own paths, the extractor's below `/ui/extractor`.
 * A failed request throws a `Problem`.
 */

const SAFE = new Set(['GET', 'HEAD']);
const THUMBNAILS_AT_ONCE = 128;
const THUMBNAILS_KEPT = 20_000;

/** An error of an API (RFC 9457): `code` is stable, `detail` is for people, `errors` name the wrong fields. */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail || document.title || `The server answered with status ${status}.`);
    this.status = status;
    this.code = document.code || 'unknown';
    this.field = document.field;
    this.errors = document.errors || [];
    this.document = document;
  }

  /** The message about one field of the request, or undefined. */
  about(field) {
    const found = this.errors.find((each) => each.field === field);
    return found ? found.message : this.field === field ? this.message : undefined;
  }
}

/** Who looks at the pages: {authenticated, needed, name, scope, csrf}. Read once, and after login and logout. */
export const session = { current: null };

export async function readSession() {
  session.current = await request('GET', '/session');
  return session.current;
}

const RANK = { read: 0, submit: 1, admin: 2 };

/** Whether the person may do what needs `scope` (`read`, `submit`, `admin`). */
export function may(scope) {
  const now = session.current;
  return Boolean(now) && (RANK[now.scope] ?? -1) >= RANK[scope];
}

/** The path of an extractor's route. */
export function extractor(path) {
  return `/ui/extractor${path}`;
}

/** `path` with the parameters that have a value. */
export function withQuery(path, params = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    if (value !== undefined && value !== null && value !== '') query.append(name, value);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

/**
 * Send a request and return the answer's JSON (null without content).
 * Options: json (a value) or body (with headers), headers, signal, raw (return the Response).
 */
export async function request(method, path, { json, body, headers = {}, signal, raw = false } = {}) {
  const sent = { Accept: 'application/json', ...headers };
  if (json !== undefined) sent['Content-Type'] = 'application/json';
  if (!SAFE.has(method) && session.current?.csrf) sent['X-CSRF-Token'] = session.current.csrf;
  let answer;
  try {
    const content = json === undefined ? body : JSON.stringify(json);
    answer = await fetch(path, { method, headers: sent, body: content, signal, credentials: 'same-origin' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Problem(0, { code: 'unreachable', detail: 'Shoal does not answer. Is it still running?' });
  }
  if (!answer.ok) throw await problemOf(answer, path);
  if (raw) return answer;
  const text = await answer.text();
  return text ? JSON.parse(text) : null;
}

async function problemOf(answer, path) {
  let document = {};
  try {
    document = await answer.json();
  } catch {
    // Not JSON: the status says all there is.
  }
  const problem = new Problem(answer.status, document);
  if (answer.status === 401 && path !== '/session') dispatchEvent(new CustomEvent('shoal:login'));
  return problem;
}

export const get = (path, params, options) => request('GET', withQuery(path, params), options);
export const post = (path, json, options) => request('POST', path, { json, ...options });
export const put = (path, json, options) => request('PUT', path, { json, ...options });
export const patch = (path, json, options) => request('PATCH', path, { json, ...options });
export const del = (path, options) => request('DELETE', path, options);

/**
 * Follow a job: `onJob(job)` on every change. Returns a function that stops.
 * Where events do not arrive, such as behind a proxy that holds them back, the job is polled.
 */
export function followJob(id, onJob) {
  const path = `/jobs/${encodeURIComponent(id)}`;
  let timer;
  let stopped = false;
  const ended = (job) => ['succeeded', 'failed', 'cancelled'].includes(job.state);
  const poll = async () => {
    try {
      const job = await get(path);
      if (stopped) return;
      onJob(job);
      if (ended(job)) return;
    } catch (error) {
      if (error.status === 404 || error.status === 401) return;
    }
    if (!stopped) timer = setTimeout(poll, 2000);
  };
  const source = new EventSource(`${path}/events`);
  source.addEventListener('job', (event) => {
    const job = JSON.parse(event.data);
    onJob(job);
    if (ended(job)) source.close();
  });
  source.onerror = () => {
    source.close();
    if (!stopped && !timer) poll();
  };
  return () => {
    stopped = true;
    clearTimeout(timer);
    source.close();
  };
}

/** A file as a data URI, as the API takes images within a request. */
export function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

const kept = new Map();
const wanted = new Map();
let scheduled = false;

/** The thumbnail of a row as a data URI, null if it has none. Those asked for at about the same time are read at once. */
export function thumbnail(embeddings, row) {
  const key = `${embeddings}/${row}`;
  if (kept.has(key)) return kept.get(key);
  const found = new Promise((resolve) => {
    const rows = wanted.get(embeddings) || new Map();
    rows.set(row, [...(rows.get(row) || []), resolve]);
    wanted.set(embeddings, rows);
  });
  kept.set(key, found);
  if (kept.size > THUMBNAILS_KEPT) kept.delete(kept.keys().next().value);
  if (!scheduled) {
    scheduled = true;
    setTimeout(readThumbnails, 15);
  }
  return found;
}

async function readThumbnails() {
  scheduled = false;
  const batches = [...wanted];
  wanted.clear();
  for (const [embeddings, rows] of batches) {
    const numbers = [...rows.keys()].sort((a, b) => a - b);
    for (let at = 0; at < numbers.length; at += THUMBNAILS_AT_ONCE) {
      readBatch(embeddings, numbers.slice(at, at + THUMBNAILS_AT_ONCE), rows);
    }
  }
}

async function readBatch(embeddings, numbers, rows) {
  let images = {};
  try {
    images = await get(`/embeddings/${encodeURIComponent(embeddings)}/thumbnails`, { rows: numbers.join(',') });
  } catch {
    // Shown by their names; asked for again when they are next needed.
    for (const row of numbers) kept.delete(`${embeddings}/${row}`);
  }
  for (const row of numbers) for (const resolve of rows.get(row)) resolve(images[row] ?? null);
}
