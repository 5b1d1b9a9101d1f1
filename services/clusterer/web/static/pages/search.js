/** Search: the images of a set that are most like some words, a dropped image, or one of its own rows. */
import { moveFocus, readSets, setOption, similarity } from '../analyses.js';
import { dataUri, extractor, get, may, post } from '../api.js';
import { groupPath, wordOf } from '../groups.js';
import { Drop, Empty, Field, Loading, Page, Problem, Text, Thumb, plural, useData, useKeys, useQuery } from '../ui.js';
import { html, useEffect, useRef, useState } from '../vendor/preact.js';

const SHOWN = 60;
const LARGEST = 20 * 2 ** 20;

export default function Search() {
  const [query, change] = useQuery();
  const sets = useData(readSets, []);
  const [image, setImage] = useState(null);
  const [problem, setProblem] = useState(null);
  const chosen = sets.data?.find((each) => each.id === query.embeddings) || sets.data?.[0];
  const id = chosen?.id;
  const model = useData((signal) => modelOf(chosen, signal), [id]);
  const sought = image ? { image: image.data } : query.text ? { text: query.text } : query.row !== undefined ? { row: Number(query.row) } : null;
  const found = useData(
    async (signal) => (id && sought ? { of: id, images: await post('/search', { embeddings: id, k: SHOWN, ...sought }, { signal }) } : null),
    [id, image, query.text, query.row],
  );
  // Rows that were found in another set, or for what was sought before a failure, are none of these.
  const images = found.data && found.data.of === id && !found.error ? found.data.images : null;
  const shownRow = useData((signal) => rowOf(id, sought?.row, signal), [id, sought?.row]);
  const groups = useData((signal) => placesOf(id, images, signal), [id, images]);
  const readImage = async ([file]) => {
    setProblem(null);
    if (!file) return;
    if (file.size > LARGEST) {
      setProblem(new Error(`${file.name} is larger than 20 MiB: choose a smaller image.`));
      return;
    }
    setImage({ name: file.name, data: await dataUri(file) });
    change({ row: null, text: null });
  };
  useKeys({ j: () => moveFocus(1), k: () => moveFocus(-1) });
  useEffect(() => {
    // An image that was copied is sought where it is pasted.
    const paste = (event) => {
      const files = [...(event.clipboardData?.files || [])].filter((each) => each.type.startsWith('image/'));
      if (files.length) readImage(files);
    };
    addEventListener('paste', paste);
    return () => removeEventListener('paste', paste);
  }, [id]);
  if (sets.error) return html`<${Page} title="Search"><${Problem} error=${sets.error} retry=${sets.reload} /></${Page}>`;
  if (!sets.data) return html`<${Page} title="Search"><${Loading} what="Looking for sets" /></${Page}>`;
  if (!chosen) return html`<${Page} title="Search"><${Empty} title="No images yet"><p><a href="/ui/new">Add images</a>, then find them here.</p></${Empty}></${Page}>`;
  if (!may('submit')) return html`<${Page} title="Search"><${Empty} title="Your key cannot search"><p>A search needs a key of scope <code>submit</code>.</p></${Empty}></${Page}>`;
  return html`<${Page} title="Search" lead="Find images by words, by an image, or by one of your own.">
    <${Ask} sets=${sets.data} chosen=${chosen} model=${model.data} query=${query} change=${change} image=${image} setImage=${setImage} readImage=${readImage} />
    <${Problem} error=${problem || found.error} />
    ${sought && html`<${Sought} sought=${sought} image=${image} row=${shownRow.data} embeddings=${id} clear=${() => { setImage(null); change({ row: null, text: null }); }} />`}
    ${!sought && html`<${Empty} title="What are you looking for?"><p>Write it, drop an image here, or open “similar” on any image.</p></${Empty}>`}
    ${sought && found.loading && html`<${Loading} what="Searching" />`}
    ${sought && images && html`<${Results} found=${images} groups=${groups.data} embeddings=${id} change=${change} setImage=${setImage} stale=${found.loading} />`}
  </${Page}>`;
}

/** What the model of a set can embed: {texts: true, false or null (not known), images}. */
async function modelOf(set, signal) {
  if (!set) return null;
  if (set.model.backend === 'import' || !set.model.name || set.source.kind !== 'images') return { texts: false, images: false };
  try {
    const model = await get(extractor(`/models/${set.model.name.split('/').map(encodeURIComponent).join('/')}`), {}, { signal });
    return { texts: Boolean(model.reads_text), images: true };
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    return { texts: null, images: true };
  }
}

