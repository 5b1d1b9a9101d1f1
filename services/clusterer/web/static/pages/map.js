/** The map: every image a point, those that look alike near each other. Colours, selection, and names at their places. */
import { get } from '../api.js';
import { base, groupPath, isNoise, useJournal } from '../groups.js';
import { coloursOf, groupName, readPoints, readValues } from '../map/data.js';
import { Hovered } from '../map/hovered.js';
import { GroupLegend, ScaleLegend } from '../map/legend.js';
import { Scatter } from '../map/scatter.js';
import { Selection } from '../map/selection.js';
import { crumbsOf } from '../groups.js';
import { Views } from '../parts.js';
import { Empty, Loading, Page, Problem, Select, number, plural, useData, useQuery } from '../ui.js';
import { html, useEffect, useMemo, useRef, useState } from '../vendor/preact.js';

const KINDS = [
  ['cluster', 'Group'],
  ['label', 'Label'],
  ['margin', 'Borderline'],
  ['distance', 'Distance'],
  ['flag', 'Flag'],
];
const MEANS = {
  distance: 'How far an image is from the centre of its group: far ones fit it least.',
  margin: 'How much farther the next centre is: images near 0 lie on the border between two groups.',
};
const ALL_STEPS = [0, 254];
const HELP =
  'Arrow keys move the map, plus and minus zoom, 0 shows all. Shift and an arrow go to the next image. Enter selects the ' +
  'group of the image in the ring, A all images in view, L draws a lasso, Escape clears the selection.';
const MOST_LISTED = 200;

export default function MapPage({ params }) {
  const id = params.id;
  const [query, change] = useQuery();
  const facts = useData((signal) => get(base(id), {}, { signal }), [id]);
  const embeddings = query.embeddings || facts.data?.scored[0];
  const map = useData(async (signal) => (embeddings ? readPoints(id, embeddings, signal) : undefined), [id, embeddings]);
  const clusters = useData(
    async (signal) => (embeddings ? readValues(id, embeddings, 'cluster', signal) : undefined),
    [id, embeddings],
  );
  const error = facts.error || map.error || clusters.error;
  // Places of one set and values of another do not belong together.
  const ready = embeddings && [map, clusters].every((each) => each.data?.embeddings === embeddings);
  const sets = facts.data?.scored ?? [];
  return html`<${Page} title="Map" wide crumbs=${crumbsOf(id, facts.data)}
    lead=${ready && `${plural(map.data.count, 'image')} in ${plural(clusters.data.legend.filter((each) => !isNoise(each.cluster)).length, 'group')}: those that look alike lie near each other.`}
    actions=${html`${sets.length > 1 && html`<${Select} label="Set" value=${embeddings} options=${sets.map((each) => [each, each])}
      onChange=${(value) => change({ embeddings: value, clusters: null })} />`}<${Views} id=${id} at="map" />`}>
    ${error
      ? html`<${Missing} error=${error} id=${id} retry=${() => [facts, map, clusters].forEach((each) => each.reload())} />`
      : ready
        ? html`<${Atlas} key=${embeddings} id=${id} map=${map.data} clusters=${clusters.data} reload=${clusters.reload} query=${query} change=${change} />`
        : html`<${Loading} what="Loading the map" />`}
  </${Page}>`;
}

function Missing({ error, id, retry }) {
  if (error.status !== 404 || error.code === 'clustering_not_found') return html`<${Problem} error=${error} retry=${retry} />`;
  return html`<${Empty} title="These groups have no map">
    <p>${error.message}</p>
    <p><a href=${`/ui/clusterings/${id}`}>Look at the groups</a></p>
  </${Empty}>`;
}

