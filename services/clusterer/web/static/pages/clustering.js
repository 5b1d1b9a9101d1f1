/** The wall: the groups of a clustering, to look at, find, name, merge and flag. */
import { dataUri, get, may, post } from '../api.js';
import { FIGURES, chanceOf, isShare, valueOf } from '../figures.js';
import { NOTHING, base, groupPath, isNoise, numberOf, readGroups, selectAt, titleOf, useJournal, usePages } from '../groups.js';
import { ChooseGroup, CompareMenu, ExportMenu, KeysDialog, NameInput, Strip, Views } from '../parts.js';
import { Chip, Dialog, Drop, Empty, Figure, Loading, Menu, Page, Problem, Select, Text, VirtualGrid, fixed, navigate, number, percent, plural, toast, useData, useKeys, useQuery, useSettled } from '../ui.js';
import { html, useEffect, useRef, useState } from '../vendor/preact.js';
import { Card } from '../wallcard.js';

const PAGE = 48;
const COVERS = 6;
const SORTS = [
  ['size', 'Largest first'],
  ['purity', 'Purest first'],
  ['purity-asc', 'Most mixed first'],
  ['tightness', 'Tightest first'],
  ['tightness-desc', 'Loosest first'],
  ['flag', 'Flagged first'],
  ['name', 'By name'],
  ['number', 'By number'],
];
const SHOWN = [
  ['', 'All'],
  ['named', 'Named'],
  ['unnamed', 'Without a name'],
  ['flagged', 'Flagged'],
  ['unflagged', 'Without a flag'],
];
const FILTERS = { named: { named: true }, unnamed: { named: false }, flagged: { flagged: true }, unflagged: { flagged: false } };
const MAIN = ['purity', 'ami', 'ari', 'accuracy_hungarian_train', 'silhouette', 'stability', 'size_imbalance'];
const FLAGS = ['review', 'good', 'ignore'];
const READ_KEYS = [
  ['← → ↑ ↓', 'Move between groups'],
  ['Enter', 'Open the group'],
  ['/', 'Find'],
  ['?', 'This list'],
];
const EDIT_KEYS = [
  ['Space', 'Select; with Shift all up to here'],
  ['n', 'Name the group'],
  ['f', 'Flag for review, or take the flag away'],
  ['m', 'Merge the selected groups, or this one into another'],
  ['u', 'Undo the last change'],
  ['Escape', 'Select nothing'],
];

export default function Clustering({ params }) {
  const id = params.id;
  const [query, change] = useQuery();
  const facts = useData((signal) => get(base(id), {}, { signal }), [id]);
  const crumbs = [['Groups', '/']];
  if (facts.error) return html`<${Page} title="Groups" crumbs=${crumbs}><${Problem} error=${facts.error} retry=${facts.reload} /></${Page}>`;
  if (!facts.data) return html`<${Page} title="Groups" crumbs=${crumbs}><${Loading} what="Reading the groups" /></${Page}>`;
  const { scored, n, k, train, noise } = facts.data;
  const embeddings = scored.includes(query.embeddings) ? query.embeddings : scored[0];
  const actions = html`
    ${scored.length > 1 && html`<${Select} label="Set" value=${embeddings} options=${scored.map((each) => [each, each])} onChange=${(value) => change({ embeddings: value })} />`}
    <${Views} id=${id} />
    <${CompareMenu} id=${id} scored=${scored} />
    <${ExportMenu} id=${id} embeddings=${scored.length > 1 ? embeddings : null} />`;
  return html`<${Page} title=${facts.data.name || `${plural(k, 'group')} of ${plural(n, 'image')}`} wide crumbs=${crumbs} actions=${actions}
    lead=${html`<span class="quiet mono">${id}</span> of <a href=${`/ui/embeddings/${encodeURIComponent(train)}`}><${Text} value=${train} /></a>${noise?.rows > 0 && html`. <a href=${groupPath(id, -1)}>${plural(noise.rows, 'image')}</a> (${percent(noise.share)}) in no group`}`}>
    <${Wall} key=${`${id} ${embeddings}`} id=${id} embeddings=${embeddings} noisy=${noise !== null && noise !== undefined} train=${train} query=${query} change=${change} />
  </${Page}>`;
}

