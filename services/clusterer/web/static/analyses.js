/** What the pages of duplicates and quality share: choosing a set, starting a job, deciding about images, pages. */
import { extractor, get, may, patch, post, request } from './api.js';
import { CancelJob, JobProgress, ended, setName, useJob } from './jobs.js';
import { Dialog, Menu, fixed, number, toast, useData, useKeys } from './ui.js';
import { html, useCallback, useEffect, useRef, useState } from './vendor/preact.js';

/** Finished embeddings, newest first. */
export async function readSets(signal) {
  const { embeddings } = await get(extractor('/embeddings'), {}, { signal });
  const whole = embeddings.filter((each) => each.complete && each.rows);
  return whole.sort((a, b) => String(b.finished_at).localeCompare(String(a.finished_at)));
}

/** The name of a set as people know it, with its id where there is nothing else to tell two apart. */
export function setOption(set) {
  const { id, rows, model } = set;
  const name = setName(set);
  const facts = [name, `${number(rows)} images`, ...(model.name === name ? [] : [model.name]), id.slice(-6)];
  return [id, facts.join(' · ')];
}

/** `nameOf(id)`: what a set is called; until the sets are read, or if it is gone, its id without the hash. */
export function useSetNames() {
  const sets = useData(readSets, []);
  return (id) => {
    const set = sets.data?.find((each) => each.id === id);
    return set ? setName(set) : String(id).replace(/-[0-9a-f]{8,}$/, '');
  };
}

/** Start a job and follow it: `start(path, json)`, `job`, `error`; `onDone(result)` when it has succeeded. */
export function useNewJob(onDone) {
  const [begun, setBegun] = useState({ id: null, error: null });
  const left = useRef(false);
  useEffect(() => () => { left.current = true; }, []);
  const { job } = useJob(begun.id);
  useEffect(() => {
    if (!job || !ended(job)) return;
    if (job.state === 'succeeded') onDone(job.result);
    else setBegun({ id: null, error: job.state === 'failed' ? new Error(job.error?.detail || 'The job failed.') : null });
  }, [job?.state]);
  const start = async (path, json) => {
    setBegun({ id: null, error: null });
    try {
      const { id } = await post(path, json);
      if (!left.current) setBegun({ id, error: null });
    } catch (error) {
      setBegun({ id: null, error });
    }
  };
  return { job, error: begun.error, start };
}

/** The progress of a job that the page has started, its page, and a way to end it. */
export function Started({ job }) {
  return html`<section class="card" role="status">
    <${JobProgress} job=${job} />
    <div class="actions"><${CancelJob} job=${job} /><a href=${`/ui/jobs/${job.id}`}>The job</a></div>
  </section>`;
}

/** Where what is decided about images goes. */
export function DecisionsMenu({ decisions, id }) {
  return html`<${Menu} label="Export">
    <a href=${decisions.exportPath('txt')} download=${`${id}-drops.txt`}>Paths to drop<small>One a line, for scripts</small></a>
    <a href=${decisions.exportPath('csv')} download=${`${id}.csv`}>Table (CSV)<small>What is suggested and what is decided</small></a>
    <a href=${decisions.exportPath('jsonl')} download=${`${id}.jsonl`}>JSON Lines</a>
    <a href=${decisions.exportPath('parquet')} download=${`${id}.parquet`}>Parquet</a>
  </${Menu}>`;
}

/**
 * Decisions about rows of a result: `of(row)` is what is decided about a row of a page ({row, decision}),
 * `decide({row: fields})` changes some, `undo()` takes the last change back, `summary` says how much is decided.
 * Changes are shown at once and sent one after another. `onOthers()` is called when somebody else was faster.
 */