/** What colours the points: its values, which of them are hidden, and the colours. */
function useColours(id, map, clusters, by) {
  const other = useData(
    async (signal) => (by === 'cluster' ? null : readValues(id, map.embeddings, by, signal)),
    [id, map.embeddings, by, clusters],
  );
  const [hidden, setHidden] = useState({});
  const [limits, setLimits] = useState(ALL_STEPS);
  const [dark, setDark] = useState(0);
  useEffect(() => {
    const scheme = window.matchMedia('(prefers-color-scheme: dark)');
    const changed = () => setDark((turn) => turn + 1);
    scheme.addEventListener('change', changed);
    return () => scheme.removeEventListener('change', changed);
  }, []);
  const read = by === 'cluster' ? clusters : other.data?.by === by ? other.data : null;
  const values = read ?? clusters;
  const off = useMemo(() => hidden[values.by] ?? new Set(), [hidden, values.by]);
  const colours = useMemo(() => {
    const outside = (value) => value < 255 && (value < limits[0] || value > limits[1]);
    return coloursOf(values, values.range ? outside : (value) => off.has(value));
  }, [values, off, limits, dark]);
  const hide = (next) => setHidden((now) => ({ ...now, [values.by]: next }));
  return { values, colours, off, hide, limits, setLimits, error: other.error, loading: !read && !other.error };
}

function Atlas({ id, map, clusters, reload, query, change }) {
  const by = KINDS.some(([kind]) => kind === query.by) ? query.by : 'cluster';
  const place = useRef(null);
  const scatter = useRef(null);
  const [kind, setKind] = useState('');
  const [at, setAt] = useState(null);
  const [selected, setSelected] = useState(null);
  const [lassoing, setLassoing] = useState(false);
  const [named, setNamed] = useState(true);
  const shown = useColours(id, map, clusters, by);
  const { values, colours } = shown;
  const namedBy = values.by === 'label' ? values : clusters;
  const journal = useJournal(id, reload);

  useEffect(() => {
    const made = new Scatter(place.current, {
      hover: (point, x, y) => setAt(point < 0 ? null : { point, x, y }),
      select: (points) => {
        setSelected(points.length ? points : null);
        setLassoing(false);
      },
      viewed: () => setAt(null),
    });
    made.setPoints(map.points, map.spans);
    scatter.current = made;
    setKind(made.kind);
    return () => made.destroy();
  }, [map]);
  useEffect(() => scatter.current.setValues(values.values, colours.bytes), [map, values]);
  useEffect(() => scatter.current.setColours(colours.bytes), [colours]);
  useEffect(() => {
    scatter.current.lassoing = lassoing;
  }, [lassoing]);
  useEffect(() => {
    const { by: kind, legend, values: groups } = namedBy;
    const texts = legend.map((entry) => onCanvas(groupName(kind, entry)));
    scatter.current.setNames(named ? { values: groups, texts } : null);
  }, [map, namedBy, named]);
  useEffect(() => {
    // A link may name clusters: they are selected and in view when the map opens.
    const wanted = new Set((query.clusters || '').split(',').filter(Boolean).map(Number));
    if (!wanted.size) return;
    const asked = clusters.legend.map((entry) => wanted.has(entry.cluster));
    const points = Uint32Array.from(rangeOf(map.count)).filter((point) => asked[clusters.values[point]]);
    scatter.current.setSelection(points);
    scatter.current.fitTo(points);
    setSelected(points.length ? points : null);
  }, [map]);

  const clear = () => {
    scatter.current.setSelection(null);
    setSelected(null);
    if (query.clusters) change({ clusters: null });
  };
  const keys = (event) => {
    if (event.target !== event.currentTarget || event.ctrlKey || event.metaKey || event.altKey) return;
    const does = {
      Enter: () => scatter.current.focused >= 0 && scatter.current.selectWhere(clusters.values, clusters.values[scatter.current.focused]),
      Escape: () => (lassoing ? setLassoing(false) : clear()),
      a: () => scatter.current.selectInView(),
      l: () => setLassoing((now) => !now),
    }[event.key];
    if (does) does();
    if (does || scatter.current.key(event)) event.preventDefault();
  };
  const size = [place.current?.clientWidth ?? 0, place.current?.clientHeight ?? 0];
  return html`<div class="atlas">
    <div class="sheet">
      <div class=${`plot${lassoing ? ' lassoing' : ''}`} ref=${place} tabindex="0" role="application" aria-roledescription="map"
        aria-label=${`Map of ${number(map.count)} images`} aria-describedby="map-help" data-kind=${kind} onKeyDown=${keys}
        onBlur=${() => scatter.current?.focus(-1)}></div>
      <div class="tools" role="toolbar" aria-label="Map">
        <button aria-pressed=${lassoing ? 'true' : 'false'} title="Draw around images (L); with Shift a rectangle" onClick=${() => setLassoing(!lassoing)}>Lasso</button>
        <button title="Select all in view (A)" onClick=${() => scatter.current.selectInView()}>All in view</button>
        <span class="zooms">
          <button aria-label="Zoom in" title="Zoom in (+)" onClick=${() => scatter.current.zoom(1.6)}>+</button>
          <button aria-label="Zoom out" title="Zoom out (−)" onClick=${() => scatter.current.zoom(1 / 1.6)}>−</button>
          <button title="Show all (0)" onClick=${() => scatter.current.reset()}>Fit</button>
        </span>
      </div>
      <${Hovered} clustering=${id} map=${map} clusters=${clusters} at=${at} size=${size} />
      <p class="hidden" id="map-help">${HELP}</p>
      <p class="keys quiet" aria-hidden="true">Drag to move · wheel to zoom · <b>L</b> lasso · <b>Shift</b>-drag a rectangle${kind === 'canvas' ? ' · drawn without WebGL' : ''}</p>
    </div>
    <aside class="beside" aria-label="Colours and selection">
      <div aria-live="polite" class="hidden">${selected ? `${number(selected.length)} images selected` : ''}</div>
      ${selected && html`<${Selection} clustering=${id} map=${map} points=${selected} clusters=${clusters} journal=${journal} onClear=${clear}
        onFit=${() => scatter.current.fitTo(selected)} />`}
      <section aria-label="Colours">
        <div class="row spread">
          <${Select} label="Colour by" value=${by} options=${KINDS} onChange=${(value) => { shown.setLimits(ALL_STEPS); change({ by: value === 'cluster' ? null : value }); }} />
          <label class="check"><input type="checkbox" checked=${named} onChange=${(event) => setNamed(event.target.checked)} /> Names</label>
        </div>
        ${shown.error && html`<${Problem} error=${shown.error} />`}
        ${values.by === by && (values.range
          ? html`<${ScaleLegend} values=${values} swatches=${colours.swatches} limits=${shown.limits} onChange=${shown.setLimits} means=${MEANS[by]} />`
          : html`<${GroupLegend} key=${by} values=${values} swatches=${colours.swatches} hidden=${shown.off} onChange=${shown.hide} clustering=${id} />`)}
        ${shown.loading && html`<${Loading} />`}
      </section>
    </aside>
    <${Listed} id=${id} clusters=${clusters} onSelect=${(value) => scatter.current.selectWhere(clusters.values, value)} />
  </div>`;
}

