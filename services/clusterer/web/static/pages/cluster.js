/** A group: all its images, its nearest groups; images to move, to look at, and to find similar ones of. */
import { get, may } from '../api.js';
import { NOTHING, base, crumbsOf, groupPath, isNoise, numberOf, pagePath, readGroups, selectAt, titleOf, useJournal, usePages, wordOf } from '../groups.js';
import { Lightbox } from '../lightbox.js';
import { ChooseGroup, GroupLink, KeysDialog, NameInput } from '../parts.js';
import { Chip, Loading, Page, Problem, Tabs, Text, Thumb, VirtualGrid, navigate, number, percent, plural, useData, useKeys, useQuery } from '../ui.js';
import { html, useEffect, useState } from '../vendor/preact.js';

const PAGE = 200;
const TABS = [['nearest', 'Nearest'], ['borderline', 'Borderline'], ['farthest', 'Farthest']];
const SAYS = {
  nearest: 'Those that fit the group best come first.',
  borderline: 'Those that lie between this group and another come first.',
  farthest: 'Those that fit the group least come first.',
};
const READ_KEYS = [['← → ↑ ↓', 'Move between images'], ['Enter', 'Look at the image'], ['s', 'Similar images'], ['[ ]', 'Previous, next group'], ['?', 'This list']];
const EDIT_KEYS = [['Space', 'Select; with Shift all up to here'], ['m', 'Move the selected images, or this one, to another group'], ['n', 'Name the group'], ['u', 'Undo the last change'], ['Escape', 'Select nothing']];

export default function Cluster({ params }) {
  const { id, cluster } = params;
  const [query, change] = useQuery();
  const facts = useData((signal) => get(base(id), {}, { signal }), [id]);
  const crumbs = crumbsOf(id, facts.data);
  if (facts.error) return html`<${Page} title="Group" crumbs=${crumbs}><${Problem} error=${facts.error} retry=${facts.reload} /></${Page}>`;
  if (!facts.data) return html`<${Page} title=${wordOf(cluster)} crumbs=${crumbs}><${Loading} what="Reading the group" /></${Page}>`;
  const embeddings = facts.data.scored.includes(query.embeddings) ? query.embeddings : facts.data.scored[0];
  return html`<${Group} key=${`${id} ${cluster} ${embeddings}`} ...${{ id, cluster, embeddings, crumbs, query, change }} />`;
}

