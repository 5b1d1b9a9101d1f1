/** Jobs: the list, and one job with its live progress, its request, and what it made or why it failed. */
import { may } from '../api.js';
import {
  CancelJob, JobName, JobProgress, JobState, ended, jobWords, resultOf, stageName, took, useJob, useJobs,
} from '../jobs.js';
import { forget, planOf } from '../plans.js';
import { Empty, Loading, Page, Problem, Tabs, ago, duration, number, percent, plural, useQuery } from '../ui.js';
import { html, useEffect, useRef, useState } from '../vendor/preact.js';

const path = (job) => `/ui/jobs/${encodeURIComponent(job.id)}`;

export default function Jobs({ params }) {
  return params.id ? html`<${One} id=${params.id} />` : html`<${List} />`;
}

// ----------------------------------------------------------------------------------------------------- the list

const TABS = [['', 'All'], ['running', 'Running'], ['queued', 'Waiting'], ['succeeded', 'Done'], ['failed', 'Failed'], ['cancelled', 'Cancelled']];

function List() {
  const [query, setQuery] = useQuery();
  const state = query.state || '';
  const { jobs, error, loading, more, loadMore, set } = useJobs({ state: state || undefined });
  return html`<${Page} title="Jobs" lead="What runs, what waits, and what came of it."
    actions=${may('submit') && html`<a class="button primary" href="/ui/new">Add images</a>`}>
    <${Tabs} label="State of the jobs" value=${state} tabs=${TABS} onChange=${(next) => setQuery({ state: next })} />
    <${Problem} error=${error} />
    ${loading && html`<${Loading} what="Reading the jobs" />`}
    ${jobs && !jobs.length && html`<${Empty} title=${state ? 'No such job' : 'No jobs yet'}>
      <p>${state ? 'No job is in this state.' : 'A job starts when you add images or make groups.'}</p>
    </${Empty}>`}
    ${jobs?.length > 0 && html`<ul class="job-list" aria-label="Jobs">
      ${jobs.map((job) => html`<${JobItem} key=${job.id} job=${job} onJob=${set} />`)}
    </ul>`}
    ${more && html`<p><button onClick=${loadMore}>Show more</button></p>`}
  </${Page}>`;
}

/** One job in a list: its name, its state, what it does now or what came of it. */
export function JobItem({ job, onJob }) {
  const result = resultOf(job);
  const seconds = took(job);
  const times = [ago(job.created_at), ended(job) && seconds !== null && `took ${duration(seconds)}`].filter(Boolean).join(' · ');
  return html`<li class="job card">
    <div class="row spread">
      <div class="job-title"><a href=${path(job)}><${JobName} job=${job} /></a> <${JobState} job=${job} /></div>
      <div class="row"><span class="quiet number">${times}</span>
        ${result && html`<a class="button" href=${result[0]}>${result[1]}</a>`}
        <${CancelJob} job=${job} onJob=${onJob} />
      </div>
    </div>
    ${!ended(job) && html`<${JobProgress} job=${job} />`}
    ${job.error && html`<p class="quiet job-error"><bdi>${job.error.detail}</bdi></p>`}
  </li>`;
}

// ----------------------------------------------------------------------------------------------------- one job

function One({ id }) {
  const { job, error, set } = useJob(id);
  const [planned, setPlanned] = useState(() => planOf(id));
  useEffect(() => {
    const changed = () => setPlanned(planOf(id));
    addEventListener('shoal:plans', changed);
    return () => removeEventListener('shoal:plans', changed);
  }, [id]);
  if (!job) {
    return html`<${Page} title="Job" crumbs=${[['Jobs', '/ui/jobs']]}>
      <${Problem} error=${error} />${!error && html`<${Loading} what="Reading the job" />`}
    </${Page}>`;
  }
  const result = resultOf(job);
  const actions = html`${result && html`<a class="button primary" href=${result[0]}>${result[1]}</a>`}
    ${job.result?.embeddings && may('submit') && !planned && html`<a class="button" href=${`/ui/new?set=${encodeURIComponent(job.result.embeddings)}`}>Make groups</a>`}
    <${CancelJob} job=${job} onJob=${set} />`;
  return html`<${Page} title=${jobWords(job).join(' ')} crumbs=${[['Jobs', '/ui/jobs']]} actions=${actions}
    heading=${html`<${JobName} job=${job} /> <${JobState} job=${job} />`}>
    <div class="stack">
      ${!ended(job) && html`<section class="card" aria-label="Progress" aria-live="polite"><${JobProgress} job=${job} /><${Detail} progress=${job.progress} /></section>`}
      ${job.error && html`<${Failure} job=${job} />`}
      ${job.result && html`<${Made} job=${job} />`}
      ${planned && html`<${Next} job=${job} planned=${planned} />`}
      <${Facts} job=${job} />
      <${Log} job=${job} />
      <details class="card"><summary>Request</summary><pre><code>${JSON.stringify(job.request, null, 2)}</code></pre></details>
      ${job.result && html`<details class="card"><summary>Result</summary><pre><code>${JSON.stringify(job.result, null, 2)}</code></pre></details>`}
    </div>
  </${Page}>`;
}

