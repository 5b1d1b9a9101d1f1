/** Quality: outliers, labels that are probably wrong, and files that stand out; each to keep, drop or relabel. */
import { DecisionsMenu, KeyHelp, Pages, Started, focusedRow, moveFocus, onControl, readSets, setOption, useDecisions, useNewJob, useSetNames } from '../analyses.js';
import { get, may, post } from '../api.js';
import { Empty, Field, Loading, Page, Problem, Select, Tabs, Text, Thumb, ago, navigate, number, percent, plural, useData, useKeys, useQuery } from '../ui.js';
import { html, useEffect, useId, useRef, useState } from '../vendor/preact.js';

const PAGE = 60;
const NEIGHBOURS = 5;
/** Name, and what the value of an image that stands out means. */
const ISSUES = {
  small: ['Small', (v) => `${number(v)} px on the shorter side`],
  odd_aspect: ['Odd shape', (v) => `${v.toFixed(1)} times as long as wide`],
  low_detail: ['Little detail', (v) => `${v.toFixed(3)} bytes a pixel`],
  dark: ['Dark', (v) => `its brightest parts have ${percent(v)} brightness`],
  bright: ['Bright', (v) => `its darkest parts have ${percent(v)} brightness`],
  low_contrast: ['Flat', (v) => `its brightness spans ${percent(v)}`],
  low_entropy: ['Nearly one tone', (v) => `${v.toFixed(1)} bits of entropy`],
  blurry: ['Blurry', (v) => `sharpness ${number(Math.round(v))}`],
};

export default function Quality({ params, query }) {
  return params.id ? html`<${Result} id=${params.id} />` : html`<${Results} asked=${query.embeddings} />`;
}

// ------------------------------------------------------------------------------------------------- all results

function Results({ asked }) {
  const nameOf = useSetNames();
  const { data, error, loading, reload } = useData((signal) => get('/quality', {}, { signal }), []);
  return html`<${Page} title="Quality" lead="Images that do not belong, labels that are probably wrong, and files that stand out. Nothing is changed: you decide, and take the list.">
    <${Problem} error=${error} retry=${reload} />
    ${may('submit') && html`<${Start} asked=${asked} />`}
    <h2>Results</h2>
    ${loading && !data && html`<${Loading} />`}
    ${data?.quality.length === 0 && html`<p class="quiet">None yet.</p>`}
    <div class="cards">${data?.quality.map((each) => html`<${Card} key=${each.id} found=${each} nameOf=${nameOf} />`)}</div>
  </${Page}>`;
}

function Card({ found, nameOf }) {
  if (found.damaged) return html`<div class="card"><h3><${Text} value=${found.id} /></h3><p class="quiet">Damaged: ${found.problem}</p></div>`;
  const { outliers, label_errors: labels, image_issues: files } = found.totals;
  return html`<a class="card result" href=${`/ui/quality/${found.id}`}>
    <h3><${Text} value=${nameOf(found.request.embeddings)} /></h3>
    <p class="count"><strong>${plural(labels, 'doubtful label')}</strong>, ${plural(outliers, 'outlier')}, ${plural(files, 'file')} that ${files === 1 ? 'stands' : 'stand'} out</p>
    <p class="quiet">${ago(found.finished_at)}</p>
  </a>`;
}

function Start({ asked }) {
  const sets = useData(readSets, []);
  const [embeddings, setEmbeddings] = useState(asked || '');
  const [neighbours, setNeighbours] = useState(10);
  const job = useNewJob((result) => navigate(`/ui/quality/${result.quality}`));
  if (sets.error) return html`<${Problem} error=${sets.error} retry=${sets.reload} />`;
  if (!sets.data) return html`<${Loading} what="Looking for sets" />`;
  if (!sets.data.length) return html`<${Empty} title="No images yet"><p><a href="/ui/new">Add images</a> first: their embeddings are compared here.</p></${Empty}>`;
  const chosen = sets.data.some((each) => each.id === embeddings) ? embeddings : sets.data[0].id;
  const submit = (event) => {
    event.preventDefault();
    job.start('/quality', { embeddings: chosen, neighbours: Number(neighbours) });
  };
  if (job.job) return html`<${Started} job=${job.job} />`;
  return html`<form class="card ask" onSubmit=${submit} aria-label="Check quality">
    <${Problem} error=${job.error} />
    <${Field} label="Images">${(ids) => html`<select ...${ids} value=${chosen} onChange=${(e) => setEmbeddings(e.target.value)}>${sets.data.map(setOption).map(([id, text]) => html`<option value=${id}>${text}</option>`)}</select>`}</${Field}>
    <${Field} label="Neighbours" hint="How many of the nearest images each is compared with." error=${job.error?.about?.('neighbours')}>${(ids) => html`<input ...${ids} type="number" min="1" max="100" value=${neighbours} onInput=${(e) => setNeighbours(e.target.value)} />`}</${Field}>
    <div class="actions"><button class="primary">Check</button></div>
  </form>`;
}

