/** A set of images: its facts, its images, what could not be read and why, and what was made of it. */
import { extractor, get, may } from '../api.js';
import { Chip, Empty, Loading, Menu, Page, Problem, Tabs, Text, Thumb, VirtualGrid, ago, fixed, navigate, number, plural, useData, useQuery } from '../ui.js';
import { html, useRef, useState } from '../vendor/preact.js';
import { setName } from '../jobs.js';
import { Delete } from './sweep.js';

const PAGE = 200;

export default function Embeddings({ params }) {
  const { id } = params;
  const path = extractor(`/embeddings/${encodeURIComponent(id)}`);
  const [query, setQuery] = useQuery();
  const { data: set, error, loading, reload } = useData((signal) => get(path, {}, { signal }), [id]);
  const made = useData((signal) => get('/clusterings', {}, { signal }), [id]);
  if (!set) {
    return html`<${Page} title="Set of images" crumbs=${[['Groups', '/']]}><${Problem} error=${error} retry=${reload} />${loading && html`<${Loading} what="Reading the set" />`}
      ${error && error.status !== 404 && html`<${Delete} path=${path} name="set" />`}</${Page}>`;
  }
  const groups = (made.data?.clusterings || []).filter((each) => each.train === id || each.scored?.includes(id));
  const tabs = [['images', 'Images', number(set.rows)], ['groups', 'Groups made of it', number(groups.length)], ...(set.failed ? [['failed', 'Could not be read', number(set.failed)]] : []), ['facts', 'Facts']];
  const tab = tabs.some(([each]) => each === query.tab) ? query.tab : 'images';
  const q = encodeURIComponent(id);
  const actions = html`
    ${may('submit') && set.complete && html`<a class="button primary" href=${`/ui/new?set=${q}`}>Make groups</a>
      <${Menu} label="More"><a href=${`/ui/duplicates?embeddings=${q}`}>Find duplicates<small>Copies, and images that look nearly the same</small></a><a href=${`/ui/quality?embeddings=${q}`}>Check the quality<small>Outliers, wrong labels, dark and blurry images</small></a><a href=${`/ui/new?set=${q}&kind=sweep`}>Try several settings<small>A sweep: a table and plots</small></a></${Menu}>`}
    <a class="button" href=${`/ui/search?embeddings=${q}`}>Search</a>
    <${Delete} path=${path} name="set" warning="The embeddings and thumbnails are deleted. Groups made of them stay, without pictures. The images themselves are not touched." />`;
  return html`<${Page} title=${setName(set)} crumbs=${[['Groups', '/']]} actions=${actions}
    lead=${html`${plural(set.rows, 'image')}${set.classes ? ` · ${plural(set.classes, 'label')}` : ''} · <${Text} value=${set.model.name} /> · ${number(set.dim)} dimensions${set.finished_at ? ` · ${ago(set.finished_at)}` : ''}`}>
    ${!set.complete && html`<p><${Chip} kind="warn">not finished</${Chip}> ${`${number(set.shards.committed)} of ${number(set.shards.total)} shards are there. The same request continues it.`}</p>`}
    <${Tabs} label="About this set" value=${tab} tabs=${tabs} onChange=${(next) => setQuery({ tab: next === 'images' ? null : next })} />
    ${tab === 'images' && html`<${Images} set=${set} path=${path} />`}
    ${tab === 'groups' && html`<${Groups} groups=${groups} set=${set} loading=${made.loading} error=${made.error} />`}
    ${tab === 'failed' && html`<${Failed} path=${path} />`}
    ${tab === 'facts' && html`<${Facts} set=${set} />`}
  </${Page}>`;
}

/** Every image, in the order of the set; names and labels are read as they come into sight. */
function Images({ set, path }) {
  const [rows, setRows] = useState(() => new Map());
  const asked = useRef(new Set());
  const load = async (first, end) => {
    for (let page = Math.floor(first / PAGE); page * PAGE < end; page++) {
      if (asked.current.has(page)) continue;
      asked.current.add(page);
      try {
        const found = await get(`${path}/rows`, { limit: PAGE, cursor: page ? String(page * PAGE) : undefined });
        setRows((now) => new Map([...now, ...found.rows.map((row) => [row.row, row])]));
      } catch {
        asked.current.delete(page);
      }
    }
  };
  if (!set.rows) return html`<${Empty} title="No image yet"><p>Images appear here as soon as the first shard is committed.</p></${Empty}>`;
  const alike = (index) => `/ui/search?embeddings=${encodeURIComponent(set.id)}&row=${index}`;
  const open = (event, index) => event.key === 'Enter' && navigate(alike(index));
  const item = (index, props) => {
    const row = rows.get(index);
    const name = row?.image_path ?? `row ${index}`;
    return html`<div ...${props}><a class="picture" tabindex="-1" href=${alike(index)} title=${name} aria-label=${`Images like ${name}`}>
      <${Thumb} embeddings=${set.id} row=${index} path=${row?.image_path} />
      <span class="caption"><${Text} value=${row ? row.label ?? name.split('/').pop() : ''} /></span>
    </a></div>`;
  };
  return html`<${VirtualGrid} count=${set.rows} width=${112} height=${(wide) => wide + 22} label="Images of this set" item=${item} onRange=${load} onKey=${open} />`;
}

