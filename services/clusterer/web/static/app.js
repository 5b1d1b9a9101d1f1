/** The pages: which module draws which path, the navigation around them, and moving between them without a reload. */
import { may, readSession, request, session } from './api.js';
import { resume } from './plans.js';
import { Problem, Toasts, navigate, onNavigate, toast } from './ui.js';
import { html, render, useEffect, useRef, useState } from './vendor/preact.js';

/** `[pattern, module, place in the navigation]`; `:name` is a part of the path. */
const ROUTES = [
  ['/', 'home', 'home'],
  ['/ui/login', 'login', ''],
  ['/ui/new', 'new', 'new'],
  ['/ui/jobs', 'jobs', 'jobs'],
  ['/ui/jobs/:id', 'jobs', 'jobs'],
  ['/ui/embeddings/:id', 'embeddings', 'home'],
  ['/ui/clusterings/:id', 'clustering', 'home'],
  ['/ui/clusterings/:id/clusters/:cluster', 'cluster', 'home'],
  ['/ui/clusterings/:id/map', 'map', 'home'],
  ['/ui/clusterings/:id/figures', 'figures', 'home'],
  ['/ui/compare/:a/:b', 'compare', 'home'],
  ['/ui/sweeps/:id', 'sweep', 'home'],
  ['/ui/duplicates', 'duplicates', 'duplicates'],
  ['/ui/duplicates/:id', 'duplicates', 'duplicates'],
  ['/ui/quality', 'quality', 'quality'],
  ['/ui/quality/:id', 'quality', 'quality'],
  ['/ui/search', 'search', 'search'],
];

/** The module and the parameters of a path; undefined if no page has it. */
export function match(path) {
  const parts = path.split('/').filter(Boolean);
  for (const [pattern, module, place] of ROUTES) {
    const wanted = pattern.split('/').filter(Boolean);
    if (wanted.length !== parts.length) continue;
    const params = {};
    const fits = wanted.every((part, i) => {
      if (!part.startsWith(':')) return part === parts[i];
      params[part.slice(1)] = decodeURIComponent(parts[i]);
      return true;
    });
    if (fits) return { module, place, params };
  }
  return undefined;
}

function Navigation({ place }) {
  const list = useRef(null);
  useEffect(() => {
    // On a narrow screen the list scrolls sideways: where a person is comes into sight.
    const here = list.current?.querySelector('[aria-current]');
    if (here) list.current.scrollLeft = here.offsetLeft - (list.current.clientWidth - here.offsetWidth) / 2;
  }, [place]);
  const inside = session.current && (session.current.authenticated || !session.current.needed);
  const item = (href, name, text) =>
    html`<a href=${href} aria-current=${place === name ? 'page' : undefined}>${text}</a>`;
  return html`<header class="top">
    <a class="skip" href="#main">Skip to the content</a>
    <a class="brand" href="/" aria-label="Shoal, home"><${Logo} /> <span>Shoal</span></a>
    ${inside &&
    html`<nav aria-label="Main" ref=${list}>
      ${item('/', 'home', 'Groups')} ${may('submit') && item('/ui/new', 'new', 'Add images')}
      ${item('/ui/jobs', 'jobs', 'Jobs')} ${item('/ui/search', 'search', 'Search')}
      ${item('/ui/duplicates', 'duplicates', 'Duplicates')} ${item('/ui/quality', 'quality', 'Quality')}
    </nav>`}
    ${session.current?.needed && session.current.authenticated && html`<${Person} />`}
  </header>`;
}

function Person() {
  const leave = async () => {
    try {
      await request('DELETE', '/session');
    } catch (error) {
      toast(error.message, { kind: 'error' });
      return;
    }
    location.assign('/ui/login');
  };
  const { name, scope } = session.current;
  return html`<div class="person">
    <span class="quiet cut" title=${`Key ${name}, scope ${scope}`}><bdi>${name}</bdi></span>
    <button class="plain" onClick=${leave}>Log out</button>
  </div>`;
}

function Logo() {
  return html`<svg viewBox="0 0 32 32" width="26" height="26" aria-hidden="true">
    <g fill="currentColor">
      <path d="M3 10c4-5 9-5 13 0l4-3v6l-4-3c-4 5-9 5-13 0z" />
      <path d="M12 22c4-5 9-5 13 0l4-3v6l-4-3c-4 5-9 5-13 0z" opacity=".65" />
    </g>
  </svg>`;
}

function Missing() {
  return html`<main id="main" class="page">
    <h1>Page not found</h1>
    <p>Shoal has no page at this address. <a href="/">All groups and sets</a></p>
  </main>`;
}

function Broken({ error }) {
  return html`<main id="main" class="page">
    <h1>This page did not load</h1>
    <${Problem} error=${error} retry=${() => location.reload()} />
  </main>`;
}

function App() {
  const [shown, setShown] = useState(null);
  useEffect(() => {
    let latest = 0;
    const show = async () => {
      const number = ++latest;
      const found = match(location.pathname);
      const query = Object.fromEntries(new URLSearchParams(location.search));
      let Page = Missing;
      try {
        if (found) Page = (await import(`./pages/${found.module}.js`)).default;
      } catch (error) {
        Page = () => html`<${Broken} error=${error} />`;
      }
      if (number === latest) setShown({ Page, place: found?.place, params: found?.params || {}, query });
    };
    show();
    return onNavigate(show);
  }, []);
  if (!shown) return html`<${Navigation} />`;
  const { Page, place, params, query } = shown;
  return html`<${Navigation} place=${place} />
    <${Page} key=${`${Page.name} ${Object.values(params).join('/')}`} params=${params} query=${query} />
    <${Toasts} />`;
}

/** Links to our pages change the page without a reload, so that caches and unfinished uploads stay. */
addEventListener('click', (event) => {
  const link = event.target.closest?.('a[href]');
  if (!link || event.defaultPrevented || event.button || event.metaKey || event.ctrlKey || event.shiftKey) return;
  if (link.target || link.hasAttribute('download') || link.origin !== location.origin) return;
  if (link.hash && link.pathname === location.pathname) return;
  if (!match(link.pathname)) return;
  event.preventDefault();
  navigate(link.pathname + link.search + link.hash);
});

function toLogin() {
  if (location.pathname === '/ui/login') return;
  navigate(`/ui/login?next=${encodeURIComponent(location.pathname + location.search)}`, { replace: true });
}
addEventListener('shoal:login', toLogin);

async function start() {
  const root = document.getElementById('app');
  try {
    const now = await readSession();
    if (now.needed && !now.authenticated) toLogin();
    else resume();
  } catch (error) {
    render(html`<${Broken} error=${error} />`, root);
    return;
  }
  render(html`<${App} />`, root);
}
start();
