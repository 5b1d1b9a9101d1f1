/** A sweep: plots of what each setting gives, the best point by each figure, and the table of all points. */
import { del, extractor, get, may, post } from '../api.js';
import { Chart } from '../chart.js';
import { Chip, Confirm, Figure, Loading, Page, Problem, Select, Text, ago, duration, fixed, navigate, number, toast, useData, useQuery } from '../ui.js';
import { html, useEffect, useRef, useState } from '../vendor/preact.js';
import { setName } from '../jobs.js';
import { FIGURES, figureOf } from '../figures.js';

const PARAMETERS = ['embeddings', 'model', 'normalize', 'whiten', 'components', 'reduce', 'method', 'over', 'k', 'scored'];
const MOST_LINES = 8;
const METHODS = { kmeans: 'k-means', turtle: 'TURTLE', temi: 'TEMI', leiden: 'Leiden', hdbscan: 'HDBSCAN' };
/** What a point without groups does not have. */
const OF_GROUPS = ['k', 'scored'];
const AXES = { k: 'groups', components: 'PCA components' };

/** A setting as people read it. */
function say(name, value) {
  if (OF_GROUPS.includes(name) && value === null) return '';
  if (name === 'components') return value === null ? 'no PCA' : `${value} components`;
  if (name === 'normalize') return value ? 'unit length' : 'not normalised';
  if (name === 'whiten') return value ? 'whitened' : 'not whitened';
  if (name === 'method') return METHODS[value] || value;
  if (name === 'reduce') return value || 'not reduced';
  if (name === 'k') return `${value} groups`;
  if (name === 'over') return value === null ? '' : `${value} per label`;
  return String(value);
}

const withGroups = (rows) => rows.filter((row) => !row.error_code);

/** What differs between the points: the names of these parameters. */
const varying = (rows) => PARAMETERS.filter((name) => new Set((OF_GROUPS.includes(name) ? withGroups(rows) : rows).map((row) => row[name])).size > 1);

/** Lines of points that differ in `x` alone. */
function linesOf(rows, x, metric) {
  const others = varying(rows).filter((name) => name !== x && !(x === 'k' && name === 'over') && name !== 'model');
  const groups = new Map();
  for (const row of rows) {
    if (typeof row[metric] !== 'number') continue;
    const name = others.map((each) => say(each, row[each])).filter(Boolean).join(', ');
    if (!groups.has(name)) groups.set(name, []);
    groups.get(name).push({ x: row[x] ?? row.dim, y: row[metric], std: row[`${metric}_std`] || 0, point: row.point });
  }
  return [...groups].map(([name, points]) => ({ name: name || figureOf(metric).name, points: points.sort((a, b) => a.x - b.x) }));
}

export default function Sweep({ params }) {
  const id = params.id;
  const path = `/sweeps/${encodeURIComponent(id)}`;
  const [query, setQuery] = useQuery();
  const { data: sweep, error, loading, reload } = useData((signal) => get(path, {}, { signal }), [id]);
  const { data: sets } = useData((signal) => get(extractor('/embeddings'), {}, { signal }), []);
  if (!sweep) {
    return html`<${Page} title="Sweep" crumbs=${[['Groups', '/']]}><${Problem} error=${error} />${loading && html`<${Loading} what="Reading the sweep" />`}</${Page}>`;
  }
  const rows = sweep.table;
  const names = new Map((sets?.embeddings || []).map((each) => [each.id, setName(each)]));
  const ids = [...new Set(rows.map((row) => row.embeddings))];
  const title = `Sweep of ${ids.map((each) => names.get(each) || each).join(', ') || id}`;
  const { total, finished } = sweep.points;
  const lead = `${sweep.complete ? number(total) : `${number(finished)} of ${number(total)}`} points${sweep.finished_at ? ` · ${ago(sweep.finished_at)} · took ${duration(sweep.seconds)}` : ''}`;
  // Scored on the set itself, both maps from groups to labels are the same.
  const grouped = withGroups(rows);
  const itself = grouped.every((row) => row.scored === row.embeddings);
  const metrics = FIGURES.filter(({ key }) => rows.some((row) => typeof row[key] === 'number') && !(itself && key.endsWith('_scored')));
  return html`<${Page} title=${title} crumbs=${[['Groups', '/']]} lead=${lead}
    actions=${html`<a class="button" href=${`${path}?format=csv`} download>CSV</a><a class="button" href=${`${path}?format=parquet`} download>Parquet</a><${Delete} path=${path} name="sweep" />`}>
    ${!sweep.complete && html`<p><${Chip} kind="warn">not finished</${Chip}> <button class="plain" onClick=${reload}>Read again</button></p>`}
    ${rows.length === 0
      ? html`<p class="quiet">No point is finished yet.</p>`
      : html`<div class="stack"><${Best} rows=${grouped} metrics=${metrics} />
        <${Plots} rows=${grouped} metrics=${metrics} query=${query} setQuery=${setQuery} onPoint=${(point) => setQuery({ point: point.point })} />
        ${query.point !== undefined && html`<${Point} path=${path} rows=${rows} number=${query.point} metrics=${metrics} onClose=${() => setQuery({ point: null })} />`}
        <${Table} rows=${rows} metrics=${metrics} query=${query} setQuery=${setQuery} /></div>`}
    ${Object.keys(sweep.plots).length > 0 && html`<p class="quiet more">Plots as files: ${Object.entries(sweep.plots).map(([name, svg]) => html`<a href=${svg} target="_blank">${name}</a> `)}</p>`}
  </${Page}>`;
}