// -------------------------------------------------------------------------------------------------- one result

/** What a page of a tab asks the API for: the table, and the conditions of the address. */
function asked(tab, query) {
  const table = tab in ISSUES ? 'images' : tab;
  const [label, suggested] = tab === 'labels' && query.pair ? JSON.parse(query.pair) : [];
  const issue = table === 'images' ? tab : undefined;
  return { table, params: { q: query.q, label, suggested, issue, decided: { open: false, decided: true }[query.show] } };
}

function Result({ id }) {
  const nameOf = useSetNames();
  const [query, change] = useQuery();
  const base = `/quality/${encodeURIComponent(id)}`;
  const facts = useData(
    async (signal) => {
      const [found, images, labels] = await Promise.all([
        get(base, {}, { signal }),
        get(`${base}/images`, { limit: 1, counts: true }, { signal }),
        get(`${base}/labels`, { limit: 1, counts: true }, { signal }),
      ]);
      return { ...found, issues: images.counts, pairs: labels.counts };
    },
    [id],
  );
  const first = facts.data && (facts.data.totals.label_errors ? 'labels' : facts.data.totals.outliers || !facts.data.issues.length ? 'outliers' : facts.data.issues[0].issue);
  const tab = query.tab || first;
  const page = Math.max(0, Number(query.page || 1) - 1) || 0;
  const { table, params } = asked(tab || 'labels', query);
  const rows = useData(
    async (signal) => (tab ? { tab, ...(await get(`${base}/${table}`, { ...params, limit: PAGE, cursor: page ? String(page * PAGE) : undefined }, { signal })) } : null),
    [id, tab, page, JSON.stringify(params)],
  );
  // Rows of another tab have other facts: they are not shown under this one.
  const shown = rows.data?.tab === tab ? rows.data : null;
  const decisions = useDecisions('quality', id, rows.reload);
  const set = (changes) => change({ page: null, ...changes });
  const byRow = new Map((shown?.rows || []).map((row) => [row.row, row]));
  const decide = (number, fields) => {
    const row = byRow.get(number);
    if (row && decisions.may) decisions.decide({ [number]: fields(row) }, { [number]: row.decision });
  };
  const keys = {
    j: () => moveFocus(1),
    k: () => moveFocus(-1),
    x: () => decide(focusedRow(), () => ({ action: 'drop' })),
    ' ': (event) => (onControl(event) || focusedRow() === undefined ? false : decide(focusedRow(), () => ({ action: 'keep' }))),
    u: () => decisions.may && decisions.undo(),
    r: () => decide(focusedRow(), (row) => ({ label: row.label })),
    s: () => decide(focusedRow(), (row) => (row.suggested ? { label: row.suggested } : {})),
  };
  useKeys(keys);
  const crumbs = [['Quality', '/ui/quality']];
  if (facts.error) return html`<${Page} title="Quality" crumbs=${crumbs}><${Problem} error=${facts.error} retry=${facts.reload} /></${Page}>`;
  if (!facts.data) return html`<${Page} title="Quality" crumbs=${crumbs}><${Loading} /></${Page}>`;
  const { totals, request, issues, pairs } = facts.data;
  const tabs = [
    ['labels', 'Labels', number(totals.label_errors)],
    ['outliers', 'Outliers', number(totals.outliers)],
    ...issues.map(({ issue, rows: count }) => [issue, ISSUES[issue]?.[0] || issue, number(count)]),
  ];
  const said = decisions.summary;
  return html`<${Page}
    title=${`Quality of ${nameOf(request.embeddings)}`}
    crumbs=${crumbs}
    lead=${said && said.decided ? html`<span class="number">${plural(said.decided, 'image')} decided: ${number(said.drop)} to drop, ${plural(said.labels, 'label')} said.</span>` : 'Nothing is decided yet.'}
    actions=${html`${decisions.may && html`<button onClick=${decisions.undo} title="u">Undo</button>`}<${DecisionsMenu} decisions=${decisions} id=${id} />`}
  >
    <${Tabs} label="What stands out" value=${tab} tabs=${tabs} onChange=${(to) => change({ tab: to, page: null, pair: null })} />
    <${Small} totals=${totals} rows=${facts.data.of[request.embeddings]?.rows} />
    <div class="toolbar">
      <input type="search" placeholder="Path" aria-label="Path contains" value=${query.q || ''} onChange=${(event) => set({ q: event.target.value })} />
      ${tab === 'labels' && pairs.length > 1 && html`<${Select} label="Labels" hideLabel value=${query.pair || ''} options=${[['', 'All labels'], ...pairs.map((each) => [JSON.stringify([each.label, each.suggested]), `${each.label} → ${each.suggested} (${number(each.rows)})`])]} onChange=${(pair) => set({ pair })} />`}
      <${Select} label="Show" hideLabel value=${query.show || ''} options=${[['', 'Decided or not'], ['open', 'Open'], ['decided', 'Decided']]} onChange=${(show) => set({ show })} />
      ${decisions.may && html`<${KeyHelp} keys=${[['j', 'next'], ['k', 'back'], ['space', 'keep'], ['x', 'drop'], ...(tab === 'labels' ? [['r', 'label is right'], ['s', 'as suggested']] : []), ['u', 'undo']]} />`}
    </div>
    <${Problem} error=${rows.error} retry=${rows.reload} />
    ${shown?.total === 0 && html`<${Nothing} tab=${tab} filtered=${Boolean(query.q || query.pair || query.show)} />`}
    <div class=${`findings ${tab === 'labels' ? 'labels' : ''}${rows.loading ? ' is-stale' : ''}`} aria-busy=${rows.loading ? 'true' : 'false'}>
      ${shown?.rows.map((row) => html`<${Finding} key=${`${tab}/${row.row}`} row=${row} tab=${tab} embeddings=${request.embeddings} decisions=${decisions} decide=${decide} />`)}
    </div>
    ${shown && html`<${Pages} what="images" page=${page} pages=${Math.ceil(shown.total / PAGE)} onPage=${(to) => { change({ page: to ? to + 1 : null }); scrollTo(0, 0); }} />`}
  </${Page}>`;
}

