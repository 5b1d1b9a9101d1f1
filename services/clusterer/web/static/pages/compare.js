/** Compare: how images flow from the groups of one clustering to those of another; which were split and merged. */
import { useSetNames } from '../analyses.js';
import { get } from '../api.js';
import { crumbsOf, wordOf } from '../groups.js';
import { Dialog, Figure, Loading, Page, Problem, Select, Tabs, Text, Thumb, fixed, navigate, number, percent, plural, useData, useQuery } from '../ui.js';
import { html, useEffect, useMemo, useRef, useState } from '../vendor/preact.js';

const FLOWS = 60;
const LIMIT = 1000;
const PAGE = 200;
/** Width of the chart and of the names at its sides, and the longest name there, in a wide and a narrow window. */
const WIDE = { width: 1000, side: 235, longest: 21 };
const NARROW = { width: 430, side: 128, longest: 10 };
const GAP = 5;
const LEAST = 2;

const clustering = (id) => `/clusterings/${encodeURIComponent(id)}`;

async function read(a, b, signal) {
  const [found, namesA, namesB, list] = await Promise.all([
    get(`${clustering(a)}/compare/${encodeURIComponent(b)}`, { limit: LIMIT }, { signal }),
    get(`${clustering(a)}/names`, {}, { signal }),
    get(`${clustering(b)}/names`, {}, { signal }),
    get('/clusterings', {}, { signal }),
  ]);
  return { found, names: [namesA, namesB], list: list.clusterings.filter((each) => !each.damaged) };
}

export default function Compare({ params }) {
  const { a, b } = params;
  const nameOf = useSetNames();
  const { data, error, loading, reload } = useData((signal) => read(a, b, signal), [a, b]);
  const [query, change] = useQuery();
  const crumbs = crumbsOf(a, data?.list.find((each) => each.id === a));
  if (error) return html`<${Page} title="Compare" crumbs=${crumbs}><${Problem} error=${error} retry=${reload} /></${Page}>`;
  if (!data) return html`<${Page} title="Compare" crumbs=${crumbs}><${Loading} what="Comparing" /></${Page}>`;
  const { found, list } = data;
  const naming = namesOf(data);
  const option = (each) => [each.id, `${nameOf(each.train)} · ${plural(each.k, 'group')} · ${each.id.slice(-6)}`];
  const options = list.map(option);
  const go = (left, right) => navigate(`/ui/compare/${left}/${right}`);
  return html`<${Page}
    title="Compare groups"
    crumbs=${crumbs}
    lead=${`${plural(found.rows, 'image')} that both have grouped${found.matched_by === 'image_id' ? ', matched by their paths' : ''}.`}
    actions=${html`<${Select} label="From" value=${a} options=${options} onChange=${(to) => go(to, b)} />
      <${Select} label="to" value=${b} options=${options} onChange=${(to) => go(a, to)} />
      <button onClick=${() => go(b, a)}>Swap</button>`}
  >
    <${Figures} found=${found} />
    <h2>Where the images go</h2>
    <div class=${loading ? 'is-stale' : ''}><${Flows} key=${`${a}/${b}`} found=${found} naming=${naming} open=${query.flow} onOpen=${(flow) => change({ flow })} /></div>
    <${Changed} found=${found} naming=${naming} a=${a} b=${b} />
    ${query.flow && html`<${Images} a=${a} b=${b} flow=${query.flow} naming=${naming} onClose=${() => change({ flow: null })} />`}
  </${Page}>`;
}

/** `naming(side, cluster)`: a name as people gave it, else the label that the group mostly has, else its number. */
function namesOf({ found, names }) {
  const labels = [new Map(), new Map()];
  for (const each of found.clusters) {
    labels[0].set(each.cluster, each.label);
    labels[1].set(each.best, each.best_label);
  }
  for (const [side, parted] of [[0, found.split], [1, found.merged]]) {
    for (const each of parted.clusters) {
      labels[side].set(each.cluster, each.label);
      for (const part of each.parts) labels[1 - side].set(part.cluster, part.label);
    }
  }
  return (side, cluster) => names[side][cluster]?.name || labels[side].get(cluster) || wordOf(cluster).toLowerCase();
}

function Figures({ found }) {
  const { ari, ami, a, b } = found;
  const words = found.same ? 'Both group the images in the same way.' : ari > 0.8 ? 'Mostly the same groups.' : ari > 0.5 ? 'Many groups agree, others were cut differently.' : ari > 0.15 ? 'They agree in part.' : 'They hardly agree more than chance would.';
  return html`<div class="figures-row">
    <${Figure} name="Adjusted Rand index" value=${fixed(ari)} chance="0">${words} The same grouping has 1.</${Figure}>
    <${Figure} name="Adjusted mutual information" value=${fixed(ami)} chance="0">How much one grouping tells about the other.</${Figure}>
    <${Figure} name="Groups kept" value=${`${number(a.kept)} of ${number(a.filled)}`}>With a counterpart that shares at least ${percent(found.limits.kept)} (Jaccard).</${Figure}>
    <${Figure} name="Groups dissolved" value=${`${number(a.dissolved)} → ${number(b.dissolved)} new`}>Without a counterpart above ${percent(found.limits.dissolved)}.</${Figure}>
  </div>`;
}