export function useDecisions(kind, id, onOthers) {
  const base = `/${kind}/${encodeURIComponent(id)}/decisions`;
  const [changed, setChanged] = useState(new Map());
  const [summary, setSummary] = useState(null);
  const tag = useRef(null);
  const last = useRef(Promise.resolve());

  const readSummary = useCallback(async () => {
    const answer = await request('GET', `${base}/summary`, { raw: true });
    setSummary(await answer.json());
    return answer.headers.get('ETag');
  }, [base]);
  // The version changes with our own changes alone, so that those of others are noticed; a change waits for the first.
  const readVersion = async () => {
    tag.current = await readSummary();
  };
  useEffect(() => {
    last.current = readVersion().catch((error) => toast(error.message, { kind: 'error' }));
  }, [base]);

  const inTurn = (work) => {
    last.current = last.current.then(work).catch(async (error) => {
      const others = error.status === 412;
      toast(others ? 'Somebody else decided meanwhile. The page shows their decisions now: decide again.' : error.message, { kind: 'error' });
      setChanged(new Map());
      await readVersion().catch(() => {});
      onOthers();
    });
    return last.current;
  };
  const of = (row) => (changed.has(row.row) ? changed.get(row.row) : row.decision);
  const decide = (rows, before = {}) => {
    setChanged((now) => {
      const next = new Map(now);
      for (const [row, fields] of Object.entries(rows)) {
        const was = next.has(Number(row)) ? next.get(Number(row)) : before[row];
        next.set(Number(row), fields === null ? null : { action: null, label: null, ...was, ...fields });
      }
      return next;
    });
    return inTurn(async () => {
      const answer = await request('PATCH', base, { json: rows, headers: { 'If-Match': tag.current }, raw: true });
      tag.current = answer.headers.get('ETag');
      await readSummary();
    });
  };
  const undo = () =>
    inTurn(async () => {
      const answer = await request('POST', `${base}/undo`, { headers: { 'If-Match': tag.current }, raw: true });
      tag.current = answer.headers.get('ETag');
      const entry = await answer.json();
      setChanged((now) => {
        const next = new Map(now);
        for (const each of entry.decisions) next.set(each.row, each.after);
        return next;
      });
      await readSummary();
      toast(`Taken back: ${number(entry.decisions.length)} ${entry.decisions.length === 1 ? 'decision' : 'decisions'}.`);
    });
  return { of, decide, undo, summary, may: may('submit'), exportPath: (format) => `${base}/export?format=${format}` };
}

/** Links to pages of a list: `page` from 0. */
export function Pages({ page, pages, onPage, what = 'groups' }) {
  if (pages < 2) return null;
  return html`<nav class="pages" aria-label=${`Pages of ${what}`}>
    <button disabled=${page === 0} onClick=${() => onPage(page - 1)}>Previous</button>
    <span class="number">Page ${number(page + 1)} of ${number(pages)}</span>
    <button disabled=${page >= pages - 1} onClick=${() => onPage(page + 1)}>Next</button>
  </nav>`;
}

/** Which keys do what, as one quiet line, and in a dialog after `?`. */
export function KeyHelp({ keys }) {
  const [open, setOpen] = useState(false);
  useKeys({ '?': () => setOpen(true) });
  const all = keys.map(([key, text]) => html`<span key=${key}><kbd>${key}</kbd> ${text}</span>`);
  return html`<p class="key-help quiet">${all}</p>
    ${open && html`<${Dialog} title="Keys" onClose=${() => setOpen(false)}><p class="key-list">${all}</p></${Dialog}>`}`;
}

/** Move the focus to the `step`-th image after the one that has it; its index. */
export function moveFocus(step) {
  const all = [...document.querySelectorAll('[data-image]')];
  const now = all.indexOf(document.activeElement?.closest('[data-image]'));
  const next = all[now < 0 ? (step > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, now + step))];
  next?.focus({ preventScroll: true });
  next?.scrollIntoView({ block: 'nearest', behavior: 'auto' });
}

/** The row of the image that has the focus, or undefined. */
export function focusedRow() {
  const element = document.activeElement?.closest('[data-image]');
  return element ? Number(element.dataset.image) : undefined;
}

/** Whether a key belongs to the button or link that has the focus. */
export const onControl = (event) => Boolean(event.target.closest?.('button, a, summary, label'));

export const similarity = (value) => fixed(value, 3);
