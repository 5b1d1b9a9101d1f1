/** What is selected on the map: how many, in which clusters, what they look like, and what can be done with them. */
import { may } from '../api.js';
import { number, plural } from '../format.js';
import { groupPath, isNoise, pagePath } from '../groups.js';
import { Thumb, toast } from '../ui.js';
import { html, useMemo, useState } from '../vendor/preact.js';
import { groupName, saveRows } from './data.js';

const [PICTURES, CLUSTERS, MOST_LINKED, MOST_MOVED] = [24, 6, 200, 10_000];

/** Clusters of points with how many of the points are in each, most first. */
export function clustersOf(points, clusters) {
  const counts = new Map();
  for (const point of points) {
    const value = clusters.values[point];
    counts.set(value, (counts.get(value) || 0) + 1);
  }
  return [...counts]
    .filter(([value]) => value < clusters.legend.length)
    .map(([value, count]) => ({ ...clusters.legend[value], text: groupName('cluster', clusters.legend[value]), count, value }))
    .sort((a, b) => b.count - a.count || a.cluster - b.cluster);
}

/** Rows of points; points ascend, and so do rows. */
export const rowsOf = (points, map) => (map.rows ? points.map((point) => map.rows[point]) : points);

export function Selection({ clustering, map, points, clusters, journal, onClear, onFit }) {
  const touched = useMemo(() => clustersOf(points, clusters), [points, clusters]);
  const [busy, setBusy] = useState('');
  const rows = rowsOf(points, map);
  const work = async (what, run) => {
    setBusy(what);
    try {
      await run();
    } catch (error) {
      toast(error.message, { kind: 'error' });
    }
    setBusy('');
  };
  const save = (format) => work(format, () => saveRows(clustering, map.embeddings, rows, format));
  const wall = touched.slice(0, MOST_LINKED).map(({ cluster }) => cluster).join(',');
  const every = Math.max(1, Math.floor(points.length / PICTURES));
  const shown = [...rows].filter((_, at) => at % every === 0).slice(0, PICTURES);
  return html`<section class="selection" aria-label="Selection">
    <div class="row spread">
      <h2>${plural(points.length, 'image')} selected</h2>
      <button class="plain" onClick=${onClear}>Clear</button>
    </div>
    <p class="quiet">In ${plural(touched.length, 'group')}:</p>
    <ul class="touched">
      ${touched.slice(0, CLUSTERS).map(
        (each) => html`<li key=${each.cluster}><a class="cut" href=${groupPath(clustering, each.cluster)}><bdi>${each.text}</bdi></a>
          <span class="quiet number">${number(each.count)} of ${number(clusters.legend[each.value].count)}</span></li>`,
      )}
      ${touched.length > CLUSTERS && html`<li class="quiet">and ${number(touched.length - CLUSTERS)} more</li>`}
    </ul>
    <div class="pictures">
      ${shown.map((row) => html`<a key=${row} href=${`/ui/search?embeddings=${encodeURIComponent(map.embeddings)}&row=${row}`} aria-label=${`Images like row ${row}`}>
        <${Thumb} embeddings=${map.embeddings} row=${row} kind="cover" alt="" /></a>`)}
    </div>
    <div class="row">
      <button onClick=${onFit}>Zoom to it</button>
      <a class="button" href=${pagePath(clustering, '', { clusters: wall })}>Show on the wall</a>
      <button disabled=${busy} onClick=${() => save('csv')}>${busy === 'csv' ? 'Saving…' : 'Save CSV'}</button>
      <button disabled=${busy} onClick=${() => save('jsonl')}>${busy === 'jsonl' ? 'Saving…' : 'Save JSONL'}</button>
    </div>
    ${may('submit') && html`<${Move} ...${{ map, rows, clusters, journal, busy, work }} />`}
  </section>`;
}

function Move({ map, rows, clusters, journal, busy, work }) {
  const [target, setTarget] = useState('');
  const choices = useMemo(
    () => clusters.legend.filter((entry) => !isNoise(entry.cluster)).map((entry) => ({ cluster: entry.cluster, text: groupName('cluster', entry) })),
    [clusters],
  );
  const chosen = choices.find(({ cluster, text }) => String(cluster) === target.trim() || text === target.trim());
  const many = rows.length > MOST_MOVED;
  const move = (event) => {
    event.preventDefault();
    work('move', () => journal.move(map.embeddings, [...rows], chosen.cluster, `Moved ${plural(rows.length, 'image')} to ${chosen.text}.`));
  };
  return html`<form class="move" onSubmit=${move}>
    <label for="move-to">Move to the group</label>
    <div class="row">
      <input id="move-to" list="move-choices" autocomplete="off" placeholder="Number or name" value=${target} disabled=${many}
        onInput=${(event) => setTarget(event.target.value)} />
      <datalist id="move-choices">
        ${choices.slice(0, 500).map(({ cluster, text }) => html`<option key=${cluster} value=${cluster}>${text}</option>`)}
      </datalist>
      <button disabled=${!chosen || many || busy}>${busy === 'move' ? 'Moving…' : 'Move'}</button>
    </div>
    ${many && html`<p class="hint quiet">At most ${number(MOST_MOVED)} images are moved at once: select fewer.</p>`}
    ${target.trim() && !chosen && html`<p class="hint quiet">No group is called so.</p>`}
  </form>`;
}