/** The metadata of the row that is sought, so that its picture has a name. */
async function rowOf(id, row, signal) {
  if (!id || row === undefined) return null;
  const { rows } = await get(extractor(`/embeddings/${encodeURIComponent(id)}/rows`), { limit: 1, cursor: String(row) }, { signal });
  return rows[0] || null;
}

/** Where the found rows are grouped: by the newest clustering of the set, {clustering, byRow}; null without any. */
async function placesOf(id, found, signal) {
  if (!id || !found?.length) return null;
  const { clusterings } = await get('/clusterings', {}, { signal });
  const newest = clusterings.find((each) => !each.damaged && each.scored.includes(id));
  if (!newest) return null;
  const rows = found.map((each) => each.row).join(',');
  const { places } = await get(`/clusterings/${encodeURIComponent(newest.id)}/places`, { rows, embeddings: id }, { signal });
  return { clustering: newest.id, byRow: new Map(places.map((each) => [each.row, each])) };
}

function Ask({ sets, chosen, model, query, change, setImage, readImage }) {
  const [text, setText] = useState(query.text || '');
  const input = useRef(null);
  useEffect(() => setText(query.text || ''), [query.text]);
  const submit = (event) => {
    event.preventDefault();
    if (!text.trim()) return;
    setImage(null);
    change({ text: text.trim(), row: null });
  };
  const noTexts = model?.texts === false;
  return html`<div class="card ask search-ask">
    <${Field} label="Set">${(ids) => html`<select ...${ids} value=${chosen.id} onChange=${(event) => { setImage(null); change({ embeddings: event.target.value, row: null }); }}>${sets.map(setOption).map(([id, name]) => html`<option value=${id} selected=${id === chosen.id}>${name}</option>`)}</select>`}</${Field}>
    <form onSubmit=${submit} role="search">
      <${Field} label="Words" hint=${noTexts ? html`The model of this set, <${Text} value=${chosen.model.name} />, reads no text. Embed the images with an <code>open_clip</code> model to search in words.` : 'Such as “a red boat on a lake”.'}>
        ${(ids) => html`<span class="range"><input ...${ids} ref=${input} type="search" value=${text} maxlength="2000" disabled=${noTexts} placeholder=${noTexts ? 'Not with this model' : 'What the image shows'} onInput=${(event) => setText(event.target.value)} /><button class="primary" disabled=${noTexts || !text.trim()}>Search</button></span>`}
      </${Field}>
    </form>
    ${model?.images === false
      ? html`<p class="quiet">These embeddings were imported: their model is not known, so new images cannot be compared with them. Any of their rows can.</p>`
      : html`<${Drop} onFiles=${readImage} accept="image/*" multiple=${false}><p class="quiet">Drop or paste an image</p></${Drop}>`}
  </div>`;
}

function Sought({ sought, image, row, embeddings, clear }) {
  const name = image ? image.name : row?.image_path;
  return html`<div class="sought row">
    ${image && html`<span class="thumb"><img src=${image.data} alt=${name} /></span>`}
    ${sought.row !== undefined && html`<${Thumb} embeddings=${embeddings} row=${sought.row} path=${row?.image_path} />`}
    <span>${sought.text ? html`Most like <strong><bdi>${sought.text}</bdi></strong>` : html`Similar to <strong><${Text} value=${name || `row ${sought.row}`} /></strong>`}</span>
    <button class="plain" onClick=${clear}>Clear</button>
  </div>`;
}

function Results({ found, groups, embeddings, change, setImage, stale }) {
  const similar = (row) => {
    setImage(null);
    change({ embeddings, row, text: null });
    scrollTo(0, 0);
  };
  return html`<section aria-label=${plural(found.length, 'result')} class=${stale ? 'is-stale' : ''}>
    <div class="findings hits">${found.map((each) => {
      const place = groups?.byRow.get(each.row);
      const name = each.image_path.split('/').pop();
      return html`<div class="judged finding" key=${each.row} role="group" tabindex="0" data-image=${each.row} aria-label=${`${each.image_path}, similarity ${similarity(each.similarity)}`}>
        <${Thumb} embeddings=${embeddings} row=${each.row} path=${each.image_path} />
        <${Text} value=${name} />
        <small class="quiet number">${similarity(each.similarity)}${each.label ? html` · <${Text} value=${each.label} />` : null}</small>
        <span class="choose"><button onClick=${() => similar(each.row)} aria-label=${`Similar to ${name}`}>Similar</button>
          ${place && html`<a class="button" href=${groupPath(groups.clustering, place.merged_cluster, { embeddings })} aria-label=${`Group of ${name}`}><${Text} value=${place.name || wordOf(place.merged_cluster)} /></a>`}</span>
      </div>`;
    })}</div>
  </section>`;
}