function Small({ totals, rows }) {
  const small = totals.small_images;
  if (!small || !rows || small < rows / 4) return null;
  return html`<p class="quiet">${small === rows ? 'All' : `${number(small)} of ${number(rows)}`} images of this set have fewer than 64 px on a side. Only those that are small even here are listed.</p>`;
}

function Nothing({ tab, filtered }) {
  if (filtered) return html`<${Empty} title="No image fits"><p>Choose fewer conditions.</p></${Empty}>`;
  const words = {
    labels: ['No doubtful labels', 'Every label fits the images around it, or the images have none.'],
    outliers: ['No outliers', 'No image is farther from the others than chance explains.'],
  }[tab] || ['Nothing stands out', ''];
  return html`<${Empty} title=${words[0]}><p>${words[1]}</p></${Empty}>`;
}

function Finding({ row, tab, embeddings, decisions, decide }) {
  const said = decisions.of(row);
  const name = row.image_path.split('/').pop();
  const why = tab === 'labels' ? `labelled ${row.label}, looks like ${row.suggested}` : tab === 'outliers' ? `far from all others: p ${row.p < 0.001 ? '< 0.001' : row.p.toFixed(3)}` : ISSUES[row.issue]?.[1](row.value);
  const action = said?.action;
  const state = [action && (action === 'keep' ? 'Keep' : 'Drop'), said?.label && (said.label === row.label ? 'Label right' : `→ ${said.label}`)].filter(Boolean).join(', ');
  return html`<section class=${`judged finding${action ? ` said is-${action}` : ''}${said?.label ? ' said' : ''}`} role="group" tabindex="0" data-image=${row.row} aria-label=${`${row.image_path}, ${why}${state ? `: ${state}` : ''}`}>
    <${Thumb} embeddings=${embeddings} row=${row.row} path=${row.image_path} />
    <div class="about">
      ${state && html`<span class="verdict"><bdi>${state}</bdi></span>`}
      <${Text} value=${name} />
      ${tab === 'labels' ? html`<p class="versus"><${Text} value=${row.label} /> <span class="quiet" aria-hidden="true">→</span> <strong><${Text} value=${row.suggested} /></strong></p>` : html`<small class="quiet">${why}</small>`}
      ${tab !== 'labels' && row.label && html`<small class="quiet">labelled <${Text} value=${row.label} /></small>`}
      ${tab === 'labels' && decisions.may && html`<${Labels} row=${row} said=${said} decide=${decide} />`}
      ${decisions.may && html`<span class="choose">
        <button aria-pressed=${action === 'keep' ? 'true' : 'false'} aria-label=${`Keep ${name}`} onClick=${() => decide(row.row, () => ({ action: 'keep' }))}>Keep</button>
        <button aria-pressed=${action === 'drop' ? 'true' : 'false'} aria-label=${`Drop ${name}`} onClick=${() => decide(row.row, () => ({ action: 'drop' }))}>Drop</button>
      </span>`}
    </div>
    ${tab !== 'images' && !(tab in ISSUES) && may('submit') && html`<${Neighbours} embeddings=${embeddings} row=${row} />`}
  </section>`;
}

