/** What the wall and the page of a group share: reading groups page by page, and changing names, merges and moves. */
import { get, request, withQuery } from './api.js';
import { plural } from './format.js';
import { toast } from './ui.js';
import { useEffect, useReducer, useRef } from './vendor/preact.js';

export const base = (id) => `/clusterings/${encodeURIComponent(id)}`;
/** A page of a clustering that shows the set of this one: the address says which, where it is not the first. */
export const pagePath = (id, page = '', query = {}) => withQuery(`/ui${base(id)}${page}`, { embeddings: new URLSearchParams(location.search).get('embeddings'), ...query });
export const groupPath = (id, cluster, query) => pagePath(id, `/clusters/${cluster}`, query);

/** Whether a number stands for the images that are in no group. They are shown like a group, but have no name of their own. */
export const isNoise = (cluster) => Number(cluster) === -1;
/** What a group is called by its number alone. */
export const wordOf = (cluster) => (isNoise(cluster) ? 'Noise' : `Group ${cluster}`);

/** The label that at least half of a group's images have, if there is one. */
const mostly = (group) => (group.purity >= 0.5 ? group.majority : null);
/** What a group is called: its name, the label of most of its images, or its number. */
export const titleOf = (group) => group.name || (!isNoise(group.cluster) && mostly(group)) || wordOf(group.cluster);
/** Its number, where its title does not say it. */
export const numberOf = (group) => (isNoise(group.cluster) ? 'in no group' : group.name || mostly(group) ? `group ${group.cluster}` : '');

/** Where a page of a clustering stands: below its groups, which are called by their number once `facts` are read. */
export const crumbsOf = (id, facts) => [['Groups', '/'], [facts ? plural(facts.k, 'group') : id, pagePath(id)]];

/** Groups after merges and moves. */
export const readGroups = (id, params, signal) => get(`${base(id)}/clusters`, { merged: true, ...params }, { signal });

/**
 * A long list that is read in parts as it comes into sight: {count, item(index), want(first, end), reload, error, facts}.
 * `load(offset, limit, signal)` returns {items, total, …facts}. After a reload the old items stay until new ones are there.
 */
export function usePages(load, size, deps) {
  const [, tick] = useReducer((turn) => turn + 1, 0);
  const shown = useRef(null);
  const next = useRef(null);
  const range = useRef([0, 1]);
  const latest = useRef(load);
  latest.current = load;

  const read = (state, page) => {
    if (state.pages.has(page) || state.pending.has(page)) return;
    state.pending.add(page);
    latest.current(page * size, size, state.control.signal).then(
      ({ items, total, ...facts }) => {
        state.pending.delete(page);
        state.pages.set(page, items);
        Object.assign(state, { total, facts, error: null });
        if (next.current === state && shown.current !== state) {
          shown.current?.control.abort();
          shown.current = state;
        }
        tick();
      },
      (error) => {
        state.pending.delete(page);
        if (error.name === 'AbortError') return;
        state.error = error;
        if (!shown.current) shown.current = state;
        tick();
      },
    );
  };
  const wanted = (state) => {
    const [first, end] = range.current;
    for (let page = Math.floor(first / size); page * size < end; page++) read(state, page);
  };
  const reload = () => {
    if (next.current !== shown.current) next.current?.control.abort();
    next.current = { pages: new Map(), pending: new Set(), control: new AbortController(), total: 0, error: null };
    wanted(next.current);
  };
  useEffect(() => {
    // What is in sight is read again: a grid of as many items as before does not ask for them.
    reload();
    return () => next.current?.control.abort();
  }, deps);
  const state = shown.current;
  return {
    count: state?.total ?? 0,
    facts: state?.facts,
    loading: !state,
    stale: Boolean(state) && next.current !== state,
    error: next.current?.error || null,
    item: (index) => state?.pages.get(Math.floor(index / size))?.[index % size],
    want: (first, end) => {
      range.current = [first, end];
      if (next.current) wanted(next.current);
    },
    reload,
  };
}

const OTHERS = 'Somebody else changed the groups meanwhile. They are shown as they are now: look, then do it again.';

/**
 * Changes of names, merges and moves, each made for the state that the person saw: {names, move, undo}.
 * `changed()` is called after each, and when somebody else was faster.
 */
export function useJournal(id, changed) {
  const etag = useRef(null);
  const last = useRef(Promise.resolve());
  const names = `${base(id)}/names`;
  /** The version that an answer names; its body is read too, since an answer that is not read keeps its connection. */
  const versionOf = async (answer) => {
    await answer.text();
    return answer.headers.get('ETag');
  };
  const read = async () => {
    etag.current = await versionOf(await request('GET', names, { raw: true }));
  };
  useEffect(() => {
    etag.current = null;
    // Without a version nothing can be changed; the first change then reads it and says what is wrong.
    read().catch(() => {});
  }, [id]);

  // One after another: each is made for the version that the one before it left.
  const send = (method, path, json) => {
    last.current = last.current.then(() => sendNow(method, path, json));
    return last.current;
  };
  const sendNow = async (method, path, json) => {
    try {
      if (!etag.current) await read();
      const answer = await request(method, path, { json, raw: true, headers: { 'If-Match': etag.current } });
      etag.current = await versionOf(answer);
      changed();
      return Number(etag.current.replaceAll('"', '').split('-')[0]);
    } catch (error) {
      toast(error.status === 412 ? OTHERS : error.message, { kind: 'error' });
      if (error.status === 412) {
        await read().catch(() => {});
        changed();
      }
      return null;
    }
  };
  const undo = async (entry) => {
    const done = await send('POST', withQuery(`${names}/undo`, { entry }));
    if (done !== null) toast('Taken back.');
  };
  const say = (text, entry) => {
    if (entry !== null && text) toast(text, { action: { label: 'Undo', run: () => undo(entry) } });
    return entry !== null;
  };
  return {
    names: async (changes, text) => say(text, await send('PATCH', names, changes)),
    move: async (embeddings, rows, cluster, text) =>
      say(text, await send('PATCH', withQuery(`${base(id)}/moves`, { embeddings }), Object.fromEntries(rows.map((row) => [row, cluster])))),
    undo: () => undo(),
  };
}

/** A selection in a list: click, with Shift up to here, with Ctrl one more. `keyOf(index)` is undefined if not loaded. */
export function selectAt(selection, index, keyOf, { shift = false } = {}) {
  const next = new Set(selection.keys);
  const key = keyOf(index);
  if (key === undefined) return selection;
  if (shift && selection.from !== null) {
    const [low, high] = [Math.min(selection.from, index), Math.max(selection.from, index)];
    for (let at = low; at <= high; at++) if (keyOf(at) !== undefined) next.add(keyOf(at));
  } else if (next.has(key)) next.delete(key);
  else next.add(key);
  return { keys: next, from: index };
}

export const NOTHING = { keys: new Set(), from: null };