// ------------------------------------------------------------------------------------------------ the band chart

/** Places of groups and bands, by rows: groups of `b` stand at the mean height of what flows into them. */
export function layout(cells, total) {
  const sides = [new Map(), new Map()];
  for (const { a, b, rows } of cells) {
    sides[0].set(a, (sides[0].get(a) || 0) + rows);
    sides[1].set(b, (sides[1].get(b) || 0) + rows);
  }
  const groups = Math.max(sides[0].size, sides[1].size);
  const high = Math.max(220, Math.min(1600, groups * 27));
  const scale = (high - GAP * (groups - 1)) / Math.max(1, total);
  const place = (order, sizes) => {
    let y = 0;
    return new Map(order.map((group) => {
      const height = Math.max(LEAST, sizes.get(group) * scale);
      const box = { y, height, filled: 0, rows: sizes.get(group) };
      y += height + GAP;
      return [group, box];
    }));
  };
  const left = place([...sides[0].keys()].sort((x, y) => sides[0].get(y) - sides[0].get(x) || x - y), sides[0]);
  const pull = new Map();
  for (const { a, b, rows } of cells) pull.set(b, (pull.get(b) || 0) + rows * (left.get(a).y + left.get(a).height / 2));
  const right = place([...sides[1].keys()].sort((x, y) => pull.get(x) / sides[1].get(x) - pull.get(y) / sides[1].get(y) || x - y), sides[1]);
  const byHeight = [...cells].sort((x, y) => left.get(x.a).y - left.get(y.a).y || right.get(x.b).y - right.get(y.b).y);
  const bands = byHeight.map((cell) => {
    const [from, to] = [left.get(cell.a), right.get(cell.b)];
    const width = Math.max(1, cell.rows * scale);
    const band = { ...cell, from: from.y + from.filled, width };
    from.filled += width;
    return { ...band, to: to };
  });
  // Bands arrive in the order of where they come from, so that they do not cross within a group.
  for (const band of bands) {
    const box = band.to;
    band.to = box.y + box.filled;
    box.filled += band.width;
  }
  const end = (boxes) => Math.max(0, ...[...boxes.values()].map((box) => box.y + box.height));
  return { left, right, bands, height: Math.ceil(Math.max(end(left), end(right))) };
}

function Flows({ found, naming, onOpen }) {
  const cells = found.cells.slice(0, FLOWS);
  const shown = cells.reduce((sum, cell) => sum + cell.rows, 0);
  const { left, right, bands, height } = useMemo(() => layout(cells, shown), [found]);
  const [active, setActive] = useState(0);
  const place = useRef(null);
  const { width: wide, side: margin, longest } = innerWidth < 700 ? NARROW : WIDE;
  const keys = (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    const next = step ? (active + step + bands.length) % bands.length : { Home: 0, End: bands.length - 1 }[event.key];
    if (next !== undefined) {
      event.preventDefault();
      setActive(next);
      place.current.querySelector(`[data-band="${next}"]`)?.focus();
    } else if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      onOpen(`${bands[active].a}-${bands[active].b}`);
    }
  };
  const path = ({ from, to, width }) => {
    const [x1, x2, mid] = [margin, wide - margin, wide / 2];
    return `M${x1},${from}C${mid},${from} ${mid},${to} ${x2},${to}V${to + width}C${mid},${to + width} ${mid},${from + width} ${x1},${from + width}Z`;
  };
  return html`<figure class="flows">
    <svg ref=${place} viewBox=${`0 -4 ${wide} ${height + 8}`} role="group" aria-label="Flows of images between groups. Arrow keys move, Enter shows the images." onKeyDown=${keys}>
      ${bands.map((band, at) => {
        const words = `${plural(band.rows, 'image')} from ${naming(0, band.a)} (${band.a}) to ${naming(1, band.b)} (${band.b})`;
        return html`<path key=${`${band.a}-${band.b}`} data-band=${at} class=${`flow tone-${band.a % 8}`} d=${path(band)} role="button" tabindex=${at === active ? 0 : -1} aria-label=${words}
          onClick=${() => onOpen(`${band.a}-${band.b}`)} onFocus=${() => setActive(at)}><title>${words}</title></path>`;
      })}
      <${Boxes} boxes=${left} side=${0} x=${margin - 8} longest=${longest} naming=${naming} />
      <${Boxes} boxes=${right} side=${1} x=${wide - margin} longest=${longest} naming=${naming} />
    </svg>
    <figcaption class="quiet">${found.total_cells > cells.length
      ? `The ${cells.length} largest of ${number(found.total_cells)} flows, ${percent(shown / found.rows)} of the images. The other ${number(found.total_cells - cells.length)} flows are smaller.`
      : `All ${number(found.total_cells)} flows.`} A flow shows its images.</figcaption>
  </figure>`;
}