function Labels({ row, said, decide }) {
  const [other, setOther] = useState(null);
  const input = useRef(null);
  const id = useId();
  useEffect(() => {
    if (other !== null) input.current?.focus();
  }, [other !== null]);
  const save = (event) => {
    event.preventDefault();
    const label = other.trim();
    if (label) decide(row.row, () => ({ label }));
    setOther(null);
  };
  if (other !== null) {
    return html`<form class="choose" onSubmit=${save}><label class="hidden" for=${id}>Right label</label>
      <input id=${id} ref=${input} value=${other} maxlength="200" placeholder="Right label" onInput=${(e) => setOther(e.target.value)} onKeyDown=${(e) => e.key === 'Escape' && setOther(null)} /><button>Set</button></form>`;
  }
  return html`<span class="choose">
    <button aria-pressed=${said?.label === row.label ? 'true' : 'false'} title=${`The label is right: ${row.label}`} aria-label=${`The label is right: ${row.label}`} onClick=${() => decide(row.row, (each) => ({ label: each.label }))}>Is right</button>
    <button aria-pressed=${said?.label === row.suggested ? 'true' : 'false'} title=${`The label should be ${row.suggested}`} onClick=${() => decide(row.row, (each) => ({ label: each.suggested }))}><${Text} value=${row.suggested} /></button>
    <button title="Another label" aria-label="Another label" onClick=${() => setOther('')}>…</button>
  </span>`;
}

/** The nearest images of one, with their labels: sought when the image comes near the window. */
function Neighbours({ embeddings, row }) {
  const [found, setFound] = useState(null);
  const place = useRef(null);
  useEffect(() => {
    const control = new AbortController();
    const watcher = new IntersectionObserver(
      (entries) => {
        if (!entries.some((entry) => entry.isIntersecting)) return;
        watcher.disconnect();
        // Without neighbours, such as of an image without a direction, the finding still stands for itself.
        post('/search', { embeddings, row: row.row, k: NEIGHBOURS }, { signal: control.signal }).then(setFound, () => setFound([]));
      },
      { rootMargin: '200px' },
    );
    watcher.observe(place.current);
    return () => {
      watcher.disconnect();
      control.abort();
    };
  }, [embeddings, row.row]);
  return html`<div class="neighbours" ref=${place} role="group" aria-label="Nearest images">
    ${(found || Array.from({ length: NEIGHBOURS }, () => null)).map((each) => each === null
      ? html`<span class="neighbour"><span class="thumb"></span></span>`
      : html`<span class=${`neighbour${each.label && each.label !== row.label ? ' other' : ''}`} key=${each.row}>
          <${Thumb} embeddings=${embeddings} row=${each.row} path=${each.image_path} /><small><${Text} value=${each.label || '–'} /></small></span>`)}
  </div>`;
}
