/** Step 3: how many groups, and the settings that few people change; and the request that comes of them. */
import { Field } from '../../ui.js';
import { html } from '../../vendor/preact.js';

const KINDS = [
  ['auto', 'As many as fit', 'Shoal finds a number from the images alone.'],
  ['number', 'This many', 'You know about how many kinds there are.'],
  ['over', 'By the labels', 'As many groups as there are labels, or a multiple of that.'],
  ['sweep', 'Try several', 'A table and plots of what each setting gives, to choose from.'],
  ['none', 'None yet', 'Only look at the images; make groups later.'],
];

const REDUCTIONS = [
  ['', 'Nothing'],
  ['auto', 'Try all of these, pick without labels'],
  ['smooth', 'Average each image with those like it'],
  ['spectral', 'Random walk over nearest images'],
  ['umap', 'UMAP'],
];

const METHODS = [
  ['kmeans', 'k-means'],
  ['turtle', 'TURTLE, a network'],
  ['temi', 'TEMI, a network'],
  ['leiden', 'Leiden, on nearest images'],
  ['hdbscan', 'HDBSCAN, dense regions'],
];
const ALL_METHODS = [METHODS.map(([method]) => method).join(), 'All of these, to compare'];

const TRAINED = ['turtle', 'temi'];
/** Find the number of groups themselves. */
const COUNTING = ['leiden', 'hdbscan'];
/** Of numbers of groups, what these methods go with. */
const UNCOUNTED = ['auto', 'sweep', 'none'];

/** How equal the groups of TURTLE are: its entropy. */
const SIZES = { auto: ['As the images are', 'auto'], equal: ['About equal', 10] };
const OF_K_MEANS = ['restarts', 'iterations', 'balanced'];

export const GROUPS = {
  kind: 'auto', clusters: '10', over: '1', low: '', high: '', numbers: '5, 10, 20, 50', components: '', whiten: false,
  normalize: true, seeds: '', restarts: '', iterations: '', spherical: false, balanced: '', levels: '', memory: '', reduce: '',
  method: 'kmeans', sizes: 'auto', steps: '', rate: '', resolution: '', smallest: '', spaces: '',
};

const methodsOf = ({ method, kind }) => (kind === 'sweep' ? method : method.includes(',') ? 'kmeans' : method).split(',');
const counts = (values) => methodsOf(values).every((each) => COUNTING.includes(each));

/** `auto` compares runs of k-means; methods that find the number of groups look at the very neighbours that `smooth` averages. */
const reductionsOf = (values) => REDUCTIONS.filter(([reduction]) => ({
  auto: values.kind !== 'sweep' && methodsOf(values).join() === 'kmeans',
  smooth: !methodsOf(values).some((each) => COUNTING.includes(each)),
}[reduction] ?? true));
const reductionOf = (values) => (reductionsOf(values).some(([reduction]) => reduction === values.reduce) ? values.reduce : '');

/** A number of groups, or a method that finds it: the later choice holds. */
const kindPicked = (values, kind) => (counts(values) && !UNCOUNTED.includes(kind) ? { kind, method: 'kmeans' } : { kind });
const methodPicked = (values, method) => (COUNTING.includes(method) && !UNCOUNTED.includes(values.kind) ? { method, kind: 'auto' } : { method });

export function Groups({ values, set, problem, number: step, existing }) {
  const about = (field) => problem?.about(field);
  const kinds = existing ? KINDS.filter(([kind]) => kind !== 'none') : KINDS;
  const { kind } = values;
  return html`<section class="card step" aria-labelledby="step-groups">
    <h2 id="step-groups"><span class="step-number">${step}</span> Groups</h2>
    <fieldset class="picks"><legend class="hidden">How many groups</legend>
      ${kinds.map(([value, name, text]) => html`<label class=${`pick${kind === value ? ' picked' : ''}`} key=${value}>
        <input type="radio" name="kind" checked=${kind === value} onChange=${() => set(kindPicked(values, value))} />
        <span class="pick-name">${name} <span class="quiet about">${text}</span></span>
      </label>`)}
    </fieldset>
    <div class="fields">
      ${kind === 'number' && html`<${Input} label="Number of groups" type="number" min="2" name="clusters" values=${values} set=${set} error=${about('clusters')} />`}
      ${kind === 'over' && html`<${Input} label="Groups per label" name="over" inputmode="decimal" values=${values} set=${set} error=${about('over')} hint="1: as many groups as labels" />`}
      ${kind === 'auto' && !counts(values) && html`<${Input} label="At least" type="number" min="2" name="low" placeholder="2" values=${values} set=${set} error=${about('clusters_range') || about('clusters_range.0') || about('clusters')} />
        <${Input} label="At most" type="number" min="3" name="high" placeholder="Shoal decides" values=${values} set=${set} error=${about('clusters_range.1')} />`}
      ${kind === 'sweep' && html`${!counts(values) && html`<${Input} label="Numbers of groups" name="numbers" values=${values} set=${set} error=${lists(problem, 'clusters')} hint="Separated by commas" />`}
        <${Input} label="PCA components" name="components" placeholder="none" values=${values} set=${set} error=${lists(problem, 'pca')} hint="Separated by commas; “all” for no PCA" />`}
    </div>
    ${kind !== 'none' && html`<${Advanced} values=${values} set=${set} problem=${problem} existing=${existing} />`}
  </section>`;
}

