/** What pages say about jobs: names, stages, live progress, cancelling; and the job that is to follow another. */
import { del, followJob, get, may } from './api.js';
import { Chip, Confirm, Progress, Text, duration, navigate, number, toast } from './ui.js';
import { html, useEffect, useRef, useState } from './vendor/preact.js';

const STATES = {
  queued: ['waiting', ''],
  running: ['running', 'mark'],
  succeeded: ['done', 'good'],
  failed: ['failed', 'bad'],
  cancelled: ['cancelled', ''],
};
const STAGES = {
  load: 'Loading the model', list: 'Listing the images', images: 'Listing the images', reuse: 'Looking for known images',
  embed: 'Looking at the images', embeddings: 'Reading embeddings', rows: 'Reading embeddings', choose: 'Looking for the number of groups', pick: 'Trying ways to group', reduce: 'Looking at similar images',
  compare: 'Comparing images', groups: 'Forming groups', labels: 'Judging labels',
  pca: 'Finding the main directions', kmeans: 'Making groups', assign: 'Assigning images', metrics: 'Judging the groups',
  report: 'Writing the report', map: 'Laying out the map', points: 'Trying settings', plots: 'Drawing plots',
};
const RESULT_PAGES = {
  embeddings: ['/ui/embeddings', 'See the set'],
  clustering: ['/ui/clusterings', 'See the groups'],
  sweep: ['/ui/sweeps', 'See the sweep'],
  duplicates: ['/ui/duplicates', 'See the duplicates'],
  quality: ['/ui/quality', 'See the findings'],
};
const STREAMS = 2;
const LIST_EVERY_MS = 4000;

export const ended = (job) => ['succeeded', 'failed', 'cancelled'].includes(job.state);
export const stageName = (stage) => STAGES[stage] || stage.replace(/[-_]/g, ' ').replace(/^./, (first) => first.toUpperCase());

/** The images of a request or of a set, in few words: the folder's name. */
export function sourceName(source) {
  if (!source) return '';
  if (source.upload || source.path?.startsWith('upload:')) return source.path?.includes('/') ? source.path.split('/').pop() : 'uploaded images';
  return source.path === '.' ? 'all images' : String(source.path ?? '').split('/').filter(Boolean).pop() || 'images';
}

/** What a set is called: where its images come from. */
export function setName(set) {
  if (!set || set.damaged) return set?.id ?? '';
  if (set.source?.kind !== 'images') return set.name;
  const given = set.source.path.startsWith('upload:') && set.name !== set.model.name;
  return given ? set.name : sourceName(set.source);
}

const trained = (embeddings) => (typeof embeddings === 'string' ? embeddings : embeddings?.train || 'several sets');

/** What a job does: [verb phrase, of what]. */
export function jobWords({ kind, request }) {
  const many = (value) => (Array.isArray(value) ? value.join(', ') : value);
  if (kind.startsWith('extract')) return ['Embed', (request.images?.upload && request.name) || sourceName(request.images)];
  if (kind === 'import') return ['Import', request.name || request.upload || 'embeddings'];
  if (kind === 'sweep') return ['Sweep over', trained(request.embeddings)];
  if (kind === 'cluster') {
    const k = request.clusters;
    const groups = k === 'auto' || (!k && !request.over) ? 'Group' : k ? `Make ${many(k)} groups of` : `Make groups, ${many(request.over)} per label, of`;
    return [groups, trained(request.embeddings)];
  }
  const verbs = { duplicates: 'Find duplicates in', quality: 'Check the quality of', assign: 'Assign' };
  return [verbs[kind] || kind, trained(request.embeddings)];
}

export function JobName({ job }) {
  const [verb, what] = jobWords(job);
  return html`<span class="job-name"><span>${verb}</span>${' '}<${Text} value=${what} /></span>`;
}

export function JobState({ job }) {
  if (job.cancel_requested && !ended(job)) return html`<${Chip} kind="warn">stopping</${Chip}>`;
  const [text, kind] = STATES[job.state] || [job.state, ''];
  return html`<${Chip} kind=${kind}>${text}</${Chip}>`;
}

/** The page of what a job made: [path, words]; undefined if it has none. */
export function resultOf(job) {
  for (const [field, [path, words]] of Object.entries(RESULT_PAGES)) {
    const id = job.result?.[field];
    if (id) return [`${path}/${encodeURIComponent(id)}`, words];
  }
  return undefined;
}

