/** Duplicates: all results and a form to start one; one result's groups side by side, with what is kept and why. */
import { DecisionsMenu, KeyHelp, Pages, Started, focusedRow, moveFocus, onControl, readSets, setOption, similarity, useDecisions, useNewJob, useSetNames } from '../analyses.js';
import { get, may } from '../api.js';
import { Bar, Chip, Empty, Field, Loading, Page, Problem, Select, Text, Thumb, ago, bytes, navigate, number, plural, useData, useKeys, useQuery, useSettled } from '../ui.js';
import { html, useState } from '../vendor/preact.js';

const GROUPS = 24;
/** Images of a group that are shown at first, and at most. */
const MEMBERS = 12;
const MOST = 1000;
const COPIES = { file: 'Same file', pixels: 'Same picture', near: 'Similar' };

export default function Duplicates({ params, query }) {
  return params.id ? html`<${Result} id=${params.id} />` : html`<${Results} asked=${query.embeddings} />`;
}

// ------------------------------------------------------------------------------------------------- all results

function Results({ asked }) {
  const nameOf = useSetNames();
  const { data, error, loading, reload } = useData((signal) => get('/duplicates', {}, { signal }), []);
  return html`<${Page}
    title="Duplicates"
    lead="Images that show the same, in groups, with the one to keep. Nothing is removed: you decide, and take the list."
  >
    <${Problem} error=${error} retry=${reload} />
    ${may('submit') && html`<${Start} asked=${asked} />`}
    <h2>Results</h2>
    ${loading && !data && html`<${Loading} />`}
    ${data?.duplicates.length === 0 && html`<p class="quiet">None yet.</p>`}
    <div class="cards">${data?.duplicates.map((each) => html`<${Card} key=${each.id} found=${each} nameOf=${nameOf} />`)}</div>
  </${Page}>`;
}

function Card({ found, nameOf }) {
  if (found.damaged) return html`<div class="card"><h3><${Text} value=${found.id} /></h3><p class="quiet">Damaged: ${found.problem}</p></div>`;
  const { totals, request } = found;
  return html`<a class="card result" href=${`/ui/duplicates/${found.id}`}>
    <h3><${Text} value=${nameOf(request.embeddings)} />${request.against && html` <span class="quiet">also in</span> <${Text} value=${nameOf(request.against)} />`}</h3>
    <p class="count"><strong>${plural(totals.drops, 'image')}</strong> to drop, in ${plural(totals.groups, 'group')}</p>
    <p class="quiet">Similarity from ${request.threshold} · ${ago(found.finished_at)}</p>
  </a>`;
}

function Start({ asked }) {
  const sets = useData(readSets, []);
  const [embeddings, setEmbeddings] = useState(asked || '');
  const [against, setAgainst] = useState('');
  const [threshold, setThreshold] = useState('0.95');
  const [link, setLink] = useState('complete');
  const job = useNewJob((result) => navigate(`/ui/duplicates/${result.duplicates}`));
  if (sets.error) return html`<${Problem} error=${sets.error} retry=${sets.reload} />`;
  if (!sets.data) return html`<${Loading} what="Looking for sets" />`;
  if (!sets.data.length) return html`<${Empty} title="No images yet"><p><a href="/ui/new">Add images</a> first: their embeddings are compared here.</p></${Empty}>`;
  const options = sets.data.map(setOption);
  const chosen = options.some(([id]) => id === embeddings) ? embeddings : options[0][0];
  const others = options.filter(([id]) => id !== chosen);
  const submit = (event) => {
    event.preventDefault();
    job.start('/duplicates', { embeddings: chosen, threshold: Number(threshold), link, ...(against && { against }) });
  };
  if (job.job) return html`<${Started} job=${job.job} />`;
  return html`<form class="card ask" onSubmit=${submit} aria-label="Find duplicates">
    <${Problem} error=${job.error} />
    <${Field} label="Images">${(ids) => html`<select ...${ids} value=${chosen} onChange=${(e) => setEmbeddings(e.target.value)}>${options.map(([id, text]) => html`<option value=${id}>${text}</option>`)}</select>`}</${Field}>
    <${Field} label="Similarity from" hint="1 is the same picture, 0.95 nearly so, 0.85 alike.">${(ids) => html`<span class="range"><input ...${ids} type="range" min="0.7" max="1" step="0.01" value=${threshold} onInput=${(e) => setThreshold(e.target.value)} /><output for=${ids.id} class="number">${Number(threshold).toFixed(2)}</output></span>`}</${Field}>
    <${Field} label="Groups" hint=${link === 'complete' ? 'Every two images of a group are that similar.' : 'A chain of similar images connects a group; its ends may differ.'}>${(ids) => html`<select ...${ids} value=${link} onChange=${(e) => setLink(e.target.value)}><option value="complete">All alike</option><option value="single">Chains</option></select>`}</${Field}>
    <${Field} label="Only what is also in" hint="To find leaks between a training and a test set.">${(ids) => html`<select ...${ids} value=${against} onChange=${(e) => setAgainst(e.target.value)}><option value="">– (within the images)</option>${others.map(([id, text]) => html`<option value=${id}>${text}</option>`)}</select>`}</${Field}>
    <div class="actions"><button class="primary">Find duplicates</button></div>
  </form>`;
}