function Wall({ id, embeddings, noisy, train, query, change }) {
  const [text, setText] = useState(query.q || '');
  const settled = useSettled(text.trim());
  useEffect(() => { if (settled !== (query.q || '')) change({ q: settled }); }, [settled]);
  const [selection, setSelection] = useState(NOTHING);
  const [naming, setNaming] = useState(null);
  const [dialog, setDialog] = useState(null);
  const [hits, setHits] = useState({});
  const search = useRef(null);
  const kept = useRef(new Map());
  const editable = may('submit');

  const [sort, order] = query.to !== undefined ? ['distance'] : (query.sort || 'size').split('-');
  const filters = { q: query.q, label: query.label, flag: query.flag, clusters: query.clusters, ...FILTERS[query.show] };
  const filtered = Object.values(filters).some((each) => each !== undefined && each !== null && each !== '');
  const wanted = { embeddings, sort, order, to: query.to, covers: COVERS, ...filters };
  const groups = usePages(
    async (offset, limit, signal) => {
      const { clusters, ...rest } = await readGroups(id, { ...wanted, offset, limit }, signal);
      for (const each of clusters) kept.current.set(each.cluster, each);
      return { items: clusters, ...rest };
    },
    PAGE,
    [id, JSON.stringify(wanted)],
  );
  const journal = useJournal(id, () => groups.reload());
  const keyOf = (index) => groups.item(index)?.cluster;
  const select = (index, shift) => editable && !isNoise(keyOf(index)) && setSelection((now) => selectAt(now, index, keyOf, { shift }));
  const chosen = [...selection.keys].filter((key) => !isNoise(key)).map((key) => kept.current.get(key)).filter(Boolean);

  const rename = (group, name) => {
    setNaming(null);
    document.querySelector(`[data-cluster="${group.cluster}"]`)?.focus();
    if (name === null || name === (group.name || '')) return;
    journal.names({ [group.cluster]: { name: name || null } }, name ? `Named “${name}”.` : 'Name taken away.');
  };
  const flag = (list, value) =>
    list.length && journal.names(Object.fromEntries(list.map((each) => [each.cluster, { flag: value }])), value ? `${plural(list.length, 'group')} flagged “${value}”.` : 'Flag taken away.');
  const merge = async (list, into) => {
    setDialog(null);
    const others = list.filter((each) => each.cluster !== into.cluster);
    const done = await journal.names(Object.fromEntries(others.map((each) => [each.cluster, { merged_into: into.cluster }])), `${plural(others.length, 'group')} merged into ${titleOf(into)}.`);
    if (done) setSelection(NOTHING);
  };
  const startMerge = (list) => list.length && setDialog({ kind: list.length > 1 ? 'merge' : 'into', list });

  const keys = (event, index) => {
    const group = groups.item(index);
    if (!group || event.ctrlKey || event.metaKey || event.altKey) return;
    const list = chosen.length ? chosen : [group];
    const edits = { ' ': () => select(index, event.shiftKey), n: () => setNaming(group.cluster), f: () => flag(list, list.every((each) => each.flag) ? null : 'review'), m: () => startMerge(list) };
    const action = event.key === 'Enter' ? () => navigate(groupPath(id, group.cluster)) : editable && !isNoise(group.cluster) && edits[event.key];
    if (!action || event.target.closest('a, button') !== null && event.key === 'Enter') return;
    event.preventDefault();
    action();
  };
  useKeys({
    '/': () => search.current?.focus(),
    '?': () => setDialog({ kind: 'keys' }),
    u: () => (editable ? journal.undo() : false),
    Escape: () => setSelection(NOTHING),
  });

  const none = groups.count === 0 && !groups.loading && !groups.error;
  return html`<div class="wall">
    <div class="wall-main">
      <${Tools} ...${{ id, embeddings, query, change, text, setText, search, editable, onImage: () => setDialog({ kind: 'image' }), onKeys: () => setDialog({ kind: 'keys' }) }} />
      <p class="quiet wall-count" role="status">${groups.loading ? 'Reading the groups…' : noisy && !filtered ? `${plural(groups.count - 1, 'group')} and noise` : plural(groups.count, 'group')}${query.q || query.label || query.show || query.flag || query.clusters ? ' match' : ''}${query.to !== undefined ? html`, those like group ${query.to} first. <button class="plain" onClick=${() => { setHits({}); change({ to: null }); }}>Sort by size</button>` : ''}
        ${query.clusters && html` <button class="plain" onClick=${() => change({ clusters: null })}>Show all</button>`}</p>
      <${Problem} error=${groups.error} retry=${groups.reload} />
      ${none && html`<${Empty} title="No group matches"><p>Nothing has this in its name, label or paths.</p><button onClick=${() => { setText(''); change({ q: null, label: null, show: null, flag: null, clusters: null }); }}>Show all groups</button></${Empty}>`}
      <${VirtualGrid} count=${groups.count} width=${innerWidth < 640 ? 150 : innerWidth > 1800 ? 240 : 200} height=${(width) => Math.round(((width - 22) / 3) * 2) + 86} gap=${12} label="Groups" onRange=${groups.want} onKey=${keys}
        item=${(index, props) => html`<${Card} ...${{ id, embeddings, props, editable }} group=${groups.item(index)}
          selected=${selection.keys.has(keyOf(index))} naming=${naming !== null && naming === keyOf(index)} hit=${hits[keyOf(index)] || (Number(query.to) === keyOf(index) && query.to !== undefined ? 'most alike' : '')}
          onSelect=${(shift) => select(index, shift)} onNaming=${() => setNaming(keyOf(index))} onRename=${rename} />`} />
    </div>
    <${Judgement} id=${id} embeddings=${embeddings} train=${train} />
    ${chosen.length > 0 && html`<${Selected} ...${{ chosen, flag, startMerge, journal, clear: () => setSelection(NOTHING), onName: () => setNaming(chosen[0].cluster) }} />`}
    ${dialog?.kind === 'keys' && html`<${KeysDialog} keys=${editable ? [...READ_KEYS, ...EDIT_KEYS] : READ_KEYS} onClose=${() => setDialog(null)} />`}
    ${dialog?.kind === 'merge' && html`<${Merge} embeddings=${embeddings} list=${dialog.list} onMerge=${merge} onClose=${() => setDialog(null)} />`}
    ${dialog?.kind === 'into' && html`<${ChooseGroup} id=${id} embeddings=${embeddings} to=${dialog.list[0].cluster} leave=${dialog.list[0].cluster} title=${`Merge ${titleOf(dialog.list[0])} into`} verb="Merge into" onChoose=${(into) => merge(dialog.list, into)} onClose=${() => setDialog(null)} />`}
    ${dialog?.kind === 'image' && html`<${ByImage} id=${id} onFound=${(found) => { setDialog(null); setHits(found.hits); change({ to: found.to }); scrollTo(0, 0); }} onClose=${() => setDialog(null)} />`}
  </div>`;
}