/** What limits an embedding, or how far k-means is. */
function Detail({ progress }) {
  const detail = progress?.detail;
  if (!detail) return null;
  const busy = detail.busy && Object.entries(detail.busy);
  if (busy) {
    const names = { decode: 'reading images', network: 'the network', write: 'writing' };
    return html`<p class="quiet number">Busy: ${busy.map(([stage, share]) => `${names[stage] || stage} ${percent(share)}`).join(' · ')}</p>`;
  }
  const facts = Object.entries(detail).filter(([, value]) => typeof value === 'number' || typeof value === 'string');
  if (!facts.length) return null;
  return html`<p class="quiet number">${facts.map(([name, value]) => `${name.replace(/_/g, ' ')} ${typeof value === 'number' ? number(Math.round(value * 1000) / 1000) : value}`).join(' · ')}</p>`;
}

function Failure({ job }) {
  const { detail, code, retryable, title } = job.error;
  const again = job.kind.startsWith('extract') ? '/ui/new' : null;
  return html`<div class="problem" role="alert">
    <p><strong>${title || 'The job failed.'}</strong> <bdi>${detail}</bdi></p>
    <p class="quiet">Code <code>${code}</code>${retryable ? '. This may pass: send the same request again, what is done already is kept.' : ''}</p>
    ${again && may('submit') && html`<p><a href=${again}>Start again with other settings</a></p>`}
  </div>`;
}

function Made({ job }) {
  const { result } = job;
  if (result.embeddings && 'rows' in result) {
    return html`<section class="card"><p><strong>${plural(result.rows, 'image')} embedded</strong>${result.failed ? `, ${number(result.failed)} could not be read` : ''}${result.reused_rows ? `, ${number(result.reused_rows)} of them known already` : ''}.</p>
      ${result.source?.message && html`<p class="quiet"><bdi>${result.source.message}</bdi></p>`}
      ${(result.failed_by_code || []).map((each) => html`<p class="quiet"><bdi>${each.message || `${each.code}: ${number(each.count)}`}</bdi></p>`)}
      ${(result.not_taken || []).slice(0, 5).map((each) => html`<p class="quiet"><bdi>${each.message}</bdi></p>`)}
    </section>`;
  }
  if (result.clustering) {
    return html`<section class="card"><p><strong>${plural(result.k, 'group')}</strong> of ${plural(result.rows, 'image')}.
      ${' '}<a href=${`/ui/clusterings/${encodeURIComponent(result.clustering)}/figures`}>All figures</a></p></section>`;
  }
  return null;
}

/** The job that follows this one. */
function Next({ job, planned }) {
  const { job: next } = useJob(planned.then);
  const what = planned.path === '/sweep' ? 'a sweep' : planned.body.clusters === 'auto' ? 'groups, as many as fit' : planned.body.clusters ? `${planned.body.clusters} groups` : 'groups';
  if (planned.problem) {
    return html`<div class="problem" role="alert"><p><strong>The groups were not started.</strong> ${planned.problem}</p>
      <p><a class="button" href=${`/ui/new?set=${encodeURIComponent(job.result?.embeddings || '')}`} onClick=${() => forget(job.id)}>Make groups</a></p></div>`;
  }
  if (!next) {
    return html`<section class="card"><h2 class="first">Next</h2>
      <p>${`Then ${what} of these images.`} ${!ended(job) && html`<span class="quiet">This starts by itself while a page of Shoal is open in this browser, or when you next open one.</span>`}</p>
      ${!ended(job) && html`<button onClick=${() => forget(job.id)}>Do not make groups</button>`}
    </section>`;
  }
  const result = resultOf(next);
  return html`<section class="card" aria-live="polite"><h2 class="first"><a href=${path(next)}><${JobName} job=${next} /></a> <${JobState} job=${next} /></h2>
    ${ended(next) ? next.error && html`<p><bdi>${next.error.detail}</bdi></p>` : html`<${JobProgress} job=${next} />`}
    ${result && html`<a class="button primary" href=${result[0]}>${result[1]}</a>`}
  </section>`;
}

function Facts({ job }) {
  const seconds = took(job);
  const facts = [
    ['Submitted', ago(job.created_at), job.created_at],
    job.started_at && ['Started', ago(job.started_at), job.started_at],
    seconds !== null && [ended(job) ? 'Took' : 'Runs for', duration(seconds)],
    job.attempt > 1 && ['Attempt', number(job.attempt)],
    job.workers > 1 && ['Workers', number(job.workers)],
    ['Kind', job.kind],
    ['Id', job.id],
    job.callback && ['Webhook', `${job.callback.host}: ${job.callback.state}`],
  ].filter(Boolean);
  return html`<dl class="facts">${facts.map(([name, value, title]) => html`<div><dt>${name}</dt><dd title=${title}><bdi>${value}</bdi></dd></div>`)}</dl>`;
}

/** What happened while this page was open, newest last. */
function Log({ job }) {
  const [lines, setLines] = useState([]);
  const last = useRef('');
  useEffect(() => {
    const stage = job.state === 'running' && job.progress ? `${stageName(job.progress.stage)}` : { queued: 'Waits for its turn', running: 'Started', succeeded: 'Done', failed: 'Failed', cancelled: 'Cancelled' }[job.state];
    const line = job.attempt > 1 && !ended(job) ? `${stage} (attempt ${job.attempt})` : stage;
    if (line === last.current) return;
    last.current = line;
    setLines((now) => [...now.slice(-99), [new Date().toLocaleTimeString('en-GB'), line]]);
  }, [job]);
  if (lines.length < 2) return null;
  return html`<section class="card"><h2 class="first">What happened</h2><ol class="log">${lines.map(([at, line]) => html`<li><span class="quiet number">${at}</span> ${line}</li>`)}</ol></section>`;
}