/** The best point by the figures that matter most. */
function Best({ rows, metrics }) {
  const wanted = ['ari', 'accuracy_hungarian_train', 'silhouette', 'stability'].map((key) => metrics.find((each) => each.key === key)).filter(Boolean);
  const vary = varying(rows).filter((name) => name !== 'model');
  return html`<section class="card" aria-label="Best points"><div class="figures">${wanted.map((metric) => {
    const known = rows.filter((row) => typeof row[metric.key] === 'number');
    const best = known.reduce((top, row) => ((metric.lower ? -1 : 1) * (row[metric.key] - top[metric.key]) > 0 ? row : top));
    return html`<${Figure} name=${`Best ${metric.name}`} value=${fixed(best[metric.key])} std=${best[`${metric.key}_std`] ? fixed(best[`${metric.key}_std`]) : null} chance=${metric.chance === 0 ? '0' : null}>
      <a href=${`#point-${best.point}`}>${vary.map((name) => say(name, best[name])).filter(Boolean).join(', ') || `point ${best.point}`}</a>. ${metric.says}</${Figure}>`;
  })}</div></section>`;
}

function Plots({ rows, metrics, query, setQuery, onPoint }) {
  const axes = Object.keys(AXES).filter((name) => new Set(rows.map((row) => row[name])).size > 1);
  if (!axes.length || !metrics.length) return null;
  const x = axes.includes(query.x) ? query.x : axes[0];
  const metric = metrics.find(({ key }) => key === query.y) || metrics[0];
  const lines = linesOf(rows, x, metric.key);
  const shown = lines.slice(0, MOST_LINES);
  return html`<section class="card" aria-label="Plot">
    <div class="row spread"><h2 class="first">${metric.name}</h2><div class="row">
      <${Select} label="Figure" value=${metric.key} options=${metrics.map(({ key, name }) => [key, name])} onChange=${(y) => setQuery({ y })} />
      ${axes.length > 1 && html`<${Select} label="Against" value=${x} options=${axes.map((name) => [name, AXES[name]])} onChange=${(next) => setQuery({ x: next })} />`}
    </div></div>
    <p class="quiet">${metric.says} ${metric.chance === 0 ? 'Chance is 0.' : ''}</p>
    <${Chart} lines=${shown} xName=${AXES[x]} logarithmic label=${`${metric.name} against ${AXES[x]}`} onPoint=${onPoint} />
    ${lines.length > shown.length && html`<p class="quiet">${`${shown.length} of ${lines.length} lines; the table has all points.`}</p>`}
    ${rows.some((row) => row.seeds > 1) && html`<p class="quiet">Bands: one standard deviation over the seeds. A click or Enter opens the point.</p>`}
  </section>`;
}