// -------------------------------------------------------------------------------------------------- one result

function Result({ id }) {
  const [query, change] = useQuery();
  const nameOf = useSetNames();
  const facts = useData((signal) => get(`/duplicates/${encodeURIComponent(id)}`, {}, { signal }), [id]);
  const page = Math.max(0, Number(query.page || 1) - 1) || 0;
  const least = useSettled(query.least || '');
  const [members, setMembers] = useState(MEMBERS);
  const asked = {
    sort: query.sort || 'size', copy: query.copy, least: least || undefined, q: query.q,
    decided: { open: false, decided: true }[query.show],
    members, limit: GROUPS, cursor: page ? String(page * GROUPS) : undefined,
  };
  const groups = useData((signal) => get(`/duplicates/${encodeURIComponent(id)}/groups`, asked, { signal }), [id, JSON.stringify(asked)]);
  const decisions = useDecisions('duplicates', id, groups.reload);
  const set = (changes) => change({ page: null, ...changes });
  const rows = (groups.data?.groups || []).flatMap((group) => group.rows);
  const byRow = new Map(rows.filter((row) => row.embeddings === facts.data?.sets[0]).map((row) => [row.row, row]));
  const decide = (row, action) => {
    const known = byRow.get(row);
    if (!known || !decisions.may) return;
    decisions.decide({ [row]: { action } }, { [row]: known.decision });
  };
  const acceptAll = () => {
    const open = [...byRow.values()].filter((row) => !decisions.of(row)?.action);
    if (open.length) decisions.decide(Object.fromEntries(open.map((row) => [row.row, { action: row.keep ? 'keep' : 'drop' }])));
  };
  useKeys({
    j: () => moveFocus(1),
    k: () => moveFocus(-1),
    ArrowRight: (event) => (event.target.closest('[data-image]') ? moveFocus(1) : false),
    ArrowLeft: (event) => (event.target.closest('[data-image]') ? moveFocus(-1) : false),
    x: () => decide(focusedRow(), 'drop'),
    ' ': (event) => (onControl(event) || focusedRow() === undefined ? false : decide(focusedRow(), 'keep')),
    a: () => decisions.may && acceptAll(),
    u: () => decisions.may && decisions.undo(),
  });
  if (facts.error) return html`<${Page} title="Duplicates" crumbs=${[['Duplicates', '/ui/duplicates']]}><${Problem} error=${facts.error} retry=${facts.reload} /></${Page}>`;
  if (!facts.data) return html`<${Page} title="Duplicates"><${Loading} /></${Page}>`;
  const { totals, request } = facts.data;
  const drops = decisions.summary?.drops ?? totals.drops;
  return html`<${Page}
    title=${`Duplicates in ${nameOf(request.embeddings)}`}
    crumbs=${[['Duplicates', '/ui/duplicates']]}
    lead=${html`${plural(totals.groups, 'group')} of ${plural(totals.members, 'image')}, similar from ${request.threshold}${request.against ? html` and also in <${Text} value=${nameOf(request.against)} />, which stays as it is` : null}. <strong class="number">${plural(drops, 'image')} to drop.</strong>`}
    actions=${html`${decisions.may && html`<button onClick=${decisions.undo} title="u">Undo</button><button class="primary" onClick=${acceptAll} title="a">Accept this page</button>`}<${DecisionsMenu} decisions=${decisions} id=${id} />`}
  >
    <${Filters} query=${query} set=${set} threshold=${request.threshold} decisions=${decisions} totals=${totals} />
    <${Problem} error=${groups.error} retry=${groups.reload} />
    ${groups.data?.total === 0 && html`<${Empty} title=${totals.groups ? 'No group fits' : 'No duplicates'}><p>${totals.groups ? 'Choose fewer conditions.' : `No two images are similar from ${request.threshold}. A lower threshold finds more.`}</p></${Empty}>`}
    <div class=${`dup-groups${groups.loading ? ' is-stale' : ''}`} aria-busy=${groups.loading ? 'true' : 'false'}>
      ${groups.data?.groups.map((group) => html`<${Group} key=${group.group} group=${group} own=${facts.data.sets[0]} decisions=${decisions} decide=${decide} onMore=${members < MOST && (() => setMembers(MOST))} />`)}
    </div>
    ${groups.data && html`<${Pages} page=${page} pages=${Math.ceil(groups.data.total / GROUPS)} onPage=${(to) => { change({ page: to ? to + 1 : null }); scrollTo(0, 0); }} />`}
  </${Page}>`;
}