function Tools({ id, embeddings, query, change, text, setText, search, editable, onImage, onKeys }) {
  const classes = useData((signal) => get(`${base(id)}/classes`, { embeddings, limit: 1000 }, { signal }), [id, embeddings]);
  const labels = classes.data?.classes || [];
  const notes = useData((signal) => get(`${base(id)}/names`, {}, { signal }), [id]);
  const flags = [...new Set(Object.values(notes.data || {}).map((each) => each.flag).filter(Boolean))];
  const shown = query.flag ? `flag:${query.flag}` : query.show || '';
  const show = (value) => change(value.startsWith('flag:') ? { flag: value.slice(5), show: null } : { show: value, flag: null });
  return html`<div class="toolbar" role="search" aria-label="Groups">
    <input type="search" ref=${search} aria-label="Find groups by name, label or path" placeholder="Name, label or path" maxlength="200" value=${text} onInput=${(event) => setText(event.target.value)} />
    ${editable && html`<button onClick=${onImage}>Find by image</button>`}
    ${labels.length > 0 && html`<${Select} label="Label" value=${query.label || ''} options=${[['', 'Any'], ...labels.map((each) => [each.label, each.label])]} onChange=${(value) => change({ label: value })} />`}
    <${Select} label="Show" value=${shown} options=${[...SHOWN, ...flags.map((each) => [`flag:${each}`, `Flag: ${each}`])]} onChange=${show} />
    <${Select} label="Sort" value=${query.to !== undefined ? '' : query.sort || 'size'} options=${query.to !== undefined ? [['', 'Most alike first'], ...SORTS] : SORTS} onChange=${(value) => change({ sort: value, to: null })} />
    <button class="plain" aria-label="Keys" title="Keys" onClick=${onKeys}>?</button>
  </div>`;
}

/** What was selected, and what can be done with it. */
function Selected({ chosen, flag, startMerge, journal, clear, onName }) {
  const merged = chosen.filter((each) => each.parts.length > 1);
  const images = chosen.reduce((sum, each) => sum + each.size, 0);
  const split = () => {
    const parts = merged.flatMap((each) => each.parts.slice(1));
    journal.names(Object.fromEntries(parts.map((each) => [each, { merged_into: null }])), 'Taken apart.');
    clear();
  };
  return html`<div class="selected-bar" role="region" aria-label="Selected groups">
    <strong role="status">${plural(chosen.length, 'group')}</strong><span class="quiet">${plural(images, 'image')}</span>
    ${chosen.length === 1 && html`<button onClick=${onName}>Name</button>`}
    <button class="primary" onClick=${() => startMerge(chosen)}>Merge${chosen.length === 1 ? ' into…' : ''}</button>
    <${Menu} label="Flag" kind="up">
      ${FLAGS.map((each) => html`<button key=${each} onClick=${() => flag(chosen, each)}>${each}</button>`)}
      <button onClick=${() => flag(chosen, null)}>No flag</button>
    </${Menu}>
    ${merged.length > 0 && html`<button onClick=${split}>Take apart</button>`}
    <button class="plain" onClick=${clear}>Clear</button>
  </div>`;
}