function Table({ rows, metrics, query, setQuery }) {
  const vary = varying(rows).filter((name) => name !== 'model');
  const columns = [...new Set(vary.length ? vary : ['k'])];
  const shown = metrics.filter(({ key }) => ['ari', 'ami', 'accuracy_hungarian_train', 'accuracy_majority_train', 'purity', 'silhouette', 'stability', 'neighbour_agreement', 'inertia'].includes(key));
  const sort = query.sort || 'point';
  const metric = metrics.find(({ key }) => key === sort);
  const sign = metric ? (metric.lower ? 1 : -1) : 1;
  const sorted = [...rows].sort((a, b) => sign * ((a[sort] ?? Infinity * sign) - (b[sort] ?? Infinity * sign)) || a.point - b.point);
  const head = (key, name) => html`<th class="n" aria-sort=${sort === key ? 'descending' : undefined}><button class="plain sort" aria-pressed=${sort === key ? 'true' : 'false'} onClick=${() => setQuery({ sort: key === 'point' ? null : key })}>${name}</button></th>`;
  return html`<section><h2>All points</h2><div class="scroll" tabindex="0" role="region" aria-label="All points"><table class="points">
    <thead><tr>${head('point', 'Point')}${columns.map((name) => html`<th>${AXES[name] || name}</th>`)}${shown.map(({ key, name }) => head(key, name))}${!shown.length && html`<th>Figures</th>`}<th><span class="hidden">Open</span></th></tr></thead>
    <tbody>${sorted.map((row) => html`<tr key=${`${row.point} ${row.scored}`} id=${`point-${row.point}`} class=${String(row.point) === query.point ? 'picked' : ''}>
      <td class="n">${row.point}</td>
      ${columns.map((name) => html`<td><${Text} value=${say(name, row[name])} /></td>`)}
      ${row.error_code ? html`<td class="quiet" colspan=${shown.length || 1}>${row.error_message}</td>` : shown.map(({ key }) => html`<td class="n">${key === 'inertia' ? number(Math.round(row[key] * 100) / 100) : fixed(row[key])}${row[`${key}_std`] ? html`<span class="quiet"> ± ${fixed(row[`${key}_std`])}</span>` : ''}</td>`)}
      <td><button class="plain" onClick=${() => setQuery({ point: row.point })} aria-label=${`Open point ${row.point}`}>Open</button></td>
    </tr>`)}</tbody></table></div></section>`;
}

/** One point: its settings, and making its groups. */
function Point({ path, rows, number: point, metrics, onClose }) {
  const { data, error } = useData((signal) => get(`${path}/points/${encodeURIComponent(point)}`, {}, { signal }), [point]);
  const [problem, setProblem] = useState(null);
  const place = useRef(null);
  useEffect(() => place.current.scrollIntoView({ block: 'nearest' }), [point]);
  const row = rows.find((each) => String(each.point) === point);
  const make = async () => {
    try {
      const request = Object.fromEntries(Object.entries(data.request).filter(([, value]) => value !== null));
      const job = await post('/cluster', { ...request, pca: data.request.pca });
      navigate(`/ui/jobs/${encodeURIComponent(job.id)}`);
    } catch (failed) {
      setProblem(failed);
    }
  };
  return html`<section class="card point" ref=${place} aria-label=${`Point ${point}`}>
    <div class="row spread"><h2 class="first">Point ${point}</h2><button class="plain close" aria-label="Close" onClick=${onClose}>×</button></div>
    <${Problem} error=${error || problem} />
    ${row?.error_code && html`<p>${row.error_message}</p>`}
    ${row && !row.error_code && html`<div class="figures">${metrics.slice(0, 4).map(({ key, name, says, chance }) => html`<${Figure} name=${name} value=${fixed(row[key])} std=${row[`${key}_std`] ? fixed(row[`${key}_std`]) : null} chance=${chance === 0 ? '0' : null}>${says}</${Figure}>`)}</div>`}
    ${data && html`<details><summary>Request</summary><pre><code>${JSON.stringify(data.request, null, 2)}</code></pre></details>
      ${may('submit') && !row?.error_code && html`<p><button class="primary" onClick=${make}>Make these groups</button></p>`}`}
  </section>`;
}

/** Delete something, after a question. Nothing without scope `admin`. */
export function Delete({ path, name, warning, back = '/' }) {
  const [asked, setAsked] = useState(false);
  if (!may('admin')) return null;
  const remove = async () => {
    await del(path);
    toast(`The ${name} is deleted.`);
    navigate(back);
  };
  return html`<button class="danger" onClick=${() => setAsked(true)}>Delete</button>
    ${asked && html`<${Confirm} title=${`Delete this ${name}?`} yes="Delete" onYes=${remove} onClose=${() => setAsked(false)}><p>${warning || 'This cannot be undone.'}</p></${Confirm}>`}`;
}
