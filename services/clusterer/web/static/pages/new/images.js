/** Step 1 of adding images: files of this computer, a folder or a file of the server, or a set that is there already. */
import { extractor, get } from '../../api.js';
import { chosen, collect } from '../../upload.js';
import { Drop, Field, Loading, Problem, Progress, Tabs, Text, bytes, number, plural, useData } from '../../ui.js';
import { html, useEffect, useMemo, useState } from '../../vendor/preact.js';
import { setName } from '../../jobs.js';

const PREVIEWS = 12;
const SOURCES = [['upload', 'From this computer'], ['folder', 'A folder of the server'], ['set', 'A set that is here']];

export function Images({ values, set, problem, sending }) {
  return html`<section class="card step" aria-labelledby="step-images">
    <h2 id="step-images"><span class="step-number">1</span> Images</h2>
    <${Tabs} label="Where the images are" value=${values.from} tabs=${SOURCES} onChange=${(from) => set({ from })} />
    ${values.from === 'upload' && html`<${Upload} values=${values} set=${set} sending=${sending} />`}
    ${values.from === 'folder' && html`<${Folders} path=${values.path} onPick=${(path) => set({ path })} error=${problem?.about('images.path')} />`}
    ${values.from === 'set' && html`<${Sets} value=${values.set} onPick=${(id) => set({ set: id })} error=${problem?.about('embeddings')} />`}
    ${values.from !== 'set' && html`<${Labels} values=${values} set=${set} problem=${problem} />`}
  </section>`;
}

const LABELS = [['folder', 'Each folder is a label'], ['file', 'A file has the labels'], ['none', 'No labels']];

/** Where labels come from, and which images are taken. */
function Labels({ values, set, problem }) {
  const about = (field) => problem?.about(field) || problem?.errors.find((each) => each.field.startsWith(field))?.message;
  const input = (name, label, hint, field, rest = {}) => html`<${Field} label=${label} hint=${hint} error=${about(field)}>
    ${(ids) => html`<input ...${ids} ...${rest} spellcheck="false" value=${values[name]} onInput=${(event) => set({ [name]: event.target.value })} />`}
  </${Field}>`;
  return html`<div class="fields">
      <${Field} label="Labels" error=${values.labels === 'file' ? null : about('images.labels')} hint="Never used to make the groups: they only say afterwards how well the groups fit.">
        ${(ids) => html`<select ...${ids} value=${values.labels} onChange=${(event) => set({ labels: event.target.value })}>
          ${LABELS.map(([value, text]) => html`<option value=${value} selected=${value === values.labels}>${text}</option>`)}</select>`}
      </${Field}>
      ${values.labels === 'file' && input('labelFile', 'File of labels', 'CSV, JSON Lines or Parquet with a path and a label in each row', 'images.labels', { placeholder: 'photos/labels.csv' })}
    </div>
    <details><summary>More about which images</summary><div class="fields inner">
      ${input('limit', 'At most', 'Images, evenly spread over all of them', 'images.limit', { type: 'number', min: 1, placeholder: 'all' })}
      ${input('include', 'Only', 'Patterns, separated by commas', 'images.include', { placeholder: '*.jpg, train/**' })}
      ${input('exclude', 'Not', 'They win over the others', 'images.exclude', { placeholder: 'thumbs, *_small.*' })}
    </div></details>`;
}

// ------------------------------------------------------------------------------------------ files of this computer

function Upload({ values, set, sending }) {
  const [error, setError] = useState(null);
  const { choice } = values;
  const take = async (files, transfer) => {
    try {
      const found = chosen(await collect(files, transfer));
      setError(found.files.length ? null : new Error('None of these files is an image, a .zip or a .tar.'));
      if (found.files.length) set({ choice: found });
    } catch (problem) {
      setError(problem);
    }
  };
  if (sending) return html`<${Sending} sending=${sending} />`;
  if (choice) return html`<${Chosen} choice=${choice} onClear=${() => set({ choice: null })} />`;
  return html`<div class="stack">
    ${error && html`<${Problem} error=${error} />`}
    <${Drop} onFiles=${take}>
      <p class="drop-title"><strong>Drop images or a folder here</strong></p>
      <p class="quiet">JPEG, PNG, WebP and others, or one .zip or .tar of them</p>
      <${ChooseFolder} onFiles=${take} />${' '}
    </${Drop}>
  </div>`;
}

function ChooseFolder({ onFiles }) {
  return html`<label class="button">Choose a folder
    <input class="hidden" type="file" webkitdirectory multiple onChange=${(event) => { onFiles([...event.target.files]); event.target.value = ''; }} /></label>`;
}