function Boxes({ boxes, side, x, longest, naming }) {
  return html`<g aria-hidden="true">${[...boxes].map(([group, { y, height, rows }]) => {
    const name = naming(side, group);
    const text = name.length > longest ? `${name.slice(0, longest - 1)}…` : name;
    return html`<g key=${group}><rect class=${side ? 'box' : `box tone-${group % 8}`} x=${x} y=${y} width="8" height=${height} rx="2" />
      ${height >= 11 && html`<text x=${side ? x + 16 : x - 8} y=${y + height / 2} text-anchor=${side ? 'start' : 'end'} dominant-baseline="central">${side ? '' : `${number(rows)}  `}<tspan class="name">⁨${text}⁩</tspan>${side ? `  ${number(rows)}` : ''}<title>${name}</title></text>`}</g>`;
  })}</g>`;
}

// ----------------------------------------------------------------------------------------------- lists, images

function Changed({ found, naming, a, b }) {
  const lists = [['split', `Split`, found.split], ['merged', 'Merged', found.merged]].filter(([, , each]) => each.total);
  const [tab, setTab] = useState(lists[0]?.[0]);
  if (!lists.length) return null;
  const side = tab === 'merged' ? 1 : 0;
  const { total, clusters } = lists.find(([name]) => name === tab)[2];
  const ids = [a, b];
  const link = (which, cluster) => html`<a href=${`/ui/clusterings/${ids[which]}/clusters/${cluster}`}><${Text} value=${naming(which, cluster)} /></a> <span class="quiet number">${cluster}</span>`;
  return html`<section>
    <h2>What changed</h2>
    <${Tabs} label="What changed" value=${tab} tabs=${lists.map(([name, text, each]) => [name, text, number(each.total)])} onChange=${setTab} />
    <div class="scroll" tabindex="0" role="region" aria-label="Groups"><table>
      <thead><tr><th>${side ? 'New group' : 'Group'}</th><th class="n">Images</th><th>${side ? 'Made of' : 'Went to'}</th></tr></thead>
      <tbody>${clusters.slice(0, 100).map((each) => html`<tr key=${each.cluster}><th scope="row">${link(side, each.cluster)}</th><td class="n">${number(each.size)}</td>
        <td><span class="parts">${each.parts.map((part) => html`<span>${link(1 - side, part.cluster)} <span class="quiet number">${percent(part.share)}</span></span>`)}</span></td></tr>`)}</tbody>
    </table></div>
    ${total > 100 && html`<p class="quiet">The 100 that changed most of ${number(total)}.</p>`}
  </section>`;
}

/** The images of one flow, read page by page as they come into sight. */
function Images({ a, b, flow, naming, onClose }) {
  const [from, to] = flow.split('-').map(Number);
  const [rows, setRows] = useState([]);
  const [total, setTotal] = useState(null);
  const [error, setError] = useState(null);
  const path = `${clustering(a)}/compare/${encodeURIComponent(b)}/rows`;
  const more = async (signal) => {
    try {
      const page = await get(path, { a: from, b: to, limit: PAGE, cursor: rows.length ? String(rows.length) : undefined }, { signal });
      setRows((now) => [...now, ...page.rows]);
      setTotal(page.total);
    } catch (problem) {
      if (problem.name !== 'AbortError') setError(problem);
    }
  };
  useEffect(() => {
    const control = new AbortController();
    more(control.signal);
    return () => control.abort();
  }, [flow]);
  return html`<${Dialog} wide title=${html`<bdi>${naming(0, from)}</bdi> → <bdi>${naming(1, to)}</bdi>`} onClose=${onClose}>
    <${Problem} error=${error} />
    ${total === null && !error && html`<${Loading} />`}
    ${total !== null && html`<p class="quiet">${plural(total, 'image')} in group ${from} of the first and ${to} of the second grouping.${' '}
      <a href=${`/ui/clusterings/${a}/clusters/${from}`}>Open ${from}</a> · <a href=${`/ui/clusterings/${b}/clusters/${to}`}>Open ${to}</a></p>`}
    <div class="flow-images">${rows.map((row) => html`<a key=${`${row.embeddings}/${row.row}`} href=${`/ui/search?embeddings=${encodeURIComponent(row.embeddings)}&row=${row.row}`} aria-label=${`Similar to ${row.image_path || row.row}`}><${Thumb} embeddings=${row.embeddings} row=${row.row} path=${row.image_path} /></a>`)}</div>
    ${total > rows.length && rows.length > 0 && html`<div class="actions end"><button onClick=${() => more()}>Show ${number(Math.min(PAGE, total - rows.length))} more</button></div>`}
  </${Dialog}>`;
}
