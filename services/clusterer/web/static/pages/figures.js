/** All figures of a clustering: per scored set with deviation and chance, classes, confusion, why this many groups. */
import { get } from '../api.js';
import { Chart } from '../chart.js';
import { FIGURES, chanceOf, isShare, valueOf } from '../figures.js';
import { crumbsOf, wordOf } from '../groups.js';
import { Views } from '../parts.js';
import { Bar, Figure, Loading, Page, Problem, Select, Tabs, Text, bytes, duration, fixed, number, percent, plural, useData, useQuery } from '../ui.js';
import { html } from '../vendor/preact.js';
import { Delete } from './sweep.js';

const MOST = 200;
const digits = (figure, value) => (figure.key === 'empty_clusters' ? 0 : Math.abs(value) >= 1000 ? 0 : Math.abs(value) >= 10 ? 1 : 3);

export default function Figures({ params }) {
  const { id } = params;
  const base = `/clusterings/${encodeURIComponent(id)}`;
  const [query, setQuery] = useQuery();
  const { data, error, loading } = useData(async (signal) => {
    const [facts, metrics] = await Promise.all([get(base, {}, { signal }), get(`${base}/metrics`, {}, { signal })]);
    return { facts, metrics };
  }, [id]);
  const crumbs = crumbsOf(id, data?.facts);
  if (!data) {
    return html`<${Page} title="Figures" crumbs=${crumbs}><${Problem} error=${error} />${loading && html`<${Loading} what="Reading the figures" />`}</${Page}>`;
  }
  const { facts, metrics } = data;
  const scored = facts.scored.includes(query.scored) ? query.scored : facts.scored[0];
  const entry = metrics.scored[scored];
  const labelled = entry.mean.n_labelled > 0;
  const options = facts.scored.map((each) => [each, each === facts.train ? `${each} (the groups were made of it)` : each]);
  const seeds = Object.keys(entry.seeds || {}).length;
  return html`<${Page} title="Figures" crumbs=${crumbs}
    lead=${`${plural(facts.k, 'group')} of ${plural(facts.n, 'image')}, mean over ${plural(seeds, 'seed')}`}
    actions=${html`<${Views} id=${id} at="figures" /><a class="button" href=${`${base}/report`} target="_blank">Report</a><a class="button" href=${`${base}/metrics`} download=${`${id}-metrics.json`}>JSON</a><${Delete} path=${base} name="clustering" warning="Its groups, their names and its report are deleted. The images and their set stay. This cannot be undone." />`}>
    ${options.length > 1 && html`<p><${Select} label="Scored on" value=${scored} options=${options} onChange=${(next) => setQuery({ scored: next })} /></p>`}
    <div class="stack">
    <${All} entry=${entry} facts=${facts} scored=${scored} labelled=${labelled} />
    ${facts.picked && html`<${Picked} picked=${facts.picked} />`}
    ${facts.chosen && html`<${Why} chosen=${facts.chosen} k=${facts.k} />`}
    ${labelled && html`<${Labels} base=${base} scored=${scored} query=${query} setQuery=${setQuery} />`}
    <${Iterations} base=${base} facts=${facts} />
    <${Run} facts=${facts} />
    </div>
  </${Page}>`;
}

function All({ entry, facts, scored, labelled }) {
  const itself = scored === facts.train;
  const shown = FIGURES.map((figure) => [figure, valueOf(figure, entry)]).filter(([figure, found]) => {
    if (!found) return false;
    // Measured on the set itself, both maps are the same.
    if (itself && figure.key.endsWith('_scored')) return false;
    return !(figure.key.includes('mixed') && entry.mean.k <= entry.mean.classes);
  });
  const card = ([figure, found]) => {
    const chance = chanceOf(figure, entry, itself);
    const places = digits(figure, found.value);
    const text = (value) => isShare(figure) ? percent(value, 1) : value.toLocaleString('en', { minimumFractionDigits: places, maximumFractionDigits: places });
    return html`<${Figure} key=${figure.key} name=${figure.name} value=${text(found.value)} std=${found.std ? text(found.std) : null} chance=${chance === null ? null : chance === 0 ? '0' : text(chance)}>${figure.says}</${Figure}>`;
  };
  const withLabels = shown.filter(([figure]) => !['silhouette', 'stability'].includes(figure.key) && !figure.plain);
  const without = shown.filter((each) => !withLabels.includes(each));
  return html`${labelled
    ? html`<section class="card"><h2 class="first">Beside the labels</h2><p class="quiet">${`${number(entry.mean.n_labelled)} of ${number(entry.mean.n)} images have one of ${number(entry.mean.classes)} labels. Labels were not used to make the groups.`}</p><div class="figures">${withLabels.map(card)}</div></section>`
    : html`<p class="quiet">These images have no labels, so nothing is said about right and wrong.</p>`}
    <section class="card"><h2 class="first">By the groups alone</h2>
      ${facts.reduce && html`<p class="quiet">${`Taken after “${facts.reduce.method}”, which draws like images together: compare silhouette, Davies-Bouldin, Calinski-Harabasz and inertia only with groups made in the same way.`}</p>`}
      <div class="figures">${without.map(card)}</div></section>`;
}

