/** Components that several pages use, and how they are told to move on (`navigate`, `useQuery`) or to speak (`toast`). */
import { session } from './api.js';
import { html, useCallback, useEffect, useId, useLayoutEffect, useRef, useState } from './vendor/preact.js';

export { Thumb, VirtualGrid } from './grid.js';
export { ago, bytes, duration, fixed, number, percent, plural } from './format.js';

// ---------------------------------------------------------------------------------------------------- moving on

/** Go to a path of ours, as a link does. */
export function navigate(path, { replace = false } = {}) {
  history[replace ? 'replaceState' : 'pushState'](null, '', path);
  if (!replace) scrollTo(0, 0);
  dispatchEvent(new CustomEvent('shoal:navigate'));
}

/** Call `listener` whenever the address changes; returns a function that stops. */
export function onNavigate(listener) {
  addEventListener('popstate', listener);
  addEventListener('shoal:navigate', listener);
  return () => {
    removeEventListener('popstate', listener);
    removeEventListener('shoal:navigate', listener);
  };
}

/** The address's query as an object, and a function that changes some of its fields (null or '' removes one). */
export function useQuery() {
  const read = () => Object.fromEntries(new URLSearchParams(location.search));
  const [query, setQuery] = useState(read);
  useEffect(() => onNavigate(() => setQuery(read())), []);
  const change = useCallback((changes) => {
    const next = new URLSearchParams(location.search);
    for (const [name, value] of Object.entries(changes)) {
      if (value === null || value === undefined || value === '') next.delete(name);
      else next.set(name, value);
    }
    const text = next.toString();
    navigate(location.pathname + (text ? `?${text}` : ''), { replace: true });
  }, []);
  return [query, change];
}

/**
 * What `load(signal)` returns: {data, error, loading, reload, set}. It loads again when `deps` change;
 * the last data stay until the next arrive.
 */
export function useData(load, deps) {
  const [state, setState] = useState({ data: undefined, error: null, loading: true });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const control = new AbortController();
    setState((before) => ({ ...before, loading: true }));
    load(control.signal).then(
      (data) => !control.signal.aborted && setState({ data, error: null, loading: false }),
      (error) => !control.signal.aborted && setState((now) => ({ ...now, error, loading: false })),
    );
    return () => control.abort();
  }, [...deps, turn]);
  const reload = useCallback(() => setTurn((now) => now + 1), []);
  const set = useCallback((data) => setState({ data, error: null, loading: false }), []);
  return { ...state, reload, set };
}

/** `value`, once it has not changed for `ms`. */
export function useSettled(value, ms = 250) {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), ms);
    return () => clearTimeout(timer);
  }, [value, ms]);
  return settled;
}

/** Call `handlers[key](event)` for keys pressed outside of fields; names as in KeyboardEvent.key. */
export function useKeys(handlers) {
  const latest = useRef(handlers);
  latest.current = handlers;
  useEffect(() => {
    const pressed = (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      if (event.target.closest?.('input, textarea, select, [contenteditable], dialog')) return;
      const handler = latest.current[event.key];
      if (handler && handler(event) !== false) event.preventDefault();
    };
    addEventListener('keydown', pressed);
    return () => removeEventListener('keydown', pressed);
  }, []);
}

// -------------------------------------------------------------------------------------------------- whole pages

/**
 * A page: its title, where it stands (`crumbs`: [[text, href], …]), what can be done (`actions`) and its content.
 * `lead` is one quiet line below the title.
 */
export function Page({ title, heading, crumbs = [], actions, lead, narrow, wide, children }) {
  const head = useRef(null);
  useEffect(() => {
    document.title = `${title} · Shoal`;
  }, [title]);
  useEffect(() => {
    // After a move, the reader of a screen reader stands at the new page's title.
    if (document.activeElement === document.body || !document.activeElement) head.current?.focus({ preventScroll: true });
  }, []);
  return html`<main id="main" class=${`page${narrow ? ' narrow' : ''}${wide ? ' wide' : ''}`}>
    <div class="head">
      <div class="title">
        ${crumbs.length > 0 &&
        html`<nav class="crumbs" aria-label="Breadcrumb">
          ${crumbs.map(([text, href]) => html`<a href=${href}><${Text} value=${text} /></a>`)}
        </nav>`}
        <h1 tabindex="-1" ref=${head}>${heading || html`<bdi>${title}</bdi>`}</h1>
        ${lead && html`<p class="lead">${lead}</p>`}
      </div>
      ${actions && html`<div class="actions">${actions}</div>`}
    </div>
    ${children}
  </main>`;
}