function Filters({ query, set, threshold, decisions, totals }) {
  const least = query.least || String(threshold);
  const decided = decisions.summary?.decided || 0;
  return html`<div class="toolbar">
    <input type="search" placeholder="Path" aria-label="Path contains" value=${query.q || ''} onChange=${(event) => set({ q: event.target.value })} />
    <label class="range"><span class="quiet">At least</span>
      <input type="range" min=${Math.min(0.99, threshold)} max="1" step="0.005" value=${least} aria-label="Least similarity in a group" onInput=${(event) => set({ least: Number(event.target.value) <= threshold ? null : event.target.value })} />
      <output class="number">${Number(least).toFixed(3)}</output></label>
    <${Select} label="Copies" hideLabel value=${query.copy || ''} options=${[['', 'All kinds'], ['file', 'Same file'], ['pixels', 'Same picture'], ['near', 'Similar']]} onChange=${(copy) => set({ copy })} />
    <${Select} label="Show" hideLabel value=${query.show || ''} options=${[['', 'Decided or not'], ['open', 'Open'], ['decided', 'Decided']]} onChange=${(show) => set({ show })} />
    <${Select} label="Order" hideLabel value=${query.sort || 'size'} options=${[['size', 'Largest first'], ['similarity', 'Most similar first'], ['doubtful', 'Most doubtful first']]} onChange=${(sort) => set({ sort: sort === 'size' ? null : sort })} />
    <span class="decided-share"><${Bar} share=${decided / Math.max(1, totals.members)} label=${`${decided} of ${totals.members} images are decided`} /><small class="quiet number">${number(decided)} of ${number(totals.members)} decided</small></span>
    ${decisions.may && html`<${KeyHelp} keys=${[['j', 'next'], ['k', 'back'], ['space', 'keep'], ['x', 'drop'], ['a', 'accept page'], ['u', 'undo']]} />`}
  </div>`;
}

function Group({ group, own, decisions, decide, onMore }) {
  const left = group.size - group.rows.length;
  return html`<section class="dup-group" aria-label=${`Group of ${plural(group.size, 'image')}`}>
    <header><${Chip} kind=${group.copy === 'near' ? '' : 'mark'}>${COPIES[group.copy]}</${Chip}>
      <span class="quiet number">${plural(group.size, 'image')} · ${group.least_similarity >= 0.99999 ? 'equal' : `at least ${similarity(group.least_similarity)}`}</span></header>
    <div class="dup-members">
      ${group.rows.map((row) => html`<${Member} key=${`${row.embeddings}/${row.row}`} row=${row} own=${row.embeddings === own} decisions=${decisions} decide=${decide} />`)}
      ${left > 0 && html`<p class="more quiet">and ${plural(left, 'more image')} ${onMore && html`<button onClick=${onMore}>Show more</button>`}</p>`}
    </div>
  </section>`;
}

function Member({ row, own, decisions, decide }) {
  const said = own ? decisions.of(row)?.action : null;
  const action = said || (row.keep ? 'keep' : 'drop');
  const size = row.width ? `${row.width} × ${row.height}` : '';
  const facts = [size, row.bytes !== null && bytes(row.bytes), !row.keep && row.similarity < 0.99999 && similarity(row.similarity)].filter(Boolean).join(' · ');
  const name = row.image_path.split('/').pop();
  const label = `${row.image_path}, ${facts}: ${said ? `you ${said} it` : own ? `${action} is suggested` : 'stays as it is'}`;
  return html`<div class=${`judged is-${action}${said ? ' said' : ''}`} role="group" tabindex="0" aria-label=${label} data-image=${own ? row.row : -1}>
    <${Thumb} embeddings=${row.embeddings} row=${row.row} path=${row.image_path} />
    <span class="verdict">${action === 'keep' ? 'Keep' : 'Drop'}${said ? ' ✓' : ''}</span>
    <${Text} value=${name} />
    <small class="quiet number">${facts || ' '}</small>
    <small class="why quiet" title=${row.reason}><bdi>${row.reason}</bdi></small>
    ${own && decisions.may && html`<span class="choose">
      <button aria-pressed=${said === 'keep' ? 'true' : 'false'} onClick=${() => decide(row.row, 'keep')} aria-label=${`Keep ${name}`}>Keep</button>
      <button aria-pressed=${said === 'drop' ? 'true' : 'false'} onClick=${() => decide(row.row, 'drop')} aria-label=${`Drop ${name}`}>Drop</button>
    </span>`}
  </div>`;
}