/** The clusters as a table: what the map says, without seeing it. */
function Listed({ id, clusters, onSelect }) {
  const [most, setMost] = useState(MOST_LISTED);
  const [open, setOpen] = useState(false);
  const order = clusters.legend.map((entry, value) => ({ ...entry, value })).sort((a, b) => b.count - a.count);
  return html`<details class="listed" onToggle=${(event) => setOpen(event.currentTarget.open)}>
    <summary>The groups as a table</summary>
    ${open && html`<div class="scroll"><table>
      <thead><tr><th>Group</th><th class="n">Number</th><th class="n">Images</th><th>Flag</th><th></th></tr></thead>
      <tbody>${order.slice(0, most).map((entry) => html`<tr key=${entry.cluster}>
        <th><a class="cut" href=${groupPath(id, entry.cluster)}><bdi>${groupName('cluster', entry)}</bdi></a></th>
        <td class="n">${entry.cluster}</td><td class="n">${number(entry.count)}</td><td><bdi>${entry.flag || ''}</bdi></td>
        <td><button onClick=${() => onSelect(entry.value)}>Select<span class="hidden"> group ${entry.cluster}</span></button></td>
      </tr>`)}</tbody>
    </table></div>
    ${order.length > most && html`<button onClick=${() => setMost(most + 1000)}>Show more of ${number(order.length)}</button>`}`}
  </details>`;
}

/** A name as a canvas may draw it: short, without characters that turn the direction of text around. */
function onCanvas(text) {
  const plain = text.replace(/[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g, '');
  const letters = [...plain];
  return letters.length > 26 ? `${letters.slice(0, 25).join('')}…` : plain;
}

function* rangeOf(count) {
  for (let each = 0; each < count; each += 1) yield each;
}