const lists = (problem, field) => problem?.errors.find((each) => each.field.startsWith(field))?.message || problem?.about(field);

const hasLevels = (values) => values.kind !== 'auto' && !methodsOf(values).includes('hdbscan');

function Advanced({ values, set, problem, existing }) {
  const about = (field) => problem?.about(field);
  const check = (name, label, hint) => html`<${Field} inline label=${label} hint=${hint}>${(ids) => html`<input ...${ids} type="checkbox" checked=${values[name]} onChange=${(event) => set({ [name]: event.target.checked })} />`}</${Field}>`;
  const methods = methodsOf(values);
  const [plain, trained] = [methods.includes('kmeans'), methods.some((each) => TRAINED.includes(each))];
  const changed = methods.join() !== 'kmeans' || ['seeds', ...OF_K_MEANS, 'levels', 'memory', 'reduce', 'spaces'].some((name) => values[name]);
  return html`<details open=${(problem && changed) || undefined}><summary>More settings</summary><div class="fields inner">
    ${values.kind !== 'sweep' && html`<${Input} label="PCA components" name="components" type="number" min="1" placeholder="no PCA" values=${values} set=${set} error=${about('pca.components')} hint="Fewer directions: less noise, more speed" />`}
    <${Field} label="Grouped by" error=${about('method')} hint=${counts(values) ? 'Finds the number of groups itself' : 'A trained network finds groups that k-means cuts, but takes longer'}>${(ids) => html`<select ...${ids} value=${methods.join()} onChange=${(event) => set(methodPicked(values, event.target.value))}>
      ${[...METHODS, ...(values.kind === 'sweep' ? [ALL_METHODS] : [])].map(([method, name]) => html`<option value=${method}>${name}</option>`)}
    </select>`}</${Field}>
    ${methods.includes('turtle') && html`<${Field} label="Sizes of groups" error=${about('heads.entropy')} hint=${values.sizes === 'auto' ? 'Trained up to five times; the run that keeps like images together stays' : 'Trained once; large groups are cut'}>${(ids) => html`<select ...${ids} value=${values.sizes} onChange=${(event) => set({ sizes: event.target.value })}>
      ${Object.entries(SIZES).map(([name, [text]]) => html`<option value=${name}>${text}</option>`)}
    </select>`}</${Field}>`}
    ${trained && html`<${Input} label="Steps" name="steps" type="number" min="1" placeholder="Shoal decides" values=${values} set=${set} error=${about('heads.steps')} hint="Fewer for a first look" />
      <${Input} label="Learning rate" name="rate" inputmode="decimal" placeholder="Shoal decides" values=${values} set=${set} error=${about('heads.learning_rate')} hint="0.01 for a few hundred steps" />`}
    ${methods.includes('leiden') && html`<${Input} label="Resolution" name="resolution" inputmode="decimal" placeholder="1" values=${values} set=${set} error=${about('graph.resolution')} hint="Higher: more and smaller groups" />`}
    ${methods.includes('hdbscan') && html`<${Input} label="Smallest group" name="smallest" type="number" min="2" placeholder="10" values=${values} set=${set} error=${about('graph.min_cluster_size')} hint="Images far from all groups are noise" />`}
    ${existing && !counts(values) && values.kind !== 'sweep' && html`<${Input} label="Sets by other models" name="spaces" placeholder="none" values=${values} set=${set} error=${lists(problem, 'spaces')} hint="Ids of sets of the same images, grouped together" />`}
    <${Field} label="Before grouping" error=${about('reduce')} hint="From the nearest images of each: groups often become clearer">${(ids) => html`<select ...${ids} value=${reductionOf(values)} onChange=${(event) => set({ reduce: event.target.value })}>
      ${reductionsOf(values).map(([method, name]) => html`<option value=${method}>${name}</option>`)}
    </select>`}</${Field}>
    <${Input} label="Seeds" name="seeds" placeholder="0, 1, 2" values=${values} set=${set} error=${lists(problem, 'seeds')} hint="One run each; figures get their deviation from them" />
    ${plain && html`<${Input} label="Restarts" name="restarts" type="number" min="1" placeholder="Shoal decides" values=${values} set=${set} error=${about('kmeans.restarts')} />
    <${Input} label="Iterations" name="iterations" type="number" min="1" placeholder="50" values=${values} set=${set} error=${about('kmeans.iterations')} />
    <${Input} label="Largest group" name="balanced" inputmode="decimal" placeholder="any size" values=${values} set=${set} error=${about('kmeans.balanced')} hint="As a multiple of the mean, such as 1.2" />`}
    ${hasLevels(values) && html`<${Input} label="Levels above" name="levels" placeholder="none" values=${values} set=${set} error=${lists(problem, 'kmeans.levels')} hint="Numbers of coarser groups, descending: 20, 5" />`}
    <${Input} label="Memory" name="memory" placeholder="a quarter of the machine" values=${values} set=${set} error=${about('memory_limit')} hint="Such as 4GiB" />
    ${check('normalize', 'Scale embeddings to unit length')}
    ${check('whiten', 'Whiten the components', 'With PCA: each direction counts alike')}
    ${plain && check('spherical', 'Compare directions only', 'Cosine instead of distance')}
  </div></details>`;
}