function Groups({ groups, set, loading, error }) {
  if (error) return html`<${Problem} error=${error} />`;
  if (!groups.length) {
    return loading ? html`<${Loading} />` : html`<${Empty} title="No groups yet">${may('submit') && set.complete && html`<a class="button primary" href=${`/ui/new?set=${encodeURIComponent(set.id)}`}>Make groups</a>`}</${Empty}>`;
  }
  return html`<div class="scroll"><table><thead><tr><th>Groups</th><th class="n">ARI (chance 0)</th><th class="n">Purity</th><th class="n">Silhouette</th><th>Made</th><th>Compare</th></tr></thead>
    <tbody>${groups.map((each, i) => html`<tr key=${each.id}>
      <th><a href=${`/ui/clusterings/${encodeURIComponent(each.id)}`}>${plural(each.k, 'group')}</a></th>
      <td class="n">${fixed(each.metrics.ari)}</td><td class="n">${fixed(each.metrics.purity)}</td><td class="n">${fixed(each.metrics.silhouette)}</td><td>${ago(each.finished_at)}</td>
      <td>${groups[i + 1] ? html`<a href=${`/ui/compare/${encodeURIComponent(each.id)}/${encodeURIComponent(groups[i + 1].id)}`}>with the ${plural(groups[i + 1].k, 'group')} below</a>` : ''}</td>
    </tr>`)}</tbody></table></div>`;
}

function Failed({ path }) {
  const [offset, setOffset] = useState(0);
  const { data, error, loading } = useData((signal) => get(`${path}/errors`, { offset, limit: 100 }, { signal }), [path, offset]);
  if (!data) return html`<${Problem} error=${error} />${loading && html`<${Loading} />`}`;
  const codes = [...new Set(data.errors.map((each) => each.code))];
  return html`<p class="quiet">${`${plural(data.total, 'image')} could not be read and ${data.total === 1 ? 'is' : 'are'} in no group. The rest went on without them.`}</p>
    <div class="scroll"><table><thead><tr><th>Image</th><th>Why</th>${codes.length > 1 && html`<th>Code</th>`}</tr></thead>
    <tbody>${data.errors.map((each) => html`<tr key=${each.image_id}><td><${Text} value=${each.image_path} /></td><td><bdi>${each.message}</bdi></td>${codes.length > 1 && html`<td><code>${each.code}</code></td>`}</tr>`)}</tbody></table></div>
    <p class="row more">${offset > 0 && html`<button onClick=${() => setOffset(Math.max(0, offset - 100))}>Back</button>`}${data.next_offset !== null && html`<button onClick=${() => setOffset(data.next_offset)}>Next</button>`}<span class="quiet">${`${number(offset + 1)} to ${number(offset + data.errors.length)} of ${number(data.total)}`}</span></p>`;
}

function Facts({ set }) {
  const { source, model, transform, engine, recognised } = set;
  const rows = [
    ['Id', set.id], ['Images', source.kind === 'images' ? source.path : source.kind], ['Labels', recognised?.message || (typeof source.labels === 'string' ? source.labels : '')],
    ['Model', model.name], ['Architecture', model.architecture], ['Weights', model.weights_file], ['SHA-256 of the weights', model.weights_sha256],
    ['Input', transform && `${transform.size} px, ${transform.interpolation}, crop ${transform.crop_fraction}`], ['Engine', engine && `${engine.name} in ${engine.numerics}. ${engine.reason || ''}`],
    ['Stored as', `${set.dtype}, ${number(set.dim)} dimensions, ${plural(set.shards.total, 'shard')}`],
  ].filter(([, value]) => value);
  return html`<dl class="card facts tall">${rows.map(([name, value]) => html`<div><dt>${name}</dt><dd><bdi>${value}</bdi></dd></div>`)}</dl>
    ${(set.not_taken || []).length > 0 && html`<h2>Files that were not taken</h2><ul>${set.not_taken.map((each) => html`<li><bdi>${each.message}</bdi></li>`)}</ul>`}`;
}