/** An error as people read it. */
export function Problem({ error, retry }) {
  if (!error) return null;
  return html`<div class="problem" role="alert">
    <p><strong>${error.status === 404 ? 'Not found.' : 'That did not work.'}</strong> ${error.message}</p>
    ${retry && html`<button onClick=${retry}>Try again</button>`}
  </div>`;
}

/** What stands where there is nothing yet: what is missing, and what to do. */
export function Empty({ title, children }) {
  return html`<div class="empty"><h2>${title}</h2>${children}</div>`;
}

export function Loading({ what = 'Loading' }) {
  return html`<p class="loading" role="status">${what}…</p>`;
}

// ------------------------------------------------------------------------------------------------------ parts

/** A name that anybody may have written: cut where it is too long, with the whole in its title. */
export function Text({ value, cut = true }) {
  const text = value === null || value === undefined ? '' : String(value);
  return html`<bdi class=${cut ? 'cut' : 'whole'} title=${text.length > 24 ? text : undefined}>${text}</bdi>`;
}

export function Chip({ kind = '', title, children }) {
  return html`<span class=${`chip ${kind}`} title=${title}>${children}</span>`;
}

/** A figure with its deviation, what chance gives, and one sentence that says what it means. */
export function Figure({ name, value, std, chance, children }) {
  return html`<div class="figure">
    <div class="value">${value}${std ? html`<small> ± ${std}</small>` : null}</div>
    <div class="name">${name}${chance !== undefined && chance !== null && chance !== '' ? html`<span class="quiet"> · chance ${chance}</span>` : null}</div>
    ${children && html`<p>${children}</p>`}
  </div>`;
}

/** A bar for a share of 0 to 1; `label` says what it shows. */
export function Bar({ share, label }) {
  const width = `${Math.round(1000 * Math.min(1, Math.max(0, share || 0))) / 10}%`;
  return html`<span class="bar" role="img" aria-label=${label}><i style=${{ width }}></i></span>`;
}

/** Progress of `done` of `total`; without a total it only shows that something happens. */
export function Progress({ done, total, label }) {
  return total
    ? html`<progress aria-label=${label} max=${total} value=${done}></progress>`
    : html`<progress aria-label=${label}></progress>`;
}

/** A field of a form: its label, a hint, an error. `children` is a function of the ids that its input needs. */
export function Field({ label, hint, error, children, inline }) {
  const id = useId();
  const described = [error && `${id}-error`, hint && `${id}-hint`].filter(Boolean).join(' ');
  const ids = { id, 'aria-describedby': described || undefined, 'aria-invalid': error ? 'true' : undefined };
  return html`<div class=${`field${inline ? ' inline' : ''}`}>
    <label for=${id}>${label}</label>
    ${typeof children === 'function' ? children(ids) : children}
    ${error && html`<p class="error" id=${`${id}-error`}>${error}</p>`}
    ${hint && html`<p class="hint" id=${`${id}-hint`}>${hint}</p>`}
  </div>`;
}

/** A select: `options` are [[value, text], …]. */
export function Select({ label, value, options, onChange, hideLabel }) {
  const id = useId();
  return html`<span class="select">
    <label for=${id} class=${hideLabel ? 'hidden' : 'quiet'}>${label}</label>
    <select id=${id} value=${value} onChange=${(event) => onChange(event.target.value)}>
      ${options.map(([each, text]) => html`<option value=${each} selected=${each === value}>${text}</option>`)}
    </select>
  </span>`;
}

/** A button that opens a list of links or buttons. */
export function Menu({ label, children, kind = '' }) {
  const place = useRef(null);
  const close = () => place.current?.removeAttribute('open');
  useEffect(() => {
    const outside = (event) => !place.current?.contains(event.target) && close();
    addEventListener('pointerdown', outside);
    return () => removeEventListener('pointerdown', outside);
  }, []);
  const keys = (event) => {
    if (event.key !== 'Escape' || !place.current.open) return;
    // The key is used up: the page would take its own Escape, and clear a selection.
    event.preventDefault();
    close();
    place.current.querySelector('summary').focus();
  };
  return html`<details class=${`menu ${kind}`} ref=${place} onKeyDown=${keys}>
    <summary class="button">${label}</summary>
    <div class="items" onClick=${(event) => event.target.closest('a, button') && close()}>${children}</div>
  </details>`;
}