/** What was tried to change images before they were grouped. */
function Picked({ picked }) {
  const name = (reduce) => reduce || 'plain k-means';
  return html`<section class="card"><h2 class="first">Why <bdi>${name(picked.reduce)}</bdi></h2><p><bdi>${picked.why}</bdi></p>
    <p class="quiet">${`Tried on ${plural(picked.rows, 'image')}. Labels played no part.`}</p>
    ${picked.tried[0].numbers.length > 1 && html`<${Chart} lines=${picked.tried.map((each) => ({ name: name(each.reduce), points: each.numbers.map(({ k, neighbours_kept }) => ({ x: k, y: neighbours_kept })) }))} xName="groups" logarithmic label="Neighbours kept by the number of groups" />`}
    <div class="scroll" tabindex="0" role="region" aria-label="Options that were tried"><table><thead><tr><th>Option</th><th class="n">Neighbours kept</th><th class="n">Groups</th><th class="n">Stability</th><th class="n">Seconds</th></tr></thead>
    <tbody>${picked.tried.map((each) => html`<tr class=${each.reduce === picked.reduce ? 'picked' : ''}><td>${name(each.reduce)}${each.reduce === picked.reduce ? ' ✓' : ''}</td><td class="n">${fixed(each.neighbours_kept)}</td><td class="n">${number(each.k)}</td><td class="n">${fixed(each.stability)}</td><td class="n">${fixed(each.seconds, 1)}</td></tr>`)}</tbody></table></div>
  </section>`;
}

/** The numbers of groups that were tried. */
function Why({ chosen, k }) {
  const lines = [['neighbours_kept', 'Neighbours kept'], ['stability', 'Stability'], ['silhouette', 'Silhouette']].map(([key, name]) => ({
    name, points: chosen.candidates.filter((each) => typeof each[key] === 'number').map((each) => ({ x: each.k, y: each[key] })),
  }));
  return html`<section class="card"><h2 class="first">Why ${plural(k, 'group')}</h2><p><bdi>${chosen.why}</bdi></p>
    <${Chart} lines=${lines} xName="groups" logarithmic label="Neighbours kept, stability and silhouette by the number of groups" />
    <div class="scroll" tabindex="0" role="region" aria-label="Numbers that were tried"><table><thead><tr><th class="n">Groups</th><th class="n">Neighbours kept</th><th class="n">Stability</th><th class="n">Silhouette</th><th class="n">Inertia</th></tr></thead>
    <tbody>${chosen.candidates.map((each) => html`<tr class=${each.k === chosen.k ? 'picked' : ''}><td class="n">${number(each.k)}${each.k === chosen.k ? ' ✓' : ''}</td><td class="n">${fixed(each.neighbours_kept)}</td><td class="n">${fixed(each.stability)}</td><td class="n">${fixed(each.silhouette)}</td><td class="n">${fixed(each.inertia, 1)}</td></tr>`)}</tbody></table></div>
  </section>`;
}

const TABS = [['worst', 'Labels, worst first'], ['label', 'Labels by name'], ['confusion', 'What is confused']];

function Labels({ base, scored, query, setQuery }) {
  const tab = TABS.some(([each]) => each === query.labels) ? query.labels : 'worst';
  const { data, error, loading } = useData(
    (signal) => tab === 'confusion'
      ? get(`${base}/confusion`, { embeddings: scored, rule: 'majority', limit: 2000 }, { signal })
      : get(`${base}/classes`, { embeddings: scored, sort: tab, limit: MOST }, { signal }),
    [base, scored, tab],
  );
  return html`<section><h2>Labels</h2>
    <${Tabs} label="Labels" value=${tab} tabs=${TABS} onChange=${(labels) => setQuery({ labels: labels === 'worst' ? null : labels })} />
    <${Problem} error=${error} />
    ${!data && loading && html`<${Loading} />`}
    ${data?.classes && html`<${Classes} data=${data} base=${base} />`}
    ${data?.cells && html`<${Confusion} data=${data} />`}
  </section>`;
}

