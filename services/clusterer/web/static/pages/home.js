/** Home: groups with their covers, sets of images, sweeps, and what runs now; the first steps where there is nothing yet. */
import { extractor, get, may } from '../api.js';
import { JobProgress, JobName, JobState, CancelJob, ended, setName, useJobs } from '../jobs.js';
import { Chip, Drop, Loading, Page, Problem, Text, Thumb, ago, fixed, number, plural, useData } from '../ui.js';
import { html, useEffect, useRef, useState } from '../vendor/preact.js';
import { JobItem } from './jobs.js';
import { handOver } from '../upload.js';

const AT_FIRST = 12;
const COVERS = 8;

export default function Home() {
  const data = useData(async (signal) => {
    const [sets, clusterings, sweeps] = await Promise.all([
      get(extractor('/embeddings'), {}, { signal }),
      get('/clusterings', {}, { signal }),
      get('/sweeps', {}, { signal }),
    ]);
    return { sets: sets.embeddings, clusterings: clusterings.clusterings, sweeps: sweeps.sweeps };
  }, []);
  const { jobs, set } = useJobs({ limit: 20 });
  useEffect(() => {
    addEventListener('shoal:job-ended', data.reload);
    return () => removeEventListener('shoal:job-ended', data.reload);
  }, [data.reload]);
  const running = (jobs || []).filter((job) => !ended(job));
  const found = data.data;
  if (!found) {
    return html`<${Page} title="Groups"><${Problem} error=${data.error} retry=${data.reload} />${data.loading && html`<${Loading} what="Reading the store" />`}</${Page}>`;
  }
  const empty = !found.sets.length && !found.clusterings.length && !running.length;
  if (empty) return html`<${First} jobs=${jobs} />`;
  const names = new Map(found.sets.map((each) => [each.id, each]));
  return html`<${Page} title="Groups"
    actions=${may('submit') && html`<a class="button" href="/ui/new?from=set">Make groups</a><a class="button primary" href="/ui/new">Add images</a>`}>
    <${Problem} error=${data.error} retry=${data.reload} />
    <${Running} jobs=${running} onJob=${set} />
    <${Clusterings} clusterings=${found.clusterings} sets=${names} />
    <${Sets} sets=${found.sets} clusterings=${found.clusterings} />
    <${Sweeps} sweeps=${found.sweeps} sets=${names} />
    <${Recent} jobs=${jobs} />
  </${Page}>`;
}

function Running({ jobs, onJob }) {
  if (!jobs.length) return null;
  return html`<section aria-label="Running now"><h2 class="first">Running now</h2><ul class="job-list">
    ${jobs.slice(0, 6).map((job) => html`<li class="job card" key=${job.id}>
      <div class="row spread"><div class="job-title"><a href=${`/ui/jobs/${encodeURIComponent(job.id)}`}><${JobName} job=${job} /></a> <${JobState} job=${job} /></div><${CancelJob} job=${job} onJob=${onJob} /></div>
      <${JobProgress} job=${job} />
    </li>`)}
  </ul>${jobs.length > 6 && html`<p><a href="/ui/jobs">${`All ${number(jobs.length)} unfinished jobs`}</a></p>`}</section>`;
}

function Clusterings({ clusterings, sets }) {
  const [all, setAll] = useState(false);
  if (!clusterings.length) {
    return html`<section><h2>Groups</h2><p class="quiet">No groups yet. ${may('submit') && html`<a href="/ui/new?from=set">Make groups of a set</a>`}</p></section>`;
  }
  const shown = all ? clusterings : clusterings.slice(0, AT_FIRST);
  return html`<section aria-label="Groups"><h2 class="hidden">Newest groups</h2>
    <div class="cards wide-cards">${shown.map((each) => html`<${ClusteringCard} key=${each.id} clustering=${each} set=${sets.get(each.train)} />`)}</div>
    ${clusterings.length > shown.length && html`<p class="more"><button onClick=${() => setAll(true)}>${`Show all ${number(clusterings.length)}`}</button></p>`}
  </section>`;
}