function Merge({ embeddings, list, onMerge, onClose }) {
  const ordered = [...list].sort((a, b) => Boolean(b.name) - Boolean(a.name) || b.size - a.size);
  const [into, setInto] = useState(ordered[0].cluster);
  return html`<${Dialog} title=${`Merge ${plural(list.length, 'group')}`} onClose=${onClose}>
    <fieldset class="picks"><legend class="quiet">All become part of</legend>
      ${ordered.map((each) => html`<label class=${`pick${each.cluster === into ? ' picked' : ''}`} key=${each.cluster}>
        <input type="radio" name="into" checked=${each.cluster === into} onChange=${() => setInto(each.cluster)} />
        <${Strip} embeddings=${embeddings} rows=${each.covers} size=${4} /><span class="pick-name"><${Text} value=${titleOf(each)} /> ${numberOf(each) && html`<span class="about quiet">${numberOf(each)}</span>`}</span><span class="quiet number">${number(each.size)}</span></label>`)}
    </fieldset>
    <div class="actions end"><button onClick=${onClose}>Cancel</button><button class="primary" onClick=${() => onMerge(list, list.find((each) => each.cluster === into))}>Merge</button></div>
  </${Dialog}>`;
}

/** The groups that dropped images belong to. */
function ByImage({ id, onFound, onClose }) {
  const [state, setState] = useState({});
  const find = async (files) => {
    const images = files.filter((each) => each.type.startsWith('image/')).slice(0, 16);
    if (!images.length) return setState({ problem: 'Drop an image, such as a JPEG or a PNG.' });
    setState({ busy: true });
    try {
      const found = await post(`${base(id)}/assign`, { images: await Promise.all(images.map(dataUri)) });
      const counts = {};
      for (const each of found) counts[each.merged_cluster] = (counts[each.merged_cluster] || 0) + 1;
      const hits = Object.fromEntries(Object.entries(counts).map(([cluster, count]) => [cluster, `${plural(count, 'dropped image')}`]));
      if (found.some((each) => each.is_outlier)) toast('At least one image is far from every group: it may belong to none.');
      onFound({ to: found[0].merged_cluster, hits });
    } catch (error) {
      setState({ problem: error.message });
    }
  };
  return html`<${Dialog} title="Find groups by an image" onClose=${onClose}>
    <p class="quiet">The wall then begins with the group that it belongs to, and goes on with the groups most like that one.</p>
    <${Drop} accept="image/*" onFiles=${find}><p>Drop an image here</p></${Drop}>
    ${state.busy && html`<${Loading} what="Looking at it" />`}
    ${state.problem && html`<p class="error-line" role="alert">${state.problem}</p>`}
  </${Dialog}>`;
}

/** The main figures, each with what chance gives and one sentence. */
function Judgement({ id, embeddings, train }) {
  const metrics = useData((signal) => get(`${base(id)}/metrics`, {}, { signal }), [id]);
  const entry = metrics.data?.scored[embeddings];
  const shown = entry
    ? MAIN.map((key) => FIGURES.find((each) => each.key === key)).map((figure) => [figure, valueOf(figure, entry)]).filter(([, found]) => found).slice(0, 4)
    : [];
  const text = (figure, value) => (isShare(figure) ? percent(value) : fixed(value, figure.plain ? 1 : 2));
  return html`<aside class="judgement scores" aria-label="How good are these groups?">
    <h2>How good are these groups?</h2>
    <${Problem} error=${metrics.error} />
    ${shown.map(([figure, { value, std }]) => [figure, value, std, chanceOf(figure, entry, embeddings === train)]).map(([figure, value, std, chance]) => html`<${Figure} key=${figure.key} name=${figure.name} value=${text(figure, value)} std=${std ? text(figure, std) : null} chance=${chance === null ? null : text(figure, chance)}>${figure.says}</${Figure}>`)}
    <p><a href=${`/ui${base(id)}/figures`}>All figures</a></p>
    <p class="quiet small">Figures are those of the clustering, before names, merges and moves.</p>
  </aside>`;
}