/** The stage, the bar, the rate and the time left of a job that has not ended. */
export function JobProgress({ job }) {
  if (job.state === 'queued') {
    return html`<div class="job-progress"><p class="quiet">${job.waiting_for || (job.last_error ? `Waits for its next attempt. The last one failed: ${job.last_error.detail}` : 'Waits for its turn.')}</p></div>`;
  }
  const now = job.progress;
  const facts = now
    ? [
        now.total ? `${number(now.done)} of ${number(now.total)} ${now.unit}` : now.done ? `${number(now.done)} ${now.unit}` : '',
        now.rate ? `${now.rate < 10 ? now.rate.toFixed(1) : number(Math.round(now.rate))} ${now.unit} per second` : '',
        now.eta_s > 0 ? `about ${duration(now.eta_s)} left` : '',
      ].filter(Boolean)
    : [];
  return html`<div class="job-progress">
    <div class="row spread"><span>${now ? stageName(now.stage) : 'Starting'}</span><span class="quiet number">${facts.join(' · ')}</span></div>
    <${Progress} done=${now?.done} total=${now?.total} label=${now ? stageName(now.stage) : 'Starting'} />
  </div>`;
}

/** A button that cancels a job, after a question. Nothing where the person may not, or the job has ended. */
export function CancelJob({ job, onJob, kind = '' }) {
  const [asked, setAsked] = useState(false);
  if (ended(job) || job.cancel_requested || !may('submit')) return null;
  const cancel = async () => {
    const changed = await del(`/jobs/${encodeURIComponent(job.id)}`);
    onJob?.(changed);
    toast(changed.state === 'cancelled' ? 'The job is cancelled.' : 'The job stops within seconds.');
  };
  return html`<button class=${kind} onClick=${() => setAsked(true)}>Cancel</button>
    ${asked &&
    html`<${Confirm} title="Cancel this job?" yes="Cancel the job" onYes=${cancel} onClose=${() => setAsked(false)}>
      <p><${JobName} job=${job} /></p>
      <p class="quiet">What it has committed so far stays; the same request continues from there.</p>
    </${Confirm}>`}`;
}

/** A job, followed live: {job, error, set}; without an id there is none. */
export function useJob(id) {
  const [state, setState] = useState({ job: null, error: null });
  useEffect(() => {
    let stop = () => {};
    let gone = false;
    setState({ job: null, error: null });
    if (!id) return undefined;
    get(`/jobs/${encodeURIComponent(id)}`).then(
      (job) => {
        if (gone) return;
        setState({ job, error: null });
        if (!ended(job)) stop = followJob(id, (now) => setState({ job: now, error: null }));
      },
      (error) => !gone && setState({ job: null, error }),
    );
    return () => {
      gone = true;
      stop();
    };
  }, [id]);
  const job = state.job?.id === id ? state.job : null;
  return { ...state, job, set: (next) => setState({ job: next, error: null }) };
}

/**
 * The newest jobs: {jobs, error, loading, more, loadMore, set}. The list is read again every few seconds while the page is
 * in sight; the first that run are followed live. A browser has few connections to one address, so the others wait for
 * the next reading.
 */
export function useJobs({ state, limit = 50 } = {}) {
  const [shown, setShown] = useState({ jobs: null, error: null, cursor: null });
  const [size, setSize] = useState(limit);
  const followed = useRef(new Map());
  const replace = (job) => setShown((now) => ({ ...now, jobs: (now.jobs || []).map((each) => (each.id === job.id ? job : each)) }));
  useEffect(() => {
    const control = new AbortController();
    let timer;
    const read = async () => {
      try {
        const page = await get('/jobs', { limit: size, state }, { signal: control.signal });
        setShown({ jobs: page.jobs, error: null, cursor: page.next_cursor });
        for (const job of page.jobs.filter((each) => each.state === 'running')) {
          if (followed.current.size >= STREAMS || followed.current.has(job.id)) continue;
          const stop = followJob(job.id, (now) => {
            replace(now);
            if (!ended(now)) return;
            followed.current.delete(now.id);
            dispatchEvent(new CustomEvent('shoal:job-ended', { detail: now }));
          });
          followed.current.set(job.id, stop);
        }
      } catch (error) {
        if (error.name === 'AbortError') return;
        setShown((now) => ({ ...now, error }));
      }
      timer = setTimeout(tick, LIST_EVERY_MS);
    };
    const tick = () => (document.hidden ? (timer = setTimeout(tick, LIST_EVERY_MS)) : read());
    read();
    return () => {
      control.abort();
      clearTimeout(timer);
      for (const stop of followed.current.values()) stop();
      followed.current.clear();
    };
  }, [size, state]);
  const loadMore = () => setSize((now) => Math.min(500, now + limit));
  return { ...shown, loading: !shown.jobs && !shown.error, more: Boolean(shown.cursor) && size < 500, loadMore, set: replace };
}

/** How long a job took, or takes. */
export function took(job) {
  if (!job.started_at) return null;
  return (Date.parse(job.finished_at || new Date().toISOString()) - Date.parse(job.started_at)) / 1000;
}

export const toJob = (job) => navigate(`/ui/jobs/${encodeURIComponent(job.id)}`);