function Chosen({ choice, onClear }) {
  const size = choice.files.reduce((sum, { file }) => sum + file.size, 0);
  const folders = new Set(choice.files.map(({ path }) => path.split('/').slice(0, -1).join('/')));
  const shown = useMemo(() => {
    const step = Math.max(1, Math.floor(choice.files.length / PREVIEWS));
    const some = choice.archive ? [] : choice.files.filter((_, i) => i % step === 0).slice(0, PREVIEWS);
    return some.map(({ file, path }) => ({ path, url: URL.createObjectURL(file) }));
  }, [choice]);
  useEffect(() => () => shown.forEach(({ url }) => URL.revokeObjectURL(url)), [shown]);
  return html`<div class="stack">
    <div class="row spread"><p class="chosen"><strong>${choice.archive ? html`<${Text} value=${choice.files[0].path} />` : plural(choice.files.length, 'image')}</strong>
      <span class="quiet"> · ${bytes(size)}${folders.size > 1 ? ` · ${plural(folders.size, 'folder')}` : ''}${choice.others ? ` · ${plural(choice.others, 'other file')} left out` : ''}</span></p>
      <button type="button" onClick=${onClear}>Choose others</button></div>
    ${shown.length > 0 && html`<div class="previews" aria-hidden="true">${shown.map(({ path, url }) => html`<span class="thumb" title=${path}><img src=${url} alt="" /></span>`)}</div>`}
  </div>`;
}

function Sending({ sending }) {
  const { sent, total, resumed, stop } = sending;
  return html`<div class="stack" aria-live="polite">
    <p><strong>Sending the images</strong> <span class="quiet number">${bytes(sent)} of ${bytes(total)}${resumed ? ` · ${bytes(resumed)} were there already` : ''}</span></p>
    <${Progress} done=${sent} total=${total} label="Sending the images" />
    <p class="quiet">Keep this page open until all is sent. If it breaks off, choose the same files again: it goes on where it ended.</p>
    <button type="button" onClick=${stop}>Stop sending</button>
  </div>`;
}

// ---------------------------------------------------------------------------------------------- folders of the server

function Folders({ path, onPick, error }) {
  const [at, setAt] = useState(() => (path && path.includes('/') ? path.split('/').slice(0, -1).join('/') : '.'));
  const { data, error: problem, loading, reload } = useData((signal) => get(extractor('/folders'), { path: at }, { signal }), [at]);
  const parts = at === '.' ? [] : at.split('/');
  const count = (images, exact) => (images || exact ? `${number(images)}${exact ? '' : '+'} images` : '');
  const pick = (each) => html`<label class=${`pick${path === each.path ? ' picked' : ''}`}>
    <input type="radio" name="folder" checked=${path === each.path} onChange=${() => onPick(each.path)} />
    <span class="pick-name"><${Text} value=${each.name} /></span>
    <span class="quiet number">${'images' in each ? count(each.images, each.exact) : `${each.format} · ${bytes(each.bytes)}`}</span>
  </label>`;
  return html`<div class="folders">
    <nav class="folder-path" aria-label="Folder">
      <button type="button" class="plain" onClick=${() => setAt('.')}>Data folder</button>
      ${parts.map((part, i) => html`<span class="quiet">›</span><button type="button" class="plain" onClick=${() => setAt(parts.slice(0, i + 1).join('/'))}><${Text} value=${part} /></button>`)}
    </nav>
    <${Problem} error=${problem} retry=${reload} />
    ${error && html`<p class="error-line" role="alert">${error}</p>`}
    ${!data && loading && html`<${Loading} what="Counting images" />`}
    ${data && html`<fieldset class="picks" aria-busy=${loading ? 'true' : 'false'}>
      <legend class="hidden">Folder of images</legend>
      ${data.images > 0 && pick({ name: at === '.' ? 'Everything in the data folder' : 'All of this folder', path: data.path, images: data.images, exact: data.exact })}
      ${data.folders.map((each) => html`<div class="pick-row" key=${each.path}>${pick(each)}<button type="button" class="plain" aria-label=${`Open ${each.name}`} onClick=${() => setAt(each.path)}>Open ›</button></div>`)}
      ${data.files.map((each) => html`<div class="pick-row" key=${each.path}>${pick(each)}</div>`)}
      ${data.truncated && html`<p class="quiet">There is more than is listed here. Write the path below.</p>`}
      ${!data.images && !data.folders.length && !data.files.length && html`<p class="quiet">Nothing here that Shoal can read. Put images below the data folder of the server (SHOAL_DATA), or send them from this computer.</p>`}
    </fieldset>`}
    <${Field} label="Path" hint="Relative to the data folder. Several archives by braces: shards/{00000..00099}.tar">
      ${(ids) => html`<input ...${ids} value=${path} placeholder="photos" spellcheck="false" onInput=${(event) => onPick(event.target.value)} />`}
    </${Field}>
  </div>`;
}

// ---------------------------------------------------------------------------------------------------- sets

function Sets({ value, onPick, error }) {
  const { data, error: problem, loading } = useData((signal) => get(extractor('/embeddings'), {}, { signal }), []);
  const sets = (data?.embeddings || []).filter((each) => !each.damaged && each.rows);
  return html`<div><${Problem} error=${problem} />
    ${error && html`<p class="error-line" role="alert">${error}</p>`}
    ${!data && loading && html`<${Loading} what="Reading the sets" />`}
    ${data && !sets.length && html`<p class="quiet">There is no set yet. Add images first.</p>`}
    <fieldset class="picks"><legend class="hidden">Set of images</legend>
      ${sets.map((each) => html`<label class=${`pick${value === each.id ? ' picked' : ''}`} key=${each.id}>
        <input type="radio" name="set" checked=${value === each.id} onChange=${() => onPick(each.id)} />
        <span class="pick-name"><${Text} value=${setName(each)} /></span>
        <span class="quiet number">${plural(each.rows, 'image')} · <bdi>${each.model.name}</bdi></span>
      </label>`)}
    </fieldset>
  </div>`;
}