function Group({ id, cluster, embeddings, crumbs, query, change }) {
  const order = SAYS[query.order] ? query.order : 'nearest';
  const size = Number(localStorage.getItem('shoal-size')) || 150;
  const [width, setWidth] = useState(size);
  const [selection, setSelection] = useState(NOTHING);
  const [open, setOpen] = useState(null);
  const [dialog, setDialog] = useState(null);
  const [naming, setNaming] = useState(false);
  const editable = may('submit');
  const members = usePages(
    async (offset, limit, signal) => {
      const { members: items, ...rest } = await get(`${base(id)}/clusters/${encodeURIComponent(cluster)}/members`, { embeddings, order, offset, limit }, { signal });
      return { items, ...rest };
    },
    PAGE,
    [id, cluster, embeddings, order],
  );
  const root = members.facts?.cluster;
  const group = useData(async (signal) => (root === undefined ? null : (await readGroups(id, { embeddings, clusters: root }, signal)).clusters[0]), [id, root, embeddings]);
  const near = useData(async (signal) => (root === undefined ? null : readGroups(id, { embeddings, sort: 'distance', to: root, limit: 9, covers: 4 }, signal)), [id, root, embeddings]);
  const journal = useJournal(id, () => {
    members.reload();
    group.reload();
    near.reload();
  });
  const keyOf = (index) => members.item(index)?.row;
  const select = (index, shift) => editable && setSelection((now) => selectAt(now, index, keyOf, { shift }));
  const rows = [...selection.keys];
  const title = group.data ? titleOf(group.data) : wordOf(root ?? cluster);
  const go = (to) => typeof to === 'number' && navigate(groupPath(id, to, { order: query.order }));
  const resize = (value) => {
    setWidth(value);
    localStorage.setItem('shoal-size', String(value));
  };
  const rename = (name) => {
    setNaming(false);
    if (name === null || name === (group.data.name || '')) return;
    journal.names({ [root]: { name: name || null } }, name ? `Named “${name}”.` : 'Name taken away.');
  };
  const move = async (moved, into) => {
    setDialog(null);
    if (await journal.move(embeddings, moved, into.cluster, `${plural(moved.length, 'image')} moved to ${titleOf(into)}.`)) {
      setSelection(NOTHING);
      setOpen(null);
    }
  };
  const keys = (event, index) => {
    const member = members.item(index);
    if (!member || event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = { Enter: () => setOpen({ index }), s: () => setOpen({ index }) };
    if (editable) Object.assign(actions, { ' ': () => select(index, event.shiftKey), m: () => setDialog({ kind: 'move', rows: rows.length ? rows : [member.row] }) });
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  };
  useKeys({
    '?': () => setDialog({ kind: 'keys' }),
    '[': () => go(members.facts?.previous),
    ']': () => go(members.facts?.next),
    n: () => (editable && group.data && !isNoise(root) ? setNaming(true) : false),
    u: () => (editable ? journal.undo() : false),
    Escape: () => setSelection(NOTHING),
  });
  const step = (by) => setOpen((now) => (now?.index === undefined ? now : { index: Math.max(0, Math.min(members.count - 1, now.index + by)) }));
  useEffect(() => { if (open?.index !== undefined) members.want(open.index, open.index + 2); }, [open]);
  const shown = open && (open.index === undefined ? { row: open.row } : members.item(open.index));

  const heading = naming
    ? html`<${NameInput} value=${group.data.name} label="Name of the group" onDone=${rename} />`
    : html`<${Text} value=${title} cut=${false} />${editable && group.data && !isNoise(root) && html` <button class="plain" aria-label="Name the group" title="Name (n)" onClick=${() => setNaming(true)}>✎</button>`}`;
  const actions = html`<button aria-label="Previous group" disabled=${typeof members.facts?.previous !== 'number'} onClick=${() => go(members.facts.previous)}>← Larger</button>
    <button aria-label="Next group" disabled=${typeof members.facts?.next !== 'number'} onClick=${() => go(members.facts.next)}>Smaller →</button>`;
  return html`<${Page} title=${title} heading=${heading} crumbs=${crumbs} wide actions=${actions} lead=${group.data && html`<${Lead} group=${group.data} count=${members.count} />`}>
    <${Problem} error=${members.error} retry=${members.reload} />
    <div class="wall">
      <div class="wall-main">
        <div class="row spread">
          <${Tabs} label="Order" value=${order} tabs=${TABS} onChange=${(value) => { setSelection(NOTHING); change({ order: value === 'nearest' ? null : value }); }} />
          <span class="row">
            <label class="range">Size <input type="range" min="70" max="320" step="10" value=${width} onInput=${(event) => resize(Number(event.target.value))} /></label>
            <button class="plain" aria-label="Keys" title="Keys" onClick=${() => setDialog({ kind: 'keys' })}>?</button>
          </span>
        </div>
        <p class="quiet" role="status">${members.loading ? 'Reading the images…' : isNoise(root) && order === 'nearest' ? 'Those nearest to a group come first.' : SAYS[order]}</p>
        <${VirtualGrid} count=${members.count} width=${width} height=${(wide) => Math.round(wide) + 22} gap=${10} label="Images" onRange=${members.want} onKey=${keys}
          item=${(index, props) => html`<${Member} ...${{ embeddings, props, editable }} member=${members.item(index)} majority=${group.data?.majority} selected=${selection.keys.has(keyOf(index))}
            onSelect=${(shift) => select(index, shift)} onOpen=${() => setOpen({ index })} />`} />
      </div>
      <aside class="judgement" aria-label="Nearest groups">
        ${group.data?.top_classes?.length > 0 && html`<h2>Labels</h2><dl class="label-counts">${group.data.top_classes.map((each) => html`<div key=${each.label}><dt><${Text} value=${each.label} /></dt><dd class="number">${number(each.count)}</dd></div>`)}</dl>`}
        ${isNoise(root)
          ? html`<p class="quiet">Images that are in no group: they are too far from others. Move those that belong to one.</p>`
          : html`<h2>Nearest groups</h2>
        ${near.data?.clusters.filter((each) => each.cluster !== root && !isNoise(each.cluster)).slice(0, 8).map((each) => html`<${GroupLink} key=${each.cluster} id=${id} group=${each} embeddings=${embeddings} />`)}
        <p><a href=${pagePath(id, '', { to: root ?? cluster })}>All groups, the nearest first</a></p>`}
      </aside>
    </div>
    ${rows.length > 0 && html`<div class="selected-bar" role="region" aria-label="Selected images">
      <strong role="status">${plural(rows.length, 'image')}</strong>
      <button class="primary" onClick=${() => setDialog({ kind: 'move', rows })}>Move to…</button>
      <button class="plain" onClick=${() => setSelection(NOTHING)}>Clear</button>
    </div>`}
    ${shown && html`<${Lightbox} embeddings=${embeddings} member=${shown} place=${open.index === undefined ? 'a similar image' : `${number(open.index + 1)} of ${number(members.count)}`} onStep=${step} onOpen=${(row) => setOpen({ row })} onClose=${() => setOpen(null)}>
      ${editable && open.index !== undefined && html`<button onClick=${() => setDialog({ kind: 'move', rows: [shown.row] })}>Move to…</button>`}
      <a class="button" href=${`/ui/search?embeddings=${encodeURIComponent(embeddings)}&row=${shown.row}`}>More like this</a>
    </${Lightbox}>`}
    ${dialog?.kind === 'move' && root !== undefined && html`<${ChooseGroup} id=${id} embeddings=${embeddings} to=${root} leave=${root} title=${`Move ${plural(dialog.rows.length, 'image')} to`} verb="Move to" onChoose=${(into) => move(dialog.rows, into)} onClose=${() => setDialog(null)} />`}
    ${dialog?.kind === 'keys' && html`<${KeysDialog} keys=${editable ? [...READ_KEYS, ...EDIT_KEYS] : READ_KEYS} onClose=${() => setDialog(null)} />`}
  </${Page}>`;
}

function Lead({ group, count }) {
  const merged = group.parts.length > 1;
  return html`${plural(count, 'image')}${group.purity !== null && html`, ${percent(group.purity)} <${Text} value=${group.majority} />`}${numberOf(group) && ` · ${numberOf(group)}`}
    ${group.flag && html` <${Chip} kind="warn"><${Text} value=${group.flag} /></${Chip}>`}
    ${merged && html` <${Chip} title=${`Groups ${group.parts.join(', ')}`}>${group.parts.length} merged</${Chip}>`}`;
}

function Member({ embeddings, member, majority, props, editable, selected, onSelect, onOpen }) {
  if (!member) return html`<div ...${props} class="member waiting" aria-label="Loading"></div>`;
  const name = member.image_path ? member.image_path.split('/').pop() : `row ${member.row}`;
  const click = (event) => (editable && (event.shiftKey || event.ctrlKey || event.metaKey) ? onSelect(event.shiftKey) : onOpen());
  const moved = member.moved_from !== null;
  const odd = member.label && majority && member.label !== majority;
  const about = [member.label, member.is_outlier && 'outlier', moved && `moved from group ${member.moved_from}`, selected && 'selected'].filter(Boolean).join(', ');
  return html`<div ...${props} class=${`member${selected ? ' selected' : ''}`} data-row=${member.row} aria-label=${about ? `${name}: ${about}` : name} onClick=${click}>
    <${Thumb} embeddings=${embeddings} row=${member.row} path=${member.image_path} alt="" />
    ${editable && html`<input class="pick-box" type="checkbox" tabindex="-1" aria-label=${`Select ${name}`} checked=${selected} onClick=${(event) => { event.preventDefault(); event.stopPropagation(); onSelect(event.shiftKey); }} />`}
    <span class="marks">${member.is_outlier && html`<${Chip} kind="warn">outlier</${Chip}>`}${moved && html`<${Chip} kind="mark">moved</${Chip}>`}</span>
    <small class=${odd ? 'odd' : 'quiet'}><${Text} value=${odd ? member.label : name} /></small>
  </div>`;
}