function Classes({ data, base }) {
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Labels"><table>
    <thead><tr><th>Label</th><th class="n">Images</th><th>Right, one to one</th><th>Right, majority</th><th>Where its images are</th></tr></thead>
    <tbody>${data.classes.map((each) => html`<tr key=${each.label}><th><${Text} value=${each.label} /></th><td class="n">${number(each.rows)}</td>
      <td><${Share} value=${each.accuracy_hungarian} /></td><td><${Share} value=${each.accuracy_majority} /></td>
      <td class="where">${each.top_clusters.slice(0, 4).map(({ cluster, count }) => html`<a href=${`/ui${base}/clusters/${cluster}`}>${wordOf(cluster).toLowerCase()}</a> <span class="quiet">${number(count)}</span> `)}${each.clusters > 4 ? html`<span class="quiet">in ${number(each.clusters)} groups</span>` : ''}</td></tr>`)}</tbody>
  </table></div>${data.total > data.classes.length && html`<p class="quiet">${`${number(data.classes.length)} of ${number(data.total)} labels.`}</p>`}`;
}

function Share({ value }) {
  if (typeof value !== 'number') return html`<span class="quiet">–</span>`;
  return html`<span class="share"><span class="number">${percent(value)}</span><${Bar} share=${value} label=${percent(value)} /></span>`;
}

function Confusion({ data }) {
  const wrong = data.cells.filter((cell) => cell.predicted !== null && cell.predicted !== cell.actual).slice(0, MOST);
  if (!wrong.length) return html`<p class="quiet">No image lies in a group of another label.</p>`;
  const most = wrong[0].count;
  return html`<div class="scroll" tabindex="0" role="region" aria-label="What is confused"><table>
    <thead><tr><th>Images of</th><th>lie in groups of</th><th>Images</th></tr></thead>
    <tbody>${wrong.map((cell) => html`<tr><th><${Text} value=${cell.actual} /></th><td><${Text} value=${cell.predicted} /></td><td><span class="share"><span class="number">${number(cell.count)}</span><${Bar} share=${cell.count / most} label=${number(cell.count)} /></span></td></tr>`)}</tbody>
  </table></div>`;
}

/** How the kept run of each seed converged. */
function Iterations({ base, facts }) {
  const { data } = useData((signal) => get(`${base}/iterations`, {}, { signal }).catch((error) => (error.status === 404 ? null : Promise.reject(error))), [base]);
  if (!data?.iterations?.length) return null;
  const lines = new Map();
  for (const each of data.iterations) {
    const name = `seed ${each.seed}`;
    if (!lines.has(name)) lines.set(name, []);
    lines.get(name).push({ x: each.iteration, y: each.loss ?? each.inertia });
  }
  const measure = data.iterations[0].loss == null ? 'Inertia' : 'Loss';
  return html`<section class="card"><h2 class="first">Iterations</h2>
    <p class="quiet">${measure === 'Loss' ? `One head per seed. The kept one ${facts.converged ? 'stopped early, its groups being settled,' : 'was trained to the end,'} after ${plural(facts.iterations, 'step')}.` : `The best of ${plural(facts.restarts || 1, 'run')} per seed. ${facts.converged ? 'The kept run converged' : 'The kept run did not converge: allow more iterations'} after ${plural(facts.iterations, 'iteration')}.`}</p>
    <${Chart} lines=${[...lines].map(([name, points]) => ({ name, points }))} xName="iteration" yName=${measure} label=${`${measure} by iteration`} />
  </section>`;
}

function Run({ facts }) {
  const head = facts.heads?.[facts.best_seed];
  const models = 1 + (facts.spec.spaces?.length || 0);
  const method = head && [facts.spec.method.toUpperCase(), head.entropy && `entropy ${head.entropy}`, head.beta && `beta ${head.beta}`].filter(Boolean).join(', ');
  const rows = [
    ['Method', method], ['Models', models > 1 ? number(models) : null], ['Nearest images in one group', head?.neighbour_agreement ? `${fixed(head.neighbour_agreement)} beyond chance` : null],
    ['Engine', `${facts.engine}: ${facts.engine_reason}`], ['Rows fitted on', number(facts.rows_trained_on)], ['Dimensions', facts.dim === facts.dim_clustered ? number(facts.dim) : `${number(facts.dim_clustered)} of ${number(facts.dim)}`],
    ['Start', facts.init], ['Restarts', number(facts.restarts)], ['Time', duration(Object.values(facts.timings_s || {}).reduce((sum, each) => sum + each, 0))],
    ['Memory', facts.peak_rss_bytes ? bytes(facts.peak_rss_bytes) : null], ['Version', facts.version],
  ].filter(([, value]) => value);
  return html`<section class="card"><h2 class="first">How it was made</h2><dl class="facts">${rows.map(([name, value]) => html`<div><dt>${name}</dt><dd><bdi>${value}</bdi></dd></div>`)}</dl>
    <details class="inner"><summary>Request</summary><pre><code>${JSON.stringify(facts.spec, null, 2)}</code></pre></details></section>`;
}