/** Tabs: `tabs` are [[value, text, count], …]; the content stands below, by the caller. */
export function Tabs({ label, value, tabs, onChange }) {
  const keys = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const at = tabs.findIndex(([each]) => each === value);
    const [next] = tabs[(at + step + tabs.length) % tabs.length];
    onChange(next);
    event.currentTarget.querySelector(`[data-tab="${CSS.escape(next)}"]`)?.focus();
  };
  return html`<div class="tabs" role="tablist" aria-label=${label} onKeyDown=${keys}>
    ${tabs.map(
      ([each, text, count]) =>
        html`<button
          role="tab"
          data-tab=${each}
          aria-selected=${each === value ? 'true' : 'false'}
          tabindex=${each === value ? 0 : -1}
          onClick=${() => onChange(each)}
        >
          ${text}${count !== undefined && html`<span class="count">${count}</span>`}
        </button>`,
    )}
  </div>`;
}

/** A dialog above the page. It closes with Escape, and the focus goes back to where it was. */
export function Dialog({ title, onClose, wide, children }) {
  const place = useRef(null);
  const id = useId();
  useLayoutEffect(() => {
    const dialog = place.current;
    const before = document.activeElement;
    dialog.showModal();
    return () => {
      dialog.close();
      before?.focus?.({ preventScroll: true });
    };
  }, []);
  const cancel = (event) => {
    event.preventDefault();
    onClose();
  };
  const outside = (event) => event.target === place.current && onClose();
  return html`<dialog class=${wide ? 'wide' : ''} ref=${place} aria-labelledby=${id} onCancel=${cancel} onMouseDown=${outside}>
    <div class="inside">
      <header><h2 id=${id}>${title}</h2><button class="plain close" aria-label="Close" onClick=${onClose}>×</button></header>
      ${children}
    </div>
  </dialog>`;
}

/** Ask before something that cannot be taken back. `onYes` may return a promise. */
export function Confirm({ title, yes, onYes, onClose, children }) {
  const [busy, setBusy] = useState(false);
  const go = async () => {
    setBusy(true);
    try {
      await onYes();
      onClose();
    } catch (error) {
      toast(error.message, { kind: 'error' });
      setBusy(false);
    }
  };
  return html`<${Dialog} title=${title} onClose=${onClose}>
    ${children}
    <div class="actions end"><button onClick=${onClose}>Cancel</button><button class="danger" disabled=${busy} onClick=${go}>${yes}</button></div>
  </${Dialog}>`;
}

let toastNumber = 0;
/** Say something for some seconds; `action`: {label, run} is a button such as “Undo”. */
export function toast(text, { kind = '', action } = {}) {
  dispatchEvent(new CustomEvent('shoal:toast', { detail: { text, kind, action, id: ++toastNumber } }));
}

export function Toasts() {
  const [shown, setShown] = useState([]);
  const drop = (id) => setShown((now) => now.filter((each) => each.id !== id));
  useEffect(() => {
    const add = ({ detail }) => {
      setShown((now) => [...now.slice(-2), detail]);
      setTimeout(() => drop(detail.id), detail.kind === 'error' || detail.action ? 12_000 : 5_000);
    };
    addEventListener('shoal:toast', add);
    return () => removeEventListener('shoal:toast', add);
  }, []);
  return html`<div class="toasts" role="status" aria-live="polite">
    ${shown.map(
      (each) => html`<div class=${`toast ${each.kind}`} key=${each.id}>
        <span>${each.text}</span>
        ${each.action && html`<button class="plain" onClick=${() => { drop(each.id); each.action.run(); }}>${each.action.label}</button>`}
        <button class="plain close" aria-label="Dismiss" onClick=${() => drop(each.id)}>×</button>
      </div>`,
    )}
  </div>`;
}

/** A place where files can be dropped or chosen: `onFiles(array of File)`. */
export function Drop({ onFiles, accept, multiple = true, folder = false, children }) {
  const [over, setOver] = useState(false);
  const input = useRef(null);
  const drop = (event) => {
    event.preventDefault();
    setOver(false);
    onFiles([...event.dataTransfer.files], event.dataTransfer);
  };
  return html`<div
    class=${`drop${over ? ' over' : ''}`}
    onDragOver=${(event) => { event.preventDefault(); setOver(true); }}
    onDragLeave=${() => setOver(false)}
    onDrop=${drop}
  >
    ${children}
    <input class="hidden" ref=${input} type="file" tabindex="-1" aria-hidden="true" accept=${accept} multiple=${multiple} webkitdirectory=${folder || undefined}
      onChange=${(event) => { onFiles([...event.target.files]); event.target.value = ''; }} />
    <button type="button" onClick=${() => input.current.click()}>Choose ${folder ? 'a folder' : multiple ? 'files' : 'a file'}</button>
  </div>`;
}

/** The person's name and scope, or null where nobody needs to log in. */
export const person = () => (session.current?.needed ? session.current : null);
