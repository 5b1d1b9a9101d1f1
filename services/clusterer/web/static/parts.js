/** Parts of the wall and of the page of a group: names to edit, help on keys, a chooser of groups, the export menu. */
import { get } from './api.js';
import { groupPath, isNoise, numberOf, pagePath, readGroups, titleOf } from './groups.js';
import { number, plural } from './format.js';
import { Dialog, Menu, Text, Thumb, useData, useSettled } from './ui.js';
import { html, useEffect, useRef, useState } from './vendor/preact.js';

/** An input in the place of a name. `onDone(text or null)`: null leaves it as it was. */
export function NameInput({ value, label, onDone }) {
  const input = useRef(null);
  const ended = useRef(false);
  useEffect(() => input.current.select(), []);
  const end = (text) => {
    if (ended.current) return;
    ended.current = true;
    onDone(text);
  };
  const keys = (event) => {
    event.stopPropagation();
    if (event.key === 'Enter') end(event.target.value.trim());
    else if (event.key === 'Escape') end(null);
    else return;
    event.preventDefault();
  };
  return html`<input class="name-input" ref=${input} aria-label=${label} dir="auto" maxlength="200" defaultValue=${value || ''} placeholder="Name"
    onKeyDown=${keys} onBlur=${(event) => end(event.target.value.trim())} onClick=${(event) => event.stopPropagation()} />`;
}

export function KeysDialog({ keys, onClose }) {
  return html`<${Dialog} title="Keys" onClose=${onClose}>
    <dl class="keys-list">${keys.map(([key, what]) => html`<div key=${key}><dt>${key.split(' ').map((each) => html`<kbd>${each}</kbd> `)}</dt><dd>${what}</dd></div>`)}</dl>
  </${Dialog}>`;
}

/** Groups to choose one from: those nearest to `to`, or found by what is typed. */
export function ChooseGroup({ id, embeddings, to, title, verb, leave, onChoose, onClose }) {
  const [text, setText] = useState('');
  const q = useSettled(text.trim());
  const found = useData(
    (signal) => readGroups(id, { embeddings, covers: 4, limit: 13, ...(q ? { q } : isNoise(to) ? {} : { sort: 'distance', to }) }, signal),
    [id, embeddings, to, q],
  );
  const groups = (found.data?.clusters || []).filter((each) => each.cluster !== leave && !isNoise(each.cluster)).slice(0, 12);
  return html`<${Dialog} title=${title} onClose=${onClose} wide>
    <input type="search" class="wide-input" aria-label="Find a group" placeholder="Find a group by name, label or path" value=${text} onInput=${(event) => setText(event.target.value)} />
    <p class="quiet" role="status">${found.error ? found.error.message : q ? `${plural(groups.length, 'group')} found` : isNoise(to) ? 'The largest groups:' : 'The nearest groups:'}</p>
    <div class="choices">
      ${groups.map((each) => html`<button key=${each.cluster} class="choice" onClick=${() => onChoose(each)} aria-label=${`${verb} ${titleOf(each)}`}>
        <${Strip} embeddings=${found.data.embeddings} rows=${each.covers} size=${4} />
        <span class="row"><strong><${Text} value=${titleOf(each)} /></strong><span class="quiet">${number(each.size)}</span></span>
      </button>`)}
    </div>
  </${Dialog}>`;
}

const VIEWS = [['', 'Groups'], ['map', 'Map'], ['figures', 'Figures']];

/** The three ways to look at a clustering; `at` is the one that is shown. */
export function Views({ id, at = '' }) {
  const here = new URLSearchParams(location.search);
  const set = here.get('embeddings') || here.get('scored');
  const path = (view) => pagePath(id, view && `/${view}`, view === 'figures' ? { embeddings: null, scored: set } : { embeddings: set });
  return html`<nav class="views" aria-label="Views">${VIEWS.map(([view, name]) =>
    html`<a class="button" key=${view} href=${path(view)} aria-current=${view === at ? 'page' : undefined}>${name}</a>`)}</nav>`;
}

/** The covers of a group side by side. */
export function Strip({ embeddings, rows = [], size = 6 }) {
  const places = Array.from({ length: size }, (_, at) => rows[at]);
  return html`<span class="strip" aria-hidden="true">${places.map((row, at) =>
    row === undefined ? html`<span key=${at}></span>` : html`<${Thumb} key=${row} embeddings=${embeddings} row=${row} alt="" kind="cover" />`)}</span>`;
}

/** A small link to a group, with some of its images. */
export function GroupLink({ id, group, embeddings }) {
  return html`<a class="group-link" href=${groupPath(id, group.cluster)}>
    <${Strip} embeddings=${embeddings} rows=${group.covers} size=${4} />
    <span class="row"><${Text} value=${titleOf(group)} /><span class="quiet number">${number(group.size)}</span></span>
    ${numberOf(group) && html`<span class="hidden">${numberOf(group)}</span>`}
  </a>`;
}

const FORMATS = [
  ['csv', 'CSV', 'a table for a spreadsheet or pandas'],
  ['parquet', 'Parquet', 'a table for pandas, polars, DuckDB'],
  ['jsonl', 'JSON lines', 'one image a line'],
  ['fiftyone', 'FiftyOne', 'a classification dataset'],
  ['labelstudio', 'Label Studio', 'tasks with predictions'],
  ['cvat', 'CVAT', 'tags of images, XML'],
  ['coco', 'COCO', 'categories and annotations'],
  ['imagefolder', 'Folders', 'a tar archive, a folder a class'],
];

export function ExportMenu({ id, embeddings }) {
  const path = (format) => `/clusterings/${encodeURIComponent(id)}/export?format=${format}${embeddings ? `&embeddings=${encodeURIComponent(embeddings)}` : ''}`;
  return html`<${Menu} label="Export">
    ${FORMATS.map(([format, name, what]) => html`<a key=${format} href=${path(format)} download>${name}<small>${what}</small></a>`)}
    <a href=${`/clusterings/${encodeURIComponent(id)}/report`} target="_blank" rel="noopener">Report<small>one HTML file, to mail or keep</small></a>
  </${Menu}>`;
}

/** The other clusterings of the same images, to compare with. */
export function CompareMenu({ id, scored }) {
  const all = useData((signal) => get('/clusterings', {}, { signal }), []);
  const others = (all.data?.clusterings || []).filter((each) => !each.damaged && each.id !== id && each.scored.some((one) => scored.includes(one)));
  if (!others.length) return null;
  return html`<${Menu} label="Compare">
    ${others.slice(0, 30).map((each) => html`<a key=${each.id} href=${`/ui/compare/${id}/${each.id}`}>${plural(each.k, 'group')}<small>${each.id}</small></a>`)}
  </${Menu}>`;
}