function Input({ label, name, values, set, error, hint, ...rest }) {
  return html`<${Field} label=${label} error=${error} hint=${hint}>${(ids) => html`<input ...${ids} ...${rest} value=${values[name]} onInput=${(event) => set({ [name]: event.target.value })} />`}</${Field}>`;
}

/** A number as it was typed; what is none stays text, and the API says what is wrong with it. */
const value = (text) => (text.trim() !== '' && !Number.isNaN(Number(text)) ? Number(text) : text.trim());
const list = (text) => text.split(/[,;\s]+/).filter(Boolean).map((each) => (/^(all|none|null)$/i.test(each) ? null : value(each)));

/** `[path, body without the embeddings]` of the request; null if no groups are to be made. */
export function groupRequest(values) {
  const { kind } = values;
  if (kind === 'none') return null;
  const body = {};
  const numbered = !counts(values);
  if (kind === 'auto' && numbered) {
    body.clusters = 'auto';
    if (values.low || values.high) body.clusters_range = [value(values.low || '2'), value(values.high)];
  }
  if (kind === 'number') body.clusters = value(values.clusters);
  if (kind === 'over') body.over = value(values.over);
  if (kind === 'sweep' && numbered) body.clusters = list(values.numbers);
  if (values.components.trim() || values.whiten) {
    const components = kind === 'sweep' ? list(values.components || 'all') : value(values.components) || null;
    body.pca = { components, whiten: values.whiten };
  }
  if (!values.normalize) body.normalize = false;
  if (reductionOf(values)) body.reduce = reductionOf(values);
  if (values.seeds.trim()) body.seeds = list(values.seeds);
  if (values.memory.trim()) body.memory_limit = values.memory.trim();
  const methods = methodsOf(values);
  if (methods.join() !== 'kmeans') body.method = kind === 'sweep' ? methods : methods[0];
  const heads = methods.includes('turtle') ? { entropy: SIZES[values.sizes][1] } : {};
  if (methods.some((each) => TRAINED.includes(each))) {
    if (values.steps.trim()) heads.steps = value(values.steps);
    if (values.rate.trim()) heads.learning_rate = value(values.rate);
  }
  if (Object.keys(heads).length) body.heads = heads;
  const graph = {};
  if (methods.includes('leiden') && values.resolution.trim()) graph.resolution = value(values.resolution);
  if (methods.includes('hdbscan') && values.smallest.trim()) graph.min_cluster_size = value(values.smallest);
  if (Object.keys(graph).length) body.graph = graph;
  if (values.spaces.trim() && numbered && kind !== 'sweep') body.spaces = values.spaces.split(/[,;\s]+/).filter(Boolean);
  const kmeans = {};
  if (methods.includes('kmeans')) {
    for (const name of OF_K_MEANS) if (values[name].trim()) kmeans[name] = value(values[name]);
    if (values.spherical) kmeans.spherical = true;
  }
  if (values.levels.trim() && hasLevels(values)) kmeans.levels = list(values.levels);
  if (Object.keys(kmeans).length) body.kmeans = kmeans;
  return [kind === 'sweep' ? '/sweep' : '/cluster', body];
}
