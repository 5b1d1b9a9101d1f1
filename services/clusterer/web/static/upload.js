/**
 * Images from this computer: what was dropped or chosen, and sending it part by part.
 *
 * The parts of a choice are always the same, and its `Idempotency-Key` comes from its names, sizes and dates: who chooses
 * the same files again, after a reload or a broken connection, continues where the upload ended.
 */
import { Problem, del, extractor, get, request, session } from './api.js';
import { navigate } from './ui.js';

const IMAGE = /\.(jpe?g|jfif|png|webp|gif|bmp|tiff?|avif|heic|heif|jp2|ppm|pgm|pbm|ico|tga|qoi)$/i;
const ARCHIVES = [[/\.zip$/i, 'application/zip'], [/\.tar$/i, 'application/x-tar']];
const PART_BYTES = 8 << 20;
const PART_FILES = 500;
const AT_ONCE = 2;
const TRIES = 4;
const MOST_FILES = 200_000;

/** What was chosen: {files: [{file, path}], others: number of files that are no images, archive}. */
export function chosen(found) {
  const archive = found.length === 1 && ARCHIVES.find(([pattern]) => pattern.test(found[0].file.name));
  if (archive) return { files: found, others: 0, archive: archive[1] };
  const visible = found.filter(({ path }) => !path.split('/').some((part) => part.startsWith('.') || part === '__MACOSX'));
  const files = visible.filter(({ file }) => file.type.startsWith('image/') || IMAGE.test(file.name));
  files.sort((a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0));
  return { files, others: visible.length - files.length, archive: null };
}

/** Files with their paths, from an input or a drop; folders are walked. Call it within the event. */
export async function collect(files, transfer) {
  const entries = [...(transfer?.items || [])].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) {
    return [...files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
  }
  const found = [];
  for (const entry of entries) await walk(entry, '', found);
  return found;
}

async function walk(entry, prefix, found) {
  if (found.length >= MOST_FILES) throw new Error(`More than ${MOST_FILES} files: put the folder below the data folder of the server instead.`);
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ file, path: prefix + entry.name });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A reader gives a hundred entries at a time.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const each of some) await walk(each, `${prefix}${entry.name}/`, found);
  }
}

/** Files that another page was given, for the page that asks where they go. */
export const handed = { files: null };

export async function handOver(files, transfer) {
  handed.files = await collect(files, transfer);
  navigate('/ui/new');
}

export function split({ files, archive }) {
  if (archive) return [files];
  const parts = [];
  let part = [];
  let size = 0;
  for (const each of files) {
    if (part.length && (size + each.file.size > PART_BYTES || part.length >= PART_FILES)) {
      parts.push(part);
      part = [];
      size = 0;
    }
    part.push(each);
    size += each.file.size;
  }
  if (part.length) parts.push(part);
  return parts;
}

/** The same number for the same names, sizes and dates (cyrb53; not secret, so a short hash is enough). */
export function fingerprint(files) {
  let a = 0xdeadbeef;
  let b = 0x41c6ce57;
  for (const { file, path } of files) {
    for (const letter of `${path}\0${file.size}\0${file.lastModified}\n`) {
      const code = letter.codePointAt(0);
      a = Math.imul(a ^ code, 2654435761);
      b = Math.imul(b ^ code, 1597334677);
    }
  }
  a = Math.imul(a ^ (a >>> 16), 2246822507) ^ Math.imul(b ^ (b >>> 13), 3266489909);
  b = Math.imul(b ^ (b >>> 16), 2246822507) ^ Math.imul(a ^ (a >>> 13), 3266489909);
  return (4294967296 * (2097151 & b) + (a >>> 0)).toString(36);
}

const pause = (ms, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener('abort', () => (clearTimeout(timer), reject(stopped())), { once: true });
  });
const stopped = () => new DOMException('The upload was stopped.', 'AbortError');

/**
 * Send a choice. Resolves with the upload's id.
 *
 * `onProgress({sent, total, resumed})` in bytes; `signal` stops it, what has arrived stays.
 */
export async function upload(choice, { onProgress, signal }) {
  const parts = split(choice);
  const sizes = parts.map((part) => part.reduce((sum, { file }) => sum + file.size, 0));
  const total = sizes.reduce((sum, size) => sum + size, 0);
  const key = `pages-${fingerprint(choice.files)}-${choice.files.length}`;
  const made = await request('POST', extractor('/uploads'), { headers: { 'Idempotency-Key': key }, signal });
  const id = made.upload;
  if (made.complete) return id;
  const there = new Set((await get(extractor(`/uploads/${id}`), {}, { signal })).parts.map((part) => part.part));
  const sent = sizes.map((size, i) => (there.has(i) ? size : 0));
  const resumed = sent.reduce((sum, size) => sum + size, 0);
  const tell = () => onProgress({ sent: Math.min(total, sent.reduce((sum, size) => sum + size, 0)), total, resumed });
  tell();
  const waiting = parts.map((_, i) => i).filter((i) => !there.has(i));
  const worker = async () => {
    while (waiting.length) {
      const i = waiting.shift();
      const share = (loaded) => {
        sent[i] = Math.min(sizes[i], loaded);
        tell();
      };
      await sendPart(extractor(`/uploads/${id}/parts/${i}`), parts[i], choice.archive, share, signal);
      share(sizes[i]);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  await request('POST', extractor(`/uploads/${id}/complete`), { signal });
  return id;
}

export const discard = (id) => del(extractor(`/uploads/${id}`));

async function sendPart(path, files, archive, onSent, signal) {
  for (let tried = 1; ; tried++) {
    try {
      return await send(path, files, archive, onSent, signal);
    } catch (error) {
      const passing = error instanceof Problem && (error.status === 0 || error.status === 429 || error.status === 503);
      if (!passing || tried >= TRIES) throw error;
      await pause(1000 * 2 ** (tried - 1), signal);
    }
  }
}

/** One part. `fetch` does not say how much has been sent; XMLHttpRequest does. */
function send(path, files, archive, onSent, signal) {
  return new Promise((resolve, reject) => {
    if (signal.aborted) return reject(stopped());
    const sending = new XMLHttpRequest();
    sending.open('PUT', path);
    sending.setRequestHeader('Accept', 'application/json');
    if (session.current?.csrf) sending.setRequestHeader('X-CSRF-Token', session.current.csrf);
    sending.upload.onprogress = (event) => onSent(event.loaded);
    const abort = () => sending.abort();
    signal.addEventListener('abort', abort, { once: true });
    const ended = (settle) => () => {
      signal.removeEventListener('abort', abort);
      settle();
    };
    sending.onload = ended(() => {
      if (sending.status < 300) return resolve();
      let document = {};
      try {
        document = JSON.parse(sending.responseText);
      } catch {
        // Not JSON: the status says all there is.
      }
      if (sending.status === 401) dispatchEvent(new CustomEvent('shoal:login'));
      reject(new Problem(sending.status, document));
    });
    sending.onerror = ended(() => reject(new Problem(0, { code: 'unreachable', detail: 'The connection broke while images were sent.' })));
    sending.onabort = ended(() => reject(stopped()));
    if (archive) {
      sending.setRequestHeader('Content-Type', archive);
      sending.send(files[0].file);
      return;
    }
    const form = new FormData();
    for (const { file, path: name } of files) form.append('files', file, name);
    sending.send(form);
  });
}