function ClusteringCard({ clustering, set }) {
  const { id, damaged, problem, k, n, metrics, train } = clustering;
  const path = `/ui/clusterings/${encodeURIComponent(id)}`;
  if (damaged) {
    return html`<article class="card tile"><h3><${Text} value=${id} /></h3><p><${Chip} kind="bad">damaged</${Chip}> <bdi>${problem?.detail || problem}</bdi></p></article>`;
  }
  const labelled = typeof metrics.ari === 'number';
  return html`<article class="card tile">
    <a class="tile-link" href=${path} aria-label=${`${plural(k, 'group')} of ${set ? setName(set) : train}`}><${Cover} clustering=${clustering} /></a>
    <div class="tile-words">
      <h3><a href=${path}>${plural(k, 'group')} of <${Text} value=${set ? setName(set) : train} /></a></h3>
      <p class="quiet">${plural(n, 'image')} · <${Text} value=${set?.model?.name || train} /> · ${ago(clustering.finished_at)}</p>
      <p class="number">${labelled
        ? html`Agreement with labels <strong>${fixed(metrics.ari, 2)}</strong> <span class="quiet" title="Adjusted Rand index; 1 is perfect">· chance 0</span>`
        : html`Separation <strong>${fixed(metrics.silhouette, 2)}</strong> <span class="quiet">(silhouette, −1 to 1)</span>`}</p>
    </div>
  </article>`;
}

/** Wait until an element comes near the window, then load. */
function useNear(load, deps) {
  const place = useRef(null);
  const [data, setData] = useState(null);
  useEffect(() => {
    let gone = false;
    const watch = new IntersectionObserver(async (entries) => {
      if (!entries.some((each) => each.isIntersecting)) return;
      watch.disconnect();
      try {
        const found = await load();
        if (!gone) setData(found);
      } catch {
        // A cover is an ornament: the card says what there is to say.
      }
    }, { rootMargin: '300px' });
    watch.observe(place.current);
    return () => {
      gone = true;
      watch.disconnect();
    };
  }, deps);
  return [place, data];
}

/** The nearest images of the largest groups: one of each, or several where the groups are few. */
function Cover({ clustering }) {
  const { id, k, train, scored } = clustering;
  const [place, rows] = useNear(async () => {
    const each = Math.ceil(COVERS / Math.min(k, COVERS));
    const found = await get(`/clusterings/${encodeURIComponent(id)}/clusters`, { limit: COVERS, covers: each });
    return found.clusters.flatMap(({ covers }) => covers).slice(0, COVERS);
  }, [id]);
  return html`<div class="tile-cover" ref=${place}>${rows?.map((row) => html`<${Thumb} embeddings=${scored[0] || train} row=${row} alt="" kind="cover" />`)}</div>`;
}

function Sets({ sets, clusterings }) {
  const [all, setAll] = useState(false);
  if (!sets.length) return null;
  const newest = [...sets].sort((a, b) => String(b.finished_at || '~').localeCompare(String(a.finished_at || '~')));
  const shown = all ? newest : newest.slice(0, AT_FIRST);
  const made = (id) => clusterings.filter((each) => each.train === id).length;
  return html`<section><h2>Sets of images</h2><div class="cards">
    ${shown.map((each) => html`<${SetCard} key=${each.id} set=${each} groups=${made(each.id)} />`)}
  </div>${sets.length > shown.length && html`<p class="more"><button onClick=${() => setAll(true)}>${`Show all ${number(sets.length)}`}</button></p>`}</section>`;
}

function SetCard({ set, groups }) {
  const path = `/ui/embeddings/${encodeURIComponent(set.id)}`;
  if (set.damaged) {
    return html`<article class="card tile"><div class="tile-words"><h3><a href=${path}><${Text} value=${set.id} /></a></h3><p><${Chip} kind="bad">damaged</${Chip}> <bdi>${set.problem?.detail || set.problem}</bdi></p></div></article>`;
  }
  const rows = set.thumbnails && set.rows ? evenly(set.rows, 6) : [];
  return html`<article class="card tile">
    ${rows.length > 0 && html`<a class="tile-link" href=${path} aria-hidden="true" tabindex="-1"><div class="tile-cover one-line">${rows.map((row) => html`<${Thumb} embeddings=${set.id} row=${row} alt="" kind="cover" />`)}</div></a>`}
    <div class="tile-words">
      <h3><a href=${path}><${Text} value=${setName(set)} /></a> ${!set.complete && html`<${Chip} kind="warn">not finished</${Chip}>`}</h3>
      <p class="quiet">${plural(set.rows, 'image')}${set.failed ? ` · ${number(set.failed)} failed` : ''}${set.classes ? ` · ${plural(set.classes, 'label')}` : ''} · <${Text} value=${set.model.name} /></p>
      <p class="row">${groups ? html`<span class="quiet">grouped ${groups === 1 ? 'once' : `${number(groups)} times`}</span>` : may('submit') && set.complete && html`<a href=${`/ui/new?set=${encodeURIComponent(set.id)}`}>Make groups</a>`}</p>
    </div>
  </article>`;
}

