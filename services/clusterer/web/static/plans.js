/**
 * Groups that are to be made of a set once its embedding is done.
 *
 * A plan is kept by the browser until the second job is submitted, whichever page is open then. Its `Idempotency-Key`
 * comes from the first job, so that two pages that see its end submit one job.
 */
import { get, may, post } from './api.js';
import { toast, navigate } from './ui.js';

const KEY = 'shoal.plans';
const MOST = 50;
const EVERY_MS = 1500;

export function plans() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY) || '{}');
    return found && typeof found === 'object' ? found : {};
  } catch {
    return {};
  }
}

function keep(changed) {
  const newest = Object.entries(changed).sort((a, b) => b[1].at - a[1].at).slice(0, MOST);
  localStorage.setItem(KEY, JSON.stringify(Object.fromEntries(newest)));
  dispatchEvent(new CustomEvent('shoal:plans'));
}

/** What follows a job: {path, body, at, then, problem}; undefined if nothing does. */
export const planOf = (jobId) => plans()[jobId];

/** Once job `jobId` has made a set, send `body`, with the set's id, to `path` (`/cluster` or `/sweep`). */
export function plan(jobId, path, body) {
  keep({ ...plans(), [jobId]: { path, body, at: Date.now() } });
  watch(jobId);
}

export function forget(jobId) {
  const { [jobId]: _, ...others } = plans();
  keep(others);
}

const change = (jobId, fields) => {
  const now = plans();
  if (now[jobId]) keep({ ...now, [jobId]: { ...now[jobId], ...fields } });
};

async function follow(job) {
  const planned = planOf(job.id);
  if (!planned || planned.then || !may('submit')) return;
  if (job.state !== 'succeeded') {
    forget(job.id);
    return;
  }
  const body = { ...planned.body, embeddings: job.result.embeddings };
  try {
    const next = await post(planned.path, body, { headers: { 'Idempotency-Key': `after-${job.id}` } });
    change(job.id, { then: next.id, problem: undefined });
    const see = { label: 'See the job', run: () => navigate(`/ui/jobs/${encodeURIComponent(next.id)}`) };
    if (location.pathname !== `/ui/jobs/${job.id}`) toast('The images are embedded; their groups are made now.', { action: see });
  } catch (error) {
    change(job.id, { problem: error.message });
  }
}

const watched = new Set();
let timer;

/** Jobs are asked for one after another: a stream for each would take the few connections that a browser has. */
async function look() {
  for (const jobId of [...watched]) {
    try {
      const job = await get(`/jobs/${encodeURIComponent(jobId)}`);
      if (!['succeeded', 'failed', 'cancelled'].includes(job.state)) continue;
      watched.delete(jobId);
      await follow(job);
    } catch (error) {
      if (error.status !== 404) continue;
      watched.delete(jobId);
      forget(jobId);
    }
  }
  timer = watched.size ? setTimeout(look, EVERY_MS) : undefined;
}

function watch(jobId) {
  watched.add(jobId);
  timer ??= setTimeout(look, EVERY_MS);
}

/** Go on with every plan that waits: called when the pages start. */
export function resume() {
  for (const [jobId, planned] of Object.entries(plans())) if (!planned.then && !planned.problem) watch(jobId);
}
