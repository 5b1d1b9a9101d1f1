/** Add images and make groups: images, model and groups on one page, then the jobs follow each other. */
import { extractor, may, post } from '../api.js';
import { plan } from '../plans.js';
import { chosen, handed, upload } from '../upload.js';
import { Empty, Page, navigate, useQuery } from '../ui.js';
import { html, useEffect, useRef, useState } from '../vendor/preact.js';
import { GROUPS, Groups, groupRequest } from './new/groups.js';
import { Images } from './new/images.js';
import { DEFAULT_MODEL, Model } from './new/model.js';

const SOURCES = ['upload', 'folder', 'set'];
const job = (id) => `/ui/jobs/${encodeURIComponent(id)}`;

function initial(query) {
  const from = query.set ? 'set' : SOURCES.includes(query.from) ? query.from : 'upload';
  const given = handed.files;
  handed.files = null;
  return {
    from, set: query.set || '', path: query.path || '', labels: 'folder', labelFile: '', limit: '', include: '', exclude: '', choice: given ? chosen(given) : null, model: DEFAULT_MODEL,
    groups: { ...GROUPS, kind: query.kind || GROUPS.kind },
  };
}

export default function New() {
  const [query, setQuery] = useQuery();
  const [values, setValues] = useState(() => initial(query));
  const [problem, setProblem] = useState(null);
  const [sending, setSending] = useState(null);
  const [busy, setBusy] = useState(false);
  const control = useRef(null);
  const set = (changes) => setValues((now) => ({ ...now, ...changes }));
  const existing = values.from === 'set';
  useEffect(() => setQuery({ from: values.from === 'upload' ? null : values.from, set: existing ? values.set : null }), [values.from, values.set]);
  useEffect(() => () => control.current?.abort(), []);
  useEffect(() => {
    if (!sending) return undefined;
    const warn = (event) => event.preventDefault();
    addEventListener('beforeunload', warn);
    return () => removeEventListener('beforeunload', warn);
  }, [Boolean(sending)]);

  const start = async (event) => {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    control.current = new AbortController();
    try {
      navigate(job(await submit(values, { setSending, stop: control.current })));
    } catch (error) {
      setSending(null);
      setBusy(false);
      if (error.name !== 'AbortError') setProblem(error);
    }
  };
  if (!may('submit')) {
    return html`<${Page} title="Add images"><${Empty} title="This key may only read"><p>Adding images and making groups needs a key with scope <code>submit</code>.</p></${Empty}></${Page}>`;
  }
  const ready = existing ? values.set : values.from === 'folder' ? values.path.trim() : values.choice;
  const about = { problem: problem?.about ? problem : null };
  return html`<${Page} title=${existing ? 'Make groups' : 'Add images'} lead="From images to groups in three choices; the defaults are good.">
    <form class="steps stack" onSubmit=${start} novalidate>
      <${Images} values=${values} set=${set} ...${about} sending=${sending} />
      ${!existing && html`<${Model} values=${values} set=${set} ...${about} />`}
      <${Groups} values=${values.groups} set=${(changes) => set({ groups: { ...values.groups, ...changes } })} ...${about} number=${existing ? 2 : 3} existing=${existing} />
      <div class="start">
        <${Wrong} problem=${problem} />
        <div class="row"><button class="primary" disabled=${busy || !ready}>${busy ? 'Starting…' : 'Start'}</button>
        <span class="quiet">${ready ? whatHappens(values) : existing ? 'Pick a set first.' : 'Pick images first.'}</span></div>
      </div>
    </form>
  </${Page}>`;
}

/** All messages of the API, those that stand at their fields too: a field may be folded away. */
function Wrong({ problem }) {
  const place = useRef(null);
  useEffect(() => place.current?.focus(), [problem]);
  if (!problem) return null;
  return html`<div class="problem" role="alert" tabindex="-1" ref=${place}>
    <p><strong>Nothing was started.</strong> ${problem.errors?.length ? '' : html`<bdi>${problem.message}</bdi>`}</p>
    ${problem.errors?.length > 0 && html`<ul>${problem.errors.map(({ field, message }) => html`<li>${field && html`<code>${field}</code> `}<bdi>${message}</bdi></li>`)}</ul>`}
  </div>`;
}

function whatHappens({ from, groups }) {
  const first = from === 'upload' ? 'The images are sent, then looked at' : from === 'folder' ? 'The images are looked at where they are' : '';
  const then = { none: '', sweep: 'all settings are tried' }[groups.kind] ?? 'groups are made';
  if (!first) return `${then[0].toUpperCase()}${then.slice(1)}.`;
  return then ? `${first}, then ${then}.` : `${first}.`;
}

/** What an upload is called: its folder or its archive, as an id may contain it; '' if it has neither. */
function nameOf({ files, archive }) {
  const tops = new Set(files.map(({ path }) => (path.includes('/') ? path.split('/')[0] : '')));
  const name = archive ? files[0].path.replace(/\.[a-z]+$/i, '') : tops.size === 1 ? [...tops][0] : '';
  return name.normalize('NFKD').replace(/[^A-Za-z0-9._-]+/g, '-').replace(/^[._-]+|[._-]+$/g, '').slice(0, 60);
}

/** Send what is wanted; returns the id of the job to show. */
async function submit(values, { setSending, stop }) {
  const groups = groupRequest(values.groups);
  if (values.from === 'set') {
    const [path, body] = groups;
    return (await post(path, { ...body, embeddings: values.set })).id;
  }
  const images = { labels: values.labels === 'file' ? { file: values.labelFile.trim() } : values.labels };
  if (values.limit.trim()) images.limit = Number(values.limit);
  for (const name of ['include', 'exclude']) {
    const patterns = values[name].split(',').map((each) => each.trim()).filter(Boolean);
    if (patterns.length) images[name] = patterns;
  }
  if (values.from === 'folder') images.path = values.path.trim();
  else {
    const onProgress = (now) => setSending({ ...now, stop: () => stop.abort() });
    images.upload = await upload(values.choice, { onProgress, signal: stop.signal });
  }
  const name = images.upload && nameOf(values.choice);
  const made = await post(extractor('/extract'), { images, model: values.model, ...(name ? { name } : {}) });
  if (groups) plan(made.id, ...groups);
  return made.id;
}
