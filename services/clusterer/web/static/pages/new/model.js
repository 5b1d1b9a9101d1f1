/** Step 2: the network that looks at the images. */
import { extractor, get } from '../../api.js';
import { Chip, Field, Loading, Problem, Text, number, useData } from '../../ui.js';
import { html, useState } from '../../vendor/preact.js';

const FIRST = ['tf_efficientnet_lite0', 'dinov2_small', 'dinov2_base', 'clip_base', 'raw_pixels'];
const GOOD_FOR = {
  tf_efficientnet_lite0: 'Photographs of things, quickly, without a GPU. Comes with Shoal.',
  dinov2_small: 'Photographs of any kind: the groups people would make. A good first choice with a GPU.',
  dinov2_base: 'As the small one, finer and twice as slow.',
  clip_base: 'Pictures by what they mean: drawings, posters, screenshots.',
  raw_pixels: 'Colour and composition alone. The baseline that any model has to beat.',
};
export const DEFAULT_MODEL = FIRST[0];

const usable = (model) => model.readiness === 'ready' && !model.needs;
const rank = (model) => (usable(model) ? 0 : model.readiness === 'downloadable' && !model.needs ? 1 : 2);

export function Model({ values, set, problem }) {
  const { data, error, loading, reload } = useData((signal) => get(extractor('/models'), {}, { signal }), []);
  const [words, setWords] = useState('');
  const models = data?.models || [];
  const known = new Map(models.map((model) => [model.name, model]));
  const first = FIRST.filter((name) => known.has(name)).map((name) => known.get(name));
  const wanted = words.trim().toLowerCase();
  const others = models
    .filter((model) => !FIRST.includes(model.name) && `${model.name} ${model.description}`.toLowerCase().includes(wanted))
    .sort((a, b) => rank(a) - rank(b));
  const other = values.model && !known.has(values.model);
  const about = problem?.about('model');
  const pick = (model) => html`<${Choice} key=${model.name} model=${model} picked=${values.model === model.name} onPick=${() => set({ model: model.name })} />`;
  return html`<section class="card step" aria-labelledby="step-model">
    <h2 id="step-model"><span class="step-number">2</span> Model</h2>
    <p class="quiet">A network looks at every image once. What it finds alike ends up in one group.</p>
    <${Problem} error=${error} retry=${reload} />
    ${!data && loading && html`<${Loading} what="Reading the models" />`}
    ${about && html`<p class="error-line" role="alert">${about}</p>`}
    <fieldset class="picks"><legend class="hidden">Model</legend>${first.map(pick)}</fieldset>
    ${data && html`<details open=${Boolean(other || (values.model && !FIRST.includes(values.model)))}><summary>${`${number(models.length - first.length)} more models, or one by name`}</summary>
      <div class="stack inner">
        <${Field} label="Find a model">${(ids) => html`<input ...${ids} type="search" value=${words} placeholder="dino, clip, resnet …" onInput=${(event) => setWords(event.target.value)} />`}</${Field}>
        <fieldset class="picks tall"><legend class="hidden">More models</legend>${others.map(pick)}</fieldset>
        <${Field} label="Another model by name" hint="Any model of timm (timm:<name>) or OpenCLIP (open_clip:<name>).">
          ${(ids) => html`<input ...${ids} spellcheck="false" value=${other ? values.model : ''} placeholder="timm:resnet18.a1_in1k" onInput=${(event) => set({ model: event.target.value.trim() || DEFAULT_MODEL })} />`}
        </${Field}>
      </div></details>`}
  </section>`;
}

function Choice({ model, picked, onPick }) {
  const notes = { downloadable: ['downloads on first use', ''], needs_file: ['its file is missing', 'warn'] };
  const [note, kind] = model.needs ? [`needs ${model.needs}`, 'warn'] : notes[model.readiness] || [model.loaded ? 'loaded' : 'ready', 'good'];
  return html`<label class=${`pick model${picked ? ' picked' : ''}`}>
    <input type="radio" name="model" checked=${picked} onChange=${onPick} />
    <span class="pick-name"><${Text} value=${model.name} /> <${Chip} kind=${kind}>${note}</${Chip}>
      ${model.reads_text && html` <${Chip} title="Its images can be searched in words">words</${Chip}>`}
      <span class="quiet about">${GOOD_FOR[model.name] || model.description}</span></span>
    ${model.linear_probe && html`<span class="quiet number" title="Published accuracy of a linear classifier on its embeddings">${model.linear_probe} % on ImageNet</span>`}
  </label>`;
}