/** `count` numbers from 0 to `total`, evenly spread: a sorted set shows all its folders. */
export function evenly(total, count) {
  const most = Math.min(total, count);
  return Array.from({ length: most }, (_, i) => Math.floor(((i + 0.5) * total) / most));
}

/** A list of settings in few words. */
const many = (values) => {
  const all = [values].flat();
  return all.length > 6 ? `${number(all[0])} to ${number(all.at(-1))}` : all.map(number).join(', ');
};

function Sweeps({ sweeps, sets }) {
  if (!sweeps.length) return null;
  return html`<section><h2>Sweeps</h2><div class="scroll"><table>
    <thead><tr><th>Set</th><th>Groups</th><th class="n">Points</th><th>Finished</th></tr></thead>
    <tbody>${sweeps.slice(0, AT_FIRST).map((each) => {
      const path = `/ui/sweeps/${encodeURIComponent(each.id)}`;
      if (each.damaged) return html`<tr key=${each.id}><th><a href=${path}><${Text} value=${each.id} /></a></th><td colspan="3"><${Chip} kind="bad">damaged</${Chip}></td></tr>`;
      const ids = [each.request.embeddings].flat().map((one) => one.train || one);
      const { total, finished } = each.points;
      return html`<tr key=${each.id}>
        <th><a href=${path}><${Text} value=${ids.map((id) => (sets.has(id) ? setName(sets.get(id)) : id)).join(', ')} /></a></th>
        <td>${many(each.request.clusters ?? each.request.over)}</td>
        <td class="n">${each.complete ? number(total) : `${number(finished)} of ${number(total)}`}</td>
        <td>${each.finished_at ? ago(each.finished_at) : html`<${Chip} kind="warn">not finished</${Chip}>`}</td>
      </tr>`;
    })}</tbody></table></div></section>`;
}

function Recent({ jobs }) {
  const done = (jobs || []).filter(ended).slice(0, 4);
  if (!done.length) return null;
  return html`<section><div class="row spread"><h2>Latest jobs</h2><a href="/ui/jobs">All jobs</a></div>
    <ul class="job-list">${done.map((job) => html`<${JobItem} key=${job.id} job=${job} />`)}</ul></section>`;
}

/** Nothing is here yet: how images get in, in plain words. */
function First({ jobs }) {
  const changes = may('submit');
  const take = (files, transfer) => handOver(files, transfer);
  return html`<${Page} title="Welcome to Shoal" lead="Shoal sorts your images into groups of what looks alike, without labels, and says how good the groups are.">
    <div class="stack first-run">
      ${changes
        ? html`<${Drop} folder onFiles=${take}><p class="drop-title"><strong>Drop images or a folder here</strong></p><p class="quiet">Or a .zip or .tar of them. They stay on the machine that runs Shoal.</p></${Drop}>
          <div class="cards">
            <section class="card"><h3>They lie on the server?</h3><p class="quiet">Pick their folder. Shoal reads it where it is and changes nothing.</p><a class="button" href="/ui/new?from=folder">Pick a folder</a></section>
            <section class="card"><h3>In a terminal</h3><p class="quiet">One command embeds a folder, groups it and writes a report.</p><pre><code>shoal run photos -k auto</code></pre></section>
            <section class="card"><h3>Only looking?</h3><p class="quiet">Two hundred example images, downloaded and grouped.</p><pre><code>shoal demo</code></pre></section>
          </div>`
        : html`<p>The store is empty. This key may only read: somebody with scope <code>submit</code> adds images.</p>`}
      <${Recent} jobs=${jobs} />
    </div>
  </${Page}>`;
}
